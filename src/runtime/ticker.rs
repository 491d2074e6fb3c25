//! Time slices: a thread that notices when one run of a guest takes long, and makes it give way.
//!
//! Whoever polls guests brackets each poll with [`Pace::turn`], which costs two stores. The thread
//! looks once per slice; a turn that it meets twice has lasted a slice at least, and the engine's
//! epoch goes forward for it. While nobody takes turns the thread is asleep, so an idle process is
//! not woken.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::Engine;

/// Looks without any turn in between after which the thread goes to sleep: a tenth of a second
/// with a period of 5 ms. Waking it costs the next turn a system call.
const PATIENCE: u32 = 20;

/// What the polling thread and the ticker share.
#[derive(Debug, Default)]
pub struct Pace {
    /// Turns begun and ended; odd while one is under way.
    turns: AtomicU64,
    /// Periods that the turn under way has lasted.
    periods: AtomicU32,
    period_us: AtomicU32,
    /// What the call under way ran in earlier turns, in microseconds.
    before_us: AtomicU64,
    asleep: AtomicBool,
    stop: Mutex<bool>,
    wake: Condvar,
}

impl Pace {
    /// A turn, until the guard is dropped, of a call that ran for `before` in earlier ones. One at
    /// a time.
    pub fn turn(&self, before: Duration) -> Turn<'_> {
        self.periods.store(0, Ordering::Relaxed);
        let before_us = u64::try_from(before.as_micros()).unwrap_or(u64::MAX);
        self.before_us.store(before_us, Ordering::Relaxed);
        // Ordered against `asleep`, as in the thread the other way round: one of the two sees the
        // other's store.
        self.turns.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // With the lock held the thread is waiting or has not looked at `turns` yet.
            drop(self.stop.lock());
            self.wake.notify_one();
        }
        Turn(self)
    }

    /// Whether the ticker waits for a turn.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// How long the turn under way has lasted, rounded down to periods. Zero when an epoch went
    /// forward for another turn.
    pub(crate) fn lasted(&self) -> Duration {
        let period = Duration::from_micros(self.period_us.load(Ordering::Relaxed).into());
        period * self.periods.load(Ordering::Relaxed)
    }

    /// What the call under way ran in earlier turns.
    pub(crate) fn before(&self) -> Duration {
        Duration::from_micros(self.before_us.load(Ordering::Relaxed))
    }
}

/// A poll of a guest under way.
#[derive(Debug)]
pub struct Turn<'a>(&'a Pace);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Turns are taken one at a time: nobody else writes.
        let turns = self.0.turns.load(Ordering::Relaxed);
        self.0.turns.store(turns.wrapping_add(1), Ordering::Release);
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
