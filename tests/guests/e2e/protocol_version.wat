;; Answers with the protocol version.
(module $protocol_version
  (import "http_handler" "get_protocol_version"
    (func $get_protocol_version (param i32 i32) (result i32)))
  (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))
  (memory (export "memory") 1 1)

  (func (export "handle_request") (result i64)
    (local $len i32)
    (local.set $len (call $get_protocol_version (i32.const 0) (i32.const 64)))
    (if (i32.eqz (local.get $len)) (then unreachable))
    (call $write_body (i32.const 1) (i32.const 0) (local.get $len))
    (i64.const 0))
  (func (export "handle_response") (param i32 i32)))
