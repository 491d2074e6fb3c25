//! Request headers: the list that upstream modules copy, the slots of well-known headers that
//! point into it, and what nginx has boiled down from them (`$host`, gzip's verdict, credentials).
//!
//! Upstream modules do not look at `hash`, so a header is removed by building the list anew.

use std::ffi::CStr;
use std::slice;

use nginx_sys::{
    ngx_hash_find, ngx_http_core_main_conf_t, ngx_http_header_t, ngx_http_variable_t, ngx_str_t,
    ngx_table_elt_t, ngx_uint_t,
};
use smallvec::SmallVec;

use crate::host::policy::frames_request;
use crate::http::host_name;
use crate::nginx::ngx::ffi::{self, NoMemory, OK, bytes};
use crate::nginx::ngx::field::FieldLine;
use crate::nginx::ngx::list::{self, Elements};
use crate::nginx::ngx::request::{Request, empty};

/// Variables whose value nginx keeps after the first look and that mirror the request line, the
/// headers or the body.
const CACHED: [&[u8]; 6] = [
    b"content_length",
    b"content_type",
    b"host",
    b"request_body",
    b"request_body_file",
    b"request_uri",
];
const CACHED_PREFIXES: [&[u8]; 2] = [b"http_", b"cookie_"];

/// Key and value of an element.
///
/// # Safety
/// `element` must be a list element whose strings live for `'a`.
pub(crate) unsafe fn field<'a>(element: *mut ngx_table_elt_t) -> (&'a [u8], &'a [u8]) {
    // SAFETY: as the caller holds.
    unsafe { (bytes((*element).key), bytes((*element).value)) }
}

/// All header lines of the request, in order.
pub(crate) fn fields<'a>(r: Request) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    // SAFETY: the list is the live request's and changes only through `set`, `add` and `remove`,
    // which borrow nothing of it; its strings live in the request's pool.
    let lines = unsafe { Elements::of(&raw const (*r.as_ptr()).headers_in.headers) }
        .map(|element| unsafe { field(element) });
    lines.chain(host_without_line(r))
}

/// The values of all header lines called `name`: what guests ask for most. Of lines whose names have
/// another length nothing else is looked at; most guests write them as the client or in lower case.
pub(crate) fn values<'a>(r: Request, name: &[u8], mut found: impl FnMut(&'a [u8])) {
    // SAFETY: as in `fields`; a key in lower case is as long as the key.
    unsafe {
        Elements::of(&raw const (*r.as_ptr()).headers_in.headers).for_each(|element| {
            if (*element).key.len != name.len() {
                return;
            }
            let (key, value) = field(element);
            let lower = ngx_str_t { len: key.len(), data: (*element).lowcase_key };
            if bytes(lower) == name || key.eq_ignore_ascii_case(name) {
                found(value);
            }
        });
    }
    if let Some((host, value)) = host_without_line(r)
        && host.eq_ignore_ascii_case(name)
    {
        found(value);
    }
}

/// HTTP/3 keeps no line for `:authority`; guests expect a host.
fn host_without_line<'a>(r: Request) -> Option<(&'a [u8], &'a [u8])> {
    // SAFETY: the request is live and its strings live in its pool.
    unsafe {
        let headers = &raw const (*r.as_ptr()).headers_in;
        let server = (*headers).server;
        ((*headers).host.is_null() && server.len != 0).then(|| (b"host".as_slice(), bytes(server)))
    }
}

/// Whether the client asked for a part of the response.
pub(crate) fn has_range(r: Request) -> bool {
    // SAFETY: the request is live.
    unsafe { !(*r.as_ptr()).headers_in.range.is_null() }
}

/// Whether the request has a condition under which it is refused (`If-Match`, `If-Unmodified-Since`).
pub(crate) fn has_precondition(r: Request) -> bool {
    // SAFETY: the request is live.
    unsafe {
        let headers = &raw const (*r.as_ptr()).headers_in;
        !(*headers).if_match.is_null() || !(*headers).if_unmodified_since.is_null()
    }
}

