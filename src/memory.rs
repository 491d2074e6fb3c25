//! A guest's linear memory as the ABI uses it. A pointer and a length from a guest become bytes
//! here and nowhere else.

/// Bytes that a guest means and that are outside its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at {ptr}, outside the memory of {size} bytes")]
pub struct OutOfRange {
    /// First byte.
    pub ptr: u32,
    /// Number of bytes.
    pub len: u64,
    /// Size of the memory.
    pub size: usize,
}

/// The memory that a guest exports, borrowed for one host call.
pub struct GuestMemory<'a>(&'a mut [u8]);

impl<'a> GuestMemory<'a> {
    /// Wraps all of a guest's memory.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        GuestMemory(bytes)
    }

    /// All of it, for code that does its own checks.
    pub fn into_bytes(self) -> &'a mut [u8] {
        self.0
    }

    /// The bytes a guest passes in. An empty range is never looked at, whatever its address.
    pub fn bytes(&self, ptr: u32, len: u32) -> Result<&[u8], OutOfRange> {
        if len == 0 {
            return Ok(&[]);
        }
        range(ptr, len as usize)
            .and_then(|range| self.0.get(range))
            .ok_or_else(|| self.out_of_range(ptr, len as usize))
    }

    /// A buffer that a guest offers.
    pub fn buffer(&mut self, ptr: u32, len: usize) -> Result<&mut [u8], OutOfRange> {
        if len == 0 {
            return Ok(&mut []);
        }
        let error = self.out_of_range(ptr, len);
        range(ptr, len).and_then(|range| self.0.get_mut(range)).ok_or(error)
    }

    /// The getter rule: all of `value` when it fits into `limit` bytes, else nothing. The result is
    /// the length of the value in both cases.
    pub fn write(&mut self, ptr: u32, limit: u32, value: &[u8]) -> Result<u64, OutOfRange> {
        if value.len() <= limit as usize {
            self.buffer(ptr, value.len())?.copy_from_slice(value);
        }
        Ok(value.len() as u64)
    }

    /// The list rule, for as many bytes as [`nul_list_len`] said: strings, each ended by a NUL.
    pub fn nul_list<'s>(
        &mut self,
        ptr: u32,
        len: usize,
        strings: impl Iterator<Item = &'s [u8]>,
        case: Case,
    ) -> Result<(), OutOfRange> {
        let mut rest = self.buffer(ptr, len)?;
        for string in strings {
            // The list was measured before; if it grew since, the end is cut rather than a panic.
            let Some((slot, after)) = rest.split_at_mut_checked(string.len() + 1) else {
                break;
            };
            if let Some((nul, text)) = slot.split_last_mut() {
                text.copy_from_slice(string);
                if case == Case::Lower {
                    text.make_ascii_lowercase();
                }
                *nul = 0;
            }
            rest = after;
        }
        Ok(())
    }

    fn out_of_range(&self, ptr: u32, len: usize) -> OutOfRange {
        OutOfRange { ptr, len: len as u64, size: self.0.len() }
    }
}

/// What to do with letters on the way into a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Header names are compared by guests as they are.
    Lower,
    /// Values belong to the sender.
    Keep,
}

/// Number of strings and of bytes that a list of them takes.
pub fn nul_list_len<'s>(strings: impl Iterator<Item = &'s [u8]>) -> (usize, usize) {
    strings.fold((0, 0), |(count, len), string| (count + 1, len + string.len() + 1))
}

fn range(ptr: u32, len: usize) -> Option<std::ops::Range<usize>> {
    let start = ptr as usize;
    Some(start..start.checked_add(len)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(strings: &[&[u8]], case: Case) -> Vec<u8> {
        let (_, len) = nul_list_len(strings.iter().copied());
        let mut bytes = vec![0xff; len + 2];
        let result = GuestMemory::new(&mut bytes).nul_list(1, len, strings.iter().copied(), case);
        result.expect("the list fits");
        assert_eq!((bytes[0], bytes[len + 1]), (0xff, 0xff), "wrote outside");
        bytes[1..=len].to_vec()
    }

    #[test]
    fn a_value_is_written_whole_or_not_at_all() {
        let mut bytes = *b"......";
        let mut memory = GuestMemory::new(&mut bytes);
        assert_eq!(memory.write(1, 2, b"abc"), Ok(3));
        assert_eq!(memory.write(1, 3, b"abc"), Ok(3));
        assert_eq!(bytes, *b".abc..");
    }

    #[test]
    fn nothing_is_checked_for_an_empty_range() {
        let mut memory = GuestMemory::new(&mut []);
        assert_eq!(memory.bytes(u32::MAX, 0), Ok(&[][..]));
        assert_eq!(memory.write(u32::MAX, 0, b""), Ok(0));
        assert_eq!(memory.write(u32::MAX, 1, b""), Ok(0));
    }

    #[test]
    fn a_range_must_end_inside() {
        let mut bytes = [0; 8];
        let mut memory = GuestMemory::new(&mut bytes);
        assert!(memory.bytes(0, 8).is_ok());
        assert!(memory.bytes(1, 8).is_err());
        assert!(memory.bytes(u32::MAX, u32::MAX).is_err());
        assert!(memory.buffer(7, usize::MAX).is_err());
        assert_eq!(
            memory.write(7, 2, b"ab").map_err(|range| range.to_string()),
            Err("2 bytes at 7, outside the memory of 8 bytes".into())
        );
    }

    #[test]
    fn lists_end_every_string_with_a_nul() {
        assert_eq!(list(&[b"p, q", b"r"], Case::Keep), b"p, q\0r\0");
        assert_eq!(list(&[b"A-b", b""], Case::Lower), b"a-b\0\0");
        assert_eq!(list(&[], Case::Keep), b"");
    }

    proptest! {
        #[test]
        fn no_pointer_reaches_outside(
            size in 0usize..64,
            ptr in prop_oneof![0u32..80, any::<u32>()],
            len in prop_oneof![0u32..80, any::<u32>()],
        ) {
            let mut bytes = vec![0; size];
            let mut memory = GuestMemory::new(&mut bytes);
            let inside = len == 0 || ptr as u64 + len as u64 <= size as u64;
            prop_assert_eq!(memory.bytes(ptr, len).is_ok(), inside);
            prop_assert_eq!(memory.buffer(ptr, len as usize).is_ok(), inside);
            if inside {
                prop_assert_eq!(memory.bytes(ptr, len).expect("is inside").len(), len as usize);
            }
        }

        #[test]
        fn a_list_reads_back_as_written(
            strings in prop::collection::vec(prop::collection::vec(1u8.., 0..10), 0..10),
        ) {
            let slices: Vec<&[u8]> = strings.iter().map(Vec::as_slice).collect();
            let bytes = list(&slices, Case::Keep);
            let mut back: Vec<&[u8]> = bytes.split(|&byte| byte == 0).collect();
            prop_assert_eq!(back.pop(), Some(&b""[..]));
            prop_assert_eq!(back, slices);
        }
    }
}
