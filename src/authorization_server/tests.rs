//! The conformance matrix of the server, case by case, without sockets: a request goes into `handle`, and the answer is
//! compared. Rows carry the ids of the matrix.

use super::*;
use crate::clock::Clock;
use crate::jose::SigningKey;
use crate::store::{self, OPAQUE_PREFIX, Store};
use crate::telemetry::metrics::Metrics;
use argon2::Params;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as BASE64URL};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use std::sync::LazyLock;

const START: u64 = 1_800_000_000;
const FORM: &str = "application/x-www-form-urlencoded";

struct Bench {
    server: Arc<AuthorizationServer>,
    store: Store,
    clock: Clock,
    metrics: Metrics,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    fn text(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or_default().to_owned()
    }

    fn error(&self) -> String {
        self.text("error")
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The claims of the access token, when it is a JWT.
    fn claims(&self) -> Value {
        part(&self.text("access_token"), 1)
    }
}

fn part(jws: &str, n: usize) -> Value {
    serde_json::from_slice(&BASE64URL.decode(jws.split('.').nth(n).unwrap()).unwrap()).unwrap()
}

impl Bench {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let clock = Clock::manual(START);
        let store = Store::open(&store::Settings::Memory, clock.clone()).unwrap();
        let mut settings = settings();
        change(&mut settings);
        let metrics = Metrics::new();
        let server = AuthorizationServer::start(settings, store.clone(), clock.clone(), &metrics).await.unwrap();
        Self { server, store, clock, metrics }
    }

    async fn reload(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = settings();
        change(&mut settings);
        self.server = self.server.reload(settings).await.unwrap();
    }

    async fn send(&self, path: &str, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
        let request = request.uri(path).body(Full::new(body.into())).unwrap();
        let endpoint = self.server.endpoint(request.uri().path()).expect("one of the server's paths");
        let response = self.server.handle(endpoint, request, &caller("192.0.2.1")).await;
        let (head, body) = response.into_parts();
        Answer { status: head.status, headers: head.headers, body: body.to_vec() }
    }

    async fn post(&self, path: &str, auth: Option<&str>, body: &str) -> Answer {
        let mut request = Request::builder().method(Method::POST).header("content-type", FORM);
        if let Some(auth) = auth {
            request = request.header("authorization", auth);
        }
        self.send(path, request, body.to_owned()).await
    }

    /// A token request by the confidential client.
    async fn token(&self, body: &str) -> Answer {
        self.post("/oauth2/token", Some(&basic("app", "s3cret")), body).await
    }

    async fn login(&self, scope: &str) -> Answer {
        self.token(&format!("grant_type=password&username=alice&password=wonderland&scope={scope}")).await
    }

    async fn refresh(&self, token: &str) -> Answer {
        self.token(&format!("grant_type=refresh_token&refresh_token={token}")).await
    }
}

fn caller(peer: &str) -> Caller<'static> {
    Caller { peer: peer.parse().unwrap(), https: true, loopback: false, request_id: "test" }
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

fn scopes(text: &str) -> ScopeSet {
    ScopeSet::parse(text).unwrap()
}

fn sha256(secret: &str) -> ClientSecret {
    let hex = hash_secret(secret);
    let hex = hex.strip_prefix("sha256:").unwrap();
    ClientSecret::Sha256(std::array::from_fn(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()))
}

fn client(id: &str, secrets: Vec<ClientSecret>) -> Client {
    let public = secrets.is_empty() && id != "signer";
    Client {
        id: id.into(),
        name: format!("The {id} <client>"),
        auth_methods: match public {
            true => vec![AuthMethod::None],
            false => vec![AuthMethod::ClientSecretBasic, AuthMethod::ClientSecretPost],
        },
        secrets,
        keys: KeySet::default(),
        public,
        public_password: false,
        grants: vec![Grant::Password, Grant::RefreshToken, Grant::AuthorizationCode],
        password_until: None,
        refresh: RefreshPolicy::OfflineAccess,
        access_token_lifetime: None,
        audience: Vec::new(),
        redirect_uris: vec![format!("https://{id}.example/cb")],
        scopes: scopes("read write admin offline_access"),
        default_scopes: scopes("read"),
        trusted: false,
        introspect: false,
        require_pkce: false,
        origins: vec![format!("https://{id}.example")],
    }
}

fn cheap_hash(password: &str) -> PasswordHash {
    let params = Params::new(64, 1, 1, None).unwrap();
    PasswordHash(passwords::hash_with(password.as_bytes(), b"0123456789abcdef", params).into())
}

fn user(name: &str, password: &str) -> User {
    User {
        name: name.into(),
        password: UserPassword::Hash(cheap_hash(password)),
        roles: vec!["clerk".into()],
        scopes: UserScopes::Listed(ScopeSet::default()),
        disabled: false,
        claims: json!({ "tenant": "acme", "iss": "forged", "scope": "admin", "cnf": {}, "active": false })
            .as_object()
            .unwrap()
            .clone(),
    }
}

static SIGNER: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate(Algorithm::Es256).unwrap());

fn keys_of(key: &SigningKey) -> KeySet {
    KeySet::parse(json!({ "keys": [key.public_jwk()] }).to_string().as_bytes(), &Algorithm::ALL).unwrap().0
}

fn settings() -> Settings {
    let duration = Duration::from_secs;
    Settings {
        issuer: BaseUrl::parse("https://api.example").unwrap(),
        path: "/oauth2".into(),
        access_token_format: AccessTokenFormat::Jwt,
        access_token_lifetime: duration(3600),
        refresh_token_lifetime: duration(90 * 86400),
        refresh_token_idle: duration(14 * 86400),
        code_lifetime: duration(60),
        session_idle: duration(1800),
        session_lifetime: duration(12 * 3600),
        audience: vec!["https://api.example".into()],
        signing_algorithm: Algorithm::Es256,
        key_rotation: duration(90 * 86400),
        excess_user_scope: ExcessUserScope::Narrow,
        clients: vec![
            client("app", vec![sha256("s3cret"), sha256("n3xt")]),
            client("odd:id/ +", vec![sha256("p%w+d:/ =")]),
            client("slow", vec![ClientSecret::Argon2id(cheap_hash("tortoise"))]),
            Client { grants: vec![Grant::RefreshToken], ..client("norights", vec![sha256("x")]) },
            Client { auth_methods: vec![AuthMethod::ClientSecretPost], ..client("postonly", vec![sha256("x")]) },
            Client { password_until: Some(START + 100), ..client("ending", vec![sha256("x")]) },
            client("spa", vec![]),
            Client { public_password: true, ..client("cli", vec![]) },
            Client {
                redirect_uris: vec![
                    "http://127.0.0.1/cb".into(),
                    "http://[::1]/cb".into(),
                    "com.example.app:/cb".into(),
                ],
                trusted: true,
                ..client("native", vec![])
            },
            Client { trusted: true, require_pkce: true, ..client("trusted", vec![sha256("x")]) },
            Client { grants: vec![Grant::ClientCredentials], ..client("robot", vec![sha256("x")]) },
            Client { grants: vec![Grant::ClientCredentials], ..client("publicrobot", vec![]) },
            Client {
                auth_methods: vec![AuthMethod::PrivateKeyJwt],
                keys: keys_of(&SIGNER),
                grants: vec![Grant::ClientCredentials, Grant::Password],
                ..client("signer", vec![])
            },
            Client { introspect: true, ..client("api", vec![sha256("x")]) },
            Client {
                introspect: true,
                audience: vec!["https://other".into()],
                ..client("otherapi", vec![sha256("x")])
            },
        ],
        roles: BTreeMap::from([("clerk".into(), scopes("read write"))]),
        users: vec![UserSource::File(vec![
            user("alice", "wonderland"),
            User { disabled: true, ..user("dora", "disabled") },
            User { roles: vec![], ..user("nobody", "nothing") },
            User { roles: vec![], scopes: UserScopes::All, ..user("root", "everything") },
            user("zo\u{eb} %&=+", " p\u{e4}ss +%&= "),
        ])],
        lockout: Lockout { failures: 5, window: duration(600), delay: duration(60), address_failures: 50 },
        templates: None,
    }
}

/// The ids, who asks, what they send, and what they are answered.
type Row = (&'static str, Option<String>, &'static str, u16, &'static str);

async fn check(bench: &Bench, path: &str, rows: Vec<Row>) {
    for (ids, auth, body, status, error) in rows {
        let answer = bench.post(path, auth.as_deref(), body).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (status, error), "{ids}: {body}: {text}");
        assert_eq!(answer.header("cache-control"), "no-store", "G1 of {ids}");
        if status == 401 {
            assert!(
                answer.header("www-authenticate").starts_with("Basic realm=\"https://api.example\", error="),
                "G10"
            );
        }
    }
}

