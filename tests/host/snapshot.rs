//! Snapshots: what start functions left in memory and globals is there in every instance without
//! running them again, and guests for which that cannot be right do without.

use std::path::Path;

use ngx_http_wasm_handler_module::runtime::Engine;
use ngx_http_wasm_handler_module::runtime::error::LoadError;
use ngx_http_wasm_handler_module::runtime::guest::{Dir, Guest, Settings, compile};
use ngx_http_wasm_handler_module::runtime::precompiled::{digest, encode, is_precompiled};
use ngx_http_wasm_handler_module::runtime::snapshot::{Prepared, Snapshot, Start, Unfit, prepare};

use crate::fake::{Exchange, FakeExchange};
use crate::support::{ENGINE, block_on, settings};

const IMPORTS: &str = r#"
    (import "http_handler" "log" (func $log (param i32 i32 i32)))
    (import "http_handler" "get_config" (func $get_config (param i32 i32) (result i32)))
    (import "http_handler" "enable_features" (func $enable (param i32) (result i32)))
    (import "http_handler" "write_body" (func $write (param i32 i32 i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
      (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "startedCargo.toml")
    (global $n (mut i32) (i32.const 0))
    (func $ok (param i32) (if (local.get 0) (then unreachable)))
    (func $open_file (result i32)
      (call $ok (call $open (i32.const 3) (i32.const 0) (i32.const 7) (i32.const 10) (i32.const 0)
        (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 64)))
      (i32.load (i32.const 64)))
"#;

/// A guest that logs "started" at its start, does something more, and answers with a piece of its
/// memory.
fn guest(start: &str, answer: (u32, u32)) -> String {
    guest_with("_initialize", start, answer)
}

fn guest_with(export: &str, start: &str, (at, len): (u32, u32)) -> String {
    format!(
        r#"(module {IMPORTS}
             (func (export "{export}")
               (call $log (i32.const 0) (i32.const 0) (i32.const 7))
               (global.set $n (i32.add (global.get $n) (i32.const 1)))
               {start})
             (func (export "handle_request") (result i64)
               (i32.store8 (i32.const 60) (i32.add (i32.const 48) (global.get $n)))
               (call $write (i32.const 1) (i32.const {at}) (i32.const {len}))
               (i64.const 0))
             (func (export "handle_response") (param i32 i32)))"#
    )
}

fn try_prepare(wat: &str, settings: &Settings, snapshot: Snapshot) -> Result<Prepared, LoadError> {
    let host = || Ok(FakeExchange::new(Exchange::default()).0);
    block_on(prepare(&ENGINE, wat.as_bytes(), settings, snapshot, compile, host))
}

fn prepared(wat: &str, snapshot: Snapshot) -> Prepared {
    try_prepare(wat, &settings(), snapshot).expect("prepares")
}

fn in_directory() -> Settings {
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf();
    Settings { dirs: vec![Dir { host, guest: "/".into(), writable: false }], ..settings() }
}

/// What one more instance logs at its start, the features it serves with, and its answer.
fn fresh(prepared: &Prepared, settings: &Settings) -> (Vec<String>, u32, Vec<u8>) {
    let guest = Guest::new(&ENGINE, &prepared.module, settings.clone()).expect("a guest");
    let guest = guest.with(prepared.start);
    let (host, home) = FakeExchange::new(Exchange::default());
    let mut instance = block_on(guest.start(host)).expect("starts");
    let log = home.lock().take().expect("the exchange comes home").log;
    let (host, home) = FakeExchange::new(Exchange::default());
    block_on(instance.handle_request(host)).expect("serves");
    let exchange = home.lock().take().expect("the exchange comes home");
    let log = log.into_iter().map(|(_, line)| line).collect();
    (log, instance.features().bits(), exchange.new_response_body.unwrap_or_default())
}

#[test]
fn start_functions_run_once_and_all_instances_have_what_they_left() {
    let wat = guest(
        "(drop (call $get_config (i32.const 100) (i32.const 10)))
         (drop (call $enable (i32.const 2)))
         (drop (memory.grow (i32.const 3)))
         (i32.store8 (i32.const 200000) (i32.load8_u (i32.const 103)))",
        (60, 1),
    );
    let settings = Settings { config: "abcdef".into(), ..settings() };
    let each = try_prepare(&wat, &settings, Snapshot::Never).expect("prepares");
    assert_eq!(each.start, Start::Run);
    assert_eq!(fresh(&each, &settings), (vec!["started".into()], 2, b"1".to_vec()));
    let once = try_prepare(&wat, &settings, Snapshot::Faithful).expect("prepares");
    assert_eq!(once.unfit, None);
    for _ in 0..2 {
        assert_eq!(fresh(&once, &settings), (vec![], 2, b"1".to_vec()));
    }
    // Memory as it was, grown, with what was copied from the configuration.
    let wat = wat.replace("(i32.const 60) (i32.const 1))", "(i32.const 200000) (i32.const 1))");
    let once = try_prepare(&wat, &settings, Snapshot::Faithful).expect("prepares");
    assert_eq!(fresh(&once, &settings).2, b"d");
}

#[test]
fn a_guest_with_more_segments_than_the_engine_takes_is_one() {
    use std::fmt::Write as _;
    let mut data = String::new();
    for at in 1000..101_001 {
        let _ = write!(data, "(data (i32.const {at}) \"{}\")", at % 10);
    }
    let wat =
        guest("(memory.copy (i32.const 99000) (i32.const 1000) (i32.const 10))", (99_000, 12));
    let wat = wat.replacen("(memory (export \"memory\") 1)", "(memory (export \"memory\") 2)", 1);
    let wat = wat.replacen("(global", &format!("{data} (global"), 1);
    for snapshot in [Snapshot::Never, Snapshot::Faithful] {
        let prepared = prepared(&wat, snapshot);
        assert_eq!(prepared.unfit, None, "{snapshot:?}");
        assert_eq!(fresh(&prepared, &settings()).2, b"012345678901", "{snapshot:?}");
    }
}

#[test]
fn start_sections_and_commands_are_taken_along() {
    let section = r#"(func $begin (global.set $n (i32.const 4))) (start $begin)"#;
    let wat = guest("", (60, 1)).replace("(func $ok ", &format!("{section} (func $ok "));
    assert_eq!(fresh(&prepared(&wat, Snapshot::Faithful), &settings()).2, b"5");
    let command = guest_with("_start", "(call $exit (i32.const 0))", (60, 1));
    let once = prepared(&command, Snapshot::Faithful);
    assert_eq!(fresh(&once, &settings()), (vec![], 0, b"1".to_vec()));
    assert!(once.module.get_export("_start").is_none(), "nobody can run it again");
}

#[test]
fn random_numbers_are_not_shared_unless_asked_for() {
    let wat = guest("(call $ok (call $random (i32.const 70) (i32.const 16)))", (70, 16));
    let each = prepared(&wat, Snapshot::Faithful);
    assert_eq!((each.start, each.unfit.as_ref()), (Start::Run, Some(&Unfit::Random)));
    assert_ne!(fresh(&each, &settings()).2, fresh(&each, &settings()).2);
    let once = prepared(&wat, Snapshot::Seeded);
    assert_eq!(once.unfit, None);
    let (_, _, first) = fresh(&once, &settings());
    assert_eq!((first.len(), &first), (16, &fresh(&once, &settings()).2));
}

/// A guest whose start draws a number into 70, and whose every instance that begins with a snapshot draws
/// one into 90.
fn resuming(resume: &str, answer: (u32, u32)) -> String {
    let wat = guest("(call $ok (call $random (i32.const 70) (i32.const 16)))", answer);
    wat.replace(
        r#"(func (export "handle_request")"#,
        &format!(r#"(func (export "wizer.resume") {resume}) (func (export "handle_request")"#),
    )
}

#[test]
fn each_instance_that_begins_with_a_snapshot_may_draw_its_own() {
    let draw = "(call $ok (call $random (i32.const 90) (i32.const 16)))
        (drop (call $enable (i32.const 2)))
        (call $log (i32.const 0) (i32.const 0) (i32.const 4))";
    let wat = resuming(draw, (70, 36));
    let once = prepared(&wat, Snapshot::Seeded);
    assert_eq!(once.unfit, None);
    let (first, second) = (fresh(&once, &settings()), fresh(&once, &settings()));
    assert_eq!((first.0.as_slice(), first.1), (["star".to_owned()].as_slice(), 2));
    assert_eq!(first.2[..16], second.2[..16], "what the start drew");
    assert_ne!(first.2[20..], second.2[20..], "what the instance drew");
    assert_ne!(first.2[20..], [0; 16]);
    // Without a snapshot the start has drawn it.
    let each = prepared(&wat, Snapshot::Never);
    let (log, features, body) = fresh(&each, &settings());
    assert_eq!((log, features, &body[20..]), (vec!["started".into()], 0, &[0; 16][..]));
    // It is not what makes a snapshot faithful.
    assert_eq!(prepared(&wat, Snapshot::Faithful).unfit, Some(Unfit::Random));
}

#[test]
fn an_instance_that_cannot_resume_does_not_start() {
    let wat = resuming("unreachable", (70, 16));
    assert_eq!(prepared(&wat, Snapshot::Never).start, Start::Run);
    let error = try_prepare(&wat, &settings(), Snapshot::Seeded).err().expect("is refused");
    let text = error.to_string();
    assert!(text.contains("wizer.resume") && text.contains("unreachable"), "{text}");
    let wat = resuming("(param i32)", (70, 16));
    let error = try_prepare(&wat, &settings(), Snapshot::Never).err().expect("is refused");
    assert!(matches!(error, LoadError::ExportType { name: "wizer.resume", .. }), "{error}");
}

#[test]
fn what_resumes_is_not_reset() {
    for (resume, resets) in [("", true), (r#"(func (export "wizer.resume"))"#, false)] {
        let wat = guest("", (60, 1)).replace("(func $ok ", &format!("{resume} (func $ok "));
        let once = prepared(&wat, Snapshot::Faithful);
        let guest = Guest::new(&ENGINE, &once.module, settings()).expect("a guest");
        let guest = guest.with(once.start).resettable(|_, _| true);
        let mut instance =
            block_on(guest.start(FakeExchange::new(Exchange::default()).0)).expect("starts");
        assert_eq!(guest.reset(&mut instance), resets, "{resume}");
    }
}

#[test]
fn random_numbers_of_requests_are_always_new() {
    let wat = guest("", (70, 16)).replace(
        "(call $write",
        "(call $ok (call $random (i32.const 70) (i32.const 16))) (call $write",
    );
    let once = prepared(&wat, Snapshot::Faithful);
    assert!(matches!(once.start, Start::Done(_)));
    assert_ne!(fresh(&once, &settings()).2, fresh(&once, &settings()).2);
}

#[test]
fn clocks_go_on_from_where_the_start_saw_them() {
    // The answer is whether the clock now is behind what it was at the start.
    let wat = guest("(call $ok (call $clock (i32.const 1) (i64.const 1) (i32.const 80)))", (60, 1))
        .replace(
            "(call $write",
            "(call $ok (call $clock (i32.const 1) (i64.const 1) (i32.const 88)))
             (i32.store8 (i32.const 60) (i32.add (i32.const 48)
               (i64.lt_u (i64.load (i32.const 88)) (i64.load (i32.const 80))))) (call $write",
        );
    assert_eq!(fresh(&prepared(&wat, Snapshot::Faithful), &settings()).2, b"0");
}

#[test]
fn files_may_be_read_but_not_left_open() {
    let dirs = in_directory();
    let closed = guest("(call $ok (call $close (call $open_file)))", (60, 1));
    let once = try_prepare(&closed, &dirs, Snapshot::Seeded).expect("prepares");
    assert_eq!(once.unfit, None);
    let open = guest("(drop (call $open_file))", (60, 1));
    let each = try_prepare(&open, &dirs, Snapshot::Seeded).expect("prepares");
    assert_eq!((each.start, each.unfit), (Start::Run, Some(Unfit::OpenFiles)));
}

#[test]
fn moved_descriptors_are_not_frozen() {
    for start in [
        "(call $ok (call $close (i32.const 3)))",
        "(call $ok (call $renumber (call $open_file) (i32.const 3)))",
    ] {
        let each = try_prepare(&guest(start, (60, 1)), &in_directory(), Snapshot::Seeded);
        let each = each.expect("prepares");
        assert_eq!((each.start, each.unfit), (Start::Run, Some(Unfit::Descriptors)), "{start}");
    }
}

#[test]
fn what_a_snapshot_cannot_hold_is_said_and_the_guest_serves_without() {
    let wat = guest("(table.set (i32.const 0) (ref.null func))", (60, 1))
        .replace("(func $ok ", "(table 1 funcref) (func $ok ");
    let each = prepared(&wat, Snapshot::Seeded);
    let unfit = each.unfit.clone().expect("a reason").to_string();
    assert_eq!((each.start, unfit.as_str()), (Start::Run, "unsupported `table.set` instruction"));
    assert_eq!(fresh(&each, &settings()), (vec!["started".into()], 0, b"1".to_vec()));
}

#[test]
fn compiled_guests_have_no_snapshot_and_say_so() {
    // Whoever serves gives `prepare` a way to load them.
    let plain = prepared(&guest("", (60, 1)), Snapshot::Never).module;
    let file = encode(&ENGINE, &digest(b"whatever"), &plain).expect("encodes");
    let host = || Ok(FakeExchange::new(Exchange::default()).0);
    let load = |_: &Engine, bytes: &[u8]| {
        assert!(is_precompiled(bytes));
        Ok(plain.clone())
    };
    let each = block_on(prepare(&ENGINE, &file, &settings(), Snapshot::Seeded, load, host));
    let each = each.expect("prepares");
    assert_eq!((each.start, each.unfit), (Start::Run, Some(Unfit::Compiled)));
}

#[test]
fn names_of_the_instrumentation_may_be_taken() {
    let wat = guest("", (60, 1)).replace(
        r#"(memory (export "memory") 1)"#,
        r#"(memory (export "memory") (export "__wizer_memory_0") 1)"#,
    );
    let each = prepared(&wat, Snapshot::Faithful);
    assert!(matches!(each.unfit, Some(Unfit::Unsupported(_))), "{:?}", each.unfit);
    assert_eq!(fresh(&each, &settings()).2, b"1");
}

#[test]
fn bad_guests_are_refused_as_without_a_snapshot() {
    for wat in [
        "(module",
        "(module (func (result i32)))",
        "(module)",
        &guest("unreachable", (60, 1)),
        &guest("(call $exit (i32.const 3))", (60, 1)),
        &guest("", (60, 1)).replace("\"get_config\"", "\"get_nothing\""),
    ] {
        let error = |snapshot| match try_prepare(wat, &settings(), snapshot) {
            Ok(_) => panic!("prepared"),
            Err(error) => error.to_string(),
        };
        assert_eq!(error(Snapshot::Never), error(Snapshot::Faithful));
    }
}
