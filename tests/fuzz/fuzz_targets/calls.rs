//! Sequences of host calls with any arguments, through the engine: a guest does exactly what the
//! plain functions do to a copy of its memory and of the exchange, a call that is refused ends it
//! with that reason, and what a phase or the syntax forbids does not happen.
#![no_main]

use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use ngx_http_wasm_handler_fuzz::{Exchange, FakeExchange, block_on, bytes, edge, name, value};
use ngx_http_wasm_handler_module::abi::{Features, Level, Next};
use ngx_http_wasm_handler_module::host::error::{Denial, Denied};
use ngx_http_wasm_handler_module::host::{Phase, State, body, fields, message};
use ngx_http_wasm_handler_module::http::{Target, is_field_value, is_token};
use ngx_http_wasm_handler_module::memory::GuestMemory;
use ngx_http_wasm_handler_module::runtime::guest::{Guest, Settings, compile};
use ngx_http_wasm_handler_module::runtime::{Compile, Engine, Limits};

/// As in interpreter.wat.
const SIZE: usize = 65536;
const DATA: usize = 3840;
const PROGRAM: usize = 4096;
const PROGRAM_MOST: usize = 2304;
const RESULTS: usize = 6144;
const CALL: usize = 21;
const CONFIG: &[u8] = b"config";

static GUEST: LazyLock<Guest<FakeExchange>> = LazyLock::new(|| {
    let engine = Engine::new(Compile::Serial).expect("an engine");
    let module = compile(&engine, include_bytes!("interpreter.wat")).expect("it compiles");
    let settings = Settings {
        name: "interpreter".into(),
        config: CONFIG.into(),
        limits: Limits::default(),
        env: Vec::new(),
        dirs: Vec::new(),
        strict: false,
        outbound: Default::default(),
    };
    Guest::new(&engine, &module, settings).expect("a guest")
});

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let exchange = exchange(u)?;
    let (nobody, _) = FakeExchange::new(exchange.clone());
    let mut instance = block_on(GUEST.start(nobody)).expect("it starts");
    let mut memory = vec![0; SIZE];
    let mut state = State::new(CONFIG.into());
    let (nobody, _) = FakeExchange::new(exchange.clone());
    state.lend(nobody, Phase::Start);
    drop(state.take_back());

    let mut exchange = exchange;
    for phase in [Phase::Request, Phase::Response] {
        exchange.protocol = program(u)?;
        exchange.parks = u.int_in_range(0..=3)?;
        exchange.cursors = [0, 0];
        let before = exchange.clone();

        let (host, home) = FakeExchange::new(exchange.clone());
        let (call, result) = match phase {
            Phase::Response => {
                let ended = block_on(instance.handle_response(host, 0, false));
                ("handle_response", ended)
            }
            _ => {
                let next = block_on(instance.handle_request(host));
                let went_on = Next::Continue { ctx: 0, odd: false };
                ("handle_request", next.map(|next| assert_eq!(next, went_on)))
            }
        };
        let by_guest = home.lock().take().expect("came home");

        let (host, home) = FakeExchange::new(exchange);
        state.lend(host, phase);
        let expected = interpret(&mut memory, &mut state, &before, phase);
        let features = state.features();
        drop(match &expected {
            Ok(()) => state.take_back(),
            Err(_) => state.take_back_failed(),
        });
        let by_hand = home.lock().take().expect("came home");

        assert_eq!(instance.features(), features);
        assert_same(&by_guest, &by_hand);
        check(&before, &by_guest, phase, features);
        match (result, expected) {
            (Ok(()), Ok(())) => assert!(!instance.is_poisoned()),
            (Err(error), Err(denial)) => {
                assert_eq!(error.to_string(), format!("{call}: {denial}"));
                assert!(instance.is_poisoned());
                return Ok(());
            }
            (result, expected) => panic!("{result:?} instead of {expected:?}"),
        }
        exchange = by_guest;
    }
    Ok(())
}

fn exchange(u: &mut Unstructured<'_>) -> Result<Exchange> {
    let mut exchange = Exchange {
        supported: Features::from_bits_retain(u.int_in_range(0..=7)?),
        log_level: *u.choose(&[Level::Debug, Level::Info, Level::Warn, Level::Error])?,
        uri: bytes(u, 12)?,
        request_body: bytes(u, 60)?,
        response_body: bytes(u, 60)?,
        ..Exchange::default()
    };
    for _ in 0..u.int_in_range(0..=3)? {
        exchange.request_headers.push((name(u)?, value(u)?));
        exchange.response_headers.push((name(u)?, value(u)?));
    }
    Ok(exchange)
}

