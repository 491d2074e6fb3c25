//! Host functions as WebAssembly imports: takes a caller apart into memory and state, calls the
//! plain function, and turns what it refuses into a trap that names it.

use wasmtime::{Caller, Error, Extern, Linker, Memory, Result};

use super::called::{Called, Returned};
use super::error::{Denial, Denied};
use super::{Host, State, body, fields, message};
use crate::abi::{EXPORT_MEMORY, MODULE};
use crate::memory::GuestMemory;

/// What a store must hold for these imports to work.
pub trait Embed: Send + 'static {
    /// The exchange guests work on.
    type Host: Host;

    /// The state of the one instance in this store.
    fn state(&mut self) -> &mut State<Self::Host>;

    /// The guest's memory, once it was looked up.
    fn memory(&mut self) -> &mut Option<Memory>;
}

/// Takes a caller apart in one step, so that bytes go straight from one side to the other.
///
/// The memory is looked up by name at the first host call and kept: start functions call in before
/// anyone holds the finished instance, and a look-up costs ten times what a call does.
pub fn split<'c, T: Embed>(caller: &'c mut Caller<'_, T>) -> Result<(GuestMemory<'c>, &'c mut T)> {
    let memory = match *caller.data_mut().memory() {
        Some(memory) => memory,
        None => {
            let export = caller.get_export(EXPORT_MEMORY).and_then(Extern::into_memory);
            let memory = export.ok_or_else(|| Error::msg("the guest exports no memory"))?;
            *caller.data_mut().memory() = Some(memory);
            memory
        }
    };
    let (bytes, data) = memory.data_and_store_mut(caller);
    Ok((GuestMemory::new(bytes), data))
}

fn deny(function: &'static str, denied: impl Into<Denied>) -> Error {
    let denied = denied.into();
    Error::new(Denial { function, denied })
}

