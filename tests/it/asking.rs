//! Issuers that are asked about their tokens (RFC 7662): what is asked, how often, and what is made of the answers. Names
//! carry the ids of docs/conformance.md.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::support::gateway::Builder;
use crate::support::mint::{AUDIENCE, ISSUER, Key, Mint, compact, hmac_sha256, merged, now};
use crate::support::server::basic;
use crate::support::tls::{self, Authority};
use crate::support::upstream::{Exchange, Recorded};
use crate::support::{Gate, RecordingUpstream, Req, Response, Site, Wrong, field, send, until};

const LEGACY: &str = "https://legacy.test";
const SECRET: &str = "s:cret/of the gateway";

/// What the endpoint answers about one token.
#[derive(Clone)]
enum Answer {
    Json(Value),
    /// Status line, header lines, body.
    Raw(&'static str, &'static str, String),
    /// Closes the connection.
    Nothing,
}

/// An introspection endpoint that knows some tokens. Others are not active.
#[derive(Clone)]
struct Endpoint {
    known: Arc<Mutex<BTreeMap<String, Answer>>>,
    server: Arc<RecordingUpstream>,
}

fn good() -> Value {
    json!({"active": true, "aud": AUDIENCE, "sub": "alice", "client_id": "app", "scope": "read",
           "token_type": "Bearer", "exp": now() + 600, "iat": now() - 5})
}

fn form(request: &Recorded) -> BTreeMap<String, String> {
    form_urlencoded::parse(&request.body).into_owned().collect()
}

impl Endpoint {
    fn start() -> Self {
        Self::holding(|| {})
    }

    /// `hold` runs before each answer.
    fn holding(hold: impl Fn() + Send + Sync + 'static) -> Self {
        let known: Arc<Mutex<BTreeMap<String, Answer>>> = Arc::default();
        let tokens = known.clone();
        let answer = move |exchange: &mut Exchange| -> io::Result<()> {
            exchange.read_body()?;
            hold();
            let token = form(&exchange.request).remove("token").unwrap_or_default();
            let answer = tokens.lock().unwrap().get(&token).cloned();
            let json_line = "Content-Type: application/json;charset=UTF-8\r\n";
            match answer.unwrap_or_else(|| Answer::Json(json!({ "active": false }))) {
                Answer::Json(value) => exchange.answer("200 OK", json_line, value.to_string().as_bytes()),
                Answer::Raw(status, lines, body) => exchange.answer(status, lines, body.as_bytes()),
                Answer::Nothing => Err(io::ErrorKind::ConnectionAborted.into()),
            }
        };
        Self { known, server: Arc::new(RecordingUpstream::scripted(answer)) }
    }

    fn knows(&self, token: &str, patch: &Value) -> &Self {
        self.says(token, Answer::Json(merged(good(), patch)))
    }

    fn says(&self, token: &str, answer: Answer) -> &Self {
        self.known.lock().unwrap().insert(token.to_owned(), answer);
        self
    }

    fn count(&self) -> usize {
        self.server.count()
    }

    /// A table for it.
    fn table(&self, name: &str, more: &str) -> String {
        let audience = if more.contains("audience =") { String::new() } else { format!("audience = [\"{AUDIENCE}\"]") };
        format!(
            "[issuers.{name}.introspection]\nurl = \"{}/introspect?tenant=7\"\nclient_id = \"the gateway\"\n\
             client_secret = {{ env = \"INTROSPECTION_SECRET\" }}\n{audience}\n{more}\n",
            self.server.url()
        )
    }
}

const ROUTES: &str = r#"
[[routes]]
name = "any"
path = "/any"
upstream = "app"
allow = [{ authenticated = true }]
[routes.forward]
headers = { "X-User" = "{sub}", "X-Scopes" = "{scope}", "X-Client" = "{client_id}" }
[[routes]]
name = "read"
path = "/read"
upstream = "app"
allow = [{ scopes = ["read"] }]
[[routes]]
name = "write"
path = "/write"
upstream = "app"
allow = [{ scopes = ["write"] }]
[[routes]]
name = "elsewhere"
path = "/elsewhere"
upstream = "app"
audience = ["https://elsewhere.test"]
allow = [{ authenticated = true }]
[[routes]]
name = "fresh"
path = "/fresh"
upstream = "app"
cache = "off"
allow = [{ authenticated = true }]
[routes.forward]
headers = { "X-User" = "{sub}" }
"#;

