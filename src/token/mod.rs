//! From the text of a Bearer token to verified facts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::jose::Algorithm;
use crate::net::BaseUrl;

/// One `[issuers.NAME.jwt]`.
#[derive(Clone, Debug)]
pub struct IssuerSettings {
    pub name: Arc<str>,
    /// Compared byte for byte with the `iss` claim.
    pub issuer: String,
    /// A token must name one of these; never empty.
    pub audience: Vec<String>,
    pub keys: KeySource,
    pub algorithms: Vec<Algorithm>,
    /// Lower case, without the `application/` prefix; `""` stands for an absent `typ`.
    pub typ: Vec<String>,
    pub audience_claim: ClaimPath,
    pub client_id_claim: ClaimPath,
    pub user_claim: ClaimPath,
    pub required_claims: Vec<ClaimPath>,
    pub scope_claim: ClaimPath,
    pub roles_claim: ClaimPath,
    pub leeway: Duration,
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    File(PathBuf),
    Url {
        url: BaseUrl,
        ca: Option<PathBuf>,
        refresh: Duration,
        cooldown: Duration,
    },
    /// The embedded authorization server: `gateway::assemble` hands its public keys over.
    Embedded,
}

/// A claim, by the names on the way to it: `realm_access.roles` is `["realm_access", "roles"]`.
/// A top-level claim whose own name holds the dots (`https://example.com/roles`) is tried first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimPath(pub Box<str>);
