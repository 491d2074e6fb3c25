//! [`Exchange`]: one nginx request as the host functions see it.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::abi::{Features, FieldKind, Level};
use crate::host::budget::message_cost;
use crate::host::kept::Kept;
use crate::host::{
    Chunk, Host, Refusal, Sink, Source, Unresolved, Waited, Watched, Write, matching,
};
use crate::nginx::exchange::settings::{Given, Http, Location};
use crate::nginx::exchange::shared::{Io, IoRef, Keeper, Lost, Shared};
use crate::nginx::guests::lease;
use crate::nginx::guests::plugin;
use crate::nginx::guests::start::Naps;
use crate::nginx::ngx::body;
use crate::nginx::ngx::ffi::NoMemory;
use crate::nginx::ngx::field::FieldLine;
use crate::nginx::ngx::headers_in;
use crate::nginx::ngx::headers_out::{self, trailers};
use crate::nginx::ngx::log::{Log, Who};
use crate::nginx::ngx::request::Request;
use crate::nginx::ngx::spool::{Body, SpoolError};
use crate::nginx::ngx::uri;

/// What a body that is too large is called: after the directive that limits it.
const REQUEST_NAME: &str = "the request body (client_max_body_size)";
const RESPONSE_NAME: &str = "the response body (http_wasm_response_buffer)";
/// What becomes of a target that leaves the root.
const UNSAFE_PATH: &str = "nginx finds the path unsafe";

/// A guest as one `http_wasm` line configures it.
pub(crate) type Plugin = plugin::Plugin<Exchange>;
/// An instance pinned to one exchange.
pub(crate) type Lease = lease::Lease<Exchange>;

/// A request lent to one guest call; or no request at all, for start functions that run when the
/// configuration is loaded.
pub(crate) struct Exchange {
    name: Rc<str>,
    log: Log,
    occasion: Occasion,
}

/// What a guest is called for.
enum Occasion {
    /// A request.
    Request(Lent),
    /// Its start. What it may log is limited, too.
    Start(Box<Kept>, Place),
}

/// Where a guest starts.
enum Place {
    /// In a process of its own, while a configuration is read: it may wait for as long as it likes.
    Child,
    /// In a worker, which has others to serve.
    Worker(Rc<Naps>),
}

struct Lent {
    keeper: Rc<dyn Keeper>,
    r: Request,
    /// Always there: a request is lent to one call at a time.
    io: Option<IoRef>,
    /// What the location gives guests among the request's fields, once they look.
    given: OnceCell<Vec<(&'static [u8], &'static [u8])>>,
}

impl Lent {
    fn shared(&self) -> &Shared {
        self.keeper.shared()
    }

    /// Names in lower case; one whose value is empty is not there, and hides a client's all the same.
    fn given(&self) -> &[(&'static [u8], &'static [u8])] {
        let fields = Location::given(self.r);
        if fields.is_empty() {
            return &[];
        }
        self.given.get_or_init(|| {
            let value = |field: &Given| field.value.of(self.r).unwrap_or_default();
            fields.iter().map(|field| (field.name.as_slice(), value(field))).collect()
        })
    }

    fn is_given(&self, name: &[u8]) -> Option<&'static [u8]> {
        let mut given = self.given().iter();
        given.find_map(|(other, value)| other.eq_ignore_ascii_case(name).then_some(*value))
    }
}

// SAFETY: an engine wants what it stores to be Send. nginx runs every callback of a process on one
// thread, guest calls are polled from those callbacks only (task.rs), and neither the engine nor
// anybody else moves an Exchange to another thread.
unsafe impl Send for Exchange {}

/// A future that the engine may hold, under the same promise as [`Exchange`].
struct OneThread<F>(F);

// SAFETY: as for Exchange: polled and dropped on nginx's thread only.
unsafe impl<F> Send for OneThread<F> {}

impl<F: Future> Future for OneThread<F> {
    type Output = F::Output;

    fn poll(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<F::Output> {
        // SAFETY: a projection to the only field; it is never moved out.
        unsafe { self.map_unchecked_mut(|this| &mut this.0) }.poll(cx)
    }
}

impl From<NoMemory> for Refusal {
    fn from(_: NoMemory) -> Self {
        Refusal::NoMemory
    }
}

impl Exchange {
    /// An exchange for one call of a guest on behalf of a request.
    pub(crate) fn lend(plugin: &Plugin, keeper: Rc<dyn Keeper>) -> Self {
        let r = keeper.shared().request();
        let io = IoRef::of(Rc::clone(&keeper));
        Exchange {
            name: plugin.name(),
            log: r.log(),
            occasion: Occasion::Request(Lent { keeper, r, io, given: OnceCell::new() }),
        }
    }

