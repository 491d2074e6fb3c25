;; Keeps its context in a global, as guests do that rely on being pinned to a request.
(module $handle_response
  (memory (export "memory") 1 1)
  (global $ctx (mut i32) (i32.const 42))

  (func (export "handle_request") (result i64)
    (local $result i64)
    (local.set $result
      (i64.or
        (i64.shl (i64.extend_i32_u (global.get $ctx)) (i64.const 32))
        (i64.const 1)))
    (global.set $ctx (i32.add (global.get $ctx) (i32.const 1)))
    (local.get $result))
  (func (export "handle_response") (param $ctx i32) (param $is_error i32)
    (if (i32.ne (local.get $ctx) (i32.sub (global.get $ctx) (i32.const 1)))
      (then unreachable))))
