module ngx-http-wasm-handler/differential

go 1.26.0

require ngx-http-wasm-handler/conformance v0.0.0

require (
	github.com/http-wasm/http-wasm-host-go v0.7.0 // indirect
	github.com/quic-go/qpack v0.6.0 // indirect
	github.com/quic-go/quic-go v0.65.0 // indirect
	github.com/tetratelabs/wazero v1.12.0 // indirect
	golang.org/x/crypto v0.54.0 // indirect
	golang.org/x/net v0.56.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/text v0.40.0 // indirect
	ngx-http-wasm-handler/tck/harness v0.0.0 // indirect
)

replace (
	ngx-http-wasm-handler/conformance => ../conformance
	ngx-http-wasm-handler/tck/harness => ../tck/harness
)
