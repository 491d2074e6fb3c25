//! Response headers: the list, the slots that the filters after us read, and the three headers that
//! nginx keeps outside the list (content type, content length, last modified) shown to guests as
//! the lines they will become.

pub(crate) mod trailers;

use std::cell::OnceCell;
use std::ffi::CStr;
use std::mem::offset_of;

use nginx_sys::{
    ngx_http_headers_out_t, ngx_int_t, ngx_list_t, ngx_str_t, ngx_table_elt_t, ngx_uint_t, time_t,
};
use smallvec::SmallVec;

use crate::host::policy::{frames_response, is_single, is_validator};
use crate::nginx::ngx::ffi::{self, NoMemory, bytes};
use crate::nginx::ngx::field::FieldLine;
use crate::nginx::ngx::headers_in::{constant, field};
use crate::nginx::ngx::list::{self, Elements};
use crate::nginx::ngx::request::{Request, empty};

/// The hash of elements that guests add: nginx itself writes 1, and looks only whether it is 0, which
/// means removed.
pub(crate) const BY_GUEST: ngx_uint_t = 2;

fn is(name: &[u8], other: &str) -> bool {
    name.eq_ignore_ascii_case(other.as_bytes())
}

/// The headers outside the list, as the lines they will become. They are made when somebody looks:
/// most guests do not.
#[derive(Default)]
pub(crate) struct Outside(OnceCell<[Option<Vec<u8>>; 3]>);

impl Outside {
    const NAMES: [&[u8]; 3] = [b"content-type", b"content-length", b"last-modified"];

