//! From listener, host and path to whatever is configured there; knows nothing of what that is. The most specific pattern
//! wins and the order of insertion never matters: host class first, then segment by segment literal, `{name}`, `**`.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod path;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use path::{CanonicalPath, decode};

/// A `hosts` entry, lower case and without port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(Box<str>),
    /// `*.example.com` is `Wildcard("example.com")`: one label before it.
    Wildcard(Box<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("a host is a name or an address, or `*.` and a name")]
    Syntax,
    #[error("a host has no port here; the listener decides the port")]
    Port,
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(name) => write!(f, "*.{name}"),
        }
    }
}

impl HostPattern {
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let lower = text.to_ascii_lowercase();
        let (name, wildcard) = match lower.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (lower.as_str(), false),
        };
        match split_port(name) {
            Some((_, Some(_))) => Err(HostError::Port),
            Some((host, None)) if host.ends_with('.') => Err(HostError::Syntax),
            Some((host, None)) if wildcard => Ok(Self::Wildcard(host.into())),
            Some((host, None)) => Ok(Self::Exact(host.into())),
            None => Err(HostError::Syntax),
        }
    }
}

/// A Host header's value as it is matched: lower case, without port and without the root's dot. `None` when it is no host.
pub fn canonical_host(value: &str) -> Option<Cow<'_, str>> {
    if is_canonical(value) {
        return Some(value.into());
    }
    let (host, _) = split_port(value)?;
    let host = host.strip_suffix('.').unwrap_or(host);
    Some(if host.bytes().any(|b| b.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host.into() })
}

/// The bytes of a name's labels.
const LABEL: [bool; 256] = {
    let mut label = [false; 256];
    let mut byte = 0;
    while byte < label.len() {
        #[expect(clippy::cast_possible_truncation, reason = "it is less than 256")]
        let is_of_label = matches!(byte as u8, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_');
        label[byte] = is_of_label;
        byte += 1;
    }
    label
};

/// Whether it is a name in lower case with nothing around it, as nearly all are.
fn is_canonical(value: &str) -> bool {
    let mut after_dot = true;
    let fits = value.bytes().all(|byte| {
        let fits = LABEL[usize::from(byte)] || (byte == b'.' && !after_dot);
        after_dot = byte == b'.';
        fits && !byte.is_ascii_uppercase()
    });
    fits && !after_dot
}

/// Splits `host[:port]`, where a host is a name, an IPv4 address or a bracketed IPv6 address.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let end = if text.starts_with('[') {
        let end = text.find(']')? + 1;
        let address = &text[1..end - 1];
        address.parse::<std::net::Ipv6Addr>().ok()?;
        end
    } else {
        // Byte by byte: names are too short for a search to pay.
        let mut end = text.len();
        let mut after_dot = true;
        for (at, byte) in text.bytes().enumerate() {
            if LABEL[usize::from(byte)] {
                after_dot = false;
                continue;
            }
            match byte {
                b':' => {
                    end = at;
                    break;
                }
                b'.' if !after_dot => after_dot = true,
                _ => return None,
            }
        }
        // The last dot is the root's.
        if end == 0 {
            return None;
        }
        end
    };
    let port = match text[end..].strip_prefix(':') {
        None if end == text.len() => None,
        // RFC 3986 section 3.2.3 allows an empty port; some servers do not.
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port > 0)?)
        }
        _ => return None,
    };
    Some((&text[..end], port))
}

/// One segment of a route's `path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// In canonical spelling.
    Literal(Box<str>),
    /// `{name}`: exactly one non-empty segment.
    Any(Box<str>),
    /// `**`, last only: zero or more segments.
    Rest,
}

/// A route's `path`, parsed: `/orders/{id}` is `[Literal("orders"), Any("id")]`, `/` is `[Literal("")]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern(pub Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("a path starts with `/`")]
    NotAbsolute,
    #[error("`**` stands for the rest of a path and comes last")]
    RestNotLast,
    #[error("`{{name}}` stands for one whole segment, its name is letters, digits and `_`")]
    Name,
    #[error("`*` has no meaning in a segment; `{{name}}` is one segment, `**` the rest")]
    Star,
    #[error("the name `{0}` stands twice in the path")]
    NameTwice(Box<str>),
    #[error("{0}")]
    Path(#[from] path::PathError),
    #[error("no request can have this path, as {0} is refused; open it with `allow_in_path` or leave it out")]
    Refused(String),
    #[error("`?` and `#` are not part of a path")]
    Query,
}

