//! Room for the instances of all guests of a worker together, and the one line of calls that wait for
//! an instance. Whoever gives back an instance, or the room of one, serves the first in the line who
//! can use it; nobody who comes later is served before.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

use crate::host::Host;
use crate::nginx::guests::lease::Lease;
use crate::nginx::guests::plugin::Plugin;
use crate::nginx::guests::status::Held;

/// How far a request is through the guests of its location.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// Guests that may still come after the one that it asks for.
    pub(crate) further: usize,
    /// It has an instance of an earlier one.
    pub(crate) holds: bool,
}

/// A call that waits in the line.
pub(crate) trait Waiter {
    /// What it waits for is there: it is to look again, on a later turn of the event loop.
    fn served(&self);
}

/// A place in the line. It is given up by dropping it.
pub(crate) struct Ticket<H: Host> {
    plugin: Rc<Plugin<H>>,
    waiter: Weak<dyn Waiter>,
    lease: Cell<Option<Lease<H>>>,
    /// There is nothing to wait for any more.
    refused: Cell<bool>,
    pub(crate) standing: Standing,
    /// Since when it waits.
    pub(crate) since: Duration,
    /// How long its guest lets it wait.
    pub(crate) patience: Duration,
    _waiting: Held,
}

impl<H: Host> Ticket<H> {
    pub(crate) fn new(
        plugin: &Rc<Plugin<H>>,
        waiter: Weak<dyn Waiter>,
        standing: Standing,
        since: Duration,
        patience: Duration,
        waiting: Held,
    ) -> Rc<Self> {
        plugin.waiting.set(plugin.waiting.get() + 1);
        plugin.line.waiting.set(plugin.line.waiting.get() + 1);
        let (plugin, lease) = (Rc::clone(plugin), Cell::new(None));
        let refused = Cell::new(false);
        Rc::new(Ticket {
            plugin,
            waiter,
            lease,
            refused,
            standing,
            since,
            patience,
            _waiting: waiting,
        })
    }

    /// What it waited for, once that is there.
    pub(crate) fn redeem(&self) -> Option<Lease<H>> {
        self.lease.take()
    }

    /// Whether the start that it waited for has failed.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.get()
    }
}

impl<H: Host> Drop for Ticket<H> {
    fn drop(&mut self) {
        let Plugin { waiting, line, .. } = &*self.plugin;
        waiting.set(waiting.get() - 1);
        line.waiting.set(line.waiting.get() - 1);
    }
}

/// Made with a configuration; each worker fills its own copy after the fork.
pub(crate) struct Line<H: Host> {
    max: usize,
    taken: Cell<usize>,
    /// Those of them that are not idle.
    pub(super) in_use: Cell<usize>,
    plugins: RefCell<Vec<Weak<Plugin<H>>>>,
    /// Some may have been given up.
    tickets: RefCell<VecDeque<Weak<Ticket<H>>>>,
    /// How many have not.
    waiting: Cell<usize>,
}

impl<H: Host> Line<H> {
    /// Room for `max` instances.
    pub(crate) fn new(max: usize) -> Rc<Self> {
        Rc::new(Line {
            max,
            taken: Cell::new(0),
            in_use: Cell::new(0),
            plugins: RefCell::default(),
            tickets: RefCell::default(),
            waiting: Cell::new(0),
        })
    }

    /// A guest whose idle instances may have to make room.
    pub(crate) fn register(&self, plugin: &Rc<Plugin<H>>) {
        let mut plugins = self.plugins.borrow_mut();
        // Those of earlier configurations.
        plugins.retain(|plugin| plugin.strong_count() > 0);
        plugins.push(Rc::downgrade(plugin));
    }

    /// Room for one more instance of `plugin`, to be given back with [`Line::release`]: free, or that
    /// of another guest's idle instance; beside that of as many as others wait for.
    pub(crate) fn claim(&self, plugin: &Rc<Plugin<H>>, spoken_for: usize) -> bool {
        // An instance that goes gives its room back first. None goes for who comes later.
        let taken = self.taken.get() + spoken_for;
        if taken >= self.max && (spoken_for > 0 || !self.evict(plugin)) {
            return false;
        }
        self.taken.set(self.taken.get() + 1);
        true
    }

    /// Whether a request may take one more instance, be it an idle one: as many as it may need for its
    /// further guests are left then. Otherwise requests that have some could wait for each other, and
    /// none would ever give back what it has. So whoever took one last finds the next.
    pub(crate) fn leaves_enough(&self, standing: Standing) -> bool {
        let in_use = self.in_use.get();
        if standing.further == 0 || in_use == 0 {
            return true;
        }
        // Those that are to be ready make no room for others, and are of use to who asks for their guest.
        let kept = |plugin: Rc<Plugin<H>>| match plugin.has_company.get() {
            true => 0,
            false => plugin.idle().saturating_sub(plugin.spare()),
        };
        let plugins = self.plugins.borrow();
        let kept: usize = plugins.iter().filter_map(Weak::upgrade).map(kept).sum();
        in_use + kept + 1 + standing.further <= self.max
    }

