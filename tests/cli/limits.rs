//! What guests may set, write and log: the program stops where nginx with the module stops, and says
//! so in the same words.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::nginx::{OK, request, through_nginx};
use crate::support::{Program, Ran, folder};

const IMPORTS: &str = r#"
  (import "http_handler" "enable_features" (func $features (param i32) (result i32)))
  (import "http_handler" "set_header_value" (func $set_field (param i32 i32 i32 i32 i32)))
  (import "http_handler" "add_header_value" (func $add_field (param i32 i32 i32 i32 i32)))
  (import "http_handler" "remove_header" (func $remove_field (param i32 i32 i32)))
  (import "http_handler" "set_method" (func $method (param i32 i32)))
  (import "http_handler" "set_uri" (func $uri (param i32 i32)))
  (import "http_handler" "set_template" (func $template (param i32 i32)))
  (import "http_handler" "write_body" (func $write (param i32 i32 i32)))
  (import "http_handler" "log" (func $log (param i32 i32 i32)))"#;

/// One call, and how often it is made: before next, and after it.
type Calls = (&'static str, u32);

const SET: &str =
    "(call $set_field (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 1) (i32.const 1))";
const ADD: &str =
    "(call $add_field (i32.const 1) (i32.const 0) (i32.const 3) (i32.const 1) (i32.const 1))";
const TRAILER: &str =
    "(call $add_field (i32.const 3) (i32.const 0) (i32.const 3) (i32.const 1) (i32.const 1))";
const LONG: &str =
    "(call $set_field (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 0) (i32.const 60000))";
const LONG_EARLY: &str =
    "(call $set_field (i32.const 1) (i32.const 0) (i32.const 3) (i32.const 0) (i32.const 60000))";
const REMOVE: &str =
    "(call $add_field (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 0) (i32.const 9))
     (call $remove_field (i32.const 0) (i32.const 0) (i32.const 3))";
const METHOD: &str = "(call $method (i32.const 0) (i32.const 3))";
const URI: &str = "(call $uri (i32.const 65536) (i32.const 1000))";
const TEMPLATE: &str = "(call $template (i32.const 0) (i32.const 1048576))";
const TEMPLATE_TOO_LONG: &str = "(call $template (i32.const 0) (i32.const 1048577))";
const WRITE_REQUEST: &str = "(call $write (i32.const 0) (i32.const 0) (i32.const 1024))";
const WRITE_RESPONSE: &str = "(call $write (i32.const 1) (i32.const 0) (i32.const 1024))";
const LOG: &str = "(call $log (i32.const 0) (i32.const 0) (i32.const 1000))";
const LOG_LONG: &str = "(call $log (i32.const 1) (i32.const 0) (i32.const 65540))";
const NOTHING: Calls = ("", 0);

/// A guest with two megabytes of "x" and a path of "/xxx..." in its memory.
fn guest(folder: &Path, features: u32, before: Calls, after: Calls) -> PathBuf {
    let times = |(call, times): Calls| match times {
        0 => String::new(),
        _ => format!(
            "(local $n i32) (local.set $n (i32.const {times}))
             (loop $l {call} (local.set $n (i32.sub (local.get $n) (i32.const 1)))
               (br_if $l (local.get $n)))"
        ),
    };
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        text,
        r#"(module {IMPORTS}
             (memory (export "memory") 64)
             (func (export "_initialize")
               (memory.fill (i32.const 0) (i32.const 120) (i32.const 2097152))
               (i32.store8 (i32.const 65536) (i32.const 47))
               (drop (call $features (i32.const {features}))))
             (func (export "handle_request") (result i64) {} (i64.const 1))
             (func (export "handle_response") (param i32 i32) {}))"#,
        times(before),
        times(after)
    );
    let path = folder.join("guest.wat");
    std::fs::write(&path, text).expect("a file");
    path
}

/// One exchange: features, calls before and after next, what nginx and the program are told.
struct Case {
    features: u32,
    before: Calls,
    after: Calls,
    conf: &'static str,
    args: &'static [&'static str],
}

fn case(features: u32, before: Calls, after: Calls) -> Case {
    Case { features, before, after, conf: "", args: &[] }
}

struct Seen {
    program: Ran,
    /// What the client got of nginx.
    response: String,
    error_log: String,
}

fn see(case: &Case) -> Seen {
    let folder = folder();
    let path = guest(folder.path(), case.features, case.before, case.after);
    let lines: String = (0..60).map(|n| format!("X-{n}: 1\n")).collect();
    let get = request("GET /", &lines, "");
    let (to, from) = (folder.path().join("request"), folder.path().join("response"));
    std::fs::write(&to, &get).expect("a file");
    std::fs::write(&from, OK).expect("a file");
    let run = Program::new("run").arg(&path).arg("--request").arg(to).arg("--response").arg(from);
    let program = run.args(case.args).arg("--format=json").run();
    let log = folder.path().join("guest.log");
    let conf =
        format!("error_log {} info; http_wasm {}; {}", log.display(), path.display(), case.conf);
    let (_, response) = through_nginx(folder.path(), &conf, &get, OK);
    let error_log = std::fs::read_to_string(log).expect("a log");
    Seen { program, response, error_log }
}

/// Both are refused with the same words and the same status.
#[track_caller]
fn refused(case: &Case, expected: &str) {
    let Seen { program, response, error_log } = see(case);
    assert_eq!(program.status, Some(1), "{program:#?}");
    let error = program.err.lines().find(|line| line.starts_with("error: "));
    let error = error.unwrap_or_else(|| panic!("{program:#?}"));
    let reason = error.split_once("\": ").expect("a guest").1;
    assert_eq!(reason, expected);
    let said =
        error_log.lines().any(|line| without_context(line).ends_with(&format!(": {reason}")));
    assert!(said, "{reason}\n{error_log}");
    let status = response.split(' ').nth(1).expect("a status");
    assert!(program.err.contains(&format!("the client gets {status}")), "{response} {program:#?}");
}

