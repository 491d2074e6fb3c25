//! nginx's page in the place of a response that failed. Whoever sends that response may not know and
//! go on: nothing of it may follow the page, where a client would take it for another response.

use std::rc::Rc;

use nginx_sys::{ngx_chain_t, ngx_int_t};

use super::chain;
use super::ctx::{Ctx, Stage};
use super::ffi::{AGAIN, DONE, ERROR, OK};
use super::reply::Reply;
use super::request::Request;

/// How much of the page has come.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Page {
    /// The response is not one.
    #[default]
    None,
    /// It is being made.
    Coming,
    /// All of it.
    Whole,
}

/// Replaces the response by nginx's page for `status`. The guests that are still owed a call see
/// that page: the header filter is entered again for it.
pub(crate) fn replace(ctx: &Rc<Ctx>, status: ngx_int_t) -> ngx_int_t {
    let r = ctx.request();
    ctx.cancel();
    r.set_held(false);
    ctx.enter(Stage::Failed);
    *ctx.reply.borrow_mut() = Reply { page: Page::Coming, ..Reply::default() };
    // SAFETY: the request is live and its header is not sent; nginx cleans headers_out, keeps our
    // context and sends its page through the filters.
    unsafe { nginx_sys::ngx_http_filter_finalize_request(r.as_ptr(), super::module_ptr(), status) }
}

/// What a filter is handed that is part of the response.
pub(crate) fn admit(ctx: &Ctx, chain: *mut ngx_chain_t) -> *mut ngx_chain_t {
    let mut reply = ctx.reply.borrow_mut();
    match reply.page {
        Page::None => chain,
        Page::Coming => {
            if chain::ends(chain) {
                reply.page = Page::Whole;
            }
            chain
        }
        Page::Whole => {
            chain::drop_all(chain);
            std::ptr::null_mut()
        }
    }
}

/// The same from an event, outside the filters and the code that sends the response, which ends here.
/// Nothing of the request may be touched afterwards: it may be gone.
pub(crate) fn replace_outside(ctx: &Rc<Ctx>, status: ngx_int_t) {
    let r = ctx.request();
    let ours = r.end_upstream();
    match replace(ctx, status) {
        // error_page has begun another response, which has a reference of its own.
        ERROR if r.references() > 1 => r.finalize(DONE),
        // A guest waits with the page, or the client is slow to take it.
        rc @ (OK | AGAIN) if ours => r.finalize(rc),
        OK | AGAIN => r.post_write_event(),
        _ => r.finalize(ERROR),
    }
}

/// Ends a request whose response cannot go on, from outside the filters.
pub(crate) fn abandon(r: Request) {
    // Its end would give up the request's last reference a second time.
    r.end_upstream();
    r.finalize(ERROR);
}
