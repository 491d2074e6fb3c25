//! The way on: the filters after ours, the header with lengths and validators that fit the body, and
//! what of the body is ours to send.

use std::ffi::c_void;
use std::rc::Rc;

use nginx_sys::{
    ngx_chain_t, ngx_http_output_body_filter_pt, ngx_http_output_header_filter_pt, ngx_int_t,
};

use crate::nginx::exchange::ctx::Ctx;
use crate::nginx::exchange::reply::{
    After, Change, Content, Draining, Holding, Reply, forbids_body,
};
use crate::nginx::exchange::state::State;
use crate::nginx::ngx::chain::{self, Out};
use crate::nginx::ngx::ffi::{ERROR, NoMemory, OK, guard};
use crate::nginx::ngx::headers_out::{self, trailers};
use crate::nginx::ngx::hold::Hold;
use crate::nginx::ngx::output::Output;
use crate::nginx::ngx::request::Request;
use crate::nginx::ngx::spool::Body;

static mut NEXT_HEADER_FILTER: ngx_http_output_header_filter_pt = None;
static mut NEXT_BODY_FILTER: ngx_http_output_body_filter_pt = None;

/// Puts the filters on top of the chains; called for every configuration that is loaded.
pub(crate) fn install(
    header: ngx_http_output_header_filter_pt,
    body: ngx_http_output_body_filter_pt,
) {
    // SAFETY: nginx builds its filter chains on one thread, while it reads a configuration.
    unsafe {
        NEXT_HEADER_FILTER = nginx_sys::ngx_http_top_header_filter;
        nginx_sys::ngx_http_top_header_filter = header;
        NEXT_BODY_FILTER = nginx_sys::ngx_http_top_body_filter;
        nginx_sys::ngx_http_top_body_filter = body;
    }
}

pub(crate) fn next_header(r: Request) -> ngx_int_t {
    // SAFETY: set in `install` before the first request and never changed while one runs; the
    // request is live.
    unsafe {
        match NEXT_HEADER_FILTER {
            Some(next) => next(r.as_ptr()),
            None => OK,
        }
    }
}

pub(crate) fn next_body(r: Request, chain: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: as in `next_header`; the chain is the caller's or in the request's pool.
    unsafe {
        match NEXT_BODY_FILTER {
            Some(next) => next(r.as_ptr(), chain),
            None => OK,
        }
    }
}

/// Pushes what waits in the filters after ours; they take it amiss when nothing does.
pub(crate) fn push(r: Request) -> ngx_int_t {
    if r.has_output() { next_body(r, std::ptr::null_mut()) } else { OK }
}

/// Tells the filters after ours that the body has ended.
pub(crate) fn end(r: Request) -> Result<ngx_int_t, NoMemory> {
    let (end, _) = Body::default().into_chain(r, true)?;
    Ok(next_body(r, end.first()))
}

/// What goes out behind the header.
enum Plan {
    /// What comes, as it comes.
    Pass,
    /// Nothing.
    Nothing,
    /// This, then what comes.
    First(Body, Out),
    /// This and nothing more.
    Whole(Body),
}

