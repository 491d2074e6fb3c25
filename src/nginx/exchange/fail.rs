//! A response that fails before its header is sent. The code that sends it may go on without knowing:
//! nothing of it reaches the client, and nginx's page, or what `error_page` says, is made in a turn of
//! its own, outside of that code.

use nginx_sys::ngx_int_t;

use crate::nginx::exchange::ctx::Ctx;
use crate::nginx::exchange::reply::{Holding, Reply};
use crate::nginx::exchange::state::{Failing, State};
use crate::nginx::exchange::task;
use crate::nginx::exchange::wait::{Need, Side};
use crate::nginx::ngx::ffi::{ERROR, OK};
use crate::nginx::ngx::hold::Hold;
use crate::nginx::ngx::module;
use crate::nginx::ngx::request::Request;

/// Gives the response up; the return code is the filter's.
pub(crate) fn defer(ctx: &Ctx, mut reply: Reply, status: ngx_int_t) -> ngx_int_t {
    let r = ctx.request();
    reply.drop_kept();
    reply.hold(r);
    let Reply { holding, ended, .. } = reply;
    match holding {
        Holding::On(hold) => {
            let wait = Some(task::wait(ctx, Need::Turn, Side::Response));
            let hold = Some(hold);
            ctx.watch_upstream();
            ctx.enter(State::Failing(Box::new(Failing { status, hold, wait, ended })));
            OK
        }
        // A page that takes the place of a response inside the filters cannot be replaced again: the
        // connection is closed.
        Holding::Brief => ERROR,
        // Whoever sends it asks before anything follows the header, and makes the page.
        Holding::Never | Holding::Possible => {
            r.clean_header();
            r.allow_body();
            ctx.cover_encoding();
            ctx.set_failed();
            ctx.enter(State::Passed);
            status
        }
    }
}

/// How a response that failed is answered.
pub(crate) enum Answer {
    /// By nginx, as any other error.
    Nginx(ngx_int_t),
    /// By a page put in its place: others are still at work on the response.
    Page(ngx_int_t, Hold),
}

/// Says how, from an event; not yet while [`waits`] says so.
pub(crate) fn answer(ctx: &Ctx) -> Option<Answer> {
    let r = ctx.request();
    let (status, hold, busy) = ctx.with_state(|state| match state {
        State::Failing(failing) if waits(r, failing) => None,
        State::Failing(failing) => {
            let hold = failing.hold.take()?;
            Some((failing.status, hold, is_busy(r, failing)))
        }
        State::Before
        | State::Asking(_)
        | State::Passed
        | State::Collecting(_)
        | State::Responding(_)
        | State::Draining(_)
        | State::Through(_)
        | State::Over => None,
    })?;
    ctx.set_failed();
    Some(if !busy && (r.has_upstream() || r.is_left_to_writer()) {
        Answer::Nginx(status)
    } else {
        Answer::Page(status, hold)
    })
}

/// Whether others have to come to an end before the response can be made anew: subrequests, and an
/// upstream whose response the cache wants whole.
fn is_busy(r: Request, failing: &Failing) -> bool {
    r.has_company() || !failing.ended && r.fills_cache()
}

/// Whether the answer has to wait for that: nginx is to go to a page of the operator's.
fn waits(r: Request, failing: &Failing) -> bool {
    is_busy(r, failing) && r.has_error_page(failing.status)
}

/// More of a response that failed came, and is dropped, or its sender was at work: it may be time for
/// an answer that waits.
pub(crate) fn arrived(ctx: &Ctx, last: bool) {
    let r = ctx.request();
    let due = ctx.with_state(|state| match state {
        State::Failing(failing) => {
            failing.ended |= last;
            // With the writer alone left, who keeps it busy may be about to leave.
            failing.wait.is_none() && (r.is_left_to_writer() || !waits(r, failing))
        }
        _ => false,
    });
    if due {
        let wait = task::wait(ctx, Need::Turn, Side::Response);
        ctx.with_state(|state| {
            if let State::Failing(failing) = state {
                failing.wait = Some(wait);
            }
        });
    }
}

/// Has nginx answer. The reference to the request that the response's maker had is given up by it;
/// the request may be gone afterwards.
pub(crate) fn by_nginx(ctx: &Ctx, status: ngx_int_t) {
    let r = ctx.request();
    ctx.enter(State::Passed);
    r.clean_header();
    r.begin_anew();
    r.end_upstream();
    r.forget_filters(module::ctx_index());
    ctx.cover_encoding();
    r.finalize(status);
}

/// Ends a request whose response cannot go on, from outside the filters.
pub(crate) fn abandon(r: Request) {
    // Its end would give up the request's last reference a second time.
    r.end_upstream();
    r.finalize(ERROR);
}
