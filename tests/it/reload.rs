//! Taking up a changed configuration while the gateway serves.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;
use serde_json::json;

use crate::support::http::Conn;
use crate::support::mint::{AUDIENCE, Key, now};
use crate::support::server::{basic, cheap_hash};
use crate::support::{RecordingUpstream, Req, Response, Site, Wrong, field, secrets, send};

const ROUTES: &str = r#"
[[routes]]
name = "orders"
path = "/orders/**"
upstream = "app"
allow = [{ scopes = ["read"] }]
"#;

const MORE: &str = r#"
[[routes]]
name = "more"
path = "/more/**"
upstream = "app"
allow = [{ public = true }]
"#;

fn site() -> Site {
    Site::builder().more(ROUTES).start()
}

fn generation(site: &Site) -> f64 {
    site.gateway.metrics().sum("tollgate_config_generation", &[])
}

/// Writes the configuration anew, as `change` makes it of the one there is.
fn rewrite(site: &Site, change: impl FnOnce(String) -> String) {
    site.gateway.write("tollgate.toml", change(site.gateway.read("tollgate.toml")));
}

fn post_reload(site: &Site) -> Response {
    send(site.gateway.admin(), &Req::post("/reload").host("localhost"))
}

#[test]
fn a_reload_takes_up_what_changed_however_it_was_asked_for() {
    let mut wrong = Wrong::default();
    for cause in ["SIGHUP", "POST /reload", "a changed file", "a link that moved"] {
        let site = site();
        let dir = site.gateway.dir.path();
        wrong.eq((cause, "before"), site.get("/more/1", None).status, 404);
        let text = site.gateway.read("tollgate.toml") + MORE;
        match cause {
            "a link that moved" => {
                // As Kubernetes mounts a ConfigMap: a link to a folder that is replaced by another link.
                std::fs::create_dir(dir.join("next")).unwrap();
                std::fs::write(dir.join("next/tollgate.toml"), &text).unwrap();
                std::fs::copy(dir.join("jwks.json"), dir.join("next/jwks.json")).unwrap();
                std::os::unix::fs::symlink("next/tollgate.toml", dir.join("link")).unwrap();
                std::fs::rename(dir.join("link"), dir.join("tollgate.toml")).unwrap();
            }
            _ => site.gateway.write("tollgate.toml", &text),
        }
        match cause {
            "SIGHUP" => site.gateway.signal(Signal::HUP),
            "POST /reload" => {
                let answer = post_reload(&site);
                wrong.eq(cause, (answer.status, answer.json()["generation"].as_u64()), (200, Some(2)));
            }
            _ => {}
        }
        site.gateway.wait_log(cause, |line| line["event"] == "reload.done");
        wrong.eq((cause, "after"), site.get("/more/1", None).status, 200);
        wrong.eq((cause, "generation"), generation(&site), 2.0);
        let metrics = site.gateway.metrics();
        wrong.eq((cause, "counted"), metrics.sum("tollgate_config_reloads_total", &[("result", "success")]), 1.0);
        // The rest is as before.
        let token = site.mint.scoped("read");
        wrong.eq((cause, "the old route"), site.get("/orders/1", Some(&token)).status, 200);
        rewrite(&site, |text| text.replace(MORE, ""));
        wrong.eq((cause, "back"), post_reload(&site).status, 200);
        wrong.eq((cause, "the route is gone"), site.get("/more/1", None).status, 404);
    }
    wrong.done();
}

