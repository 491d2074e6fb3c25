//! [`Request`]: a live `ngx_http_request_t` with safe methods for what the rest of the module reads
//! and changes of it. How it goes on from here is in `course`, header lists are in `headers_in` and
//! `headers_out`, bodies in `chain`.

use std::borrow::Cow;
use std::ffi::c_void;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ptr::{self, NonNull};

use nginx_sys::{
    ngx_connection_t, ngx_http_request_t, ngx_pool_cleanup_add, ngx_pool_t, ngx_str_t, ngx_uint_t,
};

use crate::nginx::ngx::ffi::{self, NoMemory, bytes};
use crate::nginx::ngx::log::Log;

/// A request that is alive. nginx is single-threaded and every callback gets its request from
/// nginx, so a value lives no longer than the callback or the request context that holds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request(NonNull<ngx_http_request_t>);

impl Request {
    /// # Safety
    /// `r` must be a request that nginx has not freed, and must not be used (through the value)
    /// after nginx frees it.
    pub(crate) unsafe fn new(r: *mut ngx_http_request_t) -> Option<Self> {
        NonNull::new(r).map(Request)
    }

    pub(crate) const fn as_ptr(self) -> *mut ngx_http_request_t {
        self.0.as_ptr()
    }

    /// Copies a plain field out; no reference to the request outlives the expression.
    fn get<T: Copy>(self, field: impl FnOnce(*mut ngx_http_request_t) -> *const T) -> T {
        // SAFETY: `field` yields the address of a field of a live request (contract of `new`).
        unsafe { *field(self.as_ptr()) }
    }

    pub(crate) fn is_main(self) -> bool {
        // SAFETY: only an address is taken of the live request.
        self.get(|r| unsafe { &raw const (*r).main }) == self.as_ptr()
    }

    pub(crate) fn connection(self) -> *mut ngx_connection_t {
        // SAFETY: only an address is taken of the live request.
        self.get(|r| unsafe { &raw const (*r).connection })
    }

    pub(crate) fn pool(self) -> *mut ngx_pool_t {
        // SAFETY: only an address is taken of the live request.
        self.get(|r| unsafe { &raw const (*r).pool })
    }

    pub(crate) fn log(self) -> Log {
        // SAFETY: a connection outlives its requests and always has a log.
        unsafe { Log::new((*self.connection()).log) }
    }

    /// Our slot in `r->ctx`.
    pub(crate) fn module_ctx(self, index: usize) -> *mut c_void {
        // SAFETY: `r->ctx` has one slot for every module; nginx gave us the index.
        unsafe { *(*self.as_ptr()).ctx.add(index) }
    }

    pub(crate) fn set_module_ctx(self, index: usize, ctx: *mut c_void) {
        // SAFETY: as in `module_ctx`.
        unsafe { *(*self.as_ptr()).ctx.add(index) = ctx }
    }

    /// The main configuration of the module at `index`.
    pub(crate) fn main_conf<'a, T>(self, index: usize) -> Option<&'a T> {
        // SAFETY: main_conf has one slot per module, filled by that module's create_main_conf with a
        // T that lives in the cycle's pool, which outlives the cycle's requests.
        unsafe { (*(*self.as_ptr()).main_conf.add(index)).cast::<T>().as_ref() }
    }

