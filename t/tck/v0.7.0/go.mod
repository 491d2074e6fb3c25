module ngx-http-wasm-handler/tck/v0.7.0

go 1.26

require (
	github.com/http-wasm/http-wasm-host-go v0.7.0
	ngx-http-wasm-handler/tck/harness v0.0.0
)

require (
	github.com/tetratelabs/wazero v1.12.0 // indirect
	golang.org/x/sys v0.44.0 // indirect
)

replace ngx-http-wasm-handler/tck/harness => ../harness
