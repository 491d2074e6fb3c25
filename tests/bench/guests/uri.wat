;; Takes "/v1" off the URI.
(module
  (import "http_handler" "get_uri" (func $get_uri (param i32 i32) (result i32)))
  (import "http_handler" "set_uri" (func $set_uri (param i32 i32)))

  (memory (export "memory") 1)
  (global $room i32 (i32.const 65536))

  (func (export "handle_request") (result i64)
    (local $length i32)
    (local.set $length (call $get_uri (i32.const 0) (global.get $room)))
    ;; "/v1/" as four bytes in memory
    (if (i32.and
          (i32.le_u (local.get $length) (global.get $room))
          (i32.eq (i32.load (i32.const 0)) (i32.const 0x2f31762f)))
      (then (call $set_uri (i32.const 3) (i32.sub (local.get $length) (i32.const 3)))))
    (i64.const 1))

  (func (export "handle_response") (param i32 i32)))
