;; Lets a request through when its Authorization header is the configured one, and answers 401 by itself otherwise.
(module
  (import "http_handler" "get_config" (func $get_config (param i32 i32) (result i32)))
  (import "http_handler" "get_header_values" (func $get_header_values (param i32 i32 i32 i32 i32) (result i64)))
  (import "http_handler" "set_header_value" (func $set_header_value (param i32 i32 i32 i32 i32)))
  (import "http_handler" "set_status_code" (func $set_status_code (param i32)))
  (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))

  (memory (export "memory") 1)
  (data (i32.const 0) "authorization")           ;; 13 bytes
  (data (i32.const 32) "www-authenticate")       ;; 16 bytes
  (data (i32.const 64) "Basic realm=\"demo\"")   ;; 18 bytes
  (data (i32.const 96) "content-type")           ;; 12 bytes
  (data (i32.const 128) "text/plain")            ;; 10 bytes
  (data (i32.const 160) "name and password, please\n")  ;; 26 bytes
  (global $wanted i32 (i32.const 1024))           ;; up to 1024 bytes
  (global $given i32 (i32.const 2048))            ;; up to 1025 bytes with the NUL that ends each value
  (global $wanted_length (mut i32) (i32.const 0))

  ;; Runs once per instance. A trap here refuses the configuration.
  (func (export "_initialize")
    (global.set $wanted_length (call $get_config (global.get $wanted) (i32.const 1024)))
    (if (i32.or (i32.eqz (global.get $wanted_length)) (i32.gt_u (global.get $wanted_length) (i32.const 1024)))
      (then unreachable)))

  (func (export "handle_request") (result i64)
    (if (call $authorized) (then (return (i64.const 1))))
    (call $set_status_code (i32.const 401))
    (call $set_header_value (i32.const 1) (i32.const 32) (i32.const 16) (i32.const 64) (i32.const 18))
    (call $set_header_value (i32.const 1) (i32.const 96) (i32.const 12) (i32.const 128) (i32.const 10))
    (call $write_body (i32.const 1) (i32.const 160) (i32.const 26))
    (i64.const 0))

  (func (export "handle_response") (param i32 i32))

  ;; Exactly one header line of exactly the right bytes; the time it takes tells nothing about them.
  (func $authorized (result i32)
    (local $i i32) (local $different i32)
    (if (i64.ne
          (call $get_header_values (i32.const 0) (i32.const 0) (i32.const 13) (global.get $given) (i32.const 1025))
          (i64.or (i64.const 0x100000000)
            (i64.extend_i32_u (i32.add (global.get $wanted_length) (i32.const 1)))))
      (then (return (i32.const 0))))
    (loop $compare
      (local.set $different
        (i32.or (local.get $different)
          (i32.xor
            (i32.load8_u (i32.add (global.get $given) (local.get $i)))
            (i32.load8_u (i32.add (global.get $wanted) (local.get $i))))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $compare (i32.lt_u (local.get $i) (global.get $wanted_length))))
    (i32.eqz (local.get $different))))
