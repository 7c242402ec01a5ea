//! Tokens of an authorization server that others wrote, as it issues them.

use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway};
use crate::support::mint::{AUDIENCE, Key, Mint};
use crate::support::oidc_provider::OidcProvider;
use crate::support::server::SECRET;
use crate::support::{RecordingUpstream, Req, Wrong, field, send, until};

/// A gateway that accepts what a provider issues.
struct Scene {
    upstream: RecordingUpstream,
    gateway: Gateway,
}

impl Scene {
    /// With these tables, in which ISSUER stands for the provider.
    fn start(provider: &OidcProvider, issuers: &str) -> Self {
        Self::knowing(SECRET, provider, issuers, Builder::start)
    }

    /// `secret` is what the gateway believes to be its own.
    fn knowing(secret: &str, provider: &OidcProvider, issuers: &str, run: fn(Builder, &str) -> Gateway) -> Self {
        let upstream = RecordingUpstream::start();
        let issuers = issuers.replace("ISSUER", &provider.issuer());
        let config = format!(
            r#"
[store.memory]
[admin]
address = "127.0.0.1:0"
[listeners.main]
address = "127.0.0.1:0"
{issuers}
[upstreams.app]
servers = ["{}"]
[[routes]]
path = "/orders/**"
upstream = "app"
allow = [{{ methods = ["GET"], scopes = ["orders:read"] }}, {{ methods = ["POST"], scopes = ["orders:write"] }}]
[routes.forward]
headers = {{ "X-User" = "{{sub}}", "X-Client" = "{{client_id}}" }}
[[routes]]
path = "/fresh/**"
upstream = "app"
cache = "off"
allow = [{{ methods = ["GET"], scopes = ["orders:read"] }}]
"#,
            upstream.url()
        );
        Self { upstream, gateway: run(Builder::new().env("PROVIDER_SECRET", secret), &config) }
    }

    fn call(&self, method: &str, token: &str) -> u16 {
        send(self.gateway.address("main"), &Req::new(method, "/orders/7").bearer(token)).status
    }

    fn get(&self, token: &str) -> u16 {
        self.call("GET", token)
    }

    /// Where every request asks the provider.
    fn get_fresh(&self, token: &str) -> u16 {
        send(self.gateway.address("main"), &Req::get("/fresh/7").bearer(token)).status
    }

    /// How many calls of the provider came to this.
    fn calls(&self, result: &str) -> f64 {
        self.gateway.metrics().sum("tollgate_introspection_calls_total", &[("issuer", "op"), ("result", result)])
    }

    fn is_failing(&self) -> bool {
        self.gateway.metrics().sum("tollgate_introspection_failing", &[("issuer", "op")]) == 1.0
    }
}

const JWT: &str = r#"
[issuers.op.jwt]
issuer = "ISSUER"
audience = ["https://api.test"]
jwks_url = "ISSUER/jwks"
jwks_cooldown = "0s"
"#;

/// What is asked of the provider; by itself it needs `OWN` too.
const INTROSPECTION: &str = r#"
[issuers.op.introspection]
url = "ISSUER/token/introspection"
client_id = "tollgate"
client_secret = { env = "PROVIDER_SECRET" }
"#;

const OWN: &str = r#"
issuer = "ISSUER"
audience = ["https://api.test"]
"#;

/// For what the provider issues opaque tokens.
const OPAQUE: &str = "https://api.test/opaque";

fn text<'a>(tokens: &'a Value, name: &str) -> &'a str {
    tokens[name].as_str().unwrap_or_else(|| panic!("no {name} in {tokens}"))
}

