//! `http-wasm check`.

use serde_json::Value;

use crate::support::{Program, built_guest, file, folder, guest};

#[test]
fn guests_of_every_language_can_be_used() {
    for name in ["go-answer.wasm", "rust-headers.wasm", "c-teapot.wasm", "as-key.wasm"] {
        let ran = Program::new("check").arg(built_guest(name)).run().succeeds();
        assert!(ran.out.contains(": can be used\n"), "{}", ran.out);
        assert!(ran.out.contains("handle_request"), "{}", ran.out);
    }
}

#[test]
fn a_guest_is_described_for_programs() {
    let path = file("nginx-conf/guests/redact.wat");
    let ran = Program::new("check").arg(&path).args(&["--config=x", "--format=json"]).run();
    let json: Value = serde_json::from_str(&ran.succeeds().out).expect("JSON");
    let text = std::fs::read(path).expect("a file");
    assert_eq!(json["usable"], true);
    assert_eq!(json["sha256"], crate::servers::sha256(&text));
    assert_eq!(json["size_bytes"], text.len());
    assert_eq!(json["features"], serde_json::json!(["buffer_request", "buffer_response"]));
    assert_eq!(json["memory_bytes"], 2 << 16);
    assert_eq!(json["start_calls"], 2);
    assert_eq!(json["imports"]["http_handler"][0], "enable_features");
    assert!(json["compile_ms"].is_f64() && json["start_ms"].is_f64());
}

#[test]
fn a_start_function_that_fails_shows_its_frames() {
    let path = file("nginx-conf/guests/redact.wat");
    let ran = Program::new("check").arg(&path).run();
    let ran = ran.fails(1, "redact.wat\": does not start: _initialize: wasm trap: ");
    assert!(ran.err.contains("\n  0: "), "{}", ran.err);

    let ran = Program::new("check").arg(path).arg("--format=json").run();
    let json: Value = serde_json::from_str(&ran.fails(1, "does not start").out).expect("JSON");
    assert_eq!(json["usable"], false);
    assert!(json["reason"].as_str().is_some_and(|text| text.starts_with("does not start: ")));
}

#[test]
fn a_guest_that_never_starts_is_given_up() {
    let folder = folder();
    let path = guest(folder.path(), r#"(func $f (loop $l (br $l))) (start $f)"#, "");
    let ran = Program::new("check").arg(path).args(&["--load-timeout", "200ms"]).run();
    ran.fails(1, "compiling and starting it took longer than 0.2 s");
}

#[test]
fn wrong_arguments_say_what_was_expected() {
    for (args, expected) in [
        (&["x.wat", "--memory-limit=1k"][..], "expected 64k (one page) to 4g"),
        (&["x.wat", "--timeout=soon"], "expected a time such as 500ms, 1s or 2m"),
        (&["x.wat", "--dir=/a"], "expected HOST:GUEST or HOST:GUEST:rw"),
        (&["x.wat", "--config=a", "--config-file=b"], "cannot be used with"),
        (&[], "<GUEST>"),
    ] {
        let ran = Program::new("check").args(args).run();
        assert_eq!(ran.status, Some(2), "{ran:#?}");
        assert!(ran.err.contains(expected), "{ran:#?}");
    }
    let config = "--config-file=nowhere";
    Program::new("check").args(&["x.wat", config]).run().fails(1, "x.wat");
    let path = built_guest("c-teapot.wasm");
    let ran = Program::new("check").arg(path).arg(config).run();
    ran.fails(2, "cannot read --config-file \"nowhere\": No such file");
}

#[test]
fn names_of_a_guest_cannot_write_on_the_terminal() {
    let folder = folder();
    let path = guest(folder.path(), r#"(func (export "\1b[2J"))"#, "");
    let ran = Program::new("check").arg(path).run().succeeds();
    assert!(ran.out.contains("\\u{1b}[2J") && !ran.out.contains('\x1b'), "{:?}", ran.out);
}
