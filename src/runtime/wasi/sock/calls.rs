//! The functions, as a guest calls them. What a guest names is checked before the system is asked for
//! anything, and what would block waits in the host.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno as System;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrUnix, connect, getpeername,
    getsockname, recvfrom, sendmsg, sendmsg_addr, shutdown, sockopt,
};
use smallvec::SmallVec;
use wasmtime::{Caller, ExternType, Linker, Module, Result};

use super::super::errno::{self, Errno};
use super::super::{LIST_ITEMS, Wasi, library_view, u32_at, u64_at, unshared};
use super::address::Address;
use super::names::sock_getaddrinfo;
use super::{Family, Kind, Side, Socket, Sockets, State, is_socket, now, put};
use crate::abi::{Level, WASI_MODULE};
use crate::host::connect::{self as rules, Pins, normal};
use crate::host::linker::split;
use crate::host::{Host, Unresolved, Waited, Watched};
use crate::memory::GuestMemory;
use crate::runtime::instance::Data;

use wasmtime_wasi::p1::wasi_snapshot_preview1 as library;

/// Functions by which a guest is known to use sockets.
const OWN: [&str; 11] = [
    "sock_open",
    "sock_bind",
    "sock_connect",
    "sock_listen",
    "sock_send_to",
    "sock_recv_from",
    "sock_getsockopt",
    "sock_setsockopt",
    "sock_getlocaladdr",
    "sock_getpeeraddr",
    "sock_getaddrinfo",
];

/// Datagrams of strangers that one call passes over.
const STRANGERS: usize = 16;

/// What is copied for a guest that reads into several buffers at once. No datagram is larger.
const SCRATCH_BYTES: usize = 64 << 10;

/// Why a function did not do what it was asked for.
pub(in super::super) enum Stop {
    /// The guest gets to know.
    Errno(Errno),
    /// It cannot.
    Trap(wasmtime::Error),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Stop::Errno(errno)
    }
}

impl From<wasmtime::Error> for Stop {
    fn from(error: wasmtime::Error) -> Self {
        Stop::Trap(error)
    }
}

impl From<System> for Stop {
    fn from(error: System) -> Self {
        Stop::Errno(errno::of(error))
    }
}

pub(super) type Done<T = ()> = std::result::Result<T, Stop>;

fn finish(done: Done) -> Result<i32> {
    match done {
        Ok(()) => Ok(errno::SUCCESS),
        Err(Stop::Errno(errno)) => Ok(errno.into()),
        Err(Stop::Trap(error)) => Err(error),
    }
}

/// How many parameters a guest gives to a function that it imports.
fn arity(module: &Module, name: &str) -> Option<usize> {
    let mut imports = module.imports().filter(|it| it.module() == WASI_MODULE && it.name() == name);
    match imports.next()?.ty() {
        ExternType::Func(ty) => Some(ty.params().len()),
        _ => None,
    }
}

/// Whether a module imports sockets.
pub(in super::super) fn is_used(module: &Module) -> bool {
    OWN.iter().any(|name| arity(module, name).is_some()) || arity(module, "sock_accept") == Some(2)
}

