//! nginx's chains: read as bytes, taken in, held back. A chain may mix buffers in
//! memory, buffers in a file and special buffers without data; whatever the split, the bytes are the
//! same.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;

use nginx_sys::{ngx_alloc_chain_link, ngx_buf_t, ngx_chain_t};

use crate::host::Chunk;
use crate::nginx::ngx::ffi::{self, NoMemory};
use crate::nginx::ngx::request::Request;
use crate::nginx::ngx::spool::{Body, Room, SpoolError};

/// A chain under construction, or one held back, in links of our own.
pub(crate) struct Out {
    first: *mut ngx_chain_t,
    last: *mut ngx_chain_t,
}

impl Default for Out {
    fn default() -> Self {
        Out { first: ptr::null_mut(), last: ptr::null_mut() }
    }
}

impl Out {
    pub(crate) const fn first(&self) -> *mut ngx_chain_t {
        self.first
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    pub(crate) fn push(&mut self, r: Request, buf: *mut ngx_buf_t) -> Result<(), NoMemory> {
        // SAFETY: the pool is the live request's; links are only made and joined here.
        unsafe {
            let link = ngx_alloc_chain_link(r.pool());
            if link.is_null() {
                return Err(NoMemory);
            }
            (*link).buf = buf;
            (*link).next = ptr::null_mut();
            if self.last.is_null() {
                self.first = link;
            } else {
                (*self.last).next = link;
            }
            self.last = link;
        }
        Ok(())
    }

    /// Adds the buffers of somebody else's chain, in links of our own. The buffers stay the other's
    /// and stay unconsumed, which is what slows the other down.
    pub(crate) fn push_chain(
        &mut self,
        r: Request,
        chain: *mut ngx_chain_t,
    ) -> Result<(), NoMemory> {
        for buf in buffers(chain) {
            self.push(r, buf)?;
        }
        Ok(())
    }
}

/// The buffers of a chain.
fn buffers(chain: *mut ngx_chain_t) -> impl Iterator<Item = *mut ngx_buf_t> {
    let mut link = chain;
    std::iter::from_fn(move || {
        // SAFETY: chains handed to a filter or kept in a live request end with null, and a link in
        // use has a buffer.
        let (buf, next) = unsafe { link.as_ref().map(|link| (link.buf, link.next))? };
        link = next;
        Some(buf)
    })
}

/// Copies a filter's input into `body` and marks every buffer as consumed. Buffers are never kept:
/// the copy filter and the upstream pipe have few and wait for them. A body that outgrows `room` is
/// an error, with the rest of the chain, from the buffer on that has no room, left as it was. Says
/// whether the end of the response was among it.
pub(crate) fn take(
    r: Request,
    chain: *mut ngx_chain_t,
    body: &mut Body,
    room: Room,
) -> Result<bool, (SpoolError, *mut ngx_chain_t)> {
    let mut last = false;
    let mut rest = chain;
    // SAFETY: chains handed to a filter end with null, and a link in use has a buffer.
    while let Some(link) = unsafe { rest.as_ref() } {
        let buf = link.buf;
        copy(r, buf, body, room).map_err(|error| (error, rest))?;
        // SAFETY: the buffer is a live one of the chain.
        last |= unsafe { ffi::ngx_http_wasm_b_last_buf(buf) != 0 };
        consume(buf);
        rest = link.next;
    }
    Ok(last)
}

/// Adds what a buffer holds to `body`: at once from memory, in blocks from a file.
fn copy(r: Request, buf: *mut ngx_buf_t, body: &mut Body, room: Room) -> Result<(), SpoolError> {
    const BLOCK: u64 = 64 << 10;
    let len = remaining(buf, 0);
    if body.len() + len > room.max {
        return Err(SpoolError::TooLarge(room.max));
    }
    // SAFETY: a live buffer.
    if unsafe { ffi::ngx_http_wasm_b_in_memory(buf) } != 0 {
        // SAFETY: its bytes are between `pos` and `last`; `write` copies them.
        let bytes = unsafe { std::slice::from_raw_parts((*buf).pos, len as usize) };
        return body.write(r, bytes, room);
    }
    let mut block = vec![0; len.min(BLOCK) as usize];
    let mut at = 0;
    while at < len {
        let step = (len - at).min(BLOCK) as usize;
        read_at(buf, at, &mut block[..step])?;
        body.write(r, &block[..step], room)?;
        at += step as u64;
    }
    Ok(())
}

/// Marks every buffer of a chain as sent, for a body that has no place in the response; whether the
/// end of the response was among them.
pub(crate) fn drop_all(chain: *mut ngx_chain_t) -> bool {
    let mut last = false;
    for buf in buffers(chain) {
        // SAFETY: a live buffer of the chain.
        last |= unsafe { ffi::ngx_http_wasm_b_last_buf(buf) != 0 };
        consume(buf);
    }
    last
}

fn consume(buf: *mut ngx_buf_t) {
    // SAFETY: a live buffer of the caller's chain; this is how a filter says "taken".
    unsafe {
        (*buf).pos = (*buf).last;
        if ffi::ngx_http_wasm_b_in_file(buf) != 0 {
            (*buf).file_pos = (*buf).file_last;
        }
    }
}

/// Bytes of `buf` from `from` on.
fn remaining(buf: *mut ngx_buf_t, from: u64) -> u64 {
    // SAFETY: a live buffer; `pos` and `last` point into the same allocation.
    let size = unsafe {
        if ffi::ngx_http_wasm_b_in_memory(buf) != 0 {
            (*buf).last.offset_from((*buf).pos) as i64
        } else if ffi::ngx_http_wasm_b_in_file(buf) != 0 {
            (*buf).file_last - (*buf).file_pos
        } else {
            0
        }
    };
    u64::try_from(size).unwrap_or(0).saturating_sub(from)
}

/// Copies bytes of `buf`, starting `from` bytes into it; there must be as many as `to` holds.
fn read_at(buf: *mut ngx_buf_t, from: u64, to: &mut [u8]) -> io::Result<()> {
    // SAFETY: a live buffer with at least `from + to.len()` bytes; a buffer in memory does not
    // overlap `to`, which is ours; a buffer in a file has an open one.
    unsafe {
        if ffi::ngx_http_wasm_b_in_memory(buf) != 0 {
            ptr::copy_nonoverlapping((*buf).pos.add(from as usize), to.as_mut_ptr(), to.len());
            Ok(())
        } else {
            // Not dropped: the descriptor stays nginx's.
            let file = ManuallyDrop::new(std::fs::File::from_raw_fd((*(*buf).file).fd));
            file.read_exact_at(to, (*buf).file_pos as u64 + from)
        }
    }
}

/// Reads a request body where nginx left it, in memory or in a temporary file, without changing it.
#[derive(Clone, Copy)]
pub(crate) struct Reader {
    start: *mut ngx_chain_t,
    link: *mut ngx_chain_t,
    at: u64,
}

impl Default for Reader {
    /// The empty body.
    fn default() -> Self {
        Reader::of(ptr::null_mut())
    }
}

impl Reader {
    /// A reader at the start of a chain that lives as long as the request.
    pub(crate) const fn of(chain: *mut ngx_chain_t) -> Self {
        Reader { start: chain, link: chain, at: 0 }
    }

    /// Back to the first byte.
    pub(crate) fn rewind(&mut self) {
        *self = Reader::of(self.start);
    }

    /// Fills `to`; EOF comes with the last bytes.
    pub(crate) fn read(&mut self, mut to: &mut [u8]) -> io::Result<Chunk> {
        let asked = to.len();
        loop {
            // SAFETY: the chain lives as long as the request (contract of `of`).
            let Some((buf, next)) =
                (unsafe { self.link.as_ref().map(|link| (link.buf, link.next)) })
            else {
                return Ok(Chunk { len: asked - to.len(), eof: true });
            };
            let left = remaining(buf, self.at);
            if left == 0 {
                self.link = next;
                self.at = 0;
                continue;
            }
            if to.is_empty() {
                return Ok(Chunk { len: asked, eof: false });
            }
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(to.len());
            let (filled, rest) = to.split_at_mut(len);
            read_at(buf, self.at, filled)?;
            to = rest;
            self.at += len as u64;
        }
    }
}
