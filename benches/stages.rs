//! What the stages of a request cost that take no input or output: `cargo bench`. How they add up is measured from outside,
//! by the programs in `compare/`.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use divan::Bencher;
use http::Method;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use tollgate::clock::Clock;
use tollgate::gateway::assemble::{Context, assemble};
use tollgate::gateway::plan::Plan;
use tollgate::gateway::{Gateway, Limits, Routes, Target};
use tollgate::jose::{Algorithm, SigningKey};
#[cfg(feature = "otlp")]
use tollgate::net::EndpointUrl;
use tollgate::net::forwarded::{self, Origin};
use tollgate::net::headers::Fields;
use tollgate::policy::{self, Caller};
use tollgate::routing::path::CanonicalPath;
use tollgate::telemetry::metrics::Metrics;
use tollgate::token::{Bearer, BearerError, Reuse, VerifiedToken};

fn main() {
    // Made before anything is measured.
    LazyLock::force(&STAGE);
    divan::main();
}

const CLAIMS: &str = r#"{"iss":"https://issuer.example","aud":"https://api.example","sub":"user-000001","client_id":"bench","jti":"1","iat":1,"scope":"profile orders:read orders:write","exp":"#;
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A gateway, and the headers with a token that it admits and one that has expired.
struct Stage {
    /// With the issuer's keys.
    folder: TempDir,
    gateway: Arc<Gateway>,
    runtime: Runtime,
    good: HeaderValue,
    expired: HeaderValue,
}

static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let key = SigningKey::generate(Algorithm::Rs256).expect("a key");
    let keys = serde_json::json!({ "keys": [key.public_jwk()] });
    std::fs::write(folder.path().join("jwks.json"), keys.to_string()).expect("a file");
    let token = |exp: &str| {
        let claims: serde_json::Value = serde_json::from_str(&[CLAIMS, exp, "}"].concat()).expect("claims");
        HeaderValue::from_str(&format!("Bearer {}", key.sign("at+jwt", &claims).expect("a token"))).expect("a value")
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limits =
        Limits { header_count: 100, body_timeout: Duration::from_secs(30), stream_idle: Duration::from_secs(60) };
    let context = Context { metrics: Metrics::new(), clock: Clock::system(), access_log: None, limits };
    let (gateway, _) = runtime.block_on(assemble(plan(10, folder.path()), context, None)).expect("a gateway");
    let stage = Stage { folder, gateway, runtime, good: token("4102444800"), expired: token("1") };
    stage.verify(&stage.good).expect("a good token");
    stage
});

impl Stage {
    fn verify(&self, header: &HeaderValue) -> Result<Arc<VerifiedToken>, BearerError> {
        let bearer = Bearer::parse(header).ok().flatten().ok_or(BearerError::Syntax)?;
        self.runtime.block_on(self.gateway.verifier().verify(bearer, &[0], &[], Reuse::Kept))
    }
}

/// A plan with an issuer, and so many routes.
fn plan(routes: usize, folder: &Path) -> Plan {
    let mut text = String::from(
        r#"
        server = { public_url = "https://api.example" }
        listeners.main = { address = "127.0.0.1:8080" }
        store.memory = {}
        issuers.own.jwt = { issuer = "https://issuer.example", audience = ["https://api.example"], jwks_file = "jwks.json", algorithms = ["RS256"] }
        upstreams.api = { servers = ["http://127.0.0.1:8081"] }
        "#,
    );
    for number in 0..routes {
        let allow = r#"allow = [{ methods = ["GET"], scopes = ["orders:read"] }]"#;
        let _ = write!(
            text,
            "\n[[routes]]\nname = \"r{number}\"\npath = \"/api{number}/**\"\nupstream = \"api\"\n{allow}\n"
        );
    }
    let (config, _) = tollgate::config::load_text(&text, &folder.join("gateway.toml")).expect("a configuration");
    config.plan
}

fn target(text: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(text)
}

#[divan::bench(args = ["/api7/orders/4711?page=2", "/api7/%7Euser/a%2fb/caf%C3%A9/4711?page=2"])]
fn canonical_path(bencher: Bencher<'_, '_>, path: &'static str) {
    let target = target(path);
    bencher.bench(|| CanonicalPath::parse(divan::black_box(&target)));
}