#[test]
fn whatever_is_wrong_with_the_new_one_the_old_one_stays_in_force() {
    let site = site();
    let good = site.gateway.read("tollgate.toml");
    let token = site.mint.scoped("read");
    let rule_test = "\n[[tests]]\nrequest = \"GET /orders/7\"\nexpect = 200\n";
    let mut wrong = Wrong::default();
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("\n[listeners.second]\naddress = \"{}\"\n", busy.local_addr().unwrap());
    for (case, text, told) in [
        ("syntax", format!("{good}\n[["), "tollgate.toml:"),
        ("an unknown key", format!("{good}\nbananas = 1\n"), "bananas"),
        ("two mistakes", good.replace("/orders/**", "orders").replace("scopes", "scpoes"), "scpoes"),
        ("a rule test that fails", format!("{good}{rule_test}"), "`GET /orders/7` came to 401"),
        ("a port that is taken", format!("{good}{taken}"), "second"),
        ("another store", good.replace("[store.memory]", "[store.embedded]\npath = \"elsewhere\""), "[store]"),
        ("nothing", String::new(), "there is no listener"),
    ] {
        site.gateway.write("tollgate.toml", text);
        let answer = post_reload(&site);
        // Without an authorization server there is no store that could not change.
        if case == "another store" {
            wrong.eq(case, answer.status, 200);
            continue;
        }
        wrong.eq(case, answer.status, 422);
        let problems = answer.json()["problems"].as_str().unwrap_or_default().to_owned();
        wrong.ok((case, "told"), problems.contains(told), &problems);
        wrong.eq((case, "serves"), site.get("/orders/1", Some(&token)).status, 200);
        let metrics = site.gateway.metrics();
        wrong.eq((case, "metric"), metrics.sum("tollgate_config_last_reload_successful", &[]), 0.0);
    }
    let failed = site.gateway.wait_log("told", |line| line["event"] == "reload.failed");
    wrong.ok("cause", field(&failed, "cause").is_some(), &failed);
    site.gateway.write("tollgate.toml", &good);
    wrong.eq("mended", post_reload(&site).status, 200);
    wrong.eq("metric", site.gateway.metrics().sum("tollgate_config_last_reload_successful", &[]), 1.0);
    wrong.done();
}

