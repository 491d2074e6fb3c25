//! What an embedder holds guests to beyond the ABI's own rules: headers that are not theirs to set and
//! headers of which there is one. All embedders go by it, so that a guest finds the same in each.

use crate::abi::FieldKind;

/// Largest response body that a guest with `buffer_response` sees and any guest may write, unless the
/// embedder is told otherwise: what a server's temporary disk should bear.
pub const RESPONSE_MAX: u64 = 64 << 20;
/// Whether a guest may set or add a field. What it may not is accepted and ignored.
pub fn is_guests_to_set(kind: FieldKind, name: &[u8]) -> bool {
    match kind {
        FieldKind::Request => !frames_request(name),
        FieldKind::Response => !frames_response(name) && !is_one_of(name, &["content-length"]),
        FieldKind::RequestTrailers => true,
        FieldKind::ResponseTrailers => !frames_response(name) && !belongs_before_body(name),
    }
}

/// Whether a guest may remove a field. No request goes anywhere without Host.
pub fn is_guests_to_remove(kind: FieldKind, name: &[u8]) -> bool {
    match kind {
        FieldKind::Request => !frames_request(name) && !is_one_of(name, &["host"]),
        FieldKind::Response => is_guests_to_set(kind, name),
        FieldKind::RequestTrailers | FieldKind::ResponseTrailers => true,
    }
}

/// Whether there is one field of that name, so that one which is added takes the place of the others:
/// a second Host or Authorization would be ambiguous.
pub fn is_the_only_one(kind: FieldKind, name: &[u8]) -> bool {
    match kind {
        FieldKind::Request => is_one_of(name, &["host", "authorization"]),
        FieldKind::Response => is_single(name),
        FieldKind::RequestTrailers | FieldKind::ResponseTrailers => false,
    }
}

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}

/// Request headers by which a server frames the message or talks to its neighbour. A guest may read
/// them; what it sets is ignored, since the body and the connection decide.
pub fn frames_request(name: &[u8]) -> bool {
    const NAMES: [&str; 10] = [
        "connection",
        "content-length",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    is_one_of(name, &NAMES)
}

/// Response headers by which a server frames the message or talks to its neighbour; a guest cannot
/// set them. HTTP/2 and HTTP/3 forbid them and their filters do not strip them from the list.
pub fn frames_response(name: &[u8]) -> bool {
    const NAMES: [&str; 7] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    is_one_of(name, &NAMES)
}

/// Headers of which a response has one: where guest and upstream both set them, upstream wins.
pub fn is_single(name: &[u8]) -> bool {
    const NAMES: [&str; 7] =
        ["content-length", "content-type", "date", "etag", "last-modified", "location", "server"];
    is_one_of(name, &NAMES)
}

/// Validators and digests: what speaks of a body and goes with it.
pub fn is_validator(name: &[u8]) -> bool {
    const NAMES: [&str; 7] = [
        "accept-ranges",
        "content-digest",
        "content-md5",
        "digest",
        "etag",
        "last-modified",
        "repr-digest",
    ];
    is_one_of(name, &NAMES)
}

/// Fields that a receiver must know before the body, and that are no trailers therefore (RFC 9110,
/// 6.5.1).
pub fn belongs_before_body(name: &[u8]) -> bool {
    is_one_of(name, &["content-encoding", "content-length", "content-range", "content-type"])
}
