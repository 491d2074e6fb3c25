//! A guest started once for all its instances: its start functions run when it is loaded, and what
//! they left in memory and globals becomes the initial state of every instance, mapped
//! copy-on-write like any other initial memory.
//!
//! What lies outside of memory and globals cannot be taken along, and what must differ between
//! instances must not; [`Unfit`] lists the cases.

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use wasmtime::{ExternType, Module, Store, Val};
use wasmtime_wizer::{InstanceState, SnapshotVal, ValType, Wizer};

use super::error::LoadError;
use super::guest::{Guest, Settings};
use super::instance::Data;
use super::precompiled::{Sha256Digest, is_precompiled};
use super::segments::joined;
use super::{Engine, describe};
use crate::abi::{EXPORT_MEMORY, Features};
use crate::host::Host;

/// Whether instances shall start from a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Snapshot {
    /// Every instance runs the start functions.
    #[default]
    Never,
    /// Where an instance cannot tell the difference.
    Faithful,
    /// Also where the start functions drew random numbers, which all instances then share.
    Seeded,
}

/// The digest of all that decides what a snapshot has in it, where that can be known: the guest, and what
/// its start functions can see of its settings. With directories it cannot, as files may change. `boot` is
/// what tells one time that the machine runs from another: the monotonic clock begins anew with each.
pub fn digest(
    source: &Sha256Digest,
    settings: &Settings,
    snapshot: Snapshot,
    boot: &[u8],
) -> Option<Sha256Digest> {
    // Who makes use of connections has no snapshot.
    let Settings { name: _, config, limits, env, dirs, strict, outbound: _ } = settings;
    if snapshot == Snapshot::Never || *strict || !dirs.is_empty() {
        return None;
    }
    let mut digest = Sha256::new();
    let mut part = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    part(source);
    part(config);
    part(boot);
    for size in
        [limits.memory_bytes, limits.table_elements, usize::from(snapshot == Snapshot::Seeded)]
    {
        part(&(size as u64).to_le_bytes());
    }
    for (name, value) in env {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    Some(digest.finalize().into())
}

/// How instances of a guest come to life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// By running its start functions.
    Run,
    /// They were run and are part of the module's initial state; these features were enabled.
    Done(Features),
}

/// A guest that was compiled, checked and started.
pub struct Prepared {
    /// To make a [`Guest`] of, with `start`.
    pub module: Module,
    /// How its instances start.
    pub start: Start,
    /// Why there is no snapshot although one was asked for.
    pub unfit: Option<Unfit>,
}

/// Why a guest has no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It uses what a snapshot cannot hold (tables that change, references in globals).
    #[error("{0}")]
    Unsupported(String),
    /// Its memory's initial state is part of the code.
    #[error("it is compiled already, a snapshot is taken of the guest itself")]
    Compiled,
    /// Seeds, keys and identifiers would be the same in every instance.
    #[error("its start functions draw random numbers, which all instances would share")]
    Random,
    /// The next instance would have the number of a descriptor and no file behind it.
    #[error("its start functions leave files open")]
    OpenFiles,
    /// What it remembers of its clocks would be later than what they say.
    #[error("its clocks and random numbers begin anew with each instance")]
    Strict,
    /// The next instance would have the number of a socket and no connection behind it.
    #[error("its start functions open sockets")]
    Sockets,
    /// Numbers of descriptors would mean something else in the next instance.
    #[error("its start functions close or renumber descriptors")]
    Descriptors,
}

/// Compiles a guest in binary or text format, starts it, and takes the snapshot if there shall and
/// can be one. `compile` is [`super::guest::compile`], or remembers what that said; `host` lends an
/// exchange for each start.
pub async fn prepare<H: Host>(
    engine: &Engine,
    bytes: &[u8],
    settings: &Settings,
    snapshot: Snapshot,
    compile: impl Fn(&Engine, &[u8]) -> Result<Module, LoadError>,
    mut host: impl FnMut() -> Result<H, LoadError>,
) -> Result<Prepared, LoadError> {
    let attempt = match snapshot {
        Snapshot::Never => Attempt::Not(None),
        _ => attempt(engine, bytes, settings, snapshot, &compile, &mut host).await?,
    };
    match attempt {
        Attempt::Taken(wasm, features) => {
            let (module, start) = (compile(engine, &wasm)?, Start::Done(features));
            // What is served must have been seen to work.
            drop(Guest::new(engine, &module, settings.clone())?.with(start).start(host()?).await?);
            Ok(Prepared { module, start, unfit: None })
        }
        Attempt::Started(module, unfit) => {
            Ok(Prepared { module, start: Start::Run, unfit: Some(unfit) })
        }
        Attempt::Not(unfit) => {
            let module = compile(engine, bytes)?;
            drop(Guest::new(engine, &module, settings.clone())?.start(host()?).await?);
            Ok(Prepared { module, start: Start::Run, unfit })
        }
    }
}

