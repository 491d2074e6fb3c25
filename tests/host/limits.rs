//! What a guest may take from the machine.

use ngx_http_wasm_handler_module::runtime::error::Cause;

use crate::support::Test;

const PAGE: usize = 65536;

fn growing(body: &str) -> Test {
    let wat = format!(
        r#"(module (memory (export "memory") 2)
            (func $grow (param i32) (result i32) (memory.grow (local.get 0)))
            (func (export "handle_request") (result i64) {body} (i64.const 1))
            (func (export "handle_response") (param i32 i32)))"#
    );
    Test::wat(&wat).memory_limit(4 * PAGE)
}

#[test]
fn growing_beyond_the_limit_fails_as_the_guest_expects() {
    let body = "(if (i32.ne (call $grow (i32.const 3)) (i32.const -1)) (then unreachable))
        (if (i32.ne (call $grow (i32.const 2)) (i32.const 2)) (then unreachable))";
    let mut running = growing(body).start().expect("starts");
    assert_eq!(running.instance.memory_bytes(), 2 * PAGE);
    running.serve().expect("serves");
    assert_eq!(running.instance.memory_bytes(), 4 * PAGE);
}

#[test]
fn a_trap_after_a_refused_growth_says_so() {
    let error = growing("(drop (call $grow (i32.const 9))) unreachable").try_run();
    let error = error.expect_err("traps");
    assert!(matches!(
        error.cause(),
        Cause::MemoryLimit { wanted_bytes, limit_bytes, .. }
            if (*wanted_bytes, *limit_bytes) == (11 * PAGE, 4 * PAGE)
    ));
    assert_eq!(
        error.to_string(),
        "handle_request: wasm trap: wasm `unreachable` instruction executed \
         (memory could not grow to 720896 bytes, the limit is 262144)"
    );
}

#[test]
fn too_much_memory_at_the_start_is_a_load_error() {
    assert_eq!(
        growing("").memory_limit(PAGE).load_error(),
        "starts with 131072 bytes of memory, the limit is 65536"
    );
    growing("").memory_limit(2 * PAGE).run();
}

#[test]
fn tables_are_bounded_too() {
    let table = |size: u32| {
        let imports = format!("(table $table {size} funcref)");
        let body = "(if (i32.ne
            (table.grow $table (ref.null func) (i32.const 2000000)) (i32.const -1))
            (then unreachable))";
        Test::on_request(&imports, body)
    };
    table(10).run();
    assert_eq!(
        table(2_000_000).load_error(),
        "starts with a table of 2000000 elements, the limit is 1048576"
    );
}

#[test]
fn guests_with_exceptions_run() {
    let imports = "(tag $oops)";
    let body = "(block $caught (try_table (catch $oops $caught) (throw $oops)) unreachable)";
    assert!(Test::on_request(imports, body).run().goes_on());
}
