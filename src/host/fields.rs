//! Host functions on header and trailer fields.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use super::message::{length, not_token};
use super::{Host, State};
use crate::abi::{FieldKind, count_len};
use crate::error::{Denied, Quoted, Rule};
use crate::http::{is_field_value, is_token};
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
    let Some(host) = state.fields_to_read(kind)? else {
        return Ok(0);
    };
    let mut names = Names::new();
    host.fields(kind).for_each(|(name, _)| names.insert(name));
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
    let Some(host) = state.fields_to_read(kind)? else {
        return Ok(0);
    };
    let wanted = memory.bytes(name, name_len)?;
    // Found values are kept, so that a second look is needed only where there are many.
    let mut few = [&[][..]; FEW_VALUES];
    let (mut count, mut len) = (0, 0);
    host.values(kind, wanted, |value| {
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
                host.values(kind, wanted, |value| many.push(value));
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
    let (host, kind, name) = to_change(memory, state, kind, name)?;
    Ok(host.set_field(kind, name, field_value(memory, name, value)?)?)
}

/// `add_header_value`.
pub fn add_header_value<H: Host>(
    memory: &GuestMemory<'_>,
    state: &mut State<H>,
    kind: u32,
    name: (u32, u32),
    value: (u32, u32),
) -> Result<(), Denied> {
    let (host, kind, name) = to_change(memory, state, kind, name)?;
    Ok(host.add_field(kind, name, field_value(memory, name, value)?)?)
}

/// `remove_header`.
pub fn remove_header<H: Host>(
    memory: &GuestMemory<'_>,
    state: &mut State<H>,
    kind: u32,
    name: (u32, u32),
) -> Result<(), Denied> {
    let (host, kind, name) = to_change(memory, state, kind, name)?;
    Ok(host.remove_field(kind, name)?)
}

fn to_change<'s, 'm, H: Host>(
    memory: &'m GuestMemory<'_>,
    state: &'s mut State<H>,
    kind: u32,
    (name, name_len): (u32, u32),
) -> Result<(&'s mut H, FieldKind, &'m [u8]), Denied> {
    if name_len == 0 {
        return Err(Rule::Empty("header name").into());
    }
    let kind = field_kind(kind)?;
    let host = state.fields_to_change(kind)?;
    let name = memory.bytes(name, name_len)?;
    if !is_token(name) {
        return Err(not_token("header name", name));
    }
    Ok((host, kind, name))
}

fn field_value<'m>(
    memory: &'m GuestMemory<'_>,
    name: &[u8],
    (value, value_len): (u32, u32),
) -> Result<&'m [u8], Rule> {
    let value = memory.bytes(value, value_len)?;
    match is_field_value(value) {
        true => Ok(value),
        false => Err(Rule::BadValue(Quoted::new(name))),
    }
}

fn field_kind(kind: u32) -> Result<FieldKind, Rule> {
    FieldKind::from_abi(kind).ok_or(Rule::HeaderKind(kind))
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
