# The targets of tests/fuzz.

FUZZ_DIR     := $(CURDIR)/tests/fuzz
FUZZ_TARGETS := memory uri fields headers bodies calls
FUZZ_ENV     := TEST_NGINX_ARCHIVE=$(SRC_ARCHIVE) NGINX_SOURCE_DIR=$(SRC_TREE) NGINX_BUILD_DIR=$(SRC_TREE)/objs
FUZZ_RUNS    := 2000
# Bodies spill into temporary files there; in memory they cost least.
FUZZ_TMPDIR  := $(shell test -w /dev/shm && echo /dev/shm || echo /tmp)
# What `make fuzz` does.
TARGET       ?= $(FUZZ_TARGETS)

CARGO_FUZZ_VERSION := 0.13.2
CARGO_FUZZ         := $(CURDIR)/target/tools/bin/cargo-fuzz

##@ Fuzzing (one target, for longer: TARGET=headers TIME=600)

# Built by plain cargo on stable Rust and with what the tests above have built: only what is fuzzed
# is instrumented. Starts from the inputs in tests/fuzz/corpus, those that once failed among them.
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
