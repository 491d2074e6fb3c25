//! The context of one client request: its state, the guests it went through, and how it is found.
//!
//! A context belongs to the client request, not to a location: an internal redirect zeroes `r->ctx`,
//! and the context is found again through the request's cleanup list (as realip does it).

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ops::Deref;
use std::ptr;
use std::rc::{Rc, Weak};

use nginx_sys::{ngx_http_request_t, ngx_int_t};
use smallvec::SmallVec;

use crate::abi::Features;
use crate::nginx::exchange::call::{Asked, Pending};
use crate::nginx::exchange::host::{Lease, Plugin};
use crate::nginx::exchange::settings::{Listed, Location};
use crate::nginx::exchange::shared::{Keeper, Shared};
use crate::nginx::exchange::state::{Event, Kind, Responding, State, Step, step};
use crate::nginx::exchange::wait::Caller;
use crate::nginx::guests::line::{Standing, Waiter};
use crate::nginx::guests::status::Record;
use crate::nginx::ngx::body;
use crate::nginx::ngx::chain::Reader;
use crate::nginx::ngx::ffi::{self, NoMemory, OK, guard};
use crate::nginx::ngx::log::{ALERT, Log};
use crate::nginx::ngx::module;
use crate::nginx::ngx::request::Request;
use crate::nginx::ngx::spool::Body;
use crate::runtime::breaker::Pass;

/// One guest that the request has met.
pub(crate) struct Visit {
    pub(crate) plugin: Rc<Plugin>,
    pub(crate) due: Due,
    /// What it wrote to the response body before the next handler ran.
    pub(crate) early: Body,
    /// The request body as it was when this guest saw it.
    pub(crate) request: Option<Reader>,
    /// What became of it.
    pub(crate) record: Record,
}

/// What a guest is still to do.
pub(crate) enum Due {
    /// Nothing yet: its `handle_request` runs. Nothing more, if that failed or answered.
    Nothing,
    /// It said next: its instance is pinned, and `handle_response` is to be called.
    Response {
        lease: Lease,
        /// The guest's request context.
        ctx: u32,
    },
    /// It said next and does nothing with responses: its instance serves others. What it wrote goes
    /// before the body.
    Prefix,
    /// It has been, or would have been, called.
    Done,
}

impl Visit {
    /// It gets no body, whether it has asked for one or not.
    pub(crate) fn withdraw_body(&mut self) {
        if let Due::Response { lease, .. } = &mut self.due
            && let Some(instance) = lease.instance()
        {
            instance.withdraw(Features::BUFFER_RESPONSE);
        }
    }

    /// Whether it is owed a `handle_response` with the whole body.
    pub(crate) fn buffers_response(&mut self) -> bool {
        match &mut self.due {
            Due::Response { lease, .. } => lease
                .instance()
                .is_some_and(|instance| instance.features().contains(Features::BUFFER_RESPONSE)),
            Due::Nothing | Due::Prefix | Due::Done => false,
        }
    }
}

/// The code that drives contexts on from events.
#[derive(Clone, Copy)]
pub(crate) struct Driver {
    /// A wait is over.
    pub(crate) wake: fn(&Rc<Ctx>),
    /// The request ends.
    pub(crate) end: fn(&Rc<Ctx>),
    /// The upstream that is watched ended; whether its response did, too.
    pub(crate) upstream_ended: fn(&Rc<Ctx>, bool),
}

/// `finalize_request` of an upstream.
type UpstreamEnd = unsafe extern "C" fn(*mut ngx_http_request_t, ngx_int_t);

/// One client request that goes through guests.
pub(crate) struct Ctx {
    shared: Shared,
    state: RefCell<State>,
    visits: RefCell<SmallVec<[Visit; 1]>>,
    /// Which of the guests is called, or was last.
    at: Cell<usize>,
    /// With which the call under way was admitted.
    pass: Cell<Pass>,
    /// The response under way is nginx's page about a failure.
    failed: Cell<bool>,
    /// Conditions of its location's guests that have been looked at. They live as long as the
    /// configuration.
    decided: RefCell<Vec<(*const Listed, bool)>>,
    /// How many responses others took back while their body was being collected.
    refused: Cell<u32>,
    /// What nginx is to call when the upstream ends that is watched.
    upstream_end: Cell<Option<UpstreamEnd>>,
    driver: &'static Driver,
    me: Weak<Ctx>,
}

// What a request allocates is no more than glibc keeps at hand for each thread, counts included: beyond, each
// request takes hundreds of instructions more.
const _: () = assert!(size_of::<Ctx>() + 2 * size_of::<usize>() <= 1032);

