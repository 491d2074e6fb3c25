//! The machine: where an exchange stands, what can happen to it, and what is to be done then. Two
//! tables say all of it, and both are total: [`step`] for every state and event, [`State::leads_to`]
//! for every pair of states.

use nginx_sys::ngx_int_t;

use crate::nginx::exchange::call::{Asked, Pending, Responded};
use crate::nginx::exchange::reply::{After, Draining, Reply};
use crate::nginx::exchange::wait::Wait;
use crate::nginx::ngx::hold::Hold;

/// Where an exchange stands, with what it holds there: small, because it changes several times in every
/// request.
pub(crate) enum State {
    /// No guest has been called.
    Before,
    /// A `handle_request` runs, or waits.
    Asking(Option<Box<Pending<Asked>>>),
    /// The guests so far have said next, answered or failed; a response may come.
    Passed,
    /// The header is held while the body is collected for a guest.
    Collecting(Box<Collecting>),
    /// A `handle_response` runs, or waits; then the header is held.
    Responding(Option<Box<Responding>>),
    /// The header is held; this status is answered in a turn of its own, outside the code that sends
    /// the response.
    Failing(Box<Failing>),
    /// The header is sent, and bytes of ours go before what comes.
    Draining(Box<Draining>),
    /// The header is sent.
    Through(After),
    /// The request has ended.
    Over,
}

/// A body that is being collected.
pub(crate) struct Collecting {
    pub(crate) reply: Box<Reply>,
    /// For a look whether anything will come, where that seems not to be so.
    pub(crate) look: Option<Wait>,
}

/// A `handle_response` that waits, and the response that waits with it.
pub(crate) struct Responding {
    pub(crate) call: Pending<Responded>,
    pub(crate) reply: Box<Reply>,
}

/// A response that failed before its header was sent.
pub(crate) struct Failing {
    /// What the client is told.
    pub(crate) status: ngx_int_t,
    /// None once it is about to be answered.
    pub(crate) hold: Option<Hold>,
    /// For the turn in which that is done; none while the end of a response is awaited that the
    /// cache wants whole.
    pub(crate) wait: Option<Wait>,
    /// The end of the original body has come.
    pub(crate) ended: bool,
}

/// The states without what they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Before,
    Asking,
    Passed,
    Collecting,
    Responding,
    Failing,
    Draining,
    Through,
    Over,
}

/// What can happen to an exchange. A client that goes away and a worker that quits are among them:
/// nginx ends the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The main request enters its access phase.
    Access,
    /// nginx began anew with another location or page (`error_page`, `X-Accel-Redirect`, a filter that
    /// replaces the response).
    Moved,
    /// The header of the main request reaches the filter.
    Header,
    /// A part of its body does.
    Data,
    /// Nothing does, and what waits below is to be pushed (a null chain).
    Push,
    /// What a call has waited for is there.
    Wake,
    /// The request ends.
    End,
}

/// What is done then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next guest of the location is asked; without one, nginx goes on.
    Ask,
    /// The guest's call goes on, unless it still waits.
    Continue,
    /// The access phase has nothing to do with it.
    Decline,
    /// The call and what it changed are dropped; the guests before it stay.
    Forget,
    /// The response that was held is dropped, and the call with it.
    Discard,
    /// The same, and the header that has come is another response's.
    Replace,
    /// The guests that are owed a call get it.
    Respond,
    /// The body is taken in.
    Collect,
    /// It is kept as it is, which slows its sender down.
    Keep,
    /// It is dropped: withheld for good.
    Drop,
    /// It goes behind what is ours to send.
    Drain,
    /// It goes on, or is dropped, as was decided at the header.
    PassOn,
    /// Its sender may have left, and nothing more come of a body that is being collected: filters that
    /// add to it are asked first.
    LookSoon,
    /// If so, the response has failed.
    LookForEnd,
    /// nginx's page, or what `error_page` says, is made.
    Fail,
    /// What is owed is called, and what waits is dropped.
    Finish,
    /// Nothing.
    Nothing,
}