/// Removes all lines called `name` for a while, until [`put_back`].
pub(crate) fn take(r: Request, name: &[u8]) -> Result<Vec<ngx_table_elt_t>, NoMemory> {
    // SAFETY: elements of the live request's list, copied bit by bit; their strings stay in its pool.
    let lines: Vec<_> = matching(r, name).map(|element| unsafe { *element }).collect();
    if !lines.is_empty() {
        rebuild_without(r, name)?;
    }
    Ok(lines)
}

/// Appends lines that were taken away.
pub(crate) fn put_back(r: Request, lines: &[ngx_table_elt_t]) -> Result<(), NoMemory> {
    for line in lines {
        // SAFETY: the list is the live request's; the element is a copy of one that was complete.
        unsafe {
            let element = list::push(r, &raw mut (*r.as_ptr()).headers_in.headers)?;
            *element = *line;
            ffi::ngx_http_wasm_init_header(element);
            link(r, element)?;
        }
    }
    forget_derived(r);
    Ok(())
}

/// Names and values of lines that were taken away.
pub(crate) fn texts(lines: &[ngx_table_elt_t]) -> Vec<(&'static [u8], &'static [u8])> {
    // SAFETY: copies of complete elements; their strings are in the pool of the request that is live.
    lines.iter().map(|line| unsafe { field(std::ptr::from_ref(line).cast_mut()) }).collect()
}

/// Has filters that compress go by this line, which is in no list, or by none.
pub(crate) fn set_accept_encoding(
    r: Request,
    line: Option<&ngx_table_elt_t>,
) -> Result<(), NoMemory> {
    let element = match line {
        None => std::ptr::null_mut(),
        Some(line) => {
            let element = r.zeroed::<ngx_table_elt_t>()?;
            // SAFETY: the element is ours, in the live request's pool, and a copy of one that was
            // complete.
            unsafe {
                *element = *line;
                ffi::ngx_http_wasm_init_header(element);
            }
            element
        }
    };
    // SAFETY: the request is live, and the element in its pool or null.
    unsafe { ffi::ngx_http_wasm_set_accept_encoding(r.as_ptr(), element) }
    forget_derived(r);
    Ok(())
}

/// Makes `line` the only one of its name.
pub(crate) fn set(r: Request, line: FieldLine) -> Result<(), NoMemory> {
    let name = line.name();
    if frames_request(name) {
        return Ok(());
    }
    let mut found: SmallVec<[_; 4]> = SmallVec::new();
    matching(r, name).for_each(|element| found.push(element));
    match found[..] {
        // The usual case: change the value where it stands; every slot goes on pointing at it.
        [element] => {
            // SAFETY: the element is in the live request's list and has that name.
            unsafe { line.take_place_of(element) }
        }
        [] => push(r, line)?,
        _ => {
            rebuild_without(r, name)?;
            push(r, line)?;
        }
    }
    refresh(r, name, line.value())
}

/// Appends a line. A second Host or Authorization would be ambiguous: there, add means set.
pub(crate) fn add(r: Request, line: FieldLine) -> Result<(), NoMemory> {
    let name = line.name();
    if frames_request(name) {
        return Ok(());
    }
    if name.eq_ignore_ascii_case(b"host") || name.eq_ignore_ascii_case(b"authorization") {
        return set(r, line);
    }
    push(r, line)?;
    refresh(r, name, line.value())
}

/// Removes all lines called `name`. Host stays: no request goes anywhere without it.
pub(crate) fn remove(r: Request, name: &[u8]) -> Result<(), NoMemory> {
    if frames_request(name)
        || name.eq_ignore_ascii_case(b"host")
        || matching(r, name).next().is_none()
    {
        return Ok(());
    }
    rebuild_without(r, name)?;
    refresh(r, name, b"")
}

