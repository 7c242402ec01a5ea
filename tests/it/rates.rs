//! Rate limits of routes. Windows are so long that nothing comes back during a test, except where a test waits for it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::command::explain;
use crate::support::gateway::field;
use crate::support::{Conn, RecordingUpstream, Req, Response, Site, Wrong};

/// A route `r` under `/` with a limit; reading needs no token, writing does.
fn limited(limit: &str) -> String {
    format!(
        "[[routes]]\nname = \"r\"\npath = \"/**\"\nupstream = \"app\"\nrate_limit = {{ {limit} }}\n\
         allow = [{{ methods = [\"GET\"], public = true }}, {{ scopes = [\"write\"] }}]\n"
    )
}

fn token(site: &Site, user: &str, client: &str) -> String {
    site.mint.token(&json!({ "sub": user, "client_id": client, "scope": "write" }))
}

/// The status of a POST with a token.
fn post(site: &Site, user: &str, client: &str) -> u16 {
    site.send(&Req::post("/x").bearer(&token(site, user, client))).status
}

fn get_from(site: &Site, address: &str) -> Response {
    Conn::open_from(address, site.gateway.address("main")).send(&Req::get("/x"))
}

#[test]
fn what_is_too_much_is_429_and_does_not_reach_the_upstream() {
    let site = Site::with(&limited("per = \"subject\", requests = 3, window = \"1h\""));
    let token = token(&site, "alice", "app");
    let mut wrong = Wrong::default();
    for left in [2, 1, 0] {
        let answer = site.send(&Req::post("/x").bearer(&token));
        wrong.eq(("status", left), answer.status, 200);
        wrong.eq(("policy", left), answer.header("RateLimit-Policy"), Some("\"subject\";q=3;w=3600"));
        let limit = answer.header("RateLimit").unwrap_or_default().to_owned();
        let full_in: u64 = limit.rsplit_once("t=").and_then(|(_, t)| t.parse().ok()).unwrap_or_default();
        wrong.ok(("left", left), limit.starts_with(&format!("\"subject\";r={left};t=")), &limit);
        wrong.ok(("full in", left), full_in.abs_diff((3 - left) * 1200) <= 60, &limit);
    }
    let answer = site.send(&Req::post("/x").bearer(&token));
    wrong.eq("status", answer.status, 429);
    wrong.eq("type", answer.header("Content-Type"), Some("application/problem+json"));
    wrong.eq("cache", answer.header("Cache-Control"), Some("no-store"));
    wrong.eq("body", answer.json()["status"].clone(), json!(429));
    wrong.eq("challenge", answer.challenge(), "");
    wrong.eq("policy", answer.header("RateLimit-Policy"), Some("\"subject\";q=3;w=3600"));
    let retry_after: u64 = answer.header("Retry-After").unwrap_or_default().parse().unwrap_or_default();
    wrong.ok("retry after", (1140..=1200).contains(&retry_after), retry_after);
    wrong.eq("limit", answer.header("RateLimit"), Some(format!("\"subject\";r=0;t={retry_after}").as_str()));
    wrong.eq("forwarded", site.upstream.count(), 3);
    let log = site.gateway.access_log(&answer.request_id());
    wrong.eq("log", (field(&log, "decision"), field(&log, "reason")), (Some("denied"), Some("rate_limited")));
    wrong.eq("metric", site.gateway.metrics().sum("tollgate_rate_limited_total", &[("route", "r")]), 1.0);
    wrong.done();
}

#[test]
fn a_subject_a_client_an_address_or_all_share_a_budget() {
    let mut wrong = Wrong::default();
    let once = |per: &str| Site::with(&limited(&format!("per = \"{per}\", requests = 1, window = \"1h\"")));

    let site = once("subject");
    wrong.eq("subject", post(&site, "alice", "app"), 200);
    wrong.eq("the same through another client", post(&site, "alice", "other"), 429);
    wrong.eq("another subject", post(&site, "bob", "app"), 200);
    wrong.eq("without a token, the address", get_from(&site, "127.0.0.1").status, 200);
    wrong.eq("which is used up", get_from(&site, "127.0.0.1").status, 429);
    wrong.eq("another address", get_from(&site, "127.0.0.2").status, 200);
    wrong.eq("a subject is no address", post(&site, "carol", "app"), 200);

    let site = once("client");
    wrong.eq("client", post(&site, "alice", "app"), 200);
    wrong.eq("another user of the client", post(&site, "bob", "app"), 429);
    wrong.eq("another client", post(&site, "alice", "other"), 200);
    wrong.eq("a user of a client's name", post(&site, "app", "third"), 200);

    let site = once("address");
    wrong.eq("address", get_from(&site, "127.0.0.3").status, 200);
    wrong.eq("the address again", get_from(&site, "127.0.0.3").status, 429);
    wrong.eq("another address", get_from(&site, "127.0.0.4").status, 200);
    wrong.eq("tokens do not matter", (post(&site, "alice", "app"), post(&site, "bob", "app")), (200, 429));

    let site = once("route");
    wrong.eq("route", get_from(&site, "127.0.0.5").status, 200);
    wrong.eq("anybody else", (get_from(&site, "127.0.0.6").status, post(&site, "alice", "app")), (429, 429));
    wrong.done();
}

