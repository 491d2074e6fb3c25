//! One field line, a header's or a trailer's, in a request's memory.

use nginx_sys::{ngx_str_t, ngx_table_elt_t, ngx_uint_t};

use crate::nginx::ngx::ffi::{self, NoMemory, bytes};
use crate::nginx::ngx::request::Request;

/// Name and value, NUL-terminated: what an element of nginx's lists points at, in one piece of the
/// request's pool.
#[derive(Clone, Copy)]
pub(crate) struct FieldLine {
    key: ngx_str_t,
    value: ngx_str_t,
}

impl FieldLine {
    /// Copies a line into the request's pool.
    pub(crate) fn copy(r: Request, name: &[u8], value: &[u8]) -> Result<Self, NoMemory> {
        let (n, v) = (name.len(), value.len());
        let at = r.allocate(n + v + 2)?;
        // SAFETY: room for both, each with a NUL, none of it overlapping what is copied.
        unsafe {
            let text = at.add(n + 1);
            at.copy_from_nonoverlapping(name.as_ptr(), n);
            at.add(n).write(0);
            text.copy_from_nonoverlapping(value.as_ptr(), v);
            text.add(v).write(0);
            Ok(FieldLine {
                key: ngx_str_t { len: n, data: at },
                value: ngx_str_t { len: v, data: text },
            })
        }
    }

    /// The name in lower case, NUL-terminated, and its hash: what elements of a request have beside.
    pub(crate) fn lower(&self, r: Request) -> Result<(*mut u8, ngx_uint_t), NoMemory> {
        let ngx_str_t { len, data } = self.key;
        let lower = r.allocate(len + 1)?;
        // SAFETY: room for the name and a NUL; ngx_hash_strlow() writes as many bytes as it is told to
        // read.
        unsafe {
            let hash = nginx_sys::ngx_hash_strlow(lower, data, len);
            lower.add(len).write(0);
            Ok((lower, hash))
        }
    }

    pub(crate) fn name(&self) -> &[u8] {
        // SAFETY: the string is in the pool of a request that outlives the line.
        unsafe { bytes(self.key) }
    }

    pub(crate) fn value(&self) -> &[u8] {
        // SAFETY: as for the name.
        unsafe { bytes(self.value) }
    }

    /// The value where nginx keeps it by itself.
    pub(crate) const fn nginx_value(&self) -> ngx_str_t {
        self.value
    }

    /// Changes an element of the same name where it stands; the case of its letters may change.
    ///
    /// # Safety
    /// `element` must be in a list of the line's request.
    pub(crate) unsafe fn take_place_of(self, element: *mut ngx_table_elt_t) {
        // SAFETY: as the caller holds.
        unsafe {
            (*element).key = self.key;
            (*element).value = self.value;
        }
    }

    /// Fills in an element of a response, except for its hash. nginx has no use for a name in lower case
    /// there and often leaves it to chance.
    ///
    /// # Safety
    /// `element` must be room for one in the pool of the line's request.
    pub(crate) unsafe fn write_to(self, element: *mut ngx_table_elt_t) {
        // SAFETY: as the caller holds.
        unsafe {
            ffi::ngx_http_wasm_init_header(element);
            (*element).key = self.key;
            (*element).value = self.value;
            (*element).lowcase_key = self.key.data;
        }
    }
}