/// Tells an embedder that wants to know of a call.
fn tell<T: Embed, R: Returned>(
    data: &mut T,
    memory: &GuestMemory<'_>,
    function: &'static str,
    arguments: &[(&'static str, i64)],
    result: &std::result::Result<R, Denied>,
) {
    if T::Host::TRACES
        && let Ok(host) = data.state().any_phase()
    {
        let result = result.as_ref().map(|result| result.raw());
        host.called(&Called { function, arguments, result, memory });
    }
}

/// Defines one import; the closure body sees the guest's memory, the state and the integers.
macro_rules! host_fn {
    ($linker:ident, $function:literal, |$memory:ident, $state:ident $(, $arg:ident: $ty:ty)*| $call:expr) => {
        $linker.func_wrap(
            MODULE,
            $function,
            |mut caller: Caller<'_, T> $(, $arg: $ty)*| {
                let (mut memory, data) = split(&mut caller)?;
                let result = {
                    let ($memory, $state) = (&mut memory, data.state());
                    $call
                };
                tell(data, &memory, $function, &[$((stringify!($arg), i64::from($arg))),*], &result);
                result.map_err(|denied| deny($function, denied))
            },
        )?
    };
}

/// Defines every function of the ABI, whether or not a guest imports it and whether or not its
/// feature can be granted: a guest that imports what it never calls must load.
pub fn add_to_linker<T: Embed>(linker: &mut Linker<T>) -> Result<()> {
    host_fn!(linker, "enable_features", |_memory, state, features: u32| {
        message::enable_features(state, features)
    });
    host_fn!(linker, "get_config", |memory, state, buf: u32, limit: u32| {
        message::get_config(memory, state, buf, limit)
    });
    host_fn!(linker, "log", |memory, state, level: i32, text: u32, len: u32| {
        message::log(memory, state, level, text, len)
    });
    host_fn!(linker, "log_enabled", |_memory, state, level: i32| {
        message::log_enabled(state, level)
    });
    host_fn!(linker, "get_method", |memory, state, buf: u32, limit: u32| {
        message::get_method(memory, state, buf, limit)
    });
    host_fn!(linker, "set_method", |memory, state, method: u32, len: u32| {
        message::set_method(memory, state, method, len)
    });
    host_fn!(linker, "get_uri", |memory, state, buf: u32, limit: u32| {
        message::get_uri(memory, state, buf, limit)
    });
    host_fn!(linker, "set_uri", |memory, state, uri: u32, len: u32| {
        message::set_uri(memory, state, uri, len)
    });
    host_fn!(linker, "get_protocol_version", |memory, state, buf: u32, limit: u32| {
        message::get_protocol_version(memory, state, buf, limit)
    });
    host_fn!(linker, "get_source_addr", |memory, state, buf: u32, limit: u32| {
        message::get_source_addr(memory, state, buf, limit)
    });
    host_fn!(linker, "get_status_code", |_memory, state| message::get_status_code(state));
    host_fn!(linker, "set_status_code", |_memory, state, status: u32| {
        message::set_status_code(state, status)
    });
    host_fn!(linker, "get_template", |memory, state, buf: u32, limit: u32| {
        message::get_template(memory, state, buf, limit)
    });
    host_fn!(linker, "set_template", |memory, state, template: u32, len: u32| {
        message::set_template(memory, state, template, len)
    });
    add_fields(linker)?;
    add_bodies(linker)
}

fn add_fields<T: Embed>(linker: &mut Linker<T>) -> Result<()> {
    host_fn!(linker, "get_header_names", |memory, state, kind: u32, buf: u32, limit: u32| {
        fields::get_header_names(memory, state, kind, buf, limit)
    });
    host_fn!(linker, "get_header_values", |memory,
                                           state,
                                           kind: u32,
                                           name: u32,
                                           name_len: u32,
                                           buf: u32,
                                           limit: u32| {
        fields::get_header_values(memory, state, kind, (name, name_len), (buf, limit))
    });
    host_fn!(
        linker,
        "set_header_value",
        |memory, state, kind: u32, name: u32, name_len: u32, value: u32, value_len: u32| {
            fields::set_header_value(memory, state, kind, (name, name_len), (value, value_len))
        }
    );
    host_fn!(
        linker,
        "add_header_value",
        |memory, state, kind: u32, name: u32, name_len: u32, value: u32, value_len: u32| {
            fields::add_header_value(memory, state, kind, (name, name_len), (value, value_len))
        }
    );
    host_fn!(linker, "remove_header", |memory, state, kind: u32, name: u32, name_len: u32| {
        fields::remove_header(memory, state, kind, (name, name_len))
    });
    Ok(())
}

/// Defines one import that may have to wait.
macro_rules! waiting_host_fn {
    ($linker:ident, $function:literal, |$memory:ident, $state:ident $(, $arg:ident)*| $call:expr) => {
        $linker.func_wrap_async(
            MODULE,
            $function,
            |mut caller: Caller<'_, T>, ($($arg,)*): ($(waiting_host_fn!(@u32 $arg),)*)| {
                Box::new(async move {
                    let (mut memory, data) = split(&mut caller)?;
                    let result = {
                        let ($memory, $state) = (&mut memory, data.state());
                        $call.await
                    };
                    let arguments = [$((stringify!($arg), i64::from($arg))),*];
                    tell(data, &memory, $function, &arguments, &result);
                    result.map_err(|denied| deny($function, denied))
                })
            },
        )?
    };
    (@u32 $arg:ident) => { u32 };
}

fn add_bodies<T: Embed>(linker: &mut Linker<T>) -> Result<()> {
    waiting_host_fn!(linker, "read_body", |memory, state, kind, buf, limit| {
        body::read_body(memory, state, kind, buf, limit)
    });
    waiting_host_fn!(linker, "write_body", |memory, state, kind, body, len| {
        body::write_body(memory, state, kind, body, len)
    });
    Ok(())
}
