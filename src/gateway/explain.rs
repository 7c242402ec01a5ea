//! What would happen to a request, without a network: the functions that decide for traffic, asked one by one, and what each
//! of them said.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use http::Method;
use http::header::{HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};

use super::cors::Preflight;
use super::head::Noted;
use super::plan::{HostHeader, Plan, UpstreamAuthorization};
use super::reject::{Realm, Reject};
use super::route::{Route, Routes, Target};
use super::{head, nowhere, refusal, transform};
use crate::clock::UnixSeconds;
use crate::jose::{KeySet, UnverifiedJws};
use crate::net::TrustedProxies;
use crate::net::forwarded::Origin;
use crate::net::request::RequestHead;
use crate::policy::{self, Access, Check, Condition, Entry, Need};
use crate::telemetry::metrics::Metrics;
use crate::token::{self, Bearer, BearerError, IssuerSettings, JwtSettings, KeySource, Kin, Refusal, VerifiedToken};
use crate::upstream::{self, Dialect};

/// The rules of a plan, ready to be asked.
#[derive(Debug)]
pub struct Rules {
    routes: Routes,
    issuers: Vec<IssuerSettings>,
    upstreams: Vec<upstream::Settings>,
    trusted_proxies: TrustedProxies,
    realm: Realm,
}

/// The token of a request that is explained.
#[derive(Clone, Debug)]
pub enum AssumedToken {
    None,
    /// Verified, with these claims; what is left out (iss, aud, exp, sub, client_id, jti) is filled in.
    Claims {
        issuer: usize,
        claims: Map<String, Value>,
    },
    /// As it would stand in the header. Its signature is checked where the keys are a file.
    Text(String),
}

/// A request to explain. `target` is a path and query.
#[derive(Clone, Debug)]
pub struct Question {
    pub listener: usize,
    pub method: Method,
    pub host: String,
    pub target: String,
    pub headers: HeaderMap,
    /// The far end of the connection. Absent: addresses are not judged.
    pub peer: Option<IpAddr>,
    pub token: AssumedToken,
    pub now: UnixSeconds,
}

/// What would happen, and why.
#[derive(Debug)]
pub struct Explanation {
    /// 200 stands for forwarded; else the status that the caller would get.
    pub status: u16,
    pub route: Option<String>,
    /// One fact a line.
    pub lines: Vec<String>,
}

impl Rules {
    /// Those of `plan`. Two routes that tie, as their names, are the error.
    pub fn new(plan: &Plan) -> Result<Self, (Arc<str>, Arc<str>)> {
        let issuers = plan.issuers.clone();
        let (upstreams, trusted_proxies) = (plan.upstreams.clone(), plan.trusted_proxies.clone());
        let realm = Realm::new(plan.public_url.as_str());
        let routes = Routes::new(plan, &Metrics::new(), &crate::clock::Clock::system(), None)?;
        Ok(Self { routes, issuers, upstreams, trusted_proxies, realm })
    }

    /// The index of the issuer with this name.
    pub fn issuer(&self, name: &str) -> Option<usize> {
        self.issuers.iter().position(|issuer| *issuer.name == *name)
    }

    pub fn explain(&self, question: &Question) -> Explanation {
        let mut told = Told { lines: Vec::new(), route: None };
        let status = match self.follow(question, &mut told) {
            Ok(()) => {
                told.line("status: 200 (forwarded; the upstream's answer decides)");
                200
            }
            Err(Stop::AuthorizationServer) => {
                told.line("status: answered by the authorization server");
                200
            }
            Err(Stop::Preflight(answer)) => {
                let status = answer.status();
                told.line(format!("status: {status} (a preflight, answered here)"));
                for (name, value) in answer.headers() {
                    told.line(format!("  {name}: {}", String::from_utf8_lossy(value.as_bytes())));
                }
                status.as_u16()
            }
            Err(Stop::Reject(reject)) => {
                let status = reject.status();
                told.line(format!("status: {status} ({reject})"));
                for (name, value) in reject.response(&self.realm, &HeaderValue::from_static("-")).headers() {
                    if *name == http::header::WWW_AUTHENTICATE || *name == http::header::ALLOW {
                        told.line(format!("  {name}: {}", String::from_utf8_lossy(value.as_bytes())));
                    }
                }
                status.as_u16()
            }
        };
        Explanation { status, route: told.route, lines: told.lines }
    }

