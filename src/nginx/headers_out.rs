//! Response headers: the list, the slots that the filters after us read, and the three headers that
//! nginx keeps outside the list (content type, content length, last modified) shown to guests as
//! the lines they will become.

use std::cell::OnceCell;

use nginx_sys::{
    ngx_http_headers_out_t, ngx_int_t, ngx_list_part_t, ngx_list_push, ngx_list_t, ngx_str_t,
    ngx_table_elt_t, time_t,
};

use super::ffi::{NoMemory, bytes};
use super::headers_in::{Elements, field};
use super::line::FieldLine;
use super::request::{Request, empty};
use crate::host::policy::{belongs_before_body, frames_response, is_single, is_validator};

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
    remove(r, outside, name);
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
pub(crate) fn remove(r: Request, outside: &mut Outside, name: &[u8]) {
    if frames_response(name) || is(name, "content-length") {
        return;
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
        // SAFETY: the slot is a field of the live request.
        unsafe { *slot = std::ptr::null_mut() }
    }
}

/// Merges what guests set before the next handler ran into that handler's response. The guests'
/// lines come first, as a part of their own before nginx's list: its elements must not move, slots
/// point at them. For headers of which there is one, the handler wins.
pub(crate) fn merge(r: Request, early: &[FieldLine]) -> Result<(), NoMemory> {
    if early.is_empty() {
        return Ok(());
    }
    let present = Outside::default();
    let lines: Vec<_> = early
        .iter()
        .filter(|line| {
            let name = line.name();
            let single = is_single(name);
            let taken = || fields(r, &present).any(|(other, _)| name.eq_ignore_ascii_case(other));
            let ours = frames_response(name) || is(name, "content-length");
            !(ours || single && taken())
        })
        .collect();
    let out = out(r);
    // SAFETY: the request is live.
    if unsafe { (*out).headers.part.nelts } == 0 {
        // Nothing to go before. nginx looks at the first element of every further part without
        // asking whether there is one: an empty part must not get behind another.
        for &line in lines {
            set_or_push(r, line)?;
        }
        return Ok(());
    }
    // SAFETY: the request is live. The list's first part is embedded in it; its copy takes its place
    // behind the new one, which is full and never the last, so nothing is ever pushed to it.
    unsafe {
        let elements = nginx_sys::ngx_pcalloc(r.pool(), lines.len() * size_of::<ngx_table_elt_t>())
            .cast::<ngx_table_elt_t>();
        let rest = r.zeroed::<ngx_list_part_t>()?;
        if elements.is_null() {
            return Err(NoMemory);
        }
        let mut count = 0;
        for &line in lines {
            if is(line.name(), "content-type") {
                set_content_type(r, line.nginx_value());
            } else {
                fill(r, elements.add(count), line);
                count += 1;
            }
        }
        if count == 0 {
            return Ok(());
        }
        let list = &raw mut (*out).headers;
        *rest = (*list).part;
        if (*list).last == &raw mut (*list).part {
            (*list).last = rest;
        }
        (*list).part.elts = elements.cast();
        (*list).part.nelts = count;
        (*list).part.next = rest;
    }
    Ok(())
}

fn set_content_type(r: Request, value: ngx_str_t) {
    let out = out(r);
    // SAFETY: the request is live and the value in its pool.
    unsafe {
        let text = bytes(value);
        (*out).content_type = value;
        // Length without parameters: what gzip and sub_filter compare with their lists of types.
        (*out).content_type_len = text
            .iter()
            .position(|&b| b == b';')
            .map_or(text.len(), |at| text[..at].trim_ascii_end().len());
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

pub(super) fn push(r: Request, line: FieldLine) -> Result<(), NoMemory> {
    // SAFETY: the list is the live request's.
    let element = unsafe { ngx_list_push(&raw mut (*out(r)).headers) }.cast::<ngx_table_elt_t>();
    if element.is_null() {
        return Err(NoMemory);
    }
    // SAFETY: the new element of the list.
    unsafe { fill(r, element, line) }
    Ok(())
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
        // Anything but 0, which means removed.
        (*element).hash = 1;
        // nginx would make an absolute URI of a Location in its slot; the guest's goes as it is.
        if !is(name, "location")
            && let Some(slot) = slot(r, name)
        {
            *slot = element;
        }
    }
}

/// The slots that filters after us and log variables read.
pub(super) fn slot(r: Request, name: &[u8]) -> Option<*mut *mut ngx_table_elt_t> {
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

/// Starts the response anew as a page for an error: status and headers; its text is returned.
pub(crate) fn start_page(r: Request, status: ngx_int_t) -> Result<String, NoMemory> {
    let (status, reason) = match status {
        super::ffi::BAD_GATEWAY => (502, "Bad Gateway"),
        super::ffi::SERVICE_UNAVAILABLE => (503, "Service Temporarily Unavailable"),
        _ => (500, "Internal Server Error"),
    };
    // SAFETY: the request is live and its header is not sent.
    unsafe { nginx_sys::ngx_http_clean_header(r.as_ptr()) };
    r.set_status(status);
    set_content_type(r, r.copy(b"text/html")?);
    // As ngx_http_special_response.c has it, without the version.
    Ok(format!(
        "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n\
         <center><h1>{status} {reason}</h1></center>\r\n<hr><center>nginx</center>\r\n\
         </body>\r\n</html>\r\n"
    ))
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

/// Trailers. They go out on HTTP/1.1 in chunks and on HTTP/2 and 3; elsewhere nginx drops them.
pub(crate) mod trailers {
    use super::*;

    fn list(r: Request) -> *mut ngx_list_t {
        // SAFETY: only an address is taken of the live request.
        unsafe { &raw mut (*out(r)).trailers }
    }

    /// All trailer lines that the response has now.
    pub(crate) fn fields<'a>(r: Request) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        // SAFETY: an element of the live request's list; its strings live in the pool.
        live_in(list(r)).map(|element| unsafe { field(element) })
    }

    /// Makes `line` the only one of its name.
    pub(crate) fn set(r: Request, line: FieldLine) -> Result<(), NoMemory> {
        remove(r, line.name());
        add(r, line)
    }

    /// Appends a line.
    pub(crate) fn add(r: Request, line: FieldLine) -> Result<(), NoMemory> {
        let name = line.name();
        if frames_response(name) || belongs_before_body(name) {
            return Ok(());
        }
        // SAFETY: the list is the live request's; nginx initialises it with the request.
        let element = unsafe { ngx_list_push(list(r)) }.cast::<ngx_table_elt_t>();
        if element.is_null() {
            return Err(NoMemory);
        }
        // SAFETY: the new element of the list.
        unsafe {
            line.write_to(element);
            (*element).hash = 1;
        }
        Ok(())
    }

    /// Removes all lines called `name`.
    pub(crate) fn remove(r: Request, name: &[u8]) {
        for element in live_in(list(r)) {
            // SAFETY: an element of the live request's list.
            unsafe {
                if field(element).0.eq_ignore_ascii_case(name) {
                    (*element).hash = 0;
                }
            }
        }
    }

    /// Tells nginx before the header goes out that trailers follow, if any do: the length must not
    /// be announced then.
    pub(crate) fn announce(r: Request) {
        if fields(r).next().is_some() {
            // SAFETY: the request is live.
            unsafe { crate::nginx::ffi::ngx_http_wasm_set_r_expect_trailers(r.as_ptr(), 1) }
        }
    }
}
