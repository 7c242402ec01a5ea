//! What stands in `Authorization` towards an upstream: a configured token, or a JWT that tells who calls.

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};

use crate::support::mint::{Key, now, payload};
use crate::support::server::{self, HOST, SECRET, basic, tokens};
use crate::support::{Req, Site, Wrong, secrets};

fn routes(lifetime: &str) -> String {
    format!(
        r#"
[[routes]]
name = "told"
path = "/told/**"
upstream = "app"
allow = [{{ methods = ["GET"], authenticated = true }}, {{ methods = ["POST"], public = true }}]
[routes.forward.authorization.signed_jwt]
key = "upstream.pem"
audience = "orders"
lifetime = "{lifetime}"
[routes.forward.authorization.signed_jwt.claims]
tenant = "{{claims.tenant}}"
numbers = "{{claims.numbers}}"
roles = "{{roles}}"
display = "{{sub}} of {{claims.tenant}}"
missing = "{{claims.missing}}"

[[routes]]
name = "other"
path = "/other/**"
upstream = "app"
allow = [{{ authenticated = true }}]
[routes.forward.authorization.signed_jwt]
key = "upstream.pem"
issuer = "the gateway"
audience = "invoices"
"#
    )
}

/// The JWT that the last request came with.
fn sent(site: &Site) -> String {
    let requests = site.upstream.requests();
    let value = requests.last().unwrap().header("authorization").unwrap().to_owned();
    let token = value.strip_prefix("Bearer ").unwrap().to_owned();
    secrets::keep(&token);
    token
}

#[test]
fn a_jwt_tells_the_upstream_who_calls() {
    let key = Key::p256("x");
    let site = Site::builder().file("upstream.pem", key.pem()).more(&routes("5m")).start();
    let mut wrong = Wrong::default();
    let claims =
        json!({"sub": "alice", "client_id": "billing", "scope": "read write", "tenant": "acme", "numbers": [1, 2]});
    let token = site.mint.token(&claims);
    wrong.eq("forwarded", site.get("/told/1", Some(&token)).status, 200);
    let first = sent(&site);

    let header = decode_header(&first).unwrap();
    wrong.eq("typ", header.typ.as_deref(), Some("upstream+jwt"));
    let jwk: Jwk = serde_json::from_value(key.jwk()).unwrap();
    let mut rules = Validation::new(Algorithm::ES256);
    rules.set_audience(&["orders"]);
    rules.set_issuer(&["http://127.0.0.1"]);
    let said = decode::<Value>(&first, &DecodingKey::from_jwk(&jwk).unwrap(), &rules).unwrap().claims;
    let (issued, expires) = (said["iat"].as_i64().unwrap(), said["exp"].as_i64().unwrap());
    wrong.eq("lifetime", expires - issued, 300);
    wrong.ok("now", (issued - now()).abs() < 60, issued);
    let mut facts = said.clone();
    facts.as_object_mut().unwrap().retain(|name, _| !["iat", "exp"].contains(&name.as_str()));
    let expected = json!({
        "iss": "http://127.0.0.1", "aud": "orders", "sub": "alice", "client_id": "billing", "scope": "read write",
        "tenant": "acme", "numbers": [1, 2], "roles": [], "display": "alice of acme",
    });
    wrong.eq("claims", facts, expected);

    // One for each token and route.
    site.get("/told/2", Some(&token));
    wrong.eq("again", sent(&site) == first, true);
    site.get("/other/1", Some(&token));
    let other = payload(&sent(&site));
    wrong.eq("another route", (other["iss"].as_str(), other["aud"].as_str()), (Some("the gateway"), Some("invoices")));
    site.get("/told/1", Some(&site.mint.token(&json!({"sub": "bob", "tenant": "acme"}))));
    wrong.eq("another token", payload(&sent(&site))["sub"].as_str(), Some("bob"));

    // Nobody is told of where nobody is known; what the caller sent stays behind.
    site.send(&Req::post("/told/1").host("api.test").bearer(&token).body("x"));
    let requests = site.upstream.requests();
    wrong.eq("anonymous", requests.last().unwrap().header("authorization"), None);

    // It opens nothing here.
    wrong.eq("as a token", site.get("/told/1", Some(&first)).status, 401);
    wrong.done();
}

#[test]
fn it_never_outlives_the_callers_token() {
    let key = Key::p256("x");
    let site = Site::builder().file("upstream.pem", key.pem()).more(&routes("1h")).issuer("leeway = \"0s\"").start();
    let ends = now() + 40;
    site.get("/told/1", Some(&site.mint.token(&json!({"sub": "alice", "exp": ends}))));
    assert_eq!(payload(&sent(&site))["exp"].as_i64(), Some(ends));
}

#[test]
fn the_public_key_is_published() {
    let key = Key::p256("x");
    let site = server::builder().file("upstream.pem", key.pem()).more(&routes("5m")).start();
    let (access, _) = tokens(&server::log_in(&site, "billing", &[("scope", "orders:read offline_access")]));
    assert_eq!(site.send(&Req::get("/told/1").host(HOST).bearer(&access)).status, 200);
    let sent = sent(&site);
    let answer = site.send(&Req::get("/oauth2/upstream-jwks").host(HOST));
    let set: JwkSet = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(set.keys.len(), 1, "one key for two routes");
    let jwk = set.find(&decode_header(&sent).unwrap().kid.unwrap()).expect("the key is there");
    let mut rules = Validation::new(Algorithm::ES256);
    rules.set_audience(&["orders"]);
    decode::<Value>(&sent, &DecodingKey::from_jwk(jwk).unwrap(), &rules).unwrap();
    // It is none of the keys that access tokens are signed with.
    let own = site.send(&Req::get("/oauth2/jwks").host(HOST)).text();
    assert!(!own.contains(jwk.common.key_id.as_deref().unwrap()), "{own}");
    // Nor does the server take it for one of its own.
    let form = format!("token={sent}");
    let answer = site.send(
        &Req::post("/oauth2/introspect").host(HOST).form(&form).header("Authorization", &basic("billing", SECRET)),
    );
    assert_eq!(answer.json(), json!({"active": false}));
}

#[test]
fn a_configured_token_is_sent_in_place_of_the_callers() {
    let route = r#"
[[routes]]
name = "fixed"
path = "/fixed/**"
upstream = "app"
allow = [{ authenticated = true }]
forward.authorization = { bearer = { env = "UPSTREAM_TOKEN" } }
"#;
    let site = Site::builder().more(route).env("UPSTREAM_TOKEN", "configured-token-of-the-gateway").start();
    assert_eq!(site.get("/fixed/1", Some(&site.mint.scoped("x"))).status, 200);
    assert_eq!(sent(&site), "configured-token-of-the-gateway");
}