    /// An exchange without a request, for a start while the configuration is read.
    pub(crate) fn without_request(name: Rc<str>, log: Log) -> Self {
        Exchange { name, log, occasion: Occasion::Start(Box::default(), Place::Child) }
    }

    /// The same for a start in a worker, which may outlive the request that it is for.
    pub(crate) fn of_worker(name: Rc<str>, naps: &Rc<Naps>) -> Self {
        let place = Place::Worker(Rc::clone(naps));
        Exchange { name, log: Log::cycle(), occasion: Occasion::Start(Box::default(), place) }
    }

    fn lent(&self) -> Option<&Lent> {
        match &self.occasion {
            Occasion::Request(lent) => Some(lent),
            Occasion::Start(..) => None,
        }
    }

    fn lent_mut(&mut self) -> Option<&mut Lent> {
        match &mut self.occasion {
            Occasion::Request(lent) => Some(lent),
            Occasion::Start(..) => None,
        }
    }

    fn write_log(&self, level: Level, text: &[u8]) {
        if self.log.enabled(level) {
            self.log.guest(level, &self.who(), text);
        }
    }

    /// How lines of the log name the guest.
    fn who(&self) -> Who<'_> {
        let index = self.main().and_then(|main| main.request_id);
        let id = self.lent().zip(index).and_then(|(lent, at)| lent.r.variable(at));
        Who { name: &self.name, request_id: id }
    }

    /// The configuration of the request.
    fn main(&self) -> Option<&'static Http> {
        Http::of(self.lent()?.r)
    }

    /// A guest is about to change this field.
    fn heed(&self, kind: FieldKind, name: &[u8]) {
        if kind == FieldKind::Request
            && let Some(lent) = self.lent()
        {
            lent.shared().forget_encoding(name);
        }
    }

    fn io(&self) -> Option<(Request, &Io)> {
        let lent = self.lent()?;
        Some((lent.r, lent.io.as_deref()?))
    }

    fn io_mut(&mut self) -> Option<(Request, &mut Io)> {
        let lent = self.lent_mut()?;
        Some((lent.r, lent.io.as_deref_mut()?))
    }
}

/// The lines of one of nginx's lists, or of none.
enum Fields<A, G, B, C> {
    None,
    Request(A),
    Given(G),
    Response(B),
    Trailers(C),
}

impl<'a, A, G, B, C> Iterator for Fields<A, G, B, C>
where
    A: Iterator<Item = (&'a [u8], &'a [u8])>,
    G: Iterator<Item = (&'a [u8], &'a [u8])>,
    B: Iterator<Item = (&'a [u8], &'a [u8])>,
    C: Iterator<Item = (&'a [u8], &'a [u8])>,
{
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Fields::None => None,
            Fields::Request(lines) => lines.next(),
            Fields::Given(lines) => lines.next(),
            Fields::Response(lines) => lines.next(),
            Fields::Trailers(lines) => lines.next(),
        }
    }

    // Which list it is is asked once.
    fn fold<T, F: FnMut(T, Self::Item) -> T>(self, init: T, f: F) -> T {
        match self {
            Fields::None => init,
            Fields::Request(lines) => lines.fold(init, f),
            Fields::Given(lines) => lines.fold(init, f),
            Fields::Response(lines) => lines.fold(init, f),
            Fields::Trailers(lines) => lines.fold(init, f),
        }
    }
}

fn unreadable(error: std::io::Error) -> Refusal {
    Refusal::Body(format!("the body cannot be read: {error}"))
}

impl Host for Exchange {
    fn supported_features(&self) -> Features {
        Features::BUFFER_REQUEST | Features::BUFFER_RESPONSE | Features::TRAILERS
    }

    fn log_enabled(&self, level: Level) -> bool {
        // What goes to the access log does not depend on the level of the error log.
        self.log.enabled(level)
            || level != Level::Debug && self.main().is_some_and(|main| !main.wanted.is_nothing())
    }

    fn log(&mut self, level: Level, message: &[u8]) {
        let main = self.main();
        if let (Some(main), Some((_, io))) = (main, self.io_mut())
            && level != Level::Debug
            && !main.wanted.is_nothing()
        {
            main.wanted.look(message, &mut io.found);
        }
        self.write_log(level, message);
    }

    fn log_cost(&self, level: Level, message: &[u8]) -> usize {
        let written = match self.log.enabled(level) {
            true => self.log.guest_cost(level, &self.who(), message),
            // For the access log alone.
            false => 0,
        };
        written.max(message_cost(message))
    }

    fn remark(&mut self, level: Level, text: &str) {
        self.write_log(level, text.as_bytes());
    }

    fn kept(&self) -> Option<&Kept> {
        match &self.occasion {
            Occasion::Request(lent) => lent.io.as_deref().map(|io| &io.kept),
            Occasion::Start(kept, _) => Some(kept),
        }
    }

