//! What a page hands to the browser and wants back unchanged: sealed with AES-256-GCM, bound to one browser and one
//! purpose, and old after a while. Keeps what a form continues out of the store until the user has logged in.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StartError;
use crate::clock::UnixSeconds;

const NONCE_BYTES: usize = 12;
/// Longest sealed text that is looked at.
const MAX_SEALED: usize = 32 * 1024;

#[derive(Debug)]
pub(super) struct Seal {
    aead: RandomizedNonceKey,
    mac: hmac::Key,
}

#[derive(Serialize, Deserialize)]
struct Dated<T> {
    until: UnixSeconds,
    content: T,
}

impl Seal {
    /// From 256 secret bits.
    pub(super) fn new(secret: &[u8]) -> Result<Self, StartError> {
        let derive = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let aead = RandomizedNonceKey::new(&AES_256_GCM, hmac::sign(&derive, b"seal").as_ref());
        let mac = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&derive, b"csrf").as_ref());
        Ok(Self { aead: aead.map_err(|_| StartError::Seal)?, mac })
    }

    /// Seals `content` for `browser`. None when it cannot be done, which does not happen.
    pub(super) fn seal<T: Serialize>(&self, browser: &str, content: T, until: UnixSeconds) -> Option<String> {
        let mut bytes = serde_json::to_vec(&Dated { until, content }).ok()?;
        let nonce = self.aead.seal_in_place_append_tag(Aad::from(browser.as_bytes()), &mut bytes).ok()?;
        Some(BASE64URL.encode([nonce.as_ref().as_slice(), &bytes].concat()))
    }

    /// What was sealed for this browser, unless it is too old.
    pub(super) fn open<T: DeserializeOwned>(&self, browser: &str, sealed: &str, now: UnixSeconds) -> Option<T> {
        let mut bytes = BASE64URL.decode(Some(sealed).filter(|text| text.len() <= MAX_SEALED)?).ok()?;
        let (nonce, rest) = bytes.split_at_mut_checked(NONCE_BYTES)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.aead.open_in_place(nonce, Aad::from(browser.as_bytes()), rest).ok()?;
        let dated: Dated<T> = serde_json::from_slice(opened).ok()?;
        (dated.until > now).then_some(dated.content)
    }

    /// The token that forms of this browser carry.
    pub(super) fn csrf(&self, browser: &str) -> String {
        BASE64URL.encode(hmac::sign(&self.mac, browser.as_bytes()))
    }

    pub(super) fn is_csrf(&self, browser: &str, token: &str) -> bool {
        constant_time::verify_slices_are_equal(self.csrf(browser).as_bytes(), token.as_bytes()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_the_same_browser_in_time() {
        let seal = Seal::new(&[7; 32]).unwrap();
        let sealed = seal.seal("browser", "content", 100).unwrap();
        assert_eq!(seal.open("browser", &sealed, 99), Some("content".to_owned()));
        assert_eq!(seal.open::<String>("browser", &sealed, 100), None, "too late");
        assert_eq!(seal.open::<String>("another", &sealed, 99), None, "another browser");
        assert_eq!(Seal::new(&[8; 32]).unwrap().open::<String>("browser", &sealed, 99), None, "another key");
        let mut changed = sealed.clone().into_bytes();
        changed[20] ^= 1;
        assert_eq!(seal.open::<String>("browser", std::str::from_utf8(&changed).unwrap(), 99), None, "changed");
        for text in ["", "x", "AAAA", "!"] {
            assert_eq!(seal.open::<String>("browser", text, 99), None, "{text}");
        }
        assert!(seal.is_csrf("browser", &seal.csrf("browser")));
        assert!(!seal.is_csrf("another", &seal.csrf("browser")) && !seal.is_csrf("browser", ""));
    }
}
