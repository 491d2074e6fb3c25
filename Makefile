# http-wasm for nginx. `make help` lists the targets.

NAME      := ngx_http_wasm_handler_module
CARGO     ?= cargo
JOBS      ?= $(shell nproc)
PROVE     ?= prove -j$(JOBS)
TESTS     ?= t/*.t
DEMO_PORT ?= 8080
# How much `make hostile` and `make soak` do; `make test` has them do less.
ROUNDS    ?= 5
WINDOW    ?= 400ms
LIMIT     ?= 1s
REQUESTS  ?= 1000000
RELOADS   ?= 100
# How many cells of the matrix (all if not set); for how many seconds there is chaos, and from which seed (a new one if not set).
CELLS     ?=
TIME      ?= 60
SEED      ?=

export CARGO_TARGET_DIR := $(CURDIR)/target
# nginx itself reads a variable of this name.
unexport NGINX

.DEFAULT_GOAL := module
.NOTPARALLEL:
.DELETE_ON_ERROR:

include build/trees.mk

DEBIAN_MODULE  := $(CURDIR)/target/$(NAME).so
SRC_MODULE     := $(SRC_TREE)/$(NAME).so
DEV_MODULE     := $(CURDIR)/target/dev/$(NAME).so
DEV_SRC_MODULE := $(CURDIR)/target/dev/nginx-1.28/$(NAME).so
RESTLESS_MODULE     := $(CURDIR)/target/dev/restless/$(NAME).so
RESTLESS_SRC_MODULE := $(CURDIR)/target/dev/restless-1.28/$(NAME).so

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

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9.-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Demo (DEMO_PORT=8080)

.PHONY: demo
demo: deps module ## install what is missing, build, serve the demo on 127.0.0.1, print the curl lines to try
	@DEMO_PORT=$(DEMO_PORT) t/bin/demo start $(DEBIAN_NGINX) $(DEBIAN_MODULE)

.PHONY: demo-stop
demo-stop: ## stop the demo server
	@t/bin/demo stop

.PHONY: demo-check
demo-check: ## run the README's curl lines against a demo server and compare what they print
	@timeout 120 t/bin/demo check $(nginx_given) $(or $(MODULE),$(DEBIAN_MODULE))

##@ Test (one nginx and module only: NGINX=/path/nginx MODULE=/path/module.so; some files only: TESTS=t/wasm_uri.t)

# What runs on an nginx and a module, and the pairs of these that it can run on: a pair is what nginx_PAIR and module_PAIR
# name. RUNS are those that it does run on: what is built here, or what was given.
SUITES := t clitest tck conformance differential matrix chaos hostile soak status-load
PAIRS  := debian 1.28 given restless-debian restless-1.28
RUNS   := $(if $(MODULE),given,debian 1.28)
# What runs on guests that wait wherever they can.
RESTLESS_SUITES := t tck conformance differential
RESTLESS := $(foreach suite,$(RESTLESS_SUITES),$(suite)-restless-debian $(suite)-restless-1.28)

nginx_debian  := $(DEBIAN_NGINX)
module_debian := $(DEBIAN_MODULE)
nginx_1.28    := $(SRC_NGINX)
module_1.28   := $(SRC_MODULE)
nginx_restless-debian  := $(DEBIAN_NGINX)
module_restless-debian := $(RESTLESS_MODULE)
nginx_restless-1.28    := $(SRC_NGINX)
module_restless-1.28   := $(RESTLESS_SRC_MODULE)
nginx_given    = $(abspath $(or $(NGINX),$(DEBIAN_NGINX)))
module_given   = $(abspath $(MODULE))

# The steps of `make test`, in their order. A target becomes one by its name in here; one that is to do less than it does
# by hand gets a line below the rule. Suites that wait more than they compute run on both nginx side by side.
empty :=
side_by_side = $(subst $(empty) $(empty),+,$(strip $(1)))
STEPS := deps deps-test nginx-debian nginx-1.28 check unittest nginxtest fuzz-smoke guests check-examples module module-1.28 \
	$(RUNS:%=t-%) $(RUNS:%=clitest-%) \
	$(foreach suite,$(filter-out t clitest,$(SUITES)),$(call side_by_side,$(RUNS:%=$(suite)-%))) \
	restless t-restless-debian t-restless-1.28 \
	$(foreach suite,$(filter-out t,$(RESTLESS_SUITES)),$(call side_by_side,$(suite)-restless-debian $(suite)-restless-1.28)) \
	configtest demo-check waf demo-waf-check waf-ftw-short waf-serve-short

.PHONY: test
test: ## install what is missing and run all tests; says how long each step took
	@t/bin/steps '$(MAKE) --no-print-directory $(if $(NGINX),NGINX=$(NGINX))' $(STEPS)
test: export ROUNDS = 1
test: export WINDOW = 100ms
test: export LIMIT = 300ms
test: export REQUESTS = 20000
test: export RELOADS = 3
test: export CELLS = 300
test: export TIME = 60

.PHONY: check
check: nginx-debian ## formatting and clippy, with and without the nginx side
	$(CARGO) fmt --check
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml --check
	@echo 'pub fn found(v: &[u8]) -> bool { v.len() == 0 }' > target/found.rs
	@if CLIPPY_ARGS=$(CLIPPY_ARGS) clippy-driver --crate-type lib --emit metadata -o target/found.rmeta target/found.rs 2> target/found.log; \
	then echo 'clippy does not find what is wrong with target/found.rs' >&2; exit 1; \
	else grep -q 'error: length comparison to zero' target/found.log || { cat target/found.log >&2; exit 1; }; fi
	$(call clippy,--lib)
	$(call clippy,--lib --features fuzzing)
	$(call clippy,--no-default-features --all-targets)
	$(call clippy,--no-default-features --features cli --all-targets)

.PHONY: unittest
unittest: ## unit and host tests; they need neither nginx nor libclang
	timeout -k 10 1800 $(CARGO) test --locked --no-default-features

# One thread: nginx's globals know no others.
.PHONY: nginxtest
nginxtest: $(SRC_ARCHIVE) ## unit tests of the nginx side, linked with the objects of nginx 1.28
	TEST_NGINX_ARCHIVE=$(SRC_ARCHIVE) NGINX_SOURCE_DIR=$(SRC_TREE) NGINX_BUILD_DIR=$(SRC_TREE)/objs \
		timeout -k 10 1800 $(CARGO) test --locked --lib nginx:: -- --test-threads=1

.PHONY: guests
guests: ## build the Go, Rust, C and AssemblyScript guests of the tests, and the examples, into target/guests
	timeout -k 10 1200 tests/guests/build.sh
	timeout -k 10 1800 examples/build.sh --all

# MALLOC_PERTURB_: memory that nobody has initialised is never zero by luck. Workers of a server started by root keep root:
# the tests' directories are closed to others.
t: ## run t/*.t on both nginx
GLOBALS_USER := $(if $(filter 0,$(shell id -u)),user root;)
run_t = MALLOC_PERTURB_=165 TEST_NGINX_BINARY=$(nginx) TEST_NGINX_GLOBALS='load_module $(module); $(GLOBALS_USER)' \
	timeout -k 10 1200 $(PROVE) -I t/lib $(TESTS)

clitest: guests ## run the tests of the command-line program, which compare it with both nginx
run_clitest = TEST_NGINX_BINARY=$(nginx) TEST_NGINX_MODULE=$(module) \
	timeout -k 10 1800 $(CARGO) test --locked --no-default-features --features cli --lib --test cli

tck: ## run both official TCK suites on both nginx
run_tck = timeout -k 10 1200 t/tck/run.sh $(nginx) $(module)

conformance: ## run our conformance suite on both nginx and the reference host
run_conformance = timeout -k 10 900 t/conformance/run.sh $(nginx) $(module)

differential: ## send random requests through the module and the reference host and compare
run_differential = timeout -k 10 600 t/differential/run.sh $(nginx) $(module)

matrix: ## guests x sources x clients, compared with what nginx answers without guests (all cells, or CELLS=300)
run_matrix = timeout -k 10 3600 t/matrix/run.sh $(if $(CELLS),-sample $(CELLS)) $(nginx) $(module)

chaos: ## rude clients, failing guests, reloads and upgrades all at once (TIME=60 seconds, SEED=1)
run_chaos = timeout -k 10 86400 t/chaos/run.sh $(if $(SEED),-seed $(SEED)) -time $(TIME)s $(nginx) $(module)

hostile: ## let hostile guests attack a worker that serves others, print what became of both (ROUNDS=5)
run_hostile = timeout -k 10 1800 t/hostile/run.sh -rounds $(ROUNDS) -window $(WINDOW) -limit $(LIMIT) $(nginx) $(module)

soak: guests ## send mixed requests, then reload under load: nothing lost, nothing grows (REQUESTS=1000000 RELOADS=100)
run_soak = timeout -k 10 21600 t/soak/run.sh -requests $(REQUESTS) -reloads $(RELOADS) $(nginx) $(module)

status-load: guests ## load four workers, kill one, compare the status with what clients counted (REQUESTS=1000000); pictures in target/status
run_status-load = timeout -k 10 21600 t/soak/run.sh -status -requests $(REQUESTS) -shots target/status $(nginx) $(module)

nginx  = $(nginx_$*)
module = $(module_$*)

# A suite runs on all of $(RUNS), and as SUITE-PAIR on one.
define suite
.PHONY: $(1) $(PAIRS:%=$(1)-%)
$(1): $(RUNS:%=$(1)-%)
$(PAIRS:%=$(1)-%): $(1)-%:
	@$$(call built,$$(module))
	@$$(nginx) -v
	$$(run_$(1))
endef
$(foreach name,$(SUITES),$(eval $(call suite,$(name))))

# Guests that wait are slower: hence the patience.
.PHONY: restless t-restless
restless: nginx-debian nginx-1.28 ## build the module for tests whose guests wait wherever they can: target/dev/restless
	@$(call build,$(DEBIAN_TREE),--locked --features restless,debug,$(RESTLESS_MODULE))
	@$(call build,$(SRC_TREE),--locked --features restless,debug,$(RESTLESS_SRC_MODULE))
t-restless: restless $(RESTLESS) ## run t/*.t, TCK, conformance and differential on it, on both nginx
$(RESTLESS): export TEST_NGINX_RESTLESS = 1
$(RESTLESS): export TEST_NGINX_PATIENCE = 4

.PHONY: conformance-results
conformance-results: ## write t/conformance/RESULTS.md anew
	timeout -k 10 900 t/conformance/run.sh --write $(nginx_given) $(or $(module_given),$(DEBIAN_MODULE))

.PHONY: status-picture
status-picture: ## make docs/status.png anew: the status page under the load of status-load (REQUESTS=1000000)
	@$(MAKE) --no-print-directory status-load-$(if $(MODULE),given,debian) REQUESTS=$(REQUESTS)
	cp target/status/end-page.png docs/status.png

.PHONY: hostile-results
hostile-results: ## write docs/hostile.md anew
	timeout -k 10 1800 t/hostile/run.sh -rounds $(ROUNDS) -window $(WINDOW) -limit $(LIMIT) -write docs/hostile.md \
		$(nginx_given) $(or $(module_given),$(DEBIAN_MODULE))

.PHONY: configtest
configtest: nginx-1.28 ## build nginx 1.28 with its own --add-dynamic-module, install it, serve with it
	NGX_HTTP_WASM_PROFILE=dev JOBS=$(JOBS) timeout -k 10 3600 t/bin/configtest $(SRC_TREE)

include build/fuzz.mk build/sanitizer.mk build/bench.mk build/packages.mk build/examples.mk build/waf.mk

# $(call build,NGINX TREE,CARGO FLAGS,PROFILE DIRECTORY,RESULT): build the cdylib alone (with an rlib beside it
# there is no LTO) and put it in place by a rename: nginx may have the old file mapped.
define build
	rm -f target/$(3)/lib$(NAME).so && \
	NGINX_SOURCE_DIR=$(1) NGINX_BUILD_DIR=$(1)/objs $(CARGO) rustc $(2) --lib --crate-type cdylib && \
	{ test -f target/$(3)/lib$(NAME).so || { echo 'cargo has built elsewhere: is build.target set in its configuration?' >&2; exit 1; }; } && \
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

# $(call clippy,CARGO FLAGS): for the nginx side, on Debian's. As the compiler of this crate alone: everything that it needs
# is compiled as the tests need it, while "cargo clippy" would have the engine read once more.
clippy = NGINX_SOURCE_DIR=$(DEBIAN_TREE) NGINX_BUILD_DIR=$(DEBIAN_TREE)/objs \
	RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=$(CLIPPY_ARGS) timeout -k 10 1800 $(CARGO) build --locked $(1)

# As "cargo clippy -- -D warnings" hands it to the driver.
CLIPPY_ARGS := -D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__