#[tokio::test]
async fn ca_client_authentication() {
    let bench = Bench::new().await;
    let app = || Some(basic("app", "s3cret"));
    const OK: &str = "grant_type=password&username=alice&password=wonderland";
    const ASK: &str = "grant_type=password";
    check(
        &bench,
        "/oauth2/token",
        vec![
            ("P1 CA1", app(), OK, 200, ""),
            ("CA21", Some(basic("app", "n3xt")), OK, 200, ""),
            ("CA1 decoded", Some(basic("odd%3Aid%2F+%2B", "p%25w%2Bd%3A%2F+%3D")), OK, 200, ""),
            ("CA2", Some(basic("app", "s3cret").replace("Basic ", "bAsIc   ")), OK, 200, ""),
            ("CA3", Some("Basic !".into()), ASK, 401, "invalid_client"),
            ("CA5", Some(basic("nosuch", "s3cret")), ASK, 401, "invalid_client"),
            ("CA5", Some(basic("app", "wrong")), ASK, 401, "invalid_client"),
            ("CA6", app(), "grant_type=password&client_secret=s3cret", 400, "invalid_request"),
            ("CA8 same", app(), "client_id=app&grant_type=foo", 400, "unsupported_grant_type"),
            ("CA8", app(), "client_id=spa&grant_type=password", 400, "invalid_request"),
            ("CA9", None, "client_id=app&grant_type=password", 401, "invalid_client"),
            ("CA10", None, "client_id=spa&grant_type=foo", 400, "unsupported_grant_type"),
            ("CA10 G3", None, "client_id=spa&client_secret=&grant_type=foo", 400, "unsupported_grant_type"),
            ("CA10", None, "client_id=spa&client_secret=x&grant_type=foo", 401, "invalid_client"),
            ("CA10", Some(basic("spa", "")), "grant_type=foo", 400, "unsupported_grant_type"),
            ("CA10", Some(basic("spa", "x")), "grant_type=foo", 401, "invalid_client"),
            ("CA11", None, OK, 401, "invalid_client"),
            ("CA12", Some("Bearer abc".into()), "client_id=spa&grant_type=foo", 401, "invalid_client"),
            ("CA12", Some("Negotiate abc".into()), ASK, 401, "invalid_client"),
            ("CA14", Some(basic("postonly", "x")), ASK, 401, "invalid_client"),
            (
                "S0-5",
                None,
                "client_id=app&client_secret=s3cret&grant_type=password&username=alice&password=wonderland",
                200,
                "",
            ),
            ("CA5 argon2id", Some(basic("slow", "tortoise")), OK, 200, ""),
            ("CA5 argon2id", Some(basic("slow", "hare")), ASK, 401, "invalid_client"),
        ],
    )
    .await;
    // CA5: nothing tells an unknown client from a wrong secret.
    let unknown = bench.post("/oauth2/token", Some(&basic("nosuch", "x")), ASK).await;
    let wrong = bench.post("/oauth2/token", Some(&basic("app", "x")), ASK).await;
    assert_eq!((unknown.body, unknown.headers), (wrong.body, wrong.headers));
    // CA13
    let twice = Request::builder().method("POST").header("content-type", FORM);
    let twice = twice.header("authorization", basic("app", "s3cret")).header("authorization", basic("app", "s3cret"));
    assert_eq!(bench.send("/oauth2/token", twice, ASK).await.error(), "invalid_request");
}

#[tokio::test]
async fn t_token_requests() {
    let bench = Bench::new().await;
    let app = || Some(basic("app", "s3cret"));
    check(
        &bench,
        "/oauth2/token",
        vec![
            ("T3", app(), "", 400, "invalid_request"),
            ("T3", app(), "grant_type=", 400, "invalid_request"),
            ("T3", app(), "grant_type=password&grant_type=password", 400, "invalid_request"),
            ("T3", app(), "grant_type=PASSWORD", 400, "unsupported_grant_type"),
            ("T3", app(), "grant_type=implicit", 400, "unsupported_grant_type"),
            (
                "T4",
                Some(basic("norights", "x")),
                "grant_type=password&username=alice&password=x",
                400,
                "unauthorized_client",
            ),
            ("T5", None, "grant_type=foo", 401, "invalid_client"),
            ("G4", app(), "grant_type=foo&x=1&x=2", 400, "unsupported_grant_type"),
            ("G5", app(), "grant_type=password&scope=&scope=read", 400, "invalid_request"),
            ("G7", app(), "grant_type=password&username=%ff", 400, "invalid_request"),
            ("G7", app(), "grant_type=pass%00word", 400, "invalid_request"),
            (
                "T6",
                app(),
                "grant_type=password&username=alice&password=wonderland&scope=read%09write",
                400,
                "invalid_scope",
            ),
            ("T6", app(), "grant_type=password&username=alice&password=wonderland&scope=++write++read+write", 200, ""),
            ("T7", app(), "grant_type=password&username=alice&password=wonderland&scope=nosuch", 400, "invalid_scope"),
            ("T7", app(), "grant_type=password&username=alice&password=wonderland&scope=READ", 400, "invalid_scope"),
            (
                "T11",
                app(),
                "grant_type=password&username=alice&password=wonderland&resource=https://api.example",
                200,
                "",
            ),
            (
                "T11",
                app(),
                "grant_type=password&username=alice&password=wonderland&resource=https://other.example",
                400,
                "invalid_target",
            ),
            (
                "T11",
                app(),
                "grant_type=password&username=alice&password=wonderland&resource=api",
                400,
                "invalid_target",
            ),
            ("P2", app(), "grant_type=password&username=alice", 400, "invalid_request"),
            ("P2", app(), "grant_type=password&username=&password=x", 400, "invalid_request"),
            ("P3", app(), "grant_type=password&username=alice&password=wrong", 400, "invalid_grant"),
            ("P3", app(), "grant_type=password&username=ALICE&password=wonderland", 400, "invalid_grant"),
            (
                "P4",
                None,
                "client_id=spa&grant_type=password&username=alice&password=wonderland",
                400,
                "unauthorized_client",
            ),
            ("P4 C1", None, "client_id=cli&grant_type=password&username=alice&password=wonderland", 200, ""),
            ("P5", app(), "grant_type=password&username=alice&password=wrong&scope=nosuch", 400, "invalid_scope"),
            (
                "P6",
                app(),
                "grant_type=password&username=zo%C3%AB+%25%26%3D%2B&password=+p%C3%A4ss+%2B%25%26%3D+",
                200,
                "",
            ),
            ("P6", app(), "grant_type=password&username=alice%0d&password=wonderland", 400, "invalid_request"),
            ("P8", app(), "grant_type=password&username=alice&password=wonderland&state=a%07", 400, "invalid_request"),
            ("C2", app(), "grant_type=password&username=nobody&password=nothing", 400, "invalid_scope"),
            ("C2", app(), "grant_type=password&username=alice&password=wonderland&scope=admin", 400, "invalid_scope"),
            ("R1", app(), "grant_type=refresh_token", 400, "invalid_request"),
            ("R1", app(), "grant_type=refresh_token&refresh_token=nosuch", 400, "invalid_grant"),
            ("R2", None, "grant_type=refresh_token&refresh_token=nosuch&client_id=app", 401, "invalid_client"),
        ],
    )
    .await;
    for method in ["GET", "PUT", "HEAD"] {
        let answer = bench.send("/oauth2/token", Request::builder().method(method), "").await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "POST"), "T1 G11");
    }
    let body = "client_id=cli&grant_type=password&username=alice&password=wonderland";
    for (content_type, status) in [
        ("application/x-www-form-urlencoded; charset=\"utf-8\"", 200),
        ("Application/X-WWW-Form-URLencoded;charset=UTF-8", 200),
        ("application/json", 400),
        ("text/plain", 400),
        ("", 400),
    ] {
        let request = Request::builder().method("POST").header("content-type", content_type);
        assert_eq!(bench.send("/oauth2/token", request, body).await.status.as_u16(), status, "T2 {content_type}");
    }
    for query in ["client_secret=x", "password=wonderland", "refresh_token="] {
        let answer = bench.post(&format!("/oauth2/token?{query}"), None, body).await;
        assert_eq!(answer.error(), "invalid_request", "G6 {query}");
    }
    assert_eq!(bench.post("/oauth2/token?scope=admin", None, body).await.text("scope"), "read", "G6");
    let large = bench.token(&format!("grant_type=password&x={}", "x".repeat(65_536))).await;
    assert_eq!((large.status.as_u16(), large.error().as_str()), (413, "invalid_request"), "G12");
    assert_eq!(bench.post("/oauth2/nosuch", None, "").await.status.as_u16(), 404);
    assert_eq!(bench.server.endpoint("/oauth2x"), None);
}

