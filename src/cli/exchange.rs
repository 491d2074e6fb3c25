//! [`Exchange`]: a request and its response in memory, as guests see them. What nginx's module does
//! with a request of nginx's is done here with a message: who may set what, what goes with a body
//! that was replaced, how much a guest may set, write and log.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::message::{Line, Request, Response};
use super::path::stays_inside;
use super::trace;
use crate::abi::{BodyKind, Features, FieldKind, Level};
use crate::host::called::Called;
use crate::host::policy::{
    FIELD_COST, LINE_COST, LOGGED_ENOUGH, LOGGED_MAX, MESSAGE_MAX, REQUEST_NAME, RESPONSE_NAME,
    SET_MAX, SET_NAME, UNSAFE_PATH, belongs_before_body, frames_request, frames_response,
    is_single,
};
use crate::host::{Chunk, Host, Refusal, Write};
use crate::http::on_the_wire;

/// What this program decides and guests do not.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) log_level: Level,
    pub(crate) source_addr: String,
    pub(crate) request_max: u64,
    pub(crate) response_max: u64,
    /// Every call of a host function is printed.
    pub(crate) trace: bool,
    /// The guest's instructions are counted.
    pub(crate) count: bool,
}

/// Which call a guest is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `handle_request`, or a start function.
    #[default]
    Request,
    /// `handle_response`.
    Response,
}

/// Status, headers and trailers of a response that has not begun.
#[derive(Clone, Debug, Default)]
pub(crate) struct Early {
    pub(crate) status: Option<u16>,
    pub(crate) fields: Vec<Line>,
    pub(crate) trailers: Vec<Line>,
}

impl Early {
    fn lines(&self, kind: FieldKind) -> &[Line] {
        match kind.is_trailers() {
            true => &self.trailers,
            false => &self.fields,
        }
    }

    fn lines_mut(&mut self, kind: FieldKind) -> &mut Vec<Line> {
        match kind.is_trailers() {
            true => &mut self.trailers,
            false => &mut self.fields,
        }
    }
}

/// Everything there is to one exchange.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) rules: Rules,
    pub(crate) mode: Mode,
    /// As the next handler gets it, but for a body that was written.
    pub(crate) request: Request,
    pub(crate) request_read: usize,
    pub(crate) request_written: Option<Vec<u8>>,
    pub(crate) early: Early,
    /// What `handle_request` wrote to the response body.
    pub(crate) own: Vec<u8>,
    /// The response on its way out, its body as far as the guest may read it.
    pub(crate) response: Response,
    pub(crate) response_read: usize,
    pub(crate) response_written: Option<Vec<u8>>,
    /// It set the content length to 0 after that: the response shall have no body.
    pub(crate) response_emptied: bool,
    /// Response headers of which the guest has set the only line.
    pub(crate) replaced: Vec<Vec<u8>>,
    pub(crate) template: Vec<u8>,
    pub(crate) log: Vec<(Level, String)>,
    /// Calls of host functions.
    pub(crate) calls: u64,
    copied: usize,
    logged: usize,
}

impl Exchange {
    pub(crate) fn new(rules: Rules, request: Request) -> Self {
        Exchange {
            rules,
            mode: Mode::Request,
            request,
            request_read: 0,
            request_written: None,
            early: Early::default(),
            own: Vec::new(),
            response: Response::default(),
            response_read: 0,
            response_written: None,
            response_emptied: false,
            replaced: Vec::new(),
            template: Vec::new(),
            log: Vec::new(),
            calls: 0,
            copied: 0,
            logged: 0,
        }
    }

    /// Charges what a call is about to set, as nginx keeps it until the request ends.
    fn charge(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.copied = self.copied.saturating_add(bytes + FIELD_COST);
        match self.copied > SET_MAX {
            true => Err(Refusal::TooLarge { what: SET_NAME, limit: SET_MAX as u64 }),
            false => Ok(()),
        }
    }

