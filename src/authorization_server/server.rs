//! The server as a value: what it is made of, and which paths are its own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use serde_json::json;

use super::assertion::Addressees;
use super::clients::{Authenticated, Checks, Clients, VerifiedSecrets};
use super::error::{Error, ErrorCode, json_response};
use super::form::Form;
use super::keys::{KeyError, KeyInfo, Keys, Policy, PublicKeys};
use super::pages::Pages;
use super::passwords::HashPool;
use super::sealed::Seal;
use super::users::{Account, Users};
use super::{Settings, StartError};
use crate::clock::{Clock, UnixSeconds};
use crate::jose::SigningKey;
use crate::limits::{GuessRules, Guesses};
use crate::store::{Grant, Revocations, Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// Pause between two rounds of upkeep, and the rows that one transaction of it removes.
const UPKEEP: Duration = Duration::from_secs(30);
const SWEEP_ROWS: usize = 500;

/// What the server must know of whoever sends a request, besides the request.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The address behind trusted proxies.
    pub peer: IpAddr,
    /// The connection is TLS, or a trusted proxy says so.
    pub https: bool,
    /// Peer and public URL are both loopback, so that cleartext is acceptable.
    pub loopback: bool,
    pub request_id: &'a str,
}

/// One of the server's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Authorize,
    Login,
    Consent,
    Logout,
    /// The stylesheet of the pages.
    Style,
    Token,
    Revoke,
    Introspect,
    Jwks,
    /// The keys under which upstreams are told who calls.
    UpstreamJwks,
    Metadata,
    /// A path below the server's own that is nothing.
    Unknown,
}

impl Endpoint {
    /// For logs and metric labels.
    fn name(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Login => "login",
            Self::Consent => "consent",
            Self::Logout => "logout",
            Self::Style => "style",
            Self::Token => "token",
            Self::Revoke => "revoke",
            Self::Introspect => "introspect",
            Self::Jwks => "jwks",
            Self::UpstreamJwks => "upstream-jwks",
            Self::Metadata => "metadata",
            Self::Unknown => "unknown",
        }
    }

    /// Whether people see what it answers.
    fn is_page(self) -> bool {
        matches!(self, Self::Authorize | Self::Login | Self::Consent | Self::Logout | Self::Style)
    }
}

/// The embedded authorization server.
#[derive(Debug)]
pub struct AuthorizationServer {
    settings: Settings,
    clients: Clients,
    users: Users,
    pages: Pages,
    shared: Shared,
}

/// What outlives a change of the configuration.
#[derive(Clone, Debug)]
struct Shared {
    store: Store,
    clock: Clock,
    metrics: Metrics,
    keys: Arc<Keys>,
    guesses: Guesses,
    pool: HashPool,
    verified: VerifiedSecrets,
    seal: Arc<Seal>,
}

