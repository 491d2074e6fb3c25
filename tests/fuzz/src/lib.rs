//! What the targets share: the exchange of `tests/host`, and pieces of input.

#[path = "../../host/fake.rs"]
mod fake;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use arbitrary::{Result, Unstructured};

pub use fake::{Exchange, FakeExchange, Home, Line};

/// Names that mean something to nginx or to HTTP; others are made of letters.
const NAMES: [&str; 36] = [
    "accept-encoding",
    "accept-ranges",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "host",
    "http2-settings",
    "if-none-match",
    "keep-alive",
    "last-modified",
    "link",
    "location",
    "proxy-connection",
    "range",
    "refresh",
    "server",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
    "x-a",
    "x-b",
    "x-forwarded-for",
];

/// A valid field name in any case.
pub fn name(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let choice = u.int_in_range(0..=NAMES.len() + 3)?;
    let mut name = match NAMES.get(choice) {
        Some(name) => name.as_bytes().to_vec(),
        None => {
            let len = u.int_in_range(1..=3)?;
            (0..len).map(|_| u.choose(b"abAB-_!~z").copied()).collect::<Result<_>>()?
        }
    };
    let case: u8 = u.arbitrary()?;
    for (at, byte) in name.iter_mut().enumerate() {
        if case >> (at % 8) & 1 == 1 {
            byte.make_ascii_uppercase();
        }
    }
    Ok(name)
}

/// A valid field value.
pub fn value(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut value = bytes(u, 12)?;
    value.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
    Ok(value)
}

/// Up to `most` bytes of any kind.
pub fn bytes(u: &mut Unstructured<'_>, most: usize) -> Result<Vec<u8>> {
    let len = u.int_in_range(0..=most)?.min(u.len());
    Ok(u.bytes(len)?.to_vec())
}

/// A number that is near an edge more often than not: small, near `size`, near the largest, any.
pub fn edge(u: &mut Unstructured<'_>, size: usize) -> Result<u32> {
    let size = u32::try_from(size).unwrap_or(u32::MAX);
    let near = u32::from(u.arbitrary::<u8>()?);
    Ok(match u.int_in_range(0..=7)? {
        0..=3 => near,
        4 => near % 4,
        5 => size.wrapping_add(4).wrapping_sub(near % 16),
        6 => u32::MAX - near,
        _ => u.arbitrary()?,
    })
}

/// Polls until it is done, however often that is.
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
