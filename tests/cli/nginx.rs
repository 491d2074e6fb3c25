//! The program and the module in nginx, side by side: the same words for guests that cannot be
//! used, and the same messages from those that can.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::script::{self, BUFFER, NONE, Op, REQUEST, RESPONSE, RESPONSE_TRAILERS, TRAILERS};
use crate::servers::{self, nginx_binary};
use crate::support::{Program, built_guest, file, folder, guest};

/// The module that is tested.
fn module() -> String {
    std::env::var("TEST_NGINX_MODULE").expect("TEST_NGINX_MODULE names the module: make clitest")
}

/// What `nginx -t` says of a guest, without its path and the place in the configuration.
fn nginx_says(folder: &Path, path: &Path) -> Option<String> {
    let conf = folder.join("test.conf");
    let text = format!(
        "load_module {};\npid {1}/nginx.pid;\nevents {{}}\nhttp {{\n\
         access_log off; http_wasm {2};\nserver {{ listen 127.0.0.1:1; }}\n}}\n",
        module(),
        folder.display(),
        path.display()
    );
    std::fs::write(&conf, text).expect("a file");
    let mut command = Command::new(nginx_binary());
    command.arg("-t").arg("-p").arg(folder).arg("-c").arg(&conf);
    let output = command.arg("-e").arg(folder.join("error.log")).output().expect("nginx runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let start = format!("http_wasm guest \"{}\": ", path.display());
    let line = said.lines().find(|line| line.contains("[emerg]"));
    assert_eq!(line.is_some(), !output.status.success(), "{said}");
    let reason = line?.split_once(&start).unwrap_or_else(|| panic!("{said}")).1;
    let (reason, _) = reason.rsplit_once(&format!(" in {}", conf.display())).expect("a place");
    Some(reason.to_owned())
}

fn program_says(path: &Path) -> Option<String> {
    let ran = Program::new("check").arg(path).arg("--format=json").run();
    let json: Value = serde_json::from_str(&ran.out).expect("JSON");
    let reason = json["reason"].as_str().map(str::to_owned);
    assert_eq!(ran.status, Some(if reason.is_some() { 1 } else { 0 }), "{ran:#?}");
    assert_eq!(json["usable"], reason.is_none());
    reason
}

#[test]
fn nginx_and_the_program_refuse_in_the_same_words() {
    let folder = folder();
    let guests = [
        "not a guest",
        "\u{1b}[31m",
        "(module (func (i32.ad)))",
        "(component)",
        "(module)",
        r#"(module (memory (export "memory") 1) (func (export "handle_request")))"#,
        r#"(module (memory (export "memory") 4000)
             (func (export "handle_request") (result i64) (i64.const 1))
             (func (export "handle_response") (param i32 i32)))"#,
    ];
    let bodies = [
        r#"(import "env" "abort" (func))"#,
        r#"(import "http_handler" "log" (func (param i32)))"#,
        r#"(func $f unreachable) (start $f)"#,
        r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
           (func (export "_start") (call $exit (i32.const 3)))"#,
        r#"(import "http_handler" "set_method" (func $set (param i32 i32)))
           (func (export "_initialize") (call $set (i32.const 0) (i32.const 1)))"#,
        "",
    ];
    let mut reasons = Vec::new();
    for text in guests {
        let path = folder.path().join("guest.wat");
        std::fs::write(&path, text).expect("a file");
        reasons.push((program_says(&path), nginx_says(folder.path(), &path)));
    }
    for body in bodies {
        let path = guest(folder.path(), body, "");
        reasons.push((program_says(&path), nginx_says(folder.path(), &path)));
    }
    let none = folder.path().join("none.wat");
    reasons.push((program_says(&none), nginx_says(folder.path(), &none)));
    for (program, nginx) in &reasons {
        // nginx names the directive that helps as well.
        let nginx = nginx.as_deref().map(|it| it.split(" (see http_wasm_").next().unwrap_or(it));
        assert_eq!(program.as_deref(), nginx);
    }
    let refused = reasons.iter().filter(|(program, _)| program.is_some()).count();
    assert_eq!(refused, reasons.len() - 1);
}

