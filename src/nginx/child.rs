//! Compiling a guest and running its start functions in a process of its own, forked while the
//! configuration is read.
//!
//! The master must not start threads (workers forked from it would not have them, and the first
//! reload would hang on a compiler thread that no longer exists), must not wait for a guest that
//! never returns, and must not crash. The child may do all three: it uses every core, has a time
//! limit, and hands back the compiled module or the reason why there is none. What guests do when
//! they start, they do with the rights of a worker.

use std::cell::Cell;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::cache::{self, Cache, CacheDir};
use super::exchange::Exchange;
use super::log::{Escaped, Log, NOTICE};
use super::rights::Rights;
use crate::abi::Features;
use crate::error::LoadError;
use crate::runtime::guest::{self, Guest, Settings};
use crate::runtime::precompiled::{self, is_precompiled};
use crate::runtime::snapshot::{self, Snapshot, Start, Unfit};
use crate::runtime::{Engine, Module};

/// What compiling and starting one guest may take. The largest guest known (12 MB of Go) takes 11 s
/// on one core of 2025; ten times that is a guest that hangs.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Whoever waits for longer at a terminal wants to know for what.
const PROGRESS: Duration = Duration::from_secs(1);

/// What to try.
pub(crate) enum Source<'a> {
    /// A file's bytes, to be compiled, whether to take a snapshot after the start functions, and
    /// where compiled code is kept.
    Bytes(&'a [u8], Snapshot, Option<CacheDir>),
    /// A module compiled before; only its start functions run, with another configuration.
    Module(&'a Module),
}

/// Why a guest cannot be used.
pub(crate) struct Failure {
    /// One line.
    pub(crate) reason: String,
    /// Frames of the guest, a line each.
    pub(crate) backtrace: Option<String>,
}

impl Failure {
    fn new(reason: impl Into<String>) -> Self {
        Failure { reason: reason.into(), backtrace: None }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Failure {
            reason: Escaped(error.to_string().as_bytes()).to_string(),
            backtrace: error.backtrace(),
        }
    }
}

/// First byte of what the child says; the module or the reason follows.
const COMPILED: u8 = b'+';
const REFUSED: u8 = b'-';
/// Between reason and backtrace.
const SEPARATOR: char = '\0';

/// Compiles (if need be) and starts a guest in a child process.
pub(crate) fn try_out(
    engine: &Engine,
    source: Source<'_>,
    settings: &Settings,
    rights: Option<&Rights>,
    log: Log,
) -> Result<(Module, Report), Failure> {
    let known = match source {
        Source::Bytes(..) => None,
        Source::Module(module) => Some(module),
    };
    let (read, write) = pipe().map_err(|error| Failure::new(format!("pipe() failed: {error}")))?;
    // SAFETY: nginx is single-threaded while it reads a configuration, so the child is a complete
    // copy of it. The child runs `child` and leaves by _exit: no handler of nginx's runs in it.
    let pid = match unsafe { libc::fork() } {
        -1 => {
            let error = io::Error::last_os_error();
            return Err(Failure::new(format!("fork() failed: {error}")));
        }
        0 => {
            drop(read);
            let starts = Starts { settings, rights, log, begun: Cell::new(false) };
            let status = child(|| attempt(engine, source, &starts), File::from(write));
            // SAFETY: ends this process without running exit handlers, which are the parent's.
            unsafe { libc::_exit(status) }
        }
        pid => pid,
    };
    drop(write);
    let said = listen(File::from(read), TIME_LIMIT, || progress(settings, log));
    if said.is_err() {
        // SAFETY: the child has not been waited for, so the number is still its.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    let status = wait(pid);
    let said = said?;
    match said.split_first() {
        Some((&COMPILED, report)) => {
            let (report, code) = Report::decode(report)
                .ok_or_else(|| Failure::new("compiling it ended with half a result"))?;
            let module = match known {
                Some(module) => module.clone(),
                // SAFETY: the bytes are what Module::serialize made a moment ago in a child of this
                // very process and binary; nobody else can write to that pipe.
                None => unsafe { Module::deserialize(engine.wasm(), code) }.map_err(|error| {
                    Failure::new(format!("cannot map the compiled code: {error:#}"))
                })?,
            };
            // Here, before the fork, so that all workers share the image of the guest's memory.
            module
                .initialize_copy_on_write_image()
                .map_err(|error| Failure::new(format!("cannot map its memory image: {error:#}")))?;
            Ok((module, report))
        }
        Some((&REFUSED, text)) => {
            let text = String::from_utf8_lossy(text);
            let (reason, backtrace) = match text.split_once(SEPARATOR) {
                Some((reason, backtrace)) => (reason, Some(backtrace.to_owned())),
                None => (&*text, None),
            };
            Err(Failure { reason: reason.to_owned(), backtrace })
        }
        _ => Err(Failure::new(match status {
            Some(status) if libc::WIFSIGNALED(status) => {
                format!("compiling or starting it ended with signal {}", libc::WTERMSIG(status))
            }
            _ => "compiling or starting it ended without a result".to_owned(),
        })),
    }
}

/// Asks the kernel to end this process with its parent.
fn end_with_parent() {
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
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
fn child(attempt: impl FnOnce() -> Result<Vec<u8>, Failure>, mut parent: File) -> i32 {
    end_with_parent();
    let result = catch_unwind(AssertUnwindSafe(attempt))
        .unwrap_or_else(|_| Err(Failure::new("the compiler panicked")));
    let said = match result {
        Ok(bytes) => parent.write_all(&[COMPILED]).and_then(|()| parent.write_all(&bytes)),
        Err(failure) => {
            let mut text = failure.reason;
            if let Some(backtrace) = failure.backtrace {
                text.push(SEPARATOR);
                text.push_str(&backtrace);
            }
            parent.write_all(&[REFUSED]).and_then(|()| parent.write_all(text.as_bytes()))
        }
    };
    i32::from(said.is_err())
}

/// Compiles, checks, links and starts; how instances start and the compiled module, as
/// [`Report::decode`] reads it.
fn attempt(engine: &Engine, source: Source<'_>, starts: &Starts<'_>) -> Result<Vec<u8>, Failure> {
    let settings = starts.settings;
    let (bytes, snapshot, cache) = match source {
        Source::Module(module) => {
            let guest = Guest::new(engine, module, settings.clone())?;
            drop(block_on(guest.start(starts.host()?))?);
            let report = Report { start: Start::Run, unfit: None, compiled_ms: None };
            return Ok(report.encode(&[]));
        }
        Source::Bytes(bytes, snapshot, cache) => (bytes, snapshot, cache),
    };
    let engine = engine.to_compile()?;
    let cache = cache.and_then(|dir| Cache::open(&dir, starts.log));
    let spent = Cell::new(None);
    let compile = |engine: &Engine, bytes: &[u8]| {
        // What is compiled after a start has another user's rights; only a snapshot is.
        let cache = cache.as_ref().filter(|_| !starts.begun.get());
        compile(engine, bytes, cache, &spent)
    };
    let host = || starts.host();
    let prepare =
        |snapshot| block_on(snapshot::prepare(&engine, bytes, settings, snapshot, compile, host));
    let (prepared, unfit) = match catch_unwind(AssertUnwindSafe(|| prepare(snapshot))) {
        Ok(prepared) => {
            let prepared = prepared?;
            let unfit = prepared.unfit.as_ref().map(Unfit::to_string);
            (prepared, unfit)
        }
        // The guest may work all the same without.
        Err(_) => (prepare(Snapshot::Never)?, Some("taking the snapshot panicked".to_owned())),
    };
    let code = prepared.module.serialize();
    let code = code
        .map_err(|error| Failure::new(format!("cannot serialize the compiled code: {error:#}")))?;
    let compiled_ms = spent.get().map(|time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
    Ok(Report { start: prepared.start, unfit, compiled_ms }.encode(&code))
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

/// What a child found out about a guest.
pub(crate) struct Report {
    pub(crate) start: Start,
    /// Why there is no snapshot although one was asked for.
    pub(crate) unfit: Option<String>,
    /// How long the compiler took, if it had to.
    pub(crate) compiled_ms: Option<u32>,
}

/// Bytes of a report before its text: whether there is a snapshot, features, time spent compiling,
/// length of the text.
const REPORT_HEAD: usize = 13;

/// Stands for "not compiled".
const NOTHING_SPENT: u32 = u32::MAX;

impl Report {
    /// The report and the serialized module.
    fn encode(&self, code: &[u8]) -> Vec<u8> {
        let (done, features) = match self.start {
            Start::Run => (0, 0),
            Start::Done(features) => (1, features.bits()),
        };
        let unfit = self.unfit.as_deref().unwrap_or_default();
        let mut bytes = Vec::with_capacity(REPORT_HEAD + unfit.len() + code.len());
        bytes.push(done);
        bytes.extend(features.to_le_bytes());
        bytes.extend(self.compiled_ms.unwrap_or(NOTHING_SPENT).to_le_bytes());
        bytes.extend((unfit.len() as u32).to_le_bytes());
        bytes.extend(unfit.as_bytes());
        bytes.extend(code);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<REPORT_HEAD>()?;
        let number = |at| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let (features, spent, len) = (number(1)?, number(5)?, number(9)?);
        let (unfit, code) = rest.split_at_checked(len as usize)?;
        let start = match head[0] {
            0 => Start::Run,
            _ => Start::Done(Features::from_bits(features)),
        };
        let unfit = String::from_utf8_lossy(unfit).into_owned();
        let unfit = (!unfit.is_empty()).then_some(unfit);
        let compiled_ms = (spent != NOTHING_SPENT).then_some(spent);
        Some((Report { start, unfit, compiled_ms }, code))
    }
}

/// Polls until it is ready. Without a request every wait blocks (see `Exchange::sleep`), so a
/// pending future has merely given up a turn.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    // SAFETY: the array has room for the two descriptors.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both descriptors are new and nobody else's.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Reads everything the child says, for as long as it may take.
fn listen(mut pipe: File, limit: Duration, progress: impl FnOnce()) -> Result<Vec<u8>, Failure> {
    let late = || {
        Failure::new(format!("compiling and starting it took longer than {} s", limit.as_secs()))
    };
    let begin = Instant::now();
    let end = begin + limit;
    let mut progress = Some(progress);
    let mut said = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let left = end.checked_duration_since(Instant::now()).ok_or_else(late)?;
        let mut poll = libc::pollfd { fd: pipe.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let left = match progress {
            Some(_) => left.min(PROGRESS.saturating_sub(begin.elapsed())),
            None => left,
        };
        let ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd, which lives through the call.
        match unsafe { libc::poll(&raw mut poll, 1, ms) } {
            0 => {
                let progress = progress.take().ok_or_else(late)?;
                progress();
                continue;
            }
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => continue,
            _ => {}
        }
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(said),
            Ok(len) => said.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(Failure::new(format!("reading from its process failed: {error}")));
            }
        }
    }
}

/// One line for a guest that takes its time, in the log and, while nginx has one, at the terminal.
fn progress(settings: &Settings, log: Log) {
    let name = &settings.name;
    log.write(NOTICE, format_args!("http_wasm guest \"{name}\": compiling and starting"));
    // SAFETY: a plain integer; set until the master has opened its logs.
    if unsafe { nginx_sys::ngx_use_stderr } != 0 {
        eprintln!("nginx: http_wasm guest \"{name}\": compiling and starting");
    }
}

/// Waits for the child to be gone; its status, unless somebody else took it (nginx's SIGCHLD
/// handler, where signals are not blocked).
fn wait(pid: libc::pid_t) -> Option<i32> {
    let mut status = 0;
    loop {
        // SAFETY: waits for our own child only.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return Some(status);
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}
