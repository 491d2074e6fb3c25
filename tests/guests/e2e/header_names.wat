;; Counts the names itself and goes on if there are any.
(module $header_names
  (import "http_handler" "get_header_names"
    (func $get_header_names (param i32 i32 i32) (result i64)))
  (memory (export "memory") 1 1)

  (func (export "handle_request") (result i64)
    (local $count_len i64) (local $at i32) (local $nuls i64)
    (local.set $count_len
      (call $get_header_names (i32.const 0) (i32.const 0) (i32.const 65536)))
    (block $done
      (loop $next
        (br_if $done
          (i32.eq (local.get $at) (i32.wrap_i64 (local.get $count_len))))
        (if (i32.eqz (i32.load8_u (local.get $at)))
          (then (local.set $nuls (i64.add (local.get $nuls) (i64.const 1)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (if (i64.ne (local.get $nuls) (i64.shr_u (local.get $count_len) (i64.const 32)))
      (then unreachable))
    (i64.extend_i32_u (i64.ne (local.get $nuls) (i64.const 0))))
  (func (export "handle_response") (param i32 i32)))
