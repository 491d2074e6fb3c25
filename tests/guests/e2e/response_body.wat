;; Replaces the response by the text of its request context plus one.
(module $response_body
  (import "http_handler" "enable_features" (func $enable_features (param i32) (result i32)))
  (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))
  (memory (export "memory") 1 1)

  (func (export "handle_request") (result i64)
    (drop (call $enable_features (i32.const 2)))
    (i64.or (i64.shl (i64.const 42) (i64.const 32)) (i64.const 1)))
  (func (export "handle_response") (param $ctx i32) (param $is_error i32)
    (local.set $ctx (i32.add (local.get $ctx) (i32.const 1)))
    (i32.store8 (i32.const 0)
      (i32.add (i32.const 48) (i32.div_u (local.get $ctx) (i32.const 10))))
    (i32.store8 (i32.const 1)
      (i32.add (i32.const 48) (i32.rem_u (local.get $ctx) (i32.const 10))))
    (call $write_body (i32.const 1) (i32.const 0) (i32.const 2))))
