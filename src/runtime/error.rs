//! What can go wrong with a guest and in which words: loading it ([`LoadError`]) and calling it
//! ([`CallError`]).
//!
//! Every text is one line, lower case, and finishes a log line. Nothing here is meant for a client.

use std::fmt;
use std::time::Duration;

use super::precompiled::Unusable;
use crate::host::error::Denial;

/// A guest called `proc_exit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("proc_exit({code}) was called")]
pub struct Exit {
    /// The status it gave.
    pub code: u32,
}

/// A guest used up its time, which was this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time limit was reached")]
pub(crate) struct Timeout(pub(crate) Duration);

/// Why a call into a guest did not return.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause {
    /// WebAssembly trapped, or the engine gave up; the text is the engine's.
    Trap(String),
    /// `proc_exit` was called.
    Exit(Exit),
    /// A host function refused: [`Denied::Rule`](crate::host::error::Denied::Rule) is the guest's
    /// fault, [`Denied::Refusal`](crate::host::error::Denied::Refusal) is not.
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
        /// What it may run, in CPU time.
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
    last_line: Option<String>,
}

impl CallError {
    pub(crate) fn new(call: &'static str, cause: Cause, backtrace: Option<String>) -> Self {
        CallError(Box::new(CallFailure { call, cause, backtrace, last_line: None }))
    }

    /// With what the guest said last.
    pub(crate) fn after(mut self, last_line: &str) -> Self {
        self.0.last_line = Some(last_line.to_owned());
        self
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
        write!(f, "{}: {}", self.0.call, self.0.cause)?;
        match &self.0.last_line {
            Some(line) => write!(f, "; it logged last: {line}"),
            None => Ok(()),
        }
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
    use crate::abi::Features;
    use crate::host::Refusal;
    use crate::host::error::{Denied, Rule};

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
}
