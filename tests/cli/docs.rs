//! Every sample of docs/cli.md prints what the page says, and every command of it and of README.md succeeds.

use std::path::Path;
use std::process::{Command, Output};

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
    let folder = with_guests();
    for (name, text) in files(&page) {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    let samples = samples(&page);
    assert!(samples.len() >= 10, "{} samples", samples.len());
    for sample in samples {
        check(folder.path(), &sample);
    }
}

#[test]
fn commands_that_are_shown_without_output_succeed() {
    let folder = with_guests();
    // What goes to the system goes below the folder.
    for place in ["etc/bash_completion.d", "usr/local/share/man/man1"] {
        std::fs::create_dir_all(folder.path().join(place)).expect("a folder");
    }
    for page in ["README.md", "docs/cli.md"] {
        let text = std::fs::read_to_string(file(page)).expect("the page");
        let blocks = text.split("```sh\n").skip(1).filter_map(|part| part.split("\n```").next());
        let commands: Vec<_> =
            blocks.flat_map(str::lines).filter(|line| line.starts_with("http-wasm ")).collect();
        assert!(commands.len() >= 2, "{page}: {commands:?}");
        for command in commands {
            let output = run(folder.path(), &command.replace(" > /", " > "));
            assert!(output.status.success(), "{page}: {command}: {output:?}");
        }
    }
    for made in ["etc/bash_completion.d/http-wasm", "usr/local/share/man/man1/http-wasm.1"] {
        assert!(folder.path().join(made).metadata().is_ok_and(|it| it.len() > 0), "{made}");
    }
}

/// A folder with the guests that the pages speak of.
fn with_guests() -> tempfile::TempDir {
    let folder = folder();
    let guests = folder.path().join("guests");
    std::fs::create_dir(&guests).expect("a folder");
    for entry in std::fs::read_dir(file("nginx-conf/guests")).expect("a folder") {
        let from = entry.expect("an entry").path();
        std::fs::copy(&from, guests.join(from.file_name().expect("a name"))).expect("a file");
    }
    folder
}

fn run(folder: &Path, command: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_http-wasm")).parent().expect("a folder");
    let path = std::env::var("PATH").expect("a path");
    Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {command}")])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", program.display()))
        .output()
        .expect("sh runs")
}

fn check(folder: &Path, sample: &Sample) {
    let output = run(folder, sample.command);
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
