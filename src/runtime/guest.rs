//! From bytes to a guest that can be started: compiling, checking what it exports and imports,
//! linking ahead, start functions. Every [`LoadError`] about a guest is born here.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use wasmtime::{
    Extern, ExternType, FuncType, InstancePre, Linker, Module, ModuleExport, Store, Trap,
    TypedFunc, UpdateDeadline, ValType, WasmBacktrace, WasmParams, WasmResults,
};

use super::error::{Exit, LoadError, Timeout};
use super::instance::{Data, Instance, Loan};
use super::outline::outline;
use super::pieces::in_pieces;
use super::reset::{self, FindWritten, Pristine, exporting};
use super::segments::joined;
use super::snapshot::Start;
use super::ticker::Pace;
use super::wasi::sock::Said;
use super::wasi::{self, Wasi};
use super::{Engine, Limits, describe};
use crate::abi::{
    EXPORT_HANDLE_REQUEST, EXPORT_HANDLE_RESPONSE, EXPORT_MEMORY, Level, WASI_MODULE,
};
use crate::escaped::Quoted;
use crate::host::connect::Outbound;
use crate::host::error::Denial;
use crate::host::{Host, Phase, linker};

/// What an operator decides about one guest.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How logs call it.
    pub name: String,
    /// What `get_config` returns.
    pub config: Bytes,
    /// What one instance may use.
    pub limits: Limits,
    /// Environment variables, for guests that import WASI.
    pub env: Vec<(String, String)>,
    /// Directories, for guests that import WASI.
    pub dirs: Vec<Dir>,
    /// Whether clocks and random numbers are the same in every instance, for guests that import
    /// WASI.
    pub strict: bool,
    /// Connections, for guests that import sockets.
    pub outbound: Outbound,
}

/// A directory lent to a guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dir {
    /// Where it is.
    pub host: PathBuf,
    /// What the guest calls it.
    pub guest: String,
    /// Whether the guest may change what is in it.
    pub writable: bool,
}

/// Compiles a core module in binary or text format, with its data segments [joined](super::segments), its
/// bulk instructions [in pieces](super::pieces) if the engine interrupts guests, and what an instance needs to be [reset](super::reset).
pub fn compile(engine: &Engine, bytes: &[u8]) -> Result<Module, LoadError> {
    // Version 13, layer 1: what component tools write.
    if bytes.starts_with(b"\0asm\x0d\0\x01\0") {
        return Err(LoadError::Component);
    }
    let module = |bytes: &[u8]| Module::new(engine.wasm(), bytes);
    let compiled = match wat::parse_bytes(bytes).ok().and_then(|wasm| rewritten(engine, &wasm)) {
        None => module(bytes),
        // The message has the offset in the file, unless it is that there are as many functions already as
        // there may be: nothing may copy without end.
        Some(wasm) => module(&wasm).map_err(|error| module(bytes).err().unwrap_or(error)),
    };
    compiled.map_err(|error| {
        let reason = describe(&error);
        if bytes.starts_with(b"\0asm") {
            LoadError::Compile(reason)
        } else if !looks_like_text(bytes) {
            LoadError::NotWasm(reason)
        } else if reason.contains("WebAssembly component") {
            LoadError::Component
        } else {
            LoadError::Compile(reason)
        }
    })
}

/// What is compiled in the place of a guest.
fn rewritten(engine: &Engine, wasm: &[u8]) -> Option<Vec<u8>> {
    let joined = joined(wasm);
    let pieces = match engine.interrupts() {
        true => in_pieces(joined.as_deref().unwrap_or(wasm)).or(joined),
        false => joined,
    };
    exporting(pieces.as_deref().unwrap_or(wasm)).or(pieces)
}

/// Text format starts with a parenthesis or a comment.
fn looks_like_text(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    text.starts_with(b"(") || text.starts_with(b";;")
}

/// A guest that was checked and linked: instances are made from it at the cost of their memory.
pub struct Guest<H: Host> {
    pre: InstancePre<Data<H>>,
    exports: Exports,
    pace: Arc<Pace>,
    counts: bool,
    settings: Settings,
    start: Start,
    imports_wasi: bool,
    handles_responses: bool,
    exit_was_reported: AtomicBool,
    /// Of what its instances may not do in the log.
    said: Said,
    /// With what instances are reset, if they are, and up to where the memory of a new one is not zero.
    reset: Option<(FindWritten, usize)>,
    /// To what.
    pristine: OnceLock<Pristine>,
}

