//! What holds of the `Authorization` header and of claims, whatever the bytes: checked by the fuzz targets and on their
//! corpus.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use serde_json::Value;

use super::bearer::TOKEN_MAX_BYTES;
use super::{Bearer, ClaimPath, ClaimRules, JwtSettings, KeySource, VerifiedToken};
use crate::clock::UnixSeconds;
use crate::jose::{Algorithm, parse_object};

const ISSUER: &str = "https://issuer.test";
const AUDIENCE: &str = "https://api.test";
const LEEWAY: u64 = 30;
/// The moment at which claims are judged.
pub(crate) const NOW: UnixSeconds = 1_800_000_000;

/// The value of an `Authorization` header.
pub fn bearer(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let Ok(Some(bearer)) = Bearer::parse(&value) else { return };
    let Ok(token) = bearer.text() else { return };
    assert!((1..=TOKEN_MAX_BYTES).contains(&token.len()));
    assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)), "{token}");
    // The header is the scheme, spaces, the token, blanks and nothing else.
    let text = std::str::from_utf8(data).expect("ASCII");
    let (scheme, rest) = text.split_once(' ').expect("a space after the scheme");
    assert!(scheme.eq_ignore_ascii_case("bearer"), "{scheme}");
    assert_eq!(rest.trim_start_matches(' ').trim_end_matches([' ', '\t']), token);
    assert_eq!(format!("{bearer:?}"), "Bearer [redacted]");
    crate::jose::fuzzing::jws(token.as_bytes());
}

/// The facts that claims in JSON amount to.
pub(crate) fn facts(json: &[u8]) -> Option<VerifiedToken> {
    let path = |text: &str| ClaimPath(text.into());
    let settings = JwtSettings {
        issuer: ISSUER.to_owned(),
        keys: KeySource::Embedded,
        algorithms: Algorithm::ALL.to_vec(),
        typ: vec!["at+jwt".to_owned()],
        claims: ClaimRules {
            audience: vec!["https://elsewhere.test".to_owned(), AUDIENCE.to_owned()],
            audience_claim: path("aud"),
            client_id_claim: path("client_id"),
            user_claim: path("sub"),
            required_claims: vec![path("sub")],
            scope_claim: path("scope"),
            roles_claim: path("realm_access.roles"),
            leeway: Duration::from_secs(LEEWAY),
        },
    };
    let claims = parse_object(json).ok()?;
    settings.accept_claims(&claims, NOW).ok()?;
    settings.claims.facts(&Arc::from("corp"), 0, claims).ok()
}

/// Claims in JSON, which say enough whenever they are accepted.
pub fn claims(data: &[u8]) {
    let Some(token) = facts(data) else { return };
    let read: Value = serde_json::from_slice(data).expect("it was parsed");
    assert_eq!(read["iss"], ISSUER);
    assert!(any(&read["aud"], |audience| [AUDIENCE, "https://elsewhere.test"].contains(&audience)), "{}", read["aud"]);
    assert!(read.get("cnf").is_none(), "bound to a key");
    let (now, leeway) = (NOW as f64, LEEWAY as f64);
    let time = |name: &str| read.get(name).map(|time| time.as_f64().expect("a time is a number"));
    assert!(time("exp").expect("it ends some time") + leeway + 1.0 > now, "{}", read["exp"]);
    assert!(time("nbf").is_none_or(|nbf| nbf < now + leeway + 1.0), "{}", read["nbf"]);
    assert!(time("iat").is_none_or(|iat| iat < now + leeway + 301.0), "{}", read["iat"]);
    let validity = token.validity();
    assert!(validity.from <= NOW && validity.until > NOW && validity.until < NOW * 1000);
    assert!(read.get("token_use").is_none_or(|kind| ["access", "access_token"].contains(&&*lower(kind))));
    assert!(read.get("typ").is_none_or(|kind| !["id", "refresh", "offline", "logout"].contains(&&*lower(kind))));

    assert!(!read["sub"].as_str().expect("a subject is a text").is_empty());
    assert_eq!(token.user(), read["sub"].as_str());
    assert_eq!(token.client_id(), read.get("client_id").and_then(Value::as_str));
    for scope in token.scope().iter() {
        assert!(any(&read["scope"], |text| text.split(' ').any(|word| word == scope)), "{scope}");
        assert!(!scope.contains([' ', '"', '\\']));
    }
    let nested = read.get("realm_access").and_then(|access| access.get("roles"));
    let roles = read.get("realm_access.roles").or(nested).cloned().unwrap_or_default();
    for role in token.roles() {
        assert!(any(&roles, |text| *text == **role), "{role}");
    }
}

fn lower(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_ascii_lowercase()
}

/// Whether a text, or one of an array of texts, is as wanted.
fn any(value: &Value, wanted: impl Fn(&str) -> bool) -> bool {
    match value {
        Value::Array(all) => all.iter().filter_map(Value::as_str).any(wanted),
        value => value.as_str().is_some_and(wanted),
    }
}
