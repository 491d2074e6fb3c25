//! The nginx side: the module record, and how it hooks into a configuration. All unsafe code of the
//! crate is in here, and nothing but glue.

mod conf;
mod exchange;
mod guests;
mod ngx;

#[cfg(any(test, feature = "fuzzing"))]
mod bench;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(test)]
mod tests;

use std::ffi::c_char;
use std::ptr::{addr_of, addr_of_mut, null};

use nginx_sys::{
    NGX_HTTP_MODULE, NGX_PROCESS_SINGLE, NGX_PROCESS_WORKER, ngx_array_push, ngx_conf_t,
    ngx_cycle_t, ngx_http_core_main_conf_t, ngx_http_handler_pt, ngx_http_module_t,
    ngx_http_phases_NGX_HTTP_ACCESS_PHASE, ngx_int_t, ngx_module_t, ngx_uint_t,
};

use conf::{directives, settings};
use exchange::{access, filter, variables};
use guests::{status, worker};
use ngx::ffi::{self, ERROR, OK, guard};
use ngx::log;

static MODULE_CTX: ngx_http_module_t = ngx_http_module_t {
    preconfiguration: Some(variables::add),
    postconfiguration: Some(postconfiguration),
    create_main_conf: Some(settings::create_main_conf),
    init_main_conf: None,
    create_srv_conf: None,
    merge_srv_conf: None,
    create_loc_conf: Some(settings::create_loc_conf),
    merge_loc_conf: Some(settings::merge_loc_conf),
};

/// The module record that nginx looks up by this name.
#[unsafe(no_mangle)]
pub(crate) static mut ngx_http_wasm_handler_module: ngx_module_t = ngx_module_t {
    ctx: addr_of!(MODULE_CTX).cast_mut().cast(),
    commands: addr_of_mut!(directives::COMMANDS).cast(),
    type_: NGX_HTTP_MODULE as ngx_uint_t,
    init_process: Some(init_process),
    exit_process: Some(worker::exit_process),
    ..ngx_module_t::default()
};

/// A process begins: what serves requests gets ready. Not those that look after caches.
unsafe extern "C" fn init_process(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard(OK, || {
        // SAFETY: a plain integer; the cycle is nginx's, and no request uses it yet.
        unsafe {
            let process = nginx_sys::ngx_process as u32;
            if [NGX_PROCESS_WORKER, NGX_PROCESS_SINGLE].contains(&process) {
                status::zone::take_row(cycle);
                settings::make_ready(cycle);
            }
        }
        OK
    })
}

/// A table of pointers that nginx only reads.
#[repr(transparent)]
pub(crate) struct Table<T, const N: usize>([*const T; N]);

// SAFETY: the pointers are to constants of this library and nobody writes through them.
unsafe impl<T, const N: usize> Sync for Table<T, N> {}

/// The modules in this library.
#[unsafe(no_mangle)]
pub(crate) static ngx_modules: Table<ngx_module_t, 2> =
    Table([addr_of!(ngx_http_wasm_handler_module), null()]);

/// Their names.
#[unsafe(no_mangle)]
pub(crate) static ngx_module_names: Table<c_char, 2> = Table([MODULE_NAME, null()]);

/// Where the module goes among nginx's own: before the postpone filter in the list, so that its
/// filters run after it, on the finished main response and just before gzip, ranges and chunked;
/// and its access handler, coming after the access modules in the list, runs before them.
#[unsafe(no_mangle)]
pub(crate) static ngx_module_order: Table<c_char, 3> =
    Table([MODULE_NAME, c"ngx_http_postpone_filter_module".as_ptr(), null()]);

const MODULE_NAME: *const c_char = c"ngx_http_wasm_handler_module".as_ptr();

/// Hooks in where some location has a guest; otherwise the module costs nothing.
unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    guard(ERROR, || {
        log::install_panic_hook();
        if !ffi::layouts_agree() {
            log::Log::cycle().write(
                log::ALERT,
                format_args!(
                    "http_wasm: this module was built against other nginx headers than its \
                     bindings; build it again for this nginx"
                ),
            );
            return ERROR;
        }
        if settings::load_unused(cf).is_err() {
            return ERROR;
        }
        // SAFETY: postconfiguration runs inside the http block, once, after its directives.
        let main = unsafe { settings::main_conf(cf) };
        if !main.has_guests() {
            return OK;
        }
        settings::warn_of_encoders(cf);
        if status::zone::add(cf, &main.http.meters).is_err() {
            return ERROR;
        }
        // SAFETY: the core module's main conf exists in every http block; its phase arrays are
        // initialised before postconfiguration.
        unsafe {
            let ctx = (*cf).ctx.cast::<nginx_sys::ngx_http_conf_ctx_t>();
            let index = nginx_sys::ngx_http_core_module.ctx_index;
            let cmcf = (*(*ctx).main_conf.add(index)).cast::<ngx_http_core_main_conf_t>();
            let phase = &raw mut (*cmcf).phases[ngx_http_phases_NGX_HTTP_ACCESS_PHASE as usize];
            let slot = ngx_array_push(&raw mut (*phase).handlers).cast::<ngx_http_handler_pt>();
            if slot.is_null() {
                return ERROR;
            }
            *slot = Some(access::handler);
            main.set_used(variables::used(cmcf));
        }
        filter::install();
        OK
    })
}
