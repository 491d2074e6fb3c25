//! Pure HTTP syntax: tokens, field values, hosts and request targets. No messages, no state.

use std::borrow::Cow;

/// Whether `bytes` is a token (RFC 9110 5.6.2): what a method and a field name must be.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| TOKEN[usize::from(byte)])
}

/// [`is_token_byte`] of every byte.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = is_token_byte(byte as u8);
        byte += 1;
    }
    table
};

const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// Whether `bytes` can stand as a field value without ending the field line or the message
/// (RFC 9110 5.5 names exactly these three as dangerous).
pub fn is_field_value(bytes: &[u8]) -> bool {
    // All of them in any case: that is what compilers make the fastest code of.
    !bytes.iter().fold(false, |bad, &byte| bad | matches!(byte, b'\r' | b'\n' | 0))
}

/// Whether servers refuse the method of a client: what is no request for a resource (`CONNECT`), and
/// what would show a page the client's credentials (`TRACE`).
pub fn is_refused_method(method: &[u8]) -> bool {
    matches!(method, b"CONNECT" | b"TRACE")
}

/// Why something that a guest sets is not a Host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHost {
    /// Nothing, or nothing but a dot or a port.
    #[error("it names no host")]
    Empty,
    /// What ends a line, and what a name cannot hold.
    #[error("it contains a space or a control byte")]
    Control,
    /// It would lead elsewhere where the name is part of a path.
    #[error("it contains \"/\"")]
    Slash,
    /// The same.
    #[error("it contains \"..\"")]
    Dots,
    /// They enclose an address, which begins the value, or there are none.
    #[error("its brackets enclose no address")]
    Brackets,
    /// What follows the colon.
    #[error("its port is not a number up to 65535")]
    Port,
}

/// The name or address in a Host, without port and trailing dot: nginx's rules for those of clients
/// (`ngx_http_validate_host()`), and those of RFC 3986 for brackets and ports.
pub fn host_name(host: &[u8]) -> Result<&[u8], BadHost> {
    if host.iter().any(|&byte| byte <= b' ' || byte == 0x7f) {
        return Err(BadHost::Control);
    }
    if host.contains(&b'/') {
        return Err(BadHost::Slash);
    }
    if host.windows(2).any(|two| two == b"..") {
        return Err(BadHost::Dots);
    }
    let end = match host {
        [b'[', address @ ..] => match memchr::memchr(b']', address) {
            Some(len @ 1..) => len + 2,
            _ => return Err(BadHost::Brackets),
        },
        _ => memchr::memchr(b':', host).unwrap_or(host.len()),
    };
    let (name, port) = host.split_at(end);
    let inside = name.strip_prefix(b"[").map_or(name, |name| &name[..name.len() - 1]);
    if memchr::memchr2(b'[', b']', inside).is_some() {
        return Err(BadHost::Brackets);
    }
    if !matches!(port, [] | [b':', ..]) {
        return Err(BadHost::Port);
    }
    let number = port.iter().skip(1).try_fold(0u16, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u16::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    });
    if number.is_none() {
        return Err(BadHost::Port);
    }
    match name.strip_suffix(b".").unwrap_or(name) {
        [] => Err(BadHost::Empty),
        name => Ok(name),
    }
}

/// A request target: path and query, no scheme, no authority, no fragment.
///
/// Its normal form is what guests see and what [`crate::host::Host::set_uri`] gets: the path starts
/// with a slash and holds only bytes that may stand in a path, others percent-encoded one by one;
/// the query is raw. Nothing else is touched: no dot segments, no slashes merged, nothing decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// A slash is missing in front of `rest`.
    slash: bool,
    /// Path and query as they came.
    rest: &'a [u8],
}

/// Why something that a guest sets is not a request target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// CR, LF, NUL and their kind have no place in a request line.
    #[error("it contains a control byte")]
    Control,
    /// `%` without two hexadecimal digits in the path.
    #[error("it contains \"%\" without two hexadecimal digits")]
    Escape,
    /// A relative path, or a scheme that is not HTTP.
    #[error("expected it to start with \"/\", \"?\", \"http://\" or \"https://\"")]
    Start,
}

