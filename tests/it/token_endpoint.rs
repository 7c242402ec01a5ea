//! The embedded server's token endpoint, key set and metadata. Names carry the ids of docs/conformance.md.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::mint::{self, now};
use crate::support::server::{
    self, HOST, ODD_PASSWORD, ODD_SECRET, PASSWORD, SECRET, ask, basic, encode, log_in, outcome, password_form,
    token_request,
};
use crate::support::{Conn, Mint, Req, Response, Site, Wrong, send};

/// What every answer of the endpoint keeps to, whatever it says.
fn decent(wrong: &mut Wrong, case: &str, answer: &Response) {
    let cache = answer.header("Cache-Control").unwrap_or_default();
    wrong.ok(("G1", case), cache.contains("no-store"), cache);
    let kind = answer.header("Content-Type").unwrap_or_default();
    wrong.ok(("G2", case), kind.starts_with("application/json"), kind);
    if answer.status != 200 {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        for member in ["error", "error_description"] {
            let text = body[member].as_str().unwrap_or_default();
            let fine = text.bytes().all(|byte| matches!(byte, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e));
            wrong.ok(("G8", case, member), fine, text);
        }
    }
    if answer.status == 401 {
        let challenge = answer.challenge();
        wrong.ok(("G10", case), challenge.starts_with("Basic realm=\""), challenge);
        wrong.eq(("G10", case), answer.challenge_param("error").as_deref(), Some("invalid_client"));
    }
}

/// Sends every request and compares the outcomes.
fn table(site: &Site, cases: Vec<(&str, Req, &str)>) {
    let mut wrong = Wrong::default();
    for (case, request, expected) in cases {
        let answer = site.connect().try_send(&request);
        let Ok(answer) = answer else {
            wrong.ok(case, false, format!("no answer: {answer:?}"));
            continue;
        };
        wrong.eq(case, outcome(&answer), expected);
        decent(&mut wrong, case, &answer);
    }
    wrong.done();
}

fn billing(form: &str) -> Req {
    token_request(form).header("Authorization", &basic("billing", SECRET))
}

fn good_form() -> String {
    password_form("alice", PASSWORD, &[])
}

const BAD_CLIENT: &str = "401 invalid_client";
const BAD_REQUEST: &str = "400 invalid_request";

