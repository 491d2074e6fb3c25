use super::cells::Cells;
use super::cells::Timed;
use super::*;

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
    cells.count(Counter::Requests);
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
    ];
    let all: Vec<_> = plain.into_iter().chain(failures).collect();
    let totals = totals(|cells| {
        for (at, &counter) in all.iter().enumerate() {
            (0..=at).for_each(|_| cells.count(counter));
        }
    });
    for (at, &counter) in all.iter().enumerate() {
        assert_eq!(totals.counter(counter), at as u64 + 1, "{counter:?}");
    }
}

#[test]
fn what_was_copied_counts_the_same() {
    let mut before = totals(|cells| {
        cells.count(Counter::Failed(Failure::Host));
        cells.raise(Gauge::MemoryBytes, 7);
        cells.enabled(3);
        cells.observe(Timed::Response, Duration::from_millis(3));
    });
    let cells = Cells::default();
    cells.observe(Timed::Request, Duration::from_secs(3600));
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
            cells.observe(Timed::Request, Duration::from_micros(us));
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
    let totals = totals(|cells| cells.observe(Timed::Response, Duration::from_secs(100)));
    let times = Times::new(&totals.response);
    assert_eq!((times.count, times.max, times.p50.is_some()), (1, Some(100.0), true));
    assert_eq!(times.buckets.last().map(|bucket| bucket.count), Some(0));
}

#[test]
fn a_bound_belongs_to_its_bucket() {
    let totals = totals(|cells| cells.observe(Timed::Request, Duration::from_micros(1)));
    let buckets = Times::new(&totals.request).buckets;
    let at = |le| buckets.iter().find(|bucket| bucket.le == le).map(|bucket| bucket.count);
    assert_eq!((at(5e-7), at(1e-6), at(1e1)), (Some(0), Some(1), Some(1)));
}

#[test]
fn guests_of_one_name_are_one_series() {
    let mut other = about("a");
    other.path = "/other/a.wasm".to_owned();
    let one = totals(|cells| cells.count(Counter::Requests));
    let guests = vec![Guest::new(&about("a"), &one), Guest::new(&other, &one)];
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
    let report = report(vec![Guest::new(&odd, &Totals::default())]);
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
