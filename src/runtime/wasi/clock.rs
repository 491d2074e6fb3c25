//! The clock that never goes back.

use rustix::time::{ClockId, clock_getres, clock_gettime};
use wasmtime_wasi::HostMonotonicClock;

/// The system's own count. The library's starts at zero in every instance, so that what a guest
/// remembers of it from before a snapshot would lie in the future.
pub(super) struct Monotonic;

impl HostMonotonicClock for Monotonic {
    fn resolution(&self) -> u64 {
        nanoseconds(clock_getres(ClockId::Monotonic))
    }

    fn now(&self) -> u64 {
        nanoseconds(clock_gettime(ClockId::Monotonic))
    }
}

/// Counted from the system's start, never negative, and enough for 584 years.
fn nanoseconds(time: rustix::time::Timespec) -> u64 {
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