impl Deref for Ctx {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Ctx {
    /// The context of the client request that `r` is, or is a part of; found again after an internal
    /// redirect if need be. Changes nothing.
    pub(crate) fn find(r: Request) -> Option<Rc<Ctx>> {
        let main = r.main();
        let mut ctx = main.module_ctx(module::ctx_index());
        // Only a redirect, or a page that a filter makes, can lose a context; others have none.
        if ctx.is_null() && (main.is_internal() || main.is_replaced_in_filter()) {
            ctx = main.cleanup_data(on_end);
        }
        (!ctx.is_null()).then(|| Ctx::share(ctx))
    }

    /// The same for a main request that has got somewhere: where the context was lost, nginx has
    /// begun anew.
    pub(crate) fn arrive(r: Request) -> Option<Rc<Ctx>> {
        let ctx = Ctx::find(r)?;
        let index = module::ctx_index();
        if r.module_ctx(index).is_null() {
            r.set_module_ctx(index, ffi::c_void_of(Rc::as_ptr(&ctx)));
            ctx.moved();
        }
        Some(ctx)
    }

    /// Another owner of what `create` handed to nginx.
    pub(crate) fn share(ctx: *mut c_void) -> Rc<Ctx> {
        let ctx = ctx.cast_const().cast::<Ctx>();
        // SAFETY: the slot, the cleanups and the events hold the pointer that `create` made of an
        // Rc; the strong count that stands for them is given up in `on_pool_end`, after the request.
        unsafe {
            Rc::increment_strong_count(ctx);
            Rc::from_raw(ctx)
        }
    }

    /// Makes the context of a request that meets its first guest.
    pub(crate) fn create(r: Request, driver: &'static Driver) -> Result<Rc<Ctx>, NoMemory> {
        let ctx = Rc::new_cyclic(|me| Ctx {
            shared: Shared::new(r),
            state: RefCell::new(State::Before),
            visits: RefCell::default(),
            at: Cell::new(0),
            pass: Cell::new(Pass::Normal),
            failed: Cell::new(false),
            refused: Cell::new(0),
            decided: RefCell::default(),
            upstream_end: Cell::new(None),
            driver,
            me: Weak::clone(me),
        });
        let raw = ffi::c_void_of(Rc::as_ptr(&ctx));
        // The strong count of `r`: given up by on_pool_end, so it is taken only once that is set.
        r.at_pool_end(on_pool_end, raw)?;
        let _ = Rc::into_raw(Rc::clone(&ctx));
        r.at_end(on_end, raw)?;
        r.set_module_ctx(module::ctx_index(), raw);
        // Guests, and whoever makes the page for a failed response, may read it later.
        body::preserve(r);
        Ok(ctx)
    }

    pub(crate) fn log(&self) -> Log {
        self.request().log()
    }

    pub(crate) fn kind(&self) -> Kind {
        self.state.borrow().kind()
    }

    /// What is to be done about an event now.
    pub(crate) fn step(&self, event: Event) -> Step {
        step(self.kind(), event)
    }

    /// Goes to another state, and drops what the old one held. A step that the machine does not have
    /// is a fault of ours: it is refused, and said loudly.
    pub(crate) fn enter(&self, next: State) {
        let (from, to) = (self.kind(), next.kind());
        match from.leads_to(to) {
            true => drop(self.state.replace(next)),
            false => self.refuse(from, to),
        }
    }

    #[cold]
    fn refuse(&self, from: Kind, to: Kind) {
        self.log()
            .write(ALERT, format_args!("http_wasm: an exchange cannot go from {from:?} to {to:?}"));
    }