/// The machine's table.
pub(crate) const fn step(state: Kind, event: Event) -> Step {
    use Event::{Access, Data, End, Header, Moved, Push, Wake};
    use Kind::{Asking, Before, Collecting, Draining, Failing, Over, Passed, Responding, Through};
    match (event, state) {
        (Access, Before | Passed) => Step::Ask,
        (Access, Asking) => Step::Continue,
        // A response is under way: the phases have nothing to ask.
        (Access, Collecting | Responding | Failing | Draining | Through | Over) => Step::Decline,

        (Moved, Asking) => Step::Forget,
        (Moved, Collecting | Responding | Failing) => Step::Discard,
        (Moved, Before | Passed | Draining | Through | Over) => Step::Nothing,

        (Header, Before | Passed) => Step::Respond,
        // A page of nginx's: the body that the guest waits for cannot be read.
        (Header, Asking) => Step::Forget,
        (Header, Collecting | Responding | Failing) => Step::Discard,
        // A page in the place of a response that a filter after us refuses.
        (Header, Draining) => Step::Replace,
        (Header, Through | Over) => Step::PassOn,

        (Data, Before | Asking | Passed | Through) => Step::PassOn,
        (Data, Collecting) => Step::Collect,
        (Data, Responding) => Step::Keep,
        (Data | Push, Failing) => Step::Drop,
        (Data, Over) => Step::Drop,
        (Data, Draining) => Step::Drain,

        (Push, Collecting) => Step::LookSoon,
        (Push, Draining) => Step::Drain,
        (Push, Before | Asking | Passed | Responding | Through | Over) => Step::PassOn,

        (Wake, Asking | Responding) => Step::Continue,
        (Wake, Failing) => Step::Fail,
        (Wake, Collecting) => Step::LookForEnd,
        (Wake, Before | Passed | Draining | Through | Over) => Step::Nothing,

        (
            End,
            Before | Asking | Passed | Collecting | Responding | Failing | Draining | Through,
        ) => Step::Finish,
        (End, Over) => Step::Nothing,
    }
}

impl Kind {
    /// Which states may follow one.
    pub(crate) const fn leads_to(self, next: Kind) -> bool {
        use Kind::{
            Asking, Before, Collecting, Draining, Failing, Over, Passed, Responding, Through,
        };
        match self {
            Before => match next {
                Asking | Passed | Over => true,
                Before | Collecting | Responding | Failing | Draining | Through => false,
            },
            // A call that goes on stays where it is; what ends it leads to a response.
            Asking => match next {
                Asking | Passed | Over => true,
                Before | Collecting | Responding | Failing | Draining | Through => false,
            },
            Passed => match next {
                Asking | Passed | Collecting | Responding | Failing | Draining | Through | Over => {
                    true
                }
                Before => false,
            },
            // The next guest may want the body, too; nginx may make another response.
            Collecting => match next {
                Passed | Collecting | Responding | Failing | Draining | Through | Over => true,
                Before | Asking => false,
            },
            Responding => match next {
                Passed | Collecting | Responding | Failing | Draining | Through | Over => true,
                Before | Asking => false,
            },
            // Either nginx makes the page, which comes as a response, or it is one of ours.
            Failing => match next {
                Passed | Collecting | Responding | Failing | Draining | Through | Over => true,
                Before | Asking => false,
            },
            Draining => match next {
                Draining | Through | Over => true,
                Before | Asking | Passed | Collecting | Responding | Failing => false,
            },
            // The end of a body without bytes has come.
            Through => match next {
                Through | Over => true,
                Before | Asking | Passed | Collecting | Responding | Failing | Draining => false,
            },
            Over => false,
        }
    }
}

impl State {
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            State::Before => Kind::Before,
            State::Asking(_) => Kind::Asking,
            State::Passed => Kind::Passed,
            State::Collecting(_) => Kind::Collecting,
            State::Responding(_) => Kind::Responding,
            State::Failing(_) => Kind::Failing,
            State::Draining(_) => Kind::Draining,
            State::Through(_) => Kind::Through,
            State::Over => Kind::Over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Event::{Access, Data, End, Header, Moved, Push, Wake};
    use super::Kind::{
        Asking, Before, Collecting, Draining, Failing, Over, Passed, Responding, Through,
    };
    use super::*;

