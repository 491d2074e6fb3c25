//! Every guest's `handle_response` on the way out, in reverse order.
//!
//! A guest without `buffer_response` is called before the header leaves, and the body streams
//! untouched. For one with it the header is held, the body collected, and both go out when it has
//! returned. A guest may also wait: then the header is held, and what arrives meanwhile is kept
//! unconsumed, which slows the sender down.

use std::rc::Rc;

use nginx_sys::{ngx_int_t, ngx_uint_t};

use crate::abi::FieldKind;
use crate::host::kept::Kept;
use crate::nginx::exchange::call::{Call, Responded};
use crate::nginx::exchange::collect::{self, Collected};
use crate::nginx::exchange::ctx::{Ctx, Due, Visit};
use crate::nginx::exchange::reply::{Change, Reply, forbids_body};
use crate::nginx::exchange::settings::Location;
use crate::nginx::exchange::state::{Collecting, Responding, State};
use crate::nginx::exchange::task::{self, Progress};
use crate::nginx::exchange::wait::Side;
use crate::nginx::ngx::ffi::{BAD_GATEWAY, INTERNAL_SERVER_ERROR, NoMemory};
use crate::nginx::ngx::field::FieldLine;
use crate::nginx::ngx::headers_in;
use crate::nginx::ngx::headers_out::{self, Outside, trailers};
use crate::nginx::ngx::log::ERR;
use crate::nginx::ngx::request::{HEAD, Request};
use crate::nginx::ngx::saved::SavedResponse;
use crate::nginx::ngx::spool::Body;

/// How far the guests have come.
pub(crate) enum Turn {
    /// The header stays where it is: the body is being collected or a guest waits.
    Held,
    /// Every guest has been called.
    Release(Box<Reply>),
    /// The response is given up for this status.
    Fail(ngx_int_t, Box<Reply>),
}

/// A response starts its way: the request is the client's again, and what guests set before is merged
/// in. Nothing is returned of one that passes as it comes from there on.
pub(crate) fn begin(ctx: &Ctx) -> Result<Option<Box<Reply>>, NoMemory> {
    let r = ctx.request();
    let method = ctx.with_io(|io| {
        io.response.body = Body::default();
        io.request.sent_method.take()
    });
    ctx.show_encoding()?;
    let reply = match method.flatten() {
        None if passes(ctx) => None,
        method => Some(reply(ctx, method)),
    };
    ctx.with_io(|io| merge(r, &mut io.kept)).unwrap_or(Ok(()))?;
    Ok(reply)
}

/// Merges in what guests set before there was a response.
fn merge(r: Request, kept: &mut Kept) -> Result<(), NoMemory> {
    if kept.has_early() {
        for (name, value) in kept.early(FieldKind::ResponseTrailers) {
            trailers::add(r, FieldLine::copy(r, name, value)?)?;
        }
        headers_out::merge(r, kept.early(FieldKind::Response))?;
        kept.forget_early();
    }
    Ok(())
}

/// Whether no guest is called for the response or puts anything before its body, which comes by itself.
fn passes(ctx: &Ctx) -> bool {
    let r = ctx.request();
    let is_through = |visit: &Visit| match visit.due {
        Due::Nothing | Due::Done => true,
        Due::Prefix => visit.early.is_empty(),
        Due::Response { .. } => false,
    };
    !r.header_only()
        && !forbids_body(r)
        && !ctx.was_page_refused()
        && ctx.with_visits(|visits| visits.iter().all(is_through))
}

/// The response that nginx begins, to a request that the client `sent` with another method than nginx
/// has handled.
fn reply(ctx: &Ctx, sent: Option<ngx_uint_t>) -> Box<Reply> {
    let r = ctx.request();
    let (failed, refused) = (ctx.has_failed(), ctx.was_page_refused());
    let mut reply = Reply::begin(r, headers_in::has_range(r), failed, refused);
    if refused {
        // Its body will not get here either: the header goes alone, and its sender is told so.
        reply.replace_body(Body::default());
        reply.is_empty = true;
    }
    if let Some(sent) = sent {
        let was_head = r.is_head();
        r.set_method_number(sent);
        if was_head && sent != HEAD {
            // The client gets what it asked for, a body: the handler was not asked for one, and what
            // it sends all the same (a file) speaks of another method.
            reply.replace_body(Body::default());
        }
    }
    reply
}

