//! Every sample of docs/cli.md prints what the page says.

use std::path::Path;
use std::process::Command;

use crate::support::{file, folder};

/// A command of the page and what it says below it.
struct Sample<'a> {
    command: &'a str,
    status: i32,
    /// Lines with `[..]` for anything, and `...` for lines that are not shown.
    expected: Vec<&'a str>,
}

#[test]
fn the_samples_of_the_manual_print_what_it_says() {
    let page = std::fs::read_to_string(file("docs/cli.md")).expect("the page");
    let folder = folder();
    // Beside the guests that the page speaks of, and the files that it has in it.
    let guests = folder.path().join("guests");
    std::fs::create_dir(&guests).expect("a folder");
    for entry in std::fs::read_dir(file("nginx-conf/guests")).expect("a folder") {
        let from = entry.expect("an entry").path();
        std::fs::copy(&from, guests.join(from.file_name().expect("a name"))).expect("a file");
    }
    for (name, text) in files(&page) {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    let samples = samples(&page);
    assert!(samples.len() >= 10, "{} samples", samples.len());
    for sample in samples {
        check(folder.path(), &sample);
    }
}

fn check(folder: &Path, sample: &Sample) {
    let program = Path::new(env!("CARGO_BIN_EXE_http-wasm")).parent().expect("a folder");
    let path = std::env::var("PATH").expect("a path");
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {}", sample.command)])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", program.display()))
        .output()
        .expect("sh runs");
    let printed = String::from_utf8(output.stdout).expect("text");
    let mut lines = printed.lines();
    let mut rest = sample.expected.iter();
    while let Some(expected) = rest.next() {
        let found = match *expected {
            "..." => {
                let next = rest.next().expect("a line after \"...\"");
                lines.any(|line| matches(next, line))
            }
            expected => lines.next().is_some_and(|line| matches(expected, line)),
        };
        assert!(found, "{}: expected {expected:?} in\n{printed}", sample.command);
    }
    assert_eq!(lines.next(), None, "{}:\n{printed}", sample.command);
    assert_eq!(output.status.code(), Some(sample.status), "{}:\n{printed}", sample.command);
}

/// Whether a line is as expected, `[..]` being anything.
fn matches(expected: &str, line: &str) -> bool {
    let mut parts = expected.split("[..]");
    let Some(mut rest) = parts.next().and_then(|start| line.strip_prefix(start)) else {
        return false;
    };
    let mut open = false;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        open = part.is_empty();
    }
    open || rest.is_empty()
}

/// Commands start with `$ `, another status than 0 with `? `; an empty line ends a block.
fn samples(page: &str) -> Vec<Sample<'_>> {
    let mut samples = Vec::new();
    for block in page.split("```console\n").skip(1) {
        let block = block.split("\n```").next().and_then(|block| block.strip_prefix("$ "));
        for text in block.expect("a command").split("\n$ ") {
            let (command, after) = text.split_once('\n').expect("a line");
            let mut expected: Vec<_> = after.trim_end_matches('\n').split('\n').collect();
            let status = match expected[0].strip_prefix("? ") {
                Some(status) => {
                    let status = status.parse().expect("a number");
                    expected.remove(0);
                    status
                }
                None => 0,
            };
            samples.push(Sample { command, status, expected });
        }
    }
    samples
}

/// Blocks of the page that come after `<!-- file NAME -->`.
fn files(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.split("<!-- file ").skip(1).filter_map(|part| {
        let (name, rest) = part.split_once(" -->\n```http\n")?;
        Some((name, rest.split_once("```")?.0))
    })
}

#[test]
fn a_pattern_is_a_whole_line() {
    assert!(matches("a [..] c", "a b c") && matches("a [..]", "a b") && matches("a", "a"));
    assert!(!matches("a [..] c", "a b cd") && !matches("a", "ab") && !matches("[..]a", "b"));
}