#[tokio::test]
async fn t9_the_response_and_the_token_of_rfc_9068() {
    let bench = Bench::new().await;
    let answer = bench.login("write+read+offline_access&state=xyz%20%26").await;
    let body = answer.json();
    assert_eq!(answer.header("content-type"), "application/json", "G2");
    assert_eq!(answer.header("pragma"), "no-cache", "G1");
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 3600, "S0-8");
    assert_eq!(body["scope"], "write read offline_access", "T8");
    assert_eq!(body["state"], "xyz &", "P8");
    assert!(body["refresh_token"].as_str().unwrap().len() >= 43, "P7 G16");
    let header = part(&answer.text("access_token"), 0);
    assert_eq!(header, json!({ "typ": "at+jwt", "alg": "ES256", "kid": header["kid"] }));
    let claims = answer.claims();
    let jti = claims["jti"].clone();
    assert_eq!(
        claims,
        json!({
            "iss": "https://api.example", "sub": "alice", "aud": "https://api.example", "client_id": "app",
            "iat": START, "exp": START + 3600, "auth_time": START, "amr": ["pwd"], "jti": jti,
            "scope": "write read offline_access", "roles": ["clerk"], "tenant": "acme",
        }),
        "P1; a user's claims cannot override registered ones"
    );
    let plain = bench.login("").await.json();
    assert_eq!(
        (&plain["scope"], &plain["refresh_token"], &plain["state"]),
        (&json!("read"), &Value::Null, &Value::Null)
    );
    assert_eq!(bench.login("read+admin").await.text("scope"), "read", "C2 S4-9: narrowed to the user's");
    let root = bench.token("grant_type=password&username=root&password=everything&scope=read+admin").await;
    assert_eq!(root.text("scope"), "read admin");
    let jwks = bench.send("/oauth2/jwks", Request::builder(), "").await.json();
    assert_eq!(jwks["keys"][0]["kid"], header["kid"]);
    assert_eq!(bench.metrics.tokens_issued.with_label_values(&["password", "app"]).get(), 4);
}

#[tokio::test]
async fn c2_excess_scope_can_be_rejected_and_offline_access_depends_on_the_client() {
    let bench = Bench::with(|settings| settings.excess_user_scope = ExcessUserScope::Reject).await;
    assert_eq!(bench.login("read+admin").await.error(), "invalid_scope");
    let bench = Bench::with(|settings| settings.clients[0].refresh = RefreshPolicy::Never).await;
    let answer = bench.login("read+offline_access").await.json();
    assert_eq!((&answer["scope"], &answer["refresh_token"]), (&json!("read"), &Value::Null), "P7");
    let bench = Bench::with(|settings| settings.clients[0].refresh = RefreshPolicy::Always).await;
    assert!(bench.login("read").await.json()["refresh_token"].is_string(), "S3-3");
    let bench = Bench::with(|settings| settings.clients[0].default_scopes = ScopeSet::default()).await;
    assert_eq!(bench.login("").await.error(), "invalid_scope", "T7");
}

#[tokio::test]
async fn p3_every_failed_login_looks_the_same() {
    let bench = Bench::new().await;
    let ask = async |name: &str, password: &str| {
        bench.token(&format!("grant_type=password&username={name}&password={password}")).await
    };
    let wrong = ask("alice", "x").await;
    for (name, password) in [("nosuch", "wonderland"), ("dora", "disabled"), ("dora", "x")] {
        let answer = ask(name, password).await;
        assert_eq!((&answer.body, &answer.headers), (&wrong.body, &wrong.headers), "{name}");
    }
    // Locked, at an address of its own.
    let public = async |password: &str| {
        let body = format!("client_id=cli&grant_type=password&username=alice&password={password}");
        bench.post("/oauth2/token", None, &body).await
    };
    for _ in 0..5 {
        assert_eq!(public("x").await.body, wrong.body);
    }
    let locked = public("wonderland").await;
    assert_eq!((locked.status.as_u16(), locked.body), (400, wrong.body), "P9");
    bench.clock.advance(60);
    assert_eq!(public("wonderland").await.status.as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn p9_behind_a_confidential_client_the_right_password_is_never_refused() {
    let bench = Bench::new().await;
    let wrong = "grant_type=password&username=alice&password=x";
    for _ in 0..8 {
        assert_eq!(bench.token(wrong).await.error(), "invalid_grant");
    }
    let before = tokio::time::Instant::now();
    assert_eq!(bench.login("read").await.status.as_u16(), 200);
    assert_eq!(before.elapsed().as_secs(), 8, "1, 2, 4, 8 s after the fifth failure");
    let before = tokio::time::Instant::now();
    assert_eq!(bench.login("read").await.status.as_u16(), 200);
    assert_eq!(before.elapsed().as_secs(), 0);
}

#[tokio::test]
async fn p9_an_address_that_fails_too_often_gets_429_and_right_secrets_still_pass() {
    let bench = Bench::new().await;
    for _ in 0..50 {
        assert_eq!(bench.post("/oauth2/token", Some(&basic("app", "x")), "").await.status.as_u16(), 401);
    }
    let answer = bench.post("/oauth2/token", Some(&basic("app", "x")), "").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "60"), "CA21");
    assert_eq!(answer.error(), "temporarily_unavailable");
    assert_eq!(bench.login("read").await.status.as_u16(), 200, "a misconfigured neighbour locks nobody out");
    let public = "client_id=cli&grant_type=password&username=alice&password=wonderland";
    assert_eq!(bench.post("/oauth2/token", None, public).await.status.as_u16(), 429, "L11");
}

#[tokio::test]
async fn password_until_ends_the_grant_on_a_day() {
    let bench = Bench::new().await;
    let body = "grant_type=password&username=alice&password=wonderland";
    let ask = async || bench.post("/oauth2/token", Some(&basic("ending", "x")), body).await;
    bench.clock.advance(99);
    assert_eq!(ask().await.status.as_u16(), 200);
    bench.clock.advance(1);
    assert_eq!(ask().await.error(), "unauthorized_client");
}

#[tokio::test]
async fn r_refresh_tokens() {
    let bench = Bench::new().await;
    let first = bench.login("read+write+offline_access").await;
    let second = bench.refresh(&first.text("refresh_token")).await;
    assert_eq!(second.text("scope"), "read write offline_access", "R3");
    assert_ne!(second.text("refresh_token"), first.text("refresh_token"), "R4");
    let claims = second.claims();
    assert_eq!((&claims["sub"], &claims["auth_time"]), (&json!("alice"), &json!(START)));
    let narrower =
        format!("grant_type=refresh_token&scope=read&state=x&refresh_token={}", second.text("refresh_token"));
    let narrow = bench.token(&narrower).await;
    assert_eq!((narrow.text("scope").as_str(), &narrow.json()["state"]), ("read", &Value::Null), "R3 R13");
    let token = narrow.text("refresh_token");
    let little = bench.login("read+offline_access").await.text("refresh_token");
    let more = bench.token(&format!("grant_type=refresh_token&scope=read+write&refresh_token={little}")).await;
    assert_eq!(more.error(), "invalid_scope", "R3: the user may have it, but it was not granted");
    let full = bench.refresh(&token).await;
    assert_eq!(full.text("scope"), "read write offline_access", "R3: the refresh token keeps the full scope");
    let token = full.text("refresh_token");
    let more = bench.token(&format!("grant_type=refresh_token&scope=admin&refresh_token={token}")).await;
    assert_eq!(more.error(), "invalid_scope", "R3");
    let other = bench
        .post(
            "/oauth2/token",
            Some(&basic("slow", "tortoise")),
            &format!("grant_type=refresh_token&refresh_token={token}"),
        )
        .await;
    assert_eq!(other.error(), "invalid_grant", "R1 R6");
    let access = bench.refresh(&full.text("access_token")).await;
    assert_eq!(access.error(), "invalid_grant", "R1: an access token");
    assert_eq!(bench.refresh(&token).await.status.as_u16(), 200);
    let reuse = bench.refresh(&first.text("refresh_token")).await;
    assert_eq!(reuse.error(), "invalid_grant", "R5");
    let jti = full.claims()["jti"].as_str().unwrap().to_owned();
    assert!(bench.server.revocations().is_revoked(&jti), "R5 RV8");
    assert_eq!(bench.metrics.refresh_reuse.get(), 1);
}

#[tokio::test]
async fn r7_a_lost_answer_is_survived_without_a_clock() {
    let bench = Bench::new().await;
    let first = bench.login("read+offline_access").await.text("refresh_token");
    let lost = bench.refresh(&first).await;
    bench.clock.advance(300);
    let again = bench.refresh(&first).await;
    assert_eq!(again.status.as_u16(), 200);
    let jti = |answer: &Answer| answer.claims()["jti"].as_str().unwrap().to_owned();
    assert!(bench.server.revocations().is_revoked(&jti(&lost)));
    bench.store.access_token_seen(&jti(&again));
    assert_eq!(bench.refresh(&first).await.error(), "invalid_grant", "its successor was used");
    assert!(bench.server.revocations().is_revoked(&jti(&again)));
}

#[tokio::test]
async fn r9_r10_lifetimes_and_changes_of_the_user() {
    let mut bench = Bench::new().await;
    let token = bench.login("read+write+offline_access").await.text("refresh_token");
    bench.reload(|settings| settings.roles = BTreeMap::from([("clerk".into(), scopes("read"))])).await;
    let answer = bench.refresh(&token).await;
    assert_eq!(answer.text("scope"), "read offline_access", "R10: a role lost a scope");
    let token = answer.text("refresh_token");
    bench.reload(|settings| settings.clients[0].grants = vec![Grant::Password]).await;
    assert_eq!(bench.refresh(&token).await.error(), "unauthorized_client", "R11");
    bench.reload(|settings| settings.users = vec![UserSource::File(vec![user("alice", "looking-glass")])]).await;
    assert_eq!(bench.refresh(&token).await.error(), "invalid_grant", "R10 P11: the password changed");
    bench.reload(|_| ()).await;
    assert_eq!(bench.refresh(&token).await.error(), "invalid_grant", "P11: the family is gone for good");

    let token = bench.login("read+offline_access").await.text("refresh_token");
    bench.clock.advance(14 * 86400);
    assert_eq!(bench.refresh(&token).await.error(), "invalid_grant", "R9: idle");
    let mut token = bench.login("read+offline_access").await.text("refresh_token");
    for _ in 0..6 {
        bench.clock.advance(13 * 86400);
        token = bench.refresh(&token).await.text("refresh_token");
    }
    bench.clock.advance(12 * 86400);
    assert_eq!(bench.refresh(&token).await.error(), "invalid_grant", "R9: absolute");
}

