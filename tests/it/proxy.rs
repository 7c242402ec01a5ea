//! What the upstream receives and what the caller gets back: heads byte for byte, bodies as they come.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::http::Conn;
use crate::support::site::OPEN;
use crate::support::tls::{self, Authority};
use crate::support::upstream::Exchange;
use crate::support::{Gate, RecordingUpstream, Req, Site, Wrong, send};

/// One public route for everything, with these lines of `[routes.forward]`.
fn forward(lines: &str) -> String {
    format!(
        "[[routes]]\nname = \"all\"\npath = \"/**\"\nupstream = \"app\"\nallow = [{{ authenticated = true }}]\n\
         [routes.forward]\nhost = \"preserve\"\n{lines}\n\
         [[routes]]\nname = \"public\"\npath = \"/public/**\"\nupstream = \"app\"\nallow = [{{ public = true }}]\n"
    )
}

fn scripted(script: impl Fn(&mut Exchange) -> io::Result<()> + Send + Sync + 'static) -> Site {
    Site::builder().upstream(RecordingUpstream::scripted(script)).more(OPEN).start()
}

#[test]
fn an_ordinary_request_arrives_as_it_was_sent() {
    let site = Site::open();
    let request = Req::post("/public/a%20b?x=1&y=%2F")
        .header("Accept", "text/html;q=0.8")
        .header("X-Twice", "1")
        .header("X-Twice", "2")
        .header("Cookie", "a=b; c=d")
        .header("Content-Type", "application/json")
        .header("If-None-Match", "\"e\"")
        .header("User-Agent", "test/1")
        .header("Accept-Encoding", "gzip, br")
        .header("X-Empty", "")
        .body("{\"a\": 1}\r\n");
    assert_eq!(site.send(&request).status, 200);
    let seen = &site.upstream.wait_for(1)[0];
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/public/a%20b?x=1&y=%2F"));
    assert_eq!(seen.body, b"{\"a\": 1}\r\n");
    let mut wrong = Wrong::default();
    for (name, values) in [
        ("Host", &["api.test"][..]),
        ("Accept", &["text/html;q=0.8"]),
        ("X-Twice", &["1", "2"]),
        ("Cookie", &["a=b; c=d"]),
        ("Content-Type", &["application/json"]),
        ("If-None-Match", &["\"e\""]),
        ("User-Agent", &["test/1"]),
        ("Accept-Encoding", &["gzip, br"]),
        ("X-Empty", &[""]),
        ("Content-Length", &["10"]),
        ("Transfer-Encoding", &[]),
        ("Authorization", &[]),
    ] {
        wrong.eq(name, seen.all(name), values);
    }
    wrong.done();
}

#[test]
fn an_ordinary_answer_comes_back_as_it_was_given() {
    let site = scripted(|exchange| {
        let lines = "Content-Type: text/x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nETag: \"e\"\r\nServer: legacy\r\n\
                     Date: Sat, 01 Jan 2000 00:00:00 GMT\r\nX-Odd:  v\r\n";
        exchange.answer("203 Whatever", lines, b"body\n")
    });
    let answer = site.send(&Req::get("/public/x"));
    assert_eq!((answer.status, answer.text().as_str()), (203, "body\n"));
    assert_eq!(answer.all("Set-Cookie"), ["a=1", "b=2"]);
    let mut wrong = Wrong::default();
    for (name, value) in [
        ("Content-Type", "text/x"),
        ("ETag", "\"e\""),
        ("Server", "legacy"),
        ("Date", "Sat, 01 Jan 2000 00:00:00 GMT"),
        ("X-Odd", "v"),
        ("Content-Length", "5"),
    ] {
        wrong.eq(name, answer.header(name), Some(value));
    }
    wrong.done();
    assert!(!answer.request_id().is_empty());
}

#[test]
fn the_upstreams_own_refusals_pass_through() {
    let site =
        scripted(|exchange| exchange.answer("401 Unauthorized", "WWW-Authenticate: Basic realm=\"old\"\r\n", b"no"));
    let answer = site.get("/x", Some(&site.mint.scoped("")));
    assert_eq!((answer.status, answer.challenge(), answer.text().as_str()), (401, "Basic realm=\"old\"", "no"));
}

#[test]
fn head_204_and_304_have_no_body() {
    let site = scripted(|exchange| match exchange.request.target.as_str() {
        "/public/204" => exchange.write(b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"),
        "/public/304" => exchange.write(b"HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\n\r\n"),
        _ => exchange.answer("200 OK", "", b"12345"),
    });
    let mut conn = site.connect();
    assert_eq!(conn.send(&Req::get("/public/204")).status, 204);
    assert_eq!(conn.send(&Req::get("/public/304")).header("ETag"), Some("\"e\""));
    let head = conn.send(&Req::new("HEAD", "/public/x"));
    assert_eq!((head.status, head.header("Content-Length")), (200, Some("5")));
    assert_eq!(conn.send(&Req::get("/public/x")).text(), "12345");
    assert_eq!(site.upstream.requests()[2].method, "HEAD");
}

#[test]
fn hop_by_hop_headers_end_here() {
    let site = Site::builder()
        .upstream(RecordingUpstream::raw(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop, keep-alive\r\nX-Hop: \
                                            1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: \
                                            h2c\r\nX-Stay: 1\r\n\r\nok",
        ]))
        .more(OPEN)
        .start();
    let answer = site.send(
        &Req::get("/public/x")
            .header("Connection", "keep-alive, X-Private, x-mixed")
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Connection", "keep-alive")
            .header("Proxy-Authorization", "Basic YTpi")
            .header("TE", "gzip")
            .header("X-Private", "1")
            .header("X-Mixed", "1")
            .header("X-Kept", "1"),
    );
    let seen = site.upstream.last();
    let mut wrong = Wrong::default();
    for name in ["Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "X-Private", "X-Mixed", "Upgrade", "TE"] {
        wrong.ok(("request", name), !seen.has(name), seen.all(name));
    }
    wrong.ok("request: connection", !seen.all("Connection").join(",").contains("rivate"), seen.all("Connection"));
    wrong.eq("request: kept", seen.header("X-Kept"), Some("1"));
    for name in ["X-Hop", "Keep-Alive", "Proxy-Authenticate", "Upgrade"] {
        wrong.ok(("answer", name), answer.all(name).is_empty(), answer.all(name));
    }
    wrong.eq("answer: kept", answer.header("X-Stay"), Some("1"));
    wrong.done();
}