/// Defines them. There are two dialects, which differ in the number of parameters: each function is
/// there in the one that the guest imports.
pub(in super::super) fn add_to_linker<H: Host>(
    linker: &mut Linker<Data<H>>,
    module: &Module,
) -> Result<()> {
    macro_rules! define {
        ($name:literal, $arguments:ty, $call:path) => {
            linker.func_wrap_async(
                WASI_MODULE,
                $name,
                |mut caller: Caller<'_, Data<H>>, arguments: $arguments| {
                    Box::new(async move {
                        let done = $call(&mut caller, arguments).await;
                        say_failures(caller.data_mut());
                        finish(done)
                    })
                },
            )?
        };
    }
    define!("sock_open", (i32, i32, u32), sock_open);
    define!("sock_bind", (i32, u32, u32), sock_bind);
    define!("sock_connect", (i32, u32, u32), sock_connect);
    define!("sock_listen", (i32, i32), sock_listen);
    define!("sock_send_to", (i32, u32, u32, u32, u32, u32, u32), sock_send_to);
    define!("sock_getsockopt", (i32, i32, i32, u32, u32), sock_getsockopt);
    define!("sock_setsockopt", (i32, i32, i32, u32, u32), sock_setsockopt);
    define!("sock_getaddrinfo", (u32, u32, u32, u32, u32, u32, u32, u32), sock_getaddrinfo);
    match arity(module, "sock_recv_from") {
        Some(7) => define!("sock_recv_from", (i32, u32, u32, u32, u32, u32, u32), recv_from_7),
        _ => define!("sock_recv_from", (i32, u32, u32, u32, u32, u32, u32, u32), recv_from_8),
    };
    match arity(module, "sock_getlocaladdr") {
        Some(4) => define!("sock_getlocaladdr", (i32, u32, u32, u32), local_addr_4),
        _ => define!("sock_getlocaladdr", (i32, u32, u32), local_addr_3),
    };
    match arity(module, "sock_getpeeraddr") {
        Some(4) => define!("sock_getpeeraddr", (i32, u32, u32, u32), peer_addr_4),
        _ => define!("sock_getpeeraddr", (i32, u32, u32), peer_addr_3),
    };
    linker.allow_shadowing(true);
    match arity(module, "sock_accept") {
        Some(2) => define!("sock_accept", (i32, u32), accept_2),
        _ => define!("sock_accept", (i32, i32, u32), accept_3),
    };
    define!("sock_recv", (i32, u32, u32, u32, u32, u32), sock_recv);
    define!("sock_send", (i32, u32, u32, u32, u32), sock_send);
    define!("sock_shutdown", (i32, i32), sock_shutdown);
    add_descriptors(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Defines what there is of files, too.
fn add_descriptors<H: Host>(linker: &mut Linker<Data<H>>) -> Result<()> {
    linker.func_wrap_async(
        WASI_MODULE,
        "fd_read",
        |mut caller: Caller<'_, Data<H>>, (fd, iovs, len, count): (i32, i32, i32, i32)| {
            Box::new(async move {
                if is_socket(fd) {
                    let iovs = (iovs.cast_unsigned(), len.cast_unsigned());
                    return read(&mut caller, fd, iovs, count.cast_unsigned()).await;
                }
                let (memory, context) = library_view(&mut caller)?;
                library::fd_read(context, &mut unshared(memory), fd, iovs, len, count).await
            })
        },
    )?;
    linker.func_wrap_async(
        WASI_MODULE,
        "fd_fdstat_get",
        |mut caller: Caller<'_, Data<H>>, (fd, to): (i32, i32)| {
            Box::new(async move {
                if is_socket(fd) {
                    return finish(fdstat_get(&mut caller, fd, to.cast_unsigned()));
                }
                let (memory, context) = library_view(&mut caller)?;
                library::fd_fdstat_get(context, &mut unshared(memory), fd, to).await
            })
        },
    )?;
    linker.func_wrap_async(
        WASI_MODULE,
        "fd_fdstat_set_flags",
        |mut caller: Caller<'_, Data<H>>, (fd, flags): (i32, i32)| {
            Box::new(async move {
                if is_socket(fd) {
                    return finish(fdstat_set_flags(&mut caller, fd, flags));
                }
                let (memory, context) = library_view(&mut caller)?;
                library::fd_fdstat_set_flags(context, &mut unshared(memory), fd, flags)
            })
        },
    )?;
    linker.func_wrap_async(
        WASI_MODULE,
        "fd_filestat_get",
        |mut caller: Caller<'_, Data<H>>, (fd, to): (i32, i32)| {
            Box::new(async move {
                if is_socket(fd) {
                    return finish(filestat_get(&mut caller, fd, to.cast_unsigned()));
                }
                let (memory, context) = library_view(&mut caller)?;
                library::fd_filestat_get(context, &mut unshared(memory), fd, to).await
            })
        },
    )?;
    Ok(())
}

type Arguments<'c, 'd, H> = &'c mut Caller<'d, Data<H>>;

pub(super) fn sockets_of<H: Host>(data: &mut Data<H>) -> &mut Sockets {
    &mut Wasi::of(&mut data.wasi).sockets
}

/// Says what the guest may not do, or what an operator can do about it; not again and again.
pub(super) fn say<H: Host>(data: &mut Data<H>, text: String) {
    let said = sockets_of(data).said.lock().say(text.clone(), now());
    let Ok(host) = data.state.any_phase() else { return };
    match said {
        Some(0) => host.remark(Level::Warn, &text),
        Some(suppressed) => {
            host.remark(Level::Warn, &format!("{text} ({suppressed} more suppressed)"));
        }
        None => {}
    }
}

/// The same for what it was refused.
pub(super) fn refuse<H: Host>(data: &mut Data<H>, text: String, errno: Errno) -> Stop {
    sockets_of(data).traffic.refused += 1;
    say(data, text);
    Stop::Errno(errno)
}

/// Says which connections have not come about.
fn say_failures<H: Host>(data: &mut Data<H>) {
    // Mostly none.
    for (to, errno) in std::mem::take(&mut sockets_of(data).failures) {
        say(data, format!("cannot connect to {to}: {}", errno::reason(errno)));
    }
}

/// Whether there can be connections at all: none in the process that tries a configuration out.
pub(super) fn check_connects<H: Host>(data: &mut Data<H>) -> Done {
    if data.state.any_phase().is_ok_and(|host| host.connects()) {
        return Ok(());
    }
    let text = "may not connect while the configuration is tried out".to_owned();
    Err(refuse(data, text, errno::ACCES))
}

async fn sock_open<H: Host>(
    caller: Arguments<'_, '_, H>,
    (family, kind, opened): (i32, i32, u32),
) -> Done {
    let (mut memory, data) = split(caller)?;
    put(&mut memory, opened, 0)?;
    let family = Family::of(family)?;
    let kind = match kind {
        1 => Kind::Datagram,
        // Any.
        0 | 2 => Kind::Stream,
        _ => return Err(errno::INVAL.into()),
    };
    let wasi = Wasi::of(&mut data.wasi);
    wasi.traces.opened_sockets = true;
    let sockets = &wasi.sockets;
    if sockets.outbound.rules.is_empty() {
        let text = "opens a socket and may not connect to anything (see http_wasm_connect)";
        return Err(refuse(data, text.to_owned(), errno::NOTCAPABLE));
    }
    let max = sockets.outbound.max;
    if sockets.open() >= max {
        let text = format!("has {max} sockets open and gets no other one (see http_wasm_sockets)");
        return Err(refuse(data, text, errno::MFILE));
    }
    check_connects(data)?;
    let sockets = sockets_of(data);
    let socket = match Socket::open(family, kind, sockets.outbound.buffer_bytes) {
        Ok(socket) => socket,
        Err(error @ errno::NFILE) => {
            let text = "gets no socket: all guests together have as many as the process may have \
                        for them (see worker_rlimit_nofile)";
            return Err(refuse(data, text.to_owned(), error));
        }
        Err(error) => return Err(error.into()),
    };
    let fd = sockets.insert(socket);
    Ok(put(&mut memory, opened, fd.cast_unsigned())?)
}

