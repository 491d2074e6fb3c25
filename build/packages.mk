# What has to be installed, and what is packed.

# What the build needs from Debian 12, and what only the tests need on top.
BUILD_PACKAGES := ca-certificates curl gcc libc6-dev libclang-dev make nginx nginx-dev \
                  libpcre2-dev libssl-dev zlib1g-dev
TEST_PACKAGES  := chromium-headless-shell clang docker-registry libfcgi-perl libio-socket-ssl-perl \
                  libnginx-mod-http-brotli-filter libnginx-mod-http-image-filter libnginx-mod-http-modsecurity lld llvm \
                  nghttp2-client nghttp2-server openssl perl python3 python3-prometheus-client redis-server wabt
GO_VERSION := 1.26
SUDO       := $(if $(filter 0,$(shell id -u)),,sudo)

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
