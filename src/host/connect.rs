//! What a guest may connect to: the rules that an operator writes, one a word, and what they allow.
//! Knows no sockets and asks nobody for names.
//!
//! An address is brought into its [normal] form before it is looked at, so that it has one spelling.
//! Addresses that lead to this machine, to its link, or around the rules for IPv4 are allowed by
//! nothing but a rule that means them and no others.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// What an operator decides about the connections of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outbound {
    /// What it may connect to.
    pub rules: Arc<[Rule]>,
    /// Sockets that one instance may have.
    pub max: usize,
    /// Bytes that may wait in each direction of a socket.
    pub buffer_bytes: usize,
    /// How long it takes at most until a connection is there.
    pub connect_timeout: Duration,
    /// How long each other wait for a socket takes at most.
    pub timeout: Duration,
}

impl Default for Outbound {
    fn default() -> Self {
        Outbound {
            rules: Arc::default(),
            max: 16,
            // What Linux begins with for a receiver.
            buffer_bytes: 128 << 10,
            // As long as nginx waits for upstream servers.
            connect_timeout: Duration::from_secs(60),
            timeout: Duration::from_secs(60),
        }
    }
}

/// Something that a guest may connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The addresses of a network, which may be a single one.
    Network {
        /// Which.
        network: Network,
        /// All if none is given.
        port: Option<u16>,
    },
    /// Whatever the name resolves to.
    Name {
        /// In lower case.
        name: Box<str>,
        /// On this port.
        port: u16,
    },
    /// A socket in the file system.
    Unix(Box<[u8]>),
}

/// The longest path of a socket: `sun_path` with its NUL has 108 bytes.
const PATH_MAX: usize = 107;

/// What is wrong with a rule; the text completes `invalid value "...": `.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    /// None of the forms.
    #[error(
        "expected ADDRESS[:PORT], NETWORK/MASK[:PORT], HOST:PORT or unix:PATH, an IPv6 address with a \
         port in brackets"
    )]
    Form,
    /// A port.
    #[error("expected a port from 1 to 65535")]
    Port,
    /// A host without one.
    #[error("expected a port behind the host, such as example.com:443")]
    NoPort,
    /// A mask.
    #[error("expected a mask from 0 to {0}, the number of bits that are the same")]
    Mask(u8),
    /// Bits behind the mask.
    #[error("expected an address that has only zeroes behind its mask of {0} bits")]
    Bits(u8),
    /// 0.0.0.0 or ::.
    #[error("expected an address that can be connected to, or a network such as {0}/0")]
    Unspecified(IpAddr),
    /// Of a socket in the file system.
    #[error("expected an absolute path of at most {PATH_MAX} bytes behind \"unix:\"")]
    Path,
}

impl Rule {
    /// Reads a rule as it is written.
    pub fn parse(text: &[u8]) -> Result<Self, BadRule> {
        if let Some(path) = text.strip_prefix(b"unix:") {
            let fits = path.starts_with(b"/") && path.len() <= PATH_MAX && !path.contains(&0);
            return if fits { Ok(Rule::Unix(path.into())) } else { Err(BadRule::Path) };
        }
        let text = std::str::from_utf8(text).map_err(|_| BadRule::Form)?;
        if let Some((address, rest)) = text.split_once('/') {
            let address =
                address.strip_prefix('[').map_or(Some(address), |it| it.strip_suffix(']'));
            let address: IpAddr = address.and_then(|it| it.parse().ok()).ok_or(BadRule::Form)?;
            let (mask, port) = match rest.split_once(':') {
                Some((mask, port)) => (mask, Some(parse_port(port)?)),
                None => (rest, None),
            };
            let max = bits(address);
            let mask = number(mask).and_then(|it| u8::try_from(it).ok()).filter(|&it| it <= max);
            let network = Network::new(address, mask.ok_or(BadRule::Mask(max))?)?;
            return Ok(Rule::Network { network, port });
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or(BadRule::Form)?;
                let host: Ipv6Addr = host.parse().map_err(|_| BadRule::Form)?;
                let port = match rest {
                    "" => None,
                    _ => Some(parse_port(rest.strip_prefix(':').ok_or(BadRule::Form)?)?),
                };
                return single(host.into(), port);
            }
            None => match text.parse() {
                Ok(address) => return single(address, None),
                Err(_) => match text.rsplit_once(':') {
                    Some((host, port)) => (host, port),
                    None if is_name(text) => return Err(BadRule::NoPort),
                    None => return Err(BadRule::Form),
                },
            },
        };
        let name = || is_name(host).then(|| host.to_ascii_lowercase().into());
        match host.parse::<Ipv4Addr>() {
            Ok(address) => single(address.into(), Some(parse_port(port)?)),
            Err(_) => {
                let name = name().ok_or(BadRule::Form)?;
                Ok(Rule::Name { name, port: parse_port(port)? })
            }
        }
    }
}