#[test]
fn p1_t9_the_happy_path() {
    // P15: the client has a redirect URI, which this grant does not look at.
    let site = server::start();
    let answer = log_in(&site, "billing", &[]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut wrong = Wrong::default();
    decent(&mut wrong, "good", &answer);
    wrong.eq("Pragma", answer.header("Pragma"), Some("no-cache"));
    let body = answer.json();
    wrong.eq("type", &body["token_type"], "Bearer");
    wrong.eq("lifetime", &body["expires_in"], 3600);
    wrong.eq("default scopes", &body["scope"], "orders:read");
    wrong.ok("nothing else", body.get("refresh_token").is_none() && body.get("state").is_none(), &body);
    let token = body["access_token"].as_str().unwrap();
    let (header, claims) = (mint::token_header(token), mint::payload(token));
    wrong.eq("typ", &header["typ"], "at+jwt");
    wrong.eq("alg", &header["alg"], "ES256");
    wrong.eq("iss", &claims["iss"], "http://127.0.0.1");
    wrong.ok(
        "aud",
        claims["aud"] == "http://127.0.0.1" || claims["aud"] == json!(["http://127.0.0.1"]),
        &claims["aud"],
    );
    for (name, value) in [("sub", "alice"), ("client_id", "billing"), ("scope", "orders:read"), ("tenant", "acme")] {
        wrong.eq(name, &claims[name], value);
    }
    wrong.eq("amr", &claims["amr"], &json!(["pwd"]));
    for name in ["iat", "auth_time"] {
        wrong.ok(name, claims[name].as_i64().is_some_and(|at| (now() - at).abs() < 30), &claims[name]);
    }
    wrong.eq("exp", claims["exp"].as_i64(), claims["iat"].as_i64().map(|at| at + 3600));
    wrong.ok("jti", claims["jti"].as_str().is_some_and(|id| id.len() >= 16), &claims["jti"]);
    wrong.done();

    // And the gateway takes what it gave.
    let answer = site.get("/orders/7", Some(token));
    assert_eq!(answer.status, 200);
    let seen = site.upstream.last();
    assert_eq!((seen.all("X-User"), seen.all("X-Tenant")), (vec!["alice"], vec!["acme"]));
    assert_eq!(site.send(&Req::post("/orders/7").bearer(token).body("")).status, 403);
    let other = log_in(&site, "billing", &[]).json();
    assert_ne!(other["access_token"], body["access_token"]);
}

#[test]
fn rs256_is_the_default_and_verifies_with_the_published_key() {
    let site = server::builder().start_with(|config| config.replace("signing_algorithm = \"ES256\"", ""));
    let token = log_in(&site, "billing", &[]).json()["access_token"].as_str().unwrap().to_owned();
    let header = mint::token_header(&token);
    assert_eq!(header["alg"], "RS256");
    let set = site.send(&Req::get("/oauth2/jwks").host(HOST));
    let jwk = set.json()["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).cloned().unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(&serde_json::from_value(jwk).unwrap()).unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
    validation.set_audience(&["http://127.0.0.1"]);
    jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap();
    assert_eq!(site.get("/orders/7", Some(&token)).status, 200);
}

#[test]
fn ca1_to_ca14_client_authentication() {
    // G2 and G9 too, in every row.
    let site = server::start();
    let good = good_form();
    let with = |header: &str| token_request(&good).header("Authorization", header);
    let form = |more: &[(&str, &str)]| token_request(&password_form("alice", PASSWORD, more));
    let encoded = |text: &str| encode(&[("", text)])[1..].to_owned();
    let raw = |text: &[u8]| format!("Basic {}", STANDARD.encode(text));
    let both = |more: &[(&str, &str)]| form(more).header("Authorization", &basic("billing", SECRET));
    table(
        &site,
        vec![
            ("basic", with(&basic("billing", SECRET)), "200"),
            ("post", form(&[("client_id", "billing"), ("client_secret", SECRET)]), "200"),
            ("CA1 encoded", with(&basic("odd", &encoded(ODD_SECRET))), "200"),
            ("CA1 raw", with(&basic("odd", ODD_SECRET)), "200"),
            (
                "CA1 every byte encoded",
                with(&basic("%6F%64%64", &ODD_SECRET.bytes().map(|b| format!("%{b:02x}")).collect::<String>())),
                "200",
            ),
            ("CA1 in the form", form(&[("client_id", "odd"), ("client_secret", ODD_SECRET)]), "200"),
            ("CA2 lower case", with(&basic("billing", SECRET).replace("Basic", "basic")), "200"),
            ("CA2 upper case", with(&basic("billing", SECRET).replace("Basic", "BASIC")), "200"),
            ("CA2 spaces", with(&basic("billing", SECRET).replace("Basic ", "Basic   ")), "200"),
            ("CA3 not base64", with("Basic !!!"), BAD_CLIENT),
            ("CA3 nothing", with("Basic"), BAD_CLIENT),
            ("CA3 no colon", with(&raw(b"billing")), BAD_CLIENT),
            ("CA3 not UTF-8", with(&raw(b"billing:\xff\xfe")), BAD_CLIENT),
            ("CA3 control", with(&raw(b"billing:a\0b")), BAD_CLIENT),
            ("CA3 two words", with(&format!("{} x", basic("billing", SECRET))), BAD_CLIENT),
            ("CA4 cut at a later colon", with(&basic("odd:z/tZ9VwFZqApmIQ+ZH1I5pLk/uB4ud", "x")), BAD_CLIENT),
            ("CA5 wrong secret", with(&basic("billing", "wrong")), BAD_CLIENT),
            ("CA5 longer secret", with(&basic("billing", &format!("{SECRET}x"))), BAD_CLIENT),
            ("CA5 unknown client", with(&basic("nobody", SECRET)), BAD_CLIENT),
            ("CA5 empty client", with(&basic("", SECRET)), BAD_CLIENT),
            ("CA5 other case", with(&basic("Billing", SECRET)), BAD_CLIENT),
            ("CA5 empty secret", with(&basic("billing", "")), BAD_CLIENT),
            ("CA6 basic and the same in the form", both(&[("client_secret", SECRET)]), BAD_REQUEST),
            (
                "CA6 basic and both in the form",
                both(&[("client_id", "billing"), ("client_secret", SECRET)]),
                BAD_REQUEST,
            ),
            (
                "CA7 basic and assertion",
                both(&[
                    ("client_assertion", "a.b.c"),
                    ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                ]),
                BAD_REQUEST,
            ),
            (
                "CA7 secret and assertion",
                form(&[
                    ("client_id", "billing"),
                    ("client_secret", SECRET),
                    ("client_assertion", "a.b.c"),
                    ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                ]),
                BAD_REQUEST,
            ),
            ("CA8 the same id in the form", both(&[("client_id", "billing")]), "200"),
            ("CA8 another id in the form", both(&[("client_id", "odd")]), BAD_REQUEST),
            ("CA9 only an id", form(&[("client_id", "billing")]), BAD_CLIENT),
            ("CA9 an empty secret", form(&[("client_id", "billing"), ("client_secret", "")]), BAD_CLIENT),
            ("CA10 public", form(&[("client_id", "device")]), "200"),
            ("CA10 public, empty secret", form(&[("client_id", "device"), ("client_secret", "")]), "200"),
            ("CA10 public, with a secret", form(&[("client_id", "device"), ("client_secret", "x")]), BAD_CLIENT),
            ("CA10 public, basic with a secret", with(&basic("device", "x")), BAD_CLIENT),
            ("CA11 nothing", token_request(&good), BAD_CLIENT),
            ("CA12 bearer", with("Bearer abc"), BAD_CLIENT),
            ("CA12 negotiate", with("Negotiate abc"), BAD_CLIENT),
            (
                "CA12 bearer and a good form",
                form(&[("client_id", "billing"), ("client_secret", SECRET)]).header("Authorization", "Bearer x"),
                BAD_CLIENT,
            ),
            (
                "CA13 twice",
                with(&basic("billing", SECRET)).header("Authorization", &basic("billing", SECRET)),
                BAD_REQUEST,
            ),
            ("CA14 basic of a post client", with(&basic("post-only", SECRET)), BAD_CLIENT),
            ("CA14 post of a post client", form(&[("client_id", "post-only"), ("client_secret", SECRET)]), "200"),
            (
                "CA14 post of a basic client",
                form(&[("client_id", "basic-only"), ("client_secret", SECRET)]),
                BAD_CLIENT,
            ),
            ("CA14 basic of a basic client", with(&basic("basic-only", SECRET)), "200"),
            (
                "CA15 assertion without a type",
                form(&[("client_id", "billing"), ("client_assertion", "a.b.c")]),
                BAD_REQUEST,
            ),
            (
                "CA15 assertion of another type",
                form(&[("client_id", "billing"), ("client_assertion", "a.b.c"), ("client_assertion_type", "urn:x")]),
                BAD_REQUEST,
            ),
            ("CA21 the old secret", with(&basic("rotating", "the-old-secret-of-24-chars")), "200"),
            ("CA21 the new secret", with(&basic("rotating", "the-new-secret-of-24-chars")), "200"),
            ("CA21 neither", with(&basic("rotating", "the-odd-secret-of-24-chars")), BAD_CLIENT),
        ],
    );
    let log = site.gateway.output();
    for secret in [SECRET, PASSWORD, "the-old-secret", "the-odd-secret", &STANDARD.encode(format!("billing:{SECRET}"))]
    {
        assert!(!log.contains(secret), "{secret} stands in the log");
    }
}

#[test]
fn ca5_p3_failures_cannot_be_told_apart() {
    let site = server::start();
    let body = |answer: Response| (answer.status, answer.text(), answer.challenge().to_owned());
    let clients: Vec<_> = [("billing", "wrong"), ("nobody", "wrong"), ("device", "wrong"), ("rotating", "x")]
        .iter()
        .map(|(id, secret)| body(site.send(&token_request(&good_form()).header("Authorization", &basic(id, secret)))))
        .collect();
    assert!(clients.iter().all(|one| *one == clients[0]), "{clients:#?}");
    let users: Vec<_> =
        [("alice", "wrong"), ("nobody-at-all", "wrong"), ("bob", PASSWORD), ("bob", "wrong"), ("ALICE", PASSWORD)]
            .iter()
            .map(|(name, password)| body(ask(&site, "billing", &password_form(name, password, &[]))))
            .collect();
    assert_eq!(users[0].0, 400);
    assert!(users.iter().all(|one| *one == users[0]), "{users:#?}");
}

#[test]
fn g3_to_g7_t2_t3_the_form() {
    let site = server::start();
    let good = good_form();
    let plus = |more: &str| billing(&format!("{good}{more}"));
    let query = |query: &str| {
        let authorization = basic("billing", SECRET);
        Req::post(&format!("/oauth2/token?{query}")).host(HOST).header("Authorization", &authorization).form(&good)
    };
    let typed = |kind: &str| {
        let request = Req::post("/oauth2/token").host(HOST).header("Authorization", &basic("billing", SECRET));
        let request = if kind.is_empty() { request } else { request.header("Content-Type", kind) };
        request.body(&good)
    };
    let grant = |name: &str| billing(&encode(&[("grant_type", name), ("username", "alice"), ("password", PASSWORD)]));
    let user = "grant_type=password&username=alice&password=correct+horse";
    table(
        &site,
        vec![
            ("G3 empty scope", plus("&scope="), "200"),
            (
                "G3 empty everything",
                plus("&scope=&redirect_uri=&client_secret=&state=&code_verifier=&resource="),
                "200",
            ),
            ("G4 unknown", plus("&foo=bar&foo=baz"), "200"),
            ("G4 G7 no magic names", plus("&scope[]=admin&a.b=1&client_id[]=odd"), "200"),
            ("G5 scope twice", plus("&scope=orders:read&scope=orders:read"), BAD_REQUEST),
            ("G5 scope and an empty one", plus("&scope=orders:read&scope="), BAD_REQUEST),
            ("G5 password twice", plus("&password=correct+horse"), BAD_REQUEST),
            ("G5 username twice", plus("&username=bob"), BAD_REQUEST),
            ("G5 grant_type twice", plus("&grant_type=password"), BAD_REQUEST),
            ("G5 client_id twice", plus("&client_id=billing&client_id=billing"), BAD_REQUEST),
            ("G5 state twice", plus("&state=a&state=b"), BAD_REQUEST),
            ("G5 an escaped name", plus("&%73cope=a&scope=orders:read"), BAD_REQUEST),
            ("G6 something else in the query", query("foo=bar"), "200"),
            ("G6 secret in the query", query(&format!("client_secret={SECRET}")), BAD_REQUEST),
            ("G6 password in the query", query("password=correct+horse"), BAD_REQUEST),
            ("G6 username in the query", query("username=alice"), BAD_REQUEST),
            ("G6 refresh token in the query", query("refresh_token=x"), BAD_REQUEST),
            ("G6 code in the query", query("code=x"), BAD_REQUEST),
            ("G7 a bad escape", billing(&format!("{user}&state=%zz")), BAD_REQUEST),
            ("G7 half an escape", billing(&format!("{user}&state=%4")), BAD_REQUEST),
            ("G7 not UTF-8", billing(&format!("{user}&state=%ff")), BAD_REQUEST),
            ("G7 NUL", billing(&format!("{user}&state=a%00")), BAD_REQUEST),
            (
                "G7 NUL in the name of a user",
                billing("grant_type=password&username=alice%00&password=correct+horse"),
                BAD_REQUEST,
            ),
            ("T2 parameters", typed("application/x-www-form-urlencoded;charset=UTF-8"), "200"),
            ("T2 quoted parameters", typed("application/x-www-form-urlencoded; charset=\"utf-8\""), "200"),
            ("T2 upper case", typed("APPLICATION/X-WWW-FORM-URLENCODED"), "200"),
            ("T2 JSON", typed("application/json"), BAD_REQUEST),
            ("T2 multipart", typed("multipart/form-data; boundary=x"), BAD_REQUEST),
            ("T2 text", typed("text/plain"), BAD_REQUEST),
            ("T2 starts alike", typed("application/x-www-form-urlencodedx"), BAD_REQUEST),
            ("T2 absent", typed(""), BAD_REQUEST),
            ("T3 missing", billing(&encode(&[("username", "alice"), ("password", PASSWORD)])), BAD_REQUEST),
            ("T3 empty", grant(""), BAD_REQUEST),
            ("T3 unknown", grant("foo"), "400 unsupported_grant_type"),
            ("T3 upper case", grant("PASSWORD"), "400 unsupported_grant_type"),
            ("T3 implicit", grant("implicit"), "400 unsupported_grant_type"),
            (
                "T3 token exchange",
                grant("urn:ietf:params:oauth:grant-type:token-exchange"),
                "400 unsupported_grant_type",
            ),
            ("T3 with quotes", grant("a\"b\\c\r\nd\te\u{e9}"), "400 unsupported_grant_type"),
        ],
    );
    assert!(!site.gateway.output().contains(SECRET), "the secret of a query stands in the log");
    assert!(!site.gateway.output().contains("correct+horse"), "the password of a query stands in the log");
}

#[test]
fn t1_g11_methods() {
    let site = server::start();
    let mut wrong = Wrong::default();
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH"] {
        let request = Req::new(method, "/oauth2/token").host(HOST).header("Authorization", &basic("billing", SECRET));
        let answer = site.connect().send(&request);
        wrong.eq(method, answer.status, 405);
        wrong.eq(method, answer.header("Allow"), Some("POST"));
        if method != "HEAD" {
            wrong.eq(method, &answer.json()["error"], "invalid_request");
        }
    }
    wrong.done();
}

#[test]
fn t4_t5_p4_what_a_client_may() {
    let site = server::start();
    let by = |client: &str, form: &str| token_request(form).header("Authorization", &basic(client, SECRET));
    let good = good_form();
    let bad_user = password_form("alice", "wrong", &[]);
    let public = |client: &str| token_request(&password_form("alice", PASSWORD, &[("client_id", client)]));
    table(
        &site,
        vec![
            ("T4 no password grant", by("code-only", &good), "400 unauthorized_client"),
            ("T4 before the user", by("code-only", &bad_user), "400 unauthorized_client"),
            (
                "T4 no refresh grant",
                by("no-refresh", "grant_type=refresh_token&refresh_token=x"),
                "400 unauthorized_client",
            ),
            ("T5 the client before the grant", token_request("grant_type=foo"), BAD_CLIENT),
            ("T5 the form before the client", token_request("a=%zz"), BAD_REQUEST),
            ("T5 repetition before the client", token_request("scope=a&scope=b"), BAD_REQUEST),
            ("P4 public by default", public("native"), "400 unauthorized_client"),
            ("P4 public where allowed", public("device"), "200"),
            ("password_until is past", by("migrated", &good), "400 unauthorized_client"),
        ],
    );
}

#[test]
fn t6_t7_p5_scopes() {
    let site = server::start();
    let scoped = |client: &str, user: &str, scope: &str| {
        let more = if scope == "-" { vec![] } else { vec![("scope", scope)] };
        let form = password_form(user, PASSWORD, &more);
        let answer = ask(&site, client, &form);
        match answer.status {
            200 => {
                let mut scopes: Vec<_> =
                    answer.json()["scope"].as_str().unwrap().split(' ').map(str::to_owned).collect();
                scopes.sort();
                scopes.join(" ")
            }
            _ => outcome(&answer),
        }
    };
    let bad = "400 invalid_scope";
    let many = (0..13_000).map(|n| format!("{n:x}")).collect::<Vec<_>>().join(" ");
    let repeated = ["orders:read"; 4000].join(" ");
    let cases = [
        ("omitted", "billing", "alice", "-", "orders:read"),
        ("asked", "billing", "alice", "orders:write", "orders:write"),
        ("both", "billing", "alice", "orders:write orders:read", "orders:read orders:write"),
        ("T6 spaces", "billing", "alice", "  orders:read   orders:write ", "orders:read orders:write"),
        ("T6 repeated", "billing", "alice", "orders:read orders:read", "orders:read"),
        ("T6 quote", "billing", "alice", "orders:read \"", bad),
        ("T6 backslash", "billing", "alice", "orders:\\read", bad),
        ("T6 tab", "billing", "alice", "orders:read\torders:write", bad),
        ("T6 accent", "billing", "alice", "é", bad),
        ("T6 other case", "billing", "alice", "Orders:read", bad),
        ("T6 comma", "billing", "alice", "orders:read,orders:write", bad),
        ("T6 thousands", "billing", "alice", &many, bad),
        ("T6 thousands of times", "billing", "alice", &repeated, "orders:read"),
        ("T7 unknown", "billing", "alice", "orders:read nothing", bad),
        ("T7 not the client's", "no-default", "alice", "orders:write", bad),
        ("T7 no default", "no-default", "alice", "-", bad),
        ("T7 asked without a default", "no-default", "alice", "orders:read", "orders:read"),
        ("the user narrows", "billing", "carol", "orders:read orders:write", "orders:read"),
        ("the user's own scopes", "billing", "carol", "orders:read extra", "extra orders:read"),
        ("not the user's own", "billing", "alice", "orders:read extra", "orders:read"),
        ("a user of everything", "billing", "dave", "orders:read orders:write extra", "extra orders:read orders:write"),
        ("narrowed to nothing", "billing", "carol", "orders:write", bad),
        ("a user of nothing", "billing", "nobody", "-", bad),
        ("a user of nothing with offline_access", "billing", "nobody", "offline_access", bad),
    ];
    let mut wrong = Wrong::default();
    for (name, client, user, scope, expected) in cases {
        wrong.eq((name, scope), scoped(client, user, scope), expected.to_owned());
    }
    // P5: no password is looked at for a scope that the client has not.
    let form = password_form("alice", "wrong", &[("scope", "nothing")]);
    wrong.eq("P5", outcome(&ask(&site, "billing", &form)), bad.to_owned());
    wrong.done();
}

#[test]
fn excess_user_scope_reject() {
    let site = server::builder().start_with(|config| {
        config.replace("signing_algorithm = \"ES256\"", "signing_algorithm = \"ES256\"\nexcess_user_scope = \"reject\"")
    });
    let outcome = |scope: &str| outcome(&log_in(&site, "billing", &[("scope", scope)]));
    assert_eq!(outcome("orders:read extra"), "400 invalid_scope");
    assert_eq!(outcome("orders:read"), "200");
}

#[test]
fn p2_p3_p6_users_and_passwords() {
    let site = server::start();
    let user = |name: &str, password: &str| billing(&password_form(name, password, &[]));
    let grant = "400 invalid_grant";
    let only = |form: &[(&str, &str)]| billing(&encode(form));
    let long = "x".repeat(5000);
    table(
        &site,
        vec![
            ("P2 no username", only(&[("grant_type", "password"), ("password", PASSWORD)]), BAD_REQUEST),
            ("P2 no password", only(&[("grant_type", "password"), ("username", "alice")]), BAD_REQUEST),
            ("P2 empty username", user("", PASSWORD), BAD_REQUEST),
            ("P2 empty password", user("alice", ""), BAD_REQUEST),
            ("P3 wrong password", user("alice", "wrong"), grant),
            ("P3 unknown user", user("mallory", PASSWORD), grant),
            ("P3 disabled", user("bob", PASSWORD), grant),
            ("P6 odd but good", user("Zoë Ω", ODD_PASSWORD), "200"),
            ("P6 trimmed", user("Zoë Ω", ODD_PASSWORD.trim()), grant),
            ("P6 space before the name", user(" alice", PASSWORD), grant),
            ("P6 space after the name", user("alice ", PASSWORD), grant),
            ("P6 another case", user("Alice", PASSWORD), grant),
            ("P6 another normal form", user("Zoe\u{308} Ω", ODD_PASSWORD), grant),
            ("P6 CR", user("alice\r", PASSWORD), BAD_REQUEST),
            ("P6 LF in the password", user("alice", "a\nb"), BAD_REQUEST),
            ("P6 percent twice", billing("grant_type=password&username=alice&password=correct%2520horse"), grant),
        ],
    );
    let mut wrong = Wrong::default();
    for (name, form) in
        [("name", password_form(&long, PASSWORD, &[])), ("password", password_form("alice", &long, &[]))]
    {
        let got = outcome(&ask(&site, "billing", &form));
        wrong.ok(("P6 long", name), [BAD_REQUEST, grant].contains(&got.as_str()), got);
    }
    wrong.done();
    let log = site.gateway.output();
    assert!(!log.contains(PASSWORD) && !log.contains("correct%2520horse"), "P12: a password stands in the log");
}

#[test]
fn p7_s0_refresh_tokens_are_given_for_offline_access() {
    let site = server::start();
    let give = |client: &str, scope: &str| {
        let body =
            log_in(&site, client, if scope.is_empty() { vec![] } else { vec![("scope", scope)] }.as_slice()).json();
        (body.get("refresh_token").is_some(), body["scope"].as_str().unwrap_or_default().to_owned())
    };
    let mut wrong = Wrong::default();
    for (client, scope, refresh, granted) in [
        ("billing", "", false, "orders:read"),
        ("billing", "orders:read offline_access", true, "orders:read offline_access"),
        ("no-refresh", "orders:read offline_access", false, "orders:read"),
        ("always", "orders:read", true, "orders:read"),
        ("never", "orders:read offline_access", false, "orders:read"),
    ] {
        let (got, scopes) = give(client, scope);
        wrong.eq((client, scope), got, refresh);
        let sorted = |text: &str| {
            let mut words: Vec<_> = text.split(' ').map(str::to_owned).collect();
            words.sort();
            words
        };
        wrong.eq((client, scope, "scope"), sorted(&scopes), sorted(granted));
    }
    wrong.done();
}

#[test]
fn p8_state_is_echoed() {
    let site = server::start();
    let state = |state: &str| log_in(&site, "billing", &[("state", state)]).json();
    let mut wrong = Wrong::default();
    for text in ["xyz", "a b&c=d+%20", "\"quoted\"\\", "{}[]<script>"] {
        wrong.eq(text, &state(text)["state"], text);
    }
    wrong.ok("empty", state("").get("state").is_none(), "echoed");
    for text in ["a\nb", "é", "a\tb"] {
        let body = state(text);
        wrong.ok(text, body.get("state").is_none(), body);
    }
    wrong.ok("long", state(&"x".repeat(30_000)).get("state").is_none(), "echoed");
    wrong.eq(
        "not on errors",
        ask(&site, "billing", &password_form("alice", "x", &[("state", "xyz")])).json().get("state").cloned(),
        None,
    );
    wrong.done();
}

#[test]
fn lifetimes() {
    let site = server::start();
    let body = log_in(&site, "short", &[]).json();
    assert_eq!(body["expires_in"], 300);
    let claims = mint::payload(body["access_token"].as_str().unwrap());
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 300);
}

