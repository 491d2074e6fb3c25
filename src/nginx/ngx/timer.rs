//! The time, and a timer of a worker's own, beside those of its requests.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::time::Duration;

use nginx_sys::{ngx_event_t, ngx_msec_t};

use crate::nginx::ngx::ffi;

/// What the time was when the event loop last looked, on a clock that does not go back.
pub(crate) fn now() -> Duration {
    // SAFETY: a plain integer that only nginx's own thread, this one, writes.
    Duration::from_millis(unsafe { nginx_sys::ngx_current_msec } as u64)
}

/// Set or not; dropping it takes it off. A worker that is to end does not wait for it.
pub(crate) struct Timer(UnsafeCell<ngx_event_t>);

impl Timer {
    pub(crate) fn new() -> Self {
        // SAFETY: an event is plain C data for which all zeroes is the idle state.
        Timer(UnsafeCell::new(unsafe { std::mem::zeroed() }))
    }

    pub(crate) fn is_set(&self) -> bool {
        // SAFETY: an event of ours, which nobody else has a reference to.
        unsafe { ffi::ngx_http_wasm_ev_timer_set(self.0.get()) != 0 }
    }

    /// Sets it, once, to call `handler`, which finds `data` in the event.
    ///
    /// # Safety
    /// The timer must stay where it is until it has gone off or is dropped, and `data` must stay
    /// valid for as long.
    pub(crate) unsafe fn set(
        &self,
        after: Duration,
        handler: unsafe extern "C" fn(*mut ngx_event_t),
        data: *mut c_void,
    ) {
        let ms = ngx_msec_t::try_from(after.as_millis()).unwrap_or(ngx_msec_t::MAX >> 1);
        // SAFETY: the event is ours and stays where it is, by contract; nginx's cycle and its log
        // are there in every process that has an event loop.
        unsafe {
            let event = self.0.get();
            (*event).handler = Some(handler);
            (*event).data = data;
            (*event).log = (*nginx_sys::ngx_cycle).log;
            ffi::ngx_http_wasm_set_ev_cancelable(event, 1);
            ffi::ngx_http_wasm_add_timer(event, ms.max(1));
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: an event of ours; the function does nothing when it is not set.
        unsafe { ffi::ngx_http_wasm_del_timer(self.0.get()) };
    }
}
