//! Variables for log_format, map and headers. They start with `wasm_`: an undeclared `$http_…`
//! would read a header of the client's.

use std::ffi::CStr;
use std::fmt::Write as _;
use std::time::Duration;

use nginx_sys::{
    NGX_HTTP_VAR_NOCACHEABLE, NGX_HTTP_VAR_PREFIX, ngx_conf_t, ngx_http_add_variable,
    ngx_http_core_main_conf_t, ngx_http_request_t, ngx_http_variable_t, ngx_http_variable_value_t,
    ngx_int_t, ngx_str_t, ngx_uint_t,
};

use crate::logged::Wanted;
use crate::nginx::exchange::ctx::{Ctx, Visit};
use crate::nginx::exchange::settings::Http;
use crate::nginx::exchange::state::Kind;
use crate::nginx::ngx::ffi::{self, ERROR, NoMemory, OK, bytes, guard};
use crate::nginx::ngx::headers_in::constant;
use crate::nginx::ngx::request::Request;
use crate::runtime::wasi::Traffic;

/// What a variable says of a request that has been through guests, as text; none if nothing.
type Say = fn(&Ctx, &[u8]) -> Option<Vec<u8>>;

const LOG: &CStr = c"wasm_log";
const LOG_PREFIX: &CStr = c"wasm_log_";

type Handler = unsafe extern "C" fn(
    *mut ngx_http_request_t,
    *mut ngx_http_variable_value_t,
    usize,
) -> ngx_int_t;

/// The C entry of a variable.
macro_rules! variable {
    ($say:expr) => {{
        unsafe extern "C" fn entry(
            r: *mut ngx_http_request_t,
            value: *mut ngx_http_variable_value_t,
            name: usize,
        ) -> ngx_int_t {
            // SAFETY: nginx evaluates variables of live requests; with a prefix the data is the name.
            unsafe { get(r, value, name, $say) }
        }
        entry as Handler
    }};
}
/// Declares the variables; called before the `http` block is read.
pub(crate) unsafe extern "C" fn add(cf: *mut ngx_conf_t) -> ngx_int_t {
    guard(ERROR, || {
        let plain = [
            (
                c"wasm_guest",
                variable!(|ctx, _| list(ctx, |visit| Some(visit.plugin.name().to_string()))),
            ),
            (c"wasm_outcome", variable!(|ctx, _| list(ctx, |visit| outcome(ctx, visit)))),
            (
                c"wasm_request_time",
                variable!(|ctx, _| list(ctx, |visit| time(visit.record.request))),
            ),
            (
                c"wasm_response_time",
                variable!(|ctx, _| list(ctx, |visit| time(visit.record.response))),
            ),
            (
                c"wasm_socket_failed",
                variable!(|ctx, _| list(ctx, |visit| count(visit, |it| it.failed))),
            ),
            (
                c"wasm_socket_received",
                variable!(|ctx, _| list(ctx, |visit| count(visit, |it| it.received_bytes))),
            ),
            (
                c"wasm_socket_refused",
                variable!(|ctx, _| list(ctx, |visit| count(visit, |it| it.refused))),
            ),
            (
                c"wasm_socket_sent",
                variable!(|ctx, _| list(ctx, |visit| count(visit, |it| it.sent_bytes))),
            ),
            (
                c"wasm_socket_time",
                variable!(|ctx, _| list(ctx, |visit| time(Some(traffic(visit).waited)))),
            ),
            (c"wasm_template", variable!(|ctx, _| template(ctx))),
            (LOG, variable!(|ctx, _| message(ctx))),
        ];
        for (name, handler) in plain {
            if declare(cf, name, NGX_HTTP_VAR_NOCACHEABLE, handler).is_err() {
                return ERROR;
            }
        }
        let flags = NGX_HTTP_VAR_NOCACHEABLE | NGX_HTTP_VAR_PREFIX;
        match declare(cf, LOG_PREFIX, flags, variable!(field)) {
            Ok(()) => OK,
            Err(NoMemory) => ERROR,
        }
    })
}

fn declare(
    cf: *mut ngx_conf_t,
    name: &'static CStr,
    flags: u32,
    handler: Handler,
) -> Result<(), NoMemory> {
    let mut name = constant(name);
    // SAFETY: `cf` is nginx's for the callback; nginx copies the name and owns the variable.
    unsafe {
        let variable = ngx_http_add_variable(cf, &raw mut name, flags as ngx_uint_t);
        if variable.is_null() {
            return Err(NoMemory);
        }
        (*variable).get_handler = Some(handler);
    }
    Ok(())
}

