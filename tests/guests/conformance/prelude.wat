  ;; What every guest of t/conformance and t/differential has around its own text.
  ;;
  ;; Memory: 0 to 1023 belong to this file, 1024 to 65535 hold the texts of the guest, the buffer BUF is the rest.
  ;; A check that does not hold logs "check N: got G, expected W" and traps, N counting the checks in the text.
  ;; Everything else that a guest finds is said by what it does to the request and the response.
  (memory (export "memory") 8)
  (data (i32.const 0) "check ")
  (data (i32.const 8) ": got ")
  (data (i32.const 16) ", expected ")
  (data (i32.const 32) "untouched buffer")
  (global $check (mut i32) (i32.const 0))
  (global $out (mut i32) (i32.const 512))

  ;; A line is put together at 512 and logged as an error.
  (func $put (param $ptr i32) (param $len i32)
    (memory.copy (global.get $out) (local.get $ptr) (local.get $len))
    (global.set $out (i32.add (global.get $out) (local.get $len))))
  (func $put_number (param $n i64) (local $p i32)
    (if (i64.lt_s (local.get $n) (i64.const 0)) (then
      (i32.store8 (global.get $out) (i32.const 45))
      (global.set $out (i32.add (global.get $out) (i32.const 1)))
      (local.set $n (i64.sub (i64.const 0) (local.get $n)))))
    (local.set $p (i32.const 96))
    (loop $digit
      (local.set $p (i32.sub (local.get $p) (i32.const 1)))
      (i32.store8 (local.get $p) (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $n) (i64.const 10)))))
      (local.set $n (i64.div_u (local.get $n) (i64.const 10)))
      (br_if $digit (i32.eqz (i64.eqz (local.get $n)))))
    (call $put (local.get $p) (i32.sub (i32.const 96) (local.get $p))))
  (func $put_check
    (global.set $out (i32.const 512))
    (call $put (i32.const 0) (i32.const 6))
    (call $put_number (i64.extend_i32_u (global.get $check)))
    (call $put (i32.const 8) (i32.const 6)))
  (func $fail
    (call $log (i32.const 2) (i32.const 512) (i32.sub (global.get $out) (i32.const 512)))
    (unreachable))

  ;; Checks on numbers.
  (func $is64 (param $got i64) (param $want i64)
    (if (i64.ne (local.get $got) (local.get $want)) (then
      (call $put_check)
      (call $put_number (local.get $got))
      (call $put (i32.const 16) (i32.const 11))
      (call $put_number (local.get $want))
      (call $fail))))
  (func $is (param $got i32) (param $want i32)
    (call $is64 (i64.extend_i32_s (local.get $got)) (i64.extend_i32_s (local.get $want))))

  ;; Whether two ranges hold the same bytes.
  (func $equal (param $a i32) (param $b i32) (param $len i32) (result i32) (local $i i32)
    (block $differ
      (loop $next
        (if (i32.ge_u (local.get $i) (local.get $len)) (then (return (i32.const 1))))
        (br_if $differ (i32.ne
          (i32.load8_u (i32.add (local.get $a) (local.get $i))) (i32.load8_u (i32.add (local.get $b) (local.get $i)))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; The first $got bytes of BUF are that text.
  (func $is_text (param $got i32) (param $want i32) (param $want_len i32)
    (if (i32.and (i32.eq (local.get $got) (local.get $want_len))
                 (call $equal (i32.const 65536) (local.get $want) (local.get $want_len))) (then (return)))
    (call $put_check)
    (call $put (i32.const 65536) (select (local.get $got) (i32.const 100) (i32.lt_u (local.get $got) (i32.const 100))))
    (call $put (i32.const 16) (i32.const 11))
    (call $put (local.get $want) (local.get $want_len))
    (call $fail))

  ;; A result of get_header_names or get_header_values: so many strings, and BUF holds them as that text.
  (func $is_list (param $got i64) (param $count i32) (param $want i32) (param $want_len i32)
    (call $is (call $high (local.get $got)) (local.get $count))
    (call $is_text (call $low (local.get $got)) (local.get $want) (local.get $want_len)))

  ;; A result of read_body: whether it is the end, and BUF holds that text.
  (func $is_body (param $got i64) (param $eof i32) (param $want i32) (param $want_len i32)
    (call $is_text (call $low (local.get $got)) (local.get $want) (local.get $want_len))
    (call $is (call $high (local.get $got)) (local.get $eof)))

  (func $high (param $r i64) (result i32) (i32.wrap_i64 (i64.shr_u (local.get $r) (i64.const 32))))
  (func $low (param $r i64) (result i32) (i32.wrap_i64 (local.get $r)))

  ;; Fills 4096 bytes of BUF with a pattern, and checks that they still have it from $from on.
  (func $fill (memory.fill (i32.const 65536) (i32.const 0xAA) (i32.const 4096)))
  (func $is_untouched (param $from i32)
    (loop $next
      (if (i32.ge_u (local.get $from) (i32.const 4096)) (then (return)))
      (if (i32.ne (i32.load8_u (i32.add (i32.const 65536) (local.get $from))) (i32.const 0xAA)) (then
        (call $put_check)
        (call $put_number (i64.extend_i32_u (local.get $from)))
        (call $put (i32.const 16) (i32.const 11))
        (call $put (i32.const 32) (i32.const 16))
        (call $fail)))
      (local.set $from (i32.add (local.get $from) (i32.const 1)))
      (br $next)))

  ;; A number as text: pointer and length, valid until the next one.
  (func $decimal (param $n i32) (result i32 i32)
    (global.set $out (i32.const 256))
    (call $put_number (i64.extend_i32_u (local.get $n)))
    (i32.const 256) (i32.sub (global.get $out) (i32.const 256)))

  ;; The first $len bytes of BUF as a response header, or as a request header for the backend.
  (func $tell (param $name i32) (param $name_len i32) (param $len i32)
    (call $set_header_value (i32.const 1)
      (local.get $name) (local.get $name_len) (i32.const 65536) (local.get $len)))
  (func $tell_backend (param $name i32) (param $name_len i32) (param $len i32)
    (call $set_header_value (i32.const 0)
      (local.get $name) (local.get $name_len) (i32.const 65536) (local.get $len)))
  (func $tell_number (param $name i32) (param $name_len i32) (param $n i32)
    (local.get $name) (local.get $name_len) (call $decimal (local.get $n)) (call $tell_pair))
  (func $tell_pair (param i32 i32 i32 i32)
    (call $set_header_value (i32.const 1) (local.get 0) (local.get 1) (local.get 2) (local.get 3)))

  (func $say (param i32 i32) (call $log (i32.const 0) (local.get 0) (local.get 1)))
  (func $say_number (param $ptr i32) (param $len i32) (param $n i32)
    (global.set $out (i32.const 512))
    (call $put (local.get $ptr) (local.get $len))
    (call $put_number (i64.extend_i32_u (local.get $n)))
    (call $say (i32.const 512) (i32.sub (global.get $out) (i32.const 512))))

  ;; Reads a body to its end into BUF, so many bytes at a time, and returns its length. A step that is short of its
  ;; limit and not the last is against the rule.
  (func $read_all (param $kind i32) (param $step i32) (result i32) (local $r i64) (local $n i32)
    (loop $more
      (local.set $r
        (call $read_body (local.get $kind) (i32.add (i32.const 65536) (local.get $n)) (local.get $step)))
      (local.set $n (i32.add (local.get $n) (call $low (local.get $r))))
      (if (i32.eqz (call $high (local.get $r))) (then
        (call $is (call $low (local.get $r)) (local.get $step))
        (br $more))))
    (local.get $n))

  ;; FNV-1a over the first $len bytes of BUF.
  (func $digest (param $len i32) (result i32) (local $h i32) (local $i i32)
    (local.set $h (i32.const 0x811c9dc5))
    (loop $next
      (if (i32.ge_u (local.get $i) (local.get $len)) (then (return (local.get $h))))
      (local.set $h (i32.mul (i32.const 0x01000193) (i32.xor (local.get $h)
        (i32.load8_u (i32.add (i32.const 65536) (local.get $i))))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $next))
    (unreachable))

  ;; The first byte of a request header as a number.
  (func $read_number (param $name i32) (param $name_len i32) (result i32)
    (drop (call $get_header_values (i32.const 0) (local.get $name) (local.get $name_len) (i32.const 65536) (i32.const 100)))
    (i32.load8_u (i32.const 65536)))
