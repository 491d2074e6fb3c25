# The web application firewall of examples/waf: Coraza with the Core Rule Set as a guest.

WAF          := $(CURDIR)/target/guests/waf.wasm
# Without files of its own, without a schema library that no rule of the Core Rule Set uses, and with two switches that
# the Core Rule Set asks for.
WAF_TAGS     := no_fs_access,coraza.disabled_operators.validateSchema,coraza.rule.no_regex_multiline,coraza.rule.case_sensitive_args_keys
DEMO_WAF_PORT ?= 8081

##@ Web application firewall

# Rebuilt by go when a source is newer; replaced by a rename, so that nginx never finds half a guest.
.PHONY: waf
waf: ## build the firewall of examples/waf: target/guests/waf.wasm
	@$(call toolchains)
	@mkdir -p $(dir $(WAF))
	cd examples/waf && env -u GOFLAGS GOOS=wasip1 GOARCH=wasm timeout -k 10 1200 go build -buildmode=c-shared \
		-buildvcs=false -trimpath -tags $(WAF_TAGS) -ldflags='-s -w' -o $(WAF).new .
	@cmp -s $(WAF).new $(WAF) && rm $(WAF).new || mv -f $(WAF).new $(WAF)

.PHONY: demo-waf
demo-waf: deps module waf ## serve the firewall in front of a backend on 127.0.0.1:8081, print the curl lines to try
	@DEMO_PORT=$(DEMO_WAF_PORT) t/bin/demo start $(DEBIAN_NGINX) $(DEBIAN_MODULE) waf

.PHONY: demo-waf-stop
demo-waf-stop: ## stop it
	@t/bin/demo stop - - waf

.PHONY: demo-waf-check
demo-waf-check: waf ## run the curl lines of docs/waf.md against the firewall and compare what they print
	@timeout 300 t/bin/demo check $(nginx_given) $(or $(MODULE),$(DEBIAN_MODULE)) waf

.PHONY: waf-ftw
waf-ftw: module waf ## send the Core Rule Set's tests through the firewall and through Coraza in Go, print totals and differences
	timeout -k 10 3600 t/waf/run.sh $(DEBIAN_NGINX) $(or $(module_given),$(DEBIAN_MODULE))

.PHONY: waf-ftw-short
waf-ftw-short: waf ## the same with every tenth test
	timeout -k 10 1800 t/waf/run.sh -short $(nginx_given) $(or $(module_given),$(DEBIAN_MODULE))

.PHONY: waf-serve
waf-serve: module waf ## serve bodies of all sizes, WebSockets, a burst, a killed worker, new rules and a full disk with the firewall
	timeout -k 10 900 t/waf/run.sh -serve $(DEBIAN_NGINX) $(or $(module_given),$(DEBIAN_MODULE))

.PHONY: waf-serve-short
waf-serve-short: waf ## the same with fewer sizes, and without the full disk
	timeout -k 10 600 t/waf/run.sh -serve -short $(nginx_given) $(or $(module_given),$(DEBIAN_MODULE))