/// Sends the header; what is ours to send of the body is left to [`drain`]. Every guest has been
/// called.
pub(crate) fn header(ctx: &Ctx, mut reply: Reply) -> Result<ngx_int_t, NoMemory> {
    let r = ctx.request();
    let forbidden = forbids_body(r);
    if reply.change != Change::None {
        reply.validators.forget(r);
    }
    if reply.change == Change::Replaced {
        reply.encoding.forget(r);
    }
    if forbidden {
        reply.drop_kept();
    }
    let announced = headers_out::content_length(r);
    let content = std::mem::replace(&mut reply.content, Content::Whole(Body::default()));
    let (len, plan) = match content {
        // The length a GET would have: unknown once a guest wrote without seeing the body.
        Content::Stream { prefix, .. } if forbidden => match reply.change {
            Change::Replaced => (None, Plan::Nothing),
            Change::None | Change::Prefixed => {
                (announced.map(|len| len + prefix.len()), Plan::Nothing)
            }
        },
        Content::Collect(_) | Content::Whole(_) if forbidden => (None, Plan::Nothing),
        // A handler that sends no body has not announced one either. Where the end has come and was not
        // kept (of a 204 that a guest has made another status), nothing else will.
        Content::Stream { prefix, kept } if reply.is_empty || reply.ended && kept.is_empty() => {
            (Some(prefix.len()), Plan::Whole(prefix))
        }
        Content::Stream { prefix, kept } if prefix.is_empty() && kept.is_empty() => {
            (announced, Plan::Pass)
        }
        Content::Stream { prefix, kept } => {
            (announced.map(|len| len + prefix.len()), Plan::First(prefix, kept))
        }
        Content::Collect(body) => (None, Plan::First(body, Out::default())),
        Content::Whole(body) => (Some(body.len()), Plan::Whole(body)),
    };
    if !forbidden {
        announce(r);
    }
    if len != announced {
        headers_out::set_content_length(r, len);
    }
    let (first, after) = match plan {
        // What follows is not a body but the tunnel's beginning.
        Plan::Nothing if r.upgrades() => return Ok(through(ctx, After::Pass)),
        Plan::Pass => return Ok(through(ctx, After::Pass)),
        Plan::Nothing => {
            let rc = through(ctx, After::End);
            return if reply.ended && rc == OK { finish(ctx) } else { Ok(rc) };
        }
        Plan::First(prefix, kept) => {
            let (mut first, keep) = prefix.into_chain(r, false)?;
            ctx.keep(keep);
            first.push_chain(r, kept.first())?;
            (first, if reply.ended { After::Drop } else { After::Pass })
        }
        Plan::Whole(body) => {
            let (first, keep) = body.into_chain(r, true)?;
            ctx.keep(keep);
            (first, After::Drop)
        }
    };
    let hold = match reply.holding {
        Holding::On(hold) => hold,
        Holding::Never | Holding::Brief | Holding::Possible => Hold::on(r),
    };
    ctx.enter(State::Draining(Box::new(Draining { first, output: None, after, _hold: hold })));
    let rc = next_header(r);
    if reply.is_empty && rc != ERROR && rc <= OK {
        r.forbid_body();
    }
    Ok(rc)
}

/// Sends the header of a response whose body passes as it comes.
pub(crate) fn passing(ctx: &Ctx) -> ngx_int_t {
    announce(ctx.request());
    through(ctx, After::Pass)
}

/// A body may follow, and trailers.
fn announce(r: Request) {
    if trailers::are_there(r) {
        if headers_out::has(r, b"grpc-status") {
            trailers::forget_guests(r);
        }
        trailers::announce(r);
    }
    r.allow_body();
}

fn through(ctx: &Ctx, after: After) -> ngx_int_t {
    ctx.enter(State::Through(after));
    next_header(ctx.request())
}

/// The end of a body without bytes has come. nginx takes some headers for the whole response; those
/// that it does not wait in its buffers until it hears of the end.
pub(crate) fn finish(ctx: &Ctx) -> Result<ngx_int_t, NoMemory> {
    let r = ctx.request();
    ctx.enter(State::Through(After::Drop));
    if r.header_only() { Ok(push(r)) } else { end(r) }
}

/// Sends what is ours, then `chain`, and goes on when the client has taken enough; once nothing waits
/// any more, the rest passes.
pub(crate) fn drain(ctx: &Rc<Ctx>, chain: *mut ngx_chain_t) -> Result<ngx_int_t, NoMemory> {
    let r = ctx.request();
    let draining = ctx.with_state(|state| match state {
        State::Draining(draining) => {
            Some((std::mem::take(&mut draining.first), draining.output, draining.after))
        }
        State::Before
        | State::Asking(_)
        | State::Passed
        | State::Collecting(_)
        | State::Responding(_)
        | State::Failing(_)
        | State::Through(_)
        | State::Over => None,
    });
    let Some((mut out, output, after)) = draining else {
        return Ok(OK);
    };
    match after {
        After::Pass => out.push_chain(r, chain)?,
        After::Drop | After::End => {
            chain::drop_all(chain);
        }
    }
    let output = match output {
        Some(output) => output,
        None => {
            let output = Output::create(r, Some(output_filter))?;
            ctx.with_state(|state| {
                if let State::Draining(draining) = state {
                    draining.output = Some(output);
                }
            });
            output
        }
    };
    let rc = output.send(out.first());
    if rc != ERROR && !output.is_pending() {
        ctx.enter(State::Through(after));
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
