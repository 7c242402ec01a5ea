//! Header fields that belong to one hop (RFC 9110 section 7.6.1) and must not travel further.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Whether `name` is of one hop alone, whatever `Connection` says. Asked of every field, so compared as text: that costs a
/// look at the length for nearly all of them.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "transfer-encoding"
            | "upgrade"
            | "te"
            | "trailer"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "keep-alive"
            | "proxy-connection"
            // Of the switch to cleartext HTTP/2, which is never made.
            | "http2-settings"
    )
}

/// Removes the fields whose names are `unwanted`.
pub fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let unwanted: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}

/// Removes what `Connection` names and the fields of the hop. What frames the message, names its host or authorizes it
/// stays: a caller must not be able to take that away.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            // Named by nearly everybody, and gone in any case.
            .filter(|name| !name.eq_ignore_ascii_case("keep-alive"))
            .filter_map(|name| name.parse().ok())
            .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH && *name != header::AUTHORIZATION)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    remove_where(headers, is_hop_by_hop);
}

/// Whether one of the comma-separated tokens of `name` is `token`, without regard to case.
pub fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| is_token_of(value, token))
}

/// The same of one field.
pub fn is_token_of(value: &HeaderValue, token: &str) -> bool {
    value.to_str().is_ok_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_22_connection_takes_away_what_it_names_but_not_the_framing() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-User"),
            ("connection", "Host, content-length, authorization"),
            ("x-user", "mallory"),
            ("host", "a"),
            ("content-length", "3"),
            ("authorization", "Bearer x"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("accept", "*/*"),
        ] {
            headers.append(HeaderName::from_static(name), http::HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "authorization", "content-length", "host"]);
    }
}
