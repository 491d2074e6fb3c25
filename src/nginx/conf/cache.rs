//! Compiled guests on disk (`http_wasm_cache_path`), so that a guest is compiled once and not at
//! every start and `nginx -t`.
//!
//! What is in these files runs as native code, in the master's child with the master's rights. So
//! nothing is taken from a directory or a file that anybody else could have written to, and nothing
//! that is not exactly what was written for this engine and this guest.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use rustix::process::geteuid;

use crate::abi::Features;
use crate::nginx::ngx::log::{Escaped, Log, NOTICE, WARN};
use crate::runtime::error::LoadError;
use crate::runtime::precompiled::{
    Precompiled, Sha256Digest, decode, decode_snapshot, encode, encode_snapshot, engine_digest, hex,
};
use crate::runtime::{Engine, Module, describe};

/// Files that nobody has asked for since then are removed when a new one is written.
const UNUSED: Duration = Duration::from_secs(60 * 60 * 24 * 30);

const SUFFIX: &str = "cwasm";

/// Where compiled guests shall be kept.
#[derive(Clone)]
pub(crate) struct CacheDir {
    pub(crate) path: PathBuf,
    /// Whether an operator named it, and wants to know when it cannot be used. Otherwise it may
    /// well be that of the user who runs the server, while another tests the configuration.
    pub(crate) configured: bool,
}

/// A directory that only this user can write to.
pub(crate) struct Cache {
    dir: PathBuf,
    log: Log,
}

impl Cache {
    /// Opens the directory, and makes it if it is not there. Without one that can be trusted guests
    /// are compiled each time, and the log says why.
    pub(crate) fn open(dir: &CacheDir, log: Log) -> Option<Self> {
        let CacheDir { path, configured } = dir;
        let cache = Cache { dir: path.clone(), log };
        match check(path) {
            Ok(()) => Some(cache),
            Err(reason) => {
                let level = if *configured { WARN } else { NOTICE };
                cache.say(level, path, &format!("is not used: {reason}"));
                None
            }
        }
    }

    /// The module that was compiled from what has this digest, if it is there and to be trusted.
    pub(crate) fn load(&self, engine: &Engine, source: &Sha256Digest) -> Option<Module> {
        let path = self.path(engine, source);
        let module = self.read(&path, |bytes| Ok((decode(engine, bytes)?, ())), engine, source);
        module.map(|(module, ())| module)
    }

    /// The snapshot of what has this digest, and the features that its start functions enabled.
    pub(crate) fn load_snapshot(
        &self,
        engine: &Engine,
        of: &Sha256Digest,
    ) -> Option<(Module, Features)> {
        let path = self.path(engine, of);
        self.read(&path, |bytes| decode_snapshot(engine, bytes), engine, of)
    }

