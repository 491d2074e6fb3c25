//! What guests may set and log for one request, where what they set is kept, and what is left of it
//! when a call fails or the request has ended.

use ngx_http_wasm_handler_module::abi::{FieldKind, Level};

use crate::fake::{Exchange, FakeExchange};
use crate::permissions::IMPORTS;
use crate::support::{Outcome, Test, block_on};

/// A guest with room for large texts: what it does before it says next, and what afterwards.
fn guest(before: &str, after: &str) -> Test {
    Test::wat(&format!(
        r#"(module {IMPORTS} (memory (export "memory") 32)
             (data (i32.const 0) "etagx-asum")
             (func $times (param $function i32) (param $n i32)
               (loop $l (call_indirect (local.get $function))
                 (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                 (br_if $l (local.get $n))))
             (func $set0 (call $set_header_value (i32.const 0) {NAME}))
             (func $add1 (call $add_header_value (i32.const 1) {NAME}))
             (func $add3 (call $add_header_value (i32.const 3) {NAME}))
             (func $log_much (call $log (i32.const 0) (i32.const 0) (i32.const 65537)))
             (table funcref (elem $set0 $add1 $add3 $log_much))
             (func (export "handle_request") (result i64) {before} (i64.const 1))
             (func (export "handle_response") (param i32 i32) {after}))"#
    ))
}

/// "x-a: s".
const NAME: &str = "(i32.const 4) (i32.const 3) (i32.const 7) (i32.const 1)";

fn times(function: u32, n: u32) -> String {
    format!("(call $times (i32.const {function}) (i32.const {n}))")
}

/// Adds or sets "etag" to a text of one letter.
fn etag(function: &str, kind: u32, value: u32) -> String {
    format!(
        "(call ${function} (i32.const {kind}) (i32.const 0) (i32.const 4) (i32.const {value})
           (i32.const 1))"
    )
}

#[test]
fn fields_of_one_kind_are_limited_in_all_calls_together() {
    let too_many = "fields of one kind that guests set on one request would be more than 1000";
    let trailers = "(drop (call $enable_features (i32.const 4)))";
    for (function, name) in [(0, "set"), (1, "add"), (2, "add")] {
        let enough = guest(&format!("{trailers} {}", times(function, 1000)), "");
        enough.run();
        let error = guest(&format!("{trailers} {}", times(function, 1001)), "").error();
        assert_eq!(error, format!("handle_request: {name}_header_value: {too_many}"));
    }
    let all = times(0, 1000) + &times(1, 1000);
    guest(&all, "").run();
    let error = guest(&all, &times(1, 1)).error();
    assert_eq!(error, format!("handle_response: add_header_value: {too_many}"));
}

#[test]
fn bytes_that_are_set_are_limited_in_all_calls_together() {
    let large = "(memory.fill (i32.const 1024) (i32.const 97) (i32.const 1000000))
                 (call $set_header_value (i32.const 1) (i32.const 0) (i32.const 4)
                   (i32.const 1024) (i32.const 1000000))";
    guest(large, "").run();
    let too_large =
        "what guests set on one request (fields, method, URI) would exceed 1048576 bytes";
    assert_eq!(
        guest(large, large).error(),
        format!("handle_response: set_header_value: {too_large}")
    );
    let uri = "(i32.store8 (i32.const 1024) (i32.const 47))
               (memory.fill (i32.const 1025) (i32.const 97) (i32.const 399999))
               (call $set_uri (i32.const 1024) (i32.const 400000))";
    assert_eq!(guest(uri, "").error(), format!("handle_request: set_uri: {too_large}"));
    // A list that others point into is built anew, as often as it is asked for.
    let remove = "(call $add_header_value (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0)
                    (i32.const 0))
                  (call $remove_header (i32.const 0) (i32.const 0) (i32.const 4))";
    let mut test = guest(&remove.repeat(20), "");
    for n in 0..1000 {
        test = test.header(&format!("x-{n}"), "");
    }
    assert_eq!(test.error(), format!("handle_request: remove_header: {too_large}"));
}

#[test]
fn a_template_is_limited_and_replaces_the_one_before() {
    let template = |len| format!("(call $set_template (i32.const 0) (i32.const {len}))");
    let most = guest(&(template(1 << 20) + &template(1 << 20) + &template(4)), "");
    assert_eq!(most.run().exchange.kept.template(), b"etag");
    assert_eq!(
        guest(&template((1 << 20) + 1), "").error(),
        "handle_request: set_template: the template would exceed 1048576 bytes"
    );
}

