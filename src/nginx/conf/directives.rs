//! The directives: one line each in the table, and one setter each. What is wrong is said with
//! file, line, value and what was expected.

mod connect;
mod http;
mod pool;
mod status;

use std::ffi::{CStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use nginx_sys::{
    NGX_CONF_1MORE, NGX_CONF_NOARGS, NGX_CONF_TAKE1, NGX_CONF_TAKE2, NGX_CONF_TAKE12,
    NGX_CONF_TAKE23, NGX_HTTP_LMT_CONF, NGX_HTTP_LOC_CONF, NGX_HTTP_MAIN_CONF, NGX_HTTP_SRV_CONF,
    ngx_command_t, ngx_conf_t, ngx_str_t, ngx_uint_t,
};

use crate::http::is_token;
use crate::nginx::conf::cf::{Cf, ConfError, EMERG};
use crate::nginx::conf::line::Line;
use crate::nginx::conf::settings::{CONF_ERROR, Isolation, Lines, LocConf, MainConf, SnapshotWish};
use crate::nginx::exchange::settings::Given;
use crate::nginx::guests::service::OnError;
use crate::nginx::ngx::ffi::guard;
use crate::nginx::ngx::headers_in::constant;
use crate::nginx::ngx::log::Escaped;
use crate::nginx::ngx::spool::Room;
use crate::runtime::guest::Dir;
use connect::{connect, sockets};
use http::{cache_path, compile_timeout, instances, profile, stack_limit};
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
pub(crate) static mut COMMANDS: [ngx_command_t; 26] = [
    // In limit_except, too, as nginx's access directives.
    ngx_command_t {
        type_: (NGX_HTTP_MAIN_CONF
            | NGX_HTTP_SRV_CONF
            | NGX_HTTP_LOC_CONF
            | NGX_HTTP_LMT_CONF
            | NGX_CONF_1MORE) as ngx_uint_t,
        ..command(c"http_wasm", NGX_CONF_1MORE, directive!(http_wasm))
    },
    command(c"http_wasm_breaker", NGX_CONF_1MORE, directive!(breaker)),
    command(c"http_wasm_buffer_types", NGX_CONF_1MORE, directive!(buffer_types)),
    main_command(c"http_wasm_cache_path", NGX_CONF_TAKE1, main_directive!(cache_path)),
    main_command(c"http_wasm_compile_timeout", NGX_CONF_TAKE1, main_directive!(compile_timeout)),
    command(c"http_wasm_connect", NGX_CONF_TAKE1, directive!(connect)),
    command(c"http_wasm_dir", NGX_CONF_TAKE23, directive!(dir)),
    command(c"http_wasm_env", NGX_CONF_TAKE1, directive!(env)),
    command(c"http_wasm_field", NGX_CONF_TAKE2, directive!(field)),
    main_command(c"http_wasm_instances", NGX_CONF_TAKE1, main_directive!(instances)),
    command(c"http_wasm_intercept_errors", NGX_CONF_TAKE1, directive!(intercept_errors)),
    command(c"http_wasm_isolation", NGX_CONF_TAKE1, directive!(isolation)),
    command(c"http_wasm_memory_limit", NGX_CONF_TAKE1, directive!(memory_limit)),
    command(c"http_wasm_on_error", NGX_CONF_TAKE1, directive!(on_error)),
    command(c"http_wasm_pool", NGX_CONF_1MORE, directive!(pool)),
    main_command(c"http_wasm_profile", NGX_CONF_TAKE1, main_directive!(profile)),
    command(c"http_wasm_response_buffer", NGX_CONF_TAKE12, directive!(response_buffer)),
    command(c"http_wasm_slice", NGX_CONF_TAKE1, directive!(slice)),
    command(c"http_wasm_snapshot", NGX_CONF_TAKE1, directive!(snapshot)),
    command(c"http_wasm_sockets", NGX_CONF_1MORE, directive!(sockets)),
    main_command(c"http_wasm_stack_limit", NGX_CONF_TAKE1, main_directive!(stack_limit)),
    command(c"http_wasm_start_timeout", NGX_CONF_TAKE1, directive!(start_timeout)),
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
        match no_empty_word(&cf).and_then(|()| setter(&cf, conf)) {
            Ok(()) => std::ptr::null_mut(),
            Err(error) => {
                cf.report(EMERG, &error.reason);
                CONF_ERROR
            }
        }
    })
}

/// No directive has a use for an empty word: it is a variable of a template that was not set.
fn no_empty_word(cf: &Cf) -> Result<(), ConfError> {
    let args = cf.args();
    match args.iter().position(|arg| arg.is_empty()) {
        None => Ok(()),
        // A field that hides a client's, and is not there.
        Some(2) if args[0] == b"http_wasm_field" => Ok(()),
        Some(at) => {
            let name = Escaped(args.first().copied().unwrap_or_default());
            Err(ConfError::new(format!("argument {at} of \"{name}\" is empty")))
        }
    }
}

/// `http_wasm off | PATH [name=N] [config=STR] [config_file=F] [sha256=HEX] [if=CONDITION];`
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
    if path == b"off" {
        return Err(ConfError::new("\"http_wasm off\" takes no parameters"));
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
    once(cf, &mut loc.location.response_buffer, room)
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

/// `http_wasm_buffer_types MIME-TYPE ...;`
fn buffer_types(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let types: Vec<_> = cf.args().iter().skip(1).map(|it| it.to_ascii_lowercase()).collect();
    let is_part = |it: &[u8]| is_token(it) && !it.contains(&b'*');
    let is_type = |it: &[u8]| it == b"*" || it.split(|&b| b == b'/').map(is_part).eq([true, true]);
    if let Some(wrong) = types.iter().find(|it| !is_type(it)) {
        return Err(ConfError::new(format!(
            "invalid value \"{}\": expected a MIME type such as text/html, or \"*\"",
            Escaped(wrong)
        )));
    }
    once(cf, &mut loc.location.buffer_types, Rc::new(types))
}

/// `http_wasm_field NAME VALUE;`
fn field(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let args = cf.args();
    let [_, name, value] = args.as_slice() else {
        return Err(ConfError::new("expected the name of a field and its value"));
    };
    if !is_token(name) {
        return Err(ConfError::new(format!(
            "invalid value \"{}\": expected the name of a header field",
            Escaped(name)
        )));
    }
    let name = name.to_ascii_lowercase();
    let given = Rc::make_mut(loc.location.given.get_or_insert_default());
    if given.iter().any(|other| other.name == name) {
        return Err(ConfError::new(format!("duplicate field \"{}\"", Escaped(&name))));
    }
    given.push(Given { name, value: cf.text(value)? });
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

/// `http_wasm_slice TIME | off;`
fn slice(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let value = match cf.argument()? {
        b"off" => None,
        text => Some(time(text)?),
    };
    once(cf, &mut loc.slice, value)
}

/// `http_wasm_strict on | off;`
fn strict(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    once(cf, &mut loc.strict, on_or_off(cf)?)
}

/// `http_wasm_intercept_errors on | off;`
fn intercept_errors(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    once(cf, &mut loc.location.intercept_errors, on_or_off(cf)?)
}

fn on_or_off(cf: &Cf) -> Result<bool, ConfError> {
    match cf.argument()? {
        b"on" => Ok(true),
        b"off" => Ok(false),
        other => Err(ConfError::new(format!(
            "invalid value \"{}\": expected \"on\" or \"off\"",
            Escaped(other)
        ))),
    }
}

/// `http_wasm_start_timeout TIME;`
fn start_timeout(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let value = time(cf.argument()?)?;
    once(cf, &mut loc.start_timeout, value)
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
