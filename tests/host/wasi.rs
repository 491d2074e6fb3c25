//! WASI without tokio: clocks, random numbers, sleep, files, and output that becomes log lines.

use std::path::PathBuf;
use std::time::Duration;

use ngx_http_wasm_handler_module::abi::Level;

use crate::support::Test;

const WASI: &str = r#"
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_pread" (func $fd_pread (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_sync" (func $fd_sync (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_renumber" (func $fd_renumber (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open" (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sched_yield" (func $sched_yield (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
    (import "http_handler" "log" (func $log (param i32 i32 i32)))
    (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))
    (data (i32.const 0) "one\ntwo\nthree")
    (data (i32.const 32) "file.txt")
    (func $print (param $fd i32) (param $ptr i32) (param $len i32)
      (i32.store (i32.const 100) (local.get $ptr))
      (i32.store (i32.const 104) (local.get $len))
      (if (call $fd_write (local.get $fd) (i32.const 100) (i32.const 1) (i32.const 108))
        (then unreachable))
      (if (i32.ne (i32.load (i32.const 108)) (local.get $len)) (then unreachable)))
    (func $ok (param i32) (if (local.get 0) (then unreachable)))
    (func $is (param i32 i32) (if (i32.ne (local.get 0) (local.get 1)) (then unreachable)))
"#;

fn on_request(body: &str) -> Test {
    Test::on_request(WASI, body)
}

/// A subscription to a clock at 1000, and one to a descriptor at 1048.
fn subscribe(clock: u32, timeout_ns: u64, absolute: u32) -> String {
    format!(
        "(i64.store (i32.const 1000) (i64.const 77))
         (i32.store8 (i32.const 1008) (i32.const 0))
         (i32.store (i32.const 1016) (i32.const {clock}))
         (i64.store (i32.const 1024) (i64.const {timeout_ns}))
         (i32.store16 (i32.const 1040) (i32.const {absolute}))"
    )
}

fn lines(test: Test) -> Vec<(Level, String)> {
    test.run().exchange.log
}

fn info(line: &str) -> (Level, String) {
    (Level::Info, line.to_owned())
}

#[test]
fn output_arrives_in_lines_and_in_order() {
    let body = "(call $print (i32.const 1) (i32.const 0) (i32.const 13))
        (call $log (i32.const 0) (i32.const 4) (i32.const 3))
        (call $print (i32.const 2) (i32.const 0) (i32.const 4))
        (call $print (i32.const 1) (i32.const 0) (i32.const 4))
        (call $print (i32.const 1) (i32.const 8) (i32.const 5))";
    let warn = (Level::Warn, "one".to_owned());
    let expected = [info("one"), info("two"), info("two"), warn, info("threeone"), info("three")];
    assert_eq!(lines(on_request(body)), expected);
}

#[test]
fn lines_without_end_are_cut() {
    let body = "(memory.fill (i32.const 2000) (i32.const 65) (i32.const 20000))
        (call $print (i32.const 1) (i32.const 2000) (i32.const 20000))";
    let lengths: Vec<usize> = lines(on_request(body)).iter().map(|(_, line)| line.len()).collect();
    assert_eq!(lengths, [8192, 8192, 3616]);
}

#[test]
fn one_write_prints_no_more_than_can_be_afforded() {
    let body = "(memory.grow (i32.const 2)) drop
        (i32.store (i32.const 200) (i32.const 0))
        (i32.store (i32.const 204) (i32.const 131072))
        (call $ok (call $fd_write (i32.const 1) (i32.const 200) (i32.const 1) (i32.const 208)))
        (call $is (i32.load (i32.const 208)) (i32.const 65536))";
    on_request(body).run();
}

#[test]
fn output_that_nobody_writes_is_dropped() {
    let body = "(call $print (i32.const 1) (i32.const 0) (i32.const 13))";
    assert!(lines(on_request(body).log_level(Level::Warn)).is_empty());
}

#[test]
fn wrong_pointers_are_an_error_number_of_wasi() {
    let body = "(call $is (call $fd_write (i32.const 1) (i32.const -4) (i32.const 1) (i32.const 0)) (i32.const 21))
        (call $is (call $fd_write (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 0)) (i32.const 28))
        (call $is (call $fd_write (i32.const 1) (i32.const 65532) (i32.const 1) (i32.const 0)) (i32.const 21))
        (call $is (call $poll_oneoff (i32.const -4) (i32.const 0) (i32.const 1) (i32.const 0)) (i32.const 21))
        (call $is (call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 0)) (i32.const 28))
        (call $is (call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 28))
        (call $is (call $fd_write (i32.const 9) (i32.const 200) (i32.const 0) (i32.const 0)) (i32.const 8))";
    on_request(body).run();
}

#[test]
fn standard_streams_stay_where_they_are() {
    let body = "(call $ok (call $fd_close (i32.const 1)))
        (call $is (call $fd_renumber (i32.const 1) (i32.const 2)) (i32.const 58))
        (call $print (i32.const 1) (i32.const 0) (i32.const 4))
        (i32.store (i32.const 200) (i32.const 300))
        (i32.store (i32.const 204) (i32.const 8))
        (call $ok (call $fd_read (i32.const 0) (i32.const 200) (i32.const 1) (i32.const 208)))
        (call $is (i32.load (i32.const 208)) (i32.const 0))";
    assert_eq!(lines(on_request(body)), [info("one")]);
}

#[test]
fn clocks_and_random_numbers_are_real() {
    let body = "(call $ok (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 200)))
        (call $ok (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 208)))
        (call $ok (call $random_get (i32.const 216) (i32.const 16)))
        (call $write_body (i32.const 1) (i32.const 200) (i32.const 32))";
    let answer = || {
        let body = on_request(body).run().exchange.new_response_body;
        body.expect("a body")
    };
    let (first, second) = (answer(), answer());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = now.expect("after 1970").as_secs();
    let told = u64::from_le_bytes(first[..8].try_into().expect("eight bytes")) / 1_000_000_000;
    assert!(seconds.abs_diff(told) < 60, "{told}");
    assert_ne!(first[16..], second[16..]);
}

