//! The routes of a plan, ready to be found: traffic, `explain` and `[[tests]]` ask the same table.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use super::plan::{Plan, ReservedPaths, RoutePlan, UpstreamAuthorization};
use super::rate_limit::RouteLimit;
use super::reject::{Ready, Realm, Reject};
use super::upstream_jwt::UpstreamJwts;
use crate::clock::Clock;
use crate::limits::Buckets;
use crate::net::{BaseUrl, is_loopback_host};
use crate::routing::Table;
use crate::routing::path::{CanonicalPath, decode};
use crate::telemetry::metrics::{Metrics, RouteMetrics};
use crate::upstream::Dialect;

/// A route with what a request needs of it at hand.
#[derive(Debug)]
pub struct Route {
    pub plan: RoutePlan,
    pub metrics: RouteMetrics,
    /// `Allow` of a 405.
    pub allow: http::HeaderValue,
    /// By entry: to callers without a token, and to those whose token lacks scopes.
    pub challenges: Vec<(Ready, Ready)>,
    pub rate_limit: Option<Arc<RouteLimit>>,
    pub(super) upstream_jwts: Option<Arc<UpstreamJwts>>,
}

/// Every route, and the paths that are the authorization server's.
#[derive(Debug)]
pub struct Routes {
    table: Table<usize>,
    routes: Vec<Arc<Route>>,
    reserved: Option<Reserved>,
    /// Of the routes' rate limits.
    buckets: Buckets,
}

/// Where the authorization server answers.
#[derive(Debug)]
struct Reserved {
    issuer: BaseUrl,
    paths: ReservedPaths,
    /// By listener.
    listeners: Vec<bool>,
}

/// Where a request goes.
#[derive(Debug)]
pub enum Target<'a> {
    Route(&'a Arc<Route>),
    AuthorizationServer,
}

impl Routes {
    /// The routes of `plan`. What a route of the same name in `former` has used up or signed goes on, where its settings
    /// are the same. Ties were refused when the plan was compiled; should one be left, the names of the two routes are
    /// the error.
    pub fn new(
        plan: &Plan,
        metrics: &Metrics,
        clock: &Clock,
        former: Option<&Self>,
    ) -> Result<Self, (Arc<str>, Arc<str>)> {
        let realm = Realm::new(plan.public_url.as_str());
        let mut table = Table::new(plan.listeners.len());
        let mut routes: Vec<Arc<Route>> = Vec::new();
        let buckets = former.map_or_else(Buckets::default, |former| former.buckets.clone());
        let former = former.map_or(&[][..], |former| &former.routes);
        let former: HashMap<&str, &Route> = former.iter().map(|route| (&*route.plan.name, &**route)).collect();
        for (index, route) in plan.routes.iter().enumerate() {
            for listener in &route.listeners {
                if let Err(other) = table.insert(*listener, &route.hosts, &route.path, index) {
                    let other: &Arc<Route> = &routes[other];
                    return Err((Arc::clone(&other.plan.name), Arc::clone(&route.name)));
                }
            }
            let names = route.access.allowed_methods();
            let names: Vec<&str> = names.iter().map(Method::as_str).collect();
            let allow = http::HeaderValue::from_str(&names.join(", "));
            let former = former.get(&*route.name);
            routes.push(Arc::new(Route {
                rate_limit: route.rate_limit.map(|limit| {
                    let kept = former.and_then(|former| former.rate_limit.as_ref());
                    kept.filter(|kept| kept.is_still(limit)).cloned().unwrap_or_else(|| {
                        let refused = metrics.rate_limited.with_label_values(&[&*route.name]);
                        Arc::new(RouteLimit::new(limit, &buckets, refused))
                    })
                }),
                upstream_jwts: match &route.forward.authorization {
                    UpstreamAuthorization::SignedJwt(settings) => {
                        let kept = former.and_then(|former| former.upstream_jwts.as_ref());
                        let kept = kept.filter(|kept| kept.is_still(settings)).cloned();
                        let fresh = || Arc::new(UpstreamJwts::new(Arc::clone(settings), clock.clone()));
                        Some(kept.unwrap_or_else(fresh))
                    }
                    _ => None,
                },
                metrics: metrics.route(&route.name),
                allow: allow.unwrap_or(http::HeaderValue::from_static("")),
                challenges: route
                    .access
                    .entries
                    .iter()
                    .map(|entry| {
                        let scope = entry.scopes().collect::<Vec<&str>>().join(" ");
                        (realm.unauthenticated(&scope), realm.insufficient_scope(&scope))
                    })
                    .collect(),
                plan: route.clone(),
            }));
        }
        let reserved = plan.authorization_server.as_ref().map(|server| Reserved {
            issuer: server.settings.issuer.clone(),
            paths: ReservedPaths::of(&server.settings),
            listeners: (0..plan.listeners.len()).map(|index| server.listeners.contains(&index)).collect(),
        });
        Ok(Self { table, routes, reserved, buckets })
    }

    /// Where a request on `listener` to `host` (canonical; empty when there is none) goes. The authorization server's paths
    /// win over every route on the issuer's host; on another host they are its own where no route has them.
    pub fn find(&self, listener: usize, host: &str, path: &CanonicalPath) -> Option<Target<'_>> {
        let found = self.table.find(listener, host, path);
        if let Some(reserved) = &self.reserved
            && reserved.paths.contains(path.as_str())
            && reserved.listeners.get(listener) == Some(&true)
            && (reserved.is_host(host) || found.is_none())
        {
            return Some(Target::AuthorizationServer);
        }
        found.map(|index| Target::Route(&self.routes[*index]))
    }

    pub fn all(&self) -> &[Arc<Route>] {
        &self.routes
    }
}

impl Reserved {
    fn is_host(&self, host: &str) -> bool {
        self.issuer.host() == host || (self.issuer.is_loopback() && is_loopback_host(host))
    }
}

impl Route {
    /// Whether answers of the route have fields of the gateway's own besides the usual ones.
    pub(super) fn marks_answers(&self) -> bool {
        self.rate_limit.is_some() || self.plan.cors.is_some()
    }

    /// Whether the route and its upstream, which speaks `dialect`, read the path as it was matched.
    pub fn accepts(&self, path: &CanonicalPath, dialect: Dialect) -> Result<(), Reject> {
        let misread = || dialect != Dialect::Generic && dialect.refuses(&decode(path.as_str()));
        if !path.spelled().is_subset(self.plan.path_allowances) || misread() {
            return Err(Reject::Spelling);
        }
        Ok(())
    }
}
