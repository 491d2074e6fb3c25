//! The executor: guest calls are futures, polled from nginx's callbacks and nowhere else.
//!
//! A guest waits for one thing at a time and says which ([`Want`]); the event that brings it polls
//! the call again. So there are no wakers and no queue: a call that never waits is complete in its
//! first poll and no event is posted for it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use nginx_sys::{ngx_event_t, ngx_http_request_t, ngx_int_t};

use super::ctx::{ClientBody, Ctx, LevelState, Mode, Stage};
use super::exchange::Exchange;
use super::fault::Fault;
use super::ffi::{self, DONE, SPECIAL_RESPONSE, guard};
use super::filter;
use super::plugin::{Lease, Plugin};
use super::request::Request;
use super::status::Outcome;
use crate::abi::{Features, Next};
use crate::status::cells::{Counter, Timed};

/// What a call that is not complete waits for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Want {
    /// Nothing: it goes on with the next turn of the event loop.
    #[default]
    Nothing,
    /// The client's request body.
    Body,
    /// Time.
    Sleep(Duration),
    /// The time it asked for, already counted down by a timer.
    Timer,
}

/// What a turn costs the worker beside the guest's own time: a round of the event loop. Without it a
/// guest that does nothing but give up its turn would go on for many times its limit.
const TURN_COST: Duration = Duration::from_micros(20);

/// A guest call under way.
pub(crate) struct Call {
    plugin: Rc<Plugin>,
    future: Pin<Box<dyn Future<Output = Called>>>,
    /// What it is a call of; none if of neither.
    timed: Option<Timed>,
    /// When its first turn began, and how long all were together.
    began: Option<Instant>,
    spent: Duration,
    /// What they cost the worker. The first one is free: it is bounded by the slice.
    ran: Duration,
}

impl Call {
    /// `handle_request` of one guest.
    pub(crate) fn request(plugin: &Rc<Plugin>, ctx: &Rc<Ctx>) -> Self {
        plugin.meter().count(Counter::Requests);
        ctx.at.set(ctx.levels.borrow().len().saturating_sub(1));
        let future = request(Rc::clone(plugin), Rc::clone(ctx));
        Call::new(plugin, Some(Timed::Request), Box::pin(future))
    }

    /// Not a call of the guest's, which has returned: a wait for the request body on its behalf.
    pub(crate) fn receive(plugin: &Rc<Plugin>, ctx: &Rc<Ctx>) -> Self {
        let ctx = Rc::clone(ctx);
        let future = async move {
            // What is lost is not there for anybody: the guest reads nothing, nginx has its error.
            let _ = client_body(&ctx).await;
            Called::Received
        };
        Call::new(plugin, None, Box::pin(future))
    }

    /// `handle_response` of the guest that handled the request.
    pub(crate) fn response(lease: Lease, ctx: &Rc<Ctx>, guest_ctx: u32) -> Self {
        let plugin = Rc::clone(lease.plugin());
        let future = response(lease, Rc::clone(ctx), guest_ctx);
        Call::new(&plugin, Some(Timed::Response), Box::pin(future))
    }

    fn new(
        plugin: &Rc<Plugin>,
        timed: Option<Timed>,
        future: Pin<Box<dyn Future<Output = Called>>>,
    ) -> Self {
        let (began, zero) = (None, Duration::ZERO);
        Call { plugin: Rc::clone(plugin), future, timed, began, spent: zero, ran: zero }
    }

    /// Lets the guest run until it returns, waits, or has used up its slice.
    fn turn(&mut self, ctx: &Ctx) -> Poll<Called> {
        let began = Instant::now();
        let turn = self.plugin.engine().pace().turn(self.ran);
        let mut context = Context::from_waker(Waker::noop());
        let poll = self.future.as_mut().poll(&mut context);
        drop(turn);
        let end = Instant::now();
        let took = end - began;
        self.spent += took;
        match self.began {
            None => self.began = Some(began),
            Some(_) => self.ran += took + TURN_COST,
        }
        if let Poll::Ready(called) = &poll {
            self.over(ctx, called, end);
        }
        poll
    }

