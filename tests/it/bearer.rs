//! What a Bearer token must be, and what is answered when it is not. Names carry the ids of docs/conformance.md.

use serde_json::{Value, json};

use crate::support::mint::{self, AUDIENCE, ISSUER, Key, b64, compact, hmac_sha256, merged, now, sha256};
use crate::support::{Mint, RecordingUpstream, Req, Response, Site, Wrong, field};

const ROUTES: &str = r#"
[[routes]]
name = "any"
path = "/any"
upstream = "app"
allow = [{ authenticated = true }]

[[routes]]
name = "read"
path = "/read"
upstream = "app"
allow = [{ scopes = ["read"] }]

[[routes]]
name = "public"
path = "/public"
upstream = "app"
allow = [{ public = true }]
"#;

/// "200", "401", "401 invalid_token", "403 insufficient_scope": the status and the error of the challenge.
fn verdict(answer: &Response) -> String {
    match answer.challenge_param("error") {
        Some(error) => format!("{} {error}", answer.status),
        None => answer.status.to_string(),
    }
}

fn judge(site: &Site, token: &str) -> String {
    verdict(&site.get("/any", Some(token)))
}

/// Sends every token and compares the verdicts; nothing but "200" may reach the upstream.
fn table(site: &Site, cases: Vec<(&str, String, &str)>) {
    let mut wrong = Wrong::default();
    for (name, token, expected) in cases {
        let before = site.upstream.count();
        wrong.eq(name, judge(site, &token), expected);
        wrong.eq((name, "reached the upstream"), site.upstream.count() > before, expected == "200");
    }
    wrong.done();
}

const BAD: &str = "401 invalid_token";

#[test]
fn b01_no_credentials_gets_a_challenge_without_an_error() {
    let site = Site::with(ROUTES);
    let answer = site.get("/read", None);
    assert_eq!(verdict(&answer), "401");
    assert!(answer.challenge().starts_with("Bearer realm=\""), "{answer:?}");
    assert_eq!(answer.challenge_param("scope").as_deref(), Some("read"));
    assert_eq!(answer.challenge_param("error_description"), None);
    assert_eq!(site.get("/any", None).challenge_param("scope"), None);
    assert_eq!(site.upstream.count(), 0);
}

#[test]
fn b02_b03_b04_b05_b06_the_authorization_header() {
    let site = Site::with(ROUTES);
    let t = site.mint.scoped("read");
    let long = format!("Bearer {}", "a".repeat(20 * 1024));
    let cases = [
        ("B2 basic", format!("Basic {}", b64("a:b")), &["401"][..]),
        ("B2 negotiate", "Negotiate YII=".to_owned(), &["401"]),
        ("B2 digest", "Digest username=\"x\"".to_owned(), &["401"]),
        ("B2 a scheme that only starts alike", format!("Bearers {t}"), &["401"]),
        ("B3 lower case", format!("bearer {t}"), &["200"]),
        ("B3 upper case", format!("BEARER {t}"), &["200"]),
        ("B3 mixed case", format!("bEaReR {t}"), &["200"]),
        ("B3 two spaces", format!("Bearer  {t}"), &["200"]),
        ("B3 tab", format!("Bearer\t{t}"), &["400 invalid_request"]),
        ("B3 space and tab", format!("Bearer \t{t}"), &["400 invalid_request"]),
        ("B3 nothing between", format!("Bearer{t}"), &["400 invalid_request", "401"]),
        ("B4 alone", "Bearer".to_owned(), &["400 invalid_request"]),
        ("B4 alone with a space", "Bearer ".to_owned(), &["400 invalid_request"]),
        ("B4 two words", format!("Bearer {t} b"), &["400 invalid_request"]),
        ("B4 a comma", format!("Bearer {t},b"), &["400 invalid_request"]),
        ("B4 a comma at the end", format!("Bearer {t},"), &["400 invalid_request"]),
        ("B5 quoted", format!("Bearer \"{t}\""), &["400 invalid_request", BAD]),
        ("B5 percent", format!("Bearer %{t}"), &["400 invalid_request", BAD]),
        ("B5 equals first", format!("Bearer ={t}"), &["400 invalid_request", BAD]),
        ("B5 latin-1", format!("Bearer {t}é"), &["400 invalid_request", BAD]),
        ("B6 joined by a comma", format!("Bearer {t}, Bearer {t}"), &["400 invalid_request"]),
        ("B6 joined with another scheme", format!("Bearer {t}, Basic YTpi"), &["400 invalid_request"]),
        ("J25 too long", long, &["400 invalid_request", BAD, "431"]),
    ];
    let mut wrong = Wrong::default();
    for (name, value, expected) in &cases {
        let before = site.upstream.count();
        let got = verdict(&site.send(&Req::get("/any").header("Authorization", value)));
        wrong.ok(name, expected.contains(&got.as_str()), format!("got {got}, expected {expected:?}"));
        wrong.eq((name, "reached the upstream"), site.upstream.count() > before, expected == &["200"]);
    }
    wrong.done();
}

#[test]
fn b06_a_repeated_authorization_is_refused_on_every_route() {
    let site = Site::with(ROUTES);
    let t = site.mint.scoped("read");
    let mut wrong = Wrong::default();
    for target in ["/any", "/read", "/public"] {
        for second in [format!("Bearer {t}"), "Basic YTpi".to_owned(), String::new(), "Bearer bad".to_owned()] {
            for first_good in [true, false] {
                let good = format!("Bearer {t}");
                let (a, b) = if first_good { (&good, &second) } else { (&second, &good) };
                let answer = site.send(&Req::get(target).header("Authorization", a).header("authorization", b));
                wrong.eq((target, &second, first_good), answer.status, 400);
            }
        }
    }
    wrong.done();
    assert_eq!(site.upstream.count(), 0);
}

#[test]
fn b07_b09_b10_a_token_elsewhere_is_no_token_and_is_not_logged() {
    let site = Site::with(ROUTES);
    let t = site.mint.scoped("read");
    let mut wrong = Wrong::default();
    let cases = [
        ("query", Req::get(&format!("/any?access_token={t}"))),
        ("query, second parameter", Req::get(&format!("/any?a=b&access_token={t}"))),
        ("form", Req::post("/any").form(&format!("access_token={t}"))),
        ("cookie", Req::get("/any").header("Cookie", &format!("access_token={t}; Authorization=Bearer {t}"))),
        ("x-access-token", Req::get("/any").header("X-Access-Token", &t)),
        ("proxy-authorization", Req::get("/any").header("Proxy-Authorization", &format!("Bearer {t}"))),
        ("x-authorization", Req::get("/any").header("X-Authorization", &format!("Bearer {t}"))),
        ("underscore twin", Req::get("/any").header("AUTHORIZATION_", &format!("Bearer {t}"))),
    ];
    for (name, request) in &cases {
        wrong.eq(name, verdict(&site.send(request)), "401");
    }
    assert_eq!(site.upstream.count(), 0);
    // Beside a good header the query is simply not looked at.
    wrong.eq("query beside a header", site.get("/any?access_token=junk", Some(&t)).status, 200);
    let answer = site.send(&Req::get(&format!("/public?access_token={t}")));
    wrong.eq("query on a public route", answer.status, 200);
    wrong.done();
    site.gateway.access_log(&answer.request_id());
    assert!(!site.gateway.output().contains(t.as_str()), "the token stands in the log:\n{}", site.gateway.output());
}

