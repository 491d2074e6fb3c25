module ngx-http-wasm-handler/examples/rate-limit

go 1.24

require (
	github.com/gomodule/redigo v1.9.3
	github.com/stealthrocket/net v0.2.1
	ngx-http-wasm-handler/tests/guests/go v0.0.0
)

replace ngx-http-wasm-handler/tests/guests/go => ../../tests/guests/go
