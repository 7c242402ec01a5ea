//! The compact serialisation of a JWS (RFC 7515 section 7.1), taken apart before anything in it is believed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{Algorithm, VerifyingKey, parse_object};

/// Longest header that is looked at, in bytes of base64url.
const HEADER_MAX_BYTES: usize = 4096;

/// A token taken apart. Its claims are hearsay until `verify` said yes.
#[derive(Debug)]
pub struct UnverifiedJws<'a> {
    signing_input: &'a str,
    signature: Vec<u8>,
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    /// As written; absent and `""` differ.
    pub typ: Option<String>,
    pub claims: Map<String, Value>,
}

/// Who a text says issued it, when it has the form of a JWT at all, whatever signed it: for finding out whom to ask. None:
/// it is no JWT. The claim may be missing or no string.
pub fn named_issuer(text: &str) -> Option<Option<String>> {
    let object = |segment: &str| parse_object(&URL_SAFE_NO_PAD.decode(segment).ok()?).ok();
    let mut segments = text.split('.');
    let (header, payload) = (segments.next()?, segments.next()?);
    if header.len() > HEADER_MAX_BYTES {
        return None;
    }
    object(header)?;
    let claims = object(payload)?;
    Some(claims.get("iss").and_then(Value::as_str).map(str::to_owned))
}

/// Why a text is no JWS that could be verified here. For the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("not three base64url segments")]
    Segments,
    #[error("the header is not a JSON object")]
    Header,
    #[error("the algorithm is none, symmetric or unknown")]
    Algorithm,
    #[error("a critical header extension is not understood")]
    Critical,
    #[error("the payload is not a JSON object")]
    Payload,
}

impl<'a> UnverifiedJws<'a> {
    /// Whether `token` has the outward form of a compact JWS: three segments. Opaque tokens have not.
    pub fn has_form(token: impl AsRef<[u8]>) -> bool {
        memchr::memchr_iter(b'.', token.as_ref()).count() == 2
    }

    pub fn parse(token: &'a str) -> Result<Self, Malformed> {
        let (signing_input, signature) = token.rsplit_once('.').ok_or(Malformed::Segments)?;
        let (header, payload) = signing_input.split_once('.').ok_or(Malformed::Segments)?;
        if payload.contains('.') || header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(Malformed::Segments);
        }
        if header.len() > HEADER_MAX_BYTES {
            return Err(Malformed::Header);
        }
        let decode = |segment: &str| URL_SAFE_NO_PAD.decode(segment).map_err(|_| Malformed::Segments);
        let mut header = parse_object(&decode(header)?).map_err(|_| Malformed::Header)?;
        // RFC 7515 section 4.1.11: what is critical and not understood makes the token invalid, and nothing is understood.
        if header.contains_key("crit") || header.get("b64").is_some_and(|b64| *b64 != Value::Bool(true)) {
            return Err(Malformed::Critical);
        }
        // Nothing is ever inflated.
        if header.contains_key("zip") {
            return Err(Malformed::Header);
        }
        let algorithm =
            header.get("alg").and_then(Value::as_str).and_then(Algorithm::parse).ok_or(Malformed::Algorithm)?;
        let mut text = |name: &str| match header.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Malformed::Header),
        };
        let (kid, typ) = (text("kid")?, text("typ")?);
        let claims = parse_object(&decode(payload)?).map_err(|_| Malformed::Payload)?;
        Ok(Self { signing_input, signature: decode(signature)?, algorithm, kid, typ, claims })
    }

    /// Whether `key` made the signature, with the algorithm that the header names. The caller chose a key for which that
    /// algorithm is allowed.
    pub fn verify(&self, key: &VerifyingKey) -> bool {
        key.verify(self.algorithm, self.signing_input.as_bytes(), &self.signature)
    }
}
