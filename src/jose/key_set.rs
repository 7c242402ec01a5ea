//! Public keys as they are published (RFC 7517), read by `jsonwebtoken`'s model and parsed once. A key that is unfit is left out and said so; the rest stays.

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use serde::Deserialize;
use serde_json::Value;

use super::Algorithm;

/// Most keys that one set may hold.
const MAX_KEYS: usize = 100;

/// The usable keys of a JWK set.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<VerifyingKey>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    #[error("not a JWK set: a JSON object with an array `keys`")]
    Syntax,
    #[error("a JWK set of more than {MAX_KEYS} keys")]
    TooMany,
}

impl KeySet {
    /// Reads a JWK set and keeps what can verify one of `allowed`. The texts say which keys were left out and why.
    pub fn parse(json: &[u8], allowed: &[Algorithm]) -> Result<(Self, Vec<String>), KeySetError> {
        let set: Value = serde_json::from_slice(json).map_err(|_| KeySetError::Syntax)?;
        let jwks = set.get("keys").and_then(Value::as_array).ok_or(KeySetError::Syntax)?;
        if jwks.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let mut keys: Vec<VerifyingKey> = Vec::new();
        let mut left_out = Vec::new();
        for (place, jwk) in jwks.iter().enumerate() {
            match VerifyingKey::parse(jwk, allowed) {
                Ok(key) if keys.iter().any(|other| other.same_material(&key)) => {}
                Ok(key) => keys.push(key),
                Err(reason) => {
                    let kid = jwk.get("kid").and_then(Value::as_str).unwrap_or("none");
                    left_out.push(format!("key {} (kid {:?}): {reason}", place + 1, kid));
                }
            }
        }
        // Which of two keys a shared kid means cannot be known.
        let kids: Vec<_> = keys.iter().filter_map(|key| key.kid.clone()).collect();
        keys.retain(|key| {
            let twice = key.kid.as_ref().is_some_and(|kid| kids.iter().filter(|other| *other == kid).count() > 1);
            if twice {
                left_out
                    .push(format!("kid {:?}: stands for more than one key", key.kid.as_deref().unwrap_or_default()));
            }
            !twice
        });
        Ok((Self(keys), left_out))
    }

    /// The key a token names. Without a `kid`, the one key that fits the algorithm, if there is just one.
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<&VerifyingKey> {
        let mut fitting = self.0.iter().filter(|key| key.parsed(algorithm).is_some());
        match kid {
            Some(kid) => fitting.find(|key| key.kid.as_deref() == Some(kid)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every key of `self` is in `newer` too.
    pub fn is_subset(&self, newer: &Self) -> bool {
        self.0.iter().all(|key| newer.0.iter().any(|other| other.kid == key.kid && other.same_material(key)))
    }
}

/// One public key, bound to the algorithms for which it may be used.
#[derive(Clone, Debug)]
pub struct VerifyingKey {
    kid: Option<String>,
    parsed: Vec<(Algorithm, ParsedPublicKey)>,
}

impl VerifyingKey {
    fn parse(jwk: &Value, allowed: &[Algorithm]) -> Result<Self, &'static str> {
        if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|name| jwk.get(name).is_some()) {
            return Err("a private or symmetric key has no place in a published set");
        }
        // The library reads an unknown name as none it knows; here it has to be one that is known.
        let own = match jwk.get("alg").map(|name| name.as_str().and_then(Algorithm::parse)) {
            None => None,
            Some(None) => return Err("an unknown `alg`"),
            known => known.flatten(),
        };
        let Jwk { common, algorithm } = Jwk::deserialize(jwk)
            .map_err(|_| "a member is missing or of the wrong type, or the kind is not supported")?;
        if common.public_key_use.is_some_and(|purpose| purpose != PublicKeyUse::Signature) {
            return Err("`use` is not `sig`");
        }
        if common.key_operations.is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
            return Err("`key_ops` has no `verify`");
        }
        let fits = |algorithm: Algorithm| allowed.contains(&algorithm) && own.is_none_or(|own| own == algorithm);
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| "a member is not base64url");
        // Some libraries write a zero before a number whose first bit is set (RFC 7518 section 6.3.1.1 tells them not to).
        let number = |text: &str| bytes(text).map(|bytes| bytes.into_iter().skip_while(|byte| *byte == 0).collect());
        let mut parsed = Vec::new();
        match algorithm {
            AlgorithmParameters::RSA(rsa) => {
                let components = PublicKeyComponents::<Vec<u8>> { n: number(&rsa.n)?, e: number(&rsa.e)? };
                check_rsa(&components.n, &components.e)?;
                for (algorithm, parameters) in RSA {
                    if fits(algorithm) {
                        let key = components.to_parsed_public_key(parameters).map_err(|_| "not an RSA public key")?;
                        parsed.push((algorithm, key));
                    }
                }
            }
            AlgorithmParameters::EllipticCurve(point) => {
                let (algorithm, size, curve): (_, usize, &'static dyn VerificationAlgorithm) = match point.curve {
                    EllipticCurve::P256 => (Algorithm::Es256, 32, &signature::ECDSA_P256_SHA256_FIXED),
                    EllipticCurve::P384 => (Algorithm::Es384, 48, &signature::ECDSA_P384_SHA384_FIXED),
                    _ => return Err("the curve is not supported"),
                };
                let (x, y) = (bytes(&point.x)?, bytes(&point.y)?);
                if x.len() != size || y.len() != size {
                    return Err("a coordinate of the wrong length");
                }
                if fits(algorithm) {
                    let point = [&[4], x.as_slice(), y.as_slice()].concat();
                    parsed
                        .push((algorithm, ParsedPublicKey::new(curve, point).map_err(|_| "not a point of the curve")?));
                }
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                if fits(Algorithm::EdDsa) {
                    let key = ParsedPublicKey::new(&signature::ED25519, bytes(&key.x)?);
                    parsed.push((Algorithm::EdDsa, key.map_err(|_| "not an Ed25519 public key")?));
                }
            }
            _ => return Err("the kind of key or its curve is not supported"),
        }
        if parsed.is_empty() {
            return Err("none of the issuer's algorithms fits it");
        }
        Ok(Self { kid: common.key_id, parsed })
    }

    fn parsed(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        self.parsed.iter().find(|(own, _)| *own == algorithm).map(|(_, key)| key)
    }

    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.parsed(algorithm).is_some_and(|key| key.verify_sig(message, signature).is_ok())
    }

    fn same_material(&self, other: &Self) -> bool {
        self.kid == other.kid
            && self.parsed.len() == other.parsed.len()
            && self.parsed.iter().zip(&other.parsed).all(|(a, b)| a.0 == b.0 && a.1.as_ref() == b.1.as_ref())
    }
}

