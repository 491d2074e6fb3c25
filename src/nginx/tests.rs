//! Bodies against nginx's own pools, chains and temporary files: however a body is split into
//! buffers, in memory and in files, the bytes are the same.

use proptest::prelude::*;

use crate::nginx::bench::{Bench, Place};
use crate::nginx::ngx::chain::{self, Reader};
use crate::nginx::ngx::spool::{Body, Room, SpoolError};

/// A body cut into pieces at random, with special and empty buffers in between.
fn split_body() -> impl Strategy<Value = Vec<(Vec<u8>, Place)>> {
    let place = prop_oneof![Just(Place::Memory), Just(Place::File), Just(Place::Special)];
    let piece =
        (prop::collection::vec(any::<u8>(), 0..300), place).prop_map(
            |(bytes, place)| match place {
                Place::Special => (Vec::new(), place),
                _ => (bytes, place),
            },
        );
    prop::collection::vec(piece, 0..12)
}

fn joined(pieces: &[(Vec<u8>, Place)]) -> Vec<u8> {
    pieces.iter().flat_map(|(bytes, _)| bytes.clone()).collect()
}

proptest! {
    #[test]
    fn any_split_reads_the_same_in_any_step(pieces in split_body(), step in 1usize..400) {
        let bench = Bench::new();
        let expected = joined(&pieces);
        let mut reader = Reader::of(bench.chain(&pieces));
        for _ in 0..2 {
            let mut read = Vec::new();
            let mut buffer = vec![0; step];
            loop {
                let chunk = reader.read(&mut buffer).expect("readable");
                read.extend_from_slice(&buffer[..chunk.len]);
                // EOF comes with the last bytes, and a short read only at the end.
                prop_assert_eq!(chunk.eof, read.len() == expected.len());
                prop_assert!(chunk.eof || chunk.len == step);
                if chunk.eof {
                    break;
                }
            }
            prop_assert_eq!(&read, &expected);
            reader.rewind();
        }
    }

    #[test]
    fn any_split_is_taken_in_and_passed_on_the_same(
        pieces in split_body(),
        memory in 0usize..600,
        step in 1usize..400,
    ) {
        let bench = Bench::new();
        let expected = joined(&pieces);
        let chain = bench.chain(&pieces);
        let mut body = Body::default();
        let room = Room { memory, max: 1 << 20, file: None };
        chain::take(bench.request(), chain, &mut body, room).expect("room enough");
        prop_assert_eq!(body.len(), expected.len() as u64);
        // Whoever sent it has all its buffers back.
        prop_assert_eq!(bench.bytes(chain), Vec::<u8>::new());

        let mut read = Vec::new();
        let mut buffer = vec![0; step];
        loop {
            let chunk = body.read(read.len() as u64, &mut buffer).expect("readable");
            read.extend_from_slice(&buffer[..chunk.len]);
            if chunk.eof {
                break;
            }
        }
        prop_assert_eq!(&read, &expected);

        let (out, _keep) = body.into_chain(bench.request(), true).expect("memory");
        prop_assert_eq!(bench.bytes(out.first()), expected);
    }

    #[test]
    fn a_body_never_outgrows_its_room(pieces in split_body(), max in 0u64..2000) {
        let bench = Bench::new();
        let expected = joined(&pieces).len() as u64;
        let chain = bench.chain(&pieces);
        let mut body = Body::default();
        let room = Room { memory: 64, max, file: None };
        match chain::take(bench.request(), chain, &mut body, room) {
            Ok(_) => prop_assert!(expected <= max),
            Err((SpoolError::TooLarge(limit), rest)) => {
                prop_assert!(expected > max && limit == max);
                // What has no room is left, and nothing is lost.
                prop_assert_eq!(body.len() + bench.bytes(rest).len() as u64, expected);
                chain::drop_all(rest);
            }
            Err((error, _)) => prop_assert!(false, "{}", error),
        }
        prop_assert!(body.len() <= max);
        // The sender must not wait for a response that is given up.
        prop_assert_eq!(bench.bytes(chain), Vec::<u8>::new());
    }

    #[test]
    fn writes_of_any_size_append(writes in prop::collection::vec(
        prop::collection::vec(any::<u8>(), 0..300), 0..20), memory in 0usize..1000)
    {
        let bench = Bench::new();
        let mut body = Body::default();
        let mut other = Body::default();
        let room = Room { memory, max: u64::MAX, file: None };
        let (first, second) = writes.split_at(writes.len() / 2);
        for bytes in first {
            body.write(bench.request(), bytes, room).expect("room enough");
        }
        for bytes in second {
            other.write(bench.request(), bytes, room).expect("room enough");
        }
        body.append(other);
        let (out, _keep) = body.into_chain(bench.request(), false).expect("memory");
        prop_assert_eq!(bench.bytes(out.first()), writes.concat());
    }
}

