//! The response: header and body filter, and every guest's `handle_response` on the way out, in
//! reverse order.
//!
//! A guest without `buffer_response` is called in the header filter, and the body streams untouched.
//! For one with it the header is held, the body collected, and both go out when it has returned. A
//! guest may also wait: then the header is held, and what arrives meanwhile is kept unconsumed, which
//! slows the sender down.

use std::ffi::c_void;
use std::rc::Rc;

use nginx_sys::{
    ngx_chain_t, ngx_http_output_body_filter_pt, ngx_http_output_header_filter_pt,
    ngx_http_request_t, ngx_int_t,
};

use super::chain::{self, Out};
use super::collect::{self, Collected};
use super::ctx::{Ctx, LevelState, Mode, Stage};
use super::ffi::{AGAIN, ERROR, INTERNAL_SERVER_ERROR, NoMemory, OK, guard};
use super::headers_out::{self, Outside, Validators, trailers};
use super::output::Output;
use super::page;
use super::reply::{Change, Flow, Reply};
use super::request::{HEAD, Request};
use super::saved::SavedResponse;
use super::spool::{Body, Room};
use super::task::{self, Call, Called, Progress};

static mut NEXT_HEADER_FILTER: ngx_http_output_header_filter_pt = None;
static mut NEXT_BODY_FILTER: ngx_http_output_body_filter_pt = None;

/// How far the guests have come.
enum Turn {
    /// The header stays where it is: the body is being collected or a guest waits.
    Hold,
    /// Every guest has been called.
    Release,
    /// The response is replaced by nginx's page for this status.
    Fail(ngx_int_t),
}

/// Puts the filters on top of the chains; called for every configuration that is loaded.
pub(crate) fn install() {
    // SAFETY: nginx builds its filter chains on one thread, while it reads a configuration.
    unsafe {
        NEXT_HEADER_FILTER = nginx_sys::ngx_http_top_header_filter;
        nginx_sys::ngx_http_top_header_filter = Some(header_filter);
        NEXT_BODY_FILTER = nginx_sys::ngx_http_top_body_filter;
        nginx_sys::ngx_http_top_body_filter = Some(body_filter);
    }
}

fn next_header(r: Request) -> ngx_int_t {
    // SAFETY: set in `install` before the first request and never changed while one runs; the
    // request is live.
    unsafe {
        match NEXT_HEADER_FILTER {
            Some(next) => next(r.as_ptr()),
            None => OK,
        }
    }
}

fn next_body(r: Request, chain: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: as in `next_header`; the chain is the caller's or in the request's pool.
    unsafe {
        match NEXT_BODY_FILTER {
            Some(next) => next(r.as_ptr(), chain),
            None => OK,
        }
    }
}

unsafe extern "C" fn header_filter(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(ERROR, || {
        // SAFETY: nginx calls a filter with a live request.
        let Some(r) = (unsafe { Request::new(r) }) else {
            return ERROR;
        };
        if !r.is_main() {
            return next_header(r);
        }
        match Ctx::of(r) {
            Some(ctx) => on_header(&ctx).unwrap_or(ERROR),
            None => next_header(r),
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
            return next_body(r, chain);
        }
        match Ctx::of(r) {
            Some(ctx) => on_body(&ctx, chain).unwrap_or(ERROR),
            None => next_body(r, chain),
        }
    })
}

fn on_header(ctx: &Rc<Ctx>) -> Result<ngx_int_t, NoMemory> {
    let r = ctx.request();
    match ctx.stage() {
        Stage::Sending | Stage::Done | Stage::Ended => return Ok(next_header(r)),
        Stage::Passed | Stage::Answering | Stage::Failed | Stage::Idle => {}
        // nginx made another response while a guest was waiting or a body was being collected.
        Stage::CallingRequest => {
            ctx.cancel();
            ctx.forget_unfinished();
        }
        Stage::CallingResponse | Stage::Collecting => {
            ctx.cancel();
            r.set_held(false);
        }
    }
    begin(ctx)?;
    match run(ctx)? {
        Turn::Hold => Ok(OK),
        Turn::Release => Ok(release(ctx)),
        Turn::Fail(status) => Ok(fail(ctx, status)),
    }
}

