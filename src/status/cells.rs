//! The figures of one guest in one process ([`Cells`]): one process writes them, everybody may read
//! them, and a sum over all processes is what anybody is shown ([`Totals`]).
//!
//! There is one writer, so a plain load and a plain store make an addition: no locked instruction,
//! no lock. A reader may see one figure of a call and not yet the other.

pub mod recent;

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use recent::{Recent, Ring};

/// What is now. Gone with the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gauge {
    /// Requests that have an instance.
    InFlight,
    /// Requests in line for one.
    Waiting,
    /// Instances.
    Instances,
    /// Their linear memory.
    MemoryBytes,
    /// The guest is out of service here.
    Resting,
    /// Sockets of its instances.
    Sockets,
}

const GAUGES: usize = 6;

/// What has happened. Stays when the process goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// `handle_request` was to be called.
    Requests,
    /// The guest left the request to the next handler.
    Passed,
    /// The guest answered.
    Answered,
    /// A call that nobody waited for any more.
    Aborted,
    /// An instance was started.
    InstancesStarted,
    /// A connection of the guest's came about.
    Connected,
    /// It was refused what it may not have.
    Refused,
    /// A connection did not come about.
    Unconnected,
    /// Bytes that went out on connections.
    SentBytes,
    /// Bytes that came in.
    ReceivedBytes,
    /// Nanoseconds that it waited for them.
    SocketWaitNs,
    /// A call failed.
    Failed(Failure),
}

const COUNTERS: usize = 11 + Failure::ALL.len();

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// WebAssembly trapped.
    Trap,
    /// A trap after memory was refused.
    Memory,
    /// A host function was used against the rules.
    Rule,
    /// The guest exited.
    Exit,
    /// It ran for too long.
    Timeout,
    /// A further instance did not start.
    Start,
    /// No instance came free in time.
    Busy,
    /// The guest was out of service.
    Resting,
    /// The server could not do its part.
    Host,
}

impl Failure {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Failure; 9] = [
        Failure::Trap,
        Failure::Memory,
        Failure::Rule,
        Failure::Exit,
        Failure::Timeout,
        Failure::Start,
        Failure::Busy,
        Failure::Resting,
        Failure::Host,
    ];

    /// One word.
    pub const fn name(self) -> &'static str {
        match self {
            Failure::Trap => "trap",
            Failure::Memory => "memory",
            Failure::Rule => "rule",
            Failure::Exit => "exit",
            Failure::Timeout => "timeout",
            Failure::Start => "start",
            Failure::Busy => "busy",
            Failure::Resting => "resting",
            Failure::Host => "host",
        }
    }
}

impl Counter {
    const fn index(self) -> usize {
        match self {
            Counter::Requests => 0,
            Counter::Passed => 1,
            Counter::Answered => 2,
            Counter::Aborted => 3,
            Counter::InstancesStarted => 4,
            Counter::Connected => 5,
            Counter::Refused => 6,
            Counter::Unconnected => 7,
            Counter::SentBytes => 8,
            Counter::ReceivedBytes => 9,
            Counter::SocketWaitNs => 10,
            Counter::Failed(failure) => 11 + failure as usize,
        }
    }
}

/// One of the guest's two functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// `handle_request`.
    Request,
    /// `handle_response`.
    Response,
}

/// Upper bounds of the histograms: an empty guest takes a tenth of a microsecond, and ten seconds
/// are ten times the default time limit. Three steps to a decade tell a median within
/// a factor of 2.5.
pub const BOUNDS_NS: [u64; 24] = [
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// One for each bound, and one for what is beyond.
const BUCKETS: usize = BOUNDS_NS.len() + 1;

fn add(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(count), Relaxed);
}

/// The figures of one guest in one process. Consists of integers only, for which all zeroes
/// is the beginning, so that memory shared between processes can be used as one. No two share a line
/// of the processors' caches.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Cells {
    gauges: [AtomicU64; GAUGES],
    counters: [AtomicU64; COUNTERS],
    /// All that were ever enabled.
    features: AtomicU64,
    request: Histogram,
    response: Histogram,
    recent: Ring,
}

#[derive(Debug)]
#[repr(C)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
}

impl Default for Cells {
    fn default() -> Self {
        Cells {
            gauges: array::from_fn(|_| AtomicU64::default()),
            counters: array::from_fn(|_| AtomicU64::default()),
            features: AtomicU64::default(),
            request: Histogram::default(),
            response: Histogram::default(),
            recent: Ring::default(),
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            buckets: array::from_fn(|_| AtomicU64::default()),
            sum_ns: AtomicU64::default(),
            max_ns: AtomicU64::default(),
        }
    }
}

impl Cells {
    /// It happened once more.
    pub fn count(&self, counter: Counter, now: Duration) {
        add(&self.counters[counter.index()], 1);
        match counter {
            Counter::Requests => self.recent.request(now),
            Counter::Failed(failure) => self.recent.failure(now, failure),
            Counter::Passed
            | Counter::Answered
            | Counter::Aborted
            | Counter::InstancesStarted
            | Counter::Connected
            | Counter::Refused
            | Counter::Unconnected
            | Counter::SentBytes
            | Counter::ReceivedBytes
            | Counter::SocketWaitNs => {}
        }
    }

