//! Corners of the way of a request where two readers could come to differ.

use serde_json::json;

use crate::support::h2::H2Client;
use crate::support::site::OPEN;
use crate::support::{RecordingUpstream, Req, Site, Wrong, until};

const IDENTITY: &str = r#"
[[routes]]
name = "all"
path = "/**"
upstream = "app"
allow = [{ authenticated = true }]
[routes.forward]
headers = { "X-User" = "{sub}", "X-Roles" = "{roles}", "X-Groups" = "{claims.groups}" }

[[routes]]
name = "public"
path = "/public/**"
upstream = "app"
allow = [{ public = true }]
"#;

/// Switches protocols for whoever asks and sends lines back.
fn switching() -> RecordingUpstream {
    RecordingUpstream::scripted(|exchange| {
        if !exchange.request.has("Upgrade") || exchange.request.target.contains("plain") {
            return exchange.answer("200 OK", "", b"");
        }
        exchange.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")?;
        exchange.keep_alive = false;
        while let Some(line) = exchange.wire.until(b"\n")? {
            exchange.write(&line)?;
        }
        Ok(())
    })
}

#[test]
fn class_32_no_protocol_that_carries_requests_is_switched_to() {
    let site = Site::builder().upstream(switching()).more(OPEN).start();
    let mut wrong = Wrong::default();
    for protocol in ["h2c", "H2C", "h2", "HTTP/2.0", "http/1.1", "TLS/1.0", "websocket, h2c", "a b"] {
        let request = Req::get("/public/x").header("Connection", "upgrade, http2-settings").header("Upgrade", protocol);
        let answer = site.send(&request.header("HTTP2-Settings", "AAMA"));
        wrong.eq((protocol, "status"), answer.status, 200);
        let seen = site.upstream.last();
        wrong.ok((protocol, "upgrade"), !seen.has("Upgrade") && !seen.has("HTTP2-Settings"), &seen.headers);
    }
    for protocol in ["h2c", "http", "tcp"] {
        let before = site.upstream.count();
        let mut client = H2Client::plain(site.gateway.address("main"));
        let (status, _) = client.connect("http://api.test/public/x", protocol, b"GET /admin HTTP/1.1\n");
        wrong.eq((protocol, "by CONNECT"), status, 405);
        wrong.eq((protocol, "forwarded"), site.upstream.count(), before);
    }
    wrong.done();
}

#[test]
fn websockets_over_http2_are_tunnelled_and_an_answer_that_is_no_switch_is_not_success() {
    let site = Site::builder().upstream(switching()).more(OPEN).start();
    let open = |target: &str| {
        H2Client::plain(site.gateway.address("main")).connect(
            &format!("http://api.test{target}"),
            "websocket",
            b"hello\n",
        )
    };
    let mut wrong = Wrong::default();
    wrong.eq("echo", open("/public/x"), (200, b"hello\n".to_vec()));
    let seen = site.upstream.last();
    wrong.eq("as GET", seen.method.as_str(), "GET");
    wrong.ok("with a key", seen.has("Sec-WebSocket-Key"), &seen.headers);
    wrong.eq("no switch", open("/public/plain").0, 502);
    wrong.eq("without a token", open("/x").0, 401);
    wrong.done();
}

#[test]
fn class_25_identity_is_not_made_by_spaces() {
    let site = Site::with(IDENTITY);
    let mut wrong = Wrong::default();
    for (claims, status) in [
        (json!({"sub": "alice", "roles": ["a", "b"], "groups": ["x", "y"]}), 200),
        (json!({"sub": " admin"}), 403),
        (json!({"sub": "admin "}), 403),
        (json!({"roles": ["x admin", "y"]}), 403),
        (json!({"groups": ["x admin", "y"]}), 403),
        (json!({"groups": [["x"]]}), 403),
        (json!({"sub": "a\r\nX-Roles: admin"}), 403),
        (json!({"sub": "J\u{f6}rg"}), 403),
    ] {
        wrong.eq(&claims, site.get("/x", Some(&site.mint.token(&claims))).status, status);
    }
    wrong.done();
}

