//! One field line, a header's or a trailer's, in a request's memory.

use nginx_sys::{ngx_str_t, ngx_table_elt_t, ngx_uint_t};

use crate::nginx::ngx::ffi::{self, NoMemory, bytes};
use crate::nginx::ngx::request::Request;

/// Name and value, NUL-terminated, with the name's lower case and hash: all that an element of
/// nginx's lists points at, in one piece of the request's pool.
#[derive(Clone, Copy)]
pub(crate) struct FieldLine {
    key: ngx_str_t,
    value: ngx_str_t,
    lowcase: *mut u8,
    hash: ngx_uint_t,
}

impl FieldLine {
    /// Copies a line into the request's pool.
    pub(crate) fn copy(r: Request, name: &[u8], value: &[u8]) -> Result<Self, NoMemory> {
        let (n, v) = (name.len(), value.len());
        let at = r.allocate(2 * n + v + 3)?;
        // SAFETY: room for the name twice and the value, each with a NUL, none of it overlapping
        // what is copied; ngx_hash_strlow() writes as many bytes as it is told to read.
        unsafe {
            let (lowcase, text) = (at.add(n + 1), at.add(2 * n + 2));
            at.copy_from_nonoverlapping(name.as_ptr(), n);
            at.add(n).write(0);
            let hash = nginx_sys::ngx_hash_strlow(lowcase, at, n);
            lowcase.add(n).write(0);
            text.copy_from_nonoverlapping(value.as_ptr(), v);
            text.add(v).write(0);
            Ok(FieldLine {
                key: ngx_str_t { len: n, data: at },
                value: ngx_str_t { len: v, data: text },
                lowcase,
                hash,
            })
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

    /// Fills in an element.
    ///
    /// # Safety
    /// `element` must be room for one in the pool of the line's request.
    pub(crate) unsafe fn write_to(self, element: *mut ngx_table_elt_t) {
        // SAFETY: as the caller holds.
        unsafe {
            ffi::ngx_http_wasm_init_header(element);
            (*element).key = self.key;
            (*element).value = self.value;
            (*element).lowcase_key = self.lowcase;
            (*element).hash = self.hash;
        }
    }
}