/// A response starts its way: what guests set before it is merged in.
fn begin(ctx: &Rc<Ctx>) -> Result<(), NoMemory> {
    let r = ctx.request();
    if let Some(sent) = ctx.with_io(|io| io.sent_method.take()).flatten() {
        // The client gets what it asked for: a body unless it sent HEAD, whatever the guest made of
        // the method on its way to the next handler.
        if r.is_head() && sent != HEAD {
            headers_out::set_content_length(r, Some(0));
        }
        r.set_method_number(sent);
    }
    let mut reply = ctx.reply.borrow_mut();
    *reply = Reply { validators: Validators::of(r), page: reply.page, ..Reply::default() };
    drop(reply);
    let early = ctx.with_io(|io| {
        io.response = Body::default();
        std::mem::take(&mut io.early)
    });
    match early {
        Some(early) => {
            for line in early.trailers {
                trailers::add(r, line)?;
            }
            headers_out::merge(r, &early.fields)
        }
        None => Ok(()),
    }
}

/// Whether the response has no body whatever its header says.
fn has_no_body(r: Request) -> bool {
    r.is_head() || matches!(r.status(), 204 | 304 | 0..200)
}

/// Calls guests, innermost first, until one has to wait or none is left.
fn run(ctx: &Rc<Ctx>) -> Result<Turn, NoMemory> {
    let r = ctx.request();
    if let Some(status) = ctx.reply.borrow_mut().failed.take() {
        return Ok(Turn::Fail(status));
    }
    loop {
        if ctx.call.borrow().is_some() {
            match task::advance(ctx) {
                Progress::Waiting => {
                    r.set_held(true);
                    return Ok(Turn::Hold);
                }
                Progress::Done(called) => {
                    if let Err(status) = finish(ctx, called) {
                        return Ok(Turn::Fail(status));
                    }
                }
                Progress::Aborted(_) => return Ok(Turn::Fail(INTERNAL_SERVER_ERROR)),
            }
        }
        let Some(buffered) = innermost_owed(ctx) else {
            return Ok(Turn::Release);
        };
        let no_body = has_no_body(r);
        if buffered && !no_body && !ctx.reply.borrow().is_complete() {
            match collect::begin(ctx)? {
                Collected::Complete => {}
                Collected::Partly => {
                    ctx.enter(Stage::Collecting);
                    return Ok(Turn::Hold);
                }
                Collected::Failed(status) => return Ok(Turn::Fail(status)),
            }
        }
        call(ctx, buffered && !no_body);
    }
}

/// Whether the innermost guest that is owed a call has `buffer_response` on; `None` when nobody is
/// owed one. What that guest wrote before the next handler ran goes before the body from here on.
fn innermost_owed(ctx: &Ctx) -> Option<bool> {
    for level in ctx.levels.borrow_mut().iter_mut().rev() {
        if matches!(level.state, LevelState::Once | LevelState::Finished) {
            continue;
        }
        ctx.reply.borrow_mut().prepend(std::mem::take(&mut level.early));
        match level.state {
            LevelState::Passed => level.state = LevelState::Finished,
            _ => return Some(level.buffers_response()),
        }
    }
    None
}

/// Starts the `handle_response` that is owed next.
fn call(ctx: &Rc<Ctx>, body: bool) {
    let r = ctx.request();
    let Some((lease, guest_ctx)) = task::take_owed(ctx) else {
        return;
    };
    let collected = ctx.reply.borrow_mut().take_body();
    ctx.with_io(|io| {
        io.mode = Mode::Response { body };
        io.response = collected;
        io.response_read = 0;
        io.response_written = None;
        io.response_emptied = false;
        io.outside = Outside::default();
        io.saved_response = lease.plugin().fails_open().then(|| Box::new(SavedResponse::of(r)));
    });
    *ctx.call.borrow_mut() = Some(Call::response(lease, ctx, guest_ctx));
    ctx.enter(Stage::CallingResponse);
}

/// Takes the result of a `handle_response`.
fn finish(ctx: &Rc<Ctx>, called: Called) -> Result<(), ngx_int_t> {
    if let Called::Failed(status) = called {
        return match ctx.with_io(|io| (io.saved_response.take(), std::mem::take(&mut io.response)))
        {
            // The response goes on as if the guest were not there.
            Some((Some(saved), body)) => {
                saved.restore(ctx.request());
                ctx.reply.borrow_mut().put_body(body);
                Ok(())
            }
            _ => Err(status),
        };
    }
    let Some((read, written, emptied, had_body)) = ctx.with_io(|io| {
        let had_body = io.mode == Mode::Response { body: true };
        let emptied = io.response_emptied && had_body;
        (std::mem::take(&mut io.response), io.response_written.take(), emptied, had_body)
    }) else {
        return Ok(());
    };
    let mut reply = ctx.reply.borrow_mut();
    if emptied {
        reply.change = Change::Replaced;
        reply.put_body(Body::default());
    } else if let Some(written) = written {
        reply.change = Change::Replaced;
        if had_body {
            reply.put_body(written);
        } else if !has_no_body(ctx.request()) {
            // It made of a response without a body one that may have one.
            reply.flow = Flow::Whole { body: written, complete: true };
        }
    } else {
        reply.put_body(read);
    }
    Ok(())
}

