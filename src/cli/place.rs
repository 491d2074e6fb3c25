//! Files that are there whole or not at all.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

use super::Failure;

/// A file beside the one it is going to be; gone when it is dropped before.
pub(crate) struct Draft {
    file: NamedTempFile,
}

impl Draft {
    /// Begins a file that will be called `path`.
    pub(crate) fn beside(path: &Path) -> Result<Self, Failure> {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let file = tempfile::Builder::new()
            .prefix(".http-wasm-")
            .tempfile_in(folder)
            .map_err(|error| cannot_write(path, &error))?;
        Ok(Draft { file })
    }

    pub(crate) fn file(&mut self) -> &mut impl Write {
        self.file.as_file_mut()
    }

    /// Puts it in place, readable for everybody, when it is safe on disk.
    pub(crate) fn put(self, path: &Path) -> Result<(), Failure> {
        let failed = |error: std::io::Error| cannot_write(path, &error);
        self.file.as_file().set_permissions(Permissions::from_mode(0o644)).map_err(failed)?;
        self.file.as_file().sync_all().map_err(failed)?;
        self.file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// Writes a whole file.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut draft = Draft::beside(path)?;
    draft.file().write_all(bytes).map_err(|error| cannot_write(path, &error))?;
    draft.put(path)
}

pub(crate) fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot write \"{}\": {error}", path.display()))
}