/// Where a guest wants to go, if its rules allow that. Names that lead there are asked for where
/// nothing is known of them yet, or they have changed.
async fn permit<H: Host>(data: &mut Data<H>, to: &Address) -> Done {
    let sockets = sockets_of(data);
    let rules = &sockets.outbound.rules;
    match to {
        Address::Unix(path) if rules::allows_path(rules, path) => return Ok(()),
        Address::Unix(_) => {}
        Address::Ip(to) if rules::allows(rules, *to) => return Ok(()),
        Address::Ip(to) => {
            if rules::names(rules, to.port()).any(|name| sockets.pins.has(name, to.ip())) {
                return Ok(());
            }
            if Pins::may_have(to.ip()) {
                let names: Vec<String> =
                    rules::names(rules, to.port()).map(str::to_owned).collect();
                for name in names {
                    // Why it could not be resolved has been said.
                    let _ = look_up(data, &name).await;
                    if sockets_of(data).pins.has(&name, to.ip()) {
                        return Ok(());
                    }
                }
            }
        }
    }
    let text = format!("may not connect to {to} (see http_wasm_connect)");
    Err(refuse(data, text, errno::ACCES))
}

/// Asks what a name of the rules stands for, and remembers it.
pub(super) async fn look_up<H: Host>(data: &mut Data<H>, name: &str) -> Done<Vec<IpAddr>> {
    let resolved = match data.state.any_phase() {
        Ok(host) => {
            let began = Instant::now();
            let resolved = host.resolve(name).await;
            sockets_of(data).traffic.waited += began.elapsed();
            resolved
        }
        Err(_) => Err(Unresolved::NotNow),
    };
    let (reason, errno) = match resolved {
        Ok(addresses) => {
            let Sockets { pins, outbound, .. } = sockets_of(data);
            return Ok(pins.set(&outbound.rules, name, &addresses));
        }
        Err(Unresolved::NoResolver) => {
            ("there is no \"resolver\" in the configuration".to_owned(), errno::NOSYS)
        }
        Err(Unresolved::Unknown(reason)) => (reason, errno::NOENT),
        Err(Unresolved::Late) => ("timed out (see resolver_timeout)".to_owned(), errno::TIMEDOUT),
        Err(Unresolved::NotNow) => return Err(errno::AGAIN.into()),
    };
    // What it stood for before is not what it stands for now.
    sockets_of(data).pins.set(&[], name, &[]);
    say(data, format!("\"{name}\" cannot be resolved: {reason}"));
    Err(errno.into())
}

/// An address as the guest gives it, in its one spelling, for a socket of this family.
fn destination(memory: &GuestMemory<'_>, (at, port): (u32, u32), family: Family) -> Done<Address> {
    let address = match Address::read(memory, at, port)? {
        Address::Ip(it) => Address::Ip(SocketAddr::new(normal(it.ip()), it.port())),
        unix @ Address::Unix(_) => unix,
    };
    match (&address, family) {
        (Address::Ip(SocketAddr::V4(_)), Family::V4 | Family::V6)
        | (Address::Ip(SocketAddr::V6(_)), Family::V6)
        | (Address::Unix(_), Family::Unix) => Ok(address),
        _ => Err(errno::AFNOSUPPORT.into()),
    }
}

/// An address as the system takes it for a socket of this family.
fn for_family(address: SocketAddr, family: Family) -> SocketAddr {
    match (address.ip(), family) {
        (IpAddr::V4(v4), Family::V6) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        _ => address,
    }
}

async fn sock_connect<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, at, port): (i32, u32, u32),
) -> Done {
    let (memory, data) = split(caller)?;
    let socket = sockets_of(data).get(fd)?;
    let to = destination(&memory, (at, port), socket.family)?;
    if let State::Late { .. } = socket.state {
        return Err(errno::INVAL.into());
    }
    check_connects(data)?;
    permit(data, &to).await?;
    let sockets = sockets_of(data);
    let until = Instant::now() + sockets.outbound.connect_timeout;
    let socket = sockets.get(fd)?;
    let connected = match &to {
        Address::Ip(to) => connect(&socket.fd, &for_family(*to, socket.family)),
        Address::Unix(path) => {
            SocketAddrUnix::new(&path[..]).and_then(|path| connect(&socket.fd, &path))
        }
    };
    let nonblocking = socket.nonblocking;
    socket.to = Some(to.clone());
    match connected {
        Ok(()) => {
            socket.state = State::Connected;
            sockets.traffic.connected += 1;
            return Ok(());
        }
        Err(System::INPROGRESS) => socket.state = State::Connecting { until },
        // It has a connection, or is about to.
        Err(error @ (System::ALREADY | System::ISCONN)) => return Err(error.into()),
        Err(error) => {
            sockets.traffic.failed += 1;
            sockets.failures.push((to, errno::of(error)));
            return Err(error.into());
        }
    }
    if nonblocking {
        return Err(errno::INPROGRESS.into());
    }
    loop {
        let sockets = sockets_of(data);
        if let Some(result) = sockets.settle(fd)? {
            return result.map_err(Stop::Errno);
        }
        let left = until.saturating_duration_since(Instant::now());
        wait_for(data, fd, Side::Write, left).await?;
    }
}