const RSA: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::Ps256, &signature::RSA_PSS_2048_8192_SHA256),
    (Algorithm::Ps384, &signature::RSA_PSS_2048_8192_SHA384),
    (Algorithm::Ps512, &signature::RSA_PSS_2048_8192_SHA512),
];

/// Both numbers without zeros before them.
fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), &'static str> {
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if bits < 2048 {
        return Err("an RSA modulus of less than 2048 bits");
    }
    if bits > 8192 {
        return Err("an RSA modulus of more than 8192 bits");
    }
    if e.is_empty() || e == [1] || e.len() > 4 || e.last().is_some_and(|byte| byte % 2 == 0) {
        return Err("an unfit RSA exponent");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn j3_j12_unfit_keys_are_left_out_and_the_rest_stays() {
        let point = json!({
            "kty": "EC", "crv": "P-256",
            // RFC 7515 appendix A.3.
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        });
        let with = |more: Value| {
            let mut jwk = point.clone();
            for (name, value) in more.as_object().into_iter().flatten() {
                jwk[name] = value.clone();
            }
            jwk
        };
        let small = URL_SAFE_NO_PAD.encode([0xC1_u8; 128]);
        let large = URL_SAFE_NO_PAD.encode([0xC1_u8; 256]);
        let padded = URL_SAFE_NO_PAD.encode([&[0], &[0xC1_u8; 256][..]].concat());
        for (case, jwk, fine) in [
            ("bare", with(json!({})), true),
            ("for signatures", with(json!({"use": "sig", "alg": "ES256", "key_ops": ["verify"]})), true),
            ("of another algorithm", with(json!({"alg": "ES384"})), false),
            ("of an unknown algorithm", with(json!({"alg": "none"})), false),
            ("for encryption", with(json!({"use": "enc"})), false),
            ("for signing only", with(json!({"key_ops": ["sign"]})), false),
            ("private", with(json!({"d": "AA"})), false),
            ("private in part", json!({"kty": "RSA", "n": large, "e": "AQAB", "dp": "AA"}), false),
            ("a kid that is a number", with(json!({"kid": 7})), false),
            ("not on the curve", with(json!({"y": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"})), false),
            ("of another curve", with(json!({"crv": "P-384"})), false),
            ("an unknown curve", with(json!({"crv": "secp256k1"})), false),
            ("symmetric", json!({"kty": "oct", "k": "AAAA"}), false),
            ("a small RSA key", json!({"kty": "RSA", "n": small, "e": "AQAB"}), false),
            ("an RSA exponent of 1", json!({"kty": "RSA", "n": large, "e": "AQ"}), false),
            ("an RSA key", json!({"kty": "RSA", "n": large, "e": "AQAB"}), true),
            ("an RSA key with a zero before it", json!({"kty": "RSA", "n": padded, "e": "AAEAAQ"}), true),
            ("nothing", json!(null), false),
        ] {
            let set = json!({ "keys": [jwk] }).to_string();
            let (keys, left_out) = KeySet::parse(set.as_bytes(), &Algorithm::ALL).expect("a set");
            assert_eq!((keys.len(), left_out.len()), if fine { (1, 0) } else { (0, 1) }, "{case}: {left_out:?}");
        }
        let twice = json!({ "keys": [with(json!({"kid": "a"})), {"kty": "RSA", "kid": "a", "n": large, "e": "AQAB"}] });
        assert!(KeySet::parse(twice.to_string().as_bytes(), &Algorithm::ALL).expect("a set").0.is_empty());
        assert_eq!(KeySet::parse(b"{\"keys\": 7}", &Algorithm::ALL).err(), Some(KeySetError::Syntax));
    }
}