    fn fields(&self, r: Request) -> impl Iterator<Item = (&[u8], &[u8])> {
        let values = self.0.get_or_init(|| outside(r));
        Outside::NAMES
            .into_iter()
            .zip(values)
            .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    /// One of them has changed, after `r` has been changed.
    fn change(&mut self, r: Request, name: &[u8], value: Option<&[u8]>) {
        // nginx does not tell a type without text from none, a guest does.
        if value == Some(b"") {
            self.0.get_or_init(|| outside(r));
        }
        let at = Outside::NAMES.iter().position(|other| *other == name);
        if let (Some(values), Some(at)) = (self.0.get_mut(), at) {
            values[at] = value.map(<[u8]>::to_vec);
        }
    }
}

/// The values of [`Outside::NAMES`].
fn outside(r: Request) -> [Option<Vec<u8>>; 3] {
    let out = out(r);
    // SAFETY: the request is live; the strings live in its pool or in the configuration.
    unsafe {
        let content_type = bytes((*out).content_type);
        let charset = bytes((*out).charset);
        let content_type = (!content_type.is_empty()).then(|| {
            let mut line = content_type.to_vec();
            // As in ngx_http_header_filter(): only a type without parameters gets one.
            if (*out).content_type_len == content_type.len() && !charset.is_empty() {
                line.extend_from_slice(b"; charset=");
                line.extend_from_slice(charset);
            }
            line
        });
        let content_length = ((*out).content_length.is_null() && (*out).content_length_n >= 0)
            .then(|| (*out).content_length_n.to_string().into_bytes());
        let last_modified = ((*out).last_modified.is_null() && (*out).last_modified_time != -1)
            .then(|| http_time((*out).last_modified_time));
        [content_type, content_length, last_modified]
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_time(time: time_t) -> Vec<u8> {
    let mut text = [0u8; 29];
    // SAFETY: ngx_http_time() writes exactly 29 bytes.
    unsafe { nginx_sys::ngx_http_time(text.as_mut_ptr(), time) };
    text.to_vec()
}

fn out(r: Request) -> *mut ngx_http_headers_out_t {
    // SAFETY: only an address is taken of the live request.
    unsafe { &raw mut (*r.as_ptr()).headers_out }
}

/// All header lines that the response has now.
pub(crate) fn fields(r: Request, outside: &Outside) -> impl Iterator<Item = (&[u8], &[u8])> {
    outside.fields(r).chain(live(r).map(|element| {
        // SAFETY: an element of the live request's list; its strings live in the pool.
        unsafe { field(element) }
    }))
}

/// The header elements that have not been removed.
fn live(r: Request) -> impl Iterator<Item = *mut ngx_table_elt_t> {
    // SAFETY: only an address is taken of the live request.
    live_in(unsafe { &raw const (*out(r)).headers })
}

/// The elements of a list of the live response that have not been removed (hash 0).
fn live_in(list: *const ngx_list_t) -> impl Iterator<Item = *mut ngx_table_elt_t> {
    // SAFETY: the list is not changed while the iterator is in use.
    unsafe { Elements::of(list) }
        // SAFETY: an element of that list.
        .filter(|&element| unsafe { (*element).hash } != 0)
}

fn matching(r: Request, name: &[u8]) -> impl Iterator<Item = *mut ngx_table_elt_t> {
    // SAFETY: an element of the live request's list.
    live(r).filter(move |&element| unsafe { field(element) }.0.eq_ignore_ascii_case(name))
}

/// Makes `line` the only one of its name.
pub(crate) fn set(r: Request, outside: &mut Outside, line: FieldLine) -> Result<(), NoMemory> {
    let name = line.name();
    if frames_response(name) || is(name, "content-length") {
        return Ok(());
    }
    remove(r, outside, name)?;
    set_or_push(r, line)?;
    if is(name, "content-type") {
        outside.change(r, b"content-type", Some(line.value()));
    }
    Ok(())
}

/// Appends a line; for headers of which there is one, the same as [`set`].
pub(crate) fn add(r: Request, outside: &mut Outside, line: FieldLine) -> Result<(), NoMemory> {
    if frames_response(line.name()) {
        return Ok(());
    }
    if is_single(line.name()) {
        return set(r, outside, line);
    }
    push(r, line)
}

/// Removes all lines called `name`. The length of the body stays nginx's business.
pub(crate) fn remove(r: Request, outside: &mut Outside, name: &[u8]) -> Result<(), NoMemory> {
    if frames_response(name) || is(name, "content-length") {
        return Ok(());
    }
    for element in matching(r, name) {
        // SAFETY: an element of the live request's list; hash 0 is how a response header is removed.
        unsafe { (*element).hash = 0 }
    }
    if is(name, "content-type") {
        set_content_type(r, empty());
        outside.change(r, b"content-type", None);
    } else if is(name, "last-modified") {
        // SAFETY: the request is live.
        unsafe { (*out(r)).last_modified_time = -1 }
        outside.change(r, b"last-modified", None);
    }
    if let Some(slot) = slot(r, name) {
        // nginx writes its own Server unless there is one, be it one that has been removed.
        let none = match is(name, "server") {
            true => r.zeroed()?,
            false => std::ptr::null_mut(),
        };
        // SAFETY: the slot is a field of the live request.
        unsafe { *slot = none }
    }
    link(r, name)
}

/// Merges what guests set before the next handler ran into that handler's response. The guests'
/// lines come first, as a part of their own before nginx's list: its elements must not move, slots
/// point at them. For headers of which there is one, the handler wins. Lines that are not guests' to set
/// are not among them.
pub(crate) fn merge<'l>(
    r: Request,
    early: impl Iterator<Item = (&'l [u8], &'l [u8])>,
) -> Result<(), NoMemory> {
    let present = Outside::default();
    let mut lines: SmallVec<[FieldLine; 4]> = SmallVec::new();
    for (name, value) in early {
        let taken = || fields(r, &present).any(|(other, _)| name.eq_ignore_ascii_case(other));
        if !(is_single(name) && taken()) {
            lines.push(FieldLine::copy(r, name, value)?);
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let out = out(r);
    // SAFETY: the request is live.
    if unsafe { (*out).headers.part.nelts } == 0 {
        // Nothing to go before. nginx looks at the first element of every further part without
        // asking whether there is one: an empty part must not get behind another.
        for line in lines {
            set_or_push(r, line)?;
        }
        return Ok(());
    }
    let is_type = |line: &FieldLine| is(line.name(), "content-type");
    if let Some(line) = lines.iter().rfind(|line| is_type(line)) {
        set_content_type(r, line.nginx_value());
        lines.retain(|line| !is_type(line));
    }
    // SAFETY: the list is the live request's and not empty; `fill` initialises what it is given.
    unsafe {
        list::put_before(r, &raw mut (*out).headers, lines.len(), |at, element| {
            fill(r, element, lines[at]);
        })?;
    }
    lines.iter().try_for_each(|line| link(r, line.name()))
}

fn without_parameters(content_type: &[u8]) -> &[u8] {
    let end = content_type.iter().position(|&b| b == b';').unwrap_or(content_type.len());
    content_type[..end].trim_ascii_end()
}

fn set_content_type(r: Request, value: ngx_str_t) {
    let out = out(r);
    // SAFETY: the request is live and the value in its pool.
    unsafe {
        let text = bytes(value);
        (*out).content_type = value;
        // Length without parameters: what gzip and sub_filter compare with their lists of types.
        (*out).content_type_len = without_parameters(text).len();
        (*out).content_type_lowcase = std::ptr::null_mut();
        // The guest's word is the whole word: no charset of nginx's is added to it.
        (*out).charset = empty();
    }
}

fn set_or_push(r: Request, line: FieldLine) -> Result<(), NoMemory> {
    if is(line.name(), "content-type") {
        set_content_type(r, line.nginx_value());
        return Ok(());
    }
    push(r, line)
}

pub(crate) fn push(r: Request, line: FieldLine) -> Result<(), NoMemory> {
    // SAFETY: the list is the live request's; the element is its new one.
    unsafe {
        let element = list::push(r, &raw mut (*out(r)).headers)?;
        fill(r, element, line);
    }
    link(r, line.name())
}

/// Fills in a new element and points its slot at it.
///
/// # Safety
/// `element` must be room for one in the request's pool that stays where it is.
unsafe fn fill(r: Request, element: *mut ngx_table_elt_t, line: FieldLine) {
    let name = line.name();
    // SAFETY: as the caller holds.
    unsafe {
        line.write_to(element);
        (*element).hash = BY_GUEST;
        // nginx would make an absolute URI of a Location in its slot; the guest's goes as it is.
        if !is(name, "location")
            && let Some(slot) = slot(r, name)
        {
            *slot = element;
        }
    }
}

/// The slots that filters after us and log variables read.
pub(crate) fn slot(r: Request, name: &[u8]) -> Option<*mut *mut ngx_table_elt_t> {
    let out = out(r);
    // SAFETY: only addresses are taken of the live request's fields.
    let slots = unsafe {
        [
            ("accept-ranges", &raw mut (*out).accept_ranges),
            ("content-encoding", &raw mut (*out).content_encoding),
            ("content-range", &raw mut (*out).content_range),
            ("date", &raw mut (*out).date),
            ("etag", &raw mut (*out).etag),
            ("expires", &raw mut (*out).expires),
            ("last-modified", &raw mut (*out).last_modified),
            ("location", &raw mut (*out).location),
            ("refresh", &raw mut (*out).refresh),
            ("server", &raw mut (*out).server),
            ("www-authenticate", &raw mut (*out).www_authenticate),
        ]
    };
    slots.into_iter().find_map(|(other, slot)| is(name, other).then_some(slot))
}

/// Headers of which there may be several lines, which have a slot for all of them.
const LISTS: [(&CStr, usize); 2] = [
    (c"cache-control", offset_of!(ngx_http_headers_out_t, cache_control)),
    (c"link", offset_of!(ngx_http_headers_out_t, link)),
];

/// Points the slot of the lines called `name` at those that there are, if they have one.
fn link(r: Request, name: &[u8]) -> Result<(), NoMemory> {
    for (other, offset) in LISTS {
        if name.eq_ignore_ascii_case(other.to_bytes()) {
            // SAFETY: the request is live; the offset is one of its `headers_out`.
            let rc = unsafe {
                ffi::ngx_http_wasm_link_response_headers(r.as_ptr(), offset, constant(other))
            };
            return if rc == ffi::OK { Ok(()) } else { Err(NoMemory) };
        }
    }
    Ok(())
}

/// Points these slots at the lines that there are.
pub(crate) fn link_all(r: Request) -> Result<(), NoMemory> {
    LISTS.iter().try_for_each(|(name, _)| link(r, name.to_bytes()))
}

/// Starts the response anew as a page for an error: status and headers; its text is returned.
pub(crate) fn start_page(r: Request, status: ngx_int_t) -> Result<String, NoMemory> {
    let (status, reason) = match status {
        crate::nginx::ngx::ffi::BAD_GATEWAY => (502, "Bad Gateway"),
        crate::nginx::ngx::ffi::SERVICE_UNAVAILABLE => (503, "Service Temporarily Unavailable"),
        _ => (500, "Internal Server Error"),
    };
    r.clean_header();
    r.set_status(status);
    if status == 500 {
        // As ngx_http_special_response_handler() does.
        r.forbid_keepalive();
    }
    set_content_type(r, r.copy(b"text/html")?);
    // As ngx_http_special_response.c has it, without the version.
    Ok(format!(
        "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n\
         <center><h1>{status} {reason}</h1></center>\r\n<hr><center>nginx</center>\r\n\
         </body>\r\n</html>\r\n"
    ))
}

/// The type of the body without its parameters; empty if there is none.
pub(crate) fn content_type<'a>(r: Request) -> &'a [u8] {
    // SAFETY: the request is live; the string lives in its pool or in the configuration.
    let text = unsafe { bytes((*out(r)).content_type) };
    without_parameters(text)
}

/// The length of the body; `None` when it is not known before the end.
pub(crate) fn content_length(r: Request) -> Option<u64> {
    // SAFETY: the request is live.
    u64::try_from(unsafe { (*out(r)).content_length_n }).ok()
}

/// Sets the length that the header will announce; `None` for chunked or close.
pub(crate) fn set_content_length(r: Request, len: Option<u64>) {
    let out = out(r);
    // SAFETY: the request is live; a content-length element, if there is one, is in its list.
    unsafe {
        (*out).content_length_n = len.and_then(|len| i64::try_from(len).ok()).unwrap_or(-1);
        if let Some(element) = (*out).content_length.as_mut() {
            element.hash = 0;
        }
        (*out).content_length = std::ptr::null_mut();
    }
}

/// Validators and digests of the original body, noted before guests may set their own.
#[derive(Default)]
pub(crate) struct Validators {
    elements: Vec<*mut ngx_table_elt_t>,
}

impl Validators {
    pub(crate) fn of(r: Request) -> Self {
        let elements = live(r)
            // SAFETY: an element of the live request's list.
            .filter(|&element| is_validator(unsafe { field(element) }.0))
            .collect();
        Validators { elements }
    }

    /// Takes them off: the body is not what they speak of any more. What a guest set stays.
    pub(crate) fn forget(&self, r: Request) {
        for &element in &self.elements {
            // SAFETY: an element of the live request's list, which never shrinks; the slot, if the
            // header has one, is a field of the live request.
            unsafe {
                (*element).hash = 0;
                if let Some(slot) = slot(r, field(element).0)
                    && *slot == element
                {
                    *slot = std::ptr::null_mut();
                }
            }
        }
        // SAFETY: the request is live.
        unsafe {
            if (*out(r)).last_modified.is_null() {
                (*out(r)).last_modified_time = -1;
            }
        }
        r.forbid_ranges();
    }
}

/// How the original body is encoded, noted before guests may say how theirs is: by whoever made it, or by
/// `add_header`, which sets no slot.
#[derive(Default)]
pub(crate) struct Encoding(SmallVec<[*mut ngx_table_elt_t; 1]>);

impl Encoding {
    pub(crate) fn of(r: Request) -> Self {
        Encoding(matching(r, b"content-encoding").collect())
    }

    /// What of it the response still says.
    fn left(&self) -> impl Iterator<Item = *mut ngx_table_elt_t> {
        // SAFETY: elements of the live request's list, which never shrinks.
        self.0.iter().copied().filter(|&element| unsafe { (*element).hash } != 0)
    }

    /// Whether the response still says so.
    pub(crate) fn is_left(&self) -> bool {
        self.left().next().is_some()
    }

    /// Takes it off: the body is another one.
    pub(crate) fn forget(&self, r: Request) {
        for element in self.left() {
            // SAFETY: an element of the live request's list, and the slot is a field of the request.
            unsafe {
                (*element).hash = 0;
                if (*out(r)).content_encoding == element {
                    (*out(r)).content_encoding = std::ptr::null_mut();
                }
            }
        }
    }
}

/// Whether a filter before ours decodes the body: it has taken the encoding off.
pub(crate) fn is_decoded(r: Request) -> bool {
    // SAFETY: the list is the live request's, and is not changed here.
    let mut elements = unsafe { Elements::of(&raw const (*out(r)).headers) };
    elements.any(|element| {
        // SAFETY: an element of that list.
        let (removed, (name, _)) = unsafe { ((*element).hash == 0, field(element)) };
        removed && is(name, "content-encoding")
    })
}

/// Whether the response has a line called `name` in its list.
pub(crate) fn has(r: Request, name: &[u8]) -> bool {
    matching(r, name).next().is_some()
}
