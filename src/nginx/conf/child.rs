//! Compiling a guest and running its start functions in a process of its own, forked while the
//! configuration is read.
//!
//! The master must not start threads (workers forked from it would not have them, and the first
//! reload would hang on a compiler thread that no longer exists), must not wait for a guest that
//! never returns, and must not crash. The child may do all three: it uses every core, has a time
//! limit, and hands back the compiled module or the reason why there is none. What guests do when
//! they start, they do with the rights of a worker, and after the code has been handed back: what comes
//! later is read as text. Only a snapshot is code that is made of what a guest did.

use std::cell::Cell;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, set_parent_process_death_signal, waitpid,
};

use crate::nginx::conf::cache::{self, Cache, CacheDir};
use crate::nginx::conf::rights::Rights;
use crate::nginx::conf::said::{Failure, Parent, Report, Said};
use crate::nginx::exchange::host::Exchange;
use crate::nginx::guests::worker;
use crate::nginx::ngx::ffi;
use crate::nginx::ngx::log::{Log, NOTICE};
use crate::runtime::error::LoadError;
use crate::runtime::guest::{self, Guest, Settings};
use crate::runtime::precompiled::{self, is_precompiled};
use crate::runtime::snapshot::{self, Snapshot, Start, Unfit};
use crate::runtime::ticker::{Ran, Ticker};
use crate::runtime::{Engine, Module};

/// What compiling one guest may take if nobody says otherwise, and a machine that does other things
/// meanwhile. The largest guest known (25 MB of Go) takes 23 s on one core of 2025, twice with a snapshot.
pub(crate) const COMPILE_TIMEOUT: Duration = Duration::from_secs(180);

/// Linux's identifier of the time since the machine was started.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Between two looks at whether nginx was told to end.
const LOOK: Duration = Duration::from_millis(50);

/// How much a child may say: compiled code is up to ten times as large as the guest.
const SAID_MAX: usize = 1 << 30;

/// Whoever waits for longer at a terminal wants to know for what, and later that it goes on.
const PROGRESS: Duration = Duration::from_secs(1);
const FURTHER_PROGRESS: Duration = Duration::from_secs(10);

/// What to try.
pub(crate) enum Source<'a> {
    /// A file's bytes, to be compiled, whether to take a snapshot after the start functions, and
    /// where compiled code is kept.
    Bytes(&'a [u8], Snapshot, Option<CacheDir>),
    /// A module compiled before; only its start functions run, with another configuration.
    Module(&'a Module),
}

/// The same, once the cache has been looked at.
enum Task<'a> {
    Compile(&'a [u8], Snapshot, Option<&'a Cache>),
    Start(&'a Module, Start),
}

/// Compiles (if need be) and starts a guest in a child process, for as long as compiling may take.
pub(crate) fn try_out(
    engine: &Engine,
    source: Source<'_>,
    settings: &Settings,
    compile_timeout: Duration,
    rights: Option<&Rights>,
    log: Log,
) -> Result<(Module, Report), Failure> {
    let try_task = |task: Task<'_>, cache: Option<&CacheDir>| {
        run(engine, task, settings, compile_timeout, rights, cache, log)
    };
    let (bytes, snapshot, dir) = match source {
        Source::Module(module) => return try_task(Task::Start(module, Start::Run), None),
        Source::Bytes(bytes, snapshot, dir) => (bytes, snapshot, dir),
    };
    let cache = dir.as_ref().and_then(|dir| Cache::open(dir, log));
    let of = std::fs::read(BOOT_ID)
        .ok()
        .and_then(|boot| snapshot::digest(&precompiled::digest(bytes), settings, snapshot, &boot));
    let place = cache.as_ref().zip(of);
    if let Some((cache, of)) = place
        && let Some((module, features)) = cache.load_snapshot(engine, &of)
    {
        return try_task(Task::Start(&module, Start::Done(features)), None);
    }
    let compile = |snapshot| Task::Compile(bytes, snapshot, cache.as_ref());
    let tried = match try_task(compile(snapshot), dir.as_ref()) {
        // The guest may work all the same without a snapshot.
        Err(failure) if failure.lost && snapshot != Snapshot::Never => {
            let (module, report) = try_task(compile(Snapshot::Never), dir.as_ref())?;
            return Ok((module, Report { unfit: Some(failure.reason), ..report }));
        }
        tried => tried,
    };
    if let (Ok((module, Report { start: Start::Done(features), .. })), Some((cache, of))) =
        (&tried, place)
    {
        cache.store_snapshot(engine, &of, module, *features);
    }
    tried
}

