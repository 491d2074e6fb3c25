//! An exchange in memory. It is handed into a guest's store like a real one and, when it is dropped
//! there, puts what became of it where the test can look.

use std::borrow::Cow;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ngx_http_wasm_handler_module::abi::{Features, FieldKind, Level};
use ngx_http_wasm_handler_module::host::kept::Kept;
use ngx_http_wasm_handler_module::host::{
    Chunk, Host, Refusal, Sink, Source, Unresolved, Waited, Watched, Write,
};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Name and value of one field line.
pub type Line = (Vec<u8>, Vec<u8>);

/// Everything there is to one exchange, for tests to prepare and to look at.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub supported: Features,
    pub log_level: Level,
    pub log: Vec<(Level, String)>,
    pub method: Vec<u8>,
    pub uri: Vec<u8>,
    pub protocol: Vec<u8>,
    pub source_addr: Vec<u8>,
    pub request_headers: Vec<Line>,
    pub request_trailers: Vec<Line>,
    pub response_headers: Vec<Line>,
    pub response_trailers: Vec<Line>,
    /// The client's body, and what the guest wrote instead.
    pub request_body: Vec<u8>,
    pub new_request_body: Option<Vec<u8>>,
    /// The body of the next handler, and what the guest wrote instead.
    pub response_body: Vec<u8>,
    pub new_response_body: Option<Vec<u8>>,
    /// The guest has set the length of the response to 0.
    pub emptied: bool,
    pub status: Option<u16>,
    pub kept: Kept,
    pub sleeps: Vec<Duration>,
    /// Whether there may be connections.
    pub connects: bool,
    /// How often sockets were waited for.
    pub looks: usize,
    /// How such a wait goes without one.
    pub waited: Option<Waited>,
    /// What names stand for, and those that were asked for.
    pub names: Vec<(String, IpAddr)>,
    pub asked: Vec<String>,
    /// How often `read_body` and `sleep` find nothing before they do.
    pub parks: usize,
    /// What `read_body` fails with.
    pub broken_body: Option<String>,
    pub cursors: [usize; 2],
}

impl Default for Exchange {
    fn default() -> Self {
        Exchange {
            supported: Features::BUFFER_REQUEST | Features::BUFFER_RESPONSE | Features::TRAILERS,
            log_level: Level::Info,
            log: Vec::new(),
            method: b"GET".into(),
            uri: b"/".into(),
            protocol: b"HTTP/1.1".into(),
            source_addr: b"1.2.3.4:12345".into(),
            request_headers: Vec::new(),
            request_trailers: Vec::new(),
            response_headers: Vec::new(),
            response_trailers: Vec::new(),
            request_body: Vec::new(),
            new_request_body: None,
            response_body: Vec::new(),
            new_response_body: None,
            emptied: false,
            status: None,
            kept: Kept::default(),
            sleeps: Vec::new(),
            connects: true,
            looks: 0,
            waited: None,
            names: Vec::new(),
            asked: Vec::new(),
            parks: 0,
            broken_body: None,
            cursors: [0, 0],
        }
    }
}

impl Exchange {
    /// Log lines of one level.
    pub fn lines(&self, level: Level) -> Vec<&str> {
        let of_level = self.log.iter().filter(|(at, _)| *at == level);
        of_level.map(|(_, line)| line.as_str()).collect()
    }

    /// Values of a response header.
    pub fn response_header(&self, name: &str) -> Vec<String> {
        values(&self.response_headers, name)
    }

    /// Values of a request header.
    pub fn request_header(&self, name: &str) -> Vec<String> {
        values(&self.request_headers, name)
    }

    /// The body a client would get.
    pub fn final_response_body(&self) -> String {
        text(self.new_response_body.as_ref().unwrap_or(&self.response_body))
    }

    /// The body the next handler would get.
    pub fn final_request_body(&self) -> String {
        text(self.new_request_body.as_ref().unwrap_or(&self.request_body))
    }

    fn lines_mut(&mut self, kind: FieldKind) -> &mut Vec<Line> {
        match kind {
            FieldKind::Request => &mut self.request_headers,
            FieldKind::Response => &mut self.response_headers,
            FieldKind::RequestTrailers => &mut self.request_trailers,
            FieldKind::ResponseTrailers => &mut self.response_trailers,
        }
    }
}