/// What can be done with sockets right now, in their order.
pub(in super::super) fn look(sockets: &[Watched]) -> Vec<PollFlags> {
    let wanted = |it: &Watched| {
        let read = if it.read { PollFlags::IN } else { PollFlags::empty() };
        read | if it.write { PollFlags::OUT } else { PollFlags::empty() }
    };
    let mut fds: Vec<_> = sockets.iter().map(|it| PollFd::new(&it.socket, wanted(it))).collect();
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // It fails for want of memory; then nothing can be done.
    match poll(&mut fds, Some(&at_once)) {
        Ok(_) => fds.iter().map(PollFd::revents).collect(),
        Err(_) => vec![PollFlags::empty(); sockets.len()],
    }
}

/// Waits until one of these may be ready, or for so long.
pub(in super::super) async fn watch<H: Host>(
    data: &mut Data<H>,
    sockets: Vec<Watched>,
    time: Duration,
) -> Waited {
    let Ok(host) = data.state.any_phase() else { return Waited::NotNow };
    let began = Instant::now();
    let waited = host.ready(sockets, time).await;
    sockets_of(data).traffic.waited += began.elapsed();
    waited
}

async fn wait_for<H: Host>(data: &mut Data<H>, fd: i32, side: Side, time: Duration) -> Done {
    let watched = sockets_of(data).get(fd)?.watched(side == Side::Read, side == Side::Write);
    match watch(data, vec![watched], time).await {
        Waited::Over => Ok(()),
        Waited::NoRoom => {
            say_no_room(data);
            Err(errno::NOBUFS.into())
        }
        Waited::NotNow => Err(errno::AGAIN.into()),
    }
}

/// Nobody can be told when a socket is ready.
pub(in super::super) fn say_no_room<H: Host>(data: &mut Data<H>) {
    let text = "cannot wait for a socket: too few connections are free (see worker_connections)";
    say(data, text.to_owned());
}

impl Sockets {
    /// How an attempt to connect has gone, if it was not known yet and it is over.
    fn settle(
        &mut self,
        fd: i32,
    ) -> std::result::Result<Option<std::result::Result<(), Errno>>, Errno> {
        let socket = self.get(fd)?;
        socket.expire(Instant::now());
        let result = match socket.state {
            State::Late { told: false } => {
                socket.state = State::Late { told: true };
                Err(errno::TIMEDOUT)
            }
            State::Connecting { .. } => {
                if look(&[socket.watched(false, true)]).iter().all(|it| it.is_empty()) {
                    return Ok(None);
                }
                let result = sockopt::socket_error(&socket.fd).unwrap_or_else(Err);
                socket.state = if result.is_ok() { State::Connected } else { State::Fresh };
                result.map_err(errno::of)
            }
            State::Fresh | State::Connected | State::Late { told: true } => return Ok(None),
        };
        let to = socket.to.take();
        match result {
            Ok(()) => self.traffic.connected += 1,
            Err(errno) => {
                self.traffic.failed += 1;
                self.failures.extend(to.map(|to| (to, errno)));
            }
        }
        Ok(Some(result))
    }

    /// A socket of which bytes are wanted: one that has waited in vain for its connection has none.
    fn ready_for_bytes(&mut self, fd: i32) -> std::result::Result<&mut Socket, Errno> {
        if let Some(result) = self.settle(fd)? {
            result?;
        }
        let socket = self.get(fd)?;
        match socket.state {
            State::Late { .. } => Err(errno::NOTCONN),
            State::Fresh | State::Connecting { .. } | State::Connected => Ok(socket),
        }
    }
}

