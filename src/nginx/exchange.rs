//! [`Exchange`]: one nginx request as the host functions see it.

use std::borrow::Cow;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use super::conf::{LocConf, MainConf};
use super::ctx::{Ctx, Io, Mode};
use super::ffi::NoMemory;
use super::headers_out::{self, trailers};
use super::line::FieldLine;
use super::log::Log;
use super::plugin::Plugin;
use super::request::Request;
use super::spool::{Body, SpoolError};
use super::{body, headers_in, task, uri};
use crate::abi::{BodyKind, Features, FieldKind, Level};
use crate::host::policy::{
    FIELD_COST, FIELDS_MAX, FIELDS_NAME, LINE_COST, LOGGED_ENOUGH, LOGGED_MAX, MESSAGE_MAX,
    REQUEST_NAME, RESPONSE_NAME, SET_MAX, SET_NAME, UNSAFE_PATH,
};
use crate::host::{Chunk, Host, Refusal, Write, matching};

/// A request lent to one guest call; or no request at all, for start functions that run when the
/// configuration is loaded.
pub(crate) struct Exchange {
    name: Rc<str>,
    log: Log,
    lent: Option<Lent>,
}

struct Lent {
    ctx: Rc<Ctx>,
    r: Request,
    /// Always there until the exchange is dropped, which hands it back.
    io: Option<Box<Io>>,
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
    pub(crate) fn lend(plugin: &Plugin, ctx: &Rc<Ctx>) -> Self {
        let r = ctx.request();
        Exchange {
            name: plugin.name(),
            log: r.log(),
            lent: Some(Lent { ctx: Rc::clone(ctx), r, io: ctx.io.take() }),
        }
    }

    /// An exchange without a request.
    pub(crate) fn without_request(name: Rc<str>, log: Log) -> Self {
        Exchange { name, log, lent: None }
    }

    fn write_log(&self, level: Level, text: &[u8]) {
        if self.log.enabled(level) {
            let index = self.main().and_then(|main| main.request_id);
            let id = self.lent.as_ref().zip(index).and_then(|(lent, at)| lent.r.variable(at));
            self.log.guest(level, &self.name, id, text);
        }
    }

    /// The configuration of the request.
    fn main(&self) -> Option<&'static MainConf> {
        MainConf::of(self.lent.as_ref()?.r)
    }

    /// Charges what a call is about to copy into the request's memory, which is not given back
    /// before the request ends, however often the guest sets the same field.
    fn charge(&mut self, bytes: usize) -> Result<(), Refusal> {
        let Some((_, io)) = self.open() else { return Ok(()) };
        io.copied = io.copied.saturating_add(bytes + FIELD_COST);
        if io.copied > SET_MAX {
            return Err(Refusal::TooLarge { what: SET_NAME, limit: SET_MAX as u64 });
        }
        Ok(())
    }

    /// Charges a field that is set or added.
    fn charge_field(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if let Some((_, io)) = self.open() {
            let count = &mut io.fields_set[kind as usize];
            *count += 1;
            if *count > FIELDS_MAX {
                return Err(Refusal::TooMany { what: FIELDS_NAME, limit: FIELDS_MAX });
            }
        }
        self.charge(2 * name.len() + value.len())
    }

    fn io(&self) -> Option<(Request, &Io)> {
        let lent = self.lent.as_ref()?;
        Some((lent.r, lent.io.as_deref()?))
    }

    fn io_mut(&mut self) -> Option<(Request, &mut Io)> {
        let lent = self.lent.as_mut()?;
        Some((lent.r, lent.io.as_deref_mut()?))
    }

    /// The part a change may be made to; `None` after the request ended and without one.
    fn open(&mut self) -> Option<(Request, &mut Io)> {
        self.io_mut().filter(|(_, io)| io.mode != Mode::Ended)
    }
}

/// The lines of one of nginx's lists, or of none.
enum Lines<A, B, C, D> {
    None,
    Request(A),
    Early(B),
    Response(C),
    Trailers(D),
}

impl<'a, A, B, C, D> Iterator for Lines<A, B, C, D>
where
    A: Iterator<Item = (&'a [u8], &'a [u8])>,
    B: Iterator<Item = (&'a [u8], &'a [u8])>,
    C: Iterator<Item = (&'a [u8], &'a [u8])>,
    D: Iterator<Item = (&'a [u8], &'a [u8])>,
{
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Lines::None => None,
            Lines::Request(lines) => lines.next(),
            Lines::Early(lines) => lines.next(),
            Lines::Response(lines) => lines.next(),
            Lines::Trailers(lines) => lines.next(),
        }
    }

    // Which list it is is asked once.
    fn fold<T, F: FnMut(T, Self::Item) -> T>(self, init: T, f: F) -> T {
        match self {
            Lines::None => init,
            Lines::Request(lines) => lines.fold(init, f),
            Lines::Early(lines) => lines.fold(init, f),
            Lines::Response(lines) => lines.fold(init, f),
            Lines::Trailers(lines) => lines.fold(init, f),
        }
    }
}

