//! Collecting a response body for a guest with `buffer_response`, within the room that
//! `http_wasm_response_buffer` gives it.

use nginx_sys::{ngx_chain_t, ngx_int_t};

use crate::nginx::exchange::ctx::Ctx;
use crate::nginx::exchange::reply::{Content, Reply};
use crate::nginx::exchange::settings::Location;
use crate::nginx::ngx::chain::{self, Out};
use crate::nginx::ngx::ffi::{BAD_GATEWAY, NoMemory};
use crate::nginx::ngx::headers_out;
use crate::nginx::ngx::log::ERR;
use crate::nginx::ngx::spool::{Body, SpoolError};

/// How much of the body is there.
pub(crate) enum Collected {
    /// All of it.
    Whole,
    /// More is to come.
    Partly,
    /// It stays with its response: a page about a failure goes out without a guest that could not have
    /// all of it.
    Stream,
    /// It is given up, and nginx answers with this status.
    Failed(ngx_int_t),
}

/// Begins with what there is of the body so far.
pub(crate) fn begin(ctx: &Ctx, reply: &mut Reply) -> Result<Collected, NoMemory> {
    let r = ctx.request();
    match &mut reply.content {
        Content::Stream { prefix, kept } => {
            let max = Location::response_room(r).max;
            if headers_out::content_length(r).is_some_and(|len| len > max) {
                if reply.is_page {
                    return Ok(Collected::Stream);
                }
                // Known from the header: not a byte of it needs to be taken in.
                too_much(ctx, &SpoolError::TooLarge(max));
                return Ok(Collected::Failed(BAD_GATEWAY));
            }
            let (prefix, kept) = (std::mem::take(prefix), std::mem::take(kept));
            // What was kept may have the end in it; a handler without a body is at its end.
            let ended = reply.is_empty || reply.ended;
            reply.content = Content::Collect(prefix);
            match add(ctx, reply, kept.first())? {
                Collected::Partly if ended => Ok(whole(reply)),
                collected => Ok(collected),
            }
        }
        Content::Collect(_) => Ok(Collected::Partly),
        Content::Whole(_) => Ok(Collected::Whole),
    }
}

/// Adds a filter's input to the body that is being collected.
pub(crate) fn add(
    ctx: &Ctx,
    reply: &mut Reply,
    chain: *mut ngx_chain_t,
) -> Result<Collected, NoMemory> {
    let r = ctx.request();
    let Content::Collect(body) = &mut reply.content else {
        return Ok(Collected::Partly);
    };
    match chain::take(r, chain, body, Location::response_room(r)) {
        Ok(true) => Ok(whole(reply)),
        Ok(false) => Ok(Collected::Partly),
        Err((SpoolError::TooLarge(_), rest)) if reply.is_page => {
            let mut kept = Out::default();
            kept.push_chain(r, rest)?;
            reply.content = Content::Stream { prefix: std::mem::take(body), kept };
            Ok(Collected::Stream)
        }
        Err((error, rest)) => {
            reply.ended |= chain::drop_all(rest);
            too_much(ctx, &error);
            Ok(Collected::Failed(BAD_GATEWAY))
        }
    }
}

/// A response that has ended without its end.
pub(crate) fn cut(ctx: &Ctx) -> Collected {
    ctx.log().write(
        ERR,
        format_args!("http_wasm: the upstream went away before the end of its response"),
    );
    Collected::Failed(BAD_GATEWAY)
}

fn whole(reply: &mut Reply) -> Collected {
    if let Content::Collect(body) = &mut reply.content {
        let body: Body = std::mem::take(body);
        reply.content = Content::Whole(body);
    }
    reply.ended = true;
    Collected::Whole
}

fn too_much(ctx: &Ctx, error: &SpoolError) {
    ctx.log().write(
        ERR,
        format_args!(
            "http_wasm: the response cannot be buffered: {error} (http_wasm_response_buffer)"
        ),
    );
}
