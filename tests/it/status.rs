//! `/status`: what the gateway does now, and the reasons of what it denied.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::checker::text;
use crate::support::chromium::Chromium;
use crate::support::mint::AUDIENCE;
use crate::support::public::installed;
use crate::support::tls::Authority;
use crate::support::{RecordingUpstream, Req, Response, Site, Wrong, field, send, server, until};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn ask(site: &Site, request: Req) -> Response {
    send(site.gateway.admin(), &request.host("localhost"))
}

fn json_of(site: &Site) -> Value {
    let answer = ask(site, Req::get("/status.json"));
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("application/json")), "{answer:?}");
    answer.json()
}

/// The one of a list that has this name.
fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("no {name} in {list}"))
}

/// A gateway with something to tell of every kind.
fn busy() -> Site {
    let issuer = RecordingUpstream::scripted(move |exchange| {
        let facts = json!({"active": true, "sub": "alice", "aud": AUDIENCE, "scope": "orders:read"});
        exchange.answer("200 OK", "Content-Type: application/json\r\n", facts.to_string().as_bytes())
    });
    let identity = Authority::new().identity(&["localhost"]);
    let tables = format!(
        r#"
{surroundings}
[[routes]]
name = "nobody"
hosts = ["*.nobody.test"]
path = "/nobody"
upstream = "nobody"
allow = [{{ public = true }}]
"#,
        surroundings = server::surroundings(&issuer.url())
    );
    let site = server::builder().more(&tables).file("tls.crt", identity.cert).file("tls.key", identity.key).start();
    let (own, _) = server::tokens(&server::log_in(&site, "billing", &[]));
    // Told of when the answer is sent, each by its worker: the next must not overtake it.
    let told = |denials| until("a denial", || json_of(&site)["denials"].as_array().map(Vec::len) == Some(denials));
    server::ask(&site, "billing", &server::password_form("mallory-the-unknown", "wrong-password", &[]));
    told(1);
    for token in [own.as_str(), "asked-1"] {
        for _ in 0..3 {
            site.get("/orders/7", Some(token));
        }
    }
    site.get("/orders/7?access_token=in-a-query", None);
    told(2);
    site.get("/orders/7", Some("asked"));
    told(3);
    site.send(&Req::get("/nobody").host("a.nobody.test"));
    site.get("/nowhere-to-go", None);
    told(4);
    site
}

#[test]
fn a_denial_tells_its_cause_without_an_access_log_too() {
    let site = server::builder().more("[log]\naccess = false\n").start();
    assert_eq!(site.get("/orders/7", Some("a.b.c")).status, 401);
    until("it is among the denials", || json_of(&site)["denials"][0]["reason"] == "malformed");
    let cause = &json_of(&site)["denials"][0]["cause"];
    assert!(cause.as_str().is_some_and(|cause| !cause.is_empty()), "{cause}");
}

