//! A guest's call as a future, with its times. It is polled from nginx's callbacks and nowhere else,
//! and when what it waits for is there, and not before: so there are no wakers and no queue.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use nginx_sys::ngx_int_t;

use crate::nginx::exchange::host::{Lease, Plugin};
use crate::nginx::exchange::wait::Wait;
use crate::nginx::guests::worker::TURN_COST;
use crate::runtime::ticker::Ran;
use crate::status::cells::{Counter, Timed};

/// How a `handle_request` ended.
pub(crate) enum Asked {
    /// The guest's response is the response.
    Answered,
    /// The next handler's turn.
    Passed {
        /// The pinned instance and the guest's request context; none where nothing is owed.
        owed: Option<(Lease, u32)>,
        /// The body that it may look at again, or that its own takes the place of, must be here
        /// before the next handler runs.
        needs_body: bool,
    },
    /// The body that it needs is here, or lost.
    Received,
    /// It failed and that is logged; the client gets this status.
    Failed(ngx_int_t),
}

/// How a `handle_response` ended.
pub(crate) enum Responded {
    /// It returned.
    Finished,
    /// As [`Asked::Failed`].
    Failed(ngx_int_t),
}

/// A call under way.
pub(crate) struct Call<T> {
    pub(crate) plugin: Rc<Plugin>,
    future: Pin<Box<dyn Future<Output = T>>>,
    /// What it is a call of, until it is over; none if of neither.
    timed: Option<Timed>,
    /// When its first turn began.
    began: Option<Instant>,
    /// How long all turns were together, and from the first one's beginning to the last one's end.
    spent: Duration,
    lasted: Duration,
    /// What they cost the worker.
    ran: Ran,
}

/// How long a call took.
pub(crate) struct Times {
    pub(crate) timed: Timed,
    /// From its beginning, waiting included.
    pub(crate) lasted: Option<Duration>,
}

impl<T> Call<T> {
    pub(crate) fn new(
        plugin: &Rc<Plugin>,
        timed: Option<Timed>,
        future: impl Future<Output = T> + 'static,
    ) -> Self {
        Call {
            plugin: Rc::clone(plugin),
            future: Box::pin(future),
            timed,
            began: None,
            spent: Duration::ZERO,
            lasted: Duration::ZERO,
            ran: Ran::default(),
        }
    }

    /// Lets the guest run until it returns, waits, or has used up its slice.
    pub(crate) fn turn(&mut self) -> Poll<T> {
        let began = Instant::now();
        let turn = self.plugin.engine().pace().turn(self.ran);
        let mut context = Context::from_waker(Waker::noop());
        let poll = self.future.as_mut().poll(&mut context);
        self.ran = turn.end();
        let ended = Instant::now();
        let spent = ended - began;
        match self.began {
            None => {
                self.began = Some(began);
                self.spent = spent;
                self.lasted = spent;
            }
            Some(first) => {
                self.ran.charge(TURN_COST);
                self.spent += spent;
                self.lasted = ended - first;
            }
        }
        poll
    }

    /// It has ended: its times are counted, once, and returned.
    pub(crate) fn over(&mut self) -> Option<Times> {
        let timed = self.timed.take()?;
        self.plugin.meter().observe(timed, self.spent);
        Some(Times { timed, lasted: self.began.map(|_| self.lasted) })
    }

    /// What it may run, once it has used that up in turns too short for the ticker to see.
    pub(crate) fn overdue(&self) -> Option<Duration> {
        self.ran.is_overdue().then(|| self.ran.limit())
    }
}

impl<T> Drop for Call<T> {
    fn drop(&mut self) {
        // One of `handle_response` has been counted as passed on.
        if self.timed == Some(Timed::Request) {
            self.plugin.meter().count(Counter::Aborted);
        }
    }
}

/// A call that waits.
pub(crate) struct Pending<T> {
    pub(crate) call: Call<T>,
    /// None once it is over.
    pub(crate) wait: Option<Wait>,
}
