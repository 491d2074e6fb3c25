//! nginx's objects made safe: requests, their fields, bodies and chains, events and logs. Nearly all
//! unsafe code of the crate is in this room; it knows no guests.

pub(crate) mod body;
pub(crate) mod chain;

pub(crate) mod course;
pub(crate) mod ffi;
pub(crate) mod field;
pub(crate) mod headers_in;
pub(crate) mod headers_out;
pub(crate) mod hold;
pub(crate) mod list;
pub(crate) mod log;
pub(crate) mod module;
pub(crate) mod output;
pub(crate) mod pages;
pub(crate) mod request;
pub(crate) mod resolve;
pub(crate) mod saved;
pub(crate) mod socket;
pub(crate) mod spool;
pub(crate) mod text;
pub(crate) mod timer;
pub(crate) mod uri;
