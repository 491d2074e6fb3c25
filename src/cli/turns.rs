//! Runs guest calls: in turns that end when the guest waits or has used up its slice, until it
//! returns or its time is over. What nginx's event loop does for many requests is done for one here.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Failure;
use crate::runtime::Engine;
use crate::runtime::ticker::{Pace, Ticker};

/// What runs calls of the guests of one engine.
pub(crate) struct Turns {
    runtime: tokio::runtime::Runtime,
    pace: Arc<Pace>,
    limit: Option<Duration>,
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
    /// For calls that somebody else limits.
    pub(crate) fn unlimited(engine: &Engine) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| Failure::new(format!("cannot set up a runtime: {error}")))?;
        Ok(Turns { runtime, pace: Arc::clone(engine.pace()), limit: None, _ticker: None })
    }

    /// For calls that may take `limit` and give way after each `slice`.
    pub(crate) fn limited(
        engine: &Engine,
        slice: Duration,
        limit: Duration,
    ) -> Result<Self, Failure> {
        let ticker = Ticker::start(engine, slice, || ())
            .map_err(|error| Failure::new(format!("cannot start a thread: {error}")))?;
        let turns = Turns::unlimited(engine)?;
        Ok(Turns { limit: Some(limit), _ticker: Some(ticker), ..turns })
    }

    /// Runs a call to its end.
    pub(crate) fn run<F: Future>(&self, call: F) -> Ran<F::Output> {
        let mut call = pin!(call);
        let mut time = Duration::ZERO;
        let output = self.runtime.block_on(poll_fn(|context| {
            let began = Instant::now();
            let turn = self.pace.turn(time);
            let poll = call.as_mut().poll(context);
            drop(turn);
            time += began.elapsed();
            match poll {
                Poll::Ready(output) => Poll::Ready(Ok(output)),
                // Twice the limit: a guest in a loop is to be stopped inside, where its stack shows
                // the place.
                Poll::Pending => match self.limit {
                    Some(limit) if time > 2 * limit => Poll::Ready(Err(Overdue(limit))),
                    _ => Poll::Pending,
                },
            }
        }));
        Ran { output, time }
    }
}