#[test]
fn r1_to_r4_refresh() {
    let site = server::start();
    let first = log_in(&site, "billing", &[("scope", "orders:read orders:write offline_access")]).json();
    let refresh_token = |body: &Value| body["refresh_token"].as_str().unwrap_or_default().to_owned();
    let form = |token: &str, more: &[(&str, &str)]| {
        encode(&[&[("grant_type", "refresh_token"), ("refresh_token", token)], more].concat())
    };
    let mut wrong = Wrong::default();
    let token = refresh_token(&first);
    wrong.ok("G16 length", token.len() >= 32 && token.bytes().all(|b| b.is_ascii_graphic()), &token);
    let by = |client: &str, form: &str| outcome(&ask(&site, client, form));
    let access = first["access_token"].as_str().unwrap();
    for (name, client, form, expected) in [
        ("R1 missing", "billing", "grant_type=refresh_token".to_owned(), BAD_REQUEST),
        ("R1 empty", "billing", form("", &[]), BAD_REQUEST),
        ("R1 unknown", "billing", form("unknown", &[]), "400 invalid_grant"),
        ("R1 another client's", "always", form(&token, &[]), "400 invalid_grant"),
        ("R1 an access token", "billing", form(access, &[]), "400 invalid_grant"),
        ("R1 tampered", "billing", form(&format!("{token}x"), &[]), "400 invalid_grant"),
        ("R3 wider", "billing", form(&token, &[("scope", "orders:read extra")]), "400 invalid_scope"),
        ("R3 unknown", "billing", form(&token, &[("scope", "nothing")]), "400 invalid_scope"),
    ] {
        wrong.eq(name, by(client, &form), expected.to_owned());
    }
    wrong.eq(
        "R2 no authentication",
        outcome(&site.send(&token_request(&form(&token, &[("client_id", "billing")])))),
        BAD_CLIENT.to_owned(),
    );

    // None of that has used the token up.
    let narrow = ask(&site, "billing", &form(&token, &[("scope", "orders:read")]));
    wrong.eq("R3 narrower", outcome(&narrow), "200".to_owned());
    let narrow = narrow.json();
    wrong.eq("R3 narrower", &narrow["scope"], "orders:read");
    let second = refresh_token(&narrow);
    wrong.ok("R4 rotated", !second.is_empty() && second != token, &narrow);
    wrong.ok("a new access token", narrow["access_token"] != first["access_token"], "the same");
    let full = ask(&site, "billing", &form(&second, &[]));
    wrong.eq("R3 the full scope again", outcome(&full), "200".to_owned());
    let scope = full.json()["scope"].as_str().unwrap_or_default().to_owned();
    wrong.ok("R3 the full scope again", scope.contains("orders:write") && scope.contains("offline_access"), &scope);
    wrong.eq(
        "R13 no state",
        ask(&site, "billing", &form(&refresh_token(&full.json()), &[("state", "x")])).json().get("state").cloned(),
        None,
    );
    let claims = mint::payload(full.json()["access_token"].as_str().unwrap());
    wrong.eq("sub", &claims["sub"], "alice");
    wrong.done();
    let token = full.json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(site.get("/orders/7", Some(&token)).status, 200);
    assert!(!site.gateway.output().contains(&second), "a refresh token stands in the log");
    // A refresh token is no access token.
    assert_eq!(site.get("/orders/7", Some(&second)).status, 401);
}

