//! A guest's stack as text: one line per frame, whatever the names in it are.

use std::fmt::{self, Display, Write as _};

use wasmtime::{FrameInfo, FrameSymbol, WasmBacktrace};

/// Names come from the module and have any length; demangled ones of Rust are rarely longer.
const NAME_CHARS: usize = 256;

/// The frames, innermost first: position in the module, function, and, where the module carries
/// debug information, file and line, for functions inlined there too. Frames in a row that have no
/// names are one line with the position of the first.
pub(super) fn frames(backtrace: &WasmBacktrace) -> Option<String> {
    let mut text = String::new();
    let mut index = 0;
    for row in backtrace.frames().chunk_by(|a, b| !has_name(a) && !has_name(b)) {
        let newline = if index > 0 { "\n" } else { "" };
        // Writing to a string does not fail.
        let _ = write!(text, "{newline}{index}: {}", Frame(&row[0]));
        if let more @ 1.. = row.len() - 1 {
            let _ = write!(text, " and {more} more frames without names");
        }
        index += row.len();
    }
    (!text.is_empty()).then_some(text)
}

fn has_name(frame: &FrameInfo) -> bool {
    frame.func_name().is_some() || frame.symbols().iter().any(|symbol| symbol.name().is_some())
}

struct Frame<'a>(&'a FrameInfo);

impl Display for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Frame(frame) = self;
        if let Some(offset) = frame.module_offset() {
            write!(f, "{offset:#x} - ")?;
        }
        write!(f, "{}!", Name(frame.module().name().unwrap_or(UNKNOWN)))?;
        // Innermost first; the last one is the function itself.
        let (own, inlined) = match frame.symbols().split_last() {
            Some((own, inlined)) => (Some(own), inlined),
            None => (None, [].as_slice()),
        };
        for symbol in inlined {
            write!(f, "{}", Name(symbol.name().unwrap_or(UNKNOWN)))?;
            place(f, symbol)?;
            f.write_str(", inlined in ")?;
        }
        // Linkers write readable names into the name section, of C++ too; debug information has the
        // mangled ones.
        match frame.func_name().or(own.and_then(FrameSymbol::name)) {
            Some(name) => write!(f, "{}", Name(name))?,
            None => write!(f, "<wasm function {}>", frame.func_index())?,
        }
        own.map_or(Ok(()), |symbol| place(f, symbol))
    }
}

const UNKNOWN: &str = "<unknown>";

fn place(f: &mut fmt::Formatter<'_>, symbol: &FrameSymbol) -> fmt::Result {
    let Some(file) = symbol.file() else {
        return Ok(());
    };
    write!(f, " at {}", Name(file))?;
    if let Some(line) = symbol.line() {
        write!(f, ":{line}")?;
    }
    Ok(())
}

/// A name of the guest's: demangled where it is one of Rust's, on one line, and not longer than
/// anybody would read.
///
/// Names of C++ stay as they are: one of some hundred bytes may stand for more text than any machine
/// has room for. Those of Rust are written piece by piece, and no more than is kept.
struct Name<'a>(&'a str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Line { to: f, room: NAME_CHARS };
        let written = match rustc_demangle::try_demangle(self.0) {
            Ok(name) => write!(line, "{name:#}"),
            Err(_) => line.write_str(self.0),
        };
        // What was cut off is no failure.
        if line.room == 0 { Ok(()) } else { written }
    }
}

struct Line<'a, 'f> {
    to: &'a mut fmt::Formatter<'f>,
    room: usize,
}

impl fmt::Write for Line<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            self.room = self.room.checked_sub(1).ok_or(fmt::Error)?;
            self.to.write_char(if c.is_control() { '?' } else { c })?;
        }
        Ok(())
    }
}
