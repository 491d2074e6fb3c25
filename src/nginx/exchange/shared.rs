//! What an exchange shares with the guests' calls: what they read and write, and what they wait for.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::future::Future;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Duration;

use nginx_sys::{ngx_table_elt_t, ngx_uint_t};

use crate::host::kept::Kept;
use crate::host::{Unresolved, Waited, Watched};
use crate::logged::Found;
use crate::nginx::exchange::wait::Need;
use crate::nginx::ngx::body;
use crate::nginx::ngx::chain::Reader;
use crate::nginx::ngx::ffi::NoMemory;
use crate::nginx::ngx::headers_in;
use crate::nginx::ngx::headers_out::Outside;
use crate::nginx::ngx::request::Request;
use crate::nginx::ngx::resolve::{Question, Resolver};
use crate::nginx::ngx::saved::{SavedRequest, SavedResponse};
use crate::nginx::ngx::socket::{Look, give_up};
use crate::nginx::ngx::spool::{Body, Pieces};

/// Whether the client's request body is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientBody {
    /// Nobody has asked for it.
    Unread,
    /// nginx is reading it.
    Reading,
    /// `r->request_body` is complete.
    Ready,
    /// nginx could not read all of it.
    Lost,
}

/// What calls read and write; lent to the guest's call until it ends.
#[derive(Default)]
pub(crate) struct Io {
    /// What the host keeps for all guests.
    pub(crate) kept: Kept,
    /// The request's side.
    pub(crate) request: RequestSide,
    /// The response's side.
    pub(crate) response: ResponseSide,
    /// What guests logged, as far as variables are used for it.
    pub(crate) found: Found,
}

/// What calls know and change of the request.
#[derive(Default)]
pub(crate) struct RequestSide {
    /// The body as the running guest sees it, once read.
    pub(crate) body: Option<Reader>,
    /// What the running guest wrote to the body.
    pub(crate) written: Option<Body>,
    /// The target, where `r->unparsed_uri` does not say it any more.
    pub(crate) uri: Option<Vec<u8>>,
    /// The number of the method that the client sent, once a guest has set another.
    pub(crate) sent_method: Option<ngx_uint_t>,
    /// Something that nginx variables mirror was changed.
    pub(crate) dirty: bool,
    /// What a failing guest's changes are undone with, where the request is to go on without it.
    pub(crate) saved: Option<Box<Before>>,
}

/// What calls know and change of the response.
#[derive(Default)]
pub(crate) struct ResponseSide {
    /// What the running `handle_request` wrote to the body, and where it has read to.
    pub(crate) own: Body,
    pub(crate) own_read: u64,
    /// The response has a body and it is here.
    pub(crate) has_body: bool,
    /// The collected body and where the running guest has read to.
    pub(crate) body: Body,
    pub(crate) read: u64,
    /// What the running `handle_response` wrote.
    pub(crate) written: Option<Body>,
    /// It set the content length to 0 after that: the response shall have no body.
    pub(crate) emptied: bool,
    /// Headers that nginx keeps outside its list.
    pub(crate) outside: Outside,
    /// As [`RequestSide::saved`].
    pub(crate) saved: Option<Box<SavedResponse>>,
}

/// A request before a guest's call, and what of it the next handler is not to see.
pub(crate) struct Before {
    request: SavedRequest,
    encoding: Vec<ngx_table_elt_t>,
}

const ENCODING: &[u8] = b"accept-encoding";

/// Whoever keeps one client request.
pub(crate) trait Keeper {
    fn shared(&self) -> &Shared;
}

/// What calls read and write, for the time of one: nobody else gets at it meanwhile.
pub(crate) struct IoRef {
    keeper: Rc<dyn Keeper>,
    io: NonNull<Io>,
}

impl IoRef {
    /// Nothing while there is another one.
    pub(crate) fn of(keeper: Rc<dyn Keeper>) -> Option<Self> {
        let shared = keeper.shared();
        if shared.lent.replace(true) {
            return None;
        }
        let io = NonNull::from(&shared.io).cast();
        Some(IoRef { keeper, io })
    }
}

impl Deref for IoRef {
    type Target = Io;

    fn deref(&self) -> &Io {
        // SAFETY: it is the keeper's, which is kept. `lent` is set: whoever else looks for it finds
        // nothing, and this is the only one who has it.
        unsafe { self.io.as_ref() }
    }
}

impl DerefMut for IoRef {
    fn deref_mut(&mut self) -> &mut Io {
        // SAFETY: as in `deref`.
        unsafe { self.io.as_mut() }
    }
}

impl Drop for IoRef {
    fn drop(&mut self) {
        self.keeper.shared().lent.set(false);
    }
}

/// One client request as its guests' calls find it.
pub(crate) struct Shared {
    r: Request,
    io: UnsafeCell<Io>,
    /// Somebody has `io`.
    lent: Cell<bool>,
    need: Cell<Option<Need>>,
    body: Cell<ClientBody>,
    /// Bytes that nginx's buffers point at.
    kept: Cell<Pieces>,
    /// The client's `Accept-Encoding`, which the next handler is not to see.
    encoding: RefCell<Vec<ngx_table_elt_t>>,
    /// There is a response: guests see it again.
    shows_encoding: Cell<bool>,
}

impl Shared {
    pub(crate) fn new(r: Request) -> Self {
        Shared {
            r,
            io: UnsafeCell::default(),
            lent: Cell::new(false),
            need: Cell::new(None),
            body: Cell::new(ClientBody::Unread),
            kept: Cell::default(),
            encoding: RefCell::default(),
            shows_encoding: Cell::new(false),
        }
    }

