//! Prometheus' text format.
//!
//! Guests of one name make one series, whatever their files: a label set may stand in a family once
//! only, and who wants to tell them apart names them apart. Files and digests are labels of
//! `http_wasm_guest_info`, so that the series of a guest go on when its file changes.

use std::collections::BTreeMap;

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::{Guest, Report, Times};

pub(super) fn text(report: &Report) -> prometheus::Result<String> {
    let mut guests: BTreeMap<&str, Vec<&Guest>> = BTreeMap::new();
    for guest in &report.guests {
        guests.entry(&guest.name).or_default().push(guest);
    }
    let guests = Guests(guests);
    let mut families = vec![
        gauge(
            "http_wasm_build_info",
            "Versions, as labels of a constant 1.",
            vec![sample(
                &[("module", report.module), (report.server.name, &report.server.version)],
                1.0,
            )],
        ),
        gauge(
            "http_wasm_workers",
            "Worker processes, those that finish what they have after a reload included.",
            vec![sample(&[], report.workers as f64)],
        ),
    ];
    // A family has to have a sample.
    if !report.guests.is_empty() {
        families.extend(guests.families());
    }
    TextEncoder::new().encode_to_string(&families)
}

/// One of a guest's figures.
type Count = fn(&Guest) -> u64;

/// Those of each name.
struct Guests<'a>(BTreeMap<&'a str, Vec<&'a Guest>>);

impl Guests<'_> {
    fn families(&self) -> Vec<MetricFamily> {
        let mut results = Vec::new();
        let mut failures = Vec::new();
        let mut infos = Vec::new();
        let mut connections = Vec::new();
        let mut bytes = Vec::new();
        let mut waits = Vec::new();
        for (name, guests) in &self.0 {
            let counts: [(&str, Count); 3] = [
                ("passed", |g| g.passed),
                ("answered", |g| g.answered),
                ("aborted", |g| g.aborted),
            ];
            for (result, of) in counts {
                let labels = [("guest", *name), ("outcome", result)];
                results.push(sample(&labels, sum(guests, of)));
            }
            for cause in guests[0].failures.keys() {
                let count = guests.iter().map(|guest| guest.failures[cause]).sum::<u64>();
                failures.push(sample(&[("guest", name), ("cause", cause)], count as f64));
            }
            let counts: [(&str, Count); 3] = [
                ("connected", |g| g.sockets.connected),
                ("refused", |g| g.sockets.refused),
                ("failed", |g| g.sockets.failed),
            ];
            for (result, of) in counts {
                let labels = [("guest", *name), ("outcome", result)];
                connections.push(sample(&labels, sum(guests, of)));
            }
            let counts: [(&str, Count); 2] =
                [("sent", |g| g.sockets.sent_bytes), ("received", |g| g.sockets.received_bytes)];
            for (direction, of) in counts {
                let labels = [("guest", *name), ("direction", direction)];
                bytes.push(sample(&labels, sum(guests, of)));
            }
            let seconds = guests.iter().map(|guest| guest.sockets.wait_seconds).sum();
            waits.push(sample(&[("guest", name)], seconds));
            let mut files: Vec<_> =
                guests.iter().map(|guest| (&guest.path, &guest.sha256)).collect();
            files.sort();
            files.dedup();
            for (path, sha256) in files {
                infos.push(sample(&[("guest", name), ("path", path), ("sha256", sha256)], 1.0));
            }
        }
        vec![
            gauge("http_wasm_guest_info", "Files of a guest, as labels of a constant 1.", infos),
            counter(
                "http_wasm_requests_total",
                "Requests for which handle_request was to be called.",
                self.each(|guest| guest.requests),
            ),
            counter("http_wasm_outcomes_total", "How handle_request ended.", results),
            counter("http_wasm_failures_total", "Calls that failed, by cause.", failures),
            counter(
                "http_wasm_instances_started_total",
                "Instances that were started.",
                self.each(|guest| guest.instances_started),
            ),
            gauge(
                "http_wasm_requests_in_flight",
                "Requests that have an instance.",
                self.each(|guest| guest.in_flight),
            ),
            gauge(
                "http_wasm_requests_waiting",
                "Requests in line for an instance.",
                self.each(|guest| guest.waiting),
            ),
            gauge("http_wasm_instances", "Instances.", self.each(|guest| guest.instances)),
            gauge(
                "http_wasm_instance_memory_bytes",
                "Linear memory of all instances.",
                self.each(|guest| guest.memory_bytes),
            ),
            gauge(
                "http_wasm_resting_workers",
                "Workers in which the guest is out of service after failures in a row.",
                self.each(|guest| guest.resting),
            ),
            gauge(
                "http_wasm_sockets",
                "Sockets of instances.",
                self.each(|guest| guest.sockets.open),
            ),
            counter(
                "http_wasm_connections_total",
                "Connections of guests, by what became of them.",
                connections,
            ),
            counter("http_wasm_socket_bytes_total", "Bytes on connections of guests.", bytes),
            counter(
                "http_wasm_socket_wait_seconds_total",
                "Time that guests waited for sockets and names.",
                waits,
            ),
            histogram(
                "http_wasm_handle_request_seconds",
                "Time in handle_request, waiting not counted.",
                self.times(|guest| &guest.handle_request),
            ),
            histogram(
                "http_wasm_handle_response_seconds",
                "Time in handle_response, waiting not counted.",
                self.times(|guest| &guest.handle_response),
            ),
        ]
    }

    fn each(&self, of: Count) -> Vec<Metric> {
        self.0.iter().map(|(name, guests)| sample(&[("guest", name)], sum(guests, of))).collect()
    }

    fn times(&self, of: fn(&Guest) -> &Times) -> Vec<Metric> {
        self.0
            .iter()
            .map(|(name, guests)| {
                let mut sum = Histogram::default();
                let all = || guests.iter().map(|guest| of(guest));
                sum.set_sample_count(all().map(|times| times.count).sum());
                sum.set_sample_sum(all().map(|times| times.sum_seconds).sum());
                let buckets = of(guests[0]).buckets.iter().enumerate().map(|(at, bucket)| {
                    let mut sum = Bucket::default();
                    sum.set_upper_bound(bucket.le);
                    sum.set_cumulative_count(all().map(|times| times.buckets[at].count).sum());
                    sum
                });
                sum.set_bucket(buckets.collect());
                let mut metric = Metric::from_label(labels(&[("guest", name)]));
                metric.set_histogram(sum);
                metric
            })
            .collect()
    }
}

fn sum(guests: &[&Guest], of: Count) -> f64 {
    guests.iter().map(|guest| of(guest)).sum::<u64>() as f64
}

fn labels(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let label = |&(name, value): &(&str, &str)| {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value.to_owned());
        label
    };
    labels.iter().map(label).collect()
}

/// Carries its value as a counter and as a gauge: the family says which it is.
fn sample(names: &[(&str, &str)], value: f64) -> Metric {
    let mut metric = Metric::from_label(labels(names));
    let (mut counter, mut gauge) = (Counter::default(), Gauge::default());
    counter.set_value(value);
    gauge.set_value(value);
    metric.set_counter(counter);
    metric.set_gauge(gauge);
    metric
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn counter(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    family(name, help, MetricType::COUNTER, metrics)
}

fn gauge(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    family(name, help, MetricType::GAUGE, metrics)
}

fn histogram(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    family(name, help, MetricType::HISTOGRAM, metrics)
}