/// A message as it went over a connection.
#[derive(Debug, PartialEq)]
struct Message {
    /// Method and target, or the status.
    first: String,
    /// In lower case and order of names, without what is between two servers.
    fields: Vec<(String, String)>,
    body: String,
}

impl Message {
    fn new(first: String, fields: Vec<(String, String)>, body: String) -> Self {
        const HOPS: [&str; 4] = ["connection", "date", "server", "transfer-encoding"];
        let lower = fields.into_iter().map(|(name, value)| (name.to_lowercase(), value));
        let mut fields: Vec<_> = lower.filter(|(name, _)| !HOPS.contains(&&**name)).collect();
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        Message { first, fields, body }
    }

    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let mut lines = head.split("\r\n");
        let first: Vec<_> = lines.next().expect("a line").split(' ').collect();
        let first = match first.as_slice() {
            ["HTTP/1.1", status, ..] => (*status).to_owned(),
            [method, target, ..] => format!("{method} {target}"),
            _ => panic!("{text}"),
        };
        let fields: Vec<_> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let chunked = fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
        let body = if chunked { unchunked(body) } else { body.to_owned() };
        Message::new(first, fields, body)
    }

    fn of_json(json: &Value, first: String) -> Self {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let list = |value: &Value| -> Vec<(String, String)> {
            let lines = value.as_array().expect("a list").iter();
            lines.map(|line| (text(&line[0]), text(&line[1]))).collect()
        };
        let mut body = text(&json["body"]);
        for (name, value) in list(&json["trailers"]) {
            body += &format!("[{name}: {value}]");
        }
        Message::new(first, list(&json["fields"]), body)
    }
}

/// A body in chunks, its trailers in brackets behind it.
fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").expect("a chunk");
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            rest = after;
            break;
        }
        body += &after[..size];
        rest = &after[size + 2..];
    }
    for trailer in rest.split("\r\n").filter(|line| !line.is_empty()) {
        body += &format!("[{trailer}]");
    }
    body
}

/// One exchange that both are given.
struct Case {
    guest: PathBuf,
    config: &'static str,
    request: String,
    response: &'static str,
}

/// What the next handler and the client got.
type Seen = (Option<Message>, Message);

fn in_program(folder: &Path, case: &Case) -> Seen {
    let run = Program::new("run").arg(&case.guest).args(&["--config", case.config]);
    of_program(folder, run, &case.request, case.response)
}

fn of_program(folder: &Path, run: Program, request: &str, response: &str) -> Seen {
    let (request_file, response_file) = (folder.join("request"), folder.join("response"));
    std::fs::write(&request_file, request).expect("a file");
    std::fs::write(&response_file, response).expect("a file");
    let run = run.arg("--request").arg(request_file).arg("--response").arg(response_file);
    let ran = run.arg("--format=json").run().succeeds();
    let json: Value = serde_json::from_str(&ran.out).expect("JSON");
    let request = Some(&json["request"]).filter(|request| !request.is_null()).map(|request| {
        let text = |name: &str| request[name].as_str().expect("text").to_owned();
        Message::of_json(request, format!("{} {}", text("method"), text("target")))
    });
    let response = &json["response"];
    (request, Message::of_json(response, response["status"].to_string()))
}

fn in_nginx(folder: &Path, case: &Case) -> Seen {
    let conf = format!("http_wasm {} \"config={}\";", case.guest.display(), case.config);
    let (request, response) = through_nginx(folder, &conf, &case.request, case.response);
    (request.map(|request| Message::parse(&request)), Message::parse(&response))
}

