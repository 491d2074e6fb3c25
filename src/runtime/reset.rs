//! Instances put back to where they were before their first call, which costs less than a new one.
//!
//! What an instance has of its own is its memory, its globals and its tables; what the host keeps for it
//! is made anew. Globals are exported when the guest is compiled, so that they can be read and set. Of the
//! memory only those pages are copied back that have been written to, as the kernel tells. Guests that can
//! change more than that get a new instance each time: those that change tables, drop segments, have
//! globals that are no numbers or use what is collected as garbage; and an instance whose memory has grown
//! is not used again, as memory cannot shrink.

use std::cell::RefCell;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use smallvec::SmallVec;
use wasm_encoder::reencode::{Reencode, RoundtripReencoder};
use wasm_encoder::{ExportKind, ExportSection, Module, RawSection};
use wasmparser::{
    CompositeInnerType, DataKind, GlobalType, Operator, Parser, Payload, SubType, TypeRef, ValType,
};
use wasmtime::{Global, Store, Val};

use super::segments::constant;

/// What is done to guests here: what was compiled under another edition is not the same.
pub(super) const EDITION: &str = "globals exported, 2";

/// What ours are called among a guest's exports. A guest has none of its own that begin like this.
const OURS: &str = "http-wasm: ";

/// Says of a module that its instances can be reset, and up to where a new one's memory is not zero.
const MARK: &str = "http-wasm: can be reset, initial bytes: ";

/// What globals are exported as, with a number.
const GLOBAL: &str = "http-wasm: global ";

/// Guests with more of these are not worth it.
const GLOBALS_MAX: usize = 1000;
const EXPORTS_MAX: u32 = 10_000;

/// What is copied back at most: half a millisecond of work, in which a worker serves nobody else. A new
/// instance gets its pages from the kernel one by one, at ten times that cost. It is what an instance has written to
/// since it was made: one that has once written more is not put back for ever after, and gives its pages
/// back.
const COPIED_BYTES: usize = 4 << 20;

/// Initial memory that is kept for it in each worker at most. Reading it takes some ten milliseconds, once.
const INITIAL_BYTES_MAX: usize = 128 << 20;

/// Memory whose pages are looked at one by one at most: some ten microseconds of work.
const READ_BYTES_MAX: usize = 8 << 20;

/// Sections of a module (WebAssembly 5.5.2).
const EXPORTS: u8 = 7;

/// Ranges of a memory.
pub type Ranges = SmallVec<[Range<usize>; 16]>;

/// Finds the pages of an instance's memory that may have been written to since it was made; `false` where
/// that cannot be told.
pub type FindWritten = fn(memory: &[u8], written: &mut Ranges) -> bool;

/// A guest in binary format that exports what changes in its instances, if that is enough to reset one.
/// `None` where nothing is to be done, and of what cannot be read: compiling it says what is wrong.
pub(super) fn exporting(wasm: &[u8]) -> Option<Vec<u8>> {
    let guest = Guest::read(wasm)?;
    if guest.changes_more && !guest.pretends {
        return None;
    }
    let mut exports = guest.exports;
    if !guest.changes_more {
        for (number, &global) in guest.globals.iter().enumerate() {
            exports.export(&format!("{GLOBAL}{number}"), ExportKind::Global, global);
        }
        exports.export(&format!("{MARK}{}", guest.initial_bytes), ExportKind::Memory, 0);
    }
    let mut module = Module::new();
    for (id, range) in guest.sections {
        match id {
            EXPORTS => module.section(&exports),
            id => module.section(&RawSection { id, data: &wasm[range] }),
        };
    }
    Some(module.finish())
}

#[derive(Default)]
struct Guest {
    sections: Vec<(u8, Range<usize>)>,
    /// Its own, except for those that are called as ours are.
    exports: ExportSection,
    /// Whether there are such.
    pretends: bool,
    /// Numbers of the globals that may change.
    globals: Vec<u32>,
    /// Where the last of its data ends.
    initial_bytes: usize,
    /// It can change more than its memory and these, does something for each new instance, or has too much
    /// of either.
    changes_more: bool,
}

