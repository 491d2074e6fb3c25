//! `http-wasm compile`.

use super::args::Compile;
use super::exchange::Lent;
use super::text::bytes;
use super::{Failure, load, place, print, progress};
use crate::runtime::Limits;
use crate::runtime::guest::{Guest, Settings};
use crate::runtime::precompiled::{digest, encode, hex, is_precompiled};

/// Compiles a guest into a file, once it is known to be one.
pub(crate) fn compile(args: &Compile) -> Result<(), Failure> {
    let path = &args.path;
    let source = load::source(path)?;
    if is_precompiled(&source) {
        let text = format!("\"{}\" is compiled already, expected its source", path.display());
        return Err(Failure::new(text));
    }
    let progress = progress::spinner("compiling");
    let (engine, module) = load::compile(path, &source, args.slice)?;
    // Exports, imports and sizes; what a start function does depends on the configuration.
    let settings = Settings {
        name: String::new(),
        config: Default::default(),
        limits: Limits { memory_bytes: usize::MAX, ..Limits::default() },
        env: Vec::new(),
        dirs: Vec::new(),
        strict: false,
        outbound: Default::default(),
    };
    let refused = |error| load::refused(path, &error);
    Guest::<Lent>::new(&engine, &module, settings).map_err(refused)?;
    let digest = digest(&source);
    let file = encode(&engine, &digest, &module).map_err(refused)?;
    progress.finish_and_clear();
    place::put(&args.output, &file)?;
    print(&format!(
        "{}: {} compiled from {} of sha256 {}\n",
        args.output.display(),
        bytes(file.len()),
        bytes(source.len()),
        hex(&digest)
    ));
    Ok(())
}
