//! Bulk instructions in pieces.
//!
//! `memory.copy` and `memory.fill` are one instruction each, whatever they copy or fill, and a guest
//! can be made to give way between instructions only: 128 MB take up to a fifth of a second, in which
//! a worker serves nobody else. So a guest gets two more functions, which do the same in pieces, and
//! calls them where it has the instructions; not where it says that there is little to do, as that would
//! cost more than the copy itself.
//!
//! A call takes as many bytes as the instruction that it stands for: debug information says where code
//! is, counted from the beginning of its section, and stays true. Offsets in the whole module are some
//! bytes larger than in the file, by what is added before the code. `memory.init` stays as it is: what it
//! copies is in the file of the guest.

use std::borrow::Cow;
use std::ops::Range;

use wasm_encoder::reencode::{Reencode, RoundtripReencoder, utils};
use wasm_encoder::{BlockType, Encode, Function, InstructionSink, Module, NameSection, RawSection};
use wasmparser::{
    BinaryReader, CustomSectionReader, FunctionBody, KnownCustom, MemoryType, Name,
    NameSectionReader, Operator, Parser, Payload, TypeRef,
};

/// What is copied or filled before the guest can be made to give way again: some ten microseconds of
/// work, or some hundred where nobody has touched the memory before.
const PIECE_BYTES: u32 = 1 << 20;

/// What is done to guests here: what was compiled under another edition is not the same.
pub(super) const EDITION: &str = "memory.copy and memory.fill in pieces, 1";

/// What backtraces call the functions.
const COPY: &str = "memory.copy in pieces";
const FILL: &str = "memory.fill in pieces";

/// Sections of a module (WebAssembly 5.5.2).
const TYPES: u8 = 1;
const FUNCTIONS: u8 = 3;
const CODE: u8 = 10;

/// `(func (param i32 i32 i32))` in the section of types.
const TYPE: [u8; 6] = [0x60, 3, 0x7f, 0x7f, 0x7f, 0];

/// `call` and `nop` in a function's code.
const CALL: u8 = 0x10;
const NOP: u8 = 0x01;

/// Bytes of the longest number of 32 bits (WebAssembly 5.2.2).
const NUMBER_BYTES: usize = 5;

/// Names of sections with debug information begin like this.
const DEBUG: &str = ".debug_";

/// A guest in binary format, with its bulk instructions in pieces. `None` of one that has none, and
/// of what cannot be read: compiling it says what is wrong.
pub(super) fn in_pieces(wasm: &[u8]) -> Option<Vec<u8>> {
    rewrite(wasm, PIECE_BYTES)
}

fn rewrite(wasm: &[u8], piece_bytes: u32) -> Option<Vec<u8>> {
    let guest = Guest::read(wasm)?;
    let copy = guest.imported + u32::try_from(guest.bodies.len()).ok()?;
    let calls = Calls { copy, fill: copy + 1, short: piece_bytes };
    let mut code = guest.code(wasm, calls)?;
    copying(piece_bytes).encode(&mut code.bytes);
    filling(piece_bytes).encode(&mut code.bytes);
    let mut module = Module::new();
    for Section { id, range, custom } in &guest.sections {
        let old = &wasm[range.clone()];
        let data = match (*id, custom) {
            (TYPES, _) => {
                let mut types = List::longer(old, 1)?.bytes;
                types.extend(TYPE);
                Cow::Owned(types)
            }
            (FUNCTIONS, _) => {
                let mut functions = List::longer(old, 2)?.bytes;
                guest.types.encode(&mut functions);
                guest.types.encode(&mut functions);
                Cow::Owned(functions)
            }
            (CODE, _) => Cow::Borrowed(&code.bytes[..]),
            (_, Some(custom)) if code.moved && custom.name().starts_with(DEBUG) => continue,
            (_, Some(custom)) => match custom.as_known() {
                KnownCustom::Name(names) if let Some(names) = named(names.clone(), calls) => {
                    module.section(&names);
                    continue;
                }
                _ => Cow::Borrowed(old),
            },
            (_, None) => Cow::Borrowed(old),
        };
        module.section(&RawSection { id: *id, data: &data });
    }
    Some(module.finish())
}