fn program(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut program = vec![0; PROGRAM - DATA];
    // Text that calls can point at: names at 0, values at 64, targets at 128, any bytes at 192.
    let parts = [(0, name(u)?), (64, value(u)?), (128, [b"/a%20b?", &value(u)?[..]].concat())];
    for (at, text) in parts.into_iter().chain([(192, bytes(u, 60)?)]) {
        program[at..][..text.len()].copy_from_slice(&text);
    }
    let calls = u.int_in_range(0..=(PROGRAM_MOST - program.len()) / CALL)?;
    for _ in 0..calls {
        if u.is_empty() {
            break;
        }
        program.push(u.arbitrary()?);
        for _ in 0..5 {
            let argument = match u.int_in_range(0..=7)? {
                0..=2 => u.int_in_range(0..=7)?,
                3..=5 => DATA as u32 + 64 * u.int_in_range(0..=3)?,
                6 => DATA as u32 + u32::from(u.arbitrary::<u8>()?),
                _ => edge(u, SIZE)?,
            };
            program.extend(argument.to_le_bytes());
        }
    }
    Ok(program)
}

/// What interpreter.wat does, on the plain functions.
fn interpret(
    memory: &mut [u8],
    state: &mut State<FakeExchange>,
    before: &Exchange,
    phase: Phase,
) -> std::result::Result<(), Denial> {
    let end = DATA + before.protocol.len();
    memory[DATA..end].copy_from_slice(&before.protocol);
    let mut known = Known::new(before, phase);
    let mut at = PROGRAM;
    let mut result = RESULTS;
    while at + CALL <= end {
        let number = memory[at] % 21;
        let arguments = [1, 5, 9, 13, 17].map(|offset| {
            let bytes = memory[at + offset..][..4].try_into().expect("four bytes");
            u32::from_le_bytes(bytes)
        });
        let untouched = memory.to_vec();
        let (function, returned) = make(number, arguments, memory, state);
        let returned = match returned {
            Ok(returned) => returned,
            Err(denied) => {
                assert_eq!(memory, untouched, "{function} was refused and wrote all the same");
                return Err(Denial { function, denied });
            }
        };
        known.check(number, arguments, returned, &untouched, memory);
        memory[result..][..8].copy_from_slice(&returned.to_le_bytes());
        at += CALL;
        result += 8;
    }
    for range in [0..8192, SIZE - 256..SIZE] {
        let (start, len) = (range.start as u32, range.len() as u32);
        let logged = message::log(&GuestMemory::new(memory), state, 2, start, len);
        logged.expect("errors are logged");
    }
    Ok(())
}

fn make(
    number: u8,
    [a, b, c, d, e]: [u32; 5],
    bytes: &mut [u8],
    state: &mut State<FakeExchange>,
) -> (&'static str, std::result::Result<u64, Denied>) {
    let memory = &mut GuestMemory::new(bytes);
    match number {
        0 => ("enable_features", message::enable_features(state, a).map(u64::from)),
        1 => ("get_config", message::get_config(memory, state, a, b).map(u64::from)),
        2 => ("log", message::log(memory, state, a.cast_signed(), b, c).map(|()| 0)),
        3 => ("log_enabled", message::log_enabled(state, a.cast_signed()).map(u64::from)),
        4 => ("get_method", message::get_method(memory, state, a, b).map(u64::from)),
        5 => ("set_method", message::set_method(memory, state, a, b).map(|()| 0)),
        6 => ("get_uri", message::get_uri(memory, state, a, b).map(u64::from)),
        7 => ("set_uri", message::set_uri(memory, state, a, b).map(|()| 0)),
        8 => {
            let len = message::get_protocol_version(memory, state, a, b);
            ("get_protocol_version", len.map(u64::from))
        }
        9 => ("get_source_addr", message::get_source_addr(memory, state, a, b).map(u64::from)),
        10 => ("get_header_names", fields::get_header_names(memory, state, a, b, c)),
        11 => {
            let list = fields::get_header_values(memory, state, a, (b, c), (d, e));
            ("get_header_values", list)
        }
        12 => {
            let set = fields::set_header_value(memory, state, a, (b, c), (d, e));
            ("set_header_value", set.map(|()| 0))
        }
        13 => {
            let added = fields::add_header_value(memory, state, a, (b, c), (d, e));
            ("add_header_value", added.map(|()| 0))
        }
        14 => ("remove_header", fields::remove_header(memory, state, a, (b, c)).map(|()| 0)),
        15 => ("read_body", block_on(body::read_body(memory, state, a, b, c))),
        16 => ("write_body", block_on(body::write_body(memory, state, a, b, c)).map(|()| 0)),
        17 => ("get_status_code", message::get_status_code(state).map(u64::from)),
        18 => ("set_status_code", message::set_status_code(state, a).map(|()| 0)),
        19 => ("get_template", message::get_template(memory, state, a, b).map(u64::from)),
        _ => ("set_template", message::set_template(memory, state, a, b).map(|()| 0)),
    }
}

/// What getters must return by what was set before.
struct Known {
    method: Vec<u8>,
    uri: Vec<u8>,
    template: Vec<u8>,
    status: u64,
    bodies: [Vec<u8>; 2],
    read: [usize; 2],
    constants: [Vec<u8>; 2],
}

