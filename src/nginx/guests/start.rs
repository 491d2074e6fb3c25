//! Starting instances. The first turn of a start is a part of the call that asks for it, as most starts
//! need no other. What takes longer goes on by itself, in turns of its own: whoever asked for it waits in
//! the line like others, is served with whatever comes free first, and may leave without ending it.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use nginx_sys::ngx_event_t;

use crate::host::Host;
use crate::nginx::guests::fault::Fault;
use crate::nginx::guests::lease::Lease;
use crate::nginx::guests::plugin::Plugin;
use crate::nginx::guests::worker::TURN_COST;
use crate::nginx::ngx::ffi::guard;
use crate::nginx::ngx::hold::Event;
use crate::runtime::error::{CallError, Cause, LoadError};
use crate::runtime::instance::Instance;
use crate::runtime::ticker::Ran;

/// How long a start that has given up its turn wants to sleep.
#[derive(Default)]
pub(crate) struct Naps(Cell<Option<Duration>>);

impl Naps {
    /// Gives up the turn, for so long.
    pub(crate) fn sleep(&self, time: Duration) -> impl Future<Output = ()> {
        let mut asked = false;
        poll_fn(move |_| {
            if std::mem::replace(&mut asked, true) {
                return Poll::Ready(());
            }
            self.0.set(Some(time));
            Poll::Pending
        })
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

    /// How long it sleeps before its next turn, if it may.
    fn nap(&mut self) -> Result<Duration, Fault> {
        let nap = self.naps.0.take().unwrap_or_default();
        match self.rest.checked_sub(nap) {
            Some(rest) => {
                self.rest = rest;
                Ok(nap)
            }
            None => Err(self.late()),
        }
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
            Detached { event, work: RefCell::default() }
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

/// One of them.
struct Detached<H: Host> {
    event: Event,
    /// None while it has its turn, and when it has ended.
    work: RefCell<Option<(Start<H>, Lease<H>)>>,
}

impl<H: Host> Detached<H> {
    /// It gets another turn: the next, or when it has slept.
    fn go_on(this: &Rc<Self>, mut start: Start<H>, lease: Lease<H>) {
        match start.nap() {
            Ok(nap) => {
                this.work.replace(Some((start, lease)));
                match nap.is_zero() {
                    true => this.event.next_turn(),
                    false => this.event.after(nap),
                }
            }
            Err(fault) => Self::end(this, lease, Err(fault)),
        }
    }

    fn turn(this: &Rc<Self>) {
        let Some((mut start, lease)) = this.work.take() else { return };
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