    /// The same way as a request's, with a word on each step.
    fn follow(&self, question: &Question, told: &mut Told) -> Result<(), Stop> {
        let request = question.request()?;
        let noted = Noted::of(&request.headers);
        let host = noted.host(&request)?;
        let path = head::path(&request)?;
        told.line(format!("host: {}", if host.is_empty() { "(none)" } else { &host }));
        told.line(format!("path: {}", path.as_str()));
        let route = match self.routes.find(question.listener, &host, &path) {
            Some(Target::Route(route)) => route,
            Some(Target::AuthorizationServer) => {
                told.line("route: the authorization server");
                return Err(Stop::AuthorizationServer);
            }
            None => {
                noted.authorization()?;
                told.line("route: none");
                return Err(nowhere(&path).into());
            }
        };
        noted.authorization()?;
        let plan = &route.plan;
        told.route = Some(plan.name.to_string());
        told.line(format!("route: {} ({})", plan.name, plan.path_text));
        self.judge_address(question, route, &request, told)?;
        let upstream = &self.upstreams[plan.upstream];
        told.line(format!("upstream: {}", upstream.name));
        let dialect: Dialect = upstream.dialect;
        route.accepts(&path, dialect)?;

        if let Some(cors) = &plan.cors {
            let allowed = cors.allowed(&request.headers);
            told.line(match &allowed {
                Some(origin) => format!("cors: {} may read the answer", String::from_utf8_lossy(origin.as_bytes())),
                None => "cors: no script may read the answer, for want of an Origin that the route names".to_owned(),
            });
            if let Some(preflight) = Preflight::of(&request) {
                let answer = cors.answer(&preflight, route, allowed.as_ref())?;
                return Err(Stop::Preflight(Box::new(answer)));
            }
        }

        let access = &plan.access;
        let need = access.need(&question.method);
        let token = match need {
            Need::Refuse | Need::Nothing => None,
            Need::Token | Need::TokenIfAny => self.token(question, route, told)?,
        };
        if need == Need::Nothing {
            told.line("token: not looked at, every entry for the method is public");
        }
        tell_entries(access, &question.method, token.as_ref(), told);
        policy::decide(access, &question.method, token.as_ref()).map_err(|denied| refusal(&denied, route))?;
        if let Some(limit) = &plan.rate_limit {
            told.line(format!("rate limit: {limit}; not counted here"));
        }
        self.tell_forwarded(question, route, &path, token.as_ref(), told)?;
        Ok(())
    }

    fn judge_address(
        &self,
        question: &Question,
        route: &Route,
        request: &RequestHead,
        told: &mut Told,
    ) -> Result<(), Reject> {
        let addresses = &route.plan.addresses;
        if addresses.are_all() {
            return Ok(());
        }
        let Some(peer) = question.peer else {
            told.line("address: not judged, because no peer is named");
            return Ok(());
        };
        let client = Origin::of(peer.to_canonical(), false, &request.headers, &self.trusted_proxies).client;
        let admitted = addresses.admit(client);
        told.line(format!("address: {client} is {}let in", if admitted { "" } else { "not " }));
        if admitted { Ok(()) } else { Err(Reject::Address) }
    }