fn matching(r: Request, name: &[u8]) -> impl Iterator<Item = *mut ngx_table_elt_t> {
    // SAFETY: as in `fields`; the list is not changed while the iterator is in use.
    unsafe { Elements::of(&raw const (*r.as_ptr()).headers_in.headers) }.filter(
        move |&element| unsafe {
            (*element).key.len == name.len() && field(element).0.eq_ignore_ascii_case(name)
        },
    )
}

/// Appends an element, complete with hash and lower-case key, and links its slot.
pub(crate) fn push(r: Request, line: FieldLine) -> Result<(), NoMemory> {
    let (lower, hash) = line.lower(r)?;
    // SAFETY: the list is the live request's; the element is fully initialised before it is linked.
    unsafe {
        let element = list::push(r, &raw mut (*r.as_ptr()).headers_in.headers)?;
        line.write_to(element);
        (*element).lowcase_key = lower;
        (*element).hash = hash;
        link(r, element)
    }
}

/// Builds the list anew without `name`.
fn rebuild_without(r: Request, name: &[u8]) -> Result<(), NoMemory> {
    // SAFETY: the list is the live request's; elements are copied bit by bit.
    let lines: Vec<ngx_table_elt_t> = unsafe {
        Elements::of(&raw const (*r.as_ptr()).headers_in.headers)
            .filter(|&element| !field(element).0.eq_ignore_ascii_case(name))
            .map(|element| *element)
            .collect()
    };
    replace_all(r, &lines)
}

/// Makes these elements the list, and points every slot at them. Their strings must be in the
/// request's pool.
pub(crate) fn replace_all(r: Request, lines: &[ngx_table_elt_t]) -> Result<(), NoMemory> {
    let r_ = r.as_ptr();
    // SAFETY: the request is live; every element of its list has a hash and a lower-case key.
    unsafe {
        for element in Elements::of(&raw const (*r_).headers_in.headers) {
            if let Some((offset, multi)) = slot(r, element) {
                ffi::ngx_http_wasm_unlink_request_header(r_, offset, multi);
            }
        }
        list::replace(r, &raw mut (*r_).headers_in.headers, lines)?;
        for element in Elements::of(&raw const (*r_).headers_in.headers) {
            ffi::ngx_http_wasm_init_header(element);
            link(r, element)?;
        }
    }
    forget_derived(r);
    Ok(())
}

/// Has nginx derive anew what it boils down from headers on demand.
fn forget_derived(r: Request) {
    let r_ = r.as_ptr();
    // SAFETY: the request is live.
    unsafe {
        // ngx_http_auth_basic_user() parses anew when there is no user yet.
        (*r_).headers_in.user = empty();
        (*r_).headers_in.passwd = empty();
        ffi::ngx_http_wasm_forget_gzip_test(r_);
    }
}

/// The slot of a well-known header: its offset in `headers_in`, and whether it is list-like.
///
/// # Safety
/// `element` must be an element with hash and lower-case key.
pub(crate) unsafe fn slot(
    r: Request,
    element: *mut ngx_table_elt_t,
) -> Option<(ngx_uint_t, ngx_uint_t)> {
    // SAFETY: the hash is built by the core before the first request; the element is complete.
    unsafe {
        let cmcf = core_main_conf(r);
        let known = ngx_hash_find(
            &raw mut (*cmcf).headers_in_hash,
            (*element).hash,
            (*element).lowcase_key,
            (*element).key.len,
        )
        .cast::<ngx_http_header_t>();
        // Proxy-Connection is known but has no slot.
        let offset = known.as_ref()?.offset;
        (offset != 0).then(|| (offset, ffi::ngx_http_wasm_request_header_is_multi(offset)))
    }
}

/// # Safety
/// As [`slot`]; the element must be in the request's list.
unsafe fn link(r: Request, element: *mut ngx_table_elt_t) -> Result<(), NoMemory> {
    // SAFETY: the offset comes from nginx's own table of slots in headers_in.
    unsafe {
        match slot(r, element) {
            None => Ok(()),
            Some((offset, multi)) => {
                match ffi::ngx_http_wasm_link_request_header(r.as_ptr(), offset, multi, element) {
                    OK => Ok(()),
                    _ => Err(NoMemory),
                }
            }
        }
    }
}