#[test]
fn r5_a_token_used_twice_after_its_successor_ends_the_family() {
    let site = server::start();
    let refresh =
        |token: &str| ask(&site, "billing", &encode(&[("grant_type", "refresh_token"), ("refresh_token", token)]));
    let next = |answer: &Response| answer.json()["refresh_token"].as_str().unwrap().to_owned();
    let first = next(&log_in(&site, "billing", &[("scope", "orders:read offline_access")]));
    let second = next(&refresh(&first));
    let third = next(&refresh(&second));
    // The second was used, so the first is a replay beyond doubt.
    assert_eq!(outcome(&refresh(&first)), "400 invalid_grant");
    assert_eq!(outcome(&refresh(&third)), "400 invalid_grant", "the family must be gone");
}

#[test]
fn r7_a_lost_answer_does_not_end_the_family() {
    let site = server::start();
    let refresh =
        |token: &str| ask(&site, "billing", &encode(&[("grant_type", "refresh_token"), ("refresh_token", token)]));
    let next = |answer: &Response| answer.json()["refresh_token"].as_str().unwrap().to_owned();
    let first = next(&log_in(&site, "billing", &[("scope", "orders:read offline_access")]));
    let _lost = refresh(&first);
    let again = refresh(&first);
    assert_eq!(outcome(&again), "200", "neither successor was used");
    let third = refresh(&next(&again));
    assert_eq!(outcome(&third), "200");
    assert_eq!(outcome(&refresh(&next(&third))), "200");
}