#[test]
fn a_guest_sleeps_through_the_host() {
    let sleep = "(call $ok (call $poll_oneoff (i32.const 1000) (i32.const 2000) (i32.const 1) (i32.const 3000)))
        (call $is (i32.load (i32.const 3000)) (i32.const 1))
        (call $is (i32.load (i32.const 2000)) (i32.const 77))
        (call $is (i32.load (i32.const 2008)) (i32.const 0))";
    let second = 1_000_000_000;
    let sleeps = |clock, timeout, absolute| {
        let body = subscribe(clock, timeout, absolute) + sleep;
        on_request(&body).parks(2).run().exchange.sleeps
    };
    assert_eq!(sleeps(0, second, 0), [Duration::from_secs(1)]);
    assert_eq!(sleeps(1, second, 0), [Duration::from_secs(1)]);
    assert_eq!(sleeps(0, second, 1), [], "long ago");
    let in_an_hour = format!(
        "(call $ok (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 1504)))
         (i64.store (i32.const 1024) (i64.add (i64.load (i32.const 1504)) (i64.const {})))",
        3600 * second
    );
    let body = subscribe(1, 0, 1) + &in_an_hour + sleep;
    let [until] = on_request(&body).run().exchange.sleeps[..] else {
        panic!("no sleep");
    };
    assert!(until > Duration::from_secs(3590) && until < Duration::from_secs(3600));
    assert_eq!(sleeps(1, u64::MAX >> 1, 0).len(), 1);
    let unknown = subscribe(2, 1, 0)
        + "(call $is (call $poll_oneoff (i32.const 1000) (i32.const 2000) (i32.const 1) (i32.const 3000)) (i32.const 28))";
    on_request(&unknown).run();
}

#[test]
fn descriptors_answer_at_once() {
    let poll = |tag: u32, fd: u32, error: u32| {
        subscribe(1, 1_000_000_000, 0)
            + &format!(
                "(i64.store (i32.const 1048) (i64.const 78))
                 (i32.store8 (i32.const 1056) (i32.const {tag}))
                 (i32.store (i32.const 1064) (i32.const {fd}))
                 (call $ok (call $poll_oneoff (i32.const 1000) (i32.const 2000) (i32.const 2) (i32.const 3000)))
                 (call $is (i32.load (i32.const 3000)) (i32.const 1))
                 (call $is (i32.load (i32.const 2000)) (i32.const 78))
                 (call $is (i32.load16_u (i32.const 2008)) (i32.const {error}))
                 (call $is (i32.load8_u (i32.const 2010)) (i32.const {tag}))"
            )
    };
    for (tag, fd, error) in [(1, 0, 0), (2, 1, 0), (2, 2, 0), (1, 1, 8), (2, 7, 8)] {
        let exchange = on_request(&poll(tag, fd, error)).run().exchange;
        assert!(exchange.sleeps.is_empty());
    }
}