/// Sends a request through nginx, and `response` back; what the next handler got, and what the client.
pub fn through_nginx(
    folder: &Path,
    conf: &str,
    request: &str,
    response: &str,
) -> (Option<String>, String) {
    let next = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let conf = format!(
        "{conf}
         location / {{ proxy_pass http://{}; proxy_http_version 1.1;
                       proxy_set_header Host $http_host; proxy_set_header Connection ''; }}",
        next.local_addr().expect("an address")
    );
    let server = servers::nginx_with(folder, &format!("load_module {};", module()), "", &conf);
    let answer = on_the_wire(response);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = next.accept().expect("a connection");
        let request = read_message(&mut stream);
        sender.send(request).expect("somebody listens");
        // Who has asked may have gone.
        let _ = stream.write_all(answer.as_bytes());
    });
    let mut client = TcpStream::connect(server.addr).expect("a connection");
    client.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    client.write_all(on_the_wire(request).as_bytes()).expect("is sent");
    let mut response = String::new();
    client.read_to_string(&mut response).expect("a response");
    // nginx has asked before it answered, if it has.
    (receiver.try_recv().ok(), response)
}

/// A message with the line breaks that belong in its head.
fn on_the_wire(message: &str) -> String {
    let (head, body) = message.split_once("\n\n").expect("a head");
    format!("{}\r\n\r\n{body}", head.replace('\n', "\r\n"))
}

/// A request with its body, whose length is announced.
fn read_message(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let len = stream.read(&mut buffer).expect("is read");
        text += std::str::from_utf8(&buffer[..len]).expect("text");
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            line.to_lowercase().strip_prefix("content-length: ").map(|length| length.parse())
        });
        if len == 0 || body.len() >= length.unwrap_or(Ok(0)).expect("a number") {
            return text;
        }
    }
}

/// Features, what a guest does before it says next, next, what it does afterwards, request, response.
type Script<'a> = (u32, &'a [Op], bool, &'a [Op], String, &'static str);

/// A response that nobody has asked for like this.
const ENCODED: &str =
    "HTTP/1.1 200 OK\nContent-Encoding: x-rot13\nETag: \"1\"\nContent-Length: 5\n\nuryyb";

pub const OK: &str = "HTTP/1.1 200 OK\nContent-Length: 9\nContent-Type: text/plain\nETag: \"1\"\n\
                  Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\nX-A: 1\nX-A: 2\n\nresponse\n";
const NOT_MODIFIED: &str = "HTTP/1.1 304 Not Modified\nETag: \"1\"\n\n";

pub fn request(line: &str, fields: &str, body: &str) -> String {
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\n"),
    };
    format!("{line} HTTP/1.1\nHost: a.example\nConnection: close\n{length}{fields}\n{body}")
}