/// # Safety
/// As nginx calls `get_handler`; `name` is 0, or a string that the configuration has.
unsafe fn get(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    name: usize,
    say: Say,
) -> ngx_int_t {
    guard(ERROR, || {
        // SAFETY: nginx evaluates variables of live requests.
        let Some(r) = (unsafe { Request::new(r) }) else {
            return ERROR;
        };
        // SAFETY: as the caller holds; nginx hands over the address of the name as a number.
        let name = unsafe {
            std::ptr::with_exposed_provenance::<ngx_str_t>(name)
                .as_ref()
                .map_or(b"".as_slice(), |name| bytes(*name))
        };
        let text = Ctx::find(r).and_then(|ctx| say(&ctx, name));
        let copy = text.map(|text| r.copy(&text)).transpose();
        // SAFETY: `value` is nginx's to be filled in; the text is in the request's pool.
        unsafe {
            match copy {
                Ok(Some(text)) => ffi::ngx_http_wasm_set_variable(value, text.data, text.len),
                Ok(None) => ffi::ngx_http_wasm_set_not_found(value),
                Err(NoMemory) => return ERROR,
            }
        }
        OK
    })
}

/// Something of each guest that the request has been through, in the order of the request, as nginx
/// has it for several upstreams.
fn list(ctx: &Ctx, of: impl Fn(&Visit) -> Option<String>) -> Option<Vec<u8>> {
    let mut text = String::new();
    ctx.with_visits(|visits| {
        for visit in visits.iter() {
            if !text.is_empty() {
                text.push_str(", ");
            }
            text.push_str(of(visit).as_deref().unwrap_or("-"));
        }
    });
    (!text.is_empty()).then(|| text.into_bytes())
}

/// `$wasm_outcome`. A call that had not ended when the request did has no outcome of its own.
fn outcome(ctx: &Ctx, visit: &Visit) -> Option<String> {
    let name = visit.record.outcome.map(|outcome| outcome.name());
    name.or((ctx.kind() == Kind::Over).then_some("aborted")).map(str::to_owned)
}

/// What the guest's sockets did for the request.
fn traffic(visit: &Visit) -> Traffic {
    visit.record.traffic.as_deref().copied().unwrap_or_default()
}

fn count(visit: &Visit, of: fn(&Traffic) -> u64) -> Option<String> {
    Some(of(&traffic(visit)).to_string())
}

/// Seconds, to the microsecond.
fn time(time: Option<Duration>) -> Option<String> {
    let time = time?;
    let mut text = String::with_capacity(16);
    // Writing to a String does not fail.
    let _ = write!(text, "{}.{:06}", time.as_secs(), time.subsec_micros());
    Some(text)
}

/// `$wasm_template`: what a guest chose with `set_template`.
fn template(ctx: &Ctx) -> Option<Vec<u8>> {
    ctx.with_io(|io| io.kept.template().to_vec()).filter(|template| !template.is_empty())
}

/// `$wasm_log`: the last line that a guest logged.
fn message(ctx: &Ctx) -> Option<Vec<u8>> {
    ctx.with_io(|io| io.found.message().map(<[u8]>::to_vec)).flatten()
}

/// `$wasm_log_<field>`: the last value that a guest logged for a field.
fn field(ctx: &Ctx, name: &[u8]) -> Option<Vec<u8>> {
    let http = Http::of(ctx.request())?;
    let name = name.get(LOG_PREFIX.count_bytes()..)?;
    ctx.with_io(|io| io.found.field(&http.wanted, name).map(<[u8]>::to_vec)).flatten()
}

/// Which variables the configuration makes use of: what guests log is looked at for those only.
pub(crate) struct Used {
    pub(crate) wanted: Wanted,
    /// The index of `$request_id`.
    pub(crate) request_id: Option<ngx_uint_t>,
}

/// Looks through the variables of a configuration that has been read.
///
/// # Safety
/// `cmcf` is the core module's main conf of that configuration.
pub(crate) unsafe fn used(cmcf: *const ngx_http_core_main_conf_t) -> Used {
    let mut used = Used { wanted: Wanted::default(), request_id: None };
    // SAFETY: the array is initialised before the block is read, and has variables in it.
    let variables = unsafe { (*cmcf).variables.as_slice::<ngx_http_variable_t>() };
    for (index, variable) in variables.iter().enumerate() {
        // SAFETY: the names live in the configuration's pool.
        let name = unsafe { bytes(variable.name) };
        if name == b"request_id" {
            used.request_id = Some(index);
        } else if name == LOG.to_bytes() {
            used.wanted.message = true;
        } else if let Some(field) = name.strip_prefix(LOG_PREFIX.to_bytes()) {
            used.wanted.fields.push(String::from_utf8_lossy(field).into_owned());
        }
    }
    used
}
