;; Reads three request headers and says what it found, "agent|accept|forwarded", in a request and a response header.
(module
  (import "http_handler" "get_header_values"
    (func $get_header_values (param i32 i32 i32 i32 i32) (result i64)))
  (import "http_handler" "set_header_value" (func $set_header_value (param i32 i32 i32 i32 i32)))

  (memory (export "memory") 1)
  (data (i32.const 0) "user-agent")        ;; 10 bytes
  (data (i32.const 16) "accept")           ;; 6
  (data (i32.const 32) "x-forwarded-for")  ;; 15
  (data (i32.const 48) "X-Client")         ;; 8
  (global $text i32 (i32.const 1024))
  (global $room i32 (i32.const 4096))

  (func (export "handle_request") (result i64)
    (local $end i32)
    (local.set $end (call $append (global.get $text) (i32.const 0) (i32.const 10)))
    (local.set $end (call $append (local.get $end) (i32.const 16) (i32.const 6)))
    (local.set $end (call $append (local.get $end) (i32.const 32) (i32.const 15)))
    ;; Without the last separator.
    (local.set $end (i32.sub (i32.sub (local.get $end) (i32.const 1)) (global.get $text)))
    (call $set_header_value
      (i32.const 0) (i32.const 48) (i32.const 8) (global.get $text) (local.get $end))
    (call $set_header_value
      (i32.const 1) (i32.const 48) (i32.const 8) (global.get $text) (local.get $end))
    (i64.const 1))

  (func (export "handle_response") (param i32 i32))

  ;; Puts the value of a header and a separator at $at and returns where they end.
  (func $append (param $at i32) (param $name i32) (param $length i32) (result i32)
    (local $end i32)
    (local.set $end
      (i32.add (local.get $at)
        (i32.wrap_i64
          (call $get_header_values
            (i32.const 0) (local.get $name) (local.get $length) (local.get $at) (global.get $room)))))
    (i32.store8 (i32.sub (local.get $end) (i32.const 1)) (i32.const 124))
    (local.get $end)))
