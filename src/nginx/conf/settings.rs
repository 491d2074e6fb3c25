//! Configurations: what a cycle has loaded (engine, compiled modules, guests), what a location has,
//! and how levels inherit. A guest is compiled and started while the configuration is read, so that
//! a bad one is a configuration error with file and line.

use std::ffi::{OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nginx_sys::{NGX_HTTP_CLIENT_TEMP_PATH, ngx_conf_t, ngx_pool_cleanup_add};

use crate::host::connect::{Outbound, Rule};
use crate::nginx::conf::cache::CacheDir;
use crate::nginx::conf::cf::{Cf, EMERG, WARN};
use crate::nginx::conf::line::Line;
use crate::nginx::conf::load::{CachePath, Key, Loader};
use crate::nginx::exchange::host::Plugin;
use crate::nginx::exchange::settings::{Http, Listed, Location};
use crate::nginx::exchange::variables::Used;
use crate::nginx::guests::service::{OnError, PoolSettings, Service};
use crate::nginx::ngx::ffi::guard;
use crate::nginx::ngx::module;
use crate::runtime::guest::{Dir, Settings};
use crate::runtime::snapshot::Snapshot;
use crate::runtime::{Limits, breaker};

/// `NGX_CONF_ERROR`: the reason is in the log.
pub(crate) const CONF_ERROR: *mut c_char = std::ptr::without_provenance_mut(usize::MAX);

/// Configurations of this module that are alive in this process: the running one, and while
/// reloading the next one.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// What the `http` block has: one engine, and everything that was loaded with it.
#[repr(C)]
pub(crate) struct MainConf {
    /// First: what requests look for in this slot.
    pub(crate) http: Http,
    /// `http_wasm_instances`.
    pub(crate) instances: Option<u32>,
    /// `http_wasm_stack_limit`.
    pub(crate) stack_bytes: Option<usize>,
    /// `http_wasm_cache_path`.
    pub(crate) cache: Option<CachePath>,
    /// `http_wasm_compile_timeout`.
    pub(crate) compile_timeout: Option<Duration>,
    /// `http_wasm_profile`.
    pub(crate) profile: Option<bool>,
    loader: Loader,
}

/// Environment variables of a guest, by name.
pub(crate) type Env = Rc<Vec<(String, String)>>;
/// Directories of a guest.
pub(crate) type Dirs = Rc<Vec<Dir>>;

impl MainConf {
    /// Most instances of one worker. Twice as many, which a reload needs for a moment, still leave
    /// two fifths of a process's addresses and a quarter of its mappings (`vm.max_map_count`).
    pub(crate) const INSTANCES_MAX: u32 = 10_240;

    fn new() -> Self {
        LIVE.fetch_add(1, Ordering::Relaxed);
        MainConf {
            http: Http::default(),
            instances: None,
            stack_bytes: None,
            cache: None,
            compile_timeout: None,
            profile: None,
            loader: Loader::default(),
        }
    }

    /// Which variables the configuration uses, once it has been read.
    pub(crate) fn set_used(&mut self, used: Used) {
        self.http.wanted = used.wanted;
        self.http.request_id = used.request_id;
    }

    /// Whether any location may have a guest.
    pub(crate) fn has_guests(&self) -> bool {
        self.loader.has_guests()
    }

    /// Where compiled guests are kept, and whether an operator said so: beside nginx's temporary
    /// files if nobody did.
    pub(crate) fn cache_dir(&self, cf: &Cf) -> Option<CacheDir> {
        match &self.cache {
            Some(CachePath::Off) => None,
            Some(CachePath::Dir(path)) => Some(CacheDir { path: path.clone(), configured: true }),
            None => {
                let bodies = Path::new(OsStr::from_bytes(NGX_HTTP_CLIENT_TEMP_PATH.to_bytes()));
                let path = bodies.parent()?.join("http_wasm");
                // A path that nginx was built with.
                let path = cf.full_name(path.as_os_str().as_bytes()).ok()?;
                let path = PathBuf::from(OsStr::from_bytes(&path));
                Some(CacheDir { path, configured: false })
            }
        }
    }
}

impl Drop for MainConf {
    fn drop(&mut self) {
        if LIVE.fetch_sub(1, Ordering::Relaxed) == 1 {
            // The library stays mapped when the module is taken out of the configuration. With its
            // old indices it would collide with other modules when it comes back (nginx looks for
            // "unset" to give new ones).
            module::forget_indices();
        }
    }
}

/// What a location has. `None` and [`Lines::Inherit`] mean that the level above decides.
#[derive(Default)]
#[repr(C)]
pub(crate) struct LocConf {
    /// First: what requests look for in this slot. Its guests are those of `lines`, once all
    /// directives of the level are known.
    pub(crate) location: Location,
    pub(crate) lines: Lines,
    /// `http_wasm_memory_limit`, in bytes.
    pub(crate) memory_limit: Option<usize>,
    /// `http_wasm_timeout`.
    pub(crate) timeout: Option<Duration>,
    /// `http_wasm_start_timeout`.
    pub(crate) start_timeout: Option<Duration>,
    /// `http_wasm_slice`; `Some(None)` is off.
    pub(crate) slice: Option<Option<Duration>>,
    /// `http_wasm_env`.
    pub(crate) env: Option<Env>,
    /// `http_wasm_dir`.
    pub(crate) dirs: Option<Dirs>,
    /// `http_wasm_connect`; empty is off.
    pub(crate) connect: Option<Vec<Rule>>,
    /// `http_wasm_sockets`, without rules.
    pub(crate) sockets: Option<Outbound>,
    /// `http_wasm_strict`.
    pub(crate) strict: Option<bool>,
    /// `http_wasm_pool`.
    pub(crate) pool: Option<PoolSettings>,
    /// `http_wasm_on_error`.
    pub(crate) on_error: Option<OnError>,
    /// `http_wasm_breaker`; `Some(None)` is off.
    pub(crate) breaker: Option<Option<breaker::Settings>>,
    /// `http_wasm_isolation`.
    pub(crate) isolation: Option<Isolation>,
    /// `http_wasm_snapshot`.
    pub(crate) snapshot: Option<SnapshotWish>,
}

/// When instances start from a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SnapshotWish {
    /// Where every request has a fresh instance, for guests that cannot tell the difference.
    #[default]
    Auto,
    /// Wherever possible.
    On,
    /// Never.
    Off,
}

