//! A guest that takes secrets and card numbers out of response bodies.
//!
//! The configuration is JSON, and at least one of its members has to be there:
//!
//! ```json
//! { "secrets": ["open sesame"], "patterns": ["\\bAKIA[0-9A-Z]{16}\\b"], "cards": true }
//! ```
//!
//! | name | becomes |
//! |---|---|
//! | `secrets`: texts of 4 bytes or more | `[redacted]` |
//! | `patterns`: [regular expressions](https://docs.rs/regex/latest/regex/#syntax) | `[redacted]` |
//! | `cards`: numbers that can be those of cards, also in groups of digits | `#` for all digits except the last four |
//!
//! Bodies of text are looked at: `text/*`, JSON, XML, JavaScript, forms, and those without a type. A text that cannot be
//! read is not let through: in an encoding that nobody asked for (gzip), in a charset other than UTF-8, ASCII and Latin,
//! or a part of a whole (206). The client gets 502 then, and error_log a line. Texts are found as they are written here,
//! and not in escapes of JSON or HTML.
//!
//! The guest needs the whole response: limit it with `http_wasm_response_buffer` to a quarter of
//! `http_wasm_memory_limit`. A larger one may be a 500, and does not get out either. Where `http_wasm_buffer_types` is
//! set, it has to have `*`, or these types, and all responses a type. Headers are not looked at.

use std::ops::Range;

use aho_corasick::AhoCorasick;
use http_wasm_guest::host::{Request, Response, admin, feature, log};
use http_wasm_guest::{Guest, register};
use regex::bytes::Regex;
use serde::Deserialize;

const WARN: i32 = 1;
const ERROR: i32 = 2;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    secrets: Vec<String>,
    #[serde(default)]
    patterns: Vec<String>,
    #[serde(default)]
    cards: bool,
}

struct Redact {
    secrets: AhoCorasick,
    patterns: Vec<Regex>,
    cards: bool,
}

impl Guest for Redact {
    fn handle_response(&self, _: i32, _: &Request, response: &Response, is_error: bool) {
        if is_error || !is_text(&value(response, "content-type")) {
            return;
        }
        // Not read(), which ends after 16 MB: the rest would be lost.
        let mut body = Vec::new();
        for part in response.body.read_iter() {
            body.extend_from_slice(&part);
        }
        if body.is_empty() {
            return;
        }
        if let Some(reason) = unreadable(response) {
            log::write(WARN, format!("redact=refused reason=\"{reason}\"").as_bytes());
            response.set_status(502);
            response.header.remove(b"content-encoding");
            response.header.set(b"content-type", b"text/plain");
            response.body.write(b"502\n");
            return;
        }
        if let Some(redacted) = self.redact(body) {
            response.body.write(&redacted);
        }
    }
}

impl Redact {
    /// The body without what has to go; nothing if there was none of it.
    fn redact(&self, mut body: Vec<u8>) -> Option<Vec<u8>> {
        // All of them, also those that overlap: no rest of one stays beside the other.
        let mut ranges: Vec<Range<usize>> =
            self.secrets.find_overlapping_iter(&body).map(|found| found.range()).collect();
        for pattern in &self.patterns {
            ranges.extend(pattern.find_iter(&body).map(|found| found.range()));
        }
        ranges.sort_by_key(|range| range.start);
        let mut found = !ranges.is_empty();
        if found {
            body = without(&body, &ranges);
        }
        if self.cards {
            found |= cover_cards(&mut body);
        }
        found.then_some(body)
    }
}

/// The body with one `[redacted]` for ranges that overlap. They are in the order of their beginnings.
fn without(body: &[u8], ranges: &[Range<usize>]) -> Vec<u8> {
    let mut result = Vec::with_capacity(body.len());
    let mut end = 0;
    for (i, range) in ranges.iter().enumerate() {
        if i == 0 || range.start >= end {
            result.extend_from_slice(&body[end..range.start]);
            result.extend_from_slice(b"[redacted]");
        }
        end = end.max(range.end);
    }
    result.extend_from_slice(&body[end..]);
    result
}

/// Covers the numbers of cards, and says whether there was one. A number is made of whole groups of three digits or more, with
/// one space or hyphen between two of them; what is beside it may be digits, too.
fn cover_cards(body: &mut [u8]) -> bool {
    let mut found = false;
    let mut at = 0;
    while let Some(skip) = body[at..].iter().position(u8::is_ascii_digit) {
        let start = at + skip;
        let ends = groups(body, start);
        if let Some(end) = ends.iter().rev().find(|end| is_card(&body[start..**end])) {
            let digits = body[start..*end].iter_mut().rev().filter(|c| c.is_ascii_digit());
            digits.skip(4).for_each(|c| *c = b'#');
            found = true;
            at = *end;
        } else {
            at = start + body[start..].iter().take_while(|c| c.is_ascii_digit()).count();
        }
    }
    found
}

