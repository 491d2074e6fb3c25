//! Configuration: the directives, what they build (engine, compiled modules, guests), and how
//! levels inherit. A guest is compiled and started while the configuration is read, so that a bad
//! one is a configuration error with file and line.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use nginx_sys::{
    NGX_CONF_1MORE, NGX_HTTP_LOC_CONF, NGX_HTTP_MAIN_CONF, NGX_HTTP_SRV_CONF, ngx_command_t,
    ngx_conf_full_name, ngx_conf_log_error, ngx_conf_t, ngx_pool_cleanup_add, ngx_str_t,
    ngx_uint_t,
};

use super::child::{self, Source};
use super::ffi::{bytes, guard};
use super::headers_in::constant;
use super::log::{Escaped, Log};
use super::plugin::Plugin;
use super::request::Request;
use crate::error::LoadError;
use crate::runtime::guest::{Guest, Settings};
use crate::runtime::{self, Compile, Engine, Limits, Module};

const EMERG: ngx_uint_t = nginx_sys::NGX_LOG_EMERG as ngx_uint_t;
const WARN: ngx_uint_t = nginx_sys::NGX_LOG_WARN as ngx_uint_t;

/// `NGX_CONF_ERROR`: the reason is in the log.
const CONF_ERROR: *mut c_char = std::ptr::without_provenance_mut(usize::MAX);

/// Configurations of this module that are alive in this process: the running one, and while
/// reloading the next one.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// What the `http` block has: one engine, and everything that was loaded with it.
pub(crate) struct MainConf {
    engine: Option<Engine>,
    modules: HashMap<Vec<u8>, Module>,
    plugins: HashMap<Key, Rc<Plugin>>,
}

/// What makes two `http_wasm` lines mean the same guest, with the same instances.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    path: Vec<u8>,
    name: String,
    config: Bytes,
}

impl MainConf {
    fn new() -> Self {
        LIVE.fetch_add(1, Ordering::Relaxed);
        MainConf {
            engine: None,
            modules: HashMap::new(),
            plugins: HashMap::new(),
        }
    }

    /// Whether any location may have a guest.
    pub(crate) fn has_guests(&self) -> bool {
        !self.plugins.is_empty()
    }
}

impl Drop for MainConf {
    fn drop(&mut self) {
        if LIVE.fetch_sub(1, Ordering::Relaxed) == 1 {
            // The library stays mapped when the module is taken out of the configuration. With its
            // old indices it would collide with other modules when it comes back (nginx looks for
            // "unset" to give new ones).
            super::forget_indices();
        }
    }
}

/// What a location has.
#[derive(Default)]
pub(crate) struct LocConf {
    guests: Guests,
}

#[derive(Default, Clone)]
enum Guests {
    /// No `http_wasm` here: the level above decides.
    #[default]
    Inherit,
    /// `http_wasm off`.
    Off,
    /// In the order of requests; responses go backwards.
    List(Vec<Rc<Plugin>>),
}

impl LocConf {
    /// The guests of the location the request is in; empty where there are none.
    pub(crate) fn guests<'a>(r: Request) -> &'a [Rc<Plugin>] {
        match r.loc_conf::<LocConf>(super::ctx_index()) {
            Some(LocConf {
                guests: Guests::List(list),
            }) => list,
            _ => &[],
        }
    }
}

/// The module's directives.
pub(crate) static mut COMMANDS: [ngx_command_t; 2] = [
    ngx_command_t {
        name: constant(c"http_wasm"),
        type_: (NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF | NGX_CONF_1MORE)
            as ngx_uint_t,
        set: Some(http_wasm),
        conf: nginx_sys::NGX_HTTP_LOC_CONF_OFFSET,
        offset: 0,
        post: std::ptr::null_mut(),
    },
    ngx_command_t::empty(),
];

