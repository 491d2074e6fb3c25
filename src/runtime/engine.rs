//! The engine: how guests are compiled, and where their instances find room.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, ProfilingStrategy,
    WasmBacktraceDetails,
};

use super::error::LoadError;
use super::segments::IMAGE_BYTES;
use super::ticker::Pace;
use super::{TABLE_ELEMENTS, TABLES, describe};

/// Where compilation may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compile {
    /// On the calling thread; no other thread is ever started. A process that forks later must not
    /// have any: the compiler's thread pool would be gone in the child and waited for for ever.
    Serial,
    /// On all cores, for a process that lives only to compile.
    Parallel,
}

/// Addresses of an instance's memory: what 32-bit pointers reach, so that the processor finds what
/// is out of bounds and the guest need not look. Without, compute-bound guests lose 38 %.
const RESERVATION_BYTES: u64 = 4 << 30;

/// Addresses behind each memory that are never mapped, for constant offsets beyond the pointer.
const GUARD_BYTES: u64 = 32 << 20;

/// Where instances find room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Each looks for its own when it is made.
    OnDemand,
    /// That many places are reserved at once and used again and again: 4 GiB and 32 MiB of
    /// addresses for a memory, 16 MiB for tables, [`Engine::STACK_BYTES`] and more for a stack.
    /// Only what a guest writes to becomes memory.
    Pooled {
        /// Instances at a time.
        instances: u32,
    },
    /// For processes that may not have that many addresses: as [`Layout::OnDemand`], but no more
    /// than a memory's size, with every access checked by the guest's code.
    Compact,
}

/// Compiles and runs guests. A clone is the same engine.
#[derive(Clone)]
pub struct Engine {
    wasm: wasmtime::Engine,
    pace: Arc<Pace>,
    plan: Plan,
}

/// What an engine is made of.
#[derive(Clone, Copy)]
struct Plan {
    compile: Compile,
    layout: Layout,
    stack_bytes: usize,
    /// Whether guests can be stopped, and made to give way, inside their code.
    interrupts: bool,
    /// Whether they count what they execute.
    counts: bool,
    /// Whether `perf` is told where their functions are.
    profile: bool,
}

impl Engine {
    /// Stack of one call if nobody says otherwise. Wide enough for goroutines and regular
    /// expressions.
    pub const STACK_BYTES: usize = 512 << 10;

    /// What host functions need on the same stack.
    const HOST_STACK_BYTES: usize = 3 << 19;

    /// An engine whose instances each look for room, with the usual stack.
    pub fn new(compile: Compile) -> Result<Self, LoadError> {
        Engine::with(compile, Layout::OnDemand, Engine::STACK_BYTES)
    }

    /// An engine. What one compiles and serializes another loads, if both are [`Layout::Compact`]
    /// or neither is.
    pub fn with(compile: Compile, layout: Layout, stack_bytes: usize) -> Result<Self, LoadError> {
        Engine::of(Plan::usual(compile, layout, stack_bytes))
    }

    /// An engine that says in [`Engine::perf_map`] where the functions of its guests are.
    pub fn profiled(
        compile: Compile,
        layout: Layout,
        stack_bytes: usize,
    ) -> Result<Self, LoadError> {
        let plan = Plan { profile: true, ..Plan::usual(compile, layout, stack_bytes) };
        let engine = Engine::of(plan)?;
        PERF_MAP.get_or_init(|| format!("/tmp/perf-{}.map", std::process::id()).into());
        Ok(engine)
    }

