//! The ACCESS phase: every guest's `handle_request` in order, then on to nginx, or out with the
//! guest's own response.
//!
//! The handler is entered again by the phase engine whenever an event brings what a guest waited
//! for, and now and then for no reason; each entry asks the machine. It never returns OK: under
//! `satisfy any` that would let the request past the access modules.

use std::rc::Rc;

use nginx_sys::{ngx_http_request_t, ngx_int_t};

use crate::abi::FieldKind;
use crate::nginx::exchange::call::{Asked, Call};
use crate::nginx::exchange::ctx::{Ctx, Due, Visit};
use crate::nginx::exchange::events::DRIVER;
use crate::nginx::exchange::host::Plugin;
use crate::nginx::exchange::settings::{Listed, Location, forget_variables};
use crate::nginx::exchange::shared::ClientBody;
use crate::nginx::exchange::state::{Event, State, Step};
use crate::nginx::exchange::task::{self, Progress};
use crate::nginx::exchange::wait::Side;
use crate::nginx::ngx::body;
use crate::nginx::ngx::ffi::{
    AGAIN, DECLINED, DONE, ERROR, INTERNAL_SERVER_ERROR, NoMemory, OK, guard,
};
use crate::nginx::ngx::field::FieldLine;
use crate::nginx::ngx::headers_in;
use crate::nginx::ngx::headers_out::{self, Outside, trailers};
use crate::nginx::ngx::log::{ERR, WARN};
use crate::nginx::ngx::request::{GET, HEAD, Request};
use crate::nginx::ngx::spool::{Body, Pieces};
use crate::nginx::ngx::uri;

/// `ngx_http_handler_pt` of the ACCESS phase.
pub(crate) unsafe extern "C" fn handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(INTERNAL_SERVER_ERROR, || {
        // SAFETY: nginx calls a phase handler with a live request.
        let Some(r) = (unsafe { Request::new(r) }) else {
            return ERROR;
        };
        let guests = Location::guests(r);
        if guests.is_empty() {
            if r.is_internal() {
                // An exchange that came here by a redirect hears of it.
                drop(Ctx::arrive(r));
            }
            return DECLINED;
        }
        match access(r, guests) {
            Ok(rc) => rc,
            Err(NoMemory) => INTERNAL_SERVER_ERROR,
        }
    })
}

fn access(r: Request, guests: &[Listed]) -> Result<ngx_int_t, NoMemory> {
    let ctx = match Ctx::arrive(r) {
        Some(ctx) => ctx,
        None if !any_applies(r, guests)? => return Ok(DECLINED),
        None => Ctx::create(r, &DRIVER)?,
    };
    let mut call = match ctx.step(Event::Access) {
        Step::Ask => None,
        Step::Continue => match ctx.take_asking() {
            Some(pending) => Some(pending.call),
            // It still waits.
            None => return Ok(AGAIN),
        },
        _ => return Ok(DECLINED),
    };
    loop {
        let running = match call.take() {
            Some(call) => call,
            // A line that this client request has been through is not started a second time.
            None => match ctx.next_guest(guests)? {
                Some(plugin) => begin(&ctx, plugin),
                None => {
                    leave(&ctx)?;
                    return Ok(DECLINED);
                }
            },
        };
        match task::advance(&ctx, running, Some(Side::Request)) {
            Progress::Waits(pending) => {
                ctx.enter(State::Asking(Some(Box::new(pending))));
                return Ok(AGAIN);
            }
            Progress::Unreadable(rc) => {
                ctx.forget_call();
                return Ok(rc);
            }
            Progress::Done(asked) => match finish(&ctx, asked)? {
                Then::Receive(receive) => call = Some(receive),
                Then::Next => {}
                Then::End(rc) => return Ok(rc),
            },
        }
    }
}