fn single(address: IpAddr, port: Option<u16>) -> Result<Rule, BadRule> {
    if address.is_unspecified() {
        return Err(BadRule::Unspecified(address));
    }
    Ok(Rule::Network { network: Network::new(address, bits(address))?, port })
}

fn number(text: &str) -> Option<u16> {
    // Not what `parse` takes beside digits, a sign.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn parse_port(text: &str) -> Result<u16, BadRule> {
    number(text).filter(|&port| port > 0).ok_or(BadRule::Port)
}

/// Whether a text can be a host's name, and no address in any spelling: the last label of a name is
/// never a number.
pub fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    let is_number = match last.strip_prefix("0x").or_else(|| last.strip_prefix("0X")) {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => last.bytes().all(|b| b.is_ascii_digit()),
    };
    text.len() <= 253 && text.split('.').all(is_label) && !is_number
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    mask: u8,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.mask)
    }
}

const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// IPv4 inside of IPv6 begins behind so many bits.
const MAPPED_MASK: u8 = 96;

impl Network {
    /// An IPv4 network that is written as a part of IPv6 is one of IPv4, as addresses are.
    fn new(address: IpAddr, mask: u8) -> Result<Self, BadRule> {
        let network = match address {
            IpAddr::V6(v6) if mask >= MAPPED_MASK && v6.to_ipv4_mapped().is_some() => {
                Network { address: address.to_canonical(), mask: mask - MAPPED_MASK }
            }
            _ => Network { address, mask },
        };
        match network.first() == network.address {
            true => Ok(network),
            false => Err(BadRule::Bits(mask)),
        }
    }

    const fn v4(address: [u8; 4], mask: u8) -> Self {
        let [a, b, c, d] = address;
        Network { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), mask }
    }

    const fn v6(start: [u16; 6], mask: u8) -> Self {
        let [a, b, c, d, e, f] = start;
        Network { address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, 0, 0)), mask }
    }

    /// Its address without the bits behind the mask.
    fn first(self) -> IpAddr {
        match self.address {
            IpAddr::V4(v4) => {
                let kept = u32::MAX.checked_shl(32 - u32::from(self.mask)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & kept).into()
            }
            IpAddr::V6(v6) => {
                let kept = u128::MAX.checked_shl(128 - u32::from(self.mask)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & kept).into()
            }
        }
    }

    fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Network { address, mask: self.mask }.first() == self.address
    }

    fn is_in(self, other: Network) -> bool {
        self.mask >= other.mask && other.contains(self.address)
    }
}

/// Networks that are allowed by nothing but a rule for them, or for a part of them.
const SPECIAL: [Network; 13] = [
    // This machine and its link.
    Network::v4([0, 0, 0, 0], 8),
    Network::v4([127, 0, 0, 0], 8),
    Network::v4([169, 254, 0, 0], 16),
    Network::v6([0xfe80, 0, 0, 0, 0, 0], 10),
    // ::, ::1, and IPv4 in its oldest disguise.
    Network::v6([0; 6], 96),
    // All who listen.
    Network::v4([224, 0, 0, 0], 4),
    Network::v4([240, 0, 0, 0], 4),
    Network::v6([0xff00, 0, 0, 0, 0, 0], 8),
    // IPv4 behind a translator or a tunnel: RFC 6052, RFC 8215, RFC 2765, RFC 3056, RFC 4380.
    Network::v6([0x64, 0xff9b, 0, 0, 0, 0], 96),
    Network::v6([0x64, 0xff9b, 1, 0, 0, 0], 48),
    Network::v6([0, 0, 0, 0, 0xffff, 0], 96),
    Network::v6([0x2002, 0, 0, 0, 0, 0], 16),
    Network::v6([0x2001, 0, 0, 0, 0, 0], 32),
];

fn special(address: IpAddr) -> Option<Network> {
    SPECIAL.into_iter().find(|it| it.contains(address))
}

