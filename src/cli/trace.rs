//! Calls of host functions as lines: `get_method(limit=64) = "GET"`.

use std::fmt::Write as _;

use crate::abi::{Features, FieldKind, Level};
use crate::host::called::Called;

/// What is shown of one value.
const SHOWN: usize = 80;

/// Prints one call on standard error.
pub(crate) fn print(call: &Called<'_>) {
    anstream::eprintln!("  {}", line(call));
}

fn line(call: &Called<'_>) -> String {
    let arguments = arguments(call).join(", ");
    match call.result {
        Ok(result) => {
            let result = result.map(|result| format!(" = {}", shown(call, result)));
            format!("{}({arguments}){}", call.function, result.unwrap_or_default())
        }
        Err(denied) => format!("{}({arguments}) ends the call: {denied}", call.function),
    }
}

fn arguments(call: &Called<'_>) -> Vec<String> {
    let mut shown = Vec::new();
    let mut arguments = call.arguments.iter().peekable();
    while let Some(&(name, value)) = arguments.next() {
        if let Some(&(_, len)) = arguments.next_if(|(next, _)| next.ends_with("len")) {
            shown.push(bytes(call, value, len));
            continue;
        }
        match name {
            "buf" => {}
            "kind" if call.function.ends_with("_body") => shown.push(match value {
                0 => "request".to_owned(),
                1 => "response".to_owned(),
                _ => format!("kind={value}"),
            }),
            "kind" => shown.push(match FieldKind::from_abi(value as u32) {
                Some(FieldKind::Request) => "request".to_owned(),
                Some(FieldKind::Response) => "response".to_owned(),
                Some(FieldKind::RequestTrailers) => "request trailers".to_owned(),
                Some(FieldKind::ResponseTrailers) => "response trailers".to_owned(),
                None => format!("kind={value}"),
            }),
            "level" => shown.push(match Level::from_abi(value as i32) {
                Some(level) => format!("{level:?}").to_lowercase(),
                None => "none".to_owned(),
            }),
            "features" => shown.push(features(value as u32)),
            "status" => shown.push(value.to_string()),
            _ => shown.push(format!("{name}={value}")),
        }
    }
    shown
}

fn features(bits: u32) -> String {
    let names = format!("{:?}", Features::from_bits_retain(bits));
    match bits & !7 {
        0 => names,
        unknown => format!("{names} and {unknown:#x}"),
    }
}

fn shown(call: &Called<'_>, result: u64) -> String {
    let (high, low) = (result >> 32, result & u64::from(u32::MAX));
    match call.function {
        "enable_features" => features(low as u32),
        "log_enabled" => (low != 0).to_string(),
        "get_status_code" => low.to_string(),
        "read_body" => {
            let end = if high == 1 { ", the end" } else { "" };
            format!("{}{end}", buffer(call, low))
        }
        "get_header_names" | "get_header_values" => {
            let mut text = format!("{high}");
            if let Ok(list) = bytes_at(call, low) {
                // Each one ends with a NUL.
                let items = list.strip_suffix(b"\0").unwrap_or(list).split(|&byte| byte == 0);
                for item in items.take(usize::try_from(high).unwrap_or_default()) {
                    let _ = write!(text, " {}", quoted(item));
                }
            } else {
                let _ = write!(text, " of {low} bytes, more than the limit");
            }
            text
        }
        _ => buffer(call, low),
    }
}

/// What a function has put into the guest's buffer.
fn buffer(call: &Called<'_>, len: u64) -> String {
    match bytes_at(call, len) {
        Ok(bytes) => quoted(bytes),
        Err(TooLong) => format!("{len} bytes, more than the limit"),
    }
}

struct TooLong;

fn bytes_at<'a>(call: &'a Called<'_>, len: u64) -> Result<&'a [u8], TooLong> {
    let argument = |name| call.arguments.iter().find(|(other, _)| *other == name);
    let value = |name| argument(name).and_then(|(_, value)| u32::try_from(*value).ok());
    let (Some(buf), Some(limit), Ok(len)) = (value("buf"), value("limit"), u32::try_from(len))
    else {
        return Err(TooLong);
    };
    match len <= limit {
        true => call.memory.bytes(buf, len).map_err(|_| TooLong),
        false => Err(TooLong),
    }
}

/// Bytes that a guest passes; an address that is none is shown as it is.
fn bytes(call: &Called<'_>, ptr: i64, len: i64) -> String {
    let (ptr, len) = (ptr as u32, len as u32);
    match call.memory.bytes(ptr, len) {
        Ok(bytes) => quoted(bytes),
        Err(_) => format!("{len} bytes at {ptr}"),
    }
}

fn quoted(bytes: &[u8]) -> String {
    let shown = bytes.get(..SHOWN).unwrap_or(bytes);
    let mut text = "\"".to_owned();
    for chunk in shown.utf8_chunks() {
        let valid = format!("{:?}", chunk.valid());
        text.push_str(&valid[1..valid.len() - 1]);
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text.push('"');
    if shown.len() < bytes.len() {
        let _ = write!(text, "... ({} bytes)", bytes.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::error::{Denied, Rule};
    use crate::memory::GuestMemory;

    fn traced(
        function: &'static str,
        arguments: &[(&'static str, i64)],
        result: Option<u64>,
    ) -> String {
        let mut memory = b"GETx-a\0x-b\0\x1b".to_vec();
        let memory = &GuestMemory::new(&mut memory);
        line(&Called { function, arguments, result: Ok(result), memory })
    }

    #[test]
    fn calls_read_like_what_they_say() {
        assert_eq!(quoted(b"a\"\\\n\xff\xc3\xa9\x1b"), r#""a\"\\\n\xffé\u{1b}""#);
        let buf = [("buf", 0), ("limit", 3)];
        assert_eq!(traced("get_method", &buf, Some(3)), "get_method(limit=3) = \"GET\"");
        assert_eq!(
            traced("get_uri", &buf, Some(4)),
            "get_uri(limit=3) = 4 bytes, more than the limit"
        );
        let list = [("kind", 0), ("buf", 3), ("limit", 9)];
        assert_eq!(
            traced("get_header_names", &list, Some(2 << 32 | 8)),
            "get_header_names(request, limit=9) = 2 \"x-a\" \"x-b\""
        );
        assert_eq!(
            traced("read_body", &list, Some(1 << 32 | 3)),
            "read_body(request, limit=9) = \"x-a\", the end"
        );
        let set = [("kind", 1), ("name", 3), ("name_len", 3), ("value", 11), ("value_len", 1)];
        assert_eq!(
            traced("set_header_value", &set, None),
            "set_header_value(response, \"x-a\", \"\\u{1b}\")"
        );
        assert_eq!(
            traced("enable_features", &[("features", 9)], Some(1)),
            "enable_features({buffer_request} and 0x8) = {buffer_request}"
        );
        assert_eq!(
            traced("log", &[("level", -1), ("text", 99), ("len", 9)], None),
            "log(debug, 9 bytes at 99)"
        );
    }

    #[test]
    fn a_call_that_ends_the_guests_says_why() {
        let memory = &GuestMemory::new(&mut []);
        let denied = Denied::Rule(Rule::BadStatus(9));
        let call = Called {
            function: "set_status_code",
            arguments: &[("status", 9)],
            result: Err(&denied),
            memory,
        };
        assert_eq!(
            line(&call),
            "set_status_code(9) ends the call: got status 9, expected 100 to 999"
        );
    }
}
