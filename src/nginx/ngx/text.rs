//! [`Text`]: a text with variables, as the configuration has it, and what becomes of it for a request.

use nginx_sys::{ngx_http_complex_value, ngx_http_complex_value_t};

use crate::nginx::ngx::ffi::{NoMemory, OK, bytes};
use crate::nginx::ngx::request::{Request, empty};

/// A value that has been compiled, in the pool of its configuration.
#[derive(Clone, Copy)]
pub(crate) struct Text(*mut ngx_http_complex_value_t);

impl Text {
    /// # Safety
    /// `value` was filled in by ngx_http_compile_complex_value(), and lives as long as the configuration
    /// under which the requests are served that it is asked about.
    pub(crate) const unsafe fn new(value: *mut ngx_http_complex_value_t) -> Self {
        Text(value)
    }

    /// What it is for a request, in that request's pool or in the configuration's.
    pub(crate) fn of(self, r: Request) -> Result<&'static [u8], NoMemory> {
        let mut text = empty();
        // SAFETY: the request is live, and its configuration with it (contract of `new`).
        let rc = unsafe { ngx_http_complex_value(r.as_ptr(), self.0, &raw mut text) };
        match rc {
            // SAFETY: callers use the text while the request lives.
            OK => Ok(unsafe { bytes(text) }),
            _ => Err(NoMemory),
        }
    }

    /// As a condition: false if it is empty or "0", as nginx has it.
    pub(crate) fn holds(self, r: Request) -> Result<bool, NoMemory> {
        Ok(!matches!(self.of(r)?, b"" | b"0"))
    }
}