/// Functions to be called in the place of instructions.
#[derive(Clone, Copy)]
struct Calls {
    copy: u32,
    fill: u32,
    /// Up to this length an instruction stays: the compiler makes a few moves of it, which a call would
    /// be several times as long as.
    short: u32,
}

struct Section<'a> {
    id: u8,
    range: Range<usize>,
    /// If it is none that the specification numbers.
    custom: Option<CustomSectionReader<'a>>,
}

/// Where a guest has what.
#[derive(Default)]
struct Guest<'a> {
    sections: Vec<Section<'a>>,
    types: u32,
    /// Functions that it imports.
    imported: u32,
    /// Code of the functions that it defines.
    bodies: Vec<Range<usize>>,
    memories: Vec<MemoryType>,
}

impl<'a> Guest<'a> {
    fn read(wasm: &'a [u8]) -> Option<Self> {
        let mut guest = Guest::default();
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload.ok()?;
            let section = payload.as_section();
            let mut custom = None;
            match payload {
                Payload::CustomSection(section) => custom = Some(section),
                Payload::TypeSection(types) => {
                    for group in types {
                        guest.types += u32::try_from(group.ok()?.types().len()).ok()?;
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        match import.ok()?.ty {
                            TypeRef::Func(_) | TypeRef::FuncExact(_) => guest.imported += 1,
                            TypeRef::Memory(memory) => guest.memories.push(memory),
                            _ => {}
                        }
                    }
                }
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        guest.memories.push(memory.ok()?);
                    }
                }
                Payload::CodeSectionEntry(body) => guest.bodies.push(body.range()),
                _ => {}
            }
            guest.sections.extend(section.map(|(id, range)| Section { id, range, custom }));
        }
        match guest.memories[..] {
            [MemoryType { memory64: false, shared: false, page_size_log2: None, .. }] => {
                Some(guest)
            }
            // The engine refuses others.
            _ => None,
        }
    }

    /// The code section without the functions that come in addition, if anything calls them.
    fn code(&self, wasm: &[u8], calls: Calls) -> Option<List> {
        let Section { range, .. } = self.sections.iter().find(|section| section.id == CODE)?;
        let (mut code, mut at) = List::begin(&wasm[range.clone()], 2)?;
        at += range.start;
        let mut called = false;
        for body in &self.bodies {
            match with_calls(&wasm[body.clone()], calls)? {
                // With the length that goes before it.
                None => code.bytes.extend(&wasm[at..body.end]),
                Some(new) => {
                    called = true;
                    if new.len() == body.len() {
                        code.bytes.extend(&wasm[at..body.start]);
                    } else {
                        code.moved = true;
                        new.len().encode(&mut code.bytes);
                    }
                    code.bytes.extend(new);
                }
            }
            at = body.end;
        }
        called.then_some(code)
    }
}

/// A section that is a list: its length and what is in it.
struct List {
    bytes: Vec<u8>,
    /// Whether what was in it is no longer where it was.
    moved: bool,
}

impl List {
    /// The beginning of a list that has so many items more than another, and where the first one is in
    /// that.
    fn begin(old: &[u8], more: u32) -> Option<(Self, usize)> {
        let mut reader = BinaryReader::new(old, 0);
        let items = reader.read_var_u32().ok()?.checked_add(more)?;
        let first = reader.original_position();
        let bytes = number(items, first);
        let moved = bytes.len() != first;
        Some((List { bytes, moved }, first))
    }

    /// A list as the old one, with room for so many items more at its end.
    fn longer(old: &[u8], more: u32) -> Option<Self> {
        let (mut list, first) = List::begin(old, more)?;
        list.bytes.extend(&old[first..]);
        Some(list)
    }
}

/// A number in so many bytes, or in as many as it needs if those are more (WebAssembly 5.2.2).
pub(super) fn number(value: u32, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    while bytes.len() < len {
        if let Some(last) = bytes.last_mut() {
            *last |= 0x80;
        }
        bytes.push(0);
    }
    bytes
}