impl<H: Host> Guest<H> {
    /// Checks everything that can be checked without running the guest's code.
    pub fn new(engine: &Engine, module: &Module, settings: Settings) -> Result<Self, LoadError> {
        let exports = check_exports(module)?;
        check_sizes(module, &settings.limits)?;
        let imports_wasi = module.imports().any(|import| import.module() == WASI_MODULE);
        let failed = |error| LoadError::Engine(describe(&error));
        let mut linker = Linker::new(engine.wasm());
        linker::add_to_linker(&mut linker).map_err(failed)?;
        if imports_wasi {
            wasi::add_to_linker(&mut linker, module).map_err(failed)?;
        }
        check_imports(engine, &linker, module, &settings)?;
        Ok(Guest {
            pre: linker.instantiate_pre(module).map_err(failed)?,
            exports,
            pace: Arc::clone(engine.pace()),
            counts: engine.counts(),
            settings,
            start: Start::Run,
            imports_wasi,
            handles_responses: true,
            exit_was_reported: AtomicBool::new(false),
            said: Said::default(),
            reset: None,
            pristine: OnceLock::new(),
        })
    }

    /// Checks of a guest's bytes what can be checked without compiling it, so that one that cannot be
    /// used is refused at once.
    pub fn examine(engine: &Engine, bytes: &[u8], settings: &Settings) -> Result<(), LoadError> {
        let outline = outline(bytes).and_then(|wasm| Module::new(engine.wasm(), wasm).ok());
        match outline {
            Some(module) => Self::new(engine, &module, settings.clone()).map(drop),
            None => Ok(()),
        }
    }

