//! Data segments joined.
//!
//! Some compilers, and snapshots, leave a hundred thousand data segments with small gaps between them.
//! The engine makes one image of them that instances share, and keeps a record of each in every
//! instance all the same, which takes longer than the rest of making one; nor does it take more than
//! 100,000. So they are joined before a guest is compiled, with the zeroes that are between them.
//!
//! Code can name a segment by its number (`memory.init`, `data.drop`): up to the last one that it names
//! every number keeps its place, and one that is applied when the guest starts is empty from then on,
//! whatever it was before.

use std::ops::Range;

use wasm_encoder::{ConstExpr, DataSection, Module, RawSection};
use wasmparser::{DataKind, MemoryType, Operator, Parser, Payload, TypeRef};

use super::pieces::number;

/// What is done to guests here: what was compiled under another edition is not the same.
pub(super) const EDITION: &str = "data segments joined, 1";

/// Fewer are not worth the trouble.
const FEW: usize = 16;

/// Segments that lie within so many bytes become one. The engine makes an image of that size anyway.
pub(super) const IMAGE_BYTES: usize = 64 << 20;

/// Where they are further apart, those are joined that have at most this between them: the engine
/// copies them into each instance, page by page.
const GAP_BYTES: usize = 4096;

/// Sections of a module (WebAssembly 5.5.2).
const DATA: u8 = 11;
const DATA_COUNT: u8 = 12;

/// A guest in binary format, with its data in few segments. `None` of one that has few, of one whose
/// segments are not all where it says by a constant, within its memory, and of what cannot be read:
/// compiling it says what is wrong.
pub(super) fn joined(wasm: &[u8]) -> Option<Vec<u8>> {
    join(wasm, FEW, IMAGE_BYTES)
}

fn join(wasm: &[u8], few: usize, image_bytes: usize) -> Option<Vec<u8>> {
    let guest = Guest::read(wasm)?;
    if guest.segments.len() < few {
        return None;
    }
    let mut joined = guest.runs(image_bytes)?.into_iter();
    let mut data = DataSection::new();
    // From where on nobody names a segment there may be as many as there are; nobody needs one there that
    // is not applied.
    for segment in &guest.segments[..guest.named] {
        match segment {
            Segment::Passive(bytes) => {
                data.passive(bytes.iter().copied());
            }
            Segment::Active(..) => active(&mut data, joined.next().unwrap_or_default()),
        }
    }
    joined.for_each(|run| active(&mut data, run));
    if data.len() as usize >= guest.segments.len() {
        return None;
    }
    let mut module = Module::new();
    for (id, range) in &guest.sections {
        let old = &wasm[range.clone()];
        match *id {
            DATA => {
                module.section(&data);
            }
            // As long as it was, so that the code after it is where it was.
            DATA_COUNT => {
                let count = number(data.len(), old.len());
                module.section(&RawSection { id: DATA_COUNT, data: &count });
            }
            id => {
                module.section(&RawSection { id, data: old });
            }
        }
    }
    Some(module.finish())
}

fn active(data: &mut DataSection, Run { at, bytes }: Run) {
    data.active(0, &ConstExpr::i32_const(at.cast_signed()), bytes);
}

