//! What a guest's code says about itself before it runs.

use wasmparser::{ExternalKind, FunctionBody, Operator, Parser, Payload, TypeRef};

use crate::abi::EXPORT_HANDLE_RESPONSE;

/// Whether `handle_response` of a guest, in binary or text format, is an empty function: calling it
/// has no effect that anybody could see. False of what is no guest, and of a compiled one, which does
/// not say.
pub fn ignores_responses(bytes: &[u8]) -> bool {
    wat::parse_bytes(bytes).ok().and_then(|wasm| is_empty(&wasm)).unwrap_or(false)
}

/// `None` when the module does not have the function, or cannot be read as far as it.
fn is_empty(wasm: &[u8]) -> Option<bool> {
    let mut imported = 0;
    let mut exported = None;
    let mut bodies = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let is_function =
                        matches!(import.ok()?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_));
                    imported += u32::from(is_function);
                }
            }
            Payload::ExportSection(exports) => {
                exported = exports
                    .into_iter()
                    .filter_map(Result::ok)
                    .find(|it| it.kind == ExternalKind::Func && it.name == EXPORT_HANDLE_RESPONSE)
                    .map(|export| export.index);
            }
            Payload::CodeSectionEntry(body) => {
                if exported? == imported + bodies {
                    return does_nothing(&body);
                }
                bodies += 1;
            }
            _ => {}
        }
    }
    None
}

fn does_nothing(body: &FunctionBody<'_>) -> Option<bool> {
    for operator in body.get_operators_reader().ok()? {
        match operator.ok()? {
            Operator::End | Operator::Return => {}
            _ => return Some(false),
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(response: &str) -> String {
        format!(
            r#"(module
              (import "http_handler" "log" (func $log (param i32 i32 i32)))
              (import "http_handler" "enable_features" (func $features (param i32) (result i32)))
              (memory (export "memory") 1)
              (func (export "handle_request") (result i64) (call $other) (i64.const 1))
              (func (export "handle_response") (param i32 i32) {response})
              (func $other (call $log (i32.const 0) (i32.const 0) (i32.const 0))))"#
        )
    }

    #[test]
    fn an_empty_function_is_known_in_both_formats() {
        for response in ["", "(return)", "(local i64)"] {
            let text = guest(response);
            assert!(ignores_responses(text.as_bytes()), "{response}");
            let binary = wat::parse_str(&text).expect("is text");
            assert!(ignores_responses(&binary), "{response}");
        }
    }

    #[test]
    fn a_function_with_code_is_called() {
        for response in ["(nop)", "(unreachable)", "(call $other)", "(drop (memory.size))"] {
            assert!(!ignores_responses(guest(response).as_bytes()), "{response}");
        }
        let imported = r#"(module (import "a" "b" (func (param i32 i32)))
            (export "handle_response" (func 0)) (func))"#;
        assert!(!ignores_responses(imported.as_bytes()));
    }

    #[test]
    fn of_what_is_no_guest_nothing_is_known() {
        let whole = wat::parse_str(guest("")).expect("is text");
        for bytes in [&b""[..], b"\0asm", b"(module", b"(module)", b"\x89cwasm\r\n"] {
            assert!(!ignores_responses(bytes));
        }
        for end in 0..whole.len() {
            // Cut, it may end behind the function and no earlier.
            let _ = ignores_responses(&whole[..end]);
        }
    }
}
