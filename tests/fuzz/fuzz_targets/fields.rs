//! Header functions on lists of any lines: guests are told every name once and every value as it
//! came, and no call of theirs gets a name or a value into a list that could split a message.
#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use ngx_http_wasm_handler_fuzz::{Exchange, FakeExchange, Line, bytes, edge, name, value};
use ngx_http_wasm_handler_module::abi::{Features, FieldKind};
use ngx_http_wasm_handler_module::host::error::Denied;
use ngx_http_wasm_handler_module::host::policy::{
    is_guests_to_remove, is_guests_to_set, is_the_only_one,
};
use ngx_http_wasm_handler_module::host::{Host, Phase, State, fields, message};
use ngx_http_wasm_handler_module::http::{is_field_value, is_token};
use ngx_http_wasm_handler_module::memory::GuestMemory;

/// Name and value of a call are put here; lists go to any place.
const NAME: usize = 0;
const VALUE: usize = 64;
const SIZE: usize = 512;

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

const KINDS: [FieldKind; 4] = [
    FieldKind::Request,
    FieldKind::Response,
    FieldKind::RequestTrailers,
    FieldKind::ResponseTrailers,
];

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let phase = if u.arbitrary()? { Phase::Request } else { Phase::Response };
    let mut lists: [Vec<Line>; 4] = Default::default();
    for (list, kind) in lists.iter_mut().zip(KINDS) {
        // Before there is a response, its lists hold what the guest sets.
        if is_early(phase, kind) {
            continue;
        }
        for _ in 0..u.int_in_range(0..=40)? {
            list.push((name(u)?, value(u)?));
        }
    }
    let [request, response, request_trailers, response_trailers] = lists.clone();
    let (host, home) = FakeExchange::new(Exchange {
        request_headers: request,
        response_headers: response,
        request_trailers,
        response_trailers,
        ..Exchange::default()
    });
    let mut state = State::new(Default::default());
    let trailers = u.arbitrary()?;
    // Enabled by a start function: in handle_response it is too late.
    let (start, _) = FakeExchange::new(Exchange::default());
    state.lend(start, Phase::Start);
    if trailers {
        let granted = message::enable_features(&mut state, Features::TRAILERS.bits());
        assert_eq!(granted.expect("a feature"), Features::TRAILERS.bits());
    }
    drop(state.take_back());
    if phase == Phase::Response {
        let (request, _) = FakeExchange::new(Exchange::default());
        state.lend(request, Phase::Request);
        drop(state.take_back());
    }
    state.lend(host, phase);
    let mut memory = vec![0xfe; SIZE];
    while !u.is_empty() {
        one_call(u, phase, trailers, &mut memory, &mut state, &mut lists)?;
    }
    drop(state.take_back());
    let after = home.lock().take().expect("came home");
    for (list, kind) in lists.iter_mut().zip(KINDS) {
        // What is not the guest's to set is shown to it, and goes no further.
        list.retain(|(name, _)| !is_early(phase, kind) || is_guests_to_set(kind, name));
    }
    let [request, response, request_trailers, response_trailers] = lists;
    assert_eq!(after.request_headers, request);
    assert_eq!(after.response_headers, response);
    assert_eq!(after.request_trailers, request_trailers);
    assert_eq!(after.response_trailers, response_trailers);
    for (name, value) in response.iter().chain(&request).chain(&response_trailers) {
        assert!(is_token(name) && is_field_value(value));
        assert!(!name.iter().chain(value).any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    }
    Ok(())
}