    /// The value of the variable at `index`, made if nobody has asked for it before.
    pub(crate) fn variable(self, index: ngx_uint_t) -> Option<&'static [u8]> {
        let mut value = empty();
        // SAFETY: the request is live; the index is one that its configuration has.
        let found =
            unsafe { ffi::ngx_http_wasm_variable(self.as_ptr(), index, &raw mut value) == ffi::OK };
        // SAFETY: the value is in the request's pool; callers use it while the request lives.
        found.then(|| unsafe { bytes(value) })
    }

    /// The location configuration of the module at `index`, for the location the request is in now.
    pub(crate) fn loc_conf<'a, T>(self, index: usize) -> Option<&'a T> {
        // SAFETY: loc_conf has one slot per module, filled by that module's create_loc_conf with a
        // T that lives in the cycle's pool, which outlives the cycle's requests.
        unsafe { (*(*self.as_ptr()).loc_conf.add(index)).cast::<T>().as_ref() }
    }

    pub(crate) fn method(self) -> &'static [u8] {
        // SAFETY: method_name lives in the request's pool or is a constant; callers use it while
        // the request lives.
        unsafe { bytes((*self.as_ptr()).method_name) }
    }

    /// nginx's number for the method.
    pub(crate) fn method_number(self) -> ngx_uint_t {
        // SAFETY: the request is live.
        unsafe { (*self.as_ptr()).method }
    }

    /// Sets the number alone: by it nginx decides whether the response has a body.
    pub(crate) fn set_method_number(self, number: ngx_uint_t) {
        // SAFETY: the request is live.
        unsafe { (*self.as_ptr()).method = number }
    }

    pub(crate) fn is_head(self) -> bool {
        self.method_number() == HEAD
    }

    /// Sets name and number of the method. The access log goes on showing the request line.
    pub(crate) fn set_method(self, method: &[u8]) -> Result<(), NoMemory> {
        let name = self.copy(method)?;
        // SAFETY: the request is live; `name` is in its pool.
        unsafe {
            (*self.as_ptr()).method_name = name;
            (*self.as_ptr()).method = method_number(method);
        }
        Ok(())
    }

    /// The protocol as the ABI names it. Taken from the version number: HTTP/0.9 has no string.
    pub(crate) fn protocol(self) -> &'static [u8] {
        // SAFETY: the request is live.
        match unsafe { (*self.as_ptr()).http_version } as u32 {
            nginx_sys::NGX_HTTP_VERSION_9 => b"HTTP/0.9",
            nginx_sys::NGX_HTTP_VERSION_10 => b"HTTP/1.0",
            nginx_sys::NGX_HTTP_VERSION_11 => b"HTTP/1.1",
            nginx_sys::NGX_HTTP_VERSION_20 => b"HTTP/2.0",
            _ => b"HTTP/3.0",
        }
    }

    /// The peer as `ip:port`: the socket's, or what realip put in its place.
    pub(crate) fn source_addr(self) -> Cow<'static, [u8]> {
        // SAFETY: c->sockaddr is set for every accepted connection and is as long as its family
        // says; the length is checked before a family's structure is read.
        let addr = unsafe {
            let c = self.connection();
            let sa = (*c).sockaddr;
            if sa.is_null() {
                return Cow::Borrowed(b"");
            }
            match i32::from((*sa).sa_family) {
                libc::AF_INET if (*c).socklen as usize >= size_of::<libc::sockaddr_in>() => {
                    let sin = &*sa.cast::<libc::sockaddr_in>();
                    let ip = Ipv4Addr::from(u32::from_be(sin.sin_addr.s_addr));
                    SocketAddr::from((ip, u16::from_be(sin.sin_port)))
                }
                libc::AF_INET6 if (*c).socklen as usize >= size_of::<libc::sockaddr_in6>() => {
                    let sin6 = &*sa.cast::<libc::sockaddr_in6>();
                    let ip = Ipv6Addr::from(sin6.sin6_addr.s6_addr);
                    let port = u16::from_be(sin6.sin6_port);
                    match ip.to_ipv4_mapped() {
                        Some(ip) => SocketAddr::from((ip, port)),
                        None => SocketAddrV6::new(ip, port, 0, sin6.sin6_scope_id).into(),
                    }
                }
                libc::AF_UNIX => return Cow::Borrowed(b"unix:"),
                _ => return Cow::Borrowed(b""),
            }
        };
        let mut text = Vec::with_capacity(64);
        // Writing to a Vec does not fail.
        let _ = write!(text, "{addr}");
        Cow::Owned(text)
    }

    /// The request target as it came, when it still says where the request goes.
    pub(crate) fn unparsed_uri(self) -> Option<&'static [u8]> {
        // SAFETY: the request is live and its strings live in its pool.
        unsafe {
            let r = self.as_ptr();
            (ffi::ngx_http_wasm_r_valid_unparsed_uri(r) != 0).then(|| bytes((*r).unparsed_uri))
        }
    }

    /// The decoded path, and the query if there is one.
    pub(crate) fn uri_and_args(self) -> (&'static [u8], &'static [u8]) {
        // SAFETY: as in `unparsed_uri`.
        unsafe { (bytes((*self.as_ptr()).uri), bytes((*self.as_ptr()).args)) }
    }

    /// Copies bytes into the request's pool, NUL-terminated (nginx parsers read past `len`).
    pub(crate) fn copy(self, data: &[u8]) -> Result<ngx_str_t, NoMemory> {
        let to = self.allocate(data.len() + 1)?;
        // SAFETY: `to` has room for the data and one byte and cannot overlap it.
        unsafe {
            ptr::copy_nonoverlapping(data.as_ptr(), to, data.len());
            *to.add(data.len()) = 0;
        }
        Ok(ngx_str_t { len: data.len(), data: to })
    }

    /// Room for `len` bytes in the request's pool, uninitialised.
    pub(crate) fn allocate(self, len: usize) -> Result<*mut u8, NoMemory> {
        // SAFETY: the pool is the live request's.
        let to = unsafe { nginx_sys::ngx_pnalloc(self.pool(), len) }.cast::<u8>();
        if to.is_null() { Err(NoMemory) } else { Ok(to) }
    }

    /// A zeroed `T` in the request's pool.
    pub(crate) fn zeroed<T>(self) -> Result<*mut T, NoMemory> {
        const { assert!(align_of::<T>() <= nginx_sys::NGX_ALIGNMENT) };
        // SAFETY: the pool is the live request's.
        let to = unsafe { nginx_sys::ngx_pcalloc(self.pool(), size_of::<T>()) }.cast::<T>();
        if to.is_null() { Err(NoMemory) } else { Ok(to) }
    }

    /// Has `handler(data)` called when the request's pool is destroyed, after the log phase.
    pub(crate) fn at_pool_end(
        self,
        handler: ngx_cleanup_pt_fn,
        data: *mut c_void,
    ) -> Result<(), NoMemory> {
        // SAFETY: the pool is live; size 0 asks for the record alone.
        unsafe {
            let cleanup = ngx_pool_cleanup_add(self.pool(), 0);
            if cleanup.is_null() {
                return Err(NoMemory);
            }
            (*cleanup).handler = Some(handler);
            (*cleanup).data = data;
        }
        Ok(())
    }

    /// Has `handler(data)` called when the request ends, before the log phase.
    pub(crate) fn at_end(
        self,
        handler: ngx_cleanup_pt_fn,
        data: *mut c_void,
    ) -> Result<(), NoMemory> {
        // SAFETY: the request is live; size 0 asks for the record alone.
        unsafe {
            let cleanup = nginx_sys::ngx_http_cleanup_add(self.as_ptr(), 0);
            if cleanup.is_null() {
                return Err(NoMemory);
            }
            (*cleanup).handler = Some(handler);
            (*cleanup).data = data;
        }
        Ok(())
    }

    /// The data of the cleanup registered with [`Self::at_end`] for `handler`, if there is one: the
    /// way back to a context after an internal redirect zeroed `r->ctx`.
    pub(crate) fn cleanup_data(self, handler: ngx_cleanup_pt_fn) -> *mut c_void {
        // SAFETY: the cleanup list belongs to the live main request and ends with null.
        unsafe {
            let mut cleanup = (*(*self.as_ptr()).main).cleanup;
            while let Some(entry) = cleanup.as_ref() {
                if entry.handler.is_some_and(|h| ptr::fn_addr_eq(h, handler)) {
                    return entry.data;
                }
                cleanup = entry.next;
            }
        }
        ptr::null_mut()
    }

    pub(crate) fn is_internal(self) -> bool {
        // SAFETY: the request is live.
        unsafe { ffi::ngx_http_wasm_r_internal(self.as_ptr()) != 0 }
    }

    /// The client request that this one belongs to.
    pub(crate) fn main(self) -> Request {
        // SAFETY: `main` is never null and lives longer than its subrequests.
        Request(unsafe { NonNull::new_unchecked((*self.as_ptr()).main) })
    }
}

