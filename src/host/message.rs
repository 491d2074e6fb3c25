//! Host functions on everything but fields and bodies: features, configuration, log, method, URI,
//! protocol, addresses, status and the template pair.
//!
//! A host function asks in this order: may I, are the arguments valid, then does it and answers
//! with a length. [`super::linker`] turns a [`Denied`] into a trap with the function's name.

use super::error::{Denied, Rule};
use super::kept::Kept;
use super::{Host, Phase, State, Status, log};
use crate::abi::{Features, Level};
use crate::escaped::Quoted;
use crate::http::{Target, is_refused_method, is_token};
use crate::memory::GuestMemory;

/// `enable_features`: what is enabled now. After next nothing can be enabled any more, so that
/// what depends on it traps there instead of having no effect.
pub fn enable_features<H: Host>(state: &mut State<H>, asked: u32) -> Result<u32, Denied> {
    let supported = state.any_phase()?.supported_features();
    let granted = Features::from_bits_retain(asked) & supported;
    match state.phase {
        Phase::Start => {
            state.start_features |= granted;
            state.features = state.start_features;
        }
        Phase::Request => state.features |= granted,
        Phase::Response | Phase::Ended => (),
    }
    Ok(state.features.bits())
}

/// `get_config`: the guest's configuration, the same at any time.
pub fn get_config<H: Host>(
    memory: &mut GuestMemory<'_>,
    state: &State<H>,
    buf: u32,
    limit: u32,
) -> Result<u32, Denied> {
    get(memory, buf, limit, &state.config)
}

/// `log`: does not even look at the message when the level is not written.
pub fn log<H: Host>(
    memory: &GuestMemory<'_>,
    state: &mut State<H>,
    level: i32,
    message: u32,
    message_len: u32,
) -> Result<(), Denied> {
    let host = state.any_phase()?;
    if let Some(level) = Level::from_abi(level)
        && host.log_enabled(level)
    {
        log::write(host, level, memory.bytes(message, message_len)?);
    }
    Ok(())
}

/// `log_enabled`.
pub fn log_enabled<H: Host>(state: &mut State<H>, level: i32) -> Result<u32, Denied> {
    let host = state.any_phase()?;
    let enabled = Level::from_abi(level).is_some_and(|level| host.log_enabled(level));
    Ok(u32::from(enabled))
}

/// `get_method`.
pub fn get_method<H: Host>(
    memory: &mut GuestMemory<'_>,
    state: &State<H>,
    buf: u32,
    limit: u32,
) -> Result<u32, Denied> {
    get(memory, buf, limit, state.exchange()?.method())
}

/// `set_method`.
pub fn set_method<H: Host>(
    memory: &GuestMemory<'_>,
    state: &mut State<H>,
    method: u32,
    method_len: u32,
) -> Result<(), Denied> {
    let host = state.request_to_change()?;
    let method = memory.bytes(method, method_len)?;
    if method.is_empty() {
        return Err(Rule::Empty("method").into());
    }
    if !is_token(method) {
        return Err(not_token("method", method));
    }
    if is_refused_method(method) {
        return Err(Rule::RefusedMethod(Quoted::new(method)).into());
    }
    charge(host, method.len())?;
    Ok(host.set_method(method)?)
}

/// `get_uri`: in normal form, which is written straight into the guest's buffer.
pub fn get_uri<H: Host>(
    memory: &mut GuestMemory<'_>,
    state: &State<H>,
    buf: u32,
    limit: u32,
) -> Result<u32, Denied> {
    let target = Target::received(state.exchange()?.uri());
    if let Some(normal) = target.as_normal() {
        return get(memory, buf, limit, normal);
    }
    let len = target.normal_len();
    if len <= limit as usize {
        target.write_to(memory.buffer(buf, len)?);
    }
    Ok(length(len as u64)?)
}

