module ngx-http-wasm-handler/tests/guests/go

go 1.24
