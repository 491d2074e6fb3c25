//! Loading guests while a configuration is read. What the running configuration has loaded is not
//! compiled or started again by the next one.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::Instant;

use crate::nginx::conf::cache;
use crate::nginx::conf::cf::{Cf, EMERG};
use crate::nginx::conf::child::{self, Source};
use crate::nginx::conf::line::{Line, read};
use crate::nginx::conf::settings::{MainConf, Reported};
use crate::nginx::exchange::host::{Exchange, Plugin};
use crate::nginx::guests::line;
use crate::nginx::guests::service::Service;
use crate::nginx::guests::status::Identified;
use crate::nginx::guests::worker;
use crate::nginx::ngx::log::{Escaped, NOTICE, WARN};
use crate::nginx::ngx::pages::find_written;
use crate::runtime::error::LoadError;
use crate::runtime::guest::{Guest, Settings};
use crate::runtime::inspect::ignores_responses;
use crate::runtime::precompiled::{Sha256Digest, digest, hex, is_precompiled};
use crate::runtime::snapshot::{Snapshot, Start};
use crate::runtime::{Compile, Engine, Layout, Module};

/// What makes two `http_wasm` lines mean the same guest, with the same instances.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) path: Vec<u8>,
    pub(crate) settings: Settings,
    pub(crate) service: Service,
    pub(crate) snapshot: Snapshot,
}

/// Where compiled guests are kept.
pub(crate) enum CachePath {
    /// `http_wasm_cache_path off`.
    Off,
    /// `http_wasm_cache_path DIR`.
    Dir(PathBuf),
}

/// The guests of one configuration.
#[derive(Default)]
pub(crate) struct Loader {
    shared: Option<Rc<Shared>>,
    /// With the digest of their files.
    plugins: HashMap<Key, (Rc<Plugin>, Sha256Digest)>,
    /// What `shared` remembers for as long as a configuration uses it.
    kept: Vec<Rc<Ready>>,
}

/// What configurations have in common that want the same of the engine: the running one, and while
/// reloading the next.
struct Shared {
    engine: Engine,
    /// The same without interrupts, once a guest wants it.
    unchecked: OnceCell<Engine>,
    /// Of all guests' calls for an instance.
    waiting: Rc<line::Line<Exchange>>,
    instances: u32,
    stack_bytes: usize,
    /// Whether `perf` is told where the functions of guests are.
    profile: bool,
    /// By what they were compiled from, and whether for the engine with interrupts.
    compiled: RefCell<HashMap<(Sha256Digest, bool), Weak<Ready>>>,
    started: RefCell<HashMap<Trial, Weak<Ready>>>,
}

/// What decides how starting a guest goes.
type Trial = (Sha256Digest, Settings, Snapshot);

/// A guest that was compiled and started.
struct Ready {
    module: Module,
    start: Start,
    ignores_responses: bool,
}

thread_local! {
    static SHARED: RefCell<Vec<Weak<Shared>>> = const { RefCell::new(Vec::new()) };
}

impl Loader {
    /// Whether any location may have a guest.
    pub(crate) fn has_guests(&self) -> bool {
        !self.plugins.is_empty()
    }

    /// How many instances all guests have together, once one is loaded.
    pub(crate) fn instances(&self) -> Option<usize> {
        self.shared.as_ref().map(|shared| shared.instances as usize)
    }

    /// Has the instances started that are to be ready in a process that serves.
    pub(crate) fn make_ready(&self) {
        self.plugins.values().for_each(|(plugin, _)| Plugin::replenish(plugin));
    }

    /// Instances that all guests need at least: those that are to be ready, and one for the others.
    pub(crate) fn needed(&self) -> usize {
        let ready = self.plugins.keys().map(|key| key.service.pool.min);
        let others = ready.clone().any(|min| min == 0);
        ready.sum::<usize>() + usize::from(others)
    }

    /// Whether a guest of this line was loaded, with whatever settings.
    pub(crate) fn has(&self, line: &Line) -> bool {
        self.plugins.keys().any(|key| {
            key.path == line.path
                && key.settings.name == line.name
                && key.settings.config == line.config
        })
    }

    /// The guest a line asks for: one that is loaded already, or a new one, compiled and started
    /// once in a process of its own.
    pub(crate) fn plugin(
        &mut self,
        cf: &Cf,
        conf: &mut MainConf,
        line: &Line,
        key: Key,
    ) -> Result<Rc<Plugin>, Reported> {
        let loaded = match self.plugins.get(&key) {
            Some((plugin, source)) => is_meant(line, source).map(|()| Rc::clone(plugin)),
            None => self.load(cf, conf, line, key),
        };
        loaded.map_err(|reason| {
            line.place.report(cf, EMERG, &line.path, format_args!("{reason}"));
            Reported
        })
    }

