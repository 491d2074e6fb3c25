//! What the engine's side of things costs, without nginx: each host function, a call on a pooled instance, a fresh
//! instance, a suspend and resume, each as a ratio to an empty call.
//!
//! The exchange behind the host functions does nothing: what is measured is the way there and back.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::Criterion;
use ngx_http_wasm_handler_module::abi::{Features, FieldKind, Level, Next};
use ngx_http_wasm_handler_module::host::kept::Kept;
use ngx_http_wasm_handler_module::host::{Chunk, Host, Refusal, Sink, Source, Write};
use ngx_http_wasm_handler_module::runtime::guest::{self, Guest, Settings};
use ngx_http_wasm_handler_module::runtime::instance::Instance;
use ngx_http_wasm_handler_module::runtime::pool::{Pool, Take};
use ngx_http_wasm_handler_module::runtime::{Compile, Engine, Layout, Limits};

/// Calls of a host function in one call of the guest.
const TIMES: u32 = 100;

/// Name, type, and arguments of a call whose result is dropped. Texts are in the guest's memory at 0.
const FUNCTIONS: [(&str, &str, &str); 21] = [
    ("enable_features", "(param i32) (result i32)", "1"),
    ("get_config", "(param i32 i32) (result i32)", "1024 1024"),
    ("log_enabled", "(param i32) (result i32)", "0"),
    ("log", "(param i32 i32 i32)", "0 0 10"),
    ("get_method", "(param i32 i32) (result i32)", "1024 1024"),
    ("set_method", "(param i32 i32)", "0 6"),
    ("get_uri", "(param i32 i32) (result i32)", "1024 1024"),
    ("set_uri", "(param i32 i32)", "32 16"),
    ("get_protocol_version", "(param i32 i32) (result i32)", "1024 1024"),
    ("get_source_addr", "(param i32 i32) (result i32)", "1024 1024"),
    ("get_header_names", "(param i32 i32 i32) (result i64)", "0 1024 1024"),
    ("get_header_values", "(param i32 i32 i32 i32 i32) (result i64)", "0 0 6 1024 1024"),
    ("set_header_value", "(param i32 i32 i32 i32 i32)", "0 0 6 32 16"),
    ("add_header_value", "(param i32 i32 i32 i32 i32)", "0 0 6 32 16"),
    ("remove_header", "(param i32 i32 i32)", "0 0 6"),
    ("read_body", "(param i32 i32 i32) (result i64)", "0 1024 1024"),
    ("write_body", "(param i32 i32 i32)", "1 1024 1024"),
    ("get_status_code", "(result i32)", ""),
    ("set_status_code", "(param i32)", "204"),
    ("get_template", "(param i32 i32) (result i32)", "1024 1024"),
    ("set_template", "(param i32 i32)", "0 6"),
];

/// As many headers as browsers send.
const HEADERS: [(&[u8], &[u8]); 12] = [
    (b"Host", b"example.org"),
    (b"Connection", b"keep-alive"),
    (b"Cache-Control", b"max-age=0"),
    (b"User-Agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"Accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"Accept-Language", b"en-US,en;q=0.5"),
    (b"Accept-Encoding", b"gzip, deflate, br, zstd"),
    (b"Referer", b"https://example.org/"),
    (b"Cookie", b"session=0123456789abcdef"),
    (b"Sec-Fetch-Dest", b"document"),
    (b"Sec-Fetch-Mode", b"navigate"),
    (b"X-Forwarded-For", b"203.0.113.7"),
];

/// An exchange at no cost.
struct Quiet {
    /// Whether a body is not there at once.
    parks: bool,
}

impl Host for Quiet {
    fn supported_features(&self) -> Features {
        Features::BUFFER_REQUEST | Features::BUFFER_RESPONSE | Features::TRAILERS
    }

    fn log_enabled(&self, _: Level) -> bool {
        true
    }

    fn log(&mut self, _: Level, message: &[u8]) {
        black_box(message);
    }

    fn remark(&mut self, _: Level, text: &str) {
        black_box(text);
    }

    fn kept(&self) -> Option<&Kept> {
        None
    }

    fn kept_mut(&mut self) -> Option<&mut Kept> {
        None
    }

    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn set_method(&mut self, method: &[u8]) -> Result<(), Refusal> {
        black_box(method);
        Ok(())
    }

    fn uri(&self) -> &[u8] {
        b"/index.html?page=1"
    }

    fn set_uri(&mut self, target: &[u8]) -> Result<(), Refusal> {
        black_box(target);
        Ok(())
    }

    fn protocol_version(&self) -> &[u8] {
        b"HTTP/1.1"
    }