impl AuthorizationServer {
    /// Starts the server: loads its signing keys, or makes the first one.
    pub async fn start(
        settings: Settings,
        store: Store,
        clock: Clock,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, StartError> {
        let keys = Keys::open(store.clone(), clock.clone(), key_policy(&settings)).await?;
        let seal = Seal::new(store.secret("forms").await?.expose())?;
        let shared = Shared {
            guesses: Guesses::new(guess_rules(&settings), clock.clone()),
            store,
            clock,
            metrics: metrics.clone(),
            keys: Arc::new(keys),
            pool: HashPool::new(),
            verified: VerifiedSecrets::new(),
            seal: Arc::new(seal),
        };
        Self::assemble(settings, shared).await
    }

    /// The same server under other settings. Keys, counters and the store go on; this one may still finish requests.
    pub async fn reload(&self, settings: Settings) -> Result<Arc<Self>, StartError> {
        self.shared.keys.set_policy(key_policy(&settings)).await?;
        let guesses = self.shared.guesses.with_rules(guess_rules(&settings));
        Self::assemble(settings, Shared { guesses, ..self.shared.clone() }).await
    }

    async fn assemble(mut settings: Settings, shared: Shared) -> Result<Arc<Self>, StartError> {
        let site = settings.issuer.authority();
        let pages = Pages::load(settings.templates.as_deref(), &site, &settings.path)?;
        let clients = Clients::new(std::mem::take(&mut settings.clients), shared.verified.clone());
        let mut users = Users::new(std::mem::take(&mut settings.users), std::mem::take(&mut settings.roles));
        users.set_changed(shared.store.note_passwords(users.stamps()).await?);
        // Before the first token, so that a client's first is seen: what is left to migrate is read off this metric.
        for client in clients.iter() {
            for grant in &client.grants {
                shared.metrics.tokens_issued.with_label_values(&[grant.name(), &client.id]);
            }
        }
        for client in clients.iter().filter(|client| client.grants.contains(&super::Grant::Password)) {
            tracing::warn!(event = "password_grant", client = %client.id, "a client has the password grant, which RFC 9700 deprecates");
        }
        Ok(Arc::new(Self { settings, clients, users, pages, shared }))
    }

    /// The endpoint at a canonical path; None when the path is not the server's.
    pub fn endpoint(&self, path: &str) -> Option<Endpoint> {
        if let Some(rest) = path.strip_prefix(self.settings.path.as_str()) {
            match rest {
                "/authorize" => return Some(Endpoint::Authorize),
                "/login" => return Some(Endpoint::Login),
                "/consent" => return Some(Endpoint::Consent),
                "/logout" => return Some(Endpoint::Logout),
                "/style.css" => return Some(Endpoint::Style),
                "/token" => return Some(Endpoint::Token),
                "/revoke" => return Some(Endpoint::Revoke),
                "/introspect" => return Some(Endpoint::Introspect),
                "/jwks" => return Some(Endpoint::Jwks),
                "/upstream-jwks" => return Some(Endpoint::UpstreamJwks),
                _ if rest.starts_with('/') => return Some(Endpoint::Unknown),
                _ => {}
            }
        }
        // RFC 8414 section 3.1 inserts the well-known part before the issuer's path; OpenID Connect appended it.
        let issuer = self.settings.issuer.path().trim_end_matches('/');
        let inserted = path
            .strip_prefix("/.well-known/oauth-authorization-server")
            .or_else(|| path.strip_prefix("/.well-known/openid-configuration"));
        let appended = path.strip_suffix("/.well-known/openid-configuration");
        let is_metadata = inserted == Some(issuer) || appended == Some(issuer);
        is_metadata.then_some(Endpoint::Metadata)
    }

    /// Answers a request to one of the server's endpoints.
    pub async fn handle<B>(&self, endpoint: Endpoint, request: Request<B>, caller: &Caller<'_>) -> Response<Bytes>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        if !caller.https && !caller.loopback {
            // Never a redirect: what was sent in clear must not be sent again.
            if endpoint.is_page() {
                return self.error_page(StatusCode::FORBIDDEN, "This page is opened with https.", caller);
            }
            let error = Error::new(ErrorCode::InvalidRequest, "https is required");
            self.audit_refusal(endpoint.name(), &error, None, caller);
            return error.response(self.settings.issuer.as_str());
        }
        let mut response = match endpoint {
            Endpoint::Authorize => Box::pin(self.authorize_endpoint(request, caller)).await,
            Endpoint::Login => Box::pin(self.login_endpoint(request, caller)).await,
            Endpoint::Consent => Box::pin(self.consent_endpoint(request, caller)).await,
            Endpoint::Logout => Box::pin(self.logout_endpoint(request, caller)).await,
            Endpoint::Style => self.pages.stylesheet(),
            Endpoint::Token => Box::pin(self.token_endpoint(request, caller)).await,
            Endpoint::Revoke => Box::pin(self.revocation_endpoint(request, caller)).await,
            Endpoint::Introspect => Box::pin(self.introspection_endpoint(request, caller)).await,
            Endpoint::Jwks => self.jwks_endpoint(request.method()),
            Endpoint::UpstreamJwks => self.upstream_jwks_endpoint(request.method()),
            Endpoint::Metadata => self.metadata_endpoint(request.method()),
            Endpoint::Unknown => not_found(caller.request_id),
        };
        if caller.https {
            let year = HeaderValue::from_static("max-age=31536000");
            response.headers_mut().entry(header::STRICT_TRANSPORT_SECURITY).or_insert(year);
        }
        response
    }

    /// The public half of the signing keys, for whoever verifies the server's tokens.
    pub fn public_keys(&self) -> Arc<PublicKeys> {
        self.shared.keys.published()
    }

    /// The server's access tokens that are refused before they expire.
    pub fn revocations(&self) -> Arc<Revocations> {
        self.shared.store.revocations()
    }

    /// The signing keys, the oldest first.
    pub fn list_keys(&self) -> Vec<KeyInfo> {
        self.shared.keys.list()
    }

    /// Announces a new signing key, which takes over when every verifier knows it; with `now` it takes over at once, and
    /// with `revoke_old` too the old ones are removed together with every token they signed.
    pub async fn rotate_keys(&self, now: bool, revoke_old: bool) -> Result<Vec<KeyInfo>, KeyError> {
        if now && revoke_old {
            // Opaque ones carry no signature; the new keys make every verifier look again.
            self.shared.store.forget_opaque_tokens().await?;
        }
        self.shared.keys.rotate(now, revoke_old).await?;
        Ok(self.list_keys())
    }