#[test]
fn writing_goes_on_in_its_own_file_behind_another_body() {
    let bench = Bench::new();
    let room = Room { memory: 0, max: u64::MAX, file: None };
    let mut body = Body::default();
    let mut other = Body::default();
    body.write(bench.request(), b"first", room).expect("room enough");
    other.write(bench.request(), b"other", room).expect("room enough");
    body.append(other);
    body.write(bench.request(), b"third", room).expect("room enough");
    let (out, _keep) = body.into_chain(bench.request(), false).expect("memory");
    assert_eq!(bench.bytes(out.first()), b"firstotherthird");
}

#[test]
fn nothing_written_is_no_piece() {
    let bench = Bench::new();
    let room = Room { memory: 0, max: u64::MAX, file: None };
    let mut body = Body::default();
    let mut other = Body::default();
    body.write(bench.request(), b"first", room).expect("room enough");
    other.write(bench.request(), b"another", room).expect("room enough");
    body.append(other);
    body.write(bench.request(), b"", room).expect("room enough");
    let (out, _keep) = body.into_chain(bench.request(), false).expect("memory");
    // SAFETY: a chain that was just made has two links at least and ends with null.
    let third = unsafe { (*(*out.first()).next).next };
    assert!(third.is_null(), "two pieces, two buffers");
}

/// The machine on a request of nginx's.
mod machine {
    use crate::nginx::bench::Bench;
    use crate::nginx::exchange::ctx::{Ctx, Driver};
    use crate::nginx::exchange::reply::{After, Draining as Drained, Reply};
    use crate::nginx::exchange::state::Kind::{
        self, Asking, Before, Collecting, Draining, Failing, Over, Passed, Responding, Through,
    };
    use crate::nginx::exchange::state::{self, State};
    use crate::nginx::ngx::hold::Hold;
    use crate::nginx::ngx::request::Request;

    const KINDS: [Kind; 9] =
        [Before, Asking, Passed, Collecting, Responding, Failing, Draining, Through, Over];

    #[test]
    fn an_exchange_refuses_every_other_step() {
        static DRIVER: Driver = Driver { wake: |_| {}, end: |_| {}, upstream_ended: |_, _| {} };
        for from in KINDS {
            for to in KINDS {
                let bench = Bench::new();
                let r = bench.request();
                let ctx = Ctx::create(r, &DRIVER).expect("memory");
                // The way there, by steps that the machine has.
                let way: &[Kind] = match from {
                    Before => &[],
                    Asking | Passed | Over => &[from],
                    Collecting | Responding | Failing | Draining | Through => &[Passed, from],
                };
                for &kind in way {
                    ctx.enter(state_of(kind, r));
                }
                assert_eq!(ctx.kind(), from);
                ctx.enter(state_of(to, r));
                let entered = if from.leads_to(to) { to } else { from };
                assert_eq!(ctx.kind(), entered, "{from:?} to {to:?}");
            }
        }
    }

    /// A state of this kind, with what it holds at least.
    fn state_of(kind: Kind, r: Request) -> State {
        let reply = || Reply::begin(r, false, false, false);
        match kind {
            Before => State::Before,
            Asking => State::Asking(None),
            Passed => State::Passed,
            Collecting => {
                State::Collecting(Box::new(state::Collecting { reply: reply(), look: None }))
            }
            Responding => State::Responding(None),
            Failing => State::Failing(Box::new(state::Failing {
                status: 500,
                hold: Some(Hold::on(r)),
                wait: None,
                ended: false,
            })),
            Draining => State::Draining(Box::new(Drained {
                first: Default::default(),
                output: None,
                after: After::Pass,
                _hold: Hold::on(r),
            })),
            Through => State::Through(After::Pass),
            Over => State::Over,
        }
    }
}
