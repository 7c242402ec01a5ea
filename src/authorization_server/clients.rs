//! Clients and how they prove who they are (RFC 6749 section 2.3).
//!
//! Everything that can be wrong with credentials is answered alike, at the same cost. Secrets made by
//! [`generate_secret`] are compared by digest; those that people chose cost a slow hash, whose success is remembered for
//! a few minutes under a keyed digest.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, header};
use moka::sync::Cache;

use super::assertion::{self, ASSERTION_TYPE, Addressees, Asserted};
use super::error::{Error, ErrorCode};
use super::form::{Form, decode};
use super::passwords::HashPool;
use super::{AuthMethod, Client, ClientSecret, Grant, PasswordHash};
use crate::clock::UnixSeconds;
use crate::limits::Guesses;
use crate::secret::{Secret, random};
use crate::store::Store;

/// How long a slow secret that was right is not hashed again, and how many are remembered.
const REMEMBER: Duration = Duration::from_secs(300);
const REMEMBERED: u64 = 10_000;
/// Longest client id and secret that are looked at, in bytes.
const MAX_CREDENTIAL: usize = 1024;

/// What authentication needs besides the clients.
#[derive(Debug)]
pub(super) struct Checks<'a> {
    pub(super) pool: &'a HashPool,
    pub(super) guesses: &'a Guesses,
    pub(super) store: &'a Store,
    pub(super) addressees: Addressees<'a>,
    pub(super) now: UnixSeconds,
}

/// A client that said who it is; a confidential one proved it.
#[derive(Clone, Debug)]
pub(super) struct Authenticated {
    pub(super) client: Arc<Client>,
    pub(super) method: AuthMethod,
}

impl Authenticated {
    pub(super) fn is_confidential(&self) -> bool {
        self.method != AuthMethod::None
    }
}

#[derive(Debug)]
pub(super) struct Clients {
    by_id: HashMap<Arc<str>, Arc<Client>>,
    /// What a failure costs when some client has a slow secret.
    dummy: Option<PasswordHash>,
    verified: VerifiedSecrets,
}

/// Slow secrets that were right a moment ago. Survives a reload; the secret is part of what is looked up.
#[derive(Clone, Debug)]
pub(super) struct VerifiedSecrets {
    key: Arc<hmac::Key>,
    seen: Cache<[u8; 32], ()>,
}

impl VerifiedSecrets {
    pub(super) fn new() -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>());
        Self { key: Arc::new(key), seen: Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBER).build() }
    }

    fn entry(&self, hash: &PasswordHash, secret: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(hash.0.as_bytes());
        context.update(&[0]);
        context.update(secret.as_bytes());
        let mut entry = [0; 32];
        entry.copy_from_slice(context.sign().as_ref());
        entry
    }
}

impl Clients {
    pub(super) fn new(clients: Vec<Client>, verified: VerifiedSecrets) -> Self {
        let slow = clients.iter().flat_map(|client| &client.secrets).find_map(|secret| match secret {
            ClientSecret::Argon2id(hash) => Some(hash.dummy_like()),
            _ => None,
        });
        let by_id = clients.into_iter().map(|client| (client.id.clone(), Arc::new(client))).collect();
        Self { by_id, dummy: slow, verified }
    }

