module ngx-http-wasm-handler/bench/guest

go 1.26.0

require ngx-http-wasm-handler/tests/guests/go v0.0.0

replace ngx-http-wasm-handler/tests/guests/go => ../../../guests/go
