//! [`Exchange`]: a request and its response in memory, as guests see them. What nginx's module does
//! with a request of nginx's is done here with a message.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::message::{Line, Request, Response};
use super::outbound;
use super::path::stays_inside;
use super::trace;
use crate::abi::{Features, FieldKind, Level};
use crate::host::called::Called;
use crate::host::kept::Kept;
use crate::host::{Chunk, Host, Refusal, Sink, Source, Unresolved, Waited, Watched, Write};
use crate::http::on_the_wire;

/// What this program decides and guests do not.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) log_level: Level,
    pub(crate) source_addr: String,
    pub(crate) request_max: u64,
    pub(crate) response_max: u64,
    /// Fields that the guest finds among the request's, and the next handler does not.
    pub(crate) given: Vec<(String, String)>,
    /// Types of responses that a guest gets whole; all of them if there are none here.
    pub(crate) buffer_types: Vec<String>,
    /// Every call of a host function is printed.
    pub(crate) trace: bool,
    /// The guest's instructions are counted.
    pub(crate) count: bool,
    /// There may be connections: not where a guest is merely checked.
    pub(crate) connects: bool,
}

/// What a body that is too large is called, in nginx's words.
const REQUEST_NAME: &str = "the request body (client_max_body_size)";
const RESPONSE_NAME: &str = "the response body (http_wasm_response_buffer)";
/// What becomes of a target that leaves the root.
const UNSAFE_PATH: &str = "nginx finds the path unsafe";

/// Everything there is to one exchange.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) rules: Rules,
    /// As the next handler gets it, but for a body that was written.
    pub(crate) request: Request,
    pub(crate) request_read: usize,
    pub(crate) request_written: Option<Vec<u8>>,
    pub(crate) kept: Kept,
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
    pub(crate) log: Vec<(Level, String)>,
    /// Calls of host functions.
    pub(crate) calls: u64,
}

impl Rules {
    /// Rules without limits, under which a guest is only started.
    pub(crate) fn of_start(log_level: Level) -> Self {
        Rules {
            log_level,
            source_addr: String::new(),
            request_max: u64::MAX,
            response_max: u64::MAX,
            given: Vec::new(),
            buffer_types: Vec::new(),
            trace: false,
            count: false,
            connects: false,
        }
    }

    /// Whether a guest that has asked for it gets a response with these fields whole.
    pub(crate) fn buffers(&self, fields: &[Line]) -> bool {
        let mut types = fields.iter().filter(|line| is(line, b"content-type"));
        let Some((_, value)) = types.next_back() else {
            return self.buffer_types.is_empty() || self.buffer_types.iter().any(|ty| ty == "*");
        };
        let essence = value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let is_meant = |ty: &String| ty == "*" || ty.as_bytes().eq_ignore_ascii_case(essence);
        self.buffer_types.is_empty() || self.buffer_types.iter().any(is_meant)
    }

    fn is_given(&self, name: &[u8]) -> bool {
        self.given.iter().any(|(other, _)| other.as_bytes().eq_ignore_ascii_case(name))
    }
}

impl Exchange {
    pub(crate) fn new(rules: Rules, request: Request) -> Self {
        Exchange {
            rules,
            request,
            request_read: 0,
            request_written: None,
            kept: Kept::default(),
            own: Vec::new(),
            response: Response::default(),
            response_read: 0,
            response_written: None,
            response_emptied: false,
            replaced: Vec::new(),
            log: Vec::new(),
            calls: 0,
        }
    }

    fn lines_mut(&mut self, kind: FieldKind) -> &mut Vec<Line> {
        match kind {
            FieldKind::Request => &mut self.request.content.fields,
            FieldKind::RequestTrailers => &mut self.request.content.trailers,
            FieldKind::Response => &mut self.response.content.fields,
            FieldKind::ResponseTrailers => &mut self.response.content.trailers,
        }
    }
}

/// Whether a line is called `name`.
pub(crate) fn is(line: &Line, name: &[u8]) -> bool {
    line.0.eq_ignore_ascii_case(name)
}