    /// Instances are gone. Whoever says so serves the line next.
    pub(crate) fn release(&self, count: usize) {
        debug_assert!(count <= self.taken.get(), "more instances went than there were");
        self.taken.set(self.taken.get().saturating_sub(count));
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.get() == 0
    }

    /// Goes to the end of the line, and is served at once where nobody before can use what is free. Who has
    /// an instance of an earlier guest goes before those who have none, as they wait for what it will give
    /// back.
    pub(crate) fn join(&self, ticket: &Rc<Ticket<H>>) {
        {
            let mut tickets = self.tickets.borrow_mut();
            if tickets.len() > 2 * self.waiting.get() {
                // Given up behind one that still waits.
                tickets.retain(|ticket| ticket.strong_count() > 0);
            }
            let goes_before = |other: &Weak<Ticket<H>>| {
                other.upgrade().is_some_and(|other| !other.standing.holds)
            };
            let at = match ticket.standing.holds {
                true => tickets.iter().position(goes_before),
                false => None,
            };
            let at = at.unwrap_or(tickets.len());
            tickets.insert(at, Rc::downgrade(ticket));
        }
        self.serve();
    }

    /// Goes to the beginning of the line, to be served when something comes free: it has waited already.
    pub(crate) fn join_first(&self, ticket: &Rc<Ticket<H>>) {
        self.tickets.borrow_mut().push_front(Rc::downgrade(ticket));
    }

    /// Nobody gets an instance of this guest: the start that they waited for has failed.
    pub(crate) fn refuse(&self, plugin: &Rc<Plugin<H>>) {
        let is_its = |ticket: &Weak<Ticket<H>>| {
            ticket.upgrade().filter(|ticket| Rc::ptr_eq(&ticket.plugin, plugin))
        };
        let refused: Vec<_> = self.tickets.borrow().iter().filter_map(is_its).collect();
        self.tickets.borrow_mut().retain(|ticket| is_its(ticket).is_none());
        for ticket in refused {
            ticket.refused.set(true);
            if let Some(waiter) = ticket.waiter.upgrade() {
                waiter.served();
            }
        }
    }

    /// Serves the first in the line who can use what has come free, and the next, until nobody can.
    pub(crate) fn serve(&self) {
        let mut at = 0;
        // Guests that have nothing for those who come later either.
        let mut full: Vec<Rc<Plugin<H>>> = Vec::new();
        // Of how many of those another instance will be started.
        let mut spoken_for = 0;
        loop {
            let Some(ticket) = self.tickets.borrow().get(at).map(Weak::upgrade) else {
                return;
            };
            let Some(ticket) = ticket else {
                self.tickets.borrow_mut().remove(at);
                continue;
            };
            if full.iter().any(|plugin| Rc::ptr_eq(plugin, &ticket.plugin)) {
                at += 1;
                continue;
            }
            match Plugin::take(&ticket.plugin, ticket.standing, ticket.since, spoken_for) {
                Taken::Lease(lease) => {
                    self.tickets.borrow_mut().remove(at);
                    ticket.lease.set(Some(lease));
                    if let Some(waiter) = ticket.waiter.upgrade() {
                        waiter.served();
                    }
                }
                // No guest has an idle instance that could make room, or all rooms there are go to who has
                // come further.
                Taken::NoRoom if spoken_for == 0 => return,
                taken @ (Taken::Full | Taken::Starting | Taken::NoRoom) => {
                    if matches!(taken, Taken::Starting) {
                        spoken_for += 1;
                        Plugin::watch_late(&ticket.plugin, ticket.since);
                    }
                    full.push(Rc::clone(&ticket.plugin));
                    at += 1;
                }
            }
        }
    }

    /// Drops an idle instance of the guest that has most of them. `but` has none, and is in use.
    fn evict(&self, but: &Rc<Plugin<H>>) -> bool {
        let plugins = self.plugins.borrow();
        let others = plugins.iter().filter_map(Weak::upgrade).filter(|it| !Rc::ptr_eq(it, but));
        let richest = others.map(|it| (it.spare(), it)).max_by_key(|&(spare, _)| spare);
        match richest {
            Some((1.., plugin)) => {
                plugin.drop_idle();
                true
            }
            _ => false,
        }
    }
}

/// What came of asking a guest's pool.
pub(crate) enum Taken<H: Host> {
    /// An instance, or leave to start one.
    Lease(Lease<H>),
    /// As many as the guest may have are in use.
    Full,
    /// As many of it as may start at a time are being started.
    Starting,
    /// It may have another one, and there is no room for it in the worker, or for its further guests.
    NoRoom,
}
