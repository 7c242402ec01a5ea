//! `[issuers]`: whose tokens are accepted, and the embedded server among them.

use std::sync::Arc;
use std::time::Duration;

use super::super::diagnostic::{Span, closest};
use super::super::model;
use super::super::reader::{At, Field, List, Map};
use super::super::value::Interval;
use super::{Compiler, duration};
use crate::authorization_server;
use crate::jose::Algorithm;
use crate::net::EndpointUrl;
use crate::store::is_own_token;
use crate::token::{ClaimPath, ClaimRules, IntrospectionSettings, IssuerSettings, JwtSettings, KeyLocation, KeySource};

/// The name of the embedded authorization server among the issuers.
pub(super) const EMBEDDED: &str = "self";

const DEFAULT_ALGORITHMS: [Algorithm; 4] = [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::EdDsa];
const MAX_LEEWAY: Duration = Duration::from_secs(300);
/// Answers of introspection endpoints are seldom kept for longer.
const LONG_CACHE: Duration = Duration::from_secs(600);
const ISSUER_HELP: &str = "write the `iss` of its tokens, byte for byte";
const AUDIENCE_HELP: &str = "name what its tokens are for: `audience = [\"https://api.example.com\"]`";

impl Compiler<'_> {
    /// The configured issuers, after the embedded server when there is one.
    pub(super) fn issuers(
        &mut self,
        issuers: Map<model::Issuer>,
        embedded: Option<&authorization_server::Settings>,
    ) -> Vec<IssuerSettings> {
        let mut compiled: Vec<IssuerSettings> = embedded.map(embedded_issuer).into_iter().collect();
        let mut texts: Vec<(String, Span)> =
            embedded.map(|server| (server.issuer.as_str().to_owned(), self.start)).into_iter().collect();
        for named in issuers.0 {
            self.name(&named.name, "an issuer");
            if named.name.value == EMBEDDED {
                self.report.error(
                    named.name.span,
                    "`self` is the name of the embedded authorization server",
                    "give this issuer another name",
                );
            }
            let Some(at) = named.value else { continue };
            let model::Issuer { jwt, introspection } = at.value;
            if jwt.is_absent() && introspection.is_absent() {
                self.report.error(
                    at.span,
                    format!("nothing says how tokens of `{}` are verified", named.name.value),
                    format!("add an `[issuers.{0}.jwt]` table, or `[issuers.{0}.introspection]`", named.name.value),
                );
            }
            let name: Arc<str> = named.name.value.as_str().into();
            let iss = jwt.as_ref().and_then(|at| at.value.issuer.as_ref()).cloned();
            let introspected = introspection.as_ref().and_then(|at| at.value.issuer.as_ref()).cloned();
            if let (Some(iss), Some(other)) = (&iss, &introspected)
                && iss.value != other.value
            {
                self.report.error(
                    other.span,
                    format!("`{name}` has another `issuer` in its `jwt` table"),
                    "leave it out here: the tables are of one issuer",
                );
                self.report.relate(iss.span, "the other one");
            }
            if let Some(iss) = iss.or(introspected) {
                self.distinct_issuer(&iss, &texts);
                texts.push((iss.value, iss.span));
            }
            let has_jwt = !jwt.is_absent();
            let jwt = jwt.given().map(|at| self.jwt(&name, at));
            let verified = jwt.as_ref().and_then(|jwt| jwt.as_ref());
            let introspection =
                introspection.given().map(|at| self.introspection(&name, at, has_jwt, verified, embedded.is_some()));
            // Whatever is missing here was reported.
            compiled.push(IssuerSettings { name, jwt: jwt.flatten(), introspection: introspection.flatten() });
        }
        compiled
    }

    /// Reports an `iss` that another issuer has.
    fn distinct_issuer(&mut self, issuer: &At<String>, others: &[(String, Span)]) {
        let Some((_, first)) = others.iter().find(|(text, _)| *text == issuer.value) else { return };
        self.report.error(
            issuer.span,
            format!("another issuer has the `iss` `{}` already", issuer.value),
            "tokens are told apart by `iss`: configure each issuer once",
        );
        if *first != self.start {
            self.report.relate(*first, "the other one");
        }
    }

    fn jwt(&mut self, name: &str, at: At<model::Jwt>) -> Option<JwtSettings> {
        let model::Jwt {
            issuer,
            audience,
            jwks_url,
            jwks_file,
            discovery,
            ca,
            algorithms,
            typ,
            audience_claim,
            client_id_claim,
            user_claim,
            required_claims,
            scope_claim,
            roles_claim,
            leeway,
            jwks_refresh,
            jwks_cooldown,
        } = at.value;
        let issuer = issuer.required(self.report, at.span, "issuer", ISSUER_HELP);
        if let Some(empty) = issuer.as_ref().filter(|issuer| issuer.value.is_empty()) {
            self.report.error(empty.span, "`issuer` is empty", ISSUER_HELP);
        }
        let keys = KeyKeys { jwks_url, jwks_file, discovery, ca, jwks_refresh, jwks_cooldown };
        let claims = ClaimKeys {
            audience,
            audience_claim,
            client_id_claim,
            user_claim,
            required_claims,
            scope_claim,
            roles_claim,
            leeway,
        };
        let claims = self.claims(name, at.span, claims, None, &["sub"]);
        let algorithms = self.algorithms(algorithms);
        let keys = self.key_source(at.span, keys, issuer.as_ref(), &algorithms);
        let typ = self.typ(typ);
        Some(JwtSettings { issuer: issuer?.value, keys: keys?, algorithms, typ, claims })
    }

    /// `has_jwt`: the issuer has a `jwt` table too, which says what is left out here; `verified` is what it came to.
    fn introspection(
        &mut self,
        name: &str,
        at: At<model::Introspection>,
        has_jwt: bool,
        verified: Option<&JwtSettings>,
        has_server: bool,
    ) -> Option<IntrospectionSettings> {
        let model::Introspection {
            issuer,
            token_prefix,
            url,
            client_id,
            client_secret,
            audience,
            ca,
            cache_ttl,
            negative_ttl,
            cache_entries,
            timeout,
            concurrency,
            audience_claim,
            client_id_claim,
            user_claim,
            required_claims,
            scope_claim,
            roles_claim,
            leeway,
        } = at.value;
        if let Some(empty) = issuer.as_ref().filter(|issuer| issuer.value.is_empty()) {
            self.report.error(empty.span, "`issuer` is empty", ISSUER_HELP);
        }
        if let Some(prefix) = token_prefix.as_ref().filter(|at| has_server && is_own_token(&at.value)) {
            self.report.error(
                prefix.span,
                format!(
                    "tokens that begin with `{}` are the embedded server's, and never sent to others",
                    prefix.value
                ),
                "leave it out, or introspect tokens that begin otherwise",
            );
        }
        const URL_HELP: &str = "name the endpoint: `url = \"https://login.example.com/introspect\"`";
        let url = url.required(self.report, at.span, "url", URL_HELP);
        let url = url.and_then(|url| self.endpoint_url(&url, "url"));
        const ID_HELP: &str = "write what the issuer calls this gateway, a client that may introspect";
        let client_id = client_id.required(self.report, at.span, "client_id", ID_HELP);
        const SECRET_HELP: &str = "say where it is: `client_secret = { file = \"secrets/introspection\" }`";
        let secret = client_secret.required(self.report, at.span, "client_secret", SECRET_HELP);
        let secret = secret.and_then(|secret| self.secret(secret));
        let claims = ClaimKeys {
            audience,
            audience_claim,
            client_id_claim,
            user_claim,
            required_claims,
            scope_claim,
            roles_claim,
            leeway,
        };
        let claims = match (has_jwt, verified) {
            // What is wrong there was reported there.
            (true, None) => None,
            (_, verified) => Some(self.claims(name, at.span, claims, verified.map(|jwt| &jwt.claims), &[])),
        };
        if let Some(long) = cache_ttl.as_ref().filter(|at| at.value.0 > LONG_CACHE) {
            self.report.warning(
                long.span,
                "a token that its issuer revokes goes on working for that long",
                "keep the default of `\"60s\"`, or accept it knowingly",
            );
        }
        let ca = ca.given().map(|at| self.authorities(&at));
        let timeout = self.interval(timeout, "timeout", Duration::from_secs(3));
        let cache_entries = self.count(cache_entries, "cache_entries", 100_000, 1..=100_000_000);
        let concurrency = self.count(concurrency, "concurrency", 64, 1..=10_000);
        Some(IntrospectionSettings {
            // That of the `jwt` table, which is the same where both are written: an answer of another issuer is refused.
            issuer: issuer.given().map(|at| at.value).or_else(|| verified.map(|jwt| jwt.issuer.clone())),
            token_prefix: token_prefix.or_default(),
            url: url?,
            client_id: client_id?.value,
            client_secret: Arc::new(secret?),
            ca: ca.flatten(),
            claims: claims?,
            cache_ttl: duration(cache_ttl, Duration::from_secs(60)),
            negative_ttl: duration(negative_ttl, Duration::from_secs(5)),
            cache_entries,
            timeout,
            concurrency: usize::try_from(concurrency).unwrap_or(usize::MAX),
        })
    }

    /// How the claims of the issuer `name` are read. What is left out is as in `verified`, or else the usual.
    fn claims(
        &mut self,
        name: &str,
        owner: Span,
        keys: ClaimKeys,
        verified: Option<&ClaimRules>,
        required: &[&str],
    ) -> ClaimRules {
        if keys.audience.is_absent() && verified.is_none() && !self.report.is_misspelled(owner, "audience") {
            self.report.error(
                owner,
                format!("the issuer `{name}` has no `audience`: tokens meant for others would be accepted"),
                AUDIENCE_HELP,
            );
        }
        let usual = ClaimRules {
            audience: Vec::new(),
            audience_claim: claim("aud"),
            client_id_claim: claim("client_id"),
            user_claim: claim("sub"),
            required_claims: required.iter().copied().map(claim).collect(),
            scope_claim: claim("scope"),
            roles_claim: claim("roles"),
            leeway: Duration::from_secs(30),
        };
        let usual = verified.cloned().unwrap_or(usual);
        ClaimRules {
            audience: if keys.audience.is_absent() { usual.audience } else { self.audience(keys.audience) },
            audience_claim: self.claim(keys.audience_claim, "audience_claim", usual.audience_claim),
            client_id_claim: self.claim(keys.client_id_claim, "client_id_claim", usual.client_id_claim),
            user_claim: self.claim(keys.user_claim, "user_claim", usual.user_claim),
            required_claims: match keys.required_claims.given() {
                Some(list) => list.value.items.iter().filter_map(|at| self.claim_path(at, "required_claims")).collect(),
                None => usual.required_claims,
            },
            scope_claim: self.claim(keys.scope_claim, "scope_claim", usual.scope_claim),
            roles_claim: self.claim(keys.roles_claim, "roles_claim", usual.roles_claim),
            leeway: self.leeway(keys.leeway, usual.leeway),
        }
    }

    /// A list of audiences that must name something.
    pub(super) fn audience(&mut self, field: Field<List<String>>) -> Vec<String> {
        let Some(list) = field.given() else { return Vec::new() };
        self.not_empty(&list, "audience", AUDIENCE_HELP);
        for at in list.value.items.iter().filter(|at| at.value.is_empty()) {
            self.report.error(at.span, "an audience is empty", AUDIENCE_HELP);
        }
        list.value.into_values()
    }

    fn key_source(
        &mut self,
        owner: Span,
        keys: KeyKeys,
        issuer: Option<&At<String>>,
        algorithms: &[Algorithm],
    ) -> Option<KeySource> {
        const HELP: &str =
            "write one of `discovery = true`, `jwks_url = \"https://...\"` and `jwks_file = \"keys.json\"`";
        let KeyKeys { jwks_url, jwks_file, discovery, ca, jwks_refresh, jwks_cooldown } = keys;
        let refresh = self.interval(jwks_refresh.clone(), "jwks_refresh", Duration::from_secs(300));
        let cooldown = duration(jwks_cooldown.clone(), Duration::from_secs(30));
        if let (true, Some(at)) = (cooldown.is_zero(), jwks_cooldown.as_ref()) {
            self.report.warning(
                at.span,
                "without a `jwks_cooldown`, every token with an unknown `kid` makes the gateway ask the issuer",
                "keep the default of `\"30s\"`, or write a shorter one",
            );
        }
        let discovered = discovery.key().filter(|_| discovery.as_ref().is_none_or(|at| at.value));
        let mut sources = [jwks_url.key(), jwks_file.key(), discovered].into_iter().flatten();
        match (sources.next(), sources.next()) {
            (None, _) => {
                self.report.error(owner, "nothing says where the issuer's keys are", HELP);
                return None;
            }
            (Some(first), Some(second)) => {
                self.report.error(first.max(second), "the keys have two sources", HELP);
                return None;
            }
            (Some(_), None) => {}
        }
        if !jwks_file.is_absent() {
            for (key, name) in
                [(ca.key(), "ca"), (jwks_refresh.key(), "jwks_refresh"), (jwks_cooldown.key(), "jwks_cooldown")]
            {
                if let Some(span) = key {
                    self.report.warning(
                        span,
                        format!("`{name}` means nothing beside `jwks_file`"),
                        "remove it, or use `jwks_url`",
                    );
                }
            }
            return self.jwks_file(&jwks_file.given()?, algorithms).map(KeySource::File);
        }
        let ca = ca.given().map(|at| self.authorities(&at)).and_then(|ca| ca);
        let location = if discovered.is_some() {
            self.metadata(issuer?)?
        } else {
            KeyLocation::Url(jwks_url.given().and_then(|at| self.endpoint_url(&at, "jwks_url"))?)
        };
        Some(KeySource::Remote { location: Box::new(location), ca, refresh, cooldown })
    }

    /// Where the metadata of an issuer may be.
    fn metadata(&mut self, issuer: &At<String>) -> Option<KeyLocation> {
        let url = self.endpoint_url(issuer, "issuer")?;
        let uri = url.uri();
        if uri.query().is_some() {
            self.report.error(
                issuer.span,
                "the metadata of an issuer with a query cannot be found",
                "write `jwks_url` instead of `discovery`",
            );
            return None;
        }
        let origin = format!("{}://{}", uri.scheme()?, uri.authority()?);
        let path = uri.path().trim_end_matches('/');
        let openid = format!("{origin}{path}/.well-known/openid-configuration");
        let oauth = format!("{origin}/.well-known/oauth-authorization-server{path}");
        Some(KeyLocation::Metadata {
            openid: EndpointUrl::parse(&openid).ok()?,
            oauth: EndpointUrl::parse(&oauth).ok()?,
        })
    }

    fn algorithms(&mut self, field: Field<List<String>>) -> Vec<Algorithm> {
        let Some(list) = field.given() else { return DEFAULT_ALGORITHMS.to_vec() };
        self.not_empty(&list, "algorithms", "leave it out for RS256, PS256, ES256 and EdDSA");
        self.distinct(&list.value.items, Clone::clone, "the algorithm");
        let mut algorithms = Vec::new();
        for at in list.value.items {
            if let Some(algorithm) = Algorithm::parse(&at.value) {
                algorithms.push(algorithm);
                continue;
            }
            let upper = at.value.to_ascii_uppercase();
            let message = if upper == "NONE" {
                "`none` would accept tokens that nobody signed".to_owned()
            } else if upper.starts_with("HS") {
                format!("`{}` is symmetric: whoever can verify with it can forge", at.value)
            } else {
                format!("`{}` is not an algorithm that is understood", at.value)
            };
            let known = Algorithm::ALL.map(Algorithm::name);
            // These are algorithms too, and none of them is a slip of the pen.
            let exists = upper.starts_with("HS") || upper == "ES512" || upper == "ES256K";
            let help = match closest(&at.value, known) {
                Some(meant) if !exists => format!("did you mean `\"{meant}\"`?"),
                _ => format!("use some of {}", known.join(", ")),
            };
            self.report.error(at.span, message, help);
        }
        algorithms
    }

    fn typ(&mut self, field: Field<List<String>>) -> Vec<String> {
        let Some(list) = field.given() else { return vec!["at+jwt".to_owned()] };
        self.not_empty(&list, "typ", "leave it out for `[\"at+jwt\"]`; `\"\"` stands for tokens without `typ`");
        let plain = |text: String| {
            let lower = text.to_ascii_lowercase();
            lower.strip_prefix("application/").map(str::to_owned).unwrap_or(lower)
        };
        list.value.into_values().into_iter().map(plain).collect()
    }

    fn claim(&mut self, field: Field<String>, key: &str, default: ClaimPath) -> ClaimPath {
        field.given().and_then(|at| self.claim_path(&at, key)).unwrap_or(default)
    }

    /// The name of a claim, which may lead through objects.
    pub(super) fn claim_path(&mut self, at: &At<String>, key: &str) -> Option<ClaimPath> {
        if at.value.is_empty() || at.value.split('.').any(str::is_empty) {
            self.report.error(
                at.span,
                format!("`{key}`: `{}` names no claim", at.value),
                "write a claim's name, or the names on the way to it: `\"realm_access.roles\"`",
            );
            return None;
        }
        Some(claim(&at.value))
    }

    fn leeway(&mut self, field: Field<Interval>, default: Duration) -> Duration {
        let Some(at) = field.given() else { return default };
        if at.value.0 > MAX_LEEWAY {
            self.report.error(
                at.span,
                "`leeway` is longer than five minutes: expired tokens would live on",
                "set the machines' clocks right (NTP) and keep the default of `\"30s\"`",
            );
        }
        at.value.0
    }
}

