//! [`Early`]: what guests set for a response before there is one.

use super::policy::is_the_only_one;
use crate::abi::FieldKind;

/// Status, headers and trailers of a response that has not begun.
#[derive(Clone, Debug, Default)]
pub struct Early {
    /// The status, if a guest has set one.
    pub status: Option<u16>,
    /// Headers.
    pub fields: Lines,
    /// Trailers.
    pub trailers: Lines,
}

impl Early {
    /// Whether nothing is set.
    pub(super) fn is_nothing(&self) -> bool {
        self.status.is_none() && self.fields.is_empty() && self.trailers.is_empty()
    }

    /// Headers or trailers; no others belong to a response.
    pub(super) fn lines(&self, kind: FieldKind) -> &Lines {
        match kind.is_trailers() {
            true => &self.trailers,
            false => &self.fields,
        }
    }

    /// Makes a line the only one of its name.
    pub(super) fn set(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) {
        self.lines_mut(kind).remove(name);
        self.lines_mut(kind).push(name, value);
    }

    /// Appends a line; for headers of which there is one, in the place of what was there.
    pub(crate) fn add(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) {
        match is_the_only_one(kind, name) {
            true => self.set(kind, name, value),
            false => self.lines_mut(kind).push(name, value),
        }
    }

    /// Removes all lines called `name`.
    pub(super) fn remove(&mut self, kind: FieldKind, name: &[u8]) {
        self.lines_mut(kind).remove(name);
    }

    fn lines_mut(&mut self, kind: FieldKind) -> &mut Lines {
        match kind.is_trailers() {
            true => &mut self.trailers,
            false => &mut self.fields,
        }
    }
}

/// What guests usually set, and how long that is, beside the first.
const USUAL: usize = 4;
const USUAL_BYTES: usize = 128;

/// Field lines in order, with the text of all of them in one piece.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    text: Vec<u8>,
    lines: Vec<Line>,
}

/// A name in the text, with its value behind it.
#[derive(Clone, Copy, Debug)]
struct Line {
    at: usize,
    name: usize,
    value: usize,
}

impl Line {
    fn of(self, text: &[u8]) -> (&[u8], &[u8]) {
        text[self.at..self.at + self.name + self.value].split_at(self.name)
    }
}

impl Lines {
    /// Names and values, names in any case.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| line.of(&self.text))
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn push(&mut self, name: &[u8], value: &[u8]) {
        if self.lines.capacity() == 0 {
            self.lines.reserve(USUAL);
            self.text.reserve(name.len() + value.len() + USUAL_BYTES);
        }
        self.lines.push(Line { at: self.text.len(), name: name.len(), value: value.len() });
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
    }

    /// The text stays: what guests set on one request is limited, whether it is still there or not.
    fn remove(&mut self, name: &[u8]) {
        let text = &self.text;
        self.lines.retain(|line| !line.of(text).0.eq_ignore_ascii_case(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(kind: FieldKind, lines: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut early = Early::default();
        for (name, value) in lines {
            early.add(kind, name.as_bytes(), value.as_bytes());
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        early.lines(kind).iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    fn lines(lines: &[(&str, &str)]) -> Vec<(String, String)> {
        lines.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_header_of_which_there_is_one_takes_the_place_of_the_one_before() {
        let all = [("Location", "/a"), ("link", "</a>"), ("location", "/b"), ("Link", "")];
        assert_eq!(added(FieldKind::Response, &all), lines(&all[1..]));
        assert_eq!(added(FieldKind::ResponseTrailers, &all), lines(&all));
    }

    #[test]
    fn set_collapses_and_remove_removes() {
        let mut early = Early::default();
        early.add(FieldKind::Response, b"a", b"1");
        early.add(FieldKind::Response, b"b", b"2");
        early.add(FieldKind::Response, b"A", b"3");
        early.set(FieldKind::Response, b"a", b"");
        assert!(early.fields.iter().eq([(&b"b"[..], &b"2"[..]), (b"a", b"")]));
        early.remove(FieldKind::Response, b"B");
        early.remove(FieldKind::Response, b"A");
        assert!(early.fields.is_empty() && early.trailers.is_empty());
    }
}
