//! The `http_handler` ABI as numbers and names: import and export names, kinds, features, log
//! levels and the packed 64-bit results. Nothing here touches memory or knows an engine.

use std::fmt;

use bitflags::bitflags;

/// Import module of every host function.
pub const MODULE: &str = "http_handler";
/// Import module of WASI preview 1.
pub const WASI_MODULE: &str = "wasi_snapshot_preview1";
/// The memory a guest must export.
pub const EXPORT_MEMORY: &str = "memory";
/// `() -> i64`, called before the next handler.
pub const EXPORT_HANDLE_REQUEST: &str = "handle_request";
/// `(i32 request context, i32 is_error) -> ()`, called after the next handler.
pub const EXPORT_HANDLE_RESPONSE: &str = "handle_response";

bitflags! {
    /// The optional behaviour that a guest asks for with `enable_features`. Bits that the ABI does
    /// not define are kept (`from_bits_retain`) and masked later.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct Features: u32 {
        /// The next handler sees the complete original body however much the guest read.
        const BUFFER_REQUEST = 1;
        /// `handle_response` may read and replace the response body.
        const BUFFER_RESPONSE = 2;
        /// Trailers may be set.
        const TRAILERS = 4;
    }
}

impl Features {
    /// The names that the ABI's specification has for those that it defines.
    pub fn names(self) -> impl Iterator<Item = String> {
        self.iter_names().map(|(name, _)| name.to_lowercase())
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// Which list of fields a header function works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// Request headers.
    Request,
    /// Response headers.
    Response,
    /// Request trailers.
    RequestTrailers,
    /// Response trailers.
    ResponseTrailers,
}

impl FieldKind {
    /// The kind behind the number a guest passes, if there is one.
    pub const fn from_abi(kind: u32) -> Option<Self> {
        match kind {
            0 => Some(Self::Request),
            1 => Some(Self::Response),
            2 => Some(Self::RequestTrailers),
            3 => Some(Self::ResponseTrailers),
            _ => None,
        }
    }

    /// Whether the fields belong to the request.
    pub const fn of_request(self) -> bool {
        matches!(self, Self::Request | Self::RequestTrailers)
    }

    /// Whether the fields are trailers.
    pub const fn is_trailers(self) -> bool {
        matches!(self, Self::RequestTrailers | Self::ResponseTrailers)
    }
}

/// Which body a body function works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// The request body.
    Request,
    /// The response body.
    Response,
}

impl BodyKind {
    /// The kind behind the number a guest passes, if there is one.
    pub const fn from_abi(kind: u32) -> Option<Self> {
        match kind {
            0 => Some(Self::Request),
            1 => Some(Self::Response),
            _ => None,
        }
    }
}

/// Severity of a guest's log line. Level 3 ("none") and above is never written and has no value here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// −1 and below.
    Debug,
    /// 0.
    Info,
    /// 1.
    Warn,
    /// 2.
    Error,
}

impl Level {
    /// The level behind the number a guest passes; `None` for "none" and above.
    pub const fn from_abi(level: i32) -> Option<Self> {
        match level {
            i32::MIN..=-1 => Some(Self::Debug),
            0 => Some(Self::Info),
            1 => Some(Self::Warn),
            2 => Some(Self::Error),
            _ => None,
        }
    }
}

/// What `handle_request` decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The guest's response is the response; `handle_response` is not called.
    Stop,
    /// The next handler runs, then `handle_response(ctx, …)`.
    Continue {
        /// The guest's opaque request context, handed back bit-exact.
        ctx: u32,
        /// The low word was not 1: tolerated, worth one warning (spec: 0 or 1).
        odd: bool,
    },
}

impl Next {
    /// Decodes the `ctx_next` result: low word next, high word request context.
    pub const fn from_abi(ctx_next: u64) -> Self {
        match ctx_next as u32 {
            0 => Self::Stop,
            next => Self::Continue { ctx: (ctx_next >> 32) as u32, odd: next != 1 },
        }
    }
}

/// Packs the result of the list functions: `count << 32 | byte_len`.
pub const fn count_len(count: u32, len: u32) -> u64 {
    (count as u64) << 32 | len as u64
}

/// Packs the result of `read_body`: `eof << 32 | len`.
pub const fn eof_len(eof: bool, len: u32) -> u64 {
    (eof as u64) << 32 | len as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctx_next_keeps_all_bits_of_the_context() {
        assert_eq!(Next::from_abi(16 << 32), Next::Stop);
        assert_eq!(
            Next::from_abi(0xffff_fffe_0000_0001),
            Next::Continue { ctx: 0xffff_fffe, odd: false }
        );
        assert_eq!(Next::from_abi(2), Next::Continue { ctx: 0, odd: true });
    }

    #[test]
    fn packed_results_match_the_examples_of_the_spec() {
        assert_eq!(eof_len(true, 0), 4294967296);
        assert_eq!(eof_len(false, 16), 16);
        assert_eq!(eof_len(true, 4), 4294967300);
        assert_eq!(count_len(2, 7), 2 << 32 | 7);
    }

    #[test]
    fn levels_above_error_are_not_written() {
        assert_eq!(Level::from_abi(-2), Some(Level::Debug));
        assert_eq!(Level::from_abi(2), Some(Level::Error));
        assert_eq!(Level::from_abi(3), None);
    }

    #[test]
    fn features_print_their_names() {
        let both = Features::BUFFER_REQUEST | Features::TRAILERS;
        assert_eq!(format!("{both:?}"), "{buffer_request, trailers}");
    }
}
