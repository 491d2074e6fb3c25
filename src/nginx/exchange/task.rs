//! Running guests' calls: what a call does from its beginning to its end, and one turn after the
//! other with what it waits for in between.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use nginx_sys::{ngx_http_request_t, ngx_int_t};

use crate::abi::{Features, Next};
use crate::nginx::exchange::call::{Asked, Call, Pending, Responded, Times};
use crate::nginx::exchange::ctx::Ctx;
use crate::nginx::exchange::host::{Exchange, Lease, Plugin};
use crate::nginx::exchange::settings::Http;
use crate::nginx::exchange::shared::ClientBody;
use crate::nginx::exchange::wait::{Need, Side, Wait};
use crate::nginx::guests::fault::Fault;
use crate::nginx::guests::line::{Standing, Ticket};
use crate::nginx::guests::plugin::Claim;
use crate::nginx::guests::start::Start;
use crate::nginx::guests::status::Outcome;
use crate::nginx::ngx::body;
use crate::nginx::ngx::ffi::{DONE, SPECIAL_RESPONSE, guard};
use crate::nginx::ngx::request::Request;
use crate::nginx::ngx::timer;
use crate::status::cells::{Counter, Timed};

/// `handle_request` of one guest, which has been put among the visits.
pub(crate) fn ask(ctx: &Rc<Ctx>, plugin: &Rc<Plugin>) -> Call<Asked> {
    plugin.meter().count(Counter::Requests);
    Call::new(plugin, Some(Timed::Request), request(Rc::clone(plugin), Rc::clone(ctx)))
}

/// Not a call of the guest's, which has returned: a wait for the request body on its behalf.
pub(crate) fn receive(ctx: &Rc<Ctx>, plugin: &Rc<Plugin>) -> Call<Asked> {
    let ctx = Rc::clone(ctx);
    Call::new(plugin, None, async move {
        // What is lost is not there for anybody: the guest reads nothing, nginx has its error.
        let _ = ctx.whole_body().await;
        Asked::Received
    })
}

/// `handle_response` of the guest that handled the request; `is_error` once that has ended.
pub(crate) fn respond(
    ctx: &Rc<Ctx>,
    lease: Lease,
    guest_ctx: u32,
    is_error: bool,
) -> Call<Responded> {
    let plugin = Rc::clone(lease.plugin());
    Call::new(&plugin, Some(Timed::Response), response(lease, Rc::clone(ctx), guest_ctx, is_error))
}

/// On an instance from the guest's pool or a new one.
async fn request(plugin: Rc<Plugin>, ctx: Rc<Ctx>) -> Asked {
    // Given back once the failure is noted: the breaker takes it for abandoned otherwise.
    let mut lease = None;
    match run_request(&plugin, &ctx, &mut lease).await {
        Ok(asked) => asked,
        Err(fault) => Asked::failed(&plugin, &ctx, &fault),
    }
}

async fn run_request(
    plugin: &Rc<Plugin>,
    ctx: &Rc<Ctx>,
    held: &mut Option<Lease>,
) -> Result<Asked, Fault> {
    let lease = find_instance(plugin, ctx, held).await?;
    let instance = lease.instance().ok_or(Fault::Busy)?;
    let next = instance.handle_request(Exchange::lend(plugin, ctx.clone())).await;
    let features = instance.features();
    plugin.meter().enabled(features);
    account(ctx, lease);
    match next.map_err(Fault::Call)? {
        Next::Stop => {
            plugin.succeeded(lease.pass(), ctx.log());
            Ok(Asked::Answered)
        }
        Next::Continue { ctx: guest_ctx, odd } => {
            if odd {
                plugin.warn_odd_next(ctx.log());
            }
            let written = ctx.with_io(|io| io.request.written.is_some()).unwrap_or(false);
            let needs_body = written || features.contains(Features::BUFFER_REQUEST);
            // With buffer_response the body is held for it, whether or not it looks.
            if plugin.guest().handles_responses() || features.contains(Features::BUFFER_RESPONSE) {
                let owed = held.take().map(|lease| (lease, guest_ctx));
                Ok(Asked::Passed { owed, needs_body })
            } else {
                plugin.succeeded(lease.pass(), ctx.log());
                Ok(Asked::Passed { owed: None, needs_body })
            }
        }
    }
}

