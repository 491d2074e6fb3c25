//! The floor of the nginx side: the C shim, the one way into Rust from C ([`guard`]), and nginx
//! strings as slices. Everything here is a line or two around something that nginx owns.

use std::ffi::c_void;
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nginx_sys::{
    ngx_buf_t, ngx_connection_t, ngx_event_t, ngx_http_headers_in_t, ngx_http_headers_out_t,
    ngx_http_request_t, ngx_http_variable_t, ngx_int_t, ngx_str_t, ngx_table_elt_t, ngx_uint_t,
};

pub(crate) const OK: ngx_int_t = nginx_sys::NGX_OK as ngx_int_t;
pub(crate) const ERROR: ngx_int_t = nginx_sys::NGX_ERROR as ngx_int_t;
pub(crate) const AGAIN: ngx_int_t = nginx_sys::NGX_AGAIN as ngx_int_t;
pub(crate) const DONE: ngx_int_t = nginx_sys::NGX_DONE as ngx_int_t;
pub(crate) const DECLINED: ngx_int_t = nginx_sys::NGX_DECLINED as ngx_int_t;
pub(crate) const INTERNAL_SERVER_ERROR: ngx_int_t =
    nginx_sys::NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;
pub(crate) const BAD_GATEWAY: ngx_int_t = nginx_sys::NGX_HTTP_BAD_GATEWAY as ngx_int_t;
pub(crate) const SERVICE_UNAVAILABLE: ngx_int_t =
    nginx_sys::NGX_HTTP_SERVICE_UNAVAILABLE as ngx_int_t;
/// First status that a handler may return to have nginx make the answer.
pub(crate) const SPECIAL_RESPONSE: ngx_int_t = nginx_sys::NGX_HTTP_SPECIAL_RESPONSE as ngx_int_t;

/// Our bit in `r->connection->buffered`: a response is held back. nginx uses the low nibble for the
/// transport and 0x10, 0x20 for the write and gzip filters; third parties use 0x08.
pub(crate) const BUFFERED: ngx_uint_t = 0x40;

/// A pool allocation failed.
#[derive(Debug)]
pub(crate) struct NoMemory;

pub(crate) use shim::*;

/// What the shim defines, as `build.rs` reads it in `shim.h`.
#[expect(unreachable_pub, reason = "made by bindgen")]
mod shim {
    use nginx_sys::*;

    include!(concat!(env!("OUT_DIR"), "/shim.rs"));
}

/// The layout that the bindings believe in; the same list is at the end of `shim.c`.
const LAYOUT: [usize; 24] = [
    size_of::<ngx_http_request_t>(),
    offset_of!(ngx_http_request_t, ctx),
    offset_of!(ngx_http_request_t, write_event_handler),
    offset_of!(ngx_http_request_t, pool),
    offset_of!(ngx_http_request_t, headers_in),
    offset_of!(ngx_http_request_t, headers_out),
    offset_of!(ngx_http_request_t, request_body),
    offset_of!(ngx_http_request_t, unparsed_uri),
    offset_of!(ngx_http_request_t, cleanup),
    offset_of!(ngx_http_request_t, uri_start),
    offset_of!(ngx_http_request_t, args_start),
    size_of::<ngx_http_headers_in_t>(),
    offset_of!(ngx_http_headers_in_t, content_length_n),
    size_of::<ngx_http_headers_out_t>(),
    offset_of!(ngx_http_headers_out_t, content_length_n),
    offset_of!(ngx_http_headers_out_t, last_modified_time),
    size_of::<ngx_connection_t>(),
    offset_of!(ngx_connection_t, log),
    size_of::<ngx_event_t>(),
    offset_of!(ngx_event_t, handler),
    size_of::<ngx_buf_t>(),
    offset_of!(ngx_buf_t, file),
    size_of::<ngx_table_elt_t>(),
    size_of::<ngx_http_variable_t>(),
];

/// Whether the Rust bindings and the C compiler agree on the structures that this module touches.
/// They must: a difference would corrupt requests silently, so the module refuses to load.
pub(crate) fn layouts_agree() -> bool {
    // SAFETY: both statics are constants of the shim, and the second is the length of the first.
    let layout = unsafe {
        std::slice::from_raw_parts(
            (&raw const ngx_http_wasm_layout).cast::<usize>(),
            ngx_http_wasm_layout_len,
        )
    };
    layout == LAYOUT
}

/// Runs what a C callback does. A panic stops here, where it would otherwise abort the worker, and
/// becomes `default`; the panic hook has written it to the log by then.
pub(crate) fn guard<T>(default: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(default)
}

/// The bytes of an nginx string, which may have a null pointer when it is empty.
///
/// # Safety
/// `s` must describe `s.len` initialised bytes that stay unchanged for `'a`.
pub(crate) unsafe fn bytes<'a>(s: ngx_str_t) -> &'a [u8] {
    if s.len == 0 || s.data.is_null() {
        return &[];
    }
    // SAFETY: not null and initialised for `len` bytes, as the caller holds.
    unsafe { std::slice::from_raw_parts(s.data, s.len) }
}

/// nginx's view of bytes, for functions that only read them.
pub(crate) const fn string(bytes: &[u8]) -> ngx_str_t {
    ngx_str_t { len: bytes.len(), data: bytes.as_ptr().cast_mut() }
}

/// A mutable C pointer to Rust data that C only reads.
pub(crate) fn c_void_of<T>(value: *const T) -> *mut c_void {
    value.cast_mut().cast()
}