/// A function's code with calls for bulk instructions; nothing for one without any.
fn with_calls(body: &[u8], calls: Calls) -> Option<Option<Vec<u8>>> {
    let mut operators =
        FunctionBody::new(BinaryReader::new(body, 0)).get_operators_reader().ok()?;
    let mut new = Vec::new();
    let mut copied = 0;
    let mut before = Operator::Nop;
    while !operators.eof() {
        let at = operators.original_position();
        let operator = operators.read().ok()?;
        let function = match (&before, &operator) {
            // The length comes last.
            (&Operator::I32Const { value }, Operator::MemoryCopy { .. })
            | (&Operator::I32Const { value }, Operator::MemoryFill { .. })
                if value.cast_unsigned() <= calls.short =>
            {
                None
            }
            (_, Operator::MemoryCopy { .. }) => Some(calls.copy),
            (_, Operator::MemoryFill { .. }) => Some(calls.fill),
            _ => None,
        };
        before = operator;
        let Some(function) = function else { continue };
        let after = operators.original_position();
        let end = new.len() + after - copied;
        new.extend(&body[copied..at]);
        new.push(CALL);
        new.extend(number(function, (after - at - 1).min(NUMBER_BYTES)));
        // Some encoders write instructions longer than they need to be.
        new.resize(new.len().max(end), NOP);
        copied = after;
    }
    if copied == 0 {
        return Some(None);
    }
    new.extend(&body[copied..]);
    Some(Some(new))
}

/// The names of a guest and of what comes in addition.
fn named(names: NameSectionReader<'_>, calls: Calls) -> Option<NameSection> {
    let mut section = NameSection::new();
    for name in names {
        match name.ok()? {
            Name::Function(functions) => {
                let same = |index| Ok::<_, wasm_encoder::reencode::Error>(index);
                let mut functions = utils::name_map(functions, same).ok()?;
                functions.append(calls.copy, COPY);
                functions.append(calls.fill, FILL);
                section.functions(&functions);
            }
            other => RoundtripReencoder.parse_custom_name_subsection(&mut section, other).ok()?,
        }
    }
    Some(section)
}

// Parameters, as those of the instructions.
const TO: u32 = 0;
const FROM: u32 = 1;
const BYTE: u32 = 1;
const LEN: u32 = 2;

/// `memory.copy` in pieces: from the end where the ranges overlap and that keeps what is still to be
/// copied.
fn copying(piece_bytes: u32) -> Function {
    let piece = piece_bytes.cast_signed();
    let mut function = Function::new([]);
    let mut code = function.instructions();
    let whole = |code: &mut InstructionSink<'_>| {
        code.local_get(TO).local_get(FROM).local_get(LEN).memory_copy(0, 0);
    };
    code.local_get(LEN).i32_const(piece).i32_le_u().if_(BlockType::Empty);
    whole(&mut code);
    code.return_().end();
    reaches_beyond(&mut code, TO);
    reaches_beyond(&mut code, FROM);
    code.i32_or().if_(BlockType::Empty);
    whole(&mut code);
    code.return_().end();

    code.local_get(TO).local_get(FROM).i32_le_u().if_(BlockType::Empty);
    code.loop_(BlockType::Empty);
    code.local_get(TO).local_get(FROM).i32_const(piece).memory_copy(0, 0);
    add(&mut code, TO, piece);
    add(&mut code, FROM, piece);
    add(&mut code, LEN, -piece);
    code.local_get(LEN).i32_const(piece).i32_gt_u().br_if(0).end();
    code.else_();
    code.loop_(BlockType::Empty);
    add(&mut code, LEN, -piece);
    code.local_get(TO).local_get(LEN).i32_add();
    code.local_get(FROM).local_get(LEN).i32_add();
    code.i32_const(piece).memory_copy(0, 0);
    code.local_get(LEN).i32_const(piece).i32_gt_u().br_if(0).end();
    code.end();
    whole(&mut code);
    code.end();
    function
}

/// `memory.fill` in pieces.
fn filling(piece_bytes: u32) -> Function {
    let piece = piece_bytes.cast_signed();
    let mut function = Function::new([]);
    let mut code = function.instructions();
    let whole = |code: &mut InstructionSink<'_>| {
        code.local_get(TO).local_get(BYTE).local_get(LEN).memory_fill(0);
    };
    code.local_get(LEN).i32_const(piece).i32_le_u().if_(BlockType::Empty);
    whole(&mut code);
    code.return_().end();
    reaches_beyond(&mut code, TO);
    code.if_(BlockType::Empty);
    whole(&mut code);
    code.return_().end();

    code.loop_(BlockType::Empty);
    code.local_get(TO).local_get(BYTE).i32_const(piece).memory_fill(0);
    add(&mut code, TO, piece);
    add(&mut code, LEN, -piece);
    code.local_get(LEN).i32_const(piece).i32_gt_u().br_if(0).end();
    whole(&mut code);
    code.end();
    function
}