impl<'a> Target<'a> {
    /// What a client sent and a server accepted, in origin or absolute form.
    pub fn received(raw: &'a [u8]) -> Self {
        if raw == b"*" {
            return Target { slash: false, rest: raw };
        }
        Target::rooted(strip_authority(raw).unwrap_or(raw))
    }

    /// What a guest sets. Scheme and authority of an absolute URI are dropped, an empty path is
    /// the root.
    pub fn from_guest(raw: &'a [u8]) -> Result<Self, BadTarget> {
        if raw.iter().any(u8::is_ascii_control) {
            return Err(BadTarget::Control);
        }
        let rest = match raw {
            [] | [b'/' | b'?', ..] => raw,
            _ => strip_authority(raw).ok_or(BadTarget::Start)?,
        };
        let target = Target::rooted(rest);
        let (path, _) = target.split();
        if memchr::memchr_iter(b'%', path).any(|at| !is_escape(&path[at..])) {
            return Err(BadTarget::Escape);
        }
        Ok(target)
    }

    fn rooted(rest: &'a [u8]) -> Self {
        Target { slash: rest.first() != Some(&b'/'), rest }
    }

    /// Path, and query with its question mark.
    fn split(&self) -> (&'a [u8], &'a [u8]) {
        let query = memchr::memchr(b'?', self.rest);
        self.rest.split_at(query.unwrap_or(self.rest.len()))
    }

    /// The target, if it has the normal form as it is; nearly all have.
    pub fn as_normal(&self) -> Option<&'a [u8]> {
        let (path, _) = self.split();
        let is_normal = path.iter().all(|&byte| PLAIN[usize::from(byte)])
            || illegal_bytes(path).next().is_none();
        (!self.slash && is_normal).then_some(self.rest)
    }

    /// Length of the normal form in bytes.
    pub fn normal_len(&self) -> usize {
        let (path, _) = self.split();
        let escaped = illegal_bytes(path).count();
        usize::from(self.slash) + self.rest.len() + 2 * escaped
    }

    /// The normal form, piece by piece.
    fn pieces(&self) -> impl Iterator<Item = Piece<'a>> {
        let (path, query) = self.split();
        let mut at = 0;
        let path = std::iter::from_fn(move || {
            let rest = path.get(at..).filter(|rest| !rest.is_empty())?;
            let legal = illegal_bytes(rest).next().unwrap_or(rest.len());
            if legal == 0 {
                at += 1;
                return Some(Piece::Escaped(rest[0]));
            }
            at += legal;
            Some(Piece::Plain(&rest[..legal]))
        });
        let slash: &[u8] = if self.slash { b"/" } else { b"" };
        std::iter::once(Piece::Plain(slash)).chain(path).chain(std::iter::once(Piece::Plain(query)))
    }

    /// Writes the normal form to the start of `buf`, as much as fits.
    pub fn write_to(&self, buf: &mut [u8]) {
        let mut rest = buf;
        for piece in self.pieces() {
            let escape;
            let bytes = match piece {
                Piece::Plain(bytes) => bytes,
                Piece::Escaped(byte) => {
                    escape = escaped(byte);
                    &escape
                }
            };
            let Some((slot, after)) = rest.split_at_mut_checked(bytes.len()) else {
                return;
            };
            slot.copy_from_slice(bytes);
            rest = after;
        }
    }

    /// The normal form, borrowed when the target already has it.
    pub fn normal(&self) -> Cow<'a, [u8]> {
        if let Some(normal) = self.as_normal() {
            return Cow::Borrowed(normal);
        }
        let mut bytes = vec![0; self.normal_len()];
        self.write_to(&mut bytes);
        Cow::Owned(bytes)
    }
}

/// The normal form of a target made fit for a request line: a query may hold spaces and bytes
/// outside ASCII there, and a request line may not. Guests never see this form.
pub fn on_the_wire(normal: &[u8]) -> Cow<'_, [u8]> {
    let illegal = |byte: &u8| !byte.is_ascii_graphic();
    if !normal.iter().any(illegal) {
        return Cow::Borrowed(normal);
    }
    let mut bytes = Vec::with_capacity(normal.len() + 16);
    for byte in normal {
        if illegal(byte) {
            bytes.extend(escaped(*byte));
        } else {
            bytes.push(*byte);
        }
    }
    Cow::Owned(bytes)
}