    fn kept_mut(&mut self) -> Option<&mut Kept> {
        match &mut self.occasion {
            Occasion::Request(lent) => lent.io.as_deref_mut().map(|io| &mut io.kept),
            Occasion::Start(kept, _) => Some(kept),
        }
    }

    fn method(&self) -> &[u8] {
        self.io().map_or(b"", |(r, _)| r.method())
    }

    fn set_method(&mut self, method: &[u8]) -> Result<(), Refusal> {
        if let Some((r, io)) = self.io_mut() {
            io.request.sent_method.get_or_insert(r.method_number());
            r.set_method(method)?;
            io.request.dirty = true;
        }
        Ok(())
    }

    fn uri(&self) -> &[u8] {
        let Some((r, io)) = self.io() else { return b"" };
        match &io.request.uri {
            Some(uri) => uri,
            None => r.unparsed_uri().unwrap_or(b"/"),
        }
    }

    fn set_uri(&mut self, target: &[u8]) -> Result<(), Refusal> {
        if let Some((r, io)) = self.io_mut() {
            if !uri::set(r, target)? {
                return Err(Refusal::Unfit(UNSAFE_PATH));
            }
            // As the guest knows it; the request line has its query escaped.
            io.request.uri = Some(target.to_vec());
            io.request.dirty = true;
        }
        Ok(())
    }

    fn protocol_version(&self) -> &[u8] {
        self.io().map_or(b"", |(r, _)| r.protocol())
    }

