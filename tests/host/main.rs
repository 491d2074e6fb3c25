//! Guests on rings 1 and 2: no nginx, no network, an exchange in memory. One binary, because every
//! one links the whole compiler again.
#![expect(unreachable_pub, reason = "nothing in a test is reachable from elsewhere")]

mod backtrace;
mod budget;
mod examples;
mod fake;
mod fields;
mod hostile;
mod lifecycle;
mod limits;
mod loading;
mod message;
mod permissions;
mod reset;
mod snapshot;
mod sockets;
mod support;
mod time;
mod wasi;
