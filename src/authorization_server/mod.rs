//! The embedded authorization server (RFC 6749).

mod assertion;
mod audit;
mod authorize;
mod clients;
mod error;
mod form;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod grants;
mod introspect;
mod keys;
mod login;
mod metadata;
mod pages;
mod passwords;
mod redirect_uri;
mod revoke;
mod sealed;
mod server;
mod sessions;
mod token_endpoint;
mod tokens;
mod users;

#[cfg(test)]
mod tests;

pub use clients::{generate_secret, hash_secret};
pub use keys::{KeyError, KeyInfo, PublicKeys, PublishedKeys};
pub use passwords::{HashError, hash_password};
pub use server::{AuthorizationServer, Caller, Endpoint};
pub use sessions::COOKIES;
pub use tokens::RESERVED_CLAIMS;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::UnixSeconds;
use crate::jose::{Algorithm, KeySet};
use crate::net::BaseUrl;
use crate::scope::ScopeSet;
use crate::secret::Secret;
use crate::store::StoreError;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{file}: {cause}")]
    Template { file: PathBuf, cause: String },
    #[error("the key that seals forms cannot be used")]
    Seal,
}

/// `[authorization_server]`.
#[derive(Debug)]
pub struct Settings {
    /// Byte for byte the `iss` of tokens and metadata.
    pub issuer: BaseUrl,
    /// Starts with `/`, does not end with one.
    pub path: String,
    pub access_token_format: AccessTokenFormat,
    pub access_token_lifetime: Duration,
    /// Absolute lifetime of a refresh family.
    pub refresh_token_lifetime: Duration,
    pub refresh_token_idle: Duration,
    /// Of an authorization code; at most ten minutes (RFC 6749 section 4.1.2).
    pub code_lifetime: Duration,
    /// Of a login session without a request.
    pub session_idle: Duration,
    /// Of a login session, absolute.
    pub session_lifetime: Duration,
    pub audience: Vec<String>,
    pub signing_algorithm: Algorithm,
    pub key_rotation: Duration,
    pub excess_user_scope: ExcessUserScope,
    pub clients: Vec<Client>,
    /// Role name to the scopes that a user of that role may be given.
    pub roles: BTreeMap<String, ScopeSet>,
    /// Asked in order; the first that knows the name decides.
    pub users: Vec<UserSource>,
    pub lockout: Lockout,
    /// A folder of pages that replace the built-in ones.
    pub templates: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessTokenFormat {
    /// `at+jwt` (RFC 9068).
    #[default]
    Jwt,
    /// A reference that only the server can resolve.
    Opaque,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExcessUserScope {
    /// A scope that the client has and the user has not is left out.
    #[default]
    Narrow,
    /// It is an `invalid_scope`.
    Reject,
}

/// One `[authorization_server.clients.ID]`.
#[derive(Debug)]
pub struct Client {
    /// The client_id.
    pub id: Arc<str>,
    /// For people; default: the id.
    pub name: String,
    /// None: a public client. More than one: all of them work.
    pub secrets: Vec<ClientSecret>,
    /// The public keys of `private_key_jwt`.
    pub keys: KeySet,
    pub public: bool,
    /// May it use the password grant although it is public.
    pub public_password: bool,
    pub auth_methods: Vec<AuthMethod>,
    pub grants: Vec<Grant>,
    /// The password grant ends at this moment (exclusive).
    pub password_until: Option<UnixSeconds>,
    pub refresh: RefreshPolicy,
    /// Narrower than the server's.
    pub access_token_lifetime: Option<Duration>,
    /// Narrower than the server's; empty: the server's.
    pub audience: Vec<String>,
    pub redirect_uris: Vec<String>,
    pub scopes: ScopeSet,
    pub default_scopes: ScopeSet,
    /// No consent page.
    pub trusted: bool,
    /// May it call the introspection endpoint.
    pub introspect: bool,
    pub require_pkce: bool,
    /// CORS origins that may call the token endpoint.
    pub origins: Vec<String>,
}

#[derive(Debug)]
pub enum ClientSecret {
    /// SHA-256 of a secret that `tollgate client-secret` made.
    Sha256([u8; 32]),
    /// A PHC string, for secrets people chose.
    Argon2id(PasswordHash),
    /// In clear, from `env`, `file` or `value`.
    Plain(Secret<String>),
}

/// An argon2id hash in PHC format whose parameters were found to be within bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordHash(pub Arc<str>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    ClientSecretBasic,
    ClientSecretPost,
    /// An assertion signed with one of the client's keys (RFC 7523).
    PrivateKeyJwt,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    AuthorizationCode,
    RefreshToken,
    Password,
    ClientCredentials,
}

impl Grant {
    pub const ALL: [Self; 4] = [Self::AuthorizationCode, Self::ClientCredentials, Self::Password, Self::RefreshToken];

    /// What `grant_type` says, and what metrics and events call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
            Self::Password => "password",
            Self::ClientCredentials => "client_credentials",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefreshPolicy {
    /// A refresh token when `offline_access` was asked for and may be given.
    #[default]
    OfflineAccess,
    Always,
    Never,
}

#[derive(Debug)]
pub enum UserSource {
    File(Vec<User>),
}

/// One `[[user]]` of a users file.
#[derive(Debug)]
pub struct User {
    pub name: String,
    pub password: UserPassword,
    pub roles: Vec<String>,
    /// Besides those of the roles.
    pub scopes: UserScopes,
    pub disabled: bool,
    /// Put into the access token.
    pub claims: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug)]
pub enum UserPassword {
    Hash(PasswordHash),
    /// In clear, from `env`, `file` or `value`.
    Plain(Secret<String>),
}

#[derive(Clone, Debug)]
pub enum UserScopes {
    Listed(ScopeSet),
    /// `["*"]`: whatever the client may have.
    All,
}

/// `[authorization_server.lockout]`.
#[derive(Clone, Debug)]
pub struct Lockout {
    /// Per user and address, within `window`.
    pub failures: u32,
    pub window: Duration,
    pub delay: Duration,
    /// Per address, whoever the user is, within `window`.
    pub address_failures: u32,
}
