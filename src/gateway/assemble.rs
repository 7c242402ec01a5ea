//! From a plan to a gateway that serves: the one place where the domains are introduced to each other.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::plan::Plan;
use super::reject::Realm;
use super::transform::Managed;
use tokio::sync::watch;

use super::{Gateway, Limits, head, route};
use crate::authorization_server::{AuthorizationServer, PublicKeys, StartError};
use crate::clock::Clock;
use crate::jose::KeySet;
use crate::otlp::{self, Tracer};
use crate::store::{OpenError, Store};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::tls::{self, TlsError};
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
    #[error("{0} cannot change while the gateway runs: restart it")]
    Restart(&'static str),
    #[error("the routes {0} and {1} cannot be told apart")]
    Tie(Arc<str>, Arc<str>),
}

/// Work that goes on beside traffic, on the control thread. It ends by itself when what it is for is gone.
pub type Background = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Builds the gateway of `plan`. What `former` has that the plan asks for again goes on: connections, keys, caches,
/// rate limits, the store. Nothing waits for other machines: keys are fetched by the background work.
pub async fn assemble(
    mut plan: Plan,
    context: Context,
    former: Option<&Gateway>,
) -> Result<(Arc<Gateway>, Vec<Background>), AssembleError> {
    let Context { metrics, clock, access_log, limits } = context;
    let mut background: Vec<Background> = Vec::new();
    if let Some(former) = former {
        keep_places(&mut plan, &former.verifier);
    }
    let managed = Managed::new(plan.routes.iter().map(|route| &route.forward));
    let routes = route::Routes::new(&plan, &metrics, &clock, former.map(|former| &former.routes))
        .map_err(|(one, other)| AssembleError::Tie(one, other))?;
    let Plan {
        public_url,
        trusted_proxies,
        listeners,
        store,
        issuers,
        authorization_server,
        upstreams,
        routes: _,
        body_bytes: _,
        otlp,
    } = plan;
    let former_server = former.and_then(|former| former.authorization_server.as_ref());
    let authorization_server = match (authorization_server, former_server) {
        (None, _) => None,
        (Some(_), Some(former)) if former.store != store => return Err(AssembleError::Restart("[store]")),
        (Some(plan), Some(former)) => {
            let server = former.server.reload(plan.settings).await?;
            Some(Embedded { server, store, work: Arc::clone(&former.work) })
        }
        (Some(plan), None) => {
            let opened = Store::open(&store, clock.clone())?;
            let server = AuthorizationServer::start(plan.settings, opened, clock.clone(), &metrics).await?;
            let work = work(Arc::clone(&server).upkeep(), &mut background);
            Some(Embedded { server, store, work: Arc::new(work) })
        }
    };
    let verifier = {
        let former = former.map(|former| &former.verifier);
        let mut ready = Vec::new();
        for (index, settings) in issuers.into_iter().enumerate() {
            let kept = former.and_then(|former| former.issuers().get(index));
            let kept = kept.filter(|issuer| issuer.is_still(index, &settings)).cloned();
            ready.push(match kept {
                Some(issuer) => issuer,
                None => {
                    let server = authorization_server.as_ref().map(|embedded| &embedded.server);
                    Arc::new(issuer(index, settings, server, &metrics, &clock, &mut background)?)
                }
            });
        }
        let same = |former: &&Arc<Verifier>| {
            former.issuers().len() == ready.len()
                && former.issuers().iter().zip(&ready).all(|(former, issuer)| Arc::ptr_eq(former, issuer))
        };
        former.filter(same).cloned().unwrap_or_else(|| Arc::new(Verifier::new(ready, clock.clone())))
    };
    let mut upstream = |settings| {
        let kept = former.and_then(|former| former.upstreams.iter().find(|upstream| upstream.is_still(&settings)));
        if let Some(kept) = kept {
            return Ok(Arc::clone(kept));
        }
        let upstream = Arc::new(Upstream::new(settings, &metrics)?);
        background.extend(upstream.upkeep().map(|task| Box::pin(task) as Background));
        Ok::<_, TlsError>(upstream)
    };
    let upstreams = upstreams.into_iter().map(&mut upstream).collect::<Result<_, _>>()?;
    let tracer = match otlp {
        None => None,
        Some(settings) => Some(tracer(settings, former, &metrics, &clock, &mut background)?),
    };
    let gateway = Gateway {
        realm: Realm::new(public_url.as_str()),
        public_url,
        trusted_proxies,
        listeners,
        routes,
        managed,
        verifier,
        authorization_server,
        upstreams,
        limits,
        // No configured name has parentheses.
        authorization_server_metrics: metrics.route(&Arc::from("(authorization_server)")),
        no_route_metrics: metrics.route(&Arc::from("(none)")),
        tokens_refused: Default::default(),
        metrics,
        access_log,
        tracer,
        request_ids: head::RequestIds::new(),
        clock,
    };
    Ok((Arc::new(gateway), background))
}

