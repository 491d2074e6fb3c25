//! A response between nginx and the guests: what its body is, and what guests have made of it.

use crate::nginx::ngx::chain::Out;
use crate::nginx::ngx::headers_out::{self, Encoding, Validators};
use crate::nginx::ngx::hold::Hold;
use crate::nginx::ngx::output::Output;
use crate::nginx::ngx::request::Request;
use crate::nginx::ngx::spool::Body;

/// The response on its way through the guests.
pub(crate) struct Reply {
    pub(crate) content: Content,
    /// What spoke of the original body.
    pub(crate) validators: Validators,
    /// How the original body is encoded.
    pub(crate) encoding: Encoding,
    /// What guests have done to the body.
    pub(crate) change: Change,
    pub(crate) holding: Holding,
    /// It is a page about a failure: it does not fail for being larger than guests may have it.
    pub(crate) is_page: bool,
    /// Whoever makes it sends no body, nor the end of one: it has said so before the header, or is told so
    /// behind it.
    pub(crate) is_empty: bool,
    /// The end of the original body has come, and was not passed on.
    pub(crate) ended: bool,
}

/// What there is of the body.
pub(crate) enum Content {
    /// It streams: `prefix` goes first, then what was kept, then what comes.
    Stream { prefix: Body, kept: Out },
    /// It is being collected for a guest.
    Collect(Body),
    /// All of it. What still comes belongs to a body that it replaced, and is dropped.
    Whole(Body),
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

/// Whether the header may stay here while the code that sends the response goes on.
pub(crate) enum Holding {
    /// It may not: whoever sends it relies on that it has left. Guests run without waiting.
    Never,
    /// Until the end of the body, which comes at once. Guests run without waiting.
    Brief,
    /// It may.
    Possible,
    /// It does.
    On(Hold),
}

impl Holding {
    /// For a response that begins. A tunnel's bytes follow its header at once. Slices begin where the
    /// client's range does, which is known to the range filter after us alone. A page that takes the
    /// place of a response inside the filters is the last thing that its sender waits for. Who has
    /// `refused` a page would refuse the next one, too, for as long as no header has left.
    pub(crate) fn of(r: Request, has_range: bool, refused: bool) -> Self {
        if refused || r.upgrades() || has_range && r.is_sliced() {
            Holding::Never
        } else if r.is_replaced_in_filter() {
            Holding::Brief
        } else {
            Holding::Possible
        }
    }
}

/// What happens to data that comes after the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It passes.
    Pass,
    /// It is dropped: the body is complete, or there is none.
    Drop,
    /// Its bytes are dropped, and nginx hears of its end, which it waits for.
    End,
}

/// What is ours to send of a body, once the header is sent.
pub(crate) struct Draining {
    /// What has not been handed on.
    pub(crate) first: Out,
    /// The way on, once it is in use.
    pub(crate) output: Option<Output>,
    pub(crate) after: After,
    pub(crate) _hold: Hold,
}

/// Whether the protocol lets the response have a body, by what the client asked and by the status.
/// Guests change the status: it is decided when the header leaves, and asked before for what a guest
/// may expect.
pub(crate) fn forbids_body(r: Request) -> bool {
    r.is_head() || matches!(r.status(), 204 | 304 | 0..200)
}

/// Whether no end of a body may follow a response without one: gunzip, which is before us, takes it for
/// that of a cut body. Where the cache had its upstream asked for more than a header, a body follows.
fn ends_decoded(r: Request) -> bool {
    headers_out::is_decoded(r) && !r.replaces_method()
}

impl Reply {
    /// The response that nginx begins.
    pub(crate) fn begin(r: Request, has_range: bool, is_page: bool, refused: bool) -> Box<Self> {
        Box::new(Reply {
            content: Content::Stream { prefix: Body::default(), kept: Out::default() },
            validators: Validators::of(r),
            encoding: Encoding::of(r),
            change: Change::None,
            holding: Holding::of(r, has_range, refused),
            is_page,
            is_empty: r.header_only() || forbids_body(r) && ends_decoded(r),
            ended: false,
        })
    }

    /// A page of ours in the place of a response that is held.
    pub(crate) fn page(body: Body, hold: Hold) -> Box<Self> {
        Box::new(Reply {
            content: Content::Whole(body),
            validators: Validators::default(),
            encoding: Encoding::default(),
            change: Change::None,
            holding: Holding::On(hold),
            is_page: true,
            is_empty: false,
            ended: false,
        })
    }

    /// Holds the header, if that may be: the one place where it begins, with what must be true then.
    /// The range filter before us lets the body pass before the one after us decides. The copy filter
    /// looks once whether data has to be in memory, and filters after us say so with the header. A sender
    /// without a body is told that the header was all, as the header filter would; so is who sends gunzip
    /// a body that a HEAD has no use for, except where the cache wants it.
    pub(crate) fn hold(&mut self, r: Request) {
        match self.holding {
            Holding::Never | Holding::Brief | Holding::On(_) => {}
            Holding::Possible => {
                r.forbid_ranges();
                r.want_memory();
                let ignored = r.is_head() && headers_out::is_decoded(r) && !r.fills_cache();
                if self.is_empty || ignored {
                    r.forbid_body();
                }
                self.holding = Holding::On(Hold::on(r));
            }
        }
    }

    /// Whether a guest may wait with it.
    pub(crate) const fn may_wait(&self) -> bool {
        match self.holding {
            Holding::Never | Holding::Brief => false,
            Holding::Possible | Holding::On(_) => true,
        }
    }

    /// Whether the body may be collected.
    pub(crate) const fn may_collect(&self) -> bool {
        match self.holding {
            Holding::Never => false,
            Holding::Brief | Holding::Possible | Holding::On(_) => true,
        }
    }

    /// Whether the body is here as a whole.
    pub(crate) const fn is_whole(&self) -> bool {
        match self.content {
            Content::Whole(_) => true,
            Content::Stream { .. } | Content::Collect(_) => false,
        }
    }

    /// Puts bytes before the body.
    pub(crate) fn prepend(&mut self, early: Body) {
        if early.is_empty() {
            return;
        }
        if self.change == Change::None {
            self.change = Change::Prefixed;
        }
        let body = match &mut self.content {
            Content::Stream { prefix, .. } => prefix,
            Content::Collect(body) | Content::Whole(body) => body,
        };
        let inner = std::mem::replace(body, early);
        body.append(inner);
    }

    /// The whole body, to be lent to a guest.
    pub(crate) fn take_body(&mut self) -> Body {
        match &mut self.content {
            Content::Whole(body) => std::mem::take(body),
            Content::Stream { .. } | Content::Collect(_) => Body::default(),
        }
    }

    /// The whole body after a guest had it, unchanged.
    pub(crate) fn put_body(&mut self, same: Body) {
        if let Content::Whole(body) = &mut self.content {
            *body = same;
        }
    }

    /// A guest has written another body; what there is of the original is dropped.
    pub(crate) fn replace_body(&mut self, new: Body) {
        self.change = Change::Replaced;
        self.drop_kept();
        self.content = Content::Whole(new);
    }

    /// What was kept of the original body goes: its sender gets its buffers back.
    pub(crate) fn drop_kept(&mut self) {
        if let Content::Stream { kept, .. } = &mut self.content {
            self.ended |= crate::nginx::ngx::chain::drop_all(kept.first());
            *kept = Out::default();
        }
    }
}