fn on_body(ctx: &Rc<Ctx>, chain: *mut ngx_chain_t) -> Result<ngx_int_t, NoMemory> {
    let r = ctx.request();
    let chain = page::admit(ctx, chain);
    match ctx.stage() {
        Stage::Collecting => match collect::take(ctx, chain) {
            Collected::Partly => Ok(OK),
            Collected::Failed(status) => Ok(fail(ctx, status)),
            Collected::Complete => match run(ctx)? {
                Turn::Hold => Ok(AGAIN),
                Turn::Release => send(ctx),
                Turn::Fail(status) => fail_at_end(ctx, status),
            },
        },
        Stage::CallingResponse => {
            let mut reply = ctx.reply.borrow_mut();
            match &mut reply.flow {
                Flow::Stream { held, .. } => held.push_chain(r, chain)?,
                Flow::Whole { .. } | Flow::Sent => {
                    chain::drop_all(chain);
                }
            }
            r.set_held(true);
            Ok(AGAIN)
        }
        Stage::Sending => send_body(ctx, chain),
        _ if r.header_only() => {
            // The handler did not know: it was told nothing while the header was held.
            chain::drop_all(chain);
            Ok(OK)
        }
        _ => {
            let sent = matches!(ctx.reply.borrow().flow, Flow::Sent);
            if sent && !chain.is_null() {
                chain::drop_all(chain);
                return Ok(OK);
            }
            Ok(next_body(r, chain))
        }
    }
}

/// Sends the header with lengths and validators that fit the body.
fn release(ctx: &Rc<Ctx>) -> ngx_int_t {
    let r = ctx.request();
    let stage = {
        let reply = ctx.reply.borrow();
        if reply.change != Change::None {
            reply.validators.forget(r);
        }
        let announced = headers_out::content_length(r);
        let (len, stage) = match &reply.flow {
            // The length a GET would have: unknown once a guest wrote without seeing the body.
            Flow::Stream { prefix, .. } if has_no_body(r) => match reply.change {
                Change::Replaced => (None, Stage::Done),
                _ => (announced.map(|len| len + prefix.len()), Stage::Done),
            },
            Flow::Whole { .. } | Flow::Sent if has_no_body(r) => (None, Stage::Done),
            Flow::Stream { prefix, held } => (
                announced.map(|len| len + prefix.len()),
                if prefix.is_empty() && held.is_empty() { Stage::Done } else { Stage::Sending },
            ),
            Flow::Whole { body, .. } => (Some(body.len()), Stage::Sending),
            Flow::Sent => (announced, Stage::Done),
        };
        if !has_no_body(r) {
            trailers::announce(r);
        }
        if len != announced {
            headers_out::set_content_length(r, len);
        }
        stage
    };
    r.set_held(false);
    ctx.enter(stage);
    next_header(r)
}

/// Sends header and body, where the body has been waiting.
fn send(ctx: &Rc<Ctx>) -> Result<ngx_int_t, NoMemory> {
    let rc = release(ctx);
    // AGAIN means that the header waits in nginx's buffers: the body goes after it.
    if rc == ERROR || rc > OK {
        return Ok(rc);
    }
    if ctx.stage() == Stage::Sending {
        return send_body(ctx, std::ptr::null_mut());
    }
    // No body: what was kept of it is dropped, so that its sender gets its buffers back.
    let ended = match &ctx.reply.borrow().flow {
        Flow::Stream { held, .. } => chain::drop_all(held.first()),
        Flow::Whole { .. } | Flow::Sent => false,
    };
    let r = ctx.request();
    if ended && !r.header_only() {
        // An upstream's 204 or 304, whose header nginx does not take for the whole response: it
        // waits in nginx's buffers until it hears of the end.
        let (end, _) = Body::default().into_chain(r, true)?;
        return Ok(next_body(r, end.first()));
    }
    Ok(rc)
}

