//! What nginx hands to a directive's setter ([`Cf`]), and how an error finds its way to the person
//! who wrote the line.

use std::ffi::CStr;
use std::fmt;

use nginx_sys::{
    ngx_conf_full_name, ngx_conf_log_error, ngx_conf_t, ngx_http_compile_complex_value_t,
    ngx_http_complex_value_t, ngx_http_core_loc_conf_t, ngx_http_request_t, ngx_int_t, ngx_str_t,
    ngx_uint_t,
};

use crate::nginx::conf::rights::Rights;
use crate::nginx::ngx::ffi::{self, bytes};
use crate::nginx::ngx::log::{Escaped, Log};
use crate::nginx::ngx::module;
use crate::nginx::ngx::text::Text;

pub(crate) const EMERG: ngx_uint_t = nginx_sys::NGX_LOG_EMERG as ngx_uint_t;
pub(crate) const WARN: ngx_uint_t = nginx_sys::NGX_LOG_WARN as ngx_uint_t;

/// A configuration error; the text goes after nginx's "[emerg]" and before " in FILE:LINE".
pub(crate) struct ConfError {
    pub(crate) reason: String,
}

impl ConfError {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        ConfError { reason: reason.into() }
    }
}

/// A line of a configuration file.
pub(crate) struct Place {
    file: Vec<u8>,
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Escaped(&self.file), self.line)
    }
}

impl Place {
    /// Reports something about the guest of this line that shows after the line was read.
    pub(crate) fn report(
        &self,
        cf: &Cf,
        level: ngx_uint_t,
        guest: &[u8],
        text: fmt::Arguments<'_>,
    ) {
        let (guest, file) = (Escaped(guest), Escaped(&self.file));
        let line = self.line;
        cf.log().write(level, format_args!("http_wasm guest \"{guest}\": {text} in {file}:{line}"));
    }
}

/// What answers the requests of a location.
type Handler = unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t;

/// nginx's configuration cursor for the time of one callback.
pub(crate) struct Cf(*mut ngx_conf_t);

impl Cf {
    /// The words of the directive, its name first.
    pub(crate) fn args(&self) -> Vec<&[u8]> {
        // SAFETY: during a directive's callback cf->args is its array of words.
        unsafe {
            (*(*self.0).args).as_slice::<ngx_str_t>().iter().map(|&word| bytes(word)).collect()
        }
    }

    /// # Safety
    /// For one callback that got `cf` from nginx.
    pub(crate) unsafe fn new(cf: *mut ngx_conf_t) -> Self {
        Cf(cf)
    }

    /// The only argument of a directive that takes one.
    pub(crate) fn argument(&self) -> Result<&[u8], ConfError> {
        match self.args().as_slice() {
            [_, argument] => Ok(argument),
            _ => Err(ConfError::new("expected one argument")),
        }
    }

    /// Where the directive that is being read stands.
    pub(crate) fn place(&self) -> Place {
        // SAFETY: conf_file is the file being read during a directive's callback; null for
        // directives from the command line.
        unsafe {
            match (*self.0).conf_file.as_ref() {
                Some(file) => Place { file: bytes(file.file.name).to_vec(), line: file.line },
                None => Place { file: b"the command line".to_vec(), line: 0 },
            }
        }
    }

    /// Makes the location that is being read answer by `handler`; false if something else does.
    pub(crate) fn set_handler(&self, handler: Handler) -> bool {
        // SAFETY: during the callback of a directive of a location cf->ctx is its
        // ngx_http_conf_ctx_t, in which the core module has its configuration of that location.
        unsafe {
            let ctx = (*self.0).ctx.cast::<nginx_sys::ngx_http_conf_ctx_t>();
            let index = nginx_sys::ngx_http_core_module.ctx_index;
            let core = (*(*ctx).loc_conf.add(index)).cast::<ngx_http_core_loc_conf_t>();
            if (*core).handler.is_some() {
                return false;
            }
            (*core).handler = Some(handler);
        }
        true
    }

    /// Whether what is being merged is a location's, and not that of a whole server, in which requests are
    /// only as long as none has been found for them.
    pub(crate) fn is_location(&self) -> bool {
        // SAFETY: cf->ctx is the ngx_http_conf_ctx_t of the level that is merged, in which the core module
        // has its configuration; the name of a location is not empty.
        unsafe {
            let ctx = (*self.0).ctx.cast::<nginx_sys::ngx_http_conf_ctx_t>();
            let index = nginx_sys::ngx_http_core_module.ctx_index;
            let core = (*(*ctx).loc_conf.add(index)).cast::<ngx_http_core_loc_conf_t>();
            (*core).name.len != 0
        }
    }

    /// Whether the location that has been read answers with `return` before its guests are asked.
    pub(crate) fn begins_with_return(&self) -> bool {
        // SAFETY: cf->ctx is the ngx_http_conf_ctx_t of the location while its levels are merged.
        unsafe { ffi::ngx_http_wasm_begins_with_return(self.0) != 0 }
    }

