# The small guests of examples/. What the firewall there needs is in waf.mk.

##@ Examples

.PHONY: examples
examples: ## build the guests of examples/ into target/guests, and say which are left out for lack of a toolchain
	timeout -k 10 1800 examples/build.sh

# Needs the toolchains of `make guests`. The crates are compiled as the guests need them.
.PHONY: check-examples
check-examples: ## formatting, clippy and go vet of the examples
	@for name in jwt redact; do \
	   $(CARGO) fmt --manifest-path examples/$$name/Cargo.toml --check || exit 1; \
	   CARGO_TARGET_DIR=$(CURDIR)/target/guests-build RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=$(CLIPPY_ARGS) \
	   timeout -k 10 1800 $(CARGO) build --quiet --locked --release --target wasm32-wasip1 \
	     --manifest-path examples/$$name/Cargo.toml || exit 1; done
	@unformatted=$$(gofmt -l examples tests/guests/go); \
	 test -z "$$unformatted" || { echo "gofmt would change $$unformatted" >&2; exit 1; }
	@for name in forward-auth json rate-limit; do \
	   echo "go vet examples/$$name"; GOOS=wasip1 GOARCH=wasm timeout -k 10 600 go -C examples/$$name vet . || exit 1; done
