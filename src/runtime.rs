//! Guests and the engine that runs them: settings, limits, and the parts that know WebAssembly but
//! no web server.

mod backtrace;
pub mod breaker;
mod engine;
pub mod error;
pub mod guest;
pub mod inspect;
pub mod instance;
mod outline;
mod pieces;
pub mod pool;
pub mod precompiled;
pub mod reset;
#[cfg(feature = "restless")]
mod restless;
mod segments;
pub mod snapshot;
pub mod throttle;
pub mod ticker;
pub mod wasi;

use std::fmt::{self, Write as _};
use std::time::Duration;

pub use engine::{Compile, Engine, Layout};
pub use wasmtime::Module;
use wasmtime::ResourceLimiter;

/// An error of the engine in one line, from the outermost context to the cause. The text format's
/// parser draws a picture of several lines, of which the message and the position are kept.
pub(crate) fn describe(error: &wasmtime::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let mut said = Said(String::new());
        // A backtrace is a context too; it has a place of its own.
        if write!(said, "{cause}").is_err() {
            continue;
        }
        let Said(cause) = said;
        let mut lines = cause.lines().map(str::trim);
        let first = lines.next().unwrap_or_default();
        // Some say what the next one says, too.
        if text.ends_with(first) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(first);
        if let Some(position) = lines.find_map(|line| line.strip_prefix("--> <anon>:")) {
            text.push_str(" at line ");
            text.push_str(position);
        }
    }
    text.replace(char::is_control, "?")
}

/// What an error says, unless it is a backtrace, which only its headline tells. Those are stopped
/// there: names in them may stand for more text than there is memory.
struct Said(String);

impl fmt::Write for Said {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(text);
        match self.0.starts_with("error while executing at wasm backtrace") {
            true => Err(fmt::Error),
            false => Ok(()),
        }
    }
}

/// What one instance and one call may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Linear memory. Growing beyond it fails as the specification of WebAssembly has it: the
    /// guest gets -1.
    pub memory_bytes: usize,
    /// Elements of one table, eight bytes each. A table holds about as many as a guest has
    /// functions whose address is taken.
    pub table_elements: usize,
    /// What one call may run before it gives way to others. Measured by a [`ticker::Ticker`]: up
    /// to one period of it longer. `None` for guests of an engine
    /// [without interrupts](Engine::without_interrupts): the other limits of time stop such a guest
    /// only where it waits.
    pub slice: Option<Duration>,
    /// What one call may run in all, in CPU time: waiting does not count, nor what other processes
    /// take.
    pub timeout: Duration,
    /// The same for the start functions of an instance together.
    pub start_timeout: Duration,
}

/// Elements that a table may have, see [`Limits`].
pub(crate) const TABLE_ELEMENTS: usize = 1 << 20;

/// Tables that a guest may have.
pub(crate) const TABLES: usize = 16;

impl Default for Limits {
    /// 128 MiB is what guests in Go need to be at ease; 2^20 elements (8 MiB) are forty times the
    /// table of an 11 MB Go guest. 5 ms is what other requests of the worker can bear to wait, and
    /// a second is more than any filter should want. The
    /// rule set of a firewall takes seconds to start.
    fn default() -> Self {
        Limits {
            memory_bytes: 128 << 20,
            table_elements: TABLE_ELEMENTS,
            slice: Some(Duration::from_millis(5)),
            timeout: Duration::from_secs(1),
            start_timeout: Duration::from_secs(30),
        }
    }
}

/// Enforces [`Limits`] in one store and remembers what it refused.
#[derive(Debug)]
pub(crate) struct Limiter {
    limits: Limits,
    /// The largest memory that was asked for in vain during the current call.
    pub(crate) refused_bytes: Option<usize>,
}

impl Limiter {
    pub(crate) fn new(limits: Limits) -> Self {
        Limiter { limits, refused_bytes: None }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = desired <= self.limits.memory_bytes;
        if !allowed {
            self.refused_bytes = self.refused_bytes.max(Some(desired));
        }
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= self.limits.table_elements)
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        // The guest's, and one that the engine counts for garbage-collected values.
        2
    }
}