#[tokio::test]
async fn opaque_tokens_resolve_to_the_claims_of_a_jwt() {
    let bench = Bench::with(|settings| settings.access_token_format = AccessTokenFormat::Opaque).await;
    let answer = bench.login("read").await;
    let token = answer.text("access_token");
    assert!(token.starts_with(OPAQUE_PREFIX) && !token.contains('.'));
    let found = bench.store.opaque_token(&token).await.unwrap().unwrap();
    assert_eq!((&found.claims["sub"], found.expires), (&json!("alice"), START + 3600));
    bench.clock.advance(3600);
    assert!(bench.store.opaque_token(&token).await.unwrap().is_none());
}

#[tokio::test]
async fn g13_g14_cleartext_and_cors() {
    let bench = Bench::new().await;
    let ask = async |https, loopback| {
        let request = Request::builder().method("POST").uri("/oauth2/token").header("content-type", FORM);
        let request = request.body(Full::new(Bytes::from("grant_type=foo&client_id=cli"))).unwrap();
        let caller = Caller { https, loopback, ..caller("127.0.0.1") };
        bench.server.handle(Endpoint::Token, request, &caller).await
    };
    for (https, loopback, error) in [
        (false, false, "invalid_request"),
        (false, true, "unsupported_grant_type"),
        (true, false, "unsupported_grant_type"),
    ] {
        let body: Value = serde_json::from_slice(ask(https, loopback).await.body()).unwrap();
        assert_eq!(body["error"], error, "G13");
    }
    for (origin, allowed) in [("https://app.example", true), ("https://evil.example", false)] {
        let preflight = Request::builder().method("OPTIONS").header("origin", origin);
        let answer = bench.send("/oauth2/token", preflight, "").await;
        assert_eq!(answer.status.as_u16(), 204);
        assert_eq!(answer.headers.contains_key("access-control-allow-origin"), allowed, "G14");
        let post = Request::builder().method("POST").header("content-type", FORM).header("origin", origin);
        let answer = bench.send("/oauth2/token", post.header("authorization", basic("app", "x")), "").await;
        assert_eq!(answer.header("access-control-allow-origin"), if allowed { origin } else { "" });
    }
}

#[tokio::test]
async fn m_metadata_and_jwks() {
    let bench = Bench::with(|settings| settings.issuer = BaseUrl::parse("https://api.example/as").unwrap()).await;
    for path in [
        "/.well-known/oauth-authorization-server/as",
        "/.well-known/openid-configuration/as",
        "/as/.well-known/openid-configuration",
    ] {
        let metadata = bench.send(path, Request::builder(), "").await;
        assert_eq!(metadata.text("issuer"), "https://api.example/as", "M1 M2 {path}");
        assert_eq!(metadata.text("token_endpoint"), "https://api.example/oauth2/token");
        assert_eq!(metadata.header("access-control-allow-origin"), "*", "M5");
        let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        assert!(!metadata.json().as_object().unwrap().values().any(empty), "M3");
    }
    assert_eq!(bench.server.endpoint("/.well-known/oauth-authorization-server"), None);
    let jwks = bench.send("/oauth2/jwks", Request::builder(), "").await;
    assert_eq!((jwks.header("cache-control"), jwks.status.as_u16()), ("public, max-age=300", 200), "J1");
    assert_eq!(bench.post("/oauth2/jwks", None, "").await.status.as_u16(), 405);
}

/// RFC 7636 appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const APP: &str = "client_id=app&response_type=code&redirect_uri=https%3A%2F%2Fapp.example%2Fcb&state=s%26+1";

/// A browser: keeps cookies, reads forms.
struct Browser<'a> {
    bench: &'a Bench,
    cookies: BTreeMap<String, String>,
}

impl Browser<'_> {
    fn new(bench: &Bench) -> Browser<'_> {
        Browser { bench, cookies: BTreeMap::new() }
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send(Request::builder(), path, "").await
    }

    async fn post(&mut self, path: &str, body: &str) -> Answer {
        self.send(Request::builder().method("POST").header("content-type", FORM), path, body).await
    }

    async fn send(&mut self, mut request: http::request::Builder, path: &str, body: &str) -> Answer {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        let answer = self.bench.send(path, request, body.to_owned()).await;
        for line in answer.headers.get_all("set-cookie") {
            let line = line.to_str().unwrap();
            let (name, rest) = line.split_once('=').unwrap();
            let (value, attributes) = rest.split_once("; ").unwrap();
            assert!(name.starts_with("__Host-"), "L2");
            assert!(attributes.starts_with("Path=/; Secure; HttpOnly; SameSite=Lax"), "L2: {line}");
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        answer
    }

    /// Sends the form of a page with these fields added.
    async fn submit(&mut self, page: &Answer, fields: &str) -> Answer {
        let action = attribute(&page.html(), "action");
        self.post(&action, &format!("{}&{fields}", hidden(&page.html()))).await
    }

    async fn log_in(&mut self, query: &str) -> Answer {
        let page = self.get(&format!("/oauth2/authorize?{query}")).await;
        assert_eq!(page.status.as_u16(), 200, "{}", page.html());
        self.submit(&page, "username=alice&password=wonderland").await
    }

    /// The code that a trusted client gets.
    async fn code(&mut self, query: &str) -> String {
        let mut answer = self.get(&format!("/oauth2/authorize?{query}")).await;
        if answer.html().contains("name=\"password\"") {
            answer = self.submit(&answer, "username=alice&password=wonderland").await;
        }
        if answer.header("location").starts_with("/oauth2/consent") {
            let consent = answer.header("location").to_owned();
            answer = self.get(&consent).await;
            answer = self.submit(&answer, "decision=allow").await;
        }
        answer.parameter("code").unwrap_or_else(|| panic!("no code: {} {}", answer.status, answer.html()))
    }
}

