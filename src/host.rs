//! The host side of one exchange: what an embedder must offer ([`Host`]), what is kept beside it
//! while a guest runs ([`State`]), and which call is allowed when (the permission functions).
//!
//! This module knows the ABI and HTTP. It knows no engine, no pool and no nginx; the functions in
//! its children take guest memory, state and integers, so they run in a test without an engine.

pub mod body;
pub mod called;
pub mod fields;
pub mod linker;
pub mod message;
pub mod policy;

use std::borrow::Cow;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::abi::{BodyKind, Features, FieldKind, Level};
use crate::error::Rule;
use called::Called;

/// What one exchange offers to a guest. The embedder implements it once; rules of the ABI
/// (permissions, sizes, syntax) are checked before a method is called, so an implementation gets
/// valid tokens, values without CR, LF and NUL, normal-form targets and non-empty names.
pub trait Host: Send + 'static {
    /// Features that can be granted here.
    fn supported_features(&self) -> Features;

    /// Whether a line of this level would be written.
    fn log_enabled(&self, level: Level) -> bool;

    /// Writes one line of the guest's to the log, escaping what is not printable.
    fn log(&mut self, level: Level, message: &[u8]);

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

    /// All field lines of `kind` in order, one item per line, names in any case. In the request
    /// phase the response kinds hold what guests have set so far.
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

    /// Fills `buf` from where the last read of this kind in this phase ended, waiting for bytes if
    /// need be. Short only at the end; [`Chunk::eof`] is set as soon as nothing remains.
    fn read_body(
        &mut self,
        kind: BodyKind,
        buf: &mut [u8],
    ) -> impl Future<Output = Result<Chunk, Refusal>> + Send;

    /// Writes to a body. What was read before stays readable as it was.
    fn write_body(&mut self, kind: BodyKind, write: Write, bytes: &[u8]) -> Result<(), Refusal>;

    /// The status of the response, or what the guest has set, or 200.
    fn status_code(&self) -> u16;

    /// Sets the status; `status` is in 200..=999.
    fn set_status_code(&mut self, status: u16) -> Result<(), Refusal>;

    /// The template name chosen so far, empty if none.
    fn template(&self) -> &[u8];

    /// Chooses a template name; not empty.
    fn set_template(&mut self, name: &[u8]) -> Result<(), Refusal>;

    /// Waits without blocking the thread.
    fn sleep(&mut self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Whether [`Host::called`] is of interest. Without it calls cost nothing more.
    const TRACES: bool = false;

    /// A host function returned to the guest, or ended its call.
    fn called(&mut self, _call: &Called<'_>) {}
}

/// The values of the lines that are called `name` (any case).
pub fn matching<'h>(
    lines: impl Iterator<Item = (&'h [u8], &'h [u8])>,
    name: &[u8],
) -> impl Iterator<Item = &'h [u8]> {
    lines.filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
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
            start_features: Features::NONE,
            features: Features::NONE,
            request_body: Write::Replace,
            response_body: Write::Replace,
        }
    }

    /// Lends an exchange for one call and forgets what the call before left behind.
    pub fn lend(&mut self, host: H, phase: Phase) {
        if phase == Phase::Request {
            self.features = self.start_features & host.supported_features();
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

    /// Features that are enabled for the current request.
    pub fn features(&self) -> Features {
        self.features
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
            (Some(host), Phase::Request | Phase::Response) => Ok(host),
            _ => Err(Rule::OutsideRequest),
        }
    }

    fn exchange_mut(&mut self) -> Result<&mut H, Rule> {
        match (&mut self.host, self.phase) {
            (Some(host), Phase::Request | Phase::Response) => Ok(host),
            _ => Err(Rule::OutsideRequest),
        }
    }

    fn need(&self, feature: Features) -> Result<(), Rule> {
        match self.features.contains(feature) {
            true => Ok(()),
            false => Err(Rule::NeedsFeature(feature)),
        }
    }

    // Who may do what and when. A guest without buffer_response runs `handle_response` before the
    // response is sent, so status and headers stay open there; a body that nobody held does not.

    /// Changing method, URI and template: before next.
    pub(crate) fn request_to_change(&mut self) -> Result<&mut H, Rule> {
        match self.phase {
            Phase::Response => Err(Rule::AfterNext),
            Phase::Start | Phase::Request => self.exchange_mut(),
        }
    }

    /// Changing the status: always.
    pub(crate) fn response_to_change(&mut self) -> Result<&mut H, Rule> {
        self.exchange_mut()
    }

    /// Reading fields of `kind`: always; trailers without the feature look empty (`None`), because
    /// guests print them unasked.
    pub(crate) fn fields_to_read(&self, kind: FieldKind) -> Result<Option<&H>, Rule> {
        let host = self.exchange()?;
        let visible = !kind.is_trailers() || self.features.contains(Features::TRAILERS);
        Ok(visible.then_some(host))
    }

    /// Changing fields of `kind`.
    pub(crate) fn fields_to_change(&mut self, kind: FieldKind) -> Result<&mut H, Rule> {
        self.exchange()?;
        match (kind, self.phase) {
            (FieldKind::Request | FieldKind::RequestTrailers, Phase::Response) => {
                return Err(Rule::AfterNext);
            }
            (FieldKind::RequestTrailers, _) => {
                self.need(Features::TRAILERS)?;
                return Err(Rule::RequestTrailers);
            }
            (FieldKind::ResponseTrailers, _) => self.need(Features::TRAILERS)?,
            (FieldKind::Request | FieldKind::Response, _) => (),
        }
        self.exchange_mut()
    }

    /// Reading the body of `kind`. Before next the response body is what the guest wrote itself.
    pub(crate) fn body_to_read(&mut self, kind: BodyKind) -> Result<&mut H, Rule> {
        self.exchange()?;
        match (kind, self.phase) {
            (BodyKind::Request, Phase::Response) => self.need(Features::BUFFER_REQUEST)?,
            (BodyKind::Response, Phase::Response) => self.need(Features::BUFFER_RESPONSE)?,
            _ => (),
        }
        self.exchange_mut()
    }

    /// Writing the body of `kind`, and whether this is the first write of the phase.
    pub(crate) fn body_to_write(&mut self, kind: BodyKind) -> Result<(&mut H, Write), Rule> {
        self.exchange()?;
        match (kind, self.phase) {
            (BodyKind::Request, Phase::Response) => return Err(Rule::AfterNext),
            (BodyKind::Response, Phase::Response) => self.need(Features::BUFFER_RESPONSE)?,
            _ => (),
        }
        let next = match kind {
            BodyKind::Request => &mut self.request_body,
            BodyKind::Response => &mut self.response_body,
        };
        let write = std::mem::replace(next, Write::Append);
        Ok((self.exchange_mut()?, write))
    }
}
