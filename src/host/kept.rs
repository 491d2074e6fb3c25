//! [`Kept`]: what is kept of one client request for all its guests in turn. An embedder stores it
//! with the request and lends it with each call.

use super::budget::{Budget, TEMPLATE_MAX};
use super::early::Early;
use super::policy::is_guests_to_set;
use super::{Phase, Refusal};
use crate::abi::FieldKind;
use crate::escaped::Escaped;

/// What is kept of the last line of a start, escaped.
const LAST_LINE_MAX: usize = 512;

/// What guests set for a response that has not begun, what they have used up, and the template.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub(super) early: Early,
    /// The same before the running `handle_request` added to it.
    saved: Early,
    pub(super) budget: Budget,
    template: Vec<u8>,
    /// While an instance starts, the last line that it logged.
    last_line: Option<String>,
}

impl Kept {
    /// Whether guests have set anything for the response.
    pub fn has_early(&self) -> bool {
        !self.early.is_nothing()
    }

    /// Headers or trailers that guests have set for the response, which begins. Lines that are not theirs
    /// to set are not among them.
    pub fn early(&self, kind: FieldKind) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.early.lines(kind).iter().filter(move |(name, _)| is_guests_to_set(kind, name))
    }

    /// What guests set for the response is in the response.
    pub fn forget_early(&mut self) {
        self.early = Early::default();
    }

    /// The status that guests have set.
    pub fn status(&self) -> Option<u16> {
        self.early.status
    }

    /// A response that a guest has answered with is not sent. Of what that guest set for it only lines
    /// called `except`, in lower case, are left.
    pub fn withdraw(&mut self, except: &[u8]) {
        let mut before = std::mem::take(&mut self.saved);
        let own = std::mem::take(&mut self.early);
        before.remove(FieldKind::Response, except);
        for (name, value) in own.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(except))
        {
            before.add(FieldKind::Response, name, value);
        }
        self.early = before;
    }

    /// The template name that a guest chose last; empty if none did.
    pub fn template(&self) -> &[u8] {
        &self.template
    }

    /// Replaces what was there: nothing piles up, so it is only this one that is limited.
    pub(super) fn set_template(&mut self, name: &[u8]) -> Result<(), Refusal> {
        if name.len() > TEMPLATE_MAX {
            return Err(Refusal::TooLarge { what: "the template", limit: TEMPLATE_MAX as u64 });
        }
        self.template.clear();
        self.template.extend_from_slice(name);
        Ok(())
    }

    /// A guest is called.
    pub(super) fn begin(&mut self, phase: Phase) {
        if phase == Phase::Request && !(self.early.is_nothing() && self.saved.is_nothing()) {
            self.saved.clone_from(&self.early);
        }
        if phase == Phase::Start || self.last_line.is_some() {
            self.last_line = (phase == Phase::Start).then(String::new);
        }
    }

    /// A line was logged. While an instance starts, the last one may say why it fails.
    pub(super) fn logged(&mut self, line: &[u8]) {
        if let Some(last) = &mut self.last_line
            && !line.is_empty()
        {
            *last = Escaped(Escaped(line).cut(LAST_LINE_MAX)).to_string();
        }
    }

    /// The last line that an instance logged that has not started, escaped.
    pub(crate) fn last_line(&self) -> Option<&str> {
        self.last_line.as_deref().filter(|line| !line.is_empty())
    }

    /// The call has failed: of what the guest set for the response nothing is left.
    pub(super) fn undo(&mut self, phase: Phase) {
        if phase == Phase::Request {
            self.early = std::mem::take(&mut self.saved);
        }
    }
}
