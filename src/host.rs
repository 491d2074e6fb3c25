//! The host side of one exchange: what an embedder must offer ([`Host`]), what is kept beside it
//! while a guest runs ([`State`]), and which call is allowed when (the permission functions).
//!
//! This module knows the ABI and HTTP. It knows no engine, no pool and no server; the functions in
//! its children take guest memory, state and integers, so they run in a test without an engine.

pub mod body;
pub mod budget;
pub mod called;
pub mod connect;
pub mod early;
pub mod error;
pub mod fields;
pub mod kept;
pub mod linker;
pub(crate) mod log;
pub mod message;
pub mod policy;

use std::borrow::Cow;
use std::future::Future;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::abi::{BodyKind, Features, FieldKind, Level};
use budget::message_cost;
use called::Called;
use early::Lines;
use error::Rule;
use kept::Kept;

/// What one exchange offers to a guest. The embedder implements it once and only stores: rules of the
/// ABI (permissions, sizes, syntax) and what guests may use up are checked before a method is called,
/// so an implementation gets valid tokens, values without CR, LF and NUL, normal-form targets,
/// non-empty names, and fields that are a guest's to change ([`policy`]). A method that changes something is called only while that has an effect.
pub trait Host: Send + 'static {
    /// Features that can be granted here.
    fn supported_features(&self) -> Features;

    /// Whether a line of this level would be written.
    fn log_enabled(&self, level: Level) -> bool;

    /// Writes one line of the guest's to the log, escaping what is not printable. The level is one
    /// that is written.
    fn log(&mut self, level: Level, message: &[u8]);

    /// What [`Host::log`] would write for this message, in bytes: as text, with all that is added.
    /// [`message_cost`] at least, so that guests may write the same everywhere.
    fn log_cost(&self, _level: Level, message: &[u8]) -> usize {
        message_cost(message)
    }

    /// Writes a line about the guest to the log, if the level is written.
    fn remark(&mut self, level: Level, text: &str);

    /// What is kept with the client request for all its guests, or of a start without one.
    fn kept(&self) -> Option<&Kept>;

    /// The same, to be changed.
    fn kept_mut(&mut self) -> Option<&mut Kept>;

    /// The request method, verbatim.
    fn method(&self) -> &[u8];

    /// Replaces the method for the next handler. `method` is a token (RFC 9110 5.6.2).
    fn set_method(&mut self, method: &[u8]) -> Result<(), Refusal>;

    /// The request target as received: path and query, no scheme or authority, not normalised.
    fn uri(&self) -> &[u8];

    /// Replaces path and query. `target` is in the normal form of [`crate::http::Target`].
    fn set_uri(&mut self, target: &[u8]) -> Result<(), Refusal>;

    /// `HTTP/1.0`, `HTTP/1.1`, `HTTP/2.0` or `HTTP/3.0`.
    fn protocol_version(&self) -> &[u8];

    /// The peer as `ip:port`, IPv6 in brackets.
    fn source_addr(&self) -> Cow<'_, [u8]>;

    /// All field lines of `kind` in order, one item per line, names in any case. The response kinds
    /// are asked for once there is a response; until then what guests set is in [`Kept`].
    fn fields(&self, kind: FieldKind) -> impl Iterator<Item = (&[u8], &[u8])>;

    /// The value of every line called `name` (any case), in order: for a host that finds them faster
    /// than by looking at all fields.
    fn values<'h>(&'h self, kind: FieldKind, name: &[u8], found: impl FnMut(&'h [u8])) {
        matching(self.fields(kind), name).for_each(found);
    }

    /// Replaces all lines called `name` (any case) by one, or adds it.
    fn set_field(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal>;

    /// Appends one line.
    fn add_field(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal>;

    /// Removes all lines called `name` (any case); none is no error.
    fn remove_field(&mut self, kind: FieldKind, name: &[u8]) -> Result<(), Refusal>;

    /// Fills `buf` from where the last read of this source in this call ended, waiting for bytes if
    /// need be. Short only at the end; [`Chunk::eof`] is set as soon as nothing remains.
    fn read_body(
        &mut self,
        source: Source,
        buf: &mut [u8],
    ) -> impl Future<Output = Result<Chunk, Refusal>> + Send;

    /// Whether the response shall have no body, if it has one that is held: the guest has set its
    /// length to 0, and written none since.
    fn empty_response(&mut self, empty: bool);

    /// Writes to a body. What was read before stays readable as it was.
    fn write_body(&mut self, sink: Sink, write: Write, bytes: &[u8]) -> Result<(), Refusal>;

    /// The status of the response, or 200. Asked for once there is a response.
    fn status_code(&self) -> u16;

    /// Sets the status of the response; `status` is in 200..=999.
    fn set_status_code(&mut self, status: u16) -> Result<(), Refusal>;

    /// Waits without blocking the thread.
    fn sleep(&mut self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Whether guests may have connections here at all. Who says no need not be able to wait for them.
    fn connects(&self) -> bool {
        false
    }

    /// Waits, without blocking the thread, until something may have happened at one of the sockets, or
    /// for so long.
    fn ready(
        &mut self,
        _sockets: Vec<Watched>,
        _time: Duration,
    ) -> impl Future<Output = Waited> + Send {
        async { Waited::NotNow }
    }

    /// What a name stands for, which is one of the operator's ([`connect::Rule::Name`]).
    fn resolve(
        &mut self,
        _name: &str,
    ) -> impl Future<Output = Result<Vec<IpAddr>, Unresolved>> + Send {
        async { Err(Unresolved::NotNow) }
    }

    /// Whether [`Host::called`] is of interest. Without it calls cost nothing more.
    const TRACES: bool = false;

    /// A host function returned to the guest, or ended its call.
    fn called(&mut self, _call: &Called<'_>) {}
}

/// A socket that is waited for.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Which is open for as long as this is kept.
    pub socket: Arc<OwnedFd>,
    /// For bytes.
    pub read: bool,
    /// For room.
    pub write: bool,
}

/// How a wait for sockets went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Something may have happened, or the time is over.
    Over,
    /// The embedder cannot watch so many.
    NoRoom,
    /// Nobody waits any more, such as after the end of a request.
    NotNow,
}

/// Why a name stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// There is nobody to ask.
    NoResolver,
    /// There is none of this name, or no answer; the text completes a log line.
    Unknown(String),
    /// The answer did not come in time.
    Late,
    /// As [`Waited::NotNow`].
    NotNow,
}