#[test]
fn yielding_lets_the_host_go_on() {
    let test = on_request("(call $ok (call $sched_yield))").parks(1);
    assert_eq!(test.run().exchange.sleeps, [Duration::ZERO]);
}

#[test]
fn an_exit_while_serving_is_an_error() {
    let error = on_request("(call $proc_exit (i32.const 0))").error();
    assert_eq!(error, "handle_request: proc_exit(0) was called");
}

#[test]
fn a_guest_sees_no_environment_but_what_it_was_given() {
    let sizes = "(call $ok (call $environ_sizes_get (i32.const 200) (i32.const 204)))
        (call $ok (call $args_sizes_get (i32.const 208) (i32.const 212)))
        (call $write_body (i32.const 1) (i32.const 200) (i32.const 16))";
    let counts = |test: Test| {
        let body = test.run().exchange.new_response_body.expect("a body");
        (body[0], body[4], body[8])
    };
    assert_eq!(counts(on_request(sizes)), (0, 0, 0));
    assert_eq!(counts(on_request(sizes).env("A", "bc")), (1, 5, 0));
}

/// Opens file.txt in the lent directory, descriptor 3, with `oflags` and `rights`; the new
/// descriptor is at 400.
fn open(oflags: u32, rights: u64) -> String {
    format!(
        "(call $path_open (i32.const 3) (i32.const 0) (i32.const 32) (i32.const 8)
           (i32.const {oflags}) (i64.const {rights}) (i64.const 0) (i32.const 0) (i32.const 400))"
    )
}

/// A runtime of the library's would have threads of its own.
fn assert_no_thread_called(name: &str) {
    for thread in std::fs::read_dir("/proc/self/task").expect("threads") {
        let comm = thread.expect("a thread").path().join("comm");
        let comm = std::fs::read_to_string(comm).unwrap_or_default();
        assert!(!comm.starts_with(name), "{comm}");
    }
}

fn temp_dir(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).expect("a directory");
    dir
}

#[test]
fn files_of_a_lent_directory_are_read_and_written() {
    let dir = temp_dir("lent");
    let (create, read, write) = (1, 2, 64);
    let body = format!(
        "(call $ok {}) (call $print (i32.load (i32.const 400)) (i32.const 0) (i32.const 13))
         (call $ok (call $fd_close (i32.load (i32.const 400))))",
        open(create | 8, write)
    );
    on_request(&body).dir(&dir, "/", true).run();
    assert_eq!(std::fs::read(dir.join("file.txt")).expect("is there"), b"one\ntwo\nthree");

    let read = format!(
        "(call $ok {})
         (i32.store (i32.const 200) (i32.const 500)) (i32.store (i32.const 204) (i32.const 100))
         (call $ok (call $fd_read (i32.load (i32.const 400)) (i32.const 200) (i32.const 1) (i32.const 208)))
         (call $write_body (i32.const 1) (i32.const 500) (i32.load (i32.const 208)))
         (call $ok (call $fd_pread (i32.load (i32.const 400)) (i32.const 200) (i32.const 1) (i64.const 8) (i32.const 208)))
         (call $write_body (i32.const 1) (i32.const 500) (i32.load (i32.const 208)))
         (call $ok (call $fd_readdir (i32.const 3) (i32.const 600) (i32.const 200) (i64.const 0) (i32.const 208)))
         (call $ok (call $fd_sync (i32.load (i32.const 400))))",
        open(0, read)
    );
    let outcome = on_request(&read).dir(&dir, "/", false).run();
    assert_eq!(outcome.body(), "one\ntwo\nthreethree");
    if cfg!(target_os = "linux") {
        assert_no_thread_called("tokio");
    }
}

#[test]
fn a_directory_is_read_only_unless_said_otherwise() {
    let dir = temp_dir("read-only");
    std::fs::remove_file(dir.join("file.txt")).ok();
    let body = format!("(if (i32.eqz {}) (then unreachable))", open(1, 64));
    on_request(&body).dir(&dir, "/", false).run();
    assert!(!dir.join("file.txt").exists());
}