fn site(tables: &str) -> Site {
    Site::builder().more(tables).more(ROUTES).env("INTROSPECTION_SECRET", SECRET).start()
}

fn verdict(answer: &Response) -> String {
    match answer.challenge_param("error") {
        Some(error) => format!("{} {error}", answer.status),
        None => format!("{}{}", answer.status, if answer.header("retry-after").is_some() { " later" } else { "" }),
    }
}

fn judge(site: &Site, target: &str, token: &str) -> String {
    verdict(&site.get(target, Some(token)))
}

const BAD: &str = "401 invalid_token";
const LATER: &str = "503 later";

#[test]
fn x1_x2_x3_x5_x6_what_is_made_of_answers() {
    let endpoint = Endpoint::start();
    let site =
        site(&endpoint.table("legacy", &format!("issuer = \"{LEGACY}\"\ncache_ttl = \"0s\"\nnegative_ttl = \"0s\"")));
    let json = "Content-Type: application/json\r\n";
    let raw = |status, lines, body: &str| Answer::Raw(status, lines, body.to_owned());
    let patched = |patch: Value| Answer::Json(merged(good(), &patch));
    let text = good().to_string();
    let mut wrong = Wrong::default();
    for (case, answer, expected) in [
        ("good", patched(json!({})), "200"),
        ("our own iss", patched(json!({ "iss": LEGACY })), "200"),
        ("without exp", patched(json!({"exp": null, "iat": null})), "200"),
        ("aud is a list", patched(json!({"aud": ["x", AUDIENCE]})), "200"),
        ("token_type in another case", patched(json!({"token_type": "bearer"})), "200"),
        ("no token_type", patched(json!({"token_type": null})), "200"),
        ("token_use access", patched(json!({"token_use": "access_token"})), "200"),
        ("active is false", patched(json!({"active": false})), BAD),
        ("active is a string", patched(json!({"active": "true"})), BAD),
        ("active is a number", patched(json!({"active": 1})), BAD),
        ("active is missing", patched(json!({"active": null})), BAD),
        ("exp is past", patched(json!({"exp": now() - 60})), BAD),
        ("exp is a string", patched(json!({"exp": "9999999999"})), BAD),
        ("nbf is to come", patched(json!({"nbf": now() + 120})), BAD),
        ("nbf is a string", patched(json!({"nbf": "0"})), BAD),
        ("for somebody else", patched(json!({"aud": "https://other.test"})), BAD),
        ("for nobody", patched(json!({"aud": null})), BAD),
        ("aud is a number", patched(json!({"aud": 7})), BAD),
        ("of another issuer", patched(json!({"iss": "https://other.test"})), BAD),
        ("iss is a list", patched(json!({"iss": [LEGACY]})), BAD),
        ("a refresh token by token_type", patched(json!({"token_type": "refresh_token"})), BAD),
        ("a refresh token by token_use", patched(json!({"token_use": "refresh_token"})), BAD),
        ("a refresh token by typ", patched(json!({"typ": "Refresh"})), BAD),
        ("an ID token by typ", patched(json!({"typ": "ID"})), BAD),
        ("a DPoP token", patched(json!({"token_type": "DPoP"})), BAD),
        ("bound to a key", patched(json!({"cnf": {"jkt": "x"}})), BAD),
        ("scope is a number", patched(json!({"scope": 7})), BAD),
        ("500", raw("500 Internal Server Error", json, "{}"), LATER),
        ("503 with an answer", raw("503 Service Unavailable", json, &text), LATER),
        ("404", raw("404 Not Found", json, &text), LATER),
        ("429", raw("429 Too Many Requests", "", ""), LATER),
        ("our credentials", raw("401 Unauthorized", "WWW-Authenticate: Basic\r\n", ""), LATER),
        ("our rights", raw("403 Forbidden", json, "{\"error\":\"access_denied\"}"), LATER),
        ("400", raw("400 Bad Request", json, "{\"error\":\"invalid_request\"}"), LATER),
        ("a kind it does not introspect", raw("400 Bad Request", json, "{\"error\":\"unsupported_token_type\"}"), BAD),
        ("a redirect", raw("302 Found", "Location: /elsewhere\r\n", &text), LATER),
        ("201", raw("201 Created", json, &text), LATER),
        ("HTML", raw("200 OK", "Content-Type: text/html\r\n", "<html>active: true</html>"), LATER),
        ("JSON that says it is text", raw("200 OK", "Content-Type: text/plain\r\n", &text), LATER),
        ("JSON without a type", raw("200 OK", "", &text), LATER),
        ("no JSON", raw("200 OK", json, "active"), LATER),
        ("a list", raw("200 OK", json, "[{\"active\":true}]"), LATER),
        ("a repeated member", raw("200 OK", json, &text.replacen('{', "{\"active\":false,", 1)), LATER),
        ("cut off JSON", raw("200 OK", json, &text[..text.len() - 1]), LATER),
        ("nothing", raw("200 OK", json, ""), LATER),
        ("compressed", raw("200 OK", "Content-Type: application/json\r\nContent-Encoding: gzip\r\n", &text), LATER),
        ("endless", raw("200 OK", json, &format!("{{\"x\":\"{}\"}}", "x".repeat(70_000))), LATER),
        ("no answer", Answer::Nothing, LATER),
    ] {
        endpoint.says(case.replace(' ', "-").as_str(), answer);
        let before = site.upstream.count();
        wrong.eq(case, judge(&site, "/any", &case.replace(' ', "-")), expected.to_owned());
        wrong.eq((case, "reached the upstream"), site.upstream.count() > before, expected == "200");
    }
    wrong.eq("one that nobody knows", judge(&site, "/any", "stranger"), BAD.to_owned());
    let calls = |result: &str| {
        site.gateway.metrics().sum("tollgate_introspection_calls_total", &[("issuer", "legacy"), ("result", result)])
    };
    wrong.eq("refused credentials are counted", calls("credentials_refused"), 2.0);
    wrong.ok("active ones", calls("active") > 10.0, calls("active"));
    let told = site.gateway.wait_log("the failure is told of", |line| line["event"] == "introspection.failed");
    wrong.eq("by whom", field(&told, "issuer"), Some("legacy"));
    wrong.done();
}