/// Puts a Rust value into the configuration pool, to be dropped with it.
fn allocate<T>(cf: *mut ngx_conf_t, value: T) -> *mut c_void {
    unsafe extern "C" fn free<T>(data: *mut c_void) {
        // SAFETY: `data` is the box made below, freed once, when the cycle's pool is destroyed.
        guard((), || drop(unsafe { Box::from_raw(data.cast::<T>()) }));
    }
    // SAFETY: `cf` is nginx's for the time of the callback and has the cycle's pool.
    unsafe {
        let cleanup = ngx_pool_cleanup_add((*cf).pool, 0);
        if cleanup.is_null() {
            return std::ptr::null_mut();
        }
        let data = Box::into_raw(Box::new(value)).cast::<c_void>();
        (*cleanup).handler = Some(free::<T>);
        (*cleanup).data = data;
        data
    }
}

pub(crate) unsafe extern "C" fn create_main_conf(cf: *mut ngx_conf_t) -> *mut c_void {
    guard(std::ptr::null_mut(), || allocate(cf, MainConf::new()))
}

pub(crate) unsafe extern "C" fn create_loc_conf(cf: *mut ngx_conf_t) -> *mut c_void {
    guard(std::ptr::null_mut(), || allocate(cf, LocConf::default()))
}

pub(crate) unsafe extern "C" fn merge_loc_conf(
    _cf: *mut ngx_conf_t,
    parent: *mut c_void,
    child: *mut c_void,
) -> *mut c_char {
    guard(CONF_ERROR, || {
        // SAFETY: both are what create_loc_conf returned, and different ones.
        let (parent, child) =
            unsafe { (&*parent.cast::<LocConf>(), &mut *child.cast::<LocConf>()) };
        if matches!(child.guests, Guests::Inherit) {
            child.guests = parent.guests.clone();
        }
        std::ptr::null_mut()
    })
}

/// The main configuration of the cycle that is being read.
///
/// # Safety
/// `cf` must be inside the `http` block, and the reference must not outlive the callback or overlap
/// with another of the same call.
pub(crate) unsafe fn main_conf<'a>(cf: *mut ngx_conf_t) -> &'a mut MainConf {
    // SAFETY: inside `http`, cf->ctx is its ngx_http_conf_ctx_t, with our main conf in our slot.
    unsafe {
        let ctx = (*cf).ctx.cast::<nginx_sys::ngx_http_conf_ctx_t>();
        &mut *(*(*ctx).main_conf.add(super::ctx_index())).cast::<MainConf>()
    }
}

/// `http_wasm off | PATH [name=N] [config=STR] [config_file=F];`
unsafe extern "C" fn http_wasm(
    cf: *mut ngx_conf_t,
    _cmd: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    guard(CONF_ERROR, || {
        let cf = Cf(cf);
        // SAFETY: `conf` is what create_loc_conf returned for the level being read; the main conf
        // is another object.
        let (loc, main) = unsafe { (&mut *conf.cast::<LocConf>(), main_conf(cf.0)) };
        match set_http_wasm(&cf, main, loc) {
            Ok(()) => std::ptr::null_mut(),
            Err(error) => {
                cf.report(EMERG, &error.reason);
                CONF_ERROR
            }
        }
    })
}

/// A configuration error; the text goes after nginx's "[emerg]" and before " in FILE:LINE".
struct ConfError {
    reason: String,
}

impl ConfError {
    fn new(reason: impl Into<String>) -> Self {
        ConfError {
            reason: reason.into(),
        }
    }
}