impl PathPattern {
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        Self::parse_allowing(text, path::Allowances::default())
    }

    /// As `parse`, for a route whose `allow_in_path` opens `allowances`.
    pub fn parse_allowing(text: &str, allowances: path::Allowances) -> Result<Self, PatternError> {
        let rest = text.strip_prefix('/').ok_or(PatternError::NotAbsolute)?;
        if text.contains(['?', '#']) {
            return Err(PatternError::Query);
        }
        let mut segments: Vec<Segment> = Vec::new();
        for part in rest.split('/') {
            if segments.last() == Some(&Segment::Rest) {
                return Err(PatternError::RestNotLast);
            }
            segments.push(match part {
                "**" => Segment::Rest,
                _ if part.starts_with('{') || part.ends_with('}') => {
                    let name = part.strip_prefix('{').and_then(|p| p.strip_suffix('}')).ok_or(PatternError::Name)?;
                    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                        return Err(PatternError::Name);
                    }
                    let any = Segment::Any(name.into());
                    if segments.contains(&any) {
                        return Err(PatternError::NameTwice(name.into()));
                    }
                    any
                }
                _ if part.contains('*') => return Err(PatternError::Star),
                _ if part.contains(['{', '}']) => return Err(PatternError::Name),
                _ => Segment::Literal(canonical_segment(part)?),
            });
        }
        let literal: String = segments
            .iter()
            .map(|segment| match segment {
                Segment::Literal(text) => format!("/{text}"),
                _ => "/x".to_owned(),
            })
            .collect();
        let probe = literal.parse().map_err(|_| PatternError::Path(path::PathError::Escape))?;
        let spelled = CanonicalPath::parse(&probe)?.spelled();
        if !spelled.is_subset(allowances) {
            return Err(PatternError::Refused(spelled.to_string()));
        }
        Ok(Self(segments))
    }

    /// The literal text before the first `{name}` or `**`, without a slash at its end: `/orders` of `/orders/**`.
    pub fn literal_prefix(&self) -> String {
        let mut prefix = String::new();
        for segment in &self.0 {
            let Segment::Literal(text) = segment else { break };
            prefix.push('/');
            prefix.push_str(text);
        }
        prefix
    }
}

/// A literal in the spelling in which requests arrive at the matcher; non-ASCII text is escaped.
fn canonical_segment(part: &str) -> Result<Box<str>, PatternError> {
    let mut escaped = String::from("/");
    for c in part.chars() {
        if c.is_ascii() && c != ' ' && !c.is_ascii_control() {
            escaped.push(c);
        } else {
            let mut buffer = [0; 4];
            escaped.extend(percent_encoding::percent_encode(
                c.encode_utf8(&mut buffer).as_bytes(),
                percent_encoding::NON_ALPHANUMERIC,
            ));
        }
    }
    let target = escaped.parse().map_err(|_| PatternError::Path(path::PathError::Escape))?;
    Ok(CanonicalPath::parse(&target)?.as_str()[1..].into())
}

/// Patterns and what they stand for.
#[derive(Debug)]
pub struct Table<T> {
    listeners: Vec<Hosts>,
    nodes: Vec<Node>,
    values: Vec<T>,
}

#[derive(Debug, Default)]
struct Hosts {
    exact: FastMap<NodeId>,
    wildcard: FastMap<NodeId>,
    any: Option<NodeId>,
}

#[derive(Debug, Default)]
struct Node {
    /// By what the segment says, however it is spelled.
    literal: FastMap<NodeId>,
    any: Option<NodeId>,
    rest: Option<ValueId>,
    here: Option<ValueId>,
}

type NodeId = usize;
type ValueId = usize;

impl<T: Clone> Table<T> {
    /// A table for `listeners` listeners, named by index.
    pub fn new(listeners: usize) -> Self {
        Self { listeners: (0..listeners).map(|_| Hosts::default()).collect(), nodes: Vec::new(), values: Vec::new() }
    }

    /// Adds a pattern on one listener for each of `hosts` (none: any host). When one of the places is taken, nothing tells
    /// the two apart: the value that stands there is returned, and the table must not be used.
    pub fn insert(&mut self, listener: usize, hosts: &[HostPattern], path: &PathPattern, value: T) -> Result<(), T> {
        let value_id = self.values.len();
        self.values.push(value);
        let mut roots = Vec::new();
        if hosts.is_empty() {
            let any = self.listeners[listener].any;
            let root = any.unwrap_or_else(|| new_node(&mut self.nodes));
            self.listeners[listener].any = Some(root);
            roots.push(root);
        }
        for host in hosts {
            let (map, name) = match host {
                HostPattern::Exact(name) => (&mut self.listeners[listener].exact, name),
                HostPattern::Wildcard(name) => (&mut self.listeners[listener].wildcard, name),
            };
            roots.push(*map.entry(name.clone()).or_insert_with(|| new_node(&mut self.nodes)));
        }
        for root in roots {
            if let Some(taken) = self.place(root, path, value_id) {
                return Err(self.values[taken].clone());
            }
        }
        Ok(())
    }