    fn load(
        &mut self,
        cf: &Cf,
        conf: &mut MainConf,
        line: &Line,
        key: Key,
    ) -> Result<Rc<Plugin>, String> {
        let began = Instant::now();
        let shared = self.shared(cf, conf)?;
        let (bytes, meta) = read(&line.path, "the file").map_err(|error| error.reason)?;
        let source = digest(&bytes);
        is_meant(line, &source)?;
        if is_precompiled(&bytes) {
            cache::check_operators(&meta)?;
        }
        let trial = (source, key.settings.clone(), key.snapshot);
        let ready = match shared.remembered(&trial) {
            Some(ready) => ready,
            None => {
                let ready = Rc::new(shared.load(cf, conf, line, &bytes, &trial)?);
                shared.remember(trial, &ready);
                ready
            }
        };
        let engine = shared.engine(cf, &key.settings)?.clone();
        let guest = Guest::new(&engine, &ready.module, key.settings.clone());
        let guest = guest.map_err(|error| one_line(cf, &error))?.with(ready.start);
        let guest = guest.ignoring_responses(ready.ignores_responses);
        // In the place of a new instance.
        let guest = match key.service.pool.requests {
            1 => guest.resettable(find_written),
            _ => guest,
        };
        self.kept.push(ready);
        if let Some(slice) = key.settings.limits.slice {
            worker::note_slice(slice);
        }
        let identified = Identified {
            name: &line.name,
            path: &line.path,
            config: &line.config,
            place: line.place.to_string(),
        };
        let load = began.elapsed();
        let meter = conf.http.meters.of(&identified, &source, bytes.len() as u64, load);
        let waiting = &shared.waiting;
        let service = key.service;
        let alone = Exchange::of_worker;
        let plugin = Plugin::new(guest, engine, waiting, service, meter, alone);
        self.plugins.insert(key, (Rc::clone(&plugin), source));
        Ok(plugin)
    }

    /// The engine of all guests, of the running configuration if it wants the same.
    fn shared(&mut self, cf: &Cf, conf: &MainConf) -> Result<Rc<Shared>, String> {
        if let Some(shared) = &self.shared {
            return Ok(Rc::clone(shared));
        }
        let instances = conf.instances.unwrap_or_else(|| default_instances(cf));
        let stack_bytes = conf.stack_bytes.unwrap_or(Engine::STACK_BYTES);
        // What only tests a configuration runs nothing that could be looked at.
        let profile = conf.profile.unwrap_or(false) && !cf.is_test();
        let wanted = (instances, stack_bytes, profile);
        let running = SHARED.with_borrow(|all| {
            let mut all = all.iter().filter_map(Weak::upgrade);
            all.find(|it| (it.instances, it.stack_bytes, it.profile) == wanted)
        });
        let shared = match running {
            Some(shared) => shared,
            None => {
                let engine = engine(cf, instances, stack_bytes, profile);
                let shared = Rc::new(Shared {
                    engine: engine.map_err(|error| one_line(cf, &error))?,
                    unchecked: OnceCell::new(),
                    waiting: line::Line::new(instances as usize),
                    instances,
                    stack_bytes,
                    profile,
                    compiled: RefCell::default(),
                    started: RefCell::default(),
                });
                SHARED.with_borrow_mut(|all| {
                    all.retain(|it| it.strong_count() > 0);
                    all.push(Rc::downgrade(&shared));
                });
                shared
            }
        };
        Ok(Rc::clone(self.shared.insert(shared)))
    }
}

impl Shared {
    /// What came of the same trial before. Never with directories: what is in them may be different
    /// now.
    fn remembered(&self, trial: &Trial) -> Option<Rc<Ready>> {
        let (_, settings, _) = trial;
        match settings.dirs.is_empty() {
            true => self.started.borrow().get(trial)?.upgrade(),
            false => None,
        }
    }

    /// The engine for a guest of these settings.
    fn engine(&self, cf: &Cf, settings: &Settings) -> Result<&Engine, String> {
        match (settings.limits.slice, self.unchecked.get()) {
            (Some(_), _) => Ok(&self.engine),
            (None, Some(engine)) => Ok(engine),
            (None, None) => {
                let engine = self.engine.without_interrupts().or_else(|error| {
                    warn_of_addresses(cf, self.instances, &error);
                    laid_out(Layout::Compact, self.stack_bytes, self.profile)?.without_interrupts()
                });
                let engine = engine.map_err(|error| one_line(cf, &error))?;
                Ok(self.unchecked.get_or_init(|| engine))
            }
        }
    }

