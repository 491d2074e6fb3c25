//! [`Body`]: a body of any size, in memory up to a limit and in a temporary file of nginx's beyond.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use nginx_sys::{ngx_buf_t, ngx_file_t, ngx_http_core_loc_conf_t, ngx_path_t, ngx_temp_file_t};
use smallvec::SmallVec;

use crate::host::Chunk;
use crate::host::policy::RESPONSE_MAX;
use crate::nginx::ngx::chain::Out;
use crate::nginx::ngx::ffi::{self, NoMemory, OK};
use crate::nginx::ngx::request::Request;

/// Bytes that buffers point at: mostly one piece.
pub(crate) type Pieces = SmallVec<[Bytes; 1]>;

/// How much of a body may be in memory, and how large it may be at all, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) memory: usize,
    pub(crate) max: u64,
    /// What kind of file it is in beyond that.
    pub(crate) file: Option<Named>,
}

impl Room {
    /// What `http_wasm_response_buffer` is when nobody sets it: the memory is nginx's
    /// `proxy_buffers` (8 of 8 kB).
    pub(crate) const RESPONSE: Room = Room { memory: 64 << 10, max: RESPONSE_MAX, file: None };
}

/// Why bytes could not be added to a body.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// The body would be larger than `0` bytes.
    #[error("the body would exceed {0} bytes")]
    TooLarge(u64),
    /// The temporary file could not be made, written or read.
    #[error("a temporary file failed: {0}")]
    File(#[from] io::Error),
}

impl From<NoMemory> for SpoolError {
    fn from(_: NoMemory) -> Self {
        SpoolError::File(io::ErrorKind::OutOfMemory.into())
    }
}

/// Bytes written to the file in one go.
const BLOCK: usize = 64 << 10;

/// A body held back or written by a guest. Most messages have none, and it is small then.
#[derive(Default)]
pub(crate) struct Body(Option<Box<Spool>>);

#[derive(Default)]
struct Spool {
    /// Complete pieces, in order.
    pieces: SmallVec<[Piece; 1]>,
    /// What follows them, still growing.
    tail: Vec<u8>,
    file: Option<TempFile>,
    named: Option<Named>,
    len: u64,
}

enum Piece {
    Memory(Bytes),
    File { file: TempFile, at: u64, len: u64 },
}

/// A piece to read from.
enum Span<'a> {
    Memory(&'a [u8]),
    File { file: TempFile, at: u64, len: u64 },
}

impl Piece {
    fn span(&self) -> Span<'_> {
        match self {
            Piece::Memory(bytes) => Span::Memory(bytes),
            &Piece::File { file, at, len } => Span::File { file, at, len },
        }
    }
}

impl Span<'_> {
    const fn len(&self) -> u64 {
        match self {
            Span::Memory(bytes) => bytes.len() as u64,
            Span::File { len, .. } => *len,
        }
    }

    /// `from` and as many bytes as `to` has must be inside.
    fn read_at(&self, from: u64, to: &mut [u8]) -> io::Result<()> {
        match self {
            Span::Memory(bytes) => {
                // Inside a slice, so it fits a usize.
                let from = from as usize;
                to.copy_from_slice(&bytes[from..from + to.len()]);
                Ok(())
            }
            Span::File { file, at, .. } => file.read_at(at + from, to),
        }
    }
}

