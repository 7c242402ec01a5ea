//! Key sets that are fetched: when they come, when they change, when they do not come.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::gateway::Builder;
use crate::support::mint::{AUDIENCE, ISSUER, Key, Mint};
use crate::support::site::OPEN;
use crate::support::{RecordingUpstream, Req, Site, Wrong, send};

/// An issuer that publishes whatever it holds now; nothing: it answers 500.
fn publisher(keys: &Arc<Mutex<Option<String>>>) -> RecordingUpstream {
    let keys = keys.clone();
    RecordingUpstream::scripted(move |exchange| match &*keys.lock().unwrap() {
        Some(jwks) => exchange.answer("200 OK", "Content-Type: application/jwk-set+json\r\n", jwks.as_bytes()),
        None => exchange.answer("500 Internal Server Error", "", b""),
    })
}

fn config(upstream: &RecordingUpstream, keys: &str, more: &str) -> String {
    format!(
        r#"
[store.memory]
[admin]
address = "127.0.0.1:0"
[listeners.main]
address = "127.0.0.1:0"
[issuers.corp.jwt]
issuer = "{ISSUER}"
audience = ["{AUDIENCE}"]
jwks_url = "{keys}"
{more}
[upstreams.app]
servers = ["{}"]
{OPEN}"#,
        upstream.url()
    )
}

#[test]
fn j14_an_unknown_kid_causes_one_refresh_and_then_none_for_a_while() {
    let (old, new) = (Mint::with(ISSUER, vec![Key::p256("old")]), Mint::with(ISSUER, vec![Key::p256("new")]));
    let stranger = Mint::with(ISSUER, vec![Key::p256("stranger")]);
    let published = Arc::new(Mutex::new(Some(old.jwks())));
    let (upstream, issuer) = (RecordingUpstream::start(), publisher(&published));
    let text = config(&upstream, &format!("{}/keys", issuer.url()), "");
    let gateway = Builder::new().start(&text);
    let call = |token: &str| send(gateway.address("main"), &Req::get("/x").host("api.test").bearer(token)).status;
    let mut wrong = Wrong::default();
    wrong.eq("fetched at the start", issuer.count(), 1);
    wrong.eq("old", call(&old.scoped("a")), 200);
    *published.lock().unwrap() = Some(new.jwks());
    wrong.eq("new, at its first sight", call(&new.scoped("a")), 200);
    wrong.eq("one refresh", issuer.count(), 2);
    wrong.eq("what a removed key signed", call(&old.scoped("a")), 401);
    for n in 0..20 {
        wrong.eq(("stranger", n), call(&stranger.scoped(&format!("s{n}"))), 401);
    }
    wrong.eq("none within the cool-down", issuer.count(), 2);
    wrong.eq("new, still", call(&new.scoped("b")), 200);
    wrong.done();
}

#[test]
fn x9_old_keys_stay_when_the_issuer_fails() {
    let mint = Mint::with(ISSUER, vec![Key::p256("k")]);
    let published = Arc::new(Mutex::new(Some(mint.jwks())));
    let (upstream, issuer) = (RecordingUpstream::start(), publisher(&published));
    let more = "jwks_refresh = \"1s\"\njwks_cooldown = \"1s\"";
    let text = config(&upstream, &format!("{}/keys", issuer.url()), more);
    let gateway = Builder::new().start(&text);
    let call = || send(gateway.address("main"), &Req::get("/x").host("api.test").bearer(&mint.scoped("a"))).status;
    assert_eq!(call(), 200);
    *published.lock().unwrap() = Some("{\"keys\": 7}".to_owned());
    gateway.wait_log("a bad set was told of", |line| line["event"] == "jwks.failed");
    assert_eq!(call(), 200);
    *published.lock().unwrap() = None;
    let before = issuer.count();
    issuer.wait_for(before + 1);
    assert_eq!(call(), 200);
}

