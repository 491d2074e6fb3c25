//! Header and trailer functions, checked through a guest that prints what it gets.

use ngx_http_wasm_handler_module::abi::Features;
use proptest::prelude::*;

use crate::permissions::IMPORTS;
use crate::support::{Outcome, Test};

/// A guest that runs `body` and then answers with a list: `$list` is where it starts.
fn lister(body: &str, list: &str) -> Test {
    let body = format!(
        r#"{body}
        (local.set $len (i32.wrap_i64 (local.tee $list {list})))
        (i64.store (i32.const 40000) (local.get $list))
        (call $write_body (i32.const 1) (i32.const 40000) (i32.const 8))
        (call $write_body (i32.const 1) (i32.const 1024) (local.get $len))
        (return (i64.const 0))"#
    );
    let imports = format!(r#"{IMPORTS} (data (i32.const 0) "X-Nameabva:lue\n")"#);
    Test::on_request(&imports, &format!("(local $list i64) (local $len i32) {body}"))
}

const NAMES: &str = "(call $get_header_names (i32.const 0) (i32.const 1024) (i32.const 30000))";
/// Values of "X-Name".
const VALUES: &str = "(call $get_header_values (i32.const 0) (i32.const 0) (i32.const 6)
    (i32.const 1024) (i32.const 30000))";

fn listed(outcome: Outcome) -> (u32, Vec<String>) {
    let body = outcome.exchange.new_response_body.expect("a list");
    let (packed, list) = body.split_at(8);
    let packed = u64::from_le_bytes(packed.try_into().expect("eight bytes"));
    assert_eq!(packed as u32 as usize, list.len());
    let mut strings: Vec<String> = list
        .split(|&byte| byte == 0)
        .map(|string| String::from_utf8_lossy(string).into_owned())
        .collect();
    assert_eq!(strings.pop().as_deref(), Some(""));
    ((packed >> 32) as u32, strings)
}

fn values(test: Test) -> Vec<String> {
    let (count, values) = listed(test.run());
    assert_eq!(count as usize, values.len());
    values
}

#[test]
fn names_are_lower_case_and_distinct() {
    let test = lister("", NAMES).header("B", "1").header("A-b", "2").header("a-B", "3");
    assert_eq!(listed(test.run()), (2, vec!["b".to_owned(), "a-b".to_owned()]));
    assert_eq!(listed(lister("", NAMES).run()), (0, vec![]));
}

#[test]
fn thousands_of_names_are_listed_once_each() {
    let mut test = lister("", NAMES);
    for n in 0..3000 {
        test = test.header(&format!("N{n}"), "").header(&format!("n{n}"), "");
    }
    let (count, names) = listed(test.run());
    assert_eq!(count, 3000);
    let expected: Vec<String> = (0..3000).map(|n| format!("n{n}")).collect();
    assert_eq!(names, expected);
}

#[test]
fn values_are_neither_split_nor_joined() {
    let test = lister("", VALUES)
        .header("x-name", "client, proxy1")
        .header("other", "1")
        .header("X-NAME", "proxy2");
    assert_eq!(values(test), ["client, proxy1", "proxy2"]);
    assert_eq!(values(lister("", VALUES).header("x-name", "")), [""]);
    assert!(values(lister("", VALUES)).is_empty());
}

#[test]
fn lists_that_do_not_fit_are_only_measured() {
    let measured = VALUES.replace("30000", "6");
    let test = lister("", &measured).header("x-name", "p, q").header("x-name", "r");
    let body = test.run().exchange.new_response_body.expect("a list");
    assert_eq!(body[..8], (2u64 << 32 | 7).to_le_bytes());
    assert_eq!(body[8..], [0; 7]);
}

#[test]
fn lists_outside_memory_trap() {
    for (list, function) in [(NAMES, "get_header_names"), (VALUES, "get_header_values")] {
        let outside = list.replace("1024", "65531");
        let error = lister("", &outside).header("x-name", "value").error();
        let start = format!("handle_request: {function} got ");
        assert!(error.starts_with(&start), "{error}");
        let ignored = list.replace("1024", "65531").replace("30000", "0");
        lister("", &ignored).run();
    }
}