/// The values of the lines that are called `name` (any case).
pub fn matching<'h>(
    lines: impl Iterator<Item = (&'h [u8], &'h [u8])>,
    name: &[u8],
) -> impl Iterator<Item = &'h [u8]> {
    lines.filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Which body a guest reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client's, which may have to be waited for.
    Request,
    /// The same after next, as far as it was kept for the guest.
    RequestAgain,
    /// What the guest itself wrote for the response, before there is one.
    Own,
    /// That of the response.
    Response,
}

/// Which body a guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// The one that the next handler gets.
    Request,
    /// The guest's own for the response, before there is one.
    Own,
    /// That of the response.
    Response,
}

/// One `read_body` step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Bytes written at the start of the buffer.
    pub len: usize,
    /// Nothing remains after these.
    pub eof: bool,
}

/// Whether a write starts the body anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// First write of this kind in this phase: what was there is dropped.
    Replace,
    /// A later one.
    Append,
}

/// Why a [`Host`] could not do what a guest asked. It ends the guest's call.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The embedder ran out of memory.
    #[error("out of memory")]
    NoMemory,
    /// A body source failed; the text completes a log line.
    #[error("{0}")]
    Body(String),
    /// The embedder finds the value unfit; the text completes a log line.
    #[error("{0}")]
    Unfit(&'static str),
    /// The embedder has a cap and this call would pass it.
    #[error("{what} would exceed {limit} bytes")]
    TooLarge {
        /// What is capped.
        what: &'static str,
        /// The cap in bytes.
        limit: u64,
    },
    /// The embedder has a cap on a number of things.
    #[error("{what} would be more than {limit}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// The cap.
        limit: usize,
    },
}

/// Where in the life of an exchange a guest is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Start section, `_initialize` or `_start`: there is no request.
    Start,
    /// Inside `handle_request`.
    Request,
    /// Inside `handle_response`.
    Response,
    /// Inside `handle_response` after the request has ended: changes are accepted and ignored.
    Ended,
}

/// What is kept for one guest instance beside its memory: the exchange it may touch right now and
/// what it did to it.
///
/// An exchange is lent for one call and taken back after it. Between calls there is none, so that
/// nothing stale can ever be reached.
#[derive(Debug)]
pub struct State<H> {
    host: Option<H>,
    phase: Phase,
    config: Bytes,
    /// Enabled by start functions, for every request.
    start_features: Features,
    /// Enabled for the current request.
    features: Features,
    request_body: Write,
    response_body: Write,
}

