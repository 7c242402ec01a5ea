//! The operators' listener.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use crate::support::gateway::Builder;
use crate::support::metrics::Metrics;
use crate::support::site::OPEN;
use crate::support::tls::Authority;
use crate::support::{Mint, Req, Site, Wrong, send};

#[test]
fn health_and_readiness() {
    let site = Site::open();
    let mut wrong = Wrong::default();
    for path in ["/healthz", "/readyz"] {
        wrong.eq(path, site.gateway.ask_admin(path).status, 200);
        wrong.eq(
            ("HEAD", path),
            crate::support::Conn::open(site.gateway.admin()).send(&Req::new("HEAD", path)).status,
            200,
        );
    }
    wrong.eq("elsewhere", site.gateway.ask_admin("/nowhere").status, 404);
    wrong.eq("not on the public side", site.get("/metrics", None).status, 401);
    wrong.eq("not on the public side", site.get("/healthz", None).status, 401);
    wrong.eq("nothing was forwarded", site.upstream.count(), 0);
    let token = site.mint.scoped("");
    wrong.eq("there it is a path like any", site.get("/healthz", Some(&token)).status, 200);
    wrong.done();
}

#[test]
fn metrics_count_what_happened() {
    let site = Site::builder()
        .more("[[routes]]\nname = \"read\"\npath = \"/read\"\nupstream = \"app\"\nallow = [{ methods = [\"GET\"], scopes = [\"read\"] }]\n")
        .more(OPEN)
        .start();
    for _ in 0..3 {
        site.get("/read", Some(&site.mint.scoped("read")));
    }
    let token = site.mint.scoped("other");
    site.get("/read", Some(&token));
    site.get("/read", Some("junk"));
    site.get("/read", Some(&site.mint.token(&json!({"exp": 1}))));
    site.get("/read", None);
    site.send(&Req::post("/read").body(""));
    site.get("/secret-path-of-a-caller/..", None);
    site.send(&Req::new("BREW", "/public/x"));
    let name = "tollgate_requests_total";
    let metrics = site.gateway.wait_metrics("all requests are counted", |metrics| metrics.sum(name, &[]) >= 10.0);
    let mut wrong = Wrong::default();
    for (labels, count) in [
        (&[("route", "read"), ("method", "GET"), ("status", "200")][..], 3.0),
        (&[("route", "read"), ("status", "403")], 1.0),
        (&[("route", "read"), ("status", "401")], 3.0),
        (&[("route", "read"), ("status", "405")], 1.0),
        (&[("status", "400")], 1.0),
        (&[("route", "public"), ("status", "200")], 1.0),
    ] {
        wrong.eq(labels, metrics.sum(name, labels), count);
    }
    let allowed = metrics.sum(name, &[("route", "read"), ("decision", "admitted")]);
    wrong.eq("decisions", allowed, 3.0);
    for sample in &metrics.samples {
        wrong.ok(&sample.name, sample.name.starts_with("tollgate_") || sample.name.starts_with("process_"), "prefix");
        for (label, value) in &sample.labels {
            let own =
                ["secret", "BREW", "alice", "127.0.0.1", "junk", "?", "eyJ"].iter().any(|text| value.contains(text));
            // The servers stand in the configuration.
            let own = own && !(label == "server" && *value == site.upstream.url());
            wrong.ok((&sample.name, label), !own, format!("{value} comes from a caller"));
        }
    }
    let names: BTreeSet<_> = metrics.types.keys().map(String::as_str).collect();
    let wanted = [
        ("requests", "counter"),
        ("request", "histogram"),
        ("upstream", "counter"),
        ("upstream", "histogram"),
        ("token", "counter"),
        ("connections", "gauge"),
        ("certificate", "gauge"),
        ("build_info", "gauge"),
    ];
    for (part, kind) in wanted {
        let found = metrics.types.iter().any(|(name, k)| name.contains(part) && k == kind);
        wrong.ok((part, kind), found || (part == "certificate"), &names);
    }
    wrong.done();
}

