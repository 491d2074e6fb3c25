//! WASI preview 1 for guests that import it: the library's, with real clocks and secure random
//! numbers, except for what touches the outside in a way a web server's worker cannot allow.
//!
//! There is no tokio runtime here. The library is driven through its async linker and may block the
//! thread for files of lent directories; whatever would wait or start a thread is ours:
//! `poll_oneoff` and `sched_yield` wait through [`Host::sleep`], and the standard output streams
//! become log lines. Sockets are ours altogether ([`sock`]).

mod clock;
mod errno;
mod lines;
mod poll;
pub(super) mod sock;
mod strict;

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Caller, Error, Linker, Module, Result};
use wasmtime_wasi::p1::{self, WasiP1Ctx, wasi_snapshot_preview1 as library};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use super::describe;
use super::error::{Exit, LoadError};
use super::guest::Settings;
use super::instance::Data;
use super::snapshot::Traces;
use crate::abi::{Level, WASI_MODULE};
use crate::host::connect::Outbound;
use crate::host::linker::split;
use crate::host::{Host, log};
use crate::memory::GuestMemory;

use clock::Monotonic;
use lines::Lines;
pub use sock::Traffic;
use sock::{Said, Sockets, is_socket};

/// What one `fd_write` puts into the log before the guest gets to run, and can be stopped, again.
/// Writes are allowed to be short, and guests go on where they ended.
const PRINTED_BYTES: usize = 64 << 10;

/// Longest list of buffers or subscriptions in one call, as the usual IOV_MAX.
const LIST_ITEMS: u32 = 1024;

/// Most random bytes in one call: a millisecond or two of work that nothing can interrupt.
const RANDOM_BYTES: u64 = 1 << 20;

/// What one call of the library may copy, for which it keeps a budget. Its own default.
const COPIED_BYTES: usize = 128 << 20;

/// Files and directories that one instance may have open beside those it was lent. They are
/// descriptors of the process, which needs them for its connections.
const OPEN_FILES: u32 = 32;

/// The level of what guests print to standard output.
const STDOUT: Level = Level::Info;

/// The level of what guests print to standard error.
const STDERR: Level = Level::Warn;

/// The descriptor of the first directory.
const FIRST_DIR: i32 = 3;

/// The library's context and the lines that are not complete yet.
pub(crate) struct Wasi {
    context: WasiP1Ctx,
    /// What takes the place of the machine's clocks.
    strict: Option<strict::Clock>,
    stdout: Lines,
    stderr: Lines,
    /// How many directories it was lent.
    dirs: i32,
    sockets: Sockets,
    traces: Traces,
}

impl Wasi {
    /// What all instances of a guest were told not to do is in `said`.
    pub(crate) fn new(settings: &Settings, said: &Said) -> std::result::Result<Self, LoadError> {
        let mut builder = WasiCtxBuilder::new();
        // Must come first: directories take it over when they are opened.
        builder.allow_blocking_current_thread(true);
        builder.max_random_size(RANDOM_BYTES);
        builder.monotonic_clock(Monotonic);
        builder.envs(&settings.env);
        for dir in &settings.dirs {
            let perms = match dir.writable {
                true => FsPerms::ReadWrite,
                false => FsPerms::ReadOnly,
            };
            let opened = builder.preopened_dir(&dir.host, &dir.guest, perms);
            opened.map_err(|error| LoadError::Directory {
                path: dir.host.display().to_string(),
                reason: describe(&error),
            })?;
        }
        let strict = settings.strict.then(strict::Clock::default);
        if let Some(clock) = &strict {
            clock.set_up(&mut builder);
        }
        let dirs = i32::try_from(settings.dirs.len()).unwrap_or(i32::MAX);
        let outbound = match settings.strict {
            // Who shall not see what the machine does sees nothing of others either.
            true => Outbound::default(),
            false => settings.outbound.clone(),
        };
        let sockets = Sockets::new(outbound, Arc::clone(said));
        Ok(Wasi { strict, sockets, ..Wasi::with_context(builder.build_p1(), dirs) })
    }

    fn with_context(context: WasiP1Ctx, dirs: i32) -> Self {
        Wasi {
            context,
            strict: None,
            stdout: Lines::default(),
            stderr: Lines::default(),
            dirs,
            sockets: Sockets::new(Outbound::default(), Said::default()),
            traces: Traces::default(),
        }
    }

    /// What a store without a context would get. Stores of guests that import WASI have one; this
    /// is how the functions below need not ask.
    fn of(wasi: &mut Option<Wasi>) -> &mut Wasi {
        wasi.get_or_insert_with(|| Wasi::with_context(WasiCtxBuilder::new().build_p1(), 0))
    }

