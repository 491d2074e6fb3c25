//! Collecting a response body for a guest with `buffer_response`, within the room that
//! `http_wasm_response_buffer` gives it.

use std::rc::Rc;

use nginx_sys::{ngx_chain_t, ngx_int_t};

use super::chain::{self, Out};
use super::conf::LocConf;
use super::ctx::Ctx;
use super::ffi::{BAD_GATEWAY, NoMemory};
use super::headers_out;
use super::log::ERR;
use super::reply::Flow;
use super::spool::SpoolError;

/// How much of the body is there.
pub(crate) enum Collected {
    /// All of it.
    Complete,
    /// More is to come.
    Partly,
    /// It is given up, and nginx answers with this status.
    Failed(ngx_int_t),
}

/// Turns a streaming body into one that is collected, with what is held of it so far.
pub(crate) fn begin(ctx: &Rc<Ctx>) -> Result<Collected, NoMemory> {
    let r = ctx.request();
    let held = {
        let mut reply = ctx.reply.borrow_mut();
        match std::mem::take(&mut reply.flow) {
            Flow::Stream { prefix, held } => {
                let max = LocConf::response_room(r).max;
                if headers_out::content_length(r).is_some_and(|len| len > max) {
                    // Known from the header: not a byte of it needs to be taken in.
                    too_much(ctx, &SpoolError::TooLarge(max));
                    return Ok(Collected::Failed(BAD_GATEWAY));
                }
                reply.flow = Flow::Whole { body: prefix, complete: false };
                r.take_body();
                held
            }
            whole => {
                reply.flow = whole;
                Out::default()
            }
        }
    };
    Ok(take(ctx, held.first()))
}

/// Adds a filter's input to the collected body.
pub(crate) fn take(ctx: &Rc<Ctx>, chain: *mut ngx_chain_t) -> Collected {
    let mut reply = ctx.reply.borrow_mut();
    let Flow::Whole { body, complete } = &mut reply.flow else {
        return Collected::Partly;
    };
    let room = LocConf::response_room(ctx.request());
    match chain::take(ctx.request(), chain, body, room) {
        Ok(taken) if taken.last => {
            *complete = true;
            Collected::Complete
        }
        Ok(taken) if taken.flush && ctx.request().upstream_gone() => {
            ctx.log().write(
                ERR,
                format_args!("http_wasm: the upstream went away before the end of its response"),
            );
            Collected::Failed(BAD_GATEWAY)
        }
        Ok(_) => Collected::Partly,
        Err(error) => {
            too_much(ctx, &error);
            Collected::Failed(BAD_GATEWAY)
        }
    }
}

fn too_much(ctx: &Ctx, error: &SpoolError) {
    ctx.log().write(
        ERR,
        format_args!(
            "http_wasm: the response cannot be buffered: {error} (http_wasm_response_buffer)"
        ),
    );
}
