//! The order of the house, as `src/lib.rs` draws it: who may use whom.

use std::path::{Path, PathBuf};

/// Rings and what each may use beside itself. `host::linker` is a ring of its own.
const RINGS: &[(&str, &[&str])] = &[
    ("abi", &[]),
    ("http", &[]),
    ("escaped", &[]),
    ("logged", &[]),
    ("memory", &["abi", "http", "escaped"]),
    ("host", &["abi", "http", "escaped", "memory"]),
    ("host::linker", &["abi", "http", "escaped", "memory", "host"]),
    ("runtime", &["abi", "http", "escaped", "memory", "host", "host::linker"]),
    ("status", &["abi"]),
    ("cli", &["abi", "http", "escaped", "memory", "host", "runtime"]),
];

/// Whether a path is `part` or in it.
fn is_in(path: &str, part: &str) -> bool {
    path.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// A file below `src` as the path of its module.
struct File {
    module: String,
    /// Without comments.
    code: String,
}

impl File {
    /// All of them.
    fn all() -> Vec<File> {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut folders = vec![src.clone()];
        let mut files: Vec<PathBuf> = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                match path.extension() {
                    None => folders.push(path),
                    Some(extension) if extension == "rs" => files.push(path),
                    Some(_) => {}
                }
            }
        }
        let file = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).expect("a file");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code = code.flat_map(|line| [line, "\n"]).collect();
            let module = path.strip_prefix(&src).expect("below").with_extension("");
            File { module: module.to_string_lossy().replace('/', "::"), code }
        };
        files.iter().map(file).collect()
    }

    /// What it uses, as paths behind `crate::`.
    fn uses(&self) -> impl Iterator<Item = &str> {
        self.code.split("crate::").skip(1).map(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
            let path = rest[..end.unwrap_or(rest.len())].trim_end_matches(':');
            assert!(!matches!(path, "" | "nginx"), "{}: one `use` for each file", self.module);
            path
        })
    }
}

fn ring(path: &str) -> Option<&'static str> {
    let rings = RINGS.iter().map(|(ring, _)| *ring).filter(|ring| is_in(path, ring));
    rings.max_by_key(|ring| ring.len())
}

#[test]
fn rings_use_what_is_below_them() {
    let mut wrong = Vec::new();
    for file in File::all() {
        let of = ring(&file.module);
        let below = RINGS.iter().find(|(ring, _)| Some(*ring) == of).map(|(_, below)| *below);
        for path in file.uses() {
            let allowed = match (below, ring(path)) {
                (Some(_), None) => false,
                (Some(below), Some(ring)) => Some(ring) == of || below.contains(&ring),
                (None, ring) => !is_in(&file.module, "nginx") || ring != Some("cli"),
            };
            if !allowed {
                wrong.push(format!("{} uses {path}", file.module));
            }
        }
        let engine = ["host::linker", "runtime"].iter().any(|ring| of == Some(ring));
        if of.is_some() && !engine && file.code.contains("wasmtime") {
            wrong.push(format!("{} knows the engine", file.module));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Rooms of the nginx side, each of which uses those before it; what is in none of them uses all.
const ROOMS: [&str; 4] = ["ngx", "guests", "exchange", "conf"];

/// Files of one room that are one idea, and know each other.
const PAIRS: &[[&str; 2]] = &[
    // A body is a chain of bufs, in memory or in a file.
    ["chain", "spool"],
    // A guest and the calls that wait for its instances.
    ["line", "plugin"],
    ["lease", "line"],
    // A guest and its instances in use.
    ["lease", "plugin"],
    // A guest and its instances that are being started.
    ["plugin", "start"],
    ["lease", "start"],
    // A location has guests, whose host reads the location.
    ["host", "settings"],
    // A level has guests, which are loaded with its settings.
    ["load", "settings"],
];

/// The room of a path below `nginx`, as its number, and the file in it.
fn room(path: &str) -> Option<(usize, &str)> {
    let mut parts = path.split("::");
    let room = match (parts.next(), parts.next()) {
        (Some("nginx"), room) => ROOMS.iter().position(|other| Some(*other) == room),
        _ => return None,
    };
    Some((room.unwrap_or(ROOMS.len()), room.and_then(|_| parts.next()).unwrap_or_default()))
}

#[test]
fn rooms_use_those_before_them_and_files_do_not_use_each_other() {
    let files = File::all();
    let mut wrong = Vec::new();
    let mut within = Vec::new();
    for file in &files {
        let Some((of, from)) = room(&file.module) else { continue };
        for path in file.uses() {
            match room(path) {
                Some((used, _)) if used > of => wrong.push(format!("{} uses {path}", file.module)),
                Some((used, to)) if used == of && from != to => within.push((of, from, to)),
                _ => {}
            }
        }
    }
    within.retain(|&(of, from, to)| {
        let paired = PAIRS.iter().any(|pair| pair.contains(&from) && pair.contains(&to));
        of < ROOMS.len() && !paired
    });
    // A file that uses none of its room is in no circle, nor is one that none uses.
    loop {
        let before = within.clone();
        within.retain(|&(of, from, to)| {
            let goes_on = before.iter().any(|&(other, start, _)| (other, start) == (of, to));
            goes_on && before.iter().any(|&(other, _, end)| (other, end) == (of, from))
        });
        if within.len() == before.len() {
            break;
        }
    }
    within.sort_unstable();
    within.dedup();
    let circles = within.iter();
    wrong.extend(
        circles.map(|&(of, from, to)| format!("a circle: {}::{from} uses {to}", ROOMS[of])),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}
