;; Sends the URI on as the body and goes somewhere else.
(module $uri
  (import "http_handler" "get_uri" (func $get_uri (param i32 i32) (result i32)))
  (import "http_handler" "set_uri" (func $set_uri (param i32 i32)))
  (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))
  (memory (export "memory") 1 1)
  (data (i32.const 0) "/v1.0/hello?name=teddy")

  (func (export "handle_request") (result i64)
    (call $write_body
      (i32.const 0) (i32.const 64) (call $get_uri (i32.const 64) (i32.const 256)))
    (call $set_uri (i32.const 0) (i32.const 0))
    (if (i32.ne (call $get_uri (i32.const 512) (i32.const 64)) (i32.const 1))
      (then unreachable))
    (if (i32.ne (i32.load8_u (i32.const 512)) (i32.const 47)) (then unreachable))
    (call $set_uri (i32.const 0) (i32.const 22))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)))
