//! Signing keys and opaque tokens of the embedded server, as the running gateway treats them.

use crate::support::gateway::binary;
use crate::support::server::{self, HOST, encode, log_in};
use crate::support::{Req, Site, Wrong, send};

fn keys(site: &Site, arguments: &[&str]) -> String {
    let admin = site.gateway.admin().to_string();
    let output = binary()
        .arg("keys")
        .args(arguments)
        .args(["-c", "tollgate.toml", "--admin", &admin])
        .current_dir(site.gateway.dir.path())
        .env("CLIENT_SECRET", server::SECRET)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn states(table: &str) -> Vec<String> {
    table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(2)).map(str::to_owned).collect()
}

#[test]
fn j2_j4_keys_are_published_before_use_and_an_emergency_ends_what_they_signed() {
    let site = server::start();
    let first = log_in(&site, "billing", &[]).json();
    let first = first["access_token"].as_str().unwrap();
    let call = |token: &str| site.get("/orders/7", Some(token)).status;
    let mut wrong = Wrong::default();
    wrong.eq("at first", states(&keys(&site, &["list"])), vec!["active".to_owned()]);
    wrong.eq("rotated", states(&keys(&site, &["rotate"])), vec!["active".to_owned(), "pending".to_owned()]);
    let jwks = site.send(&Req::get("/oauth2/jwks").host(HOST)).json();
    wrong.eq("both are published", jwks["keys"].as_array().map(Vec::len), Some(2));
    wrong.eq("the first token", call(first), 200);
    keys(&site, &["rotate", "--now"]);
    wrong.eq("what a retired key signed", call(first), 200);
    let second = log_in(&site, "billing", &[]).json();
    let second = second["access_token"].as_str().unwrap();
    wrong.eq("what the new key signs", call(second), 200);
    let left = keys(&site, &["rotate", "--now", "--revoke-old"]);
    wrong.eq("one is left", states(&left), vec!["active".to_owned()]);
    wrong.eq("the first token, after", call(first), 401);
    wrong.eq("the second token, after", call(second), 401);
    let jwks = site.send(&Req::get("/oauth2/jwks").host(HOST)).json();
    wrong.eq("one is published", jwks["keys"].as_array().map(Vec::len), Some(1));
    wrong.done();
}

#[test]
fn j4_an_emergency_ends_opaque_tokens_too() {
    let site = server::builder().start_with(|config| {
        config.replace("[authorization_server]", "[authorization_server]\naccess_token_format = \"opaque\"")
    });
    let body = log_in(&site, "billing", &[]).json();
    let token = body["access_token"].as_str().unwrap();
    assert_eq!(site.get("/orders/7", Some(token)).status, 200);
    keys(&site, &["rotate", "--now", "--revoke-old"]);
    assert_eq!(site.get("/orders/7", Some(token)).status, 401);
}

#[test]
fn rv8_in9_opaque_tokens_are_looked_up_and_end_at_once() {
    let site = server::builder().start_with(|config| {
        config.replace("[authorization_server]", "[authorization_server]\naccess_token_format = \"opaque\"")
    });
    let body = log_in(&site, "billing", &[]).json();
    let token = body["access_token"].as_str().unwrap();
    let mut wrong = Wrong::default();
    wrong.ok("it is opaque", !token.contains('.'), token);
    wrong.eq("it is accepted", site.get("/orders/7", Some(token)).status, 200);
    wrong.eq("and remembered", site.get("/orders/7", Some(token)).status, 200);
    wrong.eq("what is none", site.get("/orders/7", Some(&format!("{token}A"))).status, 401);
    wrong.eq("the upstream learns the user", site.upstream.last().header("x-user"), Some("alice"));
    let revoke = Req::post("/oauth2/revoke")
        .host(HOST)
        .header("Authorization", &server::basic("billing", server::SECRET))
        .form(&encode(&[("token", token)]));
    wrong.eq("revoked", site.send(&revoke).status, 200);
    wrong.eq("it has ended", site.get("/orders/7", Some(token)).status, 401);
    wrong.done();
}

#[test]
fn a_page_in_a_browser_cannot_rotate_keys() {
    let site = server::start();
    let mut wrong = Wrong::default();
    let rotate = || Req::post("/keys/rotate").header("Content-Length", "0");
    for (what, request, status) in [
        ("with an origin", rotate().host("127.0.0.1").header("Origin", "https://evil.test"), 403),
        ("to another host", rotate().host("evil.test"), 403),
        ("by GET", Req::get("/keys/rotate").host("127.0.0.1"), 405),
        ("from here", rotate().host("127.0.0.1"), 200),
    ] {
        wrong.eq(what, send(site.gateway.admin(), &request).status, status);
    }
    wrong.done();
}