/// Issuers are known by their places: whoever had one has it again, as far as there still is that place, so that what is
/// known of an issuer goes on although another came before it in the file.
fn keep_places(plan: &mut Plan, former: &Verifier) {
    let count = plan.issuers.len();
    let mut places: Vec<Option<IssuerSettings>> = std::iter::repeat_with(|| None).take(count).collect();
    let (mut moved, mut others) = (vec![0; count], Vec::new());
    for (index, settings) in plan.issuers.drain(..).enumerate() {
        let place = former.issuers().iter().position(|issuer| issuer.settings.name == settings.name);
        match place.and_then(|place| Some((place, places.get_mut(place)?))) {
            Some((place, free)) => (moved[index], *free) = (place, Some(settings)),
            None => others.push((index, settings)),
        }
    }
    let free = places.iter_mut().enumerate().filter(|(_, settings)| settings.is_none());
    for ((place, free), (index, settings)) in free.zip(others) {
        (moved[index], *free) = (place, Some(settings));
    }
    plan.issuers = places.into_iter().flatten().collect();
    for index in plan.routes.iter_mut().flat_map(|route| &mut route.issuers) {
        *index = moved[*index];
    }
}

/// The exporter of one that is replaced sends what it has and ends.
fn tracer(
    settings: otlp::Settings,
    former: Option<&Gateway>,
    metrics: &Metrics,
    clock: &Clock,
    background: &mut Vec<Background>,
) -> Result<Arc<Tracer>, TlsError> {
    let kept = former.and_then(|former| former.tracer.as_ref()).filter(|tracer| tracer.is_still(&settings));
    if let Some(kept) = kept {
        return Ok(Arc::clone(kept));
    }
    let (tracer, exporter) = Tracer::new(settings, metrics.spans(), clock.clone())?;
    background.push(Box::pin(exporter.run()));
    Ok(tracer)
}

/// The embedded authorization server and what outlives its settings.
#[derive(Debug)]
pub(super) struct Embedded {
    pub(super) server: Arc<AuthorizationServer>,
    store: crate::store::Settings,
    /// Its upkeep ends with this.
    work: Arc<watch::Sender<()>>,
}

/// Has `task` run until what is returned is dropped.
fn work(task: impl Future<Output = ()> + Send + 'static, background: &mut Vec<Background>) -> watch::Sender<()> {
    let (owner, mut owned) = watch::channel(());
    background.push(Box::pin(async move {
        tokio::select! {
            () = task => {}
            _ = owned.changed() => {}
        }
    }));
    owner
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
    let mut tasks = Vec::new();
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
            tasks.push(work(keeper.run(), background));
            Some(ring)
        }
    };
    let introspector = match settings.introspection.clone() {
        None => None,
        Some(introspection) => {
            let (name, metrics) = (Arc::clone(name), metrics.introspection(name));
            let (introspector, calls) = Introspector::new(name, index, introspection, metrics, clock.clone())?;
            tasks.push(work(calls.run(), background));
            Some(introspector)
        }
    };
    let metrics = metrics.tokens(name);
    let files = tls::contents(settings.files());
    Ok(Issuer { index, settings, keys, introspector, store, metrics, files, work: tasks })
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
