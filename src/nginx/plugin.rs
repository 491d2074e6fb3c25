//! A guest as one `http_wasm` line configures it, with its instances in this worker.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

use nginx_sys::ngx_event_t;

use super::conf::MainConf;
use super::ctx::Ctx;
use super::exchange::Exchange;
use super::fault::{Fault, Kind};
use super::ffi::{self, guard};
use super::log::{ERR, Escaped, INFO, Log, NOTICE, WARN, Who};
use super::request::Request;
use super::slots::Slots;
use super::status::{Held, Meter, Metered};
use super::timer::Timer;
use super::{task, worker};
use crate::abi::Level;
use crate::runtime::Engine;
use crate::runtime::breaker::{self, Breaker, Change, Pass};
use crate::runtime::guest::Guest;
use crate::runtime::instance::Instance;
use crate::runtime::pool::{Pool, Take};
use crate::runtime::throttle::Throttle;
use crate::status::cells::{Counter, Gauge};

/// How many instances of a guest a worker has, and what happens when they are all in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolSettings {
    /// Instances, in use and idle; `worker_connections` if not set.
    pub(crate) max: Option<usize>,
    /// Idle instances that are kept.
    pub(crate) idle: usize,
    /// How long one is kept that nobody needs; for ever if not set.
    pub(crate) idle_timeout: Option<Duration>,
    /// Requests that may wait for one; `worker_connections` if not set.
    pub(crate) queue: Option<usize>,
    /// How long one waits.
    pub(crate) wait: Duration,
    /// Requests that an instance serves before it is replaced.
    pub(crate) requests: u64,
}

impl Default for PoolSettings {
    fn default() -> Self {
        PoolSettings {
            max: None,
            idle: usize::MAX,
            // As long as nginx keeps idle connections to upstream servers.
            idle_timeout: Some(Duration::from_secs(60)),
            queue: None,
            wait: Duration::from_secs(1),
            requests: u64::MAX,
        }
    }
}

/// What becomes of a request whose guest fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum OnError {
    /// It fails.
    #[default]
    Closed,
    /// It goes on as if the guest were not there.
    Open,
}

/// A request's place in the line for an instance. The line holds it weakly: it is gone with the
/// call that waits.
struct Ticket {
    ctx: Weak<Ctx>,
    lease: Cell<Option<Lease>>,
}

/// A guest and its pool. Made when the configuration is read; each worker fills the pool of its own
/// copy after the fork.
pub(crate) struct Plugin {
    guest: Guest<Exchange>,
    engine: Engine,
    name: Rc<str>,
    /// Made when the worker first needs it: its size is known after the whole configuration.
    pool: RefCell<Option<Pool<Idle>>>,
    /// Set while instances that are idle now may be dropped for it.
    expiry: Timer,
    line: RefCell<VecDeque<Weak<Ticket>>>,
    slots: Rc<Slots>,
    settings: PoolSettings,
    on_error: OnError,
    /// None where it is off.
    breaker: Option<RefCell<Breaker>>,
    /// Of its failures in the log.
    said: RefCell<Throttle<Kind>>,
    odd_next: Cell<bool>,
    meter: Rc<Meter>,
    /// While it is out of service.
    resting: RefCell<Option<Held>>,
}

impl Plugin {
    pub(crate) fn new(
        guest: Guest<Exchange>,
        engine: Engine,
        slots: &Rc<Slots>,
        settings: PoolSettings,
        on_error: OnError,
        breaker: Option<breaker::Settings>,
        meter: Rc<Meter>,
    ) -> Rc<Self> {
        let plugin = Rc::new(Plugin {
            engine,
            name: guest.name().into(),
            guest,
            pool: RefCell::default(),
            expiry: Timer::new(),
            line: RefCell::default(),
            slots: Rc::clone(slots),
            settings,
            on_error,
            breaker: breaker.map(|settings| RefCell::new(Breaker::new(settings))),
            said: RefCell::default(),
            odd_next: Cell::new(false),
            meter,
            resting: RefCell::default(),
        });
        slots.register(&plugin);
        plugin
    }

    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether a request goes on without the guest when it fails.
    pub(crate) fn fails_open(&self) -> bool {
        self.on_error == OnError::Open
    }

    pub(crate) const fn guest(&self) -> &Guest<Exchange> {
        &self.guest
    }

    pub(crate) const fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    pub(crate) fn name(&self) -> Rc<str> {
        Rc::clone(&self.name)
    }

    /// A place in the pool, with an idle instance or leave to make one; waits for one if it must.
    pub(crate) async fn lease(plugin: &Rc<Plugin>, ctx: &Rc<Ctx>) -> Result<Lease, Fault> {
        worker::keep_time(&plugin.engine).map_err(Fault::Ticker)?;
        if let Some(left) = plugin.breaker(|breaker| breaker.refuses(worker::now())) {
            return Err(Fault::Resting(left));
        }
        // Whoever waits was there first: what comes free is handed to them directly.
        let mut lease = match Plugin::take(plugin) {
            Some(lease) => lease,
            None => Box::pin(Plugin::queue(plugin, ctx)).await?,
        };
        // Asked last: a probe is one that is about to run. Others failed meanwhile.
        let pass = plugin.breaker(|breaker| Some(breaker.admit(worker::now())));
        lease.pass = pass.unwrap_or(Ok(Pass::Normal)).map_err(Fault::Resting)?;
        ctx.pass.set(lease.pass);
        Ok(lease)
    }

