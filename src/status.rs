//! What operators get to see of guests: the figures ([`cells`]), whose they are ([`directory`]), and
//! the three ways of showing them. Knows neither the engine nor the server; the memory that the figures
//! are in is somebody else's.

pub mod cells;
pub mod directory;
mod html;
mod picture;
mod prometheus;

use std::collections::BTreeMap;
use std::time::Duration;

use askama::Template;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::abi::Features;
use cells::recent::Part;
use cells::{BOUNDS_NS, Counter, Distribution, Failure, Gauge, Totals};

/// What is known of a guest when it is loaded.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// How logs call it.
    pub name: String,
    /// Its file.
    pub path: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Length of the file.
    pub file_bytes: u64,
    /// Where it is configured, `file:line`.
    pub places: Vec<String>,
    /// What loading it took.
    pub load: Duration,
}

/// Everything that there is to show.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this module.
    pub module: &'static str,
    /// The server that it is a module of.
    #[serde(flatten)]
    pub server: Server,
    /// Worker processes, those that finish what they have after a reload included.
    pub workers: u64,
    /// In the order of their names.
    pub guests: Vec<Guest>,
}

/// A server; the name is the key of its version.
#[derive(Clone, Debug)]
pub struct Server {
    /// How it is called.
    pub name: &'static str,
    /// Its version.
    pub version: String,
}

impl Serialize for Server {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(self.name, &self.version)?;
        map.end()
    }
}

/// One guest. Counts are of all workers since the server was started, or since the guest came.
#[derive(Clone, Debug, Serialize)]
pub struct Guest {
    /// How logs call it.
    pub name: String,
    /// Its file.
    pub path: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Length of the file.
    pub file_bytes: u64,
    /// Where it is configured.
    pub places: Vec<String>,
    /// Features it has enabled so far.
    pub features: Vec<String>,
    /// What loading took: reading, compiling, start functions.
    pub load_seconds: f64,
    /// `handle_request` was to be called.
    pub requests: u64,
    /// Went on to the next handler.
    pub passed: u64,
    /// Answered by the guest.
    pub answered: u64,
    /// Calls that nobody waited for any more.
    pub aborted: u64,
    /// All of `failures`.
    pub failed: u64,
    /// Calls that failed, by reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// Instances that were started.
    pub instances_started: u64,
    /// Requests that have an instance now.
    pub in_flight: u64,
    /// Requests that wait for one now.
    pub waiting: u64,
    /// Instances now.
    pub instances: u64,
    /// Their linear memory.
    pub memory_bytes: u64,
    /// Workers in which it is out of service now.
    pub resting: u64,
    /// Its connections.
    pub sockets: Sockets,
    /// Time in the guest.
    pub handle_request: Times,
    /// Time in the guest.
    pub handle_response: Times,
    /// The last quarter of an hour, the oldest part first.
    pub recent: Vec<Lately>,
}

/// Connections of a guest, as of the end of each call.
#[derive(Clone, Debug, Serialize)]
pub struct Sockets {
    /// Sockets that instances have now.
    pub open: u64,
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
    /// Time that it waited for sockets and names.
    pub wait_seconds: f64,
}

impl Sockets {
    fn new(totals: &Totals) -> Self {
        Sockets {
            open: totals.gauge(Gauge::Sockets),
            connected: totals.counter(Counter::Connected),
            refused: totals.counter(Counter::Refused),
            failed: totals.counter(Counter::Unconnected),
            sent_bytes: totals.counter(Counter::SentBytes),
            received_bytes: totals.counter(Counter::ReceivedBytes),
            wait_seconds: seconds(totals.counter(Counter::SocketWaitNs)),
        }
    }

    /// Whether there is anything to show.
    pub(crate) fn were_used(&self) -> bool {
        self.open + self.connected + self.refused + self.failed > 0
    }
}

/// A part of the last quarter of an hour.
#[derive(Clone, Debug, Serialize)]
pub struct Lately {
    /// Since it began.
    pub seconds_ago: u64,
    /// `handle_request` was to be called.
    pub requests: u64,
    /// All of `failures`.
    pub failed: u64,
    /// Calls that failed, by reason; reasons that there were.
    pub failures: BTreeMap<&'static str, u64>,
    /// All but a hundredth of the calls that ended took at most this; none without calls.
    pub p99: Option<f64>,
}

