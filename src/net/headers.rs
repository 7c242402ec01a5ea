//! Header fields that belong to one hop (RFC 9110 section 7.6.1) and must not travel further, and a list of those that do.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Fields in the order in which they are sent. They are few: a look at each costs less than a table of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(HeaderName, HeaderValue)>);

impl Fields {
    pub fn with_capacity(fields: usize) -> Self {
        Self(Vec::with_capacity(fields))
    }

    /// Adds a line, whether or not there is one of that name.
    pub fn push(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
    }

    /// Adds another line of the field that came last.
    pub fn push_alike(&mut self, value: HeaderValue) {
        if let Some((name, _)) = self.0.last() {
            self.0.push((name.clone(), value));
        }
    }

    /// In place of every line of that name.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.remove(&name);
        self.push(name, value);
    }

    pub fn remove(&mut self, name: &HeaderName) {
        self.retain(|own| own != name);
    }

    pub fn retain(&mut self, wanted: impl Fn(&HeaderName) -> bool) {
        self.0.retain(|(name, _)| wanted(name));
    }

    pub fn iter(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.0.iter()
    }

    pub fn get_all(&self, name: &HeaderName) -> impl Iterator<Item = &HeaderValue> {
        self.0.iter().filter(move |(own, _)| own == name).map(|(_, value)| value)
    }
}

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

/// The lines of `Connection`. One look at each name tells for less than a search that few requests have it.
pub fn connection_lines(headers: &HeaderMap) -> impl Iterator<Item = &HeaderValue> {
    let lines = headers.keys().any(|name| *name == header::CONNECTION).then(|| headers.get_all(header::CONNECTION));
    lines.into_iter().flatten()
}

/// The options that a line of `Connection` names.
pub fn connection_options(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let line = line.to_str().ok().into_iter();
    line.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// The field that an option of `Connection` takes away beside those of the hop. What frames the message, names its host or
/// authorizes it stays: a caller must not be able to take that away.
pub fn named_by(option: &[u8]) -> Option<HeaderName> {
    if is_usual(option) {
        return None;
    }
    let name = HeaderName::from_bytes(option).ok()?;
    let stays = [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION].contains(&name);
    (!stays).then_some(name)
}

/// Whether an option is what nearly everybody says: no name of a field that could be left.
fn is_usual(option: &[u8]) -> bool {
    option.eq_ignore_ascii_case(b"keep-alive") || option.eq_ignore_ascii_case(b"close")
}

/// The fields that `Connection` takes away beside those of the hop.
pub fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = connection_lines(headers).filter(|line| !is_usual(line.as_bytes()));
    lines.flat_map(connection_options).filter_map(named_by).collect()
}

/// Removes what `Connection` names and the fields of the hop.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    remove_where(headers, is_hop_by_hop);
}

/// Whether one of the comma-separated tokens of a field's lines is `token`, without regard to case.
pub fn has_token<'a>(lines: impl IntoIterator<Item = &'a HeaderValue>, token: &str) -> bool {
    lines.into_iter().any(|value| is_token_of(value, token))
}

/// The same of one line.
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