#[test]
fn b08_a_token_in_a_form_is_no_token() {
    let site = Site::open();
    let body = format!("access_token={}", site.mint.scoped("orders:read"));
    let answer = site.send(&Req::post("/x").form(&body));
    assert_eq!((answer.status, answer.challenge_param("error")), (401, None));
    // And a form with one in it passes as any other body does.
    let answer = site.send(&Req::post("/x").bearer(&site.mint.scoped("orders:read")).form(&body));
    assert_eq!(answer.status, 200);
    assert_eq!(site.upstream.last().body, body.as_bytes());
}

#[test]
fn b11_every_bad_token_gets_the_same_answer() {
    let site = Site::with(ROUTES);
    let mint = &site.mint;
    let bad = [
        ("junk", "junk".to_owned()),
        ("expired", mint.token(&json!({"exp": now() - 3600}))),
        ("another audience", mint.token(&json!({"aud": "https://other.test"}))),
        ("another issuer", mint.token(&json!({"iss": "https://other.test"}))),
        ("a foreign signature", Mint::new().scoped("read")),
        ("unknown key", mint.forge(&json!({"kid": "nobody"}), &json!({}))),
    ];
    let seen: Vec<_> = bad
        .iter()
        .map(|(name, token)| {
            let answer = site.get("/any", Some(token));
            let mut body = answer.json();
            body.as_object_mut().unwrap().remove("request_id");
            let challenge = answer.challenge().to_owned();
            for secret in ["expired", "audience", "issuer", "signature", "key", "corp", "alice"] {
                let text = format!("{challenge} {body}").to_lowercase();
                assert!(!text.contains(secret), "{name}: tells about {secret}: {text}");
            }
            (verdict(&answer), challenge, body)
        })
        .collect();
    assert_eq!(seen[0].0, BAD);
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:#?}");
}

#[test]
fn b11_the_cause_stands_in_the_log_and_the_token_does_not() {
    let site = Site::with(ROUTES);
    let token = site.mint.token(&json!({"exp": now() - 3600}));
    let answer = site.get("/any", Some(&token));
    let line = site.gateway.access_log(&answer.request_id());
    assert!(line.to_string().to_lowercase().contains("expired"), "{line}");
    assert!(!site.gateway.output().contains(&token));
    assert!(!site.gateway.output().contains(token.rsplit('.').next().unwrap()));
}

#[test]
fn b12_b13_b17_scopes_match_exactly() {
    let site = Site::with(ROUTES);
    let cases = [
        ("exact", json!({"scope": "read"}), "200"),
        ("among others", json!({"scope": "write read admin"}), "200"),
        ("none", json!({}), "403 insufficient_scope"),
        ("empty", json!({"scope": ""}), "403 insufficient_scope"),
        ("longer", json!({"scope": "read:all"}), "403 insufficient_scope"),
        ("shorter", json!({"scope": "rea"}), "403 insufficient_scope"),
        ("other case", json!({"scope": "READ Read"}), "403 insufficient_scope"),
        ("comma separated", json!({"scope": "write,read"}), "403 insufficient_scope"),
        ("J21 array", json!({"scope": ["write", "read"]}), "200"),
        ("J21 array without it", json!({"scope": ["write"]}), "403 insufficient_scope"),
        ("J21 not the configured claim", json!({"scp": "read"}), "403 insufficient_scope"),
    ];
    let mut wrong = Wrong::default();
    for (name, claims, expected) in cases {
        let answer = site.get("/read", Some(&site.mint.token(&claims)));
        wrong.eq(name, verdict(&answer), expected);
        if expected != "200" {
            wrong.eq((name, "scope"), answer.challenge_param("scope").as_deref(), Some("read"));
        }
    }
    for claims in [
        json!({"scope": "write\tread"}),
        json!({"scope": 5}),
        json!({"scope": {"read": true}}),
        json!({"scope": [["read"]]}),
    ] {
        let answer = site.get("/read", Some(&site.mint.token(&claims)));
        wrong.ok(&claims, matches!(answer.status, 401 | 403), answer.status);
    }
    wrong.done();
}

#[test]
fn b14_b15_challenges_are_well_formed_and_not_cached() {
    let site = Site::with(ROUTES);
    let poor = site.mint.scoped("other");
    let mut wrong = Wrong::default();
    for token in [None, Some("junk"), Some(poor.as_str())] {
        let answer = site.get("/read", token);
        let names: Vec<_> = answer.challenge()["Bearer ".len()..]
            .split("\", ")
            .filter_map(|param| param.split_once("=\"").map(|(name, _)| name.trim().to_owned()))
            .collect();
        let mut once = names.clone();
        once.sort();
        once.dedup();
        wrong.eq(("each parameter once", token), once.len(), names.len());
        wrong.ok(token, names.contains(&"realm".to_owned()), answer.challenge());
        let cache = answer.header("Cache-Control").unwrap_or_default();
        wrong.ok(("not stored", token), cache.contains("no-store"), cache);

        let head = site.send(&Req::new("HEAD", "/read").maybe_bearer(token));
        wrong.eq(("HEAD", token), (head.status, head.challenge()), (answer.status, answer.challenge()));
        wrong.ok(("HEAD", token), head.body.is_empty(), head.text());
    }
    wrong.done();
}

#[test]
fn refusals_are_problem_documents_with_the_request_id() {
    let site = Site::with(ROUTES);
    let poor = site.mint.scoped("other");
    let cases = [
        (401, Req::get("/read")),
        (401, Req::get("/read").bearer("junk")),
        (403, Req::get("/read").bearer(&poor)),
        (404, Req::get("/nowhere")),
        (400, Req::get("/a/../read")),
        (400, Req::get("/read").header("Authorization", "Bearer")),
    ];
    let mut wrong = Wrong::default();
    for (status, request) in &cases {
        let answer = site.send(request);
        wrong.eq((request, "status"), answer.status, *status);
        wrong.eq((request, "type"), answer.header("Content-Type"), Some("application/problem+json"));
        let body = answer.json();
        wrong.eq((request, "status member"), &body["status"], *status);
        wrong.ok((request, "title"), body["title"].is_string() && body["type"].is_string(), &body);
        wrong.eq((request, "request_id"), body["request_id"].as_str(), answer.header("X-Request-Id"));
    }
    wrong.done();
    assert_eq!(site.upstream.count(), 0);
}

