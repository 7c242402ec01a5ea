//! Client authentication by a signed assertion, `private_key_jwt` (RFC 7521 section 4.2, RFC 7523 section 3).
//!
//! Only the client's own configured keys count; whatever keys the header offers are not looked at. An assertion is good
//! once: its `jti` is remembered until it would have expired.

use aws_lc_rs::digest;
use serde_json::{Map, Value};

use super::clients::Clients;
use super::error::Error;
use super::form::Form;
use super::{AuthMethod, Client};
use crate::clock::UnixSeconds;
use crate::jose::UnverifiedJws;
use std::sync::Arc;

pub(super) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Longest life of an assertion from now.
const MAX_LIFETIME: u64 = 3600;
/// How far the client's clock may be ahead.
const LEEWAY: u64 = 30;
const MAX_JTI: usize = 256;

/// An assertion that is right, if it was not used before.
#[derive(Debug)]
pub(super) struct Asserted {
    pub(super) client: Arc<Client>,
    /// SHA-256 of the client and the `jti`.
    pub(super) once: Vec<u8>,
    pub(super) expires: UnixSeconds,
}

/// Whom an assertion may be addressed to: the issuer, or the token endpoint as older clients do.
#[derive(Debug)]
pub(super) struct Addressees<'a> {
    pub(super) issuer: &'a str,
    pub(super) token_endpoint: &'a str,
}

/// The client that signed the assertion.
pub(super) fn check(
    clients: &Clients,
    assertion: &str,
    form: &Form,
    addressees: &Addressees<'_>,
    now: UnixSeconds,
) -> Result<Asserted, Error> {
    let no = |reason: &'static str| Error::invalid_client(reason);
    let jws = UnverifiedJws::parse(assertion).map_err(|error| Error::invalid_client(error.to_string()))?;
    let typ = jws.typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
    let typ = typ.strip_prefix("application/").unwrap_or(&typ);
    if !matches!(typ, "jwt" | "client-authentication+jwt") {
        return Err(no("the assertion's typ is that of another kind of token"));
    }
    let subject = text(&jws.claims, "sub").ok_or_else(|| no("the assertion has no sub"))?;
    if text(&jws.claims, "iss") != Some(subject) {
        return Err(no("the assertion's iss is not its sub"));
    }
    if form.get("client_id").is_some_and(|id| id != subject) {
        return Err(no("client_id is not the assertion's sub"));
    }
    let client = clients.get(subject).ok_or_else(|| no("unknown client"))?;
    if !client.auth_methods.contains(&AuthMethod::PrivateKeyJwt) {
        return Err(no("not this client's authentication method"));
    }
    let key = client.keys.find(jws.kid.as_deref(), jws.algorithm).ok_or_else(|| no("no key of the client fits"))?;
    if !jws.verify(key) {
        return Err(no("the assertion's signature is wrong"));
    }
    check_audience(jws.claims.get("aud"), addressees)?;
    let expires = seconds(&jws.claims, "exp")?.ok_or_else(|| no("the assertion has no exp"))?;
    if expires <= now || expires > now.saturating_add(MAX_LIFETIME + LEEWAY) {
        return Err(no("the assertion has expired or lives too long"));
    }
    for claim in ["nbf", "iat"] {
        if seconds(&jws.claims, claim)?.is_some_and(|time| time > now.saturating_add(LEEWAY)) {
            return Err(no("the assertion comes from the future"));
        }
    }
    let jti = text(&jws.claims, "jti").filter(|jti| !jti.is_empty() && jti.len() <= MAX_JTI);
    let jti = jti.ok_or_else(|| no("the assertion has no usable jti"))?;
    let once = digest::digest(&digest::SHA256, format!("{subject}\0{jti}").as_bytes());
    Ok(Asserted { client: client.clone(), once: once.as_ref().to_vec(), expires })
}

/// One addressee, as a string or as an array of one: an assertion for several could be used at any of them.
fn check_audience(audience: Option<&Value>, addressees: &Addressees<'_>) -> Result<(), Error> {
    let only = match audience {
        Some(Value::Array(all)) if all.len() == 1 => all.first(),
        other => other,
    };
    match only.and_then(Value::as_str) {
        Some(text) if text == addressees.issuer || text == addressees.token_endpoint => Ok(()),
        _ => Err(Error::invalid_client("the assertion is addressed to somebody else")),
    }
}

fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    claims.get(name).and_then(Value::as_str)
}

/// A NumericDate (RFC 7519 section 2), rounded down. One of another type is an error, not an absence.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded just before")]
fn seconds(claims: &Map<String, Value>, name: &str) -> Result<Option<UnixSeconds>, Error> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) if (0.0..1e15).contains(&number) => Ok(Some(number as UnixSeconds)),
            _ => Err(Error::invalid_client("a time of the assertion is not a number")),
        },
    }
}
