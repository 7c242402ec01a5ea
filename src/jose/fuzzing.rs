//! What holds of tokens, their JSON and key sets, whatever the bytes: checked by the fuzz targets and on their corpus.
//! `jsonwebtoken` is asked for a second opinion: nothing counts here that is malformed there.

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use serde::Deserialize as _;
use serde_json::Value;

use super::{Algorithm, KeySet, UnverifiedJws, parse_object};

/// The keys of RFC 7515 appendix A.2 and A.3 and of RFC 8037 appendix A.
const KEYS: &str = r#"{"keys": [
    {"kty": "RSA", "kid": "rsa", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"},
    {"kty": "EC", "kid": "ec", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
]}"#;

/// A compact JWS.
pub fn jws(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(jws) = UnverifiedJws::parse(text) else { return };
    assert!(UnverifiedJws::has_form(text));
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "not base64url");
    let second = match jsonwebtoken::dangerous::insecure_decode::<Value>(text) {
        Ok(second) => second,
        Err(error) => return rejected_for_what_is_not_read(text, &error),
    };
    assert_eq!(second.claims, Value::Object(jws.claims.clone()), "claims are read in two ways");
    assert_eq!(Some(jws.algorithm), Algorithm::parse(&format!("{:?}", second.header.alg)));
    assert_eq!((jws.kid.as_deref(), jws.typ.as_deref()), (second.header.kid.as_deref(), second.header.typ.as_deref()));
    assert!(second.header.crit.is_none() && second.header.zip.is_none());
    let (keys, left_out) = KeySet::parse(KEYS.as_bytes(), &Algorithm::ALL).expect("a set");
    assert!(left_out.is_empty(), "{left_out:?}");
    let Some(key) = keys.find(jws.kid.as_deref(), jws.algorithm) else { return };
    if jws.verify(key) {
        let set: JwkSet = serde_json::from_str(KEYS).expect("a set");
        let jwk = set.keys.iter().find(|jwk| fits(jwk, jws.algorithm)).expect("the key that was found");
        let key = DecodingKey::from_jwk(jwk).expect("a key");
        let (message, signature) = text.rsplit_once('.').expect("three segments");
        let verified = jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, second.header.alg);
        assert!(verified.expect("a signature"), "a signature counts that is wrong for the library");
    }
}

fn fits(jwk: &Jwk, algorithm: Algorithm) -> bool {
    let kid = match algorithm {
        Algorithm::Es256 | Algorithm::Es384 => "ec",
        Algorithm::EdDsa => "ed",
        _ => "rsa",
    };
    jwk.common.key_id.as_deref() == Some(kid)
}

/// The library reads every registered member of a header, here all but three are ignored; and it does not know RFC 9864's
/// name of EdDSA. Of anything else it must not complain.
fn rejected_for_what_is_not_read(text: &str, error: &jsonwebtoken::errors::Error) {
    use base64::Engine as _;
    let header = text.split('.').next().unwrap_or_default();
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).expect("it was parsed");
    let header = parse_object(&header).expect("it was parsed");
    let ignored = header.keys().any(|name| !["alg", "kid", "typ"].contains(&name.as_str()));
    assert!(ignored || header["alg"] == "Ed25519", "the library says: {error}");
}

/// The JSON of a header or of claims.
pub fn json(data: &[u8]) {
    let Ok(object) = parse_object(data) else { return };
    let read: Value = serde_json::from_slice(data).expect("what is read strictly is JSON");
    let object = Value::Object(object);
    assert_eq!(read, object);
    let written = object.to_string();
    assert!(parse_object(written.as_bytes()).is_ok(), "{written}");
    assert_eq!(members(data), members(written.as_bytes()), "a member stands twice");
}

/// How many members the objects of a valid JSON text have, by their colons.
fn members(text: &[u8]) -> usize {
    let (mut count, mut quoted, mut escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b':' if !quoted => count += 1,
            _ => {}
        }
    }
    count
}

/// A JWK set.
pub fn key_set(data: &[u8]) {
    let Ok((keys, left_out)) = KeySet::parse(data, &Algorithm::ALL) else { return };
    assert!(keys.len() <= 100 && keys.is_subset(&keys));
    for reason in &left_out {
        assert!(!reason.contains(['\n', '\r', '\u{1b}']), "{reason:?}");
    }
    let set: Value = serde_json::from_slice(data).expect("a set is JSON");
    let jwks = set["keys"].as_array().expect("a set has keys");
    for algorithm in Algorithm::ALL {
        for jwk in jwks {
            let kid = jwk.get("kid").and_then(Value::as_str);
            let Some(found) = kid.and_then(|kid| keys.find(Some(kid), algorithm)) else { continue };
            assert!(!found.verify(algorithm, b"", b""), "nothing is no signature");
            let same_kid = jwks.iter().filter(|other| other.get("kid").and_then(Value::as_str) == kid);
            let usable = |jwk: &&Value| {
                let private = ["d", "p", "q", "dp", "dq", "qi", "k"].iter().any(|name| jwk.get(name).is_some());
                let named = jwk.get("alg").is_none_or(|alg| alg.as_str().and_then(Algorithm::parse) == Some(algorithm));
                let parsed = Jwk::deserialize(*jwk).ok().filter(|_| named && !private);
                parsed.is_some_and(|jwk| DecodingKey::from_jwk(&jwk).is_ok())
            };
            assert!(same_kid.clone().any(|jwk| usable(&jwk)), "a key that is none for the library");
        }
    }
}
