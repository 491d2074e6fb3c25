//! One exchange from the request to the response: what nginx's access handler and filters do around
//! a guest's two calls.

use std::time::Duration;

use super::exchange::{Exchange, Home, Lent, is, owned};
use super::message::{Content, Line, Request, Response};
use super::turns::{Ran, Turns};
use crate::abi::{Features, FieldKind, Level, Next};
use crate::host::policy::{is_single, is_validator};
use crate::http::on_the_wire;
use crate::runtime::error::CallError;
use crate::runtime::instance::Instance;

/// What became of an exchange.
pub(crate) struct Outcome {
    pub(crate) end: End,
    /// As the exchange came home in the end: log, template, calls.
    pub(crate) exchange: Exchange,
    /// Time that the guest ran in each of its calls.
    pub(crate) times: Vec<(&'static str, Duration)>,
    /// Instructions that it executed in both, if they are counted.
    pub(crate) instructions: Option<u64>,
    pub(crate) memory_bytes: usize,
    /// Features of this request.
    pub(crate) features: Features,
}

/// How it ended.
pub(crate) enum End {
    /// The guest passed the request on and saw the response.
    Passed {
        /// What the next handler got.
        request: Request,
        /// What the client gets.
        response: Response,
    },
    /// The guest answered by itself.
    Answered {
        /// What the client gets.
        response: Response,
    },
    /// The client gets an error page.
    Failed(Failed),
}

/// Why a client gets an error page.
pub(crate) struct Failed {
    /// Its status.
    pub(crate) status: u16,
    /// What nginx writes to its log.
    pub(crate) reason: String,
    /// The guest's frames.
    pub(crate) backtrace: Option<String>,
}

/// Sends `request` through a guest, and `response` back through it if it asks for one.
pub(crate) fn serve(
    turns: &Turns,
    instance: &mut Instance<Lent>,
    exchange: Exchange,
    response: &Response,
) -> Outcome {
    let mut outcome = Outcome {
        end: End::Answered { response: Response::default() },
        exchange,
        times: Vec::new(),
        instructions: None,
        memory_bytes: 0,
        features: Features::empty(),
    };
    let before = instance.instructions();
    outcome.end = calls(turns, instance, &mut outcome, response);
    let after = instance.instructions();
    outcome.instructions = after.zip(before).map(|(after, before)| after - before);
    outcome.memory_bytes = instance.memory_bytes();
    outcome
}

fn calls(
    turns: &Turns,
    instance: &mut Instance<Lent>,
    outcome: &mut Outcome,
    response: &Response,
) -> End {
    let received = outcome.exchange.request.clone();
    let to_head = received.method == b"HEAD";
    if outcome.exchange.rules.trace {
        anstream::eprintln!("handle_request");
    }
    let (host, home) = Lent::new(outcome.exchange.clone());
    let ran = turns.run(instance.handle_request(host));
    outcome.features = instance.features();
    let next = match finish(outcome, "handle_request", ran, home) {
        Ok(next) => next,
        Err(failed) => return End::Failed(failed),
    };
    let exchange = &mut outcome.exchange;
    let ctx = match next {
        Next::Stop => return End::Answered { response: answer(exchange, to_head) },
        Next::Continue { ctx, odd } => {
            if odd {
                let text = "handle_request returned a next value other than 0 and 1, taken as 1";
                exchange.log.push((Level::Warn, text.to_owned()));
            }
            ctx
        }
    };
    let buffered = outcome.features.contains(Features::BUFFER_RESPONSE);
    let request = passed_on(exchange, buffered);
    let way = Way::begin(exchange, response.clone(), to_head);
    let buffered = buffered && exchange.rules.buffers(&exchange.response.content.fields);
    if !buffered {
        instance.withdraw(Features::BUFFER_RESPONSE);
    }
    let way = match way.offer(exchange, buffered) {
        Ok(way) => way,
        Err(failed) => return End::Failed(failed),
    };
    if exchange.rules.trace {
        anstream::eprintln!("handle_response");
    }
    let (host, home) = Lent::new(exchange.clone());
    let ran = turns.run(instance.handle_response(host, ctx, false));
    match finish(outcome, "handle_response", ran, home) {
        Ok(()) => match way.release(&mut outcome.exchange) {
            Ok(response) => End::Passed { request, response },
            Err(failed) => End::Failed(failed),
        },
        Err(failed) => End::Failed(failed),
    }
}

/// Takes the exchange home and sorts out how the call ended.
fn finish<T>(
    outcome: &mut Outcome,
    call: &'static str,
    ran: Ran<Result<T, CallError>>,
    home: Home,
) -> Result<T, Failed> {
    outcome.times.push((call, ran.time));
    if let Some(exchange) = home.lock().take() {
        outcome.exchange = *exchange;
    }
    let failed = |reason, backtrace| Err(Failed { status: 500, reason, backtrace });
    match ran.output {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => failed(error.to_string(), error.backtrace()),
        Err(overdue) => failed(overdue.to_string(), None),
    }
}

/// The request as the next handler gets it. What a guest makes of a part would not fit the part's
/// Content-Range, and what it puts before an encoded body would not fit the encoding: where it has the
/// body, nobody is asked for ranges, or for an encoding.
fn passed_on(exchange: &mut Exchange, buffered: bool) -> Request {
    let has_body = buffered || !exchange.own.is_empty();
    let fields = &mut exchange.request.content.fields;
    if has_body && fields.iter().any(|line| is(line, b"range")) {
        fields.retain(|line| !is(line, b"range") && !is(line, b"if-range"));
    }
    let mut request = exchange.request.clone();
    if let Some(written) = exchange.request_written.take() {
        // The body that the guest may read again stays what it was.
        set_length(&mut request.content, Some(written.len() as u64));
        request.content.body = written;
        exchange.request.content.fields.clone_from(&request.content.fields);
    }
    if has_body {
        // The guest sees it again afterwards.
        request.content.fields.retain(|line| !is(line, b"accept-encoding"));
    }
    // As the guest does not see it.
    request.target = on_the_wire(&request.target).into_owned();
    request
}

/// The guest's own response.
fn answer(exchange: &mut Exchange, to_head: bool) -> Response {
    let kept = &mut exchange.kept;
    let status = kept.status().unwrap_or(200);
    let mut content = Content { body: std::mem::take(&mut exchange.own), ..Content::default() };
    content.fields.extend(owned(kept.early(FieldKind::Response)));
    content.trailers.extend(owned(kept.early(FieldKind::ResponseTrailers)));
    kept.forget_early();
    let no_body = matches!(status, 204 | 304);
    if no_body && !content.body.is_empty() {
        let text = format!("a response of status {status} has no body; the guest's is dropped");
        exchange.log.push((Level::Warn, text));
    }
    let length = content.body.len() as u64;
    set_length(&mut content, (!no_body).then_some(length));
    finished(Response { status, content }, no_body || to_head)
}

/// A response on its way out.
struct Way {
    to_head: bool,
    /// Validators of the next handler's body.
    validators: Vec<Line>,
    /// Its encoding.
    encoding: Option<Line>,
    /// Length that the next handler's response announces.
    announced: Option<u64>,
    /// The body that no guest sees.
    stream: Vec<u8>,
    /// Bytes that the guest wrote before the next handler ran, at the start of the body.
    prefix: usize,
    /// The guest is to see the body.
    whole: bool,
}

impl Way {
    /// What the guest set before the next handler ran is merged in.
    fn begin(exchange: &mut Exchange, mut response: Response, to_head: bool) -> Way {
        let content = &mut response.content;
        if exchange.request.method == b"HEAD" && !to_head {
            // The client gets what it asked for, of which the next handler has made nothing.
            content.body.clear();
            set_length(content, Some(0));
        }
        let validators = content.fields.iter().filter(|(name, _)| is_validator(name)).cloned();
        let validators = validators.collect();
        let mut fields = content.fields.iter();
        let encoding = fields.rfind(|line| is(line, b"content-encoding")).cloned();
        let kept = &mut exchange.kept;
        content.trailers.extend(owned(kept.early(FieldKind::ResponseTrailers)));
        let taken = |name: &[u8]| content.fields.iter().any(|line| is(line, name));
        let mut fields: Vec<Line> = owned(kept.early(FieldKind::Response))
            .filter(|(name, _)| !is_single(name) || !taken(name))
            .collect();
        kept.forget_early();
        fields.append(&mut content.fields);
        content.fields = fields;
        let announced = length(content);
        let stream = std::mem::take(&mut content.body);
        exchange.response = response;
        Way { to_head, validators, encoding, announced, stream, prefix: 0, whole: false }
    }

