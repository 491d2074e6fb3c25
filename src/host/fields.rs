//! Host functions on header and trailer fields.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use super::budget::FIELD_COST;
use super::error::{Denied, Rule};
use super::message::{length, not_token};
use super::policy::{is_guests_to_remove, is_guests_to_set, is_the_only_one};
use super::{Fields, FieldsMut, Host, Refusal, State, matching};
use crate::abi::{FieldKind, count_len};
use crate::escaped::Quoted;
use crate::http::{host_name, is_field_value, is_token};
use crate::memory::{Case, GuestMemory, nul_list_len};

/// Up to this many distinct names are kept on the stack and compared one by one: less than 300
/// comparisons, most of which end at the length. Usual messages carry 10 to 20.
const FEW_NAMES: usize = 24;

/// Up to this many values of one name are kept on the stack.
const FEW_VALUES: usize = 8;

/// `get_header_names`: every distinct name once, in lower case, in order of arrival.
pub fn get_header_names<H: Host>(
    memory: &mut GuestMemory<'_>,
    state: &State<H>,
    kind: u32,
    buf: u32,
    limit: u32,
) -> Result<u64, Denied> {
    let kind = field_kind(kind)?;
    let mut names = Names::new();
    match state.fields_to_read(kind)? {
        Fields::None => return Ok(0),
        Fields::Early(lines) => lines.iter().for_each(|(name, _)| names.insert(name)),
        Fields::Message(host, kind) => {
            host.fields(kind).for_each(|(name, _)| names.insert(name));
        }
    }
    let (count, len) = nul_list_len(names.iter());
    if len <= limit as usize {
        memory.nul_list(buf, len, names.iter(), Case::Lower)?;
    }
    Ok(count_len(length(count as u64)?, length(len as u64)?))
}

/// `get_header_values`: every field line of that name in order of arrival, neither split nor
/// joined.
pub fn get_header_values<H: Host>(
    memory: &mut GuestMemory<'_>,
    state: &State<H>,
    kind: u32,
    (name, name_len): (u32, u32),
    (buf, limit): (u32, u32),
) -> Result<u64, Denied> {
    if name_len == 0 {
        return Err(Rule::Empty("header name").into());
    }
    let kind = field_kind(kind)?;
    let fields = state.fields_to_read(kind)?;
    let wanted = memory.bytes(name, name_len)?;
    // Found values are kept, so that a second look is needed only where there are many.
    let mut few = [&[][..]; FEW_VALUES];
    let (mut count, mut len) = (0, 0);
    fields.values(wanted, |value| {
        if let Some(slot) = few.get_mut(count) {
            *slot = value;
        }
        count += 1;
        len += value.len() + 1;
    });
    let packed = count_len(length(count as u64)?, length(len as u64)?);
    if len > 0 && len <= limit as usize {
        match few.get(..count) {
            Some(found) => memory.nul_list(buf, len, found.iter().copied(), Case::Keep)?,
            None => {
                let mut many = Vec::with_capacity(count);
                fields.values(wanted, |value| many.push(value));
                memory.nul_list(buf, len, many.into_iter(), Case::Keep)?;
            }
        }
    }
    Ok(packed)
}

/// `set_header_value`.
pub fn set_header_value<H: Host>(
    memory: &GuestMemory<'_>,
    state: &mut State<H>,
    kind: u32,
    name: (u32, u32),
    value: (u32, u32),
) -> Result<(), Denied> {
    let (fields, name) = to_change(memory, state, kind, name)?;
    let value = field_value(memory, &fields, name, value)?;
    Ok(fields.set(name, value)?)
}

/// `add_header_value`.
pub fn add_header_value<H: Host>(
    memory: &GuestMemory<'_>,
    state: &mut State<H>,
    kind: u32,
    name: (u32, u32),
    value: (u32, u32),
) -> Result<(), Denied> {
    let (fields, name) = to_change(memory, state, kind, name)?;
    let value = field_value(memory, &fields, name, value)?;
    Ok(fields.add(name, value)?)
}

/// `remove_header`.
pub fn remove_header<H: Host>(
    memory: &GuestMemory<'_>,
    state: &mut State<H>,
    kind: u32,
    name: (u32, u32),
) -> Result<(), Denied> {
    let (fields, name) = to_change(memory, state, kind, name)?;
    Ok(fields.remove(name)?)
}

fn to_change<'s, 'm, H: Host>(
    memory: &'m GuestMemory<'_>,
    state: &'s mut State<H>,
    kind: u32,
    (name, name_len): (u32, u32),
) -> Result<(FieldsMut<'s, H>, &'m [u8]), Denied> {
    if name_len == 0 {
        return Err(Rule::Empty("header name").into());
    }
    let kind = field_kind(kind)?;
    let fields = state.fields_to_change(kind)?;
    let name = memory.bytes(name, name_len)?;
    if !is_token(name) {
        return Err(not_token("header name", name));
    }
    Ok((fields, name))
}

fn field_value<'m, H>(
    memory: &'m GuestMemory<'_>,
    fields: &FieldsMut<'_, H>,
    name: &[u8],
    (value, value_len): (u32, u32),
) -> Result<&'m [u8], Rule> {
    let value = memory.bytes(value, value_len)?;
    if !is_field_value(value) {
        return Err(Rule::BadValue(Quoted::new(name)));
    }
    // What configurations and handlers make of the Host relies on a server having looked at it.
    if matches!(fields, FieldsMut::Message(_, FieldKind::Request))
        && name.eq_ignore_ascii_case(b"host")
        && let Err(reason) = host_name(value)
    {
        return Err(Rule::BadHost { reason, text: Quoted::new(value) });
    }
    Ok(value)
}

