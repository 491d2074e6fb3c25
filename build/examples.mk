# The small guests of examples/. What the firewall there needs is in waf.mk.

##@ Examples

.PHONY: examples
examples: ## build the guests of examples/ whose toolchains are there, and say which are left out: target/guests/example-*.wasm
	timeout -k 10 1800 examples/build.sh