impl Known {
    fn new(before: &Exchange, _phase: Phase) -> Self {
        Known {
            method: before.method.clone(),
            uri: Target::received(&before.uri).normal().into_owned(),
            template: before.kept.template().to_vec(),
            status: before.status.unwrap_or(200).into(),
            bodies: [before.request_body.clone(), before.response_body.clone()],
            read: [0, 0],
            constants: [before.protocol.clone(), before.source_addr.clone()],
        }
    }

    fn check(
        &mut self,
        number: u8,
        [a, b, c, d, e]: [u32; 5],
        returned: u64,
        before: &[u8],
        after: &[u8],
    ) {
        let argument = || before[a as usize..][..b as usize].to_vec();
        let low = u64::from(returned as u32);
        let fits = |limit: u32, len: u64| if len <= u64::from(limit) { len } else { 0 };
        // Where something may have been written, and what if it is known.
        let (at, len, expected) = match number {
            1 => (a, fits(b, low), Some(CONFIG.to_vec())),
            4 => (a, fits(b, low), Some(self.method.clone())),
            6 => (a, fits(b, low), Some(self.uri.clone())),
            8 => (a, fits(b, low), Some(self.constants[0].clone())),
            9 => (a, fits(b, low), Some(self.constants[1].clone())),
            10 => (b, fits(c, low), None),
            11 => (d, fits(e, low), None),
            15 => {
                let (body, read) = (&self.bodies[a as usize], &mut self.read[a as usize]);
                let rest = &body[*read..];
                let chunk = rest[..rest.len().min(c as usize)].to_vec();
                *read += chunk.len();
                assert_eq!(returned >> 32 == 1, *read == body.len(), "EOF with the last bytes");
                (b, low, Some(chunk))
            }
            19 => (a, fits(b, low), Some(self.template.clone())),
            _ => (0, 0, None),
        };
        match number {
            5 => self.method = argument(),
            7 if b == 0 => self.uri = b"/".into(),
            7 => {
                let target = argument();
                let target = Target::from_guest(&target).expect("it was accepted");
                self.uri = target.normal().into_owned();
            }
            17 => assert_eq!(returned, self.status),
            18 => self.status = a.into(),
            20 => self.template = argument(),
            _ => {}
        }
        if let Some(expected) = &expected {
            assert_eq!(low, expected.len() as u64);
        }
        let (at, len) = if len == 0 { (0, 0) } else { (at as usize, len as usize) };
        assert_eq!(after[..at], before[..at]);
        assert_eq!(after[at + len..], before[at + len..]);
        if let Some(expected) = expected
            && len != 0
        {
            assert_eq!(after[at..][..len], expected);
        }
    }
}

fn assert_same(a: &Exchange, b: &Exchange) {
    assert_eq!(a.log, b.log);
    assert_eq!((&a.method, &a.uri), (&b.method, &b.uri));
    assert_eq!(a.kept.template(), b.kept.template());
    assert_eq!(a.request_headers, b.request_headers);
    assert_eq!(a.request_trailers, b.request_trailers);
    assert_eq!(a.response_headers, b.response_headers);
    assert_eq!(a.response_trailers, b.response_trailers);
    assert_eq!(a.new_request_body, b.new_request_body);
    assert_eq!(a.new_response_body, b.new_response_body);
    assert_eq!((a.status, a.cursors), (b.status, b.cursors));
}

/// What holds whatever a guest has done.
fn check(before: &Exchange, after: &Exchange, phase: Phase, features: Features) {
    let lists = [&after.request_headers, &after.response_headers, &after.response_trailers];
    for (name, value) in lists.into_iter().flatten() {
        assert!(is_token(name) && is_field_value(value));
        assert!(!name.iter().chain(value).any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    }
    assert!(is_token(&after.method));
    assert!(after.uri == before.uri || Target::received(&after.uri).normal() == after.uri);
    assert!(after.status.is_none_or(|status| (200..1000).contains(&status)));
    assert!(before.supported.contains(features));
    assert!(after.request_trailers.is_empty());
    assert!(features.contains(Features::TRAILERS) || after.response_trailers.is_empty());
    assert_eq!(after.request_body, before.request_body);
    assert_eq!(after.response_body, before.response_body);
    if phase == Phase::Response {
        assert_eq!((&after.method, &after.uri), (&before.method, &before.uri));
        assert_eq!(after.request_headers, before.request_headers);
        assert_eq!(after.kept.template(), before.kept.template());
        assert_eq!(after.new_request_body, before.new_request_body);
        let may_write = features.contains(Features::BUFFER_RESPONSE);
        assert!(may_write || after.new_response_body == before.new_response_body);
        let may_read = features.contains(Features::BUFFER_REQUEST);
        assert!(may_read || after.cursors[0] == 0);
    }
}
