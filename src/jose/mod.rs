//! JOSE: algorithms, JWK sets, signing and verifying of compact JWS (RFC 7515, 7517, 7518). No policy on claims.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod json;
mod jws;
mod key_set;
mod signing;
#[cfg(test)]
mod tests;

pub use json::{JsonError, parse_object};
pub use jws::{Malformed, UnverifiedJws, named_issuer};
pub use key_set::{KeySet, KeySetError, VerifyingKey};
pub use signing::{SigningError, SigningKey, pem};

/// The signature algorithms that are understood (RFC 7518 section 3.1, RFC 8037). None of them is symmetric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// The registered name, case-sensitively. `Ed25519` is RFC 9864's name of EdDSA on that curve.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "Ed25519" => Some(Self::EdDsa),
            _ => Self::ALL.into_iter().find(|alg| alg.name() == name),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }
}
