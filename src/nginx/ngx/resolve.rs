//! Names, asked of nginx's resolver. A question can be dropped before its answer has come.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;
use std::rc::Rc;

use nginx_sys::{
    ngx_event_t, ngx_int_t, ngx_msec_t, ngx_resolver_addr_t, ngx_resolver_ctx_t, ngx_resolver_t,
    ngx_str_t,
};

use crate::host::Unresolved;
use crate::nginx::ngx::ffi::{self, guard};
use crate::nginx::ngx::hold::Event;
use crate::nginx::ngx::log::Escaped;
use crate::nginx::ngx::request::Request;

/// Who is asked, and for how long. It belongs to the running configuration.
#[derive(Clone, Copy)]
pub(crate) struct Resolver {
    resolver: *mut ngx_resolver_t,
    timeout: ngx_msec_t,
}

impl Resolver {
    /// That of a request's location.
    pub(crate) fn of(r: Request) -> Option<Self> {
        // SAFETY: the request is live.
        unsafe { Self::found(r.as_ptr()) }
    }

    /// That of the http block, for whom there is no request.
    pub(crate) fn of_http() -> Option<Self> {
        // SAFETY: null stands for that.
        unsafe { Self::found(ptr::null_mut()) }
    }

    /// # Safety
    /// The request must be live, or null; in a worker that has an http block.
    unsafe fn found(r: *mut nginx_sys::ngx_http_request_t) -> Option<Self> {
        let mut timeout = 0;
        // SAFETY: as the caller holds.
        let resolver = unsafe { ffi::ngx_http_wasm_resolver(r, &raw mut timeout) };
        (!resolver.is_null()).then_some(Resolver { resolver, timeout })
    }
}

/// What somebody wants to know, and what came of it.
pub(crate) struct Question {
    resolver: Resolver,
    name: String,
    pub(crate) answer: RefCell<Option<Result<Vec<IpAddr>, Unresolved>>>,
}

impl Question {
    pub(crate) fn to(resolver: Resolver, name: &str) -> Rc<Self> {
        Rc::new(Question { resolver, name: name.to_owned(), answer: RefCell::default() })
    }

    /// What is known when nobody waits any more.
    pub(crate) fn take(&self) -> Result<Vec<IpAddr>, Unresolved> {
        self.answer.take().unwrap_or(Err(Unresolved::Late))
    }
}

/// A question that has been asked, until it is answered or dropped.
pub(crate) struct Lookup(Box<Asked>);

struct Asked {
    question: Rc<Question>,
    /// The name as the resolver has it, which it changes.
    name: UnsafeCell<Box<[u8]>>,
    wake: *mut ngx_event_t,
    /// Null once it has been answered.
    ctx: Cell<*mut ngx_resolver_ctx_t>,
}

impl Lookup {
    /// Asks, to wake the event with the answer.
    ///
    /// # Safety
    /// The event must outlive the value.
    pub(crate) unsafe fn begin(question: &Rc<Question>, event: &Event) -> Self {
        let asked = Box::new(Asked {
            question: Rc::clone(question),
            name: UnsafeCell::new(question.name.as_bytes().into()),
            wake: event.as_ptr(),
            ctx: Cell::new(ptr::null_mut()),
        });
        let lookup = Lookup(asked);
        if !lookup.ask() {
            question.answer.replace(Some(Err(Unresolved::Unknown("out of memory".to_owned()))));
            event.hurry();
        }
        lookup
    }

    /// Whether there will be an answer, or has been one already.
    fn ask(&self) -> bool {
        let Resolver { resolver, timeout } = self.0.question.resolver;
        // SAFETY: nobody has a reference to the name while this one is alive.
        let name = unsafe { &mut *self.0.name.get() };
        let name = ngx_str_t { len: name.len(), data: name.as_mut_ptr() };
        // SAFETY: the resolver is that of the running configuration. What it gets, the name and ourselves,
        // is in a box that lives until the question has been answered or taken back (drop).
        unsafe {
            let ctx = nginx_sys::ngx_resolve_start(resolver, ptr::null_mut());
            // There are servers to ask (ngx_http_wasm_resolver), so it is not the other special value.
            if ctx.is_null() || ctx.addr() == usize::MAX {
                return false;
            }
            (*ctx).name = name;
            (*ctx).handler = Some(on_answer);
            (*ctx).data = ffi::c_void_of(&raw const *self.0);
            (*ctx).timeout = timeout;
            self.0.ctx.set(ctx);
            // It has freed the question where it fails, and may have been answered where it does not.
            if nginx_sys::ngx_resolve_name(ctx) != ffi::OK {
                self.0.ctx.set(ptr::null_mut());
                return false;
            }
        }
        true
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        let ctx = self.0.ctx.replace(ptr::null_mut());
        if !ctx.is_null() {
            // SAFETY: the question has not been answered, so it is still the resolver's.
            unsafe { nginx_sys::ngx_resolve_name_done(ctx) };
        }
    }
}

/// The resolver has an answer.
unsafe extern "C" fn on_answer(ctx: *mut ngx_resolver_ctx_t) {
    guard((), || {
        // SAFETY: the data is the box of a lookup that has not been dropped: it would have taken its
        // question back. Addresses are those that the resolver has counted, and valid until it is done.
        unsafe {
            let asked = &*(*ctx).data.cast_const().cast::<Asked>();
            let answer = match (*ctx).state {
                0 => {
                    let addrs: &[ngx_resolver_addr_t] = match (*ctx).naddrs {
                        0 => &[],
                        len => std::slice::from_raw_parts((*ctx).addrs, len),
                    };
                    Ok(addrs.iter().filter_map(|addr| address(addr)).collect())
                }
                state => Err(unresolved(state)),
            };
            asked.ctx.set(ptr::null_mut());
            nginx_sys::ngx_resolve_name_done(ctx);
            asked.question.answer.replace(Some(answer));
            // The event outlives the lookup, by its contract.
            ffi::ngx_http_wasm_del_timer(asked.wake);
            ffi::ngx_http_wasm_post_event(asked.wake);
        }
    });
}

fn unresolved(state: ngx_int_t) -> Unresolved {
    if state == nginx_sys::NGX_RESOLVE_TIMEDOUT as ngx_int_t {
        return Unresolved::Late;
    }
    // SAFETY: the function takes any number and returns a text of its own, with its NUL.
    let text = unsafe { CStr::from_ptr(nginx_sys::ngx_resolver_strerror(state).cast()) };
    Unresolved::Unknown(Escaped(text.to_bytes()).to_string())
}

/// An address of an answer.
///
/// # Safety
/// The socket address must be as long as it says, and of the family that it names.
unsafe fn address(addr: &ngx_resolver_addr_t) -> Option<IpAddr> {
    // SAFETY: as the caller holds; the length is checked before a family's structure is read.
    unsafe {
        let (sockaddr, len) = (addr.sockaddr.cast::<libc::sockaddr>(), addr.socklen as usize);
        match i32::from((*sockaddr).sa_family) {
            libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
                let sin = &*sockaddr.cast::<libc::sockaddr_in>();
                Some(Ipv4Addr::from(u32::from_be(sin.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
                let sin6 = &*sockaddr.cast::<libc::sockaddr_in6>();
                Some(Ipv6Addr::from(sin6.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}
