//! Key sets that are fetched: when they come, when they change, when they do not come.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::gateway::Builder;
use crate::support::mint::{AUDIENCE, ISSUER, Key, Mint};
use crate::support::site::OPEN;
use crate::support::{RecordingUpstream, Req, Wrong, send};

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
    let stranger = Mint::with(ISSUER, vec![Key::p256("stranger")]);
    let published = Arc::new(Mutex::new(Some(mint.jwks())));
    let (upstream, issuer) = (RecordingUpstream::start(), publisher(&published));
    let text = config(&upstream, &format!("{}/keys", issuer.url()), "jwks_cooldown = \"1s\"");
    let gateway = Builder::new().start(&text);
    let call = |mint: &Mint, scope: &str| {
        send(gateway.address("main"), &Req::get("/x").host("api.test").bearer(&mint.scoped(scope))).status
    };
    let mut wrong = Wrong::default();
    wrong.eq("asked", call(&stranger, "a"), 401);
    *published.lock().unwrap() = None;
    wrong.eq("cooling down after a success", call(&stranger, "b"), 401);
    thread::sleep(Duration::from_millis(1100));
    wrong.eq("the issuer fails", call(&stranger, "c"), 503);
    wrong.eq("cooling down after that", call(&stranger, "d"), 503);
    wrong.eq("a known one", call(&mint, "e"), 200);
    *published.lock().unwrap() = Some("{\"keys\": 7}".to_owned());
    thread::sleep(Duration::from_millis(1100));
    wrong.eq("a bad set", call(&stranger, "f"), 401);
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
