//! Time slices: a thread that notices when one run of a guest takes long, and makes it give way.
//!
//! Whoever polls guests brackets each poll with [`Pace::turn`], which costs a few stores. The thread
//! looks once per slice; a turn that it meets twice has lasted a slice at least, and the engine's
//! epoch goes forward for it. While nobody takes turns the thread is asleep, so an idle process is
//! not woken.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::time::{ClockId, clock_gettime};

use super::Engine;

/// Looks without any turn in between after which the thread goes to sleep: a tenth of a second
/// with a period of 5 ms. Waking it costs the next turn a system call.
const PATIENCE: u32 = 20;

/// What the polling thread and the ticker share.
#[derive(Debug, Default)]
pub struct Pace {
    /// Turns begun and ended; odd while one is under way.
    turns: AtomicU64,
    /// Periods that the turn under way has lasted, or the call that began in it.
    periods: AtomicU32,
    period_us: AtomicU32,
    /// What the call under way ran in earlier turns, and what it may run in all, in microseconds;
    /// `UNKNOWN` before one has begun.
    before_us: AtomicU64,
    limit_us: AtomicU64,
    /// The thread's CPU time, in microseconds, from which on the turn under way counts; `UNKNOWN` until
    /// it has lasted a period.
    since_us: AtomicU64,
    /// Whether a call began in the turn under way.
    begun: AtomicBool,
    asleep: AtomicBool,
    stop: Mutex<bool>,
    wake: Condvar,
}

/// Not read yet, or not said.
const UNKNOWN: u64 = u64::MAX;

/// How long a call has run and may run, from turn to turn. Time is the CPU time of the thread that
/// polls it: what other processes of a busy machine take is not the guest's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ran {
    /// `None` before the end of its first turn, which costs nothing: the slice bounds it, and its clock
    /// would have to be read for each request.
    time: Option<Duration>,
    /// `None` before a call of the guest has begun.
    limit: Option<Duration>,
}

impl Ran {
    /// Of a call that has run for nothing yet, and may run for `limit`.
    pub fn limited(limit: Duration) -> Self {
        Ran { time: Some(Duration::ZERO), limit: Some(limit) }
    }

    /// Whether it has used up its time in turns too short for the ticker to see. Twice the limit: a
    /// guest in a loop is to be stopped inside, where its stack shows the place, even when the ticker
    /// comes late.
    pub fn is_overdue(&self) -> bool {
        self.time.zip(self.limit).is_some_and(|(time, limit)| time > 2 * limit)
    }

    /// What the call may run in all; nothing before it has begun.
    pub fn limit(&self) -> Duration {
        self.limit.unwrap_or_default()
    }

    /// Adds what a turn costs beside the guest's own time.
    pub fn charge(&mut self, cost: Duration) {
        if let Some(time) = &mut self.time {
            *time += cost;
        }
    }
}

