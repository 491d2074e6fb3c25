//! Why a guest did not do what it was called for: what the client gets to know of it, and the log.

use std::io;
use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use nginx_sys::ngx_int_t;

use crate::host::Refusal;
use crate::host::error::{Denial, Denied, Rule};
use crate::nginx::ngx::ffi::{INTERNAL_SERVER_ERROR, SERVICE_UNAVAILABLE};
use crate::nginx::ngx::log::{ERR, Escaped, Log, Who};
use crate::runtime::error::{CallError, Cause, LoadError};
use crate::status::cells::Failure;

/// Why a guest did not get to its answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// A call ended in a trap, an exit or a broken rule.
    #[error(transparent)]
    Call(CallError),
    /// A further instance could not be started.
    #[error("cannot start an instance: {0}")]
    Start(LoadError),
    /// The start of an instance, for which it waited, has failed.
    #[error("cannot start an instance, as another request or the worker has found")]
    Unstarted,
    /// The thread that measures its time could not be started.
    #[error("cannot start a thread: {0}")]
    Ticker(io::Error),
    /// It used up its time in many short runs.
    #[error("ran for longer than {} ms and was stopped", .0.as_millis())]
    Timeout(Duration),
    /// Every instance is in use.
    #[error("all instances are in use and none came free in time")]
    Busy,
    /// One is being started.
    #[error("an instance is being started and was not ready in time")]
    Starting,
    /// It failed so often that it is not called for a while.
    #[error("failed too often and is not called for another {} ms", .0.as_millis())]
    Resting(Duration),
}

impl Fault {
    /// Whether the guest could have done better; the other reasons lie with the server, or with a
    /// client that did not send what it promised.
    pub(crate) fn is_the_guests(&self) -> bool {
        let error = match self {
            Fault::Timeout(_) => return true,
            Fault::Unstarted
            | Fault::Ticker(_)
            | Fault::Busy
            | Fault::Starting
            | Fault::Resting(_) => return false,
            Fault::Start(LoadError::Start(error)) | Fault::Call(error) => error,
            Fault::Start(_) => return true,
        };
        let Cause::Denied(Denial { denied: Denied::Refusal(refusal), .. }) = error.cause() else {
            return true;
        };
        !matches!(refusal, Refusal::NoMemory | Refusal::Body(_))
    }

    /// As the status counts it.
    pub(crate) fn cause(&self) -> Failure {
        let error = match self {
            Fault::Call(error) => error,
            Fault::Start(_) | Fault::Unstarted => return Failure::Start,
            Fault::Timeout(_) => return Failure::Timeout,
            Fault::Busy | Fault::Starting => return Failure::Busy,
            Fault::Resting(_) => return Failure::Resting,
            Fault::Ticker(_) => return Failure::Host,
        };
        match error.cause() {
            Cause::Trap(_) => Failure::Trap,
            Cause::MemoryLimit { .. } => Failure::Memory,
            Cause::Exit(_) => Failure::Exit,
            Cause::Timeout { .. } => Failure::Timeout,
            Cause::Denied(_) if self.is_the_guests() => Failure::Rule,
            Cause::Denied(_) | Cause::Poisoned => Failure::Host,
        }
    }

    /// What the client gets to know of it.
    pub(crate) const fn status(&self) -> ngx_int_t {
        match self {
            Fault::Call(_) | Fault::Timeout(_) => INTERNAL_SERVER_ERROR,
            Fault::Start(_)
            | Fault::Unstarted
            | Fault::Ticker(_)
            | Fault::Busy
            | Fault::Starting
            | Fault::Resting(_) => SERVICE_UNAVAILABLE,
        }
    }

    /// What makes it the same as another one to somebody who reads the log. Nothing in it comes from
    /// the guest or a client, apart from the engine's text for a trap.
    pub(crate) fn kind(&self) -> Kind {
        let mut kind =
            Kind { fault: discriminant(self), load: None, call: None, denied: None, trap: None };
        let error = match self {
            Fault::Call(error) => error,
            Fault::Start(load) => {
                kind.load = Some(discriminant(load));
                let LoadError::Start(error) = load else { return kind };
                error
            }
            _ => return kind,
        };
        kind.call = Some((error.call(), discriminant(error.cause())));
        match error.cause() {
            Cause::Denied(Denial { function, denied }) => {
                let why = match denied {
                    Denied::Rule(rule) => Why::Rule(discriminant(rule)),
                    Denied::Refusal(refusal) => Why::Refusal(discriminant(refusal)),
                };
                kind.denied = Some((function, why));
            }
            Cause::Trap(text) | Cause::MemoryLimit { trap: text, .. } => {
                kind.trap = Some(text.as_str().into());
            }
            _ => {}
        }
        kind
    }

    /// The directive with which an operator can do something about it.
    fn directive(&self) -> Option<&'static str> {
        match self {
            Fault::Call(error) => limited_by(error.cause(), "http_wasm_timeout"),
            Fault::Start(error) => start_directive(error),
            Fault::Unstarted => None,
            Fault::Timeout(_) => Some("http_wasm_timeout"),
            Fault::Busy | Fault::Starting => Some("http_wasm_pool"),
            Fault::Resting(_) => Some("http_wasm_breaker"),
            Fault::Ticker(_) => None,
        }
    }

    /// One line for the reason, one for each frame of the guest's stack. `suppressed` is how many of
    /// its kind were not logged since the last one that was.
    pub(crate) fn log(&self, who: &Who<'_>, suppressed: u64, log: Log) {
        let mut text = self.to_string();
        if let Some(directive) = self.directive() {
            text = format!("{text} (see {directive})");
        }
        let text = Escaped(text.as_bytes());
        match suppressed {
            0 => log.write(ERR, format_args!("{who}: {text}")),
            _ => log.write(ERR, format_args!("{who}: {text} ({suppressed} more suppressed)")),
        }
        let backtrace = match self {
            Fault::Call(error) => error.backtrace(),
            Fault::Start(error) => error.backtrace(),
            Fault::Unstarted
            | Fault::Ticker(_)
            | Fault::Timeout(_)
            | Fault::Busy
            | Fault::Starting
            | Fault::Resting(_) => None,
        };
        for frame in backtrace.iter().flat_map(|frames| frames.lines()) {
            log.write(ERR, format_args!("{who}:   {}", Escaped(frame.as_bytes())));
        }
    }
}

/// The directive with which an operator can do something about a guest that does not start.
pub(crate) fn start_directive(error: &LoadError) -> Option<&'static str> {
    match error {
        LoadError::Start(error) => limited_by(error.cause(), "http_wasm_start_timeout"),
        LoadError::Memory { .. } => Some("http_wasm_memory_limit"),
        _ => None,
    }
}

/// The directive that sets the limit at which a call ended; `timeout` for its time.
fn limited_by(cause: &Cause, timeout: &'static str) -> Option<&'static str> {
    match cause {
        Cause::Timeout { .. } => Some(timeout),
        Cause::MemoryLimit { .. } => Some("http_wasm_memory_limit"),
        Cause::Trap(_) | Cause::Exit(_) | Cause::Denied(_) | Cause::Poisoned => None,
    }
}

/// See [`Fault::kind`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    fault: Discriminant<Fault>,
    load: Option<Discriminant<LoadError>>,
    /// The guest's function.
    call: Option<(&'static str, Discriminant<Cause>)>,
    /// The host function.
    denied: Option<(&'static str, Why)>,
    trap: Option<Box<str>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Why {
    Rule(Discriminant<Rule>),
    Refusal(Discriminant<Refusal>),
}
