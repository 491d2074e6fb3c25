//! Sockets without a server: the functions in both dialects, waiting, and what a hostile guest tries.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use ngx_http_wasm_handler_module::abi::Level;
use ngx_http_wasm_handler_module::host::Waited;

use crate::support::Test;

const SOCKETS: &str = r#"
    (import "wasi_snapshot_preview1" "sock_open" (func $sock_open (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_connect" (func $sock_connect (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_bind" (func $sock_bind (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_listen" (func $sock_listen (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_send" (func $sock_send (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_recv" (func $sock_recv (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_send_to" (func $sock_send_to (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_shutdown" (func $sock_shutdown (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_getsockopt" (func $sock_getsockopt (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_setsockopt" (func $sock_setsockopt (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_getaddrinfo"
      (func $sock_getaddrinfo (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_renumber" (func $fd_renumber (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fd_fdstat_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_fdstat_set_flags" (func $fd_fdstat_set_flags (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_filestat_get" (func $fd_filestat_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
    (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))
    ;; 127.0.0.1 at 0, the pair that points to it at 8; buffers: "hello" at 32, room at 1024; their lists at 16 and 24
    (data (i32.const 0) "\7f\00\00\01\00\00\00\00\00\00\00\00\04\00\00\00")
    (data (i32.const 16) "\20\00\00\00\05\00\00\00\00\04\00\00\00\01\00\00")
    (data (i32.const 32) "hello")
    (global $fd (mut i32) (i32.const 0))
    (func $ok (param i32) (if (local.get 0) (then unreachable)))
    (func $is (param i32 i32) (if (i32.ne (local.get 0) (local.get 1)) (then unreachable)))
    (func $open (param $type i32)
      (call $ok (call $sock_open (i32.const 1) (local.get $type) (i32.const 64)))
      (global.set $fd (i32.load (i32.const 64))))
    (func $connect (param $port i32)
      (call $open (i32.const 2))
      (call $ok (call $sock_connect (global.get $fd) (i32.const 8) (local.get $port))))
"#;

const AGAIN: u32 = 6;

fn guest(imports: &str, body: &str) -> Test {
    Test::on_request(&format!("{imports}{SOCKETS}"), body)
}

fn on_request(body: &str) -> Test {
    guest("", body)
}

/// A server that sends back what it gets, once, and its port.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut text = [0; 64];
            let len = stream.read(&mut text).unwrap_or(0);
            let _ = stream.write_all(&text[..len]);
        }
    });
    port
}

/// One that accepts and says nothing.
fn silence() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

#[test]
fn a_socket_sends_and_receives() {
    let port = echo();
    let body = format!(
        "(call $connect (i32.const {port}))
         (call $ok (call $sock_send (global.get $fd) (i32.const 16) (i32.const 1) (i32.const 0) (i32.const 72)))
         (call $is (i32.load (i32.const 72)) (i32.const 5))
         (call $ok (call $sock_recv (global.get $fd) (i32.const 24) (i32.const 1) (i32.const 0) (i32.const 72) (i32.const 76)))
         (call $ok (call $fd_close (global.get $fd)))
         (call $write_body (i32.const 1) (i32.const 1024) (i32.load (i32.const 72)))"
    );
    let outcome = on_request(&body).connect(&format!("127.0.0.1:{port}")).run();
    assert_eq!(outcome.body(), "hello");
}

#[test]
fn the_older_dialect_has_plain_addresses_and_their_type() {
    let port = echo();
    let imports = r#"(import "wasi_snapshot_preview1" "sock_getpeeraddr"
          (func $sock_getpeeraddr (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sock_accept" (func $sock_accept (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sock_recv_from" (func $sock_recv_from (param i32 i32 i32 i32 i32 i32 i32) (result i32)))"#;
    let body = format!(
        "(call $connect (i32.const {port}))
         (i32.store (i32.const 80) (i32.const 96)) (i32.store (i32.const 84) (i32.const 16))
         (call $ok (call $sock_getpeeraddr (global.get $fd) (i32.const 80) (i32.const 72) (i32.const 76)))
         (call $is (i32.load (i32.const 96)) (i32.load (i32.const 0)))
         (call $is (i32.load (i32.const 72)) (i32.const 4))
         (call $is (i32.load (i32.const 76)) (i32.const {port}))
         (call $is (call $sock_accept (global.get $fd) (i32.const 72)) (i32.const 58))
         (call $ok (call $fd_write (global.get $fd) (i32.const 16) (i32.const 1) (i32.const 72)))
         (call $ok (call $sock_recv_from (global.get $fd) (i32.const 24) (i32.const 1) (i32.const 80) (i32.const 0)
           (i32.const 72) (i32.const 76)))
         (call $is (i32.load (i32.const 72)) (i32.const 5))"
    );
    guest(imports, &body).connect("127.0.0.1").run();
}

#[test]
fn a_guest_that_may_connect_to_nothing_gets_no_socket() {
    let body =
        "(call $is (call $sock_open (i32.const 1) (i32.const 2) (i32.const 64)) (i32.const 76))";
    let exchange = on_request(body).run().exchange;
    let line = "opens a socket and may not connect to anything (see http_wasm_connect)";
    assert_eq!(exchange.lines(Level::Warn), [line]);
    // Nor one that shall not see what the machine does.
    on_request(body).connect("127.0.0.1").strict().run();
}

#[test]
fn where_there_are_no_connections_none_is_opened() {
    let body =
        "(call $is (call $sock_open (i32.const 1) (i32.const 2) (i32.const 64)) (i32.const 2))";
    on_request(body).connect("127.0.0.1").without_connections().run();
}

#[test]
fn numbers_are_free_again_when_they_are_closed() {
    let body = "(call $open (i32.const 2))
        (call $is (global.get $fd) (i32.const 0x100000))
        (call $open (i32.const 2))
        (call $is (global.get $fd) (i32.const 0x100001))
        (call $ok (call $fd_renumber (i32.const 0x100001) (i32.const 0x100000)))
        (call $is (call $fd_close (i32.const 0x100001)) (i32.const 8))
        (call $is (call $fd_renumber (i32.const 0x100000) (i32.const 5)) (i32.const 58))
        (call $is (call $fd_renumber (i32.const 5) (i32.const 0x100000)) (i32.const 58))
        (call $is (call $fd_renumber (i32.const 0x100000) (i32.const 0x100009)) (i32.const 8))
        (call $ok (call $fd_renumber (i32.const 0x100000) (i32.const 0x100000)))
        (call $ok (call $fd_close (i32.const 0x100000)))
        (call $is (call $fd_close (i32.const 0x100000)) (i32.const 8))
        (call $is (call $sock_shutdown (i32.const 0x100000) (i32.const 3)) (i32.const 8))
        (call $is (call $sock_shutdown (i32.const 1) (i32.const 3)) (i32.const 57))
        (call $is (call $fd_read (i32.const 0x7fffffff) (i32.const 24) (i32.const 1) (i32.const 72)) (i32.const 8))
        (call $open (i32.const 1))
        (call $is (global.get $fd) (i32.const 0x100000))";
    on_request(body).connect("127.0.0.1").run();
}

#[test]
fn descriptors_say_what_they_are() {
    let body = "(call $open (i32.const 1))
        (call $ok (call $fd_fdstat_get (global.get $fd) (i32.const 128)))
        (call $is (i32.load (i32.const 128)) (i32.const 5))
        (call $ok (call $fd_fdstat_set_flags (global.get $fd) (i32.const 4)))
        (call $ok (call $fd_fdstat_get (global.get $fd) (i32.const 128)))
        (call $is (i32.load (i32.const 128)) (i32.const 0x40005))
        (call $ok (call $fd_filestat_get (global.get $fd) (i32.const 128)))
        (call $is (i32.load8_u (i32.const 144)) (i32.const 5))
        (call $open (i32.const 2))
        (call $ok (call $fd_filestat_get (global.get $fd) (i32.const 128)))
        (call $is (i32.load8_u (i32.const 144)) (i32.const 6))
        (call $is (call $fd_fdstat_get (global.get $fd) (i32.const -8)) (i32.const 21))";
    on_request(body).connect("127.0.0.1").run();
}

#[test]
fn wrong_pointers_are_an_error_number() {
    let body = "(call $is (call $sock_open (i32.const 1) (i32.const 2) (i32.const -4)) (i32.const 21))
        (call $is (call $sock_open (i32.const 9) (i32.const 2) (i32.const 64)) (i32.const 5))
        (call $is (call $sock_open (i32.const 1) (i32.const 9) (i32.const 64)) (i32.const 28))
        (call $open (i32.const 2))
        (call $is (call $sock_connect (global.get $fd) (i32.const -8) (i32.const 80)) (i32.const 21))
        (call $is (call $sock_send (global.get $fd) (i32.const -8) (i32.const 1) (i32.const 0) (i32.const 72)) (i32.const 21))
        (call $is (call $sock_send (global.get $fd) (i32.const 16) (i32.const 1025) (i32.const 0) (i32.const 72)) (i32.const 28))
        (call $is (call $sock_send (global.get $fd) (i32.const 16) (i32.const 1) (i32.const 0) (i32.const -1)) (i32.const 21))
        (call $is (call $sock_recv (global.get $fd) (i32.const 16) (i32.const 1) (i32.const 2) (i32.const 72) (i32.const 76)) (i32.const 58))
        (call $is (call $sock_setsockopt (global.get $fd) (i32.const 0) (i32.const 9) (i32.const 0) (i32.const 8)) (i32.const 50))
        (call $is (call $sock_setsockopt (global.get $fd) (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 3)) (i32.const 28))
        (call $is (call $sock_getsockopt (global.get $fd) (i32.const 0) (i32.const 2) (i32.const -4) (i32.const 4)) (i32.const 21))
        (call $is (call $sock_getaddrinfo (i32.const -4) (i32.const 9) (i32.const 0) (i32.const 0) (i32.const 128)
          (i32.const 200) (i32.const 1) (i32.const 72)) (i32.const 21))
        (call $is (call $sock_getaddrinfo (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 128)
          (i32.const 200) (i32.const 1) (i32.const 72)) (i32.const 28))";
    on_request(body).connect("127.0.0.1").run();
}

#[test]
fn no_more_may_wait_than_an_operator_allows() {
    let body = "(call $open (i32.const 2))
        (i32.store (i32.const 72) (i32.const 0x7fffffff))
        (call $ok (call $sock_setsockopt (global.get $fd) (i32.const 0) (i32.const 6) (i32.const 72) (i32.const 4)))
        (call $ok (call $sock_getsockopt (global.get $fd) (i32.const 0) (i32.const 6) (i32.const 72) (i32.const 4)))
        ;; Linux doubles it for its own part.
        (if (i32.gt_u (i32.load (i32.const 72)) (i32.const 262144)) (then unreachable))
        ;; The address of the length, as Rust's client has it.
        (i32.store (i32.const 76) (i32.const 4))
        (call $ok (call $sock_getsockopt (global.get $fd) (i32.const 0) (i32.const 1) (i32.const 72) (i32.const 76)))
        (call $is (i32.load (i32.const 72)) (i32.const 2))";
    on_request(body).connect("127.0.0.1").run();
}

#[test]
fn a_wait_that_takes_too_long_ends() {
    let (_listener, port) = silence();
    let body = format!(
        "(call $connect (i32.const {port}))
         (call $is (call $fd_read (global.get $fd) (i32.const 24) (i32.const 1) (i32.const 72)) (i32.const 73))
         (i64.store (i32.const 200) (i64.const 0)) (i64.store (i32.const 208) (i64.const 1000))
         (call $ok (call $sock_setsockopt (global.get $fd) (i32.const 0) (i32.const 11) (i32.const 200) (i32.const 16)))
         (call $is (call $fd_read (global.get $fd) (i32.const 24) (i32.const 1) (i32.const 72)) (i32.const {AGAIN}))
         (call $ok (call $fd_fdstat_set_flags (global.get $fd) (i32.const 4)))
         (call $is (call $fd_read (global.get $fd) (i32.const 24) (i32.const 1) (i32.const 72)) (i32.const {AGAIN}))"
    );
    let test = on_request(&body).connect("127.0.0.1").patience(Duration::from_millis(30));
    assert_eq!(test.run().exchange.looks, 2);
}

#[test]
fn who_never_reads_waits_for_room_and_no_longer_than_he_may() {
    let (_listener, port) = silence();
    let body = format!(
        "(local $error i32)
         (i32.store (i32.const 16) (i32.const 0)) (i32.store (i32.const 20) (i32.const 65536))
         (call $connect (i32.const {port}))
         (loop $again
           (local.set $error (call $fd_write (global.get $fd) (i32.const 16) (i32.const 1) (i32.const 72)))
           (br_if $again (i32.eqz (local.get $error))))
         (call $is (local.get $error) (i32.const 73))"
    );
    on_request(&body).connect("127.0.0.1").patience(Duration::from_millis(30)).run();
}

#[test]
fn datagrams_of_strangers_are_passed_over() {
    let (known, stranger) = (
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"),
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"),
    );
    let port = known.local_addr().expect("an address").port();
    let server = thread::spawn(move || {
        let mut text = [0; 64];
        let (_, from) = known.recv_from(&mut text).expect("a datagram");
        for text in [&b"first"[..], b"second"] {
            stranger.send_to(text, from).expect("sends");
        }
        known.send_to(b"third", from).expect("sends");
    });
    let body = format!(
        "(call $open (i32.const 1))
         (i32.store (i32.const 200) (i32.const 0))
         (i32.store (i32.const 208) (i32.const 200)) (i32.store (i32.const 212) (i32.const 4))
         (call $ok (call $sock_bind (global.get $fd) (i32.const 208) (i32.const 0)))
         (call $is (call $sock_bind (global.get $fd) (i32.const 8) (i32.const 0)) (i32.const 58))
         (call $ok (call $sock_send_to (global.get $fd) (i32.const 16) (i32.const 1) (i32.const 8) (i32.const {port})
           (i32.const 0) (i32.const 72)))
         (call $ok (call $fd_read (global.get $fd) (i32.const 24) (i32.const 1) (i32.const 72)))
         (call $write_body (i32.const 1) (i32.const 1024) (i32.load (i32.const 72)))"
    );
    let outcome = on_request(&body).connect(&format!("127.0.0.1:{port}")).run();
    assert_eq!(outcome.body(), "third");
    server.join().expect("a server");
}

/// Subscriptions at 1000: to a clock, and to the socket for bytes at 1048.
fn subscribe(timeout_ms: u64) -> String {
    format!(
        "(i64.store (i32.const 1000) (i64.const 1)) (i32.store8 (i32.const 1008) (i32.const 0))
         (i32.store (i32.const 1016) (i32.const 1)) (i64.store (i32.const 1024) (i64.const {}))
         (i64.store (i32.const 1048) (i64.const 2)) (i32.store8 (i32.const 1056) (i32.const 1))
         (i32.store (i32.const 1064) (global.get $fd))",
        timeout_ms * 1_000_000
    )
}

#[test]
fn clocks_and_sockets_are_waited_for_together() {
    let ((_listener, silent), speaks) = (silence(), echo());
    let poll = "(call $ok (call $poll_oneoff (i32.const 1000) (i32.const 2000) (i32.const 2) (i32.const 72)))
        (call $is (i32.load (i32.const 72)) (i32.const 1))";
    let clock = format!(
        "(call $connect (i32.const {silent})) {} {poll} (call $is (i32.load (i32.const 2000)) (i32.const 1))",
        subscribe(20)
    );
    on_request(&clock).connect("127.0.0.1").run();
    let bytes = format!(
        "(call $connect (i32.const {speaks}))
         (call $ok (call $fd_write (global.get $fd) (i32.const 16) (i32.const 1) (i32.const 72)))
         {} {poll} (call $is (i32.load (i32.const 2000)) (i32.const 2))
         (call $is (i32.load16_u (i32.const 2008)) (i32.const 0))",
        subscribe(10_000)
    );
    on_request(&bytes).connect("127.0.0.1").run();
    let closed = format!(
        "(call $connect (i32.const {silent})) {} (call $ok (call $fd_close (global.get $fd)))
         {poll} (call $is (i32.load (i32.const 2000)) (i32.const 2))
         (call $is (i32.load16_u (i32.const 2008)) (i32.const 8))",
        subscribe(10_000)
    );
    on_request(&closed).connect("127.0.0.1").run();
    // Where nobody waits any more it is an error of the socket.
    let late = format!(
        "(call $connect (i32.const {silent})) {} {poll} (call $is (i32.load (i32.const 2000)) (i32.const 2))
         (call $is (i32.load16_u (i32.const 2008)) (i32.const 73))",
        subscribe(10_000)
    );
    on_request(&late).connect("127.0.0.1").patience(Duration::from_millis(20)).run();
}

#[test]
fn where_nobody_can_wait_it_is_an_error_number_and_no_loop() {
    let (_listener, port) = silence();
    for (waited, error) in [(Waited::NotNow, AGAIN), (Waited::NoRoom, 42)] {
        let body = format!(
            "(call $connect (i32.const {port}))
             (call $is (call $fd_read (global.get $fd) (i32.const 24) (i32.const 1) (i32.const 72)) (i32.const {error}))
             {} (call $ok (call $poll_oneoff (i32.const 1000) (i32.const 2000) (i32.const 2) (i32.const 72)))
             (call $is (i32.load (i32.const 72)) (i32.const 1))
             (call $is (i32.load (i32.const 2000)) (i32.const 2))
             (call $is (i32.load16_u (i32.const 2008)) (i32.const {error}))",
            subscribe(10_000)
        );
        let exchange = on_request(&body).connect("127.0.0.1").waits(waited).run().exchange;
        assert_eq!(exchange.looks, 2);
        let said = exchange.lines(Level::Warn).len();
        assert_eq!(said, usize::from(waited == Waited::NoRoom));
    }
}

#[test]
fn a_connection_that_is_refused_is_an_error_of_the_socket() {
    let port = silence().1;
    let body = format!(
        "(call $open (i32.const 2))
         (call $is (call $sock_connect (global.get $fd) (i32.const 8) (i32.const {port})) (i32.const 14))
         (call $open (i32.const 2))
         (call $ok (call $fd_fdstat_set_flags (global.get $fd) (i32.const 4)))
         (call $is (call $sock_connect (global.get $fd) (i32.const 8) (i32.const {port})) (i32.const 26))
         {}
         (call $ok (call $poll_oneoff (i32.const 1000) (i32.const 2000) (i32.const 2) (i32.const 72)))
         (call $ok (call $sock_getsockopt (global.get $fd) (i32.const 0) (i32.const 2) (i32.const 72) (i32.const 4)))
         (call $is (i32.load (i32.const 72)) (i32.const 14))
         (call $ok (call $sock_getsockopt (global.get $fd) (i32.const 0) (i32.const 2) (i32.const 72) (i32.const 4)))
         (call $is (i32.load (i32.const 72)) (i32.const 0))",
        subscribe(5000)
    );
    let mut running = on_request(&body).connect("127.0.0.1").start().expect("starts");
    let exchange = running.serve().expect("serves").exchange;
    let line = format!("cannot connect to 127.0.0.1:{port}: connection refused");
    assert_eq!(exchange.lines(Level::Warn), [line]);
    let traffic = running.instance.take_traffic().expect("something");
    assert_eq!((traffic.failed, traffic.connected, running.instance.open_sockets()), (2, 0, 2));
}

#[test]
fn what_sockets_did_is_counted() {
    let port = echo();
    let body = format!(
        "(call $connect (i32.const {port}))
         (call $ok (call $fd_write (global.get $fd) (i32.const 16) (i32.const 1) (i32.const 72)))
         (call $ok (call $fd_read (global.get $fd) (i32.const 24) (i32.const 1) (i32.const 72)))
         (call $is (call $sock_connect (global.get $fd) (i32.const 8) (i32.const 1)) (i32.const 2))"
    );
    let mut running =
        on_request(&body).connect(&format!("127.0.0.1:{port}")).start().expect("starts");
    running.serve().expect("serves");
    let traffic = running.instance.take_traffic().expect("something");
    assert_eq!((traffic.connected, traffic.refused, traffic.failed), (1, 1, 0));
    assert_eq!((traffic.sent_bytes, traffic.received_bytes), (5, 5));
    assert_eq!(running.instance.open_sockets(), 1);
    assert_eq!(running.instance.take_traffic(), None);
}

#[test]
fn names_are_asked_for_if_a_rule_has_them() {
    // One entry at 128, its address at 160, the bytes at 180; the pointer to it at 200; hints at 300.
    let entry =
        "(i32.store (i32.const 140) (i32.const 160)) (i32.store (i32.const 164) (i32.const 14))
        (i32.store (i32.const 168) (i32.const 180)) (i32.store (i32.const 200) (i32.const 128))";
    let ask = |name: &str| {
        format!(
            "{entry} (call $sock_getaddrinfo (i32.const 400) (i32.const {}) (i32.const 464) (i32.const 2) (i32.const 300)
               (i32.const 200) (i32.const 1) (i32.const 72))",
            name.len()
        )
    };
    let test = |name: &str, body: String| {
        let data = format!(r#"(data (i32.const 400) "{name}") (data (i32.const 464) "80")"#);
        let body = ask(name) + &body;
        let test = guest(&data, &body).connect("a.example:80").connect("local.example:80");
        let names = [
            ("a.example", "192.0.2.7"),
            ("local.example", "127.0.0.1"),
            ("b.example", "192.0.2.8"),
        ];
        names
            .into_iter()
            .fold(test, |test, (name, address)| test.name(name, address))
            .run()
            .exchange
    };
    let found = "(call $is (i32.const 0)) (call $is (i32.load (i32.const 72)) (i32.const 1))
        (call $is (i32.load8_u (i32.const 160)) (i32.const 1))
        (call $is (i32.load16_u (i32.const 180)) (i32.const 0x5000))
        (call $is (i32.load16_u (i32.const 184)) (i32.const 0x0702))";
    assert_eq!(test("a.example", found.to_owned()).asked, ["a.example"]);
    assert_eq!(test("A.EXAMPLE.", found.to_owned()).asked, ["a.example"]);
    let refused = "(call $is (i32.const 2))";
    assert!(test("b.example", refused.to_owned()).asked.is_empty());
    let exchange = test("local.example", refused.to_owned());
    assert_eq!(exchange.asked, ["local.example"]);
    assert!(
        exchange.lines(Level::Warn)[0].starts_with("may not connect to what \"local.example\"")
    );
    assert!(test("127.1", "(call $is (i32.const 44))".to_owned()).asked.is_empty());
}