#[test]
fn a_guest_does_in_the_program_what_it_does_in_nginx() {
    use Op::*;
    let get = || request("GET /a%20b?c=d", "X-A: 1\nX-B: 2\nx-a: 3\n", "");
    let post = || request("POST /form", "Content-Type: text/plain\n", "body\n");
    let scripts: &[Script] = &[
        (NONE, &[], true, &[], get(), OK),
        // Fields of the request: one, several, none, and those that are not the guest's.
        (
            NONE,
            &[
                Set(REQUEST, "X-a", "4"),
                Set(REQUEST, "X-B", "5"),
                Add(REQUEST, "x-c", "6"),
                Add(REQUEST, "x-c", "7"),
                Add(REQUEST, "authorization", "a"),
                Add(REQUEST, "Authorization", "b"),
                Set(REQUEST, "transfer-encoding", "chunked"),
                Set(REQUEST, "te", "trailers"),
                Remove(REQUEST, "host"),
                Set(REQUEST, "host", "b.example"),
            ],
            true,
            &[],
            get(),
            OK,
        ),
        (NONE, &[Remove(REQUEST, "X-A")], true, &[], get(), OK),
        (NONE, &[Uri("/x y?z=1 2"), Method("PUT")], true, &[], get(), OK),
        // Bodies of the request.
        (
            NONE,
            &[Read(REQUEST), Write(REQUEST, "longer "), Write(REQUEST, "body")],
            true,
            &[],
            post(),
            OK,
        ),
        (NONE, &[Write(REQUEST, "")], true, &[], post(), OK),
        (NONE, &[Write(REQUEST, "new")], true, &[], get(), OK),
        (BUFFER, &[], true, &[], request("GET /", "Range: bytes=0-1\nIf-Range: \"1\"\n", ""), OK),
        // What is set before the next handler.
        (
            NONE,
            &[
                Set(RESPONSE, "x-early", "1"),
                Set(RESPONSE, "x-a", "0"),
                Set(RESPONSE, "etag", "\"2\""),
                Set(RESPONSE, "content-type", "text/html"),
                Set(RESPONSE, "location", "/there"),
                Set(RESPONSE, "connection", "x"),
                Status(201),
            ],
            true,
            &[],
            get(),
            OK,
        ),
        (BUFFER, &[], true, &[Write(RESPONSE, "plain")], get(), ENCODED),
        (BUFFER, &[], true, &[], get(), ENCODED),
        (
            BUFFER,
            &[],
            true,
            &[Write(RESPONSE, "br"), Set(RESPONSE, "content-encoding", "br")],
            get(),
            ENCODED,
        ),
        (NONE, &[Write(RESPONSE, "early ")], true, &[], get(), OK),
        (BUFFER, &[Write(RESPONSE, "early ")], true, &[Read(RESPONSE)], get(), OK),
        // Of some headers there is one, however often it is set or added, and whoever comes first.
        (
            NONE,
            &[
                Add(RESPONSE, "location", "/a"),
                Add(RESPONSE, "Location", "/b"),
                Set(RESPONSE, "content-type", "text/html"),
                Add(RESPONSE, "content-type", "text/css"),
                Add(RESPONSE, "etag", "\"2\""),
                Add(RESPONSE, "etag", "\"3\""),
                Add(RESPONSE, "x-c", "1"),
                Add(RESPONSE, "x-c", "2"),
            ],
            true,
            &[],
            get(),
            OK,
        ),
        (
            NONE,
            &[
                Add(RESPONSE, "location", "/a"),
                Add(RESPONSE, "Location", "/b"),
                Set(RESPONSE, "content-type", "text/html"),
                Add(RESPONSE, "content-type", "text/css"),
                Set(RESPONSE, "last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
                Set(RESPONSE, "last-modified", "Sun, 06 Nov 1994 08:49:38 GMT"),
                Add(RESPONSE, "etag", "\"2\""),
                Remove(RESPONSE, "etag"),
                Add(RESPONSE, "x-c", "1"),
                Set(RESPONSE, "x-c", "2"),
                Add(RESPONSE, "x-c", "3"),
            ],
            false,
            &[],
            get(),
            OK,
        ),
        (
            NONE,
            &[],
            true,
            &[
                Add(RESPONSE, "location", "/a"),
                Add(RESPONSE, "Location", "/b"),
                Add(RESPONSE, "content-type", "text/html"),
                Add(RESPONSE, "content-type", "text/css"),
                Set(RESPONSE, "etag", "\"2\""),
                Set(RESPONSE, "etag", "\"3\""),
                Add(RESPONSE, "last-modified", "Sun, 06 Nov 1994 08:49:38 GMT"),
                Add(RESPONSE, "x-a", "3"),
                Add(RESPONSE, "content-length", "0"),
            ],
            get(),
            OK,
        ),
        (
            NONE,
            &[Add(RESPONSE, "etag", "\"2\""), Add(RESPONSE, "location", "/a")],
            true,
            &[Add(RESPONSE, "etag", "\"3\""), Set(RESPONSE, "location", "/b")],
            get(),
            NOT_MODIFIED,
        ),
        (
            NONE,
            &[
                Add(REQUEST, "host", "a"),
                Add(REQUEST, "Host", "b.example"),
                Add(REQUEST, "authorization", "a"),
                Set(REQUEST, "authorization", "b"),
                Add(REQUEST, "content-type", "text/html"),
                Add(REQUEST, "cookie", "a=1"),
                Add(REQUEST, "cookie", "b=2"),
            ],
            true,
            &[],
            get(),
            OK,
        ),
        (
            TRAILERS,
            &[
                Add(RESPONSE_TRAILERS, "x-sum", "1"),
                Add(RESPONSE_TRAILERS, "x-sum", "2"),
                Set(RESPONSE_TRAILERS, "etag", "3"),
                Add(RESPONSE_TRAILERS, "etag", "4"),
                Write(RESPONSE, "answer"),
            ],
            false,
            &[],
            get(),
            OK,
        ),
        // Headers of the response, while the body streams.
        (
            NONE,
            &[],
            true,
            &[
                Set(RESPONSE, "x-a", "3"),
                Add(RESPONSE, "x-b", "4"),
                Add(RESPONSE, "etag", "\"3\""),
                Set(RESPONSE, "content-type", "text/html"),
                Set(RESPONSE, "content-length", "1"),
                Remove(RESPONSE, "last-modified"),
                Remove(RESPONSE, "content-length"),
                Status(203),
            ],
            get(),
            OK,
        ),
        // Bodies of the response.
        (BUFFER, &[], true, &[Write(RESPONSE, "new "), Write(RESPONSE, "body")], get(), OK),
        (BUFFER, &[], true, &[Write(RESPONSE, "x"), Set(RESPONSE, "etag", "\"1\"")], get(), OK),
        (BUFFER, &[], true, &[Set(RESPONSE, "content-length", "0")], get(), OK),
        (BUFFER, &[], true, &[Read(RESPONSE)], get(), OK),
        (BUFFER, &[], true, &[Write(RESPONSE, "x"), Status(204)], get(), OK),
        // Responses without one.
        (BUFFER, &[], true, &[Write(RESPONSE, "x")], get(), NOT_MODIFIED),
        (BUFFER, &[], true, &[Write(RESPONSE, "x"), Status(200)], get(), NOT_MODIFIED),
        (NONE, &[Write(RESPONSE, "x")], true, &[], get(), NOT_MODIFIED),
        // Answers of the guest's own.
        (NONE, &[Write(RESPONSE, "answer"), Status(404)], false, &[], get(), OK),
        (NONE, &[Write(RESPONSE, "dropped"), Status(204)], false, &[], get(), OK),
        (NONE, &[Write(RESPONSE, "answer")], false, &[], request("HEAD /", "", ""), OK),
        (
            NONE,
            &[
                Set(RESPONSE, "x-a", "1"),
                Add(RESPONSE, "x-a", "2"),
                Set(RESPONSE, "content-length", "99"),
                Set(RESPONSE, "upgrade", "x"),
                Write(RESPONSE, "answer"),
            ],
            false,
            &[],
            post(),
            OK,
        ),
        // Trailers.
        (
            TRAILERS,
            &[
                Set(RESPONSE_TRAILERS, "x-sum", "1"),
                Set(RESPONSE_TRAILERS, "content-type", "x"),
                Write(RESPONSE, "answer"),
            ],
            false,
            &[],
            get(),
            OK,
        ),
        (TRAILERS, &[], true, &[Set(RESPONSE_TRAILERS, "x-sum", "2")], get(), OK),
    ];
    let folder = folder();
    for (features, before, next, after, request, response) in scripts {
        let guest = script::guest(folder.path(), *features, before, *next, after);
        let case = Case { guest, config: "", request: request.clone(), response };
        let (program, nginx) = (in_program(folder.path(), &case), in_nginx(folder.path(), &case));
        assert_eq!(program, nginx, "{before:?} {next} {after:?}\n{request}");
    }
    let guests = [
        (file("nginx-conf/guests/redact.wat"), "body"),
        (built_guest("as-key.wasm"), "key"),
        (built_guest("c-teapot.wasm"), ""),
        (built_guest("rust-headers.wasm"), ""),
    ];
    for (guest, config) in guests {
        for request in [get(), post(), request("GET /rust/x", "X-Api-Key: key\n", "")] {
            let case = Case { guest: guest.clone(), config, request, response: OK };
            let program = in_program(folder.path(), &case);
            assert_eq!(program, in_nginx(folder.path(), &case), "{}", case.guest.display());
        }
    }
}

/// Tells the client what it finds among the request's fields, and whether it has the body.
const CURIOUS: &str = r#"(module
  (import "http_handler" "enable_features" (func $features (param i32) (result i32)))
  (import "http_handler" "get_header_values"
    (func $values (param i32 i32 i32 i32 i32) (result i64)))
  (import "http_handler" "set_header_value" (func $set (param i32 i32 i32 i32 i32)))
  (import "http_handler" "write_body" (func $write (param i32 i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "x-given")
  (data (i32.const 16) "x-seen")
  (data (i32.const 32) "x-type")
  (data (i32.const 48) "new body")
  (data (i32.const 64) "content-type")
  (data (i32.const 80) "text/html")
  (func (export "_initialize") (drop (call $features (i32.const 2))))
  (func (export "handle_request") (result i64)
    (local $len i32)
    (local.set $len (i32.wrap_i64
      (call $values (i32.const 0) (i32.const 0) (i32.const 7) (i32.const 1024) (i32.const 1024))))
    (if (local.get $len) (then
      ;; Values end with a NUL.
      (call $set (i32.const 1) (i32.const 16) (i32.const 6)
        (i32.const 1024) (i32.sub (local.get $len) (i32.const 1)))
      (call $set (i32.const 0) (i32.const 0) (i32.const 7) (i32.const 80) (i32.const 4))))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (local $len i32)
    (local.set $len (i32.wrap_i64
      (call $values (i32.const 1) (i32.const 64) (i32.const 12) (i32.const 1024) (i32.const 1024))))
    (if (i32.and (i32.eq (local.get $len) (i32.const 10))
          (i32.eq (i32.load8_u (i32.const 1029)) (i32.const 104)))
      (then (call $write (i32.const 1) (i32.const 48) (i32.const 8))))
    (call $set (i32.const 1) (i32.const 32) (i32.const 6) (i32.const 80) (i32.const 4))))"#;

#[test]
fn fields_and_types_of_the_configuration_are_those_of_the_program() {
    let folder = folder();
    let folder = folder.path();
    let guest = folder.join("guest.wat");
    std::fs::write(&guest, CURIOUS).expect("a file");
    let response = |ty: &str| {
        let ty = if ty.is_empty() { String::new() } else { format!("Content-Type: {ty}\n") };
        format!("HTTP/1.1 200 OK\n{ty}Content-Length: 3\n\nold")
    };
    let fields = "X-Given: client\nAccept-Encoding: gzip\nRange: bytes=0-1\n";
    let cases: [(&str, &[&str], &str, &str); 6] = [
        ("", &[], fields, "text/html"),
        ("http_wasm_field X-Given \"it is\";", &["--field", "X-Given: it is"], fields, "text/html"),
        ("http_wasm_field x-given \"\";", &["--field", "x-given:"], fields, "text/html"),
        ("http_wasm_field x-given 1;", &["--field", "x-given: 1"], "", "text/html; charset=a"),
        (
            "http_wasm_buffer_types text/css text/html;",
            &["--buffer-type", "text/css", "--buffer-type", "text/html"],
            fields,
            "Text/HTML;charset=a",
        ),
        ("http_wasm_buffer_types text/css;", &["--buffer-type=text/css"], fields, "image/png"),
    ];
    for (conf, args, fields, ty) in cases {
        let (request, response) = (request("GET /", fields, ""), response(ty));
        let conf = format!("http_wasm {}; {conf}", guest.display());
        let (next, client) = through_nginx(folder, &conf, &request, &response);
        let in_nginx = (next.map(|next| Message::parse(&next)), Message::parse(&client));
        let run = Program::new("run").arg(&guest).args(args);
        let seen = of_program(folder, run, &request, &response);
        assert_eq!(seen, in_nginx, "{conf}");
    }
}
