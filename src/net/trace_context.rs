//! Which trace a request belongs to (W3C Trace Context). The gateway is no span of it: what the caller says is passed on as
//! it is, so that the upstream's spans hang below the caller's own; what cannot be read is not.

use http::header::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// `version-trace_id-parent_id-flags` of version 00; later ones may go on after it.
const LENGTH: usize = 55;
/// Section 3.3.1.1.
const MEMBERS: usize = 32;
/// Of a key, and of a value.
const MEMBER_BYTES: usize = 256;

/// A `traceparent` that can be read.
#[derive(Clone, Debug)]
pub struct TraceParent(HeaderValue);

impl TraceParent {
    /// What a request says of its trace. Fields that cannot be read are removed: `tracestate` alone where only that is wrong,
    /// both where the other is (section 4.3).
    pub fn of(headers: &mut HeaderMap) -> Option<Self> {
        let mut named = headers.get_all(TRACEPARENT).iter();
        let parent = match (named.next(), named.next()) {
            (Some(value), None) if is_parent(value.as_bytes()) => Some(Self(value.clone())),
            (Some(_), _) => {
                headers.remove(TRACEPARENT);
                None
            }
            (None, _) => None,
        };
        if headers.contains_key(TRACESTATE) && (parent.is_none() || !is_state(headers)) {
            headers.remove(TRACESTATE);
        }
        parent
    }

    /// 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        self.0.to_str().ok().and_then(|text| text.get(3..35)).unwrap_or_default()
    }
}

/// Section 3.2.2.
fn is_parent(value: &[u8]) -> bool {
    let Some((known, rest)) = value.split_at_checked(LENGTH) else { return false };
    let hex = |from: usize, to: usize| {
        let digits = &known[from..to];
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        Some(digits).filter(|digits| digits.iter().all(is_digit))
    };
    let (Some(version), Some(trace), Some(parent), Some(_)) = (hex(0, 2), hex(3, 35), hex(36, 52), hex(53, 55)) else {
        return false;
    };
    let is_set = |digits: &[u8]| digits.iter().any(|digit| *digit != b'0');
    let ends = match version {
        b"ff" => false,
        b"00" => rest.is_empty(),
        _ => rest.first().is_none_or(|byte| *byte == b'-'),
    };
    ends && is_set(trace) && is_set(parent) && [2, 35, 52].iter().all(|dash| known[*dash] == b'-')
}

/// Section 3.3.1: members of all fields together.
fn is_state(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(TRACESTATE).iter();
    let members = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let mut count = 0;
    members.filter(|member| !member.is_empty()).all(|member| {
        count += 1;
        count <= MEMBERS && is_member(member)
    })
}

fn is_member(member: &[u8]) -> bool {
    let Some(equals) = member.iter().position(|byte| *byte == b'=') else { return false };
    let (key, value) = (&member[..equals], &member[equals + 1..]);
    let in_key = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let in_value = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'=';
    (1..=MEMBER_BYTES).contains(&key.len())
        && key.iter().all(in_key)
        && key[0].is_ascii_alphanumeric()
        && (1..=MEMBER_BYTES).contains(&value.len())
        && value.iter().all(in_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// The fields that are left, and the trace.
    fn read(fields: &[(&'static str, &str)]) -> (Vec<String>, Option<String>) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        let parent = TraceParent::of(&mut headers);
        let left = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
        (left, parent.map(|parent| parent.trace_id().to_owned()))
    }

    #[test]
    fn a_parent_is_read_to_the_letter() {
        let future = GOOD.replacen("00", "cc", 1);
        let long = future.clone() + "-what-the-future-will-be-like";
        for good in [GOOD, &GOOD.replace("-01", "-00"), &GOOD.replace("-01", "-ff"), &future, &long] {
            let (left, trace) = read(&[("traceparent", good)]);
            assert_eq!(left, [format!("traceparent: {good}")]);
            assert_eq!(trace.as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        }
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}0"),
            &format!("{future}."),
            &format!("{GOOD}-extra"),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.to_uppercase(),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            &GOOD.replace("00f067aa0ba902b7", "0000000000000000"),
            &GOOD.replace('-', "_"),
            &GOOD.replace("-01", "-0g"),
        ] {
            let (left, trace) = read(&[("traceparent", bad), ("tracestate", "a=1")]);
            assert_eq!((left, trace), (Vec::new(), None), "{bad}");
        }
        // Two are none, and a state belongs to a parent.
        assert_eq!(read(&[("traceparent", GOOD), ("traceparent", GOOD), ("tracestate", "a=1")]).0, [""; 0]);
        assert_eq!(read(&[("tracestate", "a=1")]).0, [""; 0]);
    }

    #[test]
    fn a_state_that_cannot_be_read_goes_alone() {
        let many = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        let bounds = (format!("a={}", "v".repeat(256)), format!("{}=v", "k".repeat(256)), many(32));
        for good in [
            "a=1",
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            "fw529a3039@dt=FfhH, a=b c ,,",
            &bounds.0,
            &bounds.1,
            &bounds.2,
        ] {
            assert_eq!(read(&[("traceparent", GOOD), ("tracestate", good)]).0.len(), 2, "{good}");
        }
        let bounds = (format!("a={}", "v".repeat(257)), format!("{}=v", "k".repeat(257)), many(33));
        for bad in ["a", "=1", "a=", "A=1", "a=1=2", "a b=1", "_a=1", "a=\t1\tb", &bounds.0, &bounds.1, &bounds.2] {
            assert_eq!(
                read(&[("traceparent", GOOD), ("tracestate", bad)]).0,
                [format!("traceparent: {GOOD}")],
                "{bad}"
            );
        }
        // The limit holds for all fields together.
        let half = many(17);
        assert_eq!(read(&[("traceparent", GOOD), ("tracestate", &half), ("tracestate", &half)]).0.len(), 1);
    }
}