/// `set_uri`.
pub fn set_uri<H: Host>(
    memory: &GuestMemory<'_>,
    state: &mut State<H>,
    uri: u32,
    uri_len: u32,
) -> Result<(), Denied> {
    let host = state.request_to_change()?;
    let uri = memory.bytes(uri, uri_len)?;
    let target = Target::from_guest(uri)
        .map_err(|reason| Rule::BadTarget { reason, text: Quoted::new(uri) })?;
    let target = target.normal();
    // As it was set, decoded, and as it goes on.
    charge(host, 3 * target.len())?;
    Ok(host.set_uri(&target)?)
}

/// `get_protocol_version`.
pub fn get_protocol_version<H: Host>(
    memory: &mut GuestMemory<'_>,
    state: &State<H>,
    buf: u32,
    limit: u32,
) -> Result<u32, Denied> {
    get(memory, buf, limit, state.exchange()?.protocol_version())
}

/// `get_source_addr`.
pub fn get_source_addr<H: Host>(
    memory: &mut GuestMemory<'_>,
    state: &State<H>,
    buf: u32,
    limit: u32,
) -> Result<u32, Denied> {
    get(memory, buf, limit, &state.exchange()?.source_addr())
}

/// `get_status_code`: never traps while there is a request.
pub fn get_status_code<H: Host>(state: &State<H>) -> Result<u32, Denied> {
    let status = match state.status_to_read()? {
        Status::Early(kept) => kept.early.status.unwrap_or(200),
        Status::Response(host) => host.status_code(),
        Status::None => 200,
    };
    Ok(status.into())
}

/// `set_status_code`: an informational one has no effect, because it is not the last word on a request
/// and nginx sends no response before the last.
pub fn set_status_code<H: Host>(state: &mut State<H>, status: u32) -> Result<(), Denied> {
    let place = state.status_to_change()?;
    let status = match u16::try_from(status) {
        Ok(100..=199) => return Ok(()),
        Ok(status @ 200..=999) => status,
        Ok(_) | Err(_) => return Err(Rule::BadStatus(status).into()),
    };
    match place {
        Status::Early(kept) => kept.early.status = Some(status),
        Status::Response(host) => host.set_status_code(status)?,
        Status::None => {}
    }
    Ok(())
}

/// `get_template`.
pub fn get_template<H: Host>(
    memory: &mut GuestMemory<'_>,
    state: &State<H>,
    buf: u32,
    limit: u32,
) -> Result<u32, Denied> {
    get(memory, buf, limit, state.exchange()?.kept().map_or(b"", Kept::template))
}

/// `set_template`.
pub fn set_template<H: Host>(
    memory: &GuestMemory<'_>,
    state: &mut State<H>,
    template: u32,
    template_len: u32,
) -> Result<(), Denied> {
    let host = state.request_to_change()?;
    let template = memory.bytes(template, template_len)?;
    if template.is_empty() {
        return Err(Rule::Empty("template").into());
    }
    match host.kept_mut() {
        Some(kept) => Ok(kept.set_template(template)?),
        None => Ok(()),
    }
}

/// Charges what is about to be set.
fn charge<H: Host>(host: &mut H, bytes: usize) -> Result<(), super::Refusal> {
    host.kept_mut().map_or(Ok(()), |kept| kept.budget.set(bytes))
}

/// The getter rule: the full length whatever the limit is, bytes only when they all fit.
fn get(memory: &mut GuestMemory<'_>, buf: u32, limit: u32, value: &[u8]) -> Result<u32, Denied> {
    let len = memory.write(buf, limit, value)?;
    Ok(length(len)?)
}

/// A length as the ABI returns it. Nothing that a request can carry comes near four gigabytes.
pub(super) fn length(len: u64) -> Result<u32, super::Refusal> {
    u32::try_from(len)
        .map_err(|_| super::Refusal::TooLarge { what: "result", limit: u32::MAX.into() })
}

pub(super) fn not_token(what: &'static str, bytes: &[u8]) -> Denied {
    Denied::Rule(Rule::NotToken { what, text: Quoted::new(bytes) })
}
