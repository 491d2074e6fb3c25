//! Variables for log_format, map and headers. They start with `wasm_`: an undeclared `$http_…`
//! would read a header of the client's.

use nginx_sys::{
    NGX_HTTP_VAR_NOCACHEABLE, ngx_conf_t, ngx_http_add_variable, ngx_http_request_t,
    ngx_http_variable_value_t, ngx_int_t, ngx_uint_t,
};

use super::ctx::Ctx;
use super::ffi::{self, ERROR, NoMemory, OK, guard};
use super::headers_in::constant;
use super::request::Request;

/// Declares the variables; called before the `http` block is read.
pub(crate) unsafe extern "C" fn add(cf: *mut ngx_conf_t) -> ngx_int_t {
    guard(ERROR, || {
        let mut name = constant(c"wasm_template");
        // SAFETY: `cf` is nginx's for the callback; nginx copies the name and owns the variable.
        unsafe {
            let variable =
                ngx_http_add_variable(cf, &raw mut name, NGX_HTTP_VAR_NOCACHEABLE as ngx_uint_t);
            if variable.is_null() {
                return ERROR;
            }
            (*variable).get_handler = Some(template);
        }
        OK
    })
}

/// `$wasm_template`: what a guest chose with `set_template`; not found when none did.
unsafe extern "C" fn template(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _data: usize,
) -> ngx_int_t {
    guard(ERROR, || {
        // SAFETY: nginx evaluates variables of live requests.
        let ctx = unsafe { Request::new(r) }.and_then(Ctx::of);
        let template = ctx
            .and_then(|ctx| ctx.with_io(|io| (ctx.request(), io.template.clone())))
            .filter(|(_, template)| !template.is_empty());
        let copy = template.map(|(r, template)| r.copy(&template)).transpose();
        // SAFETY: `value` is nginx's to be filled in; the text is in the request's pool.
        unsafe {
            match copy {
                Ok(Some(text)) => ffi::ngx_http_wasm_set_variable(value, text.data, text.len),
                Ok(None) => ffi::ngx_http_wasm_set_not_found(value),
                Err(NoMemory) => return ERROR,
            }
        }
        OK
    })
}
