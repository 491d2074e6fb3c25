//! How a [`Request`] goes on: its events and phases, its upstream, the response that is made of it, and
//! its end.

use std::ptr;

use nginx_sys::{
    ngx_chain_t, ngx_connection_t, ngx_http_core_run_phases, ngx_http_event_handler_pt,
    ngx_http_finalize_request, ngx_http_request_t, ngx_http_run_posted_requests, ngx_int_t,
    ngx_uint_t,
};

use crate::nginx::ngx::ffi;
use crate::nginx::ngx::request::{Request, empty};

impl Request {
    /// `r->headers_out.status`.
    pub(crate) fn status(self) -> u16 {
        // SAFETY: the request is live.
        let status = unsafe { (*self.as_ptr()).headers_out.status };
        u16::try_from(status).unwrap_or(0)
    }

    /// Sets the status of the response in all places that remember it.
    pub(crate) fn set_status(self, status: u16) {
        let r = self.as_ptr();
        // SAFETY: the request is live.
        unsafe {
            (*r).headers_out.status = ngx_uint_t::from(status);
            // Otherwise the upstream's reason phrase and, in the log, an earlier error stay.
            (*r).headers_out.status_line = empty();
            if (*r).err_status != 0 {
                (*r).err_status = ngx_uint_t::from(status);
            }
        }
    }

    /// Marks or unmarks the connection as holding response data that will be pushed later.
    pub(crate) fn set_held(self, held: bool) {
        let c = self.connection();
        // SAFETY: the connection outlives the request.
        unsafe {
            let bits = ffi::ngx_http_wasm_c_buffered(c);
            let bits = if held { bits | ffi::BUFFERED } else { bits & !ffi::BUFFERED };
            ffi::ngx_http_wasm_set_c_buffered(c, bits);
        }
    }

    /// Runs the request's write handler on the next turn of the event loop.
    pub(crate) fn post_write_event(self) {
        // SAFETY: a connection always has its two events.
        unsafe { ffi::ngx_http_wasm_post_event((*self.connection()).write) }
    }

    /// While a guest waits: notices that the client went away. nginx ends the request then, unless it
    /// is told to go on all the same (`proxy_ignore_client_abort`).
    pub(crate) fn watch_client(self) {
        let r = self.as_ptr();
        // SAFETY: the request and its connection are live.
        unsafe {
            if ffi::ngx_http_wasm_ignores_client_abort(r) != 0 {
                return;
            }
            (*r).read_event_handler = Some(nginx_sys::ngx_http_test_reading);
            let read = (*self.connection()).read;
            if ffi::ngx_http_wasm_ev_ready(read) != 0 {
                ffi::ngx_http_wasm_post_event(read);
            }
        }
    }

    /// Undoes [`Self::watch_client`], as nginx has it between reading a request and the content
    /// handler.
    pub(crate) fn unwatch_client(self) {
        // SAFETY: the request is live.
        unsafe { (*self.as_ptr()).read_event_handler = Some(nginx_sys::ngx_http_block_reading) }
    }

    /// Lets the next write event go on with the phases. Reading a body leaves a handler that does
    /// nothing, and a later module that waits (`auth_request`) would never be entered again.
    pub(crate) fn phases_on_write(self) {
        // SAFETY: the request is live.
        unsafe { (*self.as_ptr()).write_event_handler = Some(ngx_http_core_run_phases) }
    }

    /// Goes on with the phases from an event. Nothing of the request may be touched afterwards:
    /// it may be gone.
    pub(crate) fn run_phases(self) {
        let c = self.connection();
        let run: ngx_http_event_handler_pt = Some(ngx_http_core_run_phases);
        // SAFETY: the request is live until the phases end it; the connection outlives it and is
        // recycled on a later turn of the event loop only.
        unsafe {
            (*self.as_ptr()).write_event_handler = run;
            ngx_http_core_run_phases(self.as_ptr());
            ngx_http_run_posted_requests(c);
        }
    }

