//! Introspection (RFC 7662). Names carry the ids of docs/conformance.md.

use serde_json::{Value, json};

use crate::support::mint::{b64, now};
use crate::support::server::{
    self, HOST, PASSWORD, SECRET, basic, cheap_hash, encode, outcome, refresh, request_of, token_request, tokens,
};
use crate::support::{Browser, Mint, Req, Response, Site, Wrong};

fn request(form: &str) -> Req {
    Req::post("/oauth2/introspect").host(HOST).form(form)
}

fn introspect(site: &Site, client: &str, token: &str) -> Response {
    site.send(&request(&encode(&[("token", token)])).header("Authorization", &basic(client, SECRET)))
}

fn facts(site: &Site, token: &str) -> Value {
    let answer = introspect(site, "resource-server", token);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn is_active(site: &Site, token: &str) -> bool {
    facts(site, token)["active"] == true
}

fn inactive() -> Value {
    json!({ "active": false })
}

/// A site whose access tokens are of this format, with another client that may introspect.
fn of_format(format: &str) -> Site {
    server::browsed().embedded().start_with(|config| {
        let lines = format!("signing_algorithm = \"ES256\"\naccess_token_format = \"{format}\"");
        config
            .replace("signing_algorithm = \"ES256\"", &lines)
            .replace(
                "[authorization_server.clients.machine]",
                "[authorization_server.clients.orders]\nsecret = { env = \"CLIENT_SECRET\" }\n\
             grants = [\"client_credentials\"]\nscopes = [\"orders:read\"]\nintrospect = true\n\
             audience = [\"https://orders.test\"]\n[authorization_server.clients.machine]",
            )
            .replace(
                "grants = [\"authorization_code\", \"refresh_token\"]\nredirect_uris = [\"https://first.test",
                "introspect = true\ngrants = [\"authorization_code\", \"refresh_token\"]\n\
             redirect_uris = [\"https://first.test",
            )
    })
}

fn offline(site: &Site, browser: &mut Browser, client: &str) -> (String, String) {
    let code = browser.code(&format!("{}&scope=orders:read+offline_access", request_of(client)));
    tokens(&server::redeem(site, client, &code, &[]))
}

#[test]
fn in1_in2_in5_in11_what_is_answered() {
    let site = of_format("jwt");
    let mut browser = site.browser();
    let (access, _) = offline(&site, &mut browser, "first");
    let mut wrong = Wrong::default();
    let by = |form: &str| request(form).header("Authorization", &basic("resource-server", SECRET));
    let (bad, none) = ("400 invalid_request", "401 invalid_client");
    for (case, asked, expected) in [
        ("IN1 nobody", request("token=x"), none),
        ("IN1 a good token and nobody", request(&encode(&[("token", &access)])), none),
        ("IN1 wrong secret", request("token=x").header("Authorization", &basic("resource-server", "wrong")), none),
        ("IN1 public", request(&encode(&[("token", &access), ("client_id", "native")])), none),
        ("IN1 bearer", request(&encode(&[("token", &access)])).bearer(&access), none),
        (
            "IN1 secret in the form",
            request(&encode(&[("token", "x"), ("client_id", "resource-server"), ("client_secret", SECRET)])),
            "200",
        ),
        ("IN2 missing", by("a=b"), bad),
        ("IN2 empty", by("token="), bad),
        ("G5 twice", by("token=a&token=b"), bad),
        (
            "G6 in the query",
            Req::post("/oauth2/introspect?token=x")
                .host(HOST)
                .header("Authorization", &basic("resource-server", SECRET))
                .form("token=x"),
            bad,
        ),
        ("IN11 too long", by(&format!("token={}", "x".repeat(1_000_000))), "413 invalid_request"),
    ] {
        let answer = site.connect().try_send(&asked).unwrap();
        wrong.eq(case, outcome(&answer).as_str(), expected);
        wrong.eq((case, "G10"), answer.challenge().is_empty(), answer.status != 401);
        wrong.eq((case, "G1"), answer.header("Cache-Control"), Some("no-store"));
    }
    for method in ["GET", "HEAD", "PUT"] {
        let answer = site.connect().send(&Req::new(method, "/oauth2/introspect").host(HOST));
        wrong.eq(("IN1", method), (answer.status, answer.header("Allow")), (405, Some("POST")));
    }
    // IN3 IN11: nothing but the one word.
    let mut forged: Vec<String> = access.split('.').map(str::to_owned).collect();
    forged[2] = b64([7; 64]);
    let other = Mint::with("http://127.0.0.1", vec![crate::support::mint::Key::p256("k1")]);
    for (case, token) in [
        ("unknown", "unknown".to_owned()),
        ("forged", forged.join(".")),
        ("another issuer's", site.mint.scoped("orders:read")),
        ("our name, another key", other.token(&json!({"aud": "http://127.0.0.1", "scope": "orders:read"}))),
        ("no signature", format!("{}.{}.", forged[0], forged[1])),
        ("alg none", format!("{}.{}.", b64("{\"alg\":\"none\",\"typ\":\"at+jwt\"}"), forged[1])),
        ("spaces", format!(" {access} ")),
        ("bytes", "\u{1}\u{7f}é\"\\<script>".to_owned()),
        ("dots", "....".to_owned()),
        ("long", "x".repeat(50_000)),
        ("a header only", b64("{}")),
    ] {
        wrong.eq(("IN3 IN11", case), facts(&site, &token), inactive());
    }
    for hint in ["refresh_token", "access_token", "nonsense", ""] {
        let form = encode(&[("token", &access), ("token_type_hint", hint)]);
        wrong.eq(("IN5", hint), &site.send(&by(&form)).json()["active"], true);
    }
    // IN1: a client without the right is told nothing.
    wrong.eq("IN1 no right", introspect(&site, "machine", &access).json(), inactive());
    wrong.eq("IN1 no right, its own", introspect(&site, "second", &access).json(), inactive());
    wrong.ok("G17", !site.gateway.output().contains(&access), "a token stands in the log");
    wrong.done();
}

#[test]
fn in4_in7_in8_in9_an_active_access_token() {
    let mut wrong = Wrong::default();
    for format in ["jwt", "opaque"] {
        let site = of_format(format);
        let mut browser = site.browser();
        let (access, _) = offline(&site, &mut browser, "first");
        let answer = introspect(&site, "resource-server", &access);
        wrong.eq(
            (format, "type"),
            answer.header("Content-Type").map(|kind| kind.starts_with("application/json")),
            Some(true),
        );
        let body = answer.json();
        for (name, value) in [
            ("active", json!(true)),
            ("scope", json!("orders:read offline_access")),
            ("client_id", json!("first")),
            ("username", json!("alice")),
            ("sub", json!("alice")),
            ("token_type", json!("Bearer")),
            ("iss", json!("http://127.0.0.1")),
            ("tenant", json!("acme")),
        ] {
            wrong.eq((format, "IN4", name), body[name].clone(), value);
        }
        let aud = &body["aud"];
        wrong.ok((format, "aud"), *aud == "http://127.0.0.1" || *aud == json!(["http://127.0.0.1"]), aud);
        for name in ["exp", "iat"] {
            wrong.ok((format, "IN4", name), body[name].is_u64(), &body[name]);
        }
        wrong.ok((format, "IN4 exp"), body["exp"].as_i64().is_some_and(|at| (at - now() - 3600).abs() < 30), &body);
        wrong.ok((format, "IN4 jti"), body["jti"].as_str().is_some_and(|id| id.len() >= 16), &body);
        wrong.eq((format, "the gateway agrees"), site.get("/orders/7", Some(&access)).status, 200);
        // IN7: a caller with an audience of its own sees tokens for that one only.
        wrong.eq((format, "IN7 not for it"), introspect(&site, "orders", &access).json(), inactive());
        let code = browser.code(&request_of("audience"));
        let (for_both, _) = tokens(&server::redeem(&site, "audience", &code, &[]));
        wrong.eq((format, "IN7 for it"), &introspect(&site, "orders", &for_both).json()["active"], true);
        // A machine's own token.
        let form = encode(&[("grant_type", "client_credentials")]);
        let (own, _) = tokens(&site.send(&token_request(&form).header("Authorization", &basic("machine", SECRET))));
        let body = facts(&site, &own);
        wrong.eq(
            (format, "machine"),
            (&body["active"], &body["sub"], &body["client_id"]),
            (&json!(true), &json!("client:machine"), &json!("machine")),
        );
        wrong.ok((format, "machine"), body.get("username").is_none(), &body);
    }
    wrong.done();
}

#[test]
fn in3_in6_rv8_what_is_not_active_any_more() {
    let mut wrong = Wrong::default();
    for format in ["jwt", "opaque"] {
        let mut site = of_format(format);
        let mut browser = site.browser();
        let (access, _) = offline(&site, &mut browser, "first");
        let form = encode(&[("token", &access)]);
        site.send(&Req::post("/oauth2/revoke").host(HOST).form(&form).header("Authorization", &basic("first", SECRET)));
        wrong.eq((format, "revoked"), facts(&site, &access), inactive());

        // IN6: a refresh token is its owner's alone, and no access token.
        let (access, r1) = offline(&site, &mut browser, "first");
        let own = introspect(&site, "first", &r1).json();
        wrong.eq(
            (format, "IN6 own"),
            (&own["active"], &own["client_id"], &own["sub"]),
            (&json!(true), &json!("first"), &json!("alice")),
        );
        wrong.ok((format, "IN6 no Bearer"), own["token_type"] != "Bearer", &own);
        wrong.eq((format, "IN6 another's"), facts(&site, &r1), inactive());
        wrong.eq((format, "IN6 at the gateway"), site.get("/orders/7", Some(&r1)).status, 401);
        let (_, r2) = tokens(&refresh(&site, "first", &r1));
        wrong.eq((format, "IN6 retired"), introspect(&site, "first", &r1).json(), inactive());
        wrong.eq((format, "IN6 successor"), &introspect(&site, "first", &r2).json()["active"], true);
        wrong.eq((format, "R12 earlier"), is_active(&site, &access), true);

        // Who is disabled or has another password has no active tokens.
        let users = server::users();
        let alice = "roles = [\"clerk\"]\nclaims";
        for (case, changed) in [
            ("another password", users.replacen(&cheap_hash(PASSWORD), &cheap_hash("new"), 1)),
            ("disabled", users.replacen(alice, &format!("disabled = true\n{alice}"), 1)),
            ("deleted", users.replacen("\"alice\"", "\"alicia\"", 1)),
        ] {
            let mut browser = site.browser();
            let (access, refresh_token) = offline(&site, &mut browser, "first");
            wrong.eq((format, case, "before"), is_active(&site, &access), true);
            site.gateway.write("users.toml", changed);
            // A second later, so that the change is not within the second of the login.
            site.gateway.later(2);
            wrong.eq((format, "P11", case), facts(&site, &access), inactive());
            wrong.eq((format, "P11", case), introspect(&site, "first", &refresh_token).json(), inactive());
            site.gateway.write("users.toml", &users);
            site.gateway.later(2);
        }

        // Expired.
        let mut browser = site.browser();
        let (access, refresh_token) = offline(&site, &mut browser, "first");
        site.gateway.later(3601);
        wrong.eq((format, "expired"), facts(&site, &access), inactive());
        wrong.eq((format, "expired"), &introspect(&site, "first", &refresh_token).json()["active"], true);
        site.gateway.later(15 * 24 * 3600);
        wrong.eq((format, "expired"), introspect(&site, "first", &refresh_token).json(), inactive());
    }
    wrong.done();
}

#[test]
fn in8_claims_of_users_cannot_overwrite_the_facts() {
    let users = server::users().replacen(
        "claims = { tenant = \"acme\"",
        "claims = { active = false, token_type = \"x\", username = \"root\", tenant = \"acme\"",
        1,
    );
    let mut wrong = Wrong::default();
    for format in ["jwt", "opaque"] {
        let site = server::browsed().file("users.toml", &users).start_with(|config| {
            let lines = format!("signing_algorithm = \"ES256\"\naccess_token_format = \"{format}\"");
            config.replace("signing_algorithm = \"ES256\"", &lines)
        });
        let code = site.browser().code(&request_of("first"));
        let (access, _) = tokens(&server::redeem(&site, "first", &code, &[]));
        let body = facts(&site, &access);
        for (name, value) in [
            ("active", json!(true)),
            ("token_type", json!("Bearer")),
            ("username", json!("alice")),
            ("scope", json!("orders:read")),
            ("sub", json!("alice")),
            ("client_id", json!("first")),
            ("iss", json!("http://127.0.0.1")),
            ("tenant", json!("acme")),
        ] {
            wrong.eq((format, name), body[name].clone(), value);
        }
        wrong.ok((format, "exp"), body["exp"].as_i64().is_some_and(|at| at > now()), &body);
        wrong.eq((format, "at the gateway"), site.get("/orders/7", Some(&access)).status, 200);
    }
    wrong.done();
}
