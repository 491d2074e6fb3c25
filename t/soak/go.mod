module ngx-http-wasm-handler/soak

go 1.26.0

require (
	ngx-http-wasm-handler/conformance v0.0.0
	ngx-http-wasm-handler/hostile v0.0.0
	ngx-http-wasm-handler/tck/harness v0.0.0
)

replace (
	ngx-http-wasm-handler/conformance => ../conformance
	ngx-http-wasm-handler/hostile => ../hostile
	ngx-http-wasm-handler/tck/harness => ../tck/harness
)
