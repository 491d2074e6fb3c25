//! Runs guest calls: in turns that end when the guest waits or has used up its slice, until it
//! returns or its time is over. What nginx's event loop does for many requests is done for one here.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Failure;
use crate::runtime::Engine;
use crate::runtime::ticker::{self, Pace, Ticker};

/// What runs calls of the guests of one engine.
pub(crate) struct Turns {
    runtime: tokio::runtime::Runtime,
    pace: Arc<Pace>,
    _ticker: Option<Ticker>,
}

/// How a call went.
pub(crate) struct Ran<T> {
    /// Why it was given up when it was: it used up its time in turns too short for the ticker to
    /// see, as happens on a busy machine.
    pub(crate) output: Result<T, Overdue>,
    /// How long the guest ran, waiting not counted.
    pub(crate) time: Duration,
}

/// A call that was given up.
#[derive(Debug, thiserror::Error)]
#[error("ran for longer than {} ms and was stopped", .0.as_millis())]
pub(crate) struct Overdue(Duration);

impl Turns {
    /// For calls that give way after each `slice`, if they have one.
    pub(crate) fn new(engine: &Engine, slice: Option<Duration>) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| Failure::new(format!("cannot set up a runtime: {error}")))?;
        let ticker = slice
            .map(|slice| Ticker::start(engine, slice, || ()))
            .transpose()
            .map_err(|error| Failure::new(format!("cannot start a thread: {error}")))?;
        Ok(Turns { runtime, pace: Arc::clone(engine.pace()), _ticker: ticker })
    }

    /// Runs a call to its end.
    pub(crate) fn run<F: Future>(&self, call: F) -> Ran<F::Output> {
        let mut call = pin!(call);
        let mut time = Duration::ZERO;
        let mut ran = ticker::Ran::default();
        let output = self.runtime.block_on(poll_fn(|context| {
            let began = Instant::now();
            let turn = self.pace.turn(ran);
            let poll = call.as_mut().poll(context);
            ran = turn.end();
            time += began.elapsed();
            match poll {
                Poll::Ready(output) => Poll::Ready(Ok(output)),
                Poll::Pending if ran.is_overdue() => Poll::Ready(Err(Overdue(ran.limit()))),
                Poll::Pending => Poll::Pending,
            }
        }));
        Ran { output, time }
    }
}