#[test]
fn r6_another_client_cannot_end_a_family() {
    let site = server::start();
    let refresh = |client: &str, token: &str| {
        ask(&site, client, &encode(&[("grant_type", "refresh_token"), ("refresh_token", token)]))
    };
    let next = |answer: &Response| answer.json()["refresh_token"].as_str().unwrap().to_owned();
    let first = next(&log_in(&site, "billing", &[("scope", "orders:read offline_access")]));
    let second = next(&refresh("billing", &first));
    let third = next(&refresh("billing", &second));
    assert_eq!(outcome(&refresh("always", &first)), "400 invalid_grant");
    assert_eq!(outcome(&refresh("billing", &third)), "200");
}

#[test]
fn t12_r8_many_at_once_never_make_two_branches() {
    let site = server::start();
    let body = log_in(&site, "billing", &[("scope", "orders:read offline_access")]).json();
    let token = body["refresh_token"].as_str().unwrap();
    let form = encode(&[("grant_type", "refresh_token"), ("refresh_token", token)]);
    let answers: Vec<Response> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8).map(|_| scope.spawn(|| ask(&site, "billing", &form))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let tokens: Vec<String> = answers
        .iter()
        .filter(|answer| answer.status == 200)
        .map(|answer| answer.json()["refresh_token"].as_str().unwrap().to_owned())
        .collect();
    assert!(!tokens.is_empty(), "nobody got an answer");
    assert!(answers.iter().all(|answer| ["200", "400 invalid_grant"].contains(&outcome(answer).as_str())));
    // Of all the successors at most one branch lives on.
    let refresh =
        |token: &str| ask(&site, "billing", &encode(&[("grant_type", "refresh_token"), ("refresh_token", token)]));
    let mut alive: Vec<String> = tokens
        .iter()
        .map(|token| refresh(token))
        .filter(|answer| answer.status == 200)
        .map(|answer| answer.json()["refresh_token"].as_str().unwrap().to_owned())
        .collect();
    alive.sort();
    alive.dedup();
    let still: Vec<_> = alive.iter().filter(|token| refresh(token).status == 200).collect();
    assert!(still.len() <= 1, "{} branches live", still.len());
}