    /// Looks at the state, or changes what it holds.
    pub(crate) fn with_state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.borrow_mut())
    }

    /// Takes out a `handle_request` whose wait is over; none if it goes on.
    pub(crate) fn take_asking(&self) -> Option<Box<Pending<Asked>>> {
        self.with_state(|state| match state {
            State::Asking(pending) => match pending.as_deref() {
                Some(Pending { wait: Some(_), .. }) => None,
                Some(Pending { wait: None, .. }) | None => pending.take(),
            },
            State::Before
            | State::Passed
            | State::Collecting(_)
            | State::Responding(_)
            | State::Failing(_)
            | State::Draining(_)
            | State::Through(_)
            | State::Over => None,
        })
    }

    /// The same for a `handle_response`.
    pub(crate) fn take_responding(&self) -> Option<Box<Responding>> {
        self.with_state(|state| match state {
            State::Responding(responding) => match responding.as_deref() {
                Some(Responding { call: Pending { wait: Some(_), .. }, .. }) => None,
                Some(Responding { call: Pending { wait: None, .. }, .. }) | None => {
                    responding.take()
                }
            },
            State::Before
            | State::Asking(_)
            | State::Passed
            | State::Collecting(_)
            | State::Failing(_)
            | State::Draining(_)
            | State::Through(_)
            | State::Over => None,
        })
    }

    /// What a call, or a failed response, waits for is there.
    pub(crate) fn end_wait(&self) {
        let wait = self.with_state(|state| match state {
            State::Asking(Some(pending)) => pending.wait.take(),
            State::Responding(Some(responding)) => responding.call.wait.take(),
            State::Collecting(collecting) => collecting.look.take(),
            State::Failing(failing) => failing.wait.take(),
            State::Asking(None)
            | State::Responding(None)
            | State::Before
            | State::Passed
            | State::Draining(_)
            | State::Through(_)
            | State::Over => None,
        });
        drop(wait);
    }

    /// nginx has begun anew. What was waiting, for a body that nginx could not read (an error page is
    /// how such a redirect comes about) or for a response that is not the one any more, waits in vain.
    fn moved(&self) {
        match self.step(Event::Moved) {
            Step::Forget => self.forget_call(),
            Step::Discard => self.enter(State::Passed),
            _ => {}
        }
        self.decided.borrow_mut().clear();
        self.lose_body();
        self.request().begin_anew();
    }

    /// Drops a `handle_request` that did not return, and what it wrote.
    pub(crate) fn forget_call(&self) {
        self.enter(State::Passed);
        let called = self.visits.borrow().last().is_some_and(|it| matches!(it.due, Due::Nothing));
        if called {
            self.with_io(|io| {
                io.response.own = Body::default();
                io.request.written = None;
            });
        }
    }

    /// Where waits of this exchange call back.
    pub(crate) fn caller(&self) -> Caller {
        Caller { handler: on_event, data: ffi::c_void_of(self.me.as_ptr()) }
    }

    /// Who is served in the line for instances.
    pub(crate) fn waiter(&self) -> Weak<dyn Waiter> {
        let me: Weak<Ctx> = Weak::clone(&self.me);
        me
    }

    /// How far it is through the guests of its location, now that one is to be called.
    pub(crate) fn standing(&self) -> Standing {
        let guests = Location::guests(self.request()).len();
        let visits = self.visits.borrow();
        if guests == 1 && visits.len() == 1 {
            return Standing::default();
        }
        let holds = visits.iter().any(|visit| matches!(visit.due, Due::Response { .. }));
        Standing { further: guests.saturating_sub(visits.len()), holds }
    }

    /// The guests so far, in the order of requests.
    pub(crate) fn with_visits<T>(&self, look: impl FnOnce(&mut [Visit]) -> T) -> T {
        look(&mut self.visits.borrow_mut())
    }

    /// Another guest is about to be called.
    pub(crate) fn visit(&self, plugin: &Rc<Plugin>) {
        let mut visits = self.visits.borrow_mut();
        self.at.set(visits.len());
        visits.push(Visit {
            plugin: Rc::clone(plugin),
            due: Due::Nothing,
            early: Body::default(),
            request: None,
            record: Record::default(),
        });
    }

    /// The first guest of a location that this client request has not met. A guest that the location
    /// has twice is met twice. A condition is looked at when the guest's turn comes, and again only after
    /// nginx has begun anew.
    pub(crate) fn next_guest<'a>(
        &self,
        guests: &'a [Listed],
    ) -> Result<Option<&'a Rc<Plugin>>, NoMemory> {
        for (at, guest) in guests.iter().enumerate() {
            if !self.decide(guest)? {
                continue;
            }
            let plugin = &guest.plugin;
            if self.visits.borrow().is_empty() {
                return Ok(Some(plugin));
            }
            let decided = self.decided.borrow();
            let applies = |it: &&Listed| !decided.contains(&(ptr::from_ref(*it), false));
            let lines = guests[..=at].iter().filter(applies);
            let due = lines.filter(|other| Rc::ptr_eq(&other.plugin, plugin)).count();
            let visits = self.visits.borrow();
            let met = visits.iter().filter(|visit| Rc::ptr_eq(&visit.plugin, plugin)).count();
            if met < due {
                return Ok(Some(plugin));
            }
        }
        Ok(None)
    }

    /// Whether the request goes through a guest of its location. Nothing of this may be borrowed while a
    /// condition is looked at: it may ask for what became of the guests so far.
    fn decide(&self, guest: &Listed) -> Result<bool, NoMemory> {
        if guest.condition.is_none() {
            return Ok(true);
        }
        let this = ptr::from_ref(guest);
        let known =
            self.decided.borrow().iter().find_map(|&(it, said)| (it == this).then_some(said));
        match known {
            Some(said) => Ok(said),
            None => {
                let said = guest.applies(self.request())?;
                self.decided.borrow_mut().push((this, said));
                Ok(said)
            }
        }
    }

    /// Takes the innermost guest that is owed a `handle_response`, with the request body as it saw it.
    pub(crate) fn take_owed(&self) -> Option<(Lease, u32)> {
        let mut visits = self.visits.borrow_mut();
        let at = visits.iter().rposition(|visit| matches!(visit.due, Due::Response { .. }))?;
        self.at.set(at);
        let visit = &mut visits[at];
        let (Due::Response { lease, ctx }, request) =
            (std::mem::replace(&mut visit.due, Due::Done), visit.request.take())
        else {
            return None;
        };
        self.with_io(|io| {
            io.request.body = request;
            if let Some(reader) = &mut io.request.body {
                reader.rewind();
            }
        });
        Some((lease, ctx))
    }

    /// Notes what became of the guest that is called.
    pub(crate) fn note(&self, note: impl FnOnce(&mut Record)) {
        if let Some(visit) = self.visits.borrow_mut().get_mut(self.at.get()) {
            note(&mut visit.record);
        }
    }

    /// Hears of the end of an upstream that is at work: one that went away in the middle of a body says
    /// it to the filters by a flush, which some of them swallow.
    pub(crate) fn watch_upstream(&self) {
        if let Some(before) = self.request().at_upstream_end(on_upstream_end) {
            self.upstream_end.set(Some(before));
        }
    }

    pub(crate) fn pass(&self) -> Pass {
        self.pass.get()
    }

    pub(crate) fn set_pass(&self, pass: Pass) {
        self.pass.set(pass);
    }

    /// Whether the response that comes next is a page about a failure.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Another header has come while one is held.
    pub(crate) fn note_refused(&self) {
        if self.kind() == Kind::Collecting {
            self.refused.set(self.refused.get() + 1);
        }
    }

    /// Whether a page that took the place of a response was itself taken back, before its body came: by
    /// a filter that looks at bodies before us and can tell only by the header whether it is too late.
    pub(crate) fn was_page_refused(&self) -> bool {
        self.refused.get() > 1
    }

    pub(crate) fn set_failed(&self) {
        self.failed.set(true);
    }
}