fn set_http_wasm(cf: &Cf, main: &mut MainConf, loc: &mut LocConf) -> Result<(), ConfError> {
    let args = cf.args();
    let Some((&path, parameters)) = args.get(1..).and_then(<[_]>::split_first) else {
        return Err(ConfError::new(
            "\"http_wasm\" expects the path of a guest, or \"off\"",
        ));
    };
    if path == b"off" && parameters.is_empty() {
        return match loc.guests {
            Guests::Inherit => {
                loc.guests = Guests::Off;
                Ok(())
            }
            Guests::Off => Err(ConfError::new("\"http_wasm off\" is duplicate")),
            Guests::List(_) => Err(beside_off()),
        };
    }
    let line = Line::parse(cf, path, parameters)?;
    // SAFETY: a plain integer that nginx sets before it reads a configuration.
    if unsafe { nginx_sys::ngx_process } == nginx_sys::NGX_PROCESS_SIGNALLER as ngx_uint_t {
        // `nginx -s …` reads the configuration only to find the pid file.
        return Ok(());
    }
    let plugin = main.plugin(cf, line)?;
    match &mut loc.guests {
        Guests::Inherit => loc.guests = Guests::List(vec![plugin]),
        Guests::Off => return Err(beside_off()),
        Guests::List(list) => list.push(plugin),
    }
    Ok(())
}

fn beside_off() -> ConfError {
    ConfError::new("\"http_wasm off\" cannot stand beside other \"http_wasm\" on one level")
}

/// One `http_wasm` line.
struct Line {
    path: Vec<u8>,
    name: String,
    config: Bytes,
}

impl Line {
    fn parse(cf: &Cf, path: &[u8], parameters: &[&[u8]]) -> Result<Self, ConfError> {
        let path = cf.full_name(path)?;
        let mut name = None;
        let mut config = None;
        for &parameter in parameters {
            let duplicate =
                || ConfError::new(format!("duplicate parameter \"{}\"", Escaped(parameter)));
            if let Some(value) = parameter.strip_prefix(b"name=") {
                let value = guest_name(value)?;
                if name.replace(value).is_some() {
                    return Err(duplicate());
                }
            } else if let Some(value) = parameter.strip_prefix(b"config=") {
                if config.replace(Bytes::copy_from_slice(value)).is_some() {
                    return Err(duplicate());
                }
            } else if let Some(value) = parameter.strip_prefix(b"config_file=") {
                let file = cf.full_name(value)?;
                let value = read(&file, "guest configuration")?;
                if config.replace(value.into()).is_some() {
                    return Err(duplicate());
                }
            } else {
                return Err(ConfError::new(format!(
                    "invalid parameter \"{}\": \"http_wasm\" takes name=, config= and config_file=",
                    Escaped(parameter)
                )));
            }
        }
        let name = name.unwrap_or_else(|| default_name(&path));
        Ok(Line {
            path,
            name,
            config: config.unwrap_or_default(),
        })
    }
}

/// A name stands in log lines and labels.
fn guest_name(value: &[u8]) -> Result<String, ConfError> {
    let valid = !value.is_empty()
        && value.len() <= 64
        && value
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b));
    match std::str::from_utf8(value) {
        Ok(name) if valid => Ok(name.to_owned()),
        _ => Err(ConfError::new(format!(
            "invalid \"name={}\": expected 1 to 64 letters, digits, \".\", \"_\" or \"-\"",
            Escaped(value)
        ))),
    }
}

/// The file's name without its ending.
fn default_name(path: &[u8]) -> String {
    let stem = Path::new(std::ffi::OsStr::from_bytes(path))
        .file_stem()
        .unwrap_or_default();
    Escaped(stem.as_bytes()).to_string()
}

fn read(path: &[u8], what: &str) -> Result<Vec<u8>, ConfError> {
    std::fs::read(Path::new(std::ffi::OsStr::from_bytes(path))).map_err(|error| {
        ConfError::new(format!("cannot read {what} \"{}\": {error}", Escaped(path)))
    })
}

impl MainConf {
    /// The guest a line asks for: one that is loaded already, or a new one, compiled and started
    /// once in a process of its own.
    fn plugin(&mut self, cf: &Cf, line: Line) -> Result<Rc<Plugin>, ConfError> {
        let key = Key {
            path: line.path.clone(),
            name: line.name.clone(),
            config: line.config.clone(),
        };
        if let Some(plugin) = self.plugins.get(&key) {
            return Ok(Rc::clone(plugin));
        }
        let settings = Settings {
            name: line.name,
            config: line.config,
            limits: Limits::default(),
            env: Vec::new(),
            dirs: Vec::new(),
        };
        let guest = self.load(cf, &line.path, settings).map_err(|reason| {
            ConfError::new(format!(
                "http_wasm guest \"{}\": {reason}",
                Escaped(&line.path)
            ))
        })?;
        let plugin = Rc::new(Plugin::new(guest));
        self.plugins.insert(key, Rc::clone(&plugin));
        Ok(plugin)
    }