    /// Names of the modules whose filters run before this one's: nginx puts each on top of those before
    /// it.
    pub(crate) fn filters_before(&self) -> impl Iterator<Item = &str> {
        // SAFETY: the cycle being read outlives the callback.
        let mut modules = unsafe { (*(*self.0).cycle).modules };
        let all = std::iter::from_fn(move || {
            // SAFETY: an array that ends with null.
            unsafe {
                let module = *modules;
                modules = modules.add(1);
                (!module.is_null()).then_some(module)
            }
        });
        all.skip_while(|&module| module != module::record())
            // SAFETY: every module has a name.
            .filter_map(|module| unsafe { CStr::from_ptr((*module).name) }.to_str().ok())
    }

    /// `worker_connections`, or 0 if the `events` block comes later.
    pub(crate) fn connections(&self) -> usize {
        // SAFETY: the cycle being read outlives the callback; the number is set by the events block.
        unsafe { (*(*self.0).cycle).connection_n }
    }

    pub(crate) fn log(&self) -> Log {
        // SAFETY: the log outlives the callback.
        unsafe { Log::new((*self.0).log) }
    }

    /// Whether the configuration is only tested (`nginx -t`).
    pub(crate) fn is_test(&self) -> bool {
        // SAFETY: a plain integer, set before a configuration is read.
        unsafe { nginx_sys::ngx_test_config != 0 }
    }

    /// What the workers of this configuration change to.
    pub(crate) fn worker_rights(&self) -> Result<Option<Rights>, String> {
        // SAFETY: `cf` is valid for the callback.
        unsafe { Rights::of_workers(self.0) }
    }

    /// A path made absolute against nginx's prefix.
    pub(crate) fn full_name(&self, path: &[u8]) -> Result<Vec<u8>, ConfError> {
        // nginx's function reads the first byte.
        if path.is_empty() {
            return Err(ConfError::new("invalid value \"\": expected the path of a file"));
        }
        let mut name = ngx_str_t { len: path.len(), data: path.as_ptr().cast_mut() };
        // SAFETY: `name` describes a word of the configuration, which is NUL-terminated as the
        // function expects; it only replaces the string, in the cycle's pool.
        unsafe {
            if ngx_conf_full_name((*self.0).cycle, &raw mut name, 0) != crate::nginx::ngx::ffi::OK {
                return Err(ConfError::new("out of memory"));
            }
            Ok(bytes(name).to_vec())
        }
    }

    /// Whether a text names a variable that nginx or one of its modules has.
    pub(crate) fn names_variable(&self, text: &[u8]) -> bool {
        text.split(|&b| b == b'$').skip(1).any(|rest| {
            let rest = rest.strip_prefix(b"{").unwrap_or(rest);
            let is_part = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
            let name = &rest[..rest.iter().position(|b| !is_part(b)).unwrap_or(rest.len())];
            // What is behind these is what the request or the response has.
            let by_prefix = |prefix: &&[u8]| name.len() > prefix.len() && name.starts_with(prefix);
            let prefixes: [&[u8]; 4] = [b"arg_", b"cookie_", b"http_", b"sent_http_"];
            // SAFETY: inside the http block, where variables are still being added.
            prefixes.iter().any(by_prefix)
                || unsafe { ffi::ngx_http_wasm_knows_variable(self.0, ffi::string(name)) != 0 }
        })
    }

    /// A text with variables that decides about requests.
    pub(crate) fn condition(&self, text: &[u8]) -> Result<Text, ConfError> {
        match text {
            b"" => Err(ConfError::new("invalid value \"if=\": expected a variable")),
            text => self.text(text),
        }
    }

    /// A text with variables.
    pub(crate) fn text(&self, text: &[u8]) -> Result<Text, ConfError> {
        let mut value = ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() };
        // SAFETY: the text is a part of a word of the configuration, in its pool like the compiled value;
        // zeroes are how nginx begins the description of what to compile.
        unsafe {
            let pool = (*self.0).pool;
            let size = size_of::<ngx_http_complex_value_t>();
            let compiled = nginx_sys::ngx_pcalloc(pool, size).cast::<ngx_http_complex_value_t>();
            if compiled.is_null() {
                return Err(ConfError::new("out of memory"));
            }
            let mut job: ngx_http_compile_complex_value_t = std::mem::zeroed();
            job.cf = self.0;
            job.value = &raw mut value;
            job.complex_value = compiled;
            // The reason is in the log, with file and line.
            if nginx_sys::ngx_http_compile_complex_value(&raw mut job) != ffi::OK {
                return Err(ConfError::new(format!(
                    "invalid value \"{}\": expected a text with variables",
                    Escaped(text)
                )));
            }
            Ok(Text::new(compiled))
        }
    }

    /// Writes a line that ends with " in FILE:LINE".
    pub(crate) fn report(&self, level: ngx_uint_t, text: &str) {
        const FORMAT: &CStr = c"%*s";
        // SAFETY: `cf` is valid for the callback; the text goes in with its length.
        unsafe {
            ngx_conf_log_error(level, self.0, 0, FORMAT.as_ptr(), text.len(), text.as_ptr());
        }
    }

    /// Where in the guest a failure happened, before the line that says what it means.
    pub(crate) fn report_frames(&self, backtrace: Option<&str>) {
        for frame in backtrace.into_iter().flat_map(str::lines) {
            self.log().write(WARN, format_args!("http_wasm:   {}", Escaped(frame.as_bytes())));
        }
    }
}