#[test]
fn a_dead_issuer_does_not_hold_up_the_start_and_is_told_of() {
    let mint = Mint::new();
    let upstream = RecordingUpstream::start();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = config(&upstream, &format!("http://{closed}/keys"), "");
    let gateway = Builder::new().spawn(&text);
    let mut wrong = Wrong::default();
    let ready = gateway.ask_admin("/readyz");
    wrong.eq("not ready", ready.status, 503);
    wrong.ok("which issuer", ready.text().contains("corp"), ready.text());
    let answer = send(gateway.address("main"), &Req::get("/x").host("api.test").bearer(&mint.scoped("a")));
    wrong.eq("its tokens", (answer.status, answer.header("retry-after").is_some()), (503, true));
    let answer = send(gateway.address("main"), &Req::get("/public/x").host("api.test"));
    wrong.eq("what needs no token", answer.status, 200);
    wrong.done();
}

#[test]
fn a_wish_that_comes_during_a_fetch_causes_no_other() {
    let mint = Mint::with(ISSUER, vec![Key::p256("k")]);
    let stranger = Mint::with(ISSUER, vec![Key::p256("stranger")]);
    let jwks = mint.jwks();
    let issuer = RecordingUpstream::scripted(move |exchange| {
        thread::sleep(Duration::from_millis(500));
        exchange.answer("200 OK", "", jwks.as_bytes())
    });
    let upstream = RecordingUpstream::start();
    let gateway = Builder::new().start(&config(&upstream, &format!("{}/keys", issuer.url()), ""));
    let address = gateway.address("main");
    let call = |scope: &str| {
        let token = stranger.scoped(scope);
        thread::spawn(move || send(address, &Req::get("/x").host("api.test").bearer(&token)).status)
    };
    let mut calls = vec![call("a")];
    thread::sleep(Duration::from_millis(200));
    calls.extend(["b", "c", "d"].map(call));
    let statuses: Vec<_> = calls.into_iter().map(|call| call.join().unwrap()).collect();
    assert_eq!(statuses, [401; 4]);
    thread::sleep(Duration::from_millis(800));
    assert_eq!(issuer.count(), 2, "one at the start, one for all of them");
}

#[test]
fn only_a_wish_starts_a_cool_down() {
    let [old, new, newer] = ["old", "new", "newer"].map(|kid| Mint::with(ISSUER, vec![Key::p256(kid)]));
    let published = Arc::new(Mutex::new(Some(old.jwks())));
    let (upstream, issuer) = (RecordingUpstream::start(), publisher(&published));
    let more = "jwks_refresh = \"4s\"\njwks_cooldown = \"1s\"";
    let gateway = Builder::new().start(&config(&upstream, &format!("{}/keys", issuer.url()), more));
    let call =
        |mint: &Mint| send(gateway.address("main"), &Req::get("/x").host("api.test").bearer(&mint.scoped("a"))).status;
    assert_eq!(call(&old), 200);
    *published.lock().unwrap() = Some(new.jwks());
    assert_eq!(call(&new), 200);
    assert_eq!(issuer.count(), 2);
    // The next fetch is one that nobody asked for.
    issuer.wait_for(3);
    gateway
        .wait_metrics("fetched", |metrics| metrics.sum("tollgate_key_fetches_total", &[("result", "success")]) >= 3.0);
    *published.lock().unwrap() = Some(newer.jwks());
    assert_eq!(call(&newer), 200);
}

#[test]
fn an_unknown_kid_is_503_only_while_the_issuer_cannot_be_asked() {
    let mint = Mint::with(ISSUER, vec![Key::p256("k")]);
    // Each under a name of its own: what was looked up a moment ago is not looked up again.
    let [one, two, three, four] = ["1", "2", "3", "4"].map(|kid| Mint::with(ISSUER, vec![Key::p256(kid)]));
    let published = Arc::new(Mutex::new(Some(mint.jwks())));
    let (upstream, issuer) = (RecordingUpstream::start(), publisher(&published));
    let text = config(&upstream, &format!("{}/keys", issuer.url()), "jwks_cooldown = \"1s\"");
    let gateway = Builder::new().start(&text);
    let call = |mint: &Mint, scope: &str| {
        send(gateway.address("main"), &Req::get("/x").host("api.test").bearer(&mint.scoped(scope))).status
    };
    let mut wrong = Wrong::default();
    wrong.eq("asked", call(&one, "a"), 401);
    *published.lock().unwrap() = None;
    wrong.eq("cooling down after a success", call(&two, "b"), 401);
    thread::sleep(Duration::from_millis(1100));
    wrong.eq("the issuer fails", call(&three, "c"), 503);
    wrong.eq("cooling down after that", call(&three, "d"), 503);
    wrong.eq("a known one", call(&mint, "e"), 200);
    *published.lock().unwrap() = Some("{\"keys\": 7}".to_owned());
    thread::sleep(Duration::from_millis(1100));
    wrong.eq("a bad set", call(&four, "f"), 401);
    wrong.done();
}

