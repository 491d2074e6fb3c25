//! A window into the nginx side for the fuzz targets in `tests/fuzz`: a request on a workbench,
//! with safe methods for what a guest can do to its target, its fields and its bodies, and for
//! looking at what nginx would find afterwards. Linked with nginx's objects, as the unit tests are.

use std::cell::RefCell;
use std::io;
use std::marker::PhantomData;
use std::mem::offset_of;

use bytes::Bytes;
use nginx_sys::{ngx_hash_key, ngx_list_t, ngx_str_t, ngx_table_elt_t};

use crate::abi::FieldKind;
use crate::host::Chunk;
use crate::host::early::Early;
use crate::host::policy::is_guests_to_set;
use crate::nginx::bench::Bench;
pub use crate::nginx::bench::Place;
use crate::nginx::ngx::body;
use crate::nginx::ngx::chain::{self, Reader};
use crate::nginx::ngx::ffi::{self, bytes};
use crate::nginx::ngx::field::FieldLine;
use crate::nginx::ngx::headers_in::{self, field};
use crate::nginx::ngx::headers_out::{self, Outside, trailers};
use crate::nginx::ngx::list::Elements;
use crate::nginx::ngx::saved::{SavedRequest, SavedResponse};
use crate::nginx::ngx::spool::{Body, Room, SpoolError};
use crate::nginx::ngx::uri;

/// Name and value of one field line.
pub type Line = (Vec<u8>, Vec<u8>);

/// A request and its response.
pub struct Live {
    bench: Bench,
    outside: Outside,
    /// Bytes in memory that chains of the request point at.
    keep: RefCell<Vec<Bytes>>,
}

impl Default for Live {
    fn default() -> Self {
        Live { bench: Bench::new(), outside: Outside::default(), keep: RefCell::default() }
    }
}

/// A request target where nginx keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `r->uri`, decoded.
    pub path: Vec<u8>,
    /// `r->args`.
    pub args: Vec<u8>,
    /// `r->unparsed_uri`.
    pub unparsed: Vec<u8>,
    /// `r->exten`.
    pub exten: Vec<u8>,
}

/// What nginx keeps of a response's head outside its list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// Without a charset.
    pub content_type: Vec<u8>,
    /// Added to a type without parameters.
    pub charset: Vec<u8>,
    /// The length, if it is known.
    pub content_length: Option<u32>,
    /// Seconds since 1970.
    pub last_modified: Option<u32>,
}

const NO_MEMORY: &str = "memory";

// Targets.
impl Live {
    /// [`uri::set`]; whether nginx finds the path safe.
    pub fn set_uri(&mut self, target: &[u8]) -> bool {
        uri::set(self.bench.request(), target).expect(NO_MEMORY)
    }

    /// The target as nginx has it now.
    pub fn uri(&self) -> Seen {
        let r = self.bench.request().as_ptr();
        // SAFETY: the request is live and its strings live in its pool.
        unsafe {
            Seen {
                path: bytes((*r).uri).to_vec(),
                args: bytes((*r).args).to_vec(),
                unparsed: bytes((*r).unparsed_uri).to_vec(),
                exten: bytes((*r).exten).to_vec(),
            }
        }
    }

    /// [`uri::rebuilt`].
    pub fn rebuilt_uri(&self) -> Vec<u8> {
        uri::rebuilt(self.bench.request())
    }
}

// Fields.
impl Live {
    fn line(&self, name: &[u8], value: &[u8]) -> FieldLine {
        FieldLine::copy(self.bench.request(), name, value).expect(NO_MEMORY)
    }

    /// A header line that came from the client.
    pub fn from_client(&mut self, name: &[u8], value: &[u8]) {
        headers_in::push(self.bench.request(), self.line(name, value)).expect(NO_MEMORY);
    }

    /// The response comes: what is outside its list, and its lines.
    pub fn from_upstream(&mut self, upstream: &Upstream, lines: &[Line]) {
        let r = self.bench.request();
        let content_type = r.copy(&upstream.content_type).expect(NO_MEMORY);
        let charset = r.copy(&upstream.charset).expect(NO_MEMORY);
        // SAFETY: the request is live, the strings are in its pool.
        unsafe {
            let out = &raw mut (*r.as_ptr()).headers_out;
            (*out).content_type = content_type;
            (*out).content_type_len = content_type.len;
            (*out).charset = charset;
            (*out).content_length_n = upstream.content_length.map_or(-1, i64::from);
            (*out).last_modified_time = upstream.last_modified.map_or(-1, i64::from);
        }
        for (name, value) in lines {
            headers_out::push(r, self.line(name, value)).expect(NO_MEMORY);
        }
    }