#[test]
fn oidc_provider_jwts_count_and_its_other_tokens_do_not() {
    let Some(provider) = OidcProvider::start(&[&Key::rsa("r1")]) else { return };
    let scene = Scene::start(&provider, JWT);
    let mut wrong = Wrong::default();

    let machine = provider.token(AUDIENCE, "orders:read");
    wrong.eq("a client's own", scene.get(&machine), 200);
    wrong.eq("without the scope", scene.call("POST", &machine), 403);
    let alice = provider.log_in(AUDIENCE, "orders:read orders:write");
    wrong.eq("alice's", scene.call("POST", text(&alice, "access_token")), 200);
    let seen = scene.upstream.last();
    wrong.eq("who", (seen.header("X-User"), seen.header("X-Client")), (Some("alice"), Some("web")));

    wrong.eq("ID token", scene.get(text(&alice, "id_token")), 401);
    wrong.eq("refresh token", scene.get(text(&alice, "refresh_token")), 401);
    wrong.eq("opaque", scene.get(&provider.token("https://api.test/opaque", "orders:read")), 401);
    wrong.eq("for somebody else", scene.get(&provider.token("https://elsewhere.test", "orders:read")), 401);
    let (head, _) = machine.rsplit_once('.').unwrap();
    let (_, signature) = text(&alice, "access_token").rsplit_once('.').unwrap();
    wrong.eq("with another's signature", scene.get(&format!("{head}.{signature}")), 401);

    // An ID token is refused for more than its audience.
    let scene = Scene::start(&provider, &JWT.replace("https://api.test", "web"));
    wrong.eq("ID token for us", scene.get(text(&alice, "id_token")), 401);
    wrong.done();
}

#[test]
fn oidc_provider_rotates_its_keys() {
    let [old, next, last] = [Key::p256("old"), Key::ed25519("next"), Key::p256("last")];
    let Some(mut provider) = OidcProvider::start(&[&old]) else { return };
    let scene = Scene::start(&provider, JWT);
    let mut wrong = Wrong::default();
    let by_old = provider.token(AUDIENCE, "orders:read");
    wrong.eq("old", scene.get(&by_old), 200);
    provider.start_again(&[&next, &old]);
    let by_next = provider.token(AUDIENCE, "orders:read");
    wrong.eq("next, at its first sight", scene.get(&by_next), 200);
    wrong.eq("old, still published", scene.get(&by_old), 200);
    provider.start_again(&[&last]);
    wrong.eq("last, at its first sight", scene.get(&provider.token(AUDIENCE, "orders:read")), 200);
    wrong.eq("old, removed", scene.get(&by_old), 401);
    wrong.eq("next, removed", scene.get(&by_next), 401);
    wrong.done();
}

#[test]
fn oidc_provider_may_be_away() {
    let key = Key::p256("k1");
    let Some(mut provider) = OidcProvider::start(&[&key]) else { return };
    let scene = Scene::start(&provider, JWT);
    let known = provider.token(AUDIENCE, "orders:read");
    let unseen = provider.token(AUDIENCE, "orders:read orders:write");
    let unknown_key = Mint::with(&provider.issuer(), vec![Key::p256("k2")]).token(&json!({ "scope": "orders:read" }));
    let mut wrong = Wrong::default();
    wrong.eq("known", scene.get(&known), 200);
    provider.stop();
    wrong.eq("known, while it is away", scene.get(&known), 200);
    wrong.eq("of a known key", scene.get(&unseen), 200);
    wrong.eq("of an unknown key", scene.get(&unknown_key), 503);
    provider.start_again(&[&key]);
    scene.gateway.wait_metrics("its keys were had again", |metrics| {
        scene.get(&unknown_key);
        metrics.sum("tollgate_key_fetches_total", &[("result", "success")]) >= 2.0
    });
    wrong.eq("of an unknown key, when it is back", scene.get(&unknown_key), 401);
    wrong.eq("issued after that", scene.get(&provider.token(AUDIENCE, "orders:read")), 200);
    wrong.done();
}

