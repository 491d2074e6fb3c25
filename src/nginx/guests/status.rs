//! The figures of guests in this process ([`Meter`]), and what becomes of each guest of a request
//! ([`Record`]). Where the figures are is in [`zone`], how they are shown in [`page`].

pub(crate) mod page;
pub(crate) mod zone;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::host::Host;
use crate::nginx::ngx::log::Escaped;
use crate::nginx::ngx::module;
use crate::nginx::ngx::request::Request;
use crate::nginx::ngx::timer;
use crate::runtime::instance::Instance;
use crate::runtime::precompiled::{Sha256Digest, hex};
use crate::runtime::wasi::Traffic;
use crate::status::About;
use crate::status::cells::{Cells, Counter, Failure, Gauge, Timed};
use crate::status::directory::Identity;
use zone::Place;

/// The guests of a configuration that have figures of their own: those that differ in name, file or
/// configuration.
#[derive(Default)]
pub(crate) struct Meters {
    by_identity: HashMap<Identity, Rc<Meter>>,
    /// Rows and places of the zone they are in.
    table_size: Cell<(usize, usize)>,
}

/// What tells guests apart that have figures of their own, beside the digest of their files.
pub(crate) struct Identified<'a> {
    pub(crate) name: &'a str,
    pub(crate) path: &'a [u8],
    pub(crate) config: &'a [u8],
    /// Where the line is that asks for it: file and line.
    pub(crate) place: String,
}

impl Meters {
    /// Those of the configuration that a request is served under, whose record begins with them.
    pub(crate) fn of_request<'a>(r: Request) -> Option<&'a Meters> {
        r.main_conf(module::ctx_index())
    }

    /// The figures of the guest that a line asks for: what its file has for a digest and a length,
    /// and how long loading it took.
    pub(crate) fn of(
        &mut self,
        guest: &Identified<'_>,
        source: &Sha256Digest,
        file_bytes: u64,
        load: Duration,
    ) -> Rc<Meter> {
        let mut hash = Sha256::new();
        for part in [guest.name.as_bytes(), guest.path, source, guest.config] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let hash: [u8; 32] = hash.finalize().into();
        let identity: Identity =
            std::array::from_fn(|at| u64::from_le_bytes(hash.as_chunks().0[at]));
        let meter = self.by_identity.entry(identity).or_insert_with(|| {
            Rc::new(Meter {
                about: RefCell::new(About {
                    name: guest.name.to_owned(),
                    path: Escaped(guest.path).to_string(),
                    sha256: hex(source),
                    file_bytes,
                    ..About::default()
                }),
                place: Cell::new(None),
                cells: Cell::new(None),
                own: OnceCell::new(),
            })
        });
        let mut about = meter.about.borrow_mut();
        about.load += load;
        if !about.places.contains(&guest.place) {
            about.places.push(guest.place.clone());
        }
        Rc::clone(meter)
    }

    fn iter(&self) -> impl Iterator<Item = (&Identity, &Rc<Meter>)> {
        self.by_identity.iter()
    }
}

/// The figures of one guest in this process.
pub(crate) struct Meter {
    about: RefCell<About>,
    /// Where they are kept; set when nginx has made the zone.
    place: Cell<Option<Place>>,
    /// Those of this process there, once it has asked for them.
    cells: Cell<Option<&'static Cells>>,
    /// In their stead while there are none: nobody reads them.
    own: OnceCell<Box<Cells>>,
}

impl Meter {
    fn cells(&self) -> &Cells {
        match self.cells.get() {
            Some(cells) => cells,
            None => self.attach(),
        }
    }

    #[cold]
    fn attach(&self) -> &Cells {
        self.cells.set(self.place.get().and_then(Place::cells));
        match self.cells.get() {
            Some(cells) => cells,
            None => self.own.get_or_init(Box::default),
        }
    }

    /// The memory goes, or becomes somebody else's.
    fn detach(&self) {
        self.place.set(None);
        self.cells.set(None);
    }

    /// It happened once more.
    pub(crate) fn count(&self, counter: Counter) {
        self.cells().count(counter, timer::now());
    }

