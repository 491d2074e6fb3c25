//! `Test` reads like a sentence: a guest, an exchange, what the next handler answers, run.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ngx_http_wasm_handler_module::abi::{Features, Level, Next};
use ngx_http_wasm_handler_module::host::Waited;
use ngx_http_wasm_handler_module::host::connect::Rule;
use ngx_http_wasm_handler_module::runtime::error::{CallError, LoadError};
use ngx_http_wasm_handler_module::runtime::guest::{self, Dir, Guest, Settings};
use ngx_http_wasm_handler_module::runtime::instance::Instance;
use ngx_http_wasm_handler_module::runtime::{Compile, Engine, Limits, Module};

use crate::fake::{Exchange, FakeExchange, Line};

/// One engine for all tests, as a server has one for all guests.
pub static ENGINE: LazyLock<Engine> =
    LazyLock::new(|| Engine::new(Compile::Serial).expect("an engine"));

/// Polls until it is done, however often that is: no runtime, no waker, as in an event loop.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..10_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("still pending");
}

/// A guest and the exchange it is going to see.
pub struct Test {
    wat: String,
    module: Option<Module>,
    settings: Settings,
    exchange: Exchange,
    upstream: Option<(u16, Vec<Line>, Vec<u8>)>,
}

impl Test {
    /// A file below `tests/guests`.
    pub fn guest(path: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
        let wat = std::fs::read_to_string(root.join(path)).expect(path);
        Test::wat(&wat)
    }

    /// A guest on the spot.
    pub fn wat(wat: &str) -> Self {
        Test {
            wat: wat.to_owned(),
            module: None,
            settings: settings(),
            exchange: Exchange::default(),
            upstream: None,
        }
    }

    /// A module that was compiled before.
    pub fn module(module: &Module) -> Self {
        let mut test = Test::wat("");
        test.module = Some(module.clone());
        test
    }

    /// A guest that only handles requests: imports and body of `handle_request`, which goes on
    /// unless the body returns.
    pub fn on_request(imports: &str, body: &str) -> Self {
        Test::wat(&format!(
            r#"(module {imports} (memory (export "memory") 1)
                 (func (export "handle_request") (result i64) {body} (i64.const 1))
                 (func (export "handle_response") (param i32 i32)))"#
        ))
    }

    pub fn config(mut self, config: impl AsRef<[u8]>) -> Self {
        self.settings.config = config.as_ref().to_vec().into();
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.settings.env.push((name.into(), value.into()));
        self
    }

    pub fn dir(mut self, host: &Path, guest: &str, writable: bool) -> Self {
        self.settings.dirs.push(Dir { host: host.into(), guest: guest.into(), writable });
        self
    }

    pub fn strict(mut self) -> Self {
        self.settings.strict = true;
        self
    }

    /// A rule for connections.
    pub fn connect(mut self, rule: &str) -> Self {
        let rule = Rule::parse(rule.as_bytes()).expect(rule);
        let outbound = &mut self.settings.outbound;
        outbound.rules = outbound.rules.iter().cloned().chain([rule]).collect();
        self
    }

    /// How long sockets are waited for.
    pub fn patience(mut self, time: Duration) -> Self {
        self.settings.outbound.timeout = time;
        self
    }

    pub fn without_connections(mut self) -> Self {
        self.exchange.connects = false;
        self
    }

    /// Waits for sockets go like this.
    pub fn waits(mut self, waited: Waited) -> Self {
        self.exchange.waited = Some(waited);
        self
    }

    /// What a name stands for.
    pub fn name(mut self, name: &str, address: &str) -> Self {
        self.exchange.names.push((name.into(), address.parse().expect(address)));
        self
    }

    pub fn memory_limit(mut self, memory_bytes: usize) -> Self {
        self.settings.limits = Limits { memory_bytes, ..Limits::default() };
        self
    }

    pub fn supports(mut self, features: Features) -> Self {
        self.exchange.supported = features;
        self
    }

    pub fn log_level(mut self, level: Level) -> Self {
        self.exchange.log_level = level;
        self
    }

    pub fn request(mut self, method: &str, uri: &str) -> Self {
        self.exchange.method = method.into();
        self.exchange.uri = uri.into();
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.exchange.request_headers.push((name.into(), value.into()));
        self
    }

    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.exchange.request_trailers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.exchange.request_body = body.as_ref().to_vec();
        self
    }

    pub fn broken_body(mut self, reason: &str) -> Self {
        self.exchange.broken_body = Some(reason.into());
        self
    }

    /// Every wait takes that many polls.
    pub fn parks(mut self, times: usize) -> Self {
        self.exchange.parks = times;
        self
    }

    /// What the next handler answers if the guest goes on.
    pub fn upstream(mut self, status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let lines =
            headers.iter().map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into()));
        self.upstream = Some((status, lines.collect(), body.into()));
        self
    }

    pub fn load(&self) -> Result<Guest<FakeExchange>, LoadError> {
        let module = match &self.module {
            Some(module) => module.clone(),
            None => guest::compile(&ENGINE, self.wat.as_bytes())?,
        };
        Guest::new(&ENGINE, &module, self.settings.clone())
    }

    /// Why the guest cannot be used.
    pub fn load_error(&self) -> String {
        let error = self.load().err().or_else(|| self.start().err());
        error.expect("does not load").to_string()
    }

    pub fn start(&self) -> Result<Running, LoadError> {
        let guest = self.load()?;
        let (host, home) = FakeExchange::new(self.exchange.clone());
        let instance = block_on(guest.start(host));
        let at_start = home.lock().take().expect("the exchange comes home");
        Ok(Running {
            instance: instance?,
            exchange: self.exchange.clone(),
            upstream: self.upstream.clone(),
            at_start,
        })
    }

    /// One whole exchange; panics if the guest fails.
    pub fn run(self) -> Outcome {
        match self.try_run() {
            Ok(outcome) => outcome,
            Err(error) => panic!("{error}\n{:?}", error.backtrace()),
        }
    }

    /// One whole exchange.
    pub fn try_run(self) -> Result<Outcome, CallError> {
        self.start().expect("starts").serve()
    }

    /// The text of the error that ends the exchange.
    pub fn error(self) -> String {
        match self.try_run() {
            Ok(outcome) => panic!("no error but {outcome:?}"),
            Err(error) => error.to_string(),
        }
    }
}