    fn place(&mut self, root: NodeId, path: &PathPattern, value: ValueId) -> Option<ValueId> {
        let mut at = root;
        for segment in &path.0 {
            at = match segment {
                Segment::Rest => return occupy(&mut self.nodes[at].rest, value),
                Segment::Literal(text) => match self.nodes[at].literal.get(&*decode(text)) {
                    Some(&next) => next,
                    None => {
                        let next = new_node(&mut self.nodes);
                        self.nodes[at].literal.insert(decode(text).into(), next);
                        next
                    }
                },
                Segment::Any(_) => match self.nodes[at].any {
                    Some(next) => next,
                    None => {
                        let next = new_node(&mut self.nodes);
                        self.nodes[at].any = Some(next);
                        next
                    }
                },
            };
        }
        occupy(&mut self.nodes[at].here, value)
    }
}

impl<T> Table<T> {
    /// What stands for a request on `listener` to `host` (as `canonical_host` gives it).
    pub fn find(&self, listener: usize, host: &str, path: &CanonicalPath) -> Option<&T> {
        let hosts = self.listeners.get(listener)?;
        let path = path.as_str().strip_prefix('/')?;
        let wildcard = || {
            let named = if hosts.wildcard.is_empty() { None } else { host.split_once('.') };
            named.filter(|(label, _)| !label.is_empty()).and_then(|(_, name)| hosts.wildcard.get(name))
        };
        let value = None
            .or_else(|| self.descend(*hosts.exact.get(host)?, Some(path)))
            .or_else(|| self.descend(*wildcard()?, Some(path)))
            .or_else(|| self.descend(hosts.any?, Some(path)))?;
        Some(&self.values[value])
    }

    /// `left` is what follows the last slash taken; `None` at the end of the path. No node is entered twice, so the work
    /// is bounded by the smaller of the table's size and, per level, three tries.
    fn descend(&self, at: NodeId, left: Option<&str>) -> Option<ValueId> {
        let node = &self.nodes[at];
        let Some(left) = left else { return node.here.or(node.rest) };
        // Byte by byte: segments are too short for a search to pay.
        let mut escaped = false;
        let slash = left.bytes().position(|byte| {
            escaped |= byte == b'%';
            byte == b'/'
        });
        let (segment, after) = match slash {
            Some(slash) => (&left[..slash], Some(&left[slash + 1..])),
            None => (left, None),
        };
        let said = || if escaped { decode(segment) } else { Cow::Borrowed(segment) };
        if !node.literal.is_empty()
            && let Some(&next) = node.literal.get(&*said())
            && let found @ Some(_) = self.descend(next, after)
        {
            return found;
        }
        let any = node.any.filter(|_| !segment.is_empty()).and_then(|next| self.descend(next, after));
        any.or(node.rest)
    }
}

fn new_node(nodes: &mut Vec<Node>) -> NodeId {
    nodes.push(Node::default());
    nodes.len() - 1
}

fn occupy(place: &mut Option<ValueId>, value: ValueId) -> Option<ValueId> {
    if let Some(taken) = place {
        return Some(*taken);
    }
    *place = Some(value);
    None
}

/// Keys come from the configuration, so no caller can choose colliding ones, and a cheap hash (FNV-1a) will do.
type FastMap<V> = HashMap<Box<str>, V, BuildHasherDefault<Fnv>>;

