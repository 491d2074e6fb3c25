//! Tests, runs, compiles and fetches http-wasm guests without nginx; see the library's module `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ngx_http_wasm_handler_module::cli::main()
}