#[test]
fn x8_what_is_sent_to_the_issuer() {
    let endpoint = Endpoint::start();
    let site = site(&endpoint.table("legacy", ""));
    endpoint.knows("a+b/c~d", &json!({}));
    assert_eq!(judge(&site, "/any", "a+b/c~d"), "200");
    assert_eq!(judge(&site, "/any", "other"), BAD);
    let sent = endpoint.server.requests();
    let mut wrong = Wrong::default();
    wrong.eq("method and target", (sent[0].method.as_str(), sent[0].target.as_str()), ("POST", "/introspect?tenant=7"));
    wrong.eq("type", sent[0].header("content-type"), Some("application/x-www-form-urlencoded"));
    wrong.eq("accepts", sent[0].header("accept"), Some("application/json"));
    let credentials = basic("the+gateway", "s%3Acret%2Fof+the+gateway");
    wrong.eq("credentials, form-encoded first", sent[0].header("authorization"), Some(credentials.as_str()));
    let expected = [("token", "a+b/c~d"), ("token_type_hint", "access_token")];
    let expected: BTreeMap<String, String> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    wrong.eq("form", form(&sent[0]), expected);
    wrong.eq("one connection for both", sent[1].connection, 1);
    let forwarded = site.upstream.last();
    wrong.eq("user", forwarded.header("x-user"), Some("alice"));
    wrong.eq("scopes", forwarded.header("x-scopes"), Some("read"));
    wrong.eq("client", forwarded.header("x-client"), Some("app"));
    wrong.eq("the token stays here", forwarded.header("authorization"), None);
    wrong.done();
}

#[test]
fn class_45_facts_are_kept_decisions_are_not() {
    let endpoint = Endpoint::start();
    let site = site(&endpoint.table("legacy", ""));
    endpoint.knows("t", &json!({}));
    let mut wrong = Wrong::default();
    for (target, expected) in
        [("/read", "200"), ("/write", "403 insufficient_scope"), ("/elsewhere", BAD), ("/any", "200"), ("/read", "200")]
    {
        wrong.eq(target, judge(&site, target, "t"), expected.to_owned());
    }
    wrong.eq("asked once", endpoint.count(), 1);
    for target in ["/read", "/any", "/write", "/read"] {
        wrong.eq((target, "unknown"), judge(&site, target, "nobody"), BAD.to_owned());
    }
    wrong.eq("asked once more", endpoint.count(), 2);
    let metrics = site.gateway.metrics();
    let lookups =
        |found| metrics.sum("tollgate_introspection_lookups_total", &[("issuer", "legacy"), ("found", found)]);
    wrong.eq("lookups", ["miss", "hit", "negative", "shared"].map(lookups), [2.0, 4.0, 3.0, 0.0]);
    wrong.eq("entries", metrics.sum("tollgate_introspection_cache_entries", &[("issuer", "legacy")]), 2.0);
    wrong.ok("latency", metrics.sum("tollgate_introspection_duration_seconds_count", &[]) == 2.0, "not two");
    wrong.done();
}

