//! The floor of the nginx side: the C shim, the one way into Rust from C ([`guard`]), and nginx
//! strings as slices. Everything here is a line or two around something that nginx owns.

use std::ffi::c_void;
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nginx_sys::{
    ngx_buf_t, ngx_connection_t, ngx_event_t, ngx_http_headers_in_t, ngx_http_headers_out_t,
    ngx_http_request_t, ngx_http_variable_t, ngx_http_variable_value_t, ngx_int_t, ngx_msec_t,
    ngx_str_t, ngx_table_elt_t, ngx_uint_t,
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

/// Declares the readers and writers of bit-fields that the shim defines.
macro_rules! bit_fields {
    (get: $($get:ident($of:ty)),+; set: $($set:ident($on:ty)),+;) => {
        unsafe extern "C" {
            $(pub(crate) fn $get(p: *const $of) -> ngx_uint_t;)+
            $(pub(crate) fn $set(p: *mut $on, v: ngx_uint_t);)+
        }
    };
}

bit_fields! {
    get:
        ngx_http_wasm_r_internal(ngx_http_request_t),
        ngx_http_wasm_r_header_only(ngx_http_request_t),
        ngx_http_wasm_r_valid_unparsed_uri(ngx_http_request_t),
        ngx_http_wasm_r_valid_location(ngx_http_request_t),
        ngx_http_wasm_r_quoted_uri(ngx_http_request_t),
        ngx_http_wasm_r_uri_changed(ngx_http_request_t),
        ngx_http_wasm_r_count(ngx_http_request_t),
        ngx_http_wasm_c_buffered(ngx_connection_t),
        ngx_http_wasm_ev_ready(ngx_event_t),
        ngx_http_wasm_ev_timer_set(ngx_event_t),
        ngx_http_wasm_b_in_file(ngx_buf_t),
        ngx_http_wasm_b_flush(ngx_buf_t),
        ngx_http_wasm_b_last_buf(ngx_buf_t);
    set:
        ngx_http_wasm_set_r_main_filter_need_in_memory(ngx_http_request_t),
        ngx_http_wasm_set_r_filter_need_in_memory(ngx_http_request_t),
        ngx_http_wasm_set_r_allow_ranges(ngx_http_request_t),
        ngx_http_wasm_set_r_single_range(ngx_http_request_t),
        ngx_http_wasm_set_r_valid_unparsed_uri(ngx_http_request_t),
        ngx_http_wasm_set_r_valid_location(ngx_http_request_t),
        ngx_http_wasm_set_r_quoted_uri(ngx_http_request_t),
        ngx_http_wasm_set_r_empty_path_in_uri(ngx_http_request_t),
        ngx_http_wasm_set_r_uri_changed(ngx_http_request_t),
        ngx_http_wasm_set_r_preserve_body(ngx_http_request_t),
        ngx_http_wasm_set_r_expect_trailers(ngx_http_request_t),
        ngx_http_wasm_set_in_chunked(ngx_http_headers_in_t),
        ngx_http_wasm_set_c_buffered(ngx_connection_t),
        ngx_http_wasm_set_ev_cancelable(ngx_event_t),
        ngx_http_wasm_set_b_memory(ngx_buf_t),
        ngx_http_wasm_set_b_in_file(ngx_buf_t),
        ngx_http_wasm_set_b_last_buf(ngx_buf_t),
        ngx_http_wasm_set_b_last_in_chain(ngx_buf_t),
        ngx_http_wasm_set_out_need_in_memory(nginx_sys::ngx_output_chain_ctx_t);
}

unsafe extern "C" {
    pub(crate) fn ngx_http_wasm_b_in_memory(b: *const ngx_buf_t) -> ngx_uint_t;
    pub(crate) fn ngx_http_wasm_add_timer(ev: *mut ngx_event_t, time: ngx_msec_t);
    pub(crate) fn ngx_http_wasm_del_timer(ev: *mut ngx_event_t);
    pub(crate) fn ngx_http_wasm_post_event(ev: *mut ngx_event_t);
    pub(crate) fn ngx_http_wasm_post_next_event(ev: *mut ngx_event_t);
    pub(crate) fn ngx_http_wasm_delete_posted_event(ev: *mut ngx_event_t);
    pub(crate) fn ngx_http_wasm_upstream_gone(r: *const ngx_http_request_t) -> ngx_uint_t;
    pub(crate) fn ngx_http_wasm_end_upstream(r: *mut ngx_http_request_t) -> ngx_uint_t;
    pub(crate) fn ngx_http_wasm_link_request_header(
        r: *mut ngx_http_request_t,
        offset: ngx_uint_t,
        multi: ngx_uint_t,
        h: *mut ngx_table_elt_t,
    ) -> ngx_int_t;
    pub(crate) fn ngx_http_wasm_unlink_request_header(
        r: *mut ngx_http_request_t,
        offset: ngx_uint_t,
        multi: ngx_uint_t,
    );
    pub(crate) fn ngx_http_wasm_request_header_is_multi(offset: ngx_uint_t) -> ngx_uint_t;
    pub(crate) fn ngx_http_wasm_init_header(h: *mut ngx_table_elt_t);
    pub(crate) fn ngx_http_wasm_forget_user_agent(r: *mut ngx_http_request_t);
    pub(crate) fn ngx_http_wasm_forget_gzip_test(r: *mut ngx_http_request_t);
    pub(crate) fn ngx_http_wasm_forget_variable(r: *mut ngx_http_request_t, index: ngx_uint_t);
    pub(crate) fn ngx_http_wasm_set_variable(
        v: *mut ngx_http_variable_value_t,
        data: *mut u8,
        len: ngx_uint_t,
    );
    pub(crate) fn ngx_http_wasm_variable(
        r: *mut ngx_http_request_t,
        index: ngx_uint_t,
        value: *mut ngx_str_t,
    ) -> ngx_int_t;
    pub(crate) fn ngx_http_wasm_set_not_found(v: *mut ngx_http_variable_value_t);
    static ngx_http_wasm_layout: [usize; LAYOUT.len()];
    static ngx_http_wasm_layout_len: usize;
}

/// The layout that the bindings believe in; the same list stands at the end of `shim.c`.
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
    // SAFETY: both statics are constants of the shim; the length is read before the table is
    // trusted to be as long as LAYOUT.
    unsafe { ngx_http_wasm_layout_len == LAYOUT.len() && ngx_http_wasm_layout == LAYOUT }
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

/// A mutable C pointer to Rust data that C only reads.
pub(crate) fn c_void_of<T>(value: *const T) -> *mut c_void {
    value.cast_mut().cast()
}
