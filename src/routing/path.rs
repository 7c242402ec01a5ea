//! The one canonicalisation of a request's path (RFC 3986 section 6.2.2). What comes out is what is matched and what is
//! forwarded; a path that two servers could read in two ways does not come out at all.

use std::borrow::Cow;
use std::fmt;

use http::uri::PathAndQuery;

/// Spellings that are refused unless a route's `allow_in_path` opens them. A set of flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowances(u16);

/// Each openable spelling, as it is written in `allow_in_path`.
const SPELLINGS: [(&str, Allowances); 9] = [
    ("%2F", Allowances::ENCODED_SLASH),
    ("%5C", Allowances::ENCODED_BACKSLASH),
    ("\\", Allowances::BACKSLASH),
    ("%25", Allowances::ENCODED_PERCENT),
    (";", Allowances::SEMICOLON),
    ("%3B", Allowances::ENCODED_SEMICOLON),
    ("%3F", Allowances::ENCODED_QUESTION),
    ("%23", Allowances::ENCODED_HASH),
    ("//", Allowances::EMPTY_SEGMENT),
];

impl Allowances {
    const ENCODED_SLASH: Self = Self(1);
    const ENCODED_BACKSLASH: Self = Self(1 << 1);
    const BACKSLASH: Self = Self(1 << 2);
    const ENCODED_PERCENT: Self = Self(1 << 3);
    const SEMICOLON: Self = Self(1 << 4);
    const ENCODED_SEMICOLON: Self = Self(1 << 5);
    const ENCODED_QUESTION: Self = Self(1 << 6);
    const ENCODED_HASH: Self = Self(1 << 7);
    const EMPTY_SEGMENT: Self = Self(1 << 8);

    /// One spelling as written in `allow_in_path`, hex digits in either case; `None` for what cannot be opened.
    pub fn parse(spelling: &str) -> Option<Self> {
        SPELLINGS.into_iter().find(|(text, _)| text.eq_ignore_ascii_case(spelling)).map(|(_, flag)| flag)
    }

    /// What `parse` understands, for messages.
    pub fn spellings() -> impl Iterator<Item = &'static str> {
        SPELLINGS.into_iter().map(|(text, _)| text)
    }

    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn is_subset(self, of: Self) -> bool {
        self.0 & !of.0 == 0
    }

    fn add(&mut self, flag: Self) {
        self.0 |= flag.0;
    }
}

impl fmt::Display for Allowances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (text, flag) in SPELLINGS {
            if self.0 & flag.0 != 0 {
                write!(f, "{}`{text}`", if first { "" } else { ", " })?;
                first = false;
            }
        }
        Ok(())
    }
}

/// Why a path is refused whatever the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the target is not an absolute path")]
    NotAbsolute,
    #[error("the path has a dot segment")]
    DotSegment,
    #[error("the path has an incomplete or invalid percent escape")]
    Escape,
    #[error("the path has a control character")]
    Control,
    #[error("the path is not UTF-8")]
    Utf8,
    #[error("the path or the query has a raw byte over 0x7F")]
    RawByte,
}

/// A path with one reading, and the query as it came. The only path that is matched and the only one sent upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath {
    target: PathAndQuery,
    spelled: Allowances,
}

impl CanonicalPath {
    /// Decodes escapes of unreserved characters and upper-cases the others, once. Openable spellings are noted in
    /// `spelled`, for the route to decide on.
    pub fn parse(target: &PathAndQuery) -> Result<Self, PathError> {
        let path = target.path();
        if !target.query().is_none_or(str::is_ascii) {
            return Err(PathError::RawByte);
        }
        if is_plain(path.as_bytes()) {
            return Ok(Self { target: target.clone(), spelled: Allowances::default() });
        }
        let (canonical, spelled) = canonicalise(path)?;
        if canonical == path {
            return Ok(Self { target: target.clone(), spelled });
        }
        Ok(Self { target: rebuild(canonical, target.query())?, spelled })
    }

    pub fn as_str(&self) -> &str {
        self.target.path()
    }

    /// Path and query, as they are sent upstream.
    pub fn target(&self) -> &PathAndQuery {
        &self.target
    }

    pub fn into_target(self) -> PathAndQuery {
        self.target
    }

    /// The openable spellings that occur in it.
    pub fn spelled(&self) -> Allowances {
        self.spelled
    }