impl Guest {
    fn read(wasm: &[u8]) -> Option<Self> {
        let mut guest = Guest::default();
        let mut memories = 0;
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload.ok()?;
            guest.sections.extend(payload.as_section());
            match payload {
                Payload::TypeSection(types) => {
                    let is_function = |ty: &SubType| {
                        matches!(ty.composite_type.inner, CompositeInnerType::Func(_))
                    };
                    for group in types {
                        guest.changes_more |= !group.ok()?.types().all(is_function);
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        let is_function =
                            matches!(import.ok()?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_));
                        guest.changes_more |= !is_function;
                    }
                }
                Payload::MemorySection(all) => memories = all.count(),
                Payload::GlobalSection(globals) => {
                    for (number, global) in globals.into_iter().enumerate() {
                        let GlobalType { content_type, mutable, .. } = global.ok()?.ty;
                        if mutable {
                            guest.globals.push(u32::try_from(number).ok()?);
                            guest.changes_more |= matches!(content_type, ValType::Ref(_));
                        }
                    }
                    guest.changes_more |= guest.globals.len() > GLOBALS_MAX;
                }
                Payload::StartSection { .. } | Payload::TagSection(_) => guest.changes_more = true,
                Payload::ExportSection(exports) => {
                    guest.changes_more |= exports.count() > EXPORTS_MAX;
                    for export in exports {
                        let export = export.ok()?;
                        if is_ours(export.name) {
                            guest.pretends = true;
                        } else {
                            let kind = RoundtripReencoder.export_kind(export.kind).ok()?;
                            guest.exports.export(export.name, kind, export.index);
                        }
                    }
                }
                Payload::DataSection(segments) => {
                    for segment in segments {
                        let segment = segment.ok()?;
                        let DataKind::Active { offset_expr, .. } = segment.kind else { continue };
                        match constant(&offset_expr) {
                            Some(at) => {
                                let end = at.checked_add(segment.data.len())?;
                                guest.initial_bytes = guest.initial_bytes.max(end);
                            }
                            None => guest.changes_more = true,
                        }
                    }
                }
                Payload::CodeSectionEntry(body) if !guest.changes_more => {
                    let mut operators = body.get_operators_reader().ok()?;
                    while !operators.eof() {
                        guest.changes_more |= changes_more(&operators.read().ok()?);
                    }
                }
                _ => {}
            }
        }
        guest.changes_more |= memories != 1 || guest.initial_bytes > INITIAL_BYTES_MAX;
        Some(guest)
    }
}

/// Whether an instruction changes what is neither memory nor a global.
const fn changes_more(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::TableSet { .. }
            | Operator::TableGrow { .. }
            | Operator::TableFill { .. }
            | Operator::TableCopy { .. }
            | Operator::TableInit { .. }
            | Operator::TableAtomicSet { .. }
            | Operator::TableAtomicRmwXchg { .. }
            | Operator::TableAtomicRmwCmpxchg { .. }
            | Operator::ElemDrop { .. }
            | Operator::DataDrop { .. }
    )
}

/// Whether an export is not the guest's own: added when it was compiled.
pub fn is_ours(export: &str) -> bool {
    export.starts_with(OURS)
}

/// Up to where the memory of a module's new instances is not zero, if they can be reset.
pub(super) fn initial_bytes(module: &wasmtime::Module) -> Option<usize> {
    module.exports().find_map(|export| export.name().strip_prefix(MARK)?.parse().ok())
}

/// The globals of an instance that can be reset, with their values now.
pub(super) fn globals<T>(store: &mut Store<T>, instance: wasmtime::Instance) -> Vec<(Global, Val)> {
    let name = |number| format!("{GLOBAL}{number}");
    let globals = (0..).map_while(|number| instance.get_global(&mut *store, &name(number)));
    let globals: Vec<_> = globals.collect();
    let value = |global: Global| (global, global.get(&mut *store));
    globals.into_iter().map(value).collect()
}

