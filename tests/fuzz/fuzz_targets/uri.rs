//! Request targets: what a guest sets is refused or becomes a normal form that no request line can
//! be split by; nginx then has the path and the query that this form says, or what it had before.
#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use ngx_http_wasm_handler_fuzz::bytes;
use ngx_http_wasm_handler_module::fuzzing::Live;
use ngx_http_wasm_handler_module::http::{BadTarget, Target, on_the_wire};

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut live = Live::default();
    while !u.is_empty() {
        let raw = target(u)?;
        check_normal(&raw, Target::received(&raw));
        match Target::from_guest(&raw) {
            Err(BadTarget::Control) => assert!(raw.iter().any(u8::is_ascii_control)),
            Err(BadTarget::Escape) => assert!(raw.contains(&b'%')),
            Err(BadTarget::Start) => assert!(!raw.starts_with(b"/") && !raw.starts_with(b"?")),
            Ok(target) => {
                assert!(!raw.iter().any(u8::is_ascii_control));
                check_normal(&raw, target);
                let normal = target.normal();
                assert_eq!(normal[0], b'/');
                assert_eq!(Target::received(&normal).normal(), normal);
                let again = Target::from_guest(&normal).expect("a normal form is a target");
                assert_eq!(again.normal(), normal);
                check_nginx(&mut live, &normal);
            }
        }
    }
    Ok(())
}

/// Pieces that mean something to a parser, and bytes of any kind.
fn target(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    const PIECES: [&[u8]; 20] = [
        b"/",
        b"//",
        b"/.",
        b"/..",
        b"/../",
        b"./",
        b"%2e",
        b"%2F",
        b"%00",
        b"%25",
        b"%3f",
        b"%23",
        b"?",
        b"#",
        b".html",
        b"a",
        b"http://h",
        b"HTTPS://h:1/",
        b"*",
        b"%c3%A9",
    ];
    let mut raw = Vec::new();
    for _ in 0..u.int_in_range(0..=12)? {
        match u.int_in_range(0..=PIECES.len())? {
            at if at < PIECES.len() => raw.extend_from_slice(PIECES[at]),
            _ => raw.extend(bytes(u, 6)?),
        }
    }
    Ok(raw)
}

fn check_normal(raw: &[u8], target: Target<'_>) {
    let normal = target.normal();
    assert_eq!(normal.len(), target.normal_len());
    let (path, query) = split(&normal);
    assert!(normal == &b"*"[..] || path[0] == b'/');
    assert!(path.iter().all(|&byte| byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte)));
    let escapes = path.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    for (at, _) in escapes {
        assert!(path.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)));
    }
    // The query is not touched, and nothing of the path is lost.
    assert!(raw.ends_with(query));
    assert!(
        decoded(raw).ends_with(&decoded(path)[usize::from(!raw.starts_with(b"/"))..])
            || !query.is_empty()
    );
    let wire = on_the_wire(&normal);
    assert!(wire.iter().all(u8::is_ascii_graphic));
    // Cut short, it is written as far as whole pieces fit and not a byte further.
    for room in [0, 1, normal.len() / 2, normal.len()] {
        let mut buf = vec![0xff; room + 1];
        target.write_to(&mut buf[..room]);
        let written = buf.iter().position(|&byte| byte == 0xff).unwrap_or(room);
        assert!(written <= room && normal.starts_with(&buf[..written]) || normal.contains(&0xff));
        assert_eq!(buf[room], 0xff);
    }
}

fn check_nginx(live: &mut Live, normal: &[u8]) {
    let before = live.uri();
    let wire = on_the_wire(normal);
    let (path, query) = split(&wire);
    let expected = resolved(&decoded(path));
    assert_eq!(live.set_uri(normal), expected.is_some());
    let seen = live.uri();
    let Some(path) = expected else {
        assert_eq!(seen, before, "a target that is refused changes nothing");
        return;
    };
    // A fragment is no part of nginx's arguments.
    let args = query.strip_prefix(b"?").unwrap_or_default();
    let args = args.split(|&byte| byte == b'#').next().unwrap_or_default();
    assert_eq!(seen.path.escape_ascii().to_string(), path.escape_ascii().to_string());
    assert_eq!(seen.args, args);
    assert_eq!(seen.unparsed, &*wire);
    assert_eq!(seen.exten, extension(&path));

    // What is put together after an internal redirect leads to the same place.
    let rebuilt = live.rebuilt_uri();
    assert!(live.set_uri(&Target::received(&rebuilt).normal()));
    let again = live.uri();
    assert_eq!((again.path, again.args), (seen.path, seen.args));
}

/// Path, and query with its question mark.
fn split(target: &[u8]) -> (&[u8], &[u8]) {
    let query = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
    target.split_at(query)
}

fn decoded(path: &[u8]) -> Vec<u8> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    let mut decoded = Vec::new();
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        rest = after;
        let escape = match after {
            [high, low, ..] if *byte == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        if let Some((high, low)) = escape {
            decoded.push((high << 4 | low) as u8);
            rest = &after[2..];
        } else {
            decoded.push(*byte);
        }
    }
    decoded
}

/// A path without dot segments and empty ones; `None` when it leaves the root or holds a NUL.
fn resolved(path: &[u8]) -> Option<Vec<u8>> {
    if path.contains(&0) {
        return None;
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut ends_open = true;
    for segment in path.split(|&byte| byte == b'/').skip(1) {
        ends_open = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => drop(kept.pop()?),
            _ => kept.push(segment),
        }
    }
    let mut out = Vec::new();
    for segment in &kept {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if ends_open {
        out.push(b'/');
    }
    Some(out)
}

/// What follows the last dot of the last segment, unless the segment begins with it.
fn extension(path: &[u8]) -> Vec<u8> {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    match name.iter().rposition(|&byte| byte == b'.') {
        None | Some(0) => Vec::new(),
        Some(dot) => name[dot + 1..].to_vec(),
    }
}
