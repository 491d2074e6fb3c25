//! From a file to a guest that was started: what `nginx -t` does, with a clock beside it.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::args::Slice;
use super::exchange::{Exchange, Lent, Rules};
use super::message::Request;
use super::turns::Turns;
use super::{Failure, GuestFailure, progress};
use crate::abi::{Features, Level};
use crate::escaped::Escaped;
use crate::runtime::error::LoadError;
use crate::runtime::guest::{self, Guest, Settings};
use crate::runtime::{Compile, Engine, Module};

/// A guest that can be used.
pub(crate) struct Loaded {
    pub(crate) engine: Engine,
    pub(crate) module: Module,
    pub(crate) guest: Guest<Lent>,
    pub(crate) started: Started,
}

/// What the first start has shown.
pub(crate) struct Started {
    /// Time that compiling took.
    pub(crate) compiled: Duration,
    /// Time that its start functions took.
    pub(crate) started: Duration,
    /// Memory after that.
    pub(crate) memory_bytes: usize,
    /// Features that it enabled.
    pub(crate) features: Features,
    /// What it logged.
    pub(crate) log: Vec<(Level, String)>,
    /// Calls of host functions.
    pub(crate) calls: u64,
}

/// The guest's bytes.
pub(crate) fn source(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        reason(path, &format!("cannot read the file \"{}\": {error}", path.display()))
    })
}

/// Compiles bytes for this machine, without interrupts if `http_wasm_slice` is off.
pub(crate) fn compile(
    path: &Path,
    bytes: &[u8],
    slice: Option<Slice>,
) -> Result<(Engine, Module), Failure> {
    let refused = |error| refused(path, &error);
    let engine = Engine::new(Compile::Parallel).and_then(|engine| match slice {
        Some(Slice::Off) => engine.without_interrupts(),
        None => Ok(engine),
    });
    let engine = engine.map_err(refused)?;
    let module = guest::compile(&engine, bytes).map_err(refused)?;
    Ok((engine, module))
}

/// Compiles a guest and starts it once, within `limit`, as nginx does it in a process of its own. A
/// guest that takes longer is left running: this program ends soon.
pub(crate) fn load(
    path: &Path,
    bytes: Vec<u8>,
    settings: Settings,
    rules: Rules,
    limit: Duration,
) -> Result<Loaded, Failure> {
    // A trace is printed to the same place, while this runs.
    let progress = (!rules.trace).then(|| progress::spinner("compiling"));
    let (sender, receiver) = mpsc::channel();
    let owned = path.to_owned();
    thread::spawn(move || {
        // Nobody listens any more when it took too long.
        let _ = sender.send(attempt(&owned, &bytes, settings, rules));
    });
    let result = receiver.recv_timeout(limit);
    if let Some(progress) = progress {
        progress.finish_and_clear();
    }
    match result {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let seconds = limit.as_secs_f64();
            Err(reason(path, &format!("compiling and starting it took longer than {seconds} s")))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(reason(path, "the compiler panicked")),
    }
}

fn attempt(path: &Path, bytes: &[u8], settings: Settings, rules: Rules) -> Result<Loaded, Failure> {
    let began = Instant::now();
    let engine = if rules.count { Engine::counting } else { Engine::new };
    let engine = engine(Compile::Parallel).map_err(|error| refused(path, &error))?;
    let examined = Guest::<Lent>::examine(&engine, bytes, &settings);
    examined.map_err(|error| refused(path, &error))?;
    let module = guest::compile(&engine, bytes).map_err(|error| refused(path, &error))?;
    let compiled = began.elapsed();
    let turns = Turns::new(&engine, settings.limits.slice)?;
    let guest = Guest::new(&engine, &module, settings).map_err(|error| refused(path, &error))?;
    let (host, home) = Lent::new(Exchange::new(rules, Request::default()));
    let began = Instant::now();
    let instance = turns.run(guest.start(host)).output;
    let started = began.elapsed();
    let (log, calls) = home.lock().take().map(|home| (home.log, home.calls)).unwrap_or_default();
    let instance = match instance {
        Ok(Ok(instance)) => instance,
        Ok(Err(error)) => {
            let mut failure = refused(path, &error);
            if let Some(guest) = &mut failure.guest {
                guest.log = log;
            }
            return Err(failure);
        }
        Err(overdue) => return Err(reason(path, &format!("does not start: {overdue}"))),
    };
    let started = Started {
        compiled,
        started,
        memory_bytes: instance.memory_bytes(),
        features: instance.features(),
        log,
        calls,
    };
    drop(instance);
    Ok(Loaded { engine, module, guest, started })
}

/// A guest that cannot be used, in nginx's words.
pub(crate) fn refused(path: &Path, error: &LoadError) -> Failure {
    let text = Escaped(error.to_string().as_bytes()).to_string();
    unusable(
        path,
        GuestFailure { reason: text, backtrace: error.backtrace(), ..Default::default() },
    )
}

fn reason(path: &Path, reason: &str) -> Failure {
    unusable(path, GuestFailure { reason: reason.to_owned(), ..Default::default() })
}

fn unusable(path: &Path, guest: GuestFailure) -> Failure {
    use std::os::unix::ffi::OsStrExt;
    let path = Escaped(path.as_os_str().as_bytes());
    let text = format!("http_wasm guest \"{path}\": {}", guest.reason);
    Failure { guest: Some(Box::new(guest)), ..Failure::new(text) }
}