/// Does one task in a child process.
fn run(
    engine: &Engine,
    task: Task<'_>,
    settings: &Settings,
    compile_timeout: Duration,
    rights: Option<&Rights>,
    cache: Option<&CacheDir>,
    log: Log,
) -> Result<(Module, Report), Failure> {
    let known = match task {
        Task::Compile(..) => None,
        Task::Start(module, _) => Some(module),
    };
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| Failure::new(format!("pipe() failed: {error}")))?;
    let paused = worker::pause();
    // SAFETY: nginx is single-threaded while it reads a configuration, and our thread has ended, so
    // the child is a complete copy of it. The child runs `child` and leaves by _exit: no handler of nginx's runs in it.
    let forked = unsafe { libc::fork() };
    let pid = match Pid::from_raw(forked) {
        _ if forked < 0 => {
            let error = io::Error::last_os_error();
            return Err(Failure::new(format!("fork() failed: {error}")));
        }
        None => {
            drop(read);
            let starts = Starts { settings, rights, log, begun: Cell::new(false) };
            let parent = Parent(File::from(write));
            let status = child(&parent, || attempt(engine, task, &starts, &parent));
            // SAFETY: ends this process without running exit handlers, which are the parent's.
            unsafe { libc::_exit(status) }
        }
        Some(pid) => pid,
    };
    drop(paused);
    drop(write);
    let limit = compile_timeout + 2 * settings.limits.start_timeout;
    let said = listen(File::from(read), limit, |lasted| progress(settings, lasted, log));
    if said.is_err() {
        // The child has not been waited for, so the number is still its own. A child that is gone
        // already is none to end.
        let _ = kill_process(pid, Signal::KILL);
    }
    let status = wait(pid);
    let ended = status.and_then(WaitStatus::terminating_signal);
    if (said.is_err() || ended.is_some())
        && let Some(dir) = cache
    {
        cache::remove_unfinished(dir, pid.as_raw_nonzero().get().cast_unsigned());
    }
    let said = said?;
    let Said { code, verdict } = Said::read(&said).ok_or_else(|| {
        Failure::lost(match ended {
            Some(signal) => format!("compiling or starting it ended with signal {signal}"),
            None => "compiling or starting it ended without a result".to_owned(),
        })
    })?;
    let report = verdict?;
    let module = match (known, code) {
        (Some(module), _) => module.clone(),
        // SAFETY: the bytes are what Module::serialize made a moment ago in a child of this very
        // process and binary, which had not run the guest yet, except for a snapshot; nobody else
        // can write to that pipe.
        (None, Some(code)) => unsafe { Module::deserialize(engine.wasm(), code) }
            .map_err(|error| Failure::new(format!("cannot map the compiled code: {error:#}")))?,
        (None, None) => return Err(Failure::new("compiling it ended without its code")),
    };
    // Here, before the fork, so that all workers share the image of the guest's memory.
    module
        .initialize_copy_on_write_image()
        .map_err(|error| Failure::new(format!("cannot map its memory image: {error:#}")))?;
    Ok((module, report))
}

/// Asks the kernel to end this process with its parent.
fn end_with_parent() {
    // The signal is one that the kernel knows: there is nothing to fail.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
}

/// What start functions are lent. From the first one on the process has no more rights than a
/// worker, and never gets them back.
struct Starts<'a> {
    settings: &'a Settings,
    /// None where workers are the same user.
    rights: Option<&'a Rights>,
    log: Log,
    begun: Cell<bool>,
}