    /// There was so much more of what is not shown by time.
    pub fn add(&self, counter: Counter, by: u64) {
        add(&self.counters[counter.index()], by);
    }

    /// There is more of it.
    pub fn raise(&self, gauge: Gauge, by: u64) {
        add(&self.gauges[gauge as usize], by);
    }

    /// There is less of it.
    pub fn lower(&self, gauge: Gauge, by: u64) {
        let cell = &self.gauges[gauge as usize];
        cell.store(cell.load(Relaxed).saturating_sub(by), Relaxed);
    }

    /// A call ended after it had run for so long.
    pub fn observe(&self, timed: Timed, time: Duration, now: Duration) {
        let histogram = match timed {
            Timed::Request => &self.request,
            Timed::Response => &self.response,
        };
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let at = BOUNDS_NS.partition_point(|&bound| bound < ns);
        add(&histogram.buckets[at], 1);
        self.recent.time(now, at);
        add(&histogram.sum_ns, ns);
        if ns > histogram.max_ns.load(Relaxed) {
            histogram.max_ns.store(ns, Relaxed);
        }
    }

    /// The guest has enabled these.
    pub fn enabled(&self, features: u32) {
        let before = self.features.load(Relaxed);
        let now = before | u64::from(features);
        if now != before {
            self.features.store(now, Relaxed);
        }
    }

    /// The process that wrote it is gone: nothing of what is now is left.
    pub fn forget_gauges(&self) {
        self.gauges.iter().for_each(|cell| cell.store(0, Relaxed));
    }

    /// Begins anew, for another guest.
    pub fn clear(&self) {
        self.copy(&Totals::default());
    }

    /// Takes over what another one counted.
    pub fn copy(&self, from: &Totals) {
        let each = |cells: &[AtomicU64], values: &[u64]| {
            cells.iter().zip(values).for_each(|(cell, &value)| cell.store(value, Relaxed));
        };
        each(&self.gauges, &from.gauges);
        each(&self.counters, &from.counters);
        self.features.store(from.features, Relaxed);
        for (to, from) in [(&self.request, &from.request), (&self.response, &from.response)] {
            each(&to.buckets, &from.buckets);
            to.sum_ns.store(from.sum_ns, Relaxed);
            to.max_ns.store(from.max_ns, Relaxed);
        }
        self.recent.copy(&from.recent);
    }
}

/// The figures of one guest in several processes together.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    gauges: [u64; GAUGES],
    counters: [u64; COUNTERS],
    /// As bits.
    pub features: u64,
    /// `handle_request`.
    pub request: Distribution,
    /// `handle_response`.
    pub response: Distribution,
    /// The last quarter of an hour.
    pub recent: Recent,
}

/// How long calls took.
#[derive(Clone, Debug, Default)]
pub struct Distribution {
    /// Calls in each bucket.
    pub buckets: [u64; BUCKETS],
    /// All together.
    pub sum_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Totals {
    /// Adds what one process has counted, and, if it is alive, what it has now.
    pub fn add(&mut self, cells: &Cells, alive: bool) {
        let each = |sums: &mut [u64], cells: &[AtomicU64]| {
            for (sum, cell) in sums.iter_mut().zip(cells) {
                *sum = sum.wrapping_add(cell.load(Relaxed));
            }
        };
        if alive {
            each(&mut self.gauges, &cells.gauges);
        }
        each(&mut self.counters, &cells.counters);
        self.features |= cells.features.load(Relaxed);
        for (sum, from) in
            [(&mut self.request, &cells.request), (&mut self.response, &cells.response)]
        {
            each(&mut sum.buckets, &from.buckets);
            sum.sum_ns = sum.sum_ns.wrapping_add(from.sum_ns.load(Relaxed));
            sum.max_ns = sum.max_ns.max(from.max_ns.load(Relaxed));
        }
        self.recent.add(&cells.recent);
    }

    /// How much there is now.
    pub const fn gauge(&self, gauge: Gauge) -> u64 {
        self.gauges[gauge as usize]
    }

    /// How often it happened.
    pub const fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter.index()]
    }
}

impl Distribution {
    /// How many calls.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The time within which this share of the calls came to an end, as if those of a bucket were
    /// spread over it evenly.
    pub fn quantile_ns(&self, share: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = share * count as f64;
        let mut below = 0;
        for (at, &here) in self.buckets.iter().enumerate() {
            if here > 0 && (below + here) as f64 >= rank {
                let from = at.checked_sub(1).map_or(0, |at| BOUNDS_NS[at]);
                // The longest call is known exactly, and nothing took longer.
                let to = BOUNDS_NS.get(at).copied().unwrap_or(u64::MAX).min(self.max_ns);
                let part = (rank - below as f64) / here as f64;
                let width = to.saturating_sub(from) as f64;
                return Some((from + (width * part) as u64).min(self.max_ns));
            }
            below += here;
        }
        Some(self.max_ns)
    }
}
