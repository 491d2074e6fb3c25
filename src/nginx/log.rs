//! Lines for error_log: levels, and the escaping without which a guest or a client could forge
//! lines. nginx does not escape messages and cuts them at 2 kB.

use std::fmt;

use nginx_sys::{ngx_log_t, ngx_uint_t};

use crate::abi::Level;
pub(crate) use crate::error::Escaped;

pub(crate) const ALERT: ngx_uint_t = nginx_sys::NGX_LOG_ALERT as ngx_uint_t;
pub(crate) const ERR: ngx_uint_t = nginx_sys::NGX_LOG_ERR as ngx_uint_t;
pub(crate) const NOTICE: ngx_uint_t = nginx_sys::NGX_LOG_NOTICE as ngx_uint_t;
pub(crate) const WARN: ngx_uint_t = nginx_sys::NGX_LOG_WARN as ngx_uint_t;
pub(crate) const INFO: ngx_uint_t = nginx_sys::NGX_LOG_INFO as ngx_uint_t;
const DEBUG: ngx_uint_t = nginx_sys::NGX_LOG_DEBUG as ngx_uint_t;

/// What one line may hold of a message. nginx cuts a line at 2,048 bytes, prefix and context
/// ("while …, client: …, request: …") included; the rest goes on the next line.
const LINE: usize = 1024;

/// nginx's number for a guest's level.
const fn number(level: Level) -> ngx_uint_t {
    match level {
        Level::Debug => DEBUG,
        Level::Info => INFO,
        Level::Warn => WARN,
        Level::Error => ERR,
    }
}

/// How a line names its guest, and the request where that has a `$request_id`. Before the text, which
/// may say what it likes.
pub(crate) struct Who<'a> {
    pub(crate) name: &'a str,
    pub(crate) request_id: Option<&'a [u8]>,
}

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http_wasm guest \"{}\"", self.name)?;
        match self.request_id {
            Some(id) => write!(f, ", request_id {}", Escaped(id)),
            None => Ok(()),
        }
    }
}

/// A log of nginx's: a connection's or the cycle's.
#[derive(Clone, Copy)]
pub(crate) struct Log(*mut ngx_log_t);

impl Log {
    /// # Safety
    /// `log` must stay valid for as long as the value is used.
    pub(crate) const unsafe fn new(log: *mut ngx_log_t) -> Self {
        Log(log)
    }

    /// The log of the running cycle.
    pub(crate) fn cycle() -> Self {
        // SAFETY: nginx sets ngx_cycle before it reads a configuration and keeps it set.
        Log(unsafe { (*nginx_sys::ngx_cycle).log })
    }

    fn enabled_at(self, level: ngx_uint_t) -> bool {
        // SAFETY: the log is valid, by the contract of `new`.
        let mask = unsafe { (*self.0).log_level };
        if level == DEBUG {
            // Debug is a set of bits above the plain levels.
            mask & nginx_sys::NGX_LOG_DEBUG_HTTP as ngx_uint_t != 0
        } else {
            mask >= level
        }
    }

    /// Whether a guest's line of this level would be written.
    pub(crate) fn enabled(self, level: Level) -> bool {
        self.enabled_at(number(level))
    }

    /// Writes one line; `line` must be printable.
    pub(crate) fn write(self, level: ngx_uint_t, line: fmt::Arguments<'_>) {
        if self.enabled_at(level) {
            let line = line.to_string();
            // SAFETY: the log is valid, by the contract of `new`; the text goes in as "%*s".
            unsafe { ngx::log::log_error(level, self.0, 0, line.as_bytes()) }
        }
    }

    /// Writes what a guest said, escaped and with its name, in as many lines as it takes.
    pub(crate) fn guest(self, level: Level, name: &str, request_id: Option<&[u8]>, message: &[u8]) {
        let level = number(level);
        if !self.enabled_at(level) {
            return;
        }
        let text = Escaped(message).to_string();
        let mut rest = text.as_str();
        let who = Who { name, request_id };
        loop {
            let cut = rest.floor_char_boundary(LINE);
            let (line, tail) = rest.split_at(cut);
            self.write(level, format_args!("{who}: {line}"));
            rest = tail;
            if rest.is_empty() {
                return;
            }
        }
    }
}

/// Routes panics into error_log; the default hook would write to standard error without time,
/// level and pid.
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string();
        Log::cycle().write(ALERT, format_args!("http_wasm: {}", Escaped(text.as_bytes())));
    }));
}