#[test]
fn no_request_fails_during_fifty_reloads_and_what_did_not_change_goes_on() {
    let asked = RecordingUpstream::scripted(|exchange| {
        let said = json!({"active": true, "aud": AUDIENCE, "sub": "bob", "scope": "read"});
        exchange.answer("200 OK", "Content-Type: application/json\r\n", said.to_string().as_bytes())
    });
    let table = format!(
        "[issuers.legacy.introspection]\nurl = \"{}/\"\nclient_id = \"gateway\"\nclient_secret = {{ env = \"SECRET_OF_LEGACY\" }}\n\
         audience = [\"{AUDIENCE}\"]\ncache_ttl = \"1h\"\n",
        asked.url()
    );
    let site = Site::builder().more(&table).more(ROUTES).env("SECRET_OF_LEGACY", "a secret of this test").start();
    let (address, token) = (site.gateway.address("main"), site.mint.scoped("read"));
    let (done, failed, sent) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for worker in 0..4 {
            let (done, failed, sent, token) = (&done, &failed, &sent, &token);
            scope.spawn(move || {
                let mut kept = Conn::open(address);
                while !done.load(Ordering::Relaxed) {
                    let token = if worker % 2 == 0 { token.as_str() } else { "opaque" };
                    let request = Req::get("/orders/1").host("api.test").bearer(token);
                    // Two on connections that are kept, two on new ones.
                    let status = if worker < 2 { kept.send(&request).status } else { send(address, &request).status };
                    sent.fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(usize::from(status != 200), Ordering::Relaxed);
                }
            });
        }
        for round in 0..50 {
            rewrite(&site, |text| if round % 2 == 0 { text + MORE } else { text.replace(MORE, "") });
            let before = sent.load(Ordering::Relaxed);
            assert_eq!(post_reload(&site).status, 200);
            while sent.load(Ordering::Relaxed) < before + 8 {
                thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let mut wrong = Wrong::default();
    wrong.eq("failed", failed.load(Ordering::Relaxed), 0);
    wrong.ok("sent", sent.load(Ordering::Relaxed) >= 400, sent.load(Ordering::Relaxed));
    wrong.eq("generation", generation(&site), 51.0);
    // Two workers, and as many requests at once as there are callers.
    wrong.ok("connections to the upstream", site.upstream.connections() <= 8, site.upstream.connections());
    wrong.eq("introspected once", asked.count(), 1);
    let verified = site.gateway.metrics().sum("tollgate_tokens_verified_total", &[("issuer", "corp")]);
    wrong.ok("verified once, or by both workers at once", verified <= 2.0, verified);
    wrong.done();
}

#[test]
fn an_issuer_goes_on_when_another_comes_before_it_or_goes() {
    let asked = RecordingUpstream::scripted(|exchange| {
        let said = json!({"active": true, "aud": AUDIENCE, "sub": "bob", "scope": "read"});
        exchange.answer("200 OK", "Content-Type: application/json\r\n", said.to_string().as_bytes())
    });
    let table = |name: &str, prefix: &str| {
        format!(
            "[issuers.{name}.introspection]\nurl = \"{}/\"\nclient_id = \"gateway\"\n\
             client_secret = {{ env = \"SECRET_OF_LEGACY\" }}\naudience = [\"{AUDIENCE}\"]\ncache_ttl = \"1h\"\n\
             token_prefix = \"{prefix}\"\n",
            asked.url()
        )
    };
    let (first, legacy) = (table("first", "one_"), table("legacy", "two_"));
    let site = Site::builder().more(&legacy).more(ROUTES).env("SECRET_OF_LEGACY", "a secret of this test").start();
    let ask = |token: &str| {
        let request = Req::get("/orders/1").host("api.test").bearer(token);
        (send(site.gateway.address("main"), &request).status, asked.count())
    };
    let jwt = site.mint.scoped("read");
    let mut wrong = Wrong::default();
    wrong.eq("asked", ask("two_token"), (200, 1));
    rewrite(&site, |text| format!("{first}{text}"));
    wrong.eq("added", post_reload(&site).status, 200);
    wrong.eq("known", ask("two_token"), (200, 1));
    wrong.eq("of the other", ask("one_token"), (200, 2));
    wrong.eq("a JWT", ask(&jwt), (200, 2));
    rewrite(&site, |text| text.replace(&first, ""));
    wrong.eq("gone", post_reload(&site).status, 200);
    wrong.eq("still known", ask("two_token"), (200, 2));
    wrong.eq("no token of the one that is gone", ask("one_token").0, 401);
    wrong.eq("a JWT as before", ask(&jwt), (200, 2));
    wrong.done();
}

#[test]
fn a_rate_limit_that_did_not_change_is_as_used_up_as_before() {
    let route = |name: &str, limit: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\npath = \"/{name}/**\"\nupstream = \"app\"\nallow = [{{ public = true }}]\n\
             rate_limit = {{ {limit} }}\n"
        )
    };
    let by_address = "per = \"address\", requests = 2, window = \"1h\"";
    let together = "per = \"route\", requests = 2, window = \"1h\"";
    let (one, other, all) = (route("one", by_address), route("other", by_address), route("all", together));
    let site = Site::builder().more(&one).more(&other).more(&all).start();
    let good = site.gateway.read("tollgate.toml");
    let mut wrong = Wrong::default();
    let statuses = |path: &str| [(); 3].map(|()| site.get(path, None).status);
    let reload = |text: String| {
        site.gateway.write("tollgate.toml", text);
        post_reload(&site).status
    };
    for path in ["/one/x", "/other/x", "/all/x"] {
        wrong.eq(path, statuses(path), [200, 200, 429]);
    }
    // A route that comes first and has the longest budget of all; later another in its place.
    let first = route("first", "per = \"address\", requests = 1, window = \"1d\", burst = 9");
    let changed = by_address.replace("requests = 2", "requests = 1");
    for (case, text, expected) in [
        ("nothing changed", good.clone(), [429, 429, 429]),
        ("another route", good.replace(&one, &format!("{first}{one}")), [429, 429, 429]),
        ("this one's limit", good.replace(&one, &route("one", &changed)), [200, 429, 429]),
        ("as before", good.clone(), [200, 429, 429]),
        (
            "this one's rules",
            good.replace(&all, &all.replace("public = true", "authenticated = true")),
            [429, 429, 401],
        ),
        ("by another name", good.replace("name = \"all\"", "name = \"another\""), [429, 429, 200]),
    ] {
        wrong.eq((case, "reload"), reload(text), 200);
        wrong.eq(case, ["/one/x", "/other/x", "/all/x"].map(|path| site.get(path, None).status), expected);
        // What was given anew is used up.
        let _used_up = statuses("/one/x");
    }
    let refused = site.gateway.metrics().sum("tollgate_rate_limited_total", &[("route", "other")]);
    wrong.eq("counted", refused, 7.0);
    wrong.done();
}