#[test]
fn histograms_are_consistent() {
    let site = Site::open();
    for _ in 0..5 {
        site.get("/public/x", None);
    }
    let metrics = site.gateway.wait_metrics("counted", |m| m.sum("tollgate_requests_total", &[]) >= 5.0);
    let mut wrong = Wrong::default();
    let histograms: Vec<_> =
        metrics.types.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name).collect();
    wrong.ok("there are some", !histograms.is_empty(), &metrics.types);
    for name in histograms {
        let count = metrics.sum(&format!("{name}_count"), &[]);
        wrong.eq(name, metrics.sum(&format!("{name}_bucket"), &[("le", "+Inf")]), count);
        wrong.ok(name, name.ends_with("_seconds") || name.ends_with("_bytes"), "a histogram names its unit");
    }
    wrong.done();
}

#[test]
fn the_token_guards_all_but_health() {
    let site = Site::builder()
        .env("TOLLGATE_ADMIN_TOKEN", "0123456789abcdef0123456789abcdef")
        .more(OPEN)
        .start_with(|config| config.replacen("[admin]\n", "[admin]\ntoken = { env = \"TOLLGATE_ADMIN_TOKEN\" }\n", 1));
    let admin = site.gateway.admin();
    let status =
        |path: &str, token: Option<&str>| send(admin, &Req::get(path).host("localhost").maybe_bearer(token)).status;
    let good = Some("0123456789abcdef0123456789abcdef");
    let mut wrong = Wrong::default();
    for path in ["/healthz", "/readyz"] {
        wrong.eq(path, status(path, None), 200);
    }
    for token in [
        None,
        Some(""),
        Some("wrong"),
        Some("0123456789abcdef0123456789abcde"),
        Some("0123456789abcdef0123456789abcdef0"),
    ] {
        wrong.ok(token, matches!(status("/metrics", token), 400 | 401), "let through");
    }
    wrong.eq("good", status("/metrics", good), 200);
    let challenge = send(admin, &Req::get("/metrics").host("localhost"));
    wrong.ok("challenge", challenge.challenge().starts_with("Bearer"), challenge.challenge());
    wrong.done();
    assert!(!site.gateway.output().contains("0123456789abcdef"));
}

#[test]
fn without_a_token_off_loopback_nothing_starts() {
    let config = Site::builder().more(OPEN).config().replacen(
        "[admin]\naddress = \"127.0.0.1:0\"",
        "[admin]\naddress = \"0.0.0.0:0\"",
        1,
    );
    let done = crate::support::command::check(&config, &[("jwks.json", &crate::support::Mint::new().jwks())], &[]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.all().contains("token"), "{done:?}");
}

#[test]
fn an_empty_admin_token_is_no_token() {
    let config = Site::builder().more(OPEN).config().replacen("[admin]\n", "[admin]\ntoken = { value = \"\" }\n", 1);
    let done = crate::support::command::check(&config, &[("jwks.json", &crate::support::Mint::new().jwks())], &[]);
    assert_eq!(done.code, Some(1), "{done:?}");
}

#[test]
fn a_certificate_replaced_on_disk_is_picked_up() {
    let authority = Authority::new();
    let (old, fresh) = (authority.identity(&["admin.test"]), authority.identity(&["admin.test"]));
    let tls = "[admin.tls]\ncertificates = [{ cert = \"admin.crt\", key = \"admin.key\" }]\n";
    let config = Site::builder().more(OPEN).config().replacen("[listeners.main]", &format!("{tls}[listeners.main]"), 1);
    let gateway = Builder::new()
        .file("jwks.json", Mint::new().jwks())
        .file("admin.crt", &old.cert)
        .file("admin.key", &old.key)
        .spawn(&config);
    let connect = || authority.client().connect(gateway.admin(), "admin.test").unwrap();
    let metrics = Metrics::parse(&connect().conn.send(&Req::get("/metrics").host("localhost")).text());
    assert!(metrics.has("tollgate_certificate_not_after_seconds", &[("listener", "admin")]), "{}", metrics.text);
    gateway.write("admin.crt", &fresh.cert);
    gateway.write("admin.key", &fresh.key);
    let wanted = CertificateDer::from_pem_slice(fresh.cert.as_bytes()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while connect().certificate != wanted {
        assert!(Instant::now() < deadline, "the old certificate is still served");
        thread::sleep(Duration::from_millis(100));
    }
}
