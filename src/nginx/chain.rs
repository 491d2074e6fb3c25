//! Bodies: nginx's chains read as bytes, and bytes passed on as chains. A chain may mix buffers in
//! memory, buffers in a file and special buffers without data; whatever the split, the bytes are the
//! same.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;

use bytes::Bytes;
use nginx_sys::{ngx_alloc_chain_link, ngx_buf_t, ngx_chain_t};

use super::ffi::{self, NoMemory};
use super::request::Request;
use crate::host::Chunk;

/// A body held in memory, in the pieces it came in.
#[derive(Default, Clone)]
pub(crate) struct Body {
    pieces: Vec<Bytes>,
    len: u64,
}

impl Body {
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len() as u64;
            self.pieces.push(piece);
        }
    }

    pub(crate) fn append(&mut self, other: Body) {
        self.len += other.len;
        self.pieces.extend(other.pieces);
    }

    /// A chain of memory buffers over the pieces; the pieces must outlive the request's output,
    /// which is why they are returned to be kept with the request.
    ///
    /// The last buffer carries `last`: `last_buf` for the end of a response or request body. An
    /// empty body gives a special buffer without memory when `last` is set (a buffer of size zero
    /// that is not special is an error in nginx's writer), else a null chain.
    pub(crate) fn into_chain(self, r: Request, last: bool) -> Result<(Out, Vec<Bytes>), NoMemory> {
        let mut out = Out::default();
        let count = self.pieces.len();
        for (at, piece) in self.pieces.iter().enumerate() {
            let buf = r.zeroed::<ngx_buf_t>()?;
            // SAFETY: the buffer is ours and zeroed; nginx only reads buffers flagged `memory`.
            unsafe {
                (*buf).pos = piece.as_ptr().cast_mut();
                (*buf).start = (*buf).pos;
                (*buf).last = (*buf).pos.add(piece.len());
                (*buf).end = (*buf).last;
                ffi::ngx_http_wasm_set_b_memory(buf, 1);
                if last && at + 1 == count {
                    mark_last(buf);
                }
            }
            out.push(r, buf)?;
        }
        if last && count == 0 {
            let buf = r.zeroed::<ngx_buf_t>()?;
            // SAFETY: the buffer is ours and zeroed.
            unsafe { mark_last(buf) }
            out.push(r, buf)?;
        }
        Ok((out, self.pieces))
    }
}

/// # Safety
/// `buf` must be ours.
unsafe fn mark_last(buf: *mut ngx_buf_t) {
    // SAFETY: as the caller holds.
    unsafe {
        ffi::ngx_http_wasm_set_b_last_buf(buf, 1);
        ffi::ngx_http_wasm_set_b_last_in_chain(buf, 1);
    }
}

/// A position in a [`Body`].
#[derive(Default, Clone, Copy)]
pub(crate) struct Cursor {
    piece: usize,
    at: usize,
}

impl Cursor {
    /// Fills `to` from `body`; EOF comes with the last bytes.
    pub(crate) fn read(&mut self, body: &Body, mut to: &mut [u8]) -> Chunk {
        let asked = to.len();
        while let Some(piece) = body.pieces.get(self.piece) {
            let from = &piece[self.at..];
            let len = from.len().min(to.len());
            let (filled, rest) = to.split_at_mut(len);
            filled.copy_from_slice(&from[..len]);
            to = rest;
            if len < from.len() {
                self.at += len;
                break;
            }
            self.piece += 1;
            self.at = 0;
        }
        Chunk {
            len: asked - to.len(),
            eof: self.piece == body.pieces.len(),
        }
    }
}

/// A chain under construction, or one held back, in links of our own.
pub(crate) struct Out {
    first: *mut ngx_chain_t,
    last: *mut ngx_chain_t,
}

impl Default for Out {
    fn default() -> Self {
        Out {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
        }
    }
}

impl Out {
    pub(crate) const fn first(&self) -> *mut ngx_chain_t {
        self.first
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    fn push(&mut self, r: Request, buf: *mut ngx_buf_t) -> Result<(), NoMemory> {
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

/// What was seen while taking a chain in.
#[derive(Default)]
pub(crate) struct Taken {
    /// The end of the response.
    pub(crate) last: bool,
    /// A flush was asked for.
    pub(crate) flush: bool,
}

/// Copies a filter's input into `body` and marks every buffer as consumed. Buffers are never kept:
/// the copy filter and the upstream pipe have few and wait for them. More than `room` bytes is an
/// error, with everything consumed all the same.
pub(crate) fn take(
    chain: *mut ngx_chain_t,
    body: &mut Body,
    room: u64,
) -> Result<Taken, TakeError> {
    let mut taken = Taken::default();
    let mut result = Ok(());
    for buf in buffers(chain) {
        // SAFETY: the buffer is a live one of the chain.
        let (last, flush) = unsafe {
            (
                ffi::ngx_http_wasm_b_last_buf(buf) != 0,
                ffi::ngx_http_wasm_b_flush(buf) != 0,
            )
        };
        taken.last |= last;
        taken.flush |= flush;
        let len = remaining(buf, 0);
        if result.is_ok() && len > 0 {
            result = if body.len + len > room {
                Err(TakeError::TooLarge)
            } else {
                copy_of(buf, len).map(|piece| body.push(piece))
            };
        }
        consume(buf);
    }
    result.map(|()| taken)
}

/// Marks every buffer of a chain as sent, for a body that has no place in the response.
pub(crate) fn drop_all(chain: *mut ngx_chain_t) {
    buffers(chain).for_each(consume);
}

/// Why a response could not be taken in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    #[error("the response body is larger than http_wasm_response_buffer allows")]
    TooLarge,
    #[error("reading the response body from a file failed: {0}")]
    File(#[from] io::Error),
}

fn copy_of(buf: *mut ngx_buf_t, len: u64) -> Result<Bytes, TakeError> {
    let len = usize::try_from(len).map_err(|_| TakeError::TooLarge)?;
    let mut piece = vec![0; len];
    read_at(buf, 0, &mut piece)?;
    Ok(piece.into())
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
        Reader {
            start: chain,
            link: chain,
            at: 0,
        }
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
                return Ok(Chunk {
                    len: asked - to.len(),
                    eof: true,
                });
            };
            let left = remaining(buf, self.at);
            if left == 0 {
                self.link = next;
                self.at = 0;
                continue;
            }
            if to.is_empty() {
                return Ok(Chunk {
                    len: asked,
                    eof: false,
                });
            }
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(to.len());
            let (filled, rest) = to.split_at_mut(len);
            read_at(buf, self.at, filled)?;
            to = rest;
            self.at += len as u64;
        }
    }
}