#[test]
fn the_address_is_the_callers_behind_trusted_proxies_and_of_ipv6_the_64() {
    let routes = limited("per = \"address\", requests = 1, window = \"1h\"");
    let site = Site::builder().server("trusted_proxies = [\"127.0.0.1/32\"]").more(&routes).start();
    let status = |from: &str| site.send(&Req::get("/x").header("X-Forwarded-For", from)).status;
    let mut wrong = Wrong::default();
    for (from, expected) in [
        ("192.0.2.1", 200),
        ("192.0.2.1", 429),
        ("192.0.2.2", 200),
        ("2001:db8::1", 200),
        ("2001:db8::2", 429),
        ("2001:db8:0:1::1", 200),
        ("::ffff:192.0.2.1", 429),
    ] {
        wrong.eq(from, status(from), expected);
    }
    let spoofed = Req::get("/x").header("X-Forwarded-For", "192.0.2.9");
    let stranger = || Conn::open_from("127.0.0.2", site.gateway.address("main")).send(&spoofed).status;
    wrong.eq("a stranger's word does not count", (stranger(), stranger()), (200, 429));
    wrong.done();
}

#[test]
fn who_is_refused_by_the_rules_uses_up_nothing() {
    let site = Site::with(&limited("per = \"route\", requests = 1, window = \"1h\""));
    let mut wrong = Wrong::default();
    let poor = site.mint.scoped("other");
    for _ in 0..5 {
        let answer = site.send(&Req::post("/x"));
        wrong.eq("401", answer.status, 401);
        wrong.eq("401 says nothing of the limit", answer.header("RateLimit"), None);
        wrong.eq("403", site.send(&Req::post("/x").bearer(&poor)).status, 403);
    }
    wrong.eq("admitted", post(&site, "alice", "app"), 200);
    wrong.eq("and then", post(&site, "alice", "app"), 429);
    wrong.done();
}

#[test]
fn one_budget_over_all_workers_and_connections() {
    let site = Site::with(&limited("per = \"subject\", requests = 20, window = \"1h\""));
    let token = token(&site, "alice", "app");
    let admitted: usize = std::thread::scope(|scope| {
        let callers = [(); 8].map(|()| {
            scope.spawn(|| {
                let mut conn = site.connect();
                (0..10).filter(|_| conn.send(&Req::post("/x").bearer(&token)).status == 200).count()
            })
        });
        callers.map(|caller| caller.join().unwrap()).iter().sum()
    });
    assert_eq!((admitted, site.upstream.count()), (20, 20));
}

#[test]
fn a_burst_comes_back_with_time() {
    let site = Site::with(&limited("per = \"route\", requests = 2, window = \"1s\", burst = 1"));
    let mut conn = site.connect();
    let deadline = Instant::now() + Duration::from_secs(15);
    for awaited in [200, 429, 200] {
        while conn.send(&Req::get("/x")).status != awaited {
            assert!(Instant::now() < deadline, "never {awaited}");
        }
    }
}

#[test]
fn every_answer_to_a_counted_request_tells_and_no_other_does() {
    let upstream = RecordingUpstream::scripted(|exchange| match exchange.request.target.as_str() {
        "/down" => Err(std::io::ErrorKind::Other.into()),
        "/own" => exchange.answer("200 OK", "RateLimit: \"theirs\";r=1\r\n", b""),
        "/ws" => {
            exchange.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        }
        _ => exchange.answer("404 Not Found", "", b""),
    });
    let free = "[[routes]]\nname = \"free\"\npath = \"/free\"\nupstream = \"app\"\nallow = [{ public = true }]\n";
    let limit = limited("per = \"address\", requests = 100, window = \"1h\"");
    let site = Site::builder().upstream(upstream).more(&limit).more(free).start();
    let mut wrong = Wrong::default();
    wrong.eq("404 of the upstream", site.get("/x", None).header("RateLimit-Policy"), Some("\"address\";q=100;w=3600"));
    let answer = site.get("/down", None);
    wrong.eq("502", (answer.status, answer.header("RateLimit").is_some()), (502, true));
    let fields = site.get("/own", None);
    wrong.eq("the upstream's own", fields.all("RateLimit").len(), 2);
    wrong.eq("stays", fields.all("RateLimit")[0], "\"theirs\";r=1");
    let upgrade = Req::get("/ws").header("Connection", "upgrade").header("Upgrade", "websocket");
    let answer = site.connect().send(&upgrade);
    wrong.eq("101", (answer.status, answer.header("RateLimit").is_some()), (101, true));
    wrong.eq("a route without a limit", site.get("/free", None).header("RateLimit"), None);
    wrong.done();
}

#[test]
fn explain_tells_the_limit() {
    let config =
        Site::builder().more(&limited("per = \"client\", requests = 100, window = \"1m\", burst = 7")).config();
    let jwks = crate::support::Mint::new().jwks();
    let done = explain(&config, &[("jwks.json", &jwks)], &["GET", "http://api.test/x"]);
    assert!(done.out.contains("rate limit: 100 requests in 60s per client, 7 at once"), "{done:?}");
}
