//! `http-wasm run`.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Program, Ran, built_guest, file, folder, guest};

const GET: &str = "GET /rust/a?b=c HTTP/1.1\nHost: x\nX-Remove-Me: y\n";

/// A guest in each language, what it is run with, and where the result is.
fn golden(name: &str) -> Program {
    let (guest, args): (PathBuf, &[&str]) = match name {
        "go" => (
            built_guest("go-prefix.wasm"),
            &["/", "--config=>> ", "--response-body=hello", "--response-header=ETag: \"1\""],
        ),
        "rust" => (built_guest("rust-headers.wasm"), &["--request", "get.http"]),
        "c" => (built_guest("c-teapot.wasm"), &["http://pots.example/teapot"]),
        "assemblyscript" => {
            (built_guest("as-key.wasm"), &["/", "--config=k", "-H", "X-Api-Key: k"])
        }
        "wat" => (
            file("nginx-conf/guests/redact.wat"),
            &["/form", "--config=4711", "-d", "pin 4711", "--response-body=pin 4711 it is\n"],
        ),
        other => panic!("no guest {other}"),
    };
    let program = Program::new("run").arg(guest);
    args.iter().fold(program, |program, &arg| match arg {
        "get.http" => program.arg(file("tests/cli/golden").join(arg)),
        arg => program.arg(arg),
    })
}

#[test]
fn guests_in_five_languages_do_what_they_did() {
    for name in ["go", "rust", "c", "assemblyscript", "wat"] {
        let path = file("tests/cli/golden").join(format!("{name}.txt"));
        let ran = golden(name).arg("--golden").arg(&path).run().succeeds();
        assert!(ran.out.contains(": as in "), "{}", ran.out);
        let printed = golden(name).run().succeeds().out;
        assert_eq!(printed, std::fs::read_to_string(path).expect("a file"));
    }
}

#[test]
fn another_result_than_the_golden_one_is_shown() {
    let folder = folder();
    let path = folder.path().join("result");
    let teapot = |url: &str| {
        let program = Program::new("run").arg(built_guest("c-teapot.wasm")).arg(url);
        program.arg("--golden").arg(&path)
    };
    teapot("/teapot").run().fails(2, "cannot read --golden");
    teapot("/teapot").arg("--update").run().succeeds();
    teapot("/teapot").run().succeeds();
    let ran = teapot("/teapot?milk").run().fails(3, "the result is not that of");
    assert!(
        ran.out.contains("- GET /teapot HTTP/1.1\n+ GET /teapot?milk HTTP/1.1\n"),
        "{}",
        ran.out
    );
    teapot("/teapot?milk").arg("--update").run().succeeds();
    teapot("/teapot?milk").run().succeeds();
}

#[test]
fn a_guest_that_traps_fails_the_run() {
    let ran = run_wat("", "(if (i32.const 1) (then unreachable))", &[]);
    let ran = ran.fails(1, "http_wasm guest \"guest\": handle_request: wasm trap: ");
    assert!(ran.err.contains("the client gets 500"), "{}", ran.err);
    assert!(ran.err.contains("\n  0: "), "{}", ran.err);
    assert_eq!(ran.out, "");
}

/// Runs a guest on the spot.
fn run_wat(imports: &str, body: &str, args: &[&str]) -> Ran {
    let folder = folder();
    let path = guest(folder.path(), imports, body);
    Program::new("run").arg(path).arg("/").args(args).run()
}

#[test]
fn a_guest_that_breaks_a_rule_is_told_which() {
    let import = r#"(import "http_handler" "set_status_code" (func $f (param i32))) "#;
    run_wat(import, "(call $f (i32.const 99))", &[])
        .fails(1, "handle_request: set_status_code got status 99, expected 100 to 999");
}

#[test]
fn a_guest_in_a_loop_is_stopped() {
    let ran = run_wat("", "(loop $l (br $l))", &["--timeout=50ms"]);
    ran.fails(1, "ran for longer than 50 ms and was stopped");
}

#[test]
fn a_guest_that_wants_too_much_memory_does_not_get_it() {
    let grow = "(if (i32.eq (memory.grow (i32.const 20)) (i32.const -1)) (then unreachable))";
    run_wat("", grow, &["--memory-limit=2m"]).succeeds();
    run_wat("", grow, &["--memory-limit=1m"])
        .fails(1, "memory could not grow to 1376256 bytes, the limit is 1048576");
}

#[test]
fn a_broken_guest_is_refused_as_in_check() {
    let import = r#"(import "env" "abort" (func))"#;
    let ran = run_wat(import, "", &[]);
    ran.fails(1, "imports what this host does not provide: \"env\".\"abort\"");
}

#[test]
fn every_call_can_be_seen() {
    let ran = golden("wat").arg("--trace").run().succeeds();
    let calls: Vec<_> = ran.err.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    assert_eq!(
        calls,
        [
            "enable_features({buffer_request, buffer_response}) = {buffer_request, buffer_response}",
            "get_config(limit=1024) = \"4711\"",
            "remove_header(request, \"accept-encoding\")",
            "read_body(request, limit=65536) = \"pin 4711\", the end",
            "write_body(request, \"pin ####\")",
            "read_body(response, limit=65536) = \"pin 4711 it is\\n\", the end",
            "write_body(response, \"pin #### it is\\n\")",
        ]
    );
    assert!(ran.err.contains("5 calls of host functions, "), "{}", ran.err);
}