    pub(crate) const fn request(&self) -> Request {
        self.r
    }

    /// Changes what calls read and write, between two calls.
    pub(crate) fn with_io<T>(&self, change: impl FnOnce(&mut Io) -> T) -> Option<T> {
        if self.lent.replace(true) {
            return None;
        }
        // SAFETY: as in `IoRef::deref`.
        let result = change(unsafe { &mut *self.io.get() });
        self.lent.set(false);
        Some(result)
    }

    /// Keeps bytes for as long as the request's output may need them.
    pub(crate) fn keep(&self, bytes: Pieces) {
        if bytes.is_empty() {
            return;
        }
        let mut kept = self.kept.take();
        kept.extend(bytes);
        self.kept.set(kept);
    }

    /// Takes the client's `Accept-Encoding` from the request until it ends: whatever is asked for in its
    /// name is asked for without, and the cache notes as much (`Vary`). Whether there was one.
    pub(crate) fn hide_encoding(&self) -> Result<bool, NoMemory> {
        let lines = headers_in::take(self.r, ENCODING)?;
        let any = !lines.is_empty();
        if any {
            self.encoding.replace(lines);
            self.shows_encoding.set(false);
        }
        Ok(any)
    }

    /// The request as it is, in its access phase.
    pub(crate) fn before(&self) -> Before {
        let encoding = self.encoding.borrow().clone();
        Before { request: SavedRequest::of(self.r), encoding }
    }

    /// Puts everything back.
    pub(crate) fn restore(&self, before: Before) -> Result<(), NoMemory> {
        self.encoding.replace(before.encoding);
        before.request.restore(self.r)
    }

    /// There is a response: guests see what the client accepts, and so do filters that compress.
    pub(crate) fn show_encoding(&self) -> Result<(), NoMemory> {
        if let Some(line) = self.encoding.borrow().first() {
            headers_in::set_accept_encoding(self.r, Some(line))?;
            self.shows_encoding.set(true);
        }
        Ok(())
    }

    /// There is no response any more: another is asked for, as the first was.
    pub(crate) fn cover_encoding(&self) {
        if self.shows_encoding.take() {
            // Taking a header away needs no memory.
            let _ = headers_in::set_accept_encoding(self.r, None);
        }
    }

    /// A guest says what is accepted: that holds from here on, whatever the client has said.
    pub(crate) fn forget_encoding(&self, name: &[u8]) {
        if name.eq_ignore_ascii_case(ENCODING) && !self.encoding.take().is_empty() {
            self.cover_encoding();
        }
    }

    /// The request ends: the log shall have all of its headers. Whether that changed anything.
    pub(crate) fn put_encoding_back(&self) -> Result<bool, NoMemory> {
        let lines = self.encoding.take();
        if lines.is_empty() {
            return Ok(false);
        }
        headers_in::put_back(self.r, &lines)?;
        Ok(true)
    }

    /// Lines that guests find beside those that nginx has.
    pub(crate) fn shown(&self) -> Vec<(&'static [u8], &'static [u8])> {
        match self.shows_encoding.get() {
            true => headers_in::texts(&self.encoding.borrow()),
            false => Vec::new(),
        }
    }

    pub(crate) fn client_body(&self) -> ClientBody {
        self.body.get()
    }

    pub(crate) fn set_client_body(&self, body: ClientBody) {
        self.body.set(body);
    }

    /// nginx has begun another response: a body that is not there now will not come. The part that
    /// has must not go out under the length of the whole. Without memory for that the request fails
    /// where the body is asked for.
    pub(crate) fn lose_body(&self) {
        if matches!(self.body.get(), ClientBody::Reading | ClientBody::Lost) {
            self.body.set(ClientBody::Lost);
            let _ = body::lose(self.r);
        }
    }

    /// What the call that has just been polled waits for; nothing if the engine took its turn away.
    pub(crate) fn take_need(&self) -> Option<Need> {
        self.need.take()
    }

    /// Asks for something; the call is polled again when it is there, and not before.
    pub(crate) fn until(&self, need: Need) -> impl Future<Output = ()> {
        give_up(need, |need| self.need.set(Some(need)))
    }

    /// Waits for sockets.
    pub(crate) async fn ready(&self, sockets: Vec<Watched>, time: Duration) -> Waited {
        let look = Look::at(sockets, time);
        self.until(Need::Sockets(Rc::clone(&look))).await;
        look.waited.get()
    }

    /// Waits for the resolver of the location.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Unresolved> {
        let resolver = Resolver::of(self.r).ok_or(Unresolved::NoResolver)?;
        let question = Question::to(resolver, name);
        self.until(Need::Name(Rc::clone(&question))).await;
        question.take()
    }

    /// Waits without blocking the worker; no time at all means one turn of the event loop.
    pub(crate) fn sleep(&self, time: Duration) -> impl Future<Output = ()> {
        self.until(if time.is_zero() { Need::Turn } else { Need::Time(time) })
    }

    /// Waits until nginx has the whole request body; an error when it never will.
    pub(crate) async fn whole_body(&self) -> Result<(), Lost> {
        if self.body.get() == ClientBody::Unread {
            self.until(Need::Body).await;
        }
        match self.body.get() {
            ClientBody::Ready => Ok(()),
            ClientBody::Unread | ClientBody::Reading | ClientBody::Lost => Err(Lost),
        }
    }
}

/// A part of the request body is all that nginx has.
pub(crate) struct Lost;
