//! Routes that may be called from some addresses only.

use crate::support::command::{check, explain};
use crate::support::gateway::field;
use crate::support::site::OPEN;
use crate::support::{Conn, Mint, Req, Response, Site, Wrong};

const ROUTES: &str = r#"
[[routes]]
name = "office"
path = "/office/**"
upstream = "app"
ip_allow = ["127.0.0.0/29", "2001:db8::/32"]
ip_deny = ["127.0.0.4/31"]
allow = [{ methods = ["GET"], authenticated = true }]

[[routes]]
name = "banned"
path = "/banned/**"
upstream = "app"
ip_deny = ["127.0.0.9"]
allow = [{ public = true }]
"#;

fn from(site: &Site, address: &str, request: &Req) -> Response {
    Conn::open_from(address, site.gateway.address("main")).send(request)
}

#[test]
fn an_allow_list_keeps_everybody_else_out_and_deny_wins() {
    let site = Site::with(ROUTES);
    let token = site.mint.scoped("");
    let mut wrong = Wrong::default();
    for (path, address, expected) in [
        ("/office/x", "127.0.0.1", 200),
        ("/office/x", "127.0.0.3", 200),
        ("/office/x", "127.0.0.4", 403),
        ("/office/x", "127.0.0.5", 403),
        ("/office/x", "127.0.0.7", 200),
        ("/office/x", "127.0.0.8", 403),
        ("/banned/x", "127.0.0.8", 200),
        ("/banned/x", "127.0.0.9", 403),
        ("/banned/x", "127.0.0.10", 200),
    ] {
        wrong.eq((path, address), from(&site, address, &Req::get(path).bearer(&token)).status, expected);
    }
    wrong.eq("forwarded", site.upstream.count(), 5);
    wrong.done();
}

#[test]
fn the_refusal_comes_before_the_token_and_asks_for_none() {
    let site = Site::with(ROUTES);
    let mut wrong = Wrong::default();
    for (case, request) in [
        ("no token", Req::get("/office/x")),
        ("a bad token", Req::get("/office/x").bearer("junk")),
        ("a good token", Req::get("/office/x").bearer(&site.mint.scoped(""))),
        ("a method that no entry names", Req::new("DELETE", "/office/x")),
        ("a preflight", Req::new("OPTIONS", "/office/x").header("Origin", "https://a.test")),
    ] {
        let answer = from(&site, "127.0.0.8", &request);
        wrong.eq(case, (answer.status, answer.challenge(), answer.header("Allow")), (403, "", None));
        wrong.eq((case, "type"), answer.header("Content-Type"), Some("application/problem+json"));
        let log = site.gateway.access_log(&answer.request_id());
        wrong.eq((case, "reason"), field(&log, "reason"), Some("address"));
        wrong.eq((case, "client"), field(&log, "client"), Some("127.0.0.8"));
    }
    wrong.eq("forwarded", site.upstream.count(), 0);
    wrong.ok("no token was looked at", !site.gateway.metrics().has("tollgate_tokens_refused_total", &[]), "one was");
    wrong.done();
}

#[test]
fn class_21_the_address_is_the_callers_behind_trusted_proxies_alone() {
    let site = Site::builder().server("trusted_proxies = [\"127.0.0.2/32\"]").more(ROUTES).start();
    let token = site.mint.scoped("");
    let mut wrong = Wrong::default();
    for (peer, name, value, expected) in [
        ("127.0.0.2", "X-Forwarded-For", "127.0.0.1", 200),
        ("127.0.0.2", "X-Forwarded-For", "192.0.2.1", 403),
        ("127.0.0.2", "X-Forwarded-For", "127.0.0.1, 192.0.2.1", 403),
        ("127.0.0.2", "X-Forwarded-For", "192.0.2.1, 127.0.0.1", 200),
        ("127.0.0.2", "X-Forwarded-For", "2001:db8::7", 200),
        ("127.0.0.2", "X-Forwarded-For", "2001:db9::7", 403),
        ("127.0.0.2", "X-Forwarded-For", "::ffff:127.0.0.4", 403),
        ("127.0.0.2", "X-Forwarded-For", "::ffff:127.0.0.1", 200),
        ("127.0.0.2", "Forwarded", "for=127.0.0.4", 403),
        ("127.0.0.8", "X-Forwarded-For", "127.0.0.1", 403),
        ("127.0.0.8", "Forwarded", "for=127.0.0.1", 403),
        ("127.0.0.8", "X-Real-IP", "127.0.0.1", 403),
        ("127.0.0.1", "X-Forwarded-For", "192.0.2.1", 200),
    ] {
        let answer = from(&site, peer, &Req::get("/office/x").bearer(&token).header(name, value));
        wrong.eq((peer, name, value), answer.status, expected);
    }
    wrong.done();
}

#[test]
fn other_routes_do_not_care() {
    let site = Site::builder().more(ROUTES).more(OPEN).start();
    assert_eq!(from(&site, "127.0.0.9", &Req::get("/public/x")).status, 200);
}

#[test]
fn explain_and_the_tests_of_the_file_judge_a_peer_that_is_named() {
    let jwks = Mint::new().jwks();
    let config =
        |more: &str| Site::builder().server("trusted_proxies = [\"127.0.0.2/32\"]").more(ROUTES).more(more).config();
    let ask = |more: &[&str]| {
        let request = ["GET", "http://api.test/office/x", "--claims", "{}"];
        explain(&config(""), &[("jwks.json", &jwks)], &[&request, more].concat()).out
    };
    let mut wrong = Wrong::default();
    for (more, part) in [
        (&[][..], "address: not judged"),
        (&["--peer", "127.0.0.1"], "address: 127.0.0.1 is let in"),
        (&["--peer", "127.0.0.8"], "address: 127.0.0.8 is not let in"),
        (&["--peer", "127.0.0.8"], "status: 403"),
        (&["--peer", "127.0.0.2", "-H", "X-Forwarded-For: 192.0.2.1"], "address: 192.0.2.1 is not let in"),
        (&["--peer", "127.0.0.8", "-H", "X-Forwarded-For: 127.0.0.1"], "address: 127.0.0.8 is not let in"),
    ] {
        wrong.ok((more, part), ask(more).contains(part), ask(more));
    }
    let test = |peer: &str, expect: u16| {
        let test = format!("[[tests]]\nrequest = \"GET /office/x\"\ntoken = {{}}\n{peer}\nexpect = {expect}\n");
        check(&config(&test), &[("jwks.json", &jwks)], &[])
    };
    for (peer, expect) in [("", 200), ("peer = \"127.0.0.1\"", 200), ("peer = \"127.0.0.8\"", 403)] {
        wrong.eq(peer, test(peer, expect).code, Some(0));
    }
    let done = test("peer = \"127.0.0.8\"", 200);
    wrong.ok("told", done.code == Some(1) && done.out.contains("address: 127.0.0.8 is not let in"), &done);
    wrong.done();
}
