//! `http-wasm run`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::{Format, Isolation, RequestArgs, ResponseArgs, Run};
use super::check::{log_json, pretty};
use super::exchange::{Exchange, Lent, Rules};
use super::flow::{End, Failed, Outcome, serve};
use super::load::{self, Loaded};
use super::message::{Content, Request, Response};
use super::text::{bytes, difference, heading, log_lines, ms};
use super::turns::Turns;
use super::{DIFFERENT, Failure, GuestFailure, place, print};
use crate::escaped::Escaped;
use crate::runtime::instance::Instance;
use crate::runtime::precompiled::{digest, hex};

/// Time that compiling and starting a guest may take, as in nginx.
const LOAD_LIMIT: Duration = Duration::from_secs(120);

/// Sends a request through a guest.
pub(crate) fn run(args: &Run) -> Result<(), Failure> {
    let request = request(&args.request)?;
    let response = response(&args.response, request.method == b"HEAD")?;
    let settings = args.guest.settings()?;
    let name = settings.name.clone();
    let slice = settings.limits.slice;
    let rules = Rules {
        log_level: args.log_level.into(),
        source_addr: args.source_addr.to_string(),
        // As in nginx, 0 is no limit.
        request_max: match args.client_max_body_size {
            0 => u64::MAX,
            size => size,
        },
        response_max: args.response_buffer,
        given: args.field.clone(),
        buffer_types: args.buffer_type.clone(),
        trace: args.trace,
        count: args.count,
        connects: true,
    };
    let path = &args.guest.path;
    let source = load::source(path)?;
    if args.trace {
        anstream::eprintln!("start");
    }
    // As where nginx tries a configuration out.
    let trial = Rules { connects: false, ..rules.clone() };
    let loaded = load::load(path, source, settings, trial, LOAD_LIMIT)?;
    let turns = Turns::new(&loaded.engine, slice)?;
    let quiet = Rules { trace: false, ..rules.clone() };
    let mut instance: Option<Instance<Lent>> = None;
    let mut outcome = None;
    for _ in 0..args.repeat {
        if args.isolation == Isolation::Request {
            instance = None;
        }
        let instance = match &mut instance {
            Some(instance) => instance,
            None => instance.insert(start(path, &loaded, &turns, quiet.clone())?),
        };
        let exchange = Exchange::new(rules.clone(), request.clone());
        let served = serve(&turns, instance, exchange, &response);
        let failed = matches!(served.end, End::Failed(_));
        outcome = Some(served);
        if failed {
            break;
        }
    }
    match outcome {
        Some(outcome) => report(args, &name, &loaded, &request, &response, outcome),
        None => Ok(()),
    }
}

/// A further instance, started as a worker starts it.
fn start(
    path: &Path,
    loaded: &Loaded,
    turns: &Turns,
    rules: Rules,
) -> Result<Instance<Lent>, Failure> {
    let (host, _home) = Lent::new(Exchange::new(rules, Request::default()));
    match turns.run(loaded.guest.start(host)).output {
        Ok(Ok(instance)) => Ok(instance),
        Ok(Err(error)) => Err(load::refused(path, &error)),
        Err(overdue) => Err(Failure::new(format!("cannot start an instance: {overdue}"))),
    }
}

