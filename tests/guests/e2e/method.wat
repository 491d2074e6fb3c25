;; Sends the method on as the body of a POST.
(module $method
  (import "http_handler" "get_method" (func $get_method (param i32 i32) (result i32)))
  (import "http_handler" "set_method" (func $set_method (param i32 i32)))
  (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))
  (memory (export "memory") 1 1)
  (data (i32.const 0) "POST")

  (func (export "handle_request") (result i64)
    (call $write_body
      (i32.const 0) (i32.const 16) (call $get_method (i32.const 16) (i32.const 64)))
    (call $set_method (i32.const 0) (i32.const 4))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)))
