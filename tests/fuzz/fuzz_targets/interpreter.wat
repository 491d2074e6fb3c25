;; A guest that makes the host calls it is told to. Its program is what the host gives as the protocol
;; version: 256 bytes of data, then 21 bytes for each call, a function and five arguments. Results are
;; kept from 6144 on, and at the end the parts of the memory that may have changed are logged.
(module
  (import "http_handler" "enable_features" (func $enable_features (param i32) (result i32)))
  (import "http_handler" "get_config" (func $get_config (param i32 i32) (result i32)))
  (import "http_handler" "log" (func $log (param i32 i32 i32)))
  (import "http_handler" "log_enabled" (func $log_enabled (param i32) (result i32)))
  (import "http_handler" "get_method" (func $get_method (param i32 i32) (result i32)))
  (import "http_handler" "set_method" (func $set_method (param i32 i32)))
  (import "http_handler" "get_uri" (func $get_uri (param i32 i32) (result i32)))
  (import "http_handler" "set_uri" (func $set_uri (param i32 i32)))
  (import "http_handler" "get_protocol_version"
    (func $get_protocol_version (param i32 i32) (result i32)))
  (import "http_handler" "get_source_addr" (func $get_source_addr (param i32 i32) (result i32)))
  (import "http_handler" "get_header_names"
    (func $get_header_names (param i32 i32 i32) (result i64)))
  (import "http_handler" "get_header_values"
    (func $get_header_values (param i32 i32 i32 i32 i32) (result i64)))
  (import "http_handler" "set_header_value"
    (func $set_header_value (param i32 i32 i32 i32 i32)))
  (import "http_handler" "add_header_value"
    (func $add_header_value (param i32 i32 i32 i32 i32)))
  (import "http_handler" "remove_header" (func $remove_header (param i32 i32 i32)))
  (import "http_handler" "read_body" (func $read_body (param i32 i32 i32) (result i64)))
  (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))
  (import "http_handler" "get_status_code" (func $get_status_code (result i32)))
  (import "http_handler" "set_status_code" (func $set_status_code (param i32)))
  (import "http_handler" "get_template" (func $get_template (param i32 i32) (result i32)))
  (import "http_handler" "set_template" (func $set_template (param i32 i32)))
  (memory (export "memory") 1 1)

  (func $call (param $at i32) (result i64)
    (local $a i32) (local $b i32) (local $c i32) (local $d i32) (local $e i32)
    (local.set $a (i32.load offset=1 (local.get $at)))
    (local.set $b (i32.load offset=5 (local.get $at)))
    (local.set $c (i32.load offset=9 (local.get $at)))
    (local.set $d (i32.load offset=13 (local.get $at)))
    (local.set $e (i32.load offset=17 (local.get $at)))
    (block $f20 (block $f19 (block $f18 (block $f17 (block $f16 (block $f15 (block $f14 (block $f13
    (block $f12 (block $f11 (block $f10 (block $f9 (block $f8 (block $f7 (block $f6 (block $f5 (block
    $f4 (block $f3 (block $f2 (block $f1 (block $f0
      (br_table $f0 $f1 $f2 $f3 $f4 $f5 $f6 $f7 $f8 $f9 $f10 $f11 $f12 $f13 $f14 $f15 $f16 $f17 $f18
      $f19 $f20
        (i32.rem_u (i32.load8_u (local.get $at)) (i32.const 21))))
    (return (i64.extend_i32_u (call $enable_features (local.get $a)))))
    (return (i64.extend_i32_u (call $get_config (local.get $a) (local.get $b)))))
    (call $log (local.get $a) (local.get $b) (local.get $c)) (return (i64.const 0)))
    (return (i64.extend_i32_u (call $log_enabled (local.get $a)))))
    (return (i64.extend_i32_u (call $get_method (local.get $a) (local.get $b)))))
    (call $set_method (local.get $a) (local.get $b)) (return (i64.const 0)))
    (return (i64.extend_i32_u (call $get_uri (local.get $a) (local.get $b)))))
    (call $set_uri (local.get $a) (local.get $b)) (return (i64.const 0)))
    (return (i64.extend_i32_u (call $get_protocol_version (local.get $a) (local.get $b)))))
    (return (i64.extend_i32_u (call $get_source_addr (local.get $a) (local.get $b)))))
    (return (call $get_header_names (local.get $a) (local.get $b) (local.get $c))))
    (return (call $get_header_values
      (local.get $a) (local.get $b) (local.get $c) (local.get $d) (local.get $e))))
    (call $set_header_value
      (local.get $a) (local.get $b) (local.get $c) (local.get $d) (local.get $e))
    (return (i64.const 0)))
    (call $add_header_value
      (local.get $a) (local.get $b) (local.get $c) (local.get $d) (local.get $e))
    (return (i64.const 0)))
    (call $remove_header (local.get $a) (local.get $b) (local.get $c)) (return (i64.const 0)))
    (return (call $read_body (local.get $a) (local.get $b) (local.get $c))))
    (call $write_body (local.get $a) (local.get $b) (local.get $c)) (return (i64.const 0)))
    (return (i64.extend_i32_u (call $get_status_code))))
    (call $set_status_code (local.get $a)) (return (i64.const 0)))
    (return (i64.extend_i32_u (call $get_template (local.get $a) (local.get $b)))))
    (call $set_template (local.get $a) (local.get $b)) (return (i64.const 0))
    (i64.const 0))

  (func $run
    (local $at i32) (local $end i32) (local $result i32)
    (local.set $end (i32.add (i32.const 3840)
      (call $get_protocol_version (i32.const 3840) (i32.const 2304))))
    (local.set $at (i32.const 4096))
    (local.set $result (i32.const 6144))
    (block $done
      (loop $next
        (br_if $done (i32.gt_u (i32.add (local.get $at) (i32.const 21)) (local.get $end)))
        (i64.store (local.get $result) (call $call (local.get $at)))
        (local.set $at (i32.add (local.get $at) (i32.const 21)))
        (local.set $result (i32.add (local.get $result) (i32.const 8)))
        (br $next)))
    (call $log (i32.const 2) (i32.const 0) (i32.const 8192))
    (call $log (i32.const 2) (i32.const 65280) (i32.const 256)))

  (func (export "handle_request") (result i64) (call $run) (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $run)))