    /// Merges what a guest added before there was a response; then that is shown to a guest.
    pub fn merge(&mut self, added: &[Line]) {
        let mut early = Early::default();
        for (name, value) in added {
            early.add(FieldKind::Response, name, value);
        }
        let r = self.bench.request();
        let theirs = |(name, _): &(&[u8], _)| is_guests_to_set(FieldKind::Response, name);
        headers_out::merge(r, early.fields.iter().filter(theirs)).expect(NO_MEMORY);
        self.outside = Outside::default();
    }

    /// What a guest is shown.
    pub fn lines(&self, kind: FieldKind) -> Vec<Line> {
        let r = self.bench.request();
        let owned = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
        match kind {
            FieldKind::Request => headers_in::fields(r).map(owned).collect(),
            FieldKind::Response => headers_out::fields(r, &self.outside).map(owned).collect(),
            FieldKind::ResponseTrailers => trailers::fields(r).map(owned).collect(),
            FieldKind::RequestTrailers => Vec::new(),
        }
    }

    /// What nginx would send, whatever a guest is shown.
    pub fn sent(&self) -> Vec<Line> {
        let r = self.bench.request();
        let outside = Outside::default();
        let lines = headers_out::fields(r, &outside);
        lines.map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
    }

    /// `set_header_value`.
    pub fn set(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) {
        let r = self.bench.request();
        let line = self.line(name, value);
        let done = match kind {
            FieldKind::Request => headers_in::set(r, line),
            FieldKind::Response => headers_out::set(r, &mut self.outside, line),
            FieldKind::ResponseTrailers => trailers::set(r, line),
            FieldKind::RequestTrailers => Ok(()),
        };
        done.expect(NO_MEMORY);
    }

    /// `add_header_value`.
    pub fn add(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) {
        let r = self.bench.request();
        let line = self.line(name, value);
        let done = match kind {
            FieldKind::Request => headers_in::add(r, line),
            FieldKind::Response => headers_out::add(r, &mut self.outside, line),
            FieldKind::ResponseTrailers => trailers::add(r, line),
            FieldKind::RequestTrailers => Ok(()),
        };
        done.expect(NO_MEMORY);
    }

    /// `remove_header`.
    pub fn remove(&mut self, kind: FieldKind, name: &[u8]) {
        let r = self.bench.request();
        match kind {
            FieldKind::Request => headers_in::remove(r, name).expect(NO_MEMORY),
            FieldKind::Response => {
                headers_out::remove(r, &mut self.outside, name).expect(NO_MEMORY)
            }
            FieldKind::ResponseTrailers => trailers::remove(r, name),
            FieldKind::RequestTrailers => {}
        }
    }

    /// Runs a guest's call that fails: what it did is undone, as `http_wasm_on_error open` has it.
    pub fn undone(&mut self, call: impl FnOnce(&mut Self)) {
        let r = self.bench.request();
        let (request, response) = (SavedRequest::of(r), SavedResponse::of(r));
        call(self);
        response.restore(r).expect(NO_MEMORY);
        request.restore(r).expect(NO_MEMORY);
        self.outside = Outside::default();
    }

    /// `$host`.
    pub fn host(&self) -> Vec<u8> {
        // SAFETY: the request is live and the string in its pool.
        unsafe { bytes((*self.bench.request().as_ptr()).headers_in.server).to_vec() }
    }

    /// Panics unless elements, their derived parts and the slots that point at them agree.
    pub fn check(&self) {
        self.check_request();
        self.check_response();
    }

