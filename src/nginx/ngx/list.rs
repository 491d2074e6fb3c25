//! nginx's lists of fields: walking them, and adding to them. A list may not be initialised yet (a
//! request that nginx refuses before its headers has none), and nginx empties one by its first part
//! alone, which must therefore keep the room that the list promises (`nalloc`).

use nginx_sys::{ngx_list_part_t, ngx_list_push, ngx_list_t, ngx_table_elt_t, ngx_uint_t};

use crate::nginx::ngx::ffi::NoMemory;
use crate::nginx::ngx::request::Request;

/// Room of a list that nobody has initialised: what nginx gives the request's own.
const ROOM: ngx_uint_t = 20;

/// The elements of a list, in order, removed ones included.
pub(crate) struct Elements {
    part: *const ngx_list_part_t,
    at: usize,
}

impl Elements {
    /// # Safety
    /// `list` must be a list of `ngx_table_elt_t`, or zeroed, that nobody changes while the iterator
    /// is in use.
    pub(crate) unsafe fn of(list: *const ngx_list_t) -> Self {
        // SAFETY: only an address is taken of the live list.
        let part = unsafe { &raw const (*list).part };
        Elements { part, at: 0 }
    }
}

impl Iterator for Elements {
    type Item = *mut ngx_table_elt_t;

    fn next(&mut self) -> Option<Self::Item> {
        // SAFETY: parts are linked until null and hold `nelts` elements each (contract of `of`).
        unsafe {
            while let Some(part) = self.part.as_ref() {
                if self.at < part.nelts {
                    let element = part.elts.cast::<ngx_table_elt_t>().add(self.at);
                    self.at += 1;
                    return Some(element);
                }
                self.part = part.next;
                self.at = 0;
            }
        }
        None
    }

    // All at once, without looking for the part each time: most guests look for one name.
    fn fold<B, F: FnMut(B, Self::Item) -> B>(self, init: B, mut f: F) -> B {
        let (mut accumulated, mut at, mut next) = (init, self.at, self.part);
        // SAFETY: as in `next`.
        unsafe {
            while let Some(part) = next.as_ref() {
                let elements = part.elts.cast::<ngx_table_elt_t>();
                for at in at..part.nelts {
                    accumulated = f(accumulated, elements.add(at));
                }
                (at, next) = (0, part.next);
            }
        }
        accumulated
    }
}

/// Room for one more element at the end of a list, which is initialised if nobody has done that.
///
/// # Safety
/// `list` must be a list of `ngx_table_elt_t` in the live request `r`, or zeroed.
pub(crate) unsafe fn push(
    r: Request,
    list: *mut ngx_list_t,
) -> Result<*mut ngx_table_elt_t, NoMemory> {
    // SAFETY: as the caller holds. nginx sets `last` when it initialises a list, and never to null.
    let element = unsafe {
        if (*list).last.is_null() {
            init(r, list, ROOM)?;
        }
        ngx_list_push(list).cast::<ngx_table_elt_t>()
    };
    if element.is_null() { Err(NoMemory) } else { Ok(element) }
}

/// Puts elements before those of a list, whose own must not move: slots point at them. They become
/// the list's embedded part, which is the one that nginx keeps when it empties the list
/// (`ngx_http_clean_header()`), and then fills up to `nalloc`.
///
/// # Safety
/// As for [`push`]; the list must have at least one element, since nginx takes the first element of
/// every further part for granted. `fill` is told where each of `count` new elements goes, and must
/// initialise it.
pub(crate) unsafe fn put_before(
    r: Request,
    list: *mut ngx_list_t,
    count: usize,
    mut fill: impl FnMut(usize, *mut ngx_table_elt_t),
) -> Result<(), NoMemory> {
    if count == 0 {
        return Ok(());
    }
    // SAFETY: the request is live. The embedded part's copy takes its place behind the new one,
    // which is never the last, so nothing is pushed to it before nginx has emptied the list.
    unsafe {
        let room = count.max((*list).nalloc);
        let elements = nginx_sys::ngx_pcalloc(r.pool(), room * size_of::<ngx_table_elt_t>())
            .cast::<ngx_table_elt_t>();
        let rest = r.zeroed::<ngx_list_part_t>()?;
        if elements.is_null() {
            return Err(NoMemory);
        }
        for at in 0..count {
            fill(at, elements.add(at));
        }
        *rest = (*list).part;
        if (*list).last == &raw mut (*list).part {
            (*list).last = rest;
        }
        (*list).part.elts = elements.cast();
        (*list).part.nelts = count;
        (*list).part.next = rest;
    }
    Ok(())
}

/// Makes copies of these elements the list.
///
/// # Safety
/// As for [`push`]; the elements' strings must live as long as the request.
pub(crate) unsafe fn replace(
    r: Request,
    list: *mut ngx_list_t,
    elements: &[ngx_table_elt_t],
) -> Result<(), NoMemory> {
    // SAFETY: as the caller holds. Elements are copied bit by bit into the request's pool; the old
    // part is left as it is.
    unsafe {
        let room = elements.len().max(ROOM);
        init(r, list, room)?;
        let to = (*list).part.elts.cast::<ngx_table_elt_t>();
        to.copy_from_nonoverlapping(elements.as_ptr(), elements.len());
        (*list).part.nelts = elements.len();
    }
    Ok(())
}

/// `ngx_list_init()`, which has no symbol. Nothing has changed when it fails.
///
/// # Safety
/// As for [`push`].
unsafe fn init(r: Request, list: *mut ngx_list_t, room: ngx_uint_t) -> Result<(), NoMemory> {
    // SAFETY: the pool is the live request's, and the list is ours to change.
    unsafe {
        let elements = nginx_sys::ngx_pcalloc(r.pool(), room * size_of::<ngx_table_elt_t>());
        if elements.is_null() {
            return Err(NoMemory);
        }
        (*list).part.elts = elements;
        (*list).part.nelts = 0;
        (*list).part.next = std::ptr::null_mut();
        (*list).last = &raw mut (*list).part;
        (*list).size = size_of::<ngx_table_elt_t>();
        (*list).nalloc = room;
        (*list).pool = r.pool();
    }
    Ok(())
}