    /// The same without the segments of `prefix`, or `None` when what is left would not itself pass or `prefix` is not
    /// one of its prefixes.
    pub fn strip_prefix(&self, prefix: &str) -> Option<Self> {
        let mut rest = self.as_str();
        for own in prefix.strip_prefix('/')?.split('/') {
            let left = rest.strip_prefix('/')?;
            let (segment, after) = left.split_at(left.find('/').unwrap_or(left.len()));
            if decode(segment) != decode(own) {
                return None;
            }
            rest = after;
        }
        // A leading `//` would be read as an authority, by some in other spellings too.
        if rest.starts_with("//") || rest.starts_with("/\\") {
            return None;
        }
        let rest = if rest.is_empty() { "/" } else { rest };
        let (canonical, spelled) = canonicalise(rest).ok()?;
        if canonical != rest || !spelled.is_subset(self.spelled) {
            return None;
        }
        Some(Self { target: rebuild(canonical, self.target.query()).ok()?, spelled })
    }
}

/// What a canonical path or a segment of one says. Escapes of what is not unreserved stay in the path, as two servers may
/// tell `:` from `%3A`; most do not, and rules must hold for both.
pub fn decode(canonical: &str) -> Cow<'_, str> {
    // Nearly all have no escapes; the decoder would look at every byte twice.
    if memchr::memchr(b'%', canonical.as_bytes()).is_none() {
        return Cow::Borrowed(canonical);
    }
    percent_encoding::percent_decode_str(canonical).decode_utf8_lossy()
}

fn rebuild(path: String, query: Option<&str>) -> Result<PathAndQuery, PathError> {
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    PathAndQuery::from_maybe_shared(bytes::Bytes::from(text)).map_err(|_| PathError::Escape)
}

/// Whether nothing in the path needs a second look: letters, digits and harmless punctuation, no `//`, no `/.`.
fn is_plain(path: &[u8]) -> bool {
    if path.first() != Some(&b'/') {
        return false;
    }
    let mut after_slash = false;
    path.iter().all(|byte| {
        let kind = PLAIN[usize::from(*byte)];
        let fits = kind == Plain::Anywhere || (kind != Plain::Nowhere && !after_slash);
        after_slash = kind == Plain::Slash;
        fits
    })
}

/// Where a byte may stand in a path that needs no second look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plain {
    Nowhere,
    Anywhere,
    /// Not after another, nor with a dot after it.
    Slash,
    Dot,
}

const PLAIN: [Plain; 256] = {
    let mut plain = [Plain::Nowhere; 256];
    let mut byte = 0;
    while byte < plain.len() {
        #[expect(clippy::cast_possible_truncation, reason = "it is less than 256")]
        let kind = match byte as u8 {
            b'/' => Plain::Slash,
            b'.' => Plain::Dot,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => Plain::Anywhere,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' => Plain::Anywhere,
            _ => Plain::Nowhere,
        };
        plain[byte] = kind;
        byte += 1;
    }
    plain
};

fn canonicalise(path: &str) -> Result<(String, Allowances), PathError> {
    let raw = path.as_bytes();
    if raw.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    let mut canonical = String::with_capacity(path.len());
    let mut decoded = Vec::with_capacity(path.len());
    let mut spelled = Allowances::default();
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        match byte {
            b'%' => {
                let value = escape(raw, at + 1).ok_or(PathError::Escape)?;
                at += 3;
                match value {
                    0..=0x1F | 0x7F => return Err(PathError::Control),
                    b'/' => {
                        spelled.add(Allowances::ENCODED_SLASH);
                        // Two separators in a row, once it is decoded.
                        if decoded.last() == Some(&b'/') {
                            spelled.add(Allowances::EMPTY_SEGMENT);
                        }
                    }
                    b'\\' => spelled.add(Allowances::ENCODED_BACKSLASH),
                    b'%' => spelled.add(Allowances::ENCODED_PERCENT),
                    b';' => spelled.add(Allowances::ENCODED_SEMICOLON),
                    b'?' => spelled.add(Allowances::ENCODED_QUESTION),
                    b'#' => spelled.add(Allowances::ENCODED_HASH),
                    _ => {}
                }
                decoded.push(value);
                if matches!(value, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~') {
                    canonical.push(value as char);
                } else {
                    canonical.push('%');
                    canonical.push(HEX[usize::from(value >> 4)] as char);
                    canonical.push(HEX[usize::from(value & 15)] as char);
                }
                continue;
            }
            0..=0x20 | 0x7F => return Err(PathError::Control),
            0x80.. => return Err(PathError::RawByte),
            b'\\' => spelled.add(Allowances::BACKSLASH),
            b';' => spelled.add(Allowances::SEMICOLON),
            b'/' if decoded.last() == Some(&b'/') => spelled.add(Allowances::EMPTY_SEGMENT),
            _ => {}
        }
        decoded.push(byte);
        canonical.push(byte as char);
        at += 1;
    }
    let decoded = String::from_utf8(decoded).map_err(|_| PathError::Utf8)?;
    if has_dot_segment(&decoded) {
        return Err(PathError::DotSegment);
    }
    // A server that decodes twice must not find one either.
    if spelled.0 & Allowances::ENCODED_PERCENT.0 != 0
        && has_dot_segment(&percent_encoding::percent_decode_str(&decoded).decode_utf8_lossy())
    {
        return Err(PathError::DotSegment);
    }
    Ok((canonical, spelled))
}