/// What says where an issuer's keys are.
struct KeyKeys {
    jwks_url: Field<String>,
    jwks_file: Field<String>,
    discovery: Field<bool>,
    ca: Field<String>,
    jwks_refresh: Field<Interval>,
    jwks_cooldown: Field<Interval>,
}

/// What says how an issuer's claims are read.
struct ClaimKeys {
    audience: Field<List<String>>,
    audience_claim: Field<String>,
    client_id_claim: Field<String>,
    user_claim: Field<String>,
    required_claims: Field<List<String>>,
    scope_claim: Field<String>,
    roles_claim: Field<String>,
    leeway: Field<Interval>,
}

fn claim(name: &str) -> ClaimPath {
    ClaimPath(name.into())
}

/// The embedded server as the gateway's verifier sees it (RFC 9068).
fn embedded_issuer(server: &authorization_server::Settings) -> IssuerSettings {
    let claims = ClaimRules {
        audience: server.audience.clone(),
        audience_claim: claim("aud"),
        client_id_claim: claim("client_id"),
        user_claim: claim("sub"),
        required_claims: ["sub", "client_id", "jti"].map(claim).to_vec(),
        scope_claim: claim("scope"),
        roles_claim: claim("roles"),
        // The clock that signs is the clock that verifies.
        leeway: Duration::ZERO,
    };
    let jwt = JwtSettings {
        issuer: server.issuer.as_str().to_owned(),
        keys: KeySource::Embedded,
        algorithms: vec![server.signing_algorithm],
        typ: vec!["at+jwt".to_owned()],
        claims,
    };
    IssuerSettings { name: EMBEDDED.into(), jwt: Some(jwt), introspection: None }
}
