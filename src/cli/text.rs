//! How results look: sizes, times, log lines, and messages as differences.

use std::time::Duration;

use clap::builder::styling::{AnsiColor, Style};
use similar::{ChangeTag, TextDiff};

use crate::abi::Level;

/// A size for people, exact.
pub(crate) fn bytes(bytes: usize) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..1_000_000 => format!("{bytes} bytes ({:.1} kB)", bytes as f64 / 1e3),
        _ => format!("{bytes} bytes ({:.1} MB)", bytes as f64 / 1e6),
    }
}

/// A time for people.
pub(crate) fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ..10.0 => format!("{ms:.3} ms"),
        ..1000.0 => format!("{ms:.1} ms"),
        _ => format!("{:.2} s", ms / 1e3),
    }
}

/// What a guest logged.
pub(crate) fn log_lines(log: &[(Level, String)]) -> String {
    log.iter()
        .map(|(level, line)| {
            let level = format!("{level:?}").to_lowercase();
            format!("log        {level}: {line}\n")
        })
        .collect()
}

/// A section of a result.
pub(crate) fn heading(text: &str) -> String {
    format!("--- {text}\n")
}

/// Two texts line by line: `-` for what is gone, `+` for what is new.
pub(crate) fn difference(before: &str, after: &str) -> String {
    let diff = TextDiff::from_lines(before, after);
    diff.iter_all_changes()
        .map(|change| {
            let sign = match change.tag() {
                ChangeTag::Equal => ' ',
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            };
            let line = change.value();
            let line = format!("{sign}{}", line.strip_suffix('\n').unwrap_or(line));
            format!("{}\n", line.trim_end_matches(' '))
        })
        .collect()
}

/// Colours for a text of such sections. Whoever prints it takes them off where nobody sees them.
pub(crate) fn coloured(text: &str) -> String {
    let colour = |colour: AnsiColor| colour.on_default();
    text.split_inclusive('\n')
        .map(|line| {
            let style = match line.as_bytes() {
                [b'-', b'-', b'-', b' ', ..] => Style::new().bold(),
                [b'+', ..] => colour(AnsiColor::Green),
                [b'-', ..] => colour(AnsiColor::Red),
                _ => return line.to_owned(),
            };
            let (text, end) = line.strip_suffix('\n').map_or((line, ""), |text| (text, "\n"));
            format!("{style}{text}{style:#}{end}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_readable() {
        assert_eq!(bytes(9999), "9999 bytes");
        assert_eq!(bytes(65536), "65536 bytes (65.5 kB)");
        assert_eq!(bytes(12_345_678), "12345678 bytes (12.3 MB)");
        assert_eq!(ms(Duration::from_micros(1234)), "1.234 ms");
        assert_eq!(ms(Duration::from_millis(12)), "12.0 ms");
        assert_eq!(ms(Duration::from_millis(1234)), "1.23 s");
    }

    #[test]
    fn a_difference_shows_every_line() {
        assert_eq!(difference("a\nb\n\nc\n", "a\nx\n\nc\n"), " a\n-b\n+x\n\n c\n");
        assert_eq!(difference("", "a"), "+a\n");
    }
}
