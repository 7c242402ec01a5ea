//! What others computed: the examples of RFC 7515, 7520 and 8037 (`tests/jose/rfc.json`) and the signatures of Project
//! Wycheproof. Each is accepted, or refused for the right reason.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};
use wycheproof::{EllipticCurve, HashFunction, TestResult, ecdsa, eddsa, rsa_pkcs1_verify, rsa_pss_verify};

use super::{Algorithm, KeySet, Malformed, UnverifiedJws, VerifyingKey};

#[derive(Deserialize)]
struct Examples {
    keys: BTreeMap<String, Value>,
    jws: BTreeMap<String, String>,
}

fn examples() -> Examples {
    serde_json::from_str(include_str!("../../tests/jose/rfc.json")).unwrap()
}

impl Examples {
    /// The public half of a key, which is what a set publishes.
    fn public(&self, name: &str) -> VerifyingKey {
        let mut jwk = self.keys[name].clone();
        for private in ["d", "p", "q", "dp", "dq", "qi"] {
            jwk.as_object_mut().unwrap().remove(private);
        }
        key(&jwk).unwrap_or_else(|reason| panic!("{name}: {reason}"))
    }
}

/// The key that a set of one holds, or why it holds none.
fn key(jwk: &Value) -> Result<VerifyingKey, String> {
    let set = json!({ "keys": [jwk] }).to_string();
    let (keys, left_out) = KeySet::parse(set.as_bytes(), &Algorithm::ALL).unwrap();
    let found = Algorithm::ALL.into_iter().find_map(|algorithm| keys.find(None, algorithm)).cloned();
    found.ok_or_else(|| left_out.concat())
}

/// As a token, whose payload must be an object.
fn accepts(token: &str, key: &VerifyingKey) -> bool {
    UnverifiedJws::parse(token).is_ok_and(|jws| jws.verify(key))
}

/// The signature alone, for examples that sign plain text.
fn signature_holds(token: &str, algorithm: Algorithm, key: &VerifyingKey) -> bool {
    let Some((message, signature)) = token.rsplit_once('.') else { return false };
    URL_SAFE_NO_PAD.decode(signature).is_ok_and(|signature| key.verify(algorithm, message.as_bytes(), &signature))
}

/// `token` with one byte changed, taken away, or doubled, at every place.
fn tampered(token: &str) -> impl Iterator<Item = String> {
    (0..token.len()).flat_map(move |at| {
        let (before, rest) = token.split_at(at);
        let (byte, after) = rest.split_at(1);
        let other = if byte == "A" { "B" } else { "A" };
        [format!("{before}{other}{after}"), format!("{before}{after}"), format!("{before}{byte}{byte}{after}")]
    })
}

#[test]
fn j10_j24_j26_what_the_examples_of_the_rfcs_come_to() {
    let examples = examples();
    for (name, refused) in [
        ("RFC 7515 A.1", Some(Malformed::Algorithm)), // HS256
        ("RFC 7515 A.2", None),                       // RS256
        ("RFC 7515 A.3", None),                       // ES256
        ("RFC 7515 A.4", Some(Malformed::Algorithm)), // ES512
        ("RFC 7515 A.5", Some(Malformed::Segments)),  // unsecured: nothing stands where the signature does
        ("RFC 7515 A.6", Some(Malformed::Segments)),  // general JSON
        ("RFC 7515 A.7", Some(Malformed::Segments)),  // flattened JSON
        ("RFC 7515 E", Some(Malformed::Segments)),
        ("RFC 7520 4.1", Some(Malformed::Payload)),   // RS256 over plain text
        ("RFC 7520 4.2", Some(Malformed::Payload)),   // PS384 over plain text
        ("RFC 7520 4.3", Some(Malformed::Algorithm)), // ES512
        ("RFC 7520 4.4", Some(Malformed::Algorithm)), // HS256
        ("RFC 7520 4.5", Some(Malformed::Segments)),  // detached payload
        ("RFC 7520 4.6", Some(Malformed::Segments)),  // JSON, protected headers
        ("RFC 7520 4.7", Some(Malformed::Segments)),  // JSON, no protected header
        ("RFC 7520 4.8", Some(Malformed::Segments)),  // JSON, three signatures
        ("RFC 8037 A.4", Some(Malformed::Payload)),   // EdDSA over plain text
    ] {
        assert_eq!(UnverifiedJws::parse(&examples.jws[name]).err(), refused, "{name}");
    }
    // With something where the signature stands, the headers are what they are refused for.
    for (name, refused) in [("RFC 7515 A.5", Malformed::Algorithm), ("RFC 7515 E", Malformed::Critical)] {
        assert_eq!(UnverifiedJws::parse(&format!("{}AAAA", examples.jws[name])).err(), Some(refused), "{name}");
    }
}