    fn token(&self, question: &Question, route: &Route, told: &mut Told) -> Result<Option<VerifiedToken>, Stop> {
        let accepted = &route.plan.issuers;
        let (issuer, claims) = match &question.token {
            AssumedToken::None => {
                told.line("token: none");
                return Ok(None);
            }
            AssumedToken::Claims { issuer, claims } => {
                (*issuer, self.issuers[*issuer].filled(claims.clone(), &route.plan.audience, question.now))
            }
            AssumedToken::Text(text) => {
                let header = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| Reject::BearerSyntax)?;
                match Bearer::parse(&header).and_then(|bearer| bearer.map(Bearer::text).transpose()) {
                    Ok(_) => {}
                    Err(BearerError::Syntax) => return Err(Reject::BearerSyntax.into()),
                    Err(BearerError::Token(refusal)) => return Err(Reject::InvalidToken(refusal).into()),
                }
                let kin = token::choose(&self.issuers, accepted, text).map_err(Reject::InvalidToken)?;
                let (issuer, jws) = match kin {
                    Kin::Jwt(issuer, jws) => (issuer, jws),
                    Kin::Own(issuer) | Kin::Introspected(issuer) => {
                        let name = &self.issuers[issuer].name;
                        told.line(format!("token: for {name} to know; say what it stands for with --claims"));
                        return Err(Reject::IssuerUnavailable.into());
                    }
                };
                let settings = &self.issuers[issuer];
                let jwt = settings.jwt.as_ref().ok_or(Reject::InvalidToken(Refusal::Issuer))?;
                jwt.accept_unverified(&jws, question.now).map_err(Reject::InvalidToken)?;
                tell_signature(jwt, &jws, told)?;
                if settings.introspection.is_some() {
                    told.line("introspection: not asked, explain uses no network");
                }
                (issuer, jws.claims)
            }
        };
        let settings = &self.issuers[issuer];
        let token = settings.explained(issuer, claims, question.now).map_err(Reject::InvalidToken)?;
        if !accepted.contains(&issuer) {
            told.line(format!("token: of issuer {}, which the route does not accept", settings.name));
            return Err(Reject::InvalidToken(Refusal::Issuer).into());
        }
        let audience = &route.plan.audience;
        if !audience.is_empty() && !token.is_meant_for(audience) {
            return Err(Reject::InvalidToken(Refusal::Audience).into());
        }
        let mut line = format!("token: issuer {}", token.issuer());
        let _ = write!(line, ", user {}", token.user().unwrap_or("(none)"));
        let _ = write!(line, ", client {}", token.client_id().unwrap_or("(none)"));
        let _ = write!(line, ", scope \"{}\"", token.scope());
        if !token.roles().is_empty() {
            let _ = write!(line, ", roles {}", token.roles().join(" "));
        }
        told.line(line);
        Ok(Some(token))
    }

    fn tell_forwarded(
        &self,
        question: &Question,
        route: &Route,
        path: &crate::routing::path::CanonicalPath,
        token: Option<&VerifiedToken>,
        told: &mut Told,
    ) -> Result<(), Stop> {
        let forward = &route.plan.forward;
        let sent = match &forward.strip_prefix {
            None => path.clone(),
            Some(prefix) => path.strip_prefix(prefix).ok_or(Reject::Spelling)?,
        };
        told.line(format!("sent upstream: {} {}", question.method, sent.target()));
        let server = &self.upstreams[route.plan.upstream].servers[0];
        let host = match &forward.host {
            HostHeader::Upstream => server.authority(),
            HostHeader::Preserve => question.host.clone(),
            HostHeader::Literal(host) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
        };
        told.line(format!("  host: {host}"));
        let authorization = match (&forward.authorization, token) {
            (UpstreamAuthorization::Strip, _) | (UpstreamAuthorization::SignedJwt(_), None) => "removed".to_owned(),
            (UpstreamAuthorization::Pass, _) => "as the caller sent it".to_owned(),
            (UpstreamAuthorization::Basic(_), _) => "Basic, with the configured credentials".to_owned(),
            (UpstreamAuthorization::Bearer(_), _) => "Bearer, with the configured token".to_owned(),
            (UpstreamAuthorization::SignedJwt(jwt), Some(_)) => {
                format!("Bearer, with a JWT for `{}` under the key {}", jwt.audience, jwt.key.kid())
            }
        };
        told.line(format!("  authorization: {authorization}"));
        for (name, template) in &forward.headers {
            let value = transform::fill(name, template, token, &HeaderValue::from_static("(request id)"))?;
            let value = value.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()));
            told.line(format!("  {name}: {}", value.as_deref().unwrap_or("(removed)")));
        }
        Ok(())
    }
}

impl IssuerSettings {
    /// The facts of `claims`, as if the issuer had said them.
    fn explained(&self, index: usize, claims: Map<String, Value>, now: UnixSeconds) -> Result<VerifiedToken, Refusal> {
        if let Some(jwt) = &self.jwt {
            jwt.accept_claims(&claims, now)?;
        }
        let rules = self.claims().ok_or(Refusal::Issuer)?;
        let token = rules.facts(&self.name, index, claims)?;
        token.validity().at(now)?;
        Ok(token)
    }

    /// `claims`, with what an access token of this issuer needs besides filled in; `narrower` is the route's audience.
    fn filled(&self, claims: Map<String, Value>, narrower: &[String], now: UnixSeconds) -> Map<String, Value> {
        let mut filled = claims;
        let Some(rules) = self.claims() else { return filled };
        // Written with the standard names, meant for the issuer's own.
        let own = [&rules.user_claim, &rules.client_id_claim, &rules.scope_claim, &rules.roles_claim];
        for (standard, own) in ["sub", "client_id", "scope", "roles"].into_iter().zip(own) {
            if own.find(&filled).is_none()
                && let Some(value) = filled.get(standard).cloned()
            {
                filled.insert(own.0.to_string(), value);
            }
        }
        let audience: Vec<&String> = rules.audience.iter().chain(narrower).collect();
        let usual =
            [("iss", self.issuer().map(|iss| json!(iss))), ("exp", Some(json!(now + 300))), ("iat", Some(json!(now)))];
        for (name, value) in usual {
            if let Some(value) = value {
                filled.entry(name).or_insert(value);
            }
        }
        if rules.audience_claim.find(&filled).is_none() {
            filled.insert(rules.audience_claim.0.to_string(), json!(audience));
        }
        for path in rules.required_claims.iter().chain([&rules.client_id_claim]) {
            if path.find(&filled).is_none() {
                filled.insert(path.0.to_string(), json!("assumed"));
            }
        }
        filled
    }
}