/// An issuer on loopback that answers by path. What it says of itself starts with its own address.
fn provider(pages: impl Fn(&str, &str) -> Option<(String, String)> + Send + Sync + 'static) -> RecordingUpstream {
    let address = Arc::new(Mutex::new(String::new()));
    let own = address.clone();
    let server = RecordingUpstream::scripted(move |exchange| {
        let own = own.lock().unwrap().clone();
        match pages(&own, &exchange.request.target.clone()) {
            Some((lines, body)) => exchange.answer("200 OK", &lines, body.as_bytes()),
            None => exchange.answer("404 Not Found", "Content-Type: text/html\r\n", b"<html>"),
        }
    });
    *address.lock().unwrap() = server.url();
    server
}

fn discovering(upstream: &RecordingUpstream, issuer: &str) -> String {
    config(upstream, "", "discovery = true").replace("jwks_url = \"\"\n", "").replace(ISSUER, issuer)
}

#[test]
fn x9_keys_are_found_by_the_issuers_metadata() {
    let key = || Key::p256("k");
    let openid = "/tenant/.well-known/openid-configuration";
    let oauth = "/.well-known/oauth-authorization-server/tenant";
    let mut wrong = Wrong::default();
    for (case, document, issuer_says, keys_at, status) in [
        ("OpenID Connect Discovery", openid, "{own}/tenant", "{own}/keys?p=1", 200),
        ("RFC 8414", oauth, "{own}/tenant", "{own}/keys?p=1", 200),
        ("of another issuer", openid, "{own}/other", "{own}/keys?p=1", 503),
        ("a slash too many", openid, "{own}/tenant/", "{own}/keys?p=1", 503),
        ("keys in clear text elsewhere", openid, "{own}/tenant", "http://keys.example.com/keys", 503),
        ("keys at no URL", openid, "{own}/tenant", "keys", 503),
        ("no metadata", "/elsewhere", "{own}/tenant", "{own}/keys?p=1", 503),
    ] {
        let mint = Mint::with("", vec![key()]);
        let jwks = mint.jwks();
        let issuer = provider(move |own, target| {
            let json = "Content-Type: application/json\r\n".to_owned();
            if target == document {
                let fill = |text: &str| text.replace("{own}", own);
                let metadata = serde_json::json!({"issuer": fill(issuer_says), "jwks_uri": fill(keys_at)});
                return Some((json, metadata.to_string()));
            }
            (target == "/keys?p=1").then(|| (json, jwks.clone()))
        });
        let name = format!("{}/tenant", issuer.url());
        let upstream = RecordingUpstream::start();
        let gateway = Builder::new().spawn(&discovering(&upstream, &name));
        let event = if status == 200 { "jwks.fetched" } else { "jwks.failed" };
        gateway.wait_log(case, |line| line["event"] == event);
        let mint = Mint { issuer: name, ..mint };
        let answer = send(gateway.address("main"), &Req::get("/x").host("api.test").bearer(&mint.scoped("a")));
        wrong.eq(case, answer.status, status);
    }
    wrong.done();
}

