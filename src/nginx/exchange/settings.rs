//! What an exchange needs of the configuration. The records of `conf` begin with these, so that a
//! request's slots lead here.

use std::cell::OnceCell;
use std::rc::Rc;

use nginx_sys::ngx_uint_t;

use crate::logged::Wanted;
use crate::nginx::exchange::host::Plugin;
use crate::nginx::guests::status::Meters;
use crate::nginx::ngx::ffi::NoMemory;
use crate::nginx::ngx::headers_in;
use crate::nginx::ngx::headers_out;
use crate::nginx::ngx::module;
use crate::nginx::ngx::request::Request;
use crate::nginx::ngx::spool::Room;
use crate::nginx::ngx::text::Text;

/// Of the `http` block.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Http {
    /// Figures of the guests; first, as `guests` expects it.
    pub(crate) meters: Meters,
    /// What of the guests' messages variables are used for.
    pub(crate) wanted: Wanted,
    /// Where `$request_id` is, if the configuration uses it.
    pub(crate) request_id: Option<ngx_uint_t>,
    /// Indices of the variables that mirror the request, once somebody asks.
    pub(crate) mirrors: OnceCell<Vec<ngx_uint_t>>,
}

impl Http {
    /// That of the configuration a request is served under.
    pub(crate) fn of<'a>(r: Request) -> Option<&'a Http> {
        r.main_conf(module::ctx_index())
    }

    /// `$request_id`, where the configuration uses it.
    pub(crate) fn request_id_of<'a>(r: Request) -> Option<&'a [u8]> {
        r.variable(Http::of(r)?.request_id?)
    }
}

/// Forgets the variables that nginx has looked at before a guest changed what they mirror.
pub(crate) fn forget_variables(r: Request) {
    if let Some(http) = Http::of(r) {
        headers_in::forget_variables(r, http.mirrors.get_or_init(|| headers_in::mirrors(r)));
    }
}

/// A guest of a location.
pub(crate) struct Listed {
    pub(crate) plugin: Rc<Plugin>,
    /// For which requests (`if=`).
    pub(crate) condition: Option<Text>,
}

impl Listed {
    /// Whether a request is to go through it.
    pub(crate) fn applies(&self, r: Request) -> Result<bool, NoMemory> {
        self.condition.map_or(Ok(true), |condition| condition.holds(r))
    }
}

/// A field that guests find among the request's (`http_wasm_field`).
#[derive(Clone)]
pub(crate) struct Given {
    /// In lower case.
    pub(crate) name: Vec<u8>,
    pub(crate) value: Text,
}

/// Of a location.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Location {
    /// Its guests, in the order of requests.
    pub(crate) guests: Vec<Listed>,
    /// `http_wasm_response_buffer`.
    pub(crate) response_buffer: Option<Room>,
    /// `http_wasm_buffer_types`, in lower case.
    pub(crate) buffer_types: Option<Rc<Vec<Vec<u8>>>>,
    /// `http_wasm_field`.
    pub(crate) given: Option<Rc<Vec<Given>>>,
    /// `http_wasm_intercept_errors`.
    pub(crate) intercept_errors: Option<bool>,
}

impl Location {
    fn of<'a>(r: Request) -> Option<&'a Location> {
        r.loc_conf(module::ctx_index())
    }

    /// The guests of the location the request is in; empty where there are none.
    pub(crate) fn guests<'a>(r: Request) -> &'a [Listed] {
        Location::of(r).map_or(&[], |location| &location.guests)
    }

    /// The fields that guests find there among the request's.
    pub(crate) fn given<'a>(r: Request) -> &'a [Given] {
        Location::of(r).and_then(|location| location.given.as_deref()).map_or(&[], Vec::as_slice)
    }

    /// Whether guests that want whole responses get this one whole, by its type.
    pub(crate) fn buffers(r: Request) -> bool {
        let Some(types) = Location::of(r).and_then(|location| location.buffer_types.as_deref())
        else {
            return true;
        };
        let this = headers_out::content_type(r);
        types.iter().any(|other| other == b"*" || this.eq_ignore_ascii_case(other))
    }

    /// Whether `error_page` has its say about what guests answer.
    pub(crate) fn intercepts_errors(r: Request) -> bool {
        Location::of(r).and_then(|location| location.intercept_errors).unwrap_or(false)
    }

    /// How much of a response may be held, and how much of that in memory.
    pub(crate) fn response_room(r: Request) -> Room {
        Location::of(r).and_then(|location| location.response_buffer).unwrap_or(Room::RESPONSE)
    }
}
