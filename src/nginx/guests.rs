//! Guests in a worker: each with its pool of instances, the line of requests that wait for one, what
//! happens when it fails, and its figures.

pub(crate) mod fault;
pub(crate) mod lease;
pub(crate) mod line;
pub(crate) mod plugin;
pub(crate) mod service;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod worker;
