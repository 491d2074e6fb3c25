//! A guest without its code: a module with the same imports, memories, tables and exports of the ABI,
//! which compiles in no time. What the host refuses for one of these is refused before the guest itself,
//! which may take minutes, is compiled.

use wasm_encoder::reencode::{Reencode, RoundtripReencoder};
use wasm_encoder::{
    CodeSection, ExportKind, ExportSection, Function, FunctionSection, ImportSection, Instruction,
    MemorySection, Module, TableSection, TypeSection,
};
use wasmparser::{Encoding, ExternalKind, Parser, Payload, TypeRef};

use super::guest::{INITIALIZE, START};
use crate::abi::{EXPORT_HANDLE_REQUEST, EXPORT_HANDLE_RESPONSE, EXPORT_MEMORY};

/// What the host looks for.
const EXPORTS: [&str; 5] =
    [EXPORT_MEMORY, EXPORT_HANDLE_REQUEST, EXPORT_HANDLE_RESPONSE, INITIALIZE, START];

/// The outline of a guest in binary or text format. `None` of what cannot be read, or is stranger than
/// guests are: compiling it says what is wrong.
pub(super) fn outline(bytes: &[u8]) -> Option<Vec<u8>> {
    let wasm = wat::parse_bytes(bytes).ok()?;
    let mut outline = Outline::default();
    for payload in Parser::new(0).parse_all(&wasm) {
        match payload.ok()? {
            Payload::Version { encoding: Encoding::Component, .. } => return None,
            Payload::CodeSectionStart { .. } => break,
            payload => outline.take(payload)?,
        }
    }
    Some(outline.finish())
}

#[derive(Default)]
struct Outline {
    types: TypeSection,
    imports: ImportSection,
    functions: FunctionSection,
    tables: TableSection,
    memories: MemorySection,
    exports: ExportSection,
    code: CodeSection,
    imported_functions: u32,
    /// Types of the functions that the guest defines.
    defined: Vec<u32>,
}

impl Outline {
    fn take(&mut self, payload: Payload<'_>) -> Option<()> {
        let mut same = RoundtripReencoder;
        match payload {
            Payload::TypeSection(types) => {
                same.parse_type_section(&mut self.types, types).ok()?;
            }
            Payload::ImportSection(imports) => {
                for import in imports.clone().into_imports() {
                    let ty = import.ok()?.ty;
                    let is_function = matches!(ty, TypeRef::Func(_) | TypeRef::FuncExact(_));
                    self.imported_functions += u32::from(is_function);
                }
                same.parse_import_section(&mut self.imports, imports).ok()?;
            }
            Payload::FunctionSection(functions) => {
                self.defined = functions.into_iter().collect::<Result<_, _>>().ok()?;
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    self.tables.table(same.table_type(table.ok()?.ty).ok()?);
                }
            }
            Payload::MemorySection(memories) => {
                same.parse_memory_section(&mut self.memories, memories).ok()?;
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.ok()?;
                    if EXPORTS.contains(&export.name) {
                        self.export(export.name, export.kind, export.index)?;
                    }
                }
            }
            _ => {}
        }
        Some(())
    }

    fn export(&mut self, name: &str, kind: ExternalKind, index: u32) -> Option<()> {
        let (kind, index) = match kind {
            ExternalKind::Func => match index.checked_sub(self.imported_functions) {
                None => (ExportKind::Func, index),
                Some(defined) => {
                    self.functions.function(*self.defined.get(defined as usize)?);
                    let mut body = Function::new([]);
                    body.instruction(&Instruction::Unreachable).instruction(&Instruction::End);
                    self.code.function(&body);
                    (ExportKind::Func, self.imported_functions + self.functions.len() - 1)
                }
            },
            ExternalKind::Memory => (ExportKind::Memory, index),
            ExternalKind::Table => (ExportKind::Table, index),
            _ => return None,
        };
        self.exports.export(name, kind, index);
        Some(())
    }

    fn finish(self) -> Vec<u8> {
        let mut module = Module::new();
        module
            .section(&self.types)
            .section(&self.imports)
            .section(&self.functions)
            .section(&self.tables)
            .section(&self.memories)
            .section(&self.exports)
            .section(&self.code);
        module.finish()
    }
}