enum Piece<'a> {
    Plain(&'a [u8]),
    Escaped(u8),
}

/// What follows scheme and authority of an `http` or `https` URI.
fn strip_authority(raw: &[u8]) -> Option<&[u8]> {
    let after = [&b"http://"[..], b"https://"].into_iter().find_map(|start| {
        let (scheme, after) = raw.split_at_checked(start.len())?;
        scheme.eq_ignore_ascii_case(start).then_some(after)
    })?;
    let end = after.iter().position(|byte| matches!(byte, b'/' | b'?'));
    Some(&after[end.unwrap_or(after.len())..])
}

/// Positions of bytes that may not stand in a path as they are. A percent sign may, in front of
/// two hexadecimal digits.
fn illegal_bytes(path: &[u8]) -> impl Iterator<Item = usize> {
    (0..path.len()).filter(|&at| match path[at] {
        b'%' => !is_escape(&path[at..]),
        byte => !is_path_byte(byte),
    })
}

fn is_escape(bytes: &[u8]) -> bool {
    matches!(bytes, [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

/// Bytes that may stand in a path whatever follows them.
static PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = byte as u8 != b'%' && is_path_byte(byte as u8);
        byte += 1;
    }
    table
};

const fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(byte, b'"' | b'#' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
}

const fn escaped(byte: u8) -> [u8; 3] {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    [b'%', HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(raw: &[u8]) -> Result<String, BadTarget> {
        let target = Target::from_guest(raw)?;
        Ok(String::from_utf8_lossy(&target.normal()).into_owned())
    }

    fn received(raw: &str) -> String {
        String::from_utf8_lossy(&Target::received(raw.as_bytes()).normal()).into_owned()
    }

    #[test]
    fn guests_set_what_the_table_says() {
        for same in ["/a", "/a?b=c", "/foo?", "//foo", "/a%2fb", "/a[1]", "/a?b#c%zz"] {
            assert_eq!(set(same.as_bytes()).as_deref(), Ok(same));
        }
        for (raw, normal) in [
            ("", "/"),
            ("/a b", "/a%20b"),
            ("/a b?q=go+language", "/a%20b?q=go+language"),
            ("/a b?q=go language", "/a%20b?q=go language"),
            ("/a#b?c", "/a%23b?c"),
            ("http://h/p?q", "/p?q"),
            ("HTTPS://h:1?q", "/?q"),
            ("http://h", "/"),
            ("?x=1", "/?x=1"),
            ("/é", "/%C3%A9"),
        ] {
            assert_eq!(set(raw.as_bytes()).as_deref(), Ok(normal), "{raw}");
        }
        for (raw, bad) in [
            (&b"a/b"[..], BadTarget::Start),
            (b"new", BadTarget::Start),
            (b"*", BadTarget::Start),
            (b"mailto:x", BadTarget::Start),
            (b"ftp://h/", BadTarget::Start),
            (b"/%zz", BadTarget::Escape),
            (b"/%2", BadTarget::Escape),
            (b"http://h/%", BadTarget::Escape),
            (b"/a\r\nb", BadTarget::Control),
            (b"/a?b\0", BadTarget::Control),
            (b"/\x7f", BadTarget::Control),
        ] {
            assert_eq!(set(raw), Err(bad), "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn only_illegal_path_bytes_of_a_client_are_encoded() {
        for same in [
            "/a/b%2Fc",
            "/a%7Eb/../c//d",
            "//dd",
            "/simple%26clean",
            "/%2f",
            "/?",
            "/animal?name=panda bear",
            "/[];,@:!$&'()*+=~",
            "*",
        ] {
            assert_eq!(received(same), same);
        }
        assert_eq!(received("/é\"<>"), "/%C3%A9%22%3C%3E");
        assert_eq!(received("/ \\^`{|}\u{1}"), "/%20%5C%5E%60%7B%7C%7D%01");
        assert_eq!(received("/%zz%2F"), "/%25zz%2F");
        assert_eq!(received("http://other/x/y?z"), "/x/y?z");
        assert_eq!(received(""), "/");
    }

    #[test]
    fn a_request_line_gets_no_space_from_a_query() {
        assert_eq!(&*on_the_wire(b"/a?q=go language"), b"/a?q=go%20language");
        assert!(matches!(on_the_wire(b"/a?b#c"), Cow::Borrowed(_)));
    }

    #[test]
    fn tokens_and_values_keep_messages_whole() {
        assert!(is_token(b"x-Y_1!"));
        for bad in [&b""[..], b"a b", b"a:", b"a\r", b"\xc3\xa9", b"a\0"] {
            assert!(!is_token(bad), "{}", bad.escape_ascii());
        }
        assert!(is_field_value(b"a b\t\xff"));
        for bad in [&b"a\rb"[..], b"\n", b"\0"] {
            assert!(!is_field_value(bad));
        }
    }

    #[test]
    fn a_host_is_what_a_server_takes_of_a_client() {
        for (host, name) in [
            ("example.com", "example.com"),
            ("Example.COM.:8080", "Example.COM"),
            ("a_b-c", "a_b-c"),
            ("127.0.0.1:65535", "127.0.0.1"),
            ("a:", "a"),
            ("[::1]", "[::1]"),
            ("[fe80::1%25eth0]:80", "[fe80::1%25eth0]"),
        ] {
            assert_eq!(host_name(host.as_bytes()), Ok(name.as_bytes()), "{host}");
        }
        for (host, bad) in [
            (&b""[..], BadHost::Empty),
            (b".", BadHost::Empty),
            (b":80", BadHost::Empty),
            (b".:80", BadHost::Empty),
            (b"../secret", BadHost::Slash),
            (b"a/b", BadHost::Slash),
            (b"a:80/b", BadHost::Slash),
            (b"..", BadHost::Dots),
            (b"a..", BadHost::Dots),
            (b"a..b", BadHost::Dots),
            (b"a b", BadHost::Control),
            (b" a", BadHost::Control),
            (b"a\t", BadHost::Control),
            (b"a\0", BadHost::Control),
            (b"a\x7f", BadHost::Control),
            (b"[::1", BadHost::Brackets),
            (b"[]", BadHost::Brackets),
            (b"[[::1]]", BadHost::Brackets),
            (b"a]", BadHost::Brackets),
            (b"a[b]", BadHost::Brackets),
            (b"[::1].", BadHost::Port),
            (b"[::1]80", BadHost::Port),
            (b"a:b", BadHost::Port),
            (b"a:80.", BadHost::Port),
            (b"a:-1", BadHost::Port),
            (b"a:65536", BadHost::Port),
            (b"::1", BadHost::Port),
        ] {
            assert_eq!(host_name(host), Err(bad), "{}", host.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn a_normal_form_stays_as_it_is(raw in prop::collection::vec(any::<u8>(), 0..40)) {
            let normal = Target::received(&raw).normal().into_owned();
            prop_assert_eq!(normal.len(), Target::received(&raw).normal_len());
            prop_assert_eq!(&*Target::received(&normal).normal(), &normal[..]);
            if let Ok(target) = Target::from_guest(&raw) {
                let set = target.normal().into_owned();
                let again = Target::from_guest(&set).map(|again| again.normal().into_owned());
                prop_assert_eq!(again.as_ref(), Ok(&set));
                prop_assert_eq!(&*Target::received(&set).normal(), &set[..]);
                prop_assert!(on_the_wire(&set).iter().all(u8::is_ascii_graphic));
            }
        }

        #[test]
        fn origin_forms_keep_their_query(path in "/[a-z%20#]{0,8}", query in "[ -~]{0,8}") {
            let raw = format!("{path}?{query}");
            let normal = received(&raw);
            prop_assert_eq!(normal.split_once('?').map(|(_, query)| query.to_owned()), Some(query));
        }
    }
}
