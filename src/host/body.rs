//! Host functions on bodies. Where a read goes on and what a write adds to is the embedder's
//! business; who may read and write, and which write is the first, is decided here.

use std::time::Duration;

use super::error::{Denied, Rule};
use super::message::length;
use super::{Host, Sink, State, Write};
use crate::abi::{BodyKind, eof_len};
use crate::memory::GuestMemory;

/// What is copied before others get their turn.
const PIECE_BYTES: usize = 1 << 20;

/// `read_body`: fills the guest's buffer in place, waiting for bytes if need be.
pub async fn read_body<H: Host>(
    memory: &mut GuestMemory<'_>,
    state: &mut State<H>,
    kind: u32,
    buf: u32,
    limit: u32,
) -> Result<u64, Denied> {
    let kind = body_kind(kind)?;
    let (host, source) = state.body_to_read(kind)?;
    if limit == 0 {
        return Err(Rule::Empty("buffer").into());
    }
    let buf = memory.buffer(buf, limit as usize)?;
    let (mut len, mut eof) = (0, false);
    for piece in buf.chunks_mut(PIECE_BYTES) {
        if len > 0 {
            host.sleep(Duration::ZERO).await;
        }
        let room = piece.len();
        let chunk = host.read_body(source, piece).await?;
        len += chunk.len.min(room);
        eof = chunk.eof;
        if eof || chunk.len < room {
            break;
        }
    }
    Ok(eof_len(eof, length(len as u64)?))
}

/// `write_body`: the first write of a kind in a phase replaces that body, even by an empty one.
pub async fn write_body<H: Host>(
    memory: &GuestMemory<'_>,
    state: &mut State<H>,
    kind: u32,
    body: u32,
    body_len: u32,
) -> Result<(), Denied> {
    let kind = body_kind(kind)?;
    let bytes = memory.bytes(body, body_len)?;
    let Some((host, sink, write)) = state.body_to_write(kind)? else { return Ok(()) };
    if sink == Sink::Response {
        host.empty_response(false);
    }
    let (first, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES));
    host.write_body(sink, write, first)?;
    for piece in rest.chunks(PIECE_BYTES) {
        host.sleep(Duration::ZERO).await;
        host.write_body(sink, Write::Append, piece)?;
    }
    Ok(())
}

fn body_kind(kind: u32) -> Result<BodyKind, Rule> {
    BodyKind::from_abi(kind).ok_or(Rule::BodyKind(kind))
}
