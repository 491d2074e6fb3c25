//! The context of one client request: its stage, the guests it went through, what they have written
//! so far, and how it is found again and ended.
//!
//! A context belongs to the client request, not to a location: an internal redirect zeroes `r->ctx`,
//! and the context is found again through the request's cleanup list (as realip does it).

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::c_void;
use std::rc::Rc;

use bytes::Bytes;
use nginx_sys::{ngx_event_t, ngx_uint_t};

use super::body;
use super::chain::Reader;
use super::early::Early;
use super::ffi::{self, NoMemory, guard};
use super::headers_out::Outside;
use super::log::{ALERT, Log};
use super::plugin::{Lease, Plugin};
use super::reply::Reply;
use super::request::Request;
use super::saved::{SavedRequest, SavedResponse};
use super::spool::Body;
use super::status::Record;
use super::task::{self, Call, Want};
use crate::abi::Features;
use crate::logged::Found;
use crate::runtime::breaker::Pass;

/// Where an exchange stands. [`Ctx::enter`] is the only place that changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing has been called.
    Idle,
    /// A `handle_request` runs, or waits.
    CallingRequest,
    /// Every guest so far said next; their `handle_response` is owed.
    Passed,
    /// A guest's own response is on its way out.
    Answering,
    /// The header is held and the body is being collected for a guest.
    Collecting,
    /// A `handle_response` runs, or waits; the header is held.
    CallingResponse,
    /// The header is sent; bytes that go before the next handler's body are not.
    Sending,
    /// Nothing is left to do; the response streams through.
    Done,
    /// A guest or a limit ended it; nginx answers with an error page.
    Failed,
    /// The request is over.
    Ended,
}

impl Stage {
    /// The state machine (design: one exchange, one machine).
    const fn may_become(self, next: Stage) -> bool {
        use Stage::*;
        match (self, next) {
            // The client went away, or everything is finished.
            (_, Ended) => true,
            (Ended, _) => false,
            // A location reached by an internal redirect may have further guests.
            (Idle | Passed | Failed, CallingRequest) => true,
            (CallingRequest, Passed | Answering | Failed) => true,
            // The response reaches the header filter. It may be nginx's own error page, made while
            // a guest was waiting for a body that never came.
            (Idle | Passed | Answering | Failed, Collecting | CallingResponse | Sending | Done) => {
                true
            }
            (CallingRequest, Collecting | CallingResponse | Sending | Done) => true,
            (CallingResponse, Collecting | CallingResponse | Sending | Done | Failed) => true,
            (Collecting, CallingResponse | Sending | Done | Failed) => true,
            // nginx replaced a response that was being held.
            (Collecting, Collecting) => true,
            (Sending, Done) => true,
            // Any other failure of ours before the header is out.
            (Passed | Answering, Failed) => true,
            _ => false,
        }
    }
}

/// One guest of the exchange.
pub(crate) struct Level {
    pub(crate) plugin: Rc<Plugin>,
    pub(crate) state: LevelState,
    /// What it wrote to the response body before the next handler ran.
    pub(crate) early: Body,
    /// The request body as it was when this guest saw it.
    pub(crate) request: Option<Reader>,
    /// What became of it.
    pub(crate) record: Record,
}

impl Level {
    /// Whether its `handle_request` has not returned.
    pub(crate) const fn is_calling(&self) -> bool {
        matches!(self.state, LevelState::Once)
    }

    /// Whether it is owed a `handle_response` with the whole body.
    pub(crate) fn buffers_response(&mut self) -> bool {
        match &mut self.state {
            LevelState::Owed { lease, .. } => lease
                .instance()
                .is_some_and(|instance| instance.features().contains(Features::BUFFER_RESPONSE)),
            LevelState::Once | LevelState::Passed | LevelState::Finished => false,
        }
    }
}

/// What a guest has done and is owed.
pub(crate) enum LevelState {
    /// Its `handle_request` runs, or failed, or answered: no `handle_response`.
    Once,
    /// It said next: its instance is pinned and owes one `handle_response`.
    Owed {
        lease: Lease,
        /// The guest's request context.
        ctx: u32,
    },
    /// It said next and does nothing with responses: its instance serves others.
    Passed,
    /// `handle_response` was called, or would have been.
    Finished,
}

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

/// What a guest may do in the call that is being made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `handle_request`.
    Request,
    /// `handle_response` with the body collected, or without one.
    Response {
        /// The response has a body and it is here.
        body: bool,
    },
    /// `handle_response` after the request ended: changes are accepted and ignored.
    Ended,
}

