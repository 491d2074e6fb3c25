//! One `http_wasm` line: the guest that it asks for, and its file.

use std::ffi::OsStr;
use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::Bytes;
use rustix::fs::OFlags;

use crate::nginx::conf::cf::{Cf, ConfError, Place, WARN};
use crate::nginx::ngx::log::Escaped;
use crate::nginx::ngx::text::Text;
use crate::runtime::precompiled::{self, Sha256Digest};

/// One `http_wasm` line.
pub(crate) struct Line {
    pub(crate) path: Vec<u8>,
    pub(crate) name: String,
    pub(crate) config: Bytes,
    /// What the file must be.
    pub(crate) sha256: Option<Sha256Digest>,
    /// For which requests (`if=`).
    pub(crate) condition: Option<Text>,
    /// Where it stands.
    pub(crate) place: Place,
}

impl Line {
    /// Reads its parameters, and the file that `config_file=` names.
    pub(crate) fn parse(cf: &Cf, path: &[u8], parameters: &[&[u8]]) -> Result<Self, ConfError> {
        let path = cf.full_name(path)?;
        let mut name = None;
        let mut config = None;
        let mut sha256 = None;
        let mut condition = None;
        for &parameter in parameters {
            let duplicate =
                || ConfError::new(format!("duplicate parameter \"{}\"", Escaped(parameter)));
            if let Some(value) = parameter.strip_prefix(b"name=") {
                let value = guest_name(value)?;
                if name.replace(value).is_some() {
                    return Err(duplicate());
                }
            } else if let Some(value) = parameter.strip_prefix(b"config=") {
                if config.replace(Bytes::copy_from_slice(value)).is_some() {
                    return Err(duplicate());
                }
            } else if let Some(value) = parameter.strip_prefix(b"config_file=") {
                let file = cf.full_name(value)?;
                let (value, _) = read(&file, "guest configuration")?;
                if config.replace(value.into()).is_some() {
                    return Err(duplicate());
                }
            } else if let Some(value) = parameter.strip_prefix(b"sha256=") {
                if sha256.replace(parse_digest(value)?).is_some() {
                    return Err(duplicate());
                }
            } else if let Some(value) = parameter.strip_prefix(b"if=") {
                if condition.replace(cf.condition(value)?).is_some() {
                    return Err(duplicate());
                }
            } else {
                return Err(ConfError::new(format!(
                    "invalid parameter \"{}\": \"http_wasm\" takes name=, config=, config_file=, \
                     sha256= and if=",
                    Escaped(parameter)
                )));
            }
        }
        if let Some(config) = &config
            && cf.names_variable(config)
            && parameters.iter().any(|it| it.starts_with(b"config="))
        {
            cf.report(
                WARN,
                "variables are not evaluated in \"config=\": a guest is configured once",
            );
        }
        let name = name.unwrap_or_else(|| default_name(&path));
        let config = config.unwrap_or_default();
        Ok(Line { path, name, config, sha256, condition, place: cf.place() })
    }
}

fn parse_digest(value: &[u8]) -> Result<Sha256Digest, ConfError> {
    precompiled::parse_hex(value).ok_or_else(|| {
        ConfError::new(format!(
            "invalid \"sha256={}\": expected 64 hexadecimal digits",
            Escaped(value)
        ))
    })
}

/// A name stands in log lines and labels.
fn guest_name(value: &[u8]) -> Result<String, ConfError> {
    let valid = !value.is_empty()
        && value.len() <= 64
        && value.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b));
    match std::str::from_utf8(value) {
        Ok(name) if valid => Ok(name.to_owned()),
        _ => Err(ConfError::new(format!(
            "invalid \"name={}\": expected 1 to 64 letters, digits, \".\", \"_\" or \"-\"",
            Escaped(value)
        ))),
    }
}

/// The file's name without its ending.
fn default_name(path: &[u8]) -> String {
    let stem = Path::new(OsStr::from_bytes(path)).file_stem().unwrap_or_default();
    Escaped(stem.as_bytes()).to_string()
}

/// What is in a regular file, and whose it was when it was opened. Anything else might have no end, or
/// none who writes to it.
pub(crate) fn read(path: &[u8], what: &str) -> Result<(Vec<u8>, Metadata), ConfError> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let opened = options.open(Path::new(OsStr::from_bytes(path)));
    let read = opened.and_then(|mut file| {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok((bytes, meta))
    });
    read.map_err(|error| {
        let hint = if path.contains(&b'$') { " (variables are not evaluated here)" } else { "" };
        ConfError::new(format!("cannot read {what} \"{}\": {error}{hint}", Escaped(path)))
    })
}
