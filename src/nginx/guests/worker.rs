//! What a worker process has beside its requests: the thread that measures guests' time. It starts
//! with the first guest call, so processes that serve none (master, cache manager) have none.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

use crate::nginx::guests::status;
use crate::nginx::ngx::ffi::guard;
use crate::runtime::Engine;
use crate::runtime::ticker::Ticker;

/// What a turn costs the worker beside the guest's own time: a round of the event loop. Without it a
/// guest that does nothing but give up its turn would go on for many times its limit.
pub(crate) const TURN_COST: Duration = Duration::from_micros(20);

thread_local! {
    /// With what it measures, and how finely.
    static TICKER: RefCell<Option<(Engine, Duration, Ticker)>> = const { RefCell::new(None) };
    /// The shortest slice that the configuration has.
    static PERIOD: Cell<Duration> = const { Cell::new(Duration::MAX) };
}

/// Notes that a guest has this slice, while the configuration is read. Of an earlier configuration
/// the shorter slices stay, which makes the thread look more often than it would have to.
pub(crate) fn note_slice(slice: Duration) {
    PERIOD.set(PERIOD.get().min(slice));
}

/// Makes sure that the time of this engine's guests is measured.
pub(crate) fn keep_time(engine: &Engine) -> io::Result<()> {
    TICKER.with_borrow_mut(|ticker| {
        match ticker {
            // Without worker processes a reload changes engine and slices under the same process.
            Some((measured, period, _))
                if Arc::ptr_eq(measured.pace(), engine.pace()) && *period == PERIOD.get() => {}
            _ => {
                *ticker = None;
                let started = without_signals(|| Ticker::start(engine, PERIOD.get(), own_files))?;
                *ticker = Some((engine.clone(), PERIOD.get(), started));
            }
        }
        Ok(())
    })
}

/// The thread does not run until this is dropped.
pub(crate) struct Paused(Option<Engine>);

/// Ends the thread for a fork: the child would inherit what the thread waits for, and not the thread.
/// Only a process without a master has one when it reads a configuration.
pub(crate) fn pause() -> Paused {
    Paused(TICKER.take().map(|(engine, ..)| engine))
}

impl Drop for Paused {
    fn drop(&mut self) {
        if let Some(engine) = &self.0 {
            // A failure shows at the next call of a guest, which asks again.
            let _ = keep_time(engine);
        }
    }
}

/// Gives this thread a table of descriptors of its own, an empty one: it opens none. With a second
/// user of the worker's table the kernel would count references to a file at each of nginx's calls.
fn own_files() {
    // SAFETY: the thread leaves the shared table before anything is closed, in one call. Where the
    // kernel does not know it (before 5.9) or a filter refuses it nothing happens.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, libc::CLOSE_RANGE_UNSHARE);
    }
}

/// Runs something that starts a thread with all signals blocked, which the thread inherits: nginx's
/// are for nginx's thread.
fn without_signals<T>(f: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are initialised by the calls that get them first.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let result = f();
    // SAFETY: `before` was filled in above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    result
}

/// `exit_process`: the thread ends before the code it runs is torn down.
pub(crate) unsafe extern "C" fn exit_process(cycle: *mut nginx_sys::ngx_cycle_t) {
    guard((), || {
        TICKER.with_borrow_mut(|ticker| *ticker = None);
        // SAFETY: the cycle is nginx's.
        unsafe { status::zone::release(cycle) };
    });
}
