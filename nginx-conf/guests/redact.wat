;; Replaces every occurrence of the configured text in request and response bodies by as many "#".
(module
  (import "http_handler" "enable_features" (func $enable_features (param i32) (result i32)))
  (import "http_handler" "get_config" (func $get_config (param i32 i32) (result i32)))
  (import "http_handler" "remove_header" (func $remove_header (param i32 i32 i32)))
  (import "http_handler" "read_body" (func $read_body (param i32 i32 i32) (result i64)))
  (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))

  (memory (export "memory") 2)
  (data (i32.const 0) "accept-encoding")   ;; 15 bytes
  (global $secret i32 (i32.const 1024))     ;; up to 1024 bytes
  (global $body i32 (i32.const 65536))      ;; to the end of the memory, which grows
  (global $secret_length (mut i32) (i32.const 0))

  ;; Runs once per instance. A trap here refuses the configuration.
  (func (export "_initialize")
    (drop (call $enable_features (i32.const 3)))  ;; buffer_request, buffer_response
    (global.set $secret_length (call $get_config (global.get $secret) (i32.const 1024)))
    (if (i32.or (i32.eqz (global.get $secret_length)) (i32.gt_u (global.get $secret_length) (i32.const 1024)))
      (then unreachable)))

  (func (export "handle_request") (result i64)
    ;; A compressed response could not be searched.
    (call $remove_header (i32.const 0) (i32.const 0) (i32.const 15))
    (call $redact (i32.const 0))
    (i64.const 1))

  (func (export "handle_response") (param i32 i32)
    (call $redact (i32.const 1)))

  ;; Reads the body of that kind, and writes it again if the secret was in it.
  (func $redact (param $kind i32)
    (local $length i32) (local $i i32) (local $found i32)
    (local.set $length (call $read (local.get $kind)))
    (block $end
      (loop $search
        (br_if $end (i32.gt_u (i32.add (local.get $i) (global.get $secret_length)) (local.get $length)))
        (if (call $at (i32.add (global.get $body) (local.get $i)))
          (then
            (memory.fill
              (i32.add (global.get $body) (local.get $i)) (i32.const 35) (global.get $secret_length))
            (local.set $found (i32.const 1))
            (local.set $i (i32.add (local.get $i) (global.get $secret_length))))
          (else (local.set $i (i32.add (local.get $i) (i32.const 1)))))
        (br $search)))
    (if (local.get $found)
      (then (call $write_body (local.get $kind) (global.get $body) (local.get $length)))))

  ;; Reads a whole body in steps of 64 kB and returns its length.
  (func $read (param $kind i32) (result i32)
    (local $length i32) (local $result i64)
    (loop $more
      (if (i32.gt_u
            (i32.add (i32.add (global.get $body) (local.get $length)) (i32.const 65536))
            (i32.mul (memory.size) (i32.const 65536)))
        (then
          (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))))
      (local.set $result
        (call $read_body (local.get $kind)
          (i32.add (global.get $body) (local.get $length)) (i32.const 65536)))
      (local.set $length (i32.add (local.get $length) (i32.wrap_i64 (local.get $result))))
      (br_if $more (i64.eqz (i64.shr_u (local.get $result) (i64.const 32)))))
    (local.get $length))

  ;; Is the secret at this address?
  (func $at (param $p i32) (result i32)
    (local $i i32)
    (loop $compare
      (if (i32.ne
            (i32.load8_u (i32.add (local.get $p) (local.get $i)))
            (i32.load8_u (i32.add (global.get $secret) (local.get $i))))
        (then (return (i32.const 0))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $compare (i32.lt_u (local.get $i) (global.get $secret_length))))
    (i32.const 1)))
