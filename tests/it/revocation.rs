//! Revocation (RFC 7009) and its effect on the gateway. Names carry the ids of docs/conformance.md.

use crate::support::mint::{self, b64};
use crate::support::server::{
    self, HOST, SECRET, VERIFIER, basic, code_form, encode, log_in, outcome, pkce_request_of, refresh, token_request,
    tokens,
};
use crate::support::{Mint, Req, Response, Site, Wrong};

const OFFLINE: (&str, &str) = ("scope", "orders:read offline_access");

fn revoke_request(form: &str) -> Req {
    Req::post("/oauth2/revoke").host(HOST).form(form)
}

fn revoke(site: &Site, client: &str, token: &str) -> Response {
    site.send(&revoke_request(&encode(&[("token", token)])).header("Authorization", &basic(client, SECRET)))
}

fn at_gateway(site: &Site, token: &str) -> u16 {
    site.get("/orders/7", Some(token)).status
}

fn of_format(format: &str) -> Site {
    server::builder().embedded().start_with(|config| {
        let lines = format!("signing_algorithm = \"ES256\"\naccess_token_format = \"{format}\"");
        config.replace("signing_algorithm = \"ES256\"", &lines)
    })
}

#[test]
fn rv1_rv3_rv5_rv6_what_is_answered() {
    let site = server::start();
    let mut wrong = Wrong::default();
    let (access, refresh_token) = tokens(&log_in(&site, "billing", &[OFFLINE]));
    let by = |form: &str| revoke_request(form).header("Authorization", &basic("billing", SECRET));
    let token = |token: &str, more: &[(&str, &str)]| by(&encode(&[&[("token", token)], more].concat()));
    let (bad, none) = ("400 invalid_request", "401 invalid_client");
    let mut forged: Vec<String> = access.split('.').map(str::to_owned).collect();
    forged[2] = b64([7; 64]);
    let garbage = [
        ("RV3 unknown", "unknown".to_owned()),
        ("RV3 a forged signature", forged.join(".")),
        ("RV3 another issuer's", Mint::new().scoped("orders:read")),
        ("RV3 no JWT", "a.b.c".to_owned()),
        ("RV3 spaces", " a b ".to_owned()),
        ("RV3 bytes", "\u{1}\u{7f}é\"\\".to_owned()),
        ("RV3 long", "x".repeat(60_000)),
    ];
    let mut cases: Vec<(&str, Req, &str)> = vec![
        ("RV1 no token", by("a=b"), bad),
        ("RV1 empty token", token("", &[]), bad),
        ("RV1 token twice", by("token=a&token=a"), bad),
        ("RV1 hint twice", by("token=a&token_type_hint=x&token_type_hint=x"), bad),
        ("RV1 JSON", by("").header("Content-Type", "application/json"), bad),
        (
            "G6 in the query",
            Req::post("/oauth2/revoke?token=x")
                .host(HOST)
                .header("Authorization", &basic("billing", SECRET))
                .form("token=x"),
            bad,
        ),
        ("RV5 nobody", revoke_request("token=x"), none),
        ("RV5 wrong secret", revoke_request("token=x").header("Authorization", &basic("billing", "wrong")), none),
        ("RV5 only an id", revoke_request("token=x&client_id=billing"), none),
        ("RV5 unknown client", revoke_request("token=x&client_id=nobody"), none),
        (
            "secret in the form",
            revoke_request(&encode(&[("token", "x"), ("client_id", "billing"), ("client_secret", SECRET)])),
            "200",
        ),
        ("RV10 callback", by("token=x&callback=alert"), "200"),
    ];
    cases.extend(garbage.iter().map(|(case, text)| (*case, token(text, &[]), "200")));
    for (case, request, expected) in cases {
        let answer = site.send(&request);
        wrong.eq(case, outcome(&answer).as_str(), expected);
        if answer.status == 200 {
            wrong.eq((case, "RV2"), answer.body.len(), 0);
            wrong.eq((case, "RV2"), answer.header("Cache-Control"), Some("no-store"));
        } else {
            wrong.eq((case, "G10"), answer.challenge().is_empty(), answer.status != 401);
        }
    }
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        let answer = site.connect().send(&Req::new(method, "/oauth2/revoke").host(HOST));
        wrong.eq(("RV1", method), (answer.status, answer.header("Allow")), (405, Some("POST")));
    }
    wrong.eq("none of that revoked anything", at_gateway(&site, &access), 200);
    // RV6: whatever the hint says. RV3: twice. RV5: also when it is gone already.
    for hint in ["refresh_token", "nonsense", ""] {
        let (access, _) = tokens(&log_in(&site, "billing", &[]));
        wrong.eq(("RV6", hint), outcome(&site.send(&token(&access, &[("token_type_hint", hint)]))).as_str(), "200");
        wrong.eq(("RV6", hint), at_gateway(&site, &access), 401);
        wrong.eq(("RV3 again", hint), outcome(&revoke(&site, "billing", &access)).as_str(), "200");
        let anonymous = revoke_request(&encode(&[("token", &access)]));
        wrong.eq(("RV5 gone", hint), outcome(&site.send(&anonymous)).as_str(), none);
    }
    let hinted = token(&refresh_token, &[("token_type_hint", "access_token")]);
    wrong.eq("RV6 refresh", outcome(&site.send(&hinted)).as_str(), "200");
    wrong.eq("RV6 refresh", outcome(&refresh(&site, "billing", &refresh_token)).as_str(), "400 invalid_grant");
    let log = site.gateway.output();
    wrong.ok("G17", !log.contains(&access) && !log.contains(&refresh_token), "a token stands in the log");
    wrong.done();
}

