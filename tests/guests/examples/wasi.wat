;; Prints request and response to standard output.
(module $wasi
  (import "http_handler" "enable_features" (func $enable_features (param i32) (result i32)))
  (import "http_handler" "get_method" (func $get_method (param i32 i32) (result i32)))
  (import "http_handler" "get_uri" (func $get_uri (param i32 i32) (result i32)))
  (import "http_handler" "get_protocol_version"
    (func $get_protocol_version (param i32 i32) (result i32)))
  (import "http_handler" "get_header_names"
    (func $get_header_names (param i32 i32 i32) (result i64)))
  (import "http_handler" "get_header_values"
    (func $get_header_values (param i32 i32 i32 i32 i32) (result i64)))
  (import "http_handler" "read_body" (func $read_body (param i32 i32 i32) (result i64)))
  (import "http_handler" "get_status_code" (func $get_status_code (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))

  (memory (export "memory") 1 1)
  (data (i32.const 16) " ")
  (data (i32.const 17) "\n")
  (data (i32.const 18) ": ")
  (data (i32.const 32) "host error")
  (global $limit i32 (i32.const 2048))
  (global $buf i32 (i32.const 4096))
  (global $names i32 (i32.const 8192))
  (global $values i32 (i32.const 12288))

  (func $start
    (if (i32.ne (call $enable_features (i32.const 3)) (i32.const 3)) (then unreachable)))
  (start $start)

  (func $print (param $ptr i32) (param $len i32)
    (i32.store (i32.const 0) (local.get $ptr))
    (i32.store (i32.const 4) (local.get $len))
    (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))
      (then unreachable)))
  (func $print_buf (param $len i32)
    (if (i32.gt_u (local.get $len) (global.get $limit)) (then unreachable))
    (call $print (global.get $buf) (local.get $len)))
  (func $space (call $print (i32.const 16) (i32.const 1)))
  (func $line (call $print (i32.const 17) (i32.const 1)))

  (func $strlen (param $ptr i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $ptr))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (i32.load8_u (local.get $end))))
        (local.set $end (i32.add (local.get $end) (i32.const 1)))
        (br $next)))
    (i32.sub (local.get $end) (local.get $ptr)))

  (func $print_values (param $kind i32) (param $name i32) (param $name_len i32)
    (local $count_len i64) (local $count i32) (local $at i32) (local $len i32)
    (local.set $count_len
      (call $get_header_values
        (local.get $kind) (local.get $name) (local.get $name_len)
        (global.get $values) (global.get $limit)))
    (if (i32.gt_u (i32.wrap_i64 (local.get $count_len)) (global.get $limit))
      (then unreachable))
    (local.set $count (i32.wrap_i64 (i64.shr_u (local.get $count_len) (i64.const 32))))
    (local.set $at (global.get $values))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (local.set $len (call $strlen (local.get $at)))
        (call $print (local.get $name) (local.get $name_len))
        (call $print (i32.const 18) (i32.const 2))
        (call $print (local.get $at) (local.get $len))
        (call $line)
        (local.set $at (i32.add (i32.add (local.get $at) (local.get $len)) (i32.const 1)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next))))

  (func $print_fields (param $kind i32)
    (local $count_len i64) (local $count i32) (local $at i32) (local $len i32)
    (local.set $count_len
      (call $get_header_names (local.get $kind) (global.get $names) (global.get $limit)))
    (if (i32.gt_u (i32.wrap_i64 (local.get $count_len)) (global.get $limit))
      (then unreachable))
    (local.set $count (i32.wrap_i64 (i64.shr_u (local.get $count_len) (i64.const 32))))
    (local.set $at (global.get $names))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (local.set $len (call $strlen (local.get $at)))
        (call $print_values (local.get $kind) (local.get $at) (local.get $len))
        (local.set $at (i32.add (i32.add (local.get $at) (local.get $len)) (i32.const 1)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next))))

  (func $print_body (param $kind i32)
    (local $eof_len i64)
    (local.set $eof_len
      (call $read_body (local.get $kind) (global.get $buf) (global.get $limit)))
    (if (i64.ne (i64.shr_u (local.get $eof_len) (i64.const 32)) (i64.const 1))
      (then unreachable))
    (if (i32.wrap_i64 (local.get $eof_len))
      (then
        (call $line)
        (call $print_buf (i32.wrap_i64 (local.get $eof_len)))
        (call $line))))

  (func $print_status (param $status i32)
    (i32.store8 (i32.const 64)
      (i32.add (i32.const 48) (i32.div_u (local.get $status) (i32.const 100))))
    (i32.store8 (i32.const 65)
      (i32.add (i32.const 48)
        (i32.rem_u (i32.div_u (local.get $status) (i32.const 10)) (i32.const 10))))
    (i32.store8 (i32.const 66)
      (i32.add (i32.const 48) (i32.rem_u (local.get $status) (i32.const 10))))
    (call $print (i32.const 64) (i32.const 3)))

  (func (export "handle_request") (result i64)
    (call $print_buf (call $get_method (global.get $buf) (global.get $limit)))
    (call $space)
    (call $print_buf (call $get_uri (global.get $buf) (global.get $limit)))
    (call $space)
    (call $print_buf (call $get_protocol_version (global.get $buf) (global.get $limit)))
    (call $line)
    (call $print_fields (i32.const 0))
    (call $print_body (i32.const 0))
    (call $print_fields (i32.const 2))
    (i64.const 1))

  (func (export "handle_response") (param $ctx i32) (param $is_error i32)
    (if (local.get $is_error)
      (then (call $print (i32.const 32) (i32.const 10)) (call $line) (return)))
    (call $line)
    (call $print_buf (call $get_protocol_version (global.get $buf) (global.get $limit)))
    (call $space)
    (call $print_status (call $get_status_code))
    (call $line)
    (call $print_fields (i32.const 1))
    (call $print_body (i32.const 1))
    (call $print_fields (i32.const 3))))