    fn remember(&self, trial: Trial, ready: &Rc<Ready>) {
        let (source, settings, _) = &trial;
        let source = (*source, settings.limits.slice.is_some());
        let mut compiled = self.compiled.borrow_mut();
        compiled.retain(|_, ready| ready.strong_count() > 0);
        if ready.start == Start::Run {
            compiled.insert(source, Rc::downgrade(ready));
        }
        let mut started = self.started.borrow_mut();
        started.retain(|_, ready| ready.strong_count() > 0);
        started.insert(trial, Rc::downgrade(ready));
    }

    /// Compiles and starts, or only starts what was compiled for another configuration.
    fn load(
        &self,
        cf: &Cf,
        conf: &MainConf,
        line: &Line,
        bytes: &[u8],
        (source, settings, snapshot): &Trial,
    ) -> Result<Ready, String> {
        let engine = self.engine(cf, settings)?;
        let compiled = (*source, engine.interrupts());
        let compiled = self.compiled.borrow().get(&compiled).and_then(Weak::upgrade);
        let source = match &compiled {
            Some(ready) if *snapshot == Snapshot::Never => Source::Module(&ready.module),
            _ => Source::Bytes(bytes, *snapshot, conf.cache_dir(cf)),
        };
        let rights = cf.worker_rights()?;
        let limit = conf.compile_timeout.unwrap_or(child::COMPILE_TIMEOUT);
        let tried = child::try_out(engine, source, settings, limit, rights.as_ref(), cf.log());
        let (module, report) = tried.map_err(|failure| {
            cf.report_frames(failure.backtrace.as_deref());
            failure.reason
        })?;
        if let Some(ms) = report.compiled_ms {
            line.place.report(cf, NOTICE, &line.path, format_args!("compiled in {ms} ms"));
        }
        if let Some(reason) = report.unfit {
            let level = if *snapshot == Snapshot::Seeded { WARN } else { NOTICE };
            let reason = Escaped(reason.as_bytes());
            let text = format_args!("has no snapshot, every instance is started: {reason}");
            line.place.report(cf, level, &line.path, text);
        }
        let ignores_responses = ignores_responses(bytes);
        Ok(Ready { module, start: report.start, ignores_responses })
    }
}

/// Whether this is the file that `sha256=` means, if it is there.
fn is_meant(line: &Line, source: &Sha256Digest) -> Result<(), String> {
    match &line.sha256 {
        Some(expected) if expected != source => {
            let (found, expected) = (hex(source), hex(expected));
            Err(format!("has the SHA-256 digest {found}, expected {expected}"))
        }
        _ => Ok(()),
    }
}

fn engine(cf: &Cf, instances: u32, stack_bytes: usize, profile: bool) -> Result<Engine, LoadError> {
    let pooled = laid_out(Layout::Pooled { instances }, stack_bytes, profile);
    let engine = pooled.or_else(|error| {
        warn_of_addresses(cf, instances, &error);
        laid_out(Layout::Compact, stack_bytes, profile)
    })?;
    if let Some(path) = Engine::perf_map().filter(|_| profile) {
        let path = path.display();
        cf.log().write(
            NOTICE,
            format_args!("http_wasm: perf finds the functions of guests in \"{path}\""),
        );
    }
    Ok(engine)
}

/// Serial: no thread may ever start in the process that forks the workers.
fn laid_out(layout: Layout, stack_bytes: usize, profile: bool) -> Result<Engine, LoadError> {
    let engine = if profile { Engine::profiled } else { Engine::with };
    engine(Compile::Serial, layout, stack_bytes)
}

fn warn_of_addresses(cf: &Cf, instances: u32, error: &LoadError) {
    cf.log().write(
        WARN,
        format_args!(
            "http_wasm: no addresses for {instances} instances of 4 GiB each ({error}): laying them \
             out compactly, guests that compute take up to half as long again; raise \"ulimit -v\" \
             or lower \"http_wasm_instances\""
        ),
    );
}

/// Two instances for every connection of a worker, as chains of guests and streams of HTTP/2 need.
fn default_instances(cf: &Cf) -> u32 {
    let connections = u32::try_from(cf.connections()).unwrap_or(u32::MAX);
    connections.saturating_mul(2).clamp(256, MainConf::INSTANCES_MAX)
}

/// An error with the guest's frames before it.
fn one_line(cf: &Cf, error: &LoadError) -> String {
    cf.report_frames(error.backtrace().as_deref());
    Escaped(error.to_string().as_bytes()).to_string()
}
