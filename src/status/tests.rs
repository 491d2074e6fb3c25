use super::cells::Cells;
use super::cells::Timed;
use super::*;

/// Any time will do.
const NOW: Duration = Duration::from_secs(1_000_000);

fn about(name: &str) -> About {
    About {
        name: name.to_owned(),
        path: format!("/guests/{name}.wasm"),
        sha256: "ab".repeat(32),
        places: vec!["server.conf:1".to_owned()],
        ..About::default()
    }
}

fn totals(fill: impl Fn(&Cells)) -> Totals {
    let cells = Cells::default();
    fill(&cells);
    let mut totals = Totals::default();
    totals.add(&cells, true);
    totals
}

fn report(guests: Vec<Guest>) -> Report {
    Report {
        module: "0",
        server: Server { name: "server", version: "1".to_owned() },
        workers: 1,
        guests,
    }
}

#[test]
fn a_dead_process_has_counted_but_has_nothing() {
    let cells = Cells::default();
    cells.count(Counter::Requests, NOW);
    cells.raise(Gauge::InFlight, 1);
    let mut totals = Totals::default();
    totals.add(&cells, false);
    totals.add(&cells, true);
    assert_eq!((totals.counter(Counter::Requests), totals.gauge(Gauge::InFlight)), (2, 1));
    cells.forget_gauges();
    cells.lower(Gauge::InFlight, 1);
    let mut totals = Totals::default();
    totals.add(&cells, true);
    assert_eq!((totals.counter(Counter::Requests), totals.gauge(Gauge::InFlight)), (1, 0));
}

#[test]
fn every_counter_has_a_cell_of_its_own() {
    let failures = Failure::ALL.into_iter().map(Counter::Failed);
    let plain = [
        Counter::Requests,
        Counter::Passed,
        Counter::Answered,
        Counter::Aborted,
        Counter::InstancesStarted,
        Counter::Connected,
        Counter::Refused,
        Counter::Unconnected,
        Counter::SentBytes,
        Counter::ReceivedBytes,
        Counter::SocketWaitNs,
    ];
    let all: Vec<_> = plain.into_iter().chain(failures).collect();
    let totals = totals(|cells| {
        for (at, &counter) in all.iter().enumerate() {
            (0..=at).for_each(|_| cells.count(counter, NOW));
        }
    });
    for (at, &counter) in all.iter().enumerate() {
        assert_eq!(totals.counter(counter), at as u64 + 1, "{counter:?}");
    }
}

#[test]
fn what_was_copied_counts_the_same() {
    let mut before = totals(|cells| {
        cells.count(Counter::Failed(Failure::Host), NOW);
        cells.raise(Gauge::MemoryBytes, 7);
        cells.enabled(3);
        cells.observe(Timed::Response, Duration::from_millis(3), NOW);
    });
    let cells = Cells::default();
    cells.observe(Timed::Request, Duration::from_secs(3600), NOW);
    cells.copy(&before);
    let mut after = Totals::default();
    after.add(&cells, true);
    assert_eq!(format!("{after:?}"), format!("{before:?}"));
    cells.clear();
    before.add(&cells, true);
    assert_eq!(format!("{after:?}"), format!("{before:?}"));
}

#[test]
fn quantiles_lie_in_the_bucket_of_their_call() {
    let totals = totals(|cells| {
        for us in 1..=100 {
            cells.observe(Timed::Request, Duration::from_micros(us), NOW);
        }
    });
    let times = Times::new(&totals.request);
    assert_eq!(times.count, 100);
    assert_eq!(times.max, Some(1e-4));
    assert!((times.sum_seconds - 5.05e-3).abs() < 1e-12);
    let between = |value: Option<f64>, low: f64, high: f64| {
        assert!(value.is_some_and(|value| low <= value && value <= high), "{value:?}");
    };
    between(times.p50, 4.9e-5, 5.1e-5);
    between(times.p90, 8.8e-5, 9.2e-5);
    between(times.p99, 9.8e-5, 1e-4);
    assert_eq!(Times::new(&totals.response).p50, None);
}

#[test]
fn a_call_longer_than_all_bounds_is_in_the_count() {
    let totals = totals(|cells| cells.observe(Timed::Response, Duration::from_secs(100), NOW));
    let times = Times::new(&totals.response);
    assert_eq!((times.count, times.max, times.p50.is_some()), (1, Some(100.0), true));
    assert_eq!(times.buckets.last().map(|bucket| bucket.count), Some(0));
}

#[test]
fn a_bound_belongs_to_its_bucket() {
    let totals = totals(|cells| cells.observe(Timed::Request, Duration::from_micros(1), NOW));
    let buckets = Times::new(&totals.request).buckets;
    let at = |le| buckets.iter().find(|bucket| bucket.le == le).map(|bucket| bucket.count);
    assert_eq!((at(5e-7), at(1e-6), at(1e1)), (Some(0), Some(1), Some(1)));
}

#[test]
fn guests_of_one_name_are_one_series() {
    let mut other = about("a");
    other.path = "/other/a.wasm".to_owned();
    let one = totals(|cells| cells.count(Counter::Requests, NOW));
    let guests = vec![Guest::new(&about("a"), &one, NOW), Guest::new(&other, &one, NOW)];
    let text = report(guests).render(Format::Prometheus).expect("text");
    let requests: Vec<_> =
        text.lines().filter(|line| line.starts_with("http_wasm_requests_total")).collect();
    assert_eq!(requests, ["http_wasm_requests_total{guest=\"a\"} 2"]);
    assert_eq!(text.matches("\nhttp_wasm_guest_info").count(), 2);
}

