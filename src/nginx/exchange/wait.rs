//! What a call waits for, as a type. A wait owns its event, and what has to be so while it lasts;
//! dropping it undoes all of that.

use std::ffi::c_void;
use std::rc::Rc;
use std::time::Duration;

use nginx_sys::ngx_event_t;

use crate::host::{Unresolved, Waited};
use crate::nginx::ngx::hold::{Event, Guard, Pause, Watch};
use crate::nginx::ngx::request::Request;
use crate::nginx::ngx::resolve::{Lookup, Question};
use crate::nginx::ngx::socket::{Look, Watches};

/// What a call asks to wait for.
pub(crate) enum Need {
    /// The next turn of the event loop.
    Turn,
    /// Time.
    Time(Duration),
    /// An instance, for so long at most.
    Line(Duration),
    /// The client's request body.
    Body,
    /// Sockets.
    Sockets(Rc<Look>),
    /// What a name stands for.
    Name(Rc<Question>),
}

impl Need {
    /// It is not waited for: the call goes on without.
    pub(crate) fn forgo(self) {
        match self {
            Need::Turn | Need::Time(_) | Need::Line(_) | Need::Body => {}
            Need::Sockets(look) => look.waited.set(Waited::NotNow),
            Need::Name(question) => {
                question.answer.replace(Some(Err(Unresolved::NotNow)));
            }
        }
    }
}

/// Where in the request's life the wait is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// In the access phase.
    Request,
    /// With the header held.
    Response,
    /// With the header held, while more of the body is to come.
    Body,
}

/// Who is told when it is over: `handler`, with `data` in the event.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) handler: unsafe extern "C" fn(*mut ngx_event_t),
    pub(crate) data: *mut c_void,
}

/// A wait under way.
pub(crate) enum Wait {
    /// For the next turn.
    Turn { _event: Event, _meanwhile: Meanwhile, _guard: Guard },
    /// For a timer.
    Timer { _event: Event, _meanwhile: Meanwhile },
    /// For an instance, or a timer.
    Line { event: Event, _meanwhile: Meanwhile },
    /// For nginx, which reads the body and watches the client by itself.
    Body,
    /// For sockets, or a timer. The event goes last.
    Sockets { _watches: Watches, _event: Event, _meanwhile: Meanwhile },
    /// For the resolver, which has a timer. The event goes last.
    Name { _lookup: Lookup, _event: Event, _meanwhile: Meanwhile },
}

/// What has to be so while a call waits.
pub(crate) enum Meanwhile {
    /// The client is watched.
    Watched { _watch: Watch },
    /// The response is paused.
    Paused { _pause: Pause },
    /// Nothing.
    Free,
}

impl Wait {
    /// Begins to wait.
    ///
    /// # Safety
    /// The caller's data must be what its handler expects for as long as the value lives.
    pub(crate) unsafe fn begin(r: Request, need: Need, side: Side, caller: Caller) -> Self {
        // SAFETY: as the caller holds.
        let event = || unsafe { Event::new(r, caller.handler, caller.data) };
        let meanwhile = || match side {
            Side::Request => Meanwhile::Watched { _watch: Watch::on(r) },
            Side::Response => Meanwhile::Paused { _pause: Pause::on(r) },
            Side::Body => Meanwhile::Free,
        };
        match need {
            Need::Turn => {
                let event = event();
                event.next_turn();
                Wait::Turn { _event: event, _meanwhile: meanwhile(), _guard: Guard::on() }
            }
            Need::Time(time) => {
                let event = event();
                event.after(time);
                Wait::Timer { _event: event, _meanwhile: meanwhile() }
            }
            Need::Line(time) => {
                let event = event();
                event.after(time);
                Wait::Line { event, _meanwhile: meanwhile() }
            }
            Need::Body => Wait::Body,
            Need::Sockets(look) => {
                let event = event();
                // SAFETY: the event goes after the watches, and the wait before its request, whose log
                // it is.
                let watches = unsafe { Watches::begin(&look, look.time, r.log(), &event) };
                Wait::Sockets { _watches: watches, _event: event, _meanwhile: meanwhile() }
            }
            Need::Name(question) => {
                let event = event();
                // SAFETY: the event goes after the lookup.
                let lookup = unsafe { Lookup::begin(&question, &event) };
                Wait::Name { _lookup: lookup, _event: event, _meanwhile: meanwhile() }
            }
        }
    }

    /// An instance came free: it is over as soon as the code that is running allows. Anything else
    /// goes on.
    pub(crate) fn instance_came(&self) {
        match self {
            Wait::Line { event, .. } => event.hurry(),
            Wait::Turn { .. }
            | Wait::Timer { .. }
            | Wait::Body
            | Wait::Sockets { .. }
            | Wait::Name { .. } => {}
        }
    }
}