    fn read<T>(
        &self,
        path: &Path,
        decode: impl FnOnce(&[u8]) -> Result<(Precompiled<'_>, T), LoadError>,
        engine: &Engine,
        source: &Sha256Digest,
    ) -> Option<(Module, T)> {
        let (file, bytes) = match read_ours(path) {
            Ok(found) => found?,
            Err(reason) => {
                self.say(WARN, path, &format!("is not used: {reason}"));
                return None;
            }
        };
        let decoded = decode(&bytes).map_err(|error| error.to_string());
        let module = decoded.and_then(|(decoded, more)| match decoded.source == *source {
            // SAFETY: the code was written by this user (`read_ours`) into a directory of this
            // user's (`open`), and is complete and for this engine (`decode`): `keep` wrote it.
            true => unsafe { deserialize(engine, decoded.code) }
                .map(|module| (module, more))
                .map_err(|error| error.to_string()),
            false => Err("is another guest".to_owned()),
        });
        match module {
            Ok(module) => {
                // Only so that it counts as used.
                let _ = file.set_modified(SystemTime::now());
                Some(module)
            }
            Err(reason) => {
                self.say(WARN, path, &format!("is not used: {reason}"));
                None
            }
        }
    }

    /// Keeps a module. Whoever reads meanwhile finds the old file or the new one.
    pub(crate) fn store(&self, engine: &Engine, source: &Sha256Digest, module: &Module) {
        self.keep(&self.path(engine, source), encode(engine, source, module));
    }

    /// Keeps a snapshot, in the same way.
    pub(crate) fn store_snapshot(
        &self,
        engine: &Engine,
        of: &Sha256Digest,
        module: &Module,
        features: Features,
    ) {
        self.keep(&self.path(engine, of), encode_snapshot(engine, of, module, features));
    }

    fn keep(&self, path: &Path, encoded: Result<Vec<u8>, LoadError>) {
        let stored = encoded.map_err(|error| error.to_string()).and_then(|bytes| {
            // Made with mode 0600.
            let mut file = tempfile::Builder::new();
            let file = file.prefix(&unfinished(std::process::id())).tempfile_in(&self.dir);
            let mut file = file.map_err(text)?;
            file.write_all(&bytes).map_err(text)?;
            file.persist(path).map(drop).map_err(|error| text(error.error))
        });
        if let Err(reason) = stored {
            self.say(WARN, path, &format!("cannot be written: {reason}"));
        }
        self.remove_unused();
    }

    fn remove_unused(&self) {
        let Ok(entries) = self.dir.read_dir() else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let age = entry.metadata().and_then(|it| it.modified()).map(|time| time.elapsed());
            if let Ok(Ok(age)) = age
                && age > UNUSED
                && path.extension().is_some_and(|it| it == SUFFIX)
            {
                // Another process may have done so.
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// `GUEST-ENGINE.cwasm`, the engine's digest shortened: the whole one is in the file.
    fn path(&self, engine: &Engine, source: &Sha256Digest) -> PathBuf {
        let engine = hex(&engine_digest(engine));
        self.dir.join(format!("{}-{}.{SUFFIX}", hex(source), &engine[..16]))
    }

    fn say(&self, level: nginx_sys::ngx_uint_t, path: &Path, text: &str) {
        let path = Escaped(path.as_os_str().as_bytes());
        self.log.write(
            level,
            format_args!(
                "http_wasm: \"{path}\" of the cache of compiled guests {}",
                Escaped(text.as_bytes())
            ),
        );
    }
}

/// What the name of a file begins with that a process has begun to write.
fn unfinished(pid: u32) -> String {
    format!(".{pid}-")
}

/// Removes what a process that was ended has begun to write.
pub(crate) fn remove_unfinished(dir: &CacheDir, pid: u32) {
    let prefix = unfinished(pid);
    for entry in dir.path.read_dir().into_iter().flatten().flatten() {
        if entry.file_name().as_bytes().starts_with(prefix.as_bytes()) {
            // What cannot be removed is not used either.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Makes sure that there is a directory and that nobody else can write to it.
fn check(dir: &Path) -> Result<(), String> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(text(error)),
        _ => {}
    }
    let meta = dir.symlink_metadata().map_err(text)?;
    match meta.is_dir() {
        true => only_ours(meta.uid(), meta.mode()),
        false => Err("is not a directory".to_owned()),
    }
}

/// Checks the file of a compiled guest that an operator names (`http_wasm guest.cwasm`), which is as
/// trusted as the module itself, if nobody but this user and root can write to it.
pub(crate) fn check_operators(meta: &Metadata) -> Result<(), String> {
    if meta.mode() & 0o022 != 0 || (meta.uid() != 0 && meta.uid() != euid()) {
        return Err(format!(
            "is compiled code that uid {} owns, with mode {:04o}; expected a file that only root \
             or this user (uid {}) can write to",
            meta.uid(),
            meta.mode() & 0o7777,
            euid()
        ));
    }
    Ok(())
}

/// The module in a compiled guest.
///
/// # Safety
/// Whoever wrote the code must be trusted like the author of this program.
pub(crate) unsafe fn deserialize(engine: &Engine, code: &[u8]) -> Result<Module, LoadError> {
    // SAFETY: the caller's.
    unsafe { Module::deserialize(engine.wasm(), code) }
        .map_err(|error| LoadError::Engine(describe(&error)))
}

/// A regular file that only this user can read and write, or none.
fn read_ours(path: &Path) -> Result<Option<(File, Vec<u8>)>, String> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK).bits().cast_signed());
    let mut file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(text)?,
    };
    let meta = file.metadata().map_err(text)?;
    if !meta.is_file() {
        return Err("is not a regular file".to_owned());
    }
    only_ours(meta.uid(), meta.mode())?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(text)?;
    Ok(Some((file, bytes)))
}

fn only_ours(uid: u32, mode: u32) -> Result<(), String> {
    match uid == euid() && mode & 0o077 == 0 {
        true => Ok(()),
        false => Err(format!(
            "uid {uid} owns it, with mode {:04o}; expected uid {} and nobody else's access",
            mode & 0o7777,
            euid()
        )),
    }
}

fn euid() -> u32 {
    geteuid().as_raw()
}

fn text(error: io::Error) -> String {
    error.to_string()
}
