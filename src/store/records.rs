//! The records that more than one operation knows.

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize};

use crate::clock::UnixSeconds;
use crate::secret::random;

/// SHA-256 of a code, token or cookie with at least 128 bits of chance: what is stored and looked up in its place.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(content: impl AsRef<[u8]>) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, content.as_ref()).as_ref());
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL.encode(&self.0[..6]))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64URL.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64URL.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("not a digest"))
    }
}

/// Names a grant: 128 random bits, base64url.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GrantId(String);

impl GrantId {
    pub fn random() -> Self {
        Self(BASE64URL.encode(random::<16>()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a user let a client do, once: the root of a family of refresh tokens and of the access tokens they gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub id: GrantId,
    pub client: String,
    pub user: String,
    /// Everything that was granted. A refresh may ask for less, never for more.
    pub scope: String,
    pub audience: Vec<String>,
    /// When the user last proved who they are.
    pub auth_time: UnixSeconds,
    /// How (RFC 8176).
    pub amr: Vec<String>,
    /// Changes when the user's password does.
    pub password_stamp: String,
    pub created: UnixSeconds,
    /// No token of the family lives longer.
    pub expires: UnixSeconds,
    pub revoked: bool,
}

/// One refresh token of a family. The grant's current one has no `next`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshToken {
    pub grant: GrantId,
    pub sequence: u32,
    pub previous: Option<Digest>,
    pub next: Option<Digest>,
    /// Its place was given to another because the answer that carried it was lost.
    pub superseded: bool,
    pub used_at: Option<UnixSeconds>,
    /// The access token that was issued with it.
    pub access_jti: String,
    pub expires: UnixSeconds,
}
