//! What is refused before a guest serves anything, and in which words.

use ngx_http_wasm_handler_module::abi::Level;
use ngx_http_wasm_handler_module::runtime::error::LoadError;
use ngx_http_wasm_handler_module::runtime::guest::{Guest, compile};
use ngx_http_wasm_handler_module::runtime::{Compile, Engine, Module};

use crate::fake::FakeExchange;
use crate::permissions::IMPORTS;
use crate::support::{ENGINE, Test, settings};

const REQUEST: &str = r#"(func (export "handle_request") (result i64) (i64.const 1))"#;
const RESPONSE: &str = r#"(func (export "handle_response") (param i32 i32))"#;
const MEMORY: &str = r#"(memory (export "memory") 1)"#;

fn error(parts: &[&str]) -> String {
    Test::wat(&format!("(module {})", parts.join(" "))).load_error()
}

fn compile_error(bytes: &[u8]) -> String {
    compile(&ENGINE, bytes).expect_err("does not compile").to_string()
}

#[test]
fn every_missing_or_wrong_export_has_its_own_error() {
    for (parts, expected) in [
        (
            &[MEMORY, RESPONSE][..],
            "does not export \"handle_request\", expected a function () -> i64",
        ),
        (
            &[MEMORY, REQUEST],
            "does not export \"handle_response\", expected a function (i32, i32) -> ()",
        ),
        (&[REQUEST, RESPONSE], "does not export \"memory\", expected a 32-bit unshared memory"),
        (
            &[MEMORY, RESPONSE, r#"(func (export "handle_request") (result i32) (i32.const 1))"#],
            "exports \"handle_request\" as a function () -> i32, expected a function () -> i64",
        ),
        (
            &[MEMORY, REQUEST, r#"(global (export "handle_response") i32 (i32.const 0))"#],
            "exports \"handle_response\" as a global, expected a function (i32, i32) -> ()",
        ),
        (
            &[MEMORY, REQUEST, RESPONSE, r#"(func (export "_start") (param i32))"#],
            "exports \"_start\" as a function (i32) -> (), expected a function () -> ()",
        ),
    ] {
        assert_eq!(error(parts), expected);
    }
}

#[test]
fn unknown_imports_are_named_all_of_them() {
    let imports = r#"
        (import "env" "emscripten_notify" (func (param i32)))
        (import "http_handler" "get_source_addr" (func (param i32 i32) (result i32)))
        (import "http_handler" "get_tls" (func (param i32 i32) (result i32)))
        (import "env" "table" (table 1 funcref))"#;
    assert_eq!(
        error(&[imports, MEMORY, REQUEST, RESPONSE]),
        "imports what this host does not provide: \
         \"env\".\"emscripten_notify\" (a function (i32) -> ()), \
         \"http_handler\".\"get_tls\" (a function (i32, i32) -> i32), \
         \"env\".\"table\" (a table)"
    );
}

#[test]
fn imports_of_another_type_are_named_all_of_them() {
    let imports = r#"
        (import "http_handler" "get_uri" (func (param i32) (result i32)))
        (import "http_handler" "log" (func (param i32 i32 i32)))
        (import "http_handler" "read_body" (func (param i32 i32 i32) (result i32)))"#;
    assert_eq!(
        error(&[imports, MEMORY, REQUEST, RESPONSE]),
        "imports with the wrong type: \
         \"http_handler\".\"get_uri\" as a function (i32) -> i32, \
         expected a function (i32, i32) -> i32, \
         \"http_handler\".\"read_body\" as a function (i32, i32, i32) -> i32, \
         expected a function (i32, i32, i32) -> i64"
    );
}

#[test]
fn a_guest_may_import_everything_or_nothing() {
    for imports in [IMPORTS, ""] {
        let guest = format!("(module {imports} {MEMORY} {REQUEST} {RESPONSE})");
        assert!(Test::wat(&guest).run().goes_on());
    }
}

#[test]
fn what_is_not_a_guest_says_what_it_is() {
    for bytes in [&b"hello"[..], b"", b"\x7fELF\x02\x01", b"\xff\xfe"] {
        let error = compile_error(bytes);
        let start = "is neither a WebAssembly binary (\\0asm) nor text format: ";
        assert!(error.starts_with(start), "{error}");
        assert!(!error.contains('\n'));
    }
    let component =
        "is a WebAssembly component, expected a core module that exports handle_request";
    assert_eq!(compile_error(b"\0asm\x0d\0\x01\0"), component);
    assert_eq!(compile_error(b"(component)"), component);
    for bytes in [
        &b"\0asm\x01\0\0\0\xff"[..],
        b" (module (func (i32.add)))",
        b";; text\n(module",
        b"(module (memory i64 1))",
        b"(module (memory 1 1 shared))",
        b"(module (memory 1) (memory 1))",
    ] {
        let error = compile_error(bytes);
        assert!(error.starts_with("does not compile: "), "{error}");
        assert!(!error.contains('\n'));
    }
}

// Nothing may copy without end: where there is no room for what does it in pieces, there is no guest.
#[test]
fn a_guest_whose_copies_cannot_be_put_in_pieces_is_refused() {
    use wasm_encoder::{
        CodeSection, Function, FunctionSection, MemorySection, MemoryType, Module, TypeSection,
    };
    let guest = |types: usize| {
        let (mut sections, mut memories) = (TypeSection::new(), MemorySection::new());
        (0..types).for_each(|_| sections.ty().function([], []));
        let memory = MemoryType {
            minimum: 1,
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        };
        memories.memory(memory);
        let mut fills = Function::new([(3, wasm_encoder::ValType::I32)]);
        fills.instructions().local_get(0).local_get(1).local_get(2).memory_fill(0).end();
        let mut code = CodeSection::new();
        code.function(&fills);
        let mut module = Module::new();
        module.section(&sections).section(FunctionSection::new().function(0));
        module.section(&memories).section(&code);
        module.finish()
    };
    assert!(compile(&ENGINE, &guest(1)).is_ok());
    let error = compile_error(&guest(1_000_000));
    assert!(error.contains("types count exceeds limit of 1000000"), "{error}");
}

#[test]
fn mistakes_in_text_have_a_position() {
    let error = compile_error(b"(module\n  (func (i32.ad)))");
    assert_eq!(error, "does not compile: unknown operator or unexpected token at line 2:10");
}

#[test]
fn more_than_the_engine_gives_is_not_the_guests_code() {
    let tables = "(table 1 funcref)".repeat(17);
    assert_eq!(
        error(&[&tables, MEMORY, REQUEST, RESPONSE]),
        "cannot be instantiated: resource limit exceeded: table count too high at 17"
    );
}

#[test]
fn what_one_engine_compiles_another_loads() {
    let parallel = Engine::new(Compile::Parallel).expect("an engine");
    let wat = format!("(module {MEMORY} {REQUEST} {RESPONSE})");
    let module = compile(&parallel, wat.as_bytes()).expect("compiles");
    let bytes = module.serialize().expect("serializes");
    // SAFETY: the bytes come from `serialize` one line above.
    let module = unsafe { Module::deserialize(ENGINE.wasm(), bytes) }.expect("is compatible");
    Guest::<FakeExchange>::new(&ENGINE, &module, settings()).expect("loads");
}

fn starting(start: &str) -> Test {
    let wat = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "http_handler" "log" (func $log (param i32 i32 i32)))
            (import "http_handler" "get_method" (func $get_method (param i32 i32) (result i32)))
            {MEMORY} (data (i32.const 0) "start section_start_initialize")
            {start} {REQUEST} {RESPONSE})"#
    );
    Test::wat(&wat)
}