    /// What the guest did so far that its memory does not show.
    pub(crate) fn traces(&self) -> Traces {
        self.traces
    }

    /// How many sockets are open.
    pub(crate) fn open_sockets(&self) -> usize {
        self.sockets.open()
    }

    /// What they did since it was last asked.
    pub(crate) fn take_traffic(&mut self) -> Option<Traffic> {
        self.sockets.take_traffic()
    }

    /// The call is over; lines without an end are as complete as they get.
    pub(crate) fn flush<H: Host>(&mut self, host: &mut H) {
        self.stdout.flush(|line| log::write(host, STDOUT, line));
        self.stderr.flush(|line| log::write(host, STDERR, line));
    }
}

/// Defines all of preview 1, and sockets where the module imports them.
pub(crate) fn add_to_linker<H: Host>(linker: &mut Linker<Data<H>>, module: &Module) -> Result<()> {
    p1::add_to_linker_async(linker, |data| &mut Wasi::of(&mut data.wasi).context)?;
    linker.allow_shadowing(true);
    linker.func_wrap_async(
        WASI_MODULE,
        "fd_write",
        |mut caller: Caller<'_, Data<H>>, arguments: (i32, u32, u32, u32)| {
            Box::new(async move { fd_write(&mut caller, arguments).await })
        },
    )?;
    linker.func_wrap_async(
        WASI_MODULE,
        "fd_close",
        |mut caller: Caller<'_, Data<H>>, (fd,): (i32,)| {
            Box::new(async move {
                // The standard streams stay where they are; otherwise the next file to be opened
                // would get the number of one and be written to the log.
                if is_standard(fd) {
                    return Ok(errno::SUCCESS);
                }
                if is_socket(fd) {
                    return sock::close(caller.data_mut(), fd);
                }
                let (memory, context) = library_view(&mut caller)?;
                let error = library::fd_close(context, &mut unshared(memory), fd).await?;
                closed(&mut caller, fd, error);
                Ok(error)
            })
        },
    )?;
    linker.func_wrap_async(
        WASI_MODULE,
        "fd_renumber",
        |mut caller: Caller<'_, Data<H>>, (from, to): (i32, i32)| {
            Box::new(async move {
                if is_standard(from) || is_standard(to) {
                    return Ok(errno::NOTSUP.into());
                }
                Wasi::of(&mut caller.data_mut().wasi).traces.moved_descriptors = true;
                if is_socket(from) || is_socket(to) {
                    return sock::renumber(caller.data_mut(), from, to);
                }
                let (memory, context) = library_view(&mut caller)?;
                let error = library::fd_renumber(context, &mut unshared(memory), from, to).await?;
                if from != to {
                    closed(&mut caller, to, error);
                }
                Ok(error)
            })
        },
    )?;
    linker.func_wrap_async(
        WASI_MODULE,
        "path_open",
        |mut caller: Caller<'_, Data<H>>, arguments: PathOpen| {
            Box::new(async move { path_open(&mut caller, arguments).await })
        },
    )?;
    linker.func_wrap_async(
        WASI_MODULE,
        "poll_oneoff",
        |mut caller: Caller<'_, Data<H>>, arguments: (u32, u32, u32, u32)| {
            Box::new(async move { poll::poll_oneoff(&mut caller, arguments).await })
        },
    )?;
    linker.func_wrap_async(
        WASI_MODULE,
        "sched_yield",
        |mut caller: Caller<'_, Data<H>>, (): ()| {
            Box::new(async move {
                if let Ok(host) = caller.data_mut().state.any_phase() {
                    host.sleep(Duration::ZERO).await;
                }
                Ok(errno::SUCCESS)
            })
        },
    )?;
    // The library does not say which of its functions it was that was asked for too much.
    linker.func_wrap(
        WASI_MODULE,
        "random_get",
        |mut caller: Caller<'_, Data<H>>, buf: i32, len: i32| -> Result<i32> {
            Wasi::of(&mut caller.data_mut().wasi).traces.drew_random = true;
            let (memory, context) = library_view(&mut caller)?;
            library::random_get(context, &mut unshared(memory), buf, len)
                .map_err(|error| error.context("random_get"))
        },
    )?;
    // The library calls statuses from 126 on invalid; to us an exit is an exit.
    linker.func_wrap(
        WASI_MODULE,
        "proc_exit",
        |_: Caller<'_, Data<H>>, code: u32| -> Result<()> { Err(Error::new(Exit { code })) },
    )?;
    linker.allow_shadowing(false);
    if sock::is_used(module) {
        sock::add_to_linker(linker, module)?;
    }
    Ok(())
}

fn is_standard(fd: i32) -> bool {
    (0..=2).contains(&fd)
}

