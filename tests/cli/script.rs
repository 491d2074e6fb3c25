//! Guests that do one thing after the other, written as lists.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A call of a host function.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Kind, name, value.
    Set(u32, &'static str, &'static str),
    Add(u32, &'static str, &'static str),
    Remove(u32, &'static str),
    Method(&'static str),
    Uri(&'static str),
    Status(u32),
    /// Reads a body to its end.
    Read(u32),
    Write(u32, &'static str),
}

/// Kinds of fields and bodies.
pub const REQUEST: u32 = 0;
pub const RESPONSE: u32 = 1;
pub const RESPONSE_TRAILERS: u32 = 3;

/// Features that a guest asks for at start.
pub const NONE: u32 = 0;
pub const BUFFER: u32 = 3;
pub const TRAILERS: u32 = 4;

const IMPORTS: &str = r#"
  (import "http_handler" "enable_features" (func $features (param i32) (result i32)))
  (import "http_handler" "set_header_value" (func $set (param i32 i32 i32 i32 i32)))
  (import "http_handler" "add_header_value" (func $add (param i32 i32 i32 i32 i32)))
  (import "http_handler" "remove_header" (func $remove (param i32 i32 i32)))
  (import "http_handler" "set_method" (func $method (param i32 i32)))
  (import "http_handler" "set_uri" (func $uri (param i32 i32)))
  (import "http_handler" "set_status_code" (func $status (param i32)))
  (import "http_handler" "read_body" (func $read (param i32 i32 i32) (result i64)))
  (import "http_handler" "write_body" (func $write (param i32 i32 i32)))"#;

/// Writes a guest into a folder: what it does before it says `next`, and what it does afterwards.
pub fn guest(folder: &Path, features: u32, before: &[Op], next: bool, after: &[Op]) -> PathBuf {
    let mut data = Vec::new();
    let before = code(before, &mut data);
    let after = code(after, &mut data);
    let data: String = data.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let text = format!(
        r#"(module {IMPORTS}
  (memory (export "memory") 2)
  (data (i32.const 0) "{data}")
  (func (export "_initialize") (drop (call $features (i32.const {features}))))
  (func (export "handle_request") (result i64) {before} (i64.const {next}))
  (func (export "handle_response") (param i32 i32) {after}))"#,
        next = u8::from(next)
    );
    let path = folder.join("script.wat");
    std::fs::write(&path, text).expect("a file");
    path
}

fn code(ops: &[Op], data: &mut Vec<u8>) -> String {
    let mut text = |text: &str| {
        let at = data.len();
        data.extend(text.as_bytes());
        format!("(i32.const {at}) (i32.const {})", text.len())
    };
    let mut code = String::new();
    for op in ops {
        let call = match *op {
            Op::Set(kind, name, value) => {
                format!("(call $set (i32.const {kind}) {} {})", text(name), text(value))
            }
            Op::Add(kind, name, value) => {
                format!("(call $add (i32.const {kind}) {} {})", text(name), text(value))
            }
            Op::Remove(kind, name) => format!("(call $remove (i32.const {kind}) {})", text(name)),
            Op::Method(method) => format!("(call $method {})", text(method)),
            Op::Uri(uri) => format!("(call $uri {})", text(uri)),
            Op::Status(status) => format!("(call $status (i32.const {status}))"),
            Op::Read(kind) => format!(
                "(drop (call $read (i32.const {kind}) (i32.const 65536) (i32.const 65536)))"
            ),
            Op::Write(kind, body) => format!("(call $write (i32.const {kind}) {})", text(body)),
        };
        // Writing to a string does not fail.
        let _ = writeln!(code, "{call}");
    }
    code
}