fn tell_signature(settings: &JwtSettings, jws: &UnverifiedJws<'_>, told: &mut Told) -> Result<(), Stop> {
    let KeySource::File(path) = &settings.keys else {
        told.line("signature: not checked, the keys are not a file");
        return Ok(());
    };
    let json = std::fs::read(path).map_err(|_| Reject::IssuerUnavailable)?;
    let (keys, _) = KeySet::parse(&json, &settings.algorithms).map_err(|_| Reject::IssuerUnavailable)?;
    let key = keys.find(jws.kid.as_deref(), jws.algorithm).ok_or(Reject::InvalidToken(Refusal::Key))?;
    if !jws.verify(key) {
        return Err(Reject::InvalidToken(Refusal::Signature).into());
    }
    told.line("signature: good");
    Ok(())
}

/// Every entry, whether the method lets it be tried, and each of its conditions.
fn tell_entries(access: &Access, method: &Method, token: Option<&VerifiedToken>, told: &mut Told) {
    let mut admitted = false;
    for (place, entry) in access.entries.iter().enumerate() {
        let (verdict, conditions) = judge(entry, method, token);
        let verdict = match verdict {
            Verdict::Holds if admitted => "holds, but an earlier one admits",
            Verdict::Holds => {
                admitted = true;
                "admits"
            }
            Verdict::Fails => "does not hold",
            Verdict::Method => "is not for this method",
        };
        told.line(format!("entry {}: {verdict}", place + 1));
        for condition in conditions {
            told.line(format!("  {condition}"));
        }
    }
}

enum Verdict {
    Holds,
    Fails,
    Method,
}

fn judge(entry: &Entry, method: &Method, token: Option<&VerifiedToken>) -> (Verdict, Vec<String>) {
    if !entry.admits(method) {
        let names: Vec<&str> = entry.methods.iter().map(Method::as_str).collect();
        return (Verdict::Method, vec![format!("methods {}", names.join(", "))]);
    }
    let requirements = match (&entry.condition, token) {
        (Condition::Public, _) => return (Verdict::Holds, vec!["public".to_owned()]),
        (Condition::Token(_), None) => return (Verdict::Fails, vec!["needs a token".to_owned()]),
        (Condition::Token(requirements), Some(token)) => (requirements, token),
    };
    let mut holds = true;
    let mut conditions = Vec::new();
    for check in requirements.0.checks() {
        let fine = check.holds(requirements.1);
        holds &= fine;
        conditions.push(format!("{} {}", if fine { "yes:" } else { "no: " }, describe(&check)));
    }
    if conditions.is_empty() {
        conditions.push("yes: any valid token".to_owned());
    }
    (if holds { Verdict::Holds } else { Verdict::Fails }, conditions)
}

/// A condition in words.
pub fn describe(check: &Check<'_>) -> String {
    match check {
        Check::Scope(scope) => format!("scope {scope}"),
        Check::AnyScope(scopes) => format!("one of the scopes {}", scopes.join(", ")),
        Check::Roles(roles) => format!("one of the roles {}", roles.join(", ")),
        Check::Users(users) => format!("one of the users {}", users.join(", ")),
        Check::Clients(clients) => format!("one of the clients {}", clients.join(", ")),
        Check::Issuers(issuers) => format!("one of the issuers {}", issuers.join(", ")),
        Check::Claim(path, values) => format!("claim {} is one of {}", path.0, values.join(", ")),
    }
}

impl Question {
    fn request(&self) -> Result<RequestHead, Reject> {
        let uri = self.target.parse().map_err(|_| Reject::Path(crate::routing::path::PathError::Escape))?;
        let mut headers = self.headers.clone();
        if !headers.contains_key(http::header::HOST) {
            let host = HeaderValue::from_str(&self.host).map_err(|_| Reject::Host)?;
            headers.insert(http::header::HOST, host);
        }
        Ok(RequestHead { method: self.method.clone(), uri, headers: headers.into(), ..RequestHead::default() })
    }
}

struct Told {
    lines: Vec<String>,
    route: Option<String>,
}

impl Told {
    fn line(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }
}

enum Stop {
    Reject(Reject),
    Preflight(Box<http::Response<bytes::Bytes>>),
    AuthorizationServer,
}

impl From<Reject> for Stop {
    fn from(reject: Reject) -> Self {
        Self::Reject(reject)
    }
}