    fn has_no_body(&self, exchange: &Exchange) -> bool {
        self.to_head || matches!(exchange.response.status, 204 | 304)
    }

    /// Readies what the guest may read.
    fn offer(mut self, exchange: &mut Exchange, buffered: bool) -> Result<Way, Failed> {
        let own = std::mem::take(&mut exchange.own);
        self.prefix = own.len();
        self.whole = buffered && !self.has_no_body(exchange);
        if self.has_no_body(exchange) {
            self.stream.clear();
        }
        self.stream.splice(..0, own);
        exchange.request_read = 0;
        exchange.response_read = 0;
        if self.whole {
            let max = exchange.rules.response_max;
            if self.stream.len() as u64 > max {
                let reason = format!(
                    "the response cannot be buffered: the body would exceed {max} bytes \
                     (http_wasm_response_buffer)"
                );
                return Err(Failed { status: 502, reason, backtrace: None });
            }
            exchange.response.content.body = std::mem::take(&mut self.stream);
        }
        Ok(self)
    }

    /// Lengths, validators and encoding that fit the body.
    fn release(self, exchange: &mut Exchange) -> Result<Response, Failed> {
        let no_body = self.has_no_body(exchange);
        let written = exchange.response_written.take();
        let emptied = exchange.response_emptied && self.whole;
        let replaced = emptied || written.is_some();
        if replaced || self.prefix > 0 {
            forget(exchange, &self.validators);
        }
        if replaced {
            forget(exchange, self.encoding.as_slice());
        } else if self.prefix > 0 && !no_body {
            let mut fields = exchange.response.content.fields.iter();
            let is_encoded = fields.any(|line| self.encoding.as_ref() == Some(line));
            let why = match (is_encoded, exchange.response.status) {
                (true, _) => Some("encoded (Content-Encoding)"),
                (false, 206) => Some("a part (206)"),
                (false, _) => None,
            };
            if let Some(why) = why {
                let reason = format!(
                    "wrote bytes before a body that is {why}, though nobody asked for that"
                );
                return Err(Failed { status: 502, reason, backtrace: None });
            }
        }
        let mut response = std::mem::take(&mut exchange.response);
        let content = &mut response.content;
        let mut whole = self.whole;
        if emptied {
            content.body.clear();
        } else if let Some(written) = written {
            // Also where a response without a body was made one that may have one.
            whole |= !no_body;
            content.body = written;
        } else if !whole {
            content.body = self.stream;
        }
        let len = match (whole, no_body) {
            (false, true) if replaced => None,
            (false, _) => self.announced.map(|len| len + self.prefix as u64),
            (true, true) => None,
            (true, false) => Some(content.body.len() as u64),
        };
        if len != self.announced || whole {
            set_length(content, len);
        }
        Ok(finished(response, no_body))
    }
}

/// Takes off what speaks of the original body; what the guest set stays.
fn forget(exchange: &mut Exchange, validators: &[Line]) {
    for line in validators {
        let by_guest = exchange.replaced.iter().any(|name| is(line, name));
        let fields = &mut exchange.response.content.fields;
        if !by_guest && let Some(at) = fields.iter().rposition(|other| other == line) {
            fields.remove(at);
        }
    }
}

/// Without the body that there is none of, and what nginx's header filter leaves out of a 204; in
/// chunks if trailers follow.
fn finished(mut response: Response, no_body: bool) -> Response {
    let Response { status, content } = &mut response;
    if *status == 204 {
        content.fields.retain(|line| !is(line, b"content-type") && !is(line, b"content-length"));
    }
    if no_body {
        content.body.clear();
        content.trailers.clear();
    } else if !content.trailers.is_empty() {
        set_length(content, None);
        if !content.fields.iter().any(|line| is(line, b"transfer-encoding")) {
            content.fields.push((b"Transfer-Encoding".to_vec(), b"chunked".to_vec()));
        }
    }
    response
}

fn length(content: &Content) -> Option<u64> {
    let value = content.values("content-length").next()?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Announces a length, where one was announced before; `None` announces none.
fn set_length(content: &mut Content, len: Option<u64>) {
    let fields = &mut content.fields;
    let Some(len) = len else {
        return fields.retain(|line| !is(line, b"content-length"));
    };
    let value = len.to_string().into_bytes();
    fields.retain(|line| !is(line, b"transfer-encoding"));
    match fields.iter_mut().find(|line| is(line, b"content-length")) {
        Some(line) => line.1 = value,
        None => fields.push((b"Content-Length".to_vec(), value)),
    }
}