    fn source_addr(&self) -> Cow<'_, [u8]> {
        b"203.0.113.7:40000".into()
    }

    fn fields(&self, _: FieldKind) -> impl Iterator<Item = (&[u8], &[u8])> {
        HEADERS.into_iter()
    }

    fn set_field(&mut self, _: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        black_box((name, value));
        Ok(())
    }

    fn add_field(&mut self, _: FieldKind, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        black_box((name, value));
        Ok(())
    }

    fn remove_field(&mut self, _: FieldKind, name: &[u8]) -> Result<(), Refusal> {
        black_box(name);
        Ok(())
    }

    async fn read_body(&mut self, _: Source, buf: &mut [u8]) -> Result<Chunk, Refusal> {
        let mut parks = self.parks;
        poll_fn(|_| if std::mem::take(&mut parks) { Poll::Pending } else { Poll::Ready(()) }).await;
        Ok(Chunk { len: buf.len(), eof: false })
    }

    fn empty_response(&mut self, empty: bool) {
        black_box(empty);
    }

    fn write_body(&mut self, _: Sink, _: Write, bytes: &[u8]) -> Result<(), Refusal> {
        black_box(bytes);
        Ok(())
    }

    fn status_code(&self) -> u16 {
        200
    }

    fn set_status_code(&mut self, status: u16) -> Result<(), Refusal> {
        black_box(status);
        Ok(())
    }

    async fn sleep(&mut self, _: Duration) {}
}

/// Polls until it is done, as an event loop that has nothing else to do.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

fn load(engine: &Engine, imports: &str, body: &str) -> Guest<Quiet> {
    let text = format!(
        r#"(module {imports} (memory (export "memory") 1)
             (data (i32.const 0) "Accept") (data (i32.const 32) "/other.html?x=10")
             (func (export "handle_request") (result i64) (local $i i32) {body} (i64.const 1))
             (func (export "handle_response") (param i32 i32)) {WORKERS})"#
    );
    let module = guest::compile(engine, text.as_bytes()).expect("compiles");
    let settings = Settings {
        name: "bench".into(),
        config: b"configuration".as_slice().into(),
        limits: Limits::default(),
        env: Vec::new(),
        dirs: Vec::new(),
        strict: false,
        outbound: Default::default(),
    };
    Guest::new(engine, &module, settings).expect("links")
}

fn start(guest: &Guest<Quiet>) -> Instance<Quiet> {
    block_on(guest.start(Quiet { parks: false })).expect("starts")
}

/// A guest that calls a host function many times in a row.
fn caller(engine: &Engine, (name, ty, arguments): (&str, &str, &str)) -> Guest<Quiet> {
    let import = format!(r#"(import "http_handler" "{name}" (func $f {ty}))"#);
    let arguments: String =
        arguments.split_whitespace().map(|value| format!("(i32.const {value})")).collect();
    let call = match ty.contains("result") {
        true => format!("(drop (call $f {arguments}))"),
        false => format!("(call $f {arguments})"),
    };
    let body = format!(
        "(loop $again {call} (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br_if $again (i32.lt_u (local.get $i) (i32.const {TIMES}))))"
    );
    load(engine, &import, &body)
}

fn request(instance: &mut Instance<Quiet>, parks: bool) -> Next {
    block_on(instance.handle_request(Quiet { parks })).expect("does not trap")
}

/// Work without any host call: what it is, and the code of `handle_request`.
const WORK: [(&str, &str); 3] = [
    // FNV-1a of the first 64 KiB of memory, byte by byte.
    (
        "hash",
        "(local $h i32) (local.set $h (i32.const -2128831035))
         (loop $next
           (local.set $h (i32.mul (i32.const 16777619)
             (i32.xor (local.get $h) (i32.load8_u (local.get $i)))))
           (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
             (i32.const 65536))))
         (i32.store (i32.const 0) (local.get $h))",
    ),
    // Fibonacci's 20th number, by 21,891 calls.
    ("calls", "(i32.store (i32.const 0) (call $fib (i32.const 20)))"),
    (SCALAR, "(i32.store (i32.const 0) (call $count))"),
];

/// How many of the first 64 KiB of memory are an "a", and the same with vectors.
const SCALAR: &str = "count";
const SIMD: &str = "count, SIMD";

const WORKERS: &str = r#"
    (func $fib (param i32) (result i32)
      (if (result i32) (i32.lt_u (local.get 0) (i32.const 2)) (then (local.get 0))
        (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1)))
          (call $fib (i32.sub (local.get 0) (i32.const 2)))))))
    (func $count (result i32) (local $i i32) (local $n i32)
      (loop $next
        (local.set $n (i32.add (local.get $n)
          (i32.eq (i32.load8_u (local.get $i)) (i32.const 97))))
        (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
          (i32.const 65536))))
      (local.get $n))
    (func $count_simd (result i32) (local $i i32) (local $n i32)
      (loop $next
        (local.set $n (i32.add (local.get $n) (i32.popcnt (i8x16.bitmask
          (i8x16.eq (v128.load (local.get $i)) (i8x16.splat (i32.const 97)))))))
        (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 16)))
          (i32.const 65536))))
      (local.get $n))"#;

/// The engine as nginx sets it up, and what else it could be.
const USUAL: &str = "as nginx has it";
const UNCHECKED: &str = "http_wasm_slice off";
const COMPACT: &str = "no addresses (ulimit -v)";
const FUEL: &str = "counting instructions";

const EMPTY: &str = "empty call";
const EXCHANGE: &str = "handle_request and handle_response, pooled instance";
const FRESH: &str = "the same, fresh instance";
const READ: &str = "read_body";
const PARKED: &str = "read_body, suspended and resumed";

