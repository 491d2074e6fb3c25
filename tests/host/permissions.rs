//! Which function may be called when: every function in every phase with every single feature,
//! against the table of the ABI.

use ngx_http_wasm_handler_module::abi::Features;
use ngx_http_wasm_handler_module::runtime::guest::compile;

use crate::support::{ENGINE, Test};

const BQ: Features = Features::BUFFER_REQUEST;
const BS: Features = Features::BUFFER_RESPONSE;
const TRAILERS: Features = Features::TRAILERS;

/// What the table says about one phase.
#[derive(Clone, Copy)]
enum Rule {
    Yes,
    With(Features),
    AfterNext,
    /// Needs the trailers feature, and then still cannot.
    ReadOnly,
}
use Rule::*;

/// Call as the guest makes it, whether start functions may, then handle_request, handle_response.
#[rustfmt::skip]
const TABLE: &[(&str, &str, bool, Rule, Rule)] = &[
    ("enable_features",      "(drop (call $enable_features (i32.const 0)))", true, Yes, Yes),
    ("get_config",           "(drop (call $get_config (i32.const 64) (i32.const 8)))", true, Yes, Yes),
    ("log",                  "(call $log (i32.const 0) (i32.const 64) (i32.const 1))", true, Yes, Yes),
    ("log_enabled",          "(drop (call $log_enabled (i32.const 0)))", true, Yes, Yes),
    ("get_method",           "(drop (call $get_method (i32.const 64) (i32.const 8)))", false, Yes, Yes),
    ("set_method",           "(call $set_method (i32.const 32) (i32.const 1))", false, Yes, AfterNext),
    ("get_uri",              "(drop (call $get_uri (i32.const 64) (i32.const 8)))", false, Yes, Yes),
    ("set_uri",              "(call $set_uri (i32.const 33) (i32.const 1))", false, Yes, AfterNext),
    ("get_protocol_version", "(drop (call $get_protocol_version (i32.const 64) (i32.const 8)))", false, Yes, Yes),
    ("get_source_addr",      "(drop (call $get_source_addr (i32.const 64) (i32.const 8)))", false, Yes, Yes),
    ("get_header_names",     "(drop (call $get_header_names (i32.const 0) (i32.const 64) (i32.const 8)))", false, Yes, Yes),
    ("get_header_names",     "(drop (call $get_header_names (i32.const 1) (i32.const 64) (i32.const 8)))", false, Yes, Yes),
    ("get_header_names",     "(drop (call $get_header_names (i32.const 2) (i32.const 64) (i32.const 8)))", false, Yes, Yes),
    ("get_header_names",     "(drop (call $get_header_names (i32.const 3) (i32.const 64) (i32.const 8)))", false, Yes, Yes),
    ("get_header_values",    "(drop (call $get_header_values (i32.const 0) (i32.const 32) (i32.const 1) (i32.const 64) (i32.const 8)))", false, Yes, Yes),
    ("get_header_values",    "(drop (call $get_header_values (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 64) (i32.const 8)))", false, Yes, Yes),
    ("get_header_values",    "(drop (call $get_header_values (i32.const 2) (i32.const 32) (i32.const 1) (i32.const 64) (i32.const 8)))", false, Yes, Yes),
    ("get_header_values",    "(drop (call $get_header_values (i32.const 3) (i32.const 32) (i32.const 1) (i32.const 64) (i32.const 8)))", false, Yes, Yes),
    ("set_header_value",     "(call $set_header_value (i32.const 0) (i32.const 32) (i32.const 1) (i32.const 32) (i32.const 1))", false, Yes, AfterNext),
    ("set_header_value",     "(call $set_header_value (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 32) (i32.const 1))", false, Yes, Yes),
    ("set_header_value",     "(call $set_header_value (i32.const 2) (i32.const 32) (i32.const 1) (i32.const 32) (i32.const 1))", false, ReadOnly, AfterNext),
    ("set_header_value",     "(call $set_header_value (i32.const 3) (i32.const 32) (i32.const 1) (i32.const 32) (i32.const 1))", false, With(TRAILERS), With(TRAILERS)),
    ("add_header_value",     "(call $add_header_value (i32.const 0) (i32.const 32) (i32.const 1) (i32.const 32) (i32.const 1))", false, Yes, AfterNext),
    ("add_header_value",     "(call $add_header_value (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 32) (i32.const 1))", false, Yes, Yes),
    ("add_header_value",     "(call $add_header_value (i32.const 2) (i32.const 32) (i32.const 1) (i32.const 32) (i32.const 1))", false, ReadOnly, AfterNext),
    ("add_header_value",     "(call $add_header_value (i32.const 3) (i32.const 32) (i32.const 1) (i32.const 32) (i32.const 1))", false, With(TRAILERS), With(TRAILERS)),
    ("remove_header",        "(call $remove_header (i32.const 0) (i32.const 32) (i32.const 1))", false, Yes, AfterNext),
    ("remove_header",        "(call $remove_header (i32.const 1) (i32.const 32) (i32.const 1))", false, Yes, Yes),
    ("remove_header",        "(call $remove_header (i32.const 2) (i32.const 32) (i32.const 1))", false, ReadOnly, AfterNext),
    ("remove_header",        "(call $remove_header (i32.const 3) (i32.const 32) (i32.const 1))", false, With(TRAILERS), With(TRAILERS)),
    ("read_body",            "(drop (call $read_body (i32.const 0) (i32.const 64) (i32.const 8)))", false, Yes, With(BQ)),
    ("read_body",            "(drop (call $read_body (i32.const 1) (i32.const 64) (i32.const 8)))", false, Yes, With(BS)),
    ("write_body",           "(call $write_body (i32.const 0) (i32.const 32) (i32.const 1))", false, Yes, AfterNext),
    ("write_body",           "(call $write_body (i32.const 1) (i32.const 32) (i32.const 1))", false, Yes, With(BS)),
    ("get_status_code",      "(drop (call $get_status_code))", false, Yes, Yes),
    ("set_status_code",      "(call $set_status_code (i32.const 404))", false, Yes, Yes),
    ("get_template",         "(drop (call $get_template (i32.const 64) (i32.const 8)))", false, Yes, Yes),
    ("set_template",         "(call $set_template (i32.const 32) (i32.const 1))", false, Yes, AfterNext),
];