#[test]
fn paths_do_not_leave_their_directory() {
    let dir = temp_dir("inside");
    let outside = temp_dir("outside");
    std::fs::write(outside.join("file.txt"), "outside").unwrap();
    let link = dir.join("link.txt");
    std::fs::remove_file(&link).ok();
    std::os::unix::fs::symlink(outside.join("file.txt"), &link).unwrap();
    let name = outside.file_name().unwrap().to_str().unwrap();
    let absolute = format!("{}/file.txt", outside.display());

    for path in [
        "link.txt",
        &format!("../{name}/file.txt"),
        &format!("./x/../../{name}/file.txt"),
        &absolute,
    ] {
        let data = format!("{WASI} (data (i32.const 2000) \"{path}\")");
        for follow in [0, 1] {
            let body = format!(
                "(if (i32.eqz (call $path_open (i32.const 3) (i32.const {follow}) (i32.const 2000)
                    (i32.const {}) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 400)))
                  (then unreachable))",
                path.len()
            );
            Test::on_request(&data, &body).dir(&dir, "/", true).run();
        }
    }
}

/// Descriptors are the server's too.
#[test]
fn an_instance_opens_only_so_many_files() {
    let dir = temp_dir("many");
    std::fs::write(dir.join("file.txt"), "text").unwrap();
    let open_all = format!(
        "(local.set $n (i32.const 0))
         (loop $more
           (if (i32.eqz (local.tee $error {})) (then
             (local.set $n (i32.add (local.get $n) (i32.const 1)))
             (br_if $more (i32.lt_u (local.get $n) (i32.const 1000))))))
         (call $is (local.get $error) (i32.const 33))",
        open(0, 2)
    );
    let body = format!(
        "(local $n i32) (local $error i32)
         {open_all}
         (call $is (local.get $n) (i32.const 32))
         (call $ok (call $fd_close (i32.const 4)))
         (call $ok (call $fd_renumber (i32.const 5) (i32.const 6)))
         (call $ok (call $fd_renumber (i32.const 7) (i32.const 7)))
         {open_all}
         (call $is (local.get $n) (i32.const 2))"
    );
    on_request(&body).dir(&dir, "/", false).run();
}

#[test]
fn a_directory_that_is_not_there_is_a_load_error() {
    let test = on_request("").dir(&PathBuf::from("/no/such/dir"), "/", false);
    let error = test.load_error();
    let start = "cannot open directory \"/no/such/dir\" for the guest: ";
    assert!(error.starts_with(start), "{error}");
}

#[test]
fn what_the_library_refuses_names_the_function() {
    let cases = [
        ("random_get", "(call $random_get (i32.const 0) (i32.const 0x7fffffff))"),
        ("random_get", "(call $random_get (i32.const -8) (i32.const 64))"),
        ("clock_time_get", "(call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 3))"),
    ];
    for (function, call) in cases {
        let error = on_request(&format!("(drop {call})")).error();
        assert!(error.contains(function), "{call}: {error}");
    }
}

/// Both clocks, sixteen random bytes, an hour's sleep, and the clocks again.
fn look_around() -> Test {
    let clock = |id: u32, at: u32| {
        format!("(call $ok (call $clock_time_get (i32.const {id}) (i64.const 0) (i32.const {at})))")
    };
    let body = clock(0, 200)
        + &clock(1, 208)
        + &clock(1, 216)
        + "(call $ok (call $random_get (i32.const 224) (i32.const 16)))"
        + &subscribe(1, 3_600_000_000_000, 0)
        + "(call $ok (call $poll_oneoff (i32.const 1000) (i32.const 2000) (i32.const 1) (i32.const 3000)))"
        + &clock(0, 240)
        + "(call $write_body (i32.const 1) (i32.const 200) (i32.const 48))";
    on_request(&body).parks(1)
}

#[test]
fn strict_guests_all_see_the_same() {
    let seen = || {
        let exchange = look_around().strict().run().exchange;
        assert_eq!(exchange.sleeps, [Duration::ZERO], "one turn for the others");
        exchange.new_response_body.expect("a body")
    };
    let first = seen();
    assert_eq!(first, seen());
    let ms = |at: usize| {
        let bytes = first[at..at + 8].try_into().expect("eight bytes");
        u64::from_le_bytes(bytes) / 1_000_000
    };
    let begin = 1_640_995_200_000;
    assert_eq!([ms(0), ms(8), ms(16)], [begin, 1, 2], "a millisecond with every look");
    // Waiting looks at both clocks.
    assert_eq!(ms(40), begin + 5 + 3_600_000, "as if it had slept");
    assert_ne!(first[24..32], first[32..40], "random all the same");
}

#[test]
fn others_see_time_and_chance() {
    let seen = || look_around().run().exchange.new_response_body.expect("a body");
    let (first, second) = (seen(), seen());
    assert_ne!(first[..8], second[..8]);
    assert_ne!(first[24..40], second[24..40]);
}
