//! Addresses as they lie in a guest's memory: a pointer and a length at a place of their own, and
//! there 4 or 16 bytes, or 128 with the family in front. Which it is the length says.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use rustix::net::{SocketAddrAny, SocketAddrUnix};

use super::super::errno::{self, Errno};
use super::super::u32_at;
use super::{Family, put};
use crate::escaped::Escaped;
use crate::memory::GuestMemory;

/// The older form: nothing but an address of IPv4 or IPv6.
const PLAIN_BYTES: u32 = 16;

/// The newer one: two bytes for the family, then the address, or a path with its NUL.
const TAGGED_BYTES: u32 = 128;

/// Where a socket is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Ip(SocketAddr),
    /// Empty for one without a name.
    Unix(Vec<u8>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "unix:{}", Escaped(path)),
        }
    }
}

impl Address {
    /// What a guest passes in.
    pub(super) fn read(memory: &GuestMemory<'_>, at: u32, port: u32) -> Result<Self, Errno> {
        let pair = memory.bytes(at, 8).map_err(|_| errno::FAULT)?;
        let (start, len) = (u32_at(pair, 0), u32_at(pair, 4));
        if !matches!(len, 4 | PLAIN_BYTES | TAGGED_BYTES) {
            return Err(errno::INVAL);
        }
        let bytes = memory.bytes(start, len).map_err(|_| errno::FAULT)?;
        let port = u16::try_from(port).map_err(|_| errno::INVAL)?;
        let bytes = match bytes.split_first_chunk() {
            Some((tag, rest)) if len == TAGGED_BYTES => {
                let family = Family::of(u16::from_le_bytes(*tag).into())?;
                let end = match family {
                    Family::V4 => 4,
                    Family::V6 => 16,
                    Family::Unix => {
                        let end = rest.iter().position(|&b| b == 0).ok_or(errno::INVAL)?;
                        return Ok(Address::Unix(rest[..end].to_vec()));
                    }
                };
                &rest[..end]
            }
            _ => bytes,
        };
        let ip = match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
            (Ok(v4), _) => IpAddr::from(v4),
            (_, Ok(v6)) => IpAddr::from(v6),
            _ => return Err(errno::INVAL),
        };
        Ok(Address::Ip(SocketAddr::new(ip, port)))
    }

    /// What the system says.
    pub(super) fn of(address: &SocketAddrAny) -> Option<Self> {
        if let Ok(ip) = SocketAddr::try_from(address.clone()) {
            return Some(Address::Ip(ip));
        }
        let unix = SocketAddrUnix::try_from(address.clone()).ok()?;
        Some(Address::Unix(unix.path_bytes().unwrap_or_default().to_vec()))
    }

    /// Writes it where the guest wants it.
    pub(super) fn write(&self, memory: &mut GuestMemory<'_>, at: u32) -> Result<(), Errno> {
        let pair = memory.bytes(at, 8).map_err(|_| errno::FAULT)?;
        let (start, len) = (u32_at(pair, 0), u32_at(pair, 4));
        if len < PLAIN_BYTES {
            return Err(errno::INVAL);
        }
        let len = if len < TAGGED_BYTES { PLAIN_BYTES } else { TAGGED_BYTES };
        let buffer = memory.buffer(start, len as usize).map_err(|_| errno::FAULT)?;
        buffer.fill(0);
        let rest = match buffer.split_first_chunk_mut() {
            Some((tag, rest)) if len == TAGGED_BYTES => {
                *tag = (self.family() as u16).to_le_bytes();
                rest
            }
            _ => buffer,
        };
        match self {
            Address::Ip(address) => match address.ip() {
                IpAddr::V4(v4) => rest[..4].copy_from_slice(&v4.octets()),
                IpAddr::V6(v6) => rest[..16].copy_from_slice(&v6.octets()),
            },
            Address::Unix(_) if len == PLAIN_BYTES => return Err(errno::AFNOSUPPORT),
            Address::Unix(path) => match rest.get_mut(..path.len() + 1) {
                Some(place) => place[..path.len()].copy_from_slice(path),
                None => return Err(errno::INVAL),
            },
        }
        Ok(())
    }

    /// Writes its port, and what kind of address it is to guests of the older dialect.
    pub(super) fn write_port(
        &self,
        memory: &mut GuestMemory<'_>,
        port_at: u32,
        kind_at: Option<u32>,
    ) -> Result<(), Errno> {
        let (port, kind) = match self {
            Address::Ip(address @ SocketAddr::V4(_)) => (address.port(), 4),
            Address::Ip(address @ SocketAddr::V6(_)) => (address.port(), 6),
            Address::Unix(_) => (0, 0),
        };
        if let Some(at) = kind_at {
            put(memory, at, kind)?;
        }
        put(memory, port_at, port.into())
    }

    fn family(&self) -> Family {
        match self {
            Address::Ip(SocketAddr::V4(_)) => Family::V4,
            Address::Ip(SocketAddr::V6(_)) => Family::V6,
            Address::Unix(_) => Family::Unix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Memory with a pair at 0 that points to these bytes at 16.
    fn with(bytes: &[u8]) -> Vec<u8> {
        let mut memory = vec![0xee; 16 + bytes.len() + 8];
        memory[..4].copy_from_slice(&16u32.to_le_bytes());
        memory[4..8].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        memory[16..16 + bytes.len()].copy_from_slice(bytes);
        memory
    }

    fn read(bytes: &[u8]) -> Result<Address, Errno> {
        Address::read(&GuestMemory::new(&mut with(bytes)), 0, 80)
    }

    fn tagged(family: u16, bytes: &[u8]) -> Vec<u8> {
        let mut all = vec![0xff; TAGGED_BYTES as usize];
        all[..2].copy_from_slice(&family.to_le_bytes());
        all[2..2 + bytes.len()].copy_from_slice(bytes);
        all
    }

    fn ip(text: &str) -> Address {
        Address::Ip(text.parse().expect(text))
    }

    #[test]
    fn both_forms_are_read() {
        let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(read(&[192, 0, 2, 1]), Ok(ip("192.0.2.1:80")));
        assert_eq!(read(&v6), Ok(ip("[2001:db8::1]:80")));
        assert_eq!(read(&tagged(1, &[192, 0, 2, 1])), Ok(ip("192.0.2.1:80")));
        assert_eq!(read(&tagged(2, &v6)), Ok(ip("[2001:db8::1]:80")));
        assert_eq!(read(&tagged(3, b"/run/a\0")), Ok(Address::Unix(b"/run/a".to_vec())));
        assert_eq!(read(&tagged(3, b"\0abstract\0")), Ok(Address::Unix(Vec::new())));
        assert_eq!(read(&tagged(3, b"/without end")), Err(errno::INVAL));
        assert_eq!(read(&tagged(9, b"")), Err(errno::AFNOSUPPORT));
        assert_eq!(read(&[1, 2, 3]), Err(errno::INVAL));
        let mut memory = with(&[127, 0, 0, 1]);
        let memory = GuestMemory::new(&mut memory);
        assert_eq!(Address::read(&memory, 0, 65_536), Err(errno::INVAL));
        assert_eq!(Address::read(&memory, 1000, 80), Err(errno::FAULT));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            bytes in any::<[u8; 16]>(),
            v4 in any::<bool>(),
            tagged in any::<bool>(),
        ) {
            let ip = match v4 {
                true => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
                false => IpAddr::from(bytes),
            };
            let address = Address::Ip(SocketAddr::new(ip, 80));
            let len = if tagged { TAGGED_BYTES } else { PLAIN_BYTES };
            let mut memory = with(&vec![0xff; len as usize]);
            prop_assert_eq!(address.write(&mut GuestMemory::new(&mut memory), 0), Ok(()));
            prop_assert!(memory[16 + len as usize..].iter().all(|&b| b == 0xee));
            if !tagged && v4 {
                memory[4] = 4;
            }
            prop_assert_eq!(Address::read(&GuestMemory::new(&mut memory), 0, 80), Ok(address));
        }

        #[test]
        fn any_memory_is_read_without_a_panic(
            mut memory in prop::collection::vec(any::<u8>(), 0..200),
            at in 0u32..220,
        ) {
            let _ = Address::read(&GuestMemory::new(&mut memory), at, 1);
            let _ = ip("192.0.2.1:1").write(&mut GuestMemory::new(&mut memory), at);
        }
    }
}