    /// The file that `perf` reads names of functions from, once a [profiled](Engine::profiled) engine has
    /// been made: that of the process which has made the first, whatever processes come of it.
    pub fn perf_map() -> Option<&'static Path> {
        PERF_MAP.get().map(PathBuf::as_path)
    }

    /// An engine as of [`Engine::new`] whose guests count what they execute, which costs them a
    /// quarter of their speed.
    pub fn counting(compile: Compile) -> Result<Self, LoadError> {
        let usual = Plan::usual(compile, Layout::OnDemand, Engine::STACK_BYTES);
        Engine::of(Plan { counts: true, ..usual })
    }

    /// An engine like this one for guests that nothing can stop, or make give way, inside their code:
    /// it has no checks for that.
    pub fn without_interrupts(&self) -> Result<Self, LoadError> {
        Engine::of(Plan { interrupts: false, ..self.plan })
    }

    /// An engine for a process that only compiles for this one, on all cores.
    pub fn to_compile(&self) -> Result<Self, LoadError> {
        let layout = match self.plan.layout {
            Layout::OnDemand | Layout::Pooled { .. } => Layout::OnDemand,
            Layout::Compact => Layout::Compact,
        };
        Engine::of(Plan { compile: Compile::Parallel, layout, profile: false, ..self.plan })
    }

    fn of(plan: Plan) -> Result<Self, LoadError> {
        match wasmtime::Engine::new(&config(plan)) {
            Ok(wasm) => Ok(Engine { wasm, pace: Arc::default(), plan }),
            Err(error) => Err(LoadError::Engine(describe(&error))),
        }
    }

    /// The engine underneath.
    pub fn wasm(&self) -> &wasmtime::Engine {
        &self.wasm
    }

    /// What polls of this engine's guests are bracketed with.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// Whether guests count what they execute.
    pub(super) fn counts(&self) -> bool {
        self.plan.counts
    }

    /// Whether guests can be stopped inside their code.
    pub fn interrupts(&self) -> bool {
        self.plan.interrupts
    }

    /// Where instances find room.
    pub fn layout(&self) -> Layout {
        self.plan.layout
    }
}

impl Plan {
    const fn usual(compile: Compile, layout: Layout, stack_bytes: usize) -> Self {
        let (interrupts, counts, profile) = (true, false, false);
        Plan { compile, layout, stack_bytes, interrupts, counts, profile }
    }
}

/// See [`Engine::perf_map`].
static PERF_MAP: OnceLock<PathBuf> = OnceLock::new();

fn config(plan: Plan) -> Config {
    let mut config = Config::new();
    config
        .parallel_compilation(plan.compile == Compile::Parallel)
        // A guest can be stopped or made to yield anywhere. Costs nothing where guests call the
        // host and a fifth in tight loops; fuel costs a quarter.
        .epoch_interruption(plan.interrupts)
        .consume_fuel(plan.counts)
        // File and line in backtraces for guests with debug information. Costs memory only, and
        // only for those guests.
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        // Instances share the initial image of their memory until they write to it, also when the
        // image is a snapshot with large gaps.
        .memory_init_cow(true)
        .memory_guaranteed_dense_image_size(IMAGE_BYTES as u64)
        .memory_reservation(RESERVATION_BYTES)
        .memory_guard_size(GUARD_BYTES)
        // Pointers of the ABI are 32 bits wide and address one memory. Refusing the others here
        // makes the compiler say so, with the offset.
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .max_wasm_stack(plan.stack_bytes)
        .async_stack_size(plan.stack_bytes + Engine::HOST_STACK_BYTES);
    if plan.profile {
        config.profiler(ProfilingStrategy::PerfMap);
    }
    match plan.layout {
        Layout::OnDemand => {}
        Layout::Pooled { instances } => {
            let pool = InstanceAllocationStrategy::Pooling(pool(instances));
            config.allocation_strategy(pool);
        }
        Layout::Compact => {
            config
                .memory_reservation(0)
                .memory_reservation_for_growth(1 << 20)
                .memory_guard_size(64 << 10);
        }
    }
    config
}

fn pool(instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_core_instances(instances)
        .total_memories(instances)
        // Most guests have one.
        .total_tables(instances.saturating_mul(2))
        .total_stacks(instances)
        .total_gc_heaps(instances)
        .max_memories_per_module(1)
        .max_tables_per_module(TABLES as u32)
        .table_elements(TABLE_ELEMENTS)
        // A limit only: what an instance takes is allocated for it.
        .max_core_instance_size(16 << 20)
        // Of a place that comes free, this much is set back by hand instead of asking the kernel
        // for fresh pages, which costs more up to about here.
        .linear_memory_keep_resident(128 << 10)
        .table_keep_resident(16 << 10)
        // Linux 6.7 and later tell which pages were written to, so that only those are set back.
        .pagemap_scan(Enabled::Auto);
    pool
}
