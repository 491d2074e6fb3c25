//! What can go wrong and in which words: loading a guest ([`LoadError`]), calling it
//! ([`CallError`]), and the rules of the ABI it can break on the way ([`Rule`]).
//!
//! Every text is one line, lower case, and finishes a log line. Bytes that come from a guest are
//! escaped and cut, so no text here can carry a line break or a terminal sequence into a log.
//! Nothing here is meant for a client.

use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::abi::Features;
use crate::host::Refusal;
use crate::http::BadTarget;
use crate::runtime::precompiled::Unusable;

/// Guest bytes are quoted in error texts up to here.
const QUOTED_BYTES: usize = 64;

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
    #[error("needs feature {}", feature_name(.0))]
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
    /// Bytes outside the guest's memory.
    #[error("got {len} bytes at {ptr}, outside the memory of {size} bytes")]
    OutOfRange {
        /// First byte.
        ptr: u32,
        /// Number of bytes.
        len: u64,
        /// Size of the memory.
        size: usize,
    },
    /// A final status has three digits and is not informational.
    #[error("got status {0}, expected 200 to 999")]
    BadStatus(u32),
}

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

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                // U+2028 and U+2029 break lines in log viewers.
                if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
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

fn feature_name(features: &Features) -> &'static str {
    match *features {
        Features::BUFFER_REQUEST => "buffer_request",
        Features::BUFFER_RESPONSE => "buffer_response",
        Features::TRAILERS => "trailers",
        _ => "(several)",
    }
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

/// A guest called `proc_exit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("proc_exit({code}) was called")]
pub struct Exit {
    /// The status it gave.
    pub code: u32,
}

/// A guest used up its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time limit was reached")]
pub(crate) struct Timeout;

/// Why a call into a guest did not return.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause {
    /// WebAssembly trapped, or the engine gave up; the text is the engine's.
    Trap(String),
    /// `proc_exit` was called.
    Exit(Exit),
    /// A host function refused: [`Denied::Rule`] is the guest's fault, [`Denied::Refusal`] is not.
    Denied(Denial),
    /// A trap that followed a refused growth of memory in the same call, as when an allocator
    /// gives up.
    MemoryLimit {
        /// The engine's text for the trap.
        trap: String,
        /// The size that was asked for.
        wanted_bytes: usize,
        /// The most this guest may have.
        limit_bytes: usize,
    },
    /// The call ran for too long.
    Timeout {
        /// What it may run, waiting not counted.
        limit: Duration,
    },
    /// An earlier call ended badly, and this one was not started.
    Poisoned,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Trap(text) => f.write_str(text),
            Cause::Exit(exit) => exit.fmt(f),
            Cause::Denied(denial) => denial.fmt(f),
            Cause::MemoryLimit { trap, wanted_bytes, limit_bytes } => write!(
                f,
                "{trap} (memory could not grow to {wanted_bytes} bytes, the limit is {limit_bytes})"
            ),
            Cause::Timeout { limit } => {
                write!(f, "ran for longer than {} ms and was stopped", limit.as_millis())
            }
            Cause::Poisoned => f.write_str("the instance failed before and cannot be used again"),
        }
    }
}

/// A call into a guest that did not return. The instance is of no use any more.
#[derive(Debug)]
pub struct CallError(Box<CallFailure>);

#[derive(Debug)]
struct CallFailure {
    call: &'static str,
    cause: Cause,
    backtrace: Option<String>,
}

impl CallError {
    pub(crate) fn new(call: &'static str, cause: Cause, backtrace: Option<String>) -> Self {
        CallError(Box::new(CallFailure { call, cause, backtrace }))
    }

    /// The function of the guest that was called.
    pub fn call(&self) -> &'static str {
        self.0.call
    }

    /// Why it did not return.
    pub fn cause(&self) -> &Cause {
        &self.0.cause
    }

    /// The guest's frames, innermost first, one per line, with file and line where the module
    /// carries debug information.
    pub fn backtrace(&self) -> Option<String> {
        self.0.backtrace.clone()
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.call, self.0.cause)
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.cause {
            Cause::Denied(denial) => Some(&denial.denied),
            Cause::Exit(exit) => Some(exit),
            _ => None,
        }
    }
}

