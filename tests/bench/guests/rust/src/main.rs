//! The jobs of the benchmark; the configuration says which.

use http_wasm_guest::host::{Request, Response, admin, feature};
use http_wasm_guest::{Guest, register};
use memchr::memmem;

const SECRET: &[u8] = b"card-4711";

enum Job {
    Headers,
    Answer,
    Uri,
    Redact,
    Body,
}

impl Guest for Job {
    fn handle_request(&self, request: &Request, response: &Response) -> (bool, i32) {
        match self {
            Job::Headers => {
                let value = |name: &[u8]| request.header.get(name).unwrap_or_default();
                let client =
                    [value(b"user-agent"), value(b"accept"), value(b"x-forwarded-for")].join(&b'|');
                request.header.set(b"X-Client", &client);
                response.header.set(b"X-Client", &client);
            }
            Job::Answer => {
                response.header.set(b"Content-Type", b"text/plain");
                response.body.write(b"hello\n");
                return (false, 0);
            }
            Job::Uri => {
                let uri = request.uri();
                if uri.starts_with(b"/v1/") {
                    request.set_uri(&uri[3..]);
                }
            }
            Job::Body => {
                std::hint::black_box(request.body.read());
            }
            Job::Redact => {}
        }
        (true, 0)
    }

    fn handle_response(&self, _: i32, _: &Request, response: &Response, is_error: bool) {
        if !matches!(self, Job::Redact) || is_error {
            return;
        }
        let mut body = response.body.read().to_vec();
        let finder = memmem::Finder::new(SECRET);
        let mut from = 0;
        while let Some(at) = finder.find(&body[from..]) {
            body[from + at..][..SECRET.len()].fill(b'#');
            from += at + SECRET.len();
        }
        response.body.write(&body);
    }
}

fn main() {
    let job = match &*admin::config() {
        b"headers" => Job::Headers,
        b"answer" => Job::Answer,
        b"uri" => Job::Uri,
        b"redact" => {
            admin::enable(feature::BufferResponse);
            Job::Redact
        }
        b"body" => Job::Body,
        other => panic!("no job {:?}", String::from_utf8_lossy(other)),
    };
    register(job);
}
