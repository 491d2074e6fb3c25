//! Instances that are put back to where they were: they are what a new one is, byte by byte.

use std::path::Path;

use ngx_http_wasm_handler_module::runtime::guest::{Dir, Guest, Settings, compile};
use ngx_http_wasm_handler_module::runtime::instance::Instance;
use ngx_http_wasm_handler_module::runtime::reset::{Ranges, read_page_map};
use ngx_http_wasm_handler_module::runtime::snapshot::{Snapshot, prepare};
use proptest::prelude::*;

use crate::fake::{Exchange, FakeExchange};
use crate::support::{ENGINE, block_on, settings};

/// A guest, and whether it is reset.
struct Tried(Guest<FakeExchange>);

impl Tried {
    fn of(wat: &str) -> Self {
        Tried::with(wat, &settings(), Snapshot::Never)
    }

    fn with(wat: &str, settings: &Settings, snapshot: Snapshot) -> Self {
        let host = || Ok(FakeExchange::new(Exchange::default()).0);
        let prepared = prepare(&ENGINE, wat.as_bytes(), settings, snapshot, compile, host);
        let prepared = block_on(prepared).expect("prepares");
        let guest = Guest::new(&ENGINE, &prepared.module, settings.clone()).expect("a guest");
        Tried(guest.with(prepared.start).resettable(read_page_map))
    }

    fn new_instance(&self) -> Instance<FakeExchange> {
        block_on(self.0.start(FakeExchange::new(Exchange::default()).0)).expect("starts")
    }

    /// What a request is answered with, and whether the instance could be reset after it.
    fn serve(&self, instance: &mut Instance<FakeExchange>) -> (Vec<u8>, bool) {
        let (host, home) = FakeExchange::new(Exchange::default());
        let ended = block_on(instance.handle_request(host));
        let exchange = home.lock().take().expect("the exchange comes home");
        let reset = self.0.reset(instance);
        assert!(ended.is_ok() || !reset, "one that trapped is not used again");
        (exchange.new_response_body.unwrap_or_default(), reset)
    }
}

fn state(instance: &mut Instance<FakeExchange>) -> (Vec<u8>, String) {
    (instance.memory().to_vec(), format!("{:?}", instance.globals()))
}

/// Something that changes an instance, as text.
fn change() -> impl Strategy<Value = String> {
    let place = || prop_oneof![0u32..70, 4090u32..4102, 65_530u32..65_542, 131_050u32..131_072];
    prop_oneof![
        (place(), any::<u8>())
            .prop_map(|(at, byte)| format!("(i32.store8 (i32.const {at}) (i32.const {byte}))")),
        (place(), any::<u8>(), 0u32..9000).prop_map(|(at, byte, len)| format!(
            "(memory.fill (i32.const {at}) (i32.const {byte}) (i32.const {len}))"
        )),
        (place(), place(), 0u32..9000).prop_map(|(to, from, len)| format!(
            "(memory.copy (i32.const {to}) (i32.const {from}) (i32.const {len}))"
        )),
        place().prop_map(|at| format!(
            "(memory.init $passive (i32.const {at}) (i32.const 0) (i32.const 7))"
        )),
        any::<i32>()
            .prop_map(|by| format!("(global.set $n (i32.add (global.get $n) (i32.const {by})))")),
        any::<i64>().prop_map(|to| format!("(global.set $long (i64.const {to}))")),
        any::<u32>().prop_map(|to| format!("(global.set $double (f64.const {to}))")),
        any::<u32>().prop_map(|to| format!("(global.set $vector (i32x4.splat (i32.const {to})))")),
        place().prop_map(|at| format!("(i32.store (i32.const {at}) (global.get $n))")),
        Just("(drop (memory.grow (i32.const 1)))".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn an_instance_that_was_reset_is_as_a_new_one(
        changes in prop::collection::vec(change(), 0..12),
        data in prop::collection::vec((0u32..131_000, "[a-z]{0,30}"), 0..4),
        rounds in 1usize..4,
    ) {
        let data: String =
            data.iter().map(|(at, text)| format!("(data (i32.const {at}) \"{text}\")")).collect();
        let tried = Tried::of(&format!(
            r#"(module (memory (export "memory") 2) {data} (data $passive "passive")
                 (global $n (mut i32) (i32.const 5)) (global $long (mut i64) (i64.const -1))
                 (global $double (mut f64) (f64.const 0.5))
                 (global $vector (mut v128) (v128.const i64x2 1 2))
                 (func (export "handle_request") (result i64) {} (i64.const 1))
                 (func (export "handle_response") (param i32 i32)))"#,
            changes.join(" ")
        ));
        let mut instance = tried.new_instance();
        for _ in 0..rounds {
            let mut other = tried.new_instance();
            prop_assert_eq!(state(&mut instance), state(&mut other));
            let (_, reset) = tried.serve(&mut instance);
            if !reset {
                let text = changes.join(" ");
                let grows = text.contains("memory.grow");
                // What begins near the end may reach beyond it.
                prop_assert!(grows || instance.is_poisoned(), "{}", text);
                return Ok(());
            }
        }
        prop_assert_eq!(state(&mut instance), state(&mut tried.new_instance()));
    }
}

/// A guest that does something first, and answers with a byte of its memory.
fn guest(more: &str, does: &str) -> String {
    format!(
        r#"(module
             (import "http_handler" "write_body" (func $write (param i32 i32 i32)))
             (import "wasi_snapshot_preview1" "path_open"
               (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
             (memory (export "memory") 1) (data (i32.const 0) "Cargo.toml")
             (table $table 4 funcref) (elem $elem func $f) (func $f) {more}
             (func (export "handle_request") (result i64) {does}
               (call $write (i32.const 1) (i32.const 64) (i32.const 1)) (i64.const 0))
             (func (export "handle_response") (param i32 i32)))"#
    )
}

#[test]
fn what_is_neither_memory_nor_a_number_needs_a_new_instance() {
    let is_reset = |more: &str, does: &str| {
        let tried = Tried::of(&guest(more, does));
        tried.serve(&mut tried.new_instance()).1
    };
    assert!(is_reset("", ""));
    assert!(is_reset("(global (mut i32) (i32.const 0))", "(table.get (i32.const 0)) drop"));
    for does in [
        "(table.set (i32.const 0) (ref.func $f))",
        "(drop (table.grow (ref.null func) (i32.const 1)))",
        "(table.fill (i32.const 0) (ref.null func) (i32.const 1))",
        "(table.copy (i32.const 0) (i32.const 0) (i32.const 1))",
        "(table.init $elem (i32.const 0) (i32.const 0) (i32.const 1))",
        "(elem.drop $elem)",
        "(drop (memory.grow (i32.const 1)))",
    ] {
        assert!(!is_reset("", does), "{does}");
    }
    assert!(!is_reset("(data $d \"x\")", "(data.drop $d)"));
    for more in [
        "(global (mut funcref) (ref.null func))",
        "(global (mut externref) (ref.null extern))",
        "(start $f)",
        r#"(func (export "_initialize"))"#,
        "(type (struct))",
    ] {
        assert!(!is_reset(more, ""), "{more}");
    }
    // Whatever a guest says of itself.
    for more in [
        r#"(global (export "http-wasm: global 0") (mut i32) (i32.const 0))"#,
        r#"(export "http-wasm: can be reset, initial bytes: 0" (memory 0))"#,
    ] {
        assert!(is_reset(more, ""), "{more}");
        assert!(!is_reset(more, "(elem.drop $elem)"), "{more}");
    }
}

#[test]
fn files_that_were_left_open_are_closed() {
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf();
    let dirs = vec![Dir { host, guest: "/".into(), writable: false }];
    let opens =
        "(if (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 10) (i32.const 0)
          (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 64)) (then unreachable))";
    let settings = Settings { dirs, ..settings() };
    let tried = Tried::with(&guest("", opens), &settings, Snapshot::Never);
    let mut instance = tried.new_instance();
    for _ in 0..100 {
        assert_eq!(tried.serve(&mut instance), (vec![4], true));
    }
}