impl Keeper for Ctx {
    fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Waiter for Ctx {
    fn served(&self) {
        self.with_state(|state| {
            if let State::Asking(Some(pending)) = state
                && let Some(wait) = &pending.wait
            {
                wait.instance_came();
            }
        });
    }
}

/// A wait is over.
unsafe extern "C" fn on_event(event: *mut nginx_sys::ngx_event_t) {
    guard((), || {
        // SAFETY: the event is that of a wait in the state of a context, to which its data points; it
        // is taken off when the state goes.
        let ctx = Ctx::share(unsafe { (*event).data });
        (ctx.driver.wake)(&ctx);
    });
}

/// An upstream ends: `rc` is 0 at the end of its response.
unsafe extern "C" fn on_upstream_end(r: *mut ngx_http_request_t, rc: ngx_int_t) {
    guard((), || {
        // SAFETY: nginx calls with the live request that the upstream works for.
        let Some(ctx) = (unsafe { Request::new(r) }).and_then(Ctx::find) else {
            return;
        };
        if let Some(before) = ctx.upstream_end.take() {
            // SAFETY: the function that nginx would have called.
            unsafe { before(r, rc) }
        }
        (ctx.driver.upstream_ended)(&ctx, rc == OK);
    });
}

/// The request is over, however it ended.
unsafe extern "C" fn on_end(data: *mut c_void) {
    guard((), || {
        let ctx = Ctx::share(data);
        (ctx.driver.end)(&ctx);
    });
}

/// The request's memory goes: so does the context.
unsafe extern "C" fn on_pool_end(data: *mut c_void) {
    guard((), || {
        let ctx = data.cast_const().cast::<Ctx>();
        // SAFETY: gives up the strong count that `create` left with the request; this handler runs
        // once. The call is dropped first: it holds a count of its own.
        unsafe {
            (*ctx).state.replace(State::Over);
            drop(Rc::from_raw(ctx));
        }
    });
}