fn unreadable(error: std::io::Error) -> Refusal {
    Refusal::Body(format!("the body cannot be read: {error}"))
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(lent) = &mut self.lent {
            lent.ctx.io.set(lent.io.take());
        }
    }
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
        let kept = &message[..message.len().min(MESSAGE_MAX)];
        if let Some((_, io)) = self.io_mut() {
            let before = io.logged;
            io.logged = before.saturating_add(kept.len() + LINE_COST);
            if before > LOGGED_MAX {
                return;
            }
            if io.logged > LOGGED_MAX {
                return self.write_log(Level::Warn, LOGGED_ENOUGH.as_bytes());
            }
        }
        let main = self.main();
        if let (Some(main), Some((_, io))) = (main, self.io_mut())
            && level != Level::Debug
            && !main.wanted.is_nothing()
        {
            main.wanted.look(kept, &mut io.found);
        }
        self.write_log(level, kept);
        if kept.len() < message.len() {
            let more = format!("... and {} bytes more", message.len() - kept.len());
            self.write_log(level, more.as_bytes());
        }
    }

    fn method(&self) -> &[u8] {
        self.io().map_or(b"", |(r, _)| r.method())
    }

    fn set_method(&mut self, method: &[u8]) -> Result<(), Refusal> {
        self.charge(method.len())?;
        if let Some((r, io)) = self.open() {
            io.sent_method.get_or_insert(r.method_number());
            r.set_method(method)?;
            io.dirty = true;
        }
        Ok(())
    }

    fn uri(&self) -> &[u8] {
        let Some((r, io)) = self.io() else { return b"" };
        match &io.uri {
            Some(uri) => uri,
            None => r.unparsed_uri().unwrap_or(b"/"),
        }
    }

    fn set_uri(&mut self, target: &[u8]) -> Result<(), Refusal> {
        // Raw, decoded, and as the guest knows it.
        self.charge(3 * target.len())?;
        if let Some((r, io)) = self.open() {
            if !uri::set(r, target)? {
                return Err(Refusal::Unfit(UNSAFE_PATH));
            }
            // As the guest knows it; the request line has its query escaped.
            io.uri = Some(target.to_vec());
            io.dirty = true;
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
        let Some((r, io)) = self.io() else { return Lines::None };
        match (kind, io.mode) {
            (FieldKind::Request, _) => Lines::Request(headers_in::fields(r)),
            (FieldKind::RequestTrailers, _) => Lines::None,
            (_, Mode::Request) => {
                let lines = io.early.lines(kind).iter();
                Lines::Early(lines.map(|line| (line.name(), line.value())))
            }
            (FieldKind::Response, _) => Lines::Response(headers_out::fields(r, &io.outside)),
            (FieldKind::ResponseTrailers, _) => Lines::Trailers(trailers::fields(r)),
        }
    }

    fn values<'h>(&'h self, kind: FieldKind, name: &[u8], found: impl FnMut(&'h [u8])) {
        match (self.io(), kind) {
            (Some((r, _)), FieldKind::Request) => headers_in::values(r, name, found),
            _ => matching(self.fields(kind), name).for_each(found),
        }
    }

    fn set_field(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        self.charge_field(kind, name, value)?;
        let Some((r, io)) = self.open() else {
            return Ok(());
        };
        let line = FieldLine::copy(r, name, value)?;
        match (kind, io.mode) {
            (FieldKind::Request, _) => {
                headers_in::set(r, line)?;
                io.dirty = true;
            }
            (_, Mode::Request) => {
                io.early.remove(kind, name);
                io.early.add(kind, line);
            }
            (FieldKind::Response, _) => {
                if name.eq_ignore_ascii_case(b"content-length") {
                    // The one length of a guest's that means something.
                    io.response_emptied = value == b"0";
                }
                headers_out::set(r, &mut io.outside, line)?;
            }
            (FieldKind::ResponseTrailers, _) => trailers::set(r, line)?,
            // nginx has none, and the permissions let nobody set them.
            (FieldKind::RequestTrailers, _) => {}
        }
        Ok(())
    }

    fn add_field(&mut self, kind: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        self.charge_field(kind, name, value)?;
        let Some((r, io)) = self.open() else {
            return Ok(());
        };
        let line = FieldLine::copy(r, name, value)?;
        match (kind, io.mode) {
            (FieldKind::Request, _) => {
                headers_in::add(r, line)?;
                io.dirty = true;
            }
            (_, Mode::Request) => io.early.add(kind, line),
            (FieldKind::Response, _) => headers_out::add(r, &mut io.outside, line)?,
            (FieldKind::ResponseTrailers, _) => trailers::add(r, line)?,
            (FieldKind::RequestTrailers, _) => {}
        }
        Ok(())
    }

    fn remove_field(&mut self, kind: FieldKind, name: &[u8]) -> Result<(), Refusal> {
        if kind == FieldKind::Request
            && let Some((r, _)) = self.io()
            && headers_in::fields(r).any(|(other, _)| other.eq_ignore_ascii_case(name))
        {
            // The list is built anew.
            self.charge(headers_in::fields(r).count() * FIELD_COST)?;
        }
        let Some((r, io)) = self.open() else {
            return Ok(());
        };
        match (kind, io.mode) {
            (FieldKind::Request, _) => {
                headers_in::remove(r, name)?;
                io.dirty = true;
            }
            (_, Mode::Request) => io.early.remove(kind, name),
            (FieldKind::Response, _) => headers_out::remove(r, &mut io.outside, name),
            (FieldKind::ResponseTrailers, _) => trailers::remove(r, name),
            (FieldKind::RequestTrailers, _) => {}
        }
        Ok(())
    }

    fn read_body(
        &mut self,
        kind: BodyKind,
        buf: &mut [u8],
    ) -> impl Future<Output = Result<Chunk, Refusal>> + Send {
        OneThread(async move {
            let nothing = Chunk { len: 0, eof: true };
            let Some(lent) = &mut self.lent else {
                return Ok(nothing);
            };
            let Some(io) = lent.io.as_deref_mut() else {
                return Ok(nothing);
            };
            match (kind, io.mode) {
                (BodyKind::Request, mode) => {
                    if mode == Mode::Request && io.request.is_none() {
                        task::client_body(&lent.ctx).await.map_err(|task::Lost| {
                            Refusal::Body("the request body was not received whole".to_owned())
                        })?;
                        io.request = Some(body::reader(lent.r));
                    }
                    match &mut io.request {
                        Some(reader) => reader.read(buf).map_err(unreadable),
                        None => Ok(nothing),
                    }
                }
                (BodyKind::Response, Mode::Request) => {
                    let chunk = io.own.read(io.own_read, buf).map_err(unreadable)?;
                    io.own_read += chunk.len as u64;
                    Ok(chunk)
                }
                (BodyKind::Response, _) => {
                    let chunk = io.response.read(io.response_read, buf).map_err(unreadable)?;
                    io.response_read += chunk.len as u64;
                    Ok(chunk)
                }
            }
        })
    }

    fn write_body(&mut self, kind: BodyKind, write: Write, bytes: &[u8]) -> Result<(), Refusal> {
        let Some((r, io)) = self.open() else {
            return Ok(());
        };
        let (body, what, room) = match (kind, io.mode) {
            (BodyKind::Request, _) => {
                let body = io.request_written.get_or_insert_default();
                (body, REQUEST_NAME, body::room(r))
            }
            (BodyKind::Response, mode) => {
                let body = if mode == Mode::Request {
                    &mut io.own
                } else {
                    io.response_emptied = false;
                    io.response_written.get_or_insert_default()
                };
                (body, RESPONSE_NAME, LocConf::response_room(r))
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
        let Some((r, io)) = self.io() else { return 200 };
        let status = match io.mode {
            Mode::Request => io.early.status.unwrap_or(0),
            _ => r.status(),
        };
        if status == 0 { 200 } else { status }
    }

    fn set_status_code(&mut self, status: u16) -> Result<(), Refusal> {
        if let Some((r, io)) = self.open() {
            match io.mode {
                Mode::Request => io.early.status = Some(status),
                _ => r.set_status(status),
            }
        }
        Ok(())
    }

    fn template(&self) -> &[u8] {
        self.io().map_or(b"", |(_, io)| &io.template)
    }

    fn set_template(&mut self, name: &[u8]) -> Result<(), Refusal> {
        if let Some((_, io)) = self.open() {
            if name.len() > SET_MAX {
                return Err(Refusal::TooLarge { what: "the template", limit: SET_MAX as u64 });
            }
            // Replaces what was there: nothing piles up.
            io.template = name.to_vec();
        }
        Ok(())
    }

    fn sleep(&mut self, time: Duration) -> impl Future<Output = ()> + Send {
        OneThread(async move {
            match &self.lent {
                Some(lent) => task::sleep(&lent.ctx, time).await,
                // Start functions at configuration time run in a process of their own.
                None => std::thread::sleep(time),
            }
        })
    }
}
