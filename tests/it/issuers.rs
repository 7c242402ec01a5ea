//! Tokens of an authorization server that others wrote, as it issues them.

use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway};
use crate::support::mint::{AUDIENCE, Key, Mint};
use crate::support::oidc_provider::OidcProvider;
use crate::support::{RecordingUpstream, Req, Wrong, send};

/// A gateway that accepts what a provider issues.
struct Scene {
    upstream: RecordingUpstream,
    gateway: Gateway,
}

impl Scene {
    /// With these tables, in which ISSUER stands for the provider.
    fn start(provider: &OidcProvider, issuers: &str) -> Self {
        let upstream = RecordingUpstream::start();
        let issuers = issuers.replace("ISSUER", &provider.issuer());
        let gateway = Builder::new().start(&format!(
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
"#,
            upstream.url()
        ));
        Self { upstream, gateway }
    }

    fn call(&self, method: &str, token: &str) -> u16 {
        send(self.gateway.address("main"), &Req::new(method, "/orders/7").bearer(token)).status
    }

    fn get(&self, token: &str) -> u16 {
        self.call("GET", token)
    }
}

const JWT: &str = r#"
[issuers.op.jwt]
issuer = "ISSUER"
audience = ["https://api.test"]
jwks_url = "ISSUER/jwks"
jwks_cooldown = "0s"
"#;

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