/// Default settings under a name for tests.
pub fn settings() -> Settings {
    Settings {
        name: "test".into(),
        config: Default::default(),
        limits: Limits::default(),
        env: Vec::new(),
        dirs: Vec::new(),
        strict: false,
        outbound: Default::default(),
    }
}

/// A started guest with the exchange it is going to see.
pub struct Running {
    pub instance: Instance<FakeExchange>,
    pub exchange: Exchange,
    pub upstream: Option<(u16, Vec<Line>, Vec<u8>)>,
    /// What start functions were lent.
    pub at_start: Exchange,
}

impl Running {
    /// One whole exchange: request, next handler, response.
    pub fn serve(&mut self) -> Result<Outcome, CallError> {
        self.serve_with(false)
    }

    pub fn serve_with(&mut self, is_error: bool) -> Result<Outcome, CallError> {
        let (host, home) = FakeExchange::new(self.exchange.clone());
        let next = block_on(self.instance.handle_request(host));
        let mut exchange = home.lock().take().expect("the exchange comes home");
        let next = next?;
        let to_upstream = exchange.clone();
        if let Next::Continue { ctx, .. } = next {
            if let Some((status, headers, body)) = &self.upstream {
                exchange.status = Some(*status);
                exchange.response_headers.extend(headers.iter().cloned());
                exchange.response_body = body.clone();
            }
            let (host, home) = FakeExchange::new(exchange);
            let result = block_on(self.instance.handle_response(host, ctx, is_error));
            exchange = home.lock().take().expect("the exchange comes home");
            result?;
        }
        Ok(Outcome { next, to_upstream, exchange })
    }
}

/// What became of an exchange.
#[derive(Debug)]
pub struct Outcome {
    pub next: Next,
    /// As `handle_request` left it.
    pub to_upstream: Exchange,
    /// As it was in the end.
    pub exchange: Exchange,
}

impl Outcome {
    pub fn goes_on(&self) -> bool {
        matches!(self.next, Next::Continue { .. })
    }

    pub fn status(&self) -> u16 {
        self.exchange.status.unwrap_or(200)
    }

    pub fn body(&self) -> String {
        self.exchange.final_response_body()
    }
}
