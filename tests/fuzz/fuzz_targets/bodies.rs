//! Bodies: however one arrives, in buffers in memory, in files and in between, and in whatever
//! steps a guest reads and writes, the bytes are the same everywhere, and never more than may be.
#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use ngx_http_wasm_handler_fuzz::bytes;
use ngx_http_wasm_handler_module::fuzzing::{Held, Live, Place, TooLarge};

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

type Pieces = Vec<(Vec<u8>, Place)>;

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let live = Live::default();
    read_as_received(u, &live)?;
    hold_and_pass_on(u, &live)
}

/// A request body that nginx has read, read by guests in any steps, from the start as often as they
/// like.
fn read_as_received(u: &mut Unstructured<'_>, live: &Live) -> Result<()> {
    let pieces = pieces(u)?;
    let expected = joined(&pieces);
    let mut received = live.received(&pieces);
    let mut at = 0;
    for _ in 0..u.int_in_range(0..=12)? {
        if u.ratio(1, 6)? {
            received.rewind();
            at = 0;
        }
        let mut buffer = vec![0xfe; step(u)?];
        let chunk = received.read(&mut buffer).expect("readable");
        let rest = &expected[at..];
        assert_eq!(chunk.len, buffer.len().min(rest.len()), "short only at the end");
        assert_eq!(buffer[..chunk.len], rest[..chunk.len]);
        assert!(buffer[chunk.len..].iter().all(|&byte| byte == 0xfe));
        at += chunk.len;
        assert_eq!(chunk.eof, at == expected.len(), "EOF comes with the last bytes");
    }
    Ok(())
}

/// A response that is collected, read and written by guests, and passed on behind what they put
/// before it; the same for a request body that is replaced.
fn hold_and_pass_on(u: &mut Unstructured<'_>, live: &Live) -> Result<()> {
    let mut held = live.held();
    let mut model = Vec::new();
    let mut cursor = 0;
    let memory = usize::from(u.arbitrary::<u8>()?) * u.int_in_range(0..=600)?;
    while !u.is_empty() {
        let max = if u.ratio(1, 6)? { u64::from(u.arbitrary::<u16>()?) } else { 1 << 20 };
        match u.int_in_range(0..=5)? {
            0 | 1 => {
                let pieces = pieces(u)?;
                let result = live.take(&pieces, &mut held, memory, max);
                grow(&held, &mut model, pieces.iter().map(|(bytes, _)| &bytes[..]), result, max);
            }
            2 => {
                let bytes = long(u)?;
                let result = live.write(&bytes, &mut held, memory, max);
                grow(&held, &mut model, [&bytes[..]].into_iter(), result, max);
            }
            3 => {
                // Something goes before it.
                let (mut first, bytes) = (live.held(), long(u)?);
                live.write(&bytes, &mut first, memory, 1 << 20).expect("room");
                first.append(held);
                held = first;
                model.splice(0..0, bytes);
                cursor = 0;
            }
            _ => {
                let mut buffer = vec![0xfe; step(u)?];
                let chunk = held.read(cursor as u64, &mut buffer).expect("readable");
                let rest = &model[cursor..];
                assert_eq!(chunk.len, buffer.len().min(rest.len()));
                assert_eq!(buffer[..chunk.len], rest[..chunk.len]);
                assert!(buffer[chunk.len..].iter().all(|&byte| byte == 0xfe));
                cursor += chunk.len;
                assert_eq!(chunk.eof, cursor == model.len());
            }
        }
        assert_eq!(held.size(), model.len() as u64);
    }
    if model.len() % 2 == 0 {
        assert_eq!(live.sent_body(held, model.len() % 4 == 0), model);
    } else {
        live.replace_request_body(held);
        let (body, len) = live.request_body();
        assert_eq!((body, len), (model.clone(), model.len() as i64));
        live.check();
    }
    Ok(())
}

/// What was added to `held` is what there was room for, of which `model` is told.
fn grow<'b>(
    held: &Held<'_>,
    model: &mut Vec<u8>,
    parts: impl Iterator<Item = &'b [u8]>,
    result: std::result::Result<(), TooLarge>,
    max: u64,
) {
    for part in parts {
        if (model.len() + part.len()) as u64 > max && !part.is_empty() {
            assert_eq!(result, Err(TooLarge(max)));
            // Parts from a file are taken in blocks, of which some may have fitted; ours are
            // smaller than a block.
            assert_eq!(held.size(), model.len() as u64);
            return;
        }
        model.extend_from_slice(part);
    }
    let held_more_before = model.len() as u64 > max;
    assert!(result.is_ok() || held_more_before);
}

fn pieces(u: &mut Unstructured<'_>) -> Result<Pieces> {
    let mut pieces = Vec::new();
    for _ in 0..u.int_in_range(0..=6)? {
        pieces.push(match u.int_in_range(0..=4)? {
            0 => (Vec::new(), Place::Special),
            1 => (long(u)?, Place::File),
            _ => (long(u)?, Place::Memory),
        });
    }
    Ok(pieces)
}

/// A few bytes, or many that are told apart by where they are.
fn long(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    if u.ratio(7, 8)? {
        return bytes(u, 40);
    }
    let len = usize::from(u.arbitrary::<u16>()?);
    let start: u8 = u.arbitrary()?;
    Ok((0..len).map(|at| start.wrapping_add((at % 251) as u8)).collect())
}

fn step(u: &mut Unstructured<'_>) -> Result<usize> {
    Ok(match u.int_in_range(0..=5)? {
        0 => usize::from(u.arbitrary::<u16>()?),
        _ => u.int_in_range(0..=60)?,
    })
}

fn joined(pieces: &Pieces) -> Vec<u8> {
    pieces.iter().flat_map(|(bytes, _)| bytes.clone()).collect()
}
