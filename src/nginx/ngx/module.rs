//! The module's record, which the root of the nginx side fills in: a name for configurations, contexts
//! and shared memory.

use nginx_sys::{ngx_module_t, ngx_uint_t};

unsafe extern "C" {
    static mut ngx_http_wasm_handler_module: ngx_module_t;
}

/// The record as nginx functions take it.
pub(crate) fn record() -> *mut ngx_module_t {
    &raw mut ngx_http_wasm_handler_module
}

/// Our slot in contexts and configurations.
pub(crate) fn ctx_index() -> usize {
    // SAFETY: nginx sets the index before it reads a configuration; one thread.
    unsafe { (*record()).ctx_index }
}

/// As if the library had been unloaded: nginx gives new indices when it loads the module again.
pub(crate) fn forget_indices() {
    // SAFETY: called when no configuration uses the module any more; one thread.
    unsafe {
        (*record()).index = ngx_uint_t::MAX;
        (*record()).ctx_index = ngx_uint_t::MAX;
    }
}
