//! A route's rate limit as requests meet it: whom each counts against, and what its answer says of that
//! (draft-ietf-httpapi-ratelimit-headers). The counting itself is `limits`'.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use prometheus::IntCounter;

use super::plan::{self, Per};
use super::reject::Reject;
use crate::limits::{Buckets, Key, RateLimit, Standing};
use crate::policy::Permit;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

#[derive(Debug)]
pub struct RouteLimit {
    plan: plan::RateLimit,
    limit: RateLimit,
    policy: HeaderValue,
    refused: IntCounter,
}

impl RouteLimit {
    pub(super) fn new(plan: plan::RateLimit, buckets: &Buckets, refused: IntCounter) -> Self {
        let plan::RateLimit { per, rate } = plan;
        let policy = format!("\"{}\";q={};w={}", per.name(), rate.burst, whole_seconds(rate.refill()));
        let policy = HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static(""));
        Self { plan, limit: RateLimit::new(rate, buckets), policy, refused }
    }

    /// Whether it is just what `plan` asks for, so that what was used up stays used up.
    pub(super) fn is_still(&self, plan: plan::RateLimit) -> bool {
        self.plan == plan
    }

    /// Counts a request.
    pub(super) fn count(&self, permit: &Permit, client: IpAddr) -> Standing {
        let standing = self.limit.take(self.key(permit, client), Instant::now());
        if matches!(standing, Standing::Empty { .. }) {
            self.refused.inc();
        }
        standing
    }

    /// What has no token, or one that does not name whom the limit counts, counts by address.
    fn key<'a>(&self, permit: &'a Permit, client: IpAddr) -> Key<'a> {
        let by_address = Key::Address(client);
        let Some(token) = permit.token() else {
            return if self.plan.per == Per::Route { Key::Everybody } else { by_address };
        };
        let issuer = &**token.issuer();
        let of_client = || token.client_id().map_or(by_address, |client| Key::Client { issuer, client });
        match self.plan.per {
            Per::Subject => token.user().map_or_else(of_client, |user| Key::User { issuer, user }),
            Per::Client => of_client(),
            Per::Address => by_address,
            Per::Route => Key::Everybody,
        }
    }

    /// Says on an answer where its request stood. An upstream's own limits stay beside it.
    pub(super) fn tell(&self, standing: Standing, headers: &mut HeaderMap) {
        let (left, seconds) = match standing {
            Standing::Taken { left, full_in } => (left, whole_seconds(full_in)),
            Standing::Empty { next_in } => (0, whole_seconds(next_in)),
        };
        headers.append(RATELIMIT_POLICY, self.policy.clone());
        if let Ok(value) = HeaderValue::try_from(format!("\"{}\";r={left};t={seconds}", self.plan.per.name())) {
            headers.append(RATELIMIT, value);
        }
    }
}

/// The refusal of a request that found nothing left.
pub(super) fn judge(standing: Standing) -> Result<(), Reject> {
    match standing {
        Standing::Taken { .. } => Ok(()),
        Standing::Empty { next_in } => Err(Reject::RateLimited { retry_after: whole_seconds(next_in) }),
    }
}

/// Rounded up: after so many seconds it is true.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
