//! Any sequence of host calls with any arguments: nothing panics, and what a phase forbids does
//! not happen. No engine: host functions are plain functions on memory and state.

use ngx_http_wasm_handler_module::abi::{Features, FieldKind};
use ngx_http_wasm_handler_module::host::error::Denied;
use ngx_http_wasm_handler_module::host::{Host, Phase, State, body, fields, message};
use ngx_http_wasm_handler_module::http::{Target, is_field_value, is_token};
use ngx_http_wasm_handler_module::memory::GuestMemory;
use proptest::prelude::*;

use crate::fake::{Exchange, FakeExchange};
use crate::support::block_on;

/// The function's number and its arguments; those that it does not take are ignored.
type Call = (u8, [u32; 5]);

fn make(call: Call, bytes: &mut [u8], state: &mut State<FakeExchange>) -> Result<u64, Denied> {
    let memory = &mut GuestMemory::new(bytes);
    let (function, [a, b, c, d, e]) = call;
    match function {
        0 => message::enable_features(state, a).map(u64::from),
        1 => message::get_config(memory, state, a, b).map(u64::from),
        2 => message::log(memory, state, a.cast_signed(), b, c).map(|()| 0),
        3 => message::log_enabled(state, a.cast_signed()).map(u64::from),
        4 => message::get_method(memory, state, a, b).map(u64::from),
        5 => message::set_method(memory, state, a, b).map(|()| 0),
        6 => message::get_uri(memory, state, a, b).map(u64::from),
        7 => message::set_uri(memory, state, a, b).map(|()| 0),
        8 => message::get_protocol_version(memory, state, a, b).map(u64::from),
        9 => message::get_source_addr(memory, state, a, b).map(u64::from),
        10 => fields::get_header_names(memory, state, a, b, c),
        11 => fields::get_header_values(memory, state, a, (b, c), (d, e)),
        12 => fields::set_header_value(memory, state, a, (b, c), (d, e)).map(|()| 0),
        13 => fields::add_header_value(memory, state, a, (b, c), (d, e)).map(|()| 0),
        14 => fields::remove_header(memory, state, a, (b, c)).map(|()| 0),
        15 => block_on(body::read_body(memory, state, a, b, c)),
        16 => block_on(body::write_body(memory, state, a, b, c)).map(|()| 0),
        17 => message::get_status_code(state).map(u64::from),
        18 => message::set_status_code(state, a).map(|()| 0),
        19 => message::get_template(memory, state, a, b).map(u64::from),
        _ => message::set_template(memory, state, a, b).map(|()| 0),
    }
}

fn argument() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0u32..4, 4 => 0u32..70, 1 => any::<u32>()]
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let arguments = prop::array::uniform5(argument());
    prop::collection::vec((0u8..21, arguments), 0..40)
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![Just(Phase::Start), Just(Phase::Request), Just(Phase::Response), Just(Phase::Ended)]
}

proptest! {
    #[test]
    fn no_sequence_of_calls_does_harm(
        mut bytes in prop::collection::vec(
            prop_oneof![Just(b'/'), Just(b'a'), Just(b'\n'), Just(b'%'), any::<u8>()], 0..66),
        calls in calls(),
        phase in phase(),
    ) {
        let exchange = Exchange {
            request_headers: vec![(b"a".into(), b"1".into()), (b"A".into(), b"".into())],
            request_body: b"hello world".into(),
            ..Exchange::default()
        };
        let (host, home) = FakeExchange::new(exchange.clone());
        let mut state = State::new((&b"config"[..]).into());
        state.lend(host, phase);
        for call in calls {
            // A call that is denied ends a guest; going on covers more.
            let _ = make(call, &mut bytes, &mut state);
        }
        let features = state.features();
        drop(state.take_back());
        let after = home.lock().take().expect("came home");

        for (name, value) in after.request_headers.iter().chain(&after.response_headers) {
            prop_assert!(is_token(name) && is_field_value(value));
        }
        prop_assert!(is_token(&after.method));
        prop_assert_eq!(&*Target::received(&after.uri).normal(), &*after.uri);
        prop_assert!(after.status.is_none_or(|status| (200..1000).contains(&status)));
        prop_assert!(after.request_trailers.is_empty());
        if phase != Phase::Request {
            prop_assert_eq!(&after.method, &exchange.method);
            prop_assert_eq!(&after.uri, &exchange.uri);
            prop_assert_eq!(&after.request_headers, &exchange.request_headers);
            prop_assert!(after.kept.template().is_empty() && after.new_request_body.is_none());
            prop_assert!(after.new_response_body.is_none());
        }
        if matches!(phase, Phase::Start | Phase::Ended) {
            prop_assert!(after.response_headers.is_empty() && after.status.is_none());
        } else if !features.contains(Features::TRAILERS) {
            prop_assert!(after.response_trailers.is_empty());
        }
    }
}

#[test]
fn a_loan_that_is_over_leaves_nothing_behind() {
    let (host, home) = FakeExchange::new(Exchange::default());
    let mut state = State::new(Default::default());
    state.lend(host, Phase::Request);
    let host = state.take_back().expect("was lent");
    assert_eq!(host.fields(FieldKind::Request).count(), 0);
    drop(host);
    assert!(home.lock().is_some());
    for function in 0..21 {
        let call = (function, [0, 0, 1, 0, 1]);
        let result = make(call, &mut [0; 8], &mut state);
        // Only the configuration does not need an exchange.
        assert_eq!(result.is_ok(), function == 1, "{function}");
    }
}