/// Tries until it works, as long as it may take.
async fn until_done<H: Host, T>(
    caller: Arguments<'_, '_, H>,
    fd: i32,
    side: Side,
    mut attempt: impl FnMut(&mut GuestMemory<'_>, &mut Sockets) -> Done<T> + Send,
) -> Done<T> {
    let mut until = None;
    loop {
        let (mut memory, data) = split(caller)?;
        let sockets = sockets_of(data);
        sockets.ready_for_bytes(fd)?;
        match attempt(&mut memory, sockets) {
            Err(Stop::Errno(errno::AGAIN)) => {}
            done => return done,
        }
        let limit = sockets.outbound.timeout;
        let socket = sockets.get(fd)?;
        if socket.nonblocking {
            return Err(errno::AGAIN.into());
        }
        let now = Instant::now();
        let patience = socket.patience[side as usize].filter(|&patience| patience < limit);
        let end = *until.get_or_insert(now + patience.unwrap_or(limit));
        let left = end.saturating_duration_since(now);
        if left.is_zero() {
            let late = if patience.is_some() { errno::AGAIN } else { errno::TIMEDOUT };
            return Err(late.into());
        }
        let left = match socket.state {
            State::Connecting { until } => left.min(until.saturating_duration_since(now)),
            State::Fresh | State::Connected | State::Late { .. } => left,
        };
        wait_for(data, fd, side, left).await?;
    }
}

/// Pointers and lengths of buffers, mostly of one.
type Buffers = SmallVec<[(u32, u32); 4]>;

/// A list of buffers: where it is, and how many there are.
type List = (u32, u32);

fn buffers(memory: &GuestMemory<'_>, (at, count): List) -> std::result::Result<Buffers, Errno> {
    if count > LIST_ITEMS {
        return Err(errno::INVAL);
    }
    let list = memory.bytes(at, count * 8).map_err(|_| errno::FAULT)?;
    Ok(list.chunks_exact(8).map(|it| (u32_at(it, 0), u32_at(it, 4))).collect())
}

/// What came in.
struct Received {
    len: usize,
    /// There was more of the datagram.
    truncated: bool,
    from: Option<Address>,
}

impl Sockets {
    /// Takes what has come in.
    fn receive(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: i32,
        list: List,
        flags: RecvFlags,
    ) -> Done<Received> {
        let buffers = buffers(memory, list)?;
        for &(at, len) in &buffers {
            memory.bytes(at, len).map_err(|_| errno::FAULT)?;
        }
        for _ in 0..STRANGERS {
            let received = match buffers[..] {
                [(at, len)] => {
                    let buffer = memory.buffer(at, len as usize).map_err(|_| errno::FAULT)?;
                    self.receive_into(fd, buffer, flags)?
                }
                _ => {
                    let total: usize = buffers.iter().map(|&(_, len)| len as usize).sum();
                    let mut scratch = vec![0; total.min(SCRATCH_BYTES)];
                    let received = self.receive_into(fd, &mut scratch, flags)?;
                    let mut rest = scratch.get(..received.len).unwrap_or_default();
                    for &(at, len) in &buffers {
                        let (piece, after) = rest.split_at(rest.len().min(len as usize));
                        let place = memory.buffer(at, piece.len()).map_err(|_| errno::FAULT)?;
                        place.copy_from_slice(piece);
                        rest = after;
                    }
                    received
                }
            };
            if self.is_from_known(fd, received.from.as_ref())? {
                self.traffic.received_bytes += received.len as u64;
                return Ok(received);
            }
        }
        Err(errno::AGAIN.into())
    }

    fn receive_into(&mut self, fd: i32, buffer: &mut [u8], flags: RecvFlags) -> Done<Received> {
        let socket = self.get(fd)?;
        // Of a stream it would drop bytes.
        let flags = match socket.kind {
            Kind::Datagram => flags | RecvFlags::TRUNC,
            Kind::Stream => flags,
        };
        let room = buffer.len();
        let (len, all, from) = recvfrom(&socket.fd, buffer, flags)?;
        let from = from.as_ref().and_then(Address::of);
        Ok(Received { len: len.min(room), truncated: all > room, from })
    }

    /// Whether a datagram is from somebody to whom the guest may send. A socket with a peer gets none
    /// from others.
    fn is_from_known(&mut self, fd: i32, from: Option<&Address>) -> Done<bool> {
        let socket = self.get(fd)?;
        if socket.kind == Kind::Stream || socket.state == State::Connected {
            return Ok(true);
        }
        let rules = &self.outbound.rules;
        Ok(match from {
            Some(Address::Ip(from)) => {
                let from = SocketAddr::new(normal(from.ip()), from.port());
                rules::allows(rules, from)
                    || rules::names(rules, from.port()).any(|it| self.pins.has(it, from.ip()))
            }
            Some(Address::Unix(path)) => rules::allows_path(rules, path),
            None => false,
        })
    }

    /// Sends as much as there is room for.
    fn send(
        &mut self,
        memory: &GuestMemory<'_>,
        fd: i32,
        list: List,
        to: Option<&Address>,
    ) -> Done<usize> {
        let mut slices: SmallVec<[IoSlice<'_>; 4]> = SmallVec::new();
        for (at, len) in buffers(memory, list)? {
            let bytes = memory.bytes(at, len).map_err(|_| errno::FAULT)?;
            slices.push(IoSlice::new(bytes));
        }
        let socket = self.get(fd)?;
        let (flags, mut control) = (SendFlags::NOSIGNAL, SendAncillaryBuffer::default());
        let sent = match to {
            Some(&Address::Ip(to)) => {
                let to = for_family(to, socket.family);
                sendmsg_addr(&socket.fd, &to, &slices, &mut control, flags)?
            }
            Some(Address::Unix(path)) => {
                let to = SocketAddrUnix::new(&path[..])?;
                sendmsg_addr(&socket.fd, &to, &slices, &mut control, flags)?
            }
            None => sendmsg(&socket.fd, &slices, &mut control, flags)?,
        };
        self.traffic.sent_bytes += sent as u64;
        Ok(sent)
    }
}

async fn receive<H: Host>(
    caller: Arguments<'_, '_, H>,
    fd: i32,
    list: List,
    flags: RecvFlags,
) -> Done<Received> {
    let attempt = move |memory: &mut GuestMemory<'_>, sockets: &mut Sockets| {
        sockets.receive(memory, fd, list, flags)
    };
    until_done(caller, fd, Side::Read, attempt).await
}

async fn send<H: Host>(
    caller: Arguments<'_, '_, H>,
    fd: i32,
    list: List,
    to: Option<Address>,
) -> Done<usize> {
    let attempt = move |memory: &mut GuestMemory<'_>, sockets: &mut Sockets| {
        sockets.send(memory, fd, list, to.as_ref())
    };
    until_done(caller, fd, Side::Write, attempt).await
}

/// `fd_read` of a socket.
async fn read<H: Host>(
    caller: Arguments<'_, '_, H>,
    fd: i32,
    list: List,
    count: u32,
) -> Result<i32> {
    let read = async {
        put(&mut split(caller)?.0, count, 0)?;
        let received = receive(caller, fd, list, RecvFlags::empty()).await?;
        Ok(put(&mut split(caller)?.0, count, received.len as u32)?)
    };
    let done = read.await;
    say_failures(caller.data_mut());
    finish(done)
}

