//! Clocks and random numbers that are the same in every instance, for guests that shall not see what
//! the machine does: neither what time it is nor how long anything takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chacha20::ChaCha8Rng;
use chacha20::rand_core::SeedableRng;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtxBuilder};

/// 2022-01-01 00:00:00 UTC, where other hosts of these guests begin in the same case.
const BEGIN: Duration = Duration::from_secs(1_640_995_200);

/// How far the clock goes on with every look at it. One that stands still would keep those who wait
/// for it in a loop.
const STEP: Duration = Duration::from_millis(1);

/// As far as it goes: a century, which no calendar of a guest's overflows with.
const END_NS: u64 = 100 * 365 * 24 * 3600 * 1_000_000_000;

/// Any would do.
const SEED: [u8; 32] = [42; 32];

/// The time of one instance, in nanoseconds since it was made. Both clocks show it.
#[derive(Clone, Default)]
pub(super) struct Clock(Arc<AtomicU64>);

impl Clock {
    /// Gives a context this clock and random numbers of its own.
    pub(super) fn set_up(&self, builder: &mut WasiCtxBuilder) {
        builder.wall_clock(self.clone());
        builder.monotonic_clock(self.clone());
        builder.secure_random(ChaCha8Rng::from_seed(SEED));
        builder.insecure_random(ChaCha8Rng::from_seed(SEED));
        builder.insecure_random_seed(0);
    }

    /// Lets time pass, for a guest that sleeps; what it was before.
    pub(super) fn pass(&self, time: Duration) -> Duration {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(END_NS);
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.saturating_add(ns).min(END_NS), Ordering::Relaxed);
        Duration::from_nanos(before)
    }
}

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        STEP
    }

    fn now(&self) -> Duration {
        BEGIN + self.pass(STEP)
    }
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        STEP.as_nanos() as u64
    }

    fn now(&self) -> u64 {
        self.pass(STEP).as_nanos() as u64
    }
}