    /// Ends the request, or this reference to it. It may be gone afterwards.
    pub(crate) fn finalize(self, rc: ngx_int_t) {
        // SAFETY: the request is live; callers touch nothing of it afterwards.
        unsafe { ngx_http_finalize_request(self.as_ptr(), rc) }
    }

    /// Reads and drops what the client still sends of its body, so that keep-alive and pipelining
    /// stay in step.
    pub(crate) fn discard_body(self) -> ngx_int_t {
        // SAFETY: the request is live.
        unsafe { nginx_sys::ngx_http_discard_request_body(self.as_ptr()) }
    }

    /// Whether the client sends a body with the request, of which some may have come.
    pub(crate) fn has_body(self) -> bool {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_has_body(self.as_ptr()) != 0 }
    }

    /// A client that waits for it is not asked for its body (`Expect: 100-continue`), as before nginx's
    /// own pages: one that is refused does not send it, and closes the connection.
    pub(crate) fn forbid_continue(self) {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_set_r_expect_tested(self.as_ptr(), 1) }
    }

    pub(crate) fn send_header(self) -> ngx_int_t {
        // SAFETY: the request is live.
        unsafe { nginx_sys::ngx_http_send_header(self.as_ptr()) }
    }

    pub(crate) fn output(self, chain: *mut ngx_chain_t) -> ngx_int_t {
        // SAFETY: the request is live and the chain is in its pool.
        unsafe { nginx_sys::ngx_http_output_filter(self.as_ptr(), chain) }
    }

    pub(crate) fn header_only(self) -> bool {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_r_header_only(self.as_ptr()) != 0 }
    }

    /// Asks the filters before us for data in memory: those after us may ask for it too late, once the
    /// header has gone on.
    pub(crate) fn want_memory(self) {
        let r = self.as_ptr();
        // SAFETY: the request is live.
        unsafe {
            ffi::ngx_http_wasm_set_r_main_filter_need_in_memory(r, 1);
            ffi::ngx_http_wasm_set_r_filter_need_in_memory(r, 1);
        }
    }

    /// No range of the response may be cut out any more.
    pub(crate) fn forbid_ranges(self) {
        let r = self.as_ptr();
        // SAFETY: the request is live.
        unsafe {
            ffi::ngx_http_wasm_set_r_allow_ranges(r, 0);
            ffi::ngx_http_wasm_set_r_single_range(r, 0);
        }
    }

    /// Has `handler` called when the upstream that is at work ends, in the place of the function that is
    /// returned, which it is to call. None without an upstream, or where that is so already.
    pub(crate) fn at_upstream_end(
        self,
        handler: unsafe extern "C" fn(*mut ngx_http_request_t, ngx_int_t),
    ) -> Option<unsafe extern "C" fn(*mut ngx_http_request_t, ngx_int_t)> {
        if !self.has_upstream() {
            return None;
        }
        // SAFETY: the request and its upstream are live; nginx calls the function once.
        unsafe {
            let upstream = (*self.as_ptr()).upstream;
            let before = (*upstream).finalize_request?;
            if ptr::fn_addr_eq(before, handler) {
                return None;
            }
            (*upstream).finalize_request = Some(handler);
            Some(before)
        }
    }

    /// Ends an upstream that is still at work; whether there was one. Not from inside its calls.
    /// Its reference to the request is the caller's then, who has to finalize.
    pub(crate) fn end_upstream(self) -> bool {
        // SAFETY: the request is live and stays so: a reference is taken for the one that is given up.
        unsafe { ffi::ngx_http_wasm_end_upstream(self.as_ptr()) != 0 }
    }

    /// Whether an upstream is at work on the request.
    pub(crate) fn has_upstream(self) -> bool {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_upstream_works(self.as_ptr()) != 0 }
    }

    /// Whether nginx's cache wants the whole response of an upstream that is at work.
    pub(crate) fn fills_cache(self) -> bool {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_upstream_caches(self.as_ptr()) != 0 }
    }

    /// Whether an upstream was asked with another method than the request's: nginx's cache makes a GET of
    /// a HEAD.
    pub(crate) fn replaces_method(self) -> bool {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_upstream_replaces_method(self.as_ptr()) != 0 }
    }

    /// Whether an upstream turns the connection into a tunnel right behind this header.
    pub(crate) fn upgrades(self) -> bool {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_upstream_upgrades(self.as_ptr()) != 0 }
    }

    /// Whether whoever made the response has returned, and only nginx's writer is left.
    pub(crate) fn is_left_to_writer(self) -> bool {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_is_left_to_writer(self.as_ptr()) != 0 }
    }

    /// Whether subrequests are under way whose output belongs to the response, or reads in threads.
    pub(crate) fn has_company(self) -> bool {
        // SAFETY: the request and its connection are live.
        unsafe { ffi::ngx_http_wasm_has_company(self.as_ptr()) != 0 }
    }

    /// Whether the operator has a page for a status (`error_page`).
    pub(crate) fn has_error_page(self, status: ngx_int_t) -> bool {
        // SAFETY: the request is live, and its location has a core configuration.
        unsafe { ffi::ngx_http_wasm_has_error_page(self.as_ptr(), status as ngx_uint_t) != 0 }
    }

    /// Whether filters before ours have something of the response.
    pub(crate) fn is_buffered(self) -> bool {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_r_buffered(self.as_ptr()) != 0 }
    }

    /// Whether filters after ours, or the connection, have something to push.
    pub(crate) fn has_output(self) -> bool {
        // SAFETY: the connection outlives the request.
        unsafe { ffi::ngx_http_wasm_c_buffered(self.connection()) & !ffi::BUFFERED != 0 }
    }

    /// Whether a filter is replacing the response by a page, from inside the filters.
    pub(crate) fn is_replaced_in_filter(self) -> bool {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_r_filter_finalize(self.as_ptr()) != 0 }
    }

    /// Whether the response is put together from ranges of an upstream's (`slice`).
    pub(crate) fn is_sliced(self) -> bool {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_r_subrequest_ranges(self.as_ptr()) != 0 }
    }

    /// Pauses the connection as `limit_rate` does, or goes on; see [`super::hold::Pause`].
    pub(crate) fn set_paused(self, paused: bool) {
        // SAFETY: the request and its connection are live.
        unsafe { ffi::ngx_http_wasm_set_paused(self.as_ptr(), paused.into()) }
    }

    /// The header that was about to be sent is forgotten, with all its lines (`error_page` and nginx's
    /// own pages begin with an empty one).
    pub(crate) fn clean_header(self) {
        // SAFETY: the request is live and its header is not sent.
        unsafe { nginx_sys::ngx_http_clean_header(self.as_ptr()) }
    }

    /// Another response is about to be made.
    pub(crate) fn begin_anew(self) {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_begin_anew(self.as_ptr()) }
    }

    /// Filters lose what they have of the response, and their contexts, except the one at `index`.
    pub(crate) fn forget_filters(self, index: usize) {
        // SAFETY: the request is live and its `ctx` has a slot for every module.
        unsafe { ffi::ngx_http_wasm_forget_filters(self.as_ptr(), index) }
    }

    /// A handler that set this before the header sends no body; without it, one goes out.
    pub(crate) fn allow_body(self) {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_set_r_header_only(self.as_ptr(), 0) }
    }

    /// Whoever looks at this behind the header sends no body, nor the end of one.
    pub(crate) fn forbid_body(self) {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_set_r_header_only(self.as_ptr(), 1) }
    }

    /// The connection is closed behind the response.
    pub(crate) fn forbid_keepalive(self) {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_set_r_keepalive(self.as_ptr(), 0) }
    }

    /// The response goes out whatever the request's conditions (`If-Match` and others) say.
    pub(crate) fn ignore_conditions(self) {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_set_r_disable_not_modified(self.as_ptr(), 1) }
    }

    /// Sends on what waits for the connection's requests after something was done outside of them.
    /// The request may be gone by now.
    pub(crate) fn run_posted(c: *mut ngx_connection_t) {
        // SAFETY: a connection outlives its requests and is recycled on a later turn only.
        unsafe { ngx_http_run_posted_requests(c) }
    }
}
