//! Private keys, parsed once, and what they sign: compact JWS (RFC 7515 section 7.1) under the algorithms of RFC 7518
//! section 3.1 and RFC 8037. Keys go in and out as PKCS#8 (RFC 5958); their public half as a JWK whose `kid` is the
//! thumbprint of RFC 7638. What a token claims is the caller's business.

use std::fmt;
use std::fmt::Write as _;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use aws_lc_rs::{digest, error};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as BASE64URL};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use serde_json::{Value, json};

use super::Algorithm;
use crate::secret::Secret;

/// A private key bound to the one algorithm it signs with.
pub struct SigningKey {
    algorithm: Algorithm,
    kid: String,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    #[error("the key is not a {0} private key in PKCS#8")]
    Key(&'static str),
    #[error("the text is not a PEM \"PRIVATE KEY\"")]
    Pem,
    #[error("an RSA key must have at least 2048 bits")]
    Short,
    #[error("the claims cannot be written as JSON: {0}")]
    Claims(#[from] serde_json::Error),
    #[error("the signature could not be made")]
    Failed,
}

/// The private half follows from the public one, of which `kid` is the digest.
impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.algorithm == other.algorithm && self.kid == other.kid
    }
}

impl Eq for SigningKey {}

impl From<error::Unspecified> for SigningError {
    fn from(_: error::Unspecified) -> Self {
        Self::Failed
    }
}

impl SigningKey {
    /// A new key; RSA ones have 2048 bits and take a noticeable part of a second.
    pub fn generate(algorithm: Algorithm) -> Result<Self, SigningError> {
        let pair = match family(algorithm) {
            Family::Rsa(_) => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048)?),
            Family::Ecdsa(curve) => Pair::Ecdsa(EcdsaKeyPair::generate(curve)?),
            Family::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate()?),
        };
        Self::new(algorithm, pair)
    }

    /// From an unencrypted PKCS#8 document (DER).
    pub fn from_pkcs8(algorithm: Algorithm, der: &[u8]) -> Result<Self, SigningError> {
        let rejected = |_| SigningError::Key(algorithm.name());
        let pair = match family(algorithm) {
            Family::Rsa(_) => Pair::Rsa(RsaKeyPair::from_pkcs8(der).map_err(rejected)?),
            Family::Ecdsa(curve) => Pair::Ecdsa(EcdsaKeyPair::from_pkcs8(curve, der).map_err(rejected)?),
            Family::Ed25519 => Pair::Ed25519(Ed25519KeyPair::from_pkcs8(der).map_err(rejected)?),
        };
        Self::new(algorithm, pair)
    }

    /// From the first `PRIVATE KEY` block of a PEM text.
    pub fn from_pem(algorithm: Algorithm, pem: &[u8]) -> Result<Self, SigningError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| SigningError::Pem)?;
        Self::from_pkcs8(algorithm, der.secret_pkcs8_der())
    }

    fn new(algorithm: Algorithm, pair: Pair) -> Result<Self, SigningError> {
        if matches!(&pair, Pair::Rsa(pair) if pair.public_modulus_len() < 256) {
            return Err(SigningError::Short);
        }
        let kid = thumbprint(&pair, algorithm);
        Ok(Self { algorithm, kid, pair })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The RFC 7638 thumbprint (SHA-256, base64url): the same key always has the same one.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The private key as PKCS#8 version 1 (DER).
    pub fn to_pkcs8(&self) -> Result<Secret<Vec<u8>>, SigningError> {
        let der = match &self.pair {
            Pair::Rsa(pair) => AsDer::<Pkcs8V1Der<'_>>::as_der(pair)?.as_ref().to_vec(),
            Pair::Ecdsa(pair) => pair.to_pkcs8v1()?.as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.to_pkcs8v1()?.as_ref().to_vec(),
        };
        Ok(Secret::new(der))
    }

    /// The private key as a PEM `PRIVATE KEY` block.
    pub fn to_pem(&self) -> Result<Secret<String>, SigningError> {
        Ok(pem("PRIVATE KEY", self.to_pkcs8()?.expose()))
    }

    /// The public half: the members of its kind, and `kid`, `use`, `alg`.
    pub fn public_jwk(&self) -> Value {
        let mut jwk = public_members(&self.pair, self.algorithm);
        jwk["kid"] = self.kid.as_str().into();
        jwk["use"] = "sig".into();
        jwk["alg"] = self.algorithm.name().into();
        jwk
    }

    /// A compact JWS over `claims` with the header `{"typ", "alg", "kid"}`.
    pub fn sign(&self, typ: &str, claims: &impl Serialize) -> Result<String, SigningError> {
        let header = json!({ "typ": typ, "alg": self.algorithm.name(), "kid": self.kid });
        let mut jws = BASE64URL.encode(header.to_string());
        jws.push('.');
        BASE64URL.encode_string(serde_json::to_vec(claims)?, &mut jws);
        let signature = self.signature(jws.as_bytes())?;
        jws.push('.');
        BASE64URL.encode_string(signature, &mut jws);
        Ok(jws)
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, SigningError> {
        let random = SystemRandom::new();
        match (&self.pair, family(self.algorithm)) {
            (Pair::Rsa(pair), Family::Rsa(padding)) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature)?;
                Ok(signature)
            }
            (Pair::Ecdsa(pair), _) => Ok(pair.sign(&random, message)?.as_ref().to_vec()),
            (Pair::Ed25519(pair), _) => Ok(pair.try_sign(message)?.as_ref().to_vec()),
            (Pair::Rsa(_), _) => Err(SigningError::Failed),
        }
    }
}