    /// Runs for ever: rotates keys when they are due and removes what has expired. A reload needs no second one.
    pub async fn upkeep(self: Arc<Self>) {
        loop {
            if let Err(error) = self.shared.keys.maintain().await {
                tracing::error!(event = "upkeep.failed", %error, "signing keys could not be maintained");
            }
            loop {
                match self.shared.store.sweep(SWEEP_ROWS).await {
                    Ok(SWEEP_ROWS) => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::error!(event = "upkeep.failed", %error, "expired rows could not be removed");
                        break;
                    }
                }
            }
            tokio::time::sleep(UPKEEP).await;
        }
    }

    pub(super) async fn authenticate_client(
        &self,
        headers: &HeaderMap,
        form: &Form,
        caller: &Caller<'_>,
    ) -> Result<Authenticated, Error> {
        let issuer = self.settings.issuer.as_str();
        let token_endpoint = format!("{}{}", self.settings.issuer.origin(), self.path_of("token"));
        let checks = Checks {
            pool: &self.shared.pool,
            guesses: &self.shared.guesses,
            store: &self.shared.store,
            addressees: Addressees { issuer, token_endpoint: &token_endpoint },
            now: self.now(),
        };
        self.clients.authenticate(headers, form, &checks, caller.peer).await
    }

    /// The user whose password this is, when the guesser's own address counts.
    pub(super) async fn check_password_from(
        &self,
        name: &str,
        password: &str,
        caller: &Caller<'_>,
    ) -> Result<Arc<Account>, Error> {
        let guesses = self.guesses();
        if let Some(seconds) = guesses.address_closed(caller.peer) {
            return Err(Error::too_many(seconds));
        }
        let user = self.name_for_log(name);
        // Hashed even when it is locked: the answer must take as long. Asked again afterwards: many attempts at once must
        // not all slip through before the first has failed.
        let locked = guesses.is_locked(name, caller.peer);
        let checked = self.users.authenticate(self.pool(), name, password).await?;
        let locked = locked || guesses.is_locked(name, caller.peer);
        match if locked { Err("locked") } else { checked } {
            Ok(account) => {
                guesses.succeeded_from(name, caller.peer);
                self.audit_login(caller, user, None, Ok(()));
                Ok(account)
            }
            Err(reason) => {
                self.audit_login(caller, user, None, Err(reason));
                if guesses.failed_from(name, caller.peer) {
                    tracing::info!(target: "audit", event = "lockout", user, address = %caller.peer, by = "password");
                }
                Err(Error::bad_credentials(reason))
            }
        }
    }

    pub(super) async fn revoke_grant(&self, grant: &Grant, reason: &'static str) -> Result<bool, StoreError> {
        let revoked = self.shared.store.revoke_grant(grant.id.clone()).await?;
        if revoked {
            tracing::info!(
                target: "audit", event = "revocation", grant = grant.id.as_str(), client = grant.client,
                user = grant.user, reason,
            );
        }
        Ok(revoked)
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn clients(&self) -> &Clients {
        &self.clients
    }

    pub(super) fn users(&self) -> &Users {
        &self.users
    }

    /// Where the server keeps what must survive; verifiers of its tokens ask it too.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    pub(super) fn pages(&self) -> &Pages {
        &self.pages
    }

    pub(super) fn seal(&self) -> &Seal {
        &self.shared.seal
    }

    /// The path of one of the server's endpoints.
    pub(super) fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.settings.path)
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub(super) fn guesses(&self) -> &Guesses {
        &self.shared.guesses
    }

    pub(super) fn pool(&self) -> &HashPool {
        &self.shared.pool
    }

    pub(super) fn signing_key(&self) -> Arc<SigningKey> {
        self.shared.keys.active()
    }

    /// The longest lifetime of an access token.
    pub(super) fn longest_token(&self) -> Duration {
        self.shared.keys.longest_token()
    }

    pub(super) fn now(&self) -> UnixSeconds {
        self.shared.clock.now()
    }
}

fn key_policy(settings: &Settings) -> Policy {
    let own = settings.clients.iter().filter_map(|client| client.access_token_lifetime).max().unwrap_or_default();
    Policy {
        algorithm: settings.signing_algorithm,
        rotation: settings.key_rotation,
        longest_token: settings.access_token_lifetime.max(own),
    }
}

fn guess_rules(settings: &Settings) -> GuessRules {
    let lockout = &settings.lockout;
    GuessRules {
        failures: lockout.failures,
        window: lockout.window,
        delay: lockout.delay,
        address_failures: lockout.address_failures,
    }
}

fn not_found(request_id: &str) -> Response<Bytes> {
    let body = json!({ "type": "about:blank", "title": "Not Found", "status": 404, "request_id": request_id });
    let mut response = json_response(StatusCode::NOT_FOUND, &body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}