#[test]
fn j10_j12_the_keys_of_the_rfcs_verify_with_their_own_algorithm_only() {
    let examples = examples();
    for (name, own, by) in [
        ("RFC 7515 A.2", Algorithm::Rs256, "RFC 7515 A.2"),
        ("RFC 7515 A.3", Algorithm::Es256, "RFC 7515 A.3"),
        ("RFC 7520 4.1", Algorithm::Rs256, "RFC 7520 3.3"),
        ("RFC 7520 4.2", Algorithm::Ps384, "RFC 7520 3.3"),
        ("RFC 8037 A.4", Algorithm::EdDsa, "RFC 8037 A.1"),
    ] {
        let token = &examples.jws[name];
        for other in ["RFC 7515 A.2", "RFC 7515 A.3", "RFC 7520 3.3", "RFC 8037 A.1"] {
            for algorithm in Algorithm::ALL {
                let holds = signature_holds(token, algorithm, &examples.public(other));
                assert_eq!(holds, other == by && algorithm == own, "{name} by the key {other} as {algorithm:?}");
            }
        }
    }
    for name in ["RFC 7515 A.2", "RFC 7515 A.3"] {
        assert!(accepts(&examples.jws[name], &examples.public(name)), "{name}");
    }
}

#[test]
fn j24_a_byte_changed_anywhere_is_noticed() {
    let examples = examples();
    for name in ["RFC 7515 A.2", "RFC 7515 A.3"] {
        let key = examples.public(name);
        for token in tampered(&examples.jws[name]) {
            assert!(!accepts(&token, &key), "{name}: {token}");
        }
    }
    for (name, algorithm, by) in [
        ("RFC 7520 4.1", Algorithm::Rs256, "RFC 7520 3.3"),
        ("RFC 7520 4.2", Algorithm::Ps384, "RFC 7520 3.3"),
        ("RFC 8037 A.4", Algorithm::EdDsa, "RFC 8037 A.1"),
    ] {
        let key = examples.public(by);
        for token in tampered(&examples.jws[name]) {
            assert!(!signature_holds(&token, algorithm, &key), "{name}: {token}");
        }
    }
}

#[test]
fn j12_keys_of_the_rfcs_that_no_set_should_hold() {
    let examples = examples();
    for (name, reason) in [
        ("RFC 7515 A.1", "a private or symmetric key has no place in a published set"),
        ("RFC 7515 A.2", "a private or symmetric key has no place in a published set"),
        ("RFC 7515 A.3", "a private or symmetric key has no place in a published set"),
        ("RFC 7520 3.1", "the curve is not supported"),
        ("RFC 7520 3.2", "a private or symmetric key has no place in a published set"),
        ("RFC 7520 3.4", "a private or symmetric key has no place in a published set"),
        ("RFC 7520 3.5", "a private or symmetric key has no place in a published set"),
        ("RFC 7520 3.6", "a private or symmetric key has no place in a published set"),
        ("RFC 8037 A.1", "a private or symmetric key has no place in a published set"),
    ] {
        let refused = key(&examples.keys[name]).err();
        assert!(refused.as_ref().is_some_and(|said| said.ends_with(reason)), "{name}: {refused:?}");
    }
    assert!(key(&examples.keys["RFC 7520 3.3"]).is_ok());
}

/// Number, message and signature, and what Wycheproof says of them.
struct Case<'a>(usize, &'a [u8], &'a [u8], TestResult);

/// Compares with what Wycheproof says of the signatures of one key and algorithm, and counts the good ones. Where the
/// parameters are not the algorithm's (`fits`), what is valid with them is to be refused.
fn judge<'a>(
    what: &str,
    (key, algorithm, fits): (&Result<VerifyingKey, String>, Algorithm, bool),
    cases: impl Iterator<Item = Case<'a>>,
) -> usize {
    let mut good = 0;
    for Case(id, message, signature, result) in cases {
        let expected = match result {
            TestResult::Valid => fits,
            TestResult::Invalid if fits => false,
            TestResult::Invalid | TestResult::Acceptable => continue,
        };
        let holds = key.as_ref().is_ok_and(|key| key.verify(algorithm, message, signature));
        assert_eq!(holds, expected, "{what} {id} as {algorithm:?} by {:?}", key.as_ref().err());
        good += usize::from(holds);
    }
    good
}