/// Where the groups end that begin at `start` and together have 19 digits at most. None, if it is inside of a word or of
/// a number with a point.
fn groups(body: &[u8], start: usize) -> Vec<usize> {
    let is_word = |c: &u8| c.is_ascii_alphanumeric() || *c == b'_';
    let mut ends = Vec::new();
    if matches!(body[..start], [.., c] if is_word(&c))
        || matches!(body[..start], [.., b'0'..=b'9', b'.'])
    {
        return ends;
    }
    let mut at = start;
    let mut digits = 0;
    while let Some(b'0'..=b'9') = body.get(at) {
        let group = body[at..].iter().take_while(|c| c.is_ascii_digit()).take(20).count();
        at += group;
        digits += group;
        if group < 3 || digits > 19 || body.get(at).is_some_and(is_word) {
            break;
        }
        if !matches!(body[at..], [b'.', b'0'..=b'9', ..]) {
            ends.push(at);
        }
        if !matches!(body.get(at), Some(b' ' | b'-')) {
            break;
        }
        at += 1;
    }
    ends
}

/// Whether these digits can be the number of a card: 13 to 19, the first as the networks have it, and the check of
/// ISO/IEC 7812.
fn is_card(text: &[u8]) -> bool {
    if !matches!(text, [b'2'..=b'6', ..]) {
        return false;
    }
    let (mut count, mut sum) = (0, 0);
    for c in text.iter().rev().filter(|c| c.is_ascii_digit()) {
        let digit = u32::from(c - b'0') * (1 + count % 2);
        sum += digit / 10 + digit % 10;
        count += 1;
    }
    (13..=19).contains(&count) && sum.is_multiple_of(10)
}

/// The values of a response header, in lower case.
fn value(response: &Response, name: &str) -> String {
    let values = response.header.values(name.as_bytes());
    String::from_utf8_lossy(&values.join(&b", "[..])).to_ascii_lowercase()
}

fn is_text(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    let subtype = media.strip_prefix("application/").unwrap_or_default();
    media.is_empty()
        || media.starts_with("text/")
        || media == "image/svg+xml"
        || subtype.ends_with("+json")
        || subtype.ends_with("+xml")
        || ["json", "xml", "javascript", "x-javascript", "x-ndjson", "x-www-form-urlencoded"]
            .contains(&subtype)
}

/// Why a text cannot be looked into.
fn unreadable(response: &Response) -> Option<&'static str> {
    let encoding = value(response, "content-encoding");
    let content_type = value(response, "content-type");
    let charset = content_type.split_once("charset=").map(|(_, text)| {
        text.split(';').next().unwrap_or_default().trim_matches([' ', '"', '\'']).to_string()
    });
    let is_plain = charset.is_none_or(|charset| {
        charset.is_empty()
            || ["utf-8", "utf8", "us-ascii", "ascii"].contains(&charset.as_str())
            || ["iso-8859-", "windows-125"].iter().any(|family| charset.starts_with(family))
    });
    match () {
        () if !encoding.is_empty() && encoding != "identity" => Some("encoded"),
        () if !is_plain => Some("charset"),
        () if response.status() == 206 => Some("part"),
        () => None,
    }
}

fn configure(text: &[u8]) -> Result<Redact, String> {
    let config: Config = serde_json::from_slice(text)
        .map_err(|e| format!("expected JSON with \"secrets\", \"patterns\" or \"cards\": {e}"))?;
    if let Some(i) = config.secrets.iter().position(|secret| secret.len() < 4) {
        return Err(format!("secrets[{i}]: expected a text of 4 bytes or more"));
    }
    let mut patterns = Vec::new();
    for (i, pattern) in config.patterns.iter().enumerate() {
        let regex = Regex::new(pattern).map_err(|e| format!("patterns[{i}]: {e}"))?;
        if [&b""[..], b"a", b" a-1 "].iter().any(|text| regex.find_iter(text).any(|m| m.is_empty()))
        {
            return Err(format!("patterns[{i}]: expected one that needs at least a character"));
        }
        patterns.push(regex);
    }
    if config.secrets.is_empty() && patterns.is_empty() && !config.cards {
        return Err("expected \"secrets\", \"patterns\" or \"cards\"".into());
    }
    let secrets = AhoCorasick::new(&config.secrets).map_err(|e| format!("secrets: {e}"))?;
    Ok(Redact { secrets, patterns, cards: config.cards })
}

fn main() {
    // A host that cannot hold responses back refuses this guest at its start, and not when a secret passes.
    let granted = admin::enable(feature::BufferResponse) & 2;
    let redact = match configure(&admin::config()) {
        Ok(_) if granted == 0 => Err("expected a host with buffer_response".into()),
        result => result,
    };
    match redact {
        Ok(redact) => register(redact),
        Err(reason) => {
            log::write(ERROR, format!("redact: {reason}").as_bytes());
            std::process::exit(1);
        }
    }
}
