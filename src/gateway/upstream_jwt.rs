//! A JWT that tells an upstream who calls, in place of the caller's token: signed with a key of the route's own, under a
//! `typ` of its own, so that it is no access token anywhere. One is made for each token and route, and used again until
//! half of its lifetime is over.

use std::sync::Arc;

use http::HeaderValue;
use moka::sync::Cache;
use serde_json::{Map, Value};

use super::plan::{SignedJwt, TemplatePart, UPSTREAM_JWT_TYP};
use super::reject::Reject;
use super::transform::fill;
use crate::clock::{Clock, UnixSeconds};
use crate::token::VerifiedToken;

/// Signed tokens that are kept for a route.
const KEPT: u64 = 10_000;
/// What is said in them holds for more than one request: no template names one.
const NO_REQUEST: HeaderValue = HeaderValue::from_static("");

#[derive(Debug)]
pub(super) struct UpstreamJwts {
    settings: Arc<SignedJwt>,
    /// By the place of the token in memory, which is its own for as long as the entry holds it.
    kept: Cache<usize, Signed>,
    clock: Clock,
}

#[derive(Clone, Debug)]
struct Signed {
    token: Arc<VerifiedToken>,
    /// First second in which another one is made.
    until: UnixSeconds,
    authorization: HeaderValue,
}

impl UpstreamJwts {
    pub(super) fn new(settings: Arc<SignedJwt>, clock: Clock) -> Self {
        Self { kept: Cache::builder().max_capacity(KEPT).time_to_live(settings.lifetime).build(), settings, clock }
    }

    /// Whether it is just what `settings` ask for, so that what was signed is used again.
    pub(super) fn is_still(&self, settings: &SignedJwt) -> bool {
        *self.settings == *settings
    }

    /// `Authorization` for a request with `token`, marked sensitive.
    pub(super) fn authorization(&self, token: &Arc<VerifiedToken>) -> Result<HeaderValue, Reject> {
        let settings = &*self.settings;
        let place = Arc::as_ptr(token).addr();
        let now = self.clock.now();
        if let Some(signed) = self.kept.get(&place)
            && Arc::ptr_eq(&signed.token, token)
            && now < signed.until
        {
            return Ok(signed.authorization);
        }
        let lifetime = settings.lifetime.as_secs();
        // It says nothing of its bearer beyond what the caller's token says.
        let expires = now.saturating_add(lifetime).min(token.validity().until);
        let claims = claims(settings, token, now, expires)?;
        let signed = settings.key.sign(UPSTREAM_JWT_TYP, &Value::Object(claims)).map_err(|_| Reject::Signing)?;
        let mut authorization = HeaderValue::try_from(format!("Bearer {signed}")).map_err(|_| Reject::Signing)?;
        authorization.set_sensitive(true);
        let until = now + expires.saturating_sub(now).div_ceil(2);
        let (token, kept) = (Arc::clone(token), authorization.clone());
        self.kept.insert(place, Signed { token, until, authorization: kept });
        Ok(authorization)
    }
}

fn claims(
    settings: &SignedJwt,
    token: &VerifiedToken,
    now: UnixSeconds,
    expires: UnixSeconds,
) -> Result<Map<String, Value>, Reject> {
    let mut claims = Map::new();
    let mut say = |name: &str, value: Value| drop(claims.insert(name.to_owned(), value));
    say("iss", settings.issuer.as_str().into());
    say("aud", settings.audience.as_str().into());
    say("iat", now.into());
    say("exp", expires.into());
    for (name, value) in [("sub", token.user()), ("client_id", token.client_id())] {
        if let Some(value) = value {
            say(name, value.into());
        }
    }
    if !token.scope().is_empty() {
        say("scope", token.scope().to_string().into());
    }
    for (name, template) in &settings.claims {
        // A claim that is passed on alone keeps its type; one in a text has to fit there.
        let value = match &*template.0 {
            [TemplatePart::Claim(path)] => path.find(token.claims()).filter(|value| !value.is_null()).cloned(),
            [TemplatePart::Roles] => Some(token.roles().iter().map(|role| Value::from(&**role)).collect()),
            _ => {
                let text = fill(&http::header::AUTHORIZATION, template, Some(token), &NO_REQUEST)?;
                text.as_ref().and_then(|text| text.to_str().ok()).map(Value::from)
            }
        };
        if let Some(value) = value {
            say(name, value);
        }
    }
    Ok(claims)
}