impl Starts<'_> {
    /// Lets a guest start, for as long as it may run. Without a request every wait blocks (see
    /// `Exchange::sleep`), so a pending future has merely given up a turn.
    fn run<T>(
        &self,
        engine: &Engine,
        start: impl Future<Output = Result<T, LoadError>>,
    ) -> Result<T, Failure> {
        let slice = self.settings.limits.slice;
        let _ticker = slice
            .map(|slice| Ticker::start(engine, slice, || ()))
            .transpose()
            .map_err(|error| Failure::new(format!("cannot start a thread: {error}")))?;
        let mut start = pin!(start);
        let mut context = Context::from_waker(Waker::noop());
        let mut ran = Ran::default();
        loop {
            let turn = engine.pace().turn(ran);
            let poll = start.as_mut().poll(&mut context);
            ran = turn.end();
            match poll {
                Poll::Ready(result) => return Ok(result?),
                Poll::Pending if ran.is_overdue() => {
                    let ms = ran.limit().as_millis();
                    let late =
                        format!("does not start: ran for longer than {ms} ms and was stopped");
                    return Err(Failure::new(late));
                }
                Poll::Pending => {}
            }
        }
    }

    fn host(&self) -> Result<Exchange, LoadError> {
        if let Some(rights) = self.rights.filter(|_| !self.begun.get()) {
            rights.assume().map_err(|error| {
                LoadError::Instantiate(format!("cannot take on the rights of a worker: {error}"))
            })?;
            // The change of the user has taken it back.
            end_with_parent();
        }
        self.begun.set(true);
        Ok(Exchange::without_request(self.settings.name.as_str().into(), self.log))
    }
}

/// What runs in the child; returns its exit status.
fn child(parent: &Parent, attempt: impl FnOnce() -> Result<Report, Failure>) -> i32 {
    end_with_parent();
    let result = catch_unwind(AssertUnwindSafe(attempt))
        .unwrap_or_else(|_| Err(Failure::new("the compiler panicked")));
    i32::from(parent.conclude(result).is_err())
}

/// Compiles, checks, links, hands the code over, and starts.
fn attempt(
    engine: &Engine,
    task: Task<'_>,
    starts: &Starts<'_>,
    parent: &Parent,
) -> Result<Report, Failure> {
    let settings = starts.settings;
    let (bytes, snapshot, cache) = match task {
        Task::Start(module, start) => {
            let guest = Guest::new(engine, module, settings.clone())?.with(start);
            starts.run(engine, async { guest.start(starts.host()?).await })?;
            return Ok(Report { start, unfit: None, compiled_ms: None });
        }
        Task::Compile(bytes, snapshot, cache) => (bytes, snapshot, cache),
    };
    let engine = engine.to_compile()?;
    Guest::<Exchange>::examine(&engine, bytes, settings)?;
    let spent = Cell::new(None);
    let compile = |engine: &Engine, bytes: &[u8]| {
        // What is compiled after a start has another user's rights; only a snapshot is.
        let cache = cache.filter(|_| !starts.begun.get());
        compile(engine, bytes, cache, &spent)
    };
    let (start, unfit) = match snapshot {
        Snapshot::Never => {
            let module = compile(&engine, bytes)?;
            let guest = Guest::new(&engine, &module, settings.clone())?;
            parent.hand_over(&module)?;
            starts.run(&engine, async { guest.start(starts.host()?).await })?;
            (Start::Run, None)
        }
        Snapshot::Faithful | Snapshot::Seeded => {
            let host = || starts.host();
            let prepare = |snapshot| {
                let prepared = snapshot::prepare(&engine, bytes, settings, snapshot, compile, host);
                starts.run(&engine, prepared)
            };
            let (prepared, panicked) = match catch_unwind(AssertUnwindSafe(|| prepare(snapshot))) {
                Ok(prepared) => (prepared?, None),
                // The guest may work all the same without.
                Err(_) => {
                    (prepare(Snapshot::Never)?, Some("taking the snapshot panicked".to_owned()))
                }
            };
            parent.hand_over(&prepared.module)?;
            let unfit = panicked.or_else(|| prepared.unfit.as_ref().map(Unfit::to_string));
            (prepared.start, unfit)
        }
    };
    let compiled_ms = spent.get().map(|time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
    Ok(Report { start, unfit, compiled_ms })
}

/// Compiles, unless that was done before; adds the time it took to `spent`.
fn compile(
    engine: &Engine,
    bytes: &[u8],
    cache: Option<&Cache>,
    spent: &Cell<Option<Duration>>,
) -> Result<Module, LoadError> {
    if is_precompiled(bytes) {
        let decoded = precompiled::decode(engine, bytes)?;
        // SAFETY: the file is one that only root and this user can write to (`cache::check_operators`),
        // and complete and for this engine (`decode`).
        return unsafe { cache::deserialize(engine, decoded.code) };
    }
    let source = precompiled::digest(bytes);
    if let Some(module) = cache.and_then(|cache| cache.load(engine, &source)) {
        return Ok(module);
    }
    let begin = Instant::now();
    let module = guest::compile(engine, bytes)?;
    spent.set(Some(spent.get().unwrap_or_default() + begin.elapsed()));
    if let Some(cache) = cache {
        cache.store(engine, &source, &module);
    }
    Ok(module)
}

/// Reads everything the child says, for as long as it may take and nginx is not told to end.
fn listen(
    mut pipe: File,
    limit: Duration,
    mut progress: impl FnMut(Duration),
) -> Result<Vec<u8>, Failure> {
    let begin = Instant::now();
    let mut next = PROGRESS;
    let mut said = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        if is_ending() {
            return Err(Failure::new("was not loaded: nginx has been told to end"));
        }
        let lasted = begin.elapsed();
        if lasted > limit {
            let seconds = limit.as_secs_f64();
            let late = format!(
                "compiling and starting it took longer than {seconds} s (see \
                 http_wasm_compile_timeout)"
            );
            return Err(Failure::lost(late));
        }
        if lasted >= next {
            progress(lasted);
            next = lasted + FURTHER_PROGRESS;
        }
        let look = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&look)) {
            Ok(0) | Err(Errno::INTR) => continue,
            // What went wrong, the read says.
            Ok(_) | Err(_) => {}
        }
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(said),
            Ok(_) if said.len() > SAID_MAX => {
                return Err(Failure::new("compiling it gave more than 1 GiB of code"));
            }
            Ok(len) => said.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(Failure::new(format!("reading from its process failed: {error}")));
            }
        }
    }
}

