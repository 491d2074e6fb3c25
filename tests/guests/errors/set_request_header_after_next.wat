;; Changes the request when it is gone.
(module $set_request_header_after_next
  (import "http_handler" "set_header_value"
    (func $set_header_value (param i32 i32 i32 i32 i32)))
  (memory (export "memory") 1 1)
  (data (i32.const 0) "name")

  (func (export "handle_request") (result i64) (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $set_header_value
      (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 4))))