impl<H: Host> State<H> {
    /// The state of an instance that did not run yet.
    pub fn new(config: Bytes) -> Self {
        State {
            host: None,
            phase: Phase::Start,
            config,
            start_features: Features::empty(),
            features: Features::empty(),
            request_body: Write::Replace,
            response_body: Write::Replace,
        }
    }

    /// Lends an exchange for one call and forgets what the call before left behind.
    pub fn lend(&mut self, mut host: H, phase: Phase) {
        if phase == Phase::Request {
            self.features = self.start_features & host.supported_features();
        }
        if let Some(kept) = host.kept_mut() {
            kept.begin(phase);
        }
        self.request_body = Write::Replace;
        self.response_body = Write::Replace;
        self.phase = phase;
        self.host = Some(host);
    }

    /// Ends the loan.
    pub fn take_back(&mut self) -> Option<H> {
        self.host.take()
    }

    /// Ends the loan for a call that failed: what it set for the response is undone.
    pub fn take_back_failed(&mut self) -> Option<H> {
        let mut host = self.host.take();
        if let Some(kept) = host.as_mut().and_then(H::kept_mut) {
            kept.undo(self.phase);
        }
        host
    }

    /// Features that are enabled for the current request.
    pub fn features(&self) -> Features {
        self.features
    }

    /// The guest does without a feature for the rest of this request, as if it had not asked for it.
    pub(crate) fn withdraw(&mut self, feature: Features) {
        self.features.remove(feature);
    }

    /// Features that start functions enabled for every request.
    pub(crate) fn start_features(&self) -> Features {
        self.start_features
    }

    /// Start functions enabled these before the snapshot was taken that this instance started from.
    pub(crate) fn set_start_features(&mut self, features: Features) {
        self.start_features = features;
    }

    /// The exchange in any phase.
    pub(crate) fn any_phase(&mut self) -> Result<&mut H, Rule> {
        self.host.as_mut().ok_or(Rule::OutsideRequest)
    }

    /// The exchange for looking at it: while there is a request.
    pub(crate) fn exchange(&self) -> Result<&H, Rule> {
        match (&self.host, self.phase) {
            (Some(_), Phase::Start) | (None, _) => Err(Rule::OutsideRequest),
            (Some(host), Phase::Request | Phase::Response | Phase::Ended) => Ok(host),
        }
    }

    fn exchange_mut(&mut self) -> Result<&mut H, Rule> {
        match (&mut self.host, self.phase) {
            (Some(_), Phase::Start) | (None, _) => Err(Rule::OutsideRequest),
            (Some(host), Phase::Request | Phase::Response | Phase::Ended) => Ok(host),
        }
    }

    fn need(&self, feature: Features) -> Result<(), Rule> {
        match self.features.contains(feature) {
            true => Ok(()),
            false => Err(Rule::NeedsFeature(feature)),
        }
    }

    // Who may do what and when, and where it is done. A guest without buffer_response runs
    // `handle_response` before the response is sent, so status and headers stay open there; a body
    // that nobody held does not.

    /// Changing method, URI and template: before next.
    pub(crate) fn request_to_change(&mut self) -> Result<&mut H, Rule> {
        match self.phase {
            Phase::Response | Phase::Ended => Err(Rule::AfterNext),
            Phase::Start | Phase::Request => self.exchange_mut(),
        }
    }

    /// Reading the status: always.
    pub(crate) fn status_to_read(&self) -> Result<Status<&Kept, &H>, Rule> {
        let host = self.exchange()?;
        Ok(match (self.phase, host.kept()) {
            (Phase::Request, Some(kept)) => Status::Early(kept),
            _ => Status::Response(host),
        })
    }

    /// Changing the status: always.
    pub(crate) fn status_to_change(&mut self) -> Result<Status<&mut Kept, &mut H>, Rule> {
        let phase = self.phase;
        let host = self.exchange_mut()?;
        Ok(match phase {
            Phase::Request => host.kept_mut().map_or(Status::None, Status::Early),
            Phase::Ended => Status::None,
            Phase::Start | Phase::Response => Status::Response(host),
        })
    }

