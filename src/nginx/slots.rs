//! Room for instances of all guests together in this worker. A guest that finds none gets that of
//! another guest's idle instance, or stands in line for what comes free.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use super::plugin::Plugin;

/// Made with a configuration; each worker fills its own copy after the fork.
pub(crate) struct Slots {
    max: usize,
    taken: Cell<usize>,
    plugins: RefCell<Vec<Weak<Plugin>>>,
    /// Guests with a request in line that found no room, each once.
    starved: RefCell<VecDeque<Weak<Plugin>>>,
}

impl Slots {
    pub(crate) fn new(max: usize) -> Rc<Self> {
        Rc::new(Slots {
            max,
            taken: Cell::new(0),
            plugins: RefCell::default(),
            starved: RefCell::default(),
        })
    }

    /// A guest whose idle instances may have to make room.
    pub(crate) fn register(&self, plugin: &Rc<Plugin>) {
        let mut plugins = self.plugins.borrow_mut();
        // Those of earlier configurations.
        plugins.retain(|plugin| plugin.strong_count() > 0);
        plugins.push(Rc::downgrade(plugin));
    }

    /// Room for one more instance of `plugin`, to be given back with [`Slots::release`]. Without,
    /// it is told by [`Slots::starved`] when to ask again.
    pub(crate) fn claim(&self, plugin: &Rc<Plugin>) -> bool {
        // An instance that goes gives its room back first.
        if self.taken.get() >= self.max && !self.evict(plugin) {
            let mut starved = self.starved.borrow_mut();
            if !starved.iter().any(|other| std::ptr::eq(other.as_ptr(), Rc::as_ptr(plugin))) {
                starved.push_back(Rc::downgrade(plugin));
            }
            return false;
        }
        self.taken.set(self.taken.get() + 1);
        true
    }

    /// Instances are gone.
    pub(crate) fn release(&self, count: usize) {
        debug_assert!(count <= self.taken.get(), "more instances went than there were");
        self.taken.set(self.taken.get().saturating_sub(count));
    }

    /// The guest that has waited longest for room.
    pub(crate) fn starved(&self) -> Option<Rc<Plugin>> {
        let mut starved = self.starved.borrow_mut();
        std::iter::from_fn(|| starved.pop_front()).find_map(|plugin| plugin.upgrade())
    }

    /// Drops an idle instance of the guest that has most of them. `but` has none, and is in use.
    fn evict(&self, but: &Rc<Plugin>) -> bool {
        let plugins = self.plugins.borrow();
        let others = plugins.iter().filter_map(Weak::upgrade).filter(|it| !Rc::ptr_eq(it, but));
        let richest = others.map(|it| (it.idle(), it)).max_by_key(|&(idle, _)| idle);
        match richest {
            Some((1.., plugin)) => {
                plugin.drop_idle();
                true
            }
            _ => false,
        }
    }
}
