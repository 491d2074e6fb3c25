;; Lets a request through if it carries the one right Authorization header.
(module $auth
  (import "http_handler" "get_header_values"
    (func $get_header_values (param i32 i32 i32 i32 i32) (result i64)))
  (import "http_handler" "set_header_value"
    (func $set_header_value (param i32 i32 i32 i32 i32)))
  (import "http_handler" "set_status_code" (func $set_status_code (param i32)))

  (memory (export "memory") 1 1)
  (data (i32.const 0) "Authorization")
  (data (i32.const 16) "WWW-Authenticate")
  (data (i32.const 32) "Basic realm=\"test\"")
  ;; base64 of "Aladdin:open sesame", with the NUL that ends a value: 35 bytes
  (data (i32.const 64) "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\00")
  (global $buf i32 (i32.const 128))

  (func $is_right (result i32)
    (local $i i32)
    (loop $next
      (if (i32.ne
            (i32.load8_u (i32.add (global.get $buf) (local.get $i)))
            (i32.load8_u (i32.add (i32.const 64) (local.get $i))))
        (then (return (i32.const 0))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (i32.const 35))))
    (i32.const 1))

  (func (export "handle_request") (result i64)
    (local $count_len i64)
    (local.set $count_len
      (call $get_header_values
        (i32.const 0) (i32.const 0) (i32.const 13) (global.get $buf) (i32.const 35)))
    (if (i64.ne (i64.shr_u (local.get $count_len) (i64.const 32)) (i64.const 1))
      (then
        (call $set_header_value
          (i32.const 1) (i32.const 16) (i32.const 16) (i32.const 32) (i32.const 18))
        (call $set_status_code (i32.const 401))
        (return (i64.const 0))))
    (if (i32.ne (i32.wrap_i64 (local.get $count_len)) (i32.const 35))
      (then (call $set_status_code (i32.const 401)) (return (i64.const 0))))
    (if (i32.eqz (call $is_right))
      (then (call $set_status_code (i32.const 401)) (return (i64.const 0))))
    (i64.const 1))

  (func (export "handle_response") (param i32 i32)))
