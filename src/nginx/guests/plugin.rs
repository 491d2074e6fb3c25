//! A guest as one `http_wasm` line configures it, with its instances in this worker.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use nginx_sys::ngx_event_t;

use crate::abi::Level;
use crate::host::Host;
use crate::nginx::guests::fault::{Fault, Kind};
use crate::nginx::guests::line::{Line, Taken, Ticket, Waiter};
use crate::nginx::guests::status::{Held, Meter, Metered};
use crate::nginx::guests::worker;
use crate::nginx::ngx::ffi::{self, guard};
use crate::nginx::ngx::log::{ERR, Escaped, INFO, Log, NOTICE, WARN, Who};
use crate::nginx::ngx::timer::{self, Timer};
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

/// A guest and its pool. Made when the configuration is read; each worker fills the pool of its own
/// copy after the fork.
pub(crate) struct Plugin<H: Host> {
    guest: Guest<H>,
    engine: Engine,
    name: Rc<str>,
    /// Made when the worker first needs it: its size is known after the whole configuration.
    pool: RefCell<Option<Pool<Idle<H>>>>,
    /// Set while instances that are idle now may be dropped for it.
    expiry: Timer,
    pub(crate) line: Rc<Line<H>>,
    /// Calls of it that wait in the line.
    pub(crate) waiting: Cell<usize>,
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

impl<H: Host> Plugin<H> {
    pub(crate) fn new(
        guest: Guest<H>,
        engine: Engine,
        line: &Rc<Line<H>>,
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
            line: Rc::clone(line),
            waiting: Cell::new(0),
            settings,
            on_error,
            breaker: breaker.map(|settings| RefCell::new(Breaker::new(settings))),
            said: RefCell::default(),
            odd_next: Cell::new(false),
            meter,
            resting: RefCell::default(),
        });
        line.register(&plugin);
        plugin
    }

    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether a request goes on without the guest when it fails.
    pub(crate) fn fails_open(&self) -> bool {
        self.on_error == OnError::Open
    }

    pub(crate) const fn guest(&self) -> &Guest<H> {
        &self.guest
    }

    pub(crate) const fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    pub(crate) fn name(&self) -> Rc<str> {
        Rc::clone(&self.name)
    }

    /// A place in the pool, with an idle instance or leave to make one; or one in the line.
    pub(crate) fn lease(
        plugin: &Rc<Self>,
        waiter: impl FnOnce() -> Weak<dyn Waiter>,
    ) -> Result<Claim<H>, Fault> {
        if plugin.engine.interrupts() {
            worker::keep_time(&plugin.engine).map_err(Fault::Ticker)?;
        }
        if let Some(left) = plugin.breaker(|breaker| breaker.refuses(timer::now())) {
            return Err(Fault::Resting(left));
        }
        // Whoever waits was there first.
        if plugin.line.is_empty()
            && let Taken::Lease(lease) = Plugin::take(plugin)
        {
            return Ok(Claim::Lease(lease));
        }
        let before = plugin.waiting.get();
        let waiting = Meter::hold(&plugin.meter, Gauge::Waiting);
        let ticket = Ticket::new(plugin, waiter(), plugin.settings.wait, waiting);
        plugin.line.join(&ticket);
        if let Some(lease) = ticket.redeem() {
            // Whoever stands before waits for something else.
            return Ok(Claim::Lease(lease));
        }
        if before >= plugin.settings.queue.unwrap_or_else(connections) {
            return Err(Fault::Busy);
        }
        Ok(Claim::Ticket(ticket))
    }

    /// What the pool has: an idle instance, or leave to make one.
    pub(crate) fn take(plugin: &Rc<Self>) -> Taken<H> {
        let mut pool = plugin.pool.borrow_mut();
        let pool =
            pool.get_or_insert_with(|| Pool::new(plugin.settings.max.unwrap_or_else(connections)));
        let idle = match pool.take() {
            Take::Idle(idle) => Some(idle),
            Take::Create if plugin.line.claim(plugin) => None,
            Take::Create => {
                pool.forget();
                return Taken::NoRoom;
            }
            Take::Full => return Taken::Full,
        };
        let (instance, served) = match idle {
            Some(Idle { instance, served, .. }) => (Some(instance), served),
            None => (None, 0),
        };
        let in_flight = Meter::hold(&plugin.meter, Gauge::InFlight);
        let plugin = Rc::clone(plugin);
        Taken::Lease(Lease { plugin, instance, served, pass: Pass::Normal, _in_flight: in_flight })
    }

    /// Makes sure that instances are dropped when they have been idle for too long.
    fn watch_idle(plugin: &Rc<Self>) {
        let Some(timeout) = plugin.settings.idle_timeout else { return };
        if plugin.expiry.is_set() {
            return;
        }
        let pool = plugin.pool.borrow();
        let Some(oldest) = pool.as_ref().and_then(Pool::oldest) else { return };
        // Those that follow closely go together.
        let after = (oldest.since + timeout).saturating_sub(timer::now()).max(timeout / 10);
        let data = ffi::c_void_of(Rc::as_ptr(plugin));
        // SAFETY: a plugin does not leave its Rc, and drops the timer with itself.
        unsafe { plugin.expiry.set(after, on_expiry::<H>, data) };
    }

    /// Drops instances that have been idle for too long.
    fn expire(&self) {
        let Some(timeout) = self.settings.idle_timeout else { return };
        let now = timer::now();
        let expired = match self.pool.borrow_mut().as_mut() {
            // Dropping them runs no guest code.
            Some(pool) => pool.expire(|idle| idle.since + timeout <= now).map(drop).count(),
            None => 0,
        };
        if expired > 0 {
            self.line.release(expired);
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
            self.line.release(dropped);
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
    /// `request_id` is looked up only for a line that is written.
    pub(crate) fn failed<'a>(
        &self,
        pass: Pass,
        fault: &Fault,
        log: Log,
        request_id: impl Fn() -> Option<&'a [u8]>,
    ) {
        self.meter.count(Counter::Failed(fault.cause()));
        // Who debugs, be it one connection (debug_connection), wants to see them all.
        let said = match log.enabled(Level::Debug) {
            true => Some(0),
            false => self.said.borrow_mut().say(fault.kind(), timer::now()),
        };
        let who = || Who { name: &self.name, request_id: request_id() };
        if let Some(suppressed) = said {
            fault.log(&who(), suppressed, log);
        }
        if !fault.is_the_guests() {
            return;
        }
        let change = self.breaker(|breaker| breaker.failed(pass, timer::now()));
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
unsafe extern "C" fn on_expiry<H: Host>(event: *mut ngx_event_t) {
    guard((), || {
        // SAFETY: the timer's data is the plugin it is a part of, kept in an Rc (see watch_idle).
        let plugin = unsafe {
            let plugin = (*event).data.cast_const().cast::<Plugin<H>>();
            Rc::increment_strong_count(plugin);
            Rc::from_raw(plugin)
        };
        plugin.expire();
        Plugin::watch_idle(&plugin);
        // What they leave is room for others.
        plugin.line.serve();
    });
}

/// `worker_connections`: no more requests than that are under way on HTTP/1.
fn connections() -> usize {
    // SAFETY: nginx sets ngx_cycle and its connection count before a worker serves requests.
    unsafe { (*nginx_sys::ngx_cycle).connection_n }
}

/// An instance that waits for requests.
struct Idle<H: Host> {
    instance: Box<Metered<H>>,
    /// Requests it has served.
    served: u64,
    since: Duration,
}

/// What asking for an instance gives.
pub(crate) enum Claim<H: Host> {
    /// One that is idle, or leave to start one.
    Lease(Lease<H>),
    /// A place in the line.
    Ticket(Rc<Ticket<H>>),
}

/// An instance pinned to one exchange. Dropping it gives the instance back, or its place when the
/// instance cannot or shall not be used again.
pub(crate) struct Lease<H: Host> {
    plugin: Rc<Plugin<H>>,
    instance: Option<Box<Metered<H>>>,
    served: u64,
    pass: Pass,
    _in_flight: Held,
}

impl<H: Host> Lease<H> {
    pub(crate) const fn plugin(&self) -> &Rc<Plugin<H>> {
        &self.plugin
    }

    pub(crate) fn instance(&mut self) -> Option<&mut Instance<H>> {
        self.instance.as_deref_mut().map(|metered| &mut **metered)
    }

    /// Asks the breaker, when the guest is about to run: others may have failed meanwhile.
    pub(crate) fn admit(&mut self) -> Result<Pass, Fault> {
        let pass = self.plugin.breaker(|breaker| Some(breaker.admit(timer::now())));
        self.pass = pass.unwrap_or(Ok(Pass::Normal)).map_err(Fault::Resting)?;
        Ok(self.pass)
    }

    pub(crate) const fn pass(&self) -> Pass {
        self.pass
    }

    pub(crate) fn fill(&mut self, instance: Instance<H>) {
        self.instance = Some(Box::new(Metered::new(&self.plugin.meter, instance)));
    }
}

impl<H: Host> Drop for Lease<H> {
    fn drop(&mut self) {
        let mut instance = self.instance.take();
        let mut served = self.served + 1;
        let PoolSettings { idle, requests, .. } = self.plugin.settings;
        if served >= requests
            && let Some(instance) = &mut instance
            && self.plugin.guest.reset(instance)
        {
            served = 0;
        }
        if let Some(pool) = self.plugin.pool.borrow_mut().as_mut() {
            match instance {
                Some(mut instance) if !instance.is_poisoned() && served < requests => {
                    instance.weigh();
                    pool.give_back(Idle { instance, served, since: timer::now() });
                }
                gone => {
                    drop(gone);
                    pool.forget();
                    self.plugin.line.release(1);
                }
            }
        }
        if self.plugin.idle() > idle {
            self.plugin.trim(idle);
        }
        Plugin::watch_idle(&self.plugin);
        // Says nothing where there has been an outcome.
        self.plugin.breaker(|breaker| {
            breaker.abandoned(self.pass, timer::now());
            None::<()>
        });
        self.plugin.line.serve();
    }
}