/// An instance that is idle, comes free or is started, for this request or another one.
async fn find_instance<'h>(
    plugin: &Rc<Plugin>,
    ctx: &Rc<Ctx>,
    held: &'h mut Option<Lease>,
) -> Result<&'h mut Lease, Fault> {
    let (since, standing) = (timer::now(), ctx.standing());
    let mut claim = Plugin::lease(plugin, standing, || ctx.waiter())?;
    loop {
        let lease = match claim {
            Claim::Lease(lease) => lease,
            // Seldom, and large: in memory of its own.
            Claim::Ticket(ticket) => Box::pin(wait_in_line(plugin, ctx, &ticket)).await?,
        };
        let lease = held.insert(lease);
        ctx.set_pass(lease.admit()?);
        if lease.instance().is_some() {
            break;
        }
        match Box::pin(start(plugin, ctx, held, (since, standing))).await? {
            None => break,
            Some(ticket) => claim = Claim::Ticket(ticket),
        }
    }
    held.as_mut().ok_or(Fault::Busy)
}

/// Starts the instance that a lease gives leave for, in one turn; or waits for it like others.
async fn start(
    plugin: &Rc<Plugin>,
    ctx: &Rc<Ctx>,
    held: &mut Option<Lease>,
    (since, standing): (Duration, Standing),
) -> Result<Option<Rc<Ticket<Exchange>>>, Fault> {
    // What has begun since leave was given.
    let mut start = plugin.may_start().then(|| Start::of(plugin));
    if let Some(start) = &mut start
        && let Poll::Ready(result) = start.first_turn().await
    {
        let instance = result.map_err(Fault::Start)?;
        if let Some(lease) = held {
            lease.fill(instance);
        }
        return Ok(None);
    }
    let lease = held.take();
    Ok(lease.map(|lease| Plugin::wait_for_start(lease, start, standing, since, ctx.waiter())))
}

/// Waits for its turn: as long as the pool lets it, after the time that has to pass before another instance
/// is started for it, and longer while one is being started, for as long as that may take.
async fn wait_in_line(
    plugin: &Rc<Plugin>,
    ctx: &Ctx,
    ticket: &Ticket<Exchange>,
) -> Result<Lease, Fault> {
    let start = plugin.guest().settings().limits.start_timeout;
    let mut patience = ticket.patience;
    loop {
        // Its start may have failed already.
        match ticket.redeem() {
            Some(lease) => return Ok(lease),
            None if ticket.is_refused() => return Err(Fault::Unstarted),
            None => {}
        }
        let is_starting = plugin.is_starting();
        let start = if is_starting { start } else { plugin.usual_start() };
        patience = patience.max(ticket.patience + start);
        let waited = timer::now().saturating_sub(ticket.since);
        let Some(left) = patience.checked_sub(waited).filter(|it| !it.is_zero()) else {
            return Err(if is_starting { Fault::Starting } else { Fault::Busy });
        };
        ctx.until(Need::Line(left)).await;
    }
}

/// On the instance that handled the request.
async fn response(mut lease: Lease, ctx: Rc<Ctx>, guest_ctx: u32, is_error: bool) -> Responded {
    let plugin = Rc::clone(lease.plugin());
    ctx.set_pass(lease.pass());
    let Some(instance) = lease.instance() else {
        return Responded::Finished;
    };
    let host = Exchange::lend(&plugin, ctx.clone());
    let ended = instance.handle_response(host, guest_ctx, is_error).await;
    account(&ctx, &mut lease);
    match ended {
        Ok(()) => {
            // Not before: a guest that always fails here does not work.
            plugin.succeeded(lease.pass(), ctx.log());
            Responded::Finished
        }
        Err(error) => Responded::failed(&plugin, &ctx, &Fault::Call(error)),
    }
}

/// Notes what the guest's sockets did in a call.
fn account(ctx: &Ctx, lease: &mut Lease) {
    if let Some(traffic) = lease.account() {
        ctx.note(|record| **record.traffic.get_or_insert_default() += traffic);
    }
}

/// What a call ends in.
pub(crate) trait End {
    /// The guest failed, and that is logged; the client gets this status.
    fn of(status: ngx_int_t) -> Self;

    /// What the status counts it as; nothing more where it failed.
    fn counted(&self) -> Option<(Counter, Outcome)>;

    /// Says that a guest failed.
    fn failed(plugin: &Plugin, ctx: &Ctx, fault: &Fault) -> Self
    where
        Self: Sized,
    {
        let r = ctx.request();
        plugin.failed(ctx.pass(), fault, r.log(), || Http::request_id_of(r));
        ctx.note(|record| record.outcome = Some(Outcome::Failed(fault.cause())));
        Self::of(fault.status())
    }
}

impl End for Asked {
    fn of(status: ngx_int_t) -> Self {
        Asked::Failed(status)
    }

    fn counted(&self) -> Option<(Counter, Outcome)> {
        match self {
            Asked::Passed { .. } => Some((Counter::Passed, Outcome::Passed)),
            Asked::Answered => Some((Counter::Answered, Outcome::Answered)),
            Asked::Received | Asked::Failed(_) => None,
        }
    }
}

impl End for Responded {
    fn of(status: ngx_int_t) -> Self {
        Responded::Failed(status)
    }