    /// Waits in line for a place.
    async fn queue(plugin: &Rc<Plugin>, ctx: &Rc<Ctx>) -> Result<Lease, Fault> {
        let ticket = Rc::new(Ticket { ctx: Rc::downgrade(ctx), lease: Cell::new(None) });
        {
            let mut line = plugin.line.borrow_mut();
            line.retain(|ticket| ticket.strong_count() > 0);
            if line.len() >= plugin.settings.queue.unwrap_or_else(connections) {
                return Err(Fault::Busy);
            }
            line.push_back(Rc::downgrade(&ticket));
        }
        let _waiting = Meter::hold(&plugin.meter, Gauge::Waiting);
        task::wait(ctx, plugin.settings.wait, || ticket.lease.take()).await.ok_or(Fault::Busy)
    }

    fn take(plugin: &Rc<Plugin>) -> Option<Lease> {
        let mut pool = plugin.pool.borrow_mut();
        let pool =
            pool.get_or_insert_with(|| Pool::new(plugin.settings.max.unwrap_or_else(connections)));
        let idle = match pool.take() {
            Take::Idle(idle) => Some(idle),
            Take::Create if plugin.slots.claim(plugin) => None,
            Take::Create => {
                pool.forget();
                return None;
            }
            Take::Full => return None,
        };
        let (instance, served) = match idle {
            Some(Idle { instance, served, .. }) => (Some(instance), served),
            None => (None, 0),
        };
        let in_flight = Meter::hold(&plugin.meter, Gauge::InFlight);
        let plugin = Rc::clone(plugin);
        Some(Lease { plugin, instance, served, pass: Pass::Normal, _in_flight: in_flight })
    }

    /// Makes sure that instances are dropped when they have been idle for too long.
    fn watch_idle(plugin: &Rc<Plugin>) {
        let Some(timeout) = plugin.settings.idle_timeout else { return };
        if plugin.expiry.is_set() {
            return;
        }
        let pool = plugin.pool.borrow();
        let Some(oldest) = pool.as_ref().and_then(Pool::oldest) else { return };
        // Those that follow closely go together.
        let after = (oldest.since + timeout).saturating_sub(worker::now()).max(timeout / 10);
        let data = ffi::c_void_of(Rc::as_ptr(plugin));
        // SAFETY: a plugin does not leave its Rc, and drops the timer with itself.
        unsafe { plugin.expiry.set(after, on_expiry, data) };
    }

    /// Drops instances that have been idle for too long.
    fn expire(&self) {
        let Some(timeout) = self.settings.idle_timeout else { return };
        let now = worker::now();
        let expired = match self.pool.borrow_mut().as_mut() {
            // Dropping them runs no guest code.
            Some(pool) => pool.expire(|idle| idle.since + timeout <= now).map(drop).count(),
            None => 0,
        };
        if expired > 0 {
            self.slots.release(expired);
            Log::cycle().write(
                INFO,
                format_args!(
                    "http_wasm guest \"{}\": dropped {expired} idle instance{}",
                    self.name,
                    if expired > 1 { "s" } else { "" }
                ),
            );
        }
    }

    /// Hands a place that came free to the first in the line.
    fn call_next(plugin: &Rc<Plugin>) {
        loop {
            let Some(ticket) = plugin.line.borrow_mut().pop_front() else {
                return;
            };
            let Some(ticket) = ticket.upgrade() else {
                continue;
            };
            let Some(ctx) = ticket.ctx.upgrade() else {
                continue;
            };
            match Plugin::take(plugin) {
                Some(lease) => {
                    ticket.lease.set(Some(lease));
                    ctx.wake();
                }
                None => plugin.line.borrow_mut().push_front(Rc::downgrade(&ticket)),
            }
            return;
        }
    }

    /// Instances that wait for requests.
    pub(crate) fn idle(&self) -> usize {
        self.pool.borrow().as_ref().map_or(0, Pool::idle)
    }

    /// Drops the instance that has been idle for longest.
    pub(crate) fn drop_idle(&self) {
        self.trim(self.idle().saturating_sub(1));
    }

    /// Drops the longest idle instances until at most `keep` are idle; no guest code runs.
    fn trim(&self, keep: usize) {
        if let Some(pool) = self.pool.borrow_mut().as_mut() {
            let dropped = pool.trim(keep).map(drop).count();
            self.slots.release(dropped);
        }
    }

    /// Asks the breaker, where there is one.
    fn breaker<T>(&self, ask: impl FnOnce(&mut Breaker) -> Option<T>) -> Option<T> {
        ask(&mut self.breaker.as_ref()?.borrow_mut())
    }