    /// Reading fields of `kind`: always; trailers without the feature look empty, because guests
    /// print them unasked.
    pub(crate) fn fields_to_read(&self, kind: FieldKind) -> Result<Fields<'_, H>, Rule> {
        let host = self.exchange()?;
        if kind.is_trailers() && !self.features.contains(Features::TRAILERS) {
            return Ok(Fields::None);
        }
        Ok(match (kind.of_request(), self.phase) {
            (false, Phase::Request) => {
                host.kept().map_or(Fields::None, |kept| Fields::Early(kept.early.lines(kind)))
            }
            _ => Fields::Message(host, kind),
        })
    }

    /// Changing fields of `kind`.
    pub(crate) fn fields_to_change(&mut self, kind: FieldKind) -> Result<FieldsMut<'_, H>, Rule> {
        self.exchange()?;
        match (kind, self.phase) {
            (FieldKind::Request | FieldKind::RequestTrailers, Phase::Response | Phase::Ended) => {
                return Err(Rule::AfterNext);
            }
            (FieldKind::RequestTrailers, _) => {
                self.need(Features::TRAILERS)?;
                return Err(Rule::RequestTrailers);
            }
            (FieldKind::ResponseTrailers, _) => self.need(Features::TRAILERS)?,
            (FieldKind::Request | FieldKind::Response, _) => (),
        }
        let phase = self.phase;
        let host = self.exchange_mut()?;
        Ok(match (kind.of_request(), phase) {
            (_, Phase::Ended) => FieldsMut::None,
            (false, Phase::Request) => {
                host.kept_mut().map_or(FieldsMut::None, |kept| FieldsMut::Early(kept, kind))
            }
            _ => FieldsMut::Message(host, kind),
        })
    }

    /// Reading the body of `kind`. Before next the response body is what the guest wrote itself.
    pub(crate) fn body_to_read(&mut self, kind: BodyKind) -> Result<(&mut H, Source), Rule> {
        self.exchange()?;
        let source = match (kind, self.phase) {
            (BodyKind::Request, Phase::Start | Phase::Request) => Source::Request,
            (BodyKind::Response, Phase::Start | Phase::Request) => Source::Own,
            (BodyKind::Request, Phase::Response | Phase::Ended) => {
                self.need(Features::BUFFER_REQUEST)?;
                Source::RequestAgain
            }
            (BodyKind::Response, Phase::Response | Phase::Ended) => {
                self.need(Features::BUFFER_RESPONSE)?;
                Source::Response
            }
        };
        Ok((self.exchange_mut()?, source))
    }

    /// Writing the body of `kind`, and whether this is the first write of the phase; `None` where
    /// it has no effect any more.
    pub(crate) fn body_to_write(
        &mut self,
        kind: BodyKind,
    ) -> Result<Option<(&mut H, Sink, Write)>, Rule> {
        self.exchange()?;
        let sink = match (kind, self.phase) {
            (BodyKind::Request, Phase::Response | Phase::Ended) => return Err(Rule::AfterNext),
            (BodyKind::Request, Phase::Start | Phase::Request) => Sink::Request,
            (BodyKind::Response, Phase::Start | Phase::Request) => Sink::Own,
            (BodyKind::Response, Phase::Response | Phase::Ended) => {
                self.need(Features::BUFFER_RESPONSE)?;
                Sink::Response
            }
        };
        if self.phase == Phase::Ended {
            return Ok(None);
        }
        let next = match kind {
            BodyKind::Request => &mut self.request_body,
            BodyKind::Response => &mut self.response_body,
        };
        let write = std::mem::replace(next, Write::Append);
        Ok(Some((self.exchange_mut()?, sink, write)))
    }
}

/// Where the status is.
pub(crate) enum Status<K, H> {
    /// With what guests set before there is a response.
    Early(K),
    /// In the response.
    Response(H),
    /// There is none any more.
    None,
}

/// Where fields are that a guest reads.
pub(crate) enum Fields<'s, H> {
    /// Nowhere: it sees none.
    None,
    /// With what guests set before there is a response.
    Early(&'s Lines),
    /// In the request or the response.
    Message(&'s H, FieldKind),
}

/// Where fields are that a guest changes.
pub(crate) enum FieldsMut<'s, H> {
    /// Nowhere: it changes nothing any more.
    None,
    /// With what guests set before there is a response.
    Early(&'s mut Kept, FieldKind),
    /// In the request or the response.
    Message(&'s mut H, FieldKind),
}