/// `fd_write` of a socket.
pub(in super::super) async fn write<H: Host>(
    caller: Arguments<'_, '_, H>,
    fd: i32,
    list: List,
    count: u32,
) -> Result<i32> {
    let write = async {
        put(&mut split(caller)?.0, count, 0)?;
        let sent = send(caller, fd, list, None).await?;
        Ok(put(&mut split(caller)?.0, count, sent as u32)?)
    };
    let done = write.await;
    say_failures(caller.data_mut());
    finish(done)
}

fn recv_flags(flags: u32) -> Done<RecvFlags> {
    match flags {
        0 => Ok(RecvFlags::empty()),
        1 => Ok(RecvFlags::PEEK),
        // Until all is there: guests ask again for the rest.
        _ => Err(errno::NOTSUP.into()),
    }
}

/// Stores 16 bits, which is what flags of results have.
fn put_flags(memory: &mut GuestMemory<'_>, at: u32, truncated: bool) -> Done {
    let place = memory.buffer(at, 2).map_err(|_| errno::FAULT)?;
    place.copy_from_slice(&u16::from(truncated).to_le_bytes());
    Ok(())
}

async fn sock_recv<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, iovs, len, flags, count, out_flags): (i32, u32, u32, u32, u32, u32),
) -> Done {
    if !is_socket(fd) {
        return Err(errno::NOTSOCK.into());
    }
    put(&mut split(caller)?.0, count, 0)?;
    put_flags(&mut split(caller)?.0, out_flags, false)?;
    let received = receive(caller, fd, (iovs, len), recv_flags(flags)?).await?;
    let mut memory = split(caller)?.0;
    put(&mut memory, count, received.len as u32)?;
    put_flags(&mut memory, out_flags, received.truncated)
}

async fn recv_from<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, list, flags): (i32, List, u32),
    (address, port): (u32, Option<u32>),
    (count, out_flags): (u32, u32),
) -> Done {
    put(&mut split(caller)?.0, count, 0)?;
    put_flags(&mut split(caller)?.0, out_flags, false)?;
    let received = receive(caller, fd, list, recv_flags(flags)?).await?;
    let (mut memory, data) = split(caller)?;
    let from = match received.from {
        Some(from) => Some(from),
        // Of a stream the system does not say.
        None => peer(sockets_of(data).get(fd)?),
    };
    if let Some(from) = from {
        from.write(&mut memory, address)?;
        if let Some(port) = port {
            from.write_port(&mut memory, port, None)?;
        }
    }
    put(&mut memory, count, received.len as u32)?;
    put_flags(&mut memory, out_flags, received.truncated)
}

async fn recv_from_7<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, iovs, len, address, flags, count, out_flags): (i32, u32, u32, u32, u32, u32, u32),
) -> Done {
    recv_from(caller, (fd, (iovs, len), flags), (address, None), (count, out_flags)).await
}

async fn recv_from_8<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, iovs, len, address, flags, port, count, out_flags): (
        i32,
        u32,
        u32,
        u32,
        u32,
        u32,
        u32,
        u32,
    ),
) -> Done {
    recv_from(caller, (fd, (iovs, len), flags), (address, Some(port)), (count, out_flags)).await
}

async fn sock_send<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, iovs, len, _flags, count): (i32, u32, u32, u32, u32),
) -> Done {
    if !is_socket(fd) {
        return Err(errno::NOTSOCK.into());
    }
    put(&mut split(caller)?.0, count, 0)?;
    let sent = send(caller, fd, (iovs, len), None).await?;
    Ok(put(&mut split(caller)?.0, count, sent as u32)?)
}

async fn sock_send_to<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, iovs, len, address, port, _flags, count): (i32, u32, u32, u32, u32, u32, u32),
) -> Done {
    let (mut memory, data) = split(caller)?;
    put(&mut memory, count, 0)?;
    let socket = sockets_of(data).get(fd)?;
    let to = match socket.kind {
        Kind::Datagram => Some(destination(&memory, (address, port), socket.family)?),
        // It has one peer.
        Kind::Stream => None,
    };
    if let Some(to) = &to {
        check_connects(data)?;
        permit(data, to).await?;
    }
    let sent = send(caller, fd, (iovs, len), to).await?;
    Ok(put(&mut split(caller)?.0, count, sent as u32)?)
}

/// Guests have no address of their own: a socket of datagrams gets one from the system when it sends.
async fn sock_bind<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, address, port): (i32, u32, u32),
) -> Done {
    let (memory, data) = split(caller)?;
    let socket = sockets_of(data).get(fd)?;
    match Address::read(&memory, address, port)? {
        Address::Ip(it)
            if socket.kind == Kind::Datagram && it.port() == 0 && it.ip().is_unspecified() =>
        {
            Ok(())
        }
        Address::Ip(_) | Address::Unix(_) => Err(errno::NOTSUP.into()),
    }
}

async fn sock_listen<H: Host>(caller: Arguments<'_, '_, H>, (fd, _backlog): (i32, i32)) -> Done {
    sockets_of(split(caller)?.1).get(fd)?;
    Err(errno::NOTSUP.into())
}

async fn accept_2<H: Host>(caller: Arguments<'_, '_, H>, (fd, _accepted): (i32, u32)) -> Done {
    sockets_of(split(caller)?.1).get(fd)?;
    Err(errno::NOTSUP.into())
}

async fn accept_3<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, _flags, accepted): (i32, i32, u32),
) -> Done {
    accept_2(caller, (fd, accepted)).await
}

