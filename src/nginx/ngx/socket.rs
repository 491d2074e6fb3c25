//! Sockets of guests in the event loop. They are watched while somebody waits, and not otherwise: a wait
//! takes connections of nginx's for them and gives them back.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use nginx_sys::{ngx_connection_t, ngx_uint_t};

use crate::host::{Waited, Watched};
use crate::nginx::ngx::ffi;
use crate::nginx::ngx::hold::Event;
use crate::nginx::ngx::log::Log;

/// What somebody waits for, and how that went.
pub(crate) struct Look {
    sockets: Vec<Watched>,
    /// For so long at most.
    pub(crate) time: Duration,
    pub(crate) waited: Cell<Waited>,
}

impl Look {
    pub(crate) fn at(sockets: Vec<Watched>, time: Duration) -> Rc<Self> {
        Rc::new(Look { sockets, time, waited: Cell::new(Waited::Over) })
    }
}

/// Gives up the turn once, with what is to be there before the next.
pub(crate) fn give_up<T>(need: T, ask: impl Fn(T)) -> impl Future<Output = ()> {
    let mut need = Some(need);
    poll_fn(move |_| match need.take() {
        Some(need) => {
            ask(need);
            Poll::Pending
        }
        None => Poll::Ready(()),
    })
}

/// Sockets that are watched, until the value is dropped.
pub(crate) struct Watches {
    _all: Vec<Watch>,
}

/// One of them.
struct Watch {
    connection: NonNull<ngx_connection_t>,
    /// Open for as long as it is watched.
    _socket: Arc<OwnedFd>,
}

impl Watches {
    /// Watches them, to wake an event when something happens at one, or the time is over. Where they cannot
    /// all be watched it is woken at once.
    ///
    /// # Safety
    /// The event must outlive the value, and so must what the log is of.
    pub(crate) unsafe fn begin(look: &Look, time: Duration, log: Log, event: &Event) -> Self {
        event.after(time);
        let mut watches = Vec::with_capacity(look.sockets.len());
        for Watched { socket, read, write } in &look.sockets {
            let (read, write) = (ngx_uint_t::from(*read), ngx_uint_t::from(*write));
            // SAFETY: the descriptor is open, and kept open by the watch; event and log outlive it, as
            // the caller holds.
            let connection = unsafe {
                let fd = socket.as_raw_fd();
                ffi::ngx_http_wasm_watch(fd, read, write, log.as_ptr(), event.as_ptr())
            };
            match NonNull::new(connection) {
                Some(connection) => {
                    watches.push(Watch { connection, _socket: Arc::clone(socket) });
                }
                None => {
                    look.waited.set(Waited::NoRoom);
                    watches.clear();
                    event.hurry();
                    break;
                }
            }
        }
        Watches { _all: watches }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: the connection is the one that was taken for this watch, given back once. Its socket is
        // still open.
        unsafe { ffi::ngx_http_wasm_unwatch(self.connection.as_ptr()) };
    }
}
