;; Takes the configured prefix off the request's URI and tells the backend in X-Forwarded-Prefix.
;; Other requests go through as they are.
(module
  (import "http_handler" "get_config" (func $get_config (param i32 i32) (result i32)))
  (import "http_handler" "get_uri" (func $get_uri (param i32 i32) (result i32)))
  (import "http_handler" "set_uri" (func $set_uri (param i32 i32)))
  (import "http_handler" "set_header_value" (func $set_header_value (param i32 i32 i32 i32 i32)))

  (memory (export "memory") 1)
  (data (i32.const 0) "x-forwarded-prefix")  ;; 18 bytes
  (global $prefix i32 (i32.const 1024))       ;; up to 1024 bytes
  (global $uri i32 (i32.const 2048))          ;; up to 8192 bytes
  (global $prefix_length (mut i32) (i32.const 0))

  ;; Runs once per instance. A trap here refuses the configuration.
  (func (export "_initialize")
    (global.set $prefix_length (call $get_config (global.get $prefix) (i32.const 1024)))
    (if (i32.or (i32.eqz (global.get $prefix_length)) (i32.gt_u (global.get $prefix_length) (i32.const 1024)))
      (then unreachable)))

  (func (export "handle_request") (result i64)
    (local $length i32) (local $i i32)
    (local.set $length (call $get_uri (global.get $uri) (i32.const 8192)))

    ;; A URI longer than the buffer was not written, a shorter one than the prefix does not start with it.
    (if (i32.or
          (i32.gt_u (local.get $length) (i32.const 8192))
          (i32.lt_u (local.get $length) (global.get $prefix_length)))
      (then (return (i64.const 1))))

    (loop $compare
      (if (i32.ne
            (i32.load8_u (i32.add (global.get $uri) (local.get $i)))
            (i32.load8_u (i32.add (global.get $prefix) (local.get $i))))
        (then (return (i64.const 1))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $compare (i32.lt_u (local.get $i) (global.get $prefix_length))))

    (call $set_uri
      (i32.add (global.get $uri) (global.get $prefix_length))
      (i32.sub (local.get $length) (global.get $prefix_length)))
    (call $set_header_value (i32.const 0)
      (i32.const 0) (i32.const 18)
      (global.get $prefix) (global.get $prefix_length))
    (i64.const 1))

  (func (export "handle_response") (param i32 i32)))
