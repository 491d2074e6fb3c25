//! What an embedder holds guests to beyond the ABI's own rules: headers that are not theirs to set,
//! headers of which there is one, and how much they may set and log for one request. nginx and the
//! command line both go by it, so that a guest finds the same in either.

/// What guests may set on one request, in bytes: thirty times what nginx accepts of a client with its
/// default `large_client_header_buffers` (4 of 8k).
pub const SET_MAX: usize = 1 << 20;
/// What a field costs beside its text, as nginx keeps it.
pub const FIELD_COST: usize = 64;
/// How [`crate::host::Refusal::TooLarge`] calls what [`SET_MAX`] limits.
pub const SET_NAME: &str = "what guests set on one request (fields, method, URI)";

/// How many fields of one kind guests may set or add on one request: as many as nginx takes from a
/// client (`max_headers`, where it has that). Lists are searched line by line, by nginx's modules too.
pub const FIELDS_MAX: usize = 1000;
/// How [`crate::host::Refusal::TooMany`] calls what [`FIELDS_MAX`] limits.
pub const FIELDS_NAME: &str = "fields of one kind that guests set on one request";

/// What guests may write to the log for one request, in bytes, a line costing [`LINE_COST`] on top:
/// some thousand lines, so that nobody fills a disk by asking.
pub const LOGGED_MAX: usize = 1 << 20;
/// What nginx adds to a line: time, process, client, request.
pub const LINE_COST: usize = 256;
/// What is kept of one message.
pub const MESSAGE_MAX: usize = 64 << 10;
/// The last line of a guest that has used up [`LOGGED_MAX`].
pub const LOGGED_ENOUGH: &str =
    "has written too much for one request: nothing more is logged for it";

/// Largest response body that a guest with `buffer_response` sees and any guest may write, unless
/// `http_wasm_response_buffer` says otherwise: what a worker's temporary disk should bear.
pub const RESPONSE_MAX: u64 = 64 << 20;
/// How [`crate::host::Refusal::TooLarge`] calls a response body.
pub const RESPONSE_NAME: &str = "the response body (http_wasm_response_buffer)";
/// How it calls a request body.
pub const REQUEST_NAME: &str = "the request body (client_max_body_size)";
/// What becomes of a target that leaves the root.
pub const UNSAFE_PATH: &str = "nginx finds the path unsafe";

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}

/// Request headers by which nginx frames the message or talks to its neighbour. A guest may read
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

/// Response headers by which nginx frames the message or talks to its neighbour; a guest cannot set
/// them. HTTP/2 and HTTP/3 forbid them and their filters do not strip them from the list.
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
