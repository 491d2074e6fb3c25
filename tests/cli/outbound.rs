//! Connections of guests: the rules and the functions that they have in nginx.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use crate::support::{Program, Ran, built_guest};

/// 127.0.0.1 as the guest reads it.
const LOCAL: &str = "7f000001";

/// A server that says hello as often as it is asked, except about silence; its port.
fn server() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    port
}

fn serve(mut stream: TcpStream) {
    let mut asked = Vec::new();
    let mut piece = [0; 1024];
    loop {
        while !asked.ends_with(b"\r\n\r\n") {
            match stream.read(&mut piece) {
                Ok(len @ 1..) => asked.extend_from_slice(&piece[..len]),
                Ok(0) | Err(_) => return,
            }
        }
        let text = String::from_utf8_lossy(&asked).into_owned();
        asked.clear();
        if text.contains("silence") {
            continue;
        }
        if stream.write_all(b"hello ").is_err() || !text.contains("HTTP/1.1") {
            return;
        }
    }
}

fn run(path: &str, args: &[&str]) -> Ran {
    Program::new("run").arg(built_guest("c-sockets.wasm")).arg(path).args(args).run().succeeds()
}

#[test]
fn a_guest_connects_to_what_is_named() {
    let port = server();
    let rule = format!("127.0.0.1:{port}");
    for how in ["get", "poll"] {
        let ran = run(&format!("/{how}/{LOCAL}/{port}/word"), &["--connect", &rule]);
        assert!(ran.out.contains("\n+hello"), "{}", ran.out);
    }
    let rule = format!("localhost:{port}");
    let ran = run(&format!("/name/localhost/{port}/word"), &["--connect", &rule]);
    assert!(ran.out.contains("\n+hello"), "{}", ran.out);
}

#[test]
fn what_is_not_named_is_refused_and_logged() {
    let port = server();
    let path = format!("/connect/{LOCAL}/{port}");
    let ran = run(&path, &[]);
    assert!(ran.out.contains("STREAM, &fd) 76"), "{}", ran.out);
    assert!(
        ran.out.contains("warn: opens a socket and may not connect to anything"),
        "{}",
        ran.out
    );
    let ran = run(&path, &["--connect", "192.0.2.1", "--connect", "0.0.0.0/0"]);
    let line = format!("warn: may not connect to 127.0.0.1:{port} (see http_wasm_connect)");
    assert!(ran.out.contains("\n+2\n") && ran.out.contains(&line), "{}", ran.out);
}

#[test]
fn connections_are_kept_from_one_request_to_the_next() {
    let port = server();
    let (path, rule) = (format!("/keep/{LOCAL}/{port}/word"), format!("127.0.0.1:{port}"));
    let ran = run(&path, &["--connect", &rule, "--repeat", "2"]);
    assert!(ran.out.contains("\n+hello old"), "{}", ran.out);
    let ran = run(&path, &["--connect", &rule, "--repeat", "2", "--isolation", "request"]);
    assert!(ran.out.contains("\n+hello new"), "{}", ran.out);
}

#[test]
fn limits_are_those_of_the_options() {
    let port = server();
    let ran = run("/open/5", &["--connect", "127.0.0.1", "--sockets", "3"]);
    assert!(ran.out.contains("\n+3 33\n"), "{}", ran.out);
    for how in ["get", "poll"] {
        let path = format!("/{how}/{LOCAL}/{port}/silence");
        let ran = run(&path, &["--connect", "127.0.0.1", "--socket-timeout", "50ms"]);
        assert!(ran.out.contains(" 73\n"), "{}", ran.out);
    }
}

#[test]
fn a_rule_that_is_none_is_told_what_was_expected() {
    let program = Program::new("run").arg(built_guest("c-sockets.wasm")).arg("/");
    let ran = program.args(&["--connect", "example.com"]).run();
    ran.fails(2, "expected a port behind the host");
}
