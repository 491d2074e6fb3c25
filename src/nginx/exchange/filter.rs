//! The header and the body filter: the machine's word on each header and each part of a body.

use std::rc::Rc;

use nginx_sys::{ngx_chain_t, ngx_http_request_t, ngx_int_t};

use crate::nginx::exchange::collect::{self, Collected};
use crate::nginx::exchange::ctx::Ctx;
use crate::nginx::exchange::fail::{self, Answer};
use crate::nginx::exchange::reply::{After, Content, Reply, forbids_body};
use crate::nginx::exchange::respond::{self, Turn};
use crate::nginx::exchange::send;
use crate::nginx::exchange::state::{Event, Kind, State, Step};
use crate::nginx::exchange::task;
use crate::nginx::exchange::wait::{Need, Side};
use crate::nginx::ngx::chain;
use crate::nginx::ngx::ffi::{AGAIN, ERROR, NoMemory, OK, guard};
use crate::nginx::ngx::headers_out;
use crate::nginx::ngx::hold::Hold;
use crate::nginx::ngx::request::Request;
use crate::nginx::ngx::spool::{Body, Room};

/// Puts the filters on top of the chains; called for every configuration that is loaded.
pub(crate) fn install() {
    send::install(Some(header_filter), Some(body_filter));
}

unsafe extern "C" fn header_filter(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(ERROR, || {
        // SAFETY: nginx calls a filter with a live request.
        let Some(r) = (unsafe { Request::new(r) }) else {
            return ERROR;
        };
        if !r.is_main() {
            return send::next_header(r);
        }
        match Ctx::arrive(r) {
            Some(ctx) => on_header(&ctx).unwrap_or(ERROR),
            None => send::next_header(r),
        }
    })
}

unsafe extern "C" fn body_filter(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    guard(ERROR, || {
        // SAFETY: nginx calls a filter with a live request.
        let Some(r) = (unsafe { Request::new(r) }) else {
            return ERROR;
        };
        if !r.is_main() {
            return send::next_body(r, chain);
        }
        match Ctx::find(r) {
            Some(ctx) => on_body(&ctx, chain).unwrap_or(ERROR),
            None => send::next_body(r, chain),
        }
    })
}

fn on_header(ctx: &Rc<Ctx>) -> Result<ngx_int_t, NoMemory> {
    match ctx.step(Event::Header) {
        Step::Forget => {
            ctx.forget_call();
            ctx.lose_body();
        }
        Step::Discard => {
            ctx.note_refused();
            ctx.enter(State::Passed);
        }
        Step::Respond => {}
        Step::Replace => {
            ctx.enter(State::Through(After::Pass));
            return Ok(send::next_header(ctx.request()));
        }
        _ => return Ok(send::next_header(ctx.request())),
    }
    let Some(reply) = respond::begin(ctx)? else {
        return Ok(send::passing(ctx));
    };
    match respond::run(ctx, reply, None)? {
        Turn::Held => Ok(OK),
        // Whoever makes it has no body that would bring us here again.
        Turn::Release(reply) if reply.is_empty => send_all(ctx, *reply),
        Turn::Release(reply) => send::header(ctx, *reply),
        Turn::Fail(status, reply) => Ok(fail::defer(ctx, *reply, status)),
    }
}

fn on_body(ctx: &Rc<Ctx>, chain: *mut ngx_chain_t) -> Result<ngx_int_t, NoMemory> {
    let r = ctx.request();
    let event = if chain.is_null() { Event::Push } else { Event::Data };
    match ctx.step(event) {
        Step::Collect => {
            let collected = ctx.with_state(|state| match state {
                State::Collecting(collecting) => collect::add(ctx, &mut collecting.reply, chain),
                _ => Ok(Collected::Partly),
            })?;
            on_collected(ctx, collected)
        }
        Step::LookSoon => {
            look_soon(ctx);
            Ok(send::push(r))
        }
        Step::Keep => keep(ctx, chain),
        Step::Drop => {
            fail::arrived(ctx, chain::drop_all(chain));
            Ok(OK)
        }
        Step::Drain => send::drain(ctx, chain),
        _ => pass_on(ctx, chain),
    }
}

/// Whoever made a response may have left, and its end not come: then it is time for a look.
fn look_soon(ctx: &Ctx) {
    if ctx.request().is_left_to_writer() {
        look_on_next_turn(ctx);
    }
}

/// The end may still be with the filters that are at work now: the next turn tells.
fn look_on_next_turn(ctx: &Ctx) {
    ctx.with_state(|state| {
        if let State::Collecting(collecting) = state {
            let wait = || task::wait(ctx, Need::Turn, Side::Body);
            collecting.look.get_or_insert_with(wait);
        }
    });
}

/// The upstream has ended; not `well` in the middle of its response.
pub(crate) fn upstream_ended(ctx: &Rc<Ctx>, well: bool) {
    if !well {
        look_on_next_turn(ctx);
    }
    // The cache has what it wanted, and nothing more comes of a response without a body.
    fail::arrived(ctx, false);
}

/// Nothing of a body may come any more: called from an event, outside the filters.
pub(crate) fn look_for_end(ctx: &Rc<Ctx>) {
    let r = ctx.request();
    // Subrequests, or filters before ours, have something of it.
    if !r.is_left_to_writer() || r.has_company() || r.is_buffered() {
        return;
    }
    let collected = collect::cut(ctx);
    if let (Collected::Failed(status), Some(reply)) = (collected, take_collecting(ctx)) {
        settle(ctx, Ok(Turn::Fail(status, reply)));
    }
}

