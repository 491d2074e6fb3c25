;; Declares the type of the request.
(module $header_value
  (import "http_handler" "set_header_value"
    (func $set_header_value (param i32 i32 i32 i32 i32)))
  (memory (export "memory") 1 1)
  (data (i32.const 0) "Content-Type")
  (data (i32.const 16) "text/plain")

  (func (export "handle_request") (result i64)
    (call $set_header_value
      (i32.const 0) (i32.const 0) (i32.const 12) (i32.const 16) (i32.const 10))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)))