/// The memory of a guest's instances before their first call, without what is zero.
pub(super) struct Pristine {
    bytes: usize,
    /// Pages one behind the other, in order.
    runs: Vec<(usize, Vec<u8>)>,
}

/// What is looked at for whether it is zero.
const PAGE: usize = 4096;

impl Pristine {
    /// That of a new instance, which is zero from `end` on. Nothing is read there: the kernel would count
    /// the pages.
    pub(super) fn of(memory: &[u8], end: usize) -> Self {
        let mut runs: Vec<(usize, Vec<u8>)> = Vec::new();
        let initial = &memory[..end.next_multiple_of(PAGE).min(memory.len())];
        for (at, page) in initial.chunks(PAGE).enumerate() {
            if page.iter().all(|&byte| byte == 0) {
                continue;
            }
            match runs.last_mut() {
                Some((start, run)) if *start + run.len() == at * PAGE => {
                    run.extend_from_slice(page)
                }
                _ => runs.push((at * PAGE, page.to_vec())),
            }
        }
        Pristine { bytes: memory.len(), runs }
    }

    /// Whether a memory can be made that again: it is as large, and not too much of it has been written.
    pub(super) fn fits(&self, memory: &[u8], find_written: FindWritten) -> Option<Ranges> {
        let mut written = Ranges::new();
        let found = self.bytes == memory.len() && find_written(memory, &mut written);
        let bytes: usize = written.iter().map(Range::len).sum();
        (found && bytes <= COPIED_BYTES).then_some(written)
    }

    /// Makes a part of a memory what it was.
    pub(super) fn restore(&self, memory: &mut [u8], Range { start, end }: Range<usize>) {
        let mut done = start;
        let first = self.runs.partition_point(|(at, run)| at + run.len() <= start);
        for (at, run) in &self.runs[first..] {
            if *at >= end {
                break;
            }
            let (from, to) = (start.max(*at), end.min(at + run.len()));
            memory[done..from].fill(0);
            memory[from..to].copy_from_slice(&run[from - at..to - at]);
            done = to;
        }
        memory[done..end].fill(0);
    }
}

thread_local! {
    /// The kernel's page map of this process, and which process that is: not one that was forked since.
    static PAGE_MAP: RefCell<Option<(u32, File)>> = const { RefCell::new(None) };
}

/// Does something with `/proc/self/pagemap`, which exists where the kernel lets a process look.
pub fn with_page_map<T>(look: impl FnOnce(&File) -> Option<T>) -> Option<T> {
    PAGE_MAP.with_borrow_mut(|map| {
        let process = std::process::id();
        if map.as_ref().is_none_or(|(of, _)| *of != process) {
            *map = Some((process, File::open("/proc/self/pagemap").ok()?));
        }
        look(&map.as_ref()?.1)
    })
}

/// An entry of the page map (Linux, `admin-guide/mm/pagemap.rst`).
const ENTRY: usize = size_of::<u64>();
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// Of a file, which the initial memory is in until it is written to.
const OF_FILE: u64 = 1 << 61;

/// Finds written pages by reading the page map, which any kernel has. It does not tell pages that were read,
/// and are zero, from those that were written to.
pub fn read_page_map(memory: &[u8], written: &mut Ranges) -> bool {
    let page = rustix::param::page_size();
    let start = memory.as_ptr().addr();
    if !start.is_multiple_of(page) || memory.len() > READ_BYTES_MAX {
        return false;
    }
    let read = with_page_map(|map| {
        let mut entries = [0; 512 * ENTRY];
        let mut at = 0;
        while at < memory.len() {
            let pages = (memory.len() - at).div_ceil(page).min(entries.len() / ENTRY);
            let entries = &mut entries[..pages * ENTRY];
            map.read_exact_at(entries, ((start + at) / page * ENTRY) as u64).ok()?;
            for entry in entries.as_chunks().0 {
                let entry = u64::from_ne_bytes(*entry);
                if entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0 {
                    add(written, at..memory.len().min(at + page));
                }
                at += page;
            }
        }
        Some(())
    });
    read.is_some()
}

/// Adds a range behind all others.
pub fn add(ranges: &mut Ranges, range: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}