    fn check_request(&self) {
        let r = self.bench.request();
        // SAFETY: the request is live, its list's elements are complete; slots are pointers at an
        // offset in headers_in that nginx's own table names.
        unsafe {
            let headers = &raw mut (*r.as_ptr()).headers_in;
            check_list(&raw const (*headers).headers);
            let elements: Vec<_> = Elements::of(&raw const (*headers).headers).collect();
            for &element in &elements {
                let (name, _) = field(element);
                let lowcase = name.to_ascii_lowercase();
                let text = std::slice::from_raw_parts((*element).lowcase_key, name.len());
                assert_eq!(text, lowcase);
                assert_eq!((*element).hash, ngx_hash_key((*element).lowcase_key, lowcase.len()));
                let Some((offset, multi)) = headers_in::slot(r, element) else { continue };
                if multi != 0 {
                    continue;
                }
                let of_name: Vec<_> = elements
                    .iter()
                    .copied()
                    .filter(|&other| field(other).0.eq_ignore_ascii_case(name))
                    .collect();
                let slot = headers.cast::<u8>().add(offset).cast::<*mut ngx_table_elt_t>().read();
                assert_eq!(linked(slot), of_name[..linked(slot).len().max(1)]);
                assert!(!HAS_NEXT || linked(slot).len() == of_name.len());
            }
            // Slots of what was removed are empty.
            for (name, slot) in [
                ("host", (*headers).host),
                ("user-agent", (*headers).user_agent),
                ("range", (*headers).range),
                ("content-type", (*headers).content_type),
                ("content-length", (*headers).content_length),
                ("transfer-encoding", (*headers).transfer_encoding),
                ("authorization", (*headers).authorization),
                ("if-none-match", (*headers).if_none_match),
            ] {
                let present = elements
                    .iter()
                    .any(|&element| field(element).0.eq_ignore_ascii_case(name.as_bytes()));
                assert_eq!(!slot.is_null(), present, "{name}");
            }
        }
    }

    fn check_response(&self) {
        let r = self.bench.request();
        // SAFETY: the request is live, its lists' elements are complete, and slots are its fields.
        unsafe {
            let out = &raw mut (*r.as_ptr()).headers_out;
            check_list(&raw const (*out).headers);
            check_list(&raw const (*out).trailers);
            let elements: Vec<_> = Elements::of(&raw const (*out).headers).collect();
            for name in SLOTS {
                let slot = headers_out::slot(r, name.as_bytes()).expect(name).read();
                let named = |&element: &*mut ngx_table_elt_t| {
                    field(element).0.eq_ignore_ascii_case(name.as_bytes())
                };
                // A Server that was removed: an element in no list, or nginx would write its own.
                if name == "server" && !slot.is_null() && (*slot).hash == 0 {
                    let live = elements.iter().filter(|&&element| (*element).hash != 0);
                    assert!(!live.copied().any(|element| named(&element)), "a Server is left");
                    assert!(!elements.contains(&slot), "the list has an element without a name");
                } else if !slot.is_null() {
                    assert!(elements.contains(&slot), "{name} is in the list");
                    assert_ne!((*slot).hash, 0, "{name} was removed");
                    assert!(field(slot).0.eq_ignore_ascii_case(name.as_bytes()));
                }
            }
            let content_type = bytes((*out).content_type);
            assert!((*out).content_type_len <= content_type.len());
        }
    }
}

const SLOTS: [&str; 11] = [
    "accept-ranges",
    "content-encoding",
    "content-range",
    "date",
    "etag",
    "expires",
    "last-modified",
    "location",
    "refresh",
    "server",
    "www-authenticate",
];

/// Since nginx 1.23.0 elements of one name are linked, by a last field.
const NEXT: usize = offset_of!(ngx_table_elt_t, lowcase_key) + size_of::<*mut u8>();
const HAS_NEXT: bool = size_of::<ngx_table_elt_t>() > NEXT;

/// # Safety
/// `element` must be null or one of a live list.
unsafe fn linked(mut element: *mut ngx_table_elt_t) -> Vec<*mut ngx_table_elt_t> {
    let mut all = Vec::new();
    while !element.is_null() {
        assert!(all.len() < 10_000, "a circle");
        all.push(element);
        if !HAS_NEXT {
            break;
        }
        // SAFETY: as the caller holds; where there is such a field, it is a pointer.
        element = unsafe { element.cast::<u8>().add(NEXT).cast::<*mut ngx_table_elt_t>().read() };
    }
    all
}

/// What nginx expects of a list: `last` is the last part, parts in front of it are not empty.
///
/// # Safety
/// `list` must be one of a live request.
unsafe fn check_list(list: *const ngx_list_t) {
    // SAFETY: parts of a live list are linked until null; strings of an element are in the pool,
    // copied with a NUL behind them.
    unsafe {
        let mut part = &raw const (*list).part;
        while !(*part).next.is_null() {
            part = (*part).next;
            assert_ne!((*part).nelts, 0, "an empty part behind another");
        }
        assert_eq!(part, (*list).last.cast_const());
        for element in Elements::of(list) {
            let text =
                |text: ngx_str_t| text.data.add(text.len).read() == 0 && !bytes(text).contains(&0);
            assert!((*element).hash == 0 || text((*element).key) && text((*element).value));
        }
    }
}

