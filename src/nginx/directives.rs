//! The directives: one line each in the table, and one setter each. What is wrong is said with
//! file, line, value and what was expected.

mod http;
mod pool;
mod status;

use std::ffi::{CStr, c_char, c_void};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use nginx_sys::{
    NGX_CONF_1MORE, NGX_CONF_NOARGS, NGX_CONF_TAKE1, NGX_CONF_TAKE12, NGX_CONF_TAKE23,
    NGX_HTTP_LOC_CONF, NGX_HTTP_MAIN_CONF, NGX_HTTP_SRV_CONF, ngx_command_t, ngx_conf_t, ngx_str_t,
    ngx_uint_t,
};

use super::cf::{Cf, ConfError, EMERG, Place};
use super::conf::{CONF_ERROR, Isolation, Lines, LocConf, MainConf, SnapshotWish};
use super::ffi::guard;
use super::headers_in::constant;
use super::log::Escaped;
use super::plugin::OnError;
use super::spool::Room;
use crate::runtime::guest::Dir;
use crate::runtime::precompiled::{self, Sha256Digest};
use http::{cache_path, instances, stack_limit};
use pool::{breaker, number, pool};
use status::status;

/// The C entry of a setter.
macro_rules! directive {
    ($setter:ident) => {
        entry!($setter, LocConf)
    };
}

/// The C entry of a setter of the http block.
macro_rules! main_directive {
    ($setter:ident) => {
        entry!($setter, MainConf)
    };
}

macro_rules! entry {
    ($setter:ident, $conf:ty) => {{
        unsafe extern "C" fn entry(
            cf: *mut ngx_conf_t,
            _cmd: *mut ngx_command_t,
            conf: *mut c_void,
        ) -> *mut c_char {
            // SAFETY: nginx's parser calls it for a directive of the table below.
            unsafe { set::<$conf>(cf, conf, $setter) }
        }
        entry
    }};
}

/// The module's directives.
pub(crate) static mut COMMANDS: [ngx_command_t; 18] = [
    command(c"http_wasm", NGX_CONF_1MORE, directive!(http_wasm)),
    command(c"http_wasm_breaker", NGX_CONF_1MORE, directive!(breaker)),
    main_command(c"http_wasm_cache_path", NGX_CONF_TAKE1, main_directive!(cache_path)),
    command(c"http_wasm_dir", NGX_CONF_TAKE23, directive!(dir)),
    command(c"http_wasm_env", NGX_CONF_TAKE1, directive!(env)),
    main_command(c"http_wasm_instances", NGX_CONF_TAKE1, main_directive!(instances)),
    command(c"http_wasm_isolation", NGX_CONF_TAKE1, directive!(isolation)),
    command(c"http_wasm_memory_limit", NGX_CONF_TAKE1, directive!(memory_limit)),
    command(c"http_wasm_on_error", NGX_CONF_TAKE1, directive!(on_error)),
    command(c"http_wasm_pool", NGX_CONF_1MORE, directive!(pool)),
    command(c"http_wasm_response_buffer", NGX_CONF_TAKE12, directive!(response_buffer)),
    command(c"http_wasm_slice", NGX_CONF_TAKE1, directive!(slice)),
    command(c"http_wasm_snapshot", NGX_CONF_TAKE1, directive!(snapshot)),
    main_command(c"http_wasm_stack_limit", NGX_CONF_TAKE1, main_directive!(stack_limit)),
    ngx_command_t {
        type_: (NGX_HTTP_LOC_CONF | NGX_CONF_NOARGS) as ngx_uint_t,
        ..command(c"http_wasm_status", NGX_CONF_NOARGS, directive!(status))
    },
    command(c"http_wasm_strict", NGX_CONF_TAKE1, directive!(strict)),
    command(c"http_wasm_timeout", NGX_CONF_TAKE1, directive!(timeout)),
    ngx_command_t::empty(),
];

