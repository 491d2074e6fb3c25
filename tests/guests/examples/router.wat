;; Strips "/host" and goes on, or answers itself.
(module $router
  (import "http_handler" "get_uri" (func $get_uri (param i32 i32) (result i32)))
  (import "http_handler" "set_uri" (func $set_uri (param i32 i32)))
  (import "http_handler" "set_header_value" (func $set_header_value (param i32 i32 i32 i32 i32)))
  (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))

  (memory (export "memory") 1 1)
  (data (i32.const 0) "/host")
  (data (i32.const 8) "Content-Type")
  (data (i32.const 24) "text/plain")
  (data (i32.const 40) "hello world")
  (global $uri i32 (i32.const 1024))

  (func $starts_with_host (result i32)
    (local $i i32)
    (loop $next
      (if (i32.ne
            (i32.load8_u (i32.add (global.get $uri) (local.get $i)))
            (i32.load8_u (local.get $i)))
        (then (return (i32.const 0))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (i32.const 5))))
    (i32.const 1))

  (func (export "handle_request") (result i64)
    (local $len i32)
    (local.set $len (call $get_uri (global.get $uri) (i32.const 256)))
    (if (i32.gt_u (local.get $len) (i32.const 256)) (then (return (i64.const 1))))
    (if (i32.ge_u (local.get $len) (i32.const 5))
      (then
        (if (call $starts_with_host)
          (then
            (call $set_uri
              (i32.add (global.get $uri) (i32.const 5))
              (i32.sub (local.get $len) (i32.const 5)))
            (return (i64.const 1))))))
    (call $set_header_value
      (i32.const 1) (i32.const 8) (i32.const 12) (i32.const 24) (i32.const 10))
    (call $write_body (i32.const 1) (i32.const 40) (i32.const 11))
    (i64.const 0))

  (func (export "handle_response") (param i32 i32)))