/// How long an instance lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// As long as its worker, serving one request after the other.
    Worker,
    /// For one request.
    Request,
}

/// The `http_wasm` lines of a level.
#[derive(Default, Clone)]
pub(crate) enum Lines {
    /// None.
    #[default]
    Inherit,
    /// `http_wasm off`.
    Off,
    /// In the order of requests; responses go backwards.
    List(Vec<Rc<Line>>),
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
    cf: *mut ngx_conf_t,
    parent: *mut c_void,
    child: *mut c_void,
) -> *mut c_char {
    guard(CONF_ERROR, || {
        // SAFETY: both are what create_loc_conf returned, and different ones; the main conf is
        // another object, and merging happens inside the http block.
        let (parent, child, main) =
            unsafe { (&*parent.cast::<LocConf>(), &mut *child.cast::<LocConf>(), main_conf(cf)) };
        // SAFETY: for this callback.
        let cf = unsafe { Cf::new(cf) };
        child.warn_of_return(&cf);
        child.inherit(parent);
        match child.load(&cf, main) {
            Ok(()) => std::ptr::null_mut(),
            Err(Reported) => CONF_ERROR,
        }
    })
}

impl LocConf {
    /// nginx carries out `return` before its access phase, and so before guests. To be called before
    /// the level inherits others: guests of a whole server are not meant for a redirect in it.
    fn warn_of_return(&self, cf: &Cf) {
        if let Lines::List(lines) = &self.lines
            && let Some(line) = lines.first()
            && cf.begins_with_return()
        {
            let text = format_args!("does not run here: \"return\" answers before guests do");
            line.place.report(cf, WARN, &line.path, text);
        }
    }