#[test]
fn class_45_the_answers_of_one_issuer_are_not_anothers() {
    let (one, other) = (Endpoint::start(), Endpoint::start());
    one.knows("t", &json!({"sub": "one", "scope": "read"}));
    other.knows("t", &json!({"sub": "other", "scope": "write"}));
    let routes = ["one", "other"].map(|name| {
        format!(
            "[[routes]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"app\"\nissuers = [\"{name}\"]\n\
             allow = [{{ authenticated = true }}]\n[routes.forward]\nheaders = {{ \"X-User\" = \"{{sub}}\" }}\n"
        )
    });
    let tables = one.table("one", "") + &other.table("other", "") + &routes.concat();
    let site = Site::builder().more(&tables).env("INTROSPECTION_SECRET", SECRET).start();
    for name in ["one", "other", "one", "other"] {
        assert_eq!(judge(&site, &format!("/{name}"), "t"), "200");
        assert_eq!(site.upstream.last().header("x-user"), Some(name));
    }
    assert_eq!((one.count(), other.count()), (1, 1));
}

#[test]
fn class_47_x7_many_first_requests_of_one_token_are_one_call() {
    const REQUESTS: usize = 200;
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let endpoint = Endpoint::holding(move || held.wait());
    let site = site(&endpoint.table("legacy", ""));
    endpoint.knows("t", &json!({}));
    let address = site.gateway.address("main");
    let calls: Vec<_> = (0..REQUESTS)
        .map(|_| thread::spawn(move || send(address, &Req::get("/any").host("api.test").bearer("t")).status))
        .collect();
    // All of them wait for the one call before it may end.
    site.gateway.wait_metrics("all wait", |metrics| {
        metrics.sum("tollgate_introspection_lookups_total", &[("found", "shared")]) == (REQUESTS - 1) as f64
    });
    gate.open();
    let statuses: Vec<u16> = calls.into_iter().map(|call| call.join().unwrap()).collect();
    assert_eq!(statuses, [200; REQUESTS]);
    assert_eq!(endpoint.count(), 1);
}

#[test]
fn class_47_calls_at_a_time_are_capped_and_made_up_tokens_drive_out_no_good_one() {
    let endpoint = Endpoint::start();
    let site = site(&endpoint.table("legacy", "concurrency = 2\ncache_entries = 20\nnegative_ttl = \"10m\""));
    endpoint.knows("good", &json!({}));
    assert_eq!(judge(&site, "/any", "good"), "200");
    let address = site.gateway.address("main");
    let calls: Vec<_> = (0..8)
        .map(|worker| {
            thread::spawn(move || {
                let tokens = (0..50).map(|n| format!("made-up-{worker}-{n}"));
                let statuses =
                    tokens.map(|token| send(address, &Req::get("/any").host("api.test").bearer(&token)).status);
                statuses.filter(|status| *status != 401).count()
            })
        })
        .collect();
    let others: usize = calls.into_iter().map(|call| call.join().unwrap()).sum();
    let mut wrong = Wrong::default();
    wrong.eq("answers other than 401", others, 0);
    wrong.ok("connections", endpoint.server.connections() <= 2, endpoint.server.connections());
    let before = endpoint.count();
    wrong.eq("the good one", judge(&site, "/any", "good"), "200".to_owned());
    wrong.eq("asked for it again", endpoint.count() - before, 0);
    let kept = site.gateway.metrics().sum("tollgate_introspection_cache_entries", &[]);
    wrong.ok("entries", kept <= 40.0, kept);
    wrong.done();
}

