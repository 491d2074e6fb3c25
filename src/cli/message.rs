//! HTTP/1.1 messages in files and on the screen.
//!
//! Files may have plain line breaks, leave the last empty line out, and leave it to this program to
//! count the bytes of a body.

use std::fmt::Write as _;

use ureq::http::StatusCode;

use crate::escaped::Escaped;
use crate::http::{is_field_value, is_token};
use crate::runtime::precompiled::{digest, hex};

/// Name and value of a field line.
pub(crate) type Line = (Vec<u8>, Vec<u8>);

/// Field lines that one message may have.
const LINES: usize = 1024;

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: Vec<u8>,
    pub(crate) target: Vec<u8>,
    /// The minor version of HTTP/1.
    pub(crate) minor: u8,
    pub(crate) content: Content,
}

/// A response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) content: Content,
}

/// What requests and responses share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) fields: Vec<Line>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<Line>,
}

/// What is wrong with a message; the text follows the name of its file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadMessage {
    #[error("does not start like a request: {0}; expected a line such as \"GET /path HTTP/1.1\"")]
    Request(httparse::Error),
    #[error("does not start like a response: {0}; expected a line such as \"HTTP/1.1 200 OK\"")]
    Response(httparse::Error),
    #[error("has status {0}, expected 200 to 999")]
    Status(u16),
    #[error("has no field line \"Host\", expected one in a request of HTTP/1.1")]
    NoHost,
    #[error("has target \"{0}\", expected a path or an http or https URL")]
    Target(String),
    #[error("has Content-Length \"{0}\", expected one number")]
    Length(String),
    #[error("has a body of {found} bytes, expected {expected} (Content-Length)")]
    Body { found: usize, expected: usize },
    #[error("has a broken chunk at byte {0} of its body")]
    Chunk(usize),
    #[error("has Transfer-Encoding \"{0}\", expected \"chunked\" or none")]
    Encoding(String),
}

impl Request {
    /// Reads a request as a client would send it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BadMessage> {
        let mut lines = [httparse::EMPTY_HEADER; LINES];
        let mut parsed = httparse::Request::new(&mut lines);
        let whole = with_end(bytes);
        let at = match parsed.parse(&whole) {
            Ok(httparse::Status::Complete(at)) => at,
            Ok(httparse::Status::Partial) => {
                return Err(BadMessage::Request(httparse::Error::NewLine));
            }
            Err(error) => return Err(BadMessage::Request(error)),
        };
        let mut request = Request {
            method: parsed.method.unwrap_or_default().into(),
            target: parsed.path.unwrap_or_default().into(),
            minor: parsed.version.unwrap_or(1),
            content: Content::default(),
        };
        let fields = owned(parsed.headers);
        request.content = Content::parse(fields, whole.get(at..).unwrap_or_default(), true)?;
        request.validate()
    }

    /// What nginx itself would not let through to a guest.
    pub(crate) fn validate(self) -> Result<Self, BadMessage> {
        let target = &self.target;
        let absolute = target.starts_with(b"http://") || target.starts_with(b"https://");
        let star = target == b"*" && self.method == b"OPTIONS";
        if !(absolute || star || target.starts_with(b"/")) {
            return Err(BadMessage::Target(Escaped(target).to_string()));
        }
        if self.minor == 1 && self.content.values("host").next().is_none() {
            return Err(BadMessage::NoHost);
        }
        Ok(self)
    }

    /// As it is shown and compared.
    pub(crate) fn show(&self) -> String {
        let (method, target) = (Escaped(&self.method), Escaped(&self.target));
        let mut text = format!("{method} {target} HTTP/1.{}\n", self.minor);
        self.content.show(&mut text);
        text
    }
}

impl Response {
    /// Reads a response as the next handler would give it, to HEAD or to another method.
    pub(crate) fn parse(bytes: &[u8], to_head: bool) -> Result<Self, BadMessage> {
        let mut lines = [httparse::EMPTY_HEADER; LINES];
        let mut parsed = httparse::Response::new(&mut lines);
        let whole = with_end(bytes);
        let at = match parsed.parse(&whole) {
            Ok(httparse::Status::Complete(at)) => at,
            Ok(httparse::Status::Partial) => {
                return Err(BadMessage::Response(httparse::Error::NewLine));
            }
            Err(error) => return Err(BadMessage::Response(error)),
        };
        let status = parsed.code.unwrap_or_default();
        if !(200..=999).contains(&status) {
            return Err(BadMessage::Status(status));
        }
        let fields = owned(parsed.headers);
        let has_body = !to_head && !matches!(status, 204 | 304);
        let content = Content::parse(fields, whole.get(at..).unwrap_or_default(), has_body)?;
        Ok(Response { status, content })
    }