/// What calls read and write; lent to the guest's call and handed back when it ends.
pub(crate) struct Io {
    pub(crate) mode: Mode,
    /// Status, headers and trailers that guests set before the next handler ran.
    pub(crate) early: Early,
    /// The same before the running guest added its own.
    pub(crate) saved: Early,
    /// What the running `handle_request` wrote to the response body.
    pub(crate) own: Body,
    pub(crate) own_read: u64,
    /// The request body as the running guest sees it, once read.
    pub(crate) request: Option<Reader>,
    /// What the running guest wrote to the request body.
    pub(crate) request_written: Option<Body>,
    /// The collected response body and where the running guest has read to.
    pub(crate) response: Body,
    pub(crate) response_read: u64,
    /// What the running `handle_response` wrote.
    pub(crate) response_written: Option<Body>,
    /// It set the content length to 0 after that: the response shall have no body.
    pub(crate) response_emptied: bool,
    /// Response headers that nginx keeps outside its list.
    pub(crate) outside: Outside,
    /// The target, where `r->unparsed_uri` does not say it any more.
    pub(crate) uri: Option<Vec<u8>>,
    /// Bytes that guests had copied into the request's memory by setting fields, method and target.
    pub(crate) copied: usize,
    /// Fields that guests set or added, by kind.
    pub(crate) fields_set: [usize; 4],
    /// Bytes that guests have written to the log on behalf of the request.
    pub(crate) logged: usize,
    /// The number of the method that the client sent, once a guest has set another.
    pub(crate) sent_method: Option<ngx_uint_t>,
    pub(crate) template: Vec<u8>,
    /// What guests logged, as far as variables are used for it.
    pub(crate) found: Found,
    /// Something that nginx variables mirror was changed.
    pub(crate) dirty: bool,
    /// What a failing guest's changes are undone with, where the request is to go on without it.
    pub(crate) saved_request: Option<Box<SavedRequest>>,
    pub(crate) saved_response: Option<Box<SavedResponse>>,
}

/// One client request that goes through guests.
pub(crate) struct Ctx {
    r: Request,
    stage: Cell<Stage>,
    pub(crate) levels: RefCell<Vec<Level>>,
    /// None while a call has it.
    pub(crate) io: Cell<Option<Box<Io>>>,
    pub(crate) call: RefCell<Option<Call>>,
    /// Which of the guests is called, or was last.
    pub(crate) at: Cell<usize>,
    /// With which the call under way was admitted.
    pub(crate) pass: Cell<Pass>,
    pub(crate) want: Cell<Want>,
    pub(crate) body: Cell<ClientBody>,
    pub(crate) reply: RefCell<Reply>,
    /// Bytes that nginx's buffers point at.
    kept: RefCell<Vec<Bytes>>,
    /// Timer of a sleeping guest; its address must not change.
    event: UnsafeCell<ngx_event_t>,
}

impl Ctx {
    /// The context of a request, found again after an internal redirect if need be.
    pub(crate) fn of(r: Request) -> Option<Rc<Ctx>> {
        let index = super::ctx_index();
        let ctx = r.module_ctx(index);
        if !ctx.is_null() {
            return Some(Ctx::share(ctx));
        }
        // Only a redirect can lose a context; the others have none and leave here.
        if !r.is_internal() {
            return None;
        }
        let ctx = r.cleanup_data(on_end);
        if ctx.is_null() {
            return None;
        }
        r.set_module_ctx(index, ctx);
        let ctx = Ctx::share(ctx);
        ctx.on_redirect();
        Some(ctx)
    }

    /// Another owner of what `create` handed to nginx.
    pub(crate) fn share(ctx: *mut c_void) -> Rc<Ctx> {
        let ctx = ctx.cast_const().cast::<Ctx>();
        // SAFETY: the slot, the cleanups and the event hold the pointer that `create` made of an
        // Rc; the strong count that stands for them is given up in `on_pool_end`, after the request.
        unsafe {
            Rc::increment_strong_count(ctx);
            Rc::from_raw(ctx)
        }
    }

    /// nginx has begun anew with another location. What was waiting, for a body that nginx could not
    /// read (an error page is how such a redirect comes about) or for a response that is not the
    /// one any more, waits in vain.
    fn on_redirect(&self) {
        if matches!(self.body.get(), ClientBody::Reading | ClientBody::Lost) {
            self.body.set(ClientBody::Lost);
            // The part that is there must not go out under the length of the whole. Without memory
            // for that the request fails where the body is asked for.
            if let Ok(kept) = body::replace(self.r, Body::default()) {
                self.keep(kept);
            }
        }
        match self.stage() {
            Stage::CallingRequest | Stage::CallingResponse | Stage::Collecting => {
                self.cancel();
                self.r.set_held(false);
                self.forget_unfinished();
                self.enter(Stage::Failed);
            }
            _ => {}
        }
    }

    /// Nothing of a `handle_request` that did not return is left behind.
    pub(crate) fn forget_unfinished(&self) {
        if self.levels.borrow().last().is_some_and(Level::is_calling) {
            self.with_io(|io| io.early = std::mem::take(&mut io.saved));
        }
    }

