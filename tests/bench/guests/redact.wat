;; Replaces "card-4711" by as many "#" wherever it is in the response. Looks for its first byte sixteen bytes at a time.
(module
  (import "http_handler" "enable_features" (func $enable_features (param i32) (result i32)))
  (import "http_handler" "read_body" (func $read_body (param i32 i32 i32) (result i64)))
  (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))

  (memory (export "memory") 2)
  (data (i32.const 0) "card-4711")
  (global $body i32 (i32.const 65536))  ;; to the end of the memory, which grows

  ;; buffer_response
  (func (export "_start") (drop (call $enable_features (i32.const 2))))

  (func (export "handle_request") (result i64) (i64.const 1))

  (func (export "handle_response") (param i32 i32)
    (local $length i32)
    (local.set $length (call $read))
    (call $redact (global.get $body) (i32.add (global.get $body) (local.get $length)))
    (call $write_body (i32.const 1) (global.get $body) (local.get $length)))

  ;; Reads the whole body and returns its length. There are always 64 kB of room behind it.
  (func $read (result i32)
    (local $length i32) (local $result i64)
    (loop $more
      (if (i32.gt_u
            (i32.add (i32.add (global.get $body) (local.get $length)) (i32.const 131072))
            (i32.mul (memory.size) (i32.const 65536)))
        (then
          (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))))
      (local.set $result
        (call $read_body (i32.const 1)
          (i32.add (global.get $body) (local.get $length)) (i32.const 65536)))
      (local.set $length (i32.add (local.get $length) (i32.wrap_i64 (local.get $result))))
      (br_if $more (i64.eqz (i64.shr_u (local.get $result) (i64.const 32)))))
    (local.get $length))

  (func $redact (param $p i32) (param $end i32)
    (local $found i32) (local $at i32)
    (loop $block
      (if (i32.ge_u (local.get $p) (local.get $end)) (then (return)))
      ;; One bit for every "c" in sixteen bytes; what lies behind the body does no harm.
      (local.set $found
        (i8x16.bitmask
          (i8x16.eq (v128.load (local.get $p)) (i8x16.splat (i32.const 99)))))
      (loop $candidate
        (if (local.get $found)
          (then
            (local.set $at (i32.add (local.get $p) (i32.ctz (local.get $found))))
            (local.set $found
              (i32.and (local.get $found) (i32.sub (local.get $found) (i32.const 1))))
            (if (i32.and
                  (i32.le_u (i32.add (local.get $at) (i32.const 9)) (local.get $end))
                  (i32.and
                    (i64.eq (i64.load (local.get $at)) (i64.load (i32.const 0)))
                    (i32.eq (i32.load8_u offset=8 (local.get $at)) (i32.const 49))))
              (then (memory.fill (local.get $at) (i32.const 35) (i32.const 9))))
            (br $candidate))))
      (local.set $p (i32.add (local.get $p) (i32.const 16)))
      (br $block))))
