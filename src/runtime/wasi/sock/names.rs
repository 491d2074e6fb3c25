//! `sock_getaddrinfo`: names into addresses, in a list that the guest has laid out.

use std::net::IpAddr;

use wasmtime::Caller;

use super::super::errno::{self, Errno};
use super::super::{Wasi, u32_at};
use super::calls::{Done, check_connects, look_up, refuse, sockets_of};
use super::put;
use crate::escaped::Escaped;
use crate::host::Host;
use crate::host::connect::{LOCAL, LOCALHOST, is_name, may_look_up};
use crate::host::linker::split;
use crate::memory::GuestMemory;
use crate::runtime::instance::Data;

/// Flags, family, type, protocol; the address with its length; the canonical name with its length; the
/// next entry.
const ENTRY_BYTES: u32 = 28;

/// Family, room for the address, where that is.
const SOCKADDR_BYTES: u32 = 12;

/// Room as Rust's client for WasmEdge states it, and as it has it.
const STATED_BYTES: u32 = 14;
const MEANT_BYTES: u32 = 26;

/// Types and protocols of the two that there are.
const DATAGRAM: u8 = 1;
const STREAM: u8 = 2;
const TCP: u32 = 1;
const UDP: u32 = 2;

/// Name, service, hints, the first entry's place, how many entries there are, where their number goes.
type Arguments = (u32, u32, u32, u32, u32, u32, u32, u32);

pub(super) async fn sock_getaddrinfo<H: Host>(
    caller: &mut Caller<'_, Data<H>>,
    (name, name_len, service, service_len, hints, first, max, count): Arguments,
) -> Done {
    let (mut memory, data) = split(caller)?;
    put(&mut memory, count, 0)?;
    let name = text(&memory, name, name_len)?;
    let service = text(&memory, service, service_len)?;
    let hints = memory.bytes(hints, ENTRY_BYTES).map_err(|_| errno::FAULT)?;
    let (family, kind) = (hints[2], hints[3]);
    let first = u32_at(memory.bytes(first, 4).map_err(|_| errno::FAULT)?, 0);
    let port = match &service[..] {
        b"" => None,
        b"http" => Some(80),
        b"https" => Some(443),
        digits => Some(number(digits).ok_or(errno::INVAL)?),
    };
    if name.is_empty() && port.is_none() {
        return Err(errno::INVAL.into());
    }
    Wasi::of(&mut data.wasi).traces.opened_sockets = true;
    let addresses = resolve(data, &name, port).await?;
    let addresses = addresses.into_iter().filter(|address| match family {
        1 => address.is_ipv4(),
        2 => address.is_ipv6(),
        _ => true,
    });
    let kind = if kind == DATAGRAM { DATAGRAM } else { STREAM };
    let (mut memory, _) = split(caller)?;
    let (mut entry, mut written) = (first, 0);
    let mut addresses = addresses.peekable();
    while entry != 0 && written < max {
        let Some(&address) = addresses.peek() else { break };
        if !write(&mut memory, entry, address, port.unwrap_or(0), kind)? {
            addresses.next();
            continue;
        }
        addresses.next();
        written += 1;
        entry = u32_at(memory.bytes(entry, ENTRY_BYTES).map_err(|_| errno::FAULT)?, 24);
    }
    Ok(put(&mut memory, count, written)?)
}

/// A text, which may have a NUL behind it.
fn text(memory: &GuestMemory<'_>, at: u32, len: u32) -> Result<Vec<u8>, Errno> {
    let bytes = memory.bytes(at, len).map_err(|_| errno::FAULT)?;
    Ok(bytes.split(|&b| b == 0).next().unwrap_or_default().to_vec())
}

fn number(digits: &[u8]) -> Option<u16> {
    let digits = std::str::from_utf8(digits).ok()?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Only names of the rules are asked for: questions reach servers that nobody has named.
async fn resolve<H: Host>(data: &mut Data<H>, name: &[u8], port: Option<u16>) -> Done<Vec<IpAddr>> {
    let shown = || Escaped(name).to_string();
    let Ok(name) = std::str::from_utf8(name) else { return Err(errno::NOENT.into()) };
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if name.is_empty() || name == LOCALHOST {
        return Ok(LOCAL.to_vec());
    }
    if !is_name(&name) {
        return Err(errno::NOENT.into());
    }
    if !may_look_up(&sockets_of(data).outbound.rules, &name, port) {
        let port = port.map_or(String::new(), |port| format!(":{port}"));
        let text = format!("may not look up \"{}\"{port} (see http_wasm_connect)", shown());
        return Err(refuse(data, text, errno::ACCES));
    }
    check_connects(data)?;
    let addresses = look_up(data, &name).await?;
    if addresses.is_empty() {
        let text = format!(
            "may not connect to what \"{name}\" has resolved to: addresses of this machine and of its \
             link are allowed by rules for them only (see http_wasm_connect)"
        );
        return Err(refuse(data, text, errno::ACCES));
    }
    Ok(addresses)
}

/// Fills an entry, if its address has room.
fn write(
    memory: &mut GuestMemory<'_>,
    entry: u32,
    address: IpAddr,
    port: u16,
    kind: u8,
) -> Result<bool, Errno> {
    let head = memory.bytes(entry, ENTRY_BYTES).map_err(|_| errno::FAULT)?;
    let sockaddr = u32_at(head, 12);
    let place = memory.bytes(sockaddr, SOCKADDR_BYTES).map_err(|_| errno::FAULT)?;
    let room = match u32_at(place, 4) {
        STATED_BYTES => MEANT_BYTES,
        room => room,
    };
    let data = u32_at(place, 8);
    let mut bytes = port.to_be_bytes().to_vec();
    let family = match address {
        IpAddr::V4(v4) => {
            bytes.extend(v4.octets());
            1
        }
        IpAddr::V6(v6) => {
            bytes.extend(v6.octets());
            2
        }
    };
    if bytes.len() > room as usize {
        return Ok(false);
    }
    memory.buffer(data, bytes.len()).map_err(|_| errno::FAULT)?.copy_from_slice(&bytes);
    memory.buffer(sockaddr, 1).map_err(|_| errno::FAULT)?[0] = family;
    let head = memory.buffer(entry, ENTRY_BYTES as usize).map_err(|_| errno::FAULT)?;
    head[2] = family;
    head[3] = kind;
    head[4..8].copy_from_slice(&if kind == DATAGRAM { UDP } else { TCP }.to_le_bytes());
    // The size of the structure, as others have it; there is no canonical name.
    head[8..12].copy_from_slice(&16u32.to_le_bytes());
    head[20..24].fill(0);
    Ok(true)
}