    fn set_request_field(&mut self, name: &[u8], value: &[u8]) {
        let lines = &mut self.request.content.fields;
        let mut found = lines.iter_mut().filter(|line| is(line, name));
        match (found.next(), found.next()) {
            (Some(line), None) => *line = (name.to_vec(), value.to_vec()),
            _ => {
                lines.retain(|line| !is(line, name));
                lines.push((name.to_vec(), value.to_vec()));
            }
        }
    }

    fn set_response_field(&mut self, name: &[u8], value: &[u8]) {
        if frames_response(name) || name.eq_ignore_ascii_case(b"content-length") {
            return;
        }
        let lines = &mut self.response.content.fields;
        lines.retain(|line| !is(line, name));
        lines.push((name.to_vec(), value.to_vec()));
        self.replaced.push(name.to_ascii_lowercase());
    }

    /// Headers or trailers of the response; no others belong to it.
    fn sent(&mut self, kind: FieldKind) -> Option<&mut Vec<Line>> {
        match kind {
            FieldKind::Response => Some(&mut self.response.content.fields),
            FieldKind::ResponseTrailers => Some(&mut self.response.content.trailers),
            FieldKind::Request | FieldKind::RequestTrailers => None,
        }
    }
}

/// Whether a line is called `name`.
pub(crate) fn is(line: &Line, name: &[u8]) -> bool {
    line.0.eq_ignore_ascii_case(name)
}

/// Adds a line to a response as nginx does: what frames the message is left out, and of some there
/// is one.
pub(crate) fn add_response_field(lines: &mut Vec<Line>, name: &[u8], value: &[u8]) {
    if frames_response(name) || name.eq_ignore_ascii_case(b"content-length") {
        return;
    }
    if is_single(name) {
        lines.retain(|line| !is(line, name));
    }
    lines.push((name.to_vec(), value.to_vec()));
}

/// The same for a trailer.
pub(crate) fn add_response_trailer(lines: &mut Vec<Line>, name: &[u8], value: &[u8]) {
    if !frames_response(name) && !belongs_before_body(name) {
        lines.push((name.to_vec(), value.to_vec()));
    }
}

/// Where an exchange turns up again after a guest had it.
pub(crate) type Home = Arc<Mutex<Option<Box<Exchange>>>>;

/// An [`Exchange`] on loan to a guest.
pub(crate) struct Lent {
    exchange: Option<Box<Exchange>>,
    home: Home,
}

impl Lent {
    /// Lends an exchange; it comes home when the call is over.
    pub(crate) fn new(exchange: Exchange) -> (Self, Home) {
        let home = Home::default();
        (Lent { exchange: Some(Box::new(exchange)), home: Arc::clone(&home) }, home)
    }

    fn get(&self) -> Option<&Exchange> {
        self.exchange.as_deref()
    }

    fn get_mut(&mut self) -> Option<&mut Exchange> {
        self.exchange.as_deref_mut()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.home.lock() = self.exchange.take();
    }
}

impl Host for Lent {
    const TRACES: bool = true;

    fn called(&mut self, call: &Called<'_>) {
        if let Some(exchange) = self.get_mut() {
            exchange.calls += 1;
            if exchange.rules.trace {
                trace::print(call);
            }
        }
    }

    fn supported_features(&self) -> Features {
        Features::BUFFER_REQUEST | Features::BUFFER_RESPONSE | Features::TRAILERS
    }

    fn log_enabled(&self, level: Level) -> bool {
        self.get().is_some_and(|exchange| level >= exchange.rules.log_level)
    }

    fn log(&mut self, level: Level, message: &[u8]) {
        let Some(exchange) = self.get_mut() else { return };
        if level < exchange.rules.log_level {
            return;
        }
        let kept = &message[..message.len().min(MESSAGE_MAX)];
        let before = exchange.logged;
        exchange.logged = before.saturating_add(kept.len() + LINE_COST);
        if before > LOGGED_MAX {
            return;
        }
        if exchange.logged > LOGGED_MAX {
            return exchange.log.push((Level::Warn, LOGGED_ENOUGH.to_owned()));
        }
        exchange.log.push((level, crate::error::Escaped(kept).to_string()));
        if kept.len() < message.len() {
            let more = format!("... and {} bytes more", message.len() - kept.len());
            exchange.log.push((level, more));
        }
    }

