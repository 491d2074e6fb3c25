//! Bytes of others as text for a log: on one line, without what a terminal would obey.

use std::fmt::{self, Write as _};

/// Bytes are quoted in error texts up to here.
const QUOTED_BYTES: usize = 64;

/// Guest bytes made fit for a log line: escaped and cut.
#[derive(Clone, PartialEq, Eq)]
pub struct Quoted(Box<[u8]>);

impl Quoted {
    /// Keeps as much of `bytes` as is worth logging.
    pub fn new(bytes: &[u8]) -> Self {
        Quoted(bytes[..bytes.len().min(QUOTED_BYTES + 1)].into())
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get(..QUOTED_BYTES) {
            Some(start) if self.0.len() > QUOTED_BYTES => write!(f, "{}...", start.escape_ascii()),
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

impl fmt::Debug for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Bytes as text that stays on one line: control characters and what is not UTF-8 are escaped.
pub struct Escaped<'a>(pub &'a [u8]);

/// The most that one byte takes as text: `\u{7f}`.
const LONGEST: usize = 6;
/// What a byte takes that is not UTF-8: `\xff`.
const OTHER: usize = 4;

/// Whether a character is escaped.
fn is_escaped(c: char) -> bool {
    // U+2028 and U+2029 break lines in log viewers.
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

impl<'a> Escaped<'a> {
    /// The length of the text.
    pub fn text_len(&self) -> usize {
        self.measure(usize::MAX).1
    }

    /// As many bytes of the beginning as make a text of this length at most.
    pub fn cut(&self, max: usize) -> &'a [u8] {
        if self.0.len().saturating_mul(LONGEST) <= max {
            return self.0;
        }
        &self.0[..self.measure(max).0]
    }

    /// How many bytes make a text of this length at most, and its length.
    fn measure(&self, max: usize) -> (usize, usize) {
        let (mut bytes, mut text) = (0, 0);
        for chunk in self.0.utf8_chunks() {
            let chars = chunk.valid().chars().map(|c| match is_escaped(c) {
                true => (c.len_utf8(), c.escape_default().len()),
                false => (c.len_utf8(), c.len_utf8()),
            });
            for (of, len) in chars.chain(chunk.invalid().iter().map(|_| (1, OTHER))) {
                if text + len > max {
                    return (bytes, text);
                }
                bytes += of;
                text += len;
            }
        }
        (bytes, text)
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if is_escaped(c) {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    f.write_char(c)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_quoted_up_to_a_limit() {
        assert_eq!(Quoted::new(&[b'x'; 65]).to_string().len(), QUOTED_BYTES + 3);
        assert_eq!(Quoted::new(&[b'x'; 64]).to_string().len(), 64);
    }

    #[test]
    fn a_text_is_cut_before_what_does_not_fit() {
        assert_eq!(Escaped(b"ab\x01c").cut(7), b"ab\x01");
        assert_eq!(Escaped(b"ab\x01c").cut(6), b"ab");
        assert_eq!(Escaped("a\u{e9}".as_bytes()).cut(2), b"a");
        assert_eq!(Escaped(b"\xff\xff").cut(4), b"\xff");
        assert_eq!(Escaped(b"abc").cut(0), b"");
    }

    proptest! {
        #[test]
        fn lengths_are_those_of_the_text(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            text in "\\PC{0,9}[\u{2028}\u{85}\u{7f}]?",
            max in 0usize..100,
        ) {
            let bytes = [&bytes[..], text.as_bytes()].concat();
            let whole = Escaped(&bytes);
            prop_assert_eq!(whole.text_len(), whole.to_string().len());
            let cut = whole.cut(max);
            prop_assert!(bytes.starts_with(cut) && Escaped(cut).text_len() <= max);
            prop_assert!(whole.text_len() > max || cut.len() == bytes.len());
        }
    }
}