#[test]
fn j27_wycheproof_ecdsa() {
    let mut good = BTreeMap::new();
    for name in ecdsa::TestName::all() {
        for group in ecdsa::TestSet::load(name).unwrap().test_groups {
            let (curve, size, algorithm) = match group.key.curve {
                EllipticCurve::Secp256r1 => ("P-256", 32, Algorithm::Es256),
                EllipticCurve::Secp384r1 => ("P-384", 48, Algorithm::Es384),
                EllipticCurve::Secp521r1 => ("P-521", 66, Algorithm::Es384),
                EllipticCurve::Secp256k1 => ("secp256k1", 32, Algorithm::Es256),
                _ => continue,
            };
            let (x, y) = group.key.key[1..].split_at(size);
            let key = key(&json!({
                "kty": "EC", "crv": curve, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
            }));
            assert_eq!(key.is_ok(), matches!(curve, "P-256" | "P-384"), "{name:?}: {key:?}");
            // JWS has the two numbers side by side (RFC 7518 section 3.4), never their DER form.
            let fits = group.test_type == ecdsa::TestGroupTypeId::EcdsaP1363
                && matches!(
                    (curve, &group.hash),
                    ("P-256", HashFunction::Sha2_256) | ("P-384", HashFunction::Sha2_384)
                );
            let tests = group.tests.iter().map(|test| Case(test.tc_id, &test.msg, &test.sig, test.result));
            *good.entry(algorithm.name()).or_insert(0) += judge(&format!("{name:?}"), (&key, algorithm, fits), tests);
        }
    }
    assert!(good.values().all(|n| *n > 100) && good.len() == 2, "{good:?}");
}

#[test]
fn j27_wycheproof_ed25519() {
    let mut good = 0;
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap().test_groups {
        let key = key(&json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(&*group.key.pk) }));
        let tests = group.tests.iter().map(|test| Case(test.tc_id, &test.msg, &test.sig, test.result));
        good += judge("Ed25519", (&key, Algorithm::EdDsa, true), tests);
    }
    assert!(good > 50, "{good}");
}

fn rsa(n: &[u8], e: &[u8]) -> Result<VerifyingKey, String> {
    key(&json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e) }))
}

#[test]
fn j27_wycheproof_rsa_pkcs1() {
    let mut good = BTreeMap::new();
    for name in rsa_pkcs1_verify::TestName::all() {
        for group in rsa_pkcs1_verify::TestSet::load(name).unwrap().test_groups {
            let key = rsa(&group.key.n, &group.key.e);
            for (algorithm, hash) in [
                (Algorithm::Rs256, HashFunction::Sha2_256),
                (Algorithm::Rs384, HashFunction::Sha2_384),
                (Algorithm::Rs512, HashFunction::Sha2_512),
            ] {
                let tests = group.tests.iter().map(|test| Case(test.tc_id, &test.msg, &test.sig, test.result));
                let fits = group.hash == hash;
                *good.entry(algorithm.name()).or_insert(0) +=
                    judge(&format!("{name:?}"), (&key, algorithm, fits), tests);
            }
        }
    }
    assert!(good.values().all(|n| *n > 20) && good.len() == 3, "{good:?}");
}

#[test]
fn j27_wycheproof_rsa_pss() {
    let mut good = BTreeMap::new();
    for name in rsa_pss_verify::TestName::all() {
        for group in rsa_pss_verify::TestSet::load(name).unwrap().test_groups {
            let key = rsa(&group.key.n, &group.key.e);
            for (algorithm, hash, salt) in [
                (Algorithm::Ps256, HashFunction::Sha2_256, 32),
                (Algorithm::Ps384, HashFunction::Sha2_384, 48),
                (Algorithm::Ps512, HashFunction::Sha2_512, 64),
            ] {
                let tests = group.tests.iter().map(|test| Case(test.tc_id, &test.msg, &test.sig, test.result));
                // RFC 7518 section 3.5: one hash for everything, and a salt as long as it.
                let fits = group.hash == hash && group.mgf_hash.as_ref() == Some(&hash) && group.salt_size == salt;
                *good.entry(algorithm.name()).or_insert(0) +=
                    judge(&format!("{name:?}"), (&key, algorithm, fits), tests);
            }
        }
    }
    assert!(good.values().all(|n| *n > 20) && good.len() == 3, "{good:?}");
}