    /// As it is shown and compared.
    pub(crate) fn show(&self) -> String {
        let reason = StatusCode::from_u16(self.status).ok().and_then(|s| s.canonical_reason());
        let reason = reason.map(|reason| format!(" {reason}")).unwrap_or_default();
        let mut text = format!("HTTP/1.1 {}{reason}\n", self.status);
        self.content.show(&mut text);
        text
    }
}

impl Content {
    /// Fields and what follows them.
    fn parse(fields: Vec<Line>, body: &[u8], count: bool) -> Result<Self, BadMessage> {
        let mut content = Content { fields, ..Content::default() };
        let joined = |name| {
            let values: Vec<_> = content.values(name).collect();
            (!values.is_empty()).then(|| values.join(&b", "[..]))
        };
        if let Some(encoding) = joined("transfer-encoding") {
            if !encoding.eq_ignore_ascii_case(b"chunked") {
                return Err(BadMessage::Encoding(Escaped(&encoding).to_string()));
            }
            let (body, trailers) = unchunk(body)?;
            return Ok(Content { body, trailers, ..content });
        }
        let length = joined("content-length");
        content.body = match length {
            Some(length) => {
                let number = std::str::from_utf8(&length).ok().and_then(|text| text.parse().ok());
                let expected: usize =
                    number.ok_or_else(|| BadMessage::Length(Escaped(&length).to_string()))?;
                // Editors end files with a line break.
                let end = body.get(expected..).unwrap_or_default();
                if body.len() < expected && count || !matches!(end, b"" | b"\n" | b"\r\n") {
                    return Err(BadMessage::Body { found: body.len(), expected });
                }
                body[..expected.min(body.len())].to_vec()
            }
            None => body.to_vec(),
        };
        if !content.body.is_empty() {
            content.count();
        }
        Ok(content)
    }

    /// Values of all lines called `name`.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.fields.iter();
        lines
            .filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_slice())
    }

    /// Has the fields say how long the body is, unless they do or it comes in chunks.
    pub(crate) fn count(&mut self) {
        let framed = ["content-length", "transfer-encoding"];
        if !framed.iter().any(|name| self.values(name).next().is_some()) {
            let length = self.body.len().to_string().into_bytes();
            self.fields.push((b"Content-Length".to_vec(), length));
        }
    }

    fn show(&self, text: &mut String) {
        let lines = |text: &mut String, lines: &[Line]| {
            for (name, value) in lines {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{}: {}", Escaped(name), Escaped(value));
            }
        };
        lines(text, &self.fields);
        if !self.body.is_empty() {
            text.push('\n');
            text.push_str(&show_body(&self.body));
        }
        if !self.trailers.is_empty() {
            text.push_str("\n[trailers]\n");
            lines(text, &self.trailers);
        }
    }
}

/// A text as it is, anything else as its size and digest.
fn show_body(body: &[u8]) -> String {
    let printable = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    match std::str::from_utf8(body) {
        Ok(text) if text.chars().all(printable) => match text.ends_with('\n') {
            true => text.to_owned(),
            false => format!("{text}\n[no line break at the end]\n"),
        },
        _ => format!("[{} bytes, sha256 {}]\n", body.len(), hex(&digest(body))),
    }
}

/// A head that ends with the file gets its empty line.
fn with_end(bytes: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\n') {
        rest = &rest[at + 1..];
        if rest.starts_with(b"\n") || rest.starts_with(b"\r\n") {
            return bytes.into();
        }
    }
    let end: &[u8] = if rest.is_empty() { b"\r\n" } else { b"\r\n\r\n" };
    [bytes, end].concat().into()
}