/// Whether nginx has been told to end. A master has signals blocked while it reads a configuration
/// again; with "master_process off" its handler runs, and sets these.
fn is_ending() -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: plain integers that nginx's signal handler sets in this very thread; the set is written
    // by sigpending before it is read, which has nothing else to fail for.
    unsafe {
        if nginx_sys::ngx_terminate != 0 || nginx_sys::ngx_quit != 0 {
            // Its event loop is about to wait, for whatever comes next.
            ffi::ngx_http_wasm_wake();
            return true;
        }
        if libc::sigpending(pending.as_mut_ptr()) != 0 {
            return false;
        }
        let pending = pending.assume_init_ref();
        let told = |signal| libc::sigismember(pending, signal) == 1;
        told(libc::SIGTERM) || told(libc::SIGINT) || told(libc::SIGQUIT)
    }
}

/// One line for a guest that takes its time, in the log; and, while nginx has one, at the terminal, again
/// and again.
fn progress(settings: &Settings, lasted: Duration, log: Log) {
    let name = &settings.name;
    if lasted < FURTHER_PROGRESS {
        log.write(NOTICE, format_args!("http_wasm guest \"{name}\": compiling and starting"));
    }
    // SAFETY: a plain integer; set until the master has opened its logs.
    if unsafe { nginx_sys::ngx_use_stderr } != 0 {
        match lasted.as_secs() {
            0 | 1 => eprintln!("nginx: http_wasm guest \"{name}\": compiling and starting"),
            seconds => eprintln!(
                "nginx: http_wasm guest \"{name}\": compiling and starting, {seconds} s so far"
            ),
        }
    }
}

/// Waits for the child to be gone; its status, unless somebody else took it (nginx's SIGCHLD
/// handler, where signals are not blocked).
fn wait(pid: Pid) -> Option<WaitStatus> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(ended) => return ended.map(|(_, status)| status),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}