    /// It has ended: counts it, once.
    fn over(&mut self, ctx: &Ctx, called: &Called, end: Instant) {
        let Some(timed) = self.timed.take() else {
            return;
        };
        let meter = self.plugin.meter();
        meter.observe(timed, self.spent);
        let outcome = match called {
            Called::Passed { .. } => Some((Counter::Passed, Outcome::Passed)),
            Called::Answered => Some((Counter::Answered, Outcome::Answered)),
            Called::Received | Called::Finished | Called::Failed(_) => None,
        };
        if let Some((counter, _)) = outcome {
            meter.count(counter);
        }
        let time = self.began.map(|began| end - began);
        ctx.note(|record| match timed {
            Timed::Request => {
                record.request = time;
                // Of a failure it is known already.
                record.outcome = outcome.map(|(_, outcome)| outcome).or(record.outcome);
            }
            Timed::Response => record.response = time,
        });
    }

    /// Whether it has used up its time in turns too short for the ticker to see. Twice the limit: a
    /// guest in a loop is to be stopped inside, where its stack shows the place, even when the
    /// machine is so busy that the ticker comes late.
    fn is_overdue(&self) -> bool {
        self.ran > 2 * self.plugin.guest().settings().limits.timeout
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.timed.is_some() {
            self.plugin.meter().count(Counter::Aborted);
        }
    }
}

/// How a guest call ended.
pub(crate) enum Called {
    /// `handle_request`: the guest's response is the response.
    Answered,
    /// `handle_request`: the next handler's turn; `handle_response` is owed where there is one.
    Passed {
        /// The pinned instance and the guest's request context; none where nothing is owed.
        owed: Option<(Lease, u32)>,
        /// The body that it may look at again, or that its own takes the place of, must be here
        /// before the next handler runs.
        needs_body: bool,
    },
    /// The request body is here.
    Received,
    /// `handle_response` is done.
    Finished,
    /// It failed and that is logged; the client gets this status.
    Failed(ngx_int_t),
}

/// How far a call has come.
pub(crate) enum Progress {
    /// It is over.
    Done(Called),
    /// An event will poll it again.
    Waiting,
    /// nginx could not read the request body: the request ends with this status.
    Aborted(ngx_int_t),
}

/// `handle_request` of one guest, on an instance from its pool or a new one.
async fn request(plugin: Rc<Plugin>, ctx: Rc<Ctx>) -> Called {
    let mut lease = match Plugin::lease(&plugin, &ctx).await {
        Ok(lease) => lease,
        Err(fault) => return failed(&plugin, &ctx, &fault),
    };
    if lease.instance().is_none() {
        // Seldom, and large: in memory of its own.
        match Box::pin(plugin.guest().start(Exchange::lend(&plugin, &ctx))).await {
            Ok(instance) => lease.fill(instance),
            Err(error) => return failed(&plugin, &ctx, &Fault::Start(error)),
        }
    }
    let Some(instance) = lease.instance() else {
        return failed(&plugin, &ctx, &Fault::Busy);
    };
    let next = instance.handle_request(Exchange::lend(&plugin, &ctx)).await;
    let features = instance.features();
    plugin.meter().enabled(features);
    match next {
        Err(error) => failed(&plugin, &ctx, &Fault::Call(error)),
        Ok(Next::Stop) => {
            plugin.succeeded(lease.pass(), ctx.log());
            Called::Answered
        }
        Ok(Next::Continue { ctx: guest_ctx, odd }) => {
            if odd {
                plugin.warn_odd_next(ctx.log());
            }
            let written = ctx.with_io(|io| io.request_written.is_some()).unwrap_or(false);
            let needs_body = written || features.contains(Features::BUFFER_REQUEST);
            // With buffer_response the body is held for it, whether or not it looks.
            if plugin.guest().handles_responses() || features.contains(Features::BUFFER_RESPONSE) {
                Called::Passed { owed: Some((lease, guest_ctx)), needs_body }
            } else {
                plugin.succeeded(lease.pass(), ctx.log());
                Called::Passed { owed: None, needs_body }
            }
        }
    }
}

/// `handle_response` of one guest, on the instance that handled the request.
async fn response(mut lease: Lease, ctx: Rc<Ctx>, guest_ctx: u32) -> Called {
    let plugin = Rc::clone(lease.plugin());
    ctx.pass.set(lease.pass());
    let is_error = ctx.with_io(|io| io.mode == Mode::Ended).unwrap_or(true);
    let Some(instance) = lease.instance() else {
        return Called::Finished;
    };
    let host = Exchange::lend(&plugin, &ctx);
    match instance.handle_response(host, guest_ctx, is_error).await {
        Ok(()) => {
            // Not before: a guest that always fails here does not work.
            plugin.succeeded(lease.pass(), ctx.log());
            Called::Finished
        }
        Err(error) => failed(&plugin, &ctx, &Fault::Call(error)),
    }
}