    /// The guest with instances that start like this; what [`super::snapshot::prepare`] says of its
    /// module.
    pub fn with(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// The guest without calls of `handle_response`, if that is known to do nothing
    /// ([`super::inspect::ignores_responses`]).
    pub fn ignoring_responses(mut self, ignores: bool) -> Self {
        self.handles_responses = !ignores;
        self
    }

    /// What an instance is to run before its first call, beside the start section.
    fn start_function(&self) -> Option<(&'static str, ModuleExport)> {
        match self.start {
            Start::Run => self.exports.start,
            Start::Done(_) => self.exports.resume.map(|export| (RESUME, export)),
        }
    }

    /// The guest with instances that can be [reset](Guest::reset), if all that one does before its first
    /// call is the same each time. To be said after [`Guest::with`].
    pub fn resettable(mut self, find_written: FindWritten) -> Self {
        let starts = self.start_function().is_some();
        let initial_bytes = reset::initial_bytes(self.pre.module()).filter(|_| !starts);
        self.reset = initial_bytes.map(|bytes| (find_written, bytes));
        self
    }

    /// Makes an instance what it was before its first call; `false` where a new one is needed for that.
    pub fn reset(&self, instance: &mut Instance<H>) -> bool {
        let (Some((find_written, _)), Some(pristine)) = (self.reset, self.pristine.get()) else {
            return false;
        };
        if instance.is_poisoned() {
            return false;
        }
        let wasi = match self.imports_wasi.then(|| Wasi::new(&self.settings, &self.said)) {
            Some(Err(_)) => return false,
            Some(Ok(wasi)) => Some(wasi),
            None => None,
        };
        instance.reset(pristine, find_written, wasi)
    }

    /// Whether `handle_response` is to be called.
    pub fn handles_responses(&self) -> bool {
        self.handles_responses
    }

    /// How logs call it.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What the operator decided.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Makes an instance and runs its start functions: the module's start section, then
    /// `_initialize` if exported, else `_start` if exported; or, if the module is a snapshot, `wizer.resume`
    /// if exported.
    ///
    /// Not to be called in a process that forks later and whose children call it too, for guests
    /// that import WASI: the children would share the state of the random number generator.
    pub async fn start(&self, host: H) -> Result<Instance<H>, LoadError> {
        let (mut store, instance) = self.run_start(host).await?;
        let globals = match self.reset {
            Some(_) => reset::globals(&mut store, instance),
            None => Vec::new(),
        };
        let instance = Instance::new(store, instance, &self.exports, globals)?;
        if let Some((_, end)) = self.reset {
            self.pristine.get_or_init(|| Pristine::of(instance.memory(), end));
        }
        Ok(instance)
    }

    /// [`Guest::start`], as the engine sees it.
    pub(crate) async fn run_start(
        &self,
        host: H,
    ) -> Result<(Store<Data<H>>, wasmtime::Instance), LoadError> {
        let wasi = match self.imports_wasi {
            true => Some(Wasi::new(&self.settings, &self.said)?),
            false => None,
        };
        let mut store = self.store(wasi);
        if self.counts {
            store.set_fuel(u64::MAX).map_err(|error| LoadError::Engine(describe(&error)))?;
        }
        if let Start::Done(features) = self.start {
            store.data_mut().state.set_start_features(features);
        }
        let mut loan =
            Loan::begin(&mut store, host, Phase::Start, INSTANTIATE).map_err(LoadError::Start)?;
        let result = self.run_start_functions(&mut loan).await;
        if let Err(error) = &result
            && loan.call == INSTANTIATE
            && !ran_code(error)
        {
            return Err(LoadError::Instantiate(describe(error)));
        }
        let instance = loan.end(result).map_err(LoadError::Start)?;
        Ok((store, instance))
    }

    /// The one place where stores are made, so that none is without limits.
    fn store(&self, wasi: Option<Wasi>) -> Store<Data<H>> {
        let mut store =
            Store::new(self.pre.module().engine(), Data::new(&self.settings, &self.pace, wasi));
        store.limiter(|data| &mut data.limiter);
        if let Some(slice) = self.settings.limits.slice {
            let pace = Arc::clone(&self.pace);
            store.epoch_deadline_callback(move |_| match pace.overrun() {
                Some(limit) => Err(Timeout(limit).into()),
                // Nothing when the epoch went forward for another guest.
                None if pace.lasted() < slice => Ok(UpdateDeadline::Continue(1)),
                None => Ok(UpdateDeadline::Yield(1)),
            });
        }
        #[cfg(feature = "restless")]
        store.call_hook_async(super::restless::Restless::default());
        store
    }

    async fn run_start_functions(
        &self,
        loan: &mut Loan<'_, H>,
    ) -> wasmtime::Result<wasmtime::Instance> {
        let instance = self.pre.instantiate_async(&mut *loan.store).await?;
        let Some((name, export)) = self.start_function() else {
            return Ok(instance);
        };
        loan.call = name;
        let function = function::<(), (), H>(instance, loan.store, &export)?;
        match function.call_async(&mut *loan.store, ()).await {
            Err(error) if name == START && is_success(&error) => self.report_exit(loan.store),
            result => result?,
        }
        Ok(instance)
    }

    /// Commands end with an exit; a guest must go on living. Those that merely were built as a
    /// command work all the same, and once is enough to say so.
    fn report_exit(&self, store: &mut Store<Data<H>>) {
        if let Ok(host) = store.data_mut().state.any_phase()
            && !self.exit_was_reported.swap(true, Ordering::Relaxed)
        {
            host.remark(
                Level::Warn,
                "_start called proc_exit(0); tolerated, but build the guest as a reactor \
                  that exports _initialize (-buildmode=c-shared)",
            );
        }
    }
}

const INSTANTIATE: &str = "start section";
pub(super) const INITIALIZE: &str = "_initialize";
pub(super) const START: &str = "_start";
/// What Wizer's users call the function that a module runs when it begins with a snapshot, in the place of its
/// start function.
const RESUME: &str = "wizer.resume";

fn is_success(error: &wasmtime::Error) -> bool {
    matches!(error.downcast_ref(), Some(Exit { code: 0 }))
}

/// Whether an instantiation got as far as the guest's code.
fn ran_code(error: &wasmtime::Error) -> bool {
    error.is::<WasmBacktrace>()
        || error.is::<Trap>()
        || error.is::<Denial>()
        || error.is::<Exit>()
        || error.is::<Timeout>()
}

/// Where a module has what an instance is asked for: by name each look-up costs more than a call.
pub(crate) struct Exports {
    pub(crate) memory: ModuleExport,
    pub(crate) handle_request: ModuleExport,
    pub(crate) handle_response: ModuleExport,
    /// The start function to call, with its name.
    start: Option<(&'static str, ModuleExport)>,
    /// What to call in its place in an instance that begins with a snapshot.
    resume: Option<ModuleExport>,
}

/// An exported function, with its type.
pub(crate) fn function<P: WasmParams, R: WasmResults, H: Host>(
    instance: wasmtime::Instance,
    store: &mut Store<Data<H>>,
    export: &ModuleExport,
) -> wasmtime::Result<TypedFunc<P, R>> {
    let function = instance.get_module_export(&mut *store, export).and_then(Extern::into_func);
    function.ok_or_else(|| wasmtime::Error::msg("is no function"))?.typed(&*store)
}

fn check_exports(module: &Module) -> Result<Exports, LoadError> {
    let functions: [(_, _, &[ValType], &[ValType]); 2] = [
        (EXPORT_HANDLE_REQUEST, "a function () -> i64", &[], &[ValType::I64]),
        (EXPORT_HANDLE_RESPONSE, "a function (i32, i32) -> ()", &[ValType::I32, ValType::I32], &[]),
    ];
    for (name, expected, params, results) in functions {
        let is_right = |ty: &ExternType| match ty {
            ExternType::Func(ty) => same(ty.params(), params) && same(ty.results(), results),
            _ => false,
        };
        check_export(module, name, expected, is_right)?;
    }
    // Memories that are shared or 64 bits wide are not enabled in the engine; asked again, because
    // a precompiled module need not have come through the same settings.
    let is_right = |ty: &ExternType| match ty {
        ExternType::Memory(memory) => !memory.is_64() && !memory.is_shared(),
        _ => false,
    };
    check_export(module, EXPORT_MEMORY, "a 32-bit unshared memory", is_right)?;
    let is_start = |ty: &ExternType| match ty {
        ExternType::Func(ty) => same(ty.params(), &[]) && same(ty.results(), &[]),
        _ => false,
    };
    for name in [INITIALIZE, START, RESUME] {
        if module.get_export(name).is_some() {
            check_export(module, name, "a function () -> ()", is_start)?;
        }
    }
    let export = |name| {
        let missing = LoadError::MissingExport { name, expected: "an export" };
        module.get_export_index(name).ok_or(missing)
    };
    let mut start = [INITIALIZE, START].into_iter();
    Ok(Exports {
        memory: export(EXPORT_MEMORY)?,
        handle_request: export(EXPORT_HANDLE_REQUEST)?,
        handle_response: export(EXPORT_HANDLE_RESPONSE)?,
        start: start.find_map(|name| Some((name, module.get_export_index(name)?))),
        resume: module.get_export_index(RESUME),
    })
}

fn check_export(
    module: &Module,
    name: &'static str,
    expected: &'static str,
    is_right: impl Fn(&ExternType) -> bool,
) -> Result<(), LoadError> {
    match module.get_export(name) {
        None => Err(LoadError::MissingExport { name, expected }),
        Some(ty) if is_right(&ty) => Ok(()),
        Some(ty) => Err(LoadError::ExportType { name, expected, found: type_name(&ty) }),
    }
}

fn same(types: impl ExactSizeIterator<Item = ValType>, expected: &[ValType]) -> bool {
    types.len() == expected.len() && types.zip(expected).all(|(a, b)| ValType::eq(&a, b))
}

fn check_sizes(module: &Module, limits: &Limits) -> Result<(), LoadError> {
    let resources = module.resources_required();
    if let Some(ExternType::Memory(memory)) = module.get_export(EXPORT_MEMORY) {
        let needs_bytes = memory.minimum().saturating_mul(memory.page_size());
        if needs_bytes > limits.memory_bytes as u64 {
            return Err(LoadError::Memory { needs_bytes, limit_bytes: limits.memory_bytes });
        }
    }
    match resources.max_initial_table_size {
        Some(needs) if needs > limits.table_elements as u64 => {
            Err(LoadError::Table { needs, limit: limits.table_elements })
        }
        _ => Ok(()),
    }
}

/// Names every import that is not there, and then every one that is there with another type. The
/// engine would stop at the first.
fn check_imports<H: Host>(
    engine: &Engine,
    linker: &Linker<Data<H>>,
    module: &Module,
    settings: &Settings,
) -> Result<(), LoadError> {
    let mut store = Store::new(module.engine(), Data::new(settings, engine.pace(), None));
    let (mut unknown, mut mismatched) = (Vec::new(), Vec::new());
    for import in module.imports() {
        let name = format!(
            "\"{}\".\"{}\"",
            Quoted::new(import.module().as_bytes()),
            Quoted::new(import.name().as_bytes())
        );
        let wanted = import.ty();
        let Some(provided) = linker.get_by_import(&mut store, &import) else {
            unknown.push(format!("{name} ({})", type_name(&wanted)));
            continue;
        };
        let provided = provided.ty(&store);
        let matches = match (&provided, &wanted) {
            (ExternType::Func(provided), ExternType::Func(wanted)) => provided.matches(wanted),
            _ => false,
        };
        if !matches {
            let (wanted, provided) = (type_name(&wanted), type_name(&provided));
            mismatched.push(format!("{name} as {wanted}, expected {provided}"));
        }
    }
    if !unknown.is_empty() {
        Err(LoadError::UnknownImports(unknown.join(", ")))
    } else if !mismatched.is_empty() {
        Err(LoadError::ImportTypes(mismatched.join(", ")))
    } else {
        Ok(())
    }
}

fn type_name(ty: &ExternType) -> String {
    match ty {
        ExternType::Func(ty) => function_type_name(ty),
        ExternType::Global(_) => "a global".into(),
        ExternType::Table(_) => "a table".into(),
        ExternType::Memory(ty) if ty.is_64() => "a 64-bit memory".into(),
        ExternType::Memory(ty) if ty.is_shared() => "a shared memory".into(),
        ExternType::Memory(_) => "a memory".into(),
        ExternType::Tag(_) => "a tag".into(),
    }
}

fn function_type_name(ty: &FuncType) -> String {
    let join = |types: &mut dyn Iterator<Item = ValType>| {
        let names: Vec<String> = types.map(|ty| ty.to_string()).collect();
        names.join(", ")
    };
    let params = join(&mut ty.params());
    match ty.results().len() {
        1 => format!("a function ({params}) -> {}", join(&mut ty.results())),
        _ => format!("a function ({params}) -> ({})", join(&mut ty.results())),
    }
}
