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
use crate::token::{ClaimPath, IssuerSettings, KeySource};

/// The name of the embedded authorization server among the issuers.
pub(super) const EMBEDDED: &str = "self";

const DEFAULT_ALGORITHMS: [Algorithm; 4] = [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::EdDsa];
const MAX_LEEWAY: Duration = Duration::from_secs(300);
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
            self.not_built(&introspection, "introspection", "accept the JWTs of an issuer with a `jwt` table instead");
            if jwt.is_absent() && introspection.is_absent() {
                self.report.error(
                    at.span,
                    format!("nothing says how tokens of `{}` are verified", named.name.value),
                    format!("add an `[issuers.{}.jwt]` table", named.name.value),
                );
            }
            let Some(jwt) = jwt.given() else { continue };
            let issuer = jwt.value.issuer.as_ref().cloned();
            if let Some(issuer) = issuer {
                if let Some((_, first)) = texts.iter().find(|(text, _)| *text == issuer.value) {
                    let first = *first;
                    self.report.error(
                        issuer.span,
                        format!("another issuer has the `iss` `{}` already", issuer.value),
                        "tokens are told apart by `iss`: configure each issuer once",
                    );
                    if first != self.start {
                        self.report.relate(first, "the other one");
                    }
                }
                texts.push((issuer.value, issuer.span));
            }
            compiled.extend(self.jwt(named.name.value.as_str().into(), jwt));
        }
        compiled
    }

    fn jwt(&mut self, name: Arc<str>, at: At<model::Jwt>) -> Option<IssuerSettings> {
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
        let issuer = issuer.required(self.report, at.span, "issuer", "write the `iss` of its tokens, byte for byte");
        if let Some(empty) = issuer.as_ref().filter(|issuer| issuer.value.is_empty()) {
            self.report.error(empty.span, "`issuer` is empty", "write the `iss` of its tokens, byte for byte");
        }
        if audience.is_absent() && !self.report.is_misspelled(at.span, "audience") {
            self.report.error(
                at.span,
                format!("the issuer `{name}` has no `audience`: tokens meant for others would be accepted"),
                AUDIENCE_HELP,
            );
        }
        let audience = self.audience(audience);
        let keys = KeyKeys { jwks_url, jwks_file, discovery, ca, jwks_refresh, jwks_cooldown };
        let algorithms = self.algorithms(algorithms);
        let keys = self.key_source(at.span, keys, &algorithms);
        let settings = IssuerSettings {
            name,
            issuer: issuer?.value,
            audience,
            keys: keys?,
            algorithms,
            typ: self.typ(typ),
            audience_claim: self.claim(audience_claim, "audience_claim", "aud"),
            client_id_claim: self.claim(client_id_claim, "client_id_claim", "client_id"),
            user_claim: self.claim(user_claim, "user_claim", "sub"),
            required_claims: match required_claims.given() {
                Some(list) => list.value.items.iter().filter_map(|at| self.claim_path(at, "required_claims")).collect(),
                None => vec![claim("sub")],
            },
            scope_claim: self.claim(scope_claim, "scope_claim", "scope"),
            roles_claim: self.claim(roles_claim, "roles_claim", "roles"),
            leeway: self.leeway(leeway),
        };
        Some(settings)
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

    fn key_source(&mut self, owner: Span, keys: KeyKeys, algorithms: &[Algorithm]) -> Option<KeySource> {
        const HELP: &str = "write one of `jwks_url = \"https://...\"` and `jwks_file = \"keys.json\"`";
        let KeyKeys { jwks_url, jwks_file, discovery, ca, jwks_refresh, jwks_cooldown } = keys;
        let discovers = discovery.as_ref().is_some_and(|at| at.value);
        if discovers {
            self.not_built(
                &discovery,
                "discovery",
                "read `jwks_uri` in the issuer's metadata, and write it as `jwks_url`",
            );
        }
        let refresh = self.interval(jwks_refresh.clone(), "jwks_refresh", Duration::from_secs(300));
        let cooldown = duration(jwks_cooldown.clone(), Duration::from_secs(30));
        if let (true, Some(at)) = (cooldown.is_zero(), jwks_cooldown.as_ref()) {
            self.report.warning(
                at.span,
                "without a `jwks_cooldown`, every token with an unknown `kid` makes the gateway ask the issuer",
                "keep the default of `\"30s\"`, or write a shorter one",
            );
        }
        match (jwks_url.key(), jwks_file.key()) {
            (Some(_), Some(second)) => {
                self.report.error(second, "the keys have two sources", HELP);
                None
            }
            (None, None) => {
                if !discovers {
                    self.report.error(owner, "nothing says where the issuer's keys are", HELP);
                }
                None
            }
            (Some(_), None) => {
                let url = jwks_url.given().and_then(|at| self.secure_url(&at, "jwks_url"));
                let ca = ca.given().map(|at| self.authorities(&at));
                Some(KeySource::Url { url: url?, ca: ca.flatten(), refresh, cooldown })
            }
            (None, Some(_)) => {
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
                self.jwks_file(&jwks_file.given()?, algorithms).map(KeySource::File)
            }
        }
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

    fn claim(&mut self, field: Field<String>, key: &str, default: &str) -> ClaimPath {
        field.given().and_then(|at| self.claim_path(&at, key)).unwrap_or_else(|| claim(default))
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

    fn leeway(&mut self, field: Field<Interval>) -> Duration {
        let Some(at) = field.given() else { return Duration::from_secs(30) };
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

fn claim(name: &str) -> ClaimPath {
    ClaimPath(name.into())
}

/// The embedded server as the gateway's verifier sees it (RFC 9068).
fn embedded_issuer(server: &authorization_server::Settings) -> IssuerSettings {
    IssuerSettings {
        name: EMBEDDED.into(),
        issuer: server.issuer.as_str().to_owned(),
        audience: server.audience.clone(),
        keys: KeySource::Embedded,
        algorithms: vec![server.signing_algorithm],
        typ: vec!["at+jwt".to_owned()],
        audience_claim: claim("aud"),
        client_id_claim: claim("client_id"),
        user_claim: claim("sub"),
        required_claims: ["sub", "client_id", "jti"].map(claim).to_vec(),
        scope_claim: claim("scope"),
        roles_claim: claim("roles"),
        // The clock that signs is the clock that verifies.
        leeway: Duration::ZERO,
    }
}