fn failed(plugin: &Plugin, ctx: &Ctx, fault: &Fault) -> Called {
    plugin.failed(ctx.pass.get(), fault, ctx.request());
    ctx.note(|record| record.outcome = Some(Outcome::Failed(fault.cause())));
    Called::Failed(fault.status())
}

/// Waits until nginx has the whole request body; an error when it never will.
pub(crate) fn client_body(ctx: &Ctx) -> impl Future<Output = Result<(), Lost>> {
    poll_fn(|_| match ctx.body.get() {
        ClientBody::Ready => Poll::Ready(Ok(())),
        ClientBody::Lost => Poll::Ready(Err(Lost)),
        ClientBody::Reading => Poll::Pending,
        ClientBody::Unread => {
            ctx.want.set(Want::Body);
            Poll::Pending
        }
    })
}

/// A part of the request body is all that nginx has.
pub(crate) struct Lost;

/// Waits without blocking the worker; no time at all means one turn of the event loop.
pub(crate) fn sleep(ctx: &Ctx, time: Duration) -> impl Future<Output = ()> {
    let asked = Cell::new(false);
    poll_fn(move |_| {
        if !asked.replace(true) {
            ctx.want.set(if time.is_zero() { Want::Nothing } else { Want::Sleep(time) });
            return Poll::Pending;
        }
        // The timer's event takes its mark away before it polls; any other poll finds it.
        if ctx.want.get() == Want::Timer { Poll::Pending } else { Poll::Ready(()) }
    })
}

/// Waits until `ready` gives something, at most for `time`. Whoever makes it ready says
/// [`Ctx::wake`].
pub(crate) fn wait<T>(
    ctx: &Ctx,
    time: Duration,
    ready: impl Fn() -> Option<T>,
) -> impl Future<Output = Option<T>> {
    let asked = Cell::new(false);
    poll_fn(move |_| {
        if let Some(value) = ready() {
            return Poll::Ready(Some(value));
        }
        if !asked.replace(true) {
            ctx.want.set(Want::Sleep(time));
            return Poll::Pending;
        }
        // The timer's event takes its mark away before it polls.
        match ctx.want.get() {
            Want::Timer => Poll::Pending,
            _ => Poll::Ready(None),
        }
    })
}

/// Polls the call of `ctx` as far as it goes, starting what it waits for.
pub(crate) fn advance(ctx: &Rc<Ctx>) -> Progress {
    loop {
        // Taken out while it runs: host functions use the rest of the context.
        let Some(mut call) = ctx.call.borrow_mut().take() else {
            return Progress::Waiting;
        };
        if let Poll::Ready(called) = call.turn(ctx) {
            return Progress::Done(called);
        }
        if call.is_overdue() {
            let limit = call.plugin.guest().settings().limits.timeout;
            let called = failed(&call.plugin, ctx, &Fault::Timeout(limit));
            call.over(ctx, &called, Instant::now());
            drop(call);
            ctx.cancel();
            return Progress::Done(called);
        }
        *ctx.call.borrow_mut() = Some(call);
        match ctx.want.get() {
            Want::Body => match read_body(ctx) {
                ReadBody::Complete => {}
                ReadBody::Waiting => return Progress::Waiting,
                ReadBody::Failed(rc) => return Progress::Aborted(rc),
            },
            Want::Sleep(time) => {
                ctx.want.set(Want::Timer);
                // At least 1 ms: a timer of 0 would go off before anybody else is served.
                let ms = time.as_nanos().div_ceil(1_000_000).clamp(1, MAX_SLEEP_MS);
                // SAFETY: the event is ours and prepared; cancel() takes the timer off.
                unsafe { ffi::ngx_http_wasm_add_timer(ctx.event(), ms as usize) };
                watch_client(ctx);
                return Progress::Waiting;
            }
            Want::Timer => return Progress::Waiting,
            Want::Nothing => {
                if ctx.body.get() != ClientBody::Reading {
                    // SAFETY: the event is ours and prepared; cancel() takes it off the queue.
                    unsafe { ffi::ngx_http_wasm_post_next_event(ctx.event()) };
                    watch_client(ctx);
                }
                return Progress::Waiting;
            }
        }
    }
}