#[test]
fn set_collapses_add_appends_remove_removes() {
    let with = |function: &str, value_len: u32| {
        let value = format!("(i32.const 6) (i32.const {value_len})");
        let value = if function == "remove_header" { "" } else { &value };
        let call = format!("(call ${function} (i32.const 0) (i32.const 0) (i32.const 6) {value})");
        lister(&call, VALUES)
    };
    let lines = |test: Test| test.header("x-name", "1").header("X-NAME", "2");
    assert_eq!(values(with("set_header_value", 2)), ["ab"]);
    assert_eq!(values(lines(with("set_header_value", 2))), ["ab"]);
    assert_eq!(values(lines(with("set_header_value", 0))), [""]);
    assert_eq!(values(with("add_header_value", 2)), ["ab"]);
    assert_eq!(values(lines(with("add_header_value", 2))), ["1", "2", "ab"]);
    assert_eq!(values(lines(with("add_header_value", 0))), ["1", "2", ""]);
    assert!(values(with("remove_header", 0)).is_empty());
    assert!(values(lines(with("remove_header", 0))).is_empty());
}

#[test]
fn nothing_can_split_a_header() {
    let set = |name: (u32, u32), value: (u32, u32)| {
        let call = format!(
            "(call $set_header_value (i32.const 1) (i32.const {}) (i32.const {})
               (i32.const {}) (i32.const {}))",
            name.0, name.1, value.0, value.1
        );
        lister(&call, VALUES).error()
    };
    assert_eq!(
        set((8, 3), (0, 1)),
        r#"handle_request: set_header_value got header name "va:", which is not a token"#
    );
    assert_eq!(
        set((0, 6), (10, 5)),
        r#"handle_request: set_header_value got a value for "X-Name" that contains CR, LF or NUL"#
    );
    assert_eq!(
        set((0, 6), (20, 1)),
        r#"handle_request: set_header_value got a value for "X-Name" that contains CR, LF or NUL"#
    );
    assert_eq!(set((0, 0), (0, 1)), "handle_request: set_header_value got an empty header name");
    let empty = VALUES.replace("(i32.const 6)", "(i32.const 0)");
    assert_eq!(
        lister("", &empty).error(),
        "handle_request: get_header_values got an empty header name"
    );
}

#[test]
fn a_host_is_one_that_a_server_takes() {
    // "Host" and "..".
    let data = "(i64.store (i32.const 64) (i64.const 0x2e2e74736f48))";
    let call = |function: &str, kind: u32, len: u32| {
        let call = format!(
            "{data} (call ${function} (i32.const {kind}) (i32.const 64) (i32.const 4)
               (i32.const 68) (i32.const {len}))"
        );
        lister(&call, VALUES)
    };
    let refused =
        |function| format!("handle_request: {function} got \"..\" as Host: it contains \"..\"");
    assert_eq!(call("set_header_value", 0, 2).error(), refused("set_header_value"));
    assert_eq!(call("add_header_value", 0, 2).error(), refused("add_header_value"));
    assert_eq!(
        call("set_header_value", 0, 0).error(),
        "handle_request: set_header_value got \"\" as Host: it names no host"
    );
    call("set_header_value", 1, 2).run();
}

#[test]
fn trailers_are_quiet_until_they_are_granted() {
    let trailers = NAMES.replacen("(i32.const 0)", "(i32.const 2)", 1);
    let enable = "(drop (call $enable_features (i32.const 4)))";
    let test = |body| lister(body, &trailers).trailer("grpc-status", "1");
    assert_eq!(listed(test("").run()).0, 0);
    assert_eq!(listed(test(enable).run()).0, 1);
    let unsupported = test(enable).supports(Features::BUFFER_REQUEST);
    assert_eq!(listed(unsupported.run()).0, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_values_arrive_as_they_were_sent(sent in prop::collection::vec("[!-~ ]{0,20}", 0..40)) {
        let mut test = lister("", VALUES);
        for value in &sent {
            test = test.header("x-name", value);
        }
        prop_assert_eq!(values(test), sent);
    }
}