#[test]
fn class_20_twins_of_managed_names_in_any_punctuation() {
    let site = Site::with(IDENTITY);
    let twins = ["X.User", "X~User", "X!User", "X.Forwarded.For", "X!Forwarded!User", "Remote.User"];
    let request = twins.iter().fold(Req::get("/public/x"), |request, name| request.header(name, "root"));
    assert_eq!(site.send(&request.header("X.Other", "fine")).status, 200);
    let seen = site.upstream.last();
    assert!(!seen.headers.iter().any(|(_, value)| value == "root"), "{:?}", seen.headers);
    assert_eq!(seen.header("X.Other"), Some("fine"));
}

#[test]
fn class_21_what_a_proxy_passes_on_unreadable_is_not_replaced_by_another_field() {
    let site = Site::builder().more(OPEN).server("trusted_proxies = [\"127.0.0.1/32\"]").start();
    let mut wrong = Wrong::default();
    for (lines, client, proto) in [
        (&[&b"X-Forwarded-For: \xff, 203.0.113.9"[..], b"Forwarded: for=9.9.9.9;proto=https"], "203.0.113.9", "https"),
        (&[b"X-Forwarded-For: \xff", b"X-Real-IP: 9.9.9.9"], "127.0.0.1", "http"),
        (&[b"X-Forwarded-Proto: \xff", b"Forwarded: for=203.0.113.9;proto=https"], "203.0.113.9", "http"),
    ] {
        let request = lines.iter().fold(Req::get("/public/x"), |request, line| request.line(line));
        site.send(&request);
        let seen = site.upstream.last();
        wrong.eq(lines, (seen.header("X-Real-IP"), seen.header("X-Forwarded-Proto")), (Some(client), Some(proto)));
    }
    let told = Req::get("/public/x").header("X-Forwarded-Host", "a;for=1.2.3.4;proto=https");
    site.send(&told);
    let seen = site.upstream.last();
    wrong.ok("a host that is none", !seen.header("Forwarded").unwrap().contains("1.2.3.4"), &seen.headers);
    wrong.done();
}

#[test]
fn class_30_our_cookies_stay_ours_in_any_bytes() {
    let upstream = RecordingUpstream::scripted(|exchange| {
        let cookies = "Set-Cookie: __Host-tollgate-session=evil; x=\u{e9}\r\nSet-Cookie: theirs=1\r\n\
                       Set-Cookie: =tollgate-session=evil\r\nSet-Cookie:  = tollgate-browser=evil; Path=/\r\n";
        exchange.answer("200 OK", cookies, b"ok")
    });
    let site = Site::builder().upstream(upstream).more(OPEN).start();
    let cookies = b"Cookie: lang=\xe9; __Host-tollgate-session=SECRET; tollgate-browser=SECRET; b=2";
    let answer = site.send(&Req::get("/public/x").line(cookies).line(b"Cookie: c=3"));
    let mut wrong = Wrong::default();
    wrong.eq("set by the upstream", answer.all("Set-Cookie"), vec!["theirs=1"]);
    let seen = site.upstream.last();
    let sent = seen.all("Cookie").join("|");
    wrong.ok(
        "sent to the upstream",
        !sent.contains("SECRET") && sent.ends_with("b=2; c=3") && !sent.contains('|'),
        &sent,
    );
    wrong.done();
}

#[test]
fn class_31_one_transfer_coding() {
    let site = Site::with(OPEN);
    let mut wrong = Wrong::default();
    for (lines, status) in [
        (&["chunked"][..], 200),
        (&["Chunked"], 200),
        (&["gzip, chunked"], 400),
        (&["chunked, chunked"], 400),
        (&["chunked", "chunked"], 400),
        (&["identity", "chunked"], 400),
    ] {
        let mut request = Req::post("/public/x");
        for line in lines {
            request = request.header("Transfer-Encoding", line);
        }
        let before = site.upstream.count();
        let answer = site.send(&request.raw_body("0\r\n\r\n"));
        wrong.eq((lines, "status"), answer.status, status);
        wrong.eq((lines, "forwarded"), site.upstream.count() - before, usize::from(status == 200));
    }
    wrong.done();
}