type Entry = unsafe extern "C" fn(*mut ngx_conf_t, *mut ngx_command_t, *mut c_void) -> *mut c_char;

/// A directive of http, server and location.
const fn command(name: &'static CStr, arguments: u32, set: Entry) -> ngx_command_t {
    ngx_command_t {
        name: constant(name),
        type_: (NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF | arguments)
            as ngx_uint_t,
        set: Some(set),
        conf: nginx_sys::NGX_HTTP_LOC_CONF_OFFSET,
        offset: 0,
        post: std::ptr::null_mut(),
    }
}

/// A directive of http only.
const fn main_command(name: &'static CStr, arguments: u32, set: Entry) -> ngx_command_t {
    ngx_command_t {
        type_: (NGX_HTTP_MAIN_CONF | arguments) as ngx_uint_t,
        conf: nginx_sys::NGX_HTTP_MAIN_CONF_OFFSET,
        ..command(name, arguments, set)
    }
}

/// Runs a setter and reports what it finds wrong.
///
/// # Safety
/// To be called by nginx's configuration parser for a directive made by [`command`] for `LocConf`,
/// by [`main_command`] for `MainConf`.
unsafe fn set<T>(
    cf: *mut ngx_conf_t,
    conf: *mut c_void,
    setter: fn(&Cf, &mut T) -> Result<(), ConfError>,
) -> *mut c_char {
    guard(CONF_ERROR, || {
        // SAFETY: for this callback.
        let cf = unsafe { Cf::new(cf) };
        // SAFETY: `conf` is what create_loc_conf returned for the level being read, or what
        // create_main_conf returned, and nobody else looks at it now.
        let conf = unsafe { &mut *conf.cast::<T>() };
        match setter(&cf, conf) {
            Ok(()) => std::ptr::null_mut(),
            Err(error) => {
                cf.report(EMERG, &error.reason);
                CONF_ERROR
            }
        }
    })
}

/// `http_wasm off | PATH [name=N] [config=STR] [config_file=F];`
fn http_wasm(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let args = cf.args();
    let Some((&path, parameters)) = args.get(1..).and_then(<[_]>::split_first) else {
        return Err(ConfError::new("\"http_wasm\" expects the path of a guest, or \"off\""));
    };
    if path == b"off" && parameters.is_empty() {
        return match loc.lines {
            Lines::Inherit => {
                loc.lines = Lines::Off;
                Ok(())
            }
            Lines::Off => Err(ConfError::new("\"http_wasm off\" is duplicate")),
            Lines::List(_) => Err(beside_off()),
        };
    }
    let line = Rc::new(Line::parse(cf, path, parameters)?);
    match &mut loc.lines {
        Lines::Inherit => loc.lines = Lines::List(vec![line]),
        Lines::Off => return Err(beside_off()),
        Lines::List(list) => list.push(line),
    }
    Ok(())
}

fn beside_off() -> ConfError {
    ConfError::new("\"http_wasm off\" cannot stand beside other \"http_wasm\" on one level")
}

/// `http_wasm_response_buffer SIZE [max=SIZE];`
fn response_buffer(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let args = cf.args();
    let mut room = Room::RESPONSE;
    let mut max = None;
    for &arg in args.iter().skip(1) {
        match arg.strip_prefix(b"max=") {
            Some(value) if max.is_none() => max = Some(size(arg, value)?),
            Some(_) => {
                return Err(ConfError::new(format!("duplicate parameter \"{}\"", Escaped(arg))));
            }
            None => {
                room.memory = usize::try_from(size(arg, arg)?).unwrap_or(usize::MAX);
            }
        }
    }
    room.max = max.unwrap_or(room.max.max(room.memory as u64));
    if room.max < room.memory as u64 {
        return Err(ConfError::new(format!(
            "\"max=\" of \"http_wasm_response_buffer\" is {} bytes: expected at least the {} bytes \
             that may be in memory",
            room.max, room.memory
        )));
    }
    once(cf, &mut loc.response_buffer, room)
}

