//! A guest as one `http_wasm` line configures it, with its instances in this worker.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use nginx_sys::ngx_event_t;

use crate::abi::Level;
use crate::host::Host;
use crate::nginx::guests::fault::{Fault, Kind};
use crate::nginx::guests::lease::{Idle, Lease};
use crate::nginx::guests::line::{Line, Standing, Taken, Ticket, Waiter};
use crate::nginx::guests::service::{OnError, PoolSettings, Service};
use crate::nginx::guests::start::{Alone, Naps, Start, Starts};
use crate::nginx::guests::status::{Held, Meter};
use crate::nginx::guests::worker;
use crate::nginx::ngx::ffi::{self, guard};
use crate::nginx::ngx::log::{ERR, Escaped, INFO, Log, NOTICE, WARN, Who};
use crate::nginx::ngx::timer::{self, Timer};
use crate::runtime::Engine;
use crate::runtime::breaker::{Breaker, Change, Pass};
use crate::runtime::guest::Guest;
use crate::runtime::instance::Instance;
use crate::runtime::pool::{Pool, Take};
use crate::runtime::throttle::Throttle;
use crate::status::cells::{Counter, Gauge};

/// What is known of how long the starts of a guest take.
#[derive(Clone, Copy, Debug)]
enum StartTime {
    /// One turn, as far as there were any.
    AtOnce,
    /// Longer; none has come to its end yet.
    Unknown,
    /// The last one took `time`, and came to its end at `ended`.
    Took { time: Duration, ended: Duration },
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
    /// It is one of several guests of a location.
    pub(crate) has_company: Cell<bool>,
    /// Calls of it that wait in the line.
    pub(crate) waiting: Cell<usize>,
    /// Leases that are leave to start an instance, or to go on with it.
    pub(super) leaves: Cell<usize>,
    /// Instances whose start goes on by itself.
    pub(crate) starts: Starts<H>,
    start_time: Cell<StartTime>,
    /// Set while somebody waits who may have another instance started for him later.
    late: Timer,
    /// Set while an instance that is to be ready is to be tried again.
    retry: Timer,
    /// What start functions are lent.
    alone: Alone<H>,
    pub(super) settings: PoolSettings,
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
        service: Service,
        meter: Rc<Meter>,
        alone: Alone<H>,
    ) -> Rc<Self> {
        let Service { pool: settings, on_error, breaker } = service;
        let plugin = Rc::new(Plugin {
            engine,
            name: guest.name().into(),
            guest,
            pool: RefCell::default(),
            expiry: Timer::new(),
            line: Rc::clone(line),
            has_company: Cell::new(false),
            waiting: Cell::new(0),
            leaves: Cell::new(0),
            starts: Starts::default(),
            start_time: Cell::new(StartTime::AtOnce),
            late: Timer::new(),
            retry: Timer::new(),
            alone,
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

    /// What a start of it is lent, in a worker.
    pub(crate) fn alone(&self, naps: &Rc<Naps>) -> H {
        (self.alone)(self.name(), naps)
    }

    /// Whether an instance is being started that does not come at once.
    pub(crate) fn is_starting(&self) -> bool {
        self.starts.count() > 0
    }

    /// Whether another one may be.
    pub(crate) fn may_start(&self) -> bool {
        self.starts.count() < self.settings.start
    }

    /// Whether there may be another leave to start one, for somebody who has waited since then. Of a
    /// guest that starts at once there may be as many as there is room for. Of one that takes long there
    /// are as many at a time as may start, and more instances than that only for those who have waited
    /// for as long as a start takes: most are served by what there is before.
    pub(crate) fn may_leave(&self, since: Duration) -> bool {
        let few = || self.with_pool(|pool| pool.live()) <= self.settings.start;
        let wanted = match self.start_time.get() {
            StartTime::AtOnce => return true,
            StartTime::Unknown => few(),
            StartTime::Took { time, ended } => {
                few() || timer::now().saturating_sub(since.max(ended)) >= time
            }
        };
        wanted && self.leaves.get() < self.settings.start
    }

    /// A start did not come to its end at once.
    pub(crate) fn note_slow(&self) {
        if let StartTime::AtOnce = self.start_time.get() {
            self.start_time.set(StartTime::Unknown);
        }
    }

    /// It has come to its end, and has taken so long.
    pub(crate) fn note_start(&self, time: Duration) {
        self.start_time.set(StartTime::Took { time, ended: timer::now() });
    }

    /// Somebody waits for an instance of a guest that starts slowly: the line is looked at again when one
    /// may be started for him.
    pub(crate) fn watch_late(plugin: &Rc<Self>, since: Duration) {
        let StartTime::Took { time, ended } = plugin.start_time.get() else { return };
        if plugin.late.is_set() || plugin.is_starting() {
            return;
        }
        let waited = timer::now().saturating_sub(since.max(ended));
        let left = time.saturating_sub(waited).max(Duration::from_millis(1));
        let data = ffi::c_void_of(Rc::as_ptr(plugin));
        // SAFETY: a plugin does not leave its Rc, and drops the timer with itself.
        unsafe { plugin.late.set(left, on_late::<H>, data) };
    }

    /// How long a request waits at least before another instance of a guest that starts slowly is started
    /// for it.
    pub(crate) fn usual_start(&self) -> Duration {
        match self.start_time.get() {
            StartTime::AtOnce | StartTime::Unknown => Duration::ZERO,
            StartTime::Took { time, .. } => time,
        }
    }

    /// Makes sure that its time is measured.
    pub(crate) fn keep_time(&self) -> Result<(), Fault> {
        match self.engine.interrupts() {
            true => worker::keep_time(&self.engine).map_err(Fault::Ticker),
            false => Ok(()),
        }
    }

    /// A place in the pool, with an idle instance or leave to start one; or one in the line.
    pub(crate) fn lease(
        plugin: &Rc<Self>,
        standing: Standing,
        waiter: impl FnOnce() -> Weak<dyn Waiter>,
    ) -> Result<Claim<H>, Fault> {
        plugin.keep_time()?;
        if let Some(left) = plugin.breaker(|breaker| breaker.refuses(timer::now())) {
            return Err(Fault::Resting(left));
        }
        // Whoever waits was there first.
        if plugin.line.is_empty()
            && let Taken::Lease(lease) = Plugin::take(plugin, standing, timer::now(), 0)
        {
            return Ok(Claim::Lease(lease));
        }
        let before = plugin.waiting.get();
        let ticket = Plugin::ticket(plugin, standing, timer::now(), waiter());
        plugin.line.join(&ticket);
        if let Some(lease) = ticket.redeem() {
            // Whoever stands before waits for something else.
            return Ok(Claim::Lease(lease));
        }
        // The queue is for those who wait because all instances are in use.
        if before >= plugin.settings.queue.unwrap_or_else(connections) && !plugin.is_starting() {
            return Err(Fault::Busy);
        }
        Ok(Claim::Ticket(ticket))
    }

    fn ticket(
        plugin: &Rc<Self>,
        standing: Standing,
        since: Duration,
        waiter: Weak<dyn Waiter>,
    ) -> Rc<Ticket<H>> {
        let waiting = Meter::hold(&plugin.meter, Gauge::Waiting);
        Ticket::new(plugin, waiter, standing, since, plugin.settings.wait, waiting)
    }

    /// Lets a start go on by itself; without one, others are under way. Whoever had leave for it, and has
    /// waited since then, waits before all others for whatever comes free first.
    pub(crate) fn wait_for_start(
        lease: Lease<H>,
        start: Option<Start<H>>,
        standing: Standing,
        since: Duration,
        waiter: Weak<dyn Waiter>,
    ) -> Rc<Ticket<H>> {
        let plugin = Rc::clone(lease.plugin());
        let ticket = Plugin::ticket(&plugin, standing, since, waiter);
        // First, so that nobody is served before it.
        plugin.line.join_first(&ticket);
        match start {
            Some(start) => start.detach(lease),
            None => drop(lease),
        }
        ticket
    }

    /// What the pool has for somebody who has waited since then: an idle instance, or leave to start one.
    /// Others wait already for the room of `spoken_for` instances.
    pub(crate) fn take(
        plugin: &Rc<Self>,
        standing: Standing,
        since: Duration,
        spoken_for: usize,
    ) -> Taken<H> {
        if !plugin.line.leaves_enough(standing) {
            return Taken::NoRoom;
        }
        let taken = plugin.with_pool(Pool::take);
        match taken {
            Take::Idle(idle) => Taken::Lease(Lease::of(plugin, idle)),
            Take::Create => Plugin::leave(plugin, plugin.may_leave(since), spoken_for),
            Take::Full => Taken::Full,
        }
    }

    /// Leave to start an instance, which the pool has room for.
    fn leave(plugin: &Rc<Self>, may_leave: bool, spoken_for: usize) -> Taken<H> {
        let refused = match may_leave {
            false => Taken::Starting,
            true if plugin.line.claim(plugin, spoken_for) => {
                return Taken::Lease(Lease::leave(plugin));
            }
            true => Taken::NoRoom,
        };
        plugin.with_pool(Pool::forget);
        refused
    }

    pub(super) fn with_pool<T>(&self, use_it: impl FnOnce(&mut Pool<Idle<H>>) -> T) -> T {
        let mut pool = self.pool.borrow_mut();
        let max = || self.settings.max.unwrap_or_else(connections);
        use_it(pool.get_or_insert_with(|| Pool::new(max())))
    }

    /// Starts what is missing of the instances that are to be ready, as many at a time as may start: in a
    /// worker that begins, when one is gone, when one has started, and after a while where that has failed.
    pub(crate) fn replenish(plugin: &Rc<Self>) {
        let PoolSettings { min, start, .. } = plugin.settings;
        let missing = || plugin.with_pool(|pool| pool.live()) < min;
        while missing() && plugin.leaves.get() < start {
            match Plugin::further(plugin) {
                Some(lease) => Start::of(plugin).detach(lease),
                None => return Plugin::replenish_later(plugin),
            }
        }
    }

    fn replenish_later(plugin: &Rc<Self>) {
        if plugin.settings.min > 0 && !plugin.retry.is_set() {
            let data = ffi::c_void_of(Rc::as_ptr(plugin));
            // SAFETY: a plugin does not leave its Rc, and drops the timer with itself.
            unsafe { plugin.retry.set(RETRY, on_retry::<H>, data) };
        }
    }

    /// Leave to start an instance that nobody waits for.
    fn further(plugin: &Rc<Self>) -> Option<Lease<H>> {
        if !plugin.with_pool(Pool::reserve) {
            return None;
        }
        let Taken::Lease(mut lease) = Plugin::leave(plugin, true, 0) else { return None };
        // Dropped, it starts nothing.
        lease.admit().is_ok().then_some(lease)
    }

    /// A start that went on by itself has failed: whoever waits for this guest has nothing to wait for
    /// any more where no other instance lives.
    pub(crate) fn start_failed(lease: Lease<H>, fault: &Fault) {
        let plugin = Rc::clone(lease.plugin());
        plugin.failed(lease.pass(), fault, Log::cycle(), || None);
        if plugin.with_pool(|pool| pool.live()) <= 1 {
            plugin.line.refuse(&plugin);
        }
        drop(lease);
        Plugin::replenish_later(&plugin);
    }

    /// An instance has started that nobody in particular waits for.
    pub(crate) fn start_ended(lease: Lease<H>, instance: Instance<H>) {
        let plugin = Rc::clone(lease.plugin());
        lease.give(instance);
        Plugin::replenish(&plugin);
    }

    /// Makes sure that instances are dropped when they have been idle for too long.
    pub(super) fn watch_idle(plugin: &Rc<Self>) {
        let Some(timeout) = plugin.settings.idle_timeout else { return };
        if plugin.expiry.is_set() {
            return;
        }
        let pool = plugin.pool.borrow();
        let spare = |pool: &&Pool<_>| pool.live() > plugin.settings.min;
        let Some(oldest) = pool.as_ref().filter(spare).and_then(Pool::oldest) else { return };
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
            Some(pool) => {
                let expired = |idle: &Idle<H>| idle.since + timeout <= now;
                pool.expire(self.settings.min, expired).map(drop).count()
            }
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
    pub(super) fn idle(&self) -> usize {
        self.pool.borrow().as_ref().map_or(0, Pool::idle)
    }

    /// Instances that wait for requests and need not be ready.
    pub(crate) fn spare(&self) -> usize {
        let pool = self.pool.borrow();
        let spare = |pool: &Pool<_>| pool.live().saturating_sub(self.settings.min);
        pool.as_ref().map_or(0, |pool| pool.idle().min(spare(pool)))
    }

    /// Drops the instance that has been idle for longest.
    pub(crate) fn drop_idle(&self) {
        self.trim(self.idle().saturating_sub(1));
    }

    /// Drops the longest idle instances until at most `keep` are idle; no guest code runs.
    pub(super) fn trim(&self, keep: usize) {
        if let Some(pool) = self.pool.borrow_mut().as_mut() {
            let dropped = pool.trim(keep).map(drop).count();
            self.line.release(dropped);
        }
    }

    /// Asks the breaker, where there is one.
    pub(super) fn breaker<T>(&self, ask: impl FnOnce(&mut Breaker) -> Option<T>) -> Option<T> {
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

/// How long after a failure an instance that is to be ready is started again.
const RETRY: Duration = Duration::from_secs(1);

/// The plugin of a timer that has gone off.
///
/// # Safety
/// The timer's data is the plugin that it is a part of, kept in an Rc.
unsafe fn plugin_of<H: Host>(event: *mut ngx_event_t) -> Rc<Plugin<H>> {
    // SAFETY: as the caller holds.
    unsafe {
        let plugin = (*event).data.cast_const().cast::<Plugin<H>>();
        Rc::increment_strong_count(plugin);
        Rc::from_raw(plugin)
    }
}

/// Another instance may be started for somebody.
unsafe extern "C" fn on_late<H: Host>(event: *mut ngx_event_t) {
    // SAFETY: see watch_late.
    guard((), || unsafe { plugin_of::<H>(event) }.line.serve());
}

/// An instance that is to be ready is tried again.
unsafe extern "C" fn on_retry<H: Host>(event: *mut ngx_event_t) {
    // SAFETY: see replenish_later.
    guard((), || Plugin::replenish(&unsafe { plugin_of::<H>(event) }));
}

/// The timer of a plugin's idle instances has gone off.
unsafe extern "C" fn on_expiry<H: Host>(event: *mut ngx_event_t) {
    guard((), || {
        // SAFETY: see watch_idle.
        let plugin = unsafe { plugin_of::<H>(event) };
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

/// What asking for an instance gives.
pub(crate) enum Claim<H: Host> {
    /// One that is idle, or leave to start one.
    Lease(Lease<H>),
    /// A place in the line.
    Ticket(Rc<Ticket<H>>),
}