#[test]
fn p11_a_user_who_is_disabled_cannot_refresh() {
    let mut site = server::builder().embedded().start();
    let body = log_in(&site, "billing", &[("scope", "orders:read offline_access")]).json();
    let form = encode(&[("grant_type", "refresh_token"), ("refresh_token", body["refresh_token"].as_str().unwrap())]);
    let kept = ask(&site, "billing", &form).json();
    let form = encode(&[("grant_type", "refresh_token"), ("refresh_token", kept["refresh_token"].as_str().unwrap())]);
    let users = server::users().replacen("roles = [\"clerk\"]", "roles = [\"clerk\"]\ndisabled = true", 1);
    site.gateway.write("users.toml", users);
    site.gateway.restart();
    assert_eq!(outcome(&log_in(&site, "billing", &[])), "400 invalid_grant");
    assert_eq!(outcome(&ask(&site, "billing", &form)), "400 invalid_grant");
}

#[test]
fn g12_t10_bodies_that_are_too_long_and_connections_after_errors() {
    let site = server::start();
    let mut conn = site.connect();
    let long = billing(&format!("{}&x={}", good_form(), "y".repeat(70 * 1024)));
    let answer = conn.try_send(&long).unwrap();
    assert!(matches!(answer.status, 400 | 413), "{answer:?}");
    let mut conn = site.connect();
    for _ in 0..3 {
        assert_eq!(outcome(&conn.send(&billing(&password_form("alice", "wrong", &[])))), "400 invalid_grant");
    }
    assert_eq!(outcome(&conn.send(&billing(&good_form()))), "200");
    let expecting = Req::post("/oauth2/token")
        .host(HOST)
        .header("Authorization", &basic("billing", SECRET))
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("Expect", "100-continue")
        .header("Content-Length", &good_form().len().to_string());
    let mut conn = site.connect();
    conn.write(expecting.bytes());
    assert!(conn.wire.until(b"\r\n\r\n").unwrap().unwrap().starts_with(b"HTTP/1.1 100"));
    conn.write(good_form());
    assert_eq!(conn.read_answer().status, 200);
}

