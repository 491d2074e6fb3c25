//! http-wasm for nginx: hosts guests of the `http_handler` ABI.
//!
//! ```text
//!     abi   http   escaped   logged     bytes, integers, text; each knows nothing
//!        \    |    /
//!            memory                     (ptr, len) becomes bytes here and nowhere else
//!              |
//!              host                     trait Host, permissions, host functions
//!                |
//!           host::linker                the first file that says "wasmtime"
//!                |
//!             runtime     status        guest, instance, pool, wasi; figures: no nginx
//!                |          |
//! ---------------+----------+--------- feature "module"
//!              nginx                    directives, access handler, filters; all unsafe code
//! ```
//!
//! The program `http-wasm` (feature "cli") stands beside nginx, on what is above the line.
//!
//! Arrows point down only. `cargo test --no-default-features` builds everything above the line
//! without nginx and proves it.

#[forbid(unsafe_code)]
pub mod abi;
#[cfg(feature = "cli")]
#[forbid(unsafe_code)]
pub mod cli;
#[forbid(unsafe_code)]
pub mod escaped;
#[forbid(unsafe_code)]
pub mod host;
#[forbid(unsafe_code)]
pub mod http;
#[forbid(unsafe_code)]
pub mod logged;
#[forbid(unsafe_code)]
pub mod memory;
#[forbid(unsafe_code)]
pub mod runtime;
#[forbid(unsafe_code)]
pub mod status;

#[cfg(feature = "module")]
mod nginx;
#[cfg(feature = "fuzzing")]
pub use nginx::fuzzing;
