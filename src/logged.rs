//! What a guest logged, as fields: messages are looked through for those that somebody wants to see
//! in an access log, be they written as JSON objects or as `key=value` (logfmt). Knows no server.

use serde_json::{Map, Value};

/// What somebody wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The last message.
    pub message: bool,
    /// Fields, in lower case, with `_` for what is neither letter nor digit.
    pub fields: Vec<String>,
}

/// What was found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    message: Option<Vec<u8>>,
    /// In the order of [`Wanted::fields`].
    fields: Vec<Option<Vec<u8>>>,
}

impl Wanted {
    /// Whether messages need not be looked at.
    pub fn is_nothing(&self) -> bool {
        !self.message && self.fields.is_empty()
    }

    /// Looks through a message. A field it has takes the place of an earlier message's.
    pub fn look(&self, message: &[u8], found: &mut Found) {
        if self.message {
            found.message = Some(message.to_vec());
        }
        if self.fields.is_empty() {
            return;
        }
        found.fields.resize(self.fields.len(), None);
        let at = |key: &[u8]| self.fields.iter().position(|wanted| matches(wanted, key));
        match object(message) {
            Some(object) => {
                for (key, value) in &object {
                    if let Some(at) = at(key.as_bytes()) {
                        found.fields[at] = Some(text(value));
                    }
                }
            }
            None => {
                for (key, value) in pairs(message) {
                    if let Some(at) = at(key) {
                        found.fields[at] = Some(value);
                    }
                }
            }
        }
    }
}

impl Found {
    /// The last message.
    pub fn message(&self) -> Option<&[u8]> {
        self.message.as_deref()
    }

    /// The last value of a field.
    pub fn field(&self, wanted: &Wanted, name: &[u8]) -> Option<&[u8]> {
        let at = wanted.fields.iter().position(|field| matches(field, name))?;
        self.fields.get(at)?.as_deref()
    }
}

/// Compares as names of variables are: in lower case, of letters, digits and `_`.
fn matches(wanted: &str, key: &[u8]) -> bool {
    let plain = |byte: u8| match byte.to_ascii_lowercase() {
        byte @ (b'a'..=b'z' | b'0'..=b'9') => byte,
        _ => b'_',
    };
    wanted.len() == key.len() && wanted.bytes().zip(key).all(|(a, &b)| a == plain(b))
}

fn object(message: &[u8]) -> Option<Map<String, Value>> {
    let message = message.trim_ascii();
    if !message.starts_with(b"{") {
        return None;
    }
    serde_json::from_slice(message).ok()
}

/// A string without its quotes, anything else as JSON has it.
fn text(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    }
}

/// The `key=value` pairs of a message. Values with spaces are in double quotes, in which a backslash
/// takes the next character as it is, but for `\n`, `\r` and `\t`.
fn pairs(message: &[u8]) -> impl Iterator<Item = (&[u8], Vec<u8>)> {
    let mut rest = message;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_ascii_start();
            if rest.is_empty() {
                return None;
            }
            let end = rest.iter().position(|&b| b == b'=' || b.is_ascii_whitespace());
            let (key, tail) = rest.split_at(end.unwrap_or(rest.len()));
            let Some(value) = tail.strip_prefix(b"=") else {
                // A word of a sentence.
                rest = tail;
                continue;
            };
            let (value, tail) = match value.strip_prefix(b"\"") {
                Some(quoted) => unquoted(quoted),
                None => {
                    let end = value.iter().position(u8::is_ascii_whitespace);
                    let (value, tail) = value.split_at(end.unwrap_or(value.len()));
                    (value.to_vec(), tail)
                }
            };
            rest = tail;
            return Some((key, value));
        }
    })
}

/// A value up to its closing quote, and what comes after it.
fn unquoted(quoted: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut value = Vec::new();
    let mut bytes = quoted.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => break,
            b'\\' => value.extend(bytes.next().map(|&next| match next {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                next => next,
            })),
            _ => value.push(byte),
        }
    }
    (value, bytes.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wanted(fields: &[&str]) -> Wanted {
        Wanted { message: true, fields: fields.iter().map(|&field| field.to_owned()).collect() }
    }

    fn look(fields: &[&str], messages: &[&str]) -> Vec<Option<String>> {
        let wanted = wanted(fields);
        let mut found = Found::default();
        messages.iter().for_each(|message| wanted.look(message.as_bytes(), &mut found));
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        fields.iter().map(|field| found.field(&wanted, field.as_bytes()).map(text)).collect()
    }

    fn some(values: &[&str]) -> Vec<Option<String>> {
        values.iter().map(|&value| Some(value.to_owned())).collect()
    }

    #[test]
    fn fields_of_json() {
        let message = r#" {"msg":"hi \"you\"","User-Id":17,"ok":true,"in":{"a":[1]},"none":null} "#;
        assert_eq!(
            look(&["msg", "user_id", "ok", "in", "none"], &[message]),
            some(&["hi \"you\"", "17", "true", r#"{"a":[1]}"#, "null"])
        );
        assert_eq!(look(&["missing"], &[message]), [None]);
    }

    #[test]
    fn fields_of_logfmt() {
        let message =
            r#"time=12:00 level=INFO msg="two words\n\"x\"" user.id=7 alone empty= end=1"#;
        assert_eq!(
            look(&["level", "msg", "user_id", "empty", "end"], &[message]),
            some(&["INFO", "two words\n\"x\"", "7", "", "1"])
        );
        assert_eq!(look(&["alone"], &[message]), [None]);
    }

    #[test]
    fn the_last_one_counts() {
        assert_eq!(look(&["a", "b"], &["a=1 b=1", r#"{"a":2}"#, "no field"]), some(&["2", "1"]));
        let wanted = wanted(&[]);
        let mut found = Found::default();
        wanted.look(b"one", &mut found);
        wanted.look(b"two", &mut found);
        assert_eq!(found.message(), Some(b"two".as_slice()));
    }

    #[test]
    fn broken_json_is_looked_at_as_text() {
        assert_eq!(look(&["a"], &[r#"{"a":1 a=2"#]), some(&["2"]));
        assert_eq!(look(&["a"], &[r#"a="never closed"#]), some(&["never closed"]));
    }

    proptest! {
        #[test]
        fn any_message_can_be_looked_at(message in prop::collection::vec(any::<u8>(), 0..200)) {
            wanted(&["a"]).look(&message, &mut Found::default());
        }

        #[test]
        fn any_value_comes_back(value in "[^\\\\\"\n\r\t]*") {
            prop_assert_eq!(look(&["a"], &[&format!("x a=\"{value}\" b=2")]), [Some(value)]);
        }
    }
}