#[test]
fn class_27_http11_names_its_host_in_the_field() {
    let site = Site::with(OPEN);
    let mut wrong = Wrong::default();
    for (request, status) in [
        (Req::get("http://api.test/public/x").host("api.test"), 200),
        (Req::get("http://api.test/public/x").without_host(), 400),
        (Req::get("http://api.test/public/x").host("other.test"), 400),
    ] {
        wrong.eq(String::from_utf8_lossy(&request.bytes()), site.send(&request).status, status);
    }
    let none = |method: &str| site.send(&Req::new(method, "/public/x")).status;
    for method in ["TRACE", "trace", "Connect"] {
        wrong.eq(method, none(method), 405);
    }
    wrong.done();
}

#[test]
fn class_33_a_stream_whose_window_stays_shut_is_ended_and_gives_its_connection_back() {
    let upstream = RecordingUpstream::scripted(|exchange| exchange.answer("200 OK", "", &vec![b'x'; 4 << 20]));
    let site = Site::builder()
        .upstream(upstream)
        .upstream_lines("connections = 3")
        .limits("stream_idle = \"1s\"")
        .more(OPEN)
        .start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let resets = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(site.gateway.address("main")).await.unwrap();
        let (mut sender, connection) =
            h2::client::Builder::new().initial_window_size(0).handshake::<_, bytes::Bytes>(stream).await.unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..3 {
            let request = http::Request::get("http://api.test/public/x").body(()).unwrap();
            sender = sender.ready().await.unwrap();
            answers.push(sender.send_request(request, true).unwrap().0);
        }
        let mut resets = 0;
        for answer in answers {
            let mut body = answer.await.unwrap().into_body();
            let end = tokio::time::timeout(std::time::Duration::from_secs(15), body.data()).await;
            resets += usize::from(matches!(end, Ok(Some(Err(_)))));
        }
        resets
    });
    assert_eq!(resets, 3, "streams that were ended");
    // The caller sees the reset a moment before the connection has let go of its place.
    until("a place for another caller", || site.send(&Req::get("/public/x")).status == 200);
    site.gateway.wait_metrics("the limit is counted", |metrics| {
        metrics.sum("tollgate_limits_reached_total", &[("limit", "stream_idle")]) >= 3.0
    });
}

#[test]
fn class_33_an_idle_http2_peer_that_answers_nothing_is_closed() {
    let site = Site::builder().limits("idle_timeout = \"500ms\"\nheader_timeout = \"500ms\"").more(OPEN).start();
    let mut conn = site.connect();
    conn.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    conn.wire.patience(std::time::Duration::from_secs(10));
    // Settings, GOAWAY and PING come, and then the end.
    conn.wire.rest().expect("closed in time");
}

#[test]
fn an_answer_that_ends_with_trailers_is_whole_and_its_connection_is_used_again() {
    let upstream = RecordingUpstream::scripted(|exchange| {
        exchange.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
        )
    });
    let site = Site::builder().upstream(upstream).server("workers = 1").more(OPEN).start_with(|config| {
        // The scene's own number of workers would stand twice.
        config.replacen("workers = 2\n", "", 1)
    });
    let mut client = H2Client::plain(site.gateway.address("main"));
    for _ in 0..3 {
        let request = http::Request::get("http://api.test/public/x").body(crate::support::h2::empty()).unwrap();
        let answer = client.send(request);
        assert_eq!(answer.trailers.get("x-sum").unwrap(), "7");
        let id = answer.headers["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(site.gateway.access_log(&id).get("aborted"), None);
    }
    assert_eq!(site.upstream.connections(), 1);
}