/// Brings what nginx derived from a header when it parsed the request in step with the new value.
fn refresh(r: Request, name: &[u8], value: &[u8]) -> Result<(), NoMemory> {
    forget_derived(r);
    let r_ = r.as_ptr();
    // SAFETY: the request is live.
    unsafe {
        if name.eq_ignore_ascii_case(b"host") {
            // The host side has refused others.
            if let Ok(name) = host_name(value) {
                (*r_).headers_in.server = r.copy(&name.to_ascii_lowercase())?;
            }
        } else if name.eq_ignore_ascii_case(b"user-agent") {
            ffi::ngx_http_wasm_forget_user_agent(r_);
        }
    }
    Ok(())
}

/// Records a new length of the request body in all places that nginx and FastCGI read it from.
pub(crate) fn set_content_length(r: Request, len: u64) -> Result<(), NoMemory> {
    let r_ = r.as_ptr();
    let text = r.copy(len.to_string().as_bytes())?;
    // SAFETY: the request is live; `content_length` points into its header list when not null.
    unsafe {
        let headers = &raw mut (*r_).headers_in;
        (*headers).content_length_n = i64::try_from(len).unwrap_or(i64::MAX);
        ffi::ngx_http_wasm_set_in_chunked(headers, 0);
        if let Some(element) = (*headers).content_length.as_mut() {
            element.value = text;
        } else {
            push(r, FieldLine::copy(r, b"Content-Length", bytes(text))?)?;
        }
        if !(*headers).transfer_encoding.is_null() {
            rebuild_without(r, b"transfer-encoding")?;
        }
    }
    Ok(())
}

/// Forgets the variables that nginx evaluated before the guest changed what they mirror (a `set` or
/// `if` in the rewrite phase does that); `proxy_set_header` would send the old value.
/// `mirrors` is what [`mirrors`] gives for the request's configuration.
pub(crate) fn forget_variables(r: Request, mirrors: &[ngx_uint_t]) {
    for &index in mirrors {
        // SAFETY: r->variables has a slot for each indexed variable of its configuration.
        unsafe { ffi::ngx_http_wasm_forget_variable(r.as_ptr(), index) }
    }
}

/// Indices of the variables that mirror the request: those of its configuration, which are all
/// known before there are requests.
pub(crate) fn mirrors(r: Request) -> Vec<ngx_uint_t> {
    // SAFETY: cmcf->variables describes the indexed variables of this configuration.
    let variables = unsafe {
        let cmcf = core_main_conf(r);
        slice::from_raw_parts(
            (*cmcf).variables.elts.cast::<ngx_http_variable_t>(),
            (*cmcf).variables.nelts,
        )
    };
    let indices = variables.iter().enumerate();
    // SAFETY: a variable's name lives as long as the configuration.
    indices
        .filter(|(_, variable)| mirrors_request(unsafe { bytes(variable.name) }))
        .map(|(index, _)| index)
        .collect()
}

fn mirrors_request(variable: &[u8]) -> bool {
    CACHED.contains(&variable) || CACHED_PREFIXES.iter().any(|prefix| variable.starts_with(prefix))
}

/// # Safety
/// `r` must be live.
unsafe fn core_main_conf(r: Request) -> *mut ngx_http_core_main_conf_t {
    // SAFETY: main_conf has a slot for the core module in every request.
    unsafe {
        let index = nginx_sys::ngx_http_core_module.ctx_index;
        (*(*r.as_ptr()).main_conf.add(index)).cast()
    }
}

/// An nginx string for a constant; nginx never writes to it.
pub(crate) const fn constant(text: &'static CStr) -> ngx_str_t {
    ngx_str_t { len: text.count_bytes(), data: text.as_ptr().cast_mut().cast() }
}
