//! The request target: pointing a request at another one, and putting one together where nginx has
//! none.

use std::ptr;

use nginx_sys::{ngx_http_core_srv_conf_t, ngx_str_t, ngx_uint_t};

use crate::http::on_the_wire;
use crate::nginx::ngx::ffi::{self, NoMemory, OK};
use crate::nginx::ngx::request::{Request, empty};

/// Points the request at another path and query: what `proxy_pass` without a URI part sends,
/// what static files are looked up by, `$uri`, `$args` and `$request_uri`. The location is not
/// chosen again. `false` when nginx finds the path unsafe (it leaves the root by `..`).
pub(crate) fn set(request: Request, target: &[u8]) -> Result<bool, NoMemory> {
    // ngx_http_parse_complex_uri() reads one byte past the target, which `copy` has put there.
    let raw = request.copy(&on_the_wire(target))?;
    let uri = request.allocate(raw.len + 1)?;
    let r = request.as_ptr();
    // SAFETY: the request is live; the parser reads from uri_start to uri_end and one byte
    // more, and writes no more than it reads (plus one slash) to uri.data. It keeps its
    // results in fields that are saved here and put back unless it succeeds.
    unsafe {
        let saved = (
            ((*r).uri, (*r).args, (*r).exten),
            ((*r).uri_start, (*r).uri_end, (*r).args_start, (*r).uri_ext),
        );
        (*r).uri = ngx_str_t { len: raw.len + 1, data: uri };
        (*r).args = empty();
        (*r).exten = empty();
        (*r).uri_start = raw.data;
        (*r).uri_end = raw.data.add(raw.len);
        ffi::ngx_http_wasm_set_r_empty_path_in_uri(
            r,
            ngx_uint_t::from(target.first() != Some(&b'/')),
        );
        let cscf = *(*r).srv_conf.add(nginx_sys::ngx_http_core_module.ctx_index);
        let merge = (*cscf.cast::<ngx_http_core_srv_conf_t>()).merge_slashes;
        let rc = nginx_sys::ngx_http_parse_complex_uri(r, merge as ngx_uint_t);
        let args_start = (*r).args_start;
        ((*r).uri_start, (*r).uri_end, (*r).args_start, (*r).uri_ext) = saved.1;
        if rc != OK {
            ((*r).uri, (*r).args, (*r).exten) = saved.0;
            return Ok(false);
        }
        if !args_start.is_null() {
            let at = args_start.offset_from(raw.data).unsigned_abs();
            (*r).args = ngx_str_t { len: raw.len - at, data: args_start };
        }
        (*r).unparsed_uri = raw;
        // proxy_pass without a URI part sends unparsed_uri as it is; with one, the location's
        // length must not be cut off a URI that did not come from it.
        ffi::ngx_http_wasm_set_r_valid_unparsed_uri(r, 1);
        ffi::ngx_http_wasm_set_r_valid_location(r, 0);
        ffi::ngx_http_wasm_set_r_quoted_uri(r, 1);
        ffi::ngx_http_wasm_set_r_uri_changed(r, 0);
        nginx_sys::ngx_http_set_exten(r);
    }
    Ok(true)
}

/// Path and query as a target, after an internal redirect left `r->unparsed_uri` behind.
pub(crate) fn rebuilt(r: Request) -> Vec<u8> {
    let (path, args) = r.uri_and_args();
    let mut target = escape(path);
    if !args.is_empty() {
        target.push(b'?');
        target.extend_from_slice(args);
    }
    target
}

/// Percent-encodes what may not stand in a path (`ngx_escape_uri()`).
fn escape(path: &[u8]) -> Vec<u8> {
    let kind = nginx_sys::NGX_ESCAPE_URI as ngx_uint_t;
    // SAFETY: without a destination the function counts the bytes to escape, reading `path` only.
    let escaped = unsafe {
        nginx_sys::ngx_escape_uri(ptr::null_mut(), path.as_ptr().cast_mut(), path.len(), kind)
    };
    let mut text = vec![0; path.len() + 2 * escaped];
    // SAFETY: each escaped byte grows by two, and the destination has room for that.
    unsafe {
        nginx_sys::ngx_escape_uri(text.as_mut_ptr(), path.as_ptr().cast_mut(), path.len(), kind)
    };
    text
}