#[test]
fn connection_cannot_remove_what_the_gateway_sets() {
    let site = Site::with(&forward(r#"headers = { "X-User" = "{sub}" }"#));
    let token = site.mint.scoped("");
    for value in ["X-User, X-Forwarded-For, Host, X-Request-Id", "x-user", "close, X-USER"] {
        let answer = site.send(&Req::get("/x").bearer(&token).header("Connection", value).header("X-User", "root"));
        assert_eq!(answer.status, 200);
        let seen = site.upstream.last();
        assert_eq!(seen.all("X-User"), ["alice"], "Connection: {value}");
        assert_eq!(seen.header("Host"), Some("api.test"));
        assert!(seen.has("X-Forwarded-For"));
    }
}

#[test]
fn forwarded_headers_are_rebuilt_and_those_of_strangers_dropped() {
    let site = Site::open();
    let spoofed = [
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-For", "5.6.7.8"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Forwarded-Server", "evil"),
        ("X-Forwarded-Uri", "/evil"),
        ("X-Forwarded-Method", "DELETE"),
        ("X-Forwarded-User", "root"),
        ("X_Forwarded_For", "1.2.3.4"),
        ("Forwarded", "for=1.2.3.4;proto=https;host=evil.test"),
        ("X-Real-IP", "1.2.3.4"),
        ("X-Original-URL", "/evil"),
        ("X-Rewrite-URL", "/evil"),
        ("X-Request-Id", "spoofed"),
        ("True-Client-IP-Test", "kept"),
    ];
    let request = spoofed.iter().fold(Req::get("/public/x"), |request, (name, value)| request.header(name, value));
    let answer = site.send(&request);
    let seen = site.upstream.last();
    let mut wrong = Wrong::default();
    wrong.eq("for", seen.all("X-Forwarded-For"), ["127.0.0.1"]);
    wrong.eq("proto", seen.all("X-Forwarded-Proto"), ["http"]);
    wrong.eq("host", seen.all("X-Forwarded-Host"), ["api.test"]);
    let forwarded = seen.all("Forwarded").join(",").to_lowercase();
    wrong.ok("forwarded", forwarded.contains("for=127.0.0.1") && forwarded.contains("proto=http"), &forwarded);
    wrong.ok("forwarded is ours alone", !forwarded.contains("1.2.3.4") && !forwarded.contains("https"), &forwarded);
    wrong.ok("real ip", seen.all("X-Real-IP").iter().all(|ip| *ip == "127.0.0.1"), seen.all("X-Real-IP"));
    for name in [
        "X-Forwarded-User",
        "X_Forwarded_For",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Forwarded-Prefix",
        "X-Forwarded-Uri",
        "X-Forwarded-Method",
        "X-Forwarded-Server",
    ] {
        wrong.eq(name, seen.all(name), [""; 0]);
    }
    wrong.ok("port", seen.all("X-Forwarded-Port").iter().all(|port| *port != "443"), seen.all("X-Forwarded-Port"));
    wrong.ok("request id", answer.request_id() != "spoofed", answer.request_id());
    wrong.eq("the same id upstream", seen.header("X-Request-Id"), Some(answer.request_id().as_str()));
    wrong.eq("others", seen.header("True-Client-IP-Test"), Some("kept"));
    wrong.done();
}

#[test]
fn a_trusted_proxy_is_believed() {
    let site = Site::builder().server(r#"trusted_proxies = ["127.0.0.1/32", "10.0.0.0/8"]"#).more(OPEN).start();
    let sent = |request: Req| {
        let answer = site.send(&request);
        (site.upstream.last(), answer)
    };
    let mut wrong = Wrong::default();
    let (seen, answer) = sent(
        Req::get("/public/x")
            .header("X-Forwarded-For", "6.6.6.6, 203.0.113.9, 10.1.2.3")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", "front.test")
            .header("X-Request-Id", "from-the-proxy"),
    );
    // What stands before the first address that is no proxy may be anybody's invention: kept or cut.
    let chain = seen.all("X-Forwarded-For").join(", ");
    wrong.ok("chain", chain.ends_with("203.0.113.9, 10.1.2.3, 127.0.0.1"), &chain);
    wrong.eq("proto", seen.all("X-Forwarded-Proto"), ["https"]);
    wrong.eq("host", seen.all("X-Forwarded-Host"), ["front.test"]);
    wrong.eq("request id", answer.request_id(), "from-the-proxy");
    let line = site.gateway.access_log("from-the-proxy").to_string();
    wrong.ok("the peer is the first that is no proxy", line.contains("203.0.113.9") && !line.contains("6.6.6.6"), line);
    // Junk from a trusted proxy is not passed on, and not a crash.
    let (seen, answer) = sent(
        Req::get("/public/x").header("X-Forwarded-For", "not an address, \"x").header("X-Request-Id", "a b c\"'<>"),
    );
    wrong.ok("junk id", !answer.request_id().contains('<'), answer.request_id());
    wrong.ok("junk chain", seen.all("X-Forwarded-For").join(",").ends_with("127.0.0.1"), seen.all("X-Forwarded-For"));
    wrong.done();
}

#[test]
fn only_the_trusted_address_is_believed() {
    let site = Site::builder().server(r#"trusted_proxies = ["127.0.0.2/32"]"#).more(OPEN).start();
    let request = Req::get("/public/x").header("X-Forwarded-For", "203.0.113.9").header("X-Forwarded-Proto", "https");
    site.send(&request);
    assert_eq!(site.upstream.last().all("X-Forwarded-For"), ["127.0.0.1"]);
    crate::support::Conn::open_from("127.0.0.2", site.gateway.address("main")).send(&request);
    assert_eq!(site.upstream.last().all("X-Forwarded-For").join(", "), "203.0.113.9, 127.0.0.2");
    assert_eq!(site.upstream.last().header("X-Forwarded-Proto"), Some("https"));
}

#[test]
fn identity_headers_come_from_the_token_alone() {
    let lines = r#"headers = { "X-User" = "{sub}", "X-Scopes" = "{scope}", "X-Client" = "{client_id}", "X-Issuer" = "{issuer}", "X-Roles" = "{roles}", "X-Tenant" = "{claims.org.tenant}", "X-Mail" = "mail:{claims.email}", "X-Id" = "{request_id}" }"#;
    let site = Site::with(&forward(lines));
    let spoof = |request: Req| {
        [
            "X-User",
            "x-user",
            "X_User",
            "X-SCOPES",
            "X_Client",
            "X-Tenant",
            "X-Mail",
            "X-Forwarded-User",
            "X-Remote-User",
            "Remote-User",
            "Remote_User",
            "X-Auth-Request-User",
            "X-Auth-Request-Email",
            "X_Auth_Request_User",
        ]
        .iter()
        .fold(request, |request, name| request.header(name, "root"))
    };
    let names = [
        "X-User",
        "X-Scopes",
        "X-Client",
        "X-Issuer",
        "X-Roles",
        "X-Tenant",
        "X-Mail",
        "X_User",
        "X_Client",
        "X-Forwarded-User",
        "X-Remote-User",
        "Remote-User",
        "Remote_User",
        "X-Auth-Request-User",
        "X-Auth-Request-Email",
        "X_Auth_Request_User",
    ];
    let mut wrong = Wrong::default();
    let token = site.mint.token(&json!({"scope": "b a", "roles": ["clerk", "boss"], "org": {"tenant": "acme"},
                                        "email": "a@b.test"}));
    let answer = site.send(&spoof(Req::get("/x").bearer(&token)));
    let seen = site.upstream.last();
    let expected = [
        Some("alice"),
        Some("b a"),
        Some("app"),
        Some("https://issuer.test"),
        Some("clerk boss"),
        Some("acme"),
        Some("mail:a@b.test"),
    ];
    for (name, value) in names.iter().zip(expected.iter().copied().chain(std::iter::repeat(None))) {
        if *name == "X-Issuer" && seen.all(name) == ["corp"] {
            continue;
        }
        wrong.eq(("with everything", name), seen.all(name), value.as_slice());
    }
    wrong.eq("request id", seen.all("X-Id"), [answer.request_id()]);

    // An absent claim leaves the header out: never the caller's.
    site.send(&spoof(Req::get("/x").bearer(&site.mint.token(&json!({})))));
    let seen = site.upstream.last();
    for name in ["X-Roles", "X-Tenant", "X-Mail"] {
        wrong.eq(("absent claim", name), seen.all(name), [""; 0]);
    }
    wrong.ok("no scope", seen.all("X-Scopes").iter().all(|v| v.is_empty()), seen.all("X-Scopes"));

    // On routes that know nothing of the names, and on public ones, they are removed all the same.
    for target in ["/public/x", "/public/"] {
        site.send(&spoof(Req::get(target)));
        let seen = site.upstream.last();
        for name in names {
            wrong.eq((target, name), seen.all(name), [""; 0]);
        }
    }
    wrong.done();
}

#[test]
fn a_claim_that_is_no_header_value_is_refused_and_logged() {
    let site = Site::with(&forward(r#"headers = { "X-Name" = "{claims.name}" }"#));
    let mut wrong = Wrong::default();
    for name in ["a\r\nX-Admin: 1", "a\rb", "a\nb", "a\0b", "Zoë", "a\tb", "\u{202e}a", "a\u{7f}"] {
        let answer = site.get("/x", Some(&site.mint.token(&json!({ "name": name }))));
        wrong.eq(name, answer.status, 403);
        wrong.eq((name, "challenge"), answer.challenge(), "");
        if answer.status == 403 {
            site.gateway.access_log(&answer.request_id());
        }
    }
    wrong.eq("forwarded", site.upstream.count(), 0);
    wrong.eq("harmless", site.get("/x", Some(&site.mint.token(&json!({"name": "a, \"b\" c"})))).status, 200);
    wrong.eq("number", site.get("/x", Some(&site.mint.token(&json!({"name": 7})))).status, 200);
    wrong.done();
    assert_eq!(site.upstream.requests()[0].header("X-Name"), Some("a, \"b\" c"));
}

#[test]
fn names_with_an_underscore_pass_only_where_the_route_says_so() {
    let site = Site::with(
        r#"
[[routes]]
name = "drop"
path = "/drop"
upstream = "app"
allow = [{ public = true }]
[[routes]]
name = "pass"
path = "/pass"
upstream = "app"
underscore_headers = "pass"
allow = [{ public = true }]
[routes.forward]
headers = { "X-User" = "{sub}" }
"#,
    );
    let request = |path| {
        Req::get(path)
            .header("My_Header", "1")
            .header("X_User", "root")
            .header("X_Forwarded_For", "1.1.1.1")
            .header("x_real_ip", "1.1.1.1")
            .header("X-Auth_Request-User", "root")
            .header("X_Request_Id", "1")
    };
    let mut wrong = Wrong::default();
    site.send(&request("/drop"));
    wrong.eq("dropped", site.upstream.last().all("My_Header"), [""; 0]);
    site.send(&request("/pass"));
    let seen = site.upstream.last();
    wrong.eq("passed", seen.all("My_Header"), ["1"]);
    for name in ["X_User", "X_Forwarded_For", "x_real_ip", "X-Auth_Request-User", "X_Request_Id"] {
        wrong.eq(("managed", name), seen.all(name), [""; 0]);
    }
    wrong.done();
}

#[test]
fn strip_prefix() {
    let route = |path: &str, prefix: &str| {
        format!(
            "[[routes]]\nname = \"r{}\"\npath = \"{path}\"\nupstream = \"app\"\nallow = [{{ public = true }}]\n\
             [routes.forward]\nstrip_prefix = \"{prefix}\"\n",
            path.len()
        )
    };
    let site = Site::with(&(route("/orders/**", "/orders") + &route("/a/b/{c}", "/a/b") + &route("/one", "/one")));
    let mut wrong = Wrong::default();
    for (sent, expected) in [
        ("/orders/7", "/7"),
        ("/orders/7?x=/orders", "/7?x=/orders"),
        ("/orders/orders/7", "/orders/7"),
        ("/orders/", "/"),
        ("/orders", "/"),
        ("/orders?x", "/?x"),
        ("/%6Frders/7", "/7"),
        ("/a/b/c", "/c"),
        ("/one", "/"),
    ] {
        if wrong.eq(sent, site.send(&Req::get(sent)).status, 200) {
            wrong.eq(sent, site.upstream.last().target, expected);
        }
    }
    wrong.done();
}

#[test]
fn host_authorization_and_extra_headers() {
    let others = r#"
[[routes]]
name = "upstream-host"
path = "/upstream"
upstream = "app"
allow = [{ authenticated = true }]
[routes.forward]
host = "upstream"
authorization = "pass"
[[routes]]
name = "literal"
path = "/literal"
upstream = "app"
allow = [{ authenticated = true }]
[routes.forward]
host = "legacy.internal"
authorization = { basic = { username = "gate", password = { env = "UPSTREAM_PASSWORD" } } }
remove_headers = ["X-Debug", "accept"]
response_headers = { "X-Frame-Options" = "DENY", "Server" = "tollgate" }
[[routes]]
name = "public-basic"
path = "/public"
upstream = "app"
allow = [{ public = true }]
[routes.forward]
host = "preserve"
[[routes]]
name = "public-pass"
path = "/passed"
upstream = "app"
allow = [{ public = true }]
[routes.forward]
authorization = "pass"
"#;
    let site = Site::builder().env("UPSTREAM_PASSWORD", "s3cr:et").more(others).start();
    let token = site.mint.scoped("");
    let mut wrong = Wrong::default();

    site.get("/upstream", Some(&token));
    let seen = site.upstream.last();
    wrong.eq("upstream host", seen.all("Host"), [site.upstream.address.to_string()]);
    wrong.eq("passed", seen.all("Authorization"), [format!("Bearer {token}")]);

    let request =
        Req::get("/literal").bearer(&token).header("x-debug", "1").header("Accept", "a").header("X-Kept", "1");
    let answer = site.send(&request);
    let seen = site.upstream.last();
    wrong.eq("literal host", seen.all("Host"), ["legacy.internal"]);
    wrong.eq("basic", seen.all("Authorization"), ["Basic Z2F0ZTpzM2NyOmV0"]);
    wrong.eq("removed", (seen.has("X-Debug"), seen.has("Accept"), seen.has("X-Kept")), (false, false, true));
    wrong.eq("added to the answer", answer.all("X-Frame-Options"), ["DENY"]);
    wrong.eq("replaced in the answer", answer.all("Server"), ["tollgate"]);

    site.send(&Req::get("/public").header("Authorization", "Basic YTpi"));
    let seen = site.upstream.last();
    wrong.eq("preserved host", seen.all("Host"), ["api.test"]);
    wrong.eq("stripped from public routes too", seen.all("Authorization"), [""; 0]);
    site.send(&Req::get("/passed").header("Authorization", "Basic YTpi"));
    wrong.eq("passed on a public route", site.upstream.last().all("Authorization"), ["Basic YTpi"]);
    wrong.done();
    assert!(!site.gateway.output().contains("s3cr:et"));
}

// ---- bodies ---------------------------------------------------------------------------------------------------------

#[test]
fn bodies_keep_their_framing() {
    let site = scripted(|exchange| {
        exchange.read_body()?;
        let body = exchange.request.body.clone();
        exchange.answer("200 OK", "", &body)
    });
    let mut wrong = Wrong::default();
    let mut conn = site.connect();
    let chunked = Req::post("/public/c")
        .header("Transfer-Encoding", "chunked")
        .raw_body("5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n");
    wrong.eq("chunked", conn.send(&chunked).text(), "hello world".to_owned());
    let seen = site.upstream.last();
    wrong.eq("chunked", seen.all("Transfer-Encoding"), ["chunked"]);
    wrong.eq("chunked", seen.all("Content-Length"), [""; 0]);
    wrong.eq("empty post", conn.send(&Req::post("/public/e").body("")).text(), String::new());
    wrong.eq("empty post", site.upstream.last().all("Content-Length"), ["0"]);
    conn.send(&Req::get("/public/g"));
    let seen = site.upstream.last();
    wrong.eq("get", (seen.has("Content-Length"), seen.has("Transfer-Encoding")), (false, false));
    wrong.eq("get with a body", conn.send(&Req::get("/public/g").body("abc")).text(), "abc".to_owned());
    let big: Vec<u8> = (0..2_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    wrong.ok("two megabytes", conn.send(&Req::new("PUT", "/public/b").body(&big)).body == big, "not the same");
    wrong.done();
}

#[test]
fn answers_keep_their_framing() {
    let site = Site::builder()
        .upstream(RecordingUpstream::scripted(|exchange| {
            let head = "HTTP/1.1 200 OK\r\n";
            exchange.read_body()?;
            match exchange.request.target.as_str() {
                "/public/chunked" => {
                    exchange.write(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
                    exchange.chunk(b"abc")?;
                    exchange.chunk(b"def")?;
                    exchange.write(b"0\r\n\r\n")
                }
                "/public/close" => {
                    exchange.keep_alive = false;
                    exchange.write(format!("{head}\r\nuntil the end").as_bytes())
                }
                "/public/1.0" => {
                    exchange.keep_alive = false;
                    exchange.write(b"HTTP/1.0 200 OK\r\n\r\nold")
                }
                _ => {
                    exchange.keep_alive = false;
                    exchange.write(format!("{head}Content-Length: 100\r\n\r\nshort").as_bytes())
                }
            }
        }))
        .more(OPEN)
        .start();
    let mut conn = site.connect();
    assert_eq!(conn.send(&Req::get("/public/chunked")).text(), "abcdef");
    assert_eq!(conn.send(&Req::get("/public/close")).text(), "until the end");
    assert_eq!(conn.send(&Req::get("/public/1.0")).text(), "old");
    // A body that breaks off must not look complete.
    assert!(conn.try_send(&Req::get("/public/short")).is_err());
}

#[test]
fn trailers_of_answers_pass_and_those_of_requests_do_not() {
    let site = Site::builder()
        .upstream(RecordingUpstream::raw(&["HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: \
                                            chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"]))
        .more(&forward(r#"headers = { "X-User" = "{sub}" }"#))
        .start();
    let request = Req::post("/public/x")
        .header("TE", "trailers")
        .header("Trailer", "X-User")
        .header("Transfer-Encoding", "chunked")
        .raw_body("2\r\nhi\r\n0\r\nX-User: root\r\nX-Forwarded-For: 1.1.1.1\r\nX-Other: 1\r\n\r\n");
    let answer = site.send(&request);
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    let seen = &site.upstream.wait_for(1)[0];
    assert_eq!(seen.body, b"hi");
    assert_eq!(seen.trailers, []);
}

#[test]
fn expect_100_continue_waits_for_the_upstreams_word() {
    let site = scripted(|exchange| {
        if exchange.request.target == "/public/no" {
            exchange.keep_alive = false;
            exchange.request.complete = true;
            return exchange.answer("417 Expectation Failed", "Connection: close\r\n", b"no");
        }
        exchange.answer("200 OK", "", b"got it")
    });
    let head = |path: &str, length: usize| {
        Req::post(path).header("Expect", "100-continue").header("Content-Length", &length.to_string())
    };
    let mut conn = site.connect();
    conn.write(head("/public/yes", 5).bytes());
    let interim = conn.wire.until(b"\r\n\r\n").unwrap().unwrap();
    assert!(interim.starts_with(b"HTTP/1.1 100"), "{}", interim.escape_ascii());
    conn.write("hello");
    assert_eq!(conn.read_answer().text(), "got it");
    assert_eq!(site.upstream.wait_for(1)[0].body, b"hello");

    // A refusal comes instead of the invitation, and nobody is asked for the body.
    let answer = site.send(&Req::post("/x").header("Expect", "100-continue").header("Content-Length", "5"));
    assert_eq!((answer.status, answer.interim.len()), (401, 0));
    let answer = site.send(&head("/public/no", 5));
    assert_eq!(answer.status, 417, "{answer:?}");
}

#[test]
fn bodies_stream_in_both_directions_at_once() {
    let site = scripted(|exchange| {
        exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        loop {
            let data = exchange.wire.chunk()?;
            if data.is_empty() {
                break;
            }
            exchange.chunk(&data)?;
        }
        exchange.wire.trailers()?;
        exchange.write(b"0\r\n\r\n")
    });
    let mut conn = site.connect();
    conn.write(Req::post("/public/x").header("Transfer-Encoding", "chunked").bytes());
    conn.write("5\r\nfirst\r\n");
    let answer = conn.read_head().unwrap();
    assert_eq!((answer.status, answer.header("Transfer-Encoding")), (200, Some("chunked")));
    assert_eq!(conn.wire.chunk().unwrap(), b"first");
    conn.write("6\r\nsecond\r\n");
    assert_eq!(conn.wire.chunk().unwrap(), b"second");
    conn.write("0\r\n\r\n");
    assert_eq!(conn.wire.chunk().unwrap(), b"");
}

#[test]
fn server_sent_events_come_one_by_one() {
    let gates = [Gate::default(), Gate::default()];
    let doors = gates.clone();
    let site = scripted(move |exchange| {
        exchange.read_body()?;
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        exchange.chunk(b"data: 1\n\n")?;
        for (n, gate) in doors.iter().enumerate() {
            gate.wait();
            exchange.chunk(format!("data: {}\n\n", n + 2).as_bytes())?;
        }
        exchange.write(b"0\r\n\r\n")
    });
    let mut conn = site.connect();
    conn.write(Req::get("/public/events").header("Accept", "text/event-stream").bytes());
    assert_eq!(conn.read_head().unwrap().header("Content-Type"), Some("text/event-stream"));
    // Each event is here before the next one is written.
    assert_eq!(conn.wire.chunk().unwrap(), b"data: 1\n\n");
    gates[0].open();
    assert_eq!(conn.wire.chunk().unwrap(), b"data: 2\n\n");
    gates[1].open();
    assert_eq!(conn.wire.chunk().unwrap(), b"data: 3\n\n");
    assert_eq!(conn.wire.chunk().unwrap(), b"");
}

#[test]
fn a_caller_that_leaves_ends_the_upstreams_answer() {
    static CLOSED: AtomicUsize = AtomicUsize::new(0);
    let site = scripted(|exchange| {
        exchange.read_body()?;
        exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        exchange.chunk(b"data: 1\n\n")?;
        exchange.wait_for_close()?;
        CLOSED.fetch_add(1, Ordering::SeqCst);
        exchange.request.body = b"closed".to_vec();
        exchange.keep_alive = false;
        Ok(())
    });
    let mut conn = site.connect();
    conn.write(Req::get("/public/events").bytes());
    conn.read_head().unwrap();
    conn.wire.chunk().unwrap();
    drop(conn);
    site.upstream.wait_until(|requests| requests.iter().any(|request| request.body == b"closed"));
    assert_eq!(CLOSED.load(Ordering::SeqCst), 1);
}

// ---- upgrades -------------------------------------------------------------------------------------------------------

pub(crate) fn upgrade(path: &str) -> Req {
    Req::get(path)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Version", "13")
}

pub(crate) fn echo_server() -> RecordingUpstream {
    RecordingUpstream::scripted(|exchange| {
        if exchange.request.target.contains("refused") {
            return exchange.answer("403 Forbidden", "", b"not here");
        }
        if !exchange.request.has("Upgrade") {
            return exchange.answer("200 OK", "", b"ok");
        }
        let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        let head =
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{accept}\r\n");
        exchange.write(head.as_bytes())?;
        exchange.keep_alive = false;
        while let Some(line) = exchange.wire.until(b"\n")? {
            exchange.write(&line)?;
            if line == b"bye\n" {
                break;
            }
        }
        Ok(())
    })
}

#[test]
fn websockets_are_tunnelled_after_the_upstreams_101() {
    let site = Site::builder().upstream(echo_server()).more(&forward(r#"headers = { "X-User" = "{sub}" }"#)).start();
    let mut conn = site.connect();
    let answer = conn.send(&upgrade("/chat").bearer(&site.mint.scoped("")).header("X-User", "root"));
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("Upgrade"), Some("websocket"));
    assert_eq!(answer.header("Sec-WebSocket-Accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert!(answer.header("Connection").unwrap().eq_ignore_ascii_case("upgrade"));
    let seen = site.upstream.last();
    assert_eq!(seen.all("X-User"), ["alice"]);
    assert_eq!(seen.header("Upgrade"), Some("websocket"));
    for line in ["one\n", "two\r\n\r\nGET / HTTP/1.1\n", "\0\u{1}\n"] {
        conn.write(line);
        assert_eq!(conn.wire.exact(line.len()).unwrap(), line.as_bytes());
    }
    let long = vec![b'x'; 300_000];
    conn.write(&long).write("\n");
    assert!(conn.wire.exact(long.len() + 1).unwrap().starts_with(&long));
    conn.write("bye\n");
    assert_eq!(conn.wire.rest().unwrap(), b"bye\n");
}

#[test]
fn a_tunnel_needs_the_token_and_the_upstreams_consent() {
    let site = Site::builder().upstream(echo_server()).more(OPEN).start();
    let answer = site.send(&upgrade("/chat"));
    assert_eq!(answer.status, 401);
    assert_eq!(site.upstream.count(), 0);

    // What is sent after a refused upgrade is an ordinary request, and judged as one.
    let mut conn = site.connect();
    let answer = conn.send(&upgrade("/public/refused"));
    assert_eq!((answer.status, answer.text().as_str()), (403, "not here"));
    if let Ok(answer) = conn.try_send(&Req::get("/secret")) {
        assert_eq!(answer.status, 401);
    }
    assert!(site.upstream.requests().iter().all(|request| !request.target.contains("secret")));

    // h2c is never forwarded.
    let request = Req::get("/public/x")
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQAAP__");
    let answer = site.send(&request);
    assert_eq!(answer.status, 200);
    let seen = site.upstream.last();
    assert_eq!((seen.has("Upgrade"), seen.has("HTTP2-Settings")), (false, false));
}

#[test]
fn bytes_sent_early_do_not_overtake_the_upgrade() {
    let site = Site::builder().upstream(echo_server()).more(OPEN).start();
    let mut conn = site.connect();
    let smuggled = Req::get("/secret").bytes();
    let bytes = [upgrade("/public/refused").bytes(), smuggled].concat();
    conn.write(&bytes);
    assert_eq!(conn.read_answer().status, 403);
    if let Ok(answer) = conn.read(false) {
        assert_eq!(answer.status, 401);
    }
    assert!(site.upstream.requests().iter().all(|request| request.target != "/secret"));
}

// ---- upstreams that fail --------------------------------------------------------------------------------------------

/// An address that is taken, and where nothing listens for as long as this lives.
struct Nowhere(socket2::Socket);

impl Nowhere {
    fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        Self(socket)
    }

    fn address(&self) -> std::net::SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }
}

#[test]
fn an_upstream_that_is_down_is_502_and_one_that_is_slow_504() {
    let nowhere = Nowhere::new();
    let slow = RecordingUpstream::scripted(|exchange| {
        exchange.read_body()?;
        exchange.wait_for_close()?;
        exchange.keep_alive = false;
        Ok(())
    });
    let site = Site::builder()
        .more(&format!("[upstreams.down]\nservers = [\"http://{}\"]\nconnect_timeout = \"1s\"", nowhere.address()))
        .more(&format!("[upstreams.slow]\nservers = [\"{}\"]\nresponse_timeout = \"300ms\"", slow.url()))
        .more(&format!("[upstreams.slow2]\nservers = [\"{}\"]", slow.url()))
        .more(
            r#"
[[routes]]
name = "down"
path = "/down"
upstream = "down"
allow = [{ public = true }]
[[routes]]
name = "slow"
path = "/slow"
upstream = "slow"
allow = [{ public = true }]
[[routes]]
name = "route"
path = "/route"
upstream = "slow2"
timeout = "300ms"
allow = [{ public = true }]
"#,
        )
        .start();
    let mut wrong = Wrong::default();
    for (path, status) in [("/down", 502), ("/slow", 504), ("/route", 504)] {
        for method in ["GET", "POST"] {
            let started = Instant::now();
            let answer = site.send(&Req::new(method, path).body(""));
            wrong.eq((method, path), answer.status, status);
            wrong.ok((method, path), started.elapsed() < Duration::from_secs(5), started.elapsed());
            wrong.eq((method, path), answer.json()["request_id"].as_str(), Some(answer.request_id().as_str()));
            wrong.ok((method, path), !answer.text().contains("127.0.0.1"), answer.text());
            site.gateway.access_log(&answer.request_id());
        }
    }
    wrong.done();
    // Requests that may have had an effect are not repeated.
    assert_eq!(slow.requests().iter().filter(|request| request.method == "POST").count(), 2);
}

#[test]
fn answers_that_are_none_are_502() {
    let answers = [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "garbage\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ];
    let mut wrong = Wrong::default();
    for text in answers {
        let site = scripted(move |exchange| {
            exchange.read_body()?;
            exchange.keep_alive = false;
            exchange.write(text.as_bytes())
        });
        let answer = site.send(&Req::post("/public/x").body("a"));
        wrong.eq(text, answer.status, 502);
    }
    wrong.done();
}

#[test]
fn a_long_answer_head_is_502_and_does_not_fill_the_memory() {
    let site = scripted(|exchange| {
        exchange.read_body()?;
        exchange.keep_alive = false;
        exchange.write(b"HTTP/1.1 200 OK\r\n")?;
        let line = format!("X-A: {}\r\n", "a".repeat(1000));
        for _ in 0..20_000 {
            exchange.write(line.as_bytes())?;
        }
        exchange.write(b"\r\n")
    });
    assert_eq!(site.send(&Req::get("/public/x")).status, 502);
}

#[test]
fn upstream_connections_are_kept_and_reused() {
    let site = Site::builder().server("").more(OPEN).start();
    // One connection of the caller stays on one worker, and so do its upstream connections.
    let mut conn = site.connect();
    for n in 0..20 {
        assert_eq!(conn.send(&Req::get(&format!("/public/{n}"))).status, 200);
    }
    assert_eq!(site.upstream.connections(), 1);
    for _ in 0..20 {
        site.send(&Req::get("/public/x"));
    }
    assert!(site.upstream.connections() <= 3, "{} connections", site.upstream.connections());
}

#[test]
fn an_answer_that_closes_is_obeyed() {
    let site = scripted(|exchange| {
        exchange.answer("200 OK", "Connection: close\r\n", b"ok")?;
        exchange.wait_for_close()?;
        exchange.keep_alive = false;
        Ok(())
    });
    let mut conn = site.connect();
    for _ in 0..3 {
        let answer = conn.send(&Req::get("/public/x"));
        assert_eq!(
            (answer.status, answer.all("Connection").len()),
            (200, 0),
            "the upstream's wish is not the caller's"
        );
    }
    assert_eq!(site.upstream.connections(), 3);
}

#[test]
fn a_stale_connection_is_replaced_without_the_caller_noticing() {
    // Every connection serves one request, says nothing of closing, and is gone.
    let site = scripted(|exchange| {
        exchange.keep_alive = false;
        exchange.answer("200 OK", "", b"ok")
    });
    let mut conn = site.connect();
    for n in 0..10 {
        assert_eq!(conn.send(&Req::get(&format!("/public/{n}"))).status, 200, "request {n}");
    }
    for n in 0..10 {
        // A body that was not read yet can still be sent again.
        let answer = conn.send(&Req::post(&format!("/public/{n}")).body("abc"));
        assert!(matches!(answer.status, 200 | 502), "request {n}: {}", answer.status);
    }
    let seen = site.upstream.requests();
    assert_eq!(seen.iter().filter(|request| request.method == "GET").count(), 10);
}

#[test]
fn a_request_that_reached_the_upstream_is_not_sent_twice() {
    let site = scripted(|exchange| {
        exchange.read_body()?;
        exchange.keep_alive = false;
        Ok(())
    });
    assert_eq!(site.send(&Req::post("/public/x").body("pay")).status, 502);
    assert_eq!(site.upstream.count(), 1);
    assert_eq!(site.send(&Req::get("/public/x")).status, 502);
    let gets = site.upstream.requests().iter().filter(|request| request.method == "GET").count();
    assert!((1..=2).contains(&gets), "one retry at most: {gets}");
}

#[test]
fn several_servers_are_used_and_a_dead_one_is_passed_over() {
    let (a, b) = (RecordingUpstream::start(), RecordingUpstream::start());
    let servers = format!("servers = [\"{}\", \"{}\"]", a.url(), b.url());
    let site = Site::builder().upstream_lines(&servers).more(OPEN).start();
    for _ in 0..20 {
        assert_eq!(site.send(&Req::get("/public/x")).status, 200);
    }
    assert!(a.count() >= 5 && b.count() >= 5, "{} and {}", a.count(), b.count());

    let nowhere = Nowhere::new();
    let servers = format!("servers = [\"http://{}\", \"{}\"]", nowhere.address(), b.url());
    let site = Site::builder().upstream_lines(&servers).more(OPEN).start();
    for _ in 0..10 {
        assert_eq!(site.send(&Req::post("/public/x").body("a")).status, 200);
    }
}

#[test]
fn upstreams_over_tls_are_verified() {
    let authority = Authority::new();
    let config = authority.server(&authority.identity(&["orders.internal"]), &["http/1.1"], true);
    let secure = RecordingUpstream::over(
        move |socket| tls::accept(&config, socket),
        |exchange| exchange.answer("200 OK", "", b"secret"),
    );
    let client = authority.identity(&["tollgate"]);
    let tls_lines = |name: &str, more: &str| {
        format!(
            "[upstreams.{name}]\nservers = [\"https://{}\"]\nretries = 0\n[upstreams.{name}.tls]\n{more}\n\
             [[routes]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"{name}\"\nallow = [{{ public = true }}]\n",
            secure.address
        )
    };
    let ours = "ca = \"ca.crt\"\nserver_name = \"orders.internal\"";
    let with_client = format!("{ours}\nclient = {{ cert = \"client.crt\", key = \"client.key\" }}");
    let site = Site::builder()
        .file("ca.crt", authority.pem())
        .file("other.crt", Authority::new().pem())
        .file("client.crt", &client.cert)
        .file("client.key", &client.key)
        .more(&tls_lines("good", &with_client))
        .more(&tls_lines("no-client", ours))
        .more(&tls_lines("no-ca", "server_name = \"orders.internal\""))
        .more(&tls_lines("other-ca", &with_client.replace("ca.crt", "other.crt")))
        .more(&tls_lines("other-name", &with_client.replace("orders.internal", "else.internal")))
        .start();
    let mut wrong = Wrong::default();
    for (name, status) in [("good", 200), ("no-client", 502), ("no-ca", 502), ("other-ca", 502), ("other-name", 502)] {
        wrong.eq(name, site.send(&Req::get(&format!("/{name}"))).status, status);
    }
    wrong.eq("requests that got through", secure.count(), 1);
    wrong.done();
}

#[test]
fn a_caller_in_http_1_0_is_served() {
    let site = scripted(|exchange| {
        exchange.read_body()?;
        exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    });
    let mut conn = site.connect();
    conn.write("GET /public/x HTTP/1.0\r\nHost: api.test\r\n\r\n");
    let answer = conn.read_answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(answer.all("Transfer-Encoding"), [""; 0], "HTTP/1.0 knows no chunks");
    assert!(conn.wire.ends());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let site = scripted(|exchange| {
        let target = exchange.request.target.clone();
        exchange.answer("200 OK", "", target.as_bytes())
    });
    let mut conn = site.connect();
    let requests: Vec<u8> = (0..5).flat_map(|n| Req::get(&format!("/public/{n}")).bytes()).collect();
    conn.write(&requests);
    for n in 0..5 {
        assert_eq!(conn.read_answer().text(), format!("/public/{n}"));
    }
}

#[test]
fn an_early_answer_of_the_upstream_reaches_a_caller_that_still_sends() {
    let site = scripted(|exchange| {
        exchange.keep_alive = false;
        exchange.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")?;
        exchange.wait_for_close()
    });
    let mut conn = site.connect();
    conn.write(Req::post("/public/x").header("Content-Length", "1000000").raw_body([b'x'; 1000]).bytes());
    let answer = conn.read_answer();
    assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
}

#[test]
fn every_request_has_an_id_of_its_own() {
    let site = Site::open();
    let mut conn = site.connect();
    let mut ids: Vec<_> = (0..20).map(|_| conn.send(&Req::get("/public/x")).request_id()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    let refused = send(site.gateway.address("main"), &Req::get("/x"));
    assert!(!ids.contains(&refused.request_id()));
    site.gateway.access_log(&refused.request_id());
}

#[test]
fn what_comes_again_on_a_connection_is_sent_as_on_a_new_one() {
    let route = |name: &str, more: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\npath = \"/{name}/**\"\nupstream = \"app\"\n\
             allow = [{{ authenticated = true }}]\n[routes.forward]\n{more}\n"
        )
    };
    let tables = [
        route("a", "headers = { X-Route = \"first\", X-User = \"{sub}\" }\nhost = \"preserve\""),
        route("b", "authorization = { basic = { username = \"b\", password = { env = \"PASSWORD\" } } }"),
        route("c", "authorization = \"pass\"\nremove_headers = [\"X-Own\"]"),
        route("id", "headers = { X-Id = \"{request_id}\" }"),
    ];
    let site = Site::builder().env("PASSWORD", "s3cret").more(&tables.concat()).start();
    let (alice, bob) = (site.mint.token(&json!({ "sub": "alice" })), site.mint.token(&json!({ "sub": "bob" })));
    let request = |route: &str, place: usize, token: &str| {
        Req::post(&format!("/{route}/{place}"))
            .header("X-Own", "1")
            .header("TE", "trailers")
            .header("Cookie", "a=b")
            .header("Connection", "X-Hop")
            .header("X-Hop", "1")
            .bearer(token)
            .body("body")
    };
    // What was sent to the upstream, but for the id, which is that of the answer.
    let sent = |conn: &mut Conn, route: &str, place: usize, token: &str| {
        let answer = conn.send(&request(route, place, token));
        assert_eq!(answer.status, 200, "{route}");
        let mut seen = site.upstream.last();
        assert_eq!(seen.header("X-Request-Id"), Some(&*answer.request_id()));
        assert_eq!(seen.header("X-Id"), (route == "id").then_some(&*answer.request_id()));
        seen.headers.retain(|(name, _)| !["x-request-id", "x-id"].contains(&&*name.to_ascii_lowercase()));
        (seen.target, seen.headers, seen.body)
    };
    let mut wrong = Wrong::default();
    let mut conn = site.connect();
    let compare = |wrong: &mut Wrong, conn: &mut Conn, case: &str, route: &str, token: &str| {
        for place in 0..4 {
            let new = sent(&mut site.connect(), route, place, token);
            wrong.eq((case, route, place), sent(conn, route, place, token), new);
        }
    };
    for route in ["a", "b", "c", "id", "a", "b"] {
        compare(&mut wrong, &mut conn, "one token", route, &alice);
    }
    // With the very lines of a request that went elsewhere.
    for route in ["a", "b", "a", "c", "id", "b"] {
        let again = sent(&mut conn, route, 9, &alice);
        wrong.eq(("in turns", route), again, sent(&mut site.connect(), route, 9, &alice));
    }
    let mut other = |own: &str| {
        let answer = conn.send(&request("a", 1, &alice).header("X-Other", own));
        wrong.eq(("another field", own), answer.status, 200);
        wrong.eq("another field", site.upstream.last().header("X-Other"), Some(own));
    };
    ["1", "1", "1", "2", "1"].into_iter().for_each(&mut other);
    for token in [&bob, &alice] {
        compare(&mut wrong, &mut conn, "another token", "a", token);
    }
    let before = sent(&mut conn, "a", 1, &alice);
    site.gateway.write("tollgate.toml", site.gateway.read("tollgate.toml").replace("\"first\"", "\"second\""));
    assert_eq!(send(site.gateway.admin(), &Req::post("/reload").host("localhost")).status, 200);
    let after = sent(&mut conn, "a", 1, &alice);
    wrong.eq("after a reload", &after, &sent(&mut site.connect(), "a", 1, &alice));
    wrong.ok("a reload changes what is sent", before != after, &after);
    wrong.done();
}