#[divan::bench(args = [10, 100, 1000])]
fn route(bencher: Bencher<'_, '_>, routes: usize) {
    let plan = plan(routes, STAGE.folder.path());
    let routes = Routes::new(&plan, &Metrics::new(), &Clock::system(), None).expect("routes");
    let path = CanonicalPath::parse(&target("/api7/orders/4711?page=2")).expect("a path");
    bencher.bench(|| routes.find(0, divan::black_box("api.example"), divan::black_box(&path)));
}

#[divan::bench]
fn bearer(bencher: Bencher<'_, '_>) {
    bencher.bench(|| Bearer::parse(divan::black_box(&STAGE.good)).map(|bearer| bearer.map(Bearer::text)));
}

/// With the header's syntax, as traffic has it.
#[divan::bench]
fn cached_token(bencher: Bencher<'_, '_>) {
    bencher.bench(|| STAGE.verify(divan::black_box(&STAGE.good)));
}

#[divan::bench]
fn expired_token(bencher: Bencher<'_, '_>) {
    bencher.bench(|| STAGE.verify(divan::black_box(&STAGE.expired)));
}

/// The first sight of a token: what a cached one spares.
#[divan::bench]
fn new_token(bencher: Bencher<'_, '_>) {
    let jws = STAGE.good.to_str().expect("ASCII").trim_start_matches("Bearer ");
    let keys = STAGE.gateway.verifier().issuers()[0].keys.as_ref().expect("keys").current();
    bencher.bench(|| {
        let jws = tollgate::jose::UnverifiedJws::parse(divan::black_box(jws)).expect("a token");
        keys.find(jws.kid.as_deref(), jws.algorithm).is_some_and(|key| jws.verify(key))
    });
}

#[divan::bench]
fn decide(bencher: Bencher<'_, '_>) {
    let token = STAGE.verify(&STAGE.good).expect("a good token");
    let path = CanonicalPath::parse(&target("/api7/orders")).expect("a path");
    let Some(Target::Route(route)) = STAGE.gateway.routes().find(0, "api.example", &path) else {
        unreachable!("there is such a route");
    };
    bencher
        .with_inputs(|| Caller::Known(Arc::clone(&token)))
        .bench_values(|caller| policy::authorize(&route.plan.access, &Method::GET, caller).is_ok());
}

/// What of one hop goes, and what tells of the caller comes.
/// Of a request whose caller says nothing, by the share that is sampled.
#[cfg(feature = "otlp")]
#[divan::bench(args = [0.0, 1.0])]
fn span(bencher: Bencher<'_, '_>, sample: f64) {
    use tollgate::otlp::{Request, Settings, Tracer};

    let settings = Settings {
        url: EndpointUrl::parse("http://127.0.0.1:4318/v1/traces").expect("a URL"),
        ca: None,
        headers: http::HeaderMap::new(),
        service_name: "bench".to_owned(),
        sample,
        timeout: Duration::from_secs(10),
    };
    let (tracer, _exporter) = Tracer::new(settings, Metrics::new().spans(), Clock::system()).expect("a tracer");
    let request = Request {
        request_id: "2c9b1f0e6d7a8b3500000001",
        client: PEER,
        https: true,
        version: http::Version::HTTP_11,
        method: &Method::GET,
        host: Some("api.example"),
        path: "/api7/orders/4711",
        route: Some(("orders", "/api7/orders/{id}")),
        upstream: Some("orders"),
        decision: "admitted",
        reason: None,
        status: Some(200),
        broken: false,
        ended: Clock::system().precisely(),
        duration: Duration::from_millis(3),
    };
    bencher.bench_local(|| {
        let mut trace = None;
        if let Some(span) = tracer.begin(&mut trace) {
            tracer.end(&span, &request);
        }
        trace
    });
}

#[divan::bench]
fn forwarding_headers(bencher: Bencher<'_, '_>) {
    let mut fields = Fields::default();
    for (name, value) in [
        (header::USER_AGENT, "bench"),
        (header::ACCEPT, "*/*"),
        (HeaderName::from_static("x-forwarded-for"), "192.0.2.1"),
    ] {
        fields.push(name, HeaderValue::from_static(value));
    }
    let origin = Origin { client: PEER, https: true, trusted: false };
    let (peer, host) = (HeaderValue::from_static("127.0.0.1"), HeaderValue::from_static("api.example"));
    let written = forwarded::Written::default();
    bencher.with_inputs(|| fields.clone()).bench_local_values(|mut fields| {
        forwarded::rewrite(&mut fields, &origin, PEER, &peer, Some(&host), &written);
        fields
    });
}
