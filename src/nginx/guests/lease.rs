//! An instance of a guest in the hands of one exchange, from the pool and back to it.

use std::rc::Rc;
use std::time::Duration;

use crate::host::Host;
use crate::nginx::guests::fault::Fault;
use crate::nginx::guests::plugin::Plugin;
use crate::nginx::guests::status::{Held, Meter, Metered};
use crate::nginx::ngx::timer;
use crate::runtime::breaker::Pass;
use crate::runtime::instance::Instance;
use crate::runtime::pool::Pool;
use crate::runtime::wasi::Traffic;
use crate::status::cells::Gauge;

/// An instance that waits for requests.
pub(super) struct Idle<H: Host> {
    instance: Box<Metered<H>>,
    /// Requests it has served.
    served: u64,
    pub(super) since: Duration,
}

/// An instance pinned to one exchange. Dropping it gives the instance back, or its place when the
/// instance cannot or shall not be used again.
pub(crate) struct Lease<H: Host> {
    plugin: Rc<Plugin<H>>,
    place: Place<H>,
    pass: Pass,
    /// None while nobody is served with it.
    in_flight: Option<Held>,
}

/// What a lease has of its pool.
enum Place<H: Host> {
    /// Leave to start an instance, which counts as live.
    Leave { _leave: Leave<H> },
    Instance {
        instance: Box<Metered<H>>,
        /// Requests it has served before.
        served: u64,
    },
    /// Nothing: it has been given back.
    Nothing,
}

/// One of [`Plugin::leaves`].
struct Leave<H: Host>(Rc<Plugin<H>>);

impl<H: Host> Leave<H> {
    fn of(plugin: &Rc<Plugin<H>>) -> Self {
        plugin.leaves.set(plugin.leaves.get() + 1);
        Leave(Rc::clone(plugin))
    }
}

impl<H: Host> Drop for Leave<H> {
    fn drop(&mut self) {
        self.0.leaves.set(self.0.leaves.get() - 1);
    }
}

impl<H: Host> Lease<H> {
    /// An instance that was idle.
    pub(super) fn of(plugin: &Rc<Plugin<H>>, Idle { instance, served, .. }: Idle<H>) -> Self {
        Lease::new(plugin, Place::Instance { instance, served })
    }

    /// Leave to start one, for which the pool has reserved a place.
    pub(super) fn leave(plugin: &Rc<Plugin<H>>) -> Self {
        Lease::new(plugin, Place::Leave { _leave: Leave::of(plugin) })
    }

    fn new(plugin: &Rc<Plugin<H>>, place: Place<H>) -> Self {
        plugin.line.in_use.set(plugin.line.in_use.get() + 1);
        let in_flight = Some(Meter::hold(plugin.meter(), Gauge::InFlight));
        Lease { plugin: Rc::clone(plugin), place, pass: Pass::Normal, in_flight }
    }

    pub(crate) const fn plugin(&self) -> &Rc<Plugin<H>> {
        &self.plugin
    }

    pub(crate) fn instance(&mut self) -> Option<&mut Instance<H>> {
        match &mut self.place {
            Place::Instance { instance, .. } => Some(instance),
            Place::Leave { .. } | Place::Nothing => None,
        }
    }

    /// A call has ended: what its sockets did in it.
    pub(crate) fn account(&mut self) -> Option<Traffic> {
        match &mut self.place {
            Place::Instance { instance, .. } => instance.account(),
            Place::Leave { .. } | Place::Nothing => None,
        }
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

    /// The instance that it gave leave to start.
    pub(crate) fn fill(&mut self, instance: Instance<H>) {
        let instance = Box::new(Metered::new(self.plugin.meter(), instance));
        self.place = Place::Instance { instance, served: 0 };
        // Another one may be started.
        self.plugin.line.serve();
    }

    /// The same, for whoever comes: it goes to the pool.
    pub(crate) fn give(mut self, instance: Instance<H>) {
        let instance = Box::new(Metered::new(self.plugin.meter(), instance));
        self.place = Place::Nothing;
        let since = timer::now();
        self.plugin.with_pool(|pool| pool.give_back(Idle { instance, served: 0, since }));
    }

    /// Nobody is served with it for now.
    pub(crate) fn set_aside(&mut self) {
        self.in_flight = None;
    }

    /// Gives the instance back, if it is to be used again.
    fn give_back(&mut self) {
        let plugin = &self.plugin;
        let requests = plugin.settings.requests;
        match std::mem::replace(&mut self.place, Place::Nothing) {
            Place::Nothing => {}
            leave @ Place::Leave { .. } => {
                drop(leave);
                plugin.with_pool(Pool::forget);
                plugin.line.release(1);
            }
            Place::Instance { mut instance, served } => {
                let mut served = served + 1;
                if served >= requests && plugin.guest().reset(&mut instance) {
                    served = 0;
                }
                if instance.is_poisoned() || served >= requests {
                    drop(instance);
                    plugin.with_pool(Pool::forget);
                    plugin.line.release(1);
                    if plugin.settings.min > 0 {
                        Plugin::replenish(plugin);
                    }
                } else {
                    instance.weigh();
                    let since = timer::now();
                    plugin.with_pool(|pool| pool.give_back(Idle { instance, served, since }));
                }
            }
        }
    }
}

impl<H: Host> Drop for Lease<H> {
    fn drop(&mut self) {
        let Plugin { line, .. } = &*self.plugin;
        line.in_use.set(line.in_use.get() - 1);
        self.give_back();
        // Says nothing where there has been an outcome.
        self.plugin.breaker(|breaker| {
            breaker.abandoned(self.pass, timer::now());
            None::<()>
        });
        self.plugin.line.serve();
        // What nobody has waited for.
        let keep = self.plugin.settings.idle;
        if self.plugin.idle() > keep {
            self.plugin.trim(keep);
            self.plugin.line.serve();
        }
        Plugin::watch_idle(&self.plugin);
    }
}
