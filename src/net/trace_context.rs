//! Which trace a request belongs to (W3C Trace Context). What the caller says is passed on as it is, so that the upstream's
//! spans hang below the caller's own, unless `otlp` makes the gateway a span between them; what cannot be read is not.

use std::num::NonZero;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// `version-trace_id-parent_id-flags` of version 00; later ones may go on after it.
const LENGTH: usize = 55;
/// Section 3.3.1.1.
const MEMBERS: usize = 32;
/// Of a key, and of a value.
const MEMBER_BYTES: usize = 256;

/// Of the flags: the caller keeps its span.
const SAMPLED: u8 = 1;
/// Of the flags: the trace's id is random (level 2 of the recommendation). True of it for as long as it lives.
const RANDOM: u8 = 2;

/// A `traceparent` that can be read.
#[derive(Clone, Debug)]
pub struct TraceParent(HeaderValue);

impl TraceParent {
    /// What a request says of its trace. Fields that cannot be read are removed: `tracestate` alone where only that is wrong,
    /// both where the other is (section 4.3).
    pub fn of(headers: &mut Arc<HeaderMap>) -> Option<Self> {
        // Most have neither, which one look at each name tells for less than two searches.
        if !headers.keys().any(|name| matches!(name.as_str(), "traceparent" | "tracestate")) {
            return None;
        }
        let mut named = headers.get_all(TRACEPARENT).iter();
        let parent = match (named.next(), named.next()) {
            (Some(value), None) if is_parent(value.as_bytes()) => Some(Self(value.clone())),
            (Some(_), _) => {
                Arc::make_mut(headers).remove(TRACEPARENT);
                None
            }
            (None, _) => None,
        };
        if headers.contains_key(TRACESTATE) && (parent.is_none() || !is_state(headers)) {
            Arc::make_mut(headers).remove(TRACESTATE);
        }
        parent
    }

    /// The first span of a new trace. No id may be zero.
    pub fn root(trace_id: NonZero<u128>, span_id: NonZero<u64>, sampled: bool) -> Self {
        let mut trace = [0; 32];
        write_hex(&mut trace, trace_id.get());
        Self::written(&trace, span_id, if sampled { SAMPLED } else { 0 })
    }

    /// A span below this one. What flags mean that are not known here is not ours to say.
    pub fn child(&self, span_id: NonZero<u64>) -> Self {
        Self::written(self.trace_id().as_bytes(), span_id, self.flags() & (SAMPLED | RANDOM))
    }

    fn written(trace_id: &[u8], span_id: NonZero<u64>, flags: u8) -> Self {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        text[3..35].copy_from_slice(trace_id);
        write_hex(&mut text[36..52], span_id.get().into());
        write_hex(&mut text[53..], flags.into());
        Self(HeaderValue::from_bytes(&text).expect("hexadecimal digits and dashes"))
    }

    pub fn value(&self) -> &HeaderValue {
        &self.0
    }

    /// 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        self.part(3, 35)
    }

    /// Of the span that it names: 16 hexadecimal digits.
    pub fn span_id(&self) -> &str {
        self.part(36, 52)
    }

    pub fn flags(&self) -> u8 {
        u8::from_str_radix(self.part(53, 55), 16).unwrap_or_default()
    }

    /// Whether the span is kept, so that those below it should be.
    pub fn is_sampled(&self) -> bool {
        self.flags() & SAMPLED != 0
    }

    fn part(&self, from: usize, to: usize) -> &str {
        self.0.to_str().ok().and_then(|text| text.get(from..to)).unwrap_or_default()
    }
}

/// All of `text`, as digits.
fn write_hex(text: &mut [u8], mut number: u128) {
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
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
        let mut headers = Arc::new(headers);
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
    fn a_span_of_our_own_is_written_as_it_is_read() {
        let read = |text: &str| {
            let headers = HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_str(text).expect("a value"))]);
            TraceParent::of(&mut Arc::new(headers)).expect("a parent")
        };
        let (trace, span) = (NonZero::new(0x1a).expect("not zero"), NonZero::new(0xfedc_ba98).expect("not zero"));
        for (sampled, flags) in [(true, "01"), (false, "00")] {
            let root = TraceParent::root(trace, span, sampled);
            assert_eq!(root.value(), &format!("00-0000000000000000000000000000001a-00000000fedcba98-{flags}"));
            assert_eq!(read(root.value().to_str().expect("text")).is_sampled(), sampled);
        }
        // A later version may say more; what is written is ours.
        for (text, flags) in
            [(GOOD.to_owned(), "01"), (GOOD.replacen("00", "cc", 1) + "-x", "01"), (GOOD.replace("-01", "-fe"), "02")]
        {
            let parent = read(&text);
            assert_eq!(parent.span_id(), "00f067aa0ba902b7");
            let child = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00000000fedcba98-{flags}");
            assert_eq!(parent.child(span).value(), &child);
        }
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
