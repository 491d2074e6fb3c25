//! Starting instances. The first turn of a start is a part of the call that asks for it, as most starts
//! need no other. What takes longer goes on by itself, in turns of its own: whoever asked for it waits in
//! the line like others, is served with whatever comes free first, and may leave without ending it.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use nginx_sys::ngx_event_t;

use crate::host::{Host, Unresolved, Waited, Watched};
use crate::nginx::guests::fault::Fault;
use crate::nginx::guests::lease::Lease;
use crate::nginx::guests::plugin::Plugin;
use crate::nginx::guests::worker::TURN_COST;
use crate::nginx::ngx::ffi::guard;
use crate::nginx::ngx::hold::Event;
use crate::nginx::ngx::log::Log;
use crate::nginx::ngx::resolve::{Lookup, Question, Resolver};
use crate::nginx::ngx::socket::{Look, Watches, give_up};
use crate::runtime::error::{CallError, Cause, LoadError};
use crate::runtime::instance::Instance;
use crate::runtime::ticker::Ran;

/// What a start that has given up its turn waits for.
#[derive(Default)]
pub(crate) struct Naps(Cell<Option<Nap>>);

enum Nap {
    /// For so long.
    Time(Duration),
    /// For sockets.
    Sockets(Rc<Look>),
    /// For the resolver.
    Name(Rc<Question>),
}

impl Naps {
    fn until(&self, nap: Nap) -> impl Future<Output = ()> {
        give_up(nap, |nap| self.0.set(Some(nap)))
    }

    /// Gives up the turn, for so long.
    pub(crate) fn sleep(&self, time: Duration) -> impl Future<Output = ()> {
        self.until(Nap::Time(time))
    }

    /// Waits for sockets.
    pub(crate) async fn ready(&self, sockets: Vec<Watched>, time: Duration) -> Waited {
        let look = Look::at(sockets, time);
        self.until(Nap::Sockets(Rc::clone(&look))).await;
        look.waited.get()
    }

    /// Waits for the resolver of the http block: a start is for no location.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Unresolved> {
        let resolver = Resolver::of_http().ok_or(Unresolved::NoResolver)?;
        let question = Question::to(resolver, name);
        self.until(Nap::Name(Rc::clone(&question))).await;
        question.take()
    }
}

/// Makes what a start of the guest of this name is lent in a worker.
pub(crate) type Alone<H> = fn(Rc<str>, &Rc<Naps>) -> H;

/// The start functions of one instance, under way.
pub(crate) struct Start<H: Host> {
    future: Pin<Box<dyn Future<Output = Result<Instance<H>, LoadError>>>>,
    naps: Rc<Naps>,
    ran: Ran,
    /// How long it may still sleep: in all, as long as it may run.
    rest: Duration,
    began: Instant,
}

impl<H: Host> Start<H> {
    pub(crate) fn of(plugin: &Rc<Plugin<H>>) -> Self {
        let naps = Rc::default();
        let host = plugin.alone(&naps);
        let plugin = Rc::clone(plugin);
        let limit = plugin.guest().settings().limits.start_timeout;
        let future = Box::pin(async move { plugin.guest().start(host).await });
        Start { future, naps, ran: Ran::limited(limit), rest: limit, began: Instant::now() }
    }

    /// Its first turn, in that of the call that asks for it.
    pub(crate) async fn first_turn(&mut self) -> Poll<Result<Instance<H>, LoadError>> {
        poll_fn(|context| Poll::Ready(self.future.as_mut().poll(context))).await
    }

    /// What it waits for before its next turn, if it may: how long it sleeps is known before.
    fn nap(&mut self) -> Result<Nap, Fault> {
        let nap = self.naps.0.take().unwrap_or(Nap::Time(Duration::ZERO));
        let time = match &nap {
            Nap::Time(time) => *time,
            Nap::Sockets(_) | Nap::Name(_) if self.rest.is_zero() => return Err(self.late()),
            Nap::Sockets(_) | Nap::Name(_) => Duration::ZERO,
        };
        self.rest = self.rest.checked_sub(time).ok_or_else(|| self.late())?;
        Ok(nap)
    }

    fn late(&self) -> Fault {
        let late = Cause::Timeout { limit: self.ran.limit() };
        Fault::Start(LoadError::Start(CallError::new("start functions", late, None)))
    }