    fn inherit(&mut self, parent: &LocConf) {
        if matches!(self.lines, Lines::Inherit) {
            self.lines = parent.lines.clone();
        }
        let buffer = &mut self.location.response_buffer;
        *buffer = buffer.or(parent.location.response_buffer);
        if self.location.buffer_types.is_none() {
            self.location.buffer_types.clone_from(&parent.location.buffer_types);
        }
        if self.location.given.is_none() {
            self.location.given.clone_from(&parent.location.given);
        }
        let intercept = &mut self.location.intercept_errors;
        *intercept = intercept.or(parent.location.intercept_errors);
        self.memory_limit = self.memory_limit.or(parent.memory_limit);
        self.timeout = self.timeout.or(parent.timeout);
        self.start_timeout = self.start_timeout.or(parent.start_timeout);
        self.slice = self.slice.or(parent.slice);
        self.pool = self.pool.or(parent.pool);
        self.isolation = self.isolation.or(parent.isolation);
        self.snapshot = self.snapshot.or(parent.snapshot);
        self.on_error = self.on_error.or(parent.on_error);
        self.breaker = self.breaker.or(parent.breaker);
        self.strict = self.strict.or(parent.strict);
        self.env = self.env.take().or_else(|| parent.env.clone());
        self.dirs = self.dirs.take().or_else(|| parent.dirs.clone());
        self.connect = self.connect.take().or_else(|| parent.connect.clone());
        self.sockets = self.sockets.take().or_else(|| parent.sockets.clone());
    }

    /// Where guests may connect to in this location, and how.
    fn outbound(&self) -> Outbound {
        Outbound {
            rules: self.connect.as_deref().unwrap_or_default().into(),
            ..self.sockets.clone().unwrap_or_default()
        }
    }

    /// What one instance and one call may use in this location.
    fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            memory_bytes: self.memory_limit.unwrap_or(default.memory_bytes),
            timeout: self.timeout.unwrap_or(default.timeout),
            start_timeout: self.start_timeout.unwrap_or(default.start_timeout),
            slice: self.slice.unwrap_or(default.slice),
            ..default
        }
    }

    fn pool(&self) -> PoolSettings {
        let mut pool = self.pool.unwrap_or_default();
        if self.isolation == Some(Isolation::Request) {
            pool.requests = 1;
        }
        pool
    }

    fn snapshot(&self) -> Snapshot {
        match self.snapshot.unwrap_or_default() {
            SnapshotWish::Auto if self.isolation == Some(Isolation::Request) => Snapshot::Faithful,
            SnapshotWish::Auto | SnapshotWish::Off => Snapshot::Never,
            SnapshotWish::On => Snapshot::Seeded,
        }
    }

    /// Loads the guests of this level, all of whose directives are known now.
    fn load(&mut self, cf: &Cf, main: &mut MainConf) -> Result<(), Reported> {
        // SAFETY: a plain integer that nginx sets before it reads a configuration.
        let process = unsafe { nginx_sys::ngx_process };
        if process == nginx_sys::NGX_PROCESS_SIGNALLER as usize {
            // `nginx -s ...` reads the configuration only to find the pid file.
            return Ok(());
        }
        let Lines::List(lines) = &self.lines else {
            return Ok(());
        };
        for line in lines {
            let key = Key {
                path: line.path.clone(),
                settings: Settings {
                    name: line.name.clone(),
                    config: line.config.clone(),
                    limits: self.limits(),
                    env: self.env.as_deref().cloned().unwrap_or_default(),
                    dirs: self.dirs.as_deref().cloned().unwrap_or_default(),
                    strict: self.strict.unwrap_or(false),
                    outbound: self.outbound(),
                },
                service: Service {
                    pool: self.pool(),
                    on_error: self.on_error.unwrap_or_default(),
                    breaker: self.breaker.unwrap_or(Some(breaker::Settings::default())),
                },
                snapshot: self.snapshot(),
            };
            let mut loader = std::mem::take(&mut main.loader);
            let plugin = loader.plugin(cf, main, line, key);
            main.loader = loader;
            let plugin = plugin?;
            let condition = line.condition;
            self.location.guests.push(Listed { plugin: Rc::clone(&plugin), condition });
            if self.location.guests.len() > 1 {
                self.location.guests.iter().for_each(|it| it.plugin.has_company.set(true));
            }
            let instances = main.loader.instances().unwrap_or(usize::MAX);
            let needed = main.loader.needed();
            if needed > instances {
                let text = format_args!(
                    "\"min=\" of \"http_wasm_pool\", and one for guests without it, make {needed} \
                     instances, and \"http_wasm_instances\" is {instances}"
                );
                line.place.report(cf, EMERG, &line.path, text);
                return Err(Reported);
            }
            if cf.is_location()
                && let Some(reason) = self.never_served(&plugin, instances)
            {
                line.place.report(cf, EMERG, &line.path, format_args!("{reason}"));
                return Err(Reported);
            }
        }
        Ok(())
    }

    /// Why no request of the location would ever get as many instances as it needs, if that is so: each
    /// guest keeps its own until it has seen the response.
    fn never_served(&self, last: &Rc<Plugin>, instances: usize) -> Option<String> {
        let keeps = |it: &&Listed| it.condition.is_none() && it.plugin.guest().handles_responses();
        let keeping = self.location.guests.iter().filter(keeps);
        let all = keeping.clone().count();
        let same = keeping.filter(|it| Rc::ptr_eq(&it.plugin, last)).count();
        match self.pool().max {
            Some(max) if same > max => Some(format!(
                "is {same} times in one location: each request needs as many instances, and \
                 \"http_wasm_pool\" has \"max={max}\""
            )),
            _ if all > instances => Some(format!(
                "is one of {all} guests in one location: each request needs as many instances, and \
                 \"http_wasm_instances\" is {instances}"
            )),
            _ => None,
        }
    }
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
        &mut *(*(*ctx).main_conf.add(module::ctx_index())).cast::<MainConf>()
    }
}