#[test]
fn what_comes_from_files_is_escaped() {
    let mut odd = about("a");
    odd.path = "/<script>alert(1)</script>\"\\\n".to_owned();
    odd.places = vec!["<b>:1".to_owned()];
    let report = report(vec![Guest::new(&odd, &Totals::default(), NOW)]);
    let page = report.render(Format::Html).expect("page");
    assert!(!page.contains("<script>alert") && !page.contains("<b>"), "{page}");
    let text = report.render(Format::Prometheus).expect("text");
    assert!(text.contains(r#"path="/<script>alert(1)</script>\"\\\n""#), "{text}");
}

#[test]
fn there_is_something_to_show_without_guests() {
    let report = report(Vec::new());
    assert!(report.render(Format::Html).is_ok_and(|page| page.contains("no guests")));
    assert!(
        report.render(Format::Prometheus).is_ok_and(|text| text.contains("http_wasm_workers 1"))
    );
    assert!(report.render(Format::Json).is_ok_and(|text| text.contains("\"guests\": []")));
}

#[test]
fn the_query_says_which_format() {
    assert_eq!(Format::of_query(b""), Some(Format::Html));
    assert_eq!(Format::of_query(b"x=1&format=json"), Some(Format::Json));
    assert_eq!(Format::of_query(b"format=prometheus"), Some(Format::Prometheus));
    assert_eq!(Format::of_query(b"format=xml"), None);
    assert_eq!(Format::of_query(b"format="), None);
}

#[test]
fn the_last_quarter_of_an_hour_is_remembered() {
    let cells = Cells::default();
    let at = |seconds: u64| Duration::from_secs(seconds);
    let ms = Duration::from_millis;
    // Longer ago than that, in the same slot as what is newest.
    cells.count(Counter::Requests, at(29));
    for _ in 0..3 {
        cells.count(Counter::Requests, at(30));
    }
    cells.count(Counter::Failed(Failure::Trap), at(59));
    cells.observe(Timed::Request, ms(1), at(59));
    cells.count(Counter::Requests, at(900));
    cells.observe(Timed::Response, ms(20), at(900));
    let mut totals = Totals::default();
    totals.add(&cells, true);
    let recent = Guest::new(&about("a"), &totals, at(905)).recent;
    assert_eq!(recent.len(), 30);
    let (oldest, newest) = (&recent[0], &recent[29]);
    assert_eq!((oldest.seconds_ago, oldest.requests, oldest.failed), (875, 3, 1));
    assert_eq!(oldest.failures, BTreeMap::from([("trap", 1)]));
    assert!(oldest.p99.is_some_and(|p99| p99 <= 1e-3 && p99 > 5e-4));
    assert_eq!((newest.seconds_ago, newest.requests, newest.failed), (5, 1, 0));
    assert!(newest.p99.is_some_and(|p99| p99 <= 25e-3 && p99 > 1e-2));
    assert!(recent[1..29].iter().all(|part| part.requests == 0 && part.p99.is_none()));
    // Nothing is left of it later on, and nothing is shown of what nobody has counted yet.
    let later = Guest::new(&about("a"), &totals, at(3600)).recent;
    assert!(later.iter().all(|part| part.requests + part.failed == 0 && part.p99.is_none()));
    let first = Guest::new(&about("a"), &Totals::default(), at(0)).recent;
    assert!(first.iter().all(|part| part.requests == 0));
}

#[test]
fn of_two_processes_the_newer_part_of_a_slot_is_shown() {
    let (one, other) = (Cells::default(), Cells::default());
    let at = |seconds: u64| Duration::from_secs(seconds);
    one.count(Counter::Requests, at(100));
    other.count(Counter::Requests, at(1000));
    for order in [[&one, &other], [&other, &one]] {
        let mut totals = Totals::default();
        order.iter().for_each(|cells| totals.add(cells, true));
        totals.add(&one, false);
        let recent = Guest::new(&about("a"), &totals, at(1000)).recent;
        assert_eq!(recent.iter().map(|part| part.requests).sum::<u64>(), 1);
        assert_eq!(recent[29].requests, 1);
    }
}

#[test]
fn pictures_show_what_there_is() {
    let totals = totals(|cells| {
        for _ in 0..10 {
            cells.count(Counter::Requests, NOW);
            cells.observe(Timed::Request, Duration::from_micros(3), NOW);
        }
        cells.observe(Timed::Response, Duration::from_secs(20), NOW);
        cells.count(Counter::Failed(Failure::Timeout), NOW);
    });
    let page = report(vec![Guest::new(&about("a"), &totals, NOW)]).render(Format::Html);
    let page = page.expect("page");
    for part in [
        "<title>handle_request, 2.50\u{202f}µs to 5\u{202f}µs: 10</title>",
        "<title>handle_response, more than 10\u{202f}s: 1</title>",
        "<rect class=\"timeout\"",
        "10 requests, timeout 1, p99",
        "<circle class=\"p99\"",
        "aria-label=\"The last 15 minutes: 10 requests, 1 failures\"",
        "10 at most in half a minute, <span><i class=\"timeout\"></i> timeout 1</span>;",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    // The highest bars reach to the top, a single call is seen.
    assert!(page.contains("y=\"4\" width=\"22\" height=\"48\"><title>handle_request"), "{page}");
    assert!(page.contains("y=\"52\" width=\"22\" height=\"5\"><title>handle_response"), "{page}");
    let nothing = report(vec![Guest::new(&about("a"), &Totals::default(), NOW)]);
    let nothing = nothing.render(Format::Html).expect("page");
    assert!(nothing.contains("0 at most in half a minute</figcaption>"), "{nothing}");
    assert!(!nothing.contains("<rect"), "{nothing}");
}