enum Segment<'a> {
    /// For `memory.init`.
    Passive(&'a [u8]),
    /// Applied when an instance is made: where to, and what.
    Active(usize, &'a [u8]),
}

/// Bytes of the memory at its beginning.
#[derive(Default)]
struct Run {
    at: u32,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Guest<'a> {
    sections: Vec<(u8, Range<usize>)>,
    segments: Vec<Segment<'a>>,
    /// How many segments there are up to the last one that code names.
    named: usize,
}

impl<'a> Guest<'a> {
    /// Of a valid guest what is needed here; of many that are not valid nothing, so that none becomes so.
    fn read(wasm: &'a [u8]) -> Option<Self> {
        let mut guest = Guest::default();
        let mut memory_bytes = None;
        let mut count = None;
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload.ok()?;
            guest.sections.extend(payload.as_section());
            match payload {
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        // What is in it already is somebody else's.
                        if let TypeRef::Memory(_) = import.ok()?.ty {
                            return None;
                        }
                    }
                }
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        let MemoryType { memory64: false, page_size_log2: None, initial, .. } =
                            memory.ok()?
                        else {
                            return None;
                        };
                        if memory_bytes.replace(usize::try_from(initial).ok()? << 16).is_some() {
                            return None;
                        }
                    }
                }
                Payload::DataCountSection { count: said, .. } => count = Some(said),
                Payload::CodeSectionEntry(body) if count.is_some() => {
                    let mut operators = body.get_operators_reader().ok()?;
                    while !operators.eof() {
                        if let Some(index) = names(&operators.read().ok()?) {
                            guest.named = guest.named.max(index as usize + 1);
                        }
                    }
                }
                Payload::DataSection(data) if guest.segments.is_empty() => {
                    for segment in data {
                        let segment = segment.ok()?;
                        guest.segments.push(match segment.kind {
                            DataKind::Passive => Segment::Passive(segment.data),
                            DataKind::Active { memory_index: 0, offset_expr } => {
                                let at = constant(&offset_expr)?;
                                if at.checked_add(segment.data.len())? > memory_bytes? {
                                    return None;
                                }
                                Segment::Active(at, segment.data)
                            }
                            DataKind::Active { .. } => return None,
                        });
                    }
                }
                Payload::DataSection(_) => return None,
                _ => {}
            }
        }
        let segments = guest.segments.len();
        let fits = count.is_none_or(|count| count as usize == segments) && guest.named <= segments;
        fits.then_some(guest)
    }

    /// What the active segments make of the memory, without what is zero for long.
    fn runs(&self, image_bytes: usize) -> Option<Vec<Run>> {
        let active = || {
            self.segments.iter().filter_map(|segment| match *segment {
                Segment::Active(at, bytes) if !bytes.is_empty() => Some((at, bytes)),
                Segment::Active(..) | Segment::Passive(_) => None,
            })
        };
        let mut places: Vec<_> = active().map(|(at, bytes)| at..at + bytes.len()).collect();
        places.sort_unstable_by_key(|place| place.start);
        let Some(start) = places.first().map(|place| place.start) else {
            return Some(Vec::new());
        };
        let end = places.iter().map(|place| place.end).max()?;
        let gap = if end - start <= image_bytes { image_bytes } else { GAP_BYTES };
        let mut joined: Vec<Range<usize>> = Vec::new();
        for place in places {
            match joined.last_mut() {
                Some(last) if place.start <= last.end + gap => last.end = last.end.max(place.end),
                _ => joined.push(place),
            }
        }
        let bytes: usize = active().map(|(_, bytes)| bytes.len()).sum();
        if joined.iter().map(Range::len).sum::<usize>() > bytes + image_bytes {
            return None;
        }
        let run = |place: &Range<usize>| {
            Some(Run { at: u32::try_from(place.start).ok()?, bytes: vec![0; place.len()] })
        };
        let mut runs = joined.iter().map(run).collect::<Option<Vec<_>>>()?;
        // Of those that overlap the last one counts.
        for (at, bytes) in active() {
            let run = joined.partition_point(|place| place.end <= at);
            let from = at - joined[run].start;
            runs[run].bytes[from..from + bytes.len()].copy_from_slice(bytes);
        }
        Some(runs)
    }
}

/// The segment that an instruction names.
const fn names(operator: &Operator<'_>) -> Option<u32> {
    match *operator {
        Operator::MemoryInit { data_index, .. } | Operator::DataDrop { data_index } => {
            Some(data_index)
        }
        Operator::ArrayNewData { array_data_index, .. }
        | Operator::ArrayInitData { array_data_index, .. } => Some(array_data_index),
        _ => None,
    }
}