/// A process is about to serve requests of this cycle: instances that are to be ready are started.
///
/// # Safety
/// `cycle` is a live one of nginx's, and nothing else uses its main configuration meanwhile.
pub(crate) unsafe fn make_ready(cycle: *mut nginx_sys::ngx_cycle_t) {
    // SAFETY: the http module's slot is null or its ngx_http_conf_ctx_t, which has a slot for every
    // http module; ours is what create_main_conf returned.
    let main = unsafe {
        let http = *(*cycle).conf_ctx.add(nginx_sys::ngx_http_module.index);
        let http = http.cast::<nginx_sys::ngx_http_conf_ctx_t>().as_ref();
        http.and_then(|http| (*http.main_conf.add(module::ctx_index())).cast::<MainConf>().as_ref())
    };
    if let Some(main) = main {
        main.loader.make_ready();
    }
}

/// Loads the guests of the `http` level that no server or location has loaded: a bad one is an error
/// even where nobody uses it yet.
pub(crate) fn load_unused(cf: *mut ngx_conf_t) -> Result<(), Reported> {
    // SAFETY: for this callback, inside the http block, whose own location configuration is the one
    // create_loc_conf made for it; the main conf is another object.
    let (cf, main, http) = unsafe {
        let ctx = (*cf).ctx.cast::<nginx_sys::ngx_http_conf_ctx_t>();
        let http = (*(*ctx).loc_conf.add(module::ctx_index())).cast::<LocConf>();
        (Cf::new(cf), main_conf(cf), &mut *http)
    };
    let Lines::List(lines) = &http.lines else {
        return Ok(());
    };
    let unused = lines.iter().filter(|line| !main.loader.has(line));
    let lines: Vec<_> = unused.cloned().collect();
    http.lines = Lines::List(lines);
    http.load(&cf, main)
}

/// Filters that encode bodies. Those that run before guests do not get to encode what guests want whole.
const ENCODERS: [&str; 2] = ["ngx_http_brotli_filter_module", "ngx_http_zstd_filter_module"];

/// Warns of those that are on the wrong side of guests.
pub(crate) fn warn_of_encoders(cf: *mut ngx_conf_t) {
    // SAFETY: for this callback.
    let cf = unsafe { Cf::new(cf) };
    for name in cf.filters_before().filter(|name| ENCODERS.contains(name)) {
        cf.log().write(
            WARN,
            format_args!(
                "http_wasm: {name} does not encode the responses that guests read or write: its \
                 \"load_module\" has to come before the one of this module"
            ),
        );
    }
}

/// A configuration error that has been logged.
pub(crate) struct Reported;
