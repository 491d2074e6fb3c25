//! How a worker serves requests with a guest: what its `http_wasm` line and the directives around it say.

use std::time::Duration;

use crate::runtime::breaker;

/// How many instances of a guest a worker has, and what happens when they are all in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolSettings {
    /// Instances, in use and idle; `worker_connections` if not set.
    pub(crate) max: Option<usize>,
    /// Instances that a worker starts when it begins, and does not drop while they are idle.
    pub(crate) min: usize,
    /// Instances that start at a time.
    pub(crate) start: usize,
    /// Idle instances that are kept.
    pub(crate) idle: usize,
    /// How long one is kept that nobody needs; for ever if not set.
    pub(crate) idle_timeout: Option<Duration>,
    /// Requests that may wait for one; `worker_connections` if not set.
    pub(crate) queue: Option<usize>,
    /// How long one waits.
    pub(crate) wait: Duration,
    /// Requests that an instance serves before it is replaced.
    pub(crate) requests: u64,
}

impl Default for PoolSettings {
    fn default() -> Self {
        PoolSettings {
            max: None,
            min: 0,
            // Two that start at a time on one thread are ready when the second would have been, and so is
            // the first.
            start: 1,
            idle: usize::MAX,
            // As long as nginx keeps idle connections to upstream servers.
            idle_timeout: Some(Duration::from_secs(60)),
            queue: None,
            wait: Duration::from_secs(1),
            requests: u64::MAX,
        }
    }
}

/// How a worker serves requests with a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Service {
    pub(crate) pool: PoolSettings,
    pub(crate) on_error: OnError,
    /// None where it is off.
    pub(crate) breaker: Option<breaker::Settings>,
}

/// What becomes of a request whose guest fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum OnError {
    /// It fails.
    #[default]
    Closed,
    /// It goes on as if the guest were not there.
    Open,
}
