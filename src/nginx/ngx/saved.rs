//! Request and response as they were before a guest's call, for `http_wasm_on_error open`: when the
//! call fails, what it has changed so far is undone.

use nginx_sys::{ngx_http_headers_out_t, ngx_str_t, ngx_table_elt_t, ngx_uint_t};

use crate::nginx::ngx::ffi::{self, NoMemory};
use crate::nginx::ngx::headers_in;
use crate::nginx::ngx::headers_out::{self, BY_GUEST};
use crate::nginx::ngx::list::Elements;
use crate::nginx::ngx::request::Request;

/// A request before `handle_request`.
pub(crate) struct SavedRequest {
    /// Copies of the header elements; their strings stay in the pool.
    lines: Vec<ngx_table_elt_t>,
    server: ngx_str_t,
    method: ngx_uint_t,
    method_name: ngx_str_t,
    uri: ngx_str_t,
    args: ngx_str_t,
    exten: ngx_str_t,
    unparsed_uri: ngx_str_t,
    valid_unparsed_uri: ngx_uint_t,
    valid_location: ngx_uint_t,
    quoted_uri: ngx_uint_t,
    uri_changed: ngx_uint_t,
}

impl SavedRequest {
    pub(crate) fn of(r: Request) -> Self {
        let r = r.as_ptr();
        // SAFETY: the request is live; elements and strings are copied bit by bit, and what they
        // point at lives as long as the request's pool.
        unsafe {
            SavedRequest {
                lines: Elements::of(&raw const (*r).headers_in.headers).map(|e| *e).collect(),
                server: (*r).headers_in.server,
                method: (*r).method,
                method_name: (*r).method_name,
                uri: (*r).uri,
                args: (*r).args,
                exten: (*r).exten,
                unparsed_uri: (*r).unparsed_uri,
                valid_unparsed_uri: ffi::ngx_http_wasm_r_valid_unparsed_uri(r),
                valid_location: ffi::ngx_http_wasm_r_valid_location(r),
                quoted_uri: ffi::ngx_http_wasm_r_quoted_uri(r),
                uri_changed: ffi::ngx_http_wasm_r_uri_changed(r),
            }
        }
    }

    /// Puts everything back.
    pub(crate) fn restore(self, request: Request) -> Result<(), NoMemory> {
        let r = request.as_ptr();
        headers_in::replace_all(request, &self.lines)?;
        // SAFETY: the request is live, and all strings are in its pool.
        unsafe {
            (*r).headers_in.server = self.server;
            (*r).method = self.method;
            (*r).method_name = self.method_name;
            (*r).uri = self.uri;
            (*r).args = self.args;
            (*r).exten = self.exten;
            (*r).unparsed_uri = self.unparsed_uri;
            ffi::ngx_http_wasm_set_r_valid_unparsed_uri(r, self.valid_unparsed_uri);
            ffi::ngx_http_wasm_set_r_valid_location(r, self.valid_location);
            ffi::ngx_http_wasm_set_r_quoted_uri(r, self.quoted_uri);
            ffi::ngx_http_wasm_set_r_uri_changed(r, self.uri_changed);
        }
        Ok(())
    }
}

/// The head of a response before `handle_response`.
pub(crate) struct SavedResponse {
    out: ngx_http_headers_out_t,
    err_status: ngx_uint_t,
    headers: SavedList,
    trailers: SavedList,
}

/// A list to which elements are only ever added, and whose elements are removed by their hash.
struct SavedList(Vec<(*mut ngx_table_elt_t, ngx_uint_t)>);

impl SavedList {
    /// # Safety
    /// `list` must be one of a live response's.
    unsafe fn of(list: *const nginx_sys::ngx_list_t) -> Self {
        // SAFETY: as the caller holds.
        unsafe { SavedList(Elements::of(list).map(|e| (e, (*e).hash)).collect()) }
    }

    /// What has been removed since is there again, and what guests have added is not. What nginx has
    /// added (an upstream's trailers come at the end of its body) stays.
    ///
    /// # Safety
    /// `list` must be the live list that was saved.
    unsafe fn restore(self, list: *const nginx_sys::ngx_list_t) {
        // SAFETY: as the caller holds; elements of a list stay where they are, and new ones come last.
        unsafe {
            for element in Elements::of(list).skip(self.0.len()) {
                if (*element).hash == BY_GUEST {
                    (*element).hash = 0;
                }
            }
            for (element, hash) in self.0 {
                (*element).hash = hash;
            }
        }
    }
}

impl SavedResponse {
    pub(crate) fn of(r: Request) -> Self {
        let r = r.as_ptr();
        // SAFETY: the request is live; the head is plain data, copied bit by bit.
        unsafe {
            SavedResponse {
                out: (*r).headers_out,
                err_status: (*r).err_status,
                headers: SavedList::of(&raw const (*r).headers_out.headers),
                trailers: SavedList::of(&raw const (*r).headers_out.trailers),
            }
        }
    }

    /// Puts everything back.
    pub(crate) fn restore(self, request: Request) -> Result<(), NoMemory> {
        let r = request.as_ptr();
        // SAFETY: the request is live. Its head goes back to where it was copied from, except the
        // lists, which only grow.
        unsafe {
            let out = &raw mut (*r).headers_out;
            let (headers, trailers) = ((*out).headers, (*out).trailers);
            *out = self.out;
            ((*out).headers, (*out).trailers) = (headers, trailers);
            (*r).err_status = self.err_status;
            self.headers.restore(&raw const (*out).headers);
            self.trailers.restore(&raw const (*out).trailers);
        }
        headers_out::link_all(request)
    }
}
