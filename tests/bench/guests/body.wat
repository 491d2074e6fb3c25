;; Reads the request body to its end before the next handler gets it.
(module
  (import "http_handler" "read_body" (func $read_body (param i32 i32 i32) (result i64)))

  (memory (export "memory") 2)

  (func (export "handle_request") (result i64)
    (loop $more
      (br_if $more
        (i64.eqz
          (i64.shr_u
            (call $read_body (i32.const 0) (i32.const 65536) (i32.const 65536)) (i64.const 32)))))
    (i64.const 1))

  (func (export "handle_response") (param i32 i32)))
