//! The conformance matrix of the server, case by case, without sockets: a request goes into `handle`, and the answer is
//! compared. Rows carry the ids of the matrix.

mod authorize;
mod login;
mod measure;
mod token_endpoint;
mod tokens;

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
        upstream_keys: Vec::new(),
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
