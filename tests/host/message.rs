//! Features, configuration, method, URI, status, bodies: what a guest gets and what traps.

use std::time::Duration;

use ngx_http_wasm_handler_module::abi::{Features, Level};

use crate::permissions::IMPORTS;
use crate::support::Test;

/// Expects the i32 that `call` yields, inside the guest.
fn expect(call: &str, value: i64) -> String {
    format!("(if (i32.ne {call} (i32.const {value})) (then unreachable))")
}

/// Expects the i64 that `call` yields, inside the guest.
fn expect_packed(call: &str, high: u64, low: u64) -> String {
    let packed = high << 32 | low;
    format!("(if (i64.ne {call} (i64.const {packed})) (then unreachable))")
}

fn on_request(body: &str) -> Test {
    let imports = format!("{IMPORTS} (data (i32.const 0) \"GET /a?b\") ");
    Test::on_request(&imports, body)
}

#[test]
fn features_add_up_and_are_masked() {
    let both = Features::BUFFER_REQUEST | Features::BUFFER_RESPONSE;
    let body = [
        expect("(call $enable_features (i32.const 0))", 0),
        expect("(call $enable_features (i32.const 257))", 1),
        expect("(call $enable_features (i32.const 4))", 1),
        expect("(call $enable_features (i32.const 2))", 3),
        expect("(call $enable_features (i32.const 0))", 3),
    ];
    on_request(&body.concat()).supports(both).run();
}

#[test]
fn features_of_one_request_are_not_those_of_the_next() {
    let guest = format!(
        r#"(module {IMPORTS} (memory (export "memory") 1)
            (func $start (drop (call $enable_features (i32.const 2)))) (start $start)
            (func (export "handle_request") (result i64)
              {} (drop (call $enable_features (i32.const 1))) (i64.const 1))
            (func (export "handle_response") (param i32 i32) {} {}))"#,
        expect("(call $enable_features (i32.const 0))", 2),
        expect("(call $enable_features (i32.const 0))", 3),
        expect("(call $enable_features (i32.const 4))", 3),
    );
    let mut running = Test::wat(&guest).start().expect("starts");
    for _ in 0..2 {
        running.serve().expect("serves");
    }
    let both = Features::BUFFER_REQUEST | Features::BUFFER_RESPONSE;
    assert_eq!(running.instance.features(), both);
}

#[test]
fn getters_write_all_or_nothing() {
    let body = [
        expect("(call $get_config (i32.const 100) (i32.const 5))", 6),
        expect("(i32.load8_u (i32.const 100))", 0),
        expect("(call $get_config (i32.const 100) (i32.const 6))", 6),
        expect("(i32.load8_u (i32.const 105))", i64::from(b'g')),
        expect("(call $get_config (i32.const -1) (i32.const 0))", 6),
        expect("(call $get_template (i32.const -1) (i32.const 9))", 0),
        expect("(call $get_source_addr (i32.const 100) (i32.const 64))", 13),
        expect("(call $get_uri (i32.const 100) (i32.const 3))", 4),
        expect("(i32.load8_u (i32.const 100))", i64::from(b'1')),
        expect("(call $get_uri (i32.const 100) (i32.const 4))", 4),
        expect("(i32.load8_u (i32.const 101))", i64::from(b'%')),
    ];
    on_request(&body.concat()).config("config").request("GET", "/\u{7f}").run();
}

#[test]
fn what_was_set_is_what_is_got() {
    let body = "(call $set_method (i32.const 0) (i32.const 3))
        (call $set_uri (i32.const 4) (i32.const 4))
        (call $set_template (i32.const 0) (i32.const 3))
        (call $set_status_code (i32.const 201))"
        .to_owned()
        + &expect("(call $get_method (i32.const 64) (i32.const 9))", 3)
        + &expect("(call $get_uri (i32.const 64) (i32.const 9))", 4)
        + &expect("(call $get_template (i32.const 64) (i32.const 9))", 3)
        + &expect("(call $get_status_code)", 201);
    let outcome = on_request(&body).request("PUT", "/").run().exchange;
    assert_eq!((&*outcome.method, &*outcome.uri), (&b"GET"[..], &b"/a?b"[..]));
    assert_eq!((outcome.kept.template(), outcome.status), (&b"GET"[..], Some(201)));
}