#[test]
fn class_38_x7_times_are_looked_at_on_every_hit() {
    let endpoint = Endpoint::start();
    let site = site(&endpoint.table("legacy", "cache_ttl = \"1h\"\nnegative_ttl = \"1h\"\nleeway = \"0s\""));
    let (ends, begins) = (now() + 3, now() + 3);
    endpoint.knows("ends", &json!({ "exp": ends })).knows("begins", &json!({ "nbf": begins }));
    let mut wrong = Wrong::default();
    wrong.eq("ends later", judge(&site, "/any", "ends"), "200".to_owned());
    wrong.eq("has not begun", judge(&site, "/any", "begins"), BAD.to_owned());
    until("the one has ended", || judge(&site, "/any", "ends") == BAD);
    wrong.ok("not before its time", now() >= ends, "too early");
    until("the other has begun", || judge(&site, "/any", "begins") == "200");
    wrong.ok("not before its time", now() >= begins, "too early");
    wrong.eq("asked once about the one that begins", asked_about(&endpoint, "begins"), 1);
    // Whatever the issuer goes on to say of one that has ended, it is not asked each time.
    let before = endpoint.count();
    for _ in 0..5 {
        wrong.eq("has ended", judge(&site, "/any", "ends"), BAD.to_owned());
    }
    wrong.ok("asked at most once more", endpoint.count() <= before + 1, endpoint.count());
    wrong.done();
}

fn asked_about(endpoint: &Endpoint, token: &str) -> usize {
    endpoint.server.requests().iter().filter(|request| form(request)["token"] == token).count()
}

#[test]
fn class_46_a_route_can_ask_every_time() {
    let endpoint = Endpoint::start();
    let site = site(&endpoint.table("legacy", "cache_ttl = \"1h\"\nnegative_ttl = \"1h\""));
    endpoint.knows("t", &json!({}));
    let mut wrong = Wrong::default();
    wrong.eq("kept", judge(&site, "/any", "t"), "200".to_owned());
    wrong.eq("asked", judge(&site, "/fresh", "t"), "200".to_owned());
    wrong.eq("calls", endpoint.count(), 2);
    endpoint.says("t", Answer::Json(json!({ "active": false })));
    wrong.eq("from memory", judge(&site, "/any", "t"), "200".to_owned());
    wrong.eq("asked", judge(&site, "/fresh", "t"), BAD.to_owned());
    // What was learnt counts for all.
    wrong.eq("known by now", judge(&site, "/any", "t"), BAD.to_owned());
    wrong.eq("calls", endpoint.count(), 3);
    wrong.done();
}

#[test]
fn class_50_what_is_sent_again_on_a_connection_is_what_is_known_now() {
    let endpoint = Endpoint::start();
    let site = site(&endpoint.table("legacy", ""));
    let mut conn = site.connect();
    let mut wrong = Wrong::default();
    // Word for word the same request, each time.
    for user in ["alice", "alice", "alice", "bob", "bob", "carol", "alice"] {
        endpoint.knows("t", &json!({ "sub": user }));
        wrong.eq(user, conn.send(&Req::get("/fresh").bearer("t")).status, 200);
        wrong.eq(user, site.upstream.last().header("X-User"), Some(user));
    }
    wrong.done();
}

#[test]
fn x7_an_answer_from_before_a_refusal_brings_no_token_back() {
    for negative_ttl in ["1h", "0s"] {
        let gate = Arc::new(Gate::default());
        let (held, asked) = (gate.clone(), AtomicBool::new(false));
        // What it says first, it says before the token is revoked, and slowly.
        let server = RecordingUpstream::scripted(move |exchange| {
            // Before it is told that the request is there: the next one may follow at once.
            let answer = if asked.swap(true, Ordering::Relaxed) { json!({ "active": false }) } else { good() };
            exchange.read_body()?;
            if answer["active"] == true {
                held.wait();
            }
            exchange.answer("200 OK", "Content-Type: application/json\r\n", answer.to_string().as_bytes())
        });
        let endpoint = Endpoint { known: Arc::default(), server: Arc::new(server) };
        let site = site(&endpoint.table("legacy", &format!("cache_ttl = \"1h\"\nnegative_ttl = \"{negative_ttl}\"")));
        let address = site.gateway.address("main");
        let slow = thread::spawn(move || send(address, &Req::get("/any").host("api.test").bearer("t")).status);
        endpoint.server.wait_for(1);
        let mut wrong = Wrong::default();
        wrong.eq((negative_ttl, "revoked"), judge(&site, "/fresh", "t"), BAD.to_owned());
        gate.open();
        wrong.eq((negative_ttl, "who asked before"), slow.join().unwrap(), 401);
        wrong.eq((negative_ttl, "who asks after"), judge(&site, "/any", "t"), BAD.to_owned());
        wrong.done();
    }
}