#[test]
fn a_result_can_be_read_by_programs() {
    let ran = golden("c").arg("--format=json").run().succeeds();
    let json: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(json["outcome"], "answered");
    assert_eq!(json["response"]["status"], 418);
    assert_eq!(json["response"]["body"], "short and stout\n");
    assert_eq!(json["request"], Value::Null);
    assert_eq!(json["calls"], 5);
    assert!(json["ran_ms"]["handle_request"].is_f64());
}

#[test]
fn instructions_are_counted_and_always_the_same() {
    let count = |turns: u32| -> u64 {
        let body = format!(
            "(local $i i32) (loop $l (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (br_if $l (i32.lt_u (local.get $i) (i32.const {turns}))))"
        );
        let ran = run_wat("", &body, &["--count", "--format=json"]).succeeds();
        let json: Value = serde_json::from_str(&ran.out).expect("JSON");
        json["instructions"].as_u64().expect("a number")
    };
    let (once, again, twice) = (count(1000), count(1000), count(2000));
    assert_eq!(once, again);
    assert_eq!((twice - once) % 1000, 0);
    assert!(twice > once);
    assert!(!run_wat("", "", &[]).succeeds().err.contains("instructions"));
}

#[test]
fn instances_are_shared_or_not() {
    for (isolation, calls) in [("worker", "3"), ("request", "1")] {
        let program = Program::new("run").arg(built_guest("go-state.wasm")).arg("/");
        let ran = program.args(&["--repeat=3", "--isolation", isolation]).run().succeeds();
        assert!(ran.out.contains(&format!("+x-calls: {calls}\n")), "{}", ran.out);
    }
}

#[test]
fn a_guest_sees_variables_and_directories() {
    // Prints its variables, then the file "motd" of its first directory.
    let imports = r#"
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_open" (func $open
            (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (data (i32.const 0) "motd")"#;
    let body = r#"
        (drop (call $sizes (i32.const 8) (i32.const 20)))
        (drop (call $environ (i32.const 1024) (i32.const 2048)))
        (i32.store (i32.const 16) (i32.const 2048))
        (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))
        (if (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0)
                        (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 28)) (then unreachable))
        (i32.store (i32.const 16) (i32.const 4096))
        (i32.store (i32.const 20) (i32.const 100))
        (drop (call $read (i32.load (i32.const 28)) (i32.const 16) (i32.const 1) (i32.const 20)))
        (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))"#;
    let folder = folder();
    std::fs::write(folder.path().join("motd"), "good morning\n").expect("a file");
    let lent = format!("--dir={}:/lent", folder.path().display());
    let run = Program::new("run").arg(guest(folder.path(), imports, body));
    let run =
        run.args(&["/", "--env=GREETING=hello", "--env=HTTP_WASM_TEST", "--env=HTTP_WASM_NONE"]);
    let ran = run.arg(lent).env("HTTP_WASM_TEST", "from outside").run().succeeds();
    let logged = "GREETING=hello\\u{0}HTTP_WASM_TEST=from outside\\u{0}good morning\n";
    assert!(ran.out.ends_with(&format!("--- log\n info: {logged}")), "{}", ran.out);
}

#[test]
fn wrong_messages_say_what_was_expected() {
    let folder = folder();
    let path = folder.path().join("message");
    std::fs::write(&path, GET.replace("Host", "Ghost")).expect("a file");
    let teapot = || Program::new("run").arg(built_guest("c-teapot.wasm"));
    let ran = teapot().arg("--request").arg(&path).run();
    ran.fails(2, "message\" has no field line \"Host\"");
    let ran = teapot().args(&["/", "--response"]).arg(&path).run();
    ran.fails(2, "message\" does not start like a response: ");
    teapot().args(&["--request", "nowhere"]).run().fails(2, "cannot read --request \"nowhere\"");
    teapot().args(&["teapot"]).run().fails(2, "the request has target \"teapot\"");
    teapot().args(&["/", "-X", "G T"]).run().fails(2, "-X \"G T\" is no method");
    for (args, expected) in [
        (&[][..], "<URL>"),
        (&["/", "-H", "a b: c"], "expected a token as name"),
        (&["/", "--status=99"], "99 is not in 200..=999"),
        (&["/", "--update"], "--golden <FILE>"),
        (&["/", "--request=x"], "cannot be used with"),
    ] {
        let ran = teapot().args(args).run();
        assert_eq!(ran.status, Some(2), "{ran:#?}");
        assert!(ran.err.contains(expected), "{expected} in {ran:#?}");
    }
}

#[test]
fn colours_are_for_terminals() {
    let plain = golden("c").run().succeeds();
    assert!(!plain.out.contains('\x1b') && !plain.err.contains('\x1b'));
    let coloured = golden("c").arg("--color=always").run().succeeds();
    assert!(coloured.out.contains("\x1b[32m+HTTP/1.1 418"), "{:?}", coloured.out);
}