async fn sock_shutdown<H: Host>(caller: Arguments<'_, '_, H>, (fd, how): (i32, i32)) -> Done {
    let how = match how {
        1 => Shutdown::Read,
        2 => Shutdown::Write,
        3 => Shutdown::Both,
        _ => return Err(errno::INVAL.into()),
    };
    let socket = sockets_of(split(caller)?.1).get(fd)?;
    Ok(shutdown(&socket.fd, how)?)
}

fn peer(socket: &Socket) -> Option<Address> {
    Address::of(&getpeername(&socket.fd).ok().flatten()?)
}

fn local_addr<H: Host>(
    caller: Arguments<'_, '_, H>,
    fd: i32,
    at: u32,
    kind: Option<u32>,
    port: u32,
) -> Done {
    let (mut memory, data) = split(caller)?;
    let socket = sockets_of(data).get(fd)?;
    let address = Address::of(&getsockname(&socket.fd)?).ok_or(errno::AFNOSUPPORT)?;
    address.write(&mut memory, at)?;
    Ok(address.write_port(&mut memory, port, kind)?)
}

async fn local_addr_3<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, at, port): (i32, u32, u32),
) -> Done {
    local_addr(caller, fd, at, None, port)
}

async fn local_addr_4<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, at, kind, port): (i32, u32, u32, u32),
) -> Done {
    local_addr(caller, fd, at, Some(kind), port)
}

fn peer_addr<H: Host>(
    caller: Arguments<'_, '_, H>,
    fd: i32,
    at: u32,
    kind: Option<u32>,
    port: u32,
) -> Done {
    let (mut memory, data) = split(caller)?;
    let socket = sockets_of(data).get(fd)?;
    let address = getpeername(&socket.fd)?.ok_or(errno::NOTCONN)?;
    let address = Address::of(&address).ok_or(errno::AFNOSUPPORT)?;
    address.write(&mut memory, at)?;
    Ok(address.write_port(&mut memory, port, kind)?)
}

async fn peer_addr_3<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, at, port): (i32, u32, u32),
) -> Done {
    peer_addr(caller, fd, at, None, port)
}

async fn peer_addr_4<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, at, kind, port): (i32, u32, u32, u32),
) -> Done {
    peer_addr(caller, fd, at, Some(kind), port)
}

/// The level of sockets and that of TCP.
const SOCKET_LEVEL: i32 = 0;
const TCP_LEVEL: i32 = 6;

/// What can be asked for or set.
enum Setting {
    ReuseAddress,
    Type,
    Error,
    Broadcast,
    SendBuffer,
    ReceiveBuffer,
    KeepAlive,
    Patience(Side),
    Listens,
    NoDelay,
}

impl Setting {
    /// `SO_LINGER` is none of them: closing such a socket would block.
    const fn of(level: i32, option: i32) -> Result<Self, Errno> {
        Ok(match (level, option) {
            (SOCKET_LEVEL, 0) => Setting::ReuseAddress,
            (SOCKET_LEVEL, 1) => Setting::Type,
            (SOCKET_LEVEL, 2) => Setting::Error,
            (SOCKET_LEVEL, 4) => Setting::Broadcast,
            (SOCKET_LEVEL, 5) => Setting::SendBuffer,
            (SOCKET_LEVEL, 6) => Setting::ReceiveBuffer,
            (SOCKET_LEVEL, 7) => Setting::KeepAlive,
            (SOCKET_LEVEL, 11) => Setting::Patience(Side::Read),
            (SOCKET_LEVEL, 12) => Setting::Patience(Side::Write),
            (SOCKET_LEVEL, 13) => Setting::Listens,
            // The number of systems, and that of wasi-go.
            (TCP_LEVEL, 1 | 15) => Setting::NoDelay,
            _ => return Err(errno::NOPROTOOPT),
        })
    }
}

/// A `struct timeval`: seconds and microseconds, the second in four bytes or eight.
const TIMEVAL_BYTES: u32 = 16;

/// Option values are four bytes, except times. Rust's client for WasmEdge gives the address of the
/// length instead of the length.
fn value_len(memory: &GuestMemory<'_>, len: u32) -> u32 {
    match len {
        4 | TIMEVAL_BYTES => len,
        _ => memory.bytes(len, 4).map_or(len, |bytes| u32_at(bytes, 0)),
    }
}

async fn sock_getsockopt<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, level, option, value, len): (i32, i32, i32, u32, u32),
) -> Done {
    let (mut memory, data) = split(caller)?;
    let sockets = sockets_of(data);
    sockets.get(fd)?;
    let setting = Setting::of(level, option)?;
    let expected = if let Setting::Patience(_) = setting { TIMEVAL_BYTES } else { 4 };
    if value_len(&memory, len) < expected {
        return Err(errno::INVAL.into());
    }
    let number = match setting {
        Setting::Error => match sockets.settle(fd)? {
            Some(result) => result.err().unwrap_or(0).into(),
            None => match sockets.get(fd)?.state {
                // It is not over; to ask the system would say the same.
                State::Connecting { .. } => 0,
                State::Fresh | State::Connected | State::Late { .. } => {
                    let error = sockopt::socket_error(&sockets.get(fd)?.fd)?;
                    error.map_or_else(errno::of, |()| 0).into()
                }
            },
        },
        Setting::Type => sockets.get(fd)?.kind as u32,
        Setting::ReuseAddress => sockopt::socket_reuseaddr(&sockets.get(fd)?.fd)?.into(),
        Setting::Broadcast => sockopt::socket_broadcast(&sockets.get(fd)?.fd)?.into(),
        Setting::SendBuffer => sockopt::socket_send_buffer_size(&sockets.get(fd)?.fd)? as u32,
        Setting::ReceiveBuffer => sockopt::socket_recv_buffer_size(&sockets.get(fd)?.fd)? as u32,
        Setting::KeepAlive => sockopt::socket_keepalive(&sockets.get(fd)?.fd)?.into(),
        Setting::NoDelay => sockopt::tcp_nodelay(&sockets.get(fd)?.fd)?.into(),
        Setting::Listens => 0,
        Setting::Patience(side) => {
            let patience = sockets.get(fd)?.patience[side as usize].unwrap_or_default();
            let place = memory.buffer(value, TIMEVAL_BYTES as usize).map_err(|_| errno::FAULT)?;
            place[..8].copy_from_slice(&patience.as_secs().to_le_bytes());
            place[8..].copy_from_slice(&u64::from(patience.subsec_micros()).to_le_bytes());
            return Ok(());
        }
    };
    Ok(put(&mut memory, value, number)?)
}

