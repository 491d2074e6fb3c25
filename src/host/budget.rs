//! [`Budget`]: how much guests may set and log for one client request, all of them together.

use super::Refusal;
use crate::abi::FieldKind;
use crate::escaped::Escaped;

/// What guests may set on one request, in bytes: thirty times what servers accept of a client (often
/// 32 kB of header).
pub const SET_MAX: usize = 1 << 20;
/// What a field costs beside its text: a server keeps it in a list, with a hash of its name.
pub const FIELD_COST: usize = 64;
/// How many fields of one kind guests may set or add on one request. Lists are searched line by line.
pub const FIELDS_MAX: usize = 1000;
/// The longest template name.
pub const TEMPLATE_MAX: usize = 1 << 20;

/// What may be written to the log for guests of one request, in bytes, escapes and all that a server
/// adds included ([`super::Host::log_cost`]): some thousand lines, so that nobody fills a disk by
/// asking.
pub const LOGGED_MAX: usize = 1 << 20;
/// What a server adds to a line, mostly: time, process, client, request.
const LINE_COST: usize = 256;
/// What is kept of one message, escaped.
pub const MESSAGE_MAX: usize = 64 << 10;

/// What a server may put on one line.
const LINE: usize = 1024;

/// What a message costs: its text and a part of the server's for each line of it.
pub fn message_cost(message: &[u8]) -> usize {
    let text = Escaped(message).text_len();
    text + LINE_COST * text.div_ceil(LINE).max(1)
}

/// What guests have used up so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget {
    set: usize,
    /// By kind.
    fields: [usize; 4],
    logged: usize,
}

/// What becomes of a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logged {
    /// It is written.
    Yes,
    /// It is the first one too many.
    Enough,
}

impl Budget {
    /// Charges bytes that are set. They are not given back before the request ends, however often a
    /// guest sets the same thing: embedders keep them in the request's memory.
    pub(super) fn set(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.set = self.set.saturating_add(bytes.saturating_add(FIELD_COST));
        match self.set > SET_MAX {
            true => Err(Refusal::TooLarge {
                what: "what guests set on one request (fields, method, URI)",
                limit: SET_MAX as u64,
            }),
            false => Ok(()),
        }
    }

    /// Charges a field that is set or added.
    pub(super) fn field(
        &mut self,
        kind: FieldKind,
        name: &[u8],
        value: &[u8],
    ) -> Result<(), Refusal> {
        let count = &mut self.fields[kind as usize];
        *count += 1;
        if *count > FIELDS_MAX {
            return Err(Refusal::TooMany {
                what: "fields of one kind that guests set on one request",
                limit: FIELDS_MAX,
            });
        }
        // The name once more, in lower case.
        self.set(2 * name.len() + value.len())
    }

    /// Whether a message was too many: nothing is written any more.
    pub(super) fn has_logged_enough(&self) -> bool {
        self.logged > LOGGED_MAX
    }

    /// Charges a message in the log with all that is written of it. To be asked while there was not
    /// [enough](Budget::has_logged_enough).
    pub(super) fn message(&mut self, bytes: usize) -> Logged {
        self.logged = self.logged.saturating_add(bytes);
        match self.has_logged_enough() {
            true => Logged::Enough,
            false => Logged::Yes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_by_kind_and_bytes_together() {
        let mut budget = Budget::default();
        for _ in 0..FIELDS_MAX {
            budget.field(FieldKind::Request, b"a", b"").expect("within the limit");
        }
        let error = budget.field(FieldKind::Request, b"a", b"").expect_err("one too many");
        assert_eq!(
            error.to_string(),
            "fields of one kind that guests set on one request would be more than 1000"
        );
        budget.field(FieldKind::Response, b"a", b"").expect("of another kind");
        let left = SET_MAX - (FIELDS_MAX + 1) * (2 + FIELD_COST) - FIELD_COST;
        budget.clone().set(left).expect("all that is left");
        let error = budget.set(left + 1).expect_err("more than that");
        assert_eq!(
            error.to_string(),
            "what guests set on one request (fields, method, URI) would exceed 1048576 bytes"
        );
    }

    #[test]
    fn messages_are_written_until_one_is_too_many() {
        let mut budget = Budget::default();
        let line = message_cost(&[b'x'; MESSAGE_MAX]);
        assert_eq!(line, MESSAGE_MAX + MESSAGE_MAX / LINE * LINE_COST);
        assert_eq!(message_cost(b""), LINE_COST);
        assert_eq!(message_cost(b"\0"), LINE_COST + 5);
        for _ in 0..LOGGED_MAX / line {
            assert_eq!(budget.message(line), Logged::Yes);
        }
        assert!(!budget.has_logged_enough());
        assert_eq!(budget.message(line), Logged::Enough);
        assert!(budget.has_logged_enough());
    }
}
