;; Enables the features that its configuration, eight bytes little-endian, asks for.
(module $config
  (import "http_handler" "get_config" (func $get_config (param i32 i32) (result i32)))
  (import "http_handler" "enable_features" (func $enable_features (param i32) (result i32)))

  (memory (export "memory") 1 1)

  (func $start
    (local $wanted i32)
    (if (i32.ne (call $get_config (i32.const 0) (i32.const 8)) (i32.const 8))
      (then unreachable))
    (local.set $wanted (i32.load (i32.const 0)))
    (if (call $enable_features (i32.const 0)) (then unreachable))
    (if (i32.and
          (i32.eqz (call $enable_features (local.get $wanted)))
          (i32.ne (local.get $wanted) (i32.const 0)))
      (then unreachable)))
  (start $start)

  (func (export "handle_request") (result i64) (i64.const 1))
  (func (export "handle_response") (param i32 i32)))
