//! Clients that act for themselves, and clients that sign for who they are (RFC 7523). Names carry the ids of
//! docs/conformance.md.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::mint::{self, Key, b64, compact, hmac_sha256, merged, now};
use crate::support::server::{
    self, HOST, PASSWORD, SECRET, ask, basic, code_form, encode, outcome, password_form, refresh_form, request_of,
    token_request, tokens,
};
use crate::support::{Req, Response, Site, Wrong};

const ISSUER: &str = "http://127.0.0.1";
const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

const SIGNED: &str = r#"
[authorization_server.lockout]
address_failures = 100000

[authorization_server.clients.signed]
auth_methods = ["private_key_jwt"]
jwks_file = "signed.jwks"
grants = ["authorization_code", "refresh_token", "password", "client_credentials"]
redirect_uris = ["https://signed.test/callback"]
scopes = ["orders:read", "orders:write", "offline_access"]
default_scopes = ["orders:read"]
trusted = true
introspect = true

[authorization_server.clients.both]
secret = { env = "CLIENT_SECRET" }
auth_methods = ["client_secret_basic", "private_key_jwt"]
jwks_file = "both.jwks"
grants = ["client_credentials"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]

[authorization_server.clients.nothing-by-default]
secret = { env = "CLIENT_SECRET" }
grants = ["client_credentials"]
scopes = ["orders:read"]
"#;

struct Scene {
    site: Site,
    keys: Vec<Key>,
    other: Key,
}

