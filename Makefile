# http-wasm for nginx. `make help` lists the targets.

NAME      := ngx_http_wasm_handler_module
CARGO     ?= cargo
JOBS      ?= $(shell nproc)

# The two nginx the module is built for and tested on.
DEBIAN_NGINX  := /usr/sbin/nginx
DEBIAN_TREE   := $(CURDIR)/target/nginx-debian
DEBIAN_MODULE := $(CURDIR)/target/$(NAME).so
SRC_TREE      := $(CURDIR)/target/nginx-1.28
SRC_NGINX     := $(SRC_TREE)/objs/nginx
SRC_ARCHIVE   := $(SRC_TREE)/objs/libnginx.a
SRC_MODULE    := $(SRC_TREE)/$(NAME).so
ASAN_TREE     := $(CURDIR)/target/nginx-asan
ASAN_NGINX    := $(ASAN_TREE)/objs/nginx
ASAN_MODULE   := $(ASAN_TREE)/$(NAME).so
DEV_MODULE     := $(CURDIR)/target/dev/$(NAME).so
DEV_SRC_MODULE := $(CURDIR)/target/dev/nginx-1.28/$(NAME).so

DEMO_PORT ?= 8080
TESTS     ?= t/*.t
# How much `make hostile` and `make soak` do; `make test` has them do less.
ROUNDS    ?= 5
WINDOW    ?= 400ms
LIMIT     ?= 1s
REQUESTS  ?= 1000000
RELOADS   ?= 100
PROVE     ?= prove -j$(JOBS)

# What the build needs from Debian 12, and what only the tests need on top.
BUILD_PACKAGES := ca-certificates curl gcc libc6-dev libclang-dev make nginx nginx-dev \
                  libpcre2-dev libssl-dev zlib1g-dev
TEST_PACKAGES  := chromium-headless-shell clang docker-registry libfcgi-perl libio-socket-ssl-perl lld llvm \
                  nghttp2-client nghttp2-server openssl perl python3 python3-prometheus-client wabt
# Peers and tools of the benchmark.
BENCH_PACKAGES := libnginx-mod-http-js libnginx-mod-http-lua linux-perf util-linux valgrind wabt wrk
GO_VERSION     := 1.26
SUDO           := $(if $(filter 0,$(shell id -u)),,sudo)

# Workers of a server started by root keep root: the tests' directories are closed to others.
GLOBALS_USER := $(if $(filter 0,$(shell id -u)),user root;)

export CARGO_TARGET_DIR := $(CURDIR)/target
# nginx itself reads a variable of this name.
unexport NGINX

.DEFAULT_GOAL := module
.NOTPARALLEL:
.DELETE_ON_ERROR:

##@ Build

.PHONY: module
module: nginx-debian ## build the release module for Debian's nginx: target/ngx_http_wasm_handler_module.so (default)
	@$(call build,$(DEBIAN_TREE),--release --locked,release,$(DEBIAN_MODULE))
	@$(call report,$(DEBIAN_NGINX),$(DEBIAN_MODULE))

.PHONY: module-1.28
module-1.28: nginx-1.28 ## build the release module for nginx 1.28: target/nginx-1.28/ngx_http_wasm_handler_module.so
	@$(call build,$(SRC_TREE),--release --locked,release,$(SRC_MODULE))
	@$(call report,$(SRC_NGINX),$(SRC_MODULE))

.PHONY: dev
dev: nginx-debian ## build an unoptimised module for Debian's nginx: target/dev/ngx_http_wasm_handler_module.so
	@$(call build,$(DEBIAN_TREE),,debug,$(DEV_MODULE))

.PHONY: dev-1.28
dev-1.28: nginx-1.28 ## build an unoptimised module for nginx 1.28: target/dev/nginx-1.28/ngx_http_wasm_handler_module.so
	@$(call build,$(SRC_TREE),,debug,$(DEV_SRC_MODULE))

.PHONY: cli
cli: ## build the command-line program, which needs no nginx: target/http-wasm
	$(CARGO) build --release --locked --no-default-features --features cli --bin http-wasm
	@cp target/release/http-wasm target/http-wasm.new && mv -f target/http-wasm.new target/http-wasm
	@printf '%s\n  %s bytes\n' $(CURDIR)/target/http-wasm "$$(stat -c %s target/http-wasm)"

.PHONY: clean
clean: ## remove everything that was built
	rm -rf target

##@ Demo (DEMO_PORT=8080)

.PHONY: demo
demo: deps module ## install what is missing, build, serve the demo on 127.0.0.1, print the curl lines to try
	@DEMO_PORT=$(DEMO_PORT) t/bin/demo start $(DEBIAN_NGINX) $(DEBIAN_MODULE)

.PHONY: demo-stop
demo-stop: ## stop the demo server
	@t/bin/demo stop

.PHONY: demo-check
demo-check: ## run the README's curl lines against a demo server and compare what they print
	@timeout 120 t/bin/demo check $(or $(NGINX),$(DEBIAN_NGINX)) $(or $(MODULE),$(DEBIAN_MODULE))

##@ Test (one nginx and module only: NGINX=/path/nginx MODULE=/path/module.so; some files only: TESTS=t/wasm_uri.t)

.PHONY: test
test: deps deps-test check unittest nginxtest fuzz-smoke guests module module-1.28 t clitest tck conformance differential hostile soak status-load configtest demo-check ## install what is missing and run all tests
test: ROUNDS = 1
test: WINDOW = 100ms
test: LIMIT = 300ms
test: REQUESTS = 20000
test: RELOADS = 3

.PHONY: check
check: nginx-debian ## formatting and clippy, with and without the nginx side
	$(CARGO) fmt --check
	NGINX_SOURCE_DIR=$(DEBIAN_TREE) NGINX_BUILD_DIR=$(DEBIAN_TREE)/objs \
		timeout -k 10 1800 $(CARGO) clippy --locked --lib -- -D warnings
	timeout -k 10 1800 $(CARGO) clippy --locked --no-default-features --all-targets -- -D warnings
	timeout -k 10 1800 $(CARGO) clippy --locked --no-default-features --features cli --all-targets -- -D warnings
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml --check
	NGINX_SOURCE_DIR=$(DEBIAN_TREE) NGINX_BUILD_DIR=$(DEBIAN_TREE)/objs \
		timeout -k 10 1800 $(CARGO) clippy --locked --lib --features fuzzing -- -D warnings

.PHONY: unittest
unittest: ## unit and host tests; they need neither nginx nor libclang
	timeout -k 10 1800 $(CARGO) test --locked --no-default-features

# One thread: nginx's globals know no others.
.PHONY: nginxtest
nginxtest: $(SRC_ARCHIVE) ## unit tests of the nginx side, linked with the objects of nginx 1.28
	TEST_NGINX_ARCHIVE=$(SRC_ARCHIVE) NGINX_SOURCE_DIR=$(SRC_TREE) NGINX_BUILD_DIR=$(SRC_TREE)/objs \
		timeout -k 10 1800 $(CARGO) test --locked --lib nginx:: -- --test-threads=1

# Built by plain cargo on stable Rust and with what the tests above have built: only what is fuzzed
# is instrumented. Starts from the inputs in tests/fuzz/corpus, those that once failed among them.
FUZZ_DIR     := $(CURDIR)/tests/fuzz
FUZZ_TARGETS := memory uri fields headers bodies calls
FUZZ_ENV     := TEST_NGINX_ARCHIVE=$(SRC_ARCHIVE) NGINX_SOURCE_DIR=$(SRC_TREE) NGINX_BUILD_DIR=$(SRC_TREE)/objs
FUZZ_RUNS    := 2000
# Bodies spill into temporary files there; in memory they cost least.
FUZZ_TMPDIR  := $(shell test -w /dev/shm && echo /dev/shm || echo /tmp)

.PHONY: fuzz-smoke
fuzz-smoke: $(SRC_ARCHIVE) ## a bounded run of all fuzz targets, from the same seed each time
	$(FUZZ_ENV) RUSTC_WRAPPER=$(FUZZ_DIR)/rustc.sh timeout -k 10 1800 \
		$(CARGO) build --locked --manifest-path $(FUZZ_DIR)/Cargo.toml --features nginx
	@for target in $(FUZZ_TARGETS); do \
	   rm -rf target/fuzz/smoke/$$target && mkdir -p target/fuzz/smoke/$$target target/fuzz/failed || exit 1; \
	   printf '%s: ' $$target; \
	   TMPDIR=$(FUZZ_TMPDIR) timeout -k 10 600 target/debug/$$target -runs=$(FUZZ_RUNS) -seed=1 -len_control=0 -max_len=1024 \
	     -artifact_prefix=target/fuzz/failed/$$target- target/fuzz/smoke/$$target $(FUZZ_DIR)/corpus/$$target \
	     > target/fuzz/$$target.log 2>&1 || { echo failed; tail -n 60 target/fuzz/$$target.log; exit 1; }; \
	   tail -n 1 target/fuzz/$$target.log; done

# cargo-fuzz builds everything anew, instrumented and with AddressSanitizer, which stable Rust keeps
# behind RUSTC_BOOTSTRAP.
CARGO_FUZZ_VERSION := 0.13.2
CARGO_FUZZ         := $(CURDIR)/target/tools/bin/cargo-fuzz
TARGET             ?= $(FUZZ_TARGETS)
TIME               ?= 60

.PHONY: fuzz
fuzz: $(SRC_ARCHIVE) $(CARGO_FUZZ) ## fuzz with AddressSanitizer: TARGET=name (all of them) for TIME=60 seconds each
	@for target in $(TARGET); do \
	   mkdir -p target/fuzz/corpus/$$target target/fuzz/failed && \
	   RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(CURDIR)/target/fuzz/build TMPDIR=$(FUZZ_TMPDIR) $(FUZZ_ENV) $(CARGO_FUZZ) run --fuzz-dir $(FUZZ_DIR) \
	     --features nginx $$target target/fuzz/corpus/$$target $(FUZZ_DIR)/corpus/$$target -- \
	     -max_total_time=$(TIME) -len_control=0 -max_len=1024 -artifact_prefix=$(CURDIR)/target/fuzz/failed/$$target- \
	     || exit 1; done

$(CARGO_FUZZ):
	$(CARGO) install --locked --root target/tools --target-dir target/tools/build cargo-fuzz --version $(CARGO_FUZZ_VERSION)

.PHONY: guests
guests: ## build the Go, Rust, C and AssemblyScript guests of the tests into target/guests
	timeout -k 10 1200 tests/guests/build.sh

# Both nginx, or the one named by NGINX and MODULE.
ifdef MODULE
RUNS := given
else
RUNS := debian 1.28
endif
run_nginx_given  = $(abspath $(or $(NGINX),$(DEBIAN_NGINX)))
run_module_given = $(abspath $(MODULE))
run_nginx_debian  := $(DEBIAN_NGINX)
run_module_debian := $(DEBIAN_MODULE)
run_nginx_1.28  := $(SRC_NGINX)
run_module_1.28 := $(SRC_MODULE)

.PHONY: t
t: $(RUNS:%=t-%) ## run t/*.t on both nginx

# MALLOC_PERTURB_: memory that nobody has initialised is never zero by luck.
.PHONY: t-given t-debian t-1.28
t-given t-debian t-1.28: t-%:
	@$(call built,$(run_module_$*))
	@$(run_nginx_$*) -v
	MALLOC_PERTURB_=165 TEST_NGINX_BINARY=$(run_nginx_$*) TEST_NGINX_GLOBALS='load_module $(run_module_$*); $(GLOBALS_USER)' \
		timeout -k 10 1200 $(PROVE) -I t/lib $(TESTS)

# nginx and module are built for it, and are slower: hence the patience.
# The sanitizer reserves terabytes itself, and so cannot run where addresses are scarce.
ASAN_CANNOT := t/wasm_address_space.t

.PHONY: t-asan
t-asan: $(ASAN_NGINX) ## run t/*.t under AddressSanitizer on nginx 1.28
	@RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/t/asan/rustc.sh TEST_SANITIZER=address \
		$(call build,$(ASAN_TREE),--locked,debug,$(ASAN_MODULE))
	TEST_NGINX_PATIENCE=4 PROVE='$(PROVE)' timeout -k 10 3600 \
		t/asan/run.sh $(ASAN_NGINX) $(ASAN_MODULE) '$(GLOBALS_USER)' $(filter-out $(ASAN_CANNOT),$(wildcard $(TESTS)))

.PHONY: clitest
clitest: guests $(RUNS:%=clitest-%) ## run the tests of the command-line program, which compare it with both nginx

.PHONY: clitest-given clitest-debian clitest-1.28
clitest-given clitest-debian clitest-1.28: clitest-%:
	@$(call built,$(run_module_$*))
	TEST_NGINX_BINARY=$(run_nginx_$*) TEST_NGINX_MODULE=$(run_module_$*) \
		timeout -k 10 1800 $(CARGO) test --locked --no-default-features --features cli --lib --test cli

.PHONY: tck
tck: $(RUNS:%=tck-%) ## run both official TCK suites on both nginx

.PHONY: tck-given tck-debian tck-1.28
tck-given tck-debian tck-1.28: tck-%:
	@$(call built,$(run_module_$*))
	timeout -k 10 1200 t/tck/run.sh $(run_nginx_$*) $(run_module_$*)

.PHONY: conformance
conformance: $(RUNS:%=conformance-%) ## run our conformance suite on both nginx and the reference host

.PHONY: conformance-given conformance-debian conformance-1.28
conformance-given conformance-debian conformance-1.28: conformance-%:
	@$(call built,$(run_module_$*))
	timeout -k 10 900 t/conformance/run.sh $(run_nginx_$*) $(run_module_$*)

.PHONY: conformance-results
conformance-results: ## write t/conformance/RESULTS.md anew
	timeout -k 10 900 t/conformance/run.sh --write $(or $(NGINX),$(DEBIAN_NGINX)) $(or $(MODULE),$(DEBIAN_MODULE))

.PHONY: differential
differential: $(RUNS:%=differential-%) ## send random requests through the module and the reference host and compare

.PHONY: differential-given differential-debian differential-1.28
differential-given differential-debian differential-1.28: differential-%:
	@$(call built,$(run_module_$*))
	timeout -k 10 600 t/differential/run.sh $(run_nginx_$*) $(run_module_$*)

.PHONY: hostile
hostile: $(RUNS:%=hostile-%) ## let hostile guests attack a worker that serves others, print what became of both (ROUNDS=5)

.PHONY: hostile-given hostile-debian hostile-1.28
hostile-given hostile-debian hostile-1.28: hostile-%:
	@$(call built,$(run_module_$*))
	timeout -k 10 1800 t/hostile/run.sh -rounds $(ROUNDS) -window $(WINDOW) -limit $(LIMIT) $(run_nginx_$*) $(run_module_$*)

.PHONY: hostile-results
hostile-results: ## write docs/hostile.md anew
	mkdir -p docs
	timeout -k 10 1800 t/hostile/run.sh -rounds $(ROUNDS) -window $(WINDOW) -limit $(LIMIT) -write docs/hostile.md \
		$(or $(NGINX),$(DEBIAN_NGINX)) $(or $(MODULE),$(DEBIAN_MODULE))

.PHONY: soak
soak: guests $(RUNS:%=soak-%) ## send mixed requests, then reload under load: nothing lost, nothing grows (REQUESTS=1000000 RELOADS=100)

.PHONY: soak-given soak-debian soak-1.28
soak-given soak-debian soak-1.28: soak-%:
	@$(call built,$(run_module_$*))
	timeout -k 10 21600 t/soak/run.sh -requests $(REQUESTS) -reloads $(RELOADS) $(run_nginx_$*) $(run_module_$*)

.PHONY: status-load
status-load: guests $(RUNS:%=status-load-%) ## load four workers, kill one, compare the status with what clients counted (REQUESTS=1000000); pictures in target/status

.PHONY: status-load-given status-load-debian status-load-1.28
status-load-given status-load-debian status-load-1.28: status-load-%:
	@$(call built,$(run_module_$*))
	timeout -k 10 21600 t/soak/run.sh -status -requests $(REQUESTS) -shots target/status $(run_nginx_$*) $(run_module_$*)

##@ Package

VERSION = $(shell sed -n '0,/^version = "\(.*\)"/s//\1/p' Cargo.toml)

.PHONY: deb
deb: module cli ## pack the release module for Debian's nginx and the command-line program: two packages in target/deb
	@$(call install,dpkg-dev debhelper)
	@pkg/build-deb $(VERSION) $(DEBIAN_MODULE) $(CURDIR)/target/http-wasm $(CURDIR)/target/deb

# Root, because it makes a root directory of its own.
.PHONY: debtest
debtest: deb ## install the packages into a clean Debian 12, serve with them, remove them
	@$(call install,lintian mmdebstrap)
	$(SUDO) timeout -k 10 600 pkg/test-deb target/deb tests/guests/examples/auth.wat 'WWW-Authenticate: Basic realm="test"'

.PHONY: configtest
configtest: nginx-1.28 ## build nginx 1.28 with its own --add-dynamic-module, install it, serve with it
	NGX_HTTP_WASM_PROFILE=dev JOBS=$(JOBS) timeout -k 10 3600 t/bin/configtest $(SRC_TREE)

##@ Benchmark (a smoke run: QUICK=1; some parts only: ONLY=headers,in-flight; another module: MODULE=/path/module.so)

.PHONY: bench
bench: deps deps-bench $(if $(MODULE),nginx-debian,module) ## install and build the peers, measure all side by side in one run, print; WRITE=1 writes docs/benchmarks.md
	@$(call built,$(or $(run_module_given),$(DEBIAN_MODULE)))
	timeout -k 10 5400 tests/bench/run.sh $(DEBIAN_NGINX) $(or $(run_module_given),$(DEBIAN_MODULE)) $(DEBIAN_TREE) \
		$(if $(QUICK),-quick) $(if $(ONLY),-only $(ONLY))
	$(if $(WRITE),@$(MAKE) --no-print-directory bench-page)

.PHONY: bench-page
bench-page: ## write docs/benchmarks.md and its charts from the last run of bench
	target/bench/bench -dir target/bench -page docs

.PHONY: microbench
microbench: ## time host functions and calls without nginx, as ratios to an empty call
	cd tests/bench/micro && CARGO_TARGET_DIR=$(CURDIR)/target/bench/build timeout -k 10 2400 $(CARGO) bench --locked

##@ Machine

.PHONY: deps
deps: ## install what the build needs and this machine lacks (Debian packages)
	@command -v $(CARGO) >/dev/null || { echo 'cargo not found: install Rust 1.95 with rustup' >&2; exit 1; }
	@$(call install,$(BUILD_PACKAGES))

.PHONY: deps-test
deps-test: ## install what the tests need on top; checks for Go and Rust's wasm32-wasip1
	@$(call install,$(TEST_PACKAGES))
	@command -v npm >/dev/null || { $(call install,nodejs npm); }
	@$(call toolchains)

.PHONY: deps-bench
deps-bench: ## install what the benchmark needs on top; checks for Go and Rust's wasm32-wasip1
	@$(call install,$(BENCH_PACKAGES))
	@$(call toolchains)

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9.-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The headers of the installed nginx, configured as Debian does. Made again only for another nginx-dev.
.PHONY: nginx-debian
nginx-debian:
	@have=$$(dpkg-query -W -f '$${Version}' nginx-dev 2>/dev/null); \
	 test -n "$$have" || { echo 'nginx-dev is not installed: make deps' >&2; exit 1; }; \
	 test "$$have" = "$$(cat $(DEBIAN_TREE)/version 2>/dev/null)" || { \
	   echo "configuring the headers of nginx-dev $$have"; \
	   rm -rf $(DEBIAN_TREE) && mkdir -p target && cp -r /usr/share/nginx/src $(DEBIAN_TREE) && cd $(DEBIAN_TREE) && \
	   bash -c '. ./conf_flags && ./configure "$${NGX_CONF_FLAGS[@]}" --with-cc-opt="-g -O2 -fPIC"' > configure.log && \
	   echo "$$have" > version; }

# nginx 1.28 itself, from the sources in the crate nginx-src.
SRC_FLAGS := --with-compat --with-debug --with-threads --with-file-aio --with-pcre-jit \
	--with-http_ssl_module --with-http_v2_module --with-http_v3_module --with-http_realip_module \
	--with-http_addition_module --with-http_sub_module --with-http_gunzip_module --with-http_gzip_static_module \
	--with-http_auth_request_module --with-http_slice_module --with-http_secure_link_module \
	--with-http_random_index_module --with-http_dav_module --with-http_stub_status_module
SRC_CRATE := t/nginx-src/Cargo.toml t/nginx-src/Cargo.lock

.PHONY: nginx-1.28
nginx-1.28: $(SRC_NGINX)

$(SRC_NGINX): $(SRC_CRATE)
	@$(call source,$(SRC_TREE)) && cd $(SRC_TREE) && \
	 auto/configure --prefix=$(SRC_TREE)/prefix $(SRC_FLAGS) --with-cc-opt='-g -O2 -fPIC' > configure.log && \
	 $(MAKE) -j$(JOBS) > build.log

# Its objects as a library; the test binary brings a main() of its own.
$(SRC_ARCHIVE): $(SRC_NGINX)
	@cd $(SRC_TREE)/objs && objcopy --redefine-sym main=ngx_main src/core/nginx.o ngx_main.o && \
	 find src -name '*.o' ! -path src/core/nginx.o | xargs ar rcs libnginx.a ngx_modules.o ngx_main.o

# The same for AddressSanitizer. C and Rust share the runtime that comes with Rust; it is linked into nginx, and -Xclang
# keeps the linker from adding one of clang's. NGX_DEBUG_PALLOC: a pool takes every allocation from malloc, so that each
# has red zones of its own.
ASAN_RUNTIME  = $(shell rustc --print target-libdir)/librustc-stable_rt.asan.a
ASAN_CC_OPT  := -g -O1 -fPIC -fno-omit-frame-pointer -DNGX_DEBUG_PALLOC=1 \
	-Xclang -fsanitize=address -Xclang -fsanitize-address-use-after-scope

$(ASAN_NGINX): $(SRC_CRATE) $(wildcard t/asan/detector/*) t/asan/rustc.sh
	@$(call source,$(ASAN_TREE)) && \
	 t/asan/rustc.sh rustc --edition 2024 --crate-type cdylib --emit obj -O -o $(ASAN_TREE)/faults.o \
	       t/asan/detector/faults.rs && cd $(ASAN_TREE) && \
	 auto/configure --prefix=$(ASAN_TREE)/prefix $(SRC_FLAGS) --add-module=$(CURDIR)/t/asan/detector \
	       --with-cc=clang --with-cc-opt='$(ASAN_CC_OPT)' \
	       --with-ld-opt='-Wl,--whole-archive,$(ASAN_RUNTIME),--no-whole-archive -lpthread -lrt -lm -ldl' \
	       > configure.log && $(MAKE) -j$(JOBS) > build.log

# $(call source,TREE): a tree of nginx 1.28's sources
define source
	src=$$($(CARGO) metadata --locked --format-version 1 --manifest-path t/nginx-src/Cargo.toml \
	        --filter-platform "$$(rustc -vV | sed -n 's/^host: //p')" | \
	      grep -o '"manifest_path":"[^"]*/nginx-src-[^"]*/Cargo.toml"' | cut -d '"' -f 4); \
	 test -n "$$src" || { echo 'the crate nginx-src was not found' >&2; exit 1; }; \
	 echo "building $$(basename "$${src%/Cargo.toml}") in $(1)"; \
	 rm -rf $(1) && mkdir -p target && cp -r "$${src%/Cargo.toml}/nginx" $(1)
endef

# $(call build,NGINX TREE,CARGO FLAGS,PROFILE DIRECTORY,RESULT): build the cdylib alone (with an rlib beside it
# there is no LTO) and put it in place by a rename: nginx may have the old file mapped.
define build
	NGINX_SOURCE_DIR=$(1) NGINX_BUILD_DIR=$(1)/objs $(CARGO) rustc $(2) --lib --crate-type cdylib && \
	mkdir -p $(dir $(4)) && cp target/$(3)/lib$(NAME).so $(4).new && mv -f $(4).new $(4)
endef

# $(call report,NGINX,MODULE)
define report
	printf '%s\n  for %s, %s bytes\n' $(2) "$$($(1) -v 2>&1)" "$$(stat -c %s $(2))"; ldd $(2)
endef

# $(call built,MODULE)
define built
	test -f $(1) || { echo '$(1) is not built: make module module-1.28' >&2; exit 1; }
endef

# $(call install,PACKAGES): apt is left alone when nothing is missing
define install
	missing=; for p in $(1); do \
	   dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || missing="$$missing $$p"; done; \
	 test -z "$$missing" || { echo "installing$$missing"; \
	   $(SUDO) apt-get update -q && \
	   $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; }
endef

# Go, and Rust for guests.
define toolchains
	have=$$(go env GOVERSION 2>/dev/null | sed 's/^go//'); \
	 printf '%s\n' $(GO_VERSION) "$${have:-0}" | sort -V -C || \
	 { echo "Go $(GO_VERSION) or later expected, found $${have:-none}" >&2; exit 1; }; \
	 test -d "$$(rustc --print target-libdir --target wasm32-wasip1)" || rustup target add wasm32-wasip1 || \
	 { echo "Rust's target wasm32-wasip1 expected: rustup target add wasm32-wasip1" >&2; exit 1; }
endef