#[test]
fn rv7_rv8_j31_it_acts_at_once() {
    let mut wrong = Wrong::default();
    for format in ["jwt", "opaque"] {
        let mut site = of_format(format);
        // A connection for each worker and more, all of which know the token.
        let (access, refresh_token) = tokens(&log_in(&site, "billing", &[OFFLINE]));
        let mut connections: Vec<_> = (0..6).map(|_| site.connect()).collect();
        let ask = Req::get("/orders/7").bearer(&access);
        let statuses = |connections: &mut Vec<crate::support::Conn>| -> Vec<u16> {
            connections.iter_mut().map(|conn| conn.send(&ask).status).collect()
        };
        wrong.eq((format, "before"), statuses(&mut connections), vec![200; 6]);
        wrong.eq((format, "revoked"), outcome(&revoke(&site, "billing", &access)).as_str(), "200");
        wrong.eq((format, "RV8"), statuses(&mut connections), vec![401; 6]);
        let answer = site.get("/orders/7", Some(&access));
        wrong.eq((format, "B11"), answer.challenge_param("error").as_deref(), Some("invalid_token"));
        // RV7: its refresh token stays, and gives another.
        let (newer, newest) = tokens(&refresh(&site, "billing", &refresh_token));
        wrong.eq((format, "another"), at_gateway(&site, &newer), 200);
        // RV7: a refresh token takes them along, all of them.
        let (third, last) = tokens(&refresh(&site, "billing", &newest));
        wrong.eq((format, "refresh token"), outcome(&revoke(&site, "billing", &last)).as_str(), "200");
        for token in [&newer, &third] {
            wrong.eq((format, "RV7"), at_gateway(&site, token), 401);
        }
        for token in [&newest, &last] {
            wrong.eq((format, "RV7"), outcome(&refresh(&site, "billing", token)).as_str(), "400 invalid_grant");
        }
        // A token of a retired refresh token revokes too: it names its family.
        let (a1, r1) = tokens(&log_in(&site, "billing", &[OFFLINE]));
        let (a2, r2) = tokens(&refresh(&site, "billing", &r1));
        wrong.eq((format, "a retired one"), outcome(&revoke(&site, "billing", &r1)).as_str(), "200");
        wrong.eq((format, "a retired one"), (at_gateway(&site, &a1), at_gateway(&site, &a2)), (401, 401));
        wrong.eq((format, "a retired one"), outcome(&refresh(&site, "billing", &r2)).as_str(), "400 invalid_grant");
        // It survives the process.
        let (kept, _) = tokens(&log_in(&site, "billing", &[]));
        site.gateway.kill();
        site.gateway.start_again();
        for token in [&access, &newer, &third, &a1, &a2] {
            wrong.eq((format, "after a kill"), at_gateway(&site, token), 401);
        }
        wrong.eq((format, "others after a kill"), at_gateway(&site, &kept), 200);
    }
    wrong.done();
}

#[test]
fn rv4_only_its_own_client() {
    let mut wrong = Wrong::default();
    for format in ["jwt", "opaque"] {
        let site = of_format(format);
        let (access, refresh_token) = tokens(&log_in(&site, "billing", &[OFFLINE]));
        for (case, token) in [("access", &access), ("refresh", &refresh_token)] {
            wrong.eq((format, case), outcome(&revoke(&site, "always", token)).as_str(), "400 invalid_grant");
            let public = revoke_request(&encode(&[("token", token), ("client_id", "device")]));
            wrong.eq((format, case, "public"), outcome(&site.send(&public)).as_str(), "400 invalid_grant");
        }
        wrong.eq((format, "still good"), at_gateway(&site, &access), 200);
        wrong.eq((format, "still good"), outcome(&refresh(&site, "billing", &refresh_token)).as_str(), "200");
    }
    wrong.done();
}