impl Answer {
    fn html(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A parameter of the redirect.
    fn parameter(&self, name: &str) -> Option<String> {
        let (_, query) = self.header("location").split_once('?')?;
        form_urlencoded::parse(query.as_bytes()).find(|(own, _)| own == name).map(|(_, value)| value.into_owned())
    }

    fn redirect_error(&self) -> String {
        self.parameter("error").unwrap_or_default()
    }
}

fn attribute(html: &str, name: &str) -> String {
    let (_, rest) = html.split_once(&format!(" {name}=\"")).unwrap();
    rest.split('"').next().unwrap().replace("&#x2f;", "/").replace("&#x2F;", "/")
}

fn hidden(html: &str) -> String {
    let fields = html.split("<input type=\"hidden\"").skip(1);
    let pairs: Vec<_> =
        fields.map(|field| format!("{}={}", attribute(field, "name"), attribute(field, "value"))).collect();
    pairs.join("&")
}

async fn exchange(bench: &Bench, auth: (&str, &str), code: &str, more: &str) -> Answer {
    let body = format!("grant_type=authorization_code&code={code}{more}");
    bench.post("/oauth2/token", Some(&basic(auth.0, auth.1)), &body).await
}

const REDIRECT: &str = "&redirect_uri=https://app.example/cb";

#[tokio::test]
async fn a_the_whole_journey_with_login_and_consent() {
    let bench = Bench::new().await;
    let mut browser = Browser::new(&bench);
    let page =
        browser.get(&format!("/oauth2/authorize?{APP}&scope=read+admin+offline_access&login_hint=al%22ice")).await;
    assert!(page.html().contains("The app &lt;client&gt;"), "L6");
    assert!(page.html().contains("value=\"al&quot;ice\""), "A15 L6: {}", page.html());
    assert!(page.html().contains("autocomplete=\"current-password\"") && !page.html().contains("<script"), "L5");
    assert_eq!(page.header("x-frame-options"), "DENY", "L4");
    assert_eq!(page.header("cache-control"), "no-store");
    assert_eq!(
        page.header("content-security-policy"),
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self' https://app.example; \
         frame-ancestors 'none'; base-uri 'none'",
        "L4"
    );
    let wrong = browser.submit(&page, "username=alice&password=x").await;
    assert_eq!(wrong.status.as_u16(), 403, "L3");
    assert!(wrong.html().contains("value=\"alice\"") && wrong.html().contains("role=\"alert\""), "L3 L5");
    let unknown = browser.submit(&page, "username=nosuch&password=x").await;
    let neutral = |answer: &Answer, name: &str| {
        let html = answer.html().replace(name, "NAME");
        let sealed = attribute(html.split("name=\"transaction\"").nth(1).unwrap(), "value");
        html.replace(&sealed, "SEALED")
    };
    assert_eq!(neutral(&wrong, "alice"), neutral(&unknown, "nosuch"), "L3");

    let answer = browser.submit(&wrong, "username=alice&password=wonderland").await;
    assert_eq!(answer.status.as_u16(), 303, "A17");
    let consent = answer.header("location").to_owned();
    assert!(consent.starts_with("/oauth2/consent?transaction="), "{consent}");
    let page = browser.get(&consent).await;
    assert!(page.html().contains("<code>read</code>") && !page.html().contains("admin"), "A27: {}", page.html());
    let denied = browser.submit(&page, "decision=deny").await;
    assert_eq!((denied.status.as_u16(), denied.redirect_error().as_str()), (303, "access_denied"), "A18");
    assert_eq!(denied.parameter("state").as_deref(), Some("s& 1"), "A12");
    assert_eq!(denied.parameter("iss").as_deref(), Some("https://api.example"), "A16");
    let allowed = browser.submit(&page, "decision=allow").await;
    assert!(allowed.header("location").starts_with("https://app.example/cb?code="), "{}", allowed.header("location"));
    assert_eq!(allowed.parameter("state").as_deref(), Some("s& 1"), "A12");
    assert_eq!(allowed.parameter("iss").as_deref(), Some("https://api.example"), "A16");

    bench.clock.advance(30);
    let answer = exchange(&bench, ("app", "s3cret"), &allowed.parameter("code").unwrap(), REDIRECT).await;
    assert_eq!(answer.text("scope"), "read offline_access", "T8");
    let claims = answer.claims();
    assert_eq!(
        (&claims["auth_time"], &claims["iat"], &claims["sub"]),
        (&json!(START), &json!(START + 30), &json!("alice"))
    );
    assert_eq!(bench.refresh(&answer.text("refresh_token")).await.status.as_u16(), 200, "S2-10");

    let again = browser.get(&format!("/oauth2/authorize?{APP}&scope=read")).await;
    assert!(again.parameter("code").is_some(), "L7 A27: neither form is shown again");
    let more = browser.get(&format!("/oauth2/authorize?{APP}&scope=read+write")).await;
    assert!(more.html().contains("decision"), "A27: a new scope is asked for");
}

#[tokio::test]
async fn a2_a3_errors_without_a_redirect() {
    let bench = Bench::new().await;
    for (ids, query) in [
        ("A2", "response_type=code"),
        ("A2", "client_id=nosuch&redirect_uri=https%3A%2F%2Fapp.example%2Fcb"),
        ("A2", "client_id=app&client_id=app"),
        ("A3", "client_id=app&redirect_uri=https://app.example/cb&redirect_uri=https://app.example/cb"),
        ("A3", "client_id=native&response_type=code"),
        ("A5", "client_id=app&redirect_uri=https://app.example/cb/"),
        ("A5", "client_id=app&redirect_uri=https://APP.example/cb"),
        ("A5", "client_id=app&redirect_uri=https://app.example:443/cb"),
        ("A5", "client_id=app&redirect_uri=https://app.example/cb?x"),
        ("A5", "client_id=app&redirect_uri=https://app.example@evil.example/cb"),
        ("A5", "client_id=app&redirect_uri=https://app.example/x/../cb"),
        ("A6", "client_id=native&redirect_uri=http://127.0.0.2:5000/cb"),
        ("A6", "client_id=native&redirect_uri=http://localhost:5000/cb"),
        ("G7", "client_id=app&x=%ff"),
    ] {
        let answer = bench.send(&format!("/oauth2/authorize?{query}"), Request::builder(), "").await;
        assert_eq!(answer.status.as_u16(), 400, "{ids} {query}");
        assert_eq!(answer.header("location"), "", "{ids}");
        assert!(answer.header("content-type").starts_with("text/html") && !answer.html().contains("evil"), "A25");
    }
    let long = format!("/oauth2/authorize?{APP}&x={}", "x".repeat(17_000));
    assert_eq!(bench.send(&long, Request::builder(), "").await.status.as_u16(), 414, "A24");
    let head = bench.send("/oauth2/authorize", Request::builder().method("HEAD"), "").await;
    assert_eq!((head.status.as_u16(), head.header("allow")), (405, "GET, POST"), "A1");
    let prefetch = Request::builder().header("sec-purpose", "prefetch;prerender");
    assert_eq!(bench.send(&format!("/oauth2/authorize?{APP}"), prefetch, "").await.status.as_u16(), 403, "A1");
}

#[tokio::test]
async fn a9_to_a15_errors_with_a_redirect() {
    let bench = Bench::new().await;
    let app = "client_id=app&redirect_uri=https%3A%2F%2Fapp.example%2Fcb&state=x";
    let spa = "client_id=spa&response_type=code&redirect_uri=https%3A%2F%2Fspa.example%2Fcb&state=x";
    let challenge = |challenge: &str, method: &str| {
        format!("{app}&response_type=code&code_challenge={challenge}&code_challenge_method={method}")
    };
    for (ids, query, error) in [
        ("A9", app.to_owned(), "invalid_request"),
        ("A9", format!("{app}&response_type=token"), "unsupported_response_type"),
        ("A9", format!("{app}&response_type=code+token"), "unsupported_response_type"),
        ("A9", format!("{app}&response_type=code&response_type=code"), "invalid_request"),
        ("A9", "client_id=norights&state=x&response_type=code".to_owned(), "unauthorized_client"),
        ("A10", format!("{app}&response_type=code&response_mode=fragment"), "unsupported_response_mode"),
        ("A11", format!("{app}&response_type=code&scope=nosuch"), "invalid_scope"),
        ("A13", challenge(CHALLENGE, "plain"), "invalid_request"),
        ("A13", challenge(CHALLENGE, ""), "invalid_request"),
        ("A13", challenge(CHALLENGE, "s256"), "invalid_request"),
        ("A13", challenge("", "S256"), "invalid_request"),
        ("A13", challenge(&CHALLENGE[1..], "S256"), "invalid_request"),
        ("A13", challenge(&CHALLENGE.replace('-', "%2B"), "S256"), "invalid_request"),
        ("A14", spa.to_owned(), "invalid_request"),
        ("A14", "client_id=trusted&state=x&response_type=code".to_owned(), "invalid_request"),
        ("A15", format!("{app}&response_type=code&request=x"), "request_not_supported"),
        ("A15", format!("{app}&response_type=code&request_uri=https://evil.example"), "request_uri_not_supported"),
        ("A15", format!("{app}&response_type=code&registration=x"), "registration_not_supported"),
        ("A15", format!("{app}&response_type=code&prompt=none"), "login_required"),
        ("A15", format!("{app}&response_type=code&prompt=none+login"), "invalid_request"),
        ("A15", format!("{app}&response_type=code&max_age=soon"), "invalid_request"),
        ("T11", format!("{app}&response_type=code&resource=https://other.example"), "invalid_target"),
    ] {
        let answer = bench.send(&format!("/oauth2/authorize?{query}"), Request::builder(), "").await;
        assert_eq!((answer.status.as_u16(), answer.redirect_error().as_str()), (303, error), "{ids} {query}");
        assert_eq!(answer.parameter("state").as_deref(), Some("x"), "A12 {ids}");
        assert_eq!(answer.parameter("iss").as_deref(), Some("https://api.example"), "A16 {ids}");
        assert_eq!(
            (answer.header("cache-control"), answer.header("referrer-policy")),
            ("no-store", "no-referrer"),
            "A17"
        );
    }
    let twice = format!("/oauth2/authorize?{app}&state=y&response_type=code");
    let answer = bench.send(&twice, Request::builder(), "").await;
    assert_eq!((answer.redirect_error().as_str(), answer.parameter("state")), ("invalid_request", None), "A12");
    let long = "\u{fc}+ ".repeat(700);
    let encoded: String = form_urlencoded::byte_serialize(long.as_bytes()).collect();
    let path = format!("/oauth2/authorize?client_id=app&state={encoded}");
    assert_eq!(bench.send(&path, Request::builder(), "").await.parameter("state"), Some(long), "A12 A4");
    let ignored = format!("/oauth2/authorize?{APP}&nonce=1&nonce=2&display=page");
    assert_eq!(bench.send(&ignored, Request::builder(), "").await.status.as_u16(), 200, "A20");
}

#[tokio::test]
async fn ac_codes() {
    let bench = Bench::new().await;
    let mut browser = Browser::new(&bench);
    let app = ("app", "s3cret");
    let pkce = format!("{APP}&code_challenge={CHALLENGE}&code_challenge_method=S256");
    let with = |verifier: &str| format!("{REDIRECT}&code_verifier={verifier}");
    let wrong = VERIFIER.replace('d', "e");
    assert_eq!(exchange(&bench, app, "", REDIRECT).await.error(), "invalid_request", "AC1");
    assert_eq!(exchange(&bench, app, "nosuch", REDIRECT).await.error(), "invalid_grant", "AC1");

    let code = browser.code(&pkce).await;
    for (ids, auth, more, error) in [
        ("AC2", ("slow", "tortoise"), with(VERIFIER), "invalid_grant"),
        ("AC10", ("app", "wrong"), with(VERIFIER), "invalid_client"),
        ("AC4", app, format!("&code_verifier={VERIFIER}"), "invalid_grant"),
        ("AC4", app, format!("&redirect_uri=https://app.example/cb/&code_verifier={VERIFIER}"), "invalid_grant"),
        ("AC5", app, REDIRECT.to_owned(), "invalid_grant"),
        ("AC5 AC11", app, with(&wrong), "invalid_grant"),
        ("AC6", app, with(&VERIFIER[1..]), "invalid_request"),
        ("AC6", app, with(&VERIFIER.replace('-', "%2B")), "invalid_request"),
        ("AC8", app, with(CHALLENGE), "invalid_grant"),
    ] {
        assert_eq!(exchange(&bench, auth, &code, &more).await.error(), error, "{ids} {more}");
    }
    // None of that used it (AC2, AC11); the scope parameter is not this grant's (AC15).
    let first = exchange(&bench, app, &code, &format!("{}&scope=nosuch", with(VERIFIER))).await;
    assert_eq!(first.status.as_u16(), 200, "{:?}", first.json());
    let jti = first.claims()["jti"].as_str().unwrap().to_owned();
    assert_eq!(exchange(&bench, app, &code, &with(&wrong)).await.error(), "invalid_grant", "AC10");
    assert!(!bench.server.revocations().is_revoked(&jti), "AC10: a wrong verifier revokes nothing");
    assert_eq!(exchange(&bench, app, &code, &with(VERIFIER)).await.error(), "invalid_grant", "AC9");
    assert!(bench.server.revocations().is_revoked(&jti), "AC9");

    let code = browser.code(APP).await;
    assert_eq!(exchange(&bench, app, &code, &with(VERIFIER)).await.error(), "invalid_request", "AC7");
    bench.clock.advance(60);
    assert_eq!(exchange(&bench, app, &code, REDIRECT).await.error(), "invalid_grant", "AC3");

    let code = browser.code(&pkce).await;
    for _ in 0..5 {
        exchange(&bench, app, &code, &with(&wrong)).await;
    }
    assert_eq!(exchange(&bench, app, &code, &with(VERIFIER)).await.error(), "invalid_grant", "AC11: five is enough");

    let code = browser.code("client_id=app&response_type=code").await;
    assert_eq!(exchange(&bench, app, &code, "").await.status.as_u16(), 200, "AC4 A4: it was not named");

    let code = browser.code(APP).await;
    let page = browser.get("/oauth2/logout").await;
    browser.submit(&page, "").await;
    assert_eq!(exchange(&bench, app, &code, REDIRECT).await.error(), "invalid_grant", "AC13: logged out");

    let native = "client_id=native&response_type=code&redirect_uri=http://127.0.0.1:5000/cb";
    let native = format!("{native}&code_challenge={CHALLENGE}&code_challenge_method=S256");
    let code = browser.code(&native).await;
    let body = format!("grant_type=authorization_code&code={code}&code_verifier={VERIFIER}&redirect_uri=");
    let port = async |port| {
        bench.post("/oauth2/token", None, &format!("{body}http://127.0.0.1:{port}/cb&client_id=native")).await
    };
    assert_eq!(bench.post("/oauth2/token", None, &body).await.error(), "invalid_client", "AC17");
    assert_eq!(port(5001).await.error(), "invalid_grant", "AC4");
    assert_eq!(port(5000).await.status.as_u16(), 200, "A6");
}

#[tokio::test]
async fn ac13_ac14_changes_between_code_and_exchange() {
    let mut bench = Bench::new().await;
    let code = async |bench: &Bench| Browser::new(bench).code(&format!("{APP}&scope=read+write")).await;
    let pending = code(&bench).await;
    bench.reload(|settings| settings.users = vec![UserSource::File(vec![user("alice", "changed")])]).await;
    assert_eq!(exchange(&bench, ("app", "s3cret"), &pending, REDIRECT).await.error(), "invalid_grant", "AC13");
    bench.reload(|_| ()).await;
    let pending = code(&bench).await;
    bench.reload(|settings| settings.clients[0].scopes = scopes("read")).await;
    assert_eq!(exchange(&bench, ("app", "s3cret"), &pending, REDIRECT).await.text("scope"), "read", "AC14");
    bench.reload(|_| ()).await;
    let pending = code(&bench).await;
    bench.reload(|settings| settings.clients[0].grants = vec![Grant::Password]).await;
    assert_eq!(exchange(&bench, ("app", "s3cret"), &pending, REDIRECT).await.error(), "unauthorized_client", "AC14");
}

#[tokio::test]
async fn t12_of_exchanges_at_once_one_wins() {
    let bench = Bench::new().await;
    let code = Browser::new(&bench).code(APP).await;
    let once = || exchange(&bench, ("app", "s3cret"), &code, REDIRECT);
    let (a, b, c) = tokio::join!(once(), once(), once());
    let statuses: Vec<_> = [a, b, c].iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
}

#[tokio::test]
async fn l1_forms_of_another_browser_are_refused() {
    let bench = Bench::new().await;
    let (mut victim, mut attacker) = (Browser::new(&bench), Browser::new(&bench));
    let (theirs, own) = (
        attacker.get(&format!("/oauth2/authorize?{APP}")).await,
        victim.get(&format!("/oauth2/authorize?{APP}")).await,
    );
    let credentials = "username=alice&password=wonderland";
    let (csrf, transaction) = (
        |page: &Answer| hidden(&page.html()).split_once('&').unwrap().0.to_owned(),
        |page: &Answer| hidden(&page.html()).split_once('&').unwrap().1.to_owned(),
    );
    for (ids, body, status) in [
        ("L1", format!("{}&{credentials}", hidden(&theirs.html())), 403),
        ("L1", format!("{}&{credentials}", transaction(&own)), 403),
        ("L1", format!("csrf=x&{}&{credentials}", transaction(&own)), 403),
        ("L10", format!("{}&{credentials}", csrf(&own)), 400),
        ("A22", format!("{}&{}&{credentials}", csrf(&own), transaction(&theirs)), 400),
        ("A22", format!("{}&{}A&{credentials}", csrf(&own), transaction(&own)), 400),
    ] {
        let answer = victim.post("/oauth2/login", &body).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (status, ""), "{ids}");
    }
    let mut without_cookies = Browser::new(&bench);
    assert_eq!(without_cookies.submit(&own, credentials).await.status.as_u16(), 403, "L1");
    let get = victim.get("/oauth2/login").await;
    assert_eq!((get.status.as_u16(), get.header("allow")), (405, "POST"));
    bench.clock.advance(600);
    assert_eq!(victim.submit(&own, credentials).await.status.as_u16(), 400, "the page is too old");
}

