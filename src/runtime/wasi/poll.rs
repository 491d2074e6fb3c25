//! `poll_oneoff`: waiting for clocks and sockets through the host instead of a runtime of our own.

use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use wasmtime::{Caller, Result};
use wasmtime_wasi::p1::{WasiP1Ctx, wasi_snapshot_preview1 as library};

use super::errno::{self, Errno};
use super::sock::{self, Sockets};
use super::{LIST_ITEMS, Wasi, u32_at, u64_at};
use crate::host::linker::split;
use crate::host::{Host, Waited, Watched};
use crate::runtime::instance::Data;

const SUBSCRIPTION_BYTES: u32 = 48;
const EVENT_BYTES: u32 = 32;

/// Tags of subscriptions to descriptors.
const READ: u8 = 1;
const WRITE: u8 = 2;

fn is_socket(fd: u32) -> bool {
    sock::is_socket(fd.cast_signed())
}

/// One thing a guest waits for, as it lies in memory.
struct Subscription {
    userdata: [u8; 8],
    wait: Wait,
}

enum Wait {
    Clock { id: u32, timeout_ns: u64, absolute: bool },
    Fd { tag: u8, fd: u32 },
}

impl Subscription {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SUBSCRIPTION_BYTES as usize] = bytes.try_into().ok()?;
        let wait = match bytes[8] {
            0 => Wait::Clock {
                id: u32_at(bytes, 16),
                timeout_ns: u64_at(bytes, 24),
                absolute: bytes[40] & 1 != 0,
            },
            tag @ (READ | WRITE) => Wait::Fd { tag, fd: u32_at(bytes, 16) },
            _ => return None,
        };
        let userdata = u64_at(bytes, 0).to_le_bytes();
        Some(Subscription { userdata, wait })
    }

    fn event(&self, error: u16) -> [u8; EVENT_BYTES as usize] {
        let mut event = [0; EVENT_BYTES as usize];
        event[..8].copy_from_slice(&self.userdata);
        event[8..10].copy_from_slice(&error.to_le_bytes());
        if let Wait::Fd { tag, .. } = self.wait {
            event[10] = tag;
            event[16] = u8::from(error == 0);
        }
        event
    }
}

/// Answers at once for descriptors of files, which are never worth waiting for here: streams go to the
/// log and files are read by blocking. Otherwise waits until the first clock strikes, or something
/// happens at a socket.
pub(super) async fn poll_oneoff<H: Host>(
    caller: &mut Caller<'_, Data<H>>,
    (subscriptions, events, count, stored): (u32, u32, u32, u32),
) -> Result<i32> {
    let (mut memory, data) = split(caller)?;
    if count == 0 || count > LIST_ITEMS {
        return Ok(errno::INVAL.into());
    }
    let Wasi { context, strict, sockets, .. } = Wasi::of(&mut data.wasi);
    let (len, room) = (count * SUBSCRIPTION_BYTES, count * EVENT_BYTES);
    if memory.buffer(events, room as usize).is_err() || memory.buffer(stored, 4).is_err() {
        return Ok(errno::FAULT.into());
    }
    let Ok(list) = memory.bytes(subscriptions, len) else {
        return Ok(errno::FAULT.into());
    };
    let clocks = Clocks::read(context)?;
    let mut shortest_ns = u64::MAX;
    let mut polled = Polled::default();
    for bytes in list.chunks_exact(SUBSCRIPTION_BYTES as usize) {
        let Some(subscription) = Subscription::parse(bytes) else {
            return Ok(errno::INVAL.into());
        };
        let remaining = match subscription.wait {
            // A closed one is answered at once.
            Wait::Fd { tag, fd } if is_socket(fd) => Some(match polled.add(sockets, fd, tag) {
                Ok(()) => u64::MAX,
                Err(_) => 0,
            }),
            Wait::Fd { .. } | Wait::Clock { .. } => clocks.remaining_ns(&subscription),
        };
        let Some(remaining) = remaining else {
            return Ok(errno::INVAL.into());
        };
        shortest_ns = shortest_ns.min(remaining);
    }
    let mut passed_ns = shortest_ns;
    let mut failed = None;
    if !polled.is_empty() {
        (passed_ns, failed) = polled.wait(data, shortest_ns).await;
    } else if shortest_ns > 0
        && let Ok(host) = data.state.any_phase()
    {
        let mut time = Duration::from_nanos(shortest_ns);
        if let Some(clock) = strict {
            // Its own time passes, and nobody else's: at once, but for a turn of the others.
            clock.pass(std::mem::take(&mut time));
        }
        host.sleep(time).await;
    }
    let Wasi { context, .. } = Wasi::of(&mut data.wasi);
    let mut happened = 0;
    for index in 0..count {
        let at = subscriptions + index * SUBSCRIPTION_BYTES;
        let bytes = memory.bytes(at, SUBSCRIPTION_BYTES).unwrap_or_default();
        // Parsed again instead of kept: a list of any length costs no allocation.
        let Some(subscription) = Subscription::parse(bytes) else {
            continue;
        };
        let event = match subscription.wait {
            Wait::Fd { tag, fd } if is_socket(fd) => match (polled.found(fd, tag), failed) {
                (Found::Closed, _) => subscription.event(errno::BADF),
                (Found::Ready { hangup }, _) => {
                    let mut event = subscription.event(0);
                    event[24] = hangup.into();
                    event
                }
                (Found::Nothing, Some(errno)) => subscription.event(errno),
                (Found::Nothing, None) => continue,
            },
            _ if clocks.remaining_ns(&subscription) > Some(passed_ns) => continue,
            Wait::Fd { tag, fd } if !is_ready(context, tag, fd)? => subscription.event(errno::BADF),
            Wait::Fd { .. } | Wait::Clock { .. } => subscription.event(0),
        };
        if let Ok(slot) = memory.buffer(events + happened * EVENT_BYTES, EVENT_BYTES as usize) {
            slot.copy_from_slice(&event);
            happened += 1;
        }
    }
    if let Ok(slot) = memory.buffer(stored, 4) {
        slot.copy_from_slice(&happened.to_le_bytes());
    }
    Ok(errno::SUCCESS)
}

