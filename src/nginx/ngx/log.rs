//! Lines for error_log: levels, and the escaping without which a guest or a client could forge
//! lines. nginx does not escape messages and cuts them at 2 kB.

use std::fmt;

use nginx_sys::{ngx_log_t, ngx_uint_t};

use crate::abi::Level;
pub(crate) use crate::escaped::Escaped;

pub(crate) const ALERT: ngx_uint_t = nginx_sys::NGX_LOG_ALERT as ngx_uint_t;
pub(crate) const ERR: ngx_uint_t = nginx_sys::NGX_LOG_ERR as ngx_uint_t;
pub(crate) const NOTICE: ngx_uint_t = nginx_sys::NGX_LOG_NOTICE as ngx_uint_t;
pub(crate) const WARN: ngx_uint_t = nginx_sys::NGX_LOG_WARN as ngx_uint_t;
pub(crate) const INFO: ngx_uint_t = nginx_sys::NGX_LOG_INFO as ngx_uint_t;
const DEBUG: ngx_uint_t = nginx_sys::NGX_LOG_DEBUG as ngx_uint_t;

/// nginx cuts a line here, prefix and context ("while …, client: …, request: …") included.
const NGINX_LINE: usize = nginx_sys::NGX_MAX_ERROR_STR as usize;
/// Room for what nginx writes in front of a message: time, level, process, thread, connection.
const PREFIX: usize = 80;
/// Room for the number of a line: ` (12/64)`, colon and space.
const NUMBER: usize = 16;
/// The least that a line holds of a message that takes several; of the context it has what is left.
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

    pub(crate) const fn as_ptr(self) -> *mut ngx_log_t {
        self.0
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

    /// Writes what a guest said, escaped and with its name: in one line if that holds it, else in
    /// lines that are numbered, ` (2/3)`, where the guest cannot write.
    pub(crate) fn guest(self, level: Level, who: &Who<'_>, message: &[u8]) {
        let level = number(level);
        if !self.enabled_at(level) {
            return;
        }
        let text = Escaped(message).to_string();
        let who = who.to_string();
        let room = one_line(who.len());
        if text.len() <= room {
            return self.write(level, format_args!("{who}: {text}"));
        }
        let lines = split(&text, several_lines(who.len(), self.context_len(level)));
        for (at, line) in lines.iter().enumerate() {
            self.write(level, format_args!("{who} ({}/{}): {line}", at + 1, lines.len()));
        }
    }

    /// What [`Log::guest`] writes at most, in bytes.
    pub(crate) fn guest_cost(self, level: Level, who: &Who<'_>, message: &[u8]) -> usize {
        let len = Escaped(message).text_len();
        let who = who.to_string().len();
        let context = self.context_len(number(level));
        if len <= one_line(who) {
            return (PREFIX + who + NUMBER + len + context).min(NGINX_LINE);
        }
        // A line ends before a character that does not fit.
        let room = several_lines(who, context);
        let lines = len.div_ceil(room - 3);
        lines * (PREFIX + who + NUMBER + room + context).min(NGINX_LINE)
    }

    /// How much nginx puts behind a message of this level: it is asked as it will be then.
    fn context_len(self, level: ngx_uint_t) -> usize {
        let mut text = [0; NGINX_LINE];
        // SAFETY: the log is valid, by the contract of `new`; a handler writes no more than it is told
        // and returns the end of it, as ngx_log_error_core() relies on.
        unsafe {
            match (*self.0).handler {
                Some(handler) if level != DEBUG => {
                    let end = handler(self.0, text.as_mut_ptr(), text.len());
                    end.offset_from(text.as_ptr()).unsigned_abs()
                }
                _ => 0,
            }
        }
    }
}

/// What a line can hold of a message behind a name of this length, with as much of the context as is
/// left.
fn one_line(who: usize) -> usize {
    NGINX_LINE.saturating_sub(PREFIX + NUMBER + who).max(LINE)
}

/// What each line holds of a message that takes several, if possible with the whole context.
fn several_lines(who: usize, context: usize) -> usize {
    one_line(who).saturating_sub(context).max(LINE)
}

/// A text in pieces of this length at most.
fn split(text: &str, len: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(len));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// Routes panics into error_log; the default hook would write to standard error without time,
/// level and pid.
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string();
        Log::cycle().write(ALERT, format_args!("http_wasm: {}", Escaped(text.as_bytes())));
    }));
}
