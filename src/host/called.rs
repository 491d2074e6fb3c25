//! One call of a host function as it ended, for embedders that show what a guest does.

use super::error::Denied;
use crate::memory::GuestMemory;

/// What [`crate::host::Host::called`] is told.
pub struct Called<'a> {
    /// The function as the guest imports it.
    pub function: &'static str,
    /// Names and values of its arguments. Bytes that a guest passes are a `pointer` and a `length`
    /// behind each other, called `x` and `x_len` or just `len`; room for a result is `buf` and
    /// `limit`.
    pub arguments: &'a [(&'static str, i64)],
    /// What the guest gets, `None` for functions without a result; or why its call ends here.
    pub result: Result<Option<u64>, &'a Denied>,
    /// The guest's memory after the call.
    pub memory: &'a GuestMemory<'a>,
}

/// What host functions return.
pub(super) trait Returned: Copy {
    fn raw(self) -> Option<u64>;
}

impl Returned for () {
    fn raw(self) -> Option<u64> {
        None
    }
}

impl Returned for u32 {
    fn raw(self) -> Option<u64> {
        Some(self.into())
    }
}

impl Returned for u64 {
    fn raw(self) -> Option<u64> {
        Some(self)
    }
}