#[test]
fn what_is_logged_is_limited_and_that_is_said_once() {
    let fill = "(memory.fill (i32.const 0) (i32.const 97) (i32.const 65537))";
    let outcome = guest(&(fill.to_owned() + &times(3, 9)), &times(3, 20)).run();
    let (last, lines) = outcome.exchange.log.split_last().expect("lines");
    let enough = "has written too much for one request or start: nothing more is logged for it";
    assert_eq!(last, &(Level::Warn, enough.to_owned()));
    assert_eq!(lines.len(), 2 * 12);
    for line in lines.chunks(2) {
        assert_eq!((line[0].0, line[0].1.len()), (Level::Info, 65536));
        assert_eq!(line[1], (Level::Info, "... and 1 bytes more".to_owned()));
    }
    // What is escaped counts as it is written, five bytes for one here.
    let outcome = guest(&times(3, 20), "").run();
    let (last, lines) = outcome.exchange.log.split_last().expect("lines");
    assert_eq!(last.1, enough);
    assert_eq!(lines.len(), 2 * 12);
    assert!(lines.iter().all(|(_, line)| line.len() < 65536 / 4));
    let quiet = guest(&times(3, 30), "").log_level(Level::Warn).run();
    assert!(quiet.exchange.log.is_empty());
}

#[test]
fn of_a_header_of_which_there_is_one_the_last_one_counts() {
    let added = guest(&(etag("add_header_value", 1, 0) + &etag("add_header_value", 1, 1)), "");
    assert_eq!(added.run().exchange.response_header("etag"), ["t"]);
    let trailers = "(drop (call $enable_features (i32.const 4)))".to_owned();
    let added = guest(&(trailers + &etag("add_header_value", 3, 0).repeat(2)), "");
    assert_eq!(added.run().exchange.response_trailers.len(), 2);
}

/// Does everything that changes the response.
fn changes() -> String {
    "(drop (call $enable_features (i32.const 6)))".to_owned()
        + &etag("set_header_value", 1, 0)
        + &etag("add_header_value", 3, 0)
        + "(call $remove_header (i32.const 1) (i32.const 4) (i32.const 3))
           (call $set_status_code (i32.const 404))
           (call $write_body (i32.const 1) (i32.const 0) (i32.const 4))"
}

#[test]
fn what_a_guest_set_before_next_is_there_for_the_next_guest_unless_it_failed() {
    let early = etag("set_header_value", 1, 0) + "(call $set_status_code (i32.const 201))";
    let mut first = guest(&early, "").start().expect("starts");
    let more = etag("set_header_value", 1, 1)
        + &times(1, 3)
        + "(call $set_status_code (i32.const 404)) unreachable";
    let mut second = guest(&more, "").start().expect("starts");
    // As it is between two guests of one request.
    let (mut host, home) = FakeExchange::new(Exchange::default());
    host.keeps_early = true;
    block_on(first.instance.handle_request(host)).expect("goes on");
    let between = home.lock().take().expect("came home");
    let (mut host, home) = FakeExchange::new(between);
    host.keeps_early = true;
    block_on(second.instance.handle_request(host)).expect_err("traps");
    let after = home.lock().take().expect("came home");
    assert_eq!(after.kept.status(), Some(201));
    assert!(after.kept.early(FieldKind::Response).eq([(&b"etag"[..], &b"e"[..])]));
}

#[test]
fn a_call_that_is_given_up_leaves_nothing_behind() {
    let wait = "(drop (call $read_body (i32.const 0) (i32.const 64) (i32.const 4)))";
    let mut running = guest(&(etag("set_header_value", 1, 0) + wait), "").start().expect("starts");
    let exchange = Exchange { parks: usize::MAX, ..Exchange::default() };
    let (host, home) = FakeExchange::new(exchange);
    let mut call = Box::pin(running.instance.handle_request(host));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(call.as_mut().poll(&mut context).is_pending());
    drop(call);
    assert!(home.lock().take().expect("came home").response_headers.is_empty());
}

#[test]
fn after_the_request_has_ended_changes_are_accepted_and_ignored() {
    let features = "(drop (call $enable_features (i32.const 6)))";
    let seen = |is_error| -> Outcome {
        let mut running = guest(features, &changes()).start().expect("starts");
        running.serve_with(is_error).expect("returns")
    };
    let changed = seen(false).exchange;
    assert_eq!(changed.status, Some(404));
    assert_eq!(changed.response_trailers.len(), 1);
    assert_eq!(changed.new_response_body.as_deref(), Some(&b"etag"[..]));
    let ignored = seen(true).exchange;
    assert_eq!(ignored.status, None);
    assert!(ignored.response_headers.is_empty() && ignored.response_trailers.is_empty());
    assert_eq!(ignored.new_response_body, None);
    // What is wrong before the end is wrong after it.
    let set = etag("set_header_value", 0, 0);
    let mut running = guest("", &set).start().expect("starts");
    let error = running.serve_with(true).expect_err("is refused");
    assert_eq!(error.to_string(), "handle_response: set_header_value is not allowed after next");
}