#[test]
fn x9_cache_control_shortens_the_interval_within_bounds() {
    let mint = Mint::with(ISSUER, vec![Key::p256("k")]);
    let upstream = RecordingUpstream::start();
    let publish = |lines: &'static str| {
        let jwks = mint.jwks();
        provider(move |_, _| Some((lines.to_owned(), jwks.clone())))
    };
    let short = publish("Cache-Control: public, max-age=1\r\n");
    let long = publish("Cache-Control: max-age=86400\r\n");
    let too_short = publish("Cache-Control: max-age=1\r\n");
    let start = |issuer: &RecordingUpstream, more: &str| {
        Builder::new().start(&config(&upstream, &format!("{}/keys", issuer.url()), more))
    };
    let _one = start(&short, "jwks_cooldown = \"1s\"");
    let _two = start(&long, "jwks_refresh = \"1s\"\njwks_cooldown = \"1s\"");
    let _three = start(&too_short, "");
    short.wait_for(3);
    long.wait_for(3);
    assert_eq!(too_short.count(), 1, "no sooner than the cool-down of 30 s");
}

#[test]
fn x9_a_file_of_keys_is_read_again_when_it_changes() {
    let (old, new) = (Mint::with(ISSUER, vec![Key::p256("old")]), Mint::with(ISSUER, vec![Key::p256("new")]));
    let site = Site::builder().mint(Mint { issuer: old.issuer.clone(), keys: vec![Key::p256("x")] }).jwks(old.jwks());
    let site = site.more(OPEN).start();
    let mut wrong = Wrong::default();
    let (of_old, of_new) = (old.scoped("a"), new.scoped("a"));
    let call = |token: &str| site.get("/x", Some(token)).status;
    wrong.eq("old", (call(&of_old), call(&of_new)), (200, 401));
    for unfit in ["{\"keys\": [", "{\"keys\": []}", ""] {
        site.gateway.write("jwks.json", unfit);
        let failures = || site.gateway.metrics().sum("tollgate_key_fetches_total", &[("result", "failure")]);
        let before = failures();
        site.gateway.wait_metrics("an unfit file is told of", |metrics| {
            metrics.sum("tollgate_key_fetches_total", &[("result", "failure")]) > before
        });
        wrong.eq((unfit, "old keys stay"), (call(&of_old), call(&of_new)), (200, 401));
    }
    // As Kubernetes and careful people do it: another file takes its place.
    let path = site.gateway.dir.path();
    std::fs::write(path.join("new.json"), new.jwks()).unwrap();
    std::fs::rename(path.join("new.json"), path.join("jwks.json")).unwrap();
    site.gateway.wait_metrics("read again", |metrics| {
        metrics.sum("tollgate_key_fetches_total", &[("result", "success")]) >= 2.0
    });
    wrong.eq("new", (call(&of_old), call(&of_new)), (401, 200));
    wrong.done();
}

#[test]
fn class_42_a_kid_that_was_looked_up_is_not_looked_up_again_soon() {
    let mint = Mint::with(ISSUER, vec![Key::p256("k")]);
    let [one, other] = ["one", "other"].map(|kid| Mint::with(ISSUER, vec![Key::p256(kid)]));
    let published = Arc::new(Mutex::new(Some(mint.jwks())));
    let (upstream, issuer) = (RecordingUpstream::start(), publisher(&published));
    let text = config(&upstream, &format!("{}/keys", issuer.url()), "jwks_cooldown = \"2s\"");
    let gateway = Builder::new().start(&text);
    let call =
        |mint: &Mint| send(gateway.address("main"), &Req::get("/x").host("api.test").bearer(&mint.scoped("a"))).status;
    let mut wrong = Wrong::default();
    wrong.eq("one", (call(&one), issuer.count()), (401, 2));
    // After the cool-down another one is looked up, and this one is not.
    thread::sleep(Duration::from_millis(2200));
    wrong.eq("one again", (call(&one), issuer.count()), (401, 2));
    wrong.eq("other", (call(&other), issuer.count()), (401, 3));
    let metrics = gateway.metrics();
    wrong.eq("counted", metrics.sum("tollgate_unknown_key_ids_total", &[("issuer", "corp")]), 3.0);
    wrong.eq("keys", metrics.sum("tollgate_keys", &[("issuer", "corp")]), 1.0);
    wrong.ok("age", metrics.has("tollgate_key_set_age_seconds", &[("issuer", "corp")]), "no gauge");
    let success = metrics.sum("tollgate_key_set_last_success_timestamp_seconds", &[("issuer", "corp")]);
    wrong.ok("last success", (success - crate::support::mint::now() as f64).abs() < 60.0, success);
    wrong.done();
}

