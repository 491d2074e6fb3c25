//! [`Early`]: what guests set for a response before there is one.

use super::line::FieldLine;
use crate::abi::FieldKind;
use crate::host::policy::is_single;

/// Status, headers and trailers of a response that has not begun.
#[derive(Default, Clone)]
pub(crate) struct Early {
    pub(crate) status: Option<u16>,
    pub(crate) fields: Vec<FieldLine>,
    pub(crate) trailers: Vec<FieldLine>,
}

impl Early {
    /// Headers or trailers; no others belong to a response.
    pub(crate) fn lines(&self, kind: FieldKind) -> &[FieldLine] {
        match kind {
            FieldKind::Response => &self.fields,
            FieldKind::ResponseTrailers => &self.trailers,
            FieldKind::Request | FieldKind::RequestTrailers => &[],
        }
    }

    /// The same once more; mostly there is nothing.
    pub(crate) fn copy(&self) -> Self {
        match self {
            Early { status: None, fields, trailers }
                if fields.is_empty() && trailers.is_empty() =>
            {
                Early::default()
            }
            early => early.clone(),
        }
    }

    pub(crate) fn remove(&mut self, kind: FieldKind, name: &[u8]) {
        if let Some(lines) = self.lines_mut(kind) {
            lines.retain(|line| !line.name().eq_ignore_ascii_case(name));
        }
    }

    /// Appends a line; for headers of which there is one, in the place of what was there.
    pub(crate) fn add(&mut self, kind: FieldKind, line: FieldLine) {
        if kind == FieldKind::Response && is_single(line.name()) {
            self.remove(kind, line.name());
        }
        if let Some(lines) = self.lines_mut(kind) {
            lines.push(line);
        }
    }

    fn lines_mut(&mut self, kind: FieldKind) -> Option<&mut Vec<FieldLine>> {
        match kind {
            FieldKind::Response => Some(&mut self.fields),
            FieldKind::ResponseTrailers => Some(&mut self.trailers),
            FieldKind::Request | FieldKind::RequestTrailers => None,
        }
    }
}