    pub(super) fn get(&self, id: &str) -> Option<&Arc<Client>> {
        self.by_id.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Client>> {
        self.by_id.values()
    }

    pub(super) fn any_has(&self, grant: Grant) -> bool {
        self.iter().any(|client| client.grants.contains(&grant))
    }

    /// Who sends this request. `address` is counted against when it fails.
    pub(super) async fn authenticate(
        &self,
        headers: &HeaderMap,
        form: &Form,
        checks: &Checks<'_>,
        address: IpAddr,
    ) -> Result<Authenticated, Error> {
        let (presented, guesses) = (Presented::read(headers, form)?, checks.guesses);
        // Nothing was guessed.
        if matches!(presented, Presented::Nothing) {
            return Err(Error::invalid_client("no client authentication"));
        }
        let closed = guesses.address_closed(address);
        let verified = match presented {
            Presented::Assertion(assertion) => self.verify_assertion(assertion, form, checks).await,
            presented => self.verify(&presented, checks.pool, closed.is_some()).await,
        };
        match verified {
            Err(error) if error.code == ErrorCode::InvalidClient => {
                if let Some(seconds) = closed {
                    return Err(Error::too_many(seconds).reason("the address failed too often"));
                }
                if guesses.address_failed(address) {
                    tracing::info!(target: "audit", event = "lockout", address = %address, by = "client authentication");
                }
                Err(error)
            }
            other => other,
        }
    }

    async fn verify_assertion(&self, text: &str, form: &Form, checks: &Checks<'_>) -> Result<Authenticated, Error> {
        let Asserted { client, once, expires } = assertion::check(self, text, form, &checks.addressees, checks.now)?;
        if !checks.store.use_assertion(once, expires).await? {
            return Err(Error::invalid_client("the assertion was used before"));
        }
        Ok(Authenticated { client, method: AuthMethod::PrivateKeyJwt })
    }

    async fn verify(&self, presented: &Presented<'_>, pool: &HashPool, closed: bool) -> Result<Authenticated, Error> {
        let (method, candidates) = match presented {
            Presented::Nothing | Presented::Assertion(_) => {
                return Err(Error::invalid_client("nothing to compare"));
            }
            Presented::Unusable(reason) => return self.fail(reason, pool, closed).await,
            Presented::IdAlone(id) => {
                let client = self.by_id.get(*id).filter(|client| client.public);
                let Some(client) = client else { return self.fail("no such public client", pool, closed).await };
                return Ok(Authenticated { client: client.clone(), method: AuthMethod::None });
            }
            Presented::Basic(candidates) => (AuthMethod::ClientSecretBasic, candidates),
            Presented::Post(candidate) => (AuthMethod::ClientSecretPost, candidate),
        };
        let mut reason = "unknown client";
        for (id, secret) in candidates {
            let Some(client) = self.by_id.get(id.as_str()) else { continue };
            if client.public && secret.expose().is_empty() {
                return Ok(Authenticated { client: client.clone(), method: AuthMethod::None });
            }
            if !client.auth_methods.contains(&method) {
                reason = "not this client's authentication method";
                continue;
            }
            reason = "wrong secret";
            match self.is_secret_of(client, secret.expose(), pool, closed).await? {
                Matched::Yes => return Ok(Authenticated { client: client.clone(), method }),
                Matched::No => {}
                // The slow hash of this failure has been paid for.
                Matched::NoAfterHash => return Err(Error::invalid_client(reason)),
            }
        }
        self.fail(reason, pool, closed).await
    }

    /// Every failure costs a slow hash when any client has one; an address that is not heard any more costs none.
    async fn fail(&self, reason: &'static str, pool: &HashPool, closed: bool) -> Result<Authenticated, Error> {
        if let Some(dummy) = self.dummy.as_ref().filter(|_| !closed) {
            pool.verify(dummy, "").await?;
        }
        Err(Error::invalid_client(reason))
    }

    async fn is_secret_of(
        &self,
        client: &Client,
        secret: &str,
        pool: &HashPool,
        closed: bool,
    ) -> Result<Matched, Error> {
        let given = digest::digest(&digest::SHA256, secret.as_bytes());
        let mut matched = false;
        let mut slow = Vec::new();
        for own in &client.secrets {
            matched |= match own {
                ClientSecret::Sha256(own) => verify_slices_are_equal(own, given.as_ref()).is_ok(),
                ClientSecret::Plain(own) => own.matches(secret.as_bytes()),
                ClientSecret::Argon2id(own) => {
                    slow.push(own);
                    self.verified.seen.contains_key(&self.verified.entry(own, secret))
                }
            };
        }
        if matched {
            return Ok(Matched::Yes);
        }
        if closed || slow.is_empty() {
            return Ok(Matched::No);
        }
        for own in slow {
            if pool.verify(own, secret).await? {
                self.verified.seen.insert(self.verified.entry(own, secret), ());
                return Ok(Matched::Yes);
            }
        }
        Ok(Matched::NoAfterHash)
    }
}

enum Matched {
    Yes,
    No,
    NoAfterHash,
}

/// What a request shows of its client, read but not believed.
enum Presented<'a> {
    Nothing,
    Unusable(&'static str),
    /// As RFC 6749 section 2.3.1 decodes it and, where that differs, as it stands: many clients do not encode.
    Basic(Vec<(String, Secret<String>)>),
    Post(Vec<(String, Secret<String>)>),
    IdAlone(&'a str),
    Assertion(&'a str),
}

impl<'a> Presented<'a> {
    fn read(headers: &HeaderMap, form: &'a Form) -> Result<Self, Error> {
        let invalid = |text: &'static str| Err(Error::new(ErrorCode::InvalidRequest, text));
        let mut authorizations = headers.get_all(header::AUTHORIZATION).iter();
        let authorization = authorizations.next();
        if authorizations.next().is_some() {
            return invalid("more than one Authorization header");
        }
        let (id, secret) = (form.get("client_id"), form.get("client_secret"));
        if [id, secret].into_iter().flatten().any(|text| text.len() > MAX_CREDENTIAL) {
            return Ok(Self::Unusable("credentials are too long"));
        }
        match (form.get("client_assertion_type"), form.get("client_assertion")) {
            (None, None) => {}
            (Some(ASSERTION_TYPE), Some(_)) if secret.is_some() || authorization.is_some() => {
                return invalid("more than one way of client authentication");
            }
            (Some(ASSERTION_TYPE), Some(assertion)) => return Ok(Self::Assertion(assertion)),
            _ => return invalid("client_assertion and client_assertion_type do not fit"),
        }
        let Some(authorization) = authorization else {
            return Ok(match (id, secret) {
                (None, None) => Self::Nothing,
                (None, Some(_)) => Self::Unusable("a secret without a client_id"),
                (Some(id), None) => Self::IdAlone(id),
                (Some(id), Some(secret)) => Self::Post(vec![(id.to_owned(), Secret::new(secret.to_owned()))]),
            });
        };
        let is_basic = authorization.as_bytes().get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic"));
        if secret.is_some() && is_basic {
            return invalid("more than one way of client authentication");
        }
        let candidates = match basic_candidates(authorization.as_bytes()) {
            Ok(candidates) => candidates,
            Err(reason) => return Ok(Self::Unusable(reason)),
        };
        match id {
            Some(id) if candidates.iter().all(|(own, _)| own != id) => {
                invalid("client_id is not the client that authenticates")
            }
            _ => Ok(Self::Basic(candidates)),
        }
    }
}

/// Clients in the field pad their base64 or do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) fn basic_candidates(header: &[u8]) -> Result<Vec<(String, Secret<String>)>, &'static str> {
    if header.len() > 4 * MAX_CREDENTIAL {
        return Err("credentials are too long");
    }
    let (scheme, rest) = header.split_at(header.iter().position(|b| *b == b' ').unwrap_or(header.len()));
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return Err("an Authorization scheme other than Basic");
    }
    let decoded = BASE64.decode(rest.trim_ascii()).map_err(|_| "the Basic credentials are not base64")?;
    let text = Secret::new(String::from_utf8(decoded).map_err(|_| "the Basic credentials are not UTF-8")?);
    if text.expose().chars().any(char::is_control) {
        return Err("the Basic credentials hold a control character");
    }
    let (id, secret) = text.expose().split_once(':').ok_or("the Basic credentials have no colon")?;
    let mut candidates = Vec::with_capacity(2);
    if let (Ok(id), Ok(secret)) = (decode(id.as_bytes()), decode(secret.as_bytes())) {
        candidates.push((id, Secret::new(secret)));
    }
    if candidates.first().is_none_or(|(own, own_secret)| own != id || own_secret.expose() != secret) {
        candidates.push((id.to_owned(), Secret::new(secret.to_owned())));
    }
    Ok(candidates)
}

/// A new client secret (256 bits in letters and digits) and the `sha256:` text to configure in its place.
pub fn generate_secret() -> (Secret<String>, String) {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    // 43 characters of 62 hold 256.03 bits.
    let mut secret = String::with_capacity(43);
    while secret.len() < 43 {
        for byte in random::<64>() {
            // 248 is the largest multiple of 62 in a byte: what is above would make some letters likelier.
            if byte < 248 && secret.len() < 43 {
                secret.push(char::from(ALPHABET[usize::from(byte % 62)]));
            }
        }
    }
    let hash = hash_secret(&secret);
    (Secret::new(secret), hash)
}

/// `sha256:` and 64 hexadecimal digits, for a secret with at least 128 bits of chance.
pub fn hash_secret(secret: &str) -> String {
    let digest = digest::digest(&digest::SHA256, secret.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(text: &str) -> Result<Vec<(String, String)>, &'static str> {
        let header = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
        basic_candidates(header.as_bytes())
            .map(|all| all.into_iter().map(|(id, secret)| (id, secret.expose().clone())).collect())
    }

    fn pair(id: &str, secret: &str) -> (String, String) {
        (id.to_owned(), secret.to_owned())
    }

    #[test]
    fn ca1_basic_is_read_decoded_and_raw() {
        assert_eq!(candidates("a%3Ab:c%2Bd"), Ok(vec![pair("a:b", "c+d"), pair("a%3Ab", "c%2Bd")]));
        assert_eq!(candidates("app:secret"), Ok(vec![pair("app", "secret")]));
        let (id, secret) = ("1PpG/Q 1", "z/tZ9VwFZqApmIQ+ZH1I5pLk/uB4ud:X2/8bL+wfFTt1rFw=");
        let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let (encoded_id, encoded_secret) = (encode(id), encode(secret));
        assert_eq!(candidates(&format!("{encoded_id}:{encoded_secret}")).unwrap()[0], pair(id, secret));
        assert_eq!(*candidates(&format!("{id}:{secret}")).unwrap().last().unwrap(), pair(id, secret));
    }

    #[test]
    fn ca3_ca4_unreadable_credentials_and_colons() {
        assert_eq!(candidates("app:a:b"), Ok(vec![pair("app", "a:b")]));
        assert_eq!(candidates("100%:x"), Ok(vec![pair("100%", "x")]), "a bad escape is read as it stands");
        for text in ["no colon", "app:a\u{7}"] {
            assert!(candidates(text).is_err(), "{text}");
        }
        for header in ["Basic", "Basic !!", "Bearer abc", "Basicapp", "Basic /w=="] {
            assert!(basic_candidates(header.as_bytes()).is_err(), "{header}");
        }
        for header in ["BASIC YTpi", "basic   YTpi", "Basic YWE6Yg", "Basic YWE6Yg=="] {
            assert!(basic_candidates(header.as_bytes()).is_ok(), "{header}");
        }
    }

    #[test]
    fn generated_secrets_are_long_and_need_no_encoding() {
        let (secret, hash) = generate_secret();
        assert_eq!(secret.expose().len(), 43);
        assert!(secret.expose().bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_eq!(hash, hash_secret(secret.expose()));
        assert_ne!(generate_secret().1, hash);
    }
}