#[tokio::test]
async fn l2_l7_sessions() {
    let bench = Bench::new().await;
    let mut browser = Browser::new(&bench);
    const TRUSTED: &str = "client_id=trusted&response_type=code&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM\
                           &code_challenge_method=S256";
    let path = |more: &str| format!("/oauth2/authorize?{TRUSTED}{more}");
    let answer = browser.log_in(TRUSTED).await;
    assert!(answer.parameter("code").is_some(), "A27: a trusted client");
    let first = browser.cookies["__Host-tollgate-session"].clone();
    for (more, form) in
        [("", false), ("&prompt=none", false), ("&prompt=login", true), ("&max_age=0", true), ("&max_age=100", false)]
    {
        assert_eq!(browser.get(&path(more)).await.parameter("code").is_none(), form, "A15 {more}");
    }
    bench.clock.advance(101);
    assert_eq!(browser.get(&path("&max_age=100")).await.status.as_u16(), 200, "A15 max_age");
    browser.log_in(&format!("{TRUSTED}&prompt=login")).await;
    assert_ne!(browser.cookies["__Host-tollgate-session"], first, "L2: a new id at every login");
    assert!(bench.store.session(store::Digest::of(&first)).await.unwrap().is_none(), "L2: the old one is gone");

    for _ in 0..3 {
        bench.clock.advance(1700);
        assert!(browser.get(&path("")).await.parameter("code").is_some(), "L7: in use");
    }
    bench.clock.advance(1800);
    assert_eq!(browser.get(&path("")).await.status.as_u16(), 200, "L7: idle");
    browser.log_in(TRUSTED).await;
    for _ in 0..25 {
        bench.clock.advance(1700);
        assert!(browser.get(&path("")).await.parameter("code").is_some());
    }
    bench.clock.advance(1700);
    assert_eq!(browser.get(&path("")).await.status.as_u16(), 200, "L7: absolute");

    browser.log_in(TRUSTED).await;
    let session = browser.cookies["__Host-tollgate-session"].clone();
    assert_eq!(browser.post("/oauth2/logout", "").await.status.as_u16(), 403, "L9");
    let page = browser.get("/oauth2/logout").await;
    assert!(page.html().contains("alice") && browser.get(&path("")).await.parameter("code").is_some(), "L9: GET asks");
    assert_eq!(browser.submit(&page, "").await.status.as_u16(), 200);
    assert_eq!(browser.cookies["__Host-tollgate-session"], "");
    browser.cookies.insert("__Host-tollgate-session".into(), session);
    assert_eq!(browser.get(&path("")).await.status.as_u16(), 200, "L9: ended, not only forgotten");
}