    const KINDS: [Kind; 9] =
        [Before, Asking, Passed, Collecting, Responding, Failing, Draining, Through, Over];
    const EVENTS: [Event; 7] = [Access, Moved, Header, Data, Push, Wake, End];

    /// The table by states, as docs/architecture.md has it.
    #[rustfmt::skip]
    const TABLE: [(Kind, [Step; 7]); 9] = {
        use Step::*;
        [
            // Access            Moved    Header   Data     Push      Wake        End
            (Before,     [Ask,      Nothing, Respond, PassOn,  PassOn,   Nothing,    Finish]),
            (Asking,     [Continue, Forget,  Forget,  PassOn,  PassOn,   Continue,   Finish]),
            (Passed,     [Ask,      Nothing, Respond, PassOn,  PassOn,   Nothing,    Finish]),
            (Collecting, [Decline,  Discard, Discard, Collect, LookSoon, LookForEnd, Finish]),
            (Responding, [Decline,  Discard, Discard, Keep,    PassOn,   Continue,   Finish]),
            (Failing,    [Decline,  Discard, Discard, Drop,    Drop,     Fail,       Finish]),
            (Draining,   [Decline,  Nothing, Replace, Drain,   Drain,    Nothing,    Finish]),
            (Through,    [Decline,  Nothing, PassOn,  PassOn,  PassOn,   Nothing,    Finish]),
            (Over,       [Decline,  Nothing, PassOn,  Drop,    PassOn,   Nothing,    Nothing]),
        ]
    };

    /// Which state may follow which, in the order of [`KINDS`].
    const FOLLOWS: [(Kind, &[Kind]); 9] = [
        (Before, &[Asking, Passed, Over]),
        (Asking, &[Asking, Passed, Over]),
        (Passed, &[Asking, Passed, Collecting, Responding, Failing, Draining, Through, Over]),
        (Collecting, &[Passed, Collecting, Responding, Failing, Draining, Through, Over]),
        (Responding, &[Passed, Collecting, Responding, Failing, Draining, Through, Over]),
        (Failing, &[Passed, Collecting, Responding, Failing, Draining, Through, Over]),
        (Draining, &[Draining, Through, Over]),
        (Through, &[Through, Over]),
        (Over, &[]),
    ];

    #[test]
    fn every_event_in_every_state_has_its_step() {
        assert_eq!(TABLE.map(|(kind, _)| kind), KINDS);
        for (kind, steps) in TABLE {
            for (event, expected) in EVENTS.into_iter().zip(steps) {
                assert_eq!(step(kind, event), expected, "{event:?} in {kind:?}");
            }
        }
    }

    #[test]
    fn states_follow_each_other_as_said() {
        assert_eq!(FOLLOWS.map(|(kind, _)| kind), KINDS);
        for (from, expected) in FOLLOWS {
            for to in KINDS {
                assert_eq!(from.leads_to(to), expected.contains(&to), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn the_page_about_the_architecture_has_both_tables() {
        fn joined(items: &[impl std::fmt::Debug], between: &str) -> String {
            items.iter().map(|it| format!("{it:?}")).collect::<Vec<_>>().join(between)
        }
        let rule = "---|".repeat(1 + EVENTS.len());
        let mut steps = format!("| state | {} |\n|{rule}\n", joined(&EVENTS, " | "));
        for (kind, row) in TABLE {
            steps += &format!("| {kind:?} | {} |\n", joined(&row, " | "));
        }
        let mut follows = String::from("| state | next |\n|---|---|\n");
        for (kind, next) in FOLLOWS {
            follows += &format!("| {kind:?} | {} |\n", joined(next, ", "));
        }
        let page = include_str!("../../../docs/architecture.md");
        for table in [steps, follows] {
            assert!(page.contains(&table), "docs/architecture.md lacks\n{table}");
        }
    }
}