    fn source_addr(&self) -> Cow<'_, [u8]> {
        self.io().map_or(Cow::Borrowed(b""), |(r, _)| r.source_addr())
    }

    fn fields(&self, kind: FieldKind) -> impl Iterator<Item = (&[u8], &[u8])> {
        let (Some(lent), Some((r, io))) = (self.lent(), self.io()) else { return Fields::None };
        match kind {
            FieldKind::Request => match (lent.given(), lent.shared().shown()) {
                ([], shown) if shown.is_empty() => Fields::Request(headers_in::fields(r)),
                (given, shown) => {
                    let given = given.iter().copied().filter(|(_, value)| !value.is_empty());
                    let sent = headers_in::fields(r).chain(shown);
                    Fields::Given(
                        given.chain(sent.filter(|(name, _)| lent.is_given(name).is_none())),
                    )
                }
            },
            // nginx has none.
            FieldKind::RequestTrailers => Fields::None,
            FieldKind::Response => Fields::Response(headers_out::fields(r, &io.response.outside)),
            FieldKind::ResponseTrailers => Fields::Trailers(trailers::fields(r)),
        }
    }

    fn values<'h>(&'h self, kind: FieldKind, name: &[u8], mut found: impl FnMut(&'h [u8])) {
        match (self.io(), kind) {
            (Some((r, _)), FieldKind::Request) => {
                match self.lent().and_then(|lent| lent.is_given(name)) {
                    None => {
                        headers_in::values(r, name, &mut found);
                        let shown =
                            self.lent().map(|lent| lent.shared().shown()).unwrap_or_default();
                        matching(shown.into_iter(), name).for_each(found);
                    }
                    Some(b"") => {}
                    Some(value) => found(value),
                }
            }
            _ => matching(self.fields(kind), name).for_each(found),
        }
    }

    fn set_field(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        self.heed(kind, name);
        let Some((r, io)) = self.io_mut() else { return Ok(()) };
        let line = FieldLine::copy(r, name, value)?;
        match kind {
            FieldKind::Request => {
                headers_in::set(r, line)?;
                io.request.dirty = true;
            }
            FieldKind::Response => headers_out::set(r, &mut io.response.outside, line)?,
            FieldKind::ResponseTrailers => trailers::set(r, line)?,
            // nginx has none, and the permissions let nobody set them.
            FieldKind::RequestTrailers => {}
        }
        Ok(())
    }

    fn add_field(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        self.heed(kind, name);
        let Some((r, io)) = self.io_mut() else { return Ok(()) };
        let line = FieldLine::copy(r, name, value)?;
        match kind {
            FieldKind::Request => {
                headers_in::add(r, line)?;
                io.request.dirty = true;
            }
            FieldKind::Response => headers_out::add(r, &mut io.response.outside, line)?,
            FieldKind::ResponseTrailers => trailers::add(r, line)?,
            FieldKind::RequestTrailers => {}
        }
        Ok(())
    }

    fn remove_field(&mut self, kind: FieldKind, name: &[u8]) -> Result<(), Refusal> {
        self.heed(kind, name);
        let Some((r, io)) = self.io_mut() else { return Ok(()) };
        match kind {
            FieldKind::Request => {
                headers_in::remove(r, name)?;
                io.request.dirty = true;
            }
            FieldKind::Response => headers_out::remove(r, &mut io.response.outside, name)?,
            FieldKind::ResponseTrailers => trailers::remove(r, name),
            FieldKind::RequestTrailers => {}
        }
        Ok(())
    }

    fn read_body(
        &mut self,
        source: Source,
        buf: &mut [u8],
    ) -> impl Future<Output = Result<Chunk, Refusal>> + Send {
        OneThread(async move {
            let nothing = Chunk { len: 0, eof: true };
            let Some(lent) = self.lent_mut() else {
                return Ok(nothing);
            };
            let Some(io) = lent.io.as_deref_mut() else {
                return Ok(nothing);
            };
            match source {
                Source::Request | Source::RequestAgain => {
                    if source == Source::Request && io.request.body.is_none() {
                        lent.keeper.shared().whole_body().await.map_err(|Lost| {
                            Refusal::Body("the request body was not received whole".to_owned())
                        })?;
                        io.request.body = Some(body::reader(lent.r));
                    }
                    match &mut io.request.body {
                        Some(reader) => reader.read(buf).map_err(unreadable),
                        None => Ok(nothing),
                    }
                }
                Source::Own => {
                    let chunk =
                        io.response.own.read(io.response.own_read, buf).map_err(unreadable)?;
                    io.response.own_read += chunk.len as u64;
                    Ok(chunk)
                }
                Source::Response => {
                    let chunk = io.response.body.read(io.response.read, buf).map_err(unreadable)?;
                    io.response.read += chunk.len as u64;
                    Ok(chunk)
                }
            }
        })
    }

    fn empty_response(&mut self, empty: bool) {
        if let Some((_, io)) = self.io_mut() {
            io.response.emptied = empty;
        }
    }

    fn write_body(&mut self, sink: Sink, write: Write, bytes: &[u8]) -> Result<(), Refusal> {
        let Some((r, io)) = self.io_mut() else { return Ok(()) };
        let (body, what, room) = match sink {
            Sink::Request => {
                (io.request.written.get_or_insert_default(), REQUEST_NAME, body::room(r))
            }
            Sink::Own => (&mut io.response.own, RESPONSE_NAME, Location::response_room(r)),
            Sink::Response => {
                let body = io.response.written.get_or_insert_default();
                (body, RESPONSE_NAME, Location::response_room(r))
            }
        };
        if write == Write::Replace {
            *body = Body::default();
        }
        body.write(r, bytes, room).map_err(|error| match error {
            SpoolError::TooLarge(limit) => Refusal::TooLarge { what, limit },
            SpoolError::File(_) => Refusal::Body(error.to_string()),
        })
    }

    fn status_code(&self) -> u16 {
        match self.io().map_or(0, |(r, _)| r.status()) {
            0 => 200,
            status => status,
        }
    }

    fn set_status_code(&mut self, status: u16) -> Result<(), Refusal> {
        if let Some((r, _)) = self.io_mut() {
            // The tunnel behind it would open all the same.
            if r.upgrades() && status != r.status() {
                return Err(Refusal::Unfit("the connection is being upgraded"));
            }
            r.set_status(status);
        }
        Ok(())
    }

    fn sleep(&mut self, time: Duration) -> impl Future<Output = ()> + Send {
        OneThread(async move {
            match &self.occasion {
                Occasion::Request(lent) => lent.shared().sleep(time).await,
                Occasion::Start(_, Place::Worker(naps)) => naps.sleep(time).await,
                Occasion::Start(_, Place::Child) => std::thread::sleep(time),
            }
        })
    }

    fn connects(&self) -> bool {
        match &self.occasion {
            Occasion::Request(_) | Occasion::Start(_, Place::Worker(_)) => true,
            // There is no event loop, and nobody is to hear of a configuration that is tried out.
            Occasion::Start(_, Place::Child) => false,
        }
    }

    fn ready(
        &mut self,
        sockets: Vec<Watched>,
        time: Duration,
    ) -> impl Future<Output = Waited> + Send {
        OneThread(async move {
            match &self.occasion {
                Occasion::Request(lent) => lent.shared().ready(sockets, time).await,
                Occasion::Start(_, Place::Worker(naps)) => naps.ready(sockets, time).await,
                Occasion::Start(_, Place::Child) => Waited::NotNow,
            }
        })
    }

    fn resolve(
        &mut self,
        name: &str,
    ) -> impl Future<Output = Result<Vec<IpAddr>, Unresolved>> + Send {
        OneThread(async move {
            match &self.occasion {
                Occasion::Request(lent) => lent.shared().resolve(name).await,
                Occasion::Start(_, Place::Worker(naps)) => naps.resolve(name).await,
                Occasion::Start(_, Place::Child) => Err(Unresolved::NotNow),
            }
        })
    }
}
