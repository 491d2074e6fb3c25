//! Backtraces: a line per frame, whatever a guest calls its functions.

use std::fmt::Write;

use crate::permissions::IMPORTS;
use crate::support::Test;

/// The frames of a trap in a function of this name, called by `handle_request`.
fn frames(name: &str) -> Vec<String> {
    let definition = format!("{IMPORTS}(func $\"{name}\" unreachable)");
    let error = Test::on_request(&definition, &format!("(call $\"{name}\")")).try_run();
    let backtrace = error.expect_err("traps").backtrace().expect("a backtrace");
    backtrace.lines().map(str::to_owned).collect()
}

#[test]
fn a_line_break_in_a_name_does_not_make_a_frame() {
    let frames = frames("boom\\0a1: 0x7f - forged!frame\\0d\\0a2: \\1b[2J");
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert!(frames[0].ends_with("!boom?1: 0x7f - forged!frame??2: ?[2J"), "{frames:?}");
    assert!(frames[1].starts_with("1: 0x"), "{frames:?}");
}

#[test]
fn names_of_rust_are_readable() {
    let frames = frames("_ZN5guest6header4find17h0123456789abcdefE");
    assert!(frames[0].ends_with("!guest::header::find"), "{frames:?}");
}

#[test]
fn long_names_are_cut() {
    let frames = frames(&"x".repeat(100_000));
    assert!(frames[0].len() < 300, "{}", frames[0].len());
    assert!(frames[0].ends_with("xxx"));
    assert_eq!(frames.len(), 2);
}

/// A name of C++, 300 bytes long, that stands for 8^12 words: every type has eight times the one
/// before.
fn exploding() -> String {
    let mut name = "_Z1f1AIiiE".to_owned();
    for seq in 0..12 {
        let before = format!("S{seq:X}_");
        write!(name, "S_I{}E", before.repeat(8)).expect("a string");
    }
    name
}

#[test]
fn a_name_that_stands_for_more_than_there_is_room_for_stays_as_it_is() {
    let frames = frames(&exploding());
    assert!(frames[0].contains("!_Z1f1AIiiES_IS0_S0_"), "{frames:?}");
}

#[test]
fn nor_does_it_matter_where_the_host_fails() {
    let name = exploding();
    let definitions = format!(
        "(import \"wasi_snapshot_preview1\" \"clock_time_get\" (func $time (param i32 i64 i32) (result i32)))
         {IMPORTS}(func $\"{name}\" (drop (call $time (i32.const 0) (i64.const 0) (i32.const -8))))"
    );
    let error = Test::on_request(&definitions, &format!("(call $\"{name}\")")).error();
    assert!(error.starts_with("handle_request: In func wasi_snapshot_preview1::clock_time_get at"));
    assert_eq!(error.matches("out of bounds").count(), 1, "{error}");
}
