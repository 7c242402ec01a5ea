//! What a JWT must say of itself to be an access token for us (RFC 7519, 8725, 9068). Pure: claims, settings and a time in,
//! facts or a refusal out.

use serde_json::{Map, Value};

use super::{ClaimPath, IssuerSettings, Refusal, VerifiedToken};
use crate::clock::UnixSeconds;
use crate::jose::UnverifiedJws;
use crate::scope::ScopeSet;

/// How far beyond the leeway an `iat` may lie in the future, in seconds.
const IAT_TOLERANCE: u64 = 300;

/// Algorithm and `typ` against the issuer's.
pub fn accept_header(settings: &IssuerSettings, jws: &UnverifiedJws<'_>) -> Result<(), Refusal> {
    if !settings.algorithms.contains(&jws.algorithm) {
        return Err(Refusal::Algorithm);
    }
    let typ = jws.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
    let typ = typ.strip_prefix("application/").unwrap_or(&typ);
    if settings.typ.iter().any(|allowed| allowed == typ) { Ok(()) } else { Err(Refusal::Type) }
}

/// `exp`, `nbf` and `iat`: the first must be there, each must be a number. Gives the first second of refusal.
pub(super) fn accept_times(
    settings: &IssuerSettings,
    claims: &Map<String, Value>,
    now: UnixSeconds,
) -> Result<UnixSeconds, Refusal> {
    let leeway = settings.leeway.as_secs();
    let refused_from = numeric_date(claims, "exp")?.ok_or(Refusal::Claim)?.saturating_add(leeway);
    if now >= refused_from {
        return Err(Refusal::Expired);
    }
    if numeric_date(claims, "nbf")?.is_some_and(|nbf| nbf > now.saturating_add(leeway)) {
        return Err(Refusal::NotYetValid);
    }
    if numeric_date(claims, "iat")?.is_some_and(|iat| iat > now.saturating_add(leeway + IAT_TOLERANCE)) {
        return Err(Refusal::NotYetValid);
    }
    Ok(refused_from)
}

/// The facts that `claims` of the issuer `settings` (number `issuer_index` of the plan) amount to. The caller has checked
/// the signature, or, when it explains a configuration, pretends to have.
pub fn accept_claims(
    settings: &IssuerSettings,
    issuer_index: usize,
    claims: Map<String, Value>,
    now: UnixSeconds,
) -> Result<VerifiedToken, Refusal> {
    if claims.get("iss").and_then(Value::as_str) != Some(&settings.issuer) {
        return Err(Refusal::Issuer);
    }
    let refused_from = accept_times(settings, &claims, now)?;
    let audience = match settings.audience_claim.find(&claims) {
        Some(value) => strings(value)?,
        None => return Err(Refusal::Audience),
    };
    if !audience.iter().any(|named| settings.audience.iter().any(|own| **own == **named)) {
        return Err(Refusal::Audience);
    }
    if claims.contains_key("cnf") {
        return Err(Refusal::Bound);
    }
    for required in &settings.required_claims {
        match required.find(&claims) {
            None | Some(Value::Null) => return Err(Refusal::Claim),
            Some(Value::String(text)) if text.is_empty() => return Err(Refusal::Claim),
            Some(_) => {}
        }
    }
    let scope = match settings.scope_claim.find(&claims) {
        None | Some(Value::Null) => ScopeSet::default(),
        Some(Value::String(text)) => ScopeSet::parse(text).map_err(|_| Refusal::Claim)?,
        Some(list) => {
            let mut scope = ScopeSet::default();
            for token in strings(list)? {
                scope.insert(&token).map_err(|_| Refusal::Claim)?;
            }
            scope
        }
    };
    let roles = match settings.roles_claim.find(&claims) {
        None | Some(Value::Null) => Vec::new(),
        Some(value) => strings(value)?,
    };
    Ok(VerifiedToken {
        issuer: settings.name.clone(),
        issuer_index,
        user: text(&settings.user_claim, &claims)?,
        client_id: text(&settings.client_id_claim, &claims)?,
        scope,
        roles,
        audience,
        jti: text(&ClaimPath("jti".into()), &claims)?,
        refused_from,
        claims,
    })
}

/// RFC 7519 section 2: a number of seconds that may have a fraction. A wrong type is an error, never an absent claim.
fn numeric_date(claims: &Map<String, Value>, name: &str) -> Result<Option<UnixSeconds>, Refusal> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    if let Some(seconds) = value.as_u64() {
        return if seconds <= MAX_SECONDS { Ok(Some(seconds)) } else { Err(Refusal::Claim) };
    }
    match value.as_f64() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        Some(seconds) if (0.0..=MAX_SECONDS as f64).contains(&seconds) => Ok(Some(seconds as UnixSeconds)),
        _ => Err(Refusal::Claim),
    }
}

/// The year 9999 is far enough, and a leeway can be added.
const MAX_SECONDS: u64 = 253_402_300_799;

/// A string, or an array of strings.
fn strings(value: &Value) -> Result<Vec<Box<str>>, Refusal> {
    match value {
        Value::String(text) => Ok(vec![text.as_str().into()]),
        Value::Array(list) => list.iter().map(|item| item.as_str().map(Box::from).ok_or(Refusal::Claim)).collect(),
        _ => Err(Refusal::Claim),
    }
}

fn text(path: &ClaimPath, claims: &Map<String, Value>) -> Result<Option<Box<str>>, Refusal> {
    match path.find(claims) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str().into())),
        Some(_) => Err(Refusal::Claim),
    }
}