/// The sockets of one call, each once.
#[derive(Default)]
struct Polled {
    fds: Vec<i32>,
    sockets: Vec<Watched>,
    found: Vec<PollFlags>,
}

/// What there is at a socket.
enum Found {
    Closed,
    Nothing,
    Ready { hangup: bool },
}

impl Polled {
    fn is_empty(&self) -> bool {
        self.fds.is_empty()
    }

    fn add(&mut self, sockets: &mut Sockets, fd: u32, tag: u8) -> std::result::Result<(), Errno> {
        let fd = fd.cast_signed();
        let (read, write) = (tag == READ, tag == WRITE);
        match self.fds.iter().position(|&other| other == fd) {
            Some(at) => {
                self.sockets[at].read |= read;
                self.sockets[at].write |= write;
            }
            None => {
                self.sockets.push(sockets.watched(fd, read, write)?);
                self.fds.push(fd);
            }
        }
        Ok(())
    }

    fn look(&mut self) -> bool {
        self.found = sock::look(&self.sockets);
        self.found.iter().any(|found| !found.is_empty())
    }

    /// Waits for so long, unless something has happened. How much of that time has passed, and the
    /// error of those that there is no more waiting for.
    async fn wait<H: Host>(
        &mut self,
        data: &mut Data<H>,
        shortest_ns: u64,
    ) -> (u64, Option<Errno>) {
        let sockets = &mut Wasi::of(&mut data.wasi).sockets;
        let late = self.expire(sockets);
        if self.look() || late || shortest_ns == 0 {
            return (0, None);
        }
        let wanted = Duration::from_nanos(shortest_ns);
        let bound = sockets.longest_wait(&self.fds);
        let began = Instant::now();
        loop {
            let left = wanted.min(bound).saturating_sub(began.elapsed());
            match sock::watch(data, self.sockets.clone(), left).await {
                Waited::Over => {}
                Waited::NoRoom => {
                    sock::say_no_room(data);
                    return (0, Some(errno::NOBUFS));
                }
                Waited::NotNow => return (0, Some(errno::AGAIN)),
            }
            let late = self.expire(&mut Wasi::of(&mut data.wasi).sockets);
            if self.look() || late {
                return (0, None);
            }
            let waited = began.elapsed();
            if waited >= wanted {
                return (shortest_ns, None);
            }
            if waited >= bound {
                return (0, Some(errno::TIMEDOUT));
            }
        }
    }

    /// Whether a connection has taken too long.
    fn expire(&self, sockets: &mut Sockets) -> bool {
        self.fds.iter().filter(|&&fd| sockets.is_late(fd)).count() > 0
    }

    fn found(&self, fd: u32, tag: u8) -> Found {
        let Some(at) = self.fds.iter().position(|&other| other == fd.cast_signed()) else {
            return Found::Closed;
        };
        let found = self.found.get(at).copied().unwrap_or(PollFlags::empty());
        let wanted = if tag == READ { PollFlags::IN } else { PollFlags::OUT };
        let ended = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        match found.intersects(wanted | ended) {
            true => Found::Ready { hangup: tag == READ && found.contains(PollFlags::HUP) },
            false => Found::Nothing,
        }
    }
}

/// The guest's clocks at one moment, so that all subscriptions are measured against the same.
struct Clocks {
    realtime_ns: u64,
    monotonic_ns: u64,
}

impl Clocks {
    fn read(context: &mut WasiP1Ctx) -> Result<Self> {
        Ok(Clocks { realtime_ns: clock_ns(context, 0)?, monotonic_ns: clock_ns(context, 1)? })
    }

    /// How long to wait for it; nothing for clocks that cannot be waited for.
    fn remaining_ns(&self, subscription: &Subscription) -> Option<u64> {
        match subscription.wait {
            Wait::Fd { .. } => Some(0),
            Wait::Clock { id, timeout_ns, absolute } => {
                let now_ns = match id {
                    0 => self.realtime_ns,
                    1 => self.monotonic_ns,
                    _ => return None,
                };
                Some(match absolute {
                    true => timeout_ns.saturating_sub(now_ns),
                    false => timeout_ns,
                })
            }
        }
    }
}

/// The library writes results into guest memory only; this is as much of it as one result needs,
/// aligned as it insists on.
#[repr(align(8))]
struct Scratch([u8; 8]);

fn clock_ns(context: &mut WasiP1Ctx, id: i32) -> Result<u64> {
    let mut scratch = Scratch([0; 8]);
    let mut memory = wiggle::GuestMemory::Unshared(&mut scratch.0);
    library::clock_time_get(context, &mut memory, id, 0, 0)?;
    Ok(u64::from_le_bytes(scratch.0))
}

/// Whether a descriptor is open in the direction that is asked about. Only files have a position,
/// which is how the library can be asked about them.
fn is_ready(context: &mut WasiP1Ctx, tag: u8, fd: u32) -> Result<bool> {
    if fd <= 2 {
        return Ok((tag == 1) == (fd == 0));
    }
    let mut scratch = Scratch([0; 8]);
    let mut memory = wiggle::GuestMemory::Unshared(&mut scratch.0);
    Ok(library::fd_tell(context, &mut memory, fd.cast_signed(), 0)? == errno::SUCCESS)
}
