//! Host functions on bodies. Where a read goes on and what a write adds to is the embedder's
//! business; who may read and write, and which write is the first, is decided here.

use super::error::{Denied, Rule};
use super::message::length;
use super::{Host, Sink, State};
use crate::abi::{BodyKind, eof_len};
use crate::memory::GuestMemory;

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
    let room = buf.len();
    let chunk = host.read_body(source, buf).await?;
    Ok(eof_len(chunk.eof, length(chunk.len.min(room) as u64)?))
}

/// `write_body`: the first write of a kind in a phase replaces that body, even by an empty one.
pub fn write_body<H: Host>(
    memory: &GuestMemory<'_>,
    state: &mut State<H>,
    kind: u32,
    body: u32,
    body_len: u32,
) -> Result<(), Denied> {
    let kind = body_kind(kind)?;
    let bytes = memory.bytes(body, body_len)?;
    match state.body_to_write(kind)? {
        Some((host, sink, write)) => {
            if sink == Sink::Response {
                host.empty_response(false);
            }
            Ok(host.write_body(sink, write, bytes)?)
        }
        None => Ok(()),
    }
}

fn body_kind(kind: u32) -> Result<BodyKind, Rule> {
    BodyKind::from_abi(kind).ok_or(Rule::BodyKind(kind))
}