/// Calls guests, innermost first, until one has to wait or none is left. `call` has begun before.
pub(crate) fn run(
    ctx: &Rc<Ctx>,
    mut reply: Box<Reply>,
    mut call: Option<Call<Responded>>,
) -> Result<Turn, NoMemory> {
    let r = ctx.request();
    loop {
        if let Some(running) = call.take() {
            let side = reply.may_wait().then_some(Side::Response);
            match task::advance(ctx, running, side) {
                Progress::Waits(call) => {
                    reply.hold(r);
                    ctx.enter(State::Responding(Some(Box::new(Responding { call, reply }))));
                    return Ok(Turn::Held);
                }
                Progress::Done(Responded::Finished) => take(ctx, &mut reply),
                Progress::Done(Responded::Failed(status)) => {
                    if !undo(ctx, &mut reply) {
                        return Ok(Turn::Fail(status, reply));
                    }
                }
                Progress::Unreadable(_) => {
                    return Ok(Turn::Fail(INTERNAL_SERVER_ERROR, reply));
                }
            }
        }
        let Some(buffers) = innermost_owed(ctx, &mut reply) else {
            return Ok(released(ctx, reply));
        };
        let wanted = buffers && !forbids_body(r);
        if wanted && reply.may_collect() {
            match collect::begin(ctx, &mut reply)? {
                Collected::Whole | Collected::Stream => {}
                Collected::Partly => {
                    reply.hold(r);
                    ctx.watch_upstream();
                    ctx.enter(State::Collecting(Box::new(Collecting { reply, look: None })));
                    return Ok(Turn::Held);
                }
                Collected::Failed(status) => return Ok(Turn::Fail(status, reply)),
            }
        }
        let body = wanted && reply.is_whole();
        call = start(ctx, &mut reply, body);
    }
}

/// No guest is left. What one put before the body has no encoding, and belongs to no part.
fn released(ctx: &Ctx, reply: Box<Reply>) -> Turn {
    let r = ctx.request();
    if reply.change == Change::Prefixed && !forbids_body(r) {
        let why = if reply.encoding.is_left() {
            "encoded (Content-Encoding)"
        } else if r.status() == 206 {
            "a part (206)"
        } else {
            return Turn::Release(reply);
        };
        ctx.log().write(
            ERR,
            format_args!(
                "http_wasm: a guest wrote bytes before a body that is {why}, though nobody asked \
                 for that"
            ),
        );
        return Turn::Fail(BAD_GATEWAY, reply);
    }
    Turn::Release(reply)
}

/// Whether the innermost guest that is owed a call has `buffer_response` on; `None` when nobody is
/// owed one. What that guest wrote before the next handler ran goes before the body from here on.
fn innermost_owed(ctx: &Ctx, reply: &mut Reply) -> Option<bool> {
    let of_its_type = Location::buffers(ctx.request());
    ctx.with_visits(|visits| {
        for visit in visits.iter_mut().rev() {
            match visit.due {
                Due::Nothing | Due::Done => {}
                Due::Prefix => {
                    reply.prepend(std::mem::take(&mut visit.early));
                    visit.due = Due::Done;
                }
                Due::Response { .. } => {
                    reply.prepend(std::mem::take(&mut visit.early));
                    if !of_its_type {
                        visit.withdraw_body();
                    }
                    return Some(visit.buffers_response());
                }
            }
        }
        None
    })
}

/// Starts the `handle_response` that is owed next.
fn start(ctx: &Rc<Ctx>, reply: &mut Reply, body: bool) -> Option<Call<Responded>> {
    let r = ctx.request();
    let (lease, guest_ctx) = ctx.take_owed()?;
    let lent = if body { reply.take_body() } else { Body::default() };
    ctx.with_io(|io| {
        let side = &mut io.response;
        side.has_body = body;
        side.body = lent;
        side.read = 0;
        side.written = None;
        side.emptied = false;
        side.outside = Outside::default();
        side.saved = lease.plugin().fails_open().then(|| Box::new(SavedResponse::of(r)));
    });
    Some(task::respond(ctx, lease, guest_ctx, false))
}

/// Takes what a guest made of the response.
fn take(ctx: &Ctx, reply: &mut Reply) {
    let Some((had_body, same, written, emptied)) = ctx.with_io(|io| {
        let side = &mut io.response;
        let emptied = side.emptied && side.has_body;
        (side.has_body, std::mem::take(&mut side.body), side.written.take(), emptied)
    }) else {
        return;
    };
    match written {
        _ if emptied => reply.replace_body(Body::default()),
        Some(written) if had_body || !forbids_body(ctx.request()) => reply.replace_body(written),
        // There is no place for it; the length of what a GET would have is not known any more.
        Some(_) => reply.change = Change::Replaced,
        None if had_body => reply.put_body(same),
        None => {}
    }
}

/// The response goes on as if the guest that failed were not there, if that is the rule.
fn undo(ctx: &Ctx, reply: &mut Reply) -> bool {
    let saved = ctx.with_io(|io| {
        (io.response.saved.take(), io.response.has_body, std::mem::take(&mut io.response.body))
    });
    let Some((Some(saved), had_body, body)) = saved else {
        return false;
    };
    if saved.restore(ctx.request()).is_err() {
        return false;
    }
    if had_body {
        reply.put_body(body);
    }
    true
}