impl Lately {
    fn new((seconds_ago, part): (u64, Part)) -> Self {
        let failures = Failure::ALL.iter().map(|failure| failure.name()).zip(part.failed);
        Lately {
            seconds_ago,
            requests: part.requests,
            failed: part.failed.iter().sum(),
            failures: failures.filter(|(_, count)| *count > 0).collect(),
            p99: part.p99_ns().map(seconds),
        }
    }
}

/// How long calls took, in seconds, waiting not counted. Quantiles are none without calls.
#[derive(Clone, Debug, Serialize)]
pub struct Times {
    /// Calls that have ended.
    pub count: u64,
    /// All of them together.
    pub sum_seconds: f64,
    /// Half of them took at most this.
    pub p50: Option<f64>,
    /// Nine of ten.
    pub p90: Option<f64>,
    /// All but a hundredth.
    pub p99: Option<f64>,
    /// The longest.
    pub max: Option<f64>,
    /// Calls up to each bound.
    pub buckets: Vec<Bucket>,
}

/// A step of a cumulative histogram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bucket {
    /// Upper bound in seconds.
    pub le: f64,
    /// Calls that took no longer.
    pub count: u64,
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

impl Times {
    fn new(times: &Distribution) -> Self {
        let quantile = |q| times.quantile_ns(q).map(seconds);
        let counts = times.buckets.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        Times {
            count: times.count(),
            sum_seconds: seconds(times.sum_ns),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            max: quantile(1.0),
            buckets: BOUNDS_NS
                .iter()
                .zip(counts)
                .map(|(&le, count)| Bucket { le: seconds(le), count })
                .collect(),
        }
    }
}

impl Guest {
    /// A guest with its figures, as they are `now`, on the clock that they were counted by.
    pub fn new(about: &About, totals: &Totals, now: Duration) -> Self {
        let failures: BTreeMap<_, _> = Failure::ALL
            .iter()
            .map(|&failure| (failure.name(), totals.counter(Counter::Failed(failure))))
            .collect();
        let features =
            Features::from_bits_retain(u32::try_from(totals.features).unwrap_or_default());
        Guest {
            name: about.name.clone(),
            path: about.path.clone(),
            sha256: about.sha256.clone(),
            file_bytes: about.file_bytes,
            places: about.places.clone(),
            features: features.names().collect(),
            load_seconds: about.load.as_secs_f64(),
            requests: totals.counter(Counter::Requests),
            passed: totals.counter(Counter::Passed),
            answered: totals.counter(Counter::Answered),
            aborted: totals.counter(Counter::Aborted),
            failed: failures.values().sum(),
            failures,
            instances_started: totals.counter(Counter::InstancesStarted),
            in_flight: totals.gauge(Gauge::InFlight),
            waiting: totals.gauge(Gauge::Waiting),
            instances: totals.gauge(Gauge::Instances),
            memory_bytes: totals.gauge(Gauge::MemoryBytes),
            resting: totals.gauge(Gauge::Resting),
            sockets: Sockets::new(totals),
            handle_request: Times::new(&totals.request),
            handle_response: Times::new(&totals.response),
            recent: totals.recent.until(now).map(Lately::new).collect(),
        }
    }
}

/// How a report is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Html,
    /// `?format=json`.
    Json,
    /// `?format=prometheus`.
    Prometheus,
}

impl Format {
    /// What a query asks for; none when there is no such format.
    pub fn of_query(query: &[u8]) -> Option<Self> {
        let mut wanted =
            query.split(|&b| b == b'&').filter_map(|pair| pair.strip_prefix(b"format="));
        match wanted.next() {
            None | Some(b"html") => Some(Format::Html),
            Some(b"json") => Some(Format::Json),
            Some(b"prometheus") => Some(Format::Prometheus),
            Some(_) => None,
        }
    }

    /// The media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Format::Html => "text/html; charset=utf-8",
            Format::Json => "application/json",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The page.
    #[error(transparent)]
    Html(#[from] askama::Error),
    /// JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Prometheus' text format.
    #[error(transparent)]
    Prometheus(#[from] ::prometheus::Error),
}

impl Report {
    /// The report as text.
    pub fn render(&self, format: Format) -> Result<String, RenderError> {
        Ok(match format {
            Format::Html => html::Page { report: self }.render()?,
            Format::Json => serde_json::to_string_pretty(self)? + "\n",
            Format::Prometheus => prometheus::text(self)?,
        })
    }
}

#[cfg(test)]
mod tests;