/// `http_wasm_memory_limit SIZE;`
fn memory_limit(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    const PAGE: u64 = 64 << 10;
    let arg = cf.argument()?;
    let bytes = size(arg, arg)?;
    // What 32-bit pointers reach.
    if !(PAGE..=4 << 30).contains(&bytes) {
        return Err(ConfError::new(format!(
            "invalid value \"{}\": expected 64k, one page of memory, to 4g",
            Escaped(arg)
        )));
    }
    once(cf, &mut loc.memory_limit, usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// `http_wasm_dir HOST GUEST [rw];`
fn dir(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let args = cf.args();
    let (host, guest, writable) = match args.as_slice() {
        [_, host, guest] => (*host, *guest, false),
        [_, host, guest, b"rw"] => (*host, *guest, true),
        [_, _, _, other] => {
            return Err(ConfError::new(format!(
                "invalid parameter \"{}\": expected \"rw\" or nothing",
                Escaped(other)
            )));
        }
        _ => return Err(ConfError::new("expected a directory of the host and one of the guest")),
    };
    let host = cf.full_name(host)?;
    let host = Path::new(std::ffi::OsStr::from_bytes(&host)).to_path_buf();
    if !host.is_dir() {
        return Err(ConfError::new(format!(
            "\"{}\" of \"http_wasm_dir\" is not a directory",
            Escaped(host.as_os_str().as_bytes())
        )));
    }
    let guest = text(guest)?;
    let dirs = Rc::make_mut(loc.dirs.get_or_insert_default());
    if dirs.iter().any(|dir| dir.guest == guest) {
        return Err(ConfError::new(format!("duplicate directory \"{guest}\" of the guest")));
    }
    dirs.push(Dir { host, guest, writable });
    Ok(())
}

/// `http_wasm_env NAME[=VALUE];`
fn env(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let arg = text(cf.argument()?)?;
    let (name, value) = match arg.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        // nginx's own, if it has one; workers do not, so it is read here.
        None => (arg.clone(), std::env::var(&arg).ok()),
    };
    if name.is_empty() {
        return Err(ConfError::new(format!(
            "invalid value \"{arg}\": expected NAME or NAME=VALUE"
        )));
    }
    let env = Rc::make_mut(loc.env.get_or_insert_default());
    if env.iter().any(|(other, _)| *other == name) {
        return Err(ConfError::new(format!("duplicate variable \"{name}\"")));
    }
    if let Some(value) = value {
        env.push((name, value));
    }
    Ok(())
}

/// A word that a guest gets as text.
fn text(arg: &[u8]) -> Result<String, ConfError> {
    match std::str::from_utf8(arg) {
        Ok(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(ConfError::new(format!(
            "invalid value \"{}\": expected text in UTF-8",
            Escaped(arg)
        ))),
    }
}

/// `http_wasm_isolation worker | request;`
fn isolation(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let value = match cf.argument()? {
        b"worker" => Isolation::Worker,
        b"request" => Isolation::Request,
        other => {
            return Err(ConfError::new(format!(
                "invalid value \"{}\": expected \"worker\" or \"request\"",
                Escaped(other)
            )));
        }
    };
    once(cf, &mut loc.isolation, value)
}

/// `http_wasm_snapshot auto | on | off;`
fn snapshot(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let value = match cf.argument()? {
        b"auto" => SnapshotWish::Auto,
        b"on" => SnapshotWish::On,
        b"off" => SnapshotWish::Off,
        other => {
            return Err(ConfError::new(format!(
                "invalid value \"{}\": expected \"auto\", \"on\" or \"off\"",
                Escaped(other)
            )));
        }
    };
    once(cf, &mut loc.snapshot, value)
}

/// `http_wasm_on_error closed | open;`
fn on_error(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let value = match cf.argument()? {
        b"closed" => OnError::Closed,
        b"open" => OnError::Open,
        other => {
            return Err(ConfError::new(format!(
                "invalid value \"{}\": expected \"closed\" or \"open\"",
                Escaped(other)
            )));
        }
    };
    once(cf, &mut loc.on_error, value)
}

/// `http_wasm_slice TIME;`
fn slice(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let value = time(cf.argument()?)?;
    once(cf, &mut loc.slice, value)
}

/// `http_wasm_strict on | off;`
fn strict(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let value = match cf.argument()? {
        b"on" => true,
        b"off" => false,
        other => {
            return Err(ConfError::new(format!(
                "invalid value \"{}\": expected \"on\" or \"off\"",
                Escaped(other)
            )));
        }
    };
    once(cf, &mut loc.strict, value)
}

/// `http_wasm_timeout TIME;`
fn timeout(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let value = time(cf.argument()?)?;
    once(cf, &mut loc.timeout, value)
}

/// Sets what may be set once on a level.
fn once<T>(cf: &Cf, slot: &mut Option<T>, value: T) -> Result<(), ConfError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => {
            let name = cf.args().first().copied().unwrap_or_default();
            Err(ConfError::new(format!("\"{}\" directive is duplicate", Escaped(name))))
        }
    }
}

