//! Why a host function ends a guest's call: a rule of the ABI that the guest broke ([`Rule`]), or
//! something that the host could not do ([`Refusal`]).
//!
//! Every text is one line, lower case, and finishes a log line that names the function. Bytes that
//! come from a guest are escaped and cut. Nothing here is meant for a client.

use super::Refusal;
use crate::abi::Features;
use crate::escaped::Quoted;
use crate::http::{BadHost, BadTarget};
use crate::memory::OutOfRange;

/// A rule of the ABI that a guest broke. The text follows the name of the host function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// A function of the request was called by a start function.
    #[error("is not allowed outside a request")]
    OutsideRequest,
    /// The request was passed on and cannot be changed any more.
    #[error("is not allowed after next")]
    AfterNext,
    /// Needs a feature that is not enabled for this request.
    #[error("needs feature {0}")]
    NeedsFeature(Features),
    /// Request trailers can be read at most.
    #[error("cannot change request trailers")]
    RequestTrailers,
    /// A header kind that does not exist.
    #[error("got header kind {0}, expected 0 to 3")]
    HeaderKind(u32),
    /// A body kind that does not exist.
    #[error("got body kind {0}, expected 0 or 1")]
    BodyKind(u32),
    /// Something that must have a length has none.
    #[error("got an empty {0}")]
    Empty(&'static str),
    /// Not a token of RFC 9110 5.6.2.
    #[error("got {what} \"{text}\", which is not a token")]
    NotToken {
        /// What should be a token.
        what: &'static str,
        /// What came instead, escaped.
        text: Quoted,
    },
    /// A field value that would split a message.
    #[error("got a value for \"{0}\" that contains CR, LF or NUL")]
    BadValue(Quoted),
    /// Not a request target.
    #[error("got \"{text}\" as URI: {reason}")]
    BadTarget {
        /// What is wrong with it.
        reason: BadTarget,
        /// The target, escaped.
        text: Quoted,
    },
    /// A Host that a server refuses of a client.
    #[error("got \"{text}\" as Host: {reason}")]
    BadHost {
        /// What is wrong with it.
        reason: BadHost,
        /// The value, escaped.
        text: Quoted,
    },
    /// A method that a server refuses of a client.
    #[error("got method \"{0}\", which clients may not use either")]
    RefusedMethod(Quoted),
    /// Bytes outside the guest's memory.
    #[error("got {0}")]
    OutOfRange(#[from] OutOfRange),
    /// A status has three digits.
    #[error("got status {0}, expected 100 to 999")]
    BadStatus(u32),
}

/// Why a host function ends the guest's call instead of returning.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// The guest's fault.
    #[error(transparent)]
    Rule(#[from] Rule),
    /// The host's.
    #[error(transparent)]
    Refusal(#[from] Refusal),
}

/// [`Denied`] with the host function that was called: what travels through the engine.
#[derive(Debug, thiserror::Error)]
#[error("{function}{}{denied}", match denied { Denied::Rule(_) => " ", Denied::Refusal(_) => ": " })]
pub struct Denial {
    /// The host function as the guest imports it.
    pub function: &'static str,
    /// What was wrong.
    #[source]
    pub denied: Denied,
}

impl From<OutOfRange> for Denied {
    fn from(range: OutOfRange) -> Self {
        Denied::Rule(range.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_bytes_are_escaped() {
        let rule = Rule::NotToken { what: "header name", text: Quoted::new(b"a\r\n\x1b[0m") };
        assert_eq!(rule.to_string(), r#"got header name "a\r\n\x1b[0m", which is not a token"#);
    }
}