fn values(lines: &[Line], name: &str) -> Vec<String> {
    let of_name = lines.iter().filter(|(line, _)| line.eq_ignore_ascii_case(name.as_bytes()));
    of_name.map(|(_, value)| text(value)).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where an exchange turns up again after a guest had it.
pub type Home = Arc<Mutex<Option<Exchange>>>;

/// An [`Exchange`] on loan.
pub struct FakeExchange {
    pub exchange: Exchange,
    /// What guests set for the response stays where the next guest finds it.
    pub keeps_early: bool,
    home: Home,
}

impl FakeExchange {
    /// Lends an exchange; it comes home when this is dropped.
    pub fn new(exchange: Exchange) -> (Self, Home) {
        let home = Home::default();
        let lent = FakeExchange { exchange, keeps_early: false, home: home.clone() };
        (lent, home)
    }

    /// What guests have set goes into the response, as where there is no next handler.
    fn begin_response(&mut self) {
        let exchange = &mut self.exchange;
        let kept = &mut exchange.kept;
        let owned = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
        exchange.status = kept.status().or(exchange.status);
        exchange.response_headers.extend(kept.early(FieldKind::Response).map(owned));
        exchange.response_trailers.extend(kept.early(FieldKind::ResponseTrailers).map(owned));
        kept.forget_early();
    }

    async fn park(&mut self) {
        poll_fn(|_| match self.exchange.parks {
            0 => Poll::Ready(()),
            _ => {
                self.exchange.parks -= 1;
                Poll::Pending
            }
        })
        .await;
    }
}

impl Drop for FakeExchange {
    fn drop(&mut self) {
        if !self.keeps_early {
            self.begin_response();
        }
        *self.home.lock() = Some(std::mem::take(&mut self.exchange));
    }
}

impl Host for FakeExchange {
    fn supported_features(&self) -> Features {
        self.exchange.supported
    }

    fn log_enabled(&self, level: Level) -> bool {
        level >= self.exchange.log_level
    }

    fn log(&mut self, level: Level, message: &[u8]) {
        self.exchange.log.push((level, text(message)));
    }

    fn remark(&mut self, level: Level, text: &str) {
        if self.log_enabled(level) {
            self.log(level, text.as_bytes());
        }
    }

    fn kept(&self) -> Option<&Kept> {
        Some(&self.exchange.kept)
    }

    fn kept_mut(&mut self) -> Option<&mut Kept> {
        Some(&mut self.exchange.kept)
    }

    fn method(&self) -> &[u8] {
        &self.exchange.method
    }

    fn set_method(&mut self, method: &[u8]) -> Result<(), Refusal> {
        self.exchange.method = method.to_vec();
        Ok(())
    }

    fn uri(&self) -> &[u8] {
        &self.exchange.uri
    }

    fn set_uri(&mut self, target: &[u8]) -> Result<(), Refusal> {
        self.exchange.uri = target.to_vec();
        Ok(())
    }

    fn protocol_version(&self) -> &[u8] {
        &self.exchange.protocol
    }

    fn source_addr(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.exchange.source_addr)
    }

    fn fields(&self, kind: FieldKind) -> impl Iterator<Item = (&[u8], &[u8])> {
        let lines = match kind {
            FieldKind::Request => &self.exchange.request_headers,
            FieldKind::Response => &self.exchange.response_headers,
            FieldKind::RequestTrailers => &self.exchange.request_trailers,
            FieldKind::ResponseTrailers => &self.exchange.response_trailers,
        };
        lines.iter().map(|(name, value)| (&name[..], &value[..]))
    }

    fn set_field(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let lines = self.exchange.lines_mut(kind);
        let first = lines.iter().position(|(line, _)| line.eq_ignore_ascii_case(name));
        lines.retain(|(line, _)| !line.eq_ignore_ascii_case(name));
        let at = first.unwrap_or(lines.len());
        lines.insert(at, (name.to_vec(), value.to_vec()));
        Ok(())
    }

    fn add_field(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let line = (name.to_vec(), value.to_vec());
        self.exchange.lines_mut(kind).push(line);
        Ok(())
    }

    fn remove_field(&mut self, kind: FieldKind, name: &[u8]) -> Result<(), Refusal> {
        let lines = self.exchange.lines_mut(kind);
        lines.retain(|(line, _)| !line.eq_ignore_ascii_case(name));
        Ok(())
    }

    async fn read_body(&mut self, source: Source, buf: &mut [u8]) -> Result<Chunk, Refusal> {
        self.park().await;
        let exchange = &mut self.exchange;
        if let Some(reason) = &exchange.broken_body {
            return Err(Refusal::Body(reason.clone()));
        }
        let (body, cursor) = match source {
            Source::Request | Source::RequestAgain => {
                (&exchange.request_body, &mut exchange.cursors[0])
            }
            Source::Own | Source::Response => (&exchange.response_body, &mut exchange.cursors[1]),
        };
        let rest = &body[*cursor..];
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        *cursor += len;
        let eof = *cursor == body.len();
        Ok(Chunk { len, eof })
    }

    fn empty_response(&mut self, empty: bool) {
        self.exchange.emptied = empty;
    }

    fn write_body(&mut self, sink: Sink, write: Write, bytes: &[u8]) -> Result<(), Refusal> {
        let body = match sink {
            Sink::Request => &mut self.exchange.new_request_body,
            Sink::Own | Sink::Response => &mut self.exchange.new_response_body,
        };
        let body = body.get_or_insert_default();
        if write == Write::Replace {
            body.clear();
        }
        if body.len() + bytes.len() > 3 << 20 {
            let what = "fake body";
            return Err(Refusal::TooLarge { what, limit: 3 << 20 });
        }
        body.extend_from_slice(bytes);
        Ok(())
    }

    fn status_code(&self) -> u16 {
        self.exchange.status.unwrap_or(200)
    }

    fn set_status_code(&mut self, status: u16) -> Result<(), Refusal> {
        self.exchange.status = Some(status);
        Ok(())
    }

    async fn sleep(&mut self, time: Duration) {
        self.exchange.sleeps.push(time);
        self.park().await;
    }

    fn connects(&self) -> bool {
        self.exchange.connects
    }

    async fn ready(&mut self, sockets: Vec<Watched>, time: Duration) -> Waited {
        self.exchange.looks += 1;
        if let Some(waited) = self.exchange.waited {
            return waited;
        }
        self.park().await;
        let flags = |it: &Watched| match (it.read, it.write) {
            (true, true) => PollFlags::IN | PollFlags::OUT,
            (true, false) => PollFlags::IN,
            (false, _) => PollFlags::OUT,
        };
        let mut fds: Vec<_> = sockets.iter().map(|it| PollFd::new(&it.socket, flags(it))).collect();
        let time = Timespec::try_from(time).expect("a time");
        poll(&mut fds, Some(&time)).expect("polls");
        Waited::Over
    }

    async fn resolve(&mut self, name: &str) -> Result<Vec<IpAddr>, Unresolved> {
        self.exchange.asked.push(name.to_owned());
        let named = self.exchange.names.iter().filter(|(other, _)| other == name);
        Ok(named.map(|(_, address)| *address).collect())
    }
}