/// Sends what the reply holds of the body, then `chain`, and goes on when the client has taken
/// enough; once nothing waits any more, the rest streams through.
fn send_body(ctx: &Rc<Ctx>, chain: *mut ngx_chain_t) -> Result<ngx_int_t, NoMemory> {
    let r = ctx.request();
    let (flow, output) = {
        let mut reply = ctx.reply.borrow_mut();
        (std::mem::take(&mut reply.flow), reply.output)
    };
    let out = match flow {
        Flow::Whole { body, .. } => {
            let (out, keep) = body.into_chain(r, true)?;
            ctx.keep(keep);
            ctx.reply.borrow_mut().flow = Flow::Sent;
            chain::drop_all(chain);
            out
        }
        Flow::Sent => {
            ctx.reply.borrow_mut().flow = Flow::Sent;
            chain::drop_all(chain);
            Out::default()
        }
        Flow::Stream { prefix, held } => {
            let (mut out, keep) = prefix.into_chain(r, false)?;
            ctx.keep(keep);
            out.push_chain(r, held.first())?;
            out.push_chain(r, chain)?;
            out
        }
    };
    if out.is_empty() && output.is_none() {
        // Header sent, and the body has not begun.
        return Ok(next_body(r, std::ptr::null_mut()));
    }
    let output = match output {
        Some(output) => output,
        None => *ctx.reply.borrow_mut().output.insert(Output::create(r, Some(output_filter))?),
    };
    let rc = output.send(out.first());
    let pending = output.is_pending();
    r.set_held(pending);
    if !pending {
        ctx.enter(Stage::Done);
    }
    Ok(rc)
}

/// `ngx_output_chain_filter_pt`: where a held body goes.
unsafe extern "C" fn output_filter(r: *mut c_void, chain: *mut ngx_chain_t) -> ngx_int_t {
    guard(ERROR, || {
        // SAFETY: the output was made with its request, which is live while it sends.
        match unsafe { Request::new(r.cast()) } {
            Some(r) => next_body(r, chain),
            None => ERROR,
        }
    })
}

/// The response fails inside the code that sends it. Guests that are owed a call see nginx's page
/// and may wait with it, and that code would go on then as if the page were its own: they get it in
/// a turn of its own.
fn fail(ctx: &Rc<Ctx>, status: ngx_int_t) -> ngx_int_t {
    if !ctx.owes() {
        return page::replace(ctx, status);
    }
    ctx.reply.borrow_mut().failed = Some(status);
    ctx.request().set_held(true);
    ctx.enter(Stage::CallingResponse);
    ctx.wake();
    AGAIN
}

/// The same for a response whose body is complete. nginx ends the connection of a request that a
/// filter finalizes; HTTP/3 resets the stream then, before the page is out. There the page is made
/// here, and `error_page` does not apply.
fn fail_at_end(ctx: &Rc<Ctx>, status: ngx_int_t) -> Result<ngx_int_t, NoMemory> {
    let r = ctx.request();
    if r.protocol() != b"HTTP/3.0" {
        return Ok(fail(ctx, status));
    }
    ctx.cancel();
    r.set_held(false);
    ctx.enter(Stage::Failed);
    let page = headers_out::start_page(r, status)?;
    let mut body = Body::default();
    if body.write(r, page.as_bytes(), Room::RESPONSE).is_err() {
        return Ok(ERROR);
    }
    *ctx.reply.borrow_mut() =
        Reply { flow: Flow::Whole { body, complete: true }, ..Reply::default() };
    match run(ctx)? {
        Turn::Hold => Ok(AGAIN),
        Turn::Release => send(ctx),
        Turn::Fail(status) => fail_at_end(ctx, status),
    }
}

/// A waiting `handle_response` can go on: called from an event, outside the filters.
pub(crate) fn resume(ctx: &Rc<Ctx>) {
    let r = ctx.request();
    let c = r.connection();
    match run(ctx) {
        Ok(Turn::Hold) => {
            if ctx.stage() == Stage::Collecting {
                // The sender waits with its buffers in use: they have just been emptied.
                r.set_held(false);
                r.post_write_event();
            }
            return;
        }
        Ok(Turn::Fail(status)) => page::replace_outside(ctx, status),
        Ok(Turn::Release) => match send(ctx) {
            // Whoever sends this response goes on from its write handler.
            Ok(rc) if rc != ERROR && rc <= OK => r.post_write_event(),
            _ => page::abandon(r),
        },
        Err(NoMemory) => page::abandon(r),
    }
    // SAFETY: the connection outlives the request and is recycled on a later turn only.
    unsafe { nginx_sys::ngx_http_run_posted_requests(c) }
}
