//! What a request would come to, without traffic, network or keys: `[[tests]]` and `explain` ask the same table of routes
//! and the same rules that serve. Limits, signatures and the upstream have no part in it.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use serde_json::{Map, Value};

use super::plan::{AuthorizationServerPlan, Plan};
use super::{Reject, Route, Routes, Target, refusal};
use crate::clock::UnixSeconds;
use crate::policy::{self, Caller, Need};
use crate::routing::path::CanonicalPath;
use crate::telemetry::metrics::Metrics;
use crate::token::{IssuerSettings, Refusal, VerifiedToken, accept_claims};
use crate::upstream::Dialect;

/// How long a token lives that does not say so.
const LIFETIME_SECONDS: u64 = 3600;
/// What stands in a claim that is required and not given.
const FILLED_IN: &str = "test";
/// The claim that names the issuer as the configuration does, in place of `iss`.
const ISSUER: &str = "issuer";

/// A configuration that can be asked.
#[derive(Debug)]
pub struct Offline {
    routes: Routes,
    issuers: Vec<IssuerSettings>,
    authorization_server: Option<AuthorizationServerPlan>,
    /// By upstream.
    dialects: Vec<Dialect>,
    listeners: usize,
    now: UnixSeconds,
}

/// A request as far as the rules see it.
#[derive(Debug)]
pub struct Question<'a> {
    /// Canonical.
    pub host: &'a str,
    pub method: &'a Method,
    pub target: &'a PathAndQuery,
    /// Claims of a token whose signature counts as good; what they leave out is filled in validly.
    pub claims: Option<&'a Map<String, Value>>,
}

/// How far a request gets.
#[derive(Debug)]
pub struct Verdict<'a> {
    /// Absent: no route, or none of the configuration's.
    pub route: Option<&'a Arc<Route>>,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub enum Outcome {
    /// It would be forwarded, for this token.
    Forwarded(Option<Arc<VerifiedToken>>),
    /// The authorization server would answer.
    AuthorizationServer,
    Refused(Reject),
}

impl Outcome {
    /// The status the caller would get, as far as it does not depend on others: forwarded is 200.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Forwarded(_) => Some(StatusCode::OK),
            Self::AuthorizationServer => None,
            Self::Refused(reject) => Some(reject.status()),
        }
    }
}

impl Offline {
    /// `now` is when the questions are asked. The error names two routes that cannot be told apart.
    pub fn new(mut plan: Plan, now: UnixSeconds) -> Result<Self, (Arc<str>, Arc<str>)> {
        let routes = Routes::new(&mut plan, &Metrics::new())?;
        let Plan { issuers, authorization_server, upstreams, listeners, .. } = plan;
        let dialects = upstreams.iter().map(|upstream| upstream.dialect).collect();
        Ok(Self { routes, issuers, authorization_server, dialects, listeners: listeners.len(), now })
    }

    /// What the request comes to on the first listener that has something for it.
    pub fn ask(&self, question: &Question<'_>) -> Verdict<'_> {
        let path = match CanonicalPath::parse(question.target) {
            Ok(path) => path,
            Err(error) => return Verdict { route: None, outcome: Outcome::Refused(Reject::Path(error)) },
        };
        let is_reserved = || self.authorization_server.as_ref().is_some_and(|server| server.reserves(path.as_str()));
        let target =
            (0..self.listeners).find_map(|listener| self.routes.find(listener, question.host, &path, is_reserved));
        match target {
            None if path.spelled() != Default::default() => {
                Verdict { route: None, outcome: Outcome::Refused(Reject::Spelling) }
            }
            None => Verdict { route: None, outcome: Outcome::Refused(Reject::NoRoute) },
            Some(Target::AuthorizationServer) => Verdict { route: None, outcome: Outcome::AuthorizationServer },
            Some(Target::Route(route)) => {
                let outcome = self.judge(route, &path, question).unwrap_or_else(Outcome::Refused);
                Verdict { route: Some(route), outcome }
            }
        }
    }

    fn judge(&self, route: &Route, path: &CanonicalPath, question: &Question<'_>) -> Result<Outcome, Reject> {
        route.accepts(path, |path| self.dialects[route.plan.upstream].refuses(path))?;
        let caller = match (route.plan.access.need(question.method), question.claims) {
            (Need::Refuse | Need::Nothing, _) | (_, None) => Caller::Nobody,
            (Need::Token | Need::TokenIfAny, Some(claims)) => {
                Caller::Known(Arc::new(self.token(route, claims).map_err(Reject::InvalidToken)?))
            }
        };
        let permit = policy::authorize(&route.plan.access, question.method, caller);
        let permit = permit.map_err(|denied| refusal(denied, route))?;
        Ok(Outcome::Forwarded(permit.token().cloned()))
    }

    /// The facts that `claims` amount to on `route`.
    fn token(&self, route: &Route, claims: &Map<String, Value>) -> Result<VerifiedToken, Refusal> {
        let named = claims.get(ISSUER).and_then(Value::as_str);
        let index = match (named, claims.get("iss").and_then(Value::as_str)) {
            (Some(name), _) => self.issuers.iter().position(|issuer| *issuer.name == *name),
            (None, Some(iss)) => self.issuers.iter().position(|issuer| issuer.issuer == iss),
            // The embedded server comes first.
            (None, None) => (!self.issuers.is_empty()).then_some(0),
        };
        let index = index.filter(|index| route.plan.issuers.contains(index)).ok_or(Refusal::Issuer)?;
        let settings = &self.issuers[index];
        let claims = filled_in(claims, settings, &route.plan.audience, self.now);
        let token = accept_claims(settings, index, claims, self.now)?;
        let narrower = &route.plan.audience;
        if !narrower.is_empty() && !narrower.iter().any(|own| token.audience().iter().any(|named| **named == **own)) {
            return Err(Refusal::Audience);
        }
        Ok(token)
    }
}

/// The claims with everything in them that a valid token of the issuer has. `sub`, `client_id`, `scope` and `roles` may
/// stand for whatever the issuer calls them.
fn filled_in(
    claims: &Map<String, Value>,
    settings: &IssuerSettings,
    narrower: &[String],
    now: UnixSeconds,
) -> Map<String, Value> {
    let mut claims = claims.clone();
    claims.remove(ISSUER);
    let short = [
        ("sub", &settings.user_claim),
        ("client_id", &settings.client_id_claim),
        ("scope", &settings.scope_claim),
        ("roles", &settings.roles_claim),
    ];
    for (name, path) in short {
        if let Some(value) = claims.get(name).filter(|_| path.find(&claims).is_none()).cloned() {
            claims.insert(path.0.to_string(), value);
        }
    }
    claims.entry("iss").or_insert_with(|| settings.issuer.as_str().into());
    claims.entry("exp").or_insert_with(|| (now + LIFETIME_SECONDS).into());
    if settings.audience_claim.find(&claims).is_none() {
        let all: Vec<&str> = settings.audience.iter().chain(narrower).map(String::as_str).collect();
        claims.insert(settings.audience_claim.0.to_string(), all.into());
    }
    for path in settings.required_claims.iter().chain([&settings.client_id_claim]) {
        if path.find(&claims).is_none() {
            // A path is looked for under its whole name first.
            claims.insert(path.0.to_string(), FILLED_IN.into());
        }
    }
    claims
}