/// The one spelling of an address: IPv4 is IPv4 also where it is written as IPv6, and this machine,
/// which is what Linux connects to for 0.0.0.0 and ::, has its own.
pub fn normal(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

/// The name of this machine, which is not asked for anywhere (RFC 6761, 6.3).
pub const LOCALHOST: &str = "localhost";

/// What a rule for it means.
pub const LOCAL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Whether a rule for addresses allows this one, which is in its [normal] form.
pub fn allows(rules: &[Rule], to: SocketAddr) -> bool {
    let special = special(to.ip());
    rules.iter().any(|rule| match rule {
        Rule::Network { network, port } => {
            network.contains(to.ip())
                && port.is_none_or(|port| port == to.port())
                && special.is_none_or(|special| network.is_in(special))
        }
        Rule::Name { name, port } => {
            **name == *LOCALHOST && *port == to.port() && LOCAL.contains(&to.ip())
        }
        Rule::Unix(_) => false,
    })
}

/// Whether a socket in the file system is allowed.
pub fn allows_path(rules: &[Rule], to: &[u8]) -> bool {
    rules.iter().any(|rule| matches!(rule, Rule::Unix(path) if **path == *to))
}

/// Names that lead to this port, and have to be asked for.
pub fn names(rules: &[Rule], of: u16) -> impl Iterator<Item = &str> {
    rules.iter().filter_map(move |rule| match rule {
        Rule::Name { name, port } if *port == of && **name != *LOCALHOST => Some(&**name),
        Rule::Name { .. } | Rule::Network { .. } | Rule::Unix(_) => None,
    })
}

/// Whether a name may be looked up: it is in a rule, with this port if one is asked for.
pub fn may_look_up(rules: &[Rule], asked: &str, for_port: Option<u16>) -> bool {
    rules.iter().any(|rule| match rule {
        Rule::Name { name, port } => **name == *asked && for_port.is_none_or(|it| it == *port),
        Rule::Network { .. } | Rule::Unix(_) => false,
    })
}

/// What names have resolved to, the last time it was asked. Nothing else is what they stand for until the
/// next time.
#[derive(Clone, Debug, Default)]
pub struct Pins(HashMap<Box<str>, Vec<IpAddr>>);

/// Addresses of one name.
const ADDRESSES_MAX: usize = 64;

impl Pins {
    /// A name of the rules has resolved to these. Those of them that a guest may connect to, on some
    /// port: what a name resolves to is no rule for special addresses.
    pub fn set(&mut self, rules: &[Rule], name: &str, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let all = addresses.iter().map(|&it| normal(it)).take(ADDRESSES_MAX);
        let pins = all.clone().filter(|&it| special(it).is_none());
        self.0.insert(name.into(), pins.collect());
        let is_meant = |address, special| {
            rules.iter().any(|rule| match rule {
                Rule::Network { network, .. } => {
                    network.contains(address) && network.is_in(special)
                }
                Rule::Name { .. } | Rule::Unix(_) => false,
            })
        };
        all.filter(|&it| special(it).is_none_or(|special| is_meant(it, special))).collect()
    }

    /// Whether a name stands for this address, as far as is known.
    pub fn has(&self, name: &str, address: IpAddr) -> bool {
        self.0.get(name).is_some_and(|pins| pins.contains(&address))
    }

    /// Whether a name may come to stand for it.
    pub fn may_have(address: IpAddr) -> bool {
        special(address).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(words: &[&str]) -> Vec<Rule> {
        words.iter().map(|word| Rule::parse(word.as_bytes()).expect(word)).collect()
    }

    fn is_allowed(words: &[&str], to: &str) -> bool {
        let to: SocketAddr = to.parse().expect(to);
        allows(&rules(words), SocketAddr::new(normal(to.ip()), to.port()))
    }

    #[test]
    fn rules_are_read_as_they_are_written() {
        let network = |address: &str, mask, port| Rule::Network {
            network: Network { address: address.parse().expect(address), mask },
            port,
        };
        let read = |text: &str| Rule::parse(text.as_bytes()).expect(text);
        assert_eq!(read("192.0.2.7"), network("192.0.2.7", 32, None));
        assert_eq!(read("192.0.2.7:80"), network("192.0.2.7", 32, Some(80)));
        assert_eq!(read("2001:db8::7"), network("2001:db8::7", 128, None));
        assert_eq!(read("[2001:db8::7]"), network("2001:db8::7", 128, None));
        assert_eq!(read("[2001:db8::7]:80"), network("2001:db8::7", 128, Some(80)));
        assert_eq!(read("10.0.0.0/8"), network("10.0.0.0", 8, None));
        assert_eq!(read("0.0.0.0/0:443"), network("0.0.0.0", 0, Some(443)));
        assert_eq!(read("2001:db8::/32:443"), network("2001:db8::", 32, Some(443)));
        assert_eq!(read("[2001:db8::]/32:443"), network("2001:db8::", 32, Some(443)));
        assert_eq!(read("::ffff:10.0.0.0/104"), network("10.0.0.0", 8, None));
        assert_eq!(read("[::ffff:10.0.0.1]:1"), network("10.0.0.1", 32, Some(1)));
        let name = Rule::Name { name: "api.example.com".into(), port: 443 };
        assert_eq!(read("API.example.com:443"), name);
        assert_eq!(read("unix:/run/a b.sock"), Rule::Unix(b"/run/a b.sock"[..].into()));
    }

    #[test]
    fn what_is_no_rule_is_told_what_was_expected() {
        let wrong = |text: &str| Rule::parse(text.as_bytes()).expect_err(text);
        for text in [
            "",
            ":",
            "a b:1",
            "1.2.3:80",
            "1.2.3.4.5:80",
            "0x7f000001:80",
            "127.1:80",
            "[::1",
            "[::1]80",
            "[1.2.3.4]:80",
            "-a:1",
            "a..b:1",
            "*:80",
            "http://a:80",
            "é:80",
            "[::1/128",
            "2130706433:80",
            "example.com.:80",
        ] {
            assert!(matches!(wrong(text), BadRule::Form), "{text}");
        }
        for text in ["a:0", "a:65536", "a:", "a:http", "1.2.3.4:+80", "[::1]:", "10.0.0.0/8:0"] {
            assert_eq!(wrong(text), BadRule::Port, "{text}");
        }
        assert_eq!(wrong("example.com"), BadRule::NoPort);
        assert_eq!(wrong("10.0.0.0/33"), BadRule::Mask(32));
        assert_eq!(wrong("10.0.0.0/"), BadRule::Mask(32));
        assert_eq!(wrong("::/129"), BadRule::Mask(128));
        assert_eq!(wrong("10.0.0.1/8"), BadRule::Bits(8));
        assert!(matches!(wrong("0.0.0.0:80"), BadRule::Unspecified(_)));
        assert!(matches!(wrong("[::]:80"), BadRule::Unspecified(_)));
        for text in ["unix:", "unix:run/a", "unix:/\0"] {
            assert_eq!(wrong(text), BadRule::Path);
        }
        assert_eq!(wrong(&format!("unix:/{}", "x".repeat(107))), BadRule::Path);
    }

    #[test]
    fn a_rule_allows_its_addresses_on_its_port() {
        assert!(is_allowed(&["192.0.2.7"], "192.0.2.7:1"));
        assert!(is_allowed(&["192.0.2.7:80"], "192.0.2.7:80"));
        assert!(!is_allowed(&["192.0.2.7:80"], "192.0.2.7:81"));
        assert!(!is_allowed(&["192.0.2.7:80"], "192.0.2.8:80"));
        assert!(is_allowed(&["10.0.0.0/8"], "10.255.0.1:1"));
        assert!(!is_allowed(&["10.0.0.0/8"], "11.0.0.1:1"));
        assert!(is_allowed(&["0.0.0.0/0"], "192.0.2.7:1"));
        assert!(!is_allowed(&["0.0.0.0/0"], "[2001:db8::1]:1"));
        assert!(is_allowed(&["::/0"], "[2001:db8::1]:1"));
        assert!(!is_allowed(&["::/0"], "192.0.2.7:1"));
        assert!(!is_allowed(&[], "192.0.2.7:1"));
    }

    #[test]
    fn special_addresses_are_allowed_by_name_only() {
        let all = ["0.0.0.0/0", "::/0"];
        for to in [
            "127.0.0.1:1",
            "127.255.255.255:1",
            "0.0.0.0:1",
            "0.1.2.3:1",
            "[::]:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
            "[::ffff:0.0.0.0]:1",
            "[::127.0.0.1]:1",
            "169.254.169.254:1",
            "[::ffff:169.254.169.254]:1",
            "[fe80::1]:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "[ff02::1]:1",
            "[64:ff9b::7f00:1]:1",
            "[::ffff:0:127.0.0.1]:1",
            "[2002:7f00:1::]:1",
            "[2001::1]:1",
        ] {
            assert!(!is_allowed(&all, to), "{to}");
        }
        assert!(is_allowed(&["127.0.0.1"], "127.0.0.1:1"));
        assert!(is_allowed(&["127.0.0.0/8"], "127.3.2.1:1"));
        assert!(!is_allowed(&["126.0.0.0/7"], "127.0.0.1:1"));
        assert!(is_allowed(&["127.0.0.1"], "[::ffff:127.0.0.1]:1"));
        assert!(is_allowed(&["127.0.0.1"], "0.0.0.0:1"));
        assert!(!is_allowed(&["127.0.0.1"], "[::1]:1"));
        assert!(is_allowed(&["::1"], "[::]:1"));
        assert!(is_allowed(&["169.254.169.254:80"], "169.254.169.254:80"));
        assert!(is_allowed(&["fe80::/10"], "[fe80::1]:1"));
        assert!(is_allowed(&["localhost:1"], "127.0.0.1:1"));
        assert!(!is_allowed(&["localhost:1"], "127.0.0.2:1"));
        assert!(!is_allowed(&["localhost:1"], "127.0.0.1:2"));
    }

    #[test]
    fn names_stand_for_what_they_resolved_to_last() {
        let (old, new) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut pins = Pins::default();
        assert!(!pins.has("a", old));
        pins.set(&[], "a", &[old]);
        assert!(pins.has("a", old) && !pins.has("b", old) && !pins.has("a", new));
        let local = [[127, 0, 0, 1], [169, 254, 169, 254], [127, 0, 0, 1]].map(IpAddr::from);
        let all = [&local[..], &[new]].concat();
        assert_eq!(pins.set(&rules(&["a:1", "0.0.0.0/0"]), "a", &all), [new]);
        assert!(!pins.has("a", old) && pins.has("a", new) && !pins.has("a", local[0]));
        assert_eq!(pins.set(&rules(&["127.0.0.1:1"]), "a", &all), [local[0], local[2], new]);
        assert!(!pins.has("a", local[0]));
        assert!(may_look_up(&rules(&["a:1"]), "a", None));
        assert!(may_look_up(&rules(&["a:1"]), "a", Some(1)));
        assert!(!may_look_up(&rules(&["a:1"]), "a", Some(2)));
        assert!(!may_look_up(&rules(&["a:1", "0.0.0.0/0"]), "b.a", None));
        assert_eq!(names(&rules(&["a:1", "b:2", "c:1"]), 1).collect::<Vec<_>>(), ["a", "c"]);
    }

    #[test]
    fn paths_are_compared_as_they_are() {
        let rules = rules(&["unix:/run/a.sock"]);
        assert!(allows_path(&rules, b"/run/a.sock"));
        for path in
            [&b"/run/../run/a.sock"[..], b"/run//a.sock", b"\0/run/a.sock", b"/run/a.sock\0", b""]
        {
            assert!(!allows_path(&rules, path));
        }
    }

    proptest! {
        #[test]
        fn anything_is_a_rule_or_told_why_not(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Rule::parse(&text);
        }

        #[test]
        fn a_network_has_the_addresses_that_begin_alike(
            bits in any::<u128>(), other in any::<u128>(), mask in 0u8..=128,
        ) {
            let address = IpAddr::from(Ipv6Addr::from_bits(bits));
            let network = Network { address: Network { address, mask }.first(), mask };
            let same = u32::from(mask) <= (bits ^ other).leading_zeros();
            prop_assert_eq!(network.contains(Ipv6Addr::from_bits(other).into()), same);
            prop_assert!(network.contains(address));
        }

        #[test]
        fn no_spelling_of_an_ipv4_address_gets_around_its_rule(bits in any::<u32>(), port in 1u16..) {
            let v4 = Ipv4Addr::from_bits(bits);
            let plain = SocketAddr::new(normal(v4.into()), port);
            let mapped = SocketAddr::new(normal(v4.to_ipv6_mapped().into()), port);
            prop_assert_eq!(plain, mapped);
            let all = rules(&["0.0.0.0/0", "::/0"]);
            let hidden = v4.is_loopback() || v4.is_link_local() || v4.is_unspecified()
                || v4.is_multicast() || v4.is_broadcast();
            prop_assert!(!(hidden && allows(&all, plain)));
        }
    }
}