/// A line of nginx's log without what nginx was doing and for whom.
fn without_context(line: &str) -> &str {
    let line = line.split_once(", client: ").map_or(line, |(text, _)| text);
    line.rsplit_once(" while ").map_or(line, |(text, _)| text)
}

/// Neither is.
#[track_caller]
fn accepted(case: &Case) -> Seen {
    let seen = see(case);
    assert_eq!(seen.program.status, Some(0), "{:#?}", seen.program);
    assert!(seen.response.starts_with("HTTP/1.1 200 "), "{} {}", seen.response, seen.error_log);
    seen
}

#[test]
fn fields_are_limited() {
    let too_many = "fields of one kind that guests set on one request would be more than 1000";
    for (call, function) in [(SET, "set"), (ADD, "add"), (TRAILER, "add")] {
        accepted(&case(4, (call, 1000), NOTHING));
        let reason = format!("handle_request: {function}_header_value: {too_many}");
        refused(&case(4, (call, 1001), NOTHING), &reason);
    }
    accepted(&case(0, (ADD, 600), (ADD, 400)));
    let reason = format!("handle_response: add_header_value: {too_many}");
    refused(&case(0, (ADD, 600), (ADD, 401)), &reason);
    refused(&case(4, NOTHING, (TRAILER, 1001)), &reason);
}

#[test]
fn bytes_are_limited() {
    let too_large =
        "what guests set on one request (fields, method, URI) would exceed 1048576 bytes";
    // Each costs 64 bytes beside its text; a name is kept twice, a target three times, and a list of
    // 63 lines is built anew.
    for (call, function, cost) in [
        (LONG_EARLY, "set_header_value", 60000 + 6 + 64),
        (METHOD, "set_method", 3 + 64),
        (URI, "set_uri", 3000 + 64),
        (REMOVE, "remove_header", 9 + 6 + 64 + 63 * 64 + 64),
    ] {
        let most = (1 << 20) / cost;
        accepted(&case(0, (call, most), NOTHING));
        let reason = format!("handle_request: {function}: {too_large}");
        refused(&case(0, (call, most + 1), NOTHING), &reason);
    }
    refused(
        &case(0, (LONG, 9), (LONG_EARLY, 9)),
        &format!("handle_response: set_header_value: {too_large}"),
    );
}

#[test]
fn a_template_is_limited() {
    // It replaces the one before: nothing piles up.
    accepted(&case(0, (TEMPLATE, 10), NOTHING));
    refused(
        &case(0, (TEMPLATE_TOO_LONG, 1), NOTHING),
        "handle_request: set_template: the template would exceed 1048576 bytes",
    );
}

#[test]
fn bodies_are_limited() {
    let limits = |features, before, after| Case {
        conf: "client_max_body_size 8k; http_wasm_response_buffer 4k max=8k;",
        args: &["--client-max-body-size=8k", "--response-buffer=8k"],
        ..case(features, before, after)
    };
    accepted(&limits(3, (WRITE_REQUEST, 8), (WRITE_RESPONSE, 8)));
    refused(
        &limits(0, (WRITE_REQUEST, 9), NOTHING),
        "handle_request: write_body: the request body (client_max_body_size) would exceed 8192 bytes",
    );
    let response =
        "write_body: the response body (http_wasm_response_buffer) would exceed 8192 bytes";
    refused(&limits(0, (WRITE_RESPONSE, 9), NOTHING), &format!("handle_request: {response}"));
    refused(&limits(2, NOTHING, (WRITE_RESPONSE, 9)), &format!("handle_response: {response}"));
    // What the guest wrote goes before the nine bytes of the next handler.
    accepted(&limits(0, (WRITE_RESPONSE, 8), NOTHING));
    let too_much = "the response cannot be buffered: the body would exceed 8192 bytes \
                    (http_wasm_response_buffer)";
    refused(&limits(2, (WRITE_RESPONSE, 8), NOTHING), too_much);
    // None at all.
    let unlimited = Case {
        conf: "client_max_body_size 0;",
        args: &["--client-max-body-size=0"],
        ..case(0, (WRITE_REQUEST, 2000), NOTHING)
    };
    accepted(&unlimited);
}

/// How much was logged of "x", which nginx cuts into lines of its own, and the lines that say
/// something.
fn counted<'a>(lines: impl Iterator<Item = &'a str>) -> (usize, Vec<&'a str>) {
    let (text, lines): (Vec<_>, Vec<_>) = lines.partition(|line| line.trim_matches('x').is_empty());
    (text.concat().len(), lines)
}

#[test]
fn logs_are_limited() {
    for (before, after) in
        [((LOG, 900), NOTHING), ((LOG_LONG, 9), (LOG_LONG, 9)), ((LOG, 3), (LOG, 3))]
    {
        let Seen { program, error_log, .. } = accepted(&case(0, before, after));
        let json: Value = serde_json::from_str(&program.out).expect("JSON");
        let in_program = json["log"].as_array().expect("a list").iter();
        let in_program = in_program.map(|line| line["message"].as_str().expect("text"));
        // The lines of a long message are numbered.
        let in_nginx = error_log
            .lines()
            .filter_map(|line| line.split_once("http_wasm guest \"guest\"")?.1.split_once(": "))
            .map(|(_, text)| without_context(text));
        assert_eq!(counted(in_program), counted(in_nginx));
    }
}
