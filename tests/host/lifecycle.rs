//! Calls that fail, wait, or are given up; and that the exchange comes back from all of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Waker};

use ngx_http_wasm_handler_module::abi::{Level, Next};
use ngx_http_wasm_handler_module::host::error::Denied;
use ngx_http_wasm_handler_module::runtime::error::Cause;
use ngx_http_wasm_handler_module::runtime::guest::Guest;
use ngx_http_wasm_handler_module::runtime::instance::Instance;

use crate::fake::{Exchange, FakeExchange};
use crate::permissions::IMPORTS;
use crate::support::{Test, block_on};

const READ: &str = "(drop (call $read_body (i32.const 0) (i32.const 64) (i32.const 4)))";

#[test]
fn futures_may_be_sent_and_guests_shared() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    fn shared<T: Send + Sync>() {}
    shared::<Guest<FakeExchange>>();
    let test = Test::on_request("", "");
    let (host, _) = FakeExchange::new(Exchange::default());
    let guest = test.load().expect("loads");
    let instance = block_on(send(guest.start(host))).expect("starts");
    let mut instance: Instance<FakeExchange> = send(instance);
    let (host, _) = FakeExchange::new(Exchange::default());
    block_on(send(instance.handle_request(host))).expect("returns");
    let (host, _) = FakeExchange::new(Exchange::default());
    block_on(send(instance.handle_response(host, 0, false))).expect("returns");
}

#[test]
fn a_call_that_never_waits_ends_in_the_first_poll() {
    let mut running = Test::on_request(IMPORTS, READ).start().expect("starts");
    let (host, home) = FakeExchange::new(Exchange::default());
    let mut call = pin!(running.instance.handle_request(host));
    let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_ready());
    assert!(home.lock().is_some());
}

#[test]
fn a_suspended_call_goes_on_where_it_was() {
    let mut running = Test::on_request(IMPORTS, READ).parks(5).start().expect("starts");
    let (host, home) = FakeExchange::new(running.exchange.clone());
    let mut call = pin!(running.instance.handle_request(host));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..5 {
        assert!(call.as_mut().poll(&mut context).is_pending());
        assert!(home.lock().is_none());
    }
    assert!(call.as_mut().poll(&mut context).is_ready());
}

#[test]
fn a_dropped_call_gives_the_exchange_back_and_poisons() {
    let mut running = Test::on_request(IMPORTS, READ).parks(5).start().expect("starts");
    let (host, home) = FakeExchange::new(running.exchange.clone());
    {
        let mut call = pin!(running.instance.handle_request(host));
        let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }
    assert!(home.lock().is_some(), "came home");
    assert!(running.instance.is_poisoned());
    let error = running.serve().expect_err("is poisoned");
    assert!(matches!(error.cause(), Cause::Poisoned));
}

#[test]
fn a_call_that_was_never_polled_does_no_harm() {
    let mut running = Test::on_request(IMPORTS, READ).start().expect("starts");
    let (host, home) = FakeExchange::new(Exchange::default());
    drop(running.instance.handle_request(host));
    assert!(home.lock().is_some(), "came home");
    assert!(!running.instance.is_poisoned());
    running.serve().expect("serves");
}

#[test]
fn a_panic_of_the_host_gives_the_exchange_back_and_poisons() {
    // A cursor beyond the body makes the fake panic.
    let mut running = Test::on_request(IMPORTS, READ).start().expect("starts");
    let (mut host, home) = FakeExchange::new(Exchange::default());
    host.exchange.cursors = [1, 1];
    let call = || block_on(running.instance.handle_request(host)).ok();
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
    assert!(home.lock().is_some(), "came home");
    assert!(running.instance.is_poisoned());
}

#[test]
fn traps_poison_and_tell_where() {
    let test = Test::guest("errors/panic_on_handle_request.wat");
    let mut running = test.start().expect("starts");
    let error = running.serve().expect_err("traps");
    assert_eq!(
        error.to_string(),
        "handle_request: wasm trap: wasm `unreachable` instruction executed"
    );
    let backtrace = error.backtrace().expect("a backtrace");
    let lines: Vec<&str> = backtrace.lines().collect();
    assert_eq!(lines.len(), 2, "{backtrace}");
    assert!(lines[0].starts_with("0: "), "{backtrace}");
    assert!(lines[0].contains("panic_on_handle_request!panic"), "{backtrace}");
    assert!(running.instance.is_poisoned());
}

#[test]
fn what_was_printed_before_a_trap_is_in_the_log() {
    let mut running = Test::guest("errors/panic_on_handle_response.wat").start().expect("starts");
    let (host, _) = FakeExchange::new(Exchange::default());
    let next = block_on(running.instance.handle_request(host)).expect("returns");
    assert_eq!(next, Next::Continue { ctx: 0, odd: false });
    let (host, home) = FakeExchange::new(Exchange::default());
    let error = block_on(running.instance.handle_response(host, 0, false)).expect_err("traps");
    assert_eq!(error.call(), "handle_response");
    let exchange = home.lock().take().expect("came home");
    assert_eq!(exchange.log, [(Level::Warn, "panic!".to_owned())]);
}

#[test]
fn a_broken_rule_is_the_guests_fault() {
    let test = Test::guest("errors/set_request_header_after_next.wat");
    let error = test.try_run().expect_err("traps");
    assert_eq!(error.to_string(), "handle_response: set_header_value is not allowed after next");
    let Cause::Denied(denial) = error.cause() else {
        panic!("{error:?}");
    };
    assert_eq!(denial.function, "set_header_value");
    assert!(matches!(denial.denied, Denied::Rule(_)));
    assert!(error.backtrace().is_some());
}

#[test]
fn every_kind_of_trap_is_an_error_and_no_more() {
    for (body, text) in [
        ("(drop (i32.load (i32.const 65536)))", "out of bounds memory access"),
        ("(drop (i32.load (i32.const -5)))", "out of bounds memory access"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "integer divide by zero"),
        ("(call_indirect (i32.const 0))", "uninitialized element"),
        ("(call $recurse)", "call stack exhausted"),
    ] {
        let imports = "(func $recurse (call $recurse) (call $recurse)) (table 1 funcref)";
        let error = Test::on_request(imports, body).error();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn contexts_keep_all_bits() {
    let wat = r#"(module (memory (export "memory") 1)
        (func (export "handle_request") (result i64) (i64.const 0x8000000200000003))
        (func (export "handle_response") (param $ctx i32) (param $error i32)
          (if (i32.ne (local.get $ctx) (i32.const 0x80000002)) (then unreachable))
          (if (i32.ne (local.get $error) (i32.const 1)) (then unreachable))))"#;
    let mut running = Test::wat(wat).start().expect("starts");
    let outcome = running.serve_with(true).expect("returns");
    let (ctx, odd) = (0x8000_0002, true);
    assert_eq!(outcome.next, Next::Continue { ctx, odd });
}