    fn method(&self) -> &[u8] {
        self.get().map_or(b"", |exchange| &exchange.request.method)
    }

    fn set_method(&mut self, method: &[u8]) -> Result<(), Refusal> {
        let Some(exchange) = self.get_mut() else { return Ok(()) };
        exchange.charge(method.len())?;
        exchange.request.method = method.to_vec();
        Ok(())
    }

    fn uri(&self) -> &[u8] {
        self.get().map_or(b"", |exchange| &exchange.request.target)
    }

    fn set_uri(&mut self, target: &[u8]) -> Result<(), Refusal> {
        let Some(exchange) = self.get_mut() else { return Ok(()) };
        exchange.charge(3 * target.len())?;
        if !stays_inside(&on_the_wire(target)) {
            return Err(Refusal::Unfit(UNSAFE_PATH));
        }
        exchange.request.target = target.to_vec();
        Ok(())
    }

    fn protocol_version(&self) -> &[u8] {
        match self.get().map(|exchange| exchange.request.minor) {
            Some(0) => b"HTTP/1.0",
            _ => b"HTTP/1.1",
        }
    }

    fn source_addr(&self) -> Cow<'_, [u8]> {
        self.get().map_or("", |exchange| &exchange.rules.source_addr).as_bytes().into()
    }

    fn fields(&self, kind: FieldKind) -> impl Iterator<Item = (&[u8], &[u8])> {
        let lines = self.get().map_or(&[][..], |exchange| match (kind, exchange.mode) {
            (FieldKind::Request, _) => &exchange.request.content.fields,
            // nginx has none.
            (FieldKind::RequestTrailers, _) => &[],
            (_, Mode::Request) => exchange.early.lines(kind),
            (FieldKind::Response, _) => &exchange.response.content.fields,
            (FieldKind::ResponseTrailers, _) => &exchange.response.content.trailers,
        });
        lines.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    fn set_field(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let Some(exchange) = self.get_mut() else { return Ok(()) };
        exchange.charge(2 * name.len() + value.len())?;
        match (kind, exchange.mode) {
            (FieldKind::Request, _) if frames_request(name) => {}
            (FieldKind::Request, _) => exchange.set_request_field(name, value),
            (FieldKind::RequestTrailers, _) => {}
            (_, Mode::Request) => {
                let lines = exchange.early.lines_mut(kind);
                lines.retain(|line| !is(line, name));
                lines.push((name.to_vec(), value.to_vec()));
            }
            (FieldKind::Response, _) => {
                if name.eq_ignore_ascii_case(b"content-length") {
                    // The one length of a guest's that means something.
                    exchange.response_emptied = value == b"0";
                }
                exchange.set_response_field(name, value);
            }
            (FieldKind::ResponseTrailers, _) => {
                let lines = &mut exchange.response.content.trailers;
                lines.retain(|line| !is(line, name));
                add_response_trailer(lines, name, value);
            }
        }
        Ok(())
    }

    fn add_field(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let Some(exchange) = self.get_mut() else { return Ok(()) };
        exchange.charge(2 * name.len() + value.len())?;
        let line = || (name.to_vec(), value.to_vec());
        match (kind, exchange.mode) {
            (FieldKind::Request, _) if frames_request(name) => {}
            (FieldKind::Request, _) => {
                // A second one would be ambiguous.
                let single = [&b"host"[..], b"authorization"];
                match single.iter().any(|single| name.eq_ignore_ascii_case(single)) {
                    true => exchange.set_request_field(name, value),
                    false => exchange.request.content.fields.push(line()),
                }
            }
            (FieldKind::RequestTrailers, _) => {}
            (_, Mode::Request) => exchange.early.lines_mut(kind).push(line()),
            (FieldKind::Response, _) if is_single(name) => {
                exchange.set_response_field(name, value);
            }
            (FieldKind::Response, _) => {
                add_response_field(&mut exchange.response.content.fields, name, value);
            }
            (FieldKind::ResponseTrailers, _) => {
                add_response_trailer(&mut exchange.response.content.trailers, name, value);
            }
        }
        Ok(())
    }

    fn remove_field(&mut self, kind: FieldKind, name: &[u8]) -> Result<(), Refusal> {
        let Some(exchange) = self.get_mut() else { return Ok(()) };
        match (kind, exchange.mode) {
            (FieldKind::Request, _) => {
                let fields = &exchange.request.content.fields;
                if !fields.iter().any(|line| is(line, name)) {
                    return Ok(());
                }
                let cost = fields.len() * FIELD_COST;
                exchange.charge(cost)?;
                // No request goes anywhere without Host.
                if !frames_request(name) && !name.eq_ignore_ascii_case(b"host") {
                    exchange.request.content.fields.retain(|line| !is(line, name));
                }
            }
            (FieldKind::RequestTrailers, _) => {}
            (_, Mode::Request) => exchange.early.lines_mut(kind).retain(|line| !is(line, name)),
            (_, Mode::Response) => {
                let kept = kind == FieldKind::Response
                    && (frames_response(name) || name.eq_ignore_ascii_case(b"content-length"));
                if let Some(lines) = exchange.sent(kind).filter(|_| !kept) {
                    lines.retain(|line| !is(line, name));
                }
            }
        }
        Ok(())
    }

    async fn read_body(&mut self, kind: BodyKind, buf: &mut [u8]) -> Result<Chunk, Refusal> {
        let Some(exchange) = self.get_mut() else { return Ok(Chunk { len: 0, eof: true }) };
        let (body, at) = match (kind, exchange.mode) {
            (BodyKind::Request, _) => (&exchange.request.content.body, &mut exchange.request_read),
            (BodyKind::Response, Mode::Request) => (&exchange.own, &mut exchange.response_read),
            (BodyKind::Response, Mode::Response) => {
                (&exchange.response.content.body, &mut exchange.response_read)
            }
        };
        let rest = body.get(*at..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        *at += len;
        Ok(Chunk { len, eof: len == rest.len() })
    }

    fn write_body(&mut self, kind: BodyKind, write: Write, bytes: &[u8]) -> Result<(), Refusal> {
        let Some(exchange) = self.get_mut() else { return Ok(()) };
        let (body, what, limit) = match (kind, exchange.mode) {
            (BodyKind::Request, _) => {
                let body = exchange.request_written.get_or_insert_default();
                (body, REQUEST_NAME, exchange.rules.request_max)
            }
            (BodyKind::Response, Mode::Request) => {
                (&mut exchange.own, RESPONSE_NAME, exchange.rules.response_max)
            }
            (BodyKind::Response, Mode::Response) => {
                exchange.response_emptied = false;
                let body = exchange.response_written.get_or_insert_default();
                (body, RESPONSE_NAME, exchange.rules.response_max)
            }
        };
        if write == Write::Replace {
            body.clear();
        }
        if (body.len() + bytes.len()) as u64 > limit {
            return Err(Refusal::TooLarge { what, limit });
        }
        body.extend_from_slice(bytes);
        Ok(())
    }

    fn status_code(&self) -> u16 {
        self.get().map_or(200, |exchange| match exchange.mode {
            Mode::Request => exchange.early.status.unwrap_or(200),
            Mode::Response => exchange.response.status,
        })
    }

    fn set_status_code(&mut self, status: u16) -> Result<(), Refusal> {
        if let Some(exchange) = self.get_mut() {
            match exchange.mode {
                Mode::Request => exchange.early.status = Some(status),
                Mode::Response => exchange.response.status = status,
            }
        }
        Ok(())
    }

    fn template(&self) -> &[u8] {
        self.get().map_or(b"", |exchange| &exchange.template)
    }

    fn set_template(&mut self, name: &[u8]) -> Result<(), Refusal> {
        if let Some(exchange) = self.get_mut() {
            exchange.template = name.to_vec();
        }
        Ok(())
    }

    async fn sleep(&mut self, time: Duration) {
        if time.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(time).await;
        }
    }
}