/// A block of PEM (RFC 7468 section 2).
pub fn pem(label: &str, der: &[u8]) -> Secret<String> {
    let body = Secret::new(STANDARD.encode(der));
    let mut pem = String::with_capacity(body.expose().len() + body.expose().len() / 64 + 2 * label.len() + 40);
    let _ = writeln!(pem, "-----BEGIN {label}-----");
    for line in body.expose().as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    let _ = writeln!(pem, "-----END {label}-----");
    Secret::new(pem)
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("algorithm", &self.algorithm).field("kid", &self.kid).finish_non_exhaustive()
    }
}

enum Family {
    Rsa(&'static dyn signature::RsaEncoding),
    Ecdsa(&'static signature::EcdsaSigningAlgorithm),
    Ed25519,
}

fn family(algorithm: Algorithm) -> Family {
    match algorithm {
        Algorithm::Rs256 => Family::Rsa(&signature::RSA_PKCS1_SHA256),
        Algorithm::Rs384 => Family::Rsa(&signature::RSA_PKCS1_SHA384),
        Algorithm::Rs512 => Family::Rsa(&signature::RSA_PKCS1_SHA512),
        Algorithm::Ps256 => Family::Rsa(&signature::RSA_PSS_SHA256),
        Algorithm::Ps384 => Family::Rsa(&signature::RSA_PSS_SHA384),
        Algorithm::Ps512 => Family::Rsa(&signature::RSA_PSS_SHA512),
        Algorithm::Es256 => Family::Ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
        Algorithm::Es384 => Family::Ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        Algorithm::EdDsa => Family::Ed25519,
    }
}

/// The members that RFC 7638 section 3.2 hashes, which are all that make the public key.
fn public_members(pair: &Pair, algorithm: Algorithm) -> Value {
    match pair {
        Pair::Rsa(pair) => {
            let public = pair.public_key();
            let number = |bytes: &[u8]| BASE64URL.encode(&bytes[bytes.iter().take_while(|b| **b == 0).count()..]);
            json!({
                "e": number(public.exponent().big_endian_without_leading_zero()),
                "kty": "RSA",
                "n": number(public.modulus().big_endian_without_leading_zero()),
            })
        }
        Pair::Ecdsa(pair) => {
            // An uncompressed point: 0x04, x, y (SEC 1 section 2.3.3).
            let point = pair.public_key().as_ref();
            let half = (point.len() - 1) / 2;
            let crv = if algorithm == Algorithm::Es384 { "P-384" } else { "P-256" };
            let (x, y) = (BASE64URL.encode(&point[1..=half]), BASE64URL.encode(&point[1 + half..]));
            json!({ "crv": crv, "kty": "EC", "x": x, "y": y })
        }
        Pair::Ed25519(pair) => {
            json!({ "crv": "Ed25519", "kty": "OKP", "x": BASE64URL.encode(pair.public_key().as_ref()) })
        }
    }
}

fn thumbprint(pair: &Pair, algorithm: Algorithm) -> String {
    // RFC 7638 section 3: the members in lexicographic order and no white space. None of the values needs escaping.
    let members = public_members(pair, algorithm);
    let mut names: Vec<_> = members.as_object().into_iter().flatten().collect();
    names.sort_by_key(|(name, _)| *name);
    let mut text = String::from("{");
    for (n, (name, value)) in names.into_iter().enumerate() {
        let separator = if n > 0 { "," } else { "" };
        let _ = write!(text, "{separator}\"{name}\":{value}");
    }
    text.push('}');
    BASE64URL.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ParsedPublicKey, VerificationAlgorithm};

    #[test]
    fn every_algorithm_signs_what_its_public_key_verifies() {
        for algorithm in Algorithm::ALL {
            let verification: &'static dyn VerificationAlgorithm = match algorithm {
                Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
                Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
                Algorithm::EdDsa => &signature::ED25519,
            };
            let key = SigningKey::generate(algorithm).unwrap();
            let again = SigningKey::from_pem(algorithm, key.to_pem().unwrap().expose().as_bytes()).unwrap();
            assert_eq!(again.public_jwk(), key.public_jwk(), "{algorithm:?}: the same key after PEM");
            let jws = again.sign("at+jwt", &json!({ "sub": "alice" })).unwrap();
            let (message, signature) = jws.rsplit_once('.').unwrap();
            let public = match &key.pair {
                Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
                Pair::Ecdsa(pair) => pair.public_key().as_ref().to_vec(),
                Pair::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
            };
            let parsed = ParsedPublicKey::new(verification, &public).unwrap();
            parsed.verify_sig(message.as_bytes(), &BASE64URL.decode(signature).unwrap()).unwrap();
        }
    }

