//! What guests write to the log, cut to what one message and one request may have of it.

use super::Host;
use super::budget::{Logged, MESSAGE_MAX};
use crate::abi::Level;
use crate::escaped::Escaped;

/// Writes a message or a printed line of a guest's. The level is one that is written
/// ([`Host::log_enabled`]).
pub(crate) fn write<H: Host>(host: &mut H, level: Level, message: &[u8]) {
    // Nobody looks at what is dropped.
    if host.kept().is_some_and(|kept| kept.budget.has_logged_enough()) {
        return;
    }
    let cut = Escaped(message).cut(MESSAGE_MAX);
    let left = message.len() - cut.len();
    let more = (left > 0).then(|| format!("... and {left} bytes more"));
    let cost = host.log_cost(level, cut)
        + more.as_ref().map_or(0, |text| host.log_cost(level, text.as_bytes()));
    match host.kept_mut().map_or(Logged::Yes, |kept| kept.budget.message(cost)) {
        Logged::Yes => {
            host.log(level, cut);
            if let Some(kept) = host.kept_mut() {
                kept.logged(cut);
            }
            if let Some(text) = more {
                host.remark(level, &text);
            }
        }
        Logged::Enough => {
            let text =
                "has written too much for one request or start: nothing more is logged for it";
            host.remark(Level::Warn, text);
        }
    }
}
