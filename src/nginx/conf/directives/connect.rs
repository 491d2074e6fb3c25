//! `http_wasm_connect` and `http_wasm_sockets`: where guests may connect to, and what their sockets may
//! use.

use super::pool::{Parameter, number, parameters};
use super::{once, size, time};
use crate::host::connect::{Outbound, Rule};
use crate::nginx::conf::cf::{Cf, ConfError};
use crate::nginx::conf::settings::LocConf;
use crate::nginx::ngx::log::Escaped;

/// `http_wasm_connect off | ADDRESS[:PORT] | NETWORK/MASK[:PORT] | HOST:PORT | unix:PATH;`
pub(super) fn connect(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let arg = cf.argument()?;
    if arg == b"off" {
        return match &loc.connect {
            None => {
                loc.connect = Some(Vec::new());
                Ok(())
            }
            Some(rules) if rules.is_empty() => {
                Err(ConfError::new("\"http_wasm_connect off\" is duplicate"))
            }
            Some(_) => Err(beside_off()),
        };
    }
    let rule = Rule::parse(arg)
        .map_err(|error| ConfError::new(format!("invalid value \"{}\": {error}", Escaped(arg))))?;
    match &mut loc.connect {
        None => loc.connect = Some(vec![rule]),
        Some(rules) if rules.is_empty() => return Err(beside_off()),
        Some(rules) if rules.contains(&rule) => {
            let arg = Escaped(arg);
            return Err(ConfError::new(format!("\"http_wasm_connect {arg}\" is duplicate")));
        }
        Some(rules) => rules.push(rule),
    }
    Ok(())
}

fn beside_off() -> ConfError {
    ConfError::new(
        "\"http_wasm_connect off\" cannot stand beside other \"http_wasm_connect\" on one level",
    )
}

/// `http_wasm_sockets [max=N] [buffer=SIZE] [connect_timeout=TIME] [timeout=TIME];`
pub(super) fn sockets(cf: &Cf, loc: &mut LocConf) -> Result<(), ConfError> {
    let mut outbound = Outbound::default();
    for Parameter { arg, key, value } in parameters(cf)? {
        match key {
            b"max" => outbound.max = number(arg, value, 1)?,
            b"buffer" => outbound.buffer_bytes = buffer(arg, value)?,
            b"connect_timeout" => outbound.connect_timeout = time(value)?,
            b"timeout" => outbound.timeout = time(value)?,
            _ => {
                return Err(ConfError::new(format!(
                    "invalid parameter \"{}\": \"http_wasm_sockets\" takes max=, buffer=, \
                     connect_timeout= and timeout=",
                    Escaped(arg)
                )));
            }
        }
    }
    once(cf, &mut loc.sockets, outbound)
}

/// The system takes them as numbers with a sign, and makes twice of them.
fn buffer(arg: &[u8], value: &[u8]) -> Result<usize, ConfError> {
    const LEAST: u64 = 4 << 10;
    const MOST: u64 = 256 << 20;
    match size(arg, value)? {
        bytes @ LEAST..=MOST => Ok(bytes as usize),
        _ => {
            Err(ConfError::new(format!("invalid value \"{}\": expected 4k to 256m", Escaped(arg))))
        }
    }
}
