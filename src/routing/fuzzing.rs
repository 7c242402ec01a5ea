//! What holds of every path and every host, whatever the bytes: checked by the fuzz targets and on their corpus.

use bytes::Bytes;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode;

use super::path::{Allowances, CanonicalPath};
use super::{HostPattern, PathPattern, Segment, Table, canonical_host};

/// Three lines: a target, patterns separated by spaces, a prefix to strip.
pub fn path(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (target, patterns, prefix) = (line(), String::from_utf8_lossy(line()), String::from_utf8_lossy(line()));
    let Ok(target) = PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(target)) else { return };
    let Ok(path) = CanonicalPath::parse(&target) else { return };

    assert_eq!(CanonicalPath::parse(path.target()), Ok(path.clone()), "a second pass changes something");
    assert_eq!(path.target().query(), target.query(), "the query changed");
    assert_eq!(decode(path.as_str()), decode(target.path()), "the path means something else");
    let own: Vec<Vec<u8>> = path.as_str()[1..].split('/').map(decode).collect();
    for reading in readings(target.path()) {
        // Whatever a route opens, no reading of the path climbs.
        assert!(!climbs(&reading), "{reading:?} climbs");
        if path.spelled() == Allowances::default() {
            let segments: Vec<&[u8]> = reading[1..].split(|byte| *byte == b'/').collect();
            assert_eq!(segments, own, "another server reads another path");
        }
    }
    matches_like_a_list(&path, &patterns);
    strips(&path, &prefix);
}

/// The decoded path as lenient servers read it: decoded once or twice, with `\` as a separator, without parameters, with
/// neighbouring separators merged.
fn readings(path: &str) -> Vec<Vec<u8>> {
    let once = decode(path);
    let twice: Vec<u8> = percent_decode(&once).collect();
    let mut all = Vec::new();
    for decoded in [once, twice] {
        let separated: Vec<u8> = decoded.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect();
        let segments = || separated.split(|byte| *byte == b'/');
        let plain = segments().map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default());
        let merged: Vec<&[u8]> = segments().filter(|segment| !segment.is_empty()).collect();
        let ending: &[u8] = if separated.ends_with(b"/") && !merged.is_empty() { b"/" } else { b"" };
        all.push([b"/", merged.join(&b'/').as_slice(), ending].concat());
        all.push(plain.collect::<Vec<_>>().join(&b'/'));
        all.push(decoded);
    }
    all
}

fn decode(text: &str) -> Vec<u8> {
    percent_decode(text.as_bytes()).collect()
}

fn climbs(path: &[u8]) -> bool {
    path.split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| segment == b"." || segment == b"..")
}

/// The table finds what is found by trying one pattern after the other and taking the most specific.
fn matches_like_a_list(path: &CanonicalPath, patterns: &str) {
    let all = Allowances::spellings().filter_map(Allowances::parse).fold(Allowances::default(), Allowances::union);
    let mut table = Table::new(1);
    let mut list: Vec<PathPattern> = Vec::new();
    for text in patterns.split(' ').take(8) {
        let Ok(pattern) = PathPattern::parse_allowing(text, all) else { continue };
        let shape = |pattern: &PathPattern| -> Vec<(u8, Vec<u8>)> {
            let nameless = |segment: &Segment| match segment {
                Segment::Literal(text) => (2, decode(text)),
                Segment::Any(_) => (1, Vec::new()),
                Segment::Rest => (0, Vec::new()),
            };
            pattern.0.iter().map(nameless).collect()
        };
        let tie = list.iter().position(|other| shape(other) == shape(&pattern));
        if let Some(tie) = tie {
            // The table must not be used once it has told of a tie.
            let mut scratch = Table::new(1);
            let _ = scratch.insert(0, &[], &list[tie], tie);
            assert_eq!(scratch.insert(0, &[], &pattern, list.len()), Err(tie), "a tie went unnoticed");
            continue;
        }
        assert_eq!(table.insert(0, &[], &pattern, list.len()), Ok(()), "a tie out of nothing");
        list.push(pattern);
    }
    let segments: Vec<Vec<u8>> = path.as_str()[1..].split('/').map(decode).collect();
    let best = (0..list.len()).filter_map(|index| Some((specificity(&list[index], &segments)?, index))).max();
    assert_eq!(table.find(0, "", path), best.map(|(_, index)| index).as_ref());
}

/// How closely a pattern fits, to be compared segment by segment; none when it does not.
fn specificity(pattern: &PathPattern, segments: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut left = segments.iter();
    let mut ranks = Vec::new();
    for part in &pattern.0 {
        ranks.push(match part {
            Segment::Rest => {
                ranks.push(0);
                return Some(ranks);
            }
            Segment::Literal(text) if decode(text) == *left.next()? => 2,
            Segment::Any(_) if !left.next()?.is_empty() => 1,
            Segment::Literal(_) | Segment::Any(_) => return None,
        });
    }
    ranks.push(1);
    left.next().is_none().then_some(ranks)
}

/// What is left of a path without a prefix is the path's own end, and itself passes.
fn strips(path: &CanonicalPath, prefix: &str) {
    let Ok(prefix) = PathPattern::parse(prefix).map(|pattern| pattern.literal_prefix()) else { return };
    if prefix.ends_with('/') {
        // Not a configuration.
        return;
    }
    let Some(rest) = path.strip_prefix(&prefix) else { return };
    assert_eq!(CanonicalPath::parse(rest.target()), Ok(rest.clone()), "what is left does not pass as it is");
    assert!(rest.spelled().is_subset(path.spelled()), "what is left has a spelling that the path had not");
    assert_eq!(rest.target().query(), path.target().query());
    assert!(!rest.as_str().starts_with("//") && !rest.as_str().starts_with("/\\"), "it would be read as an authority");
    let all_of_it = rest.as_str() == "/" && !path.as_str().ends_with('/');
    assert!(all_of_it || path.as_str().ends_with(rest.as_str()), "what is left was not there");
    let end = if all_of_it { "" } else { rest.as_str() };
    assert_eq!(decode(&format!("{prefix}{end}")), decode(path.as_str()));
}

/// A Host header's value.
pub fn host(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(host) = canonical_host(text) else { return };
    assert_eq!(canonical_host(&host).as_deref(), Some(&*host), "a second pass changes something");
    assert!(host.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()), "{host}");
    assert!(!host.contains(['/', '\\', '@', '?', '#', '%', '*', '"', ',']), "{host}");
    assert_eq!(HostPattern::parse(&host), Ok(HostPattern::Exact((&*host).into())), "no route could name it");
    // What the library makes of it is the same host.
    let authority: http::uri::Authority = text.parse().expect("a host is an authority");
    assert!(authority.host().trim_end_matches('.').eq_ignore_ascii_case(&host), "{} {host}", authority.host());
    let mut table = Table::new(1);
    let everything = PathPattern::parse("/**").expect("a pattern");
    let label = host.split('.').next().unwrap_or_default().len();
    if let Some(parent) = host.get(label + 1..).and_then(|parent| HostPattern::parse(&format!("*.{parent}")).ok()) {
        let _ = table.insert(0, &[parent], &everything, ());
        let root = CanonicalPath::parse(&PathAndQuery::from_static("/")).expect("a path");
        assert!(table.find(0, &host, &root).is_some(), "one label before its own parent");
        assert!(table.find(0, &format!("x.{host}"), &root).is_none(), "two labels");
    }
}
