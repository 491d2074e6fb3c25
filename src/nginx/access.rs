//! The ACCESS phase: every guest's `handle_request` in order, then on to nginx, or out with the
//! guest's own response.
//!
//! The handler is entered again by the phase engine whenever an event brings what a guest waited
//! for, and now and then for no reason; each entry looks at the stage. It never returns OK: under
//! `satisfy any` that would let the request past the access modules.

use std::rc::Rc;

use nginx_sys::{ngx_http_request_t, ngx_int_t};

use super::body;
use super::conf::LocConf;
use super::ctx::{ClientBody, Ctx, Level, LevelState, Mode, Stage};
use super::ffi::{AGAIN, DECLINED, DONE, ERROR, INTERNAL_SERVER_ERROR, NoMemory, OK, guard};
use super::headers_in;
use super::headers_out::{self, Outside, trailers};
use super::log::WARN;
use super::plugin::Plugin;
use super::request::Request;
use super::saved::SavedRequest;
use super::spool::Body;
use super::status::Record;
use super::task::{self, Call, Called, Progress};
use super::uri;

/// `ngx_http_handler_pt` of the ACCESS phase.
pub(crate) unsafe extern "C" fn handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(INTERNAL_SERVER_ERROR, || {
        // SAFETY: nginx calls a phase handler with a live request.
        let Some(r) = (unsafe { Request::new(r) }) else {
            return ERROR;
        };
        let guests = LocConf::guests(r);
        if guests.is_empty() {
            if r.is_internal() {
                // Notices that the request came here by a redirect, see Ctx::of.
                drop(Ctx::of(r));
            }
            return DECLINED;
        }
        match access(r, guests) {
            Ok(rc) => rc,
            Err(NoMemory) => INTERNAL_SERVER_ERROR,
        }
    })
}

fn access(r: Request, guests: &[Rc<Plugin>]) -> Result<ngx_int_t, NoMemory> {
    let ctx = match Ctx::of(r) {
        Some(ctx) => ctx,
        None => Ctx::create(r)?,
    };
    loop {
        match ctx.stage() {
            Stage::Idle | Stage::Passed | Stage::Failed => {
                // A line that this client request has been through is not started a second time.
                let Some(plugin) = ctx.next_guest(guests) else {
                    leave(&ctx)?;
                    return Ok(DECLINED);
                };
                begin(&ctx, plugin, guests);
            }
            Stage::CallingRequest => match task::advance(&ctx) {
                Progress::Waiting => return Ok(AGAIN),
                Progress::Aborted(rc) => {
                    ctx.cancel();
                    ctx.forget_unfinished();
                    ctx.enter(Stage::Failed);
                    return Ok(rc);
                }
                Progress::Done(called) => {
                    if let Some(rc) = finish(&ctx, called)? {
                        return Ok(rc);
                    }
                }
            },
            // A response is under way: the phases have nothing to ask.
            _ => return Ok(DECLINED),
        }
    }
}

/// Leaves the request to nginx. A guest that buffers the response is to see all of it, and what it
/// makes of a part would not fit the part's Content-Range: nobody behind it is asked for ranges.
fn leave(ctx: &Rc<Ctx>) -> Result<(), NoMemory> {
    let r = ctx.request();
    let buffered = ctx.levels.borrow_mut().iter_mut().any(Level::buffers_response);
    if buffered && headers_in::has_range(r) {
        headers_in::remove(r, b"range")?;
        headers_in::remove(r, b"if-range")?;
        headers_in::forget_variables(r);
    }
    Ok(())
}

/// Starts `handle_request` of the next guest.
fn begin(ctx: &Rc<Ctx>, plugin: &Rc<Plugin>, guests: &[Rc<Plugin>]) {
    let r = ctx.request();
    ctx.with_io(|io| {
        io.mode = Mode::Request;
        io.saved_request = plugin.fails_open().then(|| Box::new(SavedRequest::of(r)));
        io.saved = io.early.copy();
        io.own = Body::default();
        io.own_read = 0;
        io.request = None;
        io.uri = match r.unparsed_uri() {
            Some(_) => None,
            None => Some(uri::rebuilt(r)),
        };
    });
    let mut levels = ctx.levels.borrow_mut();
    if levels.is_empty() {
        levels.reserve_exact(guests.len());
    }
    levels.push(Level {
        plugin: Rc::clone(plugin),
        state: LevelState::Once,
        early: Body::default(),
        request: None,
        record: Record::default(),
    });
    drop(levels);
    *ctx.call.borrow_mut() = Some(Call::request(plugin, ctx));
    ctx.enter(Stage::CallingRequest);
}

