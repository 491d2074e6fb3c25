//! Pictures of a guest's figures on the page for people, as SVG: how long its calls took, and what
//! happened in the last quarter of an hour.

use askama::Template;

use super::cells::BOUNDS_NS;
use super::cells::recent::{PART_SECONDS, PARTS};
use super::html::{duration, number};
use super::{Guest, Lately, Times, seconds};

/// Width of both. Units are scaled to the width that there is.
const WIDTH: usize = 600;

/// `templates/times.svg`: calls by how long they took, those of `handle_request` above a line and those
/// of `handle_response` below.
#[derive(Template)]
#[template(path = "times.svg")]
pub(super) struct TimesPicture {
    label: String,
    bars: Vec<Bar>,
    ticks: Vec<Tick>,
}

/// `templates/recent.svg`: requests and failures of each half minute, and a line for how long calls
/// took.
#[derive(Template)]
#[template(path = "recent.svg")]
pub(super) struct RecentPicture {
    label: String,
    bars: Vec<Bar>,
    /// Points of lines, and points that stand alone.
    lines: Vec<String>,
    points: Vec<(usize, usize)>,
}

/// A rectangle, with what is said of it.
struct Bar {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
    /// What it is of: a class of the page's style.
    class: &'static str,
    title: String,
}

/// A place on the axis of times.
struct Tick {
    x: usize,
    text: String,
    /// It may be left out where there is little room.
    is_minor: bool,
}

/// So much of `most` as part of `height`; what is there is seen.
fn part(count: u64, most: u64, height: usize) -> usize {
    if count == 0 {
        return 0;
    }
    let part = count as f64 / most.max(count) as f64;
    ((part * height as f64).round() as usize).max(2)
}

// Of the picture of times: where its line is, how far bars reach from it, and a bar with its gap.
const LINE_Y: usize = 52;
const REACH: usize = 48;
const STEP: usize = WIDTH / (BOUNDS_NS.len() + 1);

impl TimesPicture {
    pub(super) fn new(guest: &Guest) -> Self {
        let (request, response) = (&guest.handle_request, &guest.handle_response);
        let label = format!(
            "How long calls took: {} of handle_request, {} of handle_response",
            number(request.count),
            number(response.count)
        );
        let (up, down) = (counts(request), counts(response));
        let most = up.iter().chain(&down).copied().max().unwrap_or(0);
        let bars = |counts: &[u64], name: &str, class: &'static str, is_above: bool| {
            let bars = counts.iter().enumerate().filter(|(_, count)| **count > 0);
            let bars = bars.map(|(at, &count)| {
                let height = part(count, most, REACH);
                let title = format!("{name}, {}: {}", bucket(at), number(count));
                let y = if is_above { LINE_Y - height } else { LINE_Y };
                Bar { x: at * STEP + 1, y, width: STEP - 2, height, class, title }
            });
            bars.collect::<Vec<_>>()
        };
        let mut all = bars(&up, "handle_request", "request", true);
        all.extend(bars(&down, "handle_response", "response", false));
        // Powers of ten.
        let ticks = BOUNDS_NS.iter().enumerate().skip(2).step_by(3);
        let ticks = ticks.map(|(at, &bound)| Tick {
            x: (at + 1) * STEP,
            text: duration(seconds(bound)),
            is_minor: at % 2 == 1,
        });
        TimesPicture { label, bars: all, ticks: ticks.collect() }
    }
}

/// Calls in each bucket, with those beyond all bounds.
fn counts(times: &Times) -> Vec<u64> {
    let sums = times.buckets.iter().map(|bucket| bucket.count).chain([times.count]);
    let counts = sums.scan(0, |before, sum| {
        let count = sum.saturating_sub(*before);
        *before = sum;
        Some(count)
    });
    counts.collect()
}

/// The times of a bucket.
fn bucket(at: usize) -> String {
    let bound = |at: usize| BOUNDS_NS.get(at).map(|&bound| duration(seconds(bound)));
    match (at.checked_sub(1).and_then(bound), bound(at)) {
        (Some(from), Some(to)) => format!("{from} to {to}"),
        (Some(from), None) => format!("more than {from}"),
        (None, to) => format!("up to {}", to.unwrap_or_default()),
    }
}

// Of the picture of the last quarter of an hour: columns stand on a line, times are below it.
const COLUMN: usize = WIDTH / PARTS;
const GROUND_Y: usize = 88;
const HIGHEST: usize = 84;
const TIMES_Y: usize = 128;
const TIMES_HEIGHT: usize = 34;

impl RecentPicture {
    pub(super) fn new(guest: &Guest) -> Self {
        let recent = &guest.recent;
        let sum = |of: fn(&Lately) -> u64| number(recent.iter().map(of).sum());
        let label = format!(
            "The last {} minutes: {} requests, {} failures",
            PARTS as u64 * PART_SECONDS / 60,
            sum(|part| part.requests),
            sum(|part| part.failed)
        );
        let most = most(recent);
        let mut bars = Vec::new();
        for (at, lately) in recent.iter().enumerate() {
            let title = said(lately);
            let mut y = GROUND_Y;
            let mut put = |class, count| {
                let height = part(count, most, HIGHEST).min(y);
                if height > 0 {
                    y -= height;
                    let (x, width) = (at * COLUMN + 1, COLUMN - 2);
                    bars.push(Bar { x, y, width, height, class, title: title.clone() });
                }
            };
            lately.failures.iter().for_each(|(&name, &count)| put(name, count));
            put("fine", lately.requests.saturating_sub(lately.failed));
        }
        let mut lines: Vec<Vec<(usize, usize)>> = vec![Vec::new()];
        for (at, lately) in recent.iter().enumerate() {
            match (lately.p99, lines.last_mut()) {
                (Some(p99), Some(line)) => line.push((at * COLUMN + COLUMN / 2, time_y(p99))),
                (None, Some(line)) if !line.is_empty() => lines.push(Vec::new()),
                _ => {}
            }
        }
        let points = lines.iter().filter(|line| line.len() == 1).flatten().copied().collect();
        let lines = lines.iter().filter(|line| line.len() > 1).map(|line| {
            let points: Vec<_> = line.iter().map(|(x, y)| format!("{x},{y}")).collect();
            points.join(" ")
        });
        RecentPicture { label, bars, lines: lines.collect(), points }
    }
}

/// What the highest column stands for.
pub(super) fn most(recent: &[Lately]) -> u64 {
    recent.iter().map(|part| part.requests.max(part.failed)).max().unwrap_or(0)
}

/// On a scale where each power of ten takes the same room.
fn time_y(p99: f64) -> usize {
    let (low, high) = (seconds(BOUNDS_NS[0]), seconds(BOUNDS_NS[BOUNDS_NS.len() - 1]));
    let part = (p99 / low).log10() / (high / low).log10();
    TIMES_Y - (part.clamp(0.0, 1.0) * TIMES_HEIGHT as f64).round() as usize
}

/// A column in words.
fn said(lately: &Lately) -> String {
    let ago = lately.seconds_ago;
    let mut text =
        format!("{}:{:02} ago: {} requests", ago / 60, ago % 60, number(lately.requests));
    for (name, count) in &lately.failures {
        text += &format!(", {name} {}", number(*count));
    }
    if let Some(p99) = lately.p99 {
        text += &format!(", p99 {}", duration(p99));
    }
    text
}