fn field_kind(kind: u32) -> Result<FieldKind, Rule> {
    FieldKind::from_abi(kind).ok_or(Rule::HeaderKind(kind))
}

impl<'s, H: Host> Fields<'s, H> {
    /// The value of every line called `name` (any case), in order.
    fn values(&self, name: &[u8], found: impl FnMut(&'s [u8])) {
        match *self {
            Fields::None => {}
            Fields::Early(lines) => matching(lines.iter(), name).for_each(found),
            Fields::Message(host, kind) => host.values(kind, name, found),
        }
    }
}

impl<H: Host> FieldsMut<'_, H> {
    fn set(self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        match self {
            FieldsMut::None => Ok(()),
            FieldsMut::Early(kept, kind) => {
                kept.budget.field(kind, name, value)?;
                kept.early.set(kind, name, value);
                Ok(())
            }
            FieldsMut::Message(host, kind) => {
                charge(host, kind, name, value)?;
                if kind == FieldKind::Response && name.eq_ignore_ascii_case(b"content-length") {
                    // The one length of a guest's that means something.
                    host.empty_response(value == b"0");
                }
                match is_guests_to_set(kind, name) {
                    true => host.set_field(kind, name, value),
                    false => Ok(()),
                }
            }
        }
    }

    fn add(self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        match self {
            FieldsMut::None => Ok(()),
            FieldsMut::Early(kept, kind) => {
                kept.budget.field(kind, name, value)?;
                kept.early.add(kind, name, value);
                Ok(())
            }
            FieldsMut::Message(host, kind) => {
                charge(host, kind, name, value)?;
                match (is_guests_to_set(kind, name), is_the_only_one(kind, name)) {
                    (true, false) => host.add_field(kind, name, value),
                    (true, true) => host.set_field(kind, name, value),
                    (false, _) => Ok(()),
                }
            }
        }
    }

    fn remove(self, name: &[u8]) -> Result<(), Refusal> {
        match self {
            FieldsMut::None => Ok(()),
            FieldsMut::Early(kept, kind) => {
                kept.early.remove(kind, name);
                Ok(())
            }
            FieldsMut::Message(host, kind) => {
                if kind == FieldKind::Request {
                    charge_removal(host, name)?;
                }
                match is_guests_to_remove(kind, name) {
                    true => host.remove_field(kind, name),
                    false => Ok(()),
                }
            }
        }
    }
}

/// Charges a field that is set or added.
fn charge<H: Host>(
    host: &mut H,
    kind: FieldKind,
    name: &[u8],
    value: &[u8],
) -> Result<(), Refusal> {
    host.kept_mut().map_or(Ok(()), |kept| kept.budget.field(kind, name, value))
}

/// Removing a request header builds the list anew where others point into it: charges what is left.
fn charge_removal<H: Host>(host: &mut H, name: &[u8]) -> Result<(), Refusal> {
    let mut found = false;
    host.values(FieldKind::Request, name, |_| found = true);
    if !found {
        return Ok(());
    }
    let count = host.fields(FieldKind::Request).count();
    host.kept_mut().map_or(Ok(()), |kept| kept.budget.set(count * FIELD_COST))
}

/// Distinct names in order of arrival. A usual message needs no allocation; one with thousands of
/// names, which any client may send, costs a keyed hash per name and not a comparison per pair.
struct Names<'a> {
    few: [&'a [u8]; FEW_NAMES],
    len: usize,
    many: Option<ManyNames<'a>>,
}

struct ManyNames<'a> {
    seen: HashSet<AnyCase<'a>>,
    rest: Vec<&'a [u8]>,
}

impl<'a> Names<'a> {
    fn new() -> Self {
        Names { few: [&[]; FEW_NAMES], len: 0, many: None }
    }

    fn insert(&mut self, name: &'a [u8]) {
        if let Some(many) = &mut self.many {
            if many.seen.insert(AnyCase(name)) {
                many.rest.push(name);
            }
            return;
        }
        let few = &self.few[..self.len];
        if few.iter().any(|seen| seen.eq_ignore_ascii_case(name)) {
            return;
        }
        if self.len == FEW_NAMES {
            let seen = few.iter().copied().chain([name]).map(AnyCase).collect();
            let rest = vec![name];
            self.many = Some(ManyNames { seen, rest });
        } else {
            self.few[self.len] = name;
            self.len += 1;
        }
    }

    fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let rest = self.many.iter().flat_map(|many| &many.rest);
        self.few[..self.len].iter().chain(rest).copied()
    }
}

struct AnyCase<'a>(&'a [u8]);

impl PartialEq for AnyCase<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(other.0)
    }
}

impl Eq for AnyCase<'_> {}

impl Hash for AnyCase<'_> {
    fn hash<S: Hasher>(&self, state: &mut S) {
        for byte in self.0 {
            state.write_u8(byte.to_ascii_lowercase());
        }
        state.write_usize(self.0.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_name_is_kept_once_at_its_first_place(
            sent in prop::collection::vec("[a-dA-D]{1,3}", 0..120),
        ) {
            let mut names = Names::new();
            sent.iter().for_each(|name| names.insert(name.as_bytes()));
            let mut expected: Vec<&[u8]> = Vec::new();
            for name in &sent {
                let name = name.as_bytes();
                if !expected.iter().any(|seen| seen.eq_ignore_ascii_case(name)) {
                    expected.push(name);
                }
            }
            prop_assert_eq!(names.iter().collect::<Vec<_>>(), expected);
        }
    }
}