/// What becomes of data once it is decided.
fn pass_on(ctx: &Rc<Ctx>, chain: *mut ngx_chain_t) -> Result<ngx_int_t, NoMemory> {
    let r = ctx.request();
    let after = ctx.with_state(|state| match state {
        State::Through(after) => Some(*after),
        // The header has not come by: whoever sends this does without.
        State::Before | State::Asking(_) | State::Passed => Some(After::Pass),
        State::Collecting(_)
        | State::Responding(_)
        | State::Failing(_)
        | State::Draining(_)
        | State::Over => None,
    });
    match after {
        Some(After::Pass) => Ok(send::next_body(r, chain)),
        Some(After::Drop) | None => {
            chain::drop_all(chain);
            Ok(send::push(r))
        }
        Some(After::End) if chain::drop_all(chain) => send::finish(ctx),
        Some(After::End) => Ok(send::push(r)),
    }
}

/// Keeps what arrives while a guest waits.
fn keep(ctx: &Rc<Ctx>, chain: *mut ngx_chain_t) -> Result<ngx_int_t, NoMemory> {
    let r = ctx.request();
    ctx.with_state(|state| {
        let State::Responding(Some(responding)) = state else {
            return Ok(());
        };
        let reply: &mut Reply = &mut responding.reply;
        match &mut reply.content {
            Content::Stream { kept, .. } if !forbids_body(r) => kept.push_chain(r, chain),
            Content::Stream { .. } | Content::Collect(_) | Content::Whole(_) => {
                reply.ended |= chain::drop_all(chain);
                Ok(())
            }
        }
    })?;
    Ok(AGAIN)
}

/// More of a body has been collected.
fn on_collected(ctx: &Rc<Ctx>, collected: Collected) -> Result<ngx_int_t, NoMemory> {
    if matches!(collected, Collected::Partly) {
        look_soon(ctx);
        return Ok(OK);
    }
    let Some(reply) = take_collecting(ctx) else {
        return Ok(ERROR);
    };
    let turn = match collected {
        Collected::Failed(status) => Turn::Fail(status, reply),
        Collected::Partly | Collected::Whole | Collected::Stream => respond::run(ctx, reply, None)?,
    };
    match turn {
        Turn::Held => Ok(OK),
        Turn::Release(reply) => send_all(ctx, *reply),
        Turn::Fail(status, reply) => Ok(fail::defer(ctx, *reply, status)),
    }
}

/// The response that is being collected; its guest's turn comes.
fn take_collecting(ctx: &Ctx) -> Option<Box<Reply>> {
    ctx.with_state(|state| match std::mem::replace(state, State::Responding(None)) {
        State::Collecting(collecting) => Some(collecting.reply),
        other => {
            *state = other;
            None
        }
    })
}

/// Sends header and body, where the body has been waiting.
fn send_all(ctx: &Rc<Ctx>, reply: Reply) -> Result<ngx_int_t, NoMemory> {
    let rc = send::header(ctx, reply)?;
    // AGAIN means that the header waits in nginx's buffers: the body goes after it.
    if rc == ERROR || rc > OK || ctx.kind() != Kind::Draining {
        return Ok(rc);
    }
    send::drain(ctx, std::ptr::null_mut())
}

/// A waiting `handle_response` can go on: called from an event, outside the filters.
pub(crate) fn resume(ctx: &Rc<Ctx>) {
    let Some(responding) = ctx.take_responding() else {
        return;
    };
    settle(ctx, respond::run(ctx, responding.reply, Some(responding.call.call)));
}

/// Takes what has come of a response outside the filters. Nothing of the request may be touched
/// afterwards: it may be gone.
fn settle(ctx: &Rc<Ctx>, turn: Result<Turn, NoMemory>) {
    let r = ctx.request();
    let c = r.connection();
    let sent = turn.and_then(|turn| match turn {
        Turn::Held => Ok(OK),
        Turn::Release(reply) => send_all(ctx, *reply),
        Turn::Fail(status, reply) => Ok(fail::defer(ctx, *reply, status)),
    });
    match sent {
        // Whoever sends this response goes on from its write handler, once that is not paused.
        Ok(rc) if rc != ERROR && rc <= OK => r.post_write_event(),
        Ok(_) | Err(NoMemory) => fail::abandon(r),
    }
    Request::run_posted(c);
}

/// A response that failed is answered: called from an event, outside the filters. Nothing of the
/// request may be touched afterwards: it may be gone.
pub(crate) fn answer_failure(ctx: &Rc<Ctx>) {
    let r = ctx.request();
    let c = r.connection();
    match fail::answer(ctx) {
        // Its sender goes on, for the cache.
        None => r.post_write_event(),
        Some(Answer::Nginx(status)) => fail::by_nginx(ctx, status),
        Some(Answer::Page(status, hold)) => {
            let page = page(ctx, status, hold);
            return settle(ctx, page.and_then(|page| respond::run(ctx, page, None)));
        }
    }
    Request::run_posted(c);
}

/// nginx's page, made here.
fn page(ctx: &Ctx, status: ngx_int_t, hold: Hold) -> Result<Box<Reply>, NoMemory> {
    let r = ctx.request();
    let text = headers_out::start_page(r, status)?;
    let mut body = Body::default();
    // Far below what goes to memory.
    body.write(r, text.as_bytes(), Room::RESPONSE).map_err(|_| NoMemory)?;
    Ok(Reply::page(body, hold))
}