/// How far it is to a snapshot.
enum Attempt {
    /// A module that starts where the start functions ended, which enabled these features.
    Taken(Vec<u8>, Features),
    /// A module that was started and has a few exports more than the file, but no snapshot.
    Started(Module, Unfit),
    /// Nothing was started. A guest that is refused has that from being compiled as it is.
    Not(Option<Unfit>),
}

/// Runs the start functions of a guest that also exports all of its state.
async fn attempt<H: Host>(
    engine: &Engine,
    bytes: &[u8],
    settings: &Settings,
    snapshot: Snapshot,
    compile: &impl Fn(&Engine, &[u8]) -> Result<Module, LoadError>,
    host: &mut impl FnMut() -> Result<H, LoadError>,
) -> Result<Attempt, LoadError> {
    let not = |unfit| Ok(Attempt::Not(Some(unfit)));
    if is_precompiled(bytes) {
        return not(Unfit::Compiled);
    }
    let wasm = match wat::parse_bytes(bytes) {
        Ok(wasm) => wasm,
        Err(error) => return not(Unfit::Unsupported(error.to_string())),
    };
    let mut wizer = Wizer::new();
    // Not to be exported any more; `_initialize` never is.
    wizer.init_func("_start");
    // Of each segment that there was before, a snapshot keeps an empty one.
    let joined = joined(&wasm);
    let (context, instrumented) = match wizer.instrument(joined.as_deref().unwrap_or(&wasm)) {
        Ok(instrumented) => instrumented,
        Err(error) => return not(Unfit::Unsupported(describe(&error))),
    };
    let module = match compile(engine, &instrumented) {
        Ok(module) => module,
        Err(error) => return not(Unfit::Unsupported(error.to_string())),
    };
    let guest = Guest::new(engine, &module, settings.clone())?;
    let (mut store, instance) = guest.run_start(host()?).await?;
    if let Some(wasi) = &store.data().wasi {
        let fit = match settings.strict {
            true => Err(Unfit::Strict),
            false => wasi.traces().check(snapshot),
        };
        if let Err(unfit) = fit {
            return Ok(Attempt::Started(module, unfit));
        }
    }
    let features = store.data().state.start_features();
    let globals = globals(&mut store, instance, &module);
    let memory = instance.get_memory(&mut store, EXPORT_MEMORY);
    let memory = memory.map_or(&[][..], |memory| memory.data(&store));
    Ok(match wizer.snapshot(&context, &mut Seen { globals, memory }).await {
        Ok(wasm) => Attempt::Taken(wasm, features),
        Err(error) => Attempt::Started(module, Unfit::Unsupported(describe(&error))),
    })
}

/// The values of all globals that a module exports.
fn globals<H: Host>(
    store: &mut Store<Data<H>>,
    instance: wasmtime::Instance,
    module: &Module,
) -> HashMap<String, Val> {
    let exported = module.exports().filter(|export| matches!(export.ty(), ExternType::Global(_)));
    let values = exported.filter_map(|export| {
        let value = instance.get_global(&mut *store, export.name())?.get(&mut *store);
        Some((export.name().to_owned(), value))
    });
    values.collect()
}

/// The state after the start, as it is asked for.
struct Seen<'a> {
    globals: HashMap<String, Val>,
    /// A guest has exactly one.
    memory: &'a [u8],
}

impl InstanceState for Seen<'_> {
    async fn global_get(&mut self, name: &str, _: ValType) -> SnapshotVal {
        match self.globals.get(name) {
            Some(&Val::I32(value)) => SnapshotVal::I32(value),
            Some(&Val::I64(value)) => SnapshotVal::I64(value),
            Some(&Val::F32(value)) => SnapshotVal::F32(value),
            Some(&Val::F64(value)) => SnapshotVal::F64(value),
            Some(Val::V128(value)) => SnapshotVal::V128(value.as_u128()),
            // The trait knows no errors. Mutable globals of other types were refused before.
            other => panic!("global {name} holds {other:?}"),
        }
    }

    async fn memory_contents(&mut self, _: &str, contents: impl FnOnce(&[u8]) + Send) {
        contents(self.memory);
    }
}

/// What start functions did that memory and globals do not show.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traces {
    /// Drew random numbers.
    pub(crate) drew_random: bool,
    /// Files that were opened and not closed again.
    pub(crate) open_files: u32,
    /// Opened sockets, or tried to.
    pub(crate) opened_sockets: bool,
    /// Closed a directory that it was lent, or moved a descriptor.
    pub(crate) moved_descriptors: bool,
}

impl Traces {
    fn check(self, snapshot: Snapshot) -> Result<(), Unfit> {
        if self.moved_descriptors {
            Err(Unfit::Descriptors)
        } else if self.opened_sockets {
            Err(Unfit::Sockets)
        } else if self.open_files > 0 {
            Err(Unfit::OpenFiles)
        } else if self.drew_random && snapshot != Snapshot::Seeded {
            Err(Unfit::Random)
        } else {
            Ok(())
        }
    }
}
