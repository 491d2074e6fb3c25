//! The program `http-wasm` as its users meet it: run as a process, on real guests, real servers.
//!
//! The guests are those of `make guests`; servers are docker-registry and the nginx, with the module,
//! that TEST_NGINX_BINARY and TEST_NGINX_MODULE name. `make clitest` sees to all of them.
#![expect(unreachable_pub, reason = "nothing in a test is reachable from elsewhere")]

mod check;
mod compile;
mod docs;
mod fetch;
mod limits;
mod nginx;
mod outbound;
mod run;
mod script;
mod servers;
mod shell;
mod support;