    /// A guest has done all it was called for.
    pub(crate) fn succeeded(&self, pass: Pass, log: Log) {
        if let Some(Change::Closed { fails }) = self.breaker(|breaker| breaker.succeeded(pass)) {
            self.resting.take();
            log.write(
                NOTICE,
                format_args!(
                    "http_wasm guest \"{}\": works again after {fails} failures in a row",
                    self.name
                ),
            );
        }
    }

    /// It did not: says so, and takes it out of service when that is the rule.
    pub(crate) fn failed(&self, pass: Pass, fault: &Fault, r: Request) {
        let log = r.log();
        self.meter.count(Counter::Failed(fault.cause()));
        // Who debugs, be it one connection (debug_connection), wants to see them all.
        let said = match log.enabled(Level::Debug) {
            true => Some(0),
            false => self.said.borrow_mut().say(fault.kind(), worker::now()),
        };
        // Looked up only for a line that is written.
        let who = || Who { name: &self.name, request_id: MainConf::request_id_of(r) };
        if let Some(suppressed) = said {
            fault.log(&who(), suppressed, log);
        }
        if !fault.is_the_guests() {
            return;
        }
        let change = self.breaker(|breaker| breaker.failed(pass, worker::now()));
        if let Some(Change::Opened { fails, backoff }) = change {
            self.resting.replace(Some(Meter::hold(&self.meter, Gauge::Resting)));
            let last = fault.to_string();
            log.write(
                ERR,
                format_args!(
                    "{}: failed {fails} times in a row and is not called for {} ms; the last \
                     time: {}",
                    who(),
                    backoff.as_millis(),
                    Escaped(last.as_bytes())
                ),
            );
        }
    }

    /// Says once that the guest returns something other than 0 or 1 as "next".
    pub(crate) fn warn_odd_next(&self, log: Log) {
        if !self.odd_next.replace(true) {
            log.write(
                WARN,
                format_args!(
                    "http_wasm guest \"{}\": handle_request returned a next value other than \
                     0 and 1, taken as 1",
                    self.name
                ),
            );
        }
    }
}

/// The timer of a plugin's idle instances has gone off.
unsafe extern "C" fn on_expiry(event: *mut ngx_event_t) {
    guard((), || {
        // SAFETY: the timer's data is the plugin it is a part of, kept in an Rc (see watch_idle).
        let plugin = unsafe {
            let plugin = (*event).data.cast_const().cast::<Plugin>();
            Rc::increment_strong_count(plugin);
            Rc::from_raw(plugin)
        };
        plugin.expire();
        Plugin::watch_idle(&plugin);
    });
}

/// `worker_connections`: no more requests than that are under way on HTTP/1.
fn connections() -> usize {
    // SAFETY: nginx sets ngx_cycle and its connection count before a worker serves requests.
    unsafe { (*nginx_sys::ngx_cycle).connection_n }
}

/// An instance that waits for requests.
struct Idle {
    instance: Box<Metered>,
    /// Requests it has served.
    served: u64,
    since: Duration,
}

/// An instance pinned to one exchange. Dropping it gives the instance back, or its place when the
/// instance cannot or shall not be used again.
pub(crate) struct Lease {
    plugin: Rc<Plugin>,
    instance: Option<Box<Metered>>,
    served: u64,
    pass: Pass,
    _in_flight: Held,
}

impl Lease {
    pub(crate) const fn plugin(&self) -> &Rc<Plugin> {
        &self.plugin
    }

    pub(crate) fn instance(&mut self) -> Option<&mut Instance<Exchange>> {
        self.instance.as_deref_mut().map(|metered| &mut **metered)
    }

    pub(crate) const fn pass(&self) -> Pass {
        self.pass
    }

    pub(crate) fn fill(&mut self, instance: Instance<Exchange>) {
        self.instance = Some(Box::new(Metered::new(&self.plugin.meter, instance)));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let instance = self.instance.take();
        let served = self.served + 1;
        let PoolSettings { idle, requests, .. } = self.plugin.settings;
        if let Some(pool) = self.plugin.pool.borrow_mut().as_mut() {
            match instance {
                Some(mut instance) if !instance.is_poisoned() && served < requests => {
                    instance.weigh();
                    pool.give_back(Idle { instance, served, since: worker::now() });
                }
                gone => {
                    drop(gone);
                    pool.forget();
                    self.plugin.slots.release(1);
                }
            }
        }
        if self.plugin.idle() > idle {
            self.plugin.trim(idle);
        }
        Plugin::watch_idle(&self.plugin);
        // Says nothing where there has been an outcome.
        self.plugin.breaker(|breaker| {
            breaker.abandoned(self.pass, worker::now());
            None::<()>
        });
        // A guest for which there was no room has waited for longer than its own next request.
        if let Some(starved) = self.plugin.slots.starved() {
            Plugin::call_next(&starved);
        }
        Plugin::call_next(&self.plugin);
    }
}