#[test]
fn p10_hashing_never_blocks_the_traffic() {
    // A hash that takes its time, and more logins than can run at once.
    let users = "[[user]]\nname = \"slow\"\nroles = [\"clerk\"]\npassword = { hash = \
                 \"$argon2id$v=19$m=65536,t=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\" }\n";
    let site = server::builder()
        .file("users.toml", users)
        .more("[[routes]]\nname = \"public\"\npath = \"/public\"\nupstream = \"app\"\nallow = [{ public = true }]\n")
        .start();
    let form = password_form("slow", "x", &[]);
    std::thread::scope(|scope| {
        let logins: Vec<_> = (0..6).map(|_| scope.spawn(|| outcome(&ask(&site, "billing", &form)))).collect();
        let mut worst = Duration::ZERO;
        let mut conn = site.connect();
        while !logins.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let started = Instant::now();
            assert_eq!(conn.send(&Req::get("/public")).status, 200);
            worst = worst.max(started.elapsed());
        }
        assert!(worst < Duration::from_millis(400), "a request waited {worst:?} for the hashing");
        for login in logins {
            let outcome = login.join().unwrap();
            assert!(["400 invalid_grant", "503 temporarily_unavailable"].contains(&outcome.as_str()), "{outcome}");
        }
    });
}

#[test]
fn guessing_delays_but_never_locks_the_right_password_out() {
    let site = server::start();
    for _ in 0..8 {
        // Impatient guessers: what counts is that alice can still log in.
        let mut conn = site.connect();
        conn.wire.patience(Duration::from_millis(300));
        let _delayed = conn.try_send(&billing(&password_form("alice", "wrong", &[])));
    }
    let started = Instant::now();
    assert_eq!(outcome(&log_in(&site, "billing", &[])), "200");
    assert!(started.elapsed() < Duration::from_secs(70));
    assert_eq!(outcome(&ask(&site, "billing", &password_form("dave", PASSWORD, &[]))), "200");
}

#[test]
fn g13_cleartext_is_refused_where_clients_come_over_a_network() {
    let site = server::builder().server("public_url = \"https://api.test\"").start();
    let request = |path: &str| Req::new(if path.ends_with("token") { "POST" } else { "GET" }, path).host("api.test");
    let answer =
        site.send(&request("/oauth2/token").header("Authorization", &basic("billing", SECRET)).form(&good_form()));
    assert_eq!(outcome(&answer), BAD_REQUEST);
    assert_eq!(answer.header("Location"), None);
    // A trusted proxy that says https is believed, another is not.
    let spoofed = request("/oauth2/token")
        .header("X-Forwarded-Proto", "https")
        .header("Authorization", &basic("billing", SECRET))
        .form(&good_form());
    assert_eq!(outcome(&site.send(&spoofed)), BAD_REQUEST);
    let site =
        server::builder().server("public_url = \"https://api.test\"\ntrusted_proxies = [\"127.0.0.1/32\"]").start();
    assert_eq!(outcome(&site.send(&spoofed)), "200");
}

#[test]
fn j1_the_key_set() {
    let site = server::start();
    let answer = site.send(&Req::get("/oauth2/jwks").host(HOST));
    let mut wrong = Wrong::default();
    wrong.eq("status", answer.status, 200);
    let kind = answer.header("Content-Type").unwrap_or_default();
    wrong.ok("type", kind.starts_with("application/json") || kind.starts_with("application/jwk-set+json"), kind);
    wrong.ok("cacheable", answer.header("Cache-Control").unwrap_or_default().contains("max-age"), &answer.headers);
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    wrong.ok("keys", !keys.is_empty(), &keys);
    for key in &keys {
        for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            wrong.ok(("private", private), key.get(private).is_none(), "published");
        }
        wrong.eq("use", &key["use"], "sig");
        wrong.ok("alg and kid", key["alg"].is_string() && key["kid"].is_string(), key);
    }
    let token = log_in(&site, "billing", &[]).json()["access_token"].as_str().unwrap().to_owned();
    let kid = mint::token_header(&token)["kid"].clone();
    wrong.ok("the signing key is there", keys.iter().any(|key| key["kid"] == kid), &keys);
    for method in ["POST", "PUT", "DELETE"] {
        wrong.eq(method, site.send(&Req::new(method, "/oauth2/jwks").host(HOST).body("")).status, 405);
    }
    wrong.done();
}

#[test]
fn m1_to_m5_metadata() {
    let site = server::start();
    let path = "/.well-known/oauth-authorization-server";
    let answer = site
        .send(&Req::get(path).host(HOST).header("X-Forwarded-Host", "evil.test").header("X-Forwarded-Proto", "https"));
    let mut wrong = Wrong::default();
    wrong.eq("status", answer.status, 200);
    wrong.ok(
        "type",
        answer.header("Content-Type").unwrap_or_default().starts_with("application/json"),
        &answer.headers,
    );
    let data = answer.json();
    wrong.eq("M2 issuer", &data["issuer"], "http://127.0.0.1");
    wrong.eq("M3 token endpoint", &data["token_endpoint"], "http://127.0.0.1/oauth2/token");
    wrong.eq("M3 key set", &data["jwks_uri"], "http://127.0.0.1/oauth2/jwks");
    let has = |name: &str, value: &str| data[name].as_array().is_some_and(|list| list.contains(&json!(value)));
    wrong.ok("M4 password", has("grant_types_supported", "password"), &data["grant_types_supported"]);
    wrong.ok("M4 refresh", has("grant_types_supported", "refresh_token"), &data["grant_types_supported"]);
    wrong.ok("M4 implicit", !has("grant_types_supported", "implicit"), &data["grant_types_supported"]);
    for method in ["client_secret_basic", "client_secret_post"] {
        wrong.ok(
            method,
            has("token_endpoint_auth_methods_supported", method),
            &data["token_endpoint_auth_methods_supported"],
        );
    }
    for (name, value) in data.as_object().unwrap() {
        wrong.ok(("M3 empty array", name), value.as_array().is_none_or(|list| !list.is_empty()), value);
        wrong.ok(("M2 host", name), !value.to_string().contains("evil"), value);
    }
    wrong.ok("M5 cacheable", answer.header("Cache-Control").unwrap_or_default().contains("max-age"), &answer.headers);
    let cors = site.send(&Req::get(path).host(HOST).header("Origin", "https://any.test"));
    wrong.eq("M5 CORS", cors.header("Access-Control-Allow-Origin"), Some("*"));
    wrong.eq("M5 HEAD", site.connect().send(&Req::new("HEAD", path).host(HOST)).status, 200);
    wrong.eq("M5 POST", site.send(&Req::post(path).host(HOST).body("")).status, 405);
    wrong.eq("no cookie", answer.header("Set-Cookie"), None);
    wrong.done();

    let none = server::builder().start_with(|config| {
        config
            .replace("[\"password\", \"refresh_token\"]", "[\"refresh_token\"]")
            .replace("[\"password\"]", "[\"refresh_token\"]")
    });
    let data = none.send(&Req::get(path).host(HOST)).json();
    assert!(!data["grant_types_supported"].to_string().contains("password"), "M4: {data}");
}

