//! Refresh tokens and their families. Names carry the ids of docs/conformance.md.

use crate::support::mint;
use crate::support::server::{
    self, PASSWORD, SECRET, VERIFIER, ask, basic, cheap_hash, code_form, log_in, outcome, pkce_request_of, refresh,
    refresh_form, token_request, tokens,
};
use crate::support::{Req, Response, Site, Wrong, field};

const BAD_GRANT: &str = "400 invalid_grant";
const OFFLINE: (&str, &str) = ("scope", "orders:read orders:write offline_access");

/// The first access and refresh token of a new family.
fn family(site: &Site) -> (String, String) {
    tokens(&log_in(site, "billing", &[OFFLINE]))
}

fn next(site: &Site, token: &str) -> (String, String) {
    tokens(&refresh(site, "billing", token))
}

fn try_next(site: &Site, token: &str) -> String {
    outcome(&refresh(site, "billing", token))
}

fn at_gateway(site: &Site, token: &str) -> u16 {
    site.get("/orders/7", Some(token)).status
}

/// Both kinds of access tokens.
fn sites() -> [(&'static str, Site); 2] {
    ["jwt", "opaque"].map(|format| {
        let site = server::builder().start_with(|config| {
            let lines = format!("signing_algorithm = \"ES256\"\naccess_token_format = \"{format}\"");
            config.replace("signing_algorithm = \"ES256\"", &lines)
        });
        (format, site)
    })
}

#[test]
fn r5_r12_reuse_ends_every_token_of_the_family() {
    let mut wrong = Wrong::default();
    for (format, site) in sites() {
        let (a1, r1) = family(&site);
        let (a2, r2) = next(&site, &r1);
        let (a3, r3) = next(&site, &r2);
        for (name, token) in [("first", &a1), ("second", &a2), ("third", &a3)] {
            wrong.eq((format, "R12", name), at_gateway(&site, token), 200);
        }
        let (other, other_refresh) = family(&site);
        wrong.eq((format, "reuse"), try_next(&site, &r1).as_str(), BAD_GRANT);
        for (name, token) in [("first", &a1), ("second", &a2), ("third", &a3)] {
            wrong.eq((format, "revoked", name), at_gateway(&site, token), 401);
        }
        for (name, token) in [("r1", &r1), ("r2", &r2), ("r3", &r3)] {
            wrong.eq((format, name), try_next(&site, token).as_str(), BAD_GRANT);
        }
        wrong.eq((format, "another family"), at_gateway(&site, &other), 200);
        wrong.eq((format, "another family"), try_next(&site, &other_refresh).as_str(), "200");
        site.gateway.wait_log("the reuse", |line| field(line, "event") == Some("refresh_reuse"));
        let log = site.gateway.output();
        for token in [&a1, &a3, &r1, &r3] {
            wrong.ok((format, "G17"), !log.contains(token.as_str()), "a token stands in the log");
        }
    }
    wrong.done();
}

#[test]
fn r7_an_old_token_works_while_no_successor_was_used() {
    let mut wrong = Wrong::default();
    for (format, site) in sites() {
        // Any number of answers may get lost.
        let (_, r1) = family(&site);
        let lost: Vec<_> = (0..4).map(|_| next(&site, &r1)).collect();
        let (access, r2) = next(&site, &r1);
        for (n, (access, _)) in lost.iter().enumerate() {
            wrong.eq((format, "a lost access token", n), at_gateway(&site, access), 401);
        }
        wrong.eq((format, "the last answer"), at_gateway(&site, &access), 200);
        wrong.eq((format, "now it is used"), try_next(&site, &r1).as_str(), BAD_GRANT);
        wrong.eq((format, "which is taken for a theft"), try_next(&site, &r2).as_str(), BAD_GRANT);
        wrong.eq((format, "and ends the access token"), at_gateway(&site, &access), 401);

        // The successor's refresh token was used.
        let (_, r1) = family(&site);
        let (_, r2) = next(&site, &r1);
        let (access, r3) = next(&site, &r2);
        wrong.eq((format, "after the refresh token"), try_next(&site, &r1).as_str(), BAD_GRANT);
        wrong.eq((format, "after the refresh token"), try_next(&site, &r3).as_str(), BAD_GRANT);
        wrong.eq((format, "after the refresh token"), at_gateway(&site, &access), 401);

        // A lost answer that turns up after all: two hold the family.
        let (_, r1) = family(&site);
        let (_, lost) = next(&site, &r1);
        let (_, r2) = next(&site, &r1);
        wrong.eq((format, "the superseded one"), try_next(&site, &lost).as_str(), BAD_GRANT);
        wrong.eq((format, "ends the other"), try_next(&site, &r2).as_str(), BAD_GRANT);

        // In the middle of a chain.
        let (_, r1) = family(&site);
        let (_, r2) = next(&site, &r1);
        let _lost = next(&site, &r2);
        let (_, r3) = next(&site, &r2);
        wrong.eq((format, "a later link"), try_next(&site, &r3).as_str(), "200");
        wrong.eq((format, "two links back"), try_next(&site, &r1).as_str(), BAD_GRANT);
    }
    wrong.done();
}

#[test]
fn r7_only_a_forwarded_request_counts_as_use() {
    // A use is a use whatever the route said of it.
    let mut wrong = Wrong::default();
    for (format, site) in sites() {
        for (case, request, expected) in [
            ("forwarded", Req::get("/orders/7"), 200),
            ("refused by a rule", Req::new("DELETE", "/orders/7"), 405),
            ("no route", Req::get("/nothing"), 404),
        ] {
            let (_, r1) = family(&site);
            let (access, _) = next(&site, &r1);
            wrong.eq((format, case), site.send(&request.bearer(&access)).status, expected);
            let seen = if expected == 200 { BAD_GRANT } else { "200" };
            wrong.eq((format, case, "then"), try_next(&site, &r1).as_str(), seen);
        }
        // The first access token is nobody's successor.
        let (first, r1) = family(&site);
        wrong.eq((format, "the first"), at_gateway(&site, &first), 200);
        let _lost = next(&site, &r1);
        wrong.eq((format, "again"), at_gateway(&site, &first), 200);
        wrong.eq((format, "the old one"), try_next(&site, &r1).as_str(), "200");
    }
    wrong.done();
}

#[test]
fn r7_r14_what_was_used_is_remembered_over_a_restart() {
    let mut site = server::builder().embedded().start();
    let (_, lost) = family(&site);
    let _answer = next(&site, &lost);
    let (_, spent) = family(&site);
    let (access, _) = next(&site, &spent);
    assert_eq!(at_gateway(&site, &access), 200);
    let (_, reused) = family(&site);
    let (_, r2) = next(&site, &reused);
    let (a3, r3) = next(&site, &r2);
    assert_eq!(try_next(&site, &reused), BAD_GRANT);
    site.gateway.restart();
    assert_eq!(try_next(&site, &lost), "200", "the answer was lost");
    assert_eq!(try_next(&site, &spent), BAD_GRANT, "the access token had been used");
    assert_eq!(try_next(&site, &r3), BAD_GRANT, "the family was revoked");
    assert_eq!(at_gateway(&site, &a3), 401, "RV8: so was its access token");
}

#[test]
fn r4_r2_public_clients_rotate_too() {
    let site = server::browsed().start();
    let mut browser = site.browser();
    let query =
        format!("{}&redirect_uri=http://127.0.0.1:99/cb&scope=orders:read+offline_access", pkce_request_of("native"));
    let id = ("client_id", "native");
    let form = code_form(
        &browser.code(&query),
        &[id, ("redirect_uri", "http://127.0.0.1:99/cb"), ("code_verifier", VERIFIER)],
    );
    let (_, r1) = tokens(&site.send(&token_request(&form)));
    let by = |token: &str, more: &[(&str, &str)]| site.send(&token_request(&refresh_form(token, more)));
    let mut wrong = Wrong::default();
    wrong.eq("R2 no client_id", outcome(&by(&r1, &[])), "401 invalid_client");
    wrong.eq("R1 another public client", outcome(&by(&r1, &[("client_id", "nobody")])), "401 invalid_client");
    wrong.eq("R2 a confidential id", outcome(&by(&r1, &[("client_id", "first")])), "401 invalid_client");
    let (_, r2) = tokens(&by(&r1, &[id]));
    wrong.ok("R4", r1 != r2, &r2);
    let (_, r3) = tokens(&by(&r2, &[id]));
    wrong.eq("R5", outcome(&by(&r1, &[id])), BAD_GRANT);
    wrong.eq("R5", outcome(&by(&r3, &[id])), BAD_GRANT);
    wrong.done();
}

#[test]
fn r8_t12_at_once_never_two_living_branches() {
    let mut wrong = Wrong::default();
    let site = server::builder().embedded().start();
    for round in 0..4 {
        let (_, r1) = family(&site);
        let form = refresh_form(&r1, &[]);
        let answers: Vec<Response> = std::thread::scope(|scope| {
            let runs: Vec<_> = (0..6).map(|_| scope.spawn(|| ask(&site, "billing", &form))).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        let given: Vec<_> = answers.iter().filter(|answer| answer.status == 200).map(tokens).collect();
        wrong.ok((round, "somebody"), !given.is_empty(), "nobody got an answer");
        let alive = given.iter().filter(|(access, _)| at_gateway(&site, access) == 200).count();
        wrong.ok((round, "access tokens"), alive <= 1, alive);
        // Whoever refreshes on: at most one of them can.
        let second: Vec<_> = given.iter().map(|(_, token)| refresh(&site, "billing", token)).collect();
        let second: Vec<_> = second.iter().filter(|answer| answer.status == 200).map(tokens).collect();
        let third = second.iter().filter(|(_, token)| try_next(&site, token) == "200").count();
        wrong.ok((round, "branches"), second.len() <= 1 && third <= 1, (second.len(), third));
    }
    wrong.done();
}

#[test]
fn r9_idle_and_absolute_lifetime() {
    let mut site = server::builder().embedded().start_with(|config| {
        let lines = "signing_algorithm = \"ES256\"\nrefresh_token_idle = \"14d\"\nrefresh_token_lifetime = \"30d\"";
        config.replace("signing_algorithm = \"ES256\"", lines)
    });
    let day = 24 * 3600;
    let (_, idle) = family(&site);
    let (_, mut used) = family(&site);
    let mut wrong = Wrong::default();
    for (case, seconds, expected) in
        [("13 days", 13 * day, "200"), ("26 days", 13 * day, "200"), ("30 days", 4 * day + 5, BAD_GRANT)]
    {
        site.gateway.later(seconds);
        let answer = refresh(&site, "billing", &used);
        wrong.eq(case, outcome(&answer).as_str(), expected);
        if answer.status == 200 {
            used = tokens(&answer).1;
        }
        if case == "26 days" {
            wrong.eq("idle", try_next(&site, &idle).as_str(), BAD_GRANT);
        }
    }
    wrong.done();
}

#[test]
fn r10_r11_p11_what_user_and_client_lost_is_gone() {
    let mut site = server::builder().embedded().start();
    let mut wrong = Wrong::default();
    let config = site.gateway.read("tollgate.toml");
    let users = server::users();
    let alice = "roles = [\"clerk\"]\nclaims";
    let billing = |from: &str, to: &str| {
        let (before, after) = config.split_at(config.find("[authorization_server.clients.billing]").unwrap());
        assert!(after.contains(from));
        format!("{before}{}", after.replacen(from, to, 1))
    };
    let scopes = "\"orders:read\", \"orders:write\", \"extra\", \"offline_access\"";
    for (case, new_users, new_config, expected) in [
        ("nothing", users.clone(), config.clone(), "200 orders:read orders:write offline_access"),
        ("R10 disabled", users.replacen(alice, &format!("disabled = true\n{alice}"), 1), config.clone(), BAD_GRANT),
        ("R10 deleted", users.replacen("\"alice\"", "\"alicia\"", 1), config.clone(), BAD_GRANT),
        (
            "R10 another password",
            users.replacen(&cheap_hash(PASSWORD), &cheap_hash("new"), 1),
            config.clone(),
            BAD_GRANT,
        ),
        (
            "R10 another role",
            users.replacen("[\"clerk\"]", "[\"reader\"]", 1),
            config.clone(),
            "200 orders:read offline_access",
        ),
        ("R10 no role", users.replacen("[\"clerk\"]", "[]", 1), config.clone(), "400 invalid_scope"),
        (
            "R11 no grant",
            users.clone(),
            billing("[\"password\", \"refresh_token\"]", "[\"password\"]"),
            "400 unauthorized_client",
        ),
        (
            "R11 fewer scopes",
            users.clone(),
            billing(scopes, "\"orders:read\", \"offline_access\""),
            "200 orders:read offline_access",
        ),
        (
            "R11 none of them",
            users.clone(),
            billing(scopes, "\"extra\", \"offline_access\"").replacen(
                "default_scopes = [\"orders:read\"]",
                "default_scopes = [\"extra\"]",
                1,
            ),
            "400 invalid_scope",
        ),
    ] {
        let (_, token) = family(&site);
        site.gateway.write("users.toml", &new_users);
        site.gateway.write("tollgate.toml", &new_config);
        site.gateway.restart();
        let answer = refresh(&site, "billing", &token);
        let got = match answer.status {
            200 => format!("200 {}", answer.json()["scope"].as_str().unwrap_or_default()),
            _ => outcome(&answer),
        };
        wrong.eq(case, got.as_str(), expected);
        site.gateway.write("users.toml", &users);
        site.gateway.write("tollgate.toml", &config);
        site.gateway.restart();
        // Once refused for the user's sake it does not come back; what was only narrowed does.
        let back = try_next(&site, &token);
        let stays = expected == BAD_GRANT;
        wrong.ok((case, "afterwards"), (back == BAD_GRANT) == stays, &back);
    }
    wrong.done();
}

#[test]
fn r3_a_narrow_refresh_narrows_the_token_at_the_gateway() {
    for (format, site) in sites() {
        let (_, r1) = family(&site);
        let answer = ask(&site, "billing", &refresh_form(&r1, &[("scope", "orders:read")]));
        let (access, r2) = tokens(&answer);
        assert_eq!(at_gateway(&site, &access), 200, "{format}");
        assert_eq!(site.send(&Req::post("/orders/7").bearer(&access).body("")).status, 403, "{format}");
        let (access, _) = next(&site, &r2);
        assert_eq!(site.send(&Req::post("/orders/7").bearer(&access).body("")).status, 200, "{format}");
        if format == "jwt" {
            assert_eq!(mint::payload(&access)["sub"], "alice");
        } else {
            assert!(!access.contains('.') && access.len() >= 43, "{access}");
        }
    }
}

#[test]
fn r14_a_kill_leaves_the_old_or_the_new_state() {
    let mut site = server::builder().embedded().start();
    let mut wrong = Wrong::default();
    let (_, mut token) = family(&site);
    let mut older = token.clone();
    for round in 0..8 {
        // A few steps that are answered, then one during which the process dies.
        for _ in 0..round % 3 {
            older = std::mem::take(&mut token);
            token = next(&site, &older).1;
        }
        let request = token_request(&refresh_form(&token, &[])).header("Authorization", &basic("billing", SECRET));
        let mut conn = site.connect();
        conn.write(request.bytes());
        match round % 4 {
            0 => {}
            1 => std::thread::yield_now(),
            // The answer has begun: the new state must be durable.
            2 => drop(conn.wire.until(b"\r\n").unwrap()),
            _ => {
                // The kill meets whatever the others are at.
                for _ in 0..3 {
                    let other = token_request(&server::password_form("dave", PASSWORD, &[OFFLINE]));
                    site.connect().write(other.header("Authorization", &basic("billing", SECRET)).bytes());
                }
            }
        }
        site.gateway.kill();
        site.gateway.start_again();
        // Old state: the token was not used. New state: its successor was not, for nobody has it.
        let answer = refresh(&site, "billing", &token);
        if !wrong.eq((round, "goes on"), outcome(&answer).as_str(), "200") {
            (_, token) = family(&site);
            older.clone_from(&token);
            continue;
        }
        older = std::mem::replace(&mut token, tokens(&answer).1);
        wrong.eq((round, "once more"), try_next(&site, &token).as_str(), "200");
        wrong.eq((round, "reuse is still noticed"), try_next(&site, &older).as_str(), BAD_GRANT);
        (_, token) = family(&site);
        older.clone_from(&token);
    }
    wrong.done();
}
