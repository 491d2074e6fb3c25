//! What happens to an exchange outside of nginx's phases and filters: what a call waited for is there,
//! and the request ends.

use std::rc::Rc;

use crate::nginx::exchange::ctx::{Ctx, Driver};
use crate::nginx::exchange::filter;
use crate::nginx::exchange::settings::forget_variables;
use crate::nginx::exchange::state::{Event, Kind, State, Step};
use crate::nginx::exchange::task;

/// The way here from a context.
pub(crate) static DRIVER: Driver = Driver { wake, end, upstream_ended: filter::upstream_ended };

/// A wait is over.
fn wake(ctx: &Rc<Ctx>) {
    let step = ctx.step(Event::Wake);
    ctx.end_wait();
    match step {
        Step::Continue if ctx.kind() == Kind::Asking => ctx.request().run_phases(),
        Step::Continue => filter::resume(ctx),
        Step::Fail => filter::answer_failure(ctx),
        Step::LookForEnd => filter::look_for_end(ctx),
        _ => {}
    }
}

/// The request is over, however it ended: what waits is dropped, and whoever is owed a
/// `handle_response` gets it now.
fn end(ctx: &Rc<Ctx>) {
    // Without memory for that the log has a header less.
    if let Ok(true) = ctx.put_encoding_back() {
        forget_variables(ctx.request());
    }
    if ctx.step(Event::End) == Step::Finish {
        ctx.enter(State::Over);
        task::call_owed(ctx);
    }
}