/// A place that is the same in every instance.
pub(super) fn constant(expr: &wasmparser::ConstExpr<'_>) -> Option<usize> {
    let mut operators = expr.get_operators_reader();
    match (operators.read().ok()?, operators.read().ok()?) {
        (Operator::I32Const { value }, Operator::End) => {
            usize::try_from(value.cast_unsigned()).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write as _;
    use wasmtime::{Engine, Instance, Module, Store};

    /// A segment: where it is applied, if it is, and what it consists of.
    type Drawn = (Option<u32>, Vec<u8>);

    /// What code does: `memory.init` with a segment, a place in it, a place in the memory and a length, or
    /// `data.drop`.
    type Call = (usize, Option<(u32, u32, u32)>);

    fn segment() -> impl Strategy<Value = Drawn> {
        let place = prop_oneof![
            6 => (0u32..300).prop_map(Some),
            3 => (60_000u32..70_000).prop_map(Some),
            1 => (131_050u32..131_072).prop_map(Some),
            2 => Just(None),
        ];
        (place, prop::collection::vec(any::<u8>(), 0..20))
    }

    fn call() -> impl Strategy<Value = Call> {
        (0usize..40, prop::option::of((0u32..20, 0u32..200, 0u32..20)))
    }

    fn module(segments: &[Drawn], named: &[usize]) -> Vec<u8> {
        let mut text = String::from("(module (memory (export \"memory\") 2)");
        for (place, bytes) in segments {
            let place = place.map_or_else(String::new, |at| format!("(i32.const {at})"));
            let bytes: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
            let _ = write!(text, "(data {place} \"{bytes}\")");
        }
        for at in named {
            let _ = write!(
                text,
                "(func (export \"init{at}\") (param i32 i32 i32)
                   (memory.init {at} (local.get 0) (local.get 1) (local.get 2)))
                 (func (export \"drop{at}\") (data.drop {at}))"
            );
        }
        wat::parse_str(text + ")").expect("is text")
    }

    /// Whether it starts, what its calls end in, and the memory then.
    fn run(wasm: &[u8], calls: &[Call], named: &[usize]) -> Option<(Vec<bool>, Vec<u8>)> {
        let engine = Engine::default();
        let module = Module::new(&engine, wasm).expect("is valid");
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).ok()?;
        let calls = calls.iter().filter(|(at, _)| named.contains(at));
        let results = calls.map(|(at, init)| match init {
            Some((from, to, len)) => {
                let function = format!("init{at}");
                let function =
                    instance.get_typed_func::<(u32, u32, u32), ()>(&mut store, &function);
                function.expect("is there").call(&mut store, (*to, *from, *len)).is_ok()
            }
            None => {
                let function = instance.get_typed_func::<(), ()>(&mut store, &format!("drop{at}"));
                function.expect("is there").call(&mut store, ()).is_ok()
            }
        });
        let results = results.collect();
        let memory = instance.get_memory(&mut store, "memory").expect("has one");
        Some((results, memory.data(&store).to_vec()))
    }

    fn count(wasm: &[u8]) -> usize {
        Guest::read(wasm).expect("is valid").segments.len()
    }

    proptest! {
        #[test]
        fn a_guest_with_joined_segments_is_the_same(
            segments in prop::collection::vec(segment(), 1..40),
            named in prop::collection::vec(0usize..40, 0..4),
            calls in prop::collection::vec(call(), 0..20),
            image in prop_oneof![Just(IMAGE_BYTES), 0usize..70_000],
        ) {
            let mut named: Vec<_> = named.into_iter().filter(|&at| at < segments.len()).collect();
            named.sort_unstable();
            named.dedup();
            let guest = module(&segments, &named);
            let Some(joined) = join(&guest, 0, image) else { return Ok(()) };
            prop_assert!(count(&joined) < count(&guest));
            prop_assert_eq!(run(&joined, &calls, &named), run(&guest, &calls, &named));
        }
    }

    fn wasm(text: &str) -> Vec<u8> {
        wat::parse_str(text).expect("is text")
    }

    #[test]
    fn more_than_the_engine_takes_become_one() {
        let segments: Vec<Drawn> = (0..120_000).map(|at| (Some(at), vec![at as u8])).collect();
        let guest = module(&segments, &[]);
        assert!(Module::validate(&Engine::default(), &guest).is_err());
        let joined = joined(&guest).expect("has many");
        assert_eq!(count(&joined), 1);
        let (_, memory) = run(&joined, &[], &[]).expect("starts");
        assert!(memory[..120_000].iter().enumerate().all(|(at, &byte)| byte == at as u8));
    }

    #[test]
    fn those_that_are_far_apart_stay_apart() {
        let text = "(data (i32.const 0) \"a\") (data (i32.const 100) \"b\")
            (data (i32.const 99999999) \"c\") (data (i32.const 99999990) \"d\")";
        let guest = wasm(&format!("(module (memory 2000) {text})"));
        assert_eq!(count(&join(&guest, 0, IMAGE_BYTES).expect("are joined")), 2);
    }

    #[test]
    fn what_is_more_gap_than_data_stays_as_it_is() {
        let segments: Vec<Drawn> = (0..30).map(|at| (Some(at * 4000), vec![1])).collect();
        assert!(join(&module(&segments, &[]), 0, 100_000).is_none());
        assert!(join(&module(&segments, &[]), 0, 120_000).is_some());
    }

    #[test]
    fn what_does_not_start_or_is_not_known_stays_as_it_is() {
        let twice = |text: &str| join(&wasm(&format!("(module {text} {text})")), 0, IMAGE_BYTES);
        let of = |memory: &str, data: &str| {
            join(&wasm(&format!("(module {memory} {data} {data})")), 0, IMAGE_BYTES)
        };
        let memory = "(memory 1)";
        assert!(of(memory, "(data (i32.const 0) \"a\")").is_some());
        // Beyond the memory's end, also with nothing in it.
        assert!(of(memory, "(data (i32.const 65536) \"a\")").is_none());
        assert!(of(memory, "(data (i32.const 65537) \"\")").is_none());
        assert!(of(memory, "(data (i32.const -1) \"aa\")").is_none());
        let global = "(global (import \"a\" \"b\") i32)";
        assert!(of(&format!("{global} {memory}"), "(data (global.get 0) \"a\")").is_none());
        assert!(of(memory, "(data (i32.add (i32.const 1) (i32.const 1)) \"a\")").is_none());
        assert!(of("(import \"a\" \"b\" (memory 1))", "(data (i32.const 0) \"a\")").is_none());
        assert!(of("(memory i64 1)", "(data (i64.const 0) \"a\")").is_none());
        assert!(twice("(memory 1)").is_none());
    }

    #[test]
    fn what_is_not_valid_does_not_become_so() {
        let guest = module(&vec![(Some(0), b"abc".to_vec()); 5], &[3]);
        let at = guest.windows(3).position(|it| it == [DATA_COUNT, 1, 5]).expect("says how many");
        let mut other = guest.clone();
        other[at + 2] = 6;
        assert!(join(&guest, 0, IMAGE_BYTES).is_some());
        assert!(join(&other, 0, IMAGE_BYTES).is_none());
        let at = guest.windows(3).position(|it| it == [0xfc, 8, 3]).expect("names one");
        let mut other = guest.clone();
        other[at + 2] = 5;
        assert!(join(&other, 0, IMAGE_BYTES).is_none());
        for end in 0..guest.len() {
            // Cut, it may still be a module as far as it goes.
            let _ = join(&guest[..end], 0, IMAGE_BYTES);
        }
    }
}