#[test]
fn oidc_provider_tells_what_its_opaque_tokens_are() {
    let Some(provider) = OidcProvider::start(&[&Key::p256("k1")]) else { return };
    let scene = Scene::start(&provider, &[INTROSPECTION, OWN].concat());
    let mut wrong = Wrong::default();
    let token = provider.token(OPAQUE, "orders:read");
    wrong.eq("a client's own", scene.get(&token), 200);
    let seen = scene.upstream.last();
    wrong.eq("who", (seen.header("X-User"), seen.header("X-Client")), (None, Some("machine")));
    wrong.eq("again", scene.get(&token), 200);
    wrong.eq("without the scope, by what is known", scene.call("POST", &token), 403);
    let found = |found| {
        scene.gateway.metrics().sum("tollgate_introspection_lookups_total", &[("issuer", "op"), ("found", found)])
    };
    wrong.eq("asked once", (scene.calls("active"), found("miss"), found("hit")), (1.0, 1.0, 2.0));
    let writing = provider.token(OPAQUE, "orders:write");
    wrong.eq("with another scope", (scene.call("POST", &writing), scene.get(&writing)), (200, 403));

    let alice = provider.log_in(OPAQUE, "orders:read");
    wrong.eq("alice's", scene.get(text(&alice, "access_token")), 200);
    wrong.eq("who", scene.upstream.last().header("X-User"), Some("alice"));
    wrong.eq("refresh token", scene.get(text(&alice, "refresh_token")), 401);
    wrong.eq("ID token", scene.get(text(&alice, "id_token")), 401);
    wrong.eq("for somebody else", scene.get(&provider.token("https://elsewhere.test/opaque", "orders:read")), 401);
    let refused = found("negative");
    wrong.eq("one that it never issued", (scene.get("made-up"), scene.get("made-up")), (401, 401));
    wrong.eq("asked once", found("negative") - refused, 1.0);
    wrong.done();
}

#[test]
fn oidc_provider_revokes_opaque_tokens() {
    let Some(provider) = OidcProvider::start(&[&Key::p256("k1")]) else { return };
    let tables = [INTROSPECTION, OWN].concat();
    let scene = Scene::start(&provider, &format!("{tables}cache_ttl = \"1h\""));
    let brief = Scene::start(&provider, &format!("{tables}cache_ttl = \"300ms\""));
    let mut wrong = Wrong::default();
    let token = provider.token(OPAQUE, "orders:read");
    wrong.eq("good", (scene.get(&token), scene.get_fresh(&token), brief.get(&token)), (200, 200, 200));
    provider.revoke(&token);
    wrong.eq("from memory", scene.get(&token), 200);
    until("what was known is over", || brief.get(&token) == 401);
    wrong.eq("where every request asks", scene.get_fresh(&token), 401);
    wrong.eq("known everywhere by now", scene.get(&token), 401);
    wrong.done();
}

#[test]
fn oidc_provider_does_not_introspect_its_jwts() {
    let Some(provider) = OidcProvider::start(&[&Key::p256("k1")]) else { return };
    let (verifying, asking) = ([JWT, INTROSPECTION].concat(), [INTROSPECTION, OWN].concat());
    let mut wrong = Wrong::default();
    let token = provider.token(AUDIENCE, "orders:read");
    let answer = provider.introspect(&token);
    wrong.eq("what it says", (answer.status, answer.json()["error"].as_str()), (400, Some("unsupported_token_type")));
    let stranger = Mint::with(&provider.issuer(), vec![Key::p256("k1")]).token(&json!({ "scope": "orders:read" }));
    for (case, tables, expected) in [("verified here", verifying, 200), ("not verified here", asking, 401)] {
        let scene = Scene::start(&provider, &tables);
        wrong.eq(case, (scene.get(&token), scene.get(&token), scene.get_fresh(&token)), (expected, expected, expected));
        wrong.eq((case, "calls"), scene.calls("unsupported_token_type"), 2.0);
        wrong.eq((case, "opaque"), scene.get(&provider.token(OPAQUE, "orders:read")), 200);
        wrong.eq((case, "forged"), scene.get(&stranger), 401);
        wrong.eq((case, "alarm"), scene.is_failing(), false);
    }
    wrong.done();
}