#[test]
fn m1_an_issuer_with_a_path_has_its_metadata_in_front_of_it() {
    let site = server::builder().start_with(|config| {
        config
            .replace("signing_algorithm = \"ES256\"", "signing_algorithm = \"ES256\"\nissuer = \"http://127.0.0.1/as\"")
    });
    let answer = site.send(&Req::get("/.well-known/oauth-authorization-server/as").host(HOST));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["issuer"], "http://127.0.0.1/as");
}

#[test]
fn the_path_of_the_endpoints_is_configurable() {
    let site = server::builder().start_with(|config| {
        config.replace("signing_algorithm = \"ES256\"", "signing_algorithm = \"ES256\"\npath = \"/oauth2/v1\"")
    });
    let request = Req::post("/oauth2/v1/token").host(HOST).header("Authorization", &basic("billing", SECRET));
    assert_eq!(outcome(&site.send(&request.form(&good_form()))), "200");
    assert_eq!(site.send(&Req::get("/oauth2/jwks").host(HOST)).status, 404);
}

#[test]
fn tokens_of_others_with_our_name_are_refused() {
    let site = server::start();
    let forged = Mint::with("http://127.0.0.1", vec![mint::Key::p256("k1")]);
    let claims = json!({"aud": "http://127.0.0.1", "scope": "orders:read"});
    assert_eq!(site.get("/orders/7", Some(&forged.token(&claims))).status, 401);
    let good = log_in(&site, "billing", &[]).json()["access_token"].as_str().unwrap().to_owned();
    let kid = mint::token_header(&good)["kid"].clone();
    assert_eq!(site.get("/orders/7", Some(&forged.forge(&json!({ "kid": kid }), &claims))).status, 401);
    assert_eq!(site.get("/orders/7", Some(&good)).status, 200);
    // The other issuer of the site still is one.
    assert_eq!(site.get("/orders/7", Some(&site.mint.scoped("orders:read"))).status, 200);
}

#[test]
fn keys_and_refresh_tokens_survive_a_restart() {
    let data = tempfile::TempDir::new().unwrap();
    let path = data.path().join("data").display().to_string();
    let change = |config: String| config.replace("[store.memory]", &format!("[store.embedded]\npath = \"{path}\""));
    let site = server::builder().start_with(change);
    let body = log_in(&site, "billing", &[("scope", "orders:read offline_access")]).json();
    let access = body["access_token"].as_str().unwrap().to_owned();
    // The hard way.
    site.gateway.signal(rustix::process::Signal::KILL);
    site.gateway.wait_exit();
    let site = server::builder().start_with(change);
    assert_eq!(site.get("/orders/7", Some(&access)).status, 200);
    let form = encode(&[("grant_type", "refresh_token"), ("refresh_token", body["refresh_token"].as_str().unwrap())]);
    assert_eq!(outcome(&ask(&site, "billing", &form)), "200");
    use std::os::unix::fs::PermissionsExt;
    let mut pending = vec![data.path().join("data")];
    while let Some(path) = pending.pop() {
        let meta = std::fs::metadata(&path).unwrap();
        let mode = meta.permissions().mode() & 0o777;
        if meta.is_dir() {
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert_eq!(mode, 0o600, "{} has mode {mode:o}", path.display());
        }
    }
}

#[test]
fn http2_and_http1_give_the_same() {
    use crate::support::h2::{H2Client, full};
    let site = server::start();
    let mut client = H2Client::plain(site.gateway.address("main"));
    let request = |authorization: &str| {
        http::Request::post("http://127.0.0.1/oauth2/token")
            .header("authorization", authorization)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(full(good_form()))
            .unwrap()
    };
    assert_eq!(client.send(request(&basic("billing", SECRET))).status, 200);
    let bad = client.send(request(&basic("billing", "x")));
    assert_eq!(bad.status, 401);
    assert!(bad.headers["www-authenticate"].to_str().unwrap().contains("invalid_client"));
}

#[test]
fn the_metrics_count_tokens_by_grant_and_client() {
    let site = server::start();
    log_in(&site, "billing", &[]);
    log_in(&site, "short", &[]);
    ask(&site, "billing", &password_form("alice", "wrong", &[]));
    send(site.gateway.address("main"), &token_request("grant_type=password&client_id=someone-else"));
    let name = "tollgate_tokens_issued_total";
    let metrics = site.gateway.wait_metrics("two tokens", |metrics| metrics.sum(name, &[]) >= 2.0);
    assert_eq!(metrics.sum(name, &[("grant", "password"), ("client", "billing")]), 1.0);
    assert_eq!(metrics.sum(name, &[("grant", "password"), ("client", "short")]), 1.0);
    assert_eq!(metrics.sum("tollgate_token_requests_refused_total", &[("error", "invalid_grant")]), 1.0);
    assert!(!metrics.text.contains("someone-else") && !metrics.text.contains("alice"));
}

#[test]
fn a_broken_connection_in_the_middle_of_a_login_does_no_harm() {
    let site = server::start();
    for _ in 0..5 {
        let mut conn = Conn::open(site.gateway.address("main"));
        conn.write(&billing(&good_form()).bytes()[..150]);
    }
    assert_eq!(outcome(&log_in(&site, "billing", &[])), "200");
}
