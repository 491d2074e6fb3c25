//! Configurations: what a cycle has loaded (engine, compiled modules, guests), what a location has,
//! and how levels inherit. A guest is compiled and started while the configuration is read, so that
//! a bad one is a configuration error with file and line.

use std::collections::HashMap;
use std::ffi::{c_char, c_void};
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use nginx_sys::{ngx_conf_t, ngx_pool_cleanup_add};

use super::child::{self, Source};
use super::directives::{Cf, ConfError, Line, read};
use super::ffi::guard;
use super::log::Escaped;
use super::plugin::Plugin;
use super::request::Request;
use super::spool::Room;
use crate::error::LoadError;
use crate::runtime::guest::{Guest, Settings};
use crate::runtime::{self, Compile, Engine, Limits, Module};

/// `NGX_CONF_ERROR`: the reason is in the log.
pub(crate) const CONF_ERROR: *mut c_char = std::ptr::without_provenance_mut(usize::MAX);

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
    pub(crate) guests: Guests,
    /// `http_wasm_response_buffer`.
    pub(crate) response_buffer: Option<Room>,
}

#[derive(Default, Clone)]
pub(crate) enum Guests {
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
                ..
            }) => list,
            _ => &[],
        }
    }

    /// How much of a response may be held, and how much of that in memory.
    pub(crate) fn response_room(r: Request) -> Room {
        r.loc_conf::<LocConf>(super::ctx_index())
            .and_then(|conf| conf.response_buffer)
            .unwrap_or(Room::RESPONSE)
    }
}

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
        child.response_buffer = child.response_buffer.or(parent.response_buffer);
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

impl MainConf {
    /// The guest a line asks for: one that is loaded already, or a new one, compiled and started
    /// once in a process of its own.
    pub(crate) fn plugin(&mut self, cf: &Cf, line: Line) -> Result<Rc<Plugin>, ConfError> {
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