/// Whether a request that has met no guest meets one here.
fn any_applies(r: Request, guests: &[Listed]) -> Result<bool, NoMemory> {
    for guest in guests {
        if guest.applies(r)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Leaves the request to nginx. What a guest makes of a part of the response would not fit the part's
/// Content-Range, and what it puts before an encoded body would not fit the encoding: where guests have
/// the body, nobody behind them is asked for ranges, or for an encoding.
fn leave(ctx: &Rc<Ctx>) -> Result<(), NoMemory> {
    let r = ctx.request();
    let changes = |visit: &mut Visit| visit.buffers_response() || !visit.early.is_empty();
    if !ctx.with_visits(|visits| visits.iter_mut().any(changes)) {
        return Ok(());
    }
    let mut changed = false;
    if headers_in::has_range(r) {
        headers_in::remove(r, b"range")?;
        headers_in::remove(r, b"if-range")?;
        changed = true;
    }
    changed |= ctx.hide_encoding()?;
    if changed {
        forget_variables(r);
    }
    Ok(())
}

/// Starts `handle_request` of the next guest.
fn begin(ctx: &Rc<Ctx>, plugin: &Rc<Plugin>) -> Call<Asked> {
    let r = ctx.request();
    ctx.with_io(|io| {
        io.request.saved = plugin.fails_open().then(|| Box::new(ctx.before()));
        io.request.body = None;
        io.request.written = None;
        io.request.uri = match r.unparsed_uri() {
            Some(_) => None,
            None => Some(uri::rebuilt(r)),
        };
        io.response.own = Body::default();
        io.response.own_read = 0;
    });
    ctx.visit(plugin);
    ctx.enter(State::Asking(None));
    task::ask(ctx, plugin)
}

/// What comes after a call.
enum Then {
    /// The request body is waited for.
    Receive(Call<Asked>),
    /// The next guest's turn.
    Next,
    /// The handler returns.
    End(ngx_int_t),
}

/// Takes the result of the call that just ended.
fn finish(ctx: &Rc<Ctx>, asked: Asked) -> Result<Then, NoMemory> {
    let r = ctx.request();
    match asked {
        Asked::Passed { owed, needs_body } => {
            let early = ctx.with_io(|io| std::mem::take(&mut io.response.own));
            let receive = ctx.with_visits(|visits| {
                let visit = visits.last_mut()?;
                // From here on the guest is owed its handle_response, whatever happens.
                visit.due = match owed {
                    Some((lease, ctx)) => Due::Response { lease, ctx },
                    None => Due::Prefix,
                };
                visit.early = early.unwrap_or_default();
                needs_body.then(|| task::receive(ctx, &visit.plugin))
            });
            match receive {
                Some(receive) => Ok(Then::Receive(receive)),
                None => {
                    pass(ctx)?;
                    Ok(Then::Next)
                }
            }
        }
        Asked::Received => {
            if ctx.client_body() == ClientBody::Ready {
                ctx.with_io(|io| io.request.body.get_or_insert_with(|| body::reader(r)).rewind());
            }
            pass(ctx)?;
            Ok(Then::Next)
        }
        Asked::Answered => {
            ctx.enter(State::Passed);
            answer(ctx).map(Then::End)
        }
        Asked::Failed(status) => {
            let saved = ctx.with_io(|io| io.request.saved.take()).flatten();
            ctx.forget_call();
            match saved {
                None => Ok(Then::End(status)),
                Some(saved) => {
                    ctx.restore(*saved)?;
                    pass(ctx)?;
                    Ok(Then::Next)
                }
            }
        }
    }
}

/// The guest is through with the request: what comes after it sees what it made of it.
fn pass(ctx: &Rc<Ctx>) -> Result<(), NoMemory> {
    let r = ctx.request();
    ctx.enter(State::Passed);
    let (request, written, dirty) = ctx
        .with_io(|io| {
            let side = &mut io.request;
            (side.body.take(), side.written.take(), std::mem::take(&mut side.dirty))
        })
        .unwrap_or_default();
    ctx.with_visits(|visits| {
        if let Some(visit) = visits.last_mut() {
            visit.request = request;
        }
    });
    let replaced = written.is_some();
    if replaced || ctx.client_body() == ClientBody::Ready {
        let stored = match written {
            Some(written) => body::replace(r, written),
            None => body::store(r).map(|()| Pieces::new()),
        };
        ctx.keep(stored.map_err(|error| {
            r.log().write(ERR, format_args!("http_wasm: cannot keep the request body: {error}"));
            NoMemory
        })?);
    }
    if replaced || dirty {
        forget_variables(r);
    }
    Ok(())
}

/// Statuses with which nginx closes the connection and sends nothing: those of a guest are sent.
const ENDS_CONNECTION: [u16; 2] = [408, 444];

/// Sends the guest's own response. The filters see it like any other, so the guests around this one
/// get their `handle_response`.
fn answer(ctx: &Rc<Ctx>) -> Result<ngx_int_t, NoMemory> {
    let r = ctx.request();
    let status = ctx.with_io(|io| io.kept.status()).flatten().unwrap_or(200);
    if (300..).contains(&status)
        && !ENDS_CONNECTION.contains(&status)
        && Location::intercepts_errors(r)
        && r.has_error_page(status as ngx_int_t)
    {
        // As proxy_intercept_errors has it.
        ctx.with_io(|io| {
            io.kept.withdraw(b"www-authenticate");
            io.response.own = Body::default();
        });
        r.finalize(status as ngx_int_t);
        return Ok(DONE);
    }
    if status >= 300 {
        r.forbid_continue();
    }
    // A body that nginx is not reading must leave the connection, or pipelining breaks. It is not there
    // any more for another response that may take the place of this one.
    if r.has_body() && ctx.client_body() == ClientBody::Unread {
        ctx.set_client_body(ClientBody::Lost);
    }
    let rc = r.discard_body();
    if rc != OK {
        return Ok(rc);
    }
    r.set_status(status);
    // The guest's word is final; what it gave an ETag may be found unmodified, if it was asked for.
    let method = ctx.with_io(|io| io.request.sent_method).flatten().unwrap_or(r.method_number());
    let own = ctx.with_io(|io| {
        let kept = &mut io.kept;
        let is_tag = |(name, _): (&[u8], _)| name.eq_ignore_ascii_case(b"etag");
        let tagged = matches!(method, GET | HEAD) && kept.early(FieldKind::Response).any(is_tag);
        if !tagged || headers_in::has_precondition(r) {
            r.ignore_conditions();
        }
        let mut outside = Outside::default();
        for (name, value) in kept.early(FieldKind::Response) {
            headers_out::add(r, &mut outside, FieldLine::copy(r, name, value)?)?;
        }
        for (name, value) in kept.early(FieldKind::ResponseTrailers) {
            trailers::add(r, FieldLine::copy(r, name, value)?)?;
        }
        kept.forget_early();
        Ok(std::mem::take(&mut io.response.own))
    });
    let own = own.unwrap_or_else(|| Ok(Body::default()))?;
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
    let (out, keep) = own.into_chain(r, true)?;
    ctx.keep(keep);

    let rc = r.send_header();
    if rc == ERROR || rc > OK || r.header_only() {
        r.finalize(rc);
        return Ok(DONE);
    }
    let rc = r.output(out.first());
    // The request may be gone after this: nothing below may touch it.
    r.finalize(rc);
    Ok(DONE)
}
