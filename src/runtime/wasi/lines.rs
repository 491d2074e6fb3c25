//! Bytes that a guest prints, cut into lines. Knows no log and no guest.

/// A guest that prints without end and without a line break is cut into lines of this many bytes.
const LINE_BYTES: usize = 8 << 10;

/// The end of one output stream that is not a line yet.
#[derive(Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes bytes as they come and hands on what became a line, without its line break.
    pub(super) fn print(&mut self, bytes: &[u8], mut hand_on: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let line = piece.strip_suffix(b"\n");
            let mut rest = line.unwrap_or(piece);
            if self.partial.is_empty() && line.is_some() && rest.len() <= LINE_BYTES {
                // The usual case, and it copies nothing.
                hand_on(rest);
                continue;
            }
            while self.partial.len() + rest.len() > LINE_BYTES {
                let (start, after) = rest.split_at(LINE_BYTES - self.partial.len());
                self.partial.extend_from_slice(start);
                self.flush(&mut hand_on);
                rest = after;
            }
            self.partial.extend_from_slice(rest);
            if line.is_some() {
                self.flush(&mut hand_on);
            }
        }
    }

    /// Hands on what there is.
    pub(super) fn flush(&mut self, mut hand_on: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            hand_on(&self.partial);
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn printed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.print(piece, |line| out.push(line.to_vec()));
        }
        lines.flush(|line| out.push(line.to_vec()));
        out
    }

    #[test]
    fn a_line_ends_at_its_break_or_at_the_limit() {
        assert_eq!(printed([&b"a\n\nb"[..], b"c\nd"]), [&b"a"[..], b"", b"bc", b"d"]);
        let long = vec![b'x'; LINE_BYTES];
        assert_eq!(printed([&long[..], b"\n"]), [&long[..]]);
        assert_eq!(printed([&long[..], b"y\n"]), [&long[..], b"y"]);
    }

    proptest! {
        #[test]
        fn how_output_is_cut_into_writes_does_not_matter(
            output in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'x')], 0..60),
            cut in 1usize..7,
        ) {
            let whole = printed([&output[..]]);
            prop_assert_eq!(printed(output.chunks(cut)), whole);
        }
    }
}
