//! Sockets of one instance: what guests open with the functions that WasmEdge has added to preview 1,
//! and Traefik's guests use. They are plain sockets of the system that never block; whoever has to wait
//! does so through [`Host::ready`](crate::host::Host::ready). Nobody looks at them between calls.

mod address;
mod calls;
mod names;

use std::ops::AddAssign;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socket_with, sockopt,
};
use rustix::process::{Resource, getrlimit};

pub(super) use calls::{add_to_linker, close, is_used, look, renumber, say_no_room, watch, write};

use self::address::Address;
use super::errno::{self, Errno};
use crate::host::Watched;
use crate::host::connect::{Outbound, Pins};
use crate::memory::GuestMemory;
use crate::runtime::throttle::Throttle;

/// The number of the first socket, far above all that the library gives to files.
const BASE: i32 = 1 << 20;

/// Which part of the descriptors that a process may have guests may have for sockets. The others are
/// for the connections that it serves.
const PART: u64 = 4;

/// Sockets of all instances in this process.
static ALL: AtomicUsize = AtomicUsize::new(0);

/// Whether a number is one of a socket.
pub(super) const fn is_socket(fd: i32) -> bool {
    fd >= BASE
}

/// What has been said lately about what a guest may not do, over all its instances.
pub(crate) type Said = Arc<Mutex<Throttle<String>>>;

/// What the sockets of an instance did since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that came about.
    pub connected: u64,
    /// What it tried and may not.
    pub refused: u64,
    /// Connections that did not come about.
    pub failed: u64,
    /// Bytes that went out.
    pub sent_bytes: u64,
    /// Bytes that came in.
    pub received_bytes: u64,
    /// How long it waited for them.
    pub waited: Duration,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        let Traffic { connected, refused, failed, sent_bytes, received_bytes, waited } = other;
        self.connected += connected;
        self.refused += refused;
        self.failed += failed;
        self.sent_bytes += sent_bytes;
        self.received_bytes += received_bytes;
        self.waited += waited;
    }
}

/// The sockets of an instance.
pub(crate) struct Sockets {
    outbound: Outbound,
    table: Vec<Option<Socket>>,
    pins: Pins,
    said: Said,
    traffic: Traffic,
    /// Connections that did not come about, which has not been said yet.
    failures: Vec<(Address, Errno)>,
}

/// One of them.
struct Socket {
    fd: Arc<OwnedFd>,
    /// Where it is, or was, to be connected to.
    to: Option<Address>,
    family: Family,
    kind: Kind,
    /// Calls for it do not wait.
    nonblocking: bool,
    state: State,
    /// What the guest wants of its waits for bytes and for room.
    patience: [Option<Duration>; 2],
    _counted: Counted,
}

/// How far a socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has no peer. One of datagrams gets what anybody sends to it.
    Fresh,
    /// It will have one, by then.
    Connecting { until: Instant },
    /// It has one, or had it.
    Connected,
    /// It took too long; whether the guest has asked for the error.
    Late { told: bool },
}

/// The families, with their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Family {
    V4 = 1,
    V6 = 2,
    Unix = 3,
}

impl Family {
    const fn of(number: i32) -> Result<Self, Errno> {
        match number {
            1 => Ok(Family::V4),
            2 => Ok(Family::V6),
            3 => Ok(Family::Unix),
            _ => Err(errno::AFNOSUPPORT),
        }
    }
}

/// The types, with their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Datagram = 1,
    Stream = 2,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Bytes.
    Read,
    /// Room for some.
    Write,
}

/// One of [`ALL`].
struct Counted;

