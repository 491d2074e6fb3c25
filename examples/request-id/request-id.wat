;; A guest that gives each request an id: for the next handler and for the client in the header X-Request-Id, and for the
;; log of nginx.
;;
;; With the configuration "trust" it takes the id that a request comes with, if it is 1 to 64 letters, digits, "-", "_" or
;; ".", and the only one. Use that behind a proxy that makes ids. Without a configuration every request gets a new one, 32
;; hexadecimal digits by chance, and what a client sends as its id is gone.
;;
;; nginx finds the id, and whether it came with the request ("client") or was made ("guest"), in variables:
;;
;;     log_format ids '$wasm_log_request_id $wasm_log_request_id_from $remote_addr "$request" $status';
;;
;; nginx reads this file as it is.
(module
  (import "http_handler" "get_config" (func $get_config (param i32 i32) (result i32)))
  (import "http_handler" "log" (func $log (param i32 i32 i32)))
  (import "http_handler" "get_header_values"
    (func $get_header_values (param i32 i32 i32 i32 i32) (result i64)))
  (import "http_handler" "set_header_value" (func $set_header_value (param i32 i32 i32 i32 i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))

  ;; What is where:
  ;;    0  texts
  ;;  256  the configuration
  ;;  384  random bytes
  ;;  512  the message: "request_id=", the id at 523, and where it is from
  (memory (export "memory") 1 1)
  (data (i32.const 0) "x-request-id")
  (data (i32.const 16) "0123456789abcdef")
  (data (i32.const 32) "trust")
  (data (i32.const 48) " request_id_from=client")
  (data (i32.const 80) " request_id_from=guest ")
  (data (i32.const 112) "request-id: expected no configuration, or \"trust\"")
  (data (i32.const 512) "request_id=")
  (global $id i32 (i32.const 523))
  (global $id_length (mut i32) (i32.const 0))
  (global $trust (mut i32) (i32.const 0))

  ;; Runs once per instance. A trap here refuses the configuration; its reason is what was logged last.
  (func (export "_initialize") (local $length i32) (local $i i32)
    (local.set $length (call $get_config (i32.const 256) (i32.const 128)))
    (if (i32.eqz (local.get $length)) (then (return)))
    (block $wrong
      (br_if $wrong (i32.ne (local.get $length) (i32.const 5)))
      (loop $next
        (br_if $wrong (i32.ne
          (i32.load8_u (i32.add (i32.const 256) (local.get $i)))
          (i32.load8_u (i32.add (i32.const 32) (local.get $i)))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $i) (i32.const 5))))
      (global.set $trust (i32.const 1))
      (return))
    (call $log (i32.const 2) (i32.const 112) (i32.const 49))
    unreachable)

  (func $is_plain (param $c i32) (result i32)
    (if (i32.lt_u (i32.sub (local.get $c) (i32.const 0x30)) (i32.const 10)) (then (return (i32.const 1))))
    (if (i32.lt_u (i32.sub (i32.or (local.get $c) (i32.const 0x20)) (i32.const 0x61)) (i32.const 26))
      (then (return (i32.const 1))))
    (i32.or (i32.eq (local.get $c) (i32.const 0x5f))
      (i32.lt_u (i32.sub (local.get $c) (i32.const 0x2d)) (i32.const 2)))) ;; "-" and "."

  ;; Whether the request has an id that can be taken. It is in its place then.
  (func $take (result i32) (local $count_length i64) (local $length i32) (local $i i32)
    ;; Nothing is written if it is longer.
    (local.set $count_length
      (call $get_header_values (i32.const 0) (i32.const 0) (i32.const 12) (global.get $id) (i32.const 65)))
    (if (i64.ne (i64.shr_u (local.get $count_length) (i64.const 32)) (i64.const 1)) (then (return (i32.const 0))))
    ;; A NUL follows the value.
    (local.set $length (i32.sub (i32.wrap_i64 (local.get $count_length)) (i32.const 1)))
    (if (i32.gt_u (i32.sub (local.get $length) (i32.const 1)) (i32.const 63)) (then (return (i32.const 0))))
    (loop $next
      (if (i32.eqz (call $is_plain (i32.load8_u (i32.add (global.get $id) (local.get $i)))))
        (then (return (i32.const 0))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (local.get $length))))
    (global.set $id_length (local.get $length))
    (i32.const 1))

  ;; Not at the start: all instances may begin with the same numbers.
  (func $make (local $i i32) (local $byte i32) (local $to i32)
    (if (call $random_get (i32.const 384) (i32.const 16)) (then unreachable))
    (local.set $to (global.get $id))
    (loop $next
      (local.set $byte (i32.load8_u (i32.add (i32.const 384) (local.get $i))))
      (i32.store8 (local.get $to)
        (i32.load8_u (i32.add (i32.const 16) (i32.shr_u (local.get $byte) (i32.const 4)))))
      (i32.store8 (i32.add (local.get $to) (i32.const 1))
        (i32.load8_u (i32.add (i32.const 16) (i32.and (local.get $byte) (i32.const 15)))))
      (local.set $to (i32.add (local.get $to) (i32.const 2)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (i32.const 16))))
    (global.set $id_length (i32.const 32)))

  ;; Sets the header of the request (0) or the response (1).
  (func $set (param $kind i32)
    (call $set_header_value (local.get $kind) (i32.const 0) (i32.const 12) (global.get $id) (global.get $id_length)))

  (func (export "handle_request") (result i64) (local $from i32) (local $i i32)
    (local.set $from (i32.const 48))
    (if (i32.eqz (if (result i32) (global.get $trust) (then (call $take)) (else (i32.const 0))))
      (then
        (local.set $from (i32.const 80))
        (call $make)))
    (call $set (i32.const 0))
    (loop $next
      (i32.store8
        (i32.add (i32.add (global.get $id) (global.get $id_length)) (local.get $i))
        (i32.load8_u (i32.add (local.get $from) (local.get $i))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (i32.const 23))))
    (call $log (i32.const 0) (i32.const 512) (i32.add (global.get $id_length) (i32.const 34)))
    (i64.const 1))

  ;; The instance has no other request in between, so the id is where it was. What the next handler has set is replaced.
  (func (export "handle_response") (param $context i32) (param $is_error i32)
    (if (i32.eqz (local.get $is_error)) (then (call $set (i32.const 1))))))
