//! The guests that the ABI's other hosts are tested with.

use ngx_http_wasm_handler_module::abi::{Features, Level};

use crate::support::Test;

#[test]
fn auth_lets_one_password_through() {
    let auth = || Test::guest("examples/auth.wat");
    let right = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
    let realm = [r#"Basic realm="test""#.to_owned()];

    let none = auth().run();
    assert_eq!((none.goes_on(), none.status()), (false, 401));
    assert_eq!(none.exchange.response_header("www-authenticate"), realm);

    for wrong in ["", "0", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=!"] {
        let denied = auth().header("authorization", wrong).run();
        assert_eq!((denied.goes_on(), denied.status()), (false, 401), "{wrong}");
        assert!(denied.exchange.response_headers.is_empty());
    }

    let twice = auth().header("Authorization", right).header("Authorization", right);
    assert_eq!(twice.run().exchange.response_header("WWW-Authenticate"), realm);

    let allowed = auth().header("AUTHORIZATION", right).run();
    assert_eq!((allowed.goes_on(), allowed.status()), (true, 200));
}

#[test]
fn config_enables_what_it_says() {
    for wanted in [0u64, 1, 2, 4, 3, 7] {
        let outcome = Test::guest("examples/config.wat")
            .config(wanted.to_le_bytes())
            .body("request")
            .upstream(200, &[], "response")
            .run();
        assert!(outcome.goes_on());
        assert_eq!(outcome.to_upstream.final_request_body(), "request");
        assert_eq!(outcome.body(), "response");
    }
    let unsupported = Test::guest("examples/config.wat")
        .config(4u64.to_le_bytes())
        .supports(Features::BUFFER_REQUEST);
    assert!(unsupported.load_error().contains("unreachable"));
}

#[test]
fn log_is_written_at_info_only() {
    let log = || Test::guest("examples/log.wat");
    assert_eq!(log().run().exchange.lines(Level::Info), ["hello world"]);
    assert!(log().log_level(Level::Warn).run().exchange.log.is_empty());
    assert!(log().log_level(Level::Debug).error().contains("unreachable"));
}

#[test]
fn router_strips_a_prefix_or_answers() {
    let at = |uri| Test::guest("examples/router.wat").request("GET", uri).run();
    for uri in ["/", "/nothosst"] {
        let answered = at(uri);
        assert!(!answered.goes_on());
        assert_eq!(answered.body(), "hello world");
        assert_eq!(answered.exchange.response_header("content-type"), ["text/plain"]);
    }
    let long = format!("/{}", "a".repeat(256));
    for (uri, upstream) in [
        ("/host/a", "/a"),
        ("/host", "/"),
        ("/host?a=b", "/?a=b"),
        ("/host/b?name=panda", "/b?name=panda"),
        (&long, &long),
    ] {
        let routed = at(uri);
        assert!(routed.goes_on());
        assert_eq!(routed.exchange.uri, upstream.as_bytes());
    }
}

#[test]
fn redact_replaces_a_secret_in_both_bodies() {
    let redact = || Test::guest("examples/redact.wat").config("open sesame");
    let outcome = redact()
        .body("hello open sesame world")
        .upstream(200, &[], "open sesameopen sesame.")
        .run();
    assert_eq!(outcome.to_upstream.final_request_body(), "hello ########### world");
    assert_eq!(outcome.body(), "######################.");

    let untouched = redact().body("hello").upstream(200, &[], "world").run();
    assert_eq!(untouched.exchange.new_request_body, None);
    assert_eq!(untouched.body(), "world");
    assert!(redact().config("").load_error().contains("unreachable"));
}

#[test]
fn wasi_prints_request_and_response() {
    let wasi = || {
        Test::guest("examples/wasi.wat")
            .request("POST", "/v1.0/hi?name=panda")
            .header("Host", "localhost")
            .header("X-Many", "1")
            .header("x-many", "2")
            .trailer("grpc-status", "1")
            .body("{\"hello\": \"panda\"}")
            .upstream(418, &[("Content-Type", "application/json")], "{}")
    };
    let outcome = wasi().run();
    let expected = [
        "POST /v1.0/hi?name=panda HTTP/1.1",
        "host: localhost",
        "x-many: 1",
        "x-many: 2",
        "",
        "{\"hello\": \"panda\"}",
        "",
        "HTTP/1.1 418",
        "content-type: application/json",
        "",
        "{}",
    ];
    assert_eq!(outcome.exchange.lines(Level::Info), expected);

    let mut cut = wasi().start().expect("starts");
    let cut = cut.serve_with(true).expect("returns");
    assert_eq!(cut.exchange.lines(Level::Info).last(), Some(&"host error"));
}

#[test]
fn small_guests_do_what_they_are_named_for() {
    let version = Test::guest("e2e/protocol_version.wat").run();
    assert_eq!((version.goes_on(), &*version.body()), (false, "HTTP/1.1"));

    let method = Test::guest("e2e/method.wat").run().exchange;
    assert_eq!(method.method, b"POST");
    assert_eq!(method.final_request_body(), "GET");

    let uri = Test::guest("e2e/uri.wat").request("GET", "/v1.0/hi?name=panda");
    let uri = uri.run().exchange;
    assert_eq!(uri.uri, b"/v1.0/hello?name=teddy");
    assert_eq!(uri.final_request_body(), "/v1.0/hi?name=panda");

    let names = || Test::guest("e2e/header_names.wat");
    assert!(!names().run().goes_on());
    assert!(names().header("a", "1").header("B", "2").header("b", "3").run().goes_on());

    let value = Test::guest("e2e/header_value.wat").run().exchange;
    assert_eq!(value.request_header("content-type"), ["text/plain"]);

    let replaced = Test::guest("e2e/response_body.wat").upstream(200, &[], "x");
    assert_eq!(replaced.run().body(), "43");
}

#[test]
fn the_context_comes_back_to_the_same_instance() {
    let mut running = Test::guest("e2e/handle_response.wat").start().expect("starts");
    for _ in 0..3 {
        running.serve().expect("serves");
    }
}
