//! What holds of forms, credentials and redirect URIs, whatever the bytes: checked by the fuzz targets and on their corpus.

use std::sync::Arc;

use super::clients::basic_candidates;
use super::form::{Form, append, decode};
use super::redirect_uri::{csp_source, resolve, with_parameters};
use super::{AuthMethod, Client, RefreshPolicy};
use crate::jose::KeySet;
use crate::scope::ScopeSet;

/// A form as it is posted, or a query.
pub fn form(data: &[u8]) {
    let lenient: Vec<(String, String)> = form_urlencoded::parse(data).into_owned().collect();
    let Ok(form) = Form::parse(data) else {
        let escape = |at: usize| {
            let digits = data.get(at + 1..at + 3).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit));
            data[at] == b'%' && !digits
        };
        let bad = |text: &String| text.contains(['\0', char::REPLACEMENT_CHARACTER]);
        assert!(
            (0..data.len()).any(escape) || lenient.iter().any(|(name, value)| bad(name) || bad(value)),
            "refused for nothing"
        );
        return;
    };
    let mut written = String::new();
    for (name, value) in &lenient {
        let values: Vec<&str> =
            lenient.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect();
        assert_eq!(form.get(name), Some(values[0]).filter(|value| !value.is_empty()), "{name}");
        assert!(form.all(name).eq(values.iter().copied().filter(|value| !value.is_empty())), "{name}");
        assert_eq!(form.is_repeated(name), values.len() > 1);
        let name = form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>();
        append(&mut written, &name, value);
    }
    if let Some(name) = form.repeated() {
        assert!(form.is_repeated(name));
    }
    assert!(form_urlencoded::parse(written.as_bytes()).into_owned().eq(lenient), "written, it is another form");
    assert!(Form::parse(written.as_bytes()).is_ok());
}

/// The value of an `Authorization` header with Basic credentials.
pub fn basic(data: &[u8]) {
    let Ok(candidates) = basic_candidates(data) else { return };
    assert!(matches!(candidates.len(), 1 | 2));
    let (id, secret) = candidates.last().expect("at least one");
    assert!(!id.contains(':') || candidates.len() == 1, "the first colon separates");
    for (other, other_secret) in &candidates {
        let is = |raw: &str, other: &str| raw == other || decode(raw.as_bytes()).as_deref() == Ok(other);
        assert!(
            is(id, other) && is(secret.expose(), other_secret.expose()),
            "another client than the one that was named"
        );
    }
}

/// Three lines: a registered URI, the one that a request names, a state.
pub fn redirect_uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(3, '\n');
    let (registered, requested) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let state = lines.next().unwrap_or_default();
    if registered.contains('#') {
        // Not a configuration.
        return;
    }
    for public in [false, true] {
        let client = client(public, registered);
        assert_eq!(resolve(&client, None), Some((registered.to_owned(), false)));
        let Some((uri, given)) = resolve(&client, Some(requested)) else { continue };
        assert!(given && uri == requested);
        if uri != registered {
            assert!(public, "only native applications choose a port");
            is_the_same_but_for_the_port(registered, &uri);
        }
        leads_there_with_parameters(&uri, state);
    }
}

/// As a browser reads both: http, the same loopback address without a user, the same path and query.
fn is_the_same_but_for_the_port(registered: &str, uri: &str) {
    let split = |uri: &'_ str| -> (String, String) {
        let rest = uri.strip_prefix("http://").expect("only http");
        let (authority, path) = rest.split_at(rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len()));
        let host = authority.trim_end_matches(|c: char| c.is_ascii_digit());
        // Of 127.0.0.1 the last digit is none of a port.
        let host = if host.ends_with(':') && host != "[::" { host.trim_end_matches(':') } else { authority };
        (host.to_owned(), path.to_owned())
    };
    let (host, path) = split(uri);
    assert!(matches!(host.as_str(), "127.0.0.1" | "[::1]"), "{host}");
    assert_eq!((host, path), split(registered));
}

/// Nothing of what is appended changes where the redirect leads, and all of it arrives.
fn leads_there_with_parameters(uri: &str, state: &str) {
    let sent = with_parameters(uri, &[("code", Some("tgc_x")), ("state", Some(state)), ("error", None)]);
    let (base, query) = sent.split_once('?').expect("parameters");
    assert_eq!(base, uri.split('?').next().expect("a base"));
    let own = uri.split_once('?').map_or("", |(_, query)| query);
    let pairs =
        |query: &str| -> Vec<(String, String)> { form_urlencoded::parse(query.as_bytes()).into_owned().collect() };
    let mut expected = pairs(own);
    expected.extend([("code".to_owned(), "tgc_x".to_owned()), ("state".to_owned(), state.to_owned())]);
    assert_eq!(pairs(query), expected);
    assert!(!sent[base.len()..].strip_prefix(own).unwrap_or_default().contains(['\r', '\n', '#']));
    let _ = csp_source(uri);
}

fn client(public: bool, redirect_uri: &str) -> Client {
    Client {
        id: Arc::from("app"),
        name: "App".to_owned(),
        secrets: Vec::new(),
        keys: KeySet::default(),
        public,
        public_password: false,
        auth_methods: vec![AuthMethod::None],
        grants: Vec::new(),
        password_until: None,
        refresh: RefreshPolicy::Never,
        access_token_lifetime: None,
        audience: Vec::new(),
        redirect_uris: vec![redirect_uri.to_owned()],
        scopes: ScopeSet::default(),
        default_scopes: ScopeSet::default(),
        trusted: false,
        introspect: false,
        require_pkce: true,
        origins: Vec::new(),
    }
}