#[tokio::test]
async fn l8_two_tabs_return_each_to_its_own_client() {
    let bench = Bench::new().await;
    let mut browser = Browser::new(&bench);
    let first = browser.get(&format!("/oauth2/authorize?{APP}")).await;
    let second = browser.get("/oauth2/authorize?client_id=odd%3Aid%2F+%2B&response_type=code&state=two").await;
    for (page, name) in [(second, "odd:id/ +"), (first, "app")] {
        let answer = browser.submit(&page, "username=alice&password=wonderland").await;
        let consent = answer.header("location").to_owned();
        let consent = browser.get(&consent).await;
        let answer = browser.submit(&consent, "decision=allow").await;
        assert!(answer.header("location").starts_with(&format!("https://{name}.example/cb?code=")), "L8 {name}");
    }
}

#[tokio::test]
async fn a22_a_consent_counts_in_the_session_it_was_asked_in() {
    let mut bench = Bench::new().await;
    let mut browser = Browser::new(&bench);
    let consent = browser.log_in(APP).await.header("location").to_owned();
    let page = browser.get(&consent).await;
    let login = browser.get(&format!("/oauth2/authorize?{APP}&prompt=login")).await;
    browser.submit(&login, "username=root&password=everything").await;
    let answer = browser.submit(&page, "decision=allow").await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (403, ""), "alice was asked, not root");
    let cookies = browser.cookies.clone();
    bench.reload(|settings| settings.users = vec![UserSource::File(vec![user("root", "changed")])]).await;
    let mut browser = Browser { cookies, ..Browser::new(&bench) };
    let page = browser.get(&format!("/oauth2/authorize?{APP}")).await;
    assert!(page.html().contains("name=\"password\""), "P11: a changed password ends sessions");
}

#[tokio::test]
async fn l3_l11_guessing_at_the_form() {
    let bench = Bench::new().await;
    let mut browser = Browser::new(&bench);
    let page = browser.get(&format!("/oauth2/authorize?{APP}")).await;
    for _ in 0..5 {
        assert_eq!(browser.submit(&page, "username=alice&password=x").await.status.as_u16(), 403);
    }
    assert_eq!(browser.submit(&page, "username=alice&password=wonderland").await.status.as_u16(), 403, "P9: locked");
    let other = "client_id=cli&grant_type=password&username=alice&password=wonderland";
    assert_eq!(bench.post("/oauth2/token", None, other).await.error(), "invalid_grant", "P9: one set of counters");
    assert_eq!(bench.login("read").await.status.as_u16(), 200, "nobody else is locked out");
    for n in 0..44 {
        browser.submit(&page, &format!("username=user{n}&password=x")).await;
    }
    let answer = browser.submit(&page, "username=alice&password=wonderland").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "60"), "L11");
}

#[tokio::test]
async fn an_operators_pages_replace_the_built_in_ones_and_mistakes_are_found_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    std::fs::write(path.join("login.html"), "<h1>ACME</h1>{{ client }}").unwrap();
    let own = path.clone();
    let bench = Bench::with(|settings| settings.templates = Some(own)).await;
    let page = bench.send(&format!("/oauth2/authorize?{APP}"), Request::builder(), "").await;
    assert_eq!(page.html(), "<h1>ACME</h1>The app &lt;client&gt;");
    for broken in ["{% if %}", "{{ nosuch }}"] {
        std::fs::write(path.join("login.html"), broken).unwrap();
        let mut settings = settings();
        settings.templates = Some(path.clone());
        let error = bench.server.reload(settings).await.unwrap_err().to_string();
        assert!(error.contains("login.html"), "{error}");
    }
}

#[tokio::test]
async fn client_credentials() {
    let bench = Bench::new().await;
    const ASK: &str = "grant_type=client_credentials&scope=read+offline_access";
    let answer = bench.post("/oauth2/token", Some(&basic("robot", "x")), ASK).await;
    assert_eq!((answer.text("scope").as_str(), &answer.json()["refresh_token"]), ("read", &Value::Null), "6749 4.4.3");
    let claims = answer.claims();
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("client:robot"), &json!("robot")), "BCP 4.15");
    assert!(claims.get("auth_time").is_none() && claims.get("roles").is_none());
    let public = bench.post("/oauth2/token", None, &format!("client_id=publicrobot&{ASK}")).await;
    assert_eq!(public.error(), "unauthorized_client");
    let other = bench.post("/oauth2/token", Some(&basic("app", "s3cret")), ASK).await;
    assert_eq!(other.error(), "unauthorized_client", "T4");
}

#[tokio::test]
async fn ca15_to_ca20_private_key_jwt() {
    let bench = Bench::new().await;
    let stranger = SigningKey::generate(Algorithm::Es256).unwrap();
    const TOKEN_URL: &str = "https://api.example/oauth2/token";
    let claims = |jti: &str| json!({ "iss": "signer", "sub": "signer", "aud": "https://api.example", "exp": START + 60, "iat": START, "jti": jti });
    let but = |jti: &str, name: &str, value: Value| {
        let mut claims = claims(jti);
        claims[name] = value;
        SIGNER.sign("JWT", &claims).unwrap()
    };
    let ask = async |assertion: &str, more: &str| {
        let body = format!(
            "grant_type=client_credentials&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer\
             &client_assertion={assertion}{more}"
        );
        bench.post("/oauth2/token", None, &body).await
    };
    let good = SIGNER.sign("JWT", &claims("1")).unwrap();
    assert_eq!(ask(&good, "").await.status.as_u16(), 200, "S4-8");
    assert_eq!(ask(&good, "").await.error(), "invalid_client", "CA16: replay");
    // Signed by somebody else, under the kid of the client's key.
    let header = |jws: &str| jws.split('.').next().unwrap().to_owned();
    let theirs = stranger.sign("JWT", &claims("15")).unwrap();
    let forged = theirs.replacen(&header(&theirs), &header(&good), 1);
    for (ids, assertion, status) in [
        ("CA18", SIGNER.sign("client-authentication+jwt", &claims("2")).unwrap(), 200),
        ("CA17", but("3", "aud", json!([TOKEN_URL])), 200),
        ("CA17", but("4", "aud", json!(TOKEN_URL)), 200),
        ("CA17", but("5", "aud", json!([TOKEN_URL, "https://api.example"])), 401),
        ("CA17", but("6", "aud", json!("https://other.example")), 401),
        ("CA16", but("7", "exp", json!(START)), 401),
        ("CA16", but("8", "exp", json!(START + 4000)), 401),
        ("CA16", but("9", "exp", json!("9999999999")), 401),
        ("CA16", but("10", "exp", Value::Null), 401),
        ("CA16", but("11", "nbf", json!(START + 60)), 401),
        ("CA16", but("12", "iss", json!("app")), 401),
        ("CA16", but("", "iat", json!(START)), 401),
        ("CA18", SIGNER.sign("at+jwt", &claims("13")).unwrap(), 401),
        ("CA16", stranger.sign("JWT", &claims("14")).unwrap(), 401),
        ("CA16", forged, 401),
        ("CA19", bench.login("read").await.text("access_token"), 401),
    ] {
        assert_eq!(ask(&assertion, "").await.status.as_u16(), status, "{ids} {}", part(&assertion, 1));
    }
    let assertion = SIGNER.sign("JWT", &claims("20")).unwrap();
    assert_eq!(ask(&assertion, "&client_id=app").await.error(), "invalid_client", "CA20");
    assert_eq!(ask(&assertion, "&client_secret=x").await.error(), "invalid_request", "CA7");
    let form = format!("grant_type=password&client_id=signer&client_assertion={assertion}");
    assert_eq!(bench.post("/oauth2/token", None, &form).await.error(), "invalid_request", "CA15");
    let form = format!("{form}&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:saml2-bearer");
    assert_eq!(bench.post("/oauth2/token", None, &form).await.error(), "invalid_request", "CA15");
    assert_eq!(bench.post("/oauth2/token", Some(&basic("signer", "x")), "").await.error(), "invalid_client", "CA14");
    let id_alone = bench.post("/oauth2/token", None, "client_id=signer&grant_type=client_credentials").await;
    assert_eq!(id_alone.error(), "invalid_client", "CA9");
}

async fn introspect(bench: &Bench, client: &str, token: &str) -> Answer {
    bench.post("/oauth2/introspect", Some(&basic(client, "x")), &format!("token={token}")).await
}

