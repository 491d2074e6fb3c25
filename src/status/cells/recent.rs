//! The last quarter of an hour, half a minute by half a minute: a ring in which what begins takes the
//! place of what is longest ago. As with all figures, one process writes a [`Ring`], and the sum of all
//! ([`Recent`]) is shown.

use std::array;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::{BOUNDS_NS, BUCKETS, Distribution, Failure};

/// Parts that are remembered.
pub const PARTS: usize = 30;

/// How long each is, in seconds.
pub const PART_SECONDS: u64 = 30;

const FAILURES: usize = Failure::ALL.len();

/// What one process counts. All zeroes is the beginning, as of all cells.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Ring {
    parts: [PartCells; PARTS],
}

#[derive(Debug)]
#[repr(C)]
struct PartCells {
    /// Which it is ([`number`]); 0 before the first.
    number: AtomicU64,
    requests: AtomicU32,
    failed: [AtomicU32; FAILURES],
    times: [AtomicU32; BUCKETS],
}

/// Parts up to this one, since a beginning that all processes of the machine share.
fn number(now: Duration) -> u64 {
    now.as_secs() / PART_SECONDS + 1
}

fn slot(number: u64) -> usize {
    (number % PARTS as u64) as usize
}

fn add(cell: &AtomicU32) {
    cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
}

impl Default for Ring {
    fn default() -> Self {
        let part = |_| PartCells {
            number: AtomicU64::default(),
            requests: AtomicU32::default(),
            failed: array::from_fn(|_| AtomicU32::default()),
            times: array::from_fn(|_| AtomicU32::default()),
        };
        Ring { parts: array::from_fn(part) }
    }
}

impl Ring {
    /// A request began.
    pub(super) fn request(&self, now: Duration) {
        add(&self.part(now).requests);
    }

    /// A call failed.
    pub(super) fn failure(&self, now: Duration, failure: Failure) {
        add(&self.part(now).failed[failure as usize]);
    }

    /// A call ended, and its time is in this bucket.
    pub(super) fn time(&self, now: Duration, bucket: usize) {
        add(&self.part(now).times[bucket]);
    }

    fn part(&self, now: Duration) -> &PartCells {
        let number = number(now);
        let part = &self.parts[slot(number)];
        if part.number.load(Relaxed) != number {
            part.copy(&Part { number, ..Part::default() });
        }
        part
    }

    /// Takes over what another one counted.
    pub(super) fn copy(&self, from: &Recent) {
        self.parts.iter().zip(&from.parts).for_each(|(to, from)| to.copy(from));
    }
}

impl PartCells {
    fn copy(&self, from: &Part) {
        let store = |cell: &AtomicU32, value: u64| {
            cell.store(u32::try_from(value).unwrap_or(u32::MAX), Relaxed);
        };
        store(&self.requests, from.requests);
        self.failed.iter().zip(from.failed).for_each(|(cell, value)| store(cell, value));
        self.times.iter().zip(from.times).for_each(|(cell, value)| store(cell, value));
        self.number.store(from.number, Relaxed);
    }
}

/// What several processes have counted together.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    parts: [Part; PARTS],
}

/// A part of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    number: u64,
    /// Requests that began in it.
    pub requests: u64,
    /// Calls that failed in it, in the order of [`Failure::ALL`].
    pub failed: [u64; FAILURES],
    times: [u64; BUCKETS],
}

impl Recent {
    /// Adds what one process has counted.
    pub(super) fn add(&mut self, ring: &Ring) {
        for (sum, cells) in self.parts.iter_mut().zip(&ring.parts) {
            let number = cells.number.load(Relaxed);
            if number > sum.number {
                *sum = Part { number, ..Part::default() };
            }
            // Of those that share a slot the newest is in the ring.
            if number == sum.number {
                sum.requests += u64::from(cells.requests.load(Relaxed));
                let each = |sums: &mut [u64], cells: &[AtomicU32]| {
                    let cells = cells.iter().map(|cell| u64::from(cell.load(Relaxed)));
                    sums.iter_mut().zip(cells).for_each(|(sum, value)| *sum += value);
                };
                each(&mut sum.failed, &cells.failed);
                each(&mut sum.times, &cells.times);
            }
        }
    }

    /// All parts up to now, the oldest first, each with the seconds since it began.
    pub fn until(&self, now: Duration) -> impl Iterator<Item = (u64, Part)> {
        let newest = number(now);
        (0..PARTS as u64).rev().map(move |back| {
            let part = newest.checked_sub(back).map(|number| (number, self.parts[slot(number)]));
            let part = match part {
                Some((number, part)) if part.number == number => part,
                _ => Part::default(),
            };
            (back * PART_SECONDS + now.as_secs() % PART_SECONDS, part)
        })
    }
}

impl Part {
    /// The time within which all but a hundredth of the calls that ended in it came to an end.
    pub fn p99_ns(&self) -> Option<u64> {
        let longest = self.times.iter().rposition(|&count| count > 0)?;
        let longest = longest.min(BOUNDS_NS.len() - 1);
        let times = Distribution { buckets: self.times, sum_ns: 0, max_ns: BOUNDS_NS[longest] };
        times.quantile_ns(0.99)
    }
}