fn owned(lines: &[httparse::Header<'_>]) -> Vec<Line> {
    lines.iter().map(|line| (line.name.into(), line.value.into())).collect()
}

/// Body and trailers of a message in chunks.
fn unchunk(bytes: &[u8]) -> Result<(Vec<u8>, Vec<Line>), BadMessage> {
    let mut body = Vec::new();
    let mut rest = bytes;
    loop {
        let broken = BadMessage::Chunk(bytes.len() - rest.len());
        let Some((line, after)) = line(rest) else { return Err(broken) };
        let size = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let size = std::str::from_utf8(size).ok().and_then(|s| usize::from_str_radix(s, 16).ok());
        let Some(size) = size else { return Err(broken) };
        rest = after;
        if size == 0 {
            break;
        }
        let Some((data, after)) = rest.split_at_checked(size) else { return Err(broken) };
        let Some((b"", after)) = self::line(after) else { return Err(broken) };
        body.extend_from_slice(data);
        rest = after;
    }
    let mut trailers = Vec::new();
    while let Some((text, after)) = line(rest) {
        let broken = BadMessage::Chunk(bytes.len() - rest.len());
        rest = after;
        if text.is_empty() {
            break;
        }
        let Some(colon) = text.iter().position(|&byte| byte == b':') else { return Err(broken) };
        let (name, value) = (&text[..colon], text[colon + 1..].trim_ascii());
        if !is_token(name) || !is_field_value(value) {
            return Err(broken);
        }
        trailers.push((name.to_vec(), value.to_vec()));
    }
    Ok((body, trailers))
}

/// The first line and what follows it.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == b'\n')?;
    let line = &bytes[..at];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<String, String> {
        let request = Request::parse(text.as_bytes()).map_err(|error| error.to_string());
        request.map(|request| request.show())
    }

    #[test]
    fn files_may_be_written_by_hand() {
        for text in [
            "GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /a HTTP/1.1\nHost: x\n\n",
            "GET /a HTTP/1.1\nHost: x\n",
            "GET /a HTTP/1.1\nHost: x",
        ] {
            assert_eq!(request(text).as_deref(), Ok("GET /a HTTP/1.1\nHost: x\n"), "{text:?}");
        }
        assert_eq!(
            request("POST / HTTP/1.0\n\nbody\n").as_deref(),
            Ok("POST / HTTP/1.0\nContent-Length: 5\n\nbody\n")
        );
        assert_eq!(
            request("POST / HTTP/1.0\nContent-Length: 4\n\nbody\n").as_deref(),
            Ok("POST / HTTP/1.0\nContent-Length: 4\n\nbody\n[no line break at the end]\n")
        );
    }

    #[test]
    fn chunks_and_trailers_are_read() {
        let head = "POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n";
        let text = format!("{head}\n4;x=y\r\nbody\r\n1\n\n\n0\nx-sum: 7\n\n");
        assert_eq!(request(&text), Ok(format!("{head}\nbody\n\n[trailers]\nx-sum: 7\n")));
        for broken in ["", "x\n", "4\nbod", "4\nbodyy\n0\n\n", "0\nno trailer\n\n"] {
            let error = request(&format!("{head}\n{broken}")).expect_err(broken);
            assert!(error.starts_with("has a broken chunk at byte "), "{error}");
        }
    }

    #[test]
    fn mistakes_say_what_was_expected() {
        for (text, expected) in [
            ("", "does not start like a request"),
            ("GET\n", "does not start like a request"),
            ("GET / HTTP/1.1\n", "has no field line \"Host\""),
            ("GET x HTTP/1.1\nHost: x\n", "has target \"x\", expected a path"),
            ("GET / HTTP/1.0\nContent-Length: 9\n\nbody", "has a body of 4 bytes, expected 9"),
            ("GET / HTTP/1.0\nContent-Length: 1\n\nbody", "has a body of 4 bytes, expected 1"),
            ("GET / HTTP/1.0\nContent-Length: 1, 1\n\nb", "has Content-Length \"1, 1\""),
            ("GET / HTTP/1.0\nTransfer-Encoding: br\n\nb", "has Transfer-Encoding \"br\""),
        ] {
            let error = request(text).expect_err(text);
            assert!(error.starts_with(expected), "{error}");
        }
        let error =
            |text: &str| Response::parse(text.as_bytes(), false).expect_err(text).to_string();
        assert!(error("GET / HTTP/1.1\n").starts_with("does not start like a response"));
        assert!(error("HTTP/1.1 100 Continue\n").starts_with("has status 100"));
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_printed() {
        let mut response = Response { status: 799, ..Response::default() };
        response.content.fields.push((b"x".to_vec(), b"\x1b[2J\xff".to_vec()));
        response.content.body = b"\x1b[2J".to_vec();
        let shown = response.show();
        let head = "HTTP/1.1 799\nx: \\u{1b}[2J\\xff\n\n[4 bytes, sha256 ";
        assert!(shown.starts_with(head), "{shown}");
    }
}