#[test]
fn class_46_an_answer_counts_for_a_bounded_time() {
    let endpoint = Endpoint::start();
    let site = site(&endpoint.table("legacy", "cache_ttl = \"300ms\"\nnegative_ttl = \"300ms\""));
    endpoint.knows("t", &json!({}));
    assert_eq!(judge(&site, "/any", "t"), "200");
    endpoint.says("t", Answer::Json(json!({ "active": false })));
    until("the refusal is seen", || judge(&site, "/any", "t") == BAD);
    endpoint.knows("t", &json!({}));
    until("the refusal is forgotten", || judge(&site, "/any", "t") == "200");
}

#[test]
fn class_48_an_issuer_that_is_away_closes_nothing_that_is_known() {
    let away = Arc::new(AtomicBool::new(false));
    let gate = Arc::new(Gate::default());
    let (is_away, held) = (away.clone(), gate.clone());
    let endpoint = Endpoint::holding(move || {
        if is_away.load(Ordering::Relaxed) {
            held.wait();
        }
    });
    let site = site(&endpoint.table("legacy", "timeout = \"300ms\""));
    endpoint.knows("known", &json!({})).knows("new", &json!({}));
    let mut wrong = Wrong::default();
    wrong.eq("known", judge(&site, "/any", "known"), "200".to_owned());
    away.store(true, Ordering::Relaxed);
    wrong.eq("known, while it is away", judge(&site, "/any", "known"), "200".to_owned());
    wrong.eq("new, while it is away", judge(&site, "/any", "new"), LATER.to_owned());
    wrong.eq("known, where every request asks", judge(&site, "/fresh", "known"), LATER.to_owned());
    let failing = |site: &Site| site.gateway.metrics().sum("tollgate_introspection_failing", &[("issuer", "legacy")]);
    wrong.eq("alarm", failing(&site), 1.0);
    wrong.ok(
        "counted",
        site.gateway.metrics().sum("tollgate_introspection_calls_total", &[("result", "timeout")]) >= 2.0,
        "no time-out",
    );
    away.store(false, Ordering::Relaxed);
    gate.open();
    until("back", || judge(&site, "/any", "new") == "200");
    wrong.eq("no alarm", failing(&site), 0.0);
    site.gateway.wait_log("recovered", |line| line["event"] == "introspection.recovered");
    wrong.done();
}