#[test]
fn oidc_provider_refuses_wrong_credentials() {
    let Some(provider) = OidcProvider::start(&[&Key::p256("k1")]) else { return };
    let scene = Scene::knowing("not the secret", &provider, &[INTROSPECTION, OWN].concat(), Builder::start);
    let token = provider.token(OPAQUE, "orders:read");
    let answer = send(scene.gateway.address("main"), &Req::get("/orders/7").bearer(&token));
    let mut wrong = Wrong::default();
    wrong.eq("answer", (answer.status, answer.header("retry-after").is_some()), (503, true));
    wrong.eq("counted", scene.calls("credentials_refused"), 1.0);
    wrong.eq("alarm", scene.is_failing(), true);
    wrong.eq("upstream", scene.upstream.count(), 0);
    wrong.done();
}

#[test]
fn oidc_provider_may_be_away_while_its_tokens_are_introspected() {
    let key = Key::p256("k1");
    let Some(mut provider) = OidcProvider::start(&[&key]) else { return };
    let scene = Scene::start(&provider, &[JWT, INTROSPECTION].concat());
    let [known, unseen] = [(); 2].map(|()| provider.token(OPAQUE, "orders:read"));
    let known_jwt = provider.token(AUDIENCE, "orders:read");
    let mut wrong = Wrong::default();
    wrong.eq("known", (scene.get(&known), scene.get(&known_jwt)), (200, 200));
    provider.stop();
    wrong.eq("known, while it is away", (scene.get(&known), scene.get(&known_jwt)), (200, 200));
    wrong.eq("alarm, before anybody asks", scene.is_failing(), false);
    let answer = send(scene.gateway.address("main"), &Req::get("/orders/7").bearer(&unseen));
    wrong.eq("unknown", (answer.status, answer.header("retry-after").is_some()), (503, true));
    wrong.eq("known, where every request asks", scene.get_fresh(&known), 503);
    wrong.eq("counted", scene.calls("unreachable"), 2.0);
    wrong.eq("alarm", scene.is_failing(), true);
    wrong.eq("known, still", scene.get(&known), 200);
    provider.start_again(&[&key]);
    wrong.eq("it forgot its tokens", scene.get(&unseen), 401);
    wrong.eq("issued after that", scene.get(&provider.token(OPAQUE, "orders:read")), 200);
    wrong.eq("no alarm", scene.is_failing(), false);
    wrong.done();
}

#[test]
fn oidc_provider_is_discovered() {
    let discovering = JWT.replace("jwks_url = \"ISSUER/jwks\"", "discovery = true");
    let [old, next] = [Key::rsa("old"), Key::p256("next")];
    let Some(mut provider) = OidcProvider::start(&[&old]) else { return };
    let scene = Scene::start(&provider, &discovering);
    let mut wrong = Wrong::default();
    let by_old = provider.token(AUDIENCE, "orders:read");
    wrong.eq("old", scene.get(&by_old), 200);
    provider.start_again(&[&next]);
    wrong.eq("next, at its first sight", scene.get(&provider.token(AUDIENCE, "orders:read")), 200);
    wrong.eq("old, removed", scene.get(&by_old), 401);

    // One byte makes it another issuer, whose metadata these are not.
    let other = discovering.replace("issuer = \"ISSUER\"", "issuer = \"ISSUER/\"");
    let scene = Scene::knowing(SECRET, &provider, &other, Builder::spawn);
    let told = scene.gateway.wait_log("the metadata are another's", |line| line["event"] == "jwks.failed");
    let error = field(&told, "error").unwrap_or_default();
    wrong.ok("why", error.contains("another issuer"), error);
    let ready = scene.gateway.ask_admin("/readyz");
    wrong.eq("not ready", ready.status, 503);
    wrong.ok("which issuer", ready.text().contains("op"), ready.text());
    let forged = Mint::with(&format!("{}/", provider.issuer()), vec![next]).token(&json!({ "scope": "orders:read" }));
    wrong.eq("its tokens", scene.get(&forged), 503);
    wrong.done();
}
