//! A guest as one `http_wasm` line configures it, with its instances in this worker.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use nginx_sys::ngx_int_t;

use super::exchange::Exchange;
use super::ffi::{INTERNAL_SERVER_ERROR, SERVICE_UNAVAILABLE};
use super::log::{ERR, Escaped, Log, WARN};
use super::worker;
use crate::error::{CallError, LoadError};
use crate::runtime::Engine;
use crate::runtime::guest::Guest;
use crate::runtime::instance::Instance;
use crate::runtime::pool::{Pool, Take};

/// A guest and its pool. Made when the configuration is read; each worker fills the pool of its own
/// copy after the fork.
pub(crate) struct Plugin {
    guest: Guest<Exchange>,
    engine: Engine,
    name: Rc<str>,
    /// Made when the worker first needs it: its size is known after the whole configuration.
    pool: RefCell<Option<Pool<Instance<Exchange>>>>,
    odd_next: Cell<bool>,
}

impl Plugin {
    pub(crate) fn new(guest: Guest<Exchange>, engine: Engine) -> Self {
        Plugin {
            engine,
            name: guest.name().into(),
            guest,
            pool: RefCell::default(),
            odd_next: Cell::new(false),
        }
    }

    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) const fn guest(&self) -> &Guest<Exchange> {
        &self.guest
    }

    pub(crate) fn name(&self) -> Rc<str> {
        Rc::clone(&self.name)
    }

    /// A place in the pool: an idle instance, or leave to make one.
    pub(crate) fn lease(plugin: &Rc<Plugin>) -> Result<Lease, Fault> {
        worker::keep_time(&plugin.engine).map_err(Fault::Ticker)?;
        let mut pool = plugin.pool.borrow_mut();
        let instance = match pool.get_or_insert_with(|| Pool::new(connections())).take() {
            Take::Idle(instance) => Some(instance),
            Take::Create => None,
            Take::Full => return Err(Fault::Busy),
        };
        Ok(Lease { plugin: Rc::clone(plugin), instance })
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

/// `worker_connections`: no more requests than that are under way on HTTP/1.
fn connections() -> usize {
    // SAFETY: nginx sets ngx_cycle and its connection count before a worker serves requests.
    unsafe { (*nginx_sys::ngx_cycle).connection_n }
}

/// An instance pinned to one exchange. Dropping it gives the instance back, or its place when the
/// instance cannot be used again.
pub(crate) struct Lease {
    plugin: Rc<Plugin>,
    instance: Option<Instance<Exchange>>,
}

impl Lease {
    pub(crate) const fn plugin(&self) -> &Rc<Plugin> {
        &self.plugin
    }

    pub(crate) const fn instance(&mut self) -> Option<&mut Instance<Exchange>> {
        self.instance.as_mut()
    }

    pub(crate) fn fill(&mut self, instance: Instance<Exchange>) {
        self.instance = Some(instance);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let instance = self.instance.take();
        if let Some(pool) = self.plugin.pool.borrow_mut().as_mut() {
            match instance {
                Some(instance) if !instance.is_poisoned() => pool.give_back(instance),
                _ => pool.forget(),
            }
        }
    }
}

/// Why a guest did not get to its answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// A call ended in a trap, an exit or a broken rule.
    #[error(transparent)]
    Call(CallError),
    /// A further instance could not be started.
    #[error("cannot start an instance: {0}")]
    Start(LoadError),
    /// The thread that measures its time could not be started.
    #[error("cannot start a thread: {0}")]
    Ticker(io::Error),
    /// It used up its time in many short runs.
    #[error("ran for longer than {} ms and was stopped", .0.as_millis())]
    Timeout(Duration),
    /// Every instance is in use.
    #[error("all instances are in use")]
    Busy,
}

impl Fault {
    /// What the client gets to know of it.
    pub(crate) const fn status(&self) -> ngx_int_t {
        match self {
            Fault::Call(_) | Fault::Timeout(_) => INTERNAL_SERVER_ERROR,
            Fault::Start(_) | Fault::Ticker(_) | Fault::Busy => SERVICE_UNAVAILABLE,
        }
    }

    /// One line for the reason, one for each frame of the guest's stack.
    pub(crate) fn log(&self, plugin: &Plugin, log: Log) {
        let name = &plugin.name;
        let text = self.to_string();
        log.write(ERR, format_args!("http_wasm guest \"{name}\": {}", Escaped(text.as_bytes())));
        let backtrace = match self {
            Fault::Call(error) => error.backtrace(),
            Fault::Start(error) => error.backtrace(),
            Fault::Ticker(_) | Fault::Timeout(_) | Fault::Busy => None,
        };
        for frame in backtrace.iter().flat_map(|frames| frames.lines()) {
            log.write(
                ERR,
                format_args!("http_wasm guest \"{name}\":   {}", Escaped(frame.as_bytes())),
            );
        }
    }
}