fn request(args: &RequestArgs) -> Result<Request, Failure> {
    if let Some(file) = &args.request_file {
        let bytes = super::read(file, "--request")?;
        return Request::parse(&bytes).map_err(|error| bad_message(file, &error));
    }
    let url = args.url.as_deref().unwrap_or_default();
    let (host, target) = split_url(url);
    let mut content = Content { body: body(args.data.as_deref())?, ..Content::default() };
    let given = |name: &str| args.header.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
    if !given("host") {
        content.fields.push((b"Host".to_vec(), host.into()));
    }
    let headers = args.header.iter();
    content
        .fields
        .extend(headers.map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into())));
    if args.data.is_some() {
        if !given("content-type") {
            let form = b"application/x-www-form-urlencoded".to_vec();
            content.fields.push((b"Content-Type".to_vec(), form));
        }
        content.count();
    }
    let default = if args.data.is_some() { "POST" } else { "GET" };
    let method = args.method.as_deref().unwrap_or(default);
    if !crate::http::is_token(method.as_bytes()) {
        return Err(Failure::usage(format!(
            "-X \"{}\" is no method, expected a token such as GET",
            method.escape_default()
        )));
    }
    let request =
        Request { method: method.into(), target: target.into(), minor: 1, content }.validate();
    request.map_err(|error| Failure::usage(format!("the request {error}")))
}

/// Host and target of a URL, or of a path alone.
fn split_url(url: &str) -> (&str, String) {
    let after = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    // A fragment is never sent.
    let after = after.map(|after| after.split('#').next().unwrap_or_default());
    let Some(after) = after else { return ("localhost", url.to_owned()) };
    let at = after.find(['/', '?']).unwrap_or(after.len());
    let (host, target) = after.split_at(at);
    match target.starts_with('/') {
        true => (host, target.to_owned()),
        false => (host, format!("/{target}")),
    }
}

fn body(given: Option<&str>) -> Result<Vec<u8>, Failure> {
    match given {
        None => Ok(Vec::new()),
        Some(text) => match text.strip_prefix('@') {
            Some(file) => super::read(Path::new(file), "the body"),
            None => Ok(text.into()),
        },
    }
}

fn response(args: &ResponseArgs, to_head: bool) -> Result<Response, Failure> {
    if let Some(file) = &args.response_file {
        let bytes = super::read(file, "--response")?;
        return Response::parse(&bytes, to_head).map_err(|error| bad_message(file, &error));
    }
    let mut content = Content { body: body(args.response_body.as_deref())?, ..Content::default() };
    let fields = args.response_header.iter();
    content.fields =
        fields.map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into())).collect();
    if !matches!(args.status, 204 | 304) {
        content.count();
    }
    Ok(Response { status: args.status, content })
}

fn bad_message(file: &Path, error: &super::message::BadMessage) -> Failure {
    Failure::usage(format!("\"{}\" {error}", file.display()))
}

/// Prints or compares what became of it.
fn report(
    args: &Run,
    name: &str,
    loaded: &Loaded,
    request: &Request,
    response: &Response,
    outcome: Outcome,
) -> Result<(), Failure> {
    eprint_figures(loaded, &outcome);
    if let End::Failed(Failed { status, reason, backtrace }) = outcome.end {
        let name = Escaped(name.as_bytes());
        let reason = Escaped(reason.as_bytes()).to_string();
        let text = format!("http_wasm guest \"{name}\": {reason}");
        let note = Some(format!("the client gets {status}"));
        let guest = GuestFailure { reason, backtrace, log: outcome.exchange.log, note };
        return Err(Failure { guest: Some(Box::new(guest)), ..Failure::new(text) });
    }
    let result = match args.format {
        Format::Text => text(name, request, response, &outcome),
        Format::Json => json(name, loaded, &outcome),
    };
    match &args.golden {
        None => print(&super::text::coloured(&result)),
        Some(file) if args.update => {
            place::put(file, result.as_bytes())?;
            print(&format!("{name}: written to {}\n", file.display()));
        }
        Some(file) => {
            let golden = super::read(file, "--golden")?;
            let golden = String::from_utf8_lossy(&golden);
            if golden != result {
                let title = heading(&format!("{} and what came out", file.display()));
                let shown = title + &difference(&golden, &result);
                print(&super::text::coloured(&shown));
                let text = format!("the result is not that of \"{}\"", file.display());
                return Err(Failure { status: DIFFERENT, ..Failure::new(text) });
            }
            print(&format!("{name}: as in {}\n", file.display()));
        }
    }
    Ok(())
}

