//! A guest that takes the prefix `/rust` off the URI, tells the upstream about it in the request header
//! `x-original-uri`, and marks the response.

use http_wasm_guest::host::{Request, Response};
use http_wasm_guest::{Guest, HostLogger, register};

struct Headers;

impl Guest for Headers {
    fn handle_request(&self, request: &Request, response: &Response) -> (bool, i32) {
        let uri = request.uri();
        if let Some(rest) = uri.strip_prefix(b"/rust") {
            request.header.set(b"x-original-uri", &uri);
            request.set_uri(rest);
            log::info!("took /rust off {}", String::from_utf8_lossy(&uri));
        }
        request.header.add(b"x-guest", b"rust-headers");
        request.header.remove(b"x-remove-me");
        response.header.set(b"x-guest", b"rust-headers");
        (true, 0)
    }
}

fn main() {
    HostLogger::init().expect("the only logger");
    register(Headers);
}
