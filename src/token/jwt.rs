//! What a JWT must say of itself to be an access token for us (RFC 7519, 8725, 9068), before its signature is worth a look.

use serde_json::Value;

use super::{JwtSettings, Refusal};
use crate::clock::UnixSeconds;
use crate::jose::UnverifiedJws;

impl JwtSettings {
    /// Algorithm, `typ`, `iss`, times and audience: whatever costs less than a signature.
    pub fn accept_unverified(&self, jws: &UnverifiedJws<'_>, now: UnixSeconds) -> Result<(), Refusal> {
        if !self.algorithms.contains(&jws.algorithm) {
            return Err(Refusal::Algorithm);
        }
        let typ = jws.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
        let typ = typ.strip_prefix("application/").unwrap_or(&typ);
        if !self.typ.iter().any(|allowed| allowed == typ) {
            return Err(Refusal::Type);
        }
        self.accept_claims(&jws.claims, now)
    }

    /// The claims among them, of which `exp` must be there.
    pub fn accept_claims(&self, claims: &serde_json::Map<String, Value>, now: UnixSeconds) -> Result<(), Refusal> {
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(Refusal::Issuer);
        }
        if !claims.contains_key("exp") {
            return Err(Refusal::Claim);
        }
        self.claims.validity(claims)?.at(now)?;
        self.claims.audience(claims).map(drop)
    }
}