/// Takes the result of the call that just ended. A return code ends this entry of the handler;
/// none means that the next guest's turn has come.
fn finish(ctx: &Rc<Ctx>, called: Called) -> Result<Option<ngx_int_t>, NoMemory> {
    let r = ctx.request();
    match called {
        Called::Passed { owed, needs_body } => {
            if let Some(level) = ctx.levels.borrow_mut().last_mut() {
                // From here on the guest is owed its handle_response, whatever happens.
                level.state = match owed {
                    Some((lease, guest_ctx)) => LevelState::Owed { lease, ctx: guest_ctx },
                    None => LevelState::Passed,
                };
                level.early = ctx.with_io(|io| std::mem::take(&mut io.own)).unwrap_or_default();
                if needs_body {
                    *ctx.call.borrow_mut() = Some(Call::receive(&level.plugin, ctx));
                }
            }
            if !needs_body {
                pass(ctx)?;
            }
            Ok(None)
        }
        Called::Received => {
            if ctx.body.get() == ClientBody::Ready {
                ctx.with_io(|io| io.request.get_or_insert_with(|| body::reader(r)).rewind());
            }
            pass(ctx)?;
            Ok(None)
        }
        Called::Answered => {
            ctx.enter(Stage::Answering);
            answer(ctx).map(Some)
        }
        Called::Failed(status) => {
            let saved = ctx.with_io(|io| io.saved_request.take()).flatten();
            forget_call(ctx);
            match saved {
                None => {
                    ctx.enter(Stage::Failed);
                    Ok(Some(status))
                }
                Some(saved) => {
                    saved.restore(r)?;
                    pass(ctx)?;
                    Ok(None)
                }
            }
        }
        Called::Finished => {
            // Only handle_response ends like this.
            ctx.enter(Stage::Failed);
            Ok(Some(INTERNAL_SERVER_ERROR))
        }
    }
}

/// The guest is through with the request: what comes after it sees what it made of it.
fn pass(ctx: &Rc<Ctx>) -> Result<(), NoMemory> {
    let r = ctx.request();
    let (request, written, dirty) = ctx
        .with_io(|io| (io.request.take(), io.request_written.take(), std::mem::take(&mut io.dirty)))
        .unwrap_or_default();
    if let Some(level) = ctx.levels.borrow_mut().last_mut() {
        level.request = request;
    }
    let replaced = written.is_some();
    if let Some(written) = written {
        ctx.keep(body::replace(r, written)?);
    }
    if replaced || dirty {
        headers_in::forget_variables(r);
    }
    ctx.enter(Stage::Passed);
    Ok(())
}

/// Nothing of a failed guest's reaches the client; what the guests before it set for the response
/// stays.
fn forget_call(ctx: &Rc<Ctx>) {
    ctx.with_io(|io| {
        io.own = Body::default();
        io.request_written = None;
        io.early = std::mem::take(&mut io.saved);
    });
}

/// Sends the guest's own response. The filters see it like any other, so the guests around this one
/// get their `handle_response`.
fn answer(ctx: &Rc<Ctx>) -> Result<ngx_int_t, NoMemory> {
    let r = ctx.request();
    // A body that nginx is not reading must leave the connection, or pipelining breaks.
    let rc = r.discard_body();
    if rc != OK {
        return Ok(rc);
    }
    let (early, own) = ctx
        .with_io(|io| (std::mem::take(&mut io.early), std::mem::take(&mut io.own)))
        .unwrap_or_default();
    let status = early.status.unwrap_or(200);
    r.set_status(status);
    let mut outside = Outside::default();
    for line in early.fields {
        headers_out::add(r, &mut outside, line)?;
    }
    for line in early.trailers {
        trailers::add(r, line)?;
    }
    let no_body = matches!(status, 204 | 304);
    if no_body && !own.is_empty() {
        ctx.log().write(
            WARN,
            format_args!(
                "http_wasm: a response of status {status} has no body; the guest's is dropped"
            ),
        );
    }
    headers_out::set_content_length(r, (!no_body).then_some(own.len()));

    let rc = r.send_header();
    if rc == ERROR || rc > OK || r.header_only() {
        r.finalize(rc);
        return Ok(DONE);
    }
    let (out, keep) = own.into_chain(r, true)?;
    ctx.keep(keep);
    let rc = r.output(out.first());
    // The request may be gone after this: nothing below may touch it.
    r.finalize(rc);
    Ok(DONE)
}