#[derive(Debug)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(routes: &[(&str, &str)]) -> Table<usize> {
        let mut table = Table::new(1);
        for (n, (host, path)) in routes.iter().enumerate() {
            let hosts: Vec<_> =
                host.split(' ').filter(|h| !h.is_empty()).map(|h| HostPattern::parse(h).expect("host")).collect();
            table.insert(0, &hosts, &PathPattern::parse(path).expect("path"), n).expect("no tie");
        }
        table
    }

    fn find(table: &Table<usize>, host: &str, path: &str) -> Option<usize> {
        let path = CanonicalPath::parse(&path.parse().expect("target")).expect("canonical");
        table.find(0, host, &path).copied()
    }

    #[test]
    fn the_most_specific_path_wins_whatever_the_order() {
        let routes =
            ["/**", "/orders/**", "/orders/{id}", "/orders/new", "/orders/{id}/lines", "/a/{x}/c", "/a/b/**", "/"];
        let cases = [
            ("/", 7),
            ("/x", 0),
            ("/orders", 1),
            ("/orders/", 1),
            ("/orders/7", 2),
            ("/orders/new", 3),
            ("/orders/new/x", 1),
            ("/orders/new/lines", 4),
            ("/orders/7/lines", 4),
            ("/orders/7/lines/", 1),
            ("/a/b/c", 6),
            ("/a/z/c", 5),
            ("/a/z/d", 0),
        ];
        let forward: Vec<_> = routes.iter().map(|path| ("", *path)).collect();
        let table_forward = table(&forward);
        let backward: Vec<_> = forward.iter().rev().copied().collect();
        let table_backward = table(&backward);
        for (path, expected) in cases {
            assert_eq!(find(&table_forward, "h", path), Some(expected), "{path}");
            assert_eq!(find(&table_backward, "h", path), Some(routes.len() - 1 - expected), "{path}, reversed");
        }
    }

    #[test]
    fn class_2_no_spelling_of_a_literal_leads_past_it() {
        let table = table(&[("", "/**"), ("", "/v1/jobs:purge/**"), ("", "/caf\u{e9}/a|b"), ("", "/x%2Cy")]);
        for (path, expected) in [
            ("/v1/jobs:purge", 1),
            ("/v1/jobs%3Apurge", 1),
            ("/v1/jobs%3apur%67e/now", 1),
            ("/caf%c3%a9/a|b", 2),
            ("/caf%c3%a9/a%7cb", 2),
            ("/x,y", 3),
            ("/x%2cy", 3),
            ("/v1/jobs", 0),
        ] {
            assert_eq!(find(&table, "h", path), Some(expected), "{path}");
        }
    }

    #[test]
    fn the_next_host_class_is_asked_when_one_lacks_the_path() {
        let table = table(&[("api.example.com", "/a"), ("*.example.com", "/b"), ("", "/c"), ("*.example.com", "/a")]);
        for (host, path, expected) in [
            ("api.example.com", "/a", Some(0)),
            ("api.example.com", "/b", Some(1)),
            ("api.example.com", "/c", Some(2)),
            ("www.example.com", "/a", Some(3)),
            ("a.b.example.com", "/a", None),
            ("example.com", "/b", None),
            (".example.com", "/b", None),
            ("example.com", "/c", Some(2)),
        ] {
            assert_eq!(find(&table, host, path), expected, "{host}{path}");
        }
    }

    #[test]
    fn ties_are_found() {
        let pattern = |text| PathPattern::parse(text).expect("path");
        let mut table = Table::new(2);
        table.insert(0, &[], &pattern("/a/{x}"), "first").expect("free");
        assert_eq!(table.insert(1, &[], &pattern("/a/{y}"), "elsewhere"), Ok(()));
        assert_eq!(table.insert(0, &[], &pattern("/a/{y}"), "second"), Err("first"));
        table = Table::new(1);
        table.insert(0, &[], &pattern("/a:b"), "first").expect("free");
        assert_eq!(table.insert(0, &[], &pattern("/a%3Ab"), "second"), Err("first"));
    }

    #[test]
    fn patterns() {
        for (text, fine) in [
            ("/", true),
            ("/a/**", true),
            ("/a/{x}/{y}", true),
            ("/caf\u{e9}", true),
            ("a", false),
            ("/**/a", false),
            ("/a*", false),
            ("/{a}b", false),
            ("/{}", false),
            ("/{x}/{x}", false),
            ("/a/../b", false),
            ("/a//b", false),
            ("/a;b", false),
            ("/a?b", false),
        ] {
            assert_eq!(PathPattern::parse(text).is_ok(), fine, "{text}: {:?}", PathPattern::parse(text));
        }
        assert_eq!(PathPattern::parse("/a/b/{c}/d").expect("path").literal_prefix(), "/a/b");
    }

    #[test]
    fn hosts() {
        for (value, host) in [
            ("API.Example.com:8443", Some("api.example.com")),
            ("api.example.com.", Some("api.example.com")),
            ("[::1]:80", Some("[::1]")),
            ("127.0.0.1", Some("127.0.0.1")),
            ("", None),
            ("a b", None),
            ("user@host", None),
            ("host:port", None),
            ("host:99999", None),
            ("host:0", None),
            ("a/b", None),
            ("[::1", None),
            ("::1", None),
            (".", None),
            (".a", None),
            ("a..b", None),
            ("a..", None),
        ] {
            assert_eq!(canonical_host(value).as_deref(), host, "{value}");
        }
        assert_eq!(HostPattern::parse("*.Example.com"), Ok(HostPattern::Wildcard("example.com".into())));
        assert_eq!(HostPattern::parse("example.com:80"), Err(HostError::Port));
        for text in ["*", "*.", "a.", "a..b", "*..a"] {
            assert_eq!(HostPattern::parse(text), Err(HostError::Syntax), "{text}");
        }
    }
}