/// A guest that waits, or that has used up its slice, does not go on for a client that went away.
fn watch_client(ctx: &Ctx) {
    if ctx.stage() == Stage::CallingRequest {
        // Later on the upstream module watches.
        ctx.request().watch_client();
    }
}

/// nginx timers compare milliseconds as signed distances: a month is far inside and far enough.
const MAX_SLEEP_MS: u128 = 30 * 24 * 3600 * 1000;

enum ReadBody {
    Complete,
    Waiting,
    Failed(ngx_int_t),
}

/// Starts reading the request body (the pattern of `ngx_http_mirror_module`).
fn read_body(ctx: &Rc<Ctx>) -> ReadBody {
    ctx.want.set(Want::Nothing);
    ctx.body.set(ClientBody::Reading);
    let r = ctx.request();
    let _reading = InRead::mark(ctx);
    // SAFETY: the request is live and in its access phase. The call takes a reference to it, given
    // back below.
    let rc = unsafe { nginx_sys::ngx_http_read_client_request_body(r.as_ptr(), Some(on_body)) };
    if rc >= SPECIAL_RESPONSE {
        ctx.body.set(ClientBody::Lost);
        return ReadBody::Failed(rc);
    }
    // A reference remains, so the request is not freed here.
    r.finalize(DONE);
    if ctx.body.get() == ClientBody::Ready { ReadBody::Complete } else { ReadBody::Waiting }
}

thread_local! {
    /// The context whose body is being asked for: nginx may call back before it returns.
    static IN_READ: Cell<*const Ctx> = const { Cell::new(std::ptr::null()) };
}

struct InRead;

impl InRead {
    fn mark(ctx: &Rc<Ctx>) -> Self {
        IN_READ.set(Rc::as_ptr(ctx));
        InRead
    }
}

impl Drop for InRead {
    fn drop(&mut self) {
        IN_READ.set(std::ptr::null());
    }
}

/// nginx has the whole request body.
unsafe extern "C" fn on_body(r: *mut ngx_http_request_t) {
    guard((), || {
        // SAFETY: nginx calls back with the live request.
        let Some(r) = (unsafe { Request::new(r) }) else {
            return;
        };
        let Some(ctx) = Ctx::of(r) else { return };
        ctx.body.set(ClientBody::Ready);
        super::body::preserve(r);
        if IN_READ.get() == Rc::as_ptr(&ctx) {
            // read_body() goes on with the call.
            r.phases_on_write();
            return;
        }
        drop(ctx);
        r.run_phases();
    });
}

/// A sleep is over, or a call that gave up its turn goes on.
pub(crate) unsafe extern "C" fn on_event(event: *mut ngx_event_t) {
    guard((), || {
        // SAFETY: the event is the one inside a context (see Ctx::create) and its data points there;
        // cancel() takes the event off before the context goes.
        let ctx = Ctx::share(unsafe { (*event).data });
        ctx.want.set(Want::Nothing);
        let r = ctx.request();
        match ctx.stage() {
            Stage::CallingRequest => {
                r.unwatch_client();
                drop(ctx);
                r.run_phases();
            }
            Stage::CallingResponse => filter::resume(&ctx),
            _ => {}
        }
    });
}

/// Calls `handle_response(ctx, 1)` for every guest that is still owed it. There is no time to wait
/// any more: a call that would is dropped.
pub(crate) fn call_owed(ctx: &Rc<Ctx>) {
    loop {
        let Some((lease, guest_ctx)) = take_owed(ctx) else {
            return;
        };
        let entered = ctx.with_io(|io| io.mode = Mode::Ended);
        if entered.is_none() {
            return;
        }
        // However it ends, nobody is left to hear of it; a failure has been logged.
        let _ = Call::response(lease, ctx, guest_ctx).turn(ctx);
    }
}

/// Takes the innermost guest that is owed a `handle_response`.
pub(crate) fn take_owed(ctx: &Ctx) -> Option<(Lease, u32)> {
    let mut levels = ctx.levels.borrow_mut();
    let at = levels.iter().rposition(|level| matches!(level.state, LevelState::Owed { .. }))?;
    ctx.at.set(at);
    let level = &mut levels[at];
    match std::mem::replace(&mut level.state, LevelState::Finished) {
        LevelState::Owed { lease, ctx: guest_ctx } => {
            let request = level.request.take();
            ctx.with_io(|io| {
                io.request = request;
                if let Some(reader) = &mut io.request {
                    reader.rewind();
                }
            });
            Some((lease, guest_ctx))
        }
        _ => None,
    }
}