#[test]
fn class_42_expired_tokens_and_those_for_others_cause_no_fetch() {
    let mint = Mint::with(ISSUER, vec![Key::p256("k")]);
    let stranger = Mint::with(ISSUER, vec![Key::p256("stranger")]);
    let published = Arc::new(Mutex::new(Some(mint.jwks())));
    let (upstream, issuer) = (RecordingUpstream::start(), publisher(&published));
    let gateway = Builder::new().start(&config(&upstream, &format!("{}/keys", issuer.url()), ""));
    let now = crate::support::mint::now();
    for claims in [
        serde_json::json!({"exp": now - 100}),
        serde_json::json!({"aud": "https://other.test"}),
        serde_json::json!({"nbf": now + 100}),
    ] {
        let token = stranger.token(&claims);
        assert_eq!(send(gateway.address("main"), &Req::get("/x").host("api.test").bearer(&token)).status, 401);
    }
    assert_eq!(issuer.count(), 1);
}

#[test]
fn class_60_two_issuers_with_the_same_kid_are_told_apart() {
    let (one, other) =
        (Mint::with("https://one.test", vec![Key::p256("k")]), Mint::with("https://other.test", vec![Key::p256("k")]));
    let more = format!(
        "[issuers.one.jwt]\nissuer = \"https://one.test\"\naudience = [\"{AUDIENCE}\"]\njwks_file = \"one.json\"\n\
         [issuers.other.jwt]\nissuer = \"https://other.test\"\naudience = [\"{AUDIENCE}\"]\njwks_file = \"other.json\"\n"
    );
    let site = Site::builder().more(&more).more(OPEN).file("one.json", one.jwks()).file("other.json", other.jwks());
    let site = site.start();
    let swapped = Mint { issuer: one.issuer.clone(), keys: vec![Key::p256("k")] };
    let forged = other.token(&serde_json::json!({"iss": "https://one.test"}));
    let mut wrong = Wrong::default();
    for (case, token, expected) in [
        ("one", one.scoped("a"), 200),
        ("other", other.scoped("a"), 200),
        ("of one, signed by the other", forged, 401),
        ("of one, signed by a stranger", swapped.scoped("a"), 401),
    ] {
        wrong.eq(case, site.get("/x", Some(&token)).status, expected);
    }
    wrong.done();
}

#[test]
fn class_35_a_key_set_without_end_is_not_kept() {
    let mint = Mint::with(ISSUER, vec![Key::p256("k")]);
    let endless = Arc::new(Mutex::new(false));
    let (mode, jwks) = (endless.clone(), mint.jwks());
    let issuer = RecordingUpstream::scripted(move |exchange| {
        if !*mode.lock().unwrap() {
            return exchange.answer("200 OK", "", jwks.as_bytes());
        }
        exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        loop {
            exchange.chunk(&[b' '; 64 << 10])?;
        }
    });
    let upstream = RecordingUpstream::start();
    let more = "jwks_refresh = \"1s\"\njwks_cooldown = \"1s\"";
    let gateway = Builder::new().start(&config(&upstream, &format!("{}/keys", issuer.url()), more));
    let before = gateway.memory("VmHWM");
    *endless.lock().unwrap() = true;
    gateway.wait_metrics("given up, more than once", |metrics| {
        metrics.sum("tollgate_key_fetches_total", &[("result", "failure")]) >= 2.0
    });
    let status = send(gateway.address("main"), &Req::get("/x").host("api.test").bearer(&mint.scoped("a"))).status;
    assert_eq!(status, 200, "with the keys from before");
    assert!(gateway.memory("VmHWM") < before + 16 * 1024, "{before} KiB, then {} KiB", gateway.memory("VmHWM"));
}