/// Why a guest cannot be used. The text follows the path of the guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No engine on this machine with these settings.
    #[error("cannot set up the WebAssembly engine: {0}")]
    Engine(String),
    /// No idea what the file is.
    #[error("is neither a WebAssembly binary (\\0asm) nor text format: {0}")]
    NotWasm(String),
    /// The component model.
    #[error("is a WebAssembly component, expected a core module that exports handle_request")]
    Component,
    /// Invalid, or uses what is not supported.
    #[error("does not compile: {0}")]
    Compile(String),
    /// An export that every guest must have.
    #[error("does not export \"{name}\", expected {expected}")]
    MissingExport {
        /// What is missing.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// An export of another type.
    #[error("exports \"{name}\" as {found}, expected {expected}")]
    ExportType {
        /// The export.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// Imports that nobody here provides, all of them.
    #[error("imports what this host does not provide: {0}")]
    UnknownImports(String),
    /// Imports that are provided with another type, all of them.
    #[error("imports with the wrong type: {0}")]
    ImportTypes(String),
    /// More memory at the start than the limit allows.
    #[error("starts with {needs_bytes} bytes of memory, the limit is {limit_bytes}")]
    Memory {
        /// The initial size of the memory.
        needs_bytes: u64,
        /// The most this guest may have.
        limit_bytes: usize,
    },
    /// A larger table at the start than the limit allows.
    #[error("starts with a table of {needs} elements, the limit is {limit}")]
    Table {
        /// The initial size.
        needs: u64,
        /// The most this guest may have.
        limit: usize,
    },
    /// A directory that was to be lent to the guest.
    #[error("cannot open directory \"{path}\" for the guest: {reason}")]
    Directory {
        /// The directory on the host.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// No instance, for a reason that is not the guest's code.
    #[error("cannot be instantiated: {0}")]
    Instantiate(String),
    /// A compiled guest that is damaged or not for here.
    #[error(transparent)]
    Precompiled(#[from] Unusable),
    /// A start function failed.
    #[error("does not start: {0}")]
    Start(#[source] CallError),
}

impl LoadError {
    /// The guest's frames if one of its functions failed, as [`CallError::backtrace`].
    pub fn backtrace(&self) -> Option<String> {
        match self {
            LoadError::Start(error) => error.backtrace(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(function: &'static str, denied: impl Into<Denied>) -> CallError {
        let denied = denied.into();
        let cause = Cause::Denied(Denial { function, denied });
        CallError::new("handle_response", cause, None)
    }

    #[test]
    fn texts_name_the_call_the_function_and_the_rule() {
        assert_eq!(
            denial("set_method", Rule::AfterNext).to_string(),
            "handle_response: set_method is not allowed after next"
        );
        assert_eq!(
            denial("write_body", Rule::NeedsFeature(Features::BUFFER_RESPONSE)).to_string(),
            "handle_response: write_body needs feature buffer_response"
        );
        let too_large = Refusal::TooLarge { what: "response body", limit: 10 };
        assert_eq!(
            denial("write_body", too_large).to_string(),
            "handle_response: write_body: response body would exceed 10 bytes"
        );
    }

    #[test]
    fn guest_bytes_are_escaped_and_cut() {
        let rule = Rule::NotToken { what: "header name", text: Quoted::new(b"a\r\n\x1b[0m") };
        assert_eq!(rule.to_string(), r#"got header name "a\r\n\x1b[0m", which is not a token"#);
        let long = Quoted::new(&[b'x'; 65]).to_string();
        assert_eq!(long.len(), QUOTED_BYTES + 3);
        assert_eq!(Quoted::new(&[b'x'; 64]).to_string().len(), 64);
    }
}
