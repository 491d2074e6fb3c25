//! The page for people.

use std::collections::BTreeMap;

use askama::Template;

use super::picture::{self, RecentPicture, TimesPicture};
use super::{Guest, Report};

/// `templates/status.html`.
#[derive(Template)]
#[template(path = "status.html")]
pub(super) struct Page<'a> {
    pub(super) report: &'a Report,
}

impl Page<'_> {
    fn number(&self, count: &u64) -> String {
        number(*count)
    }

    /// Of all guests together: requests, in flight, waiting, failed.
    fn all(&self) -> (String, String, String, String) {
        let sum = |of: fn(&Guest) -> u64| self.number(&self.report.guests.iter().map(of).sum());
        (sum(|g| g.requests), sum(|g| g.in_flight), sum(|g| g.waiting), sum(|g| g.failed))
    }

    fn time(&self, seconds: &Option<f64>) -> String {
        seconds.map_or_else(|| "–".to_owned(), duration)
    }

    fn duration(&self, seconds: &f64) -> String {
        duration(*seconds)
    }

    fn size(&self, bytes: &u64) -> String {
        const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
        let mut size = *bytes as f64;
        let mut unit = 0;
        while size >= 1024.0 && unit + 1 < UNITS.len() {
            size /= 1024.0;
            unit += 1;
        }
        format!("{}\u{202f}{}", three_digits(size), UNITS[unit])
    }

    fn short(&self, sha256: &str) -> String {
        sha256.chars().take(12).collect()
    }

    fn failures<'g>(&self, guest: &'g Guest) -> Vec<(&'g str, u64)> {
        let some = guest.failures.iter().filter(|(_, count)| **count > 0);
        some.map(|(&name, &count)| (name, count)).collect()
    }

    fn times(&self, guest: &Guest) -> TimesPicture {
        TimesPicture::new(guest)
    }

    fn recent(&self, guest: &Guest) -> RecentPicture {
        RecentPicture::new(guest)
    }

    /// Most requests in one part of what is shown.
    fn most(&self, guest: &Guest) -> String {
        number(picture::most(&guest.recent))
    }

    /// Failures in what is shown.
    fn recent_failures<'g>(&self, guest: &'g Guest) -> BTreeMap<&'g str, u64> {
        let mut sums = BTreeMap::new();
        for (&name, count) in guest.recent.iter().flat_map(|part| &part.failures) {
            *sums.entry(name).or_default() += count;
        }
        sums
    }

    /// The newest of the times that are shown.
    fn recent_p99(&self, guest: &Guest) -> Option<f64> {
        guest.recent.iter().rev().find_map(|part| part.p99)
    }
}

/// 1234567 as "1 234 567", with spaces that do not break.
pub(super) fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// With the unit that fits.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        0.0..1e-3 => format!("{}\u{202f}µs", three_digits(seconds * 1e6)),
        1e-3..1.0 => format!("{}\u{202f}ms", three_digits(seconds * 1e3)),
        _ => format!("{}\u{202f}s", three_digits(seconds)),
    }
}

/// As precise as one can take in at a glance.
fn three_digits(number: f64) -> String {
    match number {
        _ if number.fract() == 0.0 => format!("{number:.0}"),
        100.0.. => format!("{number:.0}"),
        10.0.. => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}
