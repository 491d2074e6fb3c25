//! Paths that nginx finds unsafe.

/// Whether a path keeps below the root, decoded as nginx does (`ngx_http_parse_complex_uri()`).
pub(crate) fn stays_inside(target: &[u8]) -> bool {
    let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        rest = after;
        let escape = (*byte == b'%').then(|| after.split_first_chunk::<2>()).flatten();
        let value = escape.and_then(|(digits, _)| std::str::from_utf8(digits).ok());
        match (value.and_then(|digits| u8::from_str_radix(digits, 16).ok()), escape) {
            (Some(0), _) => return false,
            (Some(value), Some((_, after))) => {
                decoded.push(value);
                rest = after;
            }
            _ => decoded.push(*byte),
        }
    }
    let mut depth = 0usize;
    decoded.split(|&byte| byte == b'/').all(|segment| match segment {
        b"" | b"." => true,
        b".." => depth.checked_sub(1).map(|less| depth = less).is_some(),
        _ => {
            depth += 1;
            true
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_root_are_unsafe() {
        for inside in ["/", "/a/../b", "/a/%2e%2e/", "/..a", "/?/../..", "/a%2fb/../..", "/a//.."] {
            assert!(stays_inside(inside.as_bytes()), "{inside}");
        }
        for outside in ["/..", "/a/../..", "/%2e%2e/", "/.%2E", "/a%2f../../..", "/%00", "//.."] {
            assert!(!stays_inside(outside.as_bytes()), "{outside}");
        }
    }
}