/// `NGX_HTTP_GET`.
pub(crate) const GET: ngx_uint_t = nginx_sys::NGX_HTTP_GET as ngx_uint_t;
/// `NGX_HTTP_PUT`.
pub(crate) const PUT: ngx_uint_t = nginx_sys::NGX_HTTP_PUT as ngx_uint_t;
/// `NGX_HTTP_HEAD`.
pub(crate) const HEAD: ngx_uint_t = nginx_sys::NGX_HTTP_HEAD as ngx_uint_t;

/// A cleanup callback.
#[expect(non_camel_case_types, reason = "nginx's own name for the type")]
pub(crate) type ngx_cleanup_pt_fn = unsafe extern "C" fn(*mut c_void);

/// nginx's empty string.
pub(crate) const fn empty() -> ngx_str_t {
    ngx_str_t { len: 0, data: ptr::null_mut() }
}

/// nginx's bit for a method, "unknown" for those it has none for.
fn method_number(name: &[u8]) -> ngx_uint_t {
    let number = match name {
        b"GET" => nginx_sys::NGX_HTTP_GET,
        b"HEAD" => nginx_sys::NGX_HTTP_HEAD,
        b"POST" => nginx_sys::NGX_HTTP_POST,
        b"PUT" => nginx_sys::NGX_HTTP_PUT,
        b"DELETE" => nginx_sys::NGX_HTTP_DELETE,
        b"MKCOL" => nginx_sys::NGX_HTTP_MKCOL,
        b"COPY" => nginx_sys::NGX_HTTP_COPY,
        b"MOVE" => nginx_sys::NGX_HTTP_MOVE,
        b"OPTIONS" => nginx_sys::NGX_HTTP_OPTIONS,
        b"PROPFIND" => nginx_sys::NGX_HTTP_PROPFIND,
        b"PROPPATCH" => nginx_sys::NGX_HTTP_PROPPATCH,
        b"LOCK" => nginx_sys::NGX_HTTP_LOCK,
        b"UNLOCK" => nginx_sys::NGX_HTTP_UNLOCK,
        b"PATCH" => nginx_sys::NGX_HTTP_PATCH,
        b"TRACE" => nginx_sys::NGX_HTTP_TRACE,
        _ => nginx_sys::NGX_HTTP_UNKNOWN,
    };
    number as ngx_uint_t
}