/// A time as nginx writes it, at least a millisecond.
fn time(arg: &[u8]) -> Result<Duration, ConfError> {
    let mut text = ngx_str_t { len: arg.len(), data: arg.as_ptr().cast_mut() };
    // SAFETY: the string is a word of the configuration; the function only reads it.
    let ms = unsafe { nginx_sys::ngx_parse_time(&raw mut text, 0) };
    match u64::try_from(ms) {
        Ok(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        _ => Err(ConfError::new(format!(
            "invalid value \"{}\": expected a time such as 5ms or 1s",
            Escaped(arg)
        ))),
    }
}

/// A size as nginx writes it: a number with k, m or g.
fn size(arg: &[u8], value: &[u8]) -> Result<u64, ConfError> {
    let mut text = ngx_str_t { len: value.len(), data: value.as_ptr().cast_mut() };
    // SAFETY: the string is a word of the configuration; the function only reads it.
    let size = unsafe { nginx_sys::ngx_parse_offset(&raw mut text) };
    u64::try_from(size).map_err(|_| {
        ConfError::new(format!(
            "invalid value \"{}\": expected a size such as 64k or 16m",
            Escaped(arg)
        ))
    })
}

/// One `http_wasm` line.
pub(crate) struct Line {
    pub(crate) path: Vec<u8>,
    pub(crate) name: String,
    pub(crate) config: Bytes,
    /// What the file must be.
    pub(crate) sha256: Option<Sha256Digest>,
    /// Where it stands.
    pub(crate) place: Place,
}

impl Line {
    fn parse(cf: &Cf, path: &[u8], parameters: &[&[u8]]) -> Result<Self, ConfError> {
        let path = cf.full_name(path)?;
        let mut name = None;
        let mut config = None;
        let mut sha256 = None;
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
            } else {
                return Err(ConfError::new(format!(
                    "invalid parameter \"{}\": \"http_wasm\" takes name=, config=, config_file= and \
                     sha256=",
                    Escaped(parameter)
                )));
            }
        }
        let name = name.unwrap_or_else(|| default_name(&path));
        let config = config.unwrap_or_default();
        Ok(Line { path, name, config, sha256, place: cf.place() })
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
    let stem = Path::new(std::ffi::OsStr::from_bytes(path)).file_stem().unwrap_or_default();
    Escaped(stem.as_bytes()).to_string()
}

/// What is in a file, and whose it was when it was opened.
pub(crate) fn read(path: &[u8], what: &str) -> Result<(Vec<u8>, Metadata), ConfError> {
    let opened = File::open(Path::new(std::ffi::OsStr::from_bytes(path)));
    let read = opened.and_then(|mut file| {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok((bytes, file.metadata()?))
    });
    read.map_err(|error| {
        ConfError::new(format!("cannot read {what} \"{}\": {error}", Escaped(path)))
    })
}
