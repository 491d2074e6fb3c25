//! `http_wasm_pool` and `http_wasm_breaker`: how many instances a guest has, and when it gets none.

use super::{once, time};
use crate::nginx::conf::cf::{Cf, ConfError};
use crate::nginx::conf::settings::LocConf;
use crate::nginx::guests::service::PoolSettings;
use crate::nginx::ngx::log::Escaped;
use crate::runtime::breaker;

/// `http_wasm_pool [max=N] [min=N] [start=N] [idle=N] [idle_timeout=TIME|off] [queue=N] [wait=TIME] [requests=N];`
pub(super) fn pool(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let mut settings = PoolSettings::default();
    for Parameter { arg, key, value } in parameters(cf)? {
        match key {
            b"max" => settings.max = Some(number(arg, value, 1)?),
            b"min" => settings.min = number(arg, value, 0)?,
            b"start" => settings.start = number(arg, value, 1)?,
            b"idle" => settings.idle = number(arg, value, 0)?,
            b"idle_timeout" => {
                settings.idle_timeout = match value {
                    b"off" => None,
                    _ => Some(time(value)?),
                };
            }
            b"queue" => settings.queue = Some(number(arg, value, 0)?),
            b"requests" => settings.requests = number(arg, value, 1)? as u64,
            b"wait" => settings.wait = time(value)?,
            _ => {
                return Err(ConfError::new(format!(
                    "invalid parameter \"{}\": \"http_wasm_pool\" takes max=, min=, start=, idle=, \
                     idle_timeout=, queue=, wait= and requests=",
                    Escaped(arg)
                )));
            }
        }
    }
    let PoolSettings { min, max, idle, .. } = settings;
    if min > max.unwrap_or(usize::MAX).min(idle) {
        return Err(ConfError::new(format!(
            "\"min=\" of \"http_wasm_pool\" is {min}: expected no more than \"max=\" and \"idle=\""
        )));
    }
    once(cf, &mut loc.pool, settings)
}

/// `http_wasm_breaker off | [max_fails=N] [backoff=TIME] [max_backoff=TIME];`
pub(super) fn breaker(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    if cf.args().get(1..) == Some(&[b"off"]) {
        return once(cf, &mut loc.breaker, None);
    }
    let mut settings = breaker::Settings::default();
    let mut max_backoff = None;
    for Parameter { arg, key, value } in parameters(cf)? {
        match key {
            b"max_fails" => {
                settings.max_fails = u32::try_from(number(arg, value, 1)?).unwrap_or(u32::MAX);
            }
            b"backoff" => settings.backoff = time(value)?,
            b"max_backoff" => max_backoff = Some(time(value)?),
            _ => {
                return Err(ConfError::new(format!(
                    "invalid parameter \"{}\": \"http_wasm_breaker\" takes \"off\" alone, or \
                     max_fails=, backoff= and max_backoff=",
                    Escaped(arg)
                )));
            }
        }
    }
    settings.max_backoff = max_backoff.unwrap_or(settings.max_backoff.max(settings.backoff));
    if settings.max_backoff < settings.backoff {
        return Err(ConfError::new(format!(
            "\"max_backoff=\" of \"http_wasm_breaker\" is {} ms: expected at least the {} ms of \
             \"backoff=\"",
            settings.max_backoff.as_millis(),
            settings.backoff.as_millis()
        )));
    }
    once(cf, &mut loc.breaker, Some(settings))
}

/// `KEY=VALUE` of a directive.
pub(super) struct Parameter<'a> {
    /// As it was written.
    pub(super) arg: &'a [u8],
    pub(super) key: &'a [u8],
    /// Empty without an equals sign.
    pub(super) value: &'a [u8],
}

/// The parameters of a directive, each of which may be given once.
pub(super) fn parameters(cf: &Cf) -> Result<Vec<Parameter<'_>>, ConfError> {
    let mut parameters: Vec<Parameter<'_>> = Vec::new();
    for &arg in cf.args().iter().skip(1) {
        let (key, value) = match arg.iter().position(|&b| b == b'=') {
            Some(at) => (&arg[..at], &arg[at + 1..]),
            None => (arg, b"".as_slice()),
        };
        if parameters.iter().any(|other| other.key == key) {
            return Err(ConfError::new(format!("duplicate parameter \"{}\"", Escaped(arg))));
        }
        parameters.push(Parameter { arg, key, value });
    }
    Ok(parameters)
}

/// A number, at least `least`.
pub(super) fn number(arg: &[u8], value: &[u8], least: usize) -> Result<usize, ConfError> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|&number| number >= least)
        .ok_or_else(|| {
            ConfError::new(format!(
                "invalid value \"{}\": expected a number, {least} or more",
                Escaped(arg)
            ))
        })
}
