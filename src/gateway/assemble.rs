//! From a plan to a gateway that serves: the one place where the domains are introduced to each other.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::plan::Plan;
use super::transform::Managed;
use super::{Gateway, Limits, head, route};
use crate::authorization_server::{AuthorizationServer, PublicKeys, StartError};
use crate::clock::Clock;
use crate::jose::KeySet;
use crate::store::{OpenError, Store};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::tls::TlsError;
use crate::token::{
    Introspector, Issuer, IssuerSettings, JwtSettings, KeyError, KeyKeeper, KeyRing, KeySource, SharedKeys, Verifier,
};
use crate::upstream::Upstream;

/// What a gateway needs besides its plan.
#[derive(Clone, Debug)]
pub struct Context {
    pub metrics: Metrics,
    pub clock: Clock,
    pub access_log: Option<AccessLog>,
    pub limits: Limits,
}

#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    #[error("the store")]
    Store(#[from] OpenError),
    #[error("the authorization server")]
    AuthorizationServer(#[from] StartError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the keys of issuer {issuer}")]
    Keys { issuer: Arc<str>, source: KeyError },
    #[error("an issuer is the embedded authorization server, which there is not")]
    NoServer,
    #[error("the routes {0} and {1} cannot be told apart")]
    Tie(Arc<str>, Arc<str>),
}

/// Work that goes on beside traffic, on the control thread, until it is dropped.
pub type Background = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Builds the gateway of `plan`. Nothing waits for other machines: keys are fetched by the background work.
pub async fn assemble(mut plan: Plan, context: Context) -> Result<(Arc<Gateway>, Vec<Background>), AssembleError> {
    let Context { metrics, clock, access_log, limits } = context;
    let mut background: Vec<Background> = Vec::new();
    let managed = Managed::new(plan.routes.iter().map(|route| &route.forward));
    let routes = route::Routes::new(&mut plan, &metrics).map_err(|(one, other)| AssembleError::Tie(one, other))?;
    let Plan {
        public_url,
        trusted_proxies,
        listeners: _,
        store,
        issuers,
        authorization_server,
        upstreams,
        routes: _,
        body_bytes: _,
    } = plan;
    let authorization_server = match authorization_server {
        None => None,
        Some(server) => {
            let store = Store::open(&store, clock.clone())?;
            let server = AuthorizationServer::start(server.settings, store, clock.clone(), &metrics).await?;
            background.push(Box::pin(Arc::clone(&server).upkeep()));
            Some(server)
        }
    };
    let mut ready = Vec::new();
    for (index, settings) in issuers.into_iter().enumerate() {
        let server = authorization_server.as_ref();
        ready.push(issuer(index, settings, server, &metrics, &clock, &mut background)?);
    }
    let upstreams =
        upstreams.into_iter().map(|settings| Upstream::new(settings, &metrics)).collect::<Result<_, _>>()?;
    let gateway = Gateway {
        realm: public_url.as_str().to_owned(),
        public_url,
        trusted_proxies,
        routes,
        managed,
        verifier: Verifier::new(ready, clock.clone()),
        authorization_server,
        upstreams,
        limits,
        // No configured name has parentheses.
        authorization_server_metrics: metrics.route(&Arc::from("(authorization_server)")),
        no_route_metrics: metrics.route(&Arc::from("(none)")),
        metrics,
        access_log,
        request_ids: head::RequestIds::new(),
        clock,
    };
    Ok((Arc::new(gateway), background))
}

fn issuer(
    index: usize,
    settings: IssuerSettings,
    server: Option<&Arc<AuthorizationServer>>,
    metrics: &Metrics,
    clock: &Clock,
    background: &mut Vec<Background>,
) -> Result<Issuer, AssembleError> {
    let name = &settings.name;
    let failed = |source: KeyError| AssembleError::Keys { issuer: Arc::clone(name), source };
    let mut store = None;
    let keys = match &settings.jwt {
        None => None,
        Some(JwtSettings { keys: KeySource::Embedded, .. }) => {
            let server = server.ok_or(AssembleError::NoServer)?;
            store = Some(server.store().clone());
            Some(Arc::new(KeyRing::shared(Box::new(OwnKeys(server.public_keys())), metrics.keys(name))))
        }
        Some(jwt) => {
            let keeper = KeyKeeper::new(Arc::clone(name), jwt.clone(), metrics.keys(name)).map_err(failed)?;
            let ring = keeper.ring();
            background.push(Box::pin(keeper.run()));
            Some(ring)
        }
    };
    let introspector = match settings.introspection.clone() {
        None => None,
        Some(introspection) => {
            let (name, metrics) = (Arc::clone(name), metrics.introspection(name));
            let (introspector, calls) = Introspector::new(name, index, introspection, metrics, clock.clone())?;
            background.push(Box::pin(calls.run()));
            Some(introspector)
        }
    };
    let metrics = metrics.tokens(name);
    Ok(Issuer { settings, keys, introspector, store, metrics })
}

/// The embedded server's keys, as verifiers see them.
#[derive(Debug)]
struct OwnKeys(Arc<PublicKeys>);

impl SharedKeys for OwnKeys {
    fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.0.current().keys)
    }

    fn generation(&self) -> u64 {
        self.0.current().generation
    }
}