    fn load(
        &mut self,
        cf: &Cf,
        path: &[u8],
        settings: Settings,
    ) -> Result<Guest<super::exchange::Exchange>, String> {
        let failed = |error: LoadError| {
            cf.report_frames(error.backtrace().as_deref());
            one_line(&error)
        };
        let engine = match &self.engine {
            Some(engine) => engine.clone(),
            // Serial: no thread may ever start in the process that forks the workers.
            None => runtime::engine(Compile::Serial).map_err(failed)?,
        };
        self.engine = Some(engine.clone());
        let tried = match self.modules.get(path) {
            Some(module) => child::try_out(&engine, Source::Module(module), &settings, cf.log()),
            None => {
                let bytes = read(path, "the file").map_err(|error| error.reason)?;
                child::try_out(&engine, Source::Bytes(&bytes), &settings, cf.log())
            }
        };
        let module = match tried {
            Ok(Some(module)) => {
                self.modules.insert(path.to_vec(), module.clone());
                module
            }
            Ok(None) => match self.modules.get(path) {
                Some(module) => module.clone(),
                None => return Err("the compiled module is missing".to_owned()),
            },
            Err(failure) => {
                cf.report_frames(failure.backtrace.as_deref());
                return Err(failure.reason);
            }
        };
        Guest::new(&engine, &module, settings).map_err(failed)
    }
}

fn one_line(error: &impl fmt::Display) -> String {
    Escaped(error.to_string().as_bytes()).to_string()
}

/// nginx's configuration cursor for the time of one callback.
struct Cf(*mut ngx_conf_t);

impl Cf {
    /// The words of the directive, its name first.
    fn args(&self) -> Vec<&[u8]> {
        // SAFETY: during a directive's callback cf->args is its array of words.
        unsafe {
            (*(*self.0).args)
                .as_slice::<ngx_str_t>()
                .iter()
                .map(|&word| bytes(word))
                .collect()
        }
    }

    fn log(&self) -> Log {
        // SAFETY: the log outlives the callback.
        unsafe { Log::new((*self.0).log) }
    }

    /// A path made absolute against nginx's prefix.
    fn full_name(&self, path: &[u8]) -> Result<Vec<u8>, ConfError> {
        let mut name = ngx_str_t {
            len: path.len(),
            data: path.as_ptr().cast_mut(),
        };
        // SAFETY: `name` describes a word of the configuration, which is NUL-terminated as the
        // function expects; it only replaces the string, in the cycle's pool.
        unsafe {
            if ngx_conf_full_name((*self.0).cycle, &raw mut name, 0) != super::ffi::OK {
                return Err(ConfError::new("out of memory"));
            }
            Ok(bytes(name).to_vec())
        }
    }

    /// Writes a line that ends with " in FILE:LINE".
    fn report(&self, level: ngx_uint_t, text: &str) {
        const FORMAT: &CStr = c"%*s";
        // SAFETY: `cf` is valid for the callback; the text goes in with its length.
        unsafe {
            ngx_conf_log_error(level, self.0, 0, FORMAT.as_ptr(), text.len(), text.as_ptr());
        }
    }

    /// Where in the guest a failure happened, before the line that says what it means.
    fn report_frames(&self, backtrace: Option<&str>) {
        for frame in backtrace.into_iter().flat_map(str::lines) {
            self.log().write(
                WARN,
                format_args!("http_wasm:   {}", Escaped(frame.as_bytes())),
            );
        }
    }
}