async fn sock_setsockopt<H: Host>(
    caller: Arguments<'_, '_, H>,
    (fd, level, option, value, len): (i32, i32, i32, u32, u32),
) -> Done {
    let (memory, data) = split(caller)?;
    let sockets = sockets_of(data);
    let buffer_bytes = sockets.outbound.buffer_bytes;
    let socket = sockets.get(fd)?;
    let setting = Setting::of(level, option)?;
    let expected = if let Setting::Patience(_) = setting { TIMEVAL_BYTES } else { 4 };
    if len != expected {
        return Err(errno::INVAL.into());
    }
    let bytes = memory.bytes(value, expected).map_err(|_| errno::FAULT)?;
    let number = u32_at(bytes, 0);
    let is_on = number != 0;
    // No more than an operator allows to wait.
    let size = (number as usize).min(buffer_bytes);
    match setting {
        // Nothing listens.
        Setting::ReuseAddress => {}
        Setting::Broadcast => sockopt::set_socket_broadcast(&socket.fd, is_on)?,
        Setting::SendBuffer => sockopt::set_socket_send_buffer_size(&socket.fd, size)?,
        Setting::ReceiveBuffer => sockopt::set_socket_recv_buffer_size(&socket.fd, size)?,
        Setting::KeepAlive => sockopt::set_socket_keepalive(&socket.fd, is_on)?,
        Setting::NoDelay => sockopt::set_tcp_nodelay(&socket.fd, is_on)?,
        Setting::Patience(side) => {
            let (seconds, micros) = (u64_at(bytes, 0), u32_at(bytes, 8));
            let time = Duration::from_secs(seconds.min(u64::from(u32::MAX)))
                + Duration::from_micros(micros.into());
            socket.patience[side as usize] = (!time.is_zero()).then_some(time);
        }
        Setting::Type | Setting::Error | Setting::Listens => {
            return Err(errno::NOPROTOOPT.into());
        }
    }
    Ok(())
}

/// Of preview 1: `fdflags` and `filetype`.
const NONBLOCK: u16 = 4;
const SOCKET_DGRAM: u8 = 5;
const SOCKET_STREAM: u8 = 6;

/// Read, change flags, write, look at, poll, shut down.
const RIGHTS: u64 = 1 << 1 | 1 << 3 | 1 << 6 | 1 << 21 | 1 << 27 | 1 << 28;

impl Kind {
    const fn file_type(self) -> u8 {
        match self {
            Kind::Datagram => SOCKET_DGRAM,
            Kind::Stream => SOCKET_STREAM,
        }
    }
}

fn fdstat_get<H: Host>(caller: Arguments<'_, '_, H>, fd: i32, to: u32) -> Done {
    let (mut memory, data) = split(caller)?;
    let socket = sockets_of(data).get(fd)?;
    let mut stat = [0; 24];
    stat[0] = socket.kind.file_type();
    let flags = if socket.nonblocking { NONBLOCK } else { 0 };
    stat[2..4].copy_from_slice(&flags.to_le_bytes());
    stat[8..16].copy_from_slice(&RIGHTS.to_le_bytes());
    memory.buffer(to, stat.len()).map_err(|_| errno::FAULT)?.copy_from_slice(&stat);
    Ok(())
}

fn fdstat_set_flags<H: Host>(caller: Arguments<'_, '_, H>, fd: i32, flags: i32) -> Done {
    let (_, data) = split(caller)?;
    sockets_of(data).get(fd)?.nonblocking = flags & i32::from(NONBLOCK) != 0;
    Ok(())
}

fn filestat_get<H: Host>(caller: Arguments<'_, '_, H>, fd: i32, to: u32) -> Done {
    let (mut memory, data) = split(caller)?;
    let socket = sockets_of(data).get(fd)?;
    let mut stat = [0; 64];
    stat[16] = socket.kind.file_type();
    stat[24] = 1;
    memory.buffer(to, stat.len()).map_err(|_| errno::FAULT)?.copy_from_slice(&stat);
    Ok(())
}

/// `fd_close` of a socket.
pub(in super::super) fn close<H: Host>(data: &mut Data<H>, fd: i32) -> Result<i32> {
    finish(sockets_of(data).close(fd).map_err(Stop::Errno))
}

/// `fd_renumber`, if it is about a socket: files and sockets do not take each other's numbers.
pub(in super::super) fn renumber<H: Host>(data: &mut Data<H>, from: i32, to: i32) -> Result<i32> {
    let done = match is_socket(from) && is_socket(to) {
        true => sockets_of(data).renumber(from, to).map_err(Stop::Errno),
        false => Err(Stop::Errno(errno::NOTSUP)),
    };
    finish(done)
}