#[test]
fn j10_j11_algorithms_that_must_not_be() {
    let site = Site::builder().mint(Mint::with(ISSUER, vec![Key::rsa("k1")])).more(ROUTES).start();
    let mint = &site.mint;
    let unsigned = |alg: Value| {
        let header = merged(mint.header(), &json!({"kid": "k1", "alg": alg})).to_string();
        compact(&header, &mint.claims().to_string(), |_| Vec::new())
    };
    let relabelled = |alg: Value| mint.forge(&json!({"alg": alg}), &json!({}));
    let public = mint.key().public_bytes();
    let spki = pem("PUBLIC KEY", &public);
    let hmac = |alg: &str, secret: &[u8]| {
        let header = json!({"alg": alg, "typ": "at+jwt", "kid": "k1"}).to_string();
        compact(&header, &mint.claims().to_string(), |input| hmac_sha256(secret, input))
    };
    let no_alg = json!({"typ": "at+jwt", "kid": "k1"}).to_string();
    table(
        &site,
        vec![
            ("good", mint.scoped("read"), "200"),
            ("J10 none", unsigned(json!("none")), BAD),
            ("J10 None", unsigned(json!("None")), BAD),
            ("J10 NONE", unsigned(json!("NONE")), BAD),
            ("J10 nOnE", unsigned(json!("nOnE")), BAD),
            ("J10 none, but signed", relabelled(json!("none")), BAD),
            ("J10 RS256 without a signature", unsigned(json!("RS256")), BAD),
            ("J10 rs256", relabelled(json!("rs256")), BAD),
            ("J10 empty", relabelled(json!("")), BAD),
            ("J10 missing", mint.signed(&no_alg, &mint.claims().to_string()), BAD),
            ("J10 number", relabelled(json!(256)), BAD),
            ("J10 array", relabelled(json!(["RS256"])), BAD),
            ("J10 null", mint.signed(r#"{"alg":null,"typ":"at+jwt","kid":"k1"}"#, &mint.claims().to_string()), BAD),
            ("J10 another family", relabelled(json!("ES256")), BAD),
            ("J10 another padding", relabelled(json!("PS256")), BAD),
            ("J10 another hash", relabelled(json!("RS512")), BAD),
            ("J11 HS256 with the key", hmac("HS256", &public), BAD),
            ("J11 HS256 with its PEM", hmac("HS256", spki.as_bytes()), BAD),
            ("J11 HS256 with its PEM, trimmed", hmac("HS256", spki.trim().as_bytes()), BAD),
            ("J11 HS256 with the JWK", hmac("HS256", mint.key().jwk().to_string().as_bytes()), BAD),
            ("J11 HS256 with nothing", hmac("HS256", b""), BAD),
            ("J11 HS512 with the key", hmac("HS512", &public), BAD),
        ],
    );
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[test]
fn every_supported_algorithm_is_accepted_when_listed() {
    let keys = vec![Key::p256("e2"), Key::p384("e3"), Key::ed25519("ed"), Key::rsa("r")];
    // The RSA key of the set is not bound to one algorithm.
    let set: Vec<_> = keys.iter().map(|key| if key.kid == "r" { key.bare_jwk() } else { key.jwk() }).collect();
    let mint = Mint::with(ISSUER, keys);
    let site = Site::builder()
        .mint(mint)
        .jwks(json!({ "keys": set }).to_string())
        .issuer(r#"algorithms = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]"#)
        .more(ROUTES)
        .start();
    let signed = |index: usize, alg: &str| {
        let key = &site.mint.keys[index];
        let header = json!({"alg": alg, "typ": "at+jwt", "kid": key.kid}).to_string();
        compact(&header, &site.mint.claims().to_string(), |input| key.sign_as(alg, input))
    };
    let mut cases = vec![
        ("ES256", signed(0, "ES256"), "200"),
        ("ES384", signed(1, "ES384"), "200"),
        ("EdDSA", signed(2, "EdDSA"), "200"),
    ];
    for alg in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        cases.push((alg, signed(3, alg), "200"));
    }
    table(&site, cases);
}

#[test]
fn j10_an_algorithm_that_is_not_listed_is_refused() {
    let mint = Mint::with(ISSUER, vec![Key::ed25519("k1"), Key::p256("k2")]);
    let site = Site::builder().mint(mint).issuer(r#"algorithms = ["ES256"]"#).more(ROUTES).start();
    let key = &site.mint.keys[1];
    let listed = compact(r#"{"alg":"ES256","typ":"at+jwt","kid":"k2"}"#, &site.mint.claims().to_string(), |input| {
        key.sign(input)
    });
    table(&site, vec![("EdDSA", site.mint.scoped("read"), BAD), ("ES256", listed, "200")]);
}

#[test]
fn j12_a_key_serves_only_what_it_says() {
    let keys = vec![
        Key::p256("good"),
        Key::p256("enc"),
        Key::p256("ops"),
        Key::p256("ops-verify"),
        Key::rsa("ps-only"),
        Key::p384("p384"),
        Key::p256("alg-of-other-curve"),
    ];
    let patches = [
        json!({}),
        json!({"use": "enc"}),
        json!({"use": null, "key_ops": ["encrypt", "wrapKey"]}),
        json!({"key_ops": ["verify"]}),
        json!({"alg": "PS256"}),
        json!({}),
        json!({"alg": "ES384"}),
    ];
    let set: Vec<_> = keys.iter().zip(&patches).map(|(key, patch)| merged(key.jwk(), patch)).collect();
    let site = Site::builder()
        .mint(Mint::with(ISSUER, keys))
        .jwks(json!({ "keys": set }).to_string())
        .issuer(r#"algorithms = ["RS256", "PS256", "ES256", "ES384"]"#)
        .more(ROUTES)
        .start();
    let signed = |index: usize, alg: &str, sign_as: &str| {
        let key = &site.mint.keys[index];
        let header = json!({"alg": alg, "typ": "at+jwt", "kid": key.kid}).to_string();
        compact(&header, &site.mint.claims().to_string(), |input| key.sign_as(sign_as, input))
    };
    table(
        &site,
        vec![
            ("good", signed(0, "ES256", "ES256"), "200"),
            ("use=enc", signed(1, "ES256", "ES256"), BAD),
            ("key_ops without verify", signed(2, "ES256", "ES256"), BAD),
            ("key_ops with verify", signed(3, "ES256", "ES256"), "200"),
            ("alg of the key is PS256", signed(4, "RS256", "RS256"), BAD),
            ("alg of the key is PS256, used so", signed(4, "PS256", "PS256"), "200"),
            ("P-384 under ES256", signed(5, "ES256", "ES384"), BAD),
            ("P-256 under ES384", signed(6, "ES384", "ES256"), BAD),
            (
                "kid of another key",
                {
                    let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": "ops-verify"}).to_string();
                    compact(&header, &site.mint.claims().to_string(), |input| site.mint.keys[0].sign(input))
                },
                BAD,
            ),
        ],
    );
}

#[test]
fn j13_j15_j16_header_members() {
    let site = Site::with(ROUTES);
    let mint = &site.mint;
    let thief = RecordingUpstream::start();
    let stranger = Mint::with(ISSUER, vec![Key::p256("k1")]);
    let with = |header: Value| mint.forge(&header, &json!({}));
    let stolen = |header: Value| stranger.forge(&header, &json!({}));
    let raw = |header: &str| mint.signed(header, &mint.claims().to_string());
    let url = thief.url();
    table(
        &site,
        vec![
            ("J13 crit unknown", with(json!({"crit": ["x"], "x": 1})), BAD),
            ("J13 crit exp", with(json!({"crit": ["exp"], "exp": 1})), BAD),
            ("J13 crit empty", with(json!({"crit": []})), BAD),
            ("J13 crit a string", with(json!({"crit": "b64"})), BAD),
            ("J13 crit null", raw(r#"{"alg":"ES256","typ":"at+jwt","kid":"k1","crit":null}"#), BAD),
            ("J13 b64 false", with(json!({"crit": ["b64"], "b64": false})), BAD),
            ("J13 b64 false without crit", with(json!({"b64": false})), BAD),
            ("J15 jwk", stolen(json!({"jwk": stranger.key().jwk()})), BAD),
            ("J15 jku", stolen(json!({"jku": format!("{url}/jwks")})), BAD),
            ("J15 x5u", stolen(json!({"x5u": format!("{url}/cert")})), BAD),
            ("J15 x5c", stolen(json!({"x5c": ["MIIB"]})), BAD),
            ("J15 jku beside a good signature", with(json!({"jku": format!("{url}/jwks")})), "200"),
            ("J16 at+jwt in capitals", with(json!({"typ": "AT+JWT"})), "200"),
            ("J16 long form", with(json!({"typ": "application/at+jwt"})), "200"),
            ("J16 long form in capitals", with(json!({"typ": "Application/At+Jwt"})), "200"),
            ("J16 JWT", with(json!({"typ": "JWT"})), BAD),
            ("J16 absent", with(json!({"typ": null})), BAD),
            ("J16 empty", with(json!({"typ": ""})), BAD),
            ("J16 logout token", with(json!({"typ": "logout+jwt"})), BAD),
            ("J16 DPoP proof", with(json!({"typ": "dpop+jwt"})), BAD),
            ("J16 client assertion", with(json!({"typ": "client-authentication+jwt"})), BAD),
            ("J16 longer", with(json!({"typ": "at+jwt2"})), BAD),
            ("J16 a number", with(json!({"typ": 1})), BAD),
            ("J26 zip", with(json!({"zip": "DEF"})), BAD),
        ],
    );
    assert_eq!(thief.connections(), 0, "a URL of the token's header was fetched");
}

#[test]
fn j14_key_ids_are_only_looked_up() {
    let site = Site::with(ROUTES);
    let mint = &site.mint;
    let with = |kid: Value| mint.forge(&json!({ "kid": kid }), &json!({}));
    table(
        &site,
        vec![
            ("unknown", with(json!("k2")), BAD),
            ("other case", with(json!("K1")), BAD),
            ("empty", with(json!("")), BAD),
            ("path", with(json!("../../../../dev/null")), BAD),
            ("sql", with(json!("k1' OR '1'='1")), BAD),
            ("nul", with(json!("k1\0")), BAD),
            ("long", with(json!("k".repeat(10_000))), BAD),
            ("number", with(json!(1)), BAD),
            ("array", with(json!(["k1"])), BAD),
            ("absent, one key fits", with(Value::Null), "200"),
        ],
    );
}

#[test]
fn j14_without_a_kid_the_key_must_be_the_only_one() {
    let mint = Mint::with(ISSUER, vec![Key::p256("k1"), Key::p256("k2"), Key::ed25519("k3")]);
    let site = Site::builder().mint(mint).more(ROUTES).start();
    let claims = site.mint.claims().to_string();
    let ed = compact(r#"{"alg":"EdDSA","typ":"at+jwt"}"#, &claims, |input| site.mint.keys[2].sign(input));
    let unnamed = site.mint.forge(&json!({"kid": null}), &json!({}));
    table(&site, vec![("two fit", unnamed, BAD), ("one fits", ed, "200")]);
}

#[test]
fn j17_the_issuer_is_exact_and_brings_its_own_keys() {
    let other = Mint::with("https://second.test", vec![Key::p256("k1")]);
    let site = Site::builder()
        .file("second.json", other.jwks())
        .more(ROUTES)
        .more(
            r#"
[issuers.second.jwt]
issuer = "https://second.test"
audience = ["https://api.test"]
jwks_file = "second.json"
[[routes]]
name = "only-second"
path = "/second"
upstream = "app"
issuers = ["second"]
allow = [{ authenticated = true }]
[[routes]]
name = "entry-second"
path = "/entry"
upstream = "app"
allow = [{ issuers = ["second"] }]
"#,
        )
        .start();
    let mint = &site.mint;
    let iss = |iss: Value| mint.token(&json!({ "iss": iss }));
    table(
        &site,
        vec![
            ("first", mint.scoped("read"), "200"),
            ("second, same kid", other.scoped("read"), "200"),
            ("second's name on first's signature", iss(json!("https://second.test")), BAD),
            ("first's name on second's signature", other.token(&json!({"iss": ISSUER})), BAD),
            ("slash at the end", iss(json!("https://issuer.test/")), BAD),
            ("other case", iss(json!("https://ISSUER.test")), BAD),
            ("missing", iss(Value::Null), BAD),
            ("number", iss(json!(1)), BAD),
            ("array", iss(json!([ISSUER])), BAD),
            ("empty", iss(json!("")), BAD),
            ("configured name", iss(json!("corp")), BAD),
        ],
    );
    let get = |target: &str, token: String| verdict(&site.get(target, Some(&token)));
    let mut wrong = Wrong::default();
    wrong.eq("the route takes only second", get("/second", mint.scoped("read")), BAD);
    wrong.eq("and does take it", get("/second", other.scoped("read")), "200");
    wrong.eq("the entry takes only second", get("/entry", mint.scoped("read")), "403");
    wrong.eq("and does take it too", get("/entry", other.scoped("read")), "200");
    wrong.done();
}

#[test]
fn j18_the_audience_is_ours() {
    let site = Site::with(ROUTES);
    let aud = |aud: Value| site.mint.token(&json!({ "aud": aud }));
    table(
        &site,
        vec![
            ("string", aud(json!(AUDIENCE)), "200"),
            ("array", aud(json!([AUDIENCE])), "200"),
            ("among others", aud(json!(["https://a.test", AUDIENCE])), "200"),
            ("other", aud(json!("https://a.test")), BAD),
            ("longer", aud(json!("https://api.test/")), BAD),
            ("shorter", aud(json!("https://api.tes")), BAD),
            ("other case", aud(json!("https://API.test")), BAD),
            ("space separated", aud(json!("https://a.test https://api.test")), BAD),
            ("missing", aud(Value::Null), BAD),
            ("empty", aud(json!("")), BAD),
            ("empty array", aud(json!([])), BAD),
            ("number", aud(json!(1)), BAD),
            ("true", aud(json!(true)), BAD),
            ("object", aud(json!({"https://api.test": 1})), BAD),
            ("nested array", aud(json!([[AUDIENCE]])), BAD),
        ],
    );
}

/// A good token with one claim written as raw JSON text.
fn raw_claim(mint: &Mint, name: &str, text: &str) -> String {
    let rest = merged(mint.claims(), &json!({ name: null })).to_string();
    mint.signed(&mint.header().to_string(), &format!("{{\"{name}\":{text},{}", &rest[1..]))
}

#[test]
fn j19_j20_times() {
    let site = Site::with(ROUTES);
    let mint = &site.mint;
    let raw = |name, text: &str| raw_claim(mint, name, text);
    let soon = now() + 600;
    let mut cases = vec![
        ("J19 exp missing", mint.token(&json!({"exp": null})), BAD),
        ("J19 exp a float", raw("exp", &format!("{soon}.5")), "200"),
        (
            "J19 exp in scientific notation",
            raw("exp", &format!("{}.{}e9", soon / 1_000_000_000, soon % 1_000_000_000)),
            "200",
        ),
        ("J20 exp past within the leeway", raw("exp", &(now() - 15).to_string()), "200"),
        ("J20 exp past beyond the leeway", raw("exp", &(now() - 35).to_string()), BAD),
        ("J20 exp long past", raw("exp", "1"), BAD),
        ("J20 nbf past", raw("nbf", &(now() - 60).to_string()), "200"),
        ("J20 nbf ahead within the leeway", raw("nbf", &(now() + 15).to_string()), "200"),
        ("J20 nbf ahead beyond the leeway", raw("nbf", &(now() + 60).to_string()), BAD),
        ("J20 iat far ahead", raw("iat", &(now() + 86_400).to_string()), BAD),
        ("J20 iat a string", raw("iat", "\"now\""), BAD),
    ];
    for wrong in
        ["\"9999999999\"", "null", "true", "-1", "0", "1e400", "-1e400", "[]", "{}", "\"NaN\"", "\"\"", "[9999999999]"]
    {
        cases.push(("J19 exp of the wrong kind", raw("exp", wrong), BAD));
    }
    for wrong in ["\"0\"", "true", "[]", "{}", "1e400"] {
        cases.push(("J20 nbf of the wrong kind", raw("nbf", wrong), BAD));
    }
    // Beyond what fits: refused or taken as far away, but never a crash.
    for wide in ["9223372036854775808", "18446744073709551616", "1e18", "1e300"] {
        let got = judge(&site, &raw("exp", wide));
        assert!(got == BAD || got == "200", "exp {wide}: {got}");
    }
    table(&site, cases);
}

#[test]
fn j20_the_leeway_is_configurable() {
    let site = Site::builder().issuer(r#"leeway = "0s""#).more(ROUTES).start();
    let mint = &site.mint;
    table(
        &site,
        vec![
            ("just past", mint.token(&json!({"exp": now() - 2})), BAD),
            ("ahead", mint.token(&json!({"nbf": now() + 10})), BAD),
            ("good", mint.scoped(""), "200"),
        ],
    );
}

#[test]
fn j22_j28_claims_that_must_or_must_not_be_there() {
    let site = Site::builder().issuer(r#"required_claims = ["sub", "jti"]"#).more(ROUTES).start();
    let with = |claims: Value| site.mint.token(&claims);
    table(
        &site,
        vec![
            ("good", with(json!({})), "200"),
            ("J22 sub missing", with(json!({"sub": null})), BAD),
            ("J22 sub a number", with(json!({"sub": 7})), BAD),
            ("J22 sub empty", with(json!({"sub": ""})), BAD),
            ("J22 jti missing", with(json!({"jti": null})), BAD),
            ("J28 cnf jkt", with(json!({"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}})), BAD),
            ("J28 cnf x5t", with(json!({"cnf": {"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}})), BAD),
            ("J28 cnf unknown", with(json!({"cnf": {"x": 1}})), BAD),
            ("J28 cnf empty", with(json!({"cnf": {}})), BAD),
            ("J28 cnf a string", with(json!({"cnf": "x"})), BAD),
        ],
    );
}

#[test]
fn j16_j18_j21_issuers_that_do_not_follow_the_profile() {
    let site = Site::builder()
        .issuer(
            r#"typ = ["JWT", ""]
audience = ["app"]
audience_claim = "client_id"
scope_claim = "scp"
roles_claim = "realm_access.roles"
user_claim = "email"
required_claims = ["email"]"#,
        )
        .more(
            r#"
[[routes]]
name = "any"
path = "/any"
upstream = "app"
allow = [{ authenticated = true }]
[[routes]]
name = "rules"
path = "/rules"
upstream = "app"
allow = [{ scopes = ["read"], roles = ["clerk"], users = ["a@corp.test"] }]
"#,
        )
        .start();
    let claims = json!({"aud": null, "sub": null, "email": "a@corp.test", "scp": ["read"],
                        "realm_access": {"roles": ["clerk"]}});
    let with = |header: Value, patch: Value| site.mint.forge(&header, &merged(claims.clone(), &patch));
    table(
        &site,
        vec![
            ("typ JWT", with(json!({"typ": "JWT"}), json!({})), "200"),
            ("typ jwt", with(json!({"typ": "jwt"}), json!({})), "200"),
            ("typ absent", with(json!({"typ": null}), json!({})), "200"),
            ("typ at+jwt is not listed", with(json!({}), json!({})), BAD),
            ("another client", with(json!({"typ": "JWT"}), json!({"client_id": "other"})), BAD),
            ("aud does not stand in", with(json!({"typ": "JWT"}), json!({"client_id": "x", "aud": "app"})), BAD),
            ("user missing", with(json!({"typ": "JWT"}), merged(json!({}), &json!({"email": 1}))), BAD),
        ],
    );
    let mut wrong = Wrong::default();
    let mut rule = |name, patch, expected| {
        let token = with(json!({"typ": "JWT"}), patch);
        wrong.eq(name, verdict(&site.get("/rules", Some(&token))), expected);
    };
    rule("all hold", json!({}), "200");
    rule("role elsewhere", json!({"realm_access": {"roles": ["boss"]}, "roles": ["clerk"]}), "403");
    rule("scope elsewhere", json!({"scp": [], "scope": "read"}), "403 insufficient_scope");
    rule("another user", json!({"email": "b@corp.test", "sub": "a@corp.test"}), "403");
    wrong.done();
}

#[test]
fn j16_class_40_what_says_that_it_is_no_access_token_is_none() {
    // However much `typ` of the header admits.
    let site = Site::builder().issuer("typ = [\"at+jwt\", \"JWT\", \"\"]").more(ROUTES).start();
    let token = |claims: Value| site.mint.token(&claims);
    table(
        &site,
        vec![
            ("nothing is said", token(json!({})), "200"),
            ("token_use access", token(json!({"token_use": "access"})), "200"),
            ("typ Bearer", token(json!({"typ": "Bearer"})), "200"),
            ("a typ of the application's own", token(json!({"typ": "internal"})), "200"),
            ("token_use id", token(json!({"token_use": "id"})), BAD),
            ("token_use refresh_token", token(json!({"token_use": "refresh_token"})), BAD),
            ("token_use is a list", token(json!({"token_use": ["access"]})), BAD),
            ("typ ID", token(json!({"typ": "ID"})), BAD),
            ("typ Refresh", token(json!({"typ": "Refresh"})), BAD),
            ("typ Offline", token(json!({"typ": "Offline"})), BAD),
            ("typ Logout", token(json!({"typ": "Logout"})), BAD),
        ],
    );
}

#[test]
fn j23_repeated_members_are_refused() {
    let site = Site::with(ROUTES);
    let mint = &site.mint;
    let payload = mint.claims().to_string();
    let twice = |member: &str| format!("{{{member},{}", &payload[1..]);
    let header = mint.header().to_string();
    let header_twice = |member: &str| format!("{{{member},{}", &header[1..]);
    let past = now() - 3600;
    table(
        &site,
        vec![
            ("exp first past", mint.signed(&header, &twice(&format!("\"exp\":{past}"))), BAD),
            ("exp twice the same", mint.signed(&header, &twice(&format!("\"exp\":{}", now() + 600))), BAD),
            ("sub", mint.signed(&header, &twice("\"sub\":\"admin\"")), BAD),
            ("sub, escaped", mint.signed(&header, &twice("\"s\\u0075b\":\"admin\"")), BAD),
            ("any member", mint.signed(&header, &twice("\"x\":1,\"x\":2")), BAD),
            ("nested member", mint.signed(&header, &twice("\"x\":{\"y\":1,\"y\":2}")), BAD),
            ("alg", mint.signed(&header_twice("\"alg\":\"none\""), &payload), BAD),
            ("kid", mint.signed(&header_twice("\"kid\":\"k2\""), &payload), BAD),
            ("typ", mint.signed(&header_twice("\"typ\":\"JWT\""), &payload), BAD),
        ],
    );
}

/// The same bits with one of the unused ones of the last character set.
fn loosened(segment: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    assert_ne!(segment.len() % 4, 0, "the last character of {segment} has no unused bits");
    let last = segment.as_bytes()[segment.len() - 1];
    let index = ALPHABET.iter().position(|byte| *byte == last).unwrap();
    assert_eq!(index & 1, 0, "the encoding is not canonical: {segment}");
    format!("{}{}", &segment[..segment.len() - 1], char::from(ALPHABET[index | 1]))
}

#[test]
fn j24_the_encoding_is_strict() {
    let site = Site::with(ROUTES);
    let mint = &site.mint;
    let good = mint.scoped("read");
    let [h, p, s] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
    let resigned = |header: &str, payload: &str| {
        let input = format!("{header}.{payload}");
        format!("{input}.{}", b64(mint.key().sign(input.as_bytes())))
    };
    let padded = |length: usize| {
        let mut claims = mint.claims().to_string();
        while claims.len() % 3 != length {
            claims = format!("{} }}", &claims[..claims.len() - 1]);
        }
        b64(claims)
    };
    let json = json!({"payload": p, "protected": h, "signature": s}).to_string();
    let bytes = |bytes: &[u8]| resigned(h, &b64(bytes));
    let invalid = [b"{\"iss\":\"\xFF\",".as_slice(), &mint.claims().to_string().as_bytes()[1..]].concat();
    let bom = ["\u{feff}".as_bytes(), mint.claims().to_string().as_bytes()].concat();
    const MALFORMED: &str = "400 invalid_request";
    let cases = vec![
        ("good", good.clone(), &["200"][..]),
        ("white space in the payload's JSON is fine", resigned(h, &padded(1)), &["200"]),
        ("padding on the signature", format!("{good}="), &[BAD, MALFORMED]),
        ("padding on the payload", resigned(h, &format!("{}=", padded(2))), &[BAD, MALFORMED]),
        (
            "plain base64 alphabet",
            format!("{h}.{p}.{}", s.replace('-', "+").replace('_', "/") + "+/"),
            &[BAD, MALFORMED],
        ),
        ("unused bits of the signature", format!("{h}.{p}.{}", loosened(s)), &[BAD]),
        ("unused bits of the payload", resigned(h, &loosened(&padded(1))), &[BAD]),
        ("one segment", h.to_owned(), &[BAD]),
        ("two segments", format!("{h}.{p}"), &[BAD]),
        ("two segments and a dot", format!("{h}.{p}."), &[BAD]),
        ("four segments", format!("{good}.{s}"), &[BAD]),
        ("J26 five segments", format!("{h}.{p}.{s}.{p}.{s}"), &[BAD]),
        ("no header", format!(".{p}.{s}"), &[BAD, MALFORMED]),
        ("no payload", resigned(h, ""), &[BAD]),
        ("only dots", "..".to_owned(), &[BAD]),
        ("JSON serialisation", json, &[BAD, MALFORMED]),
        ("invalid UTF-8", bytes(&invalid), &[BAD]),
        ("byte order mark", bytes(&bom), &[BAD]),
        ("an array", bytes(b"[]"), &[BAD]),
        ("a string", bytes(b"\"x\""), &[BAD]),
        ("not JSON", bytes(b"{"), &[BAD]),
        ("JSON with a tail", bytes(format!("{}x", mint.claims()).as_bytes()), &[BAD]),
        ("two documents", bytes(format!("{0}{0}", mint.claims()).as_bytes()), &[BAD]),
    ];
    let mut wrong = Wrong::default();
    for (name, token, expected) in cases {
        let got = judge(&site, &token);
        wrong.ok(name, expected.contains(&got.as_str()), format!("got {got}, expected {expected:?}"));
    }
    wrong.done();
}

#[test]
fn j25_size_and_depth_do_no_harm() {
    let site = Site::with(ROUTES);
    let mint = &site.mint;
    let deep = |open: &str, close: &str, n| raw_claim(mint, "x", &format!("{}1{}", open.repeat(n), close.repeat(n)));
    let mut wrong = Wrong::default();
    let cases = [
        ("deep arrays", deep("[", "]", 2000)),
        ("deep objects", deep("{\"a\":", "}", 1000)),
        ("many digits", raw_claim(mint, "exp", &"9".repeat(5000))),
        ("many claims", mint.token(&(0..500).map(|i| (format!("claim{i}"), json!(i))).collect::<Value>())),
        ("long header", mint.forge(&json!({"x": "y".repeat(8000)}), &json!({}))),
        ("dots", ".".repeat(8000)),
    ];
    for (name, token) in cases {
        let got = judge(&site, &token);
        wrong.ok(name, got == BAD || (name == "many claims" && got == "200"), got);
    }
    wrong.eq("alive", judge(&site, &mint.scoped("read")), "200");
    wrong.done();
}

#[test]
fn j27_signatures_in_the_wrong_form() {
    let mint = Mint::with(ISSUER, vec![Key::p256("ec"), Key::ed25519("ed"), Key::rsa("rsa")]);
    let site = Site::builder().mint(mint).more(ROUTES).start();
    let mint = &site.mint;
    // The order of the P-256 group.
    let order: Vec<u8> = (0..64)
        .step_by(2)
        .map(|at| {
            let text = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
            u8::from_str_radix(&text[at..at + 2], 16).unwrap()
        })
        .collect();
    let with = |index: usize, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        let key = &mint.keys[index];
        let header = json!({"alg": key.algorithm(), "typ": "at+jwt", "kid": key.kid}).to_string();
        compact(&header, &mint.claims().to_string(), sign)
    };
    let key = |index: usize| &mint.keys[index];
    let zeros = [0; 32];
    let one = [&zeros[..31], &[1]].concat();
    table(
        &site,
        vec![
            ("EC good", with(0, &|input| key(0).sign(input)), "200"),
            ("EC in DER", with(0, &|input| key(0).sign_der(input)), BAD),
            ("EC zeros", with(0, &|_| vec![0; 64]), BAD),
            ("EC r = 0", with(0, &|input| [&zeros, &key(0).sign(input)[32..]].concat()), BAD),
            ("EC s = 0", with(0, &|input| [&key(0).sign(input)[..32], &zeros].concat()), BAD),
            ("EC r = s = n", with(0, &|_| order.repeat(2)), BAD),
            ("EC r = s = 1", with(0, &|_| one.repeat(2)), BAD),
            ("EC one byte short", with(0, &|input| key(0).sign(input)[..63].to_vec()), BAD),
            ("EC one byte more", with(0, &|input| [&key(0).sign(input)[..], &[0]].concat()), BAD),
            ("EC of the claims alone", with(0, &|_| key(0).sign(mint.claims().to_string().as_bytes())), BAD),
            ("Ed good", with(1, &|input| key(1).sign(input)), "200"),
            ("Ed zeros", with(1, &|_| vec![0; 64]), BAD),
            ("Ed identity", with(1, &|_| [&one[..], &zeros[..]].concat()), BAD),
            ("RSA good", with(2, &|input| key(2).sign(input)), "200"),
            ("RSA zeros", with(2, &|_| vec![0; 256]), BAD),
            ("RSA one", with(2, &|_| [&[0; 255][..], &[1]].concat()), BAD),
            ("RSA another padding", with(2, &|input| key(2).sign_as("PS256", input)), BAD),
            ("RSA another hash", with(2, &|input| key(2).sign_as("RS384", input)), BAD),
            ("RSA of a digest", with(2, &|input| key(2).sign(&sha256(input))), BAD),
        ],
    );
}

#[test]
fn a_verified_token_is_remembered_but_judged_anew() {
    let site = Site::with(ROUTES);
    let token = site.mint.token(&json!({"scope": "other", "exp": now() - 27}));
    let mut wrong = Wrong::default();
    wrong.eq("good on one route", judge(&site, &token), "200");
    wrong.eq("not enough on another", verdict(&site.get("/read", Some(&token))), "403 insufficient_scope");
    let tampered = format!("{}A", &token[..token.len() - 1]);
    if tampered != token {
        wrong.eq("another signature is another token", judge(&site, &tampered), BAD);
    }
    // The leeway of 30 s runs out three seconds from the making of the token: no later than that is it refused.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while judge(&site, &token) == "200" && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    wrong.eq("expired since", judge(&site, &token), BAD);
    wrong.done();
}

#[test]
fn a_route_may_demand_a_narrower_audience() {
    let site = Site::builder()
        .issuer(r#"audience = ["https://api.test", "https://orders.test"]"#)
        .more(
            r#"
[[routes]]
name = "any"
path = "/any"
upstream = "app"
allow = [{ authenticated = true }]
[[routes]]
name = "orders"
path = "/orders"
upstream = "app"
audience = ["https://orders.test"]
allow = [{ authenticated = true }]
"#,
        )
        .start();
    let api = site.mint.token(&json!({"aud": "https://api.test"}));
    let orders = site.mint.token(&json!({"aud": ["https://orders.test"]}));
    let mut wrong = Wrong::default();
    wrong.eq("wide on wide", verdict(&site.get("/any", Some(&api))), "200");
    wrong.eq("wide on narrow", verdict(&site.get("/orders", Some(&api))), BAD);
    wrong.eq("narrow on narrow", verdict(&site.get("/orders", Some(&orders))), "200");
    wrong.done();
}

// ---- the rules of a route -------------------------------------------------------------------------------------------

const RULES: &str = r#"
[[routes]]
name = "methods"
path = "/methods"
upstream = "app"
allow = [
  { methods = ["GET"], scopes = ["a", "b"] },
  { methods = ["POST"], scopes = ["w"] },
  { methods = ["DELETE"], any_scope = ["x", "y"], claims = { tenant = ["acme", "other"] } },
]
[[routes]]
name = "alternatives"
path = "/alternatives"
upstream = "app"
allow = [{ scopes = ["a", "b", "c"] }, { scopes = ["a", "d"] }, { scopes = ["e", "f"] }]
[[routes]]
name = "roles"
path = "/roles"
upstream = "app"
allow = [{ roles = ["clerk", "boss"] }, { roles = ["guest"], scopes = ["visit"] }]
[[routes]]
name = "users"
path = "/users"
upstream = "app"
allow = [{ users = ["alice", "bob"] }]
[[routes]]
name = "clients"
path = "/clients"
upstream = "app"
allow = [{ clients = ["app"] }]
[[routes]]
name = "claims"
path = "/claims"
upstream = "app"
allow = [{ claims = { tenant = ["acme"], level = ["3", "4"] } }]
[[routes]]
name = "mixed"
path = "/mixed"
upstream = "app"
allow = [{ methods = ["GET"], public = true }, { methods = ["GET", "POST"], scopes = ["a"] }]
[[routes]]
name = "public"
path = "/public"
upstream = "app"
allow = [{ public = true }]
"#;

#[test]
fn rule_1_a_method_no_entry_names_is_405_before_any_token() {
    let site = Site::with(RULES);
    let good = site.mint.scoped("a b");
    let mut wrong = Wrong::default();
    for token in [None, Some("junk"), Some(good.as_str())] {
        for method in ["PUT", "PATCH", "OPTIONS", "get", "PROPFIND"] {
            let answer = site.send(&Req::new(method, "/methods").maybe_bearer(token));
            wrong.eq((method, token), answer.status, 405);
            let mut allow: Vec<_> = answer.header("Allow").unwrap_or_default().split(',').map(str::trim).collect();
            allow.sort_unstable();
            wrong.eq((method, "Allow"), allow, ["DELETE", "GET", "HEAD", "POST"]);
        }
    }
    wrong.eq("upstream", site.upstream.count(), 0);
    wrong.done();
}

#[test]
fn rules_2_to_6_in_one_table() {
    let site = Site::with(RULES);
    // method, target, claims (null: no token; a string: that text as the token), verdict, scope of the challenge
    let cases = [
        ("GET", "/methods", json!(null), "401", Some("a b")),
        ("POST", "/methods", json!(null), "401", Some("w")),
        ("GET", "/alternatives", json!(null), "401", Some("a b c")),
        ("GET", "/roles", json!(null), "401", None),
        ("GET", "/methods", json!("junk"), "401 invalid_token", None),
        ("GET", "/methods", json!({"scope": "a"}), "403 insufficient_scope", Some("a b")),
        ("GET", "/methods", json!({"scope": "w"}), "403 insufficient_scope", Some("a b")),
        ("GET", "/methods", json!({"scope": "c b a"}), "200", None),
        ("HEAD", "/methods", json!({"scope": "a b"}), "200", None),
        ("POST", "/methods", json!({"scope": "a b"}), "403 insufficient_scope", Some("w")),
        ("DELETE", "/methods", json!({"scope": "x", "tenant": "acme"}), "200", None),
        ("DELETE", "/methods", json!({"scope": "y", "tenant": ["z", "other"]}), "200", None),
        ("DELETE", "/methods", json!({"scope": "x", "tenant": "Acme"}), "403", None),
        ("DELETE", "/methods", json!({"scope": "x"}), "403", None),
        ("DELETE", "/methods", json!({}), "403", None),
        // The entry that misses fewest is named; ties go to the first.
        ("GET", "/alternatives", json!({"scope": "a"}), "403 insufficient_scope", Some("a d")),
        ("GET", "/alternatives", json!({}), "403 insufficient_scope", Some("a d")),
        ("GET", "/alternatives", json!({"scope": "e"}), "403 insufficient_scope", Some("e f")),
        ("GET", "/alternatives", json!({"scope": "b c"}), "403 insufficient_scope", Some("a b c")),
        ("GET", "/alternatives", json!({"scope": "f e"}), "200", None),
        ("GET", "/roles", json!({"roles": ["clerk"]}), "200", None),
        ("GET", "/roles", json!({"roles": ["x", "boss"]}), "200", None),
        ("GET", "/roles", json!({"roles": ["Clerk"]}), "403", None),
        ("GET", "/roles", json!({"roles": []}), "403", None),
        ("GET", "/roles", json!({}), "403", None),
        ("GET", "/roles", json!({"roles": ["guest"]}), "403 insufficient_scope", Some("visit")),
        ("GET", "/roles", json!({"roles": ["guest"], "scope": "visit"}), "200", None),
        ("GET", "/roles", json!({"scope": "visit"}), "403", None),
        ("GET", "/users", json!({}), "200", None),
        ("GET", "/users", json!({"sub": "carol"}), "403", None),
        ("GET", "/users", json!({"sub": "Alice"}), "403", None),
        ("GET", "/users", json!({"sub": "alice@evil"}), "403", None),
        ("GET", "/clients", json!({}), "200", None),
        ("GET", "/clients", json!({"client_id": "other"}), "403", None),
        ("GET", "/clients", json!({"client_id": "other", "azp": "app", "sub": "app"}), "403", None),
        ("GET", "/claims", json!({"tenant": "acme", "level": "3"}), "200", None),
        ("GET", "/claims", json!({"tenant": "acme"}), "403", None),
        ("GET", "/claims", json!({"tenant": "acme", "level": "5"}), "403", None),
        ("GET", "/claims", json!({"tenant": "acme2", "level": "3"}), "403", None),
        ("GET", "/claims", json!({"tenant": {"acme": 1}, "level": "3"}), "403", None),
        ("GET", "/claims", json!({}), "403", None),
        // A bad token is never silently nobody, unless no token is looked at.
        ("GET", "/mixed", json!(null), "200", None),
        ("GET", "/mixed", json!("junk"), "401 invalid_token", None),
        ("GET", "/mixed", json!({}), "200", None),
        ("POST", "/mixed", json!(null), "401", Some("a")),
        ("POST", "/mixed", json!({}), "403 insufficient_scope", Some("a")),
        ("GET", "/public", json!(null), "200", None),
        ("GET", "/public", json!("junk"), "200", None),
        ("DELETE", "/public", json!(null), "200", None),
    ];
    let mut wrong = Wrong::default();
    for (method, target, claims, expected, scope) in cases {
        let token = match &claims {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            claims => Some(site.mint.token(claims)),
        };
        let answer = site.send(&Req::new(method, target).maybe_bearer(token.as_deref()));
        let case = format!("{method} {target} {claims}");
        wrong.eq(&case, verdict(&answer), expected);
        wrong.eq(format!("{case}: scope"), answer.challenge_param("scope").as_deref(), scope);
        if expected == "403" {
            wrong.eq(format!("{case}: a plain 403"), answer.challenge(), "");
        }
    }
    wrong.done();
}

#[test]
fn rule_3_on_public_routes_nothing_of_a_token_matters() {
    let site = Site::with(RULES);
    let mut wrong = Wrong::default();
    for value in ["Bearer junk", "Bearer", "Bearer a b", "Basic !!!", "nonsense", "Bearer\tx"] {
        wrong.eq(value, site.send(&Req::get("/public").header("Authorization", value)).status, 200);
    }
    // Where a token would count, other schemes still are nobody.
    wrong.eq("basic on mixed", site.send(&Req::get("/mixed").header("Authorization", "Basic YTpi")).status, 200);
    let malformed = site.send(&Req::get("/mixed").header("Authorization", "Bearer"));
    wrong.eq("malformed on mixed", verdict(&malformed), "400 invalid_request");
    wrong.done();
}

#[test]
fn b12_a_rule_of_any_scope_names_its_scopes() {
    let site = Site::with(RULES);
    let answer = site.send(&Req::new("DELETE", "/methods").bearer(&site.mint.token(&json!({"tenant": "acme"}))));
    assert_eq!(verdict(&answer), "403 insufficient_scope");
    let scope = answer.challenge_param("scope").unwrap();
    assert!(["x y", "x", "y"].contains(&scope.as_str()), "{scope}");
    assert_eq!(answer.json()["status"], 403);
}

#[test]
fn the_access_event_names_who_and_what_but_no_secret() {
    let site = Site::with(RULES);
    let token = site.mint.scoped("a b");
    let answer = site.send(&Req::get("/methods?password=hunter2").bearer(&token));
    let line = site.gateway.access_log(&answer.request_id());
    assert_eq!(field(&line, "route"), Some("methods"), "{line}");
    assert_eq!(field(&line, "method"), Some("GET"), "{line}");
    assert_eq!(crate::support::value(&line, "status"), Some(&json!(200)), "{line}");
    let text = line.to_string();
    assert!(text.contains("alice") && text.contains("\"app\""), "{line}");
    assert!(!text.contains(&token), "{line}");
    assert_eq!(mint::payload(&token)["sub"], "alice");
}
