//! The request body as nginx keeps it: reading it from where it is, keeping it for those who come
//! after the guest, and putting another in its place.

use nginx_sys::{ngx_buf_t, ngx_http_core_loc_conf_t, ngx_http_request_body_t, ngx_temp_file_t};

use crate::nginx::ngx::chain::{Out, Reader};
use crate::nginx::ngx::ffi::{self, NoMemory};
use crate::nginx::ngx::headers_in;
use crate::nginx::ngx::request::{PUT, Request};
use crate::nginx::ngx::spool::{Body, Named, Pieces, Room, SpoolError};

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

/// It is about to be read, and those who come after the guest find it as it is then.
pub(crate) fn expect_readers(r: Request) {
    // SAFETY: the request is live.
    unsafe { ffi::ngx_http_wasm_read_body_for_all(r.as_ptr()) }
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
    // One that is to stay gets its name once it is sure that the body is taken.
    Room { memory, max, file: named(r).filter(|named| named.clean) }
}

/// Makes `body` the request body that everybody after the guest sees. What nginx read stays
/// where it is, for guests that read it again; its temporary file goes with the request's pool.
pub(crate) fn replace(r: Request, body: Body) -> Result<Pieces, SpoolError> {
    let named = named(r);
    if named.is_none() && !body.is_in_file() {
        return Ok(replace_in_memory(r, body)?);
    }
    let len = body.len();
    let file = body.into_file(r, named)?;
    remove_kept(r);
    // SAFETY: the buffer is ours and zeroed; the file's record is in the request's pool.
    let buf = unsafe {
        let buf = r.zeroed::<ngx_buf_t>()?;
        (*buf).file = &raw mut (*file).file;
        (*buf).file_last = (*file).offset;
        ffi::ngx_http_wasm_set_b_in_file(buf, 1);
        ffi::ngx_http_wasm_set_b_last_buf(buf, 1);
        ffi::ngx_http_wasm_set_b_last_in_chain(buf, 1);
        buf
    };
    let mut out = Out::default();
    if len > 0 {
        out.push(r, buf)?;
    }
    set(r, out, file, len)?;
    Ok(Pieces::new())
}

/// Whether the body is to be in a file that has a name: WebDAV stores the one that the body of a PUT is
/// in, and there is `client_body_in_file_only`.
fn named(r: Request) -> Option<Named> {
    let is_put = r.method_number() == PUT;
    let r = r.as_ptr();
    // SAFETY: the request is live.
    unsafe {
        let asked = ffi::ngx_http_wasm_r_body_in_file_only(r) != 0;
        let clean = ffi::ngx_http_wasm_r_body_in_clean_file(r) != 0;
        let group = ffi::ngx_http_wasm_r_body_file_group_access(r) != 0;
        (is_put || asked).then_some(Named { clean: clean || !asked, group: group || is_put })
    }
}

/// Removes the file of a body that another takes the place of, if nobody else does. Whoever has it open
/// can go on reading.
fn remove_kept(r: Request) {
    if let Some(Named { clean: false, .. }) = named(r) {
        // SAFETY: the request is live; a file's name ends with a zero byte, and is empty if it has none.
        unsafe {
            if let Some(body) = (*r.as_ptr()).request_body.as_ref()
                && let Some(file) = body.temp_file.as_ref()
                && !file.file.name.data.is_null()
            {
                libc::unlink(file.file.name.data.cast());
            }
        }
    }
}

/// A body that nginx has read in memory goes to a file if a guest has made a PUT of the request.
pub(crate) fn store(r: Request) -> Result<(), SpoolError> {
    // SAFETY: the request is live.
    let is_in_memory = unsafe {
        let body = (*r.as_ptr()).request_body.as_ref();
        body.is_none_or(|body| body.temp_file.is_null())
    };
    if r.method_number() != PUT || !is_in_memory {
        return Ok(());
    }
    let mut reader = reader(r);
    let mut body = Body::default();
    let mut block = [0; 4096];
    loop {
        let chunk = reader.read(&mut block)?;
        body.write(r, &block[..chunk.len], Room { max: u64::MAX, ..room(r) })?;
        if chunk.eof {
            return replace(r, body).map(drop);
        }
    }
}

/// There is none any more: a part of it must not be taken for the whole.
pub(crate) fn lose(r: Request) -> Result<(), NoMemory> {
    replace_in_memory(r, Body::default()).map(drop)
}

fn replace_in_memory(r: Request, body: Body) -> Result<Pieces, NoMemory> {
    let len = body.len();
    // proxy_pass and its like look for a null chain, not for an empty buffer, when there is no body.
    let (out, keep) = body.into_chain(r, len != 0)?;
    set(r, out, std::ptr::null_mut(), len)?;
    Ok(keep)
}

fn set(r: Request, out: Out, file: *mut ngx_temp_file_t, len: u64) -> Result<(), NoMemory> {
    // SAFETY: the request is live. The record is nginx's own or a zeroed one of its pool, which is
    // how nginx itself begins one.
    unsafe {
        let r_ = r.as_ptr();
        ffi::ngx_http_wasm_stop_discarding(r_);
        if (*r_).request_body.is_null() {
            (*r_).request_body = r.zeroed::<ngx_http_request_body_t>()?;
        }
        let body = (*r_).request_body;
        (*body).bufs = out.first();
        (*body).buf = std::ptr::null_mut();
        (*body).temp_file = file;
    }
    headers_in::set_content_length(r, len)
}