#[tokio::test]
async fn rv_and_in_for_both_formats() {
    for format in [AccessTokenFormat::Jwt, AccessTokenFormat::Opaque] {
        let mut bench = Bench::with(|settings| settings.access_token_format = format).await;
        let app = basic("app", "s3cret");
        let revoke = async |bench: &Bench, body: &str| bench.post("/oauth2/revoke", Some(&app), body).await;
        let active = async |bench: &Bench, token: &str| introspect(bench, "api", token).await.json()["active"] == true;
        let inactive = json!({ "active": false });

        let first = bench.login("read+offline_access").await;
        let (access, refresh) = (first.text("access_token"), first.text("refresh_token"));
        let facts = introspect(&bench, "api", &access).await;
        assert_eq!(facts.header("cache-control"), "no-store", "IN4");
        let jti = facts.json()["jti"].clone();
        assert_eq!(
            facts.json(),
            json!({
                "active": true, "scope": "read offline_access", "client_id": "app", "username": "alice", "sub": "alice",
                "token_type": "Bearer", "exp": START + 3600, "iat": START, "auth_time": START, "amr": ["pwd"],
                "aud": "https://api.example", "iss": "https://api.example", "jti": jti, "roles": ["clerk"],
                "tenant": "acme",
            }),
            "IN4 IN7 IN8 IN9"
        );
        assert_eq!(introspect(&bench, "otherapi", &access).await.json(), inactive, "IN7");
        assert_eq!(introspect(&bench, "robot", &access).await.json(), inactive, "IN1");
        assert_eq!(introspect(&bench, "api", &refresh).await.json(), inactive, "IN6");
        for token in ["nosuch", "a.b.c", "%00"] {
            let answer = introspect(&bench, "api", token).await;
            assert!(answer.json() == inactive || answer.status.as_u16() == 400, "IN3 IN11 {token}");
        }
        assert_eq!(bench.post("/oauth2/introspect", None, "client_id=cli&token=x").await.status.as_u16(), 401, "IN1");
        assert_eq!(bench.post("/oauth2/introspect", None, "token=x").await.status.as_u16(), 401, "IN1");
        assert_eq!(introspect(&bench, "api", "").await.error(), "invalid_request", "IN2");
        let get = bench.send("/oauth2/introspect", Request::builder(), "").await;
        assert_eq!((get.status.as_u16(), get.header("allow")), (405, "POST"), "IN1");
        bench
            .reload(|settings| {
                settings.access_token_format = format;
                let UserSource::File(users) = &mut settings.users[0];
                users[0].disabled = true;
            })
            .await;
        assert!(!active(&bench, &access).await, "P11: disabled");
        let other = bench.token("grant_type=password&username=root&password=everything").await.text("access_token");
        bench.clock.advance(1);
        bench
            .reload(|settings| {
                settings.access_token_format = format;
                let UserSource::File(users) = &mut settings.users[0];
                users[3].password = UserPassword::Hash(cheap_hash("changed"));
            })
            .await;
        assert!(!active(&bench, &other).await, "P11: another password");
        assert!(active(&bench, &access).await, "P11: somebody else's");
        let facts_of_new = bench.token("grant_type=password&username=root&password=changed").await.text("access_token");
        assert!(active(&bench, &facts_of_new).await, "P11: issued since");
        bench.reload(|settings| settings.access_token_format = format).await;

        assert_eq!(bench.send("/oauth2/revoke", Request::builder(), "").await.status.as_u16(), 405, "RV1");
        assert_eq!(revoke(&bench, "").await.error(), "invalid_request", "RV1");
        assert_eq!(revoke(&bench, "token=a&token=a").await.error(), "invalid_request", "RV1");
        assert_eq!(revoke(&bench, "token=nosuch&token_type_hint=foo").await.status.as_u16(), 200, "RV3 RV6");
        for token in [&access, &refresh] {
            let foreign = bench.post("/oauth2/revoke", Some(&basic("api", "x")), &format!("token={token}")).await;
            assert_eq!((foreign.status.as_u16(), foreign.error().as_str()), (400, "invalid_grant"), "RV4");
        }
        assert!(active(&bench, &access).await, "RV4");
        let done = revoke(&bench, &format!("token={access}&token_type_hint=refresh_token")).await;
        assert_eq!(
            (done.status.as_u16(), done.body.len(), done.header("cache-control")),
            (200, 0, "no-store"),
            "RV2 RV6"
        );
        assert!(bench.server.revocations().is_revoked(jti.as_str().unwrap()), "RV8");
        assert!(!active(&bench, &access).await, "RV8");
        assert_eq!(revoke(&bench, &format!("token={access}")).await.status.as_u16(), 200, "RV3");
        let unauthenticated = bench.post("/oauth2/revoke", Some(&basic("app", "no")), &format!("token={access}")).await;
        assert_eq!(unauthenticated.error(), "invalid_client", "RV5");

        let second = bench.refresh(&refresh).await;
        assert_eq!(second.status.as_u16(), 200, "RV7: the refresh token stays");
        assert!(active(&bench, &second.text("access_token")).await);
        revoke(&bench, &format!("token={}", second.text("refresh_token"))).await;
        assert!(!active(&bench, &second.text("access_token")).await, "RV7");
        assert_eq!(bench.refresh(&second.text("refresh_token")).await.error(), "invalid_grant", "RV7");

        let public = "client_id=cli&grant_type=password&username=alice&password=wonderland";
        let token = bench.post("/oauth2/token", None, public).await.text("access_token");
        bench.post("/oauth2/revoke", None, &format!("client_id=cli&token={token}")).await;
        assert!(!active(&bench, &token).await, "RV10");

        let own = bench
            .post(
                "/oauth2/token",
                Some(&basic("api", "x")),
                "grant_type=password&username=alice&password=wonderland\
                &scope=read+offline_access",
            )
            .await;
        let facts = introspect(&bench, "api", &own.text("refresh_token")).await.json();
        assert_eq!((&facts["active"], &facts["token_type"]), (&json!(true), &Value::Null), "IN6");
        let access = own.text("access_token");
        bench.clock.advance(3600);
        assert!(!active(&bench, &access).await, "IN3: expired");
    }
}

#[tokio::test]
async fn m3_m4_metadata_lists_what_is_on() {
    let metadata = async |bench: &Bench| {
        bench.send("/.well-known/oauth-authorization-server", Request::builder(), "").await.json()
    };
    let all = metadata(&Bench::new().await).await;
    assert_eq!(all["grant_types_supported"].as_array().unwrap().len(), 4);
    assert_eq!(all["response_modes_supported"], json!(["query"]));
    assert_eq!(all["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(all["authorization_response_iss_parameter_supported"], true);
    assert_eq!(all["revocation_endpoint"], "https://api.example/oauth2/revoke");
    assert!(all["token_endpoint_auth_signing_alg_values_supported"].as_array().unwrap().contains(&json!("ES256")));
    let few = Bench::with(|settings| {
        settings.clients.truncate(1);
        settings.clients[0].grants = vec![Grant::AuthorizationCode];
    });
    let few = metadata(&few.await).await;
    assert_eq!(few["grant_types_supported"], json!(["authorization_code"]));
    assert!(few.get("token_endpoint_auth_signing_alg_values_supported").is_none());
}

/// `cargo test --release --lib measure -- --ignored --nocapture` prints what logins and refreshes cost on two workers.
#[test]
#[ignore = "a measurement"]
fn measure() {
    use std::time::Instant;
    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }
    let hash = PasswordHash(hash_password("wonderland").into());
    let pool = passwords::HashPool::new();
    let begin = Instant::now();
    runtime().block_on(async {
        for _ in 0..10 {
            assert_eq!(pool.verify(&hash, "wonderland").await, Ok(true));
        }
    });
    println!("argon2id m=19456 t=2 p=1: {:.1} ms", begin.elapsed().as_secs_f64() * 100.0);
    for algorithm in [Algorithm::Rs256, Algorithm::Es256] {
        let folder = tempfile::tempdir_in(".").unwrap();
        let clock = Clock::system();
        let store = store::Settings::Embedded { path: folder.path().to_owned() };
        let store = Store::open(&store, clock.clone()).unwrap();
        let mut settings = settings();
        settings.signing_algorithm = algorithm;
        let UserSource::File(users) = &mut settings.users[0];
        users[0].password = UserPassword::Hash(hash.clone());
        let metrics = Metrics::new();
        let start = AuthorizationServer::start(settings, store.clone(), clock.clone(), &metrics);
        let bench = Bench { server: runtime().block_on(start).unwrap(), store, clock, metrics };
        for (what, families, each) in
            [("logins", 16, 4), ("refreshes, one family", 1, 300), ("refreshes, 128", 128, 30)]
        {
            let logins = what == "logins";
            let worker = |n: u32| {
                let bench = &bench;
                runtime().block_on(async move {
                    let own = (0..families).filter(|family| family % 2 == n);
                    let tokens = own.map(|_| bench.login("read+offline_access"));
                    let tokens = futures_join(tokens).await;
                    let begin = Instant::now();
                    let runs = tokens.into_iter().map(|answer| async move {
                        let mut token = answer.text("refresh_token");
                        for _ in 0..each {
                            let answer = if logins {
                                bench.login("read+offline_access").await
                            } else {
                                bench.refresh(&token).await
                            };
                            token = answer.text("refresh_token");
                            assert!(!token.is_empty());
                        }
                    });
                    futures_join(runs).await;
                    begin.elapsed()
                })
            };
            let slowest = std::thread::scope(|scope| {
                let other = scope.spawn(|| worker(1));
                worker(0).max(other.join().unwrap())
            });
            println!("{} {what}: {:.0}/s", algorithm.name(), f64::from(families * each) / slowest.as_secs_f64());
        }
    }
}

/// Runs futures side by side on one thread.
async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut ready = true;
        for (future, output) in running.iter_mut().filter(|(_, output)| output.is_none()) {
            match future.as_mut().poll(cx) {
                std::task::Poll::Ready(value) => *output = Some(value),
                std::task::Poll::Pending => ready = false,
            }
        }
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}
