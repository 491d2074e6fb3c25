//! A response between nginx and the guests: how its body flows, and what has become of it.

use nginx_sys::ngx_int_t;

use super::chain::Out;
use super::headers_out::Validators;
use super::output::Output;
use super::page::Page;
use super::spool::Body;

/// The response on its way through the guests.
#[derive(Default)]
pub(crate) struct Reply {
    pub(crate) flow: Flow,
    /// What spoke of the original body.
    pub(crate) validators: Validators,
    /// A guest has put bytes before the body, or its own in the body's place.
    pub(crate) change: Change,
    /// The way out of a body that was held, once the header is sent.
    pub(crate) output: Option<Output>,
    /// It is nginx's page in the place of another response.
    pub(crate) page: Page,
    /// It is to be replaced by nginx's page for this status, as soon as nobody is sending it.
    pub(crate) failed: Option<ngx_int_t>,
}

/// What guests have done to the body.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Change {
    #[default]
    None,
    /// It is longer by what went before it.
    Prefixed,
    /// It is another one.
    Replaced,
}

/// What happens to the body.
pub(crate) enum Flow {
    /// It streams: `prefix` goes first, then `held`, then what comes.
    Stream { prefix: Body, held: Out },
    /// It is collected for a guest.
    Whole {
        body: Body,
        /// The last buffer has been seen.
        complete: bool,
    },
    /// A whole one has been handed on; what still comes is the end of a body that it replaced.
    Sent,
}

impl Default for Flow {
    fn default() -> Self {
        Flow::Stream { prefix: Body::default(), held: Out::default() }
    }
}

impl Reply {
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.flow, Flow::Whole { complete: true, .. })
    }

    /// Puts bytes before the body. A collected body has its first bytes already, so they are put
    /// before those.
    pub(crate) fn prepend(&mut self, early: Body) {
        if early.is_empty() {
            return;
        }
        if self.change == Change::None {
            self.change = Change::Prefixed;
        }
        let body = match &mut self.flow {
            Flow::Stream { prefix, .. } => prefix,
            Flow::Whole { body, .. } => body,
            Flow::Sent => return,
        };
        let inner = std::mem::replace(body, early);
        body.append(inner);
    }

    /// The collected body, to be lent to a guest.
    pub(crate) fn take_body(&mut self) -> Body {
        match &mut self.flow {
            Flow::Whole { body, .. } => std::mem::take(body),
            Flow::Stream { .. } | Flow::Sent => Body::default(),
        }
    }

    /// The collected body after a guest had it: its own or another one.
    pub(crate) fn put_body(&mut self, new: Body) {
        if let Flow::Whole { body, .. } = &mut self.flow {
            *body = new;
        }
    }
}
