//! The request body as nginx keeps it: reading it from where it is, keeping it for those who come
//! after the guest, and putting another in its place.

use bytes::Bytes;
use nginx_sys::{ngx_http_core_loc_conf_t, ngx_http_request_body_t};

use super::chain::Reader;
use super::ffi::{self, NoMemory};
use super::headers_in;
use super::request::Request;
use super::spool::{Body, Room};

/// A reader at the start of the body that nginx has read; empty when there is none.
pub(crate) fn reader(r: Request) -> Reader {
    // SAFETY: the request is live; `bufs` is a chain in its pool or null.
    unsafe {
        match (*r.as_ptr()).request_body.as_ref() {
            Some(body) => Reader::of(body.bufs),
            None => Reader::default(),
        }
    }
}

/// The body will be read again after an internal redirect: nginx must not let go of it.
pub(crate) fn preserve(r: Request) {
    // SAFETY: the request is live.
    unsafe { ffi::ngx_http_wasm_set_r_preserve_body(r.as_ptr(), 1) }
}

/// How large a request body a guest may write: what `client_max_body_size` allows a client, in
/// memory as far as `client_body_buffer_size` goes.
pub(crate) fn room(r: Request) -> Room {
    // SAFETY: the request is live and its location always has a core configuration.
    let (memory, max) = unsafe {
        let index = nginx_sys::ngx_http_core_module.ctx_index;
        let clcf = (*(*r.as_ptr()).loc_conf.add(index)).cast::<ngx_http_core_loc_conf_t>();
        ((*clcf).client_body_buffer_size, (*clcf).client_max_body_size)
    };
    let max = match u64::try_from(max) {
        Ok(0) | Err(_) => u64::MAX,
        Ok(max) => max,
    };
    Room { memory, max }
}

/// Makes `written` the request body that everybody after the guest sees. What nginx read stays
/// where it is, for guests that read it again; its temporary file goes with the request's pool.
pub(crate) fn replace(r: Request, body: Body) -> Result<Vec<Bytes>, NoMemory> {
    let len = body.len();
    // proxy_pass and its like look for a null chain, not for an empty buffer, when there is no body.
    let (out, keep) = body.into_chain(r, len != 0)?;
    // SAFETY: the request is live. The record is nginx's own or a zeroed one of its pool, which is
    // how nginx itself begins one.
    unsafe {
        let r_ = r.as_ptr();
        if (*r_).request_body.is_null() {
            (*r_).request_body = r.zeroed::<ngx_http_request_body_t>()?;
        }
        let body = (*r_).request_body;
        (*body).bufs = out.first();
        (*body).buf = std::ptr::null_mut();
        (*body).temp_file = std::ptr::null_mut();
    }
    headers_in::set_content_length(r, len)?;
    Ok(keep)
}