#[test]
fn nobody_is_sent_tokens_of_others() {
    let endpoint = Endpoint::start();
    let prefixed = Endpoint::start();
    let tables = endpoint.table("legacy", &format!("issuer = \"{LEGACY}\""))
        + &prefixed.table("partner", "token_prefix = \"pt_\"")
        + r#"
[authorization_server]
signing_algorithm = "ES256"
[authorization_server.clients.app]
secret = { env = "INTROSPECTION_SECRET" }
grants = ["client_credentials"]
scopes = ["read"]
default_scopes = ["read"]
[[routes]]
name = "narrow"
path = "/narrow"
upstream = "app"
issuers = ["legacy"]
allow = [{ authenticated = true }]
"#;
    let site = site(&tables);
    let legacy = Mint::with(LEGACY, vec![Key::p256("k9")]);
    let stranger = Mint::with("https://stranger.test", vec![Key::p256("k9")]);
    let of_legacy = legacy.scoped("read");
    let symmetric =
        compact(&json!({"alg": "HS256", "typ": "JWT"}).to_string(), &legacy.claims().to_string(), |input| {
            hmac_sha256(b"known to legacy alone", input)
        });
    endpoint.knows(&of_legacy, &json!({})).knows(&symmetric, &json!({})).knows("opaque", &json!({}));
    prefixed.knows("pt_1", &json!({}));
    let answer = site.send(
        &Req::post("/oauth2/token")
            .header("Authorization", &basic("app", "s%3Acret%2Fof+the+gateway"))
            .form("grant_type=client_credentials"),
    );
    let own = answer.json()["access_token"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned();
    let tampered = format!("{}x", site.mint.scoped("read"));
    let mut wrong = Wrong::default();
    for (case, target, token, expected, calls) in [
        ("opaque", "/any", "opaque", "200", (1, 0)),
        ("opaque with a prefix", "/any", "pt_1", "200", (0, 1)),
        ("with a prefix, where its issuer is not accepted", "/narrow", "pt_1", BAD, (0, 0)),
        ("a JWT of the issuer that is asked", "/any", &of_legacy, "200", (1, 0)),
        ("a JWT that nobody could verify here", "/any", &symmetric, "200", (1, 0)),
        ("a JWT of a stranger", "/any", &stranger.scoped("read"), BAD, (0, 0)),
        ("a JWT of an issuer that is verified here", "/any", &site.mint.scoped("read"), "200", (0, 0)),
        ("the same, tampered with", "/any", &tampered, BAD, (0, 0)),
        ("the same, where it is not accepted", "/narrow", &site.mint.scoped("x"), BAD, (0, 0)),
        ("our own JWT", "/any", &own, "401 invalid_token", (0, 0)),
        ("our own opaque token", "/any", "tga_0123456789", BAD, (0, 0)),
        ("our own refresh token", "/any", "tgr_0123456789", BAD, (0, 0)),
        ("our own code", "/any", "tgc_0123456789", BAD, (0, 0)),
    ] {
        let before = (endpoint.count(), prefixed.count());
        // The audience of the embedded server's tokens is the gateway's public URL: they are accepted.
        let expected = if case == "our own JWT" { "200" } else { expected };
        wrong.eq(case, judge(&site, target, token), expected.to_owned());
        wrong.eq((case, "calls"), (endpoint.count() - before.0, prefixed.count() - before.1), calls);
    }
    wrong.done();
}

#[test]
fn class_40_what_an_unverified_jwt_says_of_itself_is_not_believed() {
    let endpoint = Endpoint::start();
    let site = site(&endpoint.table("legacy", &format!("issuer = \"{LEGACY}\"")));
    let legacy = Mint::with(LEGACY, vec![Key::p256("k9")]);
    let token = legacy.token(&json!({"sub": "root", "scope": "read write"}));
    endpoint.says(&token, Answer::Json(json!({"active": true, "aud": AUDIENCE})));
    assert_eq!(judge(&site, "/any", &token), "200");
    let forwarded = site.upstream.last();
    assert_eq!((forwarded.header("x-user"), forwarded.header("x-scopes")), (None, None));
    assert_eq!(judge(&site, "/write", &token), "403 insufficient_scope");
}

#[test]
fn x4_verified_here_and_then_introspected() {
    let endpoint = Endpoint::start();
    // Audience and claims are those of the `jwt` table.
    let table = endpoint.table("corp", "").replace(&format!("audience = [\"{AUDIENCE}\"]"), "");
    let site = site(&(table + "cache_ttl = \"1h\"\nnegative_ttl = \"1h\"\n"));
    let unsupported = Answer::Raw(
        "400 Bad Request",
        "Content-Type: application/json\r\n",
        json!({"error": "unsupported_token_type"}).to_string(),
    );
    let token = |jti: &str| site.mint.token(&json!({"jti": jti, "scope": "read write"}));
    let (active, bare, narrowed, inactive, local) =
        (token("active"), token("bare"), token("narrowed"), token("inactive"), token("local"));
    endpoint
        .knows(&active, &json!({"scope": "read write", "iss": ISSUER}))
        .says(&bare, Answer::Json(json!({"active": true})))
        .says(&narrowed, Answer::Json(json!({"active": true, "scope": "read"})))
        .says(&local, unsupported)
        .knows("opaque", &json!({}));
    let mut wrong = Wrong::default();
    for round in ["first", "again"] {
        for (case, target, token, expected) in [
            ("active", "/write", &active, "200"),
            ("active, and nothing else is said", "/write", &bare, "200"),
            ("fewer scopes than it was issued with", "/write", &narrowed, "403 insufficient_scope"),
            ("fewer scopes, enough", "/read", &narrowed, "200"),
            ("not active", "/write", &inactive, BAD),
            ("a kind it does not introspect", "/write", &local, "200"),
            ("opaque", "/read", &"opaque".to_owned(), "200"),
        ] {
            wrong.eq((round, case), judge(&site, target, token), expected.to_owned());
        }
    }
    wrong.eq("one call for each token", endpoint.count(), 6);
    // Whatever else it says, it speaks of a token of somebody else.
    let foreign = token("foreign");
    endpoint.knows(&foreign, &json!({"scope": "read write", "iss": "https://other.test"}));
    wrong.eq("the answer names another issuer", judge(&site, "/write", &foreign), BAD.to_owned());
    let before = endpoint.count();
    let expired = site.mint.token(&json!({"exp": now() - 120}));
    let forged = Mint::new().scoped("read");
    let elsewhere = site.mint.token(&json!({"aud": "https://other.test"}));
    endpoint.knows(&expired, &json!({})).knows(&forged, &json!({})).knows(&elsewhere, &json!({}));
    for (case, token) in [("expired", &expired), ("forged", &forged), ("for somebody else", &elsewhere)] {
        wrong.eq(case, judge(&site, "/any", token), BAD.to_owned());
    }
    wrong.eq("nobody is asked about what is refused anyway", endpoint.count(), before);
    wrong.eq("bare: who", site.get("/any", Some(&bare)).status, 200);
    wrong.eq("bare: who", site.upstream.last().header("x-user"), Some("alice"));
    wrong.done();
}

#[test]
fn x4_what_the_jwt_table_demands_is_demanded_of_answers_where_it_is_written() {
    let endpoint = Endpoint::start();
    // As it is with tokens of clients in their own name.
    endpoint.knows("opaque", &json!({ "sub": null }));
    for (lines, expected) in [("", "200"), ("required_claims = [\"sub\"]", BAD)] {
        let table = endpoint.table("corp", "").replace(&format!("audience = [\"{AUDIENCE}\"]"), "");
        let builder = Site::builder().issuer(lines).more(&table).more(ROUTES);
        let site = builder.env("INTROSPECTION_SECRET", SECRET).start();
        assert_eq!(judge(&site, "/any", "opaque"), expected, "{lines}");
        assert_eq!(judge(&site, "/any", &site.mint.token(&json!({ "sub": null }))), BAD, "{lines}");
    }
}

#[test]
fn x8_x9_the_issuers_certificate_is_verified() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let serving = |names: &[&str]| {
        let config = authority.server(&authority.identity(names), &[], false);
        let jwks = Mint::with("https://tls.test", vec![Key::p256("k")]).jwks();
        RecordingUpstream::over(
            move |socket| tls::accept(&config, socket),
            move |exchange| {
                let body = if exchange.request.target == "/keys" { jwks.clone() } else { good().to_string() };
                exchange.answer("200 OK", "Content-Type: application/json\r\n", body.as_bytes())
            },
        )
    };
    let (right, wrong_name) = (serving(&["localhost"]), serving(&["elsewhere.test"]));
    let mut wrong = Wrong::default();
    for (case, server, ca, expected) in [
        ("our authority", &right, "ca = \"ca.crt\"", "200"),
        ("the platform's authorities", &right, "", LATER),
        ("another authority", &right, "ca = \"stranger.crt\"", LATER),
        ("another name", &wrong_name, "ca = \"ca.crt\"", LATER),
    ] {
        let port = server.address.port();
        let tables = format!(
            "[issuers.asked.introspection]\nurl = \"https://localhost:{port}/introspect\"\nclient_id = \"gateway\"\n\
             client_secret = {{ env = \"INTROSPECTION_SECRET\" }}\naudience = [\"{AUDIENCE}\"]\n{ca}\n\
             [issuers.verified.jwt]\nissuer = \"https://tls.test\"\naudience = [\"{AUDIENCE}\"]\n\
             jwks_url = \"https://localhost:{port}/keys\"\n{ca}\n"
        );
        let files = [("ca.crt", authority.pem()), ("stranger.crt", stranger.pem())];
        let upstream = RecordingUpstream::start();
        let config = format!(
            "[server]\npublic_url = \"http://127.0.0.1\"\n[store.memory]\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [listeners.main]\naddress = \"127.0.0.1:0\"\n[upstreams.app]\nservers = [\"{}\"]\n{tables}{ROUTES}",
            upstream.url()
        );
        let files = files.iter().fold(Builder::new(), |builder, (name, pem)| builder.file(name, pem));
        let gateway = files.env("INTROSPECTION_SECRET", SECRET).spawn(&config);
        let event = if expected == "200" { "jwks.fetched" } else { "jwks.failed" };
        gateway.wait_log(case, |line| line["event"] == event && field(line, "issuer") == Some("verified"));
        let answer = send(gateway.address("main"), &Req::get("/any").host("api.test").bearer("opaque"));
        wrong.eq((case, "introspection"), verdict(&answer), expected.to_owned());
    }
    wrong.done();
}