    /// Makes the context of a request that meets its first guest.
    pub(crate) fn create(r: Request) -> Result<Rc<Ctx>, NoMemory> {
        let ctx = Rc::new(Ctx {
            r,
            stage: Cell::new(Stage::Idle),
            levels: RefCell::default(),
            io: Cell::new(Some(Box::new(Io {
                mode: Mode::Request,
                early: Early::default(),
                saved: Early::default(),
                own: Body::default(),
                own_read: 0,
                request: None,
                request_written: None,
                response: Body::default(),
                response_read: 0,
                response_written: None,
                response_emptied: false,
                outside: Outside::default(),
                uri: None,
                copied: 0,
                fields_set: [0; 4],
                logged: 0,
                sent_method: None,
                template: Vec::new(),
                found: Found::default(),
                dirty: false,
                saved_request: None,
                saved_response: None,
            }))),
            call: RefCell::default(),
            at: Cell::new(0),
            pass: Cell::new(Pass::Normal),
            want: Cell::default(),
            body: Cell::new(ClientBody::Unread),
            reply: RefCell::default(),
            kept: RefCell::default(),
            // SAFETY: an event is plain C data for which all zeroes is the idle state.
            event: UnsafeCell::new(unsafe { std::mem::zeroed() }),
        });
        let raw = ffi::c_void_of(Rc::as_ptr(&ctx));
        r.prepare_event(ctx.event.get(), task::on_event, raw);
        // The strong count of `r`: given up by on_pool_end, so it is taken only once that is set.
        r.at_pool_end(on_pool_end, raw)?;
        let _ = Rc::into_raw(Rc::clone(&ctx));
        r.at_end(on_end, raw)?;
        r.set_module_ctx(super::ctx_index(), raw);
        Ok(ctx)
    }

    /// Notes what became of the guest that is called.
    pub(crate) fn note(&self, note: impl FnOnce(&mut Record)) {
        if let Some(level) = self.levels.borrow_mut().get_mut(self.at.get()) {
            note(&mut level.record);
        }
    }

    pub(crate) const fn request(&self) -> Request {
        self.r
    }

    pub(crate) fn log(&self) -> Log {
        self.r.log()
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// Goes to another stage. A step that the machine does not have is a fault of ours: it is said
    /// loudly and ends in failure, which is safe from anywhere.
    pub(crate) fn enter(&self, next: Stage) {
        let stage = self.stage.get();
        if !stage.may_become(next) {
            self.log().write(
                ALERT,
                format_args!("http_wasm: an exchange cannot go from {stage:?} to {next:?}"),
            );
        }
        self.stage.set(next);
    }

    pub(crate) fn event(&self) -> *mut ngx_event_t {
        self.event.get()
    }

    /// Keeps bytes for as long as the request's output may need them.
    pub(crate) fn keep(&self, bytes: Vec<Bytes>) {
        self.kept.borrow_mut().extend(bytes);
    }

    /// Polls the waiting call from the event loop, soon.
    pub(crate) fn wake(&self) {
        // SAFETY: the event is ours and prepared; cancel() takes it off the queue.
        unsafe {
            ffi::ngx_http_wasm_del_timer(self.event());
            ffi::ngx_http_wasm_post_event(self.event());
        }
    }

    /// Changes what calls read and write, between two calls.
    pub(crate) fn with_io<T>(&self, change: impl FnOnce(&mut Io) -> T) -> Option<T> {
        let mut io = self.io.take()?;
        let result = change(&mut io);
        self.io.set(Some(io));
        Some(result)
    }

    /// The first guest of a location that this client request has not been through. A guest that
    /// the location has twice is met twice.
    pub(crate) fn next_guest<'a>(&self, guests: &'a [Rc<Plugin>]) -> Option<&'a Rc<Plugin>> {
        let levels = self.levels.borrow();
        guests.iter().enumerate().find_map(|(at, guest)| {
            let due = guests[..=at].iter().filter(|other| Rc::ptr_eq(other, guest)).count();
            let met = levels.iter().filter(|level| Rc::ptr_eq(&level.plugin, guest)).count();
            (met < due).then_some(guest)
        })
    }

    /// Whether a guest is owed a `handle_response`.
    pub(crate) fn owes(&self) -> bool {
        self.levels.borrow().iter().any(|level| matches!(level.state, LevelState::Owed { .. }))
    }

    /// Drops a call that waits. Its instance cannot be used again.
    pub(crate) fn cancel(&self) {
        let call = self.call.borrow_mut().take();
        drop(call);
        self.want.set(Want::Nothing);
        // SAFETY: the event is ours; the functions do nothing when it is idle.
        unsafe {
            ffi::ngx_http_wasm_del_timer(self.event());
            ffi::ngx_http_wasm_delete_posted_event(self.event());
        }
    }
}

/// The request is over, however it ended: whoever is owed a `handle_response` gets it now, and what
/// waits is dropped.
unsafe extern "C" fn on_end(data: *mut c_void) {
    guard((), || {
        let ctx = Ctx::share(data);
        ctx.cancel();
        ctx.r.set_held(false);
        if ctx.stage() != Stage::Ended {
            task::call_owed(&ctx);
            ctx.enter(Stage::Ended);
        }
    });
}

/// The request's memory goes: so does the context.
unsafe extern "C" fn on_pool_end(data: *mut c_void) {
    guard((), || {
        let ctx = data.cast_const().cast::<Ctx>();
        // SAFETY: gives up the strong count that `create` left with the request; this handler runs
        // once. The call is dropped first: it holds a count of its own.
        unsafe {
            (*ctx).cancel();
            drop(Rc::from_raw(ctx));
        }
    });
}