fn main() {
    let output = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("micro");
    let mut criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
        .output_directory(&output)
        .configure_from_args();
    // Instances find room as in a worker.
    let engine =
        Engine::with(Compile::Serial, Layout::Pooled { instances: 64 }, Engine::STACK_BYTES)
            .expect("an engine");

    let empty = load(&engine, "", "");
    let mut instance = start(&empty);
    criterion.bench_function(EMPTY, |b| b.iter(|| request(&mut instance, false)));

    let mut pool = Pool::new(1);
    criterion.bench_function(EXCHANGE, |b| {
        b.iter(|| {
            let mut instance = match pool.take() {
                Take::Idle(instance) => instance,
                Take::Create => start(&empty),
                Take::Full => unreachable!("the only one is always given back"),
            };
            exchange(&mut instance);
            pool.give_back(instance);
        });
    });
    criterion.bench_function(FRESH, |b| b.iter(|| exchange(&mut start(&empty))));

    for function in FUNCTIONS {
        let mut instance = start(&caller(&engine, function));
        criterion.bench_function(function.0, |b| b.iter(|| request(&mut instance, false)));
    }
    let read = FUNCTIONS.into_iter().find(|(name, ..)| *name == READ).expect("is there");
    let mut instance = start(&caller(&engine, read));
    criterion.bench_function(PARKED, |b| b.iter(|| request(&mut instance, true)));
    let others = [
        (USUAL, Ok(engine.clone())),
        (UNCHECKED, engine.without_interrupts()),
        (COMPACT, Engine::with(Compile::Serial, Layout::Compact, Engine::STACK_BYTES)),
        (FUEL, Engine::counting(Compile::Serial)),
    ];
    for (settings, engine) in others {
        let engine = engine.expect("an engine");
        for (work, body) in WORK {
            let mut instance = start(&load(&engine, "", body));
            let id = under(work, settings);
            criterion.bench_function(&id, |b| b.iter(|| request(&mut instance, false)));
        }
    }
    let simd = "(i32.store (i32.const 0) (call $count_simd))";
    let mut instance = start(&load(&engine, "", simd));
    let id = under(SIMD, USUAL);
    criterion.bench_function(&id, |b| b.iter(|| request(&mut instance, false)));
    criterion.final_summary();

    print(&output);
    print_work(&output);
}

fn exchange(instance: &mut Instance<Quiet>) {
    let Next::Continue { ctx, .. } = request(instance, false) else { unreachable!("goes on") };
    block_on(instance.handle_response(Quiet { parks: false }, ctx, false)).expect("does not trap");
}

/// One line for each benchmark of this run or an earlier one: time, and ratio to an empty call.
fn print(output: &Path) {
    let Some(empty) = median(output, EMPTY) else { return };
    println!("\n{:<55}{:>10}{:>15}", "", "ns", "÷ empty call");
    let line = |name: &str, ns: f64| println!("{name:<55}{ns:>10.1}{:>15.2}", ns / empty);
    for name in [EMPTY, EXCHANGE, FRESH] {
        if let Some(ns) = median(output, name) {
            line(name, ns);
        }
    }
    let once = |name| median(output, name).map(|ns| (ns - empty) / f64::from(TIMES));
    if let (Some(parked), Some(read)) = (once(PARKED), once(READ)) {
        line("one suspend and resume", parked - read);
    }
    for (name, ..) in FUNCTIONS {
        if let Some(ns) = once(name) {
            line(name, ns);
        }
    }
}

/// What a benchmark of work under other settings is called.
fn under(work: &str, settings: &str) -> String {
    format!("{work}, {settings}")
}

/// The same work, compiled otherwise, as ratios to what nginx does with it.
fn print_work(output: &Path) {
    println!("\nthe same work, compiled otherwise: time, and ratio to nginx's settings\n");
    let cells = WORK.map(|(work, _)| format!(" {work} |")).concat();
    println!("| |{cells}\n|---|{}", "---|".repeat(WORK.len()));
    let ratio = |work, settings| {
        let usual = median(output, &under(work, USUAL))?;
        Some(format!(" {:.2} |", median(output, &under(work, settings))? / usual))
    };
    for settings in [USUAL, UNCHECKED, COMPACT, FUEL] {
        let cells = WORK.map(|(work, _)| ratio(work, settings).unwrap_or_default()).concat();
        println!("| {settings} |{cells}");
    }
    let (scalar, simd) = (median(output, &under(SCALAR, USUAL)), median(output, &under(SIMD, USUAL)));
    if let (Some(scalar), Some(simd)) = (scalar, simd) {
        println!("\ncounting 16 bytes at a time (SIMD): {:.2} of byte by byte", simd / scalar);
    }
}

/// What the library found, in nanoseconds; nothing when it was told to leave this one out.
fn median(output: &Path, name: &str) -> Option<f64> {
    let text = std::fs::read_to_string(output.join(name).join("new/estimates.json")).ok()?;
    serde_json::from_str::<serde_json::Value>(&text).ok()?["median"]["point_estimate"].as_f64()
}
