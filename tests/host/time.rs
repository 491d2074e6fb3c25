//! Slices and the time limit. What is measured is that a guest gives way and is stopped, never how
//! long something takes.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ngx_http_wasm_handler_module::runtime::error::Cause;
use ngx_http_wasm_handler_module::runtime::guest::{Guest, Settings, compile};
use ngx_http_wasm_handler_module::runtime::precompiled::{decode, digest, encode};
use ngx_http_wasm_handler_module::runtime::ticker::{Ran, Ticker};
use ngx_http_wasm_handler_module::runtime::{Compile, Engine, Limits};

use crate::fake::{Exchange, FakeExchange};
use crate::support::{block_on, settings};

/// A guest of an engine of its own, whose epoch no other test moves.
fn guest(wat: &str, slice: Duration, timeout: Duration) -> (Engine, Guest<FakeExchange>) {
    let engine = Engine::new(Compile::Serial).expect("an engine");
    let limits = Limits { slice: Some(slice), timeout, ..Limits::default() };
    let settings = Settings { limits, ..settings() };
    let module = compile(&engine, wat.as_bytes()).expect("compiles");
    let guest = Guest::new(&engine, &module, settings).expect("loads");
    (engine, guest)
}

fn host() -> FakeExchange {
    FakeExchange::new(Exchange::default()).0
}

const MS: Duration = Duration::from_millis(1);

/// Loops for ever.
const ENDLESS: &str = r#"(module (memory (export "memory") 1)
    (func (export "handle_request") (result i64) (loop $again (br $again)) (i64.const 1))
    (func (export "handle_response") (param i32 i32)))"#;

#[test]
fn an_endless_loop_gives_way_and_is_stopped() {
    let (engine, guest) = guest(ENDLESS, MS, 20 * MS);
    let _ticker = Ticker::start(&engine, MS, || ()).expect("a thread");
    let mut instance = block_on(guest.start(host())).expect("starts");
    let mut call = pin!(instance.handle_request(host()));
    let mut context = Context::from_waker(Waker::noop());
    let (mut turns, mut ran) = (0, Ran::default());
    let error = loop {
        let turn = engine.pace().turn(ran);
        let poll = call.as_mut().poll(&mut context);
        ran = turn.end();
        match poll {
            Poll::Pending => turns += 1,
            Poll::Ready(result) => break result.expect_err("does not return"),
        }
    };
    assert!(turns > 0, "it gave way before it was stopped");
    assert!(matches!(error.cause(), Cause::Timeout { limit } if *limit == 20 * MS), "{error}");
    assert!(error.backtrace().is_some(), "it says where");
}

#[test]
fn nothing_interrupts_a_guest_without_checks() {
    // Counts to 2^26, some ten periods of the ticker.
    let wat = r#"(module (memory (export "memory") 1)
        (func (export "handle_request") (result i64) (local i32)
            (loop $again (br_if $again (i32.lt_u
                (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 67108864))))
            (i64.const 1))
        (func (export "handle_response") (param i32 i32)))"#;
    let checked = Engine::new(Compile::Serial).expect("an engine");
    let unchecked = checked.without_interrupts().expect("an engine");
    let polls = [&checked, &unchecked].map(|engine| {
        let slice = engine.interrupts().then_some(MS);
        let limits = Limits { slice, timeout: 1000 * MS, ..Limits::default() };
        let module = compile(engine, wat.as_bytes()).expect("compiles");
        let guest = Guest::new(engine, &module, Settings { limits, ..settings() }).expect("loads");
        let _ticker = Ticker::start(engine, MS, || ()).expect("a thread");
        let mut instance = block_on(guest.start(host())).expect("starts");
        let mut call = pin!(instance.handle_request(host()));
        let mut context = Context::from_waker(Waker::noop());
        let mut polls = 1;
        let _turn = engine.pace().turn(Ran::default());
        while call.as_mut().poll(&mut context).is_pending() {
            polls += 1;
        }
        polls
    });
    assert_eq!(polls[1], 1, "it ran to its end at once");
    assert!(polls[0] > 1, "the same code gives way where it can");
    // What one of them compiles the other does not take.
    let module = compile(&unchecked, wat.as_bytes()).expect("compiles");
    let file = encode(&unchecked, &digest(wat.as_bytes()), &module).expect("encodes");
    assert!(decode(&checked, &file).is_err());
    assert!(decode(&unchecked, &file).is_ok());
}

