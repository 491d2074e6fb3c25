//! Trailers. They go out on HTTP/1.1 in chunks and on HTTP/2 and 3; elsewhere nginx drops them.

use nginx_sys::ngx_list_t;

use super::{BY_GUEST, live_in, out};
use crate::host::policy::{belongs_before_body, frames_response};
use crate::nginx::ngx::ffi::{self, NoMemory};
use crate::nginx::ngx::field::FieldLine;
use crate::nginx::ngx::headers_in::field;
use crate::nginx::ngx::list;
use crate::nginx::ngx::request::Request;

fn all(r: Request) -> *mut ngx_list_t {
    // SAFETY: only an address is taken of the live request.
    unsafe { &raw mut (*out(r)).trailers }
}

/// All trailer lines that the response has now.
pub(crate) fn fields<'a>(r: Request) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    // SAFETY: an element of the live request's list; its strings live in the pool.
    live_in(all(r)).map(|element| unsafe { field(element) })
}

/// Makes `line` the only one of its name.
pub(crate) fn set(r: Request, line: FieldLine) -> Result<(), NoMemory> {
    remove(r, line.name());
    add(r, line)
}

/// Appends a line.
pub(crate) fn add(r: Request, line: FieldLine) -> Result<(), NoMemory> {
    let name = line.name();
    if frames_response(name) || belongs_before_body(name) {
        return Ok(());
    }
    // SAFETY: the list is the live request's; the element is its new one.
    unsafe {
        let element = list::push(r, all(r))?;
        line.write_to(element);
        (*element).hash = BY_GUEST;
    }
    Ok(())
}

/// Takes off what guests have added. A gRPC call that ends with its header has its status there,
/// and clients look in trailers first.
pub(crate) fn forget_guests(r: Request) {
    for element in live_in(all(r)) {
        // SAFETY: an element of the live request's list.
        unsafe {
            if (*element).hash == BY_GUEST {
                (*element).hash = 0;
            }
        }
    }
}

/// Removes all lines called `name`.
pub(crate) fn remove(r: Request, name: &[u8]) {
    for element in live_in(all(r)) {
        // SAFETY: an element of the live request's list.
        unsafe {
            if field(element).0.eq_ignore_ascii_case(name) {
                (*element).hash = 0;
            }
        }
    }
}

/// Whether the response has trailers now.
pub(crate) fn are_there(r: Request) -> bool {
    fields(r).next().is_some()
}

/// Tells nginx before the header goes out that trailers follow: the length must not be announced then.
pub(crate) fn announce(r: Request) {
    // SAFETY: the request is live.
    unsafe { ffi::ngx_http_wasm_set_r_expect_trailers(r.as_ptr(), 1) }
}