    #[test]
    fn j1_only_public_members_are_published() {
        let names = |algorithm| {
            let jwk = SigningKey::generate(algorithm).unwrap().public_jwk();
            jwk.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(Algorithm::Rs256), "alg e kid kty n use");
        assert_eq!(names(Algorithm::Es256), "alg crv kid kty use x y");
        assert_eq!(names(Algorithm::EdDsa), "alg crv kid kty use x");
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_8037() {
        // RFC 8037 appendix A.1 to A.3, as PKCS#8.
        let seed = BASE64URL.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let der = [&hex("302e020100300506032b657004220420")[..], &seed].concat();
        let key = SigningKey::from_pkcs8(Algorithm::EdDsa, &der).unwrap();
        assert_eq!(key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert_eq!(key.public_jwk()["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let ec = SigningKey::generate(Algorithm::Es256).unwrap().to_pkcs8().unwrap();
        for algorithm in [Algorithm::Rs256, Algorithm::Es384, Algorithm::EdDsa] {
            assert!(SigningKey::from_pkcs8(algorithm, ec.expose()).is_err(), "{algorithm:?}");
        }
        assert!(matches!(SigningKey::from_pem(Algorithm::Es256, b"no PEM"), Err(SigningError::Pem)));
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|n| u8::from_str_radix(&text[n..n + 2], 16).unwrap()).collect()
    }
}
