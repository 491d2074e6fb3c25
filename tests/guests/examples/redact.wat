;; Replaces a secret, its configuration, by hashes in request and response bodies.
(module $redact
  (import "http_handler" "enable_features" (func $enable_features (param i32) (result i32)))
  (import "http_handler" "get_config" (func $get_config (param i32 i32) (result i32)))
  (import "http_handler" "read_body" (func $read_body (param i32 i32 i32) (result i64)))
  (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))

  (memory (export "memory") 1 1)
  (global $secret i32 (i32.const 0))
  (global $secret_len (mut i32) (i32.const 0))
  (global $body i32 (i32.const 2048))

  (func $start
    (if (i32.ne (call $enable_features (i32.const 3)) (i32.const 3)) (then unreachable))
    (global.set $secret_len (call $get_config (global.get $secret) (i32.const 1024)))
    (if (i32.eqz (global.get $secret_len)) (then unreachable))
    (if (i32.gt_u (global.get $secret_len) (i32.const 1024)) (then unreachable)))
  (start $start)

  (func $is_secret (param $at i32) (result i32)
    (local $i i32)
    (loop $next
      (if (i32.ne
            (i32.load8_u (i32.add (local.get $at) (local.get $i)))
            (i32.load8_u (i32.add (global.get $secret) (local.get $i))))
        (then (return (i32.const 0))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (global.get $secret_len))))
    (i32.const 1))

  (func $redact (param $kind i32)
    (local $eof_len i64) (local $at i32) (local $end i32) (local $found i32)
    (local.set $eof_len
      (call $read_body (local.get $kind) (global.get $body) (i32.const 32768)))
    (if (i64.ne (i64.shr_u (local.get $eof_len) (i64.const 32)) (i64.const 1))
      (then unreachable))
    (local.set $at (global.get $body))
    (local.set $end
      (i32.add (global.get $body) (i32.wrap_i64 (local.get $eof_len))))
    (block $done
      (loop $next
        (br_if $done
          (i32.gt_u (i32.add (local.get $at) (global.get $secret_len)) (local.get $end)))
        (if (call $is_secret (local.get $at))
          (then
            (memory.fill (local.get $at) (i32.const 35) (global.get $secret_len))
            (local.set $found (i32.const 1))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (if (local.get $found)
      (then
        (call $write_body
          (local.get $kind) (global.get $body) (i32.wrap_i64 (local.get $eof_len))))))

  (func (export "handle_request") (result i64)
    (call $redact (i32.const 0))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $redact (i32.const 1))))