impl Body {
    pub(crate) fn len(&self) -> u64 {
        self.0.as_ref().map_or(0, |spool| spool.len)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds bytes, spilling into a temporary file of the request's once `room.memory` is used up.
    pub(crate) fn write(&mut self, r: Request, bytes: &[u8], room: Room) -> Result<(), SpoolError> {
        let len = self.len() + bytes.len() as u64;
        if len > room.max {
            return Err(SpoolError::TooLarge(room.max));
        }
        if bytes.is_empty() {
            // An empty piece would become an empty buffer, which nginx's writer does not take.
            return Ok(());
        }
        let spool = self.0.get_or_insert_default();
        spool.tail.extend_from_slice(bytes);
        spool.len = len;
        if len <= room.memory as u64 || spool.tail.len() < BLOCK.min(room.memory) {
            return Ok(());
        }
        let file = match spool.file {
            Some(file) => file,
            None => {
                spool.named = room.file;
                *spool.file.insert(TempFile::create(r, room.file)?)
            }
        };
        let at = file.append(&spool.tail)?;
        let added = spool.tail.len() as u64;
        spool.tail.clear();
        match spool.pieces.last_mut() {
            // After `append` the last piece may be in the other body's file.
            Some(Piece::File { file: last, at: start, len })
                if *last == file && *start + *len == at =>
            {
                *len += added;
            }
            _ => spool.pieces.push(Piece::File { file, at, len: added }),
        }
        Ok(())
    }

    /// Whether a part of it is in a file.
    pub(crate) fn is_in_file(&self) -> bool {
        self.0.as_ref().is_some_and(|spool| spool.file.is_some())
    }

    /// All of it in one temporary file, as nginx has a request body that is not all in memory.
    pub(crate) fn into_file(
        self,
        r: Request,
        named: Option<Named>,
    ) -> Result<*mut ngx_temp_file_t, SpoolError> {
        let len = self.len();
        let file = match self.0.as_ref().and_then(|spool| spool.own_file()) {
            Some((file, tail, kind)) if kind == named => {
                file.append(tail)?;
                file
            }
            Some(_) | None => {
                let file = TempFile::create(r, named)?;
                let mut block = vec![0; BLOCK];
                let mut at = 0;
                while at < len {
                    let read = self.read(at, &mut block)?.len;
                    file.append(&block[..read])?;
                    at += read as u64;
                }
                file
            }
        };
        let temp = r.zeroed::<ngx_temp_file_t>()?;
        // SAFETY: the record is ours and zeroed; the file's own record stays valid beside its copy,
        // and nobody writes to it any more.
        unsafe {
            (*temp).file = *file.0;
            (*temp).path = temp_path(r);
            (*temp).pool = r.pool();
            (*temp).offset = (*file.0).offset;
        }
        Ok(temp)
    }

    /// Copies bytes from position `at` on; fewer than asked for only at the end.
    pub(crate) fn read(&self, mut at: u64, to: &mut [u8]) -> io::Result<Chunk> {
        let mut filled = 0;
        let eof = at.saturating_add(to.len() as u64) >= self.len();
        let Some(spool) = &self.0 else {
            return Ok(Chunk { len: 0, eof });
        };
        // There are few: what is written goes to one tail and one file.
        for span in spool.pieces.iter().map(Piece::span).chain([Span::Memory(&spool.tail)]) {
            let Some(left) = span.len().checked_sub(at) else {
                at -= span.len();
                continue;
            };
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(to.len() - filled);
            span.read_at(at, &mut to[filled..filled + step])?;
            filled += step;
            at = 0;
        }
        Ok(Chunk { len: filled, eof })
    }

    /// Adds another body behind this one. The bytes stay where they are.
    pub(crate) fn append(&mut self, other: Body) {
        let Some(mut other) = other.0 else { return };
        let spool = self.0.get_or_insert_default();
        spool.seal();
        other.seal();
        spool.len += other.len;
        spool.pieces.append(&mut other.pieces);
        // Further writes go to this body's own file.
    }

    /// The body as a chain. The last buffer is marked as the last one if `last`; an empty body gives
    /// a special buffer then (a buffer of size zero that is not special is an error in nginx's
    /// writer), else no chain at all. The bytes in memory must outlive the request's output, which
    /// is why they are returned to be kept with the request.
    pub(crate) fn into_chain(self, r: Request, last: bool) -> Result<(Out, Pieces), NoMemory> {
        let pieces = self.0.map_or_else(SmallVec::new, |mut spool| {
            spool.seal();
            spool.pieces
        });
        let mut out = Out::default();
        let mut keep = Pieces::new();
        let count = pieces.len();
        for (at, piece) in pieces.into_iter().enumerate() {
            let buf = r.zeroed::<ngx_buf_t>()?;
            // SAFETY: the buffer is ours and zeroed. nginx only reads buffers flagged `memory`; a
            // temporary file lives as long as the request's pool.
            unsafe {
                match piece {
                    Piece::Memory(bytes) => {
                        (*buf).pos = bytes.as_ptr().cast_mut();
                        (*buf).start = (*buf).pos;
                        (*buf).last = (*buf).pos.add(bytes.len());
                        (*buf).end = (*buf).last;
                        ffi::ngx_http_wasm_set_b_memory(buf, 1);
                        keep.push(bytes);
                    }
                    Piece::File { file, at, len } => {
                        (*buf).file = file.0;
                        (*buf).file_pos = at as i64;
                        (*buf).file_last = (at + len) as i64;
                        ffi::ngx_http_wasm_set_b_in_file(buf, 1);
                    }
                }
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
        Ok((out, keep))
    }
}

impl Spool {
    /// The file that all of it is in, except for the tail, which follows; and its kind.
    fn own_file(&self) -> Option<(TempFile, &[u8], Option<Named>)> {
        match (self.file, self.pieces.as_slice()) {
            (Some(own), [Piece::File { file, at: 0, .. }]) if own == *file => {
                Some((own, &self.tail, self.named))
            }
            _ => None,
        }
    }

    /// Ends the piece that was growing.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(Piece::Memory(std::mem::take(&mut self.tail).into()));
        }
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

/// A temporary file that others find by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Whether it is removed with the request's pool, if it has not been moved elsewhere.
    pub(crate) clean: bool,
    /// Whether it is for the owner's group, too.
    pub(crate) group: bool,
}

/// Where temporary files of the request go.
fn temp_path(r: Request) -> *mut ngx_path_t {
    // SAFETY: the request is live, and its location has a core configuration, which always has a path.
    unsafe {
        let index = nginx_sys::ngx_http_core_module.ctx_index;
        let clcf = (*(*r.as_ptr()).loc_conf.add(index)).cast::<ngx_http_core_loc_conf_t>();
        (*clcf).client_body_temp_path
    }
}

/// A temporary file of nginx's, in `client_body_temp_path`, closed with the request's pool.
#[derive(Clone, Copy, PartialEq, Eq)]
struct TempFile(*mut ngx_file_t);

impl TempFile {
    /// One that is unlinked at once, unless it is to be a named one.
    fn create(r: Request, named: Option<Named>) -> io::Result<Self> {
        let file = r.zeroed::<ngx_file_t>().map_err(|NoMemory| io::ErrorKind::OutOfMemory)?;
        let (persistent, clean, access) = match named {
            None => (0, 0, 0),
            Some(Named { clean, group: true }) => (1, clean.into(), 0o660),
            Some(Named { clean, group: false }) => (1, clean.into(), 0),
        };
        // SAFETY: the request is live and the file record in its pool.
        let rc = unsafe {
            (*file).fd = -1;
            (*file).log = (*r.connection()).log;
            let path = temp_path(r);
            nginx_sys::ngx_create_temp_file(file, path, r.pool(), persistent, clean, access)
        };
        if rc == OK {
            Ok(TempFile(file))
        } else {
            // nginx has logged which file and why.
            Err(io::Error::other("it cannot be created"))
        }
    }

    fn with<T>(self, f: impl FnOnce(&std::fs::File) -> io::Result<T>) -> io::Result<T> {
        // SAFETY: the descriptor is open until the pool's cleanup closes it, and stays nginx's: it
        // is not closed here.
        let file = ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd((*self.0).fd) });
        f(&file)
    }

    /// Writes at the end; where the bytes begin.
    fn append(self, bytes: &[u8]) -> io::Result<u64> {
        // SAFETY: the record lives as long as the request's pool. Its offset counts what is there.
        let at = unsafe { (*self.0).offset } as u64;
        self.with(|file| file.write_all_at(bytes, at))?;
        // SAFETY: as above.
        unsafe { (*self.0).offset += bytes.len() as i64 }
        Ok(at)
    }

    fn read_at(self, at: u64, to: &mut [u8]) -> io::Result<()> {
        self.with(|file| file.read_exact_at(to, at))
    }
}