/// Memory and context as the library's own functions take them.
fn library_view<'c, H: Host>(
    caller: &'c mut Caller<'_, Data<H>>,
) -> Result<(GuestMemory<'c>, &'c mut WasiP1Ctx)> {
    let (memory, data) = split(caller)?;
    let context = &mut Wasi::of(&mut data.wasi).context;
    library::WasiSnapshotPreview1::set_hostcall_fuel(context, COPIED_BYTES);
    Ok((memory, context))
}

fn unshared(memory: GuestMemory<'_>) -> wiggle::GuestMemory<'_> {
    wiggle::GuestMemory::Unshared(memory.into_bytes())
}

/// Directory, lookup flags, path and its length, open flags, rights, inherited rights, descriptor
/// flags, where the descriptor goes.
type PathOpen = (i32, i32, i32, i32, i32, i64, i64, i32, i32);

async fn path_open<H: Host>(
    caller: &mut Caller<'_, Data<H>>,
    (dir, lookup, path, path_len, flags, rights, inherited, fd_flags, opened): PathOpen,
) -> Result<i32> {
    if Wasi::of(&mut caller.data_mut().wasi).traces.open_files >= OPEN_FILES {
        return Ok(errno::MFILE.into());
    }
    let (memory, context) = library_view(caller)?;
    // Whatever fails after the file is open traps, and takes the instance along.
    let error = library::path_open(
        context,
        &mut unshared(memory),
        dir,
        lookup,
        path,
        path_len,
        flags,
        rights,
        inherited,
        fd_flags,
        opened,
    )
    .await?;
    if error == errno::SUCCESS {
        Wasi::of(&mut caller.data_mut().wasi).traces.open_files += 1;
    }
    Ok(error)
}

/// A descriptor was closed, unless there was an error. Lent directories are not counted when they
/// are opened: who closes one may open a file instead, with its number.
fn closed<H: Host>(caller: &mut Caller<'_, Data<H>>, fd: i32, error: i32) {
    if error == errno::SUCCESS {
        let wasi = Wasi::of(&mut caller.data_mut().wasi);
        wasi.traces.open_files = wasi.traces.open_files.saturating_sub(1);
        wasi.traces.moved_descriptors |= fd < FIRST_DIR.saturating_add(wasi.dirs);
    }
}

async fn fd_write<H: Host>(
    caller: &mut Caller<'_, Data<H>>,
    (fd, iovs, iovs_len, written): (i32, u32, u32, u32),
) -> Result<i32> {
    if is_socket(fd) {
        return sock::write(caller, fd, (iovs, iovs_len), written).await;
    }
    if fd != 1 && fd != 2 {
        let (memory, context) = library_view(caller)?;
        let (iovs, iovs_len) = (iovs.cast_signed(), iovs_len.cast_signed());
        let mut memory = unshared(memory);
        return library::fd_write(context, &mut memory, fd, iovs, iovs_len, written.cast_signed())
            .await;
    }
    let (mut memory, data) = split(caller)?;
    let wasi = Wasi::of(&mut data.wasi);
    let (lines, level) = match fd {
        1 => (&mut wasi.stdout, STDOUT),
        _ => (&mut wasi.stderr, STDERR),
    };
    let print = |bytes: &[u8]| {
        if let Ok(host) = data.state.any_phase()
            && host.log_enabled(level)
        {
            lines.print(bytes, |line| log::write(host, level, line));
        }
    };
    if iovs_len > LIST_ITEMS {
        return Ok(errno::INVAL.into());
    }
    let done = write_buffers(&mut memory, (iovs, iovs_len), written, print);
    Ok(done.unwrap_or(errno::FAULT.into()))
}

/// Prints a list of buffers and stores how much that was; nothing at all when a pointer is wrong.
fn write_buffers(
    memory: &mut GuestMemory<'_>,
    (iovs, iovs_len): (u32, u32),
    written: u32,
    mut print: impl FnMut(&[u8]),
) -> Option<i32> {
    memory.buffer(written, 4).ok()?;
    let list = memory.bytes(iovs, iovs_len.checked_mul(8)?).ok()?;
    let buffers = || list.chunks_exact(8).map(|iov| memory.bytes(u32_at(iov, 0), u32_at(iov, 4)));
    if buffers().any(|buffer| buffer.is_err()) {
        return None;
    }
    let mut room = PRINTED_BYTES;
    for bytes in buffers().flatten() {
        let bytes = &bytes[..bytes.len().min(room)];
        print(bytes);
        room -= bytes.len();
    }
    let total = (PRINTED_BYTES - room) as u32;
    let result = memory.buffer(written, 4).ok()?;
    result.copy_from_slice(&total.to_le_bytes());
    Some(errno::SUCCESS)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}
