//! Redirect URIs: compared as text with those of the client (RFC 9700 section 2.1), with the one exception that a native
//! application on loopback chooses its port (RFC 8252 section 7.3).

use super::Client;
use super::form::append;

/// The URI to send the browser to, and whether the request named it. None: nothing that could be trusted.
pub(super) fn resolve(client: &Client, requested: Option<&str>) -> Option<(String, bool)> {
    match requested {
        None => match client.redirect_uris.as_slice() {
            [only] => Some((only.clone(), false)),
            _ => None,
        },
        Some(requested) => {
            let matches = |own: &String| own == requested || (client.public && is_same_but_port(own, requested));
            client.redirect_uris.iter().any(matches).then(|| (requested.to_owned(), true))
        }
    }
}

/// Whether both are the same `http` URI on a loopback address literal, but for the port.
fn is_same_but_port(own: &str, requested: &str) -> bool {
    ["http://127.0.0.1", "http://[::1]"].iter().any(|host| {
        let (Some(own), Some(requested)) = (own.strip_prefix(host), requested.strip_prefix(host)) else { return false };
        matches!((without_port(own), without_port(requested)), (Some(own), Some(requested)) if own == requested)
    })
}

/// What follows `[:port]`; None when it is not a port.
fn without_port(rest: &str) -> Option<&str> {
    let Some(rest) = rest.strip_prefix(':') else {
        return (rest.is_empty() || rest.starts_with(['/', '?'])).then_some(rest);
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (port, rest) = rest.split_at(digits);
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    (is_port && (rest.is_empty() || rest.starts_with(['/', '?']))).then_some(rest)
}

/// The URI with parameters appended, each form-encoded.
pub(super) fn with_parameters(uri: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let (base, query) = uri.split_once('?').unwrap_or((uri, ""));
    let mut query = query.to_owned();
    for (name, value) in parameters {
        if let Some(value) = value {
            append(&mut query, name, value);
        }
    }
    format!("{base}?{query}")
}

/// The source expression of a Content-Security-Policy that covers the URI.
pub(super) fn csp_source(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once(':')?;
    match rest.strip_prefix("//") {
        Some(rest) if matches!(scheme, "http" | "https") => {
            let authority = rest.split(['/', '?']).next().unwrap_or_default();
            // The grammar knows no IPv6 addresses.
            Some(if authority.starts_with('[') { format!("{scheme}:") } else { format!("{scheme}://{authority}") })
        }
        _ => Some(format!("{scheme}:")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a6_on_loopback_the_port_is_free_and_nothing_else() {
        for (own, requested, same) in [
            ("http://127.0.0.1/cb", "http://127.0.0.1:5000/cb", true),
            ("http://127.0.0.1:1/cb", "http://127.0.0.1/cb", true),
            ("http://[::1]/cb", "http://[::1]:5000/cb", true),
            ("http://127.0.0.1/cb", "http://127.0.0.1:5000/cb/", false),
            ("http://127.0.0.1/cb", "http://127.0.0.1:5000/other", false),
            ("http://127.0.0.1/cb", "http://127.0.0.1:70000/cb", false),
            ("http://127.0.0.1/cb", "http://127.0.0.1:/cb", false),
            ("http://127.0.0.1/cb", "http://127.0.0.1:50a/cb", false),
            ("http://127.0.0.1/cb", "http://127.0.0.1:5000@evil.example/cb", false),
            ("http://127.0.0.1/cb", "http://127.0.0.1.evil.example/cb", false),
            ("http://127.0.0.1/cb", "http://127.0.0.2/cb", false),
            ("http://127.0.0.1/cb", "https://127.0.0.1:5000/cb", false),
            ("http://127.0.0.1/cb", "http://[::1]:5000/cb", false),
            ("http://localhost/cb", "http://localhost:5000/cb", false),
        ] {
            assert_eq!(is_same_but_port(own, requested), same, "{own} {requested}");
        }
    }

    #[test]
    fn a8_parameters_follow_those_of_the_registered_uri() {
        let parameters = [("code", Some("a b")), ("state", None), ("iss", Some("https://x"))];
        for (uri, expected) in [
            ("https://a/cb", "https://a/cb?code=a+b&iss=https%3A%2F%2Fx"),
            ("https://a/cb?x=1", "https://a/cb?x=1&code=a+b&iss=https%3A%2F%2Fx"),
            ("https://a/cb?", "https://a/cb?code=a+b&iss=https%3A%2F%2Fx"),
        ] {
            assert_eq!(with_parameters(uri, &parameters), expected);
        }
    }

    #[test]
    fn l4_the_policy_names_where_the_form_ends() {
        for (uri, source) in [
            ("https://app.example/cb?x", "https://app.example"),
            ("http://127.0.0.1:5000/cb", "http://127.0.0.1:5000"),
            ("http://[::1]:5000/cb", "http:"),
            ("com.example.app:/cb", "com.example.app:"),
        ] {
            assert_eq!(csp_source(uri).as_deref(), Some(source));
        }
    }
}