    /// A turn of its own.
    fn turn(&mut self, plugin: &Plugin<H>) -> Poll<Result<Instance<H>, Fault>> {
        plugin.keep_time()?;
        let turn = plugin.engine().pace().turn(self.ran);
        let poll = self.future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        self.ran = turn.end();
        match poll {
            Poll::Ready(result) => Poll::Ready(result.map_err(Fault::Start)),
            Poll::Pending if self.ran.is_overdue() => Poll::Ready(Err(self.late())),
            Poll::Pending => {
                self.ran.charge(TURN_COST);
                Poll::Pending
            }
        }
    }

    /// Lets it go on by itself.
    pub(crate) fn detach(self, mut lease: Lease<H>) {
        lease.set_aside();
        lease.plugin().note_slow();
        let alone = Rc::new_cyclic(|me: &Weak<Detached<H>>| {
            let data = me.as_ptr().cast_mut().cast::<c_void>();
            // SAFETY: the value does not leave its Rc, and drops the event with itself.
            let event = unsafe { Event::of_worker(on_turn::<H>, data) };
            Detached { wait: RefCell::default(), event, work: RefCell::default() }
        });
        lease.plugin().starts.0.borrow_mut().push(Rc::clone(&alone));
        Detached::go_on(&alone, self, lease);
    }
}

/// The starts of a guest that go on by themselves.
pub(crate) struct Starts<H: Host>(RefCell<Vec<Rc<Detached<H>>>>);

impl<H: Host> Starts<H> {
    pub(crate) fn count(&self) -> usize {
        self.0.borrow().len()
    }
}

impl<H: Host> Default for Starts<H> {
    fn default() -> Self {
        Starts(RefCell::default())
    }
}

/// What one of them waits for beside a timer.
struct Wait {
    _what: What,
    began: Instant,
}

#[expect(dead_code, reason = "what is waited for ends with the value")]
enum What {
    Sockets(Watches),
    Name(Lookup),
}

/// One of them.
struct Detached<H: Host> {
    /// Wakes the event, and goes before it.
    wait: RefCell<Option<Wait>>,
    event: Event,
    /// None while it has its turn, and when it has ended.
    work: RefCell<Option<(Start<H>, Lease<H>)>>,
}

impl<H: Host> Detached<H> {
    /// It gets another turn: the next, or when it has slept.
    fn go_on(this: &Rc<Self>, mut start: Start<H>, lease: Lease<H>) {
        match start.nap() {
            Ok(nap) => {
                let rest = start.rest;
                this.work.replace(Some((start, lease)));
                let began = Instant::now();
                match nap {
                    Nap::Time(Duration::ZERO) => this.event.next_turn(),
                    Nap::Time(time) => this.event.after(time),
                    Nap::Sockets(look) => {
                        let (log, time) = (Log::cycle(), rest.min(look.time));
                        // SAFETY: the event goes after the watches; the log is the worker's.
                        let what = unsafe { Watches::begin(&look, time, log, &this.event) };
                        this.wait.replace(Some(Wait { _what: What::Sockets(what), began }));
                    }
                    Nap::Name(question) => {
                        this.event.after(rest);
                        // SAFETY: the event goes after the lookup.
                        let what = unsafe { Lookup::begin(&question, &this.event) };
                        this.wait.replace(Some(Wait { _what: What::Name(what), began }));
                    }
                }
            }
            Err(fault) => Self::end(this, lease, Err(fault)),
        }
    }

    fn turn(this: &Rc<Self>) {
        let Some((mut start, lease)) = this.work.take() else { return };
        if let Some(wait) = this.wait.take() {
            start.rest = start.rest.saturating_sub(wait.began.elapsed());
        }
        match start.turn(lease.plugin()) {
            Poll::Ready(result) => {
                if result.is_ok() {
                    lease.plugin().note_start(start.began.elapsed());
                }
                Self::end(this, lease, result);
            }
            Poll::Pending => Self::go_on(this, start, lease),
        }
    }

    fn end(this: &Rc<Self>, lease: Lease<H>, result: Result<Instance<H>, Fault>) {
        let starts = &lease.plugin().starts.0;
        starts.borrow_mut().retain(|other| !Rc::ptr_eq(other, this));
        match result {
            Ok(instance) => Plugin::start_ended(lease, instance),
            Err(fault) => Plugin::start_failed(lease, &fault),
        }
    }
}

/// The turn of a start that goes on by itself has come.
unsafe extern "C" fn on_turn<H: Host>(event: *mut ngx_event_t) {
    guard((), || {
        // SAFETY: the event's data is the start it is a part of, kept in an Rc (see detach).
        let alone = unsafe {
            let alone = (*event).data.cast_const().cast::<Detached<H>>();
            Rc::increment_strong_count(alone);
            Rc::from_raw(alone)
        };
        Detached::turn(&alone);
    });
}
