# The benchmark, side by side with others, and the microbenchmark.

# Peers and tools of the benchmark.
BENCH_PACKAGES := libnginx-mod-http-js libnginx-mod-http-lua libnginx-mod-http-modsecurity linux-perf modsecurity-crs \
                  util-linux valgrind wabt wrk

# Firewalls are measured only if ONLY names them.
comma     := ,
bench_waf := $(filter waf,$(subst $(comma), ,$(ONLY)))

##@ Benchmark (a smoke run: QUICK=1; some parts only: ONLY=headers,in-flight; another module: MODULE=/path/module.so)

.PHONY: bench
bench: deps deps-bench $(if $(MODULE),nginx-debian,module) $(if $(bench_waf),waf) ## install and build the peers, measure all side by side in one run, print (not the firewalls: ONLY=waf); WRITE=1 writes docs/benchmarks.md
	@$(call built,$(or $(module_given),$(DEBIAN_MODULE)))
	WAF_TAGS=$(WAF_TAGS) timeout -k 10 5400 tests/bench/run.sh $(DEBIAN_NGINX) $(or $(module_given),$(DEBIAN_MODULE)) $(DEBIAN_TREE) \
		$(if $(QUICK),-quick) $(if $(ONLY),-only $(ONLY))
	$(if $(WRITE),@$(MAKE) --no-print-directory bench-page)

.PHONY: bench-compare
bench-compare: deps deps-bench module ## count the instructions of a request before and after: BASE=commit, ONLY=headers,empty
	@test -n "$(BASE)" || { echo 'usage: make bench-compare BASE=commit' >&2; exit 2; }
	rm -rf target/bench/base && mkdir -p target/bench/base && git archive $(BASE) | tar -x -C target/bench/base
	cd target/bench/base && NGINX_SOURCE_DIR=$(DEBIAN_TREE) NGINX_BUILD_DIR=$(DEBIAN_TREE)/objs \
		timeout -k 10 3600 $(CARGO) rustc --release --locked --lib --crate-type cdylib
	cp target/release/lib$(NAME).so target/bench/base.so
	WAF_TAGS=$(WAF_TAGS) timeout -k 10 3600 tests/bench/run.sh $(DEBIAN_NGINX) $(DEBIAN_MODULE) $(DEBIAN_TREE) -base $(CURDIR)/target/bench/base.so \
		$(if $(ONLY),-only $(ONLY))

.PHONY: bench-page
bench-page: ## write docs/benchmarks.md and its charts from the last run of bench; what ONLY=waf has measured is written by ONLY=waf
	target/bench/bench -dir target/bench $(if $(ONLY),-only $(ONLY)) -page docs

.PHONY: microbench
microbench: ## time host functions and calls without nginx, as ratios to an empty call
	cd tests/bench/micro && CARGO_TARGET_DIR=$(CURDIR)/target/bench/build timeout -k 10 2400 $(CARGO) bench --locked

.PHONY: deps-bench
deps-bench: ## install what the benchmark needs on top; checks for Go and Rust's wasm32-wasip1
	@$(call install,$(BENCH_PACKAGES))
	@$(call toolchains)