    fn counted(&self) -> Option<(Counter, Outcome)> {
        match self {
            Responded::Finished | Responded::Failed(_) => None,
        }
    }
}

/// How far a call has come.
pub(crate) enum Progress<T> {
    /// It is over.
    Done(T),
    /// An event will bring what it waits for.
    Waits(Pending<T>),
    /// nginx could not read the request body: the request ends with this status.
    Unreadable(ngx_int_t),
}

/// Lets a call run until it ends or has to wait. With no side it may not wait: its time is over, or
/// its response cannot be held. It goes on at once then, and no more than its time limit.
pub(crate) fn advance<T: End>(ctx: &Rc<Ctx>, mut call: Call<T>, side: Option<Side>) -> Progress<T> {
    loop {
        if let Poll::Ready(end) = call.turn() {
            return Progress::Done(over(ctx, &mut call, end));
        }
        if let Some(limit) = call.overdue() {
            let end = T::failed(&call.plugin, ctx, &Fault::Timeout(limit));
            return Progress::Done(over(ctx, &mut call, end));
        }
        let need = ctx.take_need().unwrap_or(Need::Turn);
        let Some(side) = side else {
            need.forgo();
            continue;
        };
        if let Need::Body = need {
            match read_body(ctx) {
                ReadBody::Complete => continue,
                ReadBody::Waiting => {}
                ReadBody::Failed(rc) => return Progress::Unreadable(rc),
            }
        }
        return Progress::Waits(Pending { call, wait: Some(wait(ctx, need, side)) });
    }
}

/// Begins to wait on behalf of an exchange.
pub(crate) fn wait(ctx: &Ctx, need: Need, side: Side) -> Wait {
    // SAFETY: what waits is in the state of the context, which takes it with itself.
    unsafe { Wait::begin(ctx.request(), need, side, ctx.caller()) }
}

/// A call has ended: counts it, once.
fn over<T: End>(ctx: &Ctx, call: &mut Call<T>, end: T) -> T {
    let Some(Times { timed, lasted }) = call.over() else {
        return end;
    };
    let counted = end.counted();
    if let Some((counter, _)) = counted {
        call.plugin.meter().count(counter);
    }
    ctx.note(|record| match timed {
        Timed::Request => {
            record.request = lasted;
            // Of a failure it is known already.
            record.outcome = counted.map(|(_, outcome)| outcome).or(record.outcome);
        }
        Timed::Response => record.response = lasted,
    });
    end
}

/// Calls `handle_response(ctx, 1)` for every guest that is still owed it when the request ends.
pub(crate) fn call_owed(ctx: &Rc<Ctx>) {
    while let Some((lease, guest_ctx)) = ctx.take_owed() {
        // However it ends, nobody is left to hear of it; a failure has been logged.
        advance(ctx, respond(ctx, lease, guest_ctx, true), None);
    }
}

enum ReadBody {
    Complete,
    Waiting,
    Failed(ngx_int_t),
}

thread_local! {
    /// The context whose body is being asked for: nginx may call back before it returns.
    static IN_READ: Cell<*const Ctx> = const { Cell::new(std::ptr::null()) };
}

/// Starts reading the request body (the pattern of `ngx_http_mirror_module`).
fn read_body(ctx: &Rc<Ctx>) -> ReadBody {
    let r = ctx.request();
    ctx.set_client_body(ClientBody::Reading);
    let outer = IN_READ.replace(Rc::as_ptr(ctx));
    body::expect_readers(r);
    // SAFETY: the request is live and in its access phase. The call takes a reference to it, given
    // back below.
    let rc = unsafe { nginx_sys::ngx_http_read_client_request_body(r.as_ptr(), Some(on_body)) };
    IN_READ.set(outer);
    if rc >= SPECIAL_RESPONSE {
        ctx.set_client_body(ClientBody::Lost);
        return ReadBody::Failed(rc);
    }
    // A reference remains, so the request is not freed here.
    r.finalize(DONE);
    match ctx.client_body() {
        ClientBody::Ready => ReadBody::Complete,
        ClientBody::Unread | ClientBody::Reading | ClientBody::Lost => ReadBody::Waiting,
    }
}

/// nginx has the whole request body.
unsafe extern "C" fn on_body(r: *mut ngx_http_request_t) {
    guard((), || {
        // SAFETY: nginx calls back with the live request.
        let Some(r) = (unsafe { Request::new(r) }) else {
            return;
        };
        let Some(ctx) = Ctx::find(r) else { return };
        ctx.set_client_body(ClientBody::Ready);
        if IN_READ.get() == Rc::as_ptr(&ctx) {
            // read_body() goes on with the call.
            r.phases_on_write();
            return;
        }
        ctx.end_wait();
        drop(ctx);
        r.run_phases();
    });
}
