//! A guest that rewrites both bodies: the request's becomes upper case, and in the response the guest's
//! configuration, a secret, is covered with `#`. The configuration must not be empty.

use http_wasm_guest::host::{Request, Response, admin, feature};
use http_wasm_guest::{Guest, register};

struct Bodies {
    secret: Vec<u8>,
}

impl Guest for Bodies {
    fn handle_request(&self, request: &Request, _response: &Response) -> (bool, i32) {
        let body = request.body.read();
        if !body.is_empty() {
            request.body.write(&body.to_ascii_uppercase());
        }
        (true, 0)
    }

    fn handle_response(
        &self,
        _req_ctx: i32,
        _request: &Request,
        response: &Response,
        is_error: bool,
    ) {
        if is_error {
            return;
        }
        let mut body = response.body.read().to_vec();
        if cover(&mut body, &self.secret) {
            response.body.write(&body);
        }
    }
}

/// Covers every occurrence of `secret`; whether there was one.
fn cover(body: &mut [u8], secret: &[u8]) -> bool {
    let mut found = false;
    let mut from = 0;
    while let Some(at) = body[from..]
        .windows(secret.len())
        .position(|part| part == secret)
    {
        let end = from + at + secret.len();
        body[from + at..end].fill(b'#');
        from = end;
        found = true;
    }
    found
}

fn main() {
    let secret = admin::config().to_vec();
    assert!(
        !secret.is_empty(),
        "the configuration is the secret and must not be empty"
    );
    admin::enable(feature::BufferRequest | feature::BufferResponse);
    register(Bodies { secret });
}
