//! Public keys as they are published (RFC 7517), parsed once. A key that is unfit is left out and said so; the rest stays.

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

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
            let parsed = jwk.as_object().ok_or("not an object").and_then(|jwk| VerifyingKey::parse(jwk, allowed));
            match parsed {
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
    fn parse(jwk: &Map<String, Value>, allowed: &[Algorithm]) -> Result<Self, &'static str> {
        let text = |name: &str| match jwk.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err("a member of the wrong type"),
        };
        let kid = text("kid")?.map(str::to_owned);
        if ["d", "p", "q", "k"].iter().any(|name| jwk.contains_key(*name)) {
            return Err("a private or symmetric key has no place in a published set");
        }
        if text("use")?.is_some_and(|purpose| purpose != "sig") {
            return Err("`use` is not `sig`");
        }
        let verifies = |ops: &Value| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify"));
        if jwk.get("key_ops").is_some_and(|ops| !verifies(ops)) {
            return Err("`key_ops` has no `verify`");
        }
        let own = match text("alg")? {
            Some(name) => Some(Algorithm::parse(name).ok_or("an unknown `alg`")?),
            None => None,
        };
        let fits = |algorithm: Algorithm| allowed.contains(&algorithm) && own.is_none_or(|own| own == algorithm);
        let bytes = |name: &'static str| {
            let text = text(name)?.ok_or("a member is missing")?;
            URL_SAFE_NO_PAD.decode(text).map_err(|_| "a member is not base64url")
        };
        let mut parsed = Vec::new();
        match (text("kty")?.ok_or("`kty` is missing")?, text("crv")?) {
            ("RSA", _) => {
                let components = PublicKeyComponents { n: bytes("n")?, e: bytes("e")? };
                check_rsa(&components.n, &components.e)?;
                for (algorithm, parameters) in RSA {
                    if fits(algorithm) {
                        let key = components.to_parsed_public_key(parameters).map_err(|_| "not an RSA public key")?;
                        parsed.push((algorithm, key));
                    }
                }
            }
            ("EC", Some(curve @ ("P-256" | "P-384"))) => {
                let (algorithm, size): (_, usize) = match curve {
                    "P-256" => (Algorithm::Es256, 32),
                    _ => (Algorithm::Es384, 48),
                };
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != size || y.len() != size {
                    return Err("a coordinate of the wrong length");
                }
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                if fits(algorithm) {
                    let curve: &'static dyn VerificationAlgorithm = match algorithm {
                        Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
                        _ => &signature::ECDSA_P384_SHA384_FIXED,
                    };
                    parsed
                        .push((algorithm, ParsedPublicKey::new(curve, point).map_err(|_| "not a point of the curve")?));
                }
            }
            ("OKP", Some("Ed25519")) => {
                if fits(Algorithm::EdDsa) {
                    let key = ParsedPublicKey::new(&signature::ED25519, bytes("x")?);
                    parsed.push((Algorithm::EdDsa, key.map_err(|_| "not an Ed25519 public key")?));
                }
            }
            _ => return Err("the kind of key or its curve is not supported"),
        }
        if parsed.is_empty() {
            return Err("none of the issuer's algorithms fits it");
        }
        Ok(Self { kid, parsed })
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

fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), &'static str> {
    let n = &n[n.iter().take_while(|byte| **byte == 0).count()..];
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if bits < 2048 {
        return Err("an RSA modulus of less than 2048 bits");
    }
    if bits > 8192 {
        return Err("an RSA modulus of more than 8192 bits");
    }
    let e = &e[e.iter().take_while(|byte| **byte == 0).count()..];
    if e.is_empty() || e == [1] || e.len() > 4 || e.last().is_some_and(|byte| byte % 2 == 0) {
        return Err("an unfit RSA exponent");
    }
    Ok(())
}