impl Counted {
    fn one_more() -> Result<Self, Errno> {
        let limit = getrlimit(Resource::Nofile).current.map_or(u64::MAX, |limit| limit / PART);
        if ALL.fetch_add(1, Ordering::Relaxed) as u64 >= limit {
            ALL.fetch_sub(1, Ordering::Relaxed);
            return Err(errno::NFILE);
        }
        Ok(Counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ALL.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Socket {
    fn open(family: Family, kind: Kind, buffer_bytes: usize) -> Result<Self, Errno> {
        let counted = Counted::one_more()?;
        let domain = match family {
            Family::V4 => AddressFamily::INET,
            Family::V6 => AddressFamily::INET6,
            Family::Unix => AddressFamily::UNIX,
        };
        let ty = match kind {
            Kind::Datagram => SocketType::DGRAM,
            Kind::Stream => SocketType::STREAM,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(domain, ty, flags, None).map_err(errno::of)?;
        // The system cuts what is more than it allows to anybody.
        sockopt::set_socket_recv_buffer_size(&fd, buffer_bytes).map_err(errno::of)?;
        sockopt::set_socket_send_buffer_size(&fd, buffer_bytes).map_err(errno::of)?;
        Ok(Socket {
            fd: Arc::new(fd),
            to: None,
            family,
            kind,
            nonblocking: false,
            state: State::Fresh,
            patience: [None; 2],
            _counted: counted,
        })
    }

    /// For a wait.
    fn watched(&self, read: bool, write: bool) -> Watched {
        Watched { socket: Arc::clone(&self.fd), read, write }
    }

    /// Gives up a connection that has not come about in time.
    fn expire(&mut self, now: Instant) {
        if let State::Connecting { until } = self.state
            && until <= now
        {
            self.state = State::Late { told: false };
            // Ends the attempt. What else it could say is that there is none.
            let _ = shutdown(&self.fd, Shutdown::Both);
        }
    }
}

impl Sockets {
    pub(super) fn new(outbound: Outbound, said: Said) -> Self {
        Sockets {
            outbound,
            table: Vec::new(),
            pins: Pins::default(),
            said,
            traffic: Traffic::default(),
            failures: Vec::new(),
        }
    }

    fn get(&mut self, fd: i32) -> Result<&mut Socket, Errno> {
        match index(fd) {
            Some(index) => self.table.get_mut(index).and_then(Option::as_mut).ok_or(errno::BADF),
            None => Err(errno::NOTSOCK),
        }
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.table.iter().flatten().count()
    }

    /// What they did since it was last asked; nothing if that is nothing.
    pub(crate) fn take_traffic(&mut self) -> Option<Traffic> {
        let traffic = std::mem::take(&mut self.traffic);
        (traffic != Traffic::default()).then_some(traffic)
    }

    /// Gives a socket the lowest number that is free.
    fn insert(&mut self, socket: Socket) -> i32 {
        let free = self.table.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.table.push(None);
            self.table.len() - 1
        });
        self.table[index] = Some(socket);
        // There are no more than an operator allows.
        BASE + i32::try_from(index).unwrap_or(i32::MAX - BASE)
    }

    /// A socket for a wait.
    pub(super) fn watched(&mut self, fd: i32, read: bool, write: bool) -> Result<Watched, Errno> {
        Ok(self.get(fd)?.watched(read, write))
    }

    /// Whether it has waited in vain for its connection, which the guest does not know yet.
    pub(super) fn is_late(&mut self, fd: i32) -> bool {
        self.get(fd).is_ok_and(|socket| {
            socket.expire(Instant::now());
            socket.state == State::Late { told: false }
        })
    }

    /// How long these are waited for at most.
    pub(super) fn longest_wait(&mut self, fds: &[i32]) -> Duration {
        let now = Instant::now();
        let timeout = self.outbound.timeout;
        let connecting = fds.iter().filter_map(|&fd| match self.get(fd).ok()?.state {
            State::Connecting { until } => Some(until.saturating_duration_since(now)),
            State::Fresh | State::Connected | State::Late { .. } => None,
        });
        connecting.fold(timeout, Duration::min)
    }

    pub(super) fn close(&mut self, fd: i32) -> Result<(), Errno> {
        self.get(fd)?;
        if let Some(socket) = index(fd).and_then(|index| self.table.get_mut(index)) {
            *socket = None;
        }
        Ok(())
    }

    /// Puts one in the place of another.
    pub(super) fn renumber(&mut self, from: i32, to: i32) -> Result<(), Errno> {
        self.get(from)?;
        self.get(to)?;
        if let (Some(from), Some(to)) = (index(from), index(to))
            && from != to
        {
            self.table[to] = self.table[from].take();
        }
        Ok(())
    }
}

fn index(fd: i32) -> Option<usize> {
    usize::try_from(fd.checked_sub(BASE)?).ok()
}

/// Stores a number where the guest wants it.
fn put(memory: &mut GuestMemory<'_>, at: u32, value: u32) -> Result<(), Errno> {
    let place = memory.buffer(at, 4).map_err(|_| errno::FAULT)?;
    place.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

/// The time on a clock for [`Said`].
fn now() -> Duration {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGIN.elapsed()
}