/// All functions of the ABI with their types.
#[rustfmt::skip]
pub const IMPORTS: &str = r#"
    (import "http_handler" "enable_features" (func $enable_features (param i32) (result i32)))
    (import "http_handler" "get_config" (func $get_config (param i32 i32) (result i32)))
    (import "http_handler" "log" (func $log (param i32 i32 i32)))
    (import "http_handler" "log_enabled" (func $log_enabled (param i32) (result i32)))
    (import "http_handler" "get_method" (func $get_method (param i32 i32) (result i32)))
    (import "http_handler" "set_method" (func $set_method (param i32 i32)))
    (import "http_handler" "get_uri" (func $get_uri (param i32 i32) (result i32)))
    (import "http_handler" "set_uri" (func $set_uri (param i32 i32)))
    (import "http_handler" "get_protocol_version" (func $get_protocol_version (param i32 i32) (result i32)))
    (import "http_handler" "get_source_addr" (func $get_source_addr (param i32 i32) (result i32)))
    (import "http_handler" "get_header_names" (func $get_header_names (param i32 i32 i32) (result i64)))
    (import "http_handler" "get_header_values" (func $get_header_values (param i32 i32 i32 i32 i32) (result i64)))
    (import "http_handler" "set_header_value" (func $set_header_value (param i32 i32 i32 i32 i32)))
    (import "http_handler" "add_header_value" (func $add_header_value (param i32 i32 i32 i32 i32)))
    (import "http_handler" "remove_header" (func $remove_header (param i32 i32 i32)))
    (import "http_handler" "read_body" (func $read_body (param i32 i32 i32) (result i64)))
    (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))
    (import "http_handler" "get_status_code" (func $get_status_code (result i32)))
    (import "http_handler" "set_status_code" (func $set_status_code (param i32)))
    (import "http_handler" "get_template" (func $get_template (param i32 i32) (result i32)))
    (import "http_handler" "set_template" (func $set_template (param i32 i32)))
"#;

/// A guest whose configuration says which call to make, in which phase, after enabling what.
fn caller() -> String {
    let calls: Vec<String> = TABLE.iter().map(|(_, call, ..)| format!("(func {call})")).collect();
    let elements: Vec<String> = (0..calls.len()).map(|n| (21 + n).to_string()).collect();
    format!(
        r#"(module {IMPORTS} {calls}
          (table funcref (elem {elements}))
          (memory (export "memory") 1)
          (data (i32.const 32) "x/")
          (func $in_phase (param $phase i32)
            (if (i32.eq (local.get $phase) (i32.load8_u (i32.const 1)))
              (then (call_indirect (i32.load8_u (i32.const 0))))))
          (func $start
            (drop (call $get_config (i32.const 0) (i32.const 3)))
            (drop (call $enable_features (i32.load8_u (i32.const 2))))
            (call $in_phase (i32.const 0)))
          (start $start)
          (func (export "handle_request") (result i64)
            (call $in_phase (i32.const 1)) (i64.const 1))
          (func (export "handle_response") (param i32 i32)
            (call $in_phase (i32.const 2))))"#,
        calls = calls.join("\n"),
        elements = elements.join(" "),
    )
}

fn refusal(function: &str, rule: Rule, features: Features) -> Option<String> {
    let needs = |feature| match features.contains(feature) {
        true => None,
        false => Some(format!("{function} needs feature {}", name(feature))),
    };
    match rule {
        Yes => None,
        With(feature) => needs(feature),
        AfterNext => Some(format!("{function} is not allowed after next")),
        ReadOnly => {
            Some(needs(TRAILERS).unwrap_or(format!("{function} cannot change request trailers")))
        }
    }
}

fn name(feature: Features) -> String {
    format!("{feature:?}").trim_matches(['{', '}']).to_owned()
}

#[test]
fn functions_are_allowed_where_the_table_says() {
    let module = compile(&ENGINE, caller().as_bytes()).expect("compiles");
    for (index, &(function, call, in_start, in_request, in_response)) in TABLE.iter().enumerate() {
        for phase in 0..3 {
            for bits in 0..8 {
                let features = Features::from_bits_retain(bits);
                let test = Test::module(&module).config([index as u8, phase, bits as u8]);
                let (got, expected) = if phase == 0 {
                    let expected = (!in_start).then(|| {
                        let rule = "is not allowed outside a request";
                        format!("does not start: start section: {function} {rule}")
                    });
                    (test.start().err().map(|error| error.to_string()), expected)
                } else {
                    let (during, rule) = match phase {
                        1 => ("handle_request", in_request),
                        _ => ("handle_response", in_response),
                    };
                    let expected = refusal(function, rule, features)
                        .map(|refusal| format!("{during}: {refusal}"));
                    (test.try_run().err().map(|error| error.to_string()), expected)
                };
                assert_eq!(got, expected, "{call} in phase {phase} with {features:?}");
            }
        }
    }
}

#[test]
fn the_table_has_every_function() {
    for line in IMPORTS.lines().filter(|line| !line.trim().is_empty()) {
        let function = line.split('"').nth(3).expect("a name");
        assert!(TABLE.iter().any(|(name, ..)| *name == function), "{function}");
    }
}