    /// A call ended after it had run for so long.
    pub(crate) fn observe(&self, timed: Timed, time: Duration) {
        self.cells().observe(timed, time, timer::now());
    }

    /// Sockets of the guest have done this.
    fn traffic(&self, traffic: &Traffic) {
        let waited = u64::try_from(traffic.waited.as_nanos()).unwrap_or(u64::MAX);
        let counts = [
            (Counter::Connected, traffic.connected),
            (Counter::Refused, traffic.refused),
            (Counter::Unconnected, traffic.failed),
            (Counter::SentBytes, traffic.sent_bytes),
            (Counter::ReceivedBytes, traffic.received_bytes),
            (Counter::SocketWaitNs, waited),
        ];
        for (counter, count) in counts {
            self.cells().add(counter, count);
        }
    }

    /// The guest has enabled these.
    pub(crate) fn enabled(&self, features: crate::abi::Features) {
        self.cells().enabled(features.bits());
    }

    /// There is one more of it, for as long as the result lives.
    pub(crate) fn hold(meter: &Rc<Meter>, gauge: Gauge) -> Held {
        let mut held = Held { meter: Rc::clone(meter), gauge, by: 0 };
        held.set(1);
        held
    }
}

/// A part of a gauge.
pub(crate) struct Held {
    meter: Rc<Meter>,
    gauge: Gauge,
    by: u64,
}

impl Held {
    fn set(&mut self, now: u64) {
        let cells = self.meter.cells();
        if now > self.by {
            cells.raise(self.gauge, now - self.by);
        } else if now < self.by {
            cells.lower(self.gauge, self.by - now);
        }
        self.by = now;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// An instance that is counted.
pub(crate) struct Metered<H: Host> {
    instance: Instance<H>,
    memory: Held,
    sockets: Held,
    _count: Held,
}

impl<H: Host> Metered<H> {
    pub(crate) fn new(meter: &Rc<Meter>, instance: Instance<H>) -> Self {
        meter.count(Counter::InstancesStarted);
        let held = |gauge| Held { meter: Rc::clone(meter), gauge, by: 0 };
        let (memory, sockets) = (held(Gauge::MemoryBytes), held(Gauge::Sockets));
        let count = Meter::hold(meter, Gauge::Instances);
        let mut metered = Metered { instance, memory, sockets, _count: count };
        metered.account();
        metered.weigh();
        metered
    }

    /// After a call: what its sockets did in it.
    pub(crate) fn account(&mut self) -> Option<Traffic> {
        let traffic = self.instance.take_traffic()?;
        self.memory.meter.traffic(&traffic);
        Some(traffic)
    }

    /// After a call: it may have grown.
    pub(crate) fn weigh(&mut self) {
        self.memory.set(self.instance.memory_bytes() as u64);
        self.sockets.set(self.instance.open_sockets() as u64);
    }
}

impl<H: Host> Drop for Metered<H> {
    fn drop(&mut self) {
        // Of a call that was given up.
        self.account();
    }
}

impl<H: Host> Deref for Metered<H> {
    type Target = Instance<H>;

    fn deref(&self) -> &Self::Target {
        &self.instance
    }
}

impl<H: Host> DerefMut for Metered<H> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.instance
    }
}

/// What became of a request at one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Answered,
    Failed(Failure),
}

impl Outcome {
    /// As `$wasm_outcome` has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Answered => "answered",
            Outcome::Failed(failure @ (Failure::Timeout | Failure::Busy | Failure::Resting)) => {
                failure.name()
            }
            Outcome::Failed(_) => "failed",
        }
    }
}

/// One guest of a request, for variables.
#[derive(Default)]
pub(crate) struct Record {
    /// None while `handle_request` has not ended.
    pub(crate) outcome: Option<Outcome>,
    /// From the call to its end, waiting included.
    pub(crate) request: Option<Duration>,
    pub(crate) response: Option<Duration>,
    /// What its sockets did in both, if anything.
    pub(crate) traffic: Option<Box<Traffic>>,
}