#[test]
fn a_jwt_for_the_upstream_is_used_again_unless_it_is_to_say_something_else() {
    let route = r#"
[[routes]]
name = "told"
path = "/told/**"
upstream = "app"
allow = [{ authenticated = true }]
forward.authorization = { signed_jwt = { key = "upstream.pem", audience = "orders" } }
"#;
    let key = Key::p256("x");
    let site = Site::builder().file("upstream.pem", key.pem()).more(route).start();
    let token = site.mint.scoped("read");
    let sent = || {
        assert_eq!(site.get("/told/1", Some(&token)).status, 200);
        let sent = site.upstream.last().header("authorization").unwrap().to_owned();
        secrets::keep(sent.strip_prefix("Bearer ").unwrap());
        sent
    };
    let first = sent();
    rewrite(&site, |text| text + MORE);
    assert_eq!(post_reload(&site).status, 200);
    assert_eq!(sent(), first, "a signature differs each time it is made");
    rewrite(&site, |text| text.replace("audience = \"orders\"", "audience = \"invoices\""));
    assert_eq!(post_reload(&site).status, 200);
    assert_ne!(sent(), first);
}

#[test]
fn listeners_come_and_go() {
    let site = site();
    let mut wrong = Wrong::default();
    let mut kept = Conn::open(site.gateway.address("main"));
    let request = || Req::get("/orders/1").host("api.test").bearer(&site.mint.scoped("read"));
    wrong.eq("before", kept.send(&request()).status, 200);
    let second = "\n[listeners.second]\naddress = \"127.0.0.1:0\"\n";
    // Before the other in the file: indices change, connections stay with their names.
    rewrite(&site, |text| text.replace("[listeners.main]", &format!("{second}[listeners.main]")));
    wrong.eq("with a second one", post_reload(&site).status, 200);
    let ready = site.gateway.wait_log("it listens", |line| field(line, "listener") == Some("second"));
    let second_address = field(&ready, "address").unwrap().parse().unwrap();
    wrong.eq("the second one", send(second_address, &request()).status, 200);
    wrong.eq("the first one", send(site.gateway.address("main"), &request()).status, 200);
    wrong.eq("a connection from before", kept.send(&request()).status, 200);
    let mut of_second = Conn::open(second_address);
    wrong.eq("of the second", of_second.send(&request()).status, 200);
    rewrite(&site, |text| text.replace(second, ""));
    wrong.eq("without it", post_reload(&site).status, 200);
    let mut refused = false;
    for _ in 0..200 {
        refused = std::net::TcpStream::connect(second_address).is_err();
        if refused {
            break;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    wrong.ok("nobody listens there", refused, "somebody does");
    wrong.eq("what came by it is not served", of_second.send(&request()).status, 404);
    wrong.eq("a connection from before", kept.send(&request()).status, 200);
    wrong.done();
}

#[test]
fn users_and_clients_change_and_tokens_stay() {
    let tables = r#"
[authorization_server]
signing_algorithm = "ES256"
[authorization_server.roles.reader]
scopes = ["read"]
[authorization_server.users.file]
path = "users.toml"
[authorization_server.clients.app]
secret = { env = "SECRET_OF_APP" }
grants = ["password", "refresh_token"]
scopes = ["read", "offline_access"]
default_scopes = ["read"]
"#;
    let user = |name: &str, password: &str| {
        format!(
            "[[user]]\nname = \"{name}\"\npassword = {{ hash = \"{}\" }}\nroles = [\"reader\"]\n",
            cheap_hash(password)
        )
    };
    let alice = user("alice", "of alice, long");
    let site = Site::builder()
        .embedded()
        .more(tables)
        .more(ROUTES)
        .file("users.toml", &alice)
        .env("SECRET_OF_APP", "a secret of this test")
        .start();
    let ask = |form: &str| {
        let credentials = basic("app", "a+secret+of+this+test");
        site.send(&Req::post("/oauth2/token").header("Authorization", &credentials).form(form))
    };
    let log_in = |name: &str, password: &str| {
        ask(&format!("grant_type=password&username={name}&password={password}&scope=read+offline_access"))
    };
    let mut wrong = Wrong::default();
    let answer = log_in("alice", "of+alice,+long");
    wrong.eq("alice", answer.status, 200);
    let tokens = answer.json();
    let (access, refresh) = (tokens["access_token"].as_str().unwrap(), tokens["refresh_token"].as_str().unwrap());
    wrong.eq("bob is unknown", log_in("bob", "of+bob,+long").status, 400);
    site.gateway.write("users.toml", alice + &user("bob", "of bob, long"));
    site.gateway.wait_log("the users file is read again", |line| line["event"] == "reload.done");
    wrong.eq("bob", log_in("bob", "of+bob,+long").status, 200);
    wrong.eq("alice's token", site.get("/orders/1", Some(access)).status, 200);
    wrong.eq("alice's refresh token", ask(&format!("grant_type=refresh_token&refresh_token={refresh}")).status, 200);
    rewrite(&site, |text| text.replace("path = \"data\"", "path = \"elsewhere\""));
    let answer = post_reload(&site);
    wrong.eq("another store", answer.status, 422);
    wrong.ok("told", answer.text().contains("[store]"), answer.text());
    wrong.eq("alice's token, still", site.get("/orders/1", Some(access)).status, 200);
    wrong.done();
}

#[test]
fn class_38_a_token_that_has_ended_is_judged_by_the_leeway_of_now() {
    let site = Site::builder().issuer("leeway = \"0s\"").more(ROUTES).start();
    let token = site.mint.token(&json!({"scope": "read", "exp": now() - 60}));
    let mut wrong = Wrong::default();
    let refused = |wrong: &mut Wrong, name: &str| {
        // Read anew, and known from then on: nobody can tell which.
        for time in 0..4 {
            let answer = site.get("/orders/1", Some(&token));
            wrong.eq(
                (name, time),
                (answer.status, answer.challenge_param("error").as_deref()),
                (401, Some("invalid_token")),
            );
            let line = site.gateway.access_log(&answer.request_id());
            wrong.eq(
                (name, time),
                (field(&line, "reason"), field(&line, "cause")),
                (Some("expired"), Some("the token has expired")),
            );
        }
    };
    refused(&mut wrong, "without leeway");
    rewrite(&site, |text| text.replace("leeway = \"0s\"", "leeway = \"5m\""));
    wrong.eq("reload", post_reload(&site).status, 200);
    wrong.eq("with leeway", site.get("/orders/1", Some(&token)).status, 200);
    rewrite(&site, |text| text.replace("leeway = \"5m\"", "leeway = \"0s\""));
    wrong.eq("reload", post_reload(&site).status, 200);
    refused(&mut wrong, "without it again");
    let metrics = site.gateway.metrics();
    wrong.eq("counted", metrics.sum("tollgate_tokens_refused_total", &[("reason", "expired")]), 8.0);
    wrong.done();
}

#[test]
fn what_only_a_restart_takes_up_is_told() {
    let site = site();
    rewrite(&site, |text| text.replace("workers = 2", "workers = 3"));
    assert_eq!(post_reload(&site).status, 200);
    let told = site.gateway.wait_log("told", |line| line["event"] == "reload.restart_needed");
    assert_eq!(field(&told, "key"), Some("server.workers"));
}

#[test]
fn a_reload_needs_an_operator() {
    let token = "an admin token of this test";
    let guarded = Site::builder()
        .more(ROUTES)
        .env("ADMIN_TOKEN_OF_TEST", token)
        .start_with(|config| config.replace("[admin]\n", "[admin]\ntoken = { env = \"ADMIN_TOKEN_OF_TEST\" }\n"));
    let open = site();
    let mut wrong = Wrong::default();
    let reload = || Req::post("/reload");
    for (case, site, request, status) in [
        ("without the token", &guarded, reload().host("localhost"), 401),
        ("with it", &guarded, reload().host("gateway.test").bearer(token), 200),
        ("by GET", &open, Req::get("/reload").host("localhost"), 405),
        ("by a page of a browser", &open, reload().host("localhost").header("Origin", "http://localhost"), 403),
        ("by another name of this machine", &open, reload().host("rebound.test"), 403),
        ("from this machine", &open, reload().host("localhost"), 200),
    ] {
        wrong.eq(case, send(site.gateway.admin(), &request).status, status);
    }
    wrong.done();
}
