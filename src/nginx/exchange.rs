//! One client request on its way through its guests: the access handler, the filters, and the state
//! of the exchange between them.

pub(crate) mod access;
pub(crate) mod call;
pub(crate) mod collect;
pub(crate) mod ctx;
pub(crate) mod events;
pub(crate) mod fail;
pub(crate) mod filter;
pub(crate) mod host;
pub(crate) mod reply;
pub(crate) mod respond;
pub(crate) mod send;
pub(crate) mod settings;
pub(crate) mod shared;
pub(crate) mod state;
pub(crate) mod task;
pub(crate) mod variables;
pub(crate) mod wait;
