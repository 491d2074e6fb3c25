module ngx-http-wasm-handler/chaos

go 1.26.0

require (
	golang.org/x/net v0.56.0
	ngx-http-wasm-handler/hostile v0.0.0
	ngx-http-wasm-handler/matrix v0.0.0
	ngx-http-wasm-handler/tck/harness v0.0.0
)

require (
	github.com/quic-go/qpack v0.6.0 // indirect
	github.com/quic-go/quic-go v0.65.0 // indirect
	golang.org/x/crypto v0.54.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/text v0.40.0 // indirect
	ngx-http-wasm-handler/conformance v0.0.0 // indirect
)

replace (
	ngx-http-wasm-handler/conformance => ../conformance
	ngx-http-wasm-handler/hostile => ../hostile
	ngx-http-wasm-handler/matrix => ../matrix
	ngx-http-wasm-handler/tck/harness => ../tck/harness
)