#[test]
fn the_json_tells_what_happened() {
    let site = busy();
    until("all is counted", || json_of(&site)["totals"]["requests"].as_u64() >= Some(12));
    let status = json_of(&site);
    let mut wrong = Wrong::default();
    let orders = named(&status["routes"], "orders");
    wrong.eq("orders", (&orders["requests"], &orders["denied"], &orders["failed"]), (&json!(8), &json!(2), &json!(0)));
    wrong.eq("reasons", &orders["reasons"], &json!({"no_credentials": 1, "malformed": 1}));
    wrong.ok("its path", orders["path"].as_str().unwrap().ends_with("/orders/**"), &orders["path"]);
    let nobody = named(&status["routes"], "nobody");
    wrong.eq("nobody", (&nobody["failed"], &nobody["path"]), (&json!(1), &json!("*.nobody.test/nobody")));
    wrong.eq("none", &named(&status["routes"], "(none)")["reasons"], &json!({"no_route": 1}));
    let own = named(&status["routes"], "(authorization_server)");
    wrong.eq("own", (&own["requests"], &own["reasons"]), (&json!(2), &json!({"invalid_grant": 1})));
    let app = named(&status["upstreams"], "app");
    wrong.eq("app", (&app["requests"], &app["errors"]), (&json!(6), &json!({})));
    wrong.ok("open connections", (1..=6).contains(&app["connections"].as_u64().unwrap()), app);
    let failing = named(&status["upstreams"], "nobody");
    wrong.eq("errors", &failing["errors"], &json!({"connect": 1}));
    let keys = &named(&status["issuers"], "self")["keys"];
    wrong.eq("own keys", (&keys["count"], &keys["loaded"]), (&json!(1), &json!(true)));
    let corp = &named(&status["issuers"], "corp")["keys"];
    wrong.ok("age of keys", corp["age_seconds"].is_u64(), corp);
    let asked = &named(&status["issuers"], "asked")["introspection"];
    wrong.eq("introspection", asked, &json!({"failing": false, "calls": 1, "failed_calls": 0}));
    let cache = named(&status["caches"], "verified tokens");
    wrong.eq("cache", (&cache["hits"], &cache["misses"]), (&json!(2), &json!(1)));
    let cache = named(&status["caches"], "introspection of asked");
    wrong.eq("cache", (&cache["hits"], &cache["misses"]), (&json!(2), &json!(1)));
    wrong.eq("certificate", &status["certificates"][0]["listener"], "secure");
    wrong.ok("which ends", status["certificates"][0]["not_after"].as_u64() > status["now"].as_u64(), &status);
    wrong.eq("the busiest client", &status["password_grant"][0], &json!({"client": "billing", "tokens": 1}));
    wrong.eq("generation", &status["configuration"]["generation"], &json!(1));
    wrong.eq("signing keys", status["signing_keys"].as_array().unwrap().len(), 1);

    let denials: Vec<_> = status["denials"].as_array().unwrap().iter().collect();
    let told: Vec<String> = denials
        .iter()
        .rev()
        .map(|d| format!("{} {} {}", d["route"], d["reason"], d["status"]).replace('"', ""))
        .collect();
    let expected = [
        "(authorization_server) invalid_grant 400",
        "orders no_credentials 401",
        "orders malformed 401",
        "(none) no_route 404",
    ];
    wrong.eq("denials", told, expected);
    let page = ask(&site, Req::get("/status"));
    for secret in ["in-a-query", "mallory", "wrong-password", "asked-1", "nowhere-to-go", server::SECRET] {
        for shown in [&page.text(), &status.to_string()] {
            wrong.ok(secret, !shown.contains(secret), shown);
        }
    }
    wrong.done();
}

#[test]
fn the_page_has_no_script_and_lets_none_in() {
    let site = busy();
    let hostile = "\n\"<script>alert(1)</script>\" = 1\n";
    site.gateway.write("tollgate.toml", site.gateway.read("tollgate.toml") + hostile);
    assert_eq!(ask(&site, Req::post("/reload")).status, 422);
    let page = ask(&site, Req::get("/status"));
    let mut wrong = Wrong::default();
    wrong.eq("status", page.status, 200);
    wrong.eq("kind", page.header("Content-Type"), Some("text/html; charset=utf-8"));
    wrong.eq("cache", page.header("Cache-Control"), Some("no-store"));
    let policy = page.header("Content-Security-Policy").unwrap_or_default();
    for part in ["default-src 'none'", "style-src 'sha256-", "frame-ancestors 'none'", "form-action 'none'"] {
        wrong.ok(part, policy.contains(part), policy);
    }
    wrong.ok("no way around", !policy.contains("unsafe") && !policy.contains("script-src"), policy);
    let text = page.text();
    wrong.ok("what is wrong", text.contains("&lt;script&gt;alert(1)"), &text);
    wrong.ok("no markup of others", !text.contains("<script"), &text);
    wrong.ok("no refresh unasked", !text.contains("http-equiv=\"refresh\""), &text);
    let refreshing = ask(&site, Req::get("/status?refresh")).text();
    wrong.ok("refresh", refreshing.contains("<meta http-equiv=\"refresh\""), &refreshing);
    for (accept, kind) in [
        (None, "text/html; charset=utf-8"),
        (Some("*/*"), "text/html; charset=utf-8"),
        (Some("application/json"), "application/json"),
        (Some("text/html,application/xhtml+xml,application/json;q=0.9"), "text/html; charset=utf-8"),
    ] {
        let request = accept.map_or(Req::get("/status"), |accept| Req::get("/status").header("Accept", accept));
        wrong.eq(accept, ask(&site, request).header("Content-Type"), Some(kind));
    }
    wrong.eq("POST", ask(&site, Req::post("/status")).status, 405);
    wrong.done();
}