fn one_call(
    u: &mut Unstructured<'_>,
    phase: Phase,
    trailers: bool,
    memory: &mut [u8],
    state: &mut State<impl Host>,
    lists: &mut [Vec<Line>; 4],
) -> Result<()> {
    let function = u.int_in_range(0..=4)?;
    let number: u32 = u.int_in_range(0..=4)?;
    let kind = KINDS.get(number as usize).copied();
    let name = if u.ratio(1, 5)? { bytes(u, 60)? } else { name(u)? };
    let value = if u.ratio(1, 2)? { bytes(u, 60)? } else { value(u)? };
    memory[NAME..][..name.len()].copy_from_slice(&name);
    memory[VALUE..][..value.len()].copy_from_slice(&value);
    let name_at = (NAME as u32, name.len() as u32);
    let value_at = (VALUE as u32, value.len() as u32);
    let before = memory.to_vec();
    let is = |other: &[u8]| other.eq_ignore_ascii_case(&name);

    if function < 2 {
        let (buf, limit) = (edge(u, SIZE)?, edge(u, SIZE)?);
        let guest = &mut GuestMemory::new(memory);
        let (result, bad_name) = match function {
            0 => (fields::get_header_names(guest, state, number, buf, limit), false),
            _ => {
                let limits = (buf, limit);
                let result = fields::get_header_values(guest, state, number, name_at, limits);
                (result, name.is_empty())
            }
        };
        let strings = match kind {
            Some(kind) if !kind.is_trailers() || trailers => {
                let lines = lists[number as usize].iter();
                match function {
                    0 => distinct(lines.map(|(name, _)| name.to_ascii_lowercase())),
                    _ => lines.filter(|(other, _)| is(other)).map(|(_, v)| v.clone()).collect(),
                }
            }
            _ => Vec::new(),
        };
        let list: Vec<u8> = strings.iter().flat_map(|s| [s, &b"\0"[..]].concat()).collect();
        let written = !list.is_empty() && list.len() as u64 <= u64::from(limit);
        let outside = written && u64::from(buf) + list.len() as u64 > SIZE as u64;
        match result {
            Ok(packed) => {
                assert_eq!(packed, (strings.len() as u64) << 32 | list.len() as u64);
                assert!(kind.is_some() && !bad_name && !outside);
            }
            Err(_) => assert!(kind.is_none() || bad_name || outside),
        }
        let mut expected = before;
        if written && !outside && !bad_name && kind.is_some() {
            expected[buf as usize..][..list.len()].copy_from_slice(&list);
        }
        assert_eq!(memory, expected);
        return Ok(());
    }

    let guest = &GuestMemory::new(memory);
    let result = match function {
        2 => fields::set_header_value(guest, state, number, name_at, value_at),
        3 => fields::add_header_value(guest, state, number, name_at, value_at),
        _ => fields::remove_header(guest, state, number, name_at),
    };
    let may = match kind {
        Some(FieldKind::Request) => phase == Phase::Request,
        Some(FieldKind::Response) => true,
        Some(FieldKind::ResponseTrailers) => trailers,
        Some(FieldKind::RequestTrailers) | None => false,
    };
    let valid = !name.is_empty()
        && name.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
        && (function == 4 || !value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
    assert_eq!(memory, before);
    if let Err(Denied::Refusal(_)) = result {
        // It has used up what it may set.
        assert!(may && valid);
        return Ok(());
    }
    assert_eq!(result.is_ok(), may && valid);
    if let (Ok(()), Some(kind)) = (result, kind) {
        let list = &mut lists[number as usize];
        let early = is_early(phase, kind);
        let ignored = match function {
            2 | 3 => !is_guests_to_set(kind, &name),
            _ => !is_guests_to_remove(kind, &name),
        };
        if ignored && !early {
            return Ok(());
        }
        let first = list.iter().position(|(other, _)| is(other)).unwrap_or(list.len());
        if function == 4 {
            list.retain(|(other, _)| !is(other));
        } else if function == 3 && !is_the_only_one(kind, &name) {
            list.push((name, value));
        } else {
            list.retain(|(other, _)| !is(other));
            list.insert(if early { list.len() } else { first }, (name, value));
        }
    }
    Ok(())
}

/// Whether fields are kept for a response that has not begun.
fn is_early(phase: Phase, kind: FieldKind) -> bool {
    phase == Phase::Request && !kind.of_request()
}

fn distinct(names: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut distinct = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}