#[test]
fn wrong_arguments_trap_by_name() {
    for (call, error) in [
        ("(call $set_method (i32.const 0) (i32.const 0))", "set_method got an empty method"),
        (
            "(call $set_method (i32.const 0) (i32.const 5))",
            r#"set_method got method "GET /", which is not a token"#,
        ),
        (
            r#"(i64.store (i32.const 64) (i64.const 0x004543415254))
               (call $set_method (i32.const 64) (i32.const 5))"#,
            r#"set_method got method "TRACE", which clients may not use either"#,
        ),
        (
            "(call $set_uri (i32.const 0) (i32.const 3))",
            "set_uri got \"GET\" as URI: expected it to start with \"/\", \"?\", \"http://\" or \"https://\"",
        ),
        ("(call $set_template (i32.const 0) (i32.const 0))", "set_template got an empty template"),
        (
            "(call $set_status_code (i32.const 99))",
            "set_status_code got status 99, expected 100 to 999",
        ),
        (
            "(call $set_status_code (i32.const 1000))",
            "set_status_code got status 1000, expected 100 to 999",
        ),
        (
            "(drop (call $get_uri (i32.const 65535) (i32.const 4)))",
            "get_uri got 4 bytes at 65535, outside the memory of 65536 bytes",
        ),
        (
            "(call $log (i32.const 0) (i32.const -1) (i32.const 2))",
            "log got 2 bytes at 4294967295, outside the memory of 65536 bytes",
        ),
        (
            "(drop (call $get_header_names (i32.const 4) (i32.const 0) (i32.const 0)))",
            "get_header_names got header kind 4, expected 0 to 3",
        ),
        (
            "(drop (call $read_body (i32.const 2) (i32.const 0) (i32.const 1)))",
            "read_body got body kind 2, expected 0 or 1",
        ),
        (
            "(drop (call $read_body (i32.const 0) (i32.const 0) (i32.const 0)))",
            "read_body got an empty buffer",
        ),
        (
            "(call $write_body (i32.const 2) (i32.const 0) (i32.const 1))",
            "write_body got body kind 2, expected 0 or 1",
        ),
    ] {
        let got = on_request(call).request("GET", "/abc").error();
        assert_eq!(got, format!("handle_request: {error}"));
    }
}

#[test]
fn log_does_not_look_at_what_it_does_not_write() {
    let silent = on_request(
        "(call $log (i32.const -1) (i32.const -1) (i32.const 2))
         (call $log (i32.const 3) (i32.const -1) (i32.const 2))",
    );
    assert!(silent.run().exchange.log.is_empty());
    let body = expect("(call $log_enabled (i32.const 3))", 0)
        + &expect("(call $log_enabled (i32.const -5))", 0)
        + &expect("(call $log_enabled (i32.const 2))", 1)
        + "(call $log (i32.const 2) (i32.const -1) (i32.const 0))";
    assert_eq!(on_request(&body).run().exchange.log, [(Level::Error, String::new())]);
}

#[test]
fn bodies_are_read_in_pieces_and_end_with_their_last_byte() {
    let read =
        |limit| format!("(call $read_body (i32.const 0) (i32.const 64) (i32.const {limit}))");
    let body = [
        expect_packed(&read(4), 0, 4),
        expect_packed(&read(4), 0, 4),
        expect_packed(&read(4), 1, 3),
        expect_packed(&read(4), 1, 0),
        expect("(i32.load8_u (i32.const 66))", i64::from(b'd')),
    ];
    on_request(&body.concat()).body("hello world").run();
    on_request(&expect_packed(&read(11), 1, 11)).body("hello world").run();
    on_request(&expect_packed(&read(11), 1, 0)).run();
    let parked = on_request(&expect_packed(&read(11), 1, 11)).body("hello world");
    parked.parks(3).run();
}

#[test]
fn others_get_their_turn_while_much_is_copied() {
    let (all, most) = ((5 << 20) / 2, 3 << 20);
    let body: Vec<u8> = (0..all).map(|at| (at % 251) as u8).collect();
    let read = format!("(call $read_body (i32.const 0) (i32.const 64) (i32.const {all}))");
    let write = format!("(call $write_body (i32.const 0) (i32.const 64) (i32.const {all}))");
    let grow = "(drop (memory.grow (i32.const 50)))".to_owned();
    let copy = grow.clone() + &expect_packed(&read, 1, all) + &write;
    let exchange = on_request(&copy).body(&body).parks(2).run().exchange;
    assert_eq!(exchange.new_request_body.as_ref(), Some(&body));
    assert_eq!(exchange.sleeps, [Duration::ZERO; 4], "after each MiB but the last");

    let more = grow.clone() + &write + &write;
    let error = on_request(&more).error();
    assert_eq!(error, format!("handle_request: write_body: fake body would exceed {most} bytes"));
    // Short in the middle of a piece, and at its end.
    for len in [(1 << 20) + 1, 1 << 20] {
        let exchange = on_request(&(grow.clone() + &expect_packed(&read, 1, len)));
        let exchange = exchange.body(&body[..len as usize]).run().exchange;
        assert_eq!(exchange.sleeps.len(), (len as usize - 1) >> 20);
    }
}

#[test]
fn the_first_write_of_a_phase_replaces() {
    let write = |len| format!("(call $write_body (i32.const 1) (i32.const 0) (i32.const {len}))");
    let guest = format!(
        r#"(module {IMPORTS} (memory (export "memory") 1) (data (i32.const 0) "GET")
            (func (export "handle_request") (result i64)
              (drop (call $enable_features (i32.const 2))) {two} {one} (i64.const 1))
            (func (export "handle_response") (param i32 i32) {two} {one}))"#,
        two = write(2),
        one = write(1),
    );
    let outcome = Test::wat(&guest).upstream(200, &[], "upstream").run();
    assert_eq!(outcome.to_upstream.final_response_body(), "GEG");
    assert_eq!(outcome.body(), "GEG");

    let emptied = on_request("(call $write_body (i32.const 0) (i32.const -1) (i32.const 0))");
    assert_eq!(emptied.body("x").run().exchange.new_request_body, Some(vec![]));
}

#[test]
fn a_host_that_cannot_ends_the_call() {
    let read = "(drop (call $read_body (i32.const 0) (i32.const 64) (i32.const 4)))";
    let error = on_request(read).broken_body("the client closed the connection").error();
    let expected = "handle_request: read_body: the client closed the connection";
    assert_eq!(error, expected);
}