#[test]
fn a_start_has_a_limit_of_its_own_and_a_call_begins_anew() {
    let wat = r#"(module (memory (export "memory") 1)
        (func (export "_initialize") (loop $again (br $again)))
        (func (export "handle_request") (result i64) (i64.const 1))
        (func (export "handle_response") (param i32 i32)))"#;
    let engine = Engine::new(Compile::Serial).expect("an engine");
    let limits =
        Limits { slice: Some(MS), timeout: MS, start_timeout: 20 * MS, ..Limits::default() };
    let module = compile(&engine, wat.as_bytes()).expect("compiles");
    let guest = Guest::new(&engine, &module, Settings { limits, ..settings() }).expect("loads");
    let _ticker = Ticker::start(&engine, MS, || ()).expect("a thread");
    let mut start = pin!(guest.start(host()));
    let mut context = Context::from_waker(Waker::noop());
    let mut ran = Ran::default();
    let error = loop {
        let turn = engine.pace().turn(ran);
        let poll = start.as_mut().poll(&mut context);
        ran = turn.end();
        assert_eq!(ran.limit(), 20 * MS);
        if let Poll::Ready(result) = poll {
            break result.err().expect("does not start");
        }
    };
    let text = error.to_string();
    assert!(text.contains("_initialize: ran for longer than 20 ms and was stopped"), "{text}");
}

#[test]
fn waiting_and_other_processes_cost_a_call_nothing() {
    let wat = ENDLESS.replace("(loop $again (br $again))", "");
    let (engine, guest) = guest(&wat, MS, MS);
    let mut instance = block_on(guest.start(host())).expect("starts");
    let mut call = pin!(instance.handle_request(host()));
    let mut context = Context::from_waker(Waker::noop());
    let turn = engine.pace().turn(Ran::default());
    let _ = call.as_mut().poll(&mut context);
    let ran = turn.end();
    // As if somebody else had the processor.
    let turn = engine.pace().turn(ran);
    std::thread::sleep(20 * MS);
    assert!(!turn.end().is_overdue());
}

#[test]
fn a_guest_stopped_for_its_time_is_poisoned() {
    let (engine, guest) = guest(ENDLESS, MS, MS);
    let _ticker = Ticker::start(&engine, MS, || ()).expect("a thread");
    let mut instance = block_on(guest.start(host())).expect("starts");
    let _turn = engine.pace().turn(Ran::default());
    let error = block_on(instance.handle_request(host())).expect_err("is stopped");
    assert_eq!(error.to_string(), "handle_request: ran for longer than 1 ms and was stopped");
    assert!(instance.is_poisoned());
}

#[test]
fn the_epoch_of_another_turn_costs_a_guest_nothing() {
    let wat = ENDLESS.replace("(loop $again (br $again))", "");
    let (engine, guest) = guest(&wat, MS, MS);
    let mut instance = block_on(guest.start(host())).expect("starts");
    engine.wasm().increment_epoch();
    let mut call = pin!(instance.handle_request(host()));
    engine.wasm().increment_epoch();
    let mut context = Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut context).is_ready(), "done in its first turn");
}

#[test]
fn an_idle_ticker_sleeps_and_is_woken_by_a_turn() {
    let (engine, guest) = guest(ENDLESS, MS, 5 * MS);
    let _ticker = Ticker::start(&engine, MS, || ()).expect("a thread");
    while !engine.pace().is_asleep() {
        std::thread::yield_now();
    }
    let mut instance = block_on(guest.start(host())).expect("starts");
    let _turn = engine.pace().turn(Ran::default());
    block_on(instance.handle_request(host())).expect_err("is stopped, so it is awake");
}

#[test]
fn a_bulk_instruction_gives_way_inside() {
    let grown = "(drop (memory.grow (i32.const 1600)))";
    let fill = "(memory.fill (i32.const 0) (i32.const 1) (i32.const 100000000))";
    let copy = "(memory.copy (i32.const 1) (i32.const 0) (i32.const 100000000))";
    for instruction in [fill, copy] {
        let wat = ENDLESS.replace("(loop $again (br $again))", &format!("{grown} {instruction}"));
        // It gives way whenever the epoch goes forward.
        let (engine, guest) = guest(&wat, Duration::ZERO, 100_000 * MS);
        let mut instance = block_on(guest.start(host())).expect("starts");
        let mut call = pin!(instance.handle_request(host()));
        let mut context = Context::from_waker(Waker::noop());
        let mut turns = 0;
        let over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    engine.wasm().increment_epoch();
                }
            });
            while call.as_mut().poll(&mut context).is_pending() {
                turns += 1;
            }
            over.store(true, Ordering::Relaxed);
        });
        // Once when it begins, and in most of a hundred pieces.
        assert!(turns > 5, "{instruction}: {turns} turns");
    }
}