/// What is the same on every machine and every day.
fn text(name: &str, request: &Request, response: &Response, outcome: &Outcome) -> String {
    let name = Escaped(name.as_bytes());
    let mut text = String::new();
    let (title, to_next, to_client, from_next) = match &outcome.end {
        End::Passed { request, response: out } => {
            ("passed the request on", Some(request), out, response.show())
        }
        End::Answered { response: out } => ("answered by itself", None, out, String::new()),
        End::Failed(_) => return text,
    };
    // Writing to a string does not fail.
    let _ = writeln!(text, "{name}: {title}");
    text.push_str(&heading("request"));
    let received = request.show();
    text.push_str(&difference(&received, &to_next.map_or(received.clone(), Request::show)));
    text.push_str(&heading("response"));
    text.push_str(&difference(&from_next, &to_client.show()));
    let template = outcome.exchange.kept.template();
    if !template.is_empty() {
        text.push_str(&heading("template"));
        let _ = writeln!(text, " {}", Escaped(template));
    }
    if !outcome.exchange.log.is_empty() {
        text.push_str(&heading("log"));
        for (level, line) in &outcome.exchange.log {
            let _ = writeln!(text, " {}: {line}", format!("{level:?}").to_lowercase());
        }
    }
    text
}

/// What differs from run to run.
fn eprint_figures(loaded: &Loaded, outcome: &Outcome) {
    let started = &loaded.started;
    anstream::eprintln!("compiled in {}, started in {}", ms(started.compiled), ms(started.started));
    for (call, time) in &outcome.times {
        anstream::eprintln!("{call} ran for {}", ms(*time));
    }
    anstream::eprintln!(
        "{} calls of host functions, {} of memory",
        outcome.exchange.calls,
        bytes(outcome.memory_bytes)
    );
    if let Some(instructions) = outcome.instructions {
        anstream::eprintln!("{instructions} instructions");
    }
    if !started.log.is_empty() {
        anstream::eprint!("logged at start:\n{}", log_lines(&started.log));
    }
}

fn json(name: &str, loaded: &Loaded, outcome: &Outcome) -> String {
    let (end, request, response) = match &outcome.end {
        End::Passed { request, response } => ("passed", Some(request), Some(response)),
        End::Answered { response } => ("answered", None, Some(response)),
        End::Failed(_) => ("failed", None, None),
    };
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let lines = |lines: &[super::message::Line]| -> Value {
        lines.iter().map(|(name, value)| json!([lossy(name), lossy(value)])).collect()
    };
    let content = |content: &Content, first: Value| {
        let mut message = json!({
            "fields": lines(&content.fields),
            "body": lossy(&content.body),
            "body_bytes": content.body.len(),
            "body_sha256": hex(&digest(&content.body)),
            "trailers": lines(&content.trailers),
        });
        if let (Value::Object(message), Value::Object(first)) = (&mut message, first) {
            message.extend(first);
        }
        message
    };
    let times: serde_json::Map<_, _> = outcome
        .times
        .iter()
        .map(|(call, time)| ((*call).to_owned(), json!(time.as_secs_f64() * 1e3)))
        .collect();
    pretty(&json!({
        "guest": name,
        "outcome": end,
        "request": request.map(|request| content(&request.content, json!({
            "method": lossy(&request.method),
            "target": lossy(&request.target),
        }))),
        "response": response.map(|response| content(&response.content, json!({
            "status": response.status,
        }))),
        "template": lossy(outcome.exchange.kept.template()),
        "log": log_json(&outcome.exchange.log),
        "calls": outcome.exchange.calls,
        "instructions": outcome.instructions,
        "memory_bytes": outcome.memory_bytes,
        "compile_ms": loaded.started.compiled.as_secs_f64() * 1e3,
        "start_ms": loaded.started.started.as_secs_f64() * 1e3,
        "ran_ms": times,
    }))
}
