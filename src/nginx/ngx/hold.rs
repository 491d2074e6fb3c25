//! What has to be so while a response is held or a request waits, undone when the value is dropped.

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::time::Duration;

use nginx_sys::{ngx_event_t, ngx_msec_t};

use crate::nginx::ngx::ffi::{self, guard};
use crate::nginx::ngx::request::Request;

/// A response of ours waits in front of the filters after us: nginx keeps the request for it.
pub(crate) struct Hold(Request);

impl Hold {
    pub(crate) fn on(r: Request) -> Self {
        r.set_held(true);
        Hold(r)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.set_held(false);
    }
}

/// The client's connection is not to be written to: whoever sends the response is not asked for more,
/// and `send_timeout`, which is for clients that take nothing, does not run. It is how `limit_rate`
/// pauses; that begins with the header, which is held.
pub(crate) struct Pause(Request);

impl Pause {
    pub(crate) fn on(r: Request) -> Self {
        r.set_paused(true);
        Pause(r)
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.set_paused(false);
    }
}

/// While a request waits in its access phase: nginx notices that the client went away, and ends it.
pub(crate) struct Watch(Request);

impl Watch {
    pub(crate) fn on(r: Request) -> Self {
        r.watch_client();
        Watch(r)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.unwatch_client();
    }
}

/// An event of ours, on a timer or in the queue for the next turn of the event loop. It happens once,
/// and not after the value is dropped.
pub(crate) struct Event(Box<UnsafeCell<ngx_event_t>>);

impl Event {
    /// `handler` is called with the event, which has `data`.
    ///
    /// # Safety
    /// `data` must be what `handler` expects for as long as the value lives.
    pub(crate) unsafe fn new(
        r: Request,
        handler: unsafe extern "C" fn(*mut ngx_event_t),
        data: *mut c_void,
    ) -> Self {
        // SAFETY: a request has a connection with a log, which outlives it.
        let log = unsafe { (*r.connection()).log };
        Event(Box::new(UnsafeCell::new(ngx_event_t {
            handler: Some(handler),
            data,
            log,
            ..idle()
        })))
    }

    /// One that belongs to no request: a worker that is to end does not wait for it.
    ///
    /// # Safety
    /// As for [`Event::new`].
    pub(crate) unsafe fn of_worker(
        handler: unsafe extern "C" fn(*mut ngx_event_t),
        data: *mut c_void,
    ) -> Self {
        // SAFETY: nginx's cycle and its log are there in every process that has an event loop.
        let log = unsafe { (*nginx_sys::ngx_cycle).log };
        let mut event = ngx_event_t { handler: Some(handler), data, log, ..idle() };
        // SAFETY: nobody else has the event yet.
        unsafe { ffi::ngx_http_wasm_set_ev_cancelable(&raw mut event, 1) };
        Event(Box::new(UnsafeCell::new(event)))
    }

    /// After a time, at least a millisecond: a timer of 0 would go off before anybody else is served.
    pub(crate) fn after(&self, time: Duration) {
        // nginx compares milliseconds as signed distances: a month is far inside and far enough.
        const MAX: u128 = 30 * 24 * 3600 * 1000;
        let ms = time.as_nanos().div_ceil(1_000_000).clamp(1, MAX);
        // SAFETY: the event is ours, stays where it is, and is taken off when it is dropped.
        unsafe { ffi::ngx_http_wasm_add_timer(self.0.get(), ms as ngx_msec_t) }
    }

    /// On the next turn of the event loop, when sockets and timers have been served.
    pub(crate) fn next_turn(&self) {
        // SAFETY: as for `after`.
        unsafe { ffi::ngx_http_wasm_post_next_event(self.0.get()) }
    }

    /// For what wakes it on its own, as long as the value lives.
    pub(crate) fn as_ptr(&self) -> *mut ngx_event_t {
        self.0.get()
    }

    /// Now, as far as the code that is running allows: instead of when it would have been.
    pub(crate) fn hurry(&self) {
        // SAFETY: as for `after`.
        unsafe {
            ffi::ngx_http_wasm_del_timer(self.0.get());
            ffi::ngx_http_wasm_post_event(self.0.get());
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is ours; the functions do nothing when it is idle.
        unsafe {
            ffi::ngx_http_wasm_del_timer(self.0.get());
            ffi::ngx_http_wasm_delete_posted_event(self.0.get());
        }
    }
}

/// An event that nobody waits for.
const fn idle() -> ngx_event_t {
    // SAFETY: an event is plain C data for which all zeroes is the idle state.
    unsafe { std::mem::zeroed() }
}

/// A worker that is to end goes when it has no timers left. Events for the next turn are none, so
/// while a call waits for one there is a timer for all of them.
pub(crate) struct Guard(());

thread_local! {
    static GUARDED: Cell<usize> = const { Cell::new(0) };
    static GUARD: UnsafeCell<ngx_event_t> = const { UnsafeCell::new(idle()) };
}

/// Longer than any turn; it is set again when it goes off.
const GUARD_MS: ngx_msec_t = 60_000;

impl Guard {
    pub(crate) fn on() -> Self {
        if GUARDED.replace(GUARDED.get() + 1) == 0 {
            set_guard();
        }
        Guard(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if GUARDED.replace(GUARDED.get() - 1) == 1 {
            // SAFETY: the thread's own event, which stays where it is; nothing when it is not set.
            GUARD.with(|event| unsafe { ffi::ngx_http_wasm_del_timer(event.get()) });
        }
    }
}

fn set_guard() {
    unsafe extern "C" fn on_guard(_: *mut ngx_event_t) {
        guard((), || {
            if GUARDED.get() > 0 {
                set_guard();
            }
        });
    }
    // SAFETY: the thread's own event, which stays where it is: nginx has one thread. Its cycle and
    // the cycle's log are there in every process that has an event loop.
    GUARD.with(|event| unsafe {
        let event = event.get();
        (*event).handler = Some(on_guard);
        // nginx's debug log looks there for a connection's number.
        (*event).data = event.cast();
        (*event).log = (*nginx_sys::ngx_cycle).log;
        ffi::ngx_http_wasm_add_timer(event, GUARD_MS);
    });
}
