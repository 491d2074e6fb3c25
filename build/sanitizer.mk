# nginx 1.28 and the module with AddressSanitizer.

ASAN_TREE   := $(CURDIR)/target/nginx-asan
ASAN_NGINX  := $(ASAN_TREE)/objs/nginx
ASAN_MODULE := $(ASAN_TREE)/$(NAME).so

# C and Rust share the runtime that comes with Rust; it is linked into nginx, and -Xclang keeps the linker from adding one
# of clang's. NGX_DEBUG_PALLOC: a pool takes every allocation from malloc, so that each has red zones of its own.
ASAN_RUNTIME  = $(shell rustc --print target-libdir)/librustc-stable_rt.asan.a
ASAN_CC_OPT  := -g -O1 -fPIC -fno-omit-frame-pointer -DNGX_DEBUG_PALLOC=1 \
	-Xclang -fsanitize=address -Xclang -fsanitize-address-use-after-scope

# The sanitizer reserves terabytes itself, and so cannot run where addresses are scarce.
ASAN_CANNOT := t/wasm_address_space.t

##@ AddressSanitizer (some files only: TESTS=t/wasm_uri.t)

# nginx and module are built for it, and are slower: hence the patience.
.PHONY: t-asan
t-asan: $(ASAN_NGINX) ## run t/*.t under AddressSanitizer on nginx 1.28
	@RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/t/asan/rustc.sh TEST_SANITIZER=address \
		$(call build,$(ASAN_TREE),--locked,debug,$(ASAN_MODULE))
	TEST_NGINX_PATIENCE=4 PROVE='$(PROVE)' timeout -k 10 3600 \
		t/asan/run.sh $(ASAN_NGINX) $(ASAN_MODULE) '$(GLOBALS_USER)' $(filter-out $(ASAN_CANNOT),$(wildcard $(TESTS)))

$(ASAN_NGINX): $(SRC_CRATE) $(wildcard t/asan/detector/*) t/asan/rustc.sh
	@$(call source,$(ASAN_TREE)) && \
	 t/asan/rustc.sh rustc --edition 2024 --crate-type cdylib --emit obj -O -o $(ASAN_TREE)/faults.o \
	       t/asan/detector/faults.rs && cd $(ASAN_TREE) && \
	 auto/configure --prefix=$(ASAN_TREE)/prefix $(SRC_FLAGS) --add-module=$(CURDIR)/t/asan/detector \
	       --with-cc=clang --with-cc-opt='$(ASAN_CC_OPT)' \
	       --with-ld-opt='-Wl,--whole-archive,$(ASAN_RUNTIME),--no-whole-archive -lpthread -lrt -lm -ldl' \
	       > configure.log && $(MAKE) -j$(JOBS) > build.log