/// The same JWT in other bytes: what an attacker could make of a revoked one.
#[test]
fn rv9_other_bytes_for_a_revoked_token() {
    let site = server::start();
    let (access, _) = tokens(&log_in(&site, "billing", &[]));
    assert_eq!(mint::token_header(&access)["alg"], "ES256");
    let parts: Vec<&str> = access.split('.').collect();
    let signature = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, parts[2]).unwrap();
    let mirrored = [&signature[..32], &negated(&signature[32..])].concat();
    let variants = [
        ("(r, n-s)", format!("{}.{}.{}", parts[0], parts[1], b64(mirrored))),
        ("padding", format!("{access}==")),
        ("spare bits", {
            let mut bytes = access.clone().into_bytes();
            let last = bytes.last_mut().unwrap();
            *last = match *last {
                b'A' => b'B',
                b'Q' => b'R',
                b'g' => b'h',
                _ => b'x',
            };
            String::from_utf8(bytes).unwrap()
        }),
        ("the standard alphabet", access.replace('-', "+").replace('_', "/")),
    ];
    let mut wrong = Wrong::default();
    wrong.eq("itself", at_gateway(&site, &access), 200);
    let before: Vec<_> = variants.iter().map(|(case, token)| (*case, at_gateway(&site, token))).collect();
    wrong.eq("the mirrored signature is a good one", before[0], ("(r, n-s)", 200));
    wrong.eq("revoked", outcome(&revoke(&site, "billing", &access)).as_str(), "200");
    for (case, token) in &variants {
        // Not a token68 (spaces, for one) would be 400; all of these are tokens or nothing.
        wrong.ok(case, [400, 401].contains(&at_gateway(&site, token)), at_gateway(&site, token));
    }
    // And the other way round: revoking the mirrored one revokes the original.
    let (access, _) = tokens(&log_in(&site, "billing", &[]));
    let parts: Vec<&str> = access.split('.').collect();
    let signature = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, parts[2]).unwrap();
    let mirrored = [&signature[..32], &negated(&signature[32..])].concat();
    let mirrored = format!("{}.{}.{}", parts[0], parts[1], b64(mirrored));
    wrong.eq("the mirrored one", outcome(&revoke(&site, "billing", &mirrored)).as_str(), "200");
    wrong.eq("takes the original along", at_gateway(&site, &access), 401);
    wrong.done();
}

/// `n - s` for the order of P-256.
fn negated(s: &[u8]) -> Vec<u8> {
    let order = [
        0xffu8, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut out = vec![0; 32];
    let mut borrow = 0;
    for at in (0..32).rev() {
        let digit = i16::from(order[at]) - i16::from(s[at]) - borrow;
        borrow = i16::from(digit < 0);
        out[at] = u8::try_from(digit + 256 * borrow).unwrap();
    }
    out
}

#[test]
fn rv10_public_clients_and_scripts() {
    let site = server::browsed().start_with(|config| {
        config.replace("name = \"Native\"", "name = \"Native\"\norigins = [\"https://spa.test\"]")
    });
    let mut wrong = Wrong::default();
    let mut browser = site.browser();
    let query =
        format!("{}&redirect_uri=http://127.0.0.1:99/cb&scope=orders:read+offline_access", pkce_request_of("native"));
    let more = [("client_id", "native"), ("redirect_uri", "http://127.0.0.1:99/cb"), ("code_verifier", VERIFIER)];
    let (access, refresh_token) = tokens(&site.send(&token_request(&code_form(&browser.code(&query), &more))));
    let request = |token: &str| revoke_request(&encode(&[("token", token), ("client_id", "native")]));
    let answer = site.send(&request(&access).header("Origin", "https://spa.test"));
    wrong.eq("public", outcome(&answer).as_str(), "200");
    wrong.eq("G14", answer.header("Access-Control-Allow-Origin"), Some("https://spa.test"));
    wrong.eq("gone", at_gateway(&site, &access), 401);
    let answer = site.send(&request(&refresh_token).header("Origin", "https://evil.test"));
    wrong.eq("G14 another origin", answer.header("Access-Control-Allow-Origin"), None);
    let preflight = site.send(
        &Req::new("OPTIONS", "/oauth2/revoke")
            .host(HOST)
            .header("Origin", "https://spa.test")
            .header("Access-Control-Request-Method", "POST"),
    );
    wrong.eq(
        "preflight",
        (preflight.status, preflight.header("Access-Control-Allow-Origin")),
        (204, Some("https://spa.test")),
    );
    wrong.done();
}
