;; Says hello at level info, and insists that debug is off.
(module $log
  (import "http_handler" "log_enabled" (func $log_enabled (param i32) (result i32)))
  (import "http_handler" "log" (func $log (param i32 i32 i32)))

  (memory (export "memory") 1 1)
  (data (i32.const 0) "hello world")

  (func (export "handle_request") (result i64)
    (if (call $log_enabled (i32.const -1)) (then unreachable))
    (call $log (i32.const 0) (i32.const 0) (i32.const 11))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)))