#[test]
fn the_token_guards_it_also_when_a_browser_asks_for_it() {
    let site = Site::builder()
        .env("TOLLGATE_ADMIN_TOKEN", TOKEN)
        .more(crate::support::site::OPEN)
        .start_with(|config| config.replacen("[admin]\n", "[admin]\ntoken = { env = \"TOLLGATE_ADMIN_TOKEN\" }\n", 1));
    let basic = |user: &str, password: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let mut wrong = Wrong::default();
    for (path, authorization, status) in [
        ("/status", None, 401),
        ("/status.json", None, 401),
        ("/status", Some("Bearer wrong".to_owned()), 401),
        ("/status", Some(format!("Bearer {TOKEN}")), 200),
        ("/status.json", Some(format!("bearer {TOKEN}")), 200),
        ("/status", Some(basic("operator", TOKEN)), 200),
        ("/status", Some(basic("", TOKEN)), 200),
        ("/status", Some(basic(TOKEN, "")), 401),
        ("/status", Some(basic("operator", "wrong")), 401),
        ("/status", Some(format!("Basic {TOKEN}")), 401),
        ("/status", Some(TOKEN.to_owned()), 401),
        // A browser sends it along with whatever another site makes it ask for.
        ("/metrics", Some(basic("operator", TOKEN)), 401),
        ("/keys", Some(basic("operator", TOKEN)), 401),
    ] {
        let request =
            authorization.iter().fold(Req::get(path), |request, value| request.header("Authorization", value));
        wrong.eq((path, &authorization), ask(&site, request).status, status);
    }
    let reload = ask(&site, Req::post("/reload").header("Authorization", &basic("operator", TOKEN)));
    wrong.eq("what changes something", reload.status, 401);
    wrong.eq("challenges", ask(&site, Req::get("/status")).all("WWW-Authenticate").len(), 2);
    wrong.done();
}

#[test]
fn without_a_token_no_page_of_another_site_gets_it() {
    let site = Site::open();
    let mut wrong = Wrong::default();
    for (host, status) in [("localhost", 200), ("127.0.0.1:9464", 200), ("rebound.test", 403)] {
        wrong.eq(host, send(site.gateway.admin(), &Req::get("/status").host(host)).status, status);
    }
    let from_elsewhere = Req::get("/status").header("Origin", "https://elsewhere.test");
    wrong.eq("another origin", ask(&site, from_elsewhere).status, 403);
    wrong.done();
}

#[test]
fn the_page_in_a_browser() {
    let Some(program) = installed("chromium") else { return };
    let site = busy();
    let mut browser = Chromium::start(&program);
    let mut wrong = Wrong::default();
    let mut photograph = |name: &str, path: &str| {
        browser.open(&format!("http://{}{path}", site.gateway.admin()));
        for (kind, width, phone) in [("desk", 1280, false), ("phone", 360, true)] {
            browser.size(width, 900, phone);
            let (content, height) = browser.content();
            wrong.ok((name, kind, "fits in width"), content <= f64::from(width), content);
            browser.size(width, height as u32, phone);
            for dark in [false, true] {
                browser.dark(dark);
                browser.screenshot(&format!("{name}-{kind}-{}", if dark { "dark" } else { "light" }));
            }
        }
        let complaints = browser.complaints();
        wrong.ok((name, "no complaints"), complaints.is_empty(), complaints);
    };
    photograph("status", "/status");
    site.gateway.write("tollgate.toml", site.gateway.read("tollgate.toml") + "\nnonsense = 1\n");
    assert_eq!(ask(&site, Req::post("/reload")).status, 422);
    photograph("status-wrong", "/status");
    wrong.done();
}

const DENYING: &str = r#"
[listeners.plain]
address = "127.0.0.1:0"
redirect_to_https = true
[[routes]]
name = "read"
path = "/read/**"
upstream = "app"
body_bytes = 10
allow = [{ methods = ["GET", "POST"], scopes = ["read"] }, { methods = ["PUT"], users = ["bob"] }]
[routes.forward]
headers = { "X-Note" = "{claims.note}" }
[routes.cors]
origins = ["https://own.test"]
[[routes]]
name = "closed"
path = "/closed"
upstream = "app"
allow = [{ public = true }]
ip_allow = ["192.0.2.0/24"]
[[routes]]
name = "limited"
path = "/limited"
upstream = "app"
allow = [{ public = true }]
[routes.rate_limit]
per = "route"
requests = 1
window = "1h"
burst = 1
"#;