/// Whether the range at `start` does not end within the memory. The instruction traps then, before it
/// changes anything.
fn reaches_beyond(code: &mut InstructionSink<'_>, start: u32) {
    code.local_get(start).i64_extend_i32_u().local_get(LEN).i64_extend_i32_u().i64_add();
    code.memory_size(0).i64_extend_i32_u().i64_const(16).i64_shl().i64_gt_u();
}

fn add(code: &mut InstructionSink<'_>, local: u32, value: i32) {
    code.local_get(local).i32_const(value).i32_add().local_set(local);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wasmtime::{Engine, Instance, Module, Store};

    const BULK: &str = r#"(module $bulk
        (import "a" "b" (func))
        (memory (export "memory") 1)
        (data (i32.const 0) "abcdefghi")
        (func $first (export "first") (result i32) (i32.const 7))
        (func $copy (export "copy") (param i32 i32 i32)
          (memory.copy (local.get 0) (local.get 1) (local.get 2)))
        (func $fill (export "fill") (param i32 i32 i32)
          (memory.fill (local.get 0) (local.get 1) (local.get 2)))
        (func $last (export "last") (result i32) (i32.const 8)))"#;

    fn wasm(text: &str) -> Vec<u8> {
        wat::parse_str(text).expect("is text")
    }

    /// Calls one of its functions again and again; which calls trap, and the memory after them.
    fn run(wasm: &[u8], calls: &[(bool, u32, u32, u32)]) -> (Vec<bool>, Vec<u8>) {
        let engine = Engine::default();
        let module = Module::new(&engine, wasm).expect("is valid");
        let mut store = Store::new(&engine, ());
        let import = wasmtime::Func::wrap(&mut store, || ());
        let instance = Instance::new(&mut store, &module, &[import.into()]).expect("starts");
        let mut function = |name: &str| {
            instance.get_typed_func::<(u32, u32, u32), ()>(&mut store, name).expect("is there")
        };
        let (copy, fill) = (function("copy"), function("fill"));
        let results = calls.iter().map(|&(copies, a, b, len)| {
            let function = if copies { &copy } else { &fill };
            function.call(&mut store, (a, b, len)).is_ok()
        });
        let results = results.collect();
        let memory = instance.get_memory(&mut store, "memory").expect("has one");
        (results, memory.data(&store).to_vec())
    }

    /// Bodies of a module's functions, counted from the beginning of their section.
    fn bodies(wasm: &[u8]) -> Vec<Range<usize>> {
        let guest = Guest::read(wasm).expect("is valid");
        let code = guest.sections.iter().find(|section| section.id == CODE).expect("has code");
        let bodies = guest.bodies.iter();
        bodies.map(|body| body.start - code.range.start..body.end - code.range.start).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn copies_and_fills_as_the_instructions_do(
            calls in prop::collection::vec(
                (any::<bool>(), place(), place(), prop_oneof![0u32..90, place()]), 1..20),
            piece in 1u32..20,
        ) {
            let guest = wasm(BULK);
            let pieces = rewrite(&guest, piece).expect("has bulk instructions");
            prop_assert_eq!(run(&pieces, &calls), run(&guest, &calls));
        }
    }

    /// At the beginning of the memory, around its end, and far beyond.
    fn place() -> impl Strategy<Value = u32> {
        prop_oneof![4 => 0u32..120, 2 => 65_440u32..65_540, 1 => u32::MAX - 60..]
    }

    #[test]
    fn short_lengths_that_are_known_stay_instructions() {
        let is_changed = |code: &str| {
            in_pieces(&wasm(&format!("(module (memory 1) (func (local i32) {code}))"))).is_some()
        };
        assert!(!is_changed("(memory.copy (i32.const 0) (i32.const 1) (i32.const 64))"));
        assert!(!is_changed("(memory.fill (i32.const 0) (i32.const 1) (i32.const 1048576))"));
        assert!(is_changed("(memory.fill (i32.const 0) (i32.const 1) (i32.const 1048577))"));
        assert!(is_changed("(memory.copy (i32.const 0) (i32.const 1) (i32.const -1))"));
        assert!(is_changed("(memory.copy (i32.const 0) (i32.const 1) (local.get 0))"));
    }

    #[test]
    fn instructions_of_any_length_are_replaced() {
        let guest = wasm(
            "(module (memory 1) (func (param i32)
            (memory.fill (local.get 0) (local.get 0) (local.get 0))))",
        );
        let at = guest.windows(3).position(|it| it == [0xfc, 11, 0]).expect("an instruction");
        for opcode in [&[11][..], &[0x8b, 0], &[0x8b, 0x80, 0], &[0x8b, 0x80, 0x80, 0x80, 0]] {
            for memory in [&[0][..], &[0x80, 0], &[0x80, 0x80, 0x80, 0x80, 0]] {
                let longer = opcode.len() + memory.len() - 2;
                let mut padded = guest[..at + 1].to_vec();
                padded.extend(opcode.iter().chain(memory));
                padded.extend(&guest[at + 3..]);
                let body = Guest::read(&guest).expect("is valid").bodies[0].clone();
                let [section, function] = [body.start - 3, body.start - 1];
                padded[section] += longer as u8;
                padded[function] += longer as u8;
                Module::validate(&Engine::default(), &padded).expect("is valid");
                let pieces = in_pieces(&padded).expect("has a bulk instruction");
                Module::validate(&Engine::default(), &pieces).expect("is valid, too");
                assert_eq!(bodies(&pieces)[..1], bodies(&padded));
            }
        }
    }

    #[test]
    fn code_stays_where_it_is() {
        let guest = wasm(BULK);
        let pieces = in_pieces(&guest).expect("has bulk instructions");
        let (before, after) = (bodies(&guest), bodies(&pieces));
        assert_eq!(after[..before.len()], before);
        assert_eq!(after.len(), before.len() + 2);
    }

    #[test]
    fn the_functions_have_names() {
        let pieces = in_pieces(&wasm(BULK)).expect("has bulk instructions");
        let error = {
            let engine = Engine::default();
            let module = Module::new(&engine, &pieces).expect("is valid");
            let mut store = Store::new(&engine, ());
            let import = wasmtime::Func::wrap(&mut store, || ());
            let instance = Instance::new(&mut store, &module, &[import.into()]).expect("starts");
            let fill = instance.get_typed_func::<(u32, u32, u32), ()>(&mut store, "fill");
            fill.expect("is there").call(&mut store, (0, 0, u32::MAX)).expect_err("traps")
        };
        let text = format!("{error:?}");
        assert!(text.contains("bulk!memory.fill in pieces"), "{text}");
        assert!(text.contains("bulk!fill"), "{text}");
    }

    #[test]
    fn debug_information_goes_where_code_moves() {
        // So many functions that a call takes a byte more than memory.fill.
        let functions = "(func)".repeat(17_000);
        let text = |fill: &str| {
            let debug = r#"(@custom ".debug_line" "x")"#;
            format!("(module (memory 1) {debug} {functions} (func {fill}))")
        };
        let names = |wasm: &[u8]| {
            let guest = Guest::read(wasm).expect("is valid");
            let custom = guest.sections.iter().filter_map(|section| section.custom.as_ref());
            custom.map(|custom| custom.name().to_owned()).collect::<Vec<_>>()
        };
        let copy = text("(memory.copy (i32.const 0) (i32.const 1) (i32.const -2))");
        let copy = in_pieces(&wasm(&copy)).expect("has bulk instructions");
        assert_eq!(names(&copy), [".debug_line"]);
        let fill = text("(memory.fill (i32.const 0) (i32.const 1) (i32.const -2))");
        let fill = in_pieces(&wasm(&fill)).expect("has bulk instructions");
        assert_eq!(names(&fill), [""; 0]);
        Module::validate(&Engine::default(), &fill).expect("is valid");
    }

    #[test]
    fn what_has_no_such_instructions_stays_as_it_is() {
        for text in ["(module)", "(module (memory 1) (func (drop (memory.grow (i32.const 1)))))"] {
            assert_eq!(in_pieces(&wasm(text)), None);
        }
        let guest = wasm(BULK);
        for end in 0..guest.len() {
            // Cut, it may still be a module as far as it goes.
            let _ = in_pieces(&guest[..end]);
        }
    }
}