#[test]
fn what_a_snapshot_has_is_there_again() {
    let more = r#"(global $n (mut i32) (i32.const 0))
        (func (export "_initialize") (global.set $n (i32.const 48)) (i32.store8 (i32.const 63) (i32.const 1)))"#;
    let counts = "(global.set $n (i32.add (global.get $n) (i32.load8_u (i32.const 63))))
        (i32.store8 (i32.const 63) (i32.const 9)) (i32.store8 (i32.const 64) (global.get $n))";
    let tried = Tried::with(&guest(more, counts), &settings(), Snapshot::Faithful);
    let mut instance = tried.new_instance();
    for _ in 0..3 {
        assert_eq!(tried.serve(&mut instance), (b"1".to_vec(), true));
    }
}

#[test]
fn what_takes_long_to_put_back_is_made_anew() {
    let is_reset = |more: &str, pages: u32, kilobytes: u32| {
        let length = kilobytes << 10;
        let fills = format!("(memory.fill (i32.const 4096) (i32.const 1) (i32.const {length}))");
        let memory = |pages| format!(r#"(memory (export "memory") {pages})"#);
        let tried = Tried::of(&guest(more, &fills).replace(&memory(1), &memory(pages)));
        tried.serve(&mut tried.new_instance()).1
    };
    assert!(is_reset("", 128, 4000));
    assert!(!is_reset("", 128, 4200));
    // Looked at one by one.
    assert!(is_reset("", 128, 0));
    assert!(!is_reset("", 129, 0));
    // Kept in each worker.
    let is_kept = |at: u32| {
        let data = format!("(data (i32.const {at}) \"text\")");
        let wat = guest(&data, "")
            .replace(r#"(memory (export "memory") 1)"#, r#"(memory (export "memory") 2049)"#);
        let mut settings = settings();
        settings.limits.memory_bytes = 256 << 20;
        let tried = Tried::with(&wat, &settings, Snapshot::Never);
        let tried = Tried(tried.0.resettable(|_, _| true));
        tried.serve(&mut tried.new_instance()).1
    };
    assert!(is_kept((128 << 20) - 4));
    assert!(!is_kept((128 << 20) - 3));
}

#[test]
fn where_the_kernel_does_not_tell_there_is_a_new_instance() {
    fn find_nothing(_: &[u8], _: &mut Ranges) -> bool {
        false
    }
    let Tried(guest) = Tried::of(&guest("", ""));
    let tried = Tried(guest.resettable(find_nothing));
    assert!(!tried.serve(&mut tried.new_instance()).1);
}