const LOG_SECTION: &str =
    "(func $section (call $log (i32.const 0) (i32.const 0) (i32.const 13))) (start $section)";
const LOG_START: &str =
    "(func (export \"_start\") (call $log (i32.const 0) (i32.const 13) (i32.const 6)))";
const LOG_INITIALIZE: &str =
    "(func (export \"_initialize\") (call $log (i32.const 0) (i32.const 19) (i32.const 11)))";

#[test]
fn start_functions_run_in_order_and_initialize_excludes_start() {
    for (functions, expected) in [
        (vec![LOG_SECTION, LOG_START], vec!["start section", "_start"]),
        (vec![LOG_SECTION, LOG_START, LOG_INITIALIZE], vec!["start section", "_initialize"]),
        (vec![LOG_START], vec!["_start"]),
        (vec![], vec![]),
    ] {
        let running = starting(&functions.concat()).start().expect("starts");
        assert_eq!(running.at_start.lines(Level::Info), expected);
    }
}

#[test]
fn a_command_that_exits_with_0_is_used_all_the_same() {
    let test = starting(r#"(func (export "_start") (call $exit (i32.const 0)))"#);
    let mut running = test.start().expect("starts");
    let warnings = running.at_start.lines(Level::Warn);
    assert!(warnings[0].starts_with("_start called proc_exit(0)"), "{warnings:?}");
    assert!(!running.instance.is_poisoned());
    assert!(running.serve().expect("serves").goes_on());
}

#[test]
fn the_exit_is_reported_once_for_all_instances() {
    use crate::fake::Exchange;
    use crate::support::block_on;
    let test = starting(r#"(func (export "_start") (call $exit (i32.const 0)))"#);
    let guest = test.load().expect("loads");
    let mut warnings = 0;
    for _ in 0..3 {
        let (host, home) = FakeExchange::new(Exchange::default());
        block_on(guest.start(host)).expect("starts");
        warnings += home.lock().take().expect("came home").log.len();
    }
    assert_eq!(warnings, 1);
}

#[test]
fn any_other_end_of_a_start_function_is_an_error() {
    for (start, expected) in [
        (
            r#"(func (export "_start") (call $exit (i32.const 1)))"#,
            "does not start: _start: proc_exit(1) was called",
        ),
        (
            r#"(func (export "_start") (call $exit (i32.const 255)))"#,
            "does not start: _start: proc_exit(255) was called",
        ),
        (
            r#"(func (export "_initialize") (call $exit (i32.const 0)))"#,
            "does not start: _initialize: proc_exit(0) was called",
        ),
        (
            r#"(func $f unreachable) (start $f)"#,
            "does not start: start section: wasm trap: wasm `unreachable` instruction executed",
        ),
        (
            r#"(func (export "_start") (drop (call $get_method (i32.const 0) (i32.const 0))))"#,
            "does not start: _start: get_method is not allowed outside a request",
        ),
        (
            r#"(data (i32.const 65536) "x")"#,
            "does not start: start section: wasm trap: out of bounds memory access",
        ),
    ] {
        assert_eq!(starting(start).load_error(), expected);
    }
}

#[test]
fn a_failed_start_has_a_backtrace_and_what_was_printed() {
    let test = Test::guest("errors/panic_on_start.wat");
    let error = test.start().err().expect("does not start");
    assert!(matches!(error, LoadError::Start(_)));
    let backtrace = error.backtrace().expect("a backtrace");
    assert!(backtrace.contains("panic_on_start!panic"), "{backtrace}");
}
