//! A mint for good tokens and for every kind of bad one: headers, payloads and signatures are under raw control.

use std::time::UNIX_EPOCH;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::secrets;

pub const ISSUER: &str = "https://issuer.test";
pub const AUDIENCE: &str = "https://api.test";

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

/// Seconds since 1970.
pub fn now() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "tokens are made outside the program under test")]
    let now = std::time::SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

enum Private {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A signing key of an issuer.
pub struct Key {
    pub kid: String,
    private: Private,
}

impl Key {
    fn new(kid: &str, private: Private) -> Self {
        Self { kid: kid.to_owned(), private }
    }

    pub fn rsa(kid: &str) -> Self {
        Self::new(kid, Private::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub fn p256(kid: &str) -> Self {
        Self::new(kid, Private::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()))
    }

    pub fn p384(kid: &str) -> Self {
        Self::new(kid, Private::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()))
    }

    pub fn ed25519(kid: &str) -> Self {
        Self::new(kid, Private::Ed25519(Ed25519KeyPair::generate().unwrap()))
    }

    /// What the key signs with unless told otherwise.
    pub fn algorithm(&self) -> &'static str {
        match &self.private {
            Private::Rsa(_) => "RS256",
            Private::P256(_) => "ES256",
            Private::P384(_) => "ES384",
            Private::Ed25519(_) => "EdDSA",
        }
    }

    pub fn public_bytes(&self) -> Vec<u8> {
        match &self.private {
            Private::Rsa(key) => key.public_key().as_ref().to_vec(),
            Private::P256(key) | Private::P384(key) => key.public_key().as_ref().to_vec(),
            Private::Ed25519(key) => key.public_key().as_ref().to_vec(),
        }
    }

    pub fn pkcs8(&self) -> Vec<u8> {
        match &self.private {
            Private::Rsa(key) => AsDer::<Pkcs8V1Der<'_>>::as_der(key).unwrap().as_ref().to_vec(),
            Private::P256(key) | Private::P384(key) => key.to_pkcs8v1().unwrap().as_ref().to_vec(),
            Private::Ed25519(key) => key.to_pkcs8v1().unwrap().as_ref().to_vec(),
        }
    }

    pub fn pem(&self) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode(self.pkcs8());
        let lines: Vec<String> =
            text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    }

    /// The public key, without `alg` and `use`.
    pub fn bare_jwk(&self) -> Value {
        let kid = &self.kid;
        match &self.private {
            Private::Rsa(key) => {
                let public = key.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                json!({"kty": "RSA", "kid": kid, "n": b64(n.big_endian_without_leading_zero()),
                       "e": b64(e.big_endian_without_leading_zero())})
            }
            Private::P256(key) => ec_jwk(kid, "P-256", key.public_key().as_ref()),
            Private::P384(key) => ec_jwk(kid, "P-384", key.public_key().as_ref()),
            Private::Ed25519(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64(key.public_key())})
            }
        }
    }

    pub fn jwk(&self) -> Value {
        merged(self.bare_jwk(), &json!({"use": "sig", "alg": self.algorithm()}))
    }

    pub fn sign(&self, input: &[u8]) -> Vec<u8> {
        self.sign_as(self.algorithm(), input)
    }

    /// A signature with another algorithm of the same family.
    pub fn sign_as(&self, algorithm: &str, input: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.private {
            Private::Rsa(key) => {
                let padding: &'static dyn signature::RsaEncoding = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    other => panic!("an RSA key does not sign {other}"),
                };
                let mut out = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, input, &mut out).unwrap();
                out
            }
            Private::P256(key) | Private::P384(key) => key.sign(&random, input).unwrap().as_ref().to_vec(),
            Private::Ed25519(key) => key.sign(input).as_ref().to_vec(),
        }
    }

    /// An ECDSA signature in the DER form that JWS does not use.
    pub fn sign_der(&self, input: &[u8]) -> Vec<u8> {
        let Private::P256(key) = &self.private else { panic!("only P-256") };
        let pkcs8 = key.to_pkcs8v1().unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).unwrap();
        key.sign(&SystemRandom::new(), input).unwrap().as_ref().to_vec()
    }
}

fn ec_jwk(kid: &str, curve: &str, point: &[u8]) -> Value {
    let (x, y) = point[1..].split_at((point.len() - 1) / 2);
    json!({"kty": "EC", "crv": curve, "kid": kid, "x": b64(x), "y": b64(y)})
}

pub fn hmac_sha256(secret: &[u8], input: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input).as_ref().to_vec()
}

/// `base` with the members of `patch` set, and those that are null there removed.
pub fn merged(mut base: Value, patch: &Value) -> Value {
    let object = base.as_object_mut().unwrap();
    for (name, value) in patch.as_object().unwrap_or(&Map::new()) {
        match value {
            Value::Null => drop(object.remove(name)),
            value => drop(object.insert(name.clone(), value.clone())),
        }
    }
    base
}

/// Three segments; the signature is made over the first two as they stand.
pub fn compact(header: &str, payload: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let input = format!("{}.{}", b64(header), b64(payload));
    let token = format!("{input}.{}", b64(sign(input.as_bytes())));
    secrets::keep_token(&token);
    token
}

/// The payload of a token, unverified.
pub fn payload(token: &str) -> Value {
    segment(token, 1)
}

pub fn token_header(token: &str) -> Value {
    segment(token, 0)
}

fn segment(token: &str, index: usize) -> Value {
    let segment = token.split('.').nth(index).unwrap_or_else(|| panic!("not a JWT: {token}"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(segment).unwrap()).unwrap()
}

/// An issuer of tokens. Its first key signs.
pub struct Mint {
    pub issuer: String,
    pub keys: Vec<Key>,
}

impl Mint {
    /// With a P-256 key, which is made in no time.
    pub fn new() -> Self {
        Self::with(ISSUER, vec![Key::p256("k1")])
    }

    pub fn with(issuer: &str, keys: Vec<Key>) -> Self {
        Self { issuer: issuer.to_owned(), keys }
    }

    pub fn jwks(&self) -> String {
        let keys: Vec<_> = self.keys.iter().map(Key::jwk).collect();
        json!({ "keys": keys }).to_string()
    }

    pub fn key(&self) -> &Key {
        &self.keys[0]
    }

    pub fn header(&self) -> Value {
        json!({"alg": self.key().algorithm(), "typ": "at+jwt", "kid": self.key().kid})
    }

    /// The claims of a good token without scopes.
    pub fn claims(&self) -> Value {
        json!({"iss": self.issuer, "aud": AUDIENCE, "sub": "alice", "client_id": "app", "jti": "t-1",
               "iat": now() - 5, "exp": now() + 600})
    }

    /// A good token with further claims; null removes one.
    pub fn token(&self, claims: &Value) -> String {
        self.forge(&Value::Null, claims)
    }

    pub fn scoped(&self, scope: &str) -> String {
        self.token(&json!({ "scope": scope }))
    }

    /// A good signature over a changed header and changed claims.
    pub fn forge(&self, header: &Value, claims: &Value) -> String {
        let header = merged(self.header(), header).to_string();
        let claims = merged(self.claims(), claims).to_string();
        self.signed(&header, &claims)
    }

    /// A good signature over whatever text.
    pub fn signed(&self, header: &str, payload: &str) -> String {
        compact(header, payload, |input| self.key().sign(input))
    }
}
