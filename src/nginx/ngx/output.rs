//! Sending a held body on: nginx's `ngx_output_chain()`, which reads files into few buffers and goes
//! on when the client has taken them. The filters after ours (gzip, TLS, HTTP/2) want memory, and the
//! copy filter that would give it to them is before us.

use nginx_sys::{
    ngx_bufs_t, ngx_chain_t, ngx_int_t, ngx_output_chain, ngx_output_chain_ctx_t,
    ngx_output_chain_filter_pt,
};

use crate::nginx::ngx::ffi::{self, NoMemory};
use crate::nginx::ngx::module;
use crate::nginx::ngx::request::Request;

/// What nginx's `output_buffers` is by default.
const BUFFERS: ngx_bufs_t = ngx_bufs_t { num: 2, size: 32 << 10 };

/// A body on its way to the filters after ours.
#[derive(Clone, Copy)]
pub(crate) struct Output(*mut ngx_output_chain_ctx_t);

impl Output {
    /// An output that hands buffers in memory to `filter`, which is called with the request.
    pub(crate) fn create(r: Request, filter: ngx_output_chain_filter_pt) -> Result<Self, NoMemory> {
        let ctx = r.zeroed::<ngx_output_chain_ctx_t>()?;
        // SAFETY: the record is ours, zeroed, and in the live request's pool.
        unsafe {
            ffi::ngx_http_wasm_set_out_need_in_memory(ctx, 1);
            (*ctx).pool = r.pool();
            (*ctx).bufs = BUFFERS;
            (*ctx).tag = module::record().cast();
            (*ctx).output_filter = filter;
            (*ctx).filter_ctx = r.as_ptr().cast();
        }
        Ok(Output(ctx))
    }

    /// Sends a chain after what is still waiting; null sends that alone.
    pub(crate) fn send(self, chain: *mut ngx_chain_t) -> ngx_int_t {
        // SAFETY: the record and the chain live as long as the request, which is live.
        unsafe { ngx_output_chain(self.0, chain) }
    }

    /// Whether something waits for the client.
    pub(crate) fn is_pending(self) -> bool {
        // SAFETY: the record lives as long as the request.
        unsafe { !(*self.0).in_.is_null() }
    }
}