impl Pace {
    /// A turn, until it is ended or dropped, of a call that `ran` so far. One at a time.
    pub fn turn(&self, ran: Ran) -> Turn<'_> {
        let (before, since) = match ran.time {
            None => (0, UNKNOWN),
            Some(time) => (micros(time), cpu_us()),
        };
        self.periods.store(0, Ordering::Relaxed);
        self.before_us.store(before, Ordering::Relaxed);
        self.limit_us.store(ran.limit.map_or(UNKNOWN, micros), Ordering::Relaxed);
        self.since_us.store(since, Ordering::Relaxed);
        self.begun.store(false, Ordering::Relaxed);
        // Ordered against `asleep`, as in the thread the other way round: one of the two sees the
        // other's store.
        self.turns.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // With the lock held the thread is waiting or has not looked at `turns` yet.
            drop(self.stop.lock());
            self.wake.notify_one();
        }
        Turn { pace: self, ran }
    }

    /// A call begins, in the turn under way: what ran before it was another's, such as the start of the
    /// instance. It may run for `limit`.
    pub(crate) fn begin(&self, limit: Duration) {
        self.periods.store(0, Ordering::Relaxed);
        self.before_us.store(0, Ordering::Relaxed);
        self.limit_us.store(micros(limit), Ordering::Relaxed);
        self.since_us.store(UNKNOWN, Ordering::Relaxed);
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether the ticker waits for a turn.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// How long the turn under way has lasted, or the call that began in it, rounded down to periods.
    /// Zero when an epoch went forward for another turn.
    pub(crate) fn lasted(&self) -> Duration {
        let period = Duration::from_micros(self.period_us.load(Ordering::Relaxed).into());
        period * self.periods.load(Ordering::Relaxed)
    }

    /// What the call under way may run in all, if it has run for longer. To be asked by the thread that
    /// polls it.
    pub(crate) fn overrun(&self) -> Option<Duration> {
        let mut us = self.before_us.load(Ordering::Relaxed);
        let periods = self.periods.load(Ordering::Relaxed);
        if periods > 0 {
            let now = cpu_us();
            let mut since = self.since_us.load(Ordering::Relaxed);
            if since == UNKNOWN {
                // It was not read at the beginning: a period ago, if nobody took the processor away.
                since = now.saturating_sub(self.period_us.load(Ordering::Relaxed).into());
                self.since_us.store(since, Ordering::Relaxed);
            }
            us += now.saturating_sub(since);
        }
        let limit = self.limit_us.load(Ordering::Relaxed);
        (us > limit).then(|| Duration::from_micros(limit))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The CPU time that this thread has used.
fn cpu_us() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
    seconds * 1_000_000 + nanos / 1_000
}

/// A poll of a guest under way.
#[derive(Debug)]
pub struct Turn<'a> {
    pace: &'a Pace,
    ran: Ran,
}

impl Turn<'_> {
    /// The poll is over; what the call ran up to now. One that began in this turn has run for nothing
    /// yet.
    pub fn end(self) -> Ran {
        let pace = self.pace;
        let time = match self.ran.time {
            _ if pace.begun.load(Ordering::Relaxed) => Duration::ZERO,
            None => Duration::ZERO,
            Some(before) => {
                let since = pace.since_us.load(Ordering::Relaxed);
                before + Duration::from_micros(cpu_us().saturating_sub(since))
            }
        };
        let limit = match pace.limit_us.load(Ordering::Relaxed) {
            UNKNOWN => None,
            us => Some(Duration::from_micros(us)),
        };
        Ran { time: Some(time), limit }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Turns are taken one at a time: nobody else writes.
        let turns = self.pace.turns.load(Ordering::Relaxed);
        self.pace.turns.store(turns.wrapping_add(1), Ordering::Release);
    }
}

/// The thread. Dropping it ends it.
#[derive(Debug)]
pub struct Ticker {
    pace: Arc<Pace>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts the thread for the guests of one engine, the shortest slice of which is `period`.
    /// It runs `begin` first. Not in a process that forks later.
    pub fn start(
        engine: &Engine,
        period: Duration,
        begin: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let engine = engine.clone();
        let pace = Arc::clone(engine.pace());
        let period_us = u32::try_from(period.as_micros()).unwrap_or(u32::MAX);
        pace.period_us.store(period_us, Ordering::Relaxed);
        *pace.stop.lock() = false;
        let thread = Builder::new().name("http-wasm-ticker".to_owned()).spawn(move || {
            begin();
            run(&engine, period);
        })?;
        Ok(Ticker { pace, thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        *self.pace.stop.lock() = true;
        self.pace.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // It panics nowhere; if it did, there would be nothing left to stop.
            let _ = thread.join();
        }
    }
}

fn run(engine: &Engine, period: Duration) {
    let pace = engine.pace();
    let mut seen = pace.turns.load(Ordering::SeqCst);
    let mut quiet = 0;
    let mut stop = pace.stop.lock();
    while !*stop {
        pace.wake.wait_for(&mut stop, period);
        let now = pace.turns.load(Ordering::SeqCst);
        let running = now % 2 == 1;
        if running && now == seen {
            pace.periods.fetch_add(1, Ordering::Relaxed);
            engine.wasm().increment_epoch();
        }
        quiet = if running || now != seen { 0 } else { quiet + 1 };
        seen = now;
        if quiet == PATIENCE && !*stop {
            pace.asleep.store(true, Ordering::SeqCst);
            if pace.turns.load(Ordering::SeqCst) == seen {
                pace.wake.wait(&mut stop);
            }
            pace.asleep.store(false, Ordering::SeqCst);
            quiet = 0;
        }
    }
}