/// Whether any reading of a decoded path has a `.` or `..` segment: `/` and `\` separate, `;` starts parameters.
fn has_dot_segment(decoded: &str) -> bool {
    decoded.split(['/', '\\']).any(|segment| {
        let name = segment.split(';').next().unwrap_or_default();
        name == "." || name == ".."
    })
}

fn escape(raw: &[u8], at: usize) -> Option<u8> {
    let high = char::from(*raw.get(at)?).to_digit(16)?;
    let low = char::from(*raw.get(at + 1)?).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(target: &str) -> Result<CanonicalPath, PathError> {
        CanonicalPath::parse(&target.parse().expect("http accepts it"))
    }

    #[test]
    fn one_spelling_comes_out() {
        for (target, canonical) in [
            ("/", "/"),
            ("/orders/7", "/orders/7"),
            ("/orders/7?x=%2e%2E/../", "/orders/7?x=%2e%2E/../"),
            ("/%6frders", "/orders"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%20b%7eC", "/a%20b~C"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/...", "/a/..."),
            ("/a.", "/a."),
            ("/%6frders?q=1", "/orders?q=1"),
        ] {
            let parsed = parse(target).expect(target);
            assert_eq!(parsed.target().as_str(), canonical);
            assert_eq!(parsed.spelled(), Allowances::default());
            assert_eq!(parse(canonical).expect("canonical").target(), parsed.target(), "a second pass changes nothing");
        }
    }

    #[test]
    fn refused_whatever_the_route() {
        for (target, error) in [
            ("/../x", PathError::DotSegment),
            ("/a/./b", PathError::DotSegment),
            ("/a/..", PathError::DotSegment),
            ("/a/%2e%2E/b", PathError::DotSegment),
            ("/a/.%2e", PathError::DotSegment),
            ("/a/..;x=1/b", PathError::DotSegment),
            ("/a/..%3bx/b", PathError::DotSegment),
            ("/a/..%2Fb", PathError::DotSegment),
            ("/a%5C..%5Cb", PathError::DotSegment),
            ("/a/%252e%252e/b", PathError::DotSegment),
            ("/a%00", PathError::Control),
            ("/a%0d%0aX", PathError::Control),
            ("/a%7f", PathError::Control),
            ("/a%", PathError::Escape),
            ("/a%2", PathError::Escape),
            ("/a%zz", PathError::Escape),
            ("/%u002e", PathError::Escape),
            ("/%C0%AF", PathError::Utf8),
            ("/%ff", PathError::Utf8),
            ("*", PathError::NotAbsolute),
            ("/caf\u{e9}", PathError::RawByte),
            ("/a?caf\u{e9}", PathError::RawByte),
        ] {
            assert_eq!(parse(target).map(|p| p.as_str().to_owned()), Err(error), "{target}");
        }
    }

    #[test]
    fn openable_spellings_are_noted() {
        for (target, spelling) in [
            ("/a%2fb", "%2F"),
            ("/a%5cb", "%5c"),
            ("/a%25b", "%25"),
            ("/a;b", ";"),
            ("/a%3bb", "%3B"),
            ("/a%3fb", "%3F"),
            ("/a%23b", "%23"),
            ("/a//b", "//"),
            ("//a", "//"),
        ] {
            let parsed = parse(target).expect(target);
            assert_eq!(Some(parsed.spelled()), Allowances::parse(spelling), "{target}");
        }
        for target in ["/a%2f%2Fb", "/a/%2fb", "/a%2F/b"] {
            let spelled = parse(target).expect(target).spelled();
            assert_eq!(spelled, Allowances::ENCODED_SLASH.union(Allowances::EMPTY_SEGMENT), "{target}");
        }
        assert_eq!(Allowances::parse("%2e"), None);
        assert_eq!(Allowances::parse(".."), None);
    }

    #[test]
    fn a_stripped_prefix_leaves_a_path_that_passes() {
        for (target, prefix, left) in [
            ("/orders/7?a=1", "/orders", Some("/7?a=1")),
            ("/orders", "/orders", Some("/")),
            ("/orders/", "/orders", Some("/")),
            ("/orders//evil/x", "/orders", None),
            ("/ordersx", "/orders", None),
            ("/other/orders/x", "/orders", None),
            ("/a%3Ab/c", "/a:b", Some("/c")),
            ("/a:b/c%2C", "/a%3Ab", Some("/c%2C")),
        ] {
            let stripped = parse(target).expect(target).strip_prefix(prefix);
            assert_eq!(stripped.as_ref().map(|p| p.target().as_str()), left, "{target}");
        }
    }
}
