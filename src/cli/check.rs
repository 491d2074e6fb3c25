//! `http-wasm check`.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::args::{Check, Format};
use super::exchange::Rules;
use super::load::{self, Loaded};
use super::text::{bytes, log_lines, ms};
use super::{Failure, print};
use crate::abi::Level;
use crate::escaped::Escaped;
use crate::runtime::precompiled::{self, digest, hex};
use crate::runtime::reset::is_ours;
use crate::runtime::{Compile, Engine};

/// Loads a guest as nginx would, and tells what it found.
pub(crate) fn check(args: &Check) -> Result<(), Failure> {
    let path = &args.guest.path;
    let result = examine(args);
    match (args.format, result) {
        (_, Ok(report)) => {
            print(&report);
            Ok(())
        }
        (Format::Text, Err(failure)) => Err(failure),
        (Format::Json, Err(failure)) => {
            if let Some(guest) = &failure.guest {
                print(&pretty(&json!({
                    "guest": path.to_string_lossy(),
                    "usable": false,
                    "reason": guest.reason,
                    "backtrace": guest.backtrace,
                    "log": log_json(&guest.log),
                })));
            }
            Err(failure)
        }
    }
}

fn examine(args: &Check) -> Result<String, Failure> {
    let path = &args.guest.path;
    let source = load::source(path)?;
    if precompiled::is_precompiled(&source) {
        return examine_precompiled(args, &source);
    }
    let rules = Rules::of_start(Level::Debug);
    let settings = args.guest.settings()?;
    let loaded = load::load(path, source.clone(), settings, rules, args.load_timeout)?;
    Ok(match args.format {
        Format::Text => text(path, &source, &loaded),
        Format::Json => json(path, &source, &loaded),
    })
}

/// What is in the container is native code: it is looked at, and not run.
fn examine_precompiled(args: &Check, bytes: &[u8]) -> Result<String, Failure> {
    let path = &args.guest.path;
    let refused = |error| load::refused(path, &error);
    let engine = Engine::new(Compile::Serial).map_err(refused)?;
    let unchecked = engine.without_interrupts().map_err(refused)?;
    let (compiled, interrupts) = match precompiled::decode(&engine, bytes) {
        Ok(compiled) => (compiled, true),
        Err(error) => match precompiled::decode(&unchecked, bytes) {
            Ok(compiled) => (compiled, false),
            Err(_) => return Err(refused(error)),
        },
    };
    let source = hex(&compiled.source);
    Ok(match args.format {
        Format::Text => format!(
            "{}: undamaged, compiled for this machine and version{}\nsource     sha256 {source}\n\
             code       {}\n",
            path.display(),
            if interrupts { "" } else { ", for \"http_wasm_slice off\"" },
            self::bytes(compiled.code.len())
        ),
        Format::Json => pretty(&json!({
            "guest": path.to_string_lossy(),
            "usable": true,
            "precompiled": true,
            "slice": if interrupts { "on" } else { "off" },
            "source_sha256": source,
            "code_bytes": compiled.code.len(),
        })),
    })
}

/// A name as the guest has it, fit for a terminal.
fn printable(name: &str) -> String {
    Escaped(name.as_bytes()).to_string()
}

/// Imports by name, those of one module on one line.
fn imports(loaded: &Loaded) -> Vec<(String, Vec<String>)> {
    let mut modules: Vec<(String, Vec<String>)> = Vec::new();
    for import in loaded.module.imports() {
        let (module, name) = (printable(import.module()), printable(import.name()));
        match modules.iter_mut().find(|(other, _)| *other == module) {
            Some((_, names)) => names.push(name),
            None => modules.push((module, vec![name])),
        }
    }
    modules
}

fn exports(loaded: &Loaded) -> Vec<String> {
    let its = loaded.module.exports().map(|export| export.name()).filter(|name| !is_ours(name));
    its.map(printable).collect()
}

fn text(path: &Path, source: &[u8], loaded: &Loaded) -> String {
    let started = &loaded.started;
    let list = |names: &[String]| match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    let mut text = format!("{}: can be used\n", path.display());
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<11}{value}");
    };
    line("size", &bytes(source.len()));
    line("sha256", &hex(&digest(source)));
    line("exports", &list(&exports(loaded)));
    for (module, names) in imports(loaded) {
        line("imports", &format!("{module}: {}", names.join(", ")));
    }
    line("features", &list(&started.features.names().collect::<Vec<_>>()));
    line("compiled", &format!("in {}", ms(started.compiled)));
    line(
        "started",
        &format!("in {}, with {} of memory", ms(started.started), bytes(started.memory_bytes)),
    );
    text.push_str(&log_lines(&started.log));
    text
}

fn json(path: &Path, source: &[u8], loaded: &Loaded) -> String {
    let started = &loaded.started;
    let imports: serde_json::Map<_, _> =
        imports(loaded).into_iter().map(|(module, names)| (module, json!(names))).collect();
    pretty(&json!({
        "guest": path.to_string_lossy(),
        "usable": true,
        "precompiled": false,
        "size_bytes": source.len(),
        "sha256": hex(&digest(source)),
        "exports": exports(loaded),
        "imports": imports,
        "features": loaded.started.features.names().collect::<Vec<_>>(),
        "compile_ms": started.compiled.as_secs_f64() * 1e3,
        "start_ms": started.started.as_secs_f64() * 1e3,
        "start_calls": started.calls,
        "memory_bytes": started.memory_bytes,
        "log": log_json(&started.log),
    }))
}

/// Log lines for programs.
pub(crate) fn log_json(log: &[(Level, String)]) -> serde_json::Value {
    let lines = log.iter().map(
        |(level, line)| json!({ "level": format!("{level:?}").to_lowercase(), "message": line }),
    );
    lines.collect()
}

/// A value as text with a line break at the end.
pub(crate) fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}