/// The lines that guests set before there was a response.
pub(crate) fn owned<'l>(
    lines: impl Iterator<Item = (&'l [u8], &'l [u8])>,
) -> impl Iterator<Item = Line> {
    lines.map(|(name, value)| (name.to_vec(), value.to_vec()))
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
        if let Some(exchange) = self.get_mut() {
            exchange.log.push((level, crate::escaped::Escaped(message).to_string()));
        }
    }

    fn remark(&mut self, level: Level, text: &str) {
        if let Some(exchange) = self.get_mut()
            && level >= exchange.rules.log_level
        {
            exchange.log.push((level, text.to_owned()));
        }
    }

    fn kept(&self) -> Option<&Kept> {
        self.get().map(|exchange| &exchange.kept)
    }

    fn kept_mut(&mut self) -> Option<&mut Kept> {
        self.get_mut().map(|exchange| &mut exchange.kept)
    }

    fn method(&self) -> &[u8] {
        self.get().map_or(b"", |exchange| &exchange.request.method)
    }

    fn set_method(&mut self, method: &[u8]) -> Result<(), Refusal> {
        let Some(exchange) = self.get_mut() else { return Ok(()) };
        exchange.request.method = method.to_vec();
        Ok(())
    }

    fn uri(&self) -> &[u8] {
        self.get().map_or(b"", |exchange| &exchange.request.target)
    }

    fn set_uri(&mut self, target: &[u8]) -> Result<(), Refusal> {
        let Some(exchange) = self.get_mut() else { return Ok(()) };
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
        let lines = self.get().map_or(&[][..], |exchange| match kind {
            FieldKind::Request => &exchange.request.content.fields,
            // nginx has none.
            FieldKind::RequestTrailers => &[],
            FieldKind::Response => &exchange.response.content.fields,
            FieldKind::ResponseTrailers => &exchange.response.content.trailers,
        });
        let rules = self.get().map(|exchange| &exchange.rules);
        let rules = rules.filter(|_| kind == FieldKind::Request);
        let given = rules.map_or(&[][..], |rules| &rules.given);
        let given = given.iter().filter(|(_, value)| !value.is_empty());
        let given = given.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let is_hidden = move |name: &[u8]| rules.is_some_and(|rules| rules.is_given(name));
        let sent = lines.iter().filter(move |(name, _)| !is_hidden(name));
        given.chain(sent.map(|(name, value)| (name.as_slice(), value.as_slice())))
    }

    fn set_field(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let Some(exchange) = self.get_mut() else { return Ok(()) };
        let lines = exchange.lines_mut(kind);
        match lines.iter().filter(|line| is(line, name)).count() {
            // Where it stands.
            1 if kind == FieldKind::Request => {
                let same = lines.iter_mut().filter(|line| is(line, name));
                same.for_each(|line| *line = (name.to_vec(), value.to_vec()));
            }
            _ => {
                lines.retain(|line| !is(line, name));
                lines.push((name.to_vec(), value.to_vec()));
            }
        }
        if kind == FieldKind::Response {
            exchange.replaced.push(name.to_ascii_lowercase());
        }
        Ok(())
    }

    fn add_field(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if let Some(exchange) = self.get_mut() {
            exchange.lines_mut(kind).push((name.to_vec(), value.to_vec()));
        }
        Ok(())
    }

    fn remove_field(&mut self, kind: FieldKind, name: &[u8]) -> Result<(), Refusal> {
        if let Some(exchange) = self.get_mut() {
            exchange.lines_mut(kind).retain(|line| !is(line, name));
        }
        Ok(())
    }

    async fn read_body(&mut self, source: Source, buf: &mut [u8]) -> Result<Chunk, Refusal> {
        let Some(exchange) = self.get_mut() else { return Ok(Chunk { len: 0, eof: true }) };
        let (body, at) = match source {
            Source::Request | Source::RequestAgain => {
                (&exchange.request.content.body, &mut exchange.request_read)
            }
            Source::Own => (&exchange.own, &mut exchange.response_read),
            Source::Response => (&exchange.response.content.body, &mut exchange.response_read),
        };
        let rest = body.get(*at..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        *at += len;
        Ok(Chunk { len, eof: len == rest.len() })
    }

    fn empty_response(&mut self, empty: bool) {
        if let Some(exchange) = self.get_mut() {
            exchange.response_emptied = empty;
        }
    }

    fn write_body(&mut self, sink: Sink, write: Write, bytes: &[u8]) -> Result<(), Refusal> {
        let Some(exchange) = self.get_mut() else { return Ok(()) };
        let (request_max, response_max) = (exchange.rules.request_max, exchange.rules.response_max);
        let (body, what, limit) = match sink {
            Sink::Request => {
                (exchange.request_written.get_or_insert_default(), REQUEST_NAME, request_max)
            }
            Sink::Own => (&mut exchange.own, RESPONSE_NAME, response_max),
            Sink::Response => {
                (exchange.response_written.get_or_insert_default(), RESPONSE_NAME, response_max)
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
        self.get().map_or(200, |exchange| exchange.response.status)
    }

    fn set_status_code(&mut self, status: u16) -> Result<(), Refusal> {
        if let Some(exchange) = self.get_mut() {
            exchange.response.status = status;
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

    fn connects(&self) -> bool {
        self.get().is_some_and(|exchange| exchange.rules.connects)
    }

    async fn ready(&mut self, sockets: Vec<Watched>, time: Duration) -> Waited {
        outbound::ready(sockets, time).await
    }

    async fn resolve(&mut self, name: &str) -> Result<Vec<IpAddr>, Unresolved> {
        outbound::resolve(name).await
    }
}
