//! `http_wasm_status`: the content handler that shows what all workers have counted.

use nginx_sys::{ngx_buf_t, ngx_http_request_t, ngx_int_t, ngx_uint_t};

use crate::nginx::guests::status::Meters;
use crate::nginx::ngx::chain::Out;
use crate::nginx::ngx::ffi::{self, ERROR, INTERNAL_SERVER_ERROR, NoMemory, OK, guard};
use crate::nginx::ngx::field::FieldLine;
use crate::nginx::ngx::headers_out::{self, Outside};
use crate::nginx::ngx::log::{ERR, Escaped};
use crate::nginx::ngx::request::{HEAD, Request};
use crate::nginx::ngx::timer;
use crate::status::{Format, Guest, Report, Server};

const GET: ngx_uint_t = nginx_sys::NGX_HTTP_GET as ngx_uint_t;
const NOT_ALLOWED: ngx_int_t = nginx_sys::NGX_HTTP_NOT_ALLOWED as ngx_int_t;
const BAD_REQUEST: ngx_int_t = nginx_sys::NGX_HTTP_BAD_REQUEST as ngx_int_t;

/// `ngx_http_handler_pt`.
pub(crate) unsafe extern "C" fn handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(INTERNAL_SERVER_ERROR, || {
        // SAFETY: nginx calls a content handler with a live request.
        match unsafe { Request::new(r) } {
            Some(r) => respond(r).unwrap_or(INTERNAL_SERVER_ERROR),
            None => ERROR,
        }
    })
}

fn respond(r: Request) -> Result<ngx_int_t, NoMemory> {
    if !matches!(r.method_number(), GET | HEAD) {
        return Ok(NOT_ALLOWED);
    }
    let rc = r.discard_body();
    if rc != OK {
        return Ok(rc);
    }
    let (_, query) = r.uri_and_args();
    let Some(format) = Format::of_query(query) else {
        return Ok(BAD_REQUEST);
    };
    let text = match report(r).render(format) {
        Ok(text) => text,
        Err(error) => {
            let reason = error.to_string();
            r.log().write(ERR, format_args!("http_wasm_status: {}", Escaped(reason.as_bytes())));
            return Ok(INTERNAL_SERVER_ERROR);
        }
    };
    let mut outside = Outside::default();
    r.set_status(200);
    let media_type = format.media_type().as_bytes();
    headers_out::add(r, &mut outside, FieldLine::copy(r, b"Content-Type", media_type)?)?;
    headers_out::add(r, &mut outside, FieldLine::copy(r, b"Cache-Control", b"no-store")?)?;
    headers_out::set_content_length(r, Some(text.len() as u64));
    let rc = r.send_header();
    if rc == ERROR || rc > OK || r.header_only() {
        return Ok(rc);
    }
    Ok(r.output(body(r, &text)?.first()))
}

/// The text as the whole of a response's body.
fn body(r: Request, text: &str) -> Result<Out, NoMemory> {
    let copy = r.copy(text.as_bytes())?;
    let buf = r.zeroed::<ngx_buf_t>()?;
    // SAFETY: the buffer is ours and zeroed, and what it shows is in the request's pool.
    unsafe {
        (*buf).pos = copy.data;
        (*buf).last = copy.data.add(copy.len);
        ffi::ngx_http_wasm_set_b_memory(buf, 1);
        ffi::ngx_http_wasm_set_b_last_buf(buf, ngx_uint_t::from(r.is_main()));
        ffi::ngx_http_wasm_set_b_last_in_chain(buf, 1);
    }
    let mut out = Out::default();
    out.push(r, buf)?;
    Ok(out)
}

fn report(r: Request) -> Report {
    let mut report = Report {
        module: env!("CARGO_PKG_VERSION"),
        server: Server {
            name: "nginx",
            version: nginx_sys::NGINX_VERSION.to_string_lossy().into_owned(),
        },
        workers: 0,
        guests: Vec::new(),
    };
    let Some(meters) = Meters::of_request(r) else {
        return report;
    };
    let mut totals = Vec::new();
    for (_, meter) in meters.iter() {
        let Some(place) = meter.place.get() else {
            continue;
        };
        if totals.is_empty() {
            (report.workers, totals) = place.table().totals();
        }
        report.guests.push(Guest::new(&meter.about.borrow(), &place.of(&totals), timer::now()));
    }
    let order = |guest: &Guest| (guest.name.clone(), guest.path.clone(), guest.places.clone());
    report.guests.sort_by_cached_key(order);
    report
}
