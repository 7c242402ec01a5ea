//! The conformance matrix of the server, case by case, without sockets: a request goes into `handle`, and the answer is
//! compared. Rows carry the ids of the matrix.

use super::*;
use crate::clock::Clock;
use crate::store::{self, Store};
use crate::telemetry::metrics::Metrics;
use argon2::Params;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as BASE64URL};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

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
    let public = secrets.is_empty();
    Client {
        id: id.into(),
        name: format!("The {id} <client>"),
        auth_methods: match public {
            true => vec![AuthMethod::None],
            false => vec![AuthMethod::ClientSecretBasic, AuthMethod::ClientSecretPost],
        },
        secrets,
        public,
        public_password: false,
        grants: vec![Grant::Password, Grant::RefreshToken],
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
        claims: json!({ "tenant": "acme", "iss": "forged", "scope": "admin" }).as_object().unwrap().clone(),
    }
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
