module ngx-http-wasm-handler/tck/harness

go 1.26
