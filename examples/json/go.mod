module ngx-http-wasm-handler/examples/json

go 1.24

require ngx-http-wasm-handler/tests/guests/go v0.0.0

replace ngx-http-wasm-handler/tests/guests/go => ../../tests/guests/go