// Bodies.
impl Live {
    /// A body as nginx received it.
    pub fn received<'a>(&'a self, pieces: &[(Vec<u8>, Place)]) -> Received<'a> {
        Received { reader: Reader::of(self.bench.chain(pieces)), live: PhantomData }
    }

    /// A body with nothing in it yet.
    pub fn held(&self) -> Held<'_> {
        Held(Body::default(), PhantomData)
    }

    /// [`body::replace`]: `new` becomes the request body.
    pub fn replace_request_body(&self, new: Held<'_>) {
        let keep = body::replace(self.bench.request(), new.0).expect("a body is kept");
        self.keep.borrow_mut().extend(keep);
    }

    /// The request body as upstream modules find it, and its length as they are told.
    pub fn request_body(&self) -> (Vec<u8>, i64) {
        let mut reader = body::reader(self.bench.request());
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let chunk = reader.read(&mut buffer).expect("readable");
            all.extend_from_slice(&buffer[..chunk.len]);
            if chunk.eof {
                break;
            }
        }
        // SAFETY: the request is live.
        (all, unsafe { (*self.bench.request().as_ptr()).headers_in.content_length_n })
    }

    /// [`chain::take`]: a filter's input is added to `to`, and its buffers are given back; those for
    /// which there is no room by [`chain::drop_all`].
    pub fn take<'a>(
        &'a self,
        pieces: &[(Vec<u8>, Place)],
        to: &mut Held<'a>,
        memory: usize,
        max: u64,
    ) -> Result<(), TooLarge> {
        let chain = self.bench.chain(pieces);
        let result =
            chain::take(self.bench.request(), chain, &mut to.0, Room { memory, max, file: None });
        let result = result.map(drop).map_err(|(error, rest)| {
            chain::drop_all(rest);
            too_large(error)
        });
        assert_eq!(self.bench.bytes(chain), b"", "whoever sent it has its buffers back");
        result
    }

    /// `write_body`.
    pub fn write<'a>(
        &'a self,
        bytes: &[u8],
        to: &mut Held<'a>,
        memory: usize,
        max: u64,
    ) -> Result<(), TooLarge> {
        to.0.write(self.bench.request(), bytes, Room { memory, max, file: None }).map_err(too_large)
    }

    /// What the filters after ours get of `body`. Panics when the chain is not one that nginx's
    /// writer takes.
    pub fn sent_body(&self, body: Held<'_>, last: bool) -> Vec<u8> {
        let r = self.bench.request();
        let (out, keep) = body.0.into_chain(r, last).expect(NO_MEMORY);
        self.keep.borrow_mut().extend(keep);
        let mut link = out.first();
        let mut marked = false;
        // SAFETY: a chain that was just made ends with null, and its links have buffers.
        while let Some((buf, next)) = unsafe { link.as_ref().map(|link| (link.buf, link.next)) } {
            // SAFETY: as above.
            unsafe {
                let in_memory = ffi::ngx_http_wasm_b_in_memory(buf) != 0;
                let in_file = ffi::ngx_http_wasm_b_in_file(buf) != 0;
                assert!(!(in_memory && (*buf).pos == (*buf).last), "an empty buffer");
                assert!(!(in_file && (*buf).file_pos == (*buf).file_last), "an empty buffer");
                marked = ffi::ngx_http_wasm_b_last_buf(buf) != 0;
                assert_eq!(marked, last && next.is_null(), "the mark of the last one");
                assert!(in_memory || in_file || marked, "a buffer for nothing");
            }
            link = next;
        }
        assert_eq!(marked, last);
        self.bench.bytes(out.first())
    }
}

fn too_large(error: SpoolError) -> TooLarge {
    match error {
        SpoolError::TooLarge(limit) => TooLarge(limit),
        SpoolError::File(error) => panic!("{error}"),
    }
}

/// A body would exceed so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge(pub u64);

/// A received body that is being read.
pub struct Received<'a> {
    reader: Reader,
    live: PhantomData<&'a Live>,
}

impl Received<'_> {
    /// Fills `to`.
    pub fn read(&mut self, to: &mut [u8]) -> io::Result<Chunk> {
        self.reader.read(to)
    }

    /// Back to the first byte.
    pub fn rewind(&mut self) {
        self.reader.rewind();
    }
}

/// A body held back or written by a guest. Its temporary file belongs to the request.
pub struct Held<'a>(Body, PhantomData<&'a Live>);

impl Held<'_> {
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.0.len()
    }

    /// Copies bytes from position `at` on.
    pub fn read(&self, at: u64, to: &mut [u8]) -> io::Result<Chunk> {
        self.0.read(at, to)
    }

    /// Adds another behind this one.
    pub fn append(&mut self, other: Self) {
        self.0.append(other.0);
    }
}