fn set(keys: &[&Key]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

fn scene() -> Scene {
    let keys = vec![Key::p256("k1"), Key::rsa("k2"), Key::ed25519("k3")];
    let other = Key::p256("o1");
    let site = server::browsed()
        .embedded()
        .more(SIGNED)
        .file("signed.jwks", set(&keys.iter().collect::<Vec<_>>()))
        .file("both.jwks", set(&[&other]))
        .start();
    Scene { site, keys, other }
}

fn header(key: &Key) -> Value {
    json!({"alg": key.algorithm(), "kid": key.kid})
}

fn claims() -> Value {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    json!({"iss": "signed", "sub": "signed", "aud": ISSUER, "iat": now(), "exp": now() + 60, "jti": format!("j{n}")})
}

impl Scene {
    /// A good assertion with changes to its header and claims; null removes.
    fn assertion(&self, header_patch: &Value, claims_patch: &Value) -> String {
        let key = &self.keys[0];
        let (header, claims) = (merged(header(key), header_patch), merged(claims(), claims_patch));
        compact(&header.to_string(), &claims.to_string(), |input| key.sign(input))
    }

    fn good(&self) -> String {
        self.assertion(&Value::Null, &Value::Null)
    }

    fn send(&self, assertion: &str) -> Response {
        self.site.send(&token_request(&by(assertion, "grant_type=client_credentials")))
    }
}

/// A form with an assertion added to it.
fn by(assertion: &str, form: &str) -> String {
    format!("{form}&{}", encode(&[("client_assertion_type", TYPE), ("client_assertion", assertion)]))
}

const NO: &str = "401 invalid_client";

#[test]
fn ca16_to_ca19_assertions() {
    let scene = scene();
    let mut wrong = Wrong::default();
    let key = &scene.keys[0];
    let none = Value::Null;
    let with = |patch: Value| scene.assertion(&none, &patch);
    let head = |patch: Value| scene.assertion(&patch, &none);
    let signed_by = |key: &Key, algorithm: &str| {
        let header = json!({"alg": algorithm, "kid": key.kid}).to_string();
        compact(&header, &claims().to_string(), |input| key.sign_as(algorithm, input))
    };
    let t = now();
    let own_access = tokens(&scene.send(&scene.good())).0;
    let changed = {
        let good = scene.good();
        let parts: Vec<&str> = good.split('.').collect();
        let payload = merged(claims(), &json!({"exp": t + 120})).to_string();
        format!("{}.{}.{}", parts[0], b64(payload), parts[2])
    };
    let embedded = {
        let header = json!({"alg": "ES256", "jwk": scene.other.jwk(), "kid": "o1"}).to_string();
        compact(&header, &claims().to_string(), |input| scene.other.sign(input))
    };
    let symmetric = compact(&json!({"alg": "HS256", "kid": "k1"}).to_string(), &claims().to_string(), |input| {
        hmac_sha256(&key.public_bytes(), input)
    });
    let unsigned = format!("{}.{}.", b64(json!({"alg": "none"}).to_string()), b64(claims().to_string()));
    let twice = {
        let text = claims().to_string().replacen('{', "{\"iss\":\"signed\",", 1);
        compact(&header(key).to_string(), &text, |input| key.sign(input))
    };
    let cases = [
        ("good", scene.good(), "200"),
        ("RS256", signed_by(&scene.keys[1], "RS256"), "200"),
        ("EdDSA", signed_by(&scene.keys[2], "EdDSA"), "200"),
        ("PS256 with a key for RS256", signed_by(&scene.keys[1], "PS256"), NO),
        ("no kid", head(json!({"kid": null})), "200"),
        ("unknown kid", head(json!({"kid": "k9"})), NO),
        ("the kid of another key", head(json!({"kid": "k2"})), NO),
        ("changed", changed, NO),
        ("another client's key", signed_by(&scene.other, "ES256"), NO),
        ("alg none", unsigned, NO),
        ("HS256 with the public key", symmetric, NO),
        ("crit", head(json!({"crit": ["x"], "x": 1})), NO),
        ("members twice", twice, NO),
        ("CA18 typ JWT", head(json!({"typ": "JWT"})), "200"),
        ("CA18 typ jwt", head(json!({"typ": "jwt"})), "200"),
        ("CA18 typ client-authentication+jwt", head(json!({"typ": "client-authentication+jwt"})), "200"),
        ("CA18 typ with application/", head(json!({"typ": "application/client-authentication+jwt"})), "200"),
        ("CA18 typ at+jwt", head(json!({"typ": "at+jwt"})), NO),
        ("CA18 typ dpop+jwt", head(json!({"typ": "dpop+jwt"})), NO),
        ("CA18 typ is a number", head(json!({"typ": 1})), NO),
        ("CA19 jwk in the header", embedded, NO),
        ("CA19 jku is not fetched", head(json!({"jku": "http://127.0.0.1:9/keys", "kid": "k9"})), NO),
        ("CA19 an access token of ours", own_access, NO),
        ("CA19 the gateway's other issuer", scene.site.mint.token(&json!({"iss": "signed", "sub": "signed"})), NO),
        ("iss is missing", with(json!({"iss": null})), NO),
        ("iss of another", with(json!({"iss": "both"})), NO),
        ("sub is missing", with(json!({"sub": null})), NO),
        ("sub of another", with(json!({"iss": "both", "sub": "both"})), NO),
        ("sub of an unknown client", with(json!({"iss": "x", "sub": "x"})), NO),
        ("sub of a client with a secret", with(json!({"iss": "machine", "sub": "machine"})), NO),
        ("sub is a list", with(json!({"sub": ["signed"]})), NO),
        ("exp is missing", with(json!({"exp": null})), NO),
        ("exp is past", with(json!({"exp": t - 60})), NO),
        ("exp is a text", with(json!({"exp": (t + 60).to_string()})), NO),
        ("exp is a fraction", with(json!({"exp": t as f64 + 60.5})), "200"),
        ("exp is negative", with(json!({"exp": -1})), NO),
        ("exp is huge", with(json!({"exp": 1e300})), NO),
        ("exp in an hour", with(json!({"exp": t + 3590})), "200"),
        ("exp in a day", with(json!({"exp": t + 86400})), NO),
        ("nbf is past", with(json!({"nbf": t - 60})), "200"),
        ("nbf is to come", with(json!({"nbf": t + 120})), NO),
        ("nbf is a text", with(json!({"nbf": "0"})), NO),
        ("iat is missing", with(json!({"iat": null})), "200"),
        ("iat is to come", with(json!({"iat": t + 120})), NO),
        ("iat is a text", with(json!({"iat": "now"})), NO),
        ("jti is missing", with(json!({"jti": null})), NO),
        ("jti is empty", with(json!({"jti": ""})), NO),
        ("jti is a number", with(json!({"jti": 7})), NO),
        ("jti is long", with(json!({"jti": "x".repeat(5000)})), NO),
        ("CA17 the token endpoint", with(json!({"aud": "http://127.0.0.1/oauth2/token"})), "200"),
        ("CA17 a list of one", with(json!({"aud": [ISSUER]})), "200"),
        ("CA17 a list of two", with(json!({"aud": [ISSUER, "http://127.0.0.1/oauth2/token"]})), NO),
        ("CA17 a list with another", with(json!({"aud": [ISSUER, "https://evil.test"]})), NO),
        ("CA17 an empty list", with(json!({"aud": []})), NO),
        ("CA17 missing", with(json!({"aud": null})), NO),
        ("CA17 empty", with(json!({"aud": ""})), NO),
        ("CA17 a slash more", with(json!({"aud": "http://127.0.0.1/"})), NO),
        ("CA17 another path", with(json!({"aud": "http://127.0.0.1/oauth2/tokens"})), NO),
        ("CA17 another case", with(json!({"aud": "HTTP://127.0.0.1"})), NO),
        ("CA17 another server", with(json!({"aud": "https://other.test"})), NO),
        ("CA17 the client", with(json!({"aud": "signed"})), NO),
        ("no JWT", "x".to_owned(), NO),
        ("two parts", "a.b".to_owned(), NO),
        ("three parts", "a.b.c".to_owned(), NO),
        ("five parts", "a.b.c.d.e".to_owned(), NO),
        ("long", format!("{}.{}.{}", "a".repeat(20_000), "b".repeat(20_000), "c"), NO),
        ("empty", String::new(), "400 invalid_request"),
    ];
    for (case, assertion, expected) in cases {
        let answer = scene.send(&assertion);
        wrong.eq(case, outcome(&answer).as_str(), expected);
        if answer.status == 401 {
            wrong.ok((case, "CA5"), answer.text() == scene.send("x").text(), answer.text());
            wrong.ok((case, "G10"), answer.challenge().starts_with("Basic realm=\""), answer.challenge());
        }
    }
    wrong.done();
}

#[test]
fn ca14_ca15_ca20_what_goes_with_an_assertion() {
    let scene = scene();
    let mut wrong = Wrong::default();
    let site = &scene.site;
    let grant = "grant_type=client_credentials";
    let both = {
        let claims = merged(claims(), &json!({"iss": "both", "sub": "both"}));
        compact(&header(&scene.other).to_string(), &claims.to_string(), |input| scene.other.sign(input))
    };
    let bad = "400 invalid_request";
    let good = || by(&scene.good(), grant);
    for (case, request, expected) in [
        ("CA20 the same client_id", token_request(&format!("{}&client_id=signed", good())), &["200"][..]),
        ("CA20 another client_id", token_request(&format!("{}&client_id=both", good())), &[bad, NO]),
        ("CA20 a public client_id", token_request(&format!("{}&client_id=native", good())), &[bad, NO]),
        ("CA7 with Basic", token_request(&good()).header("Authorization", &basic("signed", SECRET)), &[bad]),
        ("CA7 with a secret", token_request(&format!("{}&client_secret={SECRET}", good())), &[bad]),
        ("CA14 a secret instead", token_request(grant).header("Authorization", &basic("signed", SECRET)), &[NO]),
        ("CA14 an id alone", token_request(&format!("{grant}&client_id=signed")), &[NO]),
        ("both: an assertion", token_request(&by(&both, grant)), &["200"]),
        ("both: a secret", token_request(grant).header("Authorization", &basic("both", SECRET)), &["200"]),
        ("CA15 no type", token_request(&format!("{grant}&client_assertion={}", scene.good())), &[bad]),
        (
            "CA15 another type",
            token_request(&format!(
                "{grant}&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:saml2-bearer&client_assertion={}",
                scene.good()
            )),
            &[bad],
        ),
        (
            "CA15 a type alone",
            token_request(&format!("{grant}&{}", encode(&[("client_assertion_type", TYPE)]))),
            &[bad],
        ),
        ("G5 twice", token_request(&format!("{}&client_assertion=x", good())), &[bad]),
        (
            "G6 in the query",
            Req::post(&format!("/oauth2/token?client_assertion={}", scene.good())).host(HOST).form(grant),
            &[bad],
        ),
    ] {
        let got = outcome(&site.send(&request));
        wrong.ok(case, expected.contains(&got.as_str()), got);
    }
    wrong.done();
}

#[test]
fn ca16_t12_an_assertion_is_good_once() {
    let mut scene = scene();
    let mut wrong = Wrong::default();
    let assertion = scene.good();
    wrong.eq("once", outcome(&scene.send(&assertion)).as_str(), "200");
    wrong.eq("twice", outcome(&scene.send(&assertion)).as_str(), NO);
    let elsewhere = scene.site.send(&Req::post("/oauth2/introspect").host(HOST).form(&by(&assertion, "token=x")));
    wrong.eq("elsewhere", outcome(&elsewhere).as_str(), NO);
    let raced = scene.good();
    let answers: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..6).map(|_| scope.spawn(|| outcome(&scene.send(&raced)))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    wrong.eq("at once", answers.iter().filter(|answer| *answer == "200").count(), 1);
    // Another signature over the same jti, and the jti of another client.
    let patch = json!({"jti": "shared"});
    wrong.eq("a jti", outcome(&scene.send(&scene.assertion(&Value::Null, &patch))).as_str(), "200");
    wrong.eq("the same jti", outcome(&scene.send(&scene.assertion(&Value::Null, &patch))).as_str(), NO);
    let other = merged(claims(), &json!({"iss": "both", "sub": "both", "jti": "shared"}));
    let other = compact(&header(&scene.other).to_string(), &other.to_string(), |input| scene.other.sign(input));
    wrong.eq("another client's", outcome(&scene.send(&other)).as_str(), "200");
    // What fails for another reason does not use the jti up.
    let patch = json!({"jti": "spared", "aud": "https://other.test"});
    wrong.eq("refused", outcome(&scene.send(&scene.assertion(&Value::Null, &patch))).as_str(), NO);
    let good = scene.assertion(&Value::Null, &json!({"jti": "spared"}));
    wrong.eq("spared", outcome(&scene.send(&good)).as_str(), "200");
    scene.site.gateway.kill();
    scene.site.gateway.start_again();
    wrong.eq("after a kill", outcome(&scene.send(&assertion)).as_str(), NO);
    wrong.eq("after a kill", outcome(&scene.send(&scene.good())).as_str(), "200");
    wrong.done();
}

#[test]
fn s4_8_every_grant_and_endpoint_takes_assertions() {
    let scene = scene();
    let site = &scene.site;
    let mut wrong = Wrong::default();
    let send = |form: &str| site.send(&token_request(&by(&scene.good(), form)));
    let offline = [("scope", "orders:read offline_access")];
    let answer = send(&password_form("alice", PASSWORD, &offline));
    wrong.eq("password", outcome(&answer).as_str(), "200");
    wrong.eq("T4 P3", outcome(&send(&password_form("alice", "wrong", &[]))).as_str(), "400 invalid_grant");
    let answer = send(&refresh_form(&tokens(&answer).1, &[]));
    wrong.eq("refresh", outcome(&answer).as_str(), "200");
    let (access, refresh_token) = tokens(&answer);
    let code = site.browser().code(&request_of("signed"));
    wrong.eq("code", outcome(&send(&code_form(&code, &[]))).as_str(), "200");
    let at = |endpoint: &str, form: &str| {
        site.send(&Req::post(&format!("/oauth2/{endpoint}")).host(HOST).form(&by(&scene.good(), form)))
    };
    let token = encode(&[("token", &access)]);
    let facts = at("introspect", &token).json();
    wrong.eq("introspect", (facts["active"].clone(), facts["sub"].clone()), (json!(true), json!("alice")));
    wrong.eq("revoke", outcome(&at("revoke", &token)).as_str(), "200");
    wrong.eq("revoked", at("introspect", &token).json(), json!({"active": false}));
    wrong.eq("refresh again", outcome(&send(&refresh_form(&refresh_token, &[]))).as_str(), "200");
    let metadata = site.send(&Req::get("/.well-known/oauth-authorization-server").host(HOST)).json();
    for endpoint in ["token", "revocation", "introspection"] {
        let methods = &metadata[format!("{endpoint}_endpoint_auth_methods_supported")];
        wrong.ok(("M3", endpoint), methods.to_string().contains("private_key_jwt"), methods);
        let algorithms = &metadata[format!("{endpoint}_endpoint_auth_signing_alg_values_supported")];
        let listed =
            algorithms.as_array().is_some_and(|all| all.contains(&json!("ES256")) && !all.contains(&json!("none")));
        wrong.ok(("M3", endpoint), listed, algorithms);
    }
    wrong.done();
}

#[test]
fn s4_1_a_machine_acts_for_itself() {
    let scene = scene();
    let site = &scene.site;
    let mut wrong = Wrong::default();
    let form = |more: &[(&str, &str)]| encode(&[&[("grant_type", "client_credentials")], more].concat());
    let by = |client: &str, more: &[(&str, &str)]| ask(site, client, &form(more));
    let answer = by("machine", &[("state", "xyz"), ("username", "alice"), ("password", "x")]);
    wrong.eq("good", outcome(&answer).as_str(), "200");
    let body = answer.json();
    wrong.eq("type", &body["token_type"], "Bearer");
    wrong.eq("scope", &body["scope"], "orders:read");
    wrong.ok("no refresh token, no state", body.get("refresh_token").is_none() && body.get("state").is_none(), &body);
    let access = body["access_token"].as_str().unwrap();
    let facts = mint::payload(access);
    wrong.eq("sub", &facts["sub"], "client:machine");
    wrong.eq("client_id", &facts["client_id"], "machine");
    for user_claim in ["auth_time", "amr", "username", "tenant"] {
        wrong.ok(user_claim, facts.get(user_claim).is_none(), &facts);
    }
    wrong.eq("gateway", site.get("/orders/7", Some(access)).status, 200);
    wrong.eq("the upstream", site.upstream.last().header("X-User"), Some("client:machine"));
    for (case, client, more, expected) in [
        ("scopes", "machine", vec![("scope", "orders:write orders:read")], "200 orders:write orders:read"),
        ("no offline_access", "machine", vec![("scope", "orders:read offline_access")], "200 orders:read"),
        ("nothing but it", "machine", vec![("scope", "offline_access")], "400 invalid_scope"),
        ("T7 unknown", "machine", vec![("scope", "orders:read nothing")], "400 invalid_scope"),
        ("T7 not the client's", "both", vec![("scope", "orders:write")], "400 invalid_scope"),
        ("T7 no default", "nothing-by-default", vec![], "400 invalid_scope"),
        ("T4 not its grant", "second", vec![], "400 unauthorized_client"),
        ("T11 not its audience", "machine", vec![("resource", "https://evil.test")], "400 invalid_target"),
        ("T11 the audience", "machine", vec![("resource", ISSUER)], "200 orders:read"),
        ("G5 scope twice", "machine", vec![("scope", "orders:read"), ("scope", "orders:read")], "400 invalid_request"),
    ] {
        let answer = by(client, &more);
        let mut got = outcome(&answer);
        if answer.status == 200 {
            got = format!("200 {}", answer.json()["scope"].as_str().unwrap_or_default());
        }
        let sorted = |text: &str| {
            let mut words: Vec<_> = text.split(' ').map(str::to_owned).collect();
            words.sort();
            words
        };
        wrong.eq(case, sorted(&got), sorted(expected));
    }
    let public = site.send(&token_request(&form(&[("client_id", "native")])));
    wrong.eq("public", outcome(&public).as_str(), "400 unauthorized_client");
    wrong.done();
}

#[test]
fn a_machine_is_nobody_of_the_same_name() {
    // A user could not take a machine's name, and a rule for a user does not let the machine in.
    let users = server::users().replacen("\"carol\"", "\"machine\"", 1);
    let site = server::browsed()
        .file("users.toml", users)
        .more(
            "[[routes]]\nname = \"private\"\npath = \"/private\"\nupstream = \"app\"\nissuers = [\"self\"]\n\
             allow = [{ users = [\"machine\"] }]\n",
        )
        .start();
    let form = encode(&[("grant_type", "client_credentials")]);
    let (token, _) = tokens(&ask(&site, "machine", &form));
    assert_eq!(site.get("/private", Some(&token)).status, 403);
    let (token, _) = tokens(&ask(&site, "second", &password_form("machine", PASSWORD, &[])));
    assert_eq!(site.get("/private", Some(&token)).status, 200);
}
