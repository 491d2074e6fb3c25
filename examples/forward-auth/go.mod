module ngx-http-wasm-handler/examples/forward-auth

go 1.24

require (
	github.com/stealthrocket/net v0.2.1
	ngx-http-wasm-handler/tests/guests/go v0.0.0
)

replace ngx-http-wasm-handler/tests/guests/go => ../../tests/guests/go