/// The reasons of docs/monitoring.md.
fn documented() -> BTreeSet<String> {
    let document = text("docs/monitoring.md");
    let chapter = document.split("## Reasons").nth(1).unwrap().split("\n## ").next().unwrap().to_owned();
    let rows = chapter.lines().filter(|line| line.starts_with("| `"));
    rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

#[test]
fn a_denial_has_one_reason_in_the_log_the_metric_and_the_page() {
    let site = Site::builder().server("public_url = \"https://api.test\"").more(DENYING).start();
    let read = site.mint.scoped("read");
    let token = |claims: Value| Some(site.mint.token(&claims));
    let get = |target: &str| Req::get(target);
    let preflight = Req::new("OPTIONS", "/read/1")
        .header("Origin", "https://other.test")
        .header("Access-Control-Request-Method", "GET");
    assert_eq!(site.get("/limited", None).status, 200);
    let mut forged = site.mint.scoped("read");
    forged.replace_range(forged.len() - 8.., "AAAAAAAA");
    let cases: Vec<(&str, &str, u16, Req)> = vec![
        ("(none)", "host", 400, get("/read/1").host("a b")),
        ("(none)", "path", 400, get("/read/../1")),
        ("read", "path", 400, get("/read/a;b")),
        ("(none)", "repeated_header", 400, get("/read/1").bearer(&read).bearer(&read)),
        ("(none)", "no_route", 404, get("/nowhere")),
        ("closed", "address", 403, get("/closed")),
        ("read", "origin", 403, preflight),
        ("read", "method", 405, Req::new("DELETE", "/read/1")),
        ("read", "no_credentials", 401, get("/read/1")),
        ("read", "invalid_request", 400, get("/read/1").header("Authorization", "Bearer a b")),
        ("read", "malformed", 401, get("/read/1").bearer("junk")),
        ("read", "signature", 401, get("/read/1").bearer(&forged)),
        ("read", "expired", 401, get("/read/1").maybe_bearer(token(json!({"exp": 1})).as_deref())),
        ("read", "audience", 401, get("/read/1").maybe_bearer(token(json!({"aud": "https://x.test"})).as_deref())),
        ("read", "insufficient_scope", 403, get("/read/1").bearer(&site.mint.scoped("other"))),
        ("read", "forbidden", 403, Req::new("PUT", "/read/1").bearer(&read).body("")),
        ("limited", "rate_limited", 429, get("/limited")),
        (
            "read",
            "unfit_claim",
            403,
            get("/read/1").maybe_bearer(token(json!({"scope": "read", "note": "\n"})).as_deref()),
        ),
        ("read", "body_too_large", 413, Req::post("/read/1").bearer(&read).body("more than ten bytes")),
    ];
    let documented = documented();
    let mut wrong = Wrong::default();
    for (route, reason, status, request) in cases {
        let answer = site.send(&request);
        let case = (route, reason);
        wrong.eq((case, "status"), answer.status, status);
        let body: Vec<String> = match status {
            // A preflight is answered with a head alone.
            403 if reason == "origin" => Vec::new(),
            _ => answer.json().as_object().unwrap().keys().cloned().collect(),
        };
        wrong.ok(
            (case, "the answer does not say"),
            body.is_empty() || body == ["request_id", "status", "title", "type"],
            &body,
        );
        let log = site.gateway.access_log(&answer.request_id());
        wrong.eq((case, "log"), (field(&log, "decision"), field(&log, "reason")), (Some("denied"), Some(reason)));
        let labels = [("route", route), ("reason", reason)];
        site.gateway.wait_metrics(reason, |metrics| metrics.sum("tollgate_denials_total", &labels) > 0.0);
        let denials = json_of(&site)["denials"].clone();
        let shown = denials.as_array().unwrap().iter().find(|denial| denial["request_id"] == answer.request_id());
        let shown = shown.map(|denial| (denial["route"].clone(), denial["reason"].clone(), denial["status"].clone()));
        wrong.eq((case, "page"), shown, Some((json!(route), json!(reason), json!(status))));
        wrong.ok((case, "documented"), documented.contains(reason), &documented);
    }
    let redirect = send(site.gateway.address("plain"), &get("/read/1"));
    let log = site.gateway.access_log(&redirect.request_id());
    wrong.eq("a redirect is no denial", (redirect.status, field(&log, "decision")), (308, Some("local")));
    let post = send(site.gateway.address("plain"), &Req::post("/read/1").body(""));
    let log = site.gateway.access_log(&post.request_id());
    wrong.eq("cleartext", (field(&log, "decision"), field(&log, "reason")), (Some("denied"), Some("cleartext")));
    // Both are counted; nothing is counted twice or under another reason.
    let metrics = site.gateway.wait_metrics("all", |metrics| {
        metrics.has("tollgate_denials_total", &[("route", "(none)"), ("reason", "cleartext")])
    });
    let denied = metrics.sum("tollgate_requests_total", &[("decision", "denied")]);
    wrong.eq("as many as were denied", metrics.sum("tollgate_denials_total", &[]), denied);
    let local = metrics.sum("tollgate_requests_total", &[("route", "(none)"), ("decision", "local")]);
    wrong.eq("the redirect", local, 1.0);
    wrong.done();
}
