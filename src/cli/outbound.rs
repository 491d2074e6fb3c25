//! What guests wait for outside of this program: sockets, and what names stand for. It is waited for in
//! threads of the runtime, so that the guest's own time stands still.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::task::spawn_blocking;

use crate::host::{Unresolved, Waited, Watched};

/// How long a thread may look before it sees whether anybody waits any more.
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn ready(sockets: Vec<Watched>, time: Duration) -> Waited {
    let wanted = Arc::new(());
    let waiting = Arc::downgrade(&wanted);
    // A thread that panicked has not seen anything happen.
    let _ = spawn_blocking(move || look(&sockets, time, &waiting)).await;
    Waited::Over
}

fn look(sockets: &[Watched], time: Duration, waiting: &Weak<()>) {
    let began = Instant::now();
    let wanted = |it: &Watched| {
        let read = if it.read { PollFlags::IN } else { PollFlags::empty() };
        read | if it.write { PollFlags::OUT } else { PollFlags::empty() }
    };
    let mut fds: Vec<_> = sockets.iter().map(|it| PollFd::new(&it.socket, wanted(it))).collect();
    while waiting.strong_count() > 0 {
        let left = time.saturating_sub(began.elapsed()).min(LOOK);
        let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let happened = poll(&mut fds, Some(&left)).is_ok_and(|count| count > 0);
        if happened || began.elapsed() >= time {
            return;
        }
    }
}

pub(super) async fn resolve(name: &str) -> Result<Vec<IpAddr>, Unresolved> {
    let asked = (name.to_owned(), 0);
    match spawn_blocking(move || asked.to_socket_addrs()).await {
        Ok(Ok(addresses)) => Ok(addresses.map(|address| address.ip()).collect()),
        Ok(Err(error)) => Err(Unresolved::Unknown(error.to_string())),
        Err(_) => Err(Unresolved::NotNow),
    }
}
