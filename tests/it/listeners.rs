//! TLS, HTTP/2 and the listener that only redirects.

use http::{HeaderMap, HeaderValue, Method, Request};

use crate::support::h2::{Body, H2Client, H2Response, H2Upstream, empty, full, with_trailers};
use crate::support::site::OPEN;
use crate::support::tls::{Authority, Identity};
use crate::support::{RecordingUpstream, Req, Site, Wrong, send};

/// A site whose main listener speaks TLS for `api.test` first and `other.test` second.
struct Secure {
    authority: Authority,
    api: Identity,
    other: Identity,
    site: Site,
}

fn secure(tls: &str, more: &str) -> Secure {
    let authority = Authority::new();
    let (api, other) = (authority.identity(&["api.test", "127.0.0.1"]), authority.identity(&["other.test"]));
    let site = Site::builder()
        .file("tls/api.crt", &api.cert)
        .file("tls/api.key", &api.key)
        .file("tls/other.crt", &other.cert)
        .file("tls/other.key", &other.key)
        .file("tls/ca.crt", authority.pem())
        .listener(&format!(
            "[listeners.main.tls]\ncertificates = [{{ cert = \"tls/api.crt\", key = \"tls/api.key\" }}, \
             {{ cert = \"tls/other.crt\", key = \"tls/other.key\" }}]\n{tls}"
        ))
        .more(OPEN)
        .more(more)
        .start();
    Secure { authority, api, other, site }
}

fn request(method: Method, uri: &str) -> http::request::Builder {
    Request::builder().method(method).uri(uri)
}

fn get(uri: &str) -> Request<Body> {
    request(Method::GET, uri).body(empty()).unwrap()
}

#[test]
fn alpn_chooses_the_protocol() {
    let scene = secure("", "");
    let address = scene.site.gateway.address("main");
    let client = scene.authority.client();
    let mut wrong = Wrong::default();
    for (offered, agreed) in
        [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&["h2"], Some("h2")), (&[], None)]
    {
        let got = client.clone().alpn(offered).connect(address, "api.test").unwrap();
        wrong.eq(offered, got.alpn.as_deref(), agreed);
    }
    wrong.ok("nothing in common", client.clone().alpn(&["spdy/3"]).connect(address, "api.test").is_err(), "accepted");
    wrong.done();

    let mut agreed = client.clone().alpn(&["http/1.1"]).connect(address, "api.test").unwrap();
    assert_eq!(agreed.conn.send(&Req::get("/public/1")).status, 200);
    assert_eq!(agreed.conn.send(&Req::get("/x")).status, 401);
    let seen = scene.site.upstream.last();
    assert_eq!(seen.header("X-Forwarded-Proto"), Some("https"));
    assert!(seen.all("Forwarded").join(";").contains("proto=https"));
    let mut silent = client.connect(address, "api.test").unwrap();
    assert_eq!(silent.conn.send(&Req::get("/public/2")).status, 200);
    let metrics = scene.site.gateway.metrics();
    assert!(metrics.types.keys().any(|name| name.contains("handshake")), "{}", metrics.text);
}

#[test]
fn versions_of_tls() {
    use rustls::ProtocolVersion::{TLSv1_2, TLSv1_3};
    use rustls::version::{TLS12, TLS13};
    let both = secure("", "");
    let new = secure("min_version = \"1.3\"", "");
    let connect = |scene: &Secure, version| {
        let client = scene.authority.client().versions(&[version]);
        client.connect(scene.site.gateway.address("main"), "api.test").map(|agreed| agreed.version).ok()
    };
    let mut wrong = Wrong::default();
    wrong.eq("1.2", connect(&both, &TLS12), Some(TLSv1_2));
    wrong.eq("1.3", connect(&both, &TLS13), Some(TLSv1_3));
    wrong.eq("1.2 where 1.3 is the least", connect(&new, &TLS12), None);
    wrong.eq("1.3 where 1.3 is the least", connect(&new, &TLS13), Some(TLSv1_3));
    wrong.done();
}

#[test]
fn aes_128_is_preferred_and_what_a_caller_insists_on_is_had() {
    use rustls::CipherSuite as Suite;
    let scene = secure("", "");
    let mut wrong = Wrong::default();
    for (case, offers, new, old) in [
        (
            "all",
            (|_| true) as fn(Suite) -> bool,
            Suite::TLS13_AES_128_GCM_SHA256,
            Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ),
        (
            "AES-256",
            |suite| suite.as_str().is_some_and(|name| name.contains("AES_256")),
            Suite::TLS13_AES_256_GCM_SHA384,
            Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        ),
        (
            "ChaCha20",
            |suite| suite.as_str().is_some_and(|name| name.contains("CHACHA20")),
            Suite::TLS13_CHACHA20_POLY1305_SHA256,
            Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
    ] {
        for (version, suite) in [(&rustls::version::TLS13, new), (&rustls::version::TLS12, old)] {
            let client = scene.authority.client().versions(&[version]).offers(offers);
            let agreed = client.connect(scene.site.gateway.address("main"), "api.test").map(|agreed| agreed.suite);
            wrong.eq(case, agreed.ok(), Some(suite));
        }
    }
    wrong.done();
}

#[test]
fn sni_chooses_the_certificate() {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let scene = secure("", "");
    let address = scene.site.gateway.address("main");
    let der = |identity: &Identity| CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap();
    let served = |name: &str| scene.authority.client().connect(address, name).map(|agreed| agreed.certificate);
    assert_eq!(served("api.test").unwrap(), der(&scene.api));
    assert_eq!(served("other.test").unwrap(), der(&scene.other));
    assert_eq!(served("OTHER.test").unwrap(), der(&scene.other));
    assert_eq!(served("127.0.0.1").unwrap(), der(&scene.api), "without SNI the first one");
    assert!(served("unknown.test").is_err());
}

#[test]
fn http2_over_tls_and_in_the_clear() {
    let scene = secure("", "[listeners.clear]\naddress = \"127.0.0.1:0\"\n");
    let token = scene.site.mint.scoped("");
    let clients = [
        ("tls", H2Client::tls(scene.site.gateway.address("main"), &scene.authority.client(), "api.test"), "https"),
        ("clear", H2Client::plain(scene.site.gateway.address("clear")), "http"),
    ];
    let mut wrong = Wrong::default();
    for (name, mut client, scheme) in clients {
        let uri = |path: &str| format!("{scheme}://api.test{path}");
        let answer = client.send(get(&uri("/x")));
        wrong.eq((name, "no token"), answer.status, 401);
        wrong.ok(
            (name, "challenge"),
            answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer "),
            &answer,
        );
        let bearer = format!("Bearer {token}");
        let good = request(Method::POST, &uri("/x?y=z")).header("authorization", &bearer).header("X-Own", "1");
        let answer = client.send(good.body(full("body")).unwrap());
        wrong.eq((name, "good"), (answer.status, &answer.body[..]), (200, &b"ok"[..]));
        let seen = scene.site.upstream.wait_for(1).pop().unwrap();
        wrong.eq((name, "target"), seen.target.as_str(), "/x?y=z");
        wrong.eq((name, "host"), seen.all("Host"), ["api.test"]);
        wrong.eq((name, "body"), seen.body.clone(), b"body");
        wrong.eq((name, "own"), seen.header("X-Own"), Some("1"));
        wrong.eq((name, "proto"), seen.header("X-Forwarded-Proto"), Some(scheme));
        wrong.ok(
            (name, "no pseudo headers"),
            !seen.head.windows(2).any(|two| two == b"\n:"),
            seen.head.escape_ascii().to_string(),
        );

        let twice =
            request(Method::GET, &uri("/public/x")).header("authorization", "Basic a").header("authorization", &bearer);
        wrong.eq((name, "B6 repeated"), client.send(twice.body(empty()).unwrap()).status, 400);
        let other_host = request(Method::GET, &uri("/public/x")).header("host", "evil.test");
        let answer = client.try_send(other_host.body(empty()).unwrap());
        wrong.ok(
            (name, "host differs from authority"),
            answer.as_ref().is_ok_and(|a| a.status == 400) || answer.is_err(),
            &answer,
        );
        let spoofed = request(Method::GET, &uri("/public/x"))
            .header("x-forwarded-user", "root")
            .header("x_forwarded_user", "root");
        wrong.eq((name, "spoofed"), client.send(spoofed.body(empty()).unwrap()).status, 200);
        let seen = scene.site.upstream.last();
        wrong.eq((name, "spoofed"), (seen.has("x-forwarded-user"), seen.has("x_forwarded_user")), (false, false));
        for path in ["/public/../x", "/public/%2e%2e/x", "//x", "/public;/x"] {
            wrong.eq((name, path), client.send(get(&uri(path))).status, 400);
        }
        for method in [Method::TRACE, Method::CONNECT] {
            let uri = if method == Method::CONNECT { "api.test:443".to_owned() } else { uri("/x") };
            let got =
                client.try_send(request(method.clone(), &uri).header("authorization", &bearer).body(empty()).unwrap());
            wrong.ok((name, &method), got.as_ref().map_or(true, |a| matches!(a.status, 400 | 405 | 501)), &got);
        }
    }
    wrong.done();
}

#[test]
fn http2_answers_are_those_of_http1() {
    let site = Site::open();
    let poor = Site::with(
        "[[routes]]\nname = \"r\"\npath = \"/r\"\nupstream = \"app\"\nallow = [{ methods = [\"GET\"], scopes = [\"a\"] }]\n",
    );
    let mut h2 = H2Client::plain(poor.gateway.address("main"));
    let token = poor.mint.scoped("b");
    let mut wrong = Wrong::default();
    for (method, path, bearer) in [
        ("GET", "/r", None),
        ("GET", "/r", Some("junk")),
        ("GET", "/r", Some(token.as_str())),
        ("POST", "/r", None),
        ("GET", "/nowhere", None),
        ("HEAD", "/r", None),
    ] {
        let old = poor.send(&Req::new(method, path).maybe_bearer(bearer));
        let mut new = request(method.parse().unwrap(), &format!("http://api.test{path}"));
        if let Some(token) = bearer {
            new = new.header("authorization", format!("Bearer {token}"));
        }
        let new = h2.send(new.body(empty()).unwrap());
        wrong.eq((method, path, bearer), new.status, old.status);
        let fields = |name: &str| new.headers.get(name).map(|value| value.to_str().unwrap());
        for name in ["WWW-Authenticate", "Content-Type", "Cache-Control", "Allow"] {
            wrong.eq((method, path, bearer, name), fields(name), old.header(name));
        }
    }
    wrong.done();
    drop(site);
}

#[test]
fn many_streams_share_a_connection() {
    let site = Site::open();
    let mut client = H2Client::plain(site.gateway.address("main"));
    for n in 0..100 {
        assert_eq!(client.send(get(&format!("http://api.test/public/{n}"))).status, 200);
    }
    // And after an error the connection is as good as before.
    assert_eq!(client.send(get("http://api.test/x")).status, 401);
    assert_eq!(client.send(get("http://api.test/public/x")).status, 200);
}

#[test]
fn grpc_makes_the_round_trip_with_its_trailers() {
    let upstream = H2Upstream::start();
    let site = Site::builder()
        .upstream_lines(&format!("servers = [\"{}\"]\nhttp2 = true", upstream.url()))
        .more(
            "[[routes]]\nname = \"grpc\"\npath = \"/pkg.Service/**\"\nupstream = \"app\"\n\
             allow = [{ methods = [\"POST\"], scopes = [\"call\"] }]\n[routes.forward]\nheaders = { \"X-User\" = \"{sub}\" }\n",
        )
        .start();
    let mut client = H2Client::plain(site.gateway.address("main"));
    let message = [&[0, 0, 0, 0, 3][..], b"abc"].concat();
    let call = |token: Option<&str>, trailers: HeaderMap| {
        let mut call = request(Method::POST, "http://api.test/pkg.Service/Method")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-user", "root");
        if let Some(token) = token {
            call = call.header("authorization", format!("Bearer {token}"));
        }
        call.body(with_trailers(message.clone(), trailers)).unwrap()
    };
    let token = site.mint.scoped("call");
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-user"), HeaderValue::from_static("root"))]);
    let answer: H2Response = client.send(call(Some(&token), trailers));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/grpc");
    assert_eq!(&answer.body[..], &message[..]);
    assert_eq!(answer.trailers["grpc-status"], "0");
    let seen = &upstream.requests()[0];
    assert_eq!(seen.headers.get_all("x-user").iter().collect::<Vec<_>>(), ["alice"]);
    assert_eq!(seen.headers["te"], "trailers", "gRPC servers insist on it");
    assert_eq!(seen.uri.path(), "/pkg.Service/Method");
    assert!(seen.trailers.is_empty(), "{:?}", seen.trailers);
    assert!(!seen.headers.contains_key("authorization"));
    assert_eq!(client.send(call(None, HeaderMap::new())).status, 401);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn http2_to_http1_and_back_again() {
    let h2 = H2Upstream::start();
    let site = Site::builder()
        .more(&format!("[upstreams.new]\nservers = [\"{}\"]\nhttp2 = true", h2.url()))
        .more("[[routes]]\nname = \"new\"\npath = \"/new/**\"\nupstream = \"new\"\nallow = [{ public = true }]\n")
        .more(OPEN)
        .start();
    // An HTTP/1.1 caller of an HTTP/2 upstream.
    let answer = site.send(&Req::post("/new/x?y").header("X-A", "1").body("hello"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let seen = &h2.requests()[0];
    assert_eq!(
        (seen.uri.path_and_query().unwrap().as_str(), &seen.headers["x-a"]),
        ("/new/x?y", &HeaderValue::from_static("1"))
    );
    assert!(!seen.headers.contains_key("connection"));
    // The body of an HTTP/2 caller without a length arrives chunked.
    let mut client = H2Client::plain(site.gateway.address("main"));
    let body = with_trailers("abc", HeaderMap::new());
    let call = request(Method::POST, "http://api.test/public/x").body(body).unwrap();
    assert_eq!(client.send(call).status, 200);
    assert_eq!(site.upstream.wait_for(1)[0].body, b"abc");
}

#[test]
fn cookies_split_by_http2_are_joined() {
    let site = Site::open();
    let mut client = H2Client::plain(site.gateway.address("main"));
    let call = request(Method::GET, "http://api.test/public/x").header("cookie", "a=1").header("cookie", "b=2");
    assert_eq!(client.send(call.body(empty()).unwrap()).status, 200);
    assert_eq!(site.upstream.last().all("Cookie"), ["a=1; b=2"], "RFC 9113 section 8.2.3");
}

#[test]
fn the_redirecting_listener_forwards_nothing() {
    let site = Site::builder()
        .server("public_url = \"https://api.test:8443\"")
        .more("[listeners.plain]\naddress = \"127.0.0.1:0\"\nredirect_to_https = true\n")
        .more(OPEN)
        .start();
    let plain = site.gateway.address("plain");
    let mut wrong = Wrong::default();
    for method in ["GET", "HEAD"] {
        for (target, host) in [("/public/x?y=z", "api.test"), ("/x", "evil.test"), ("/", "api.test:80")] {
            let answer = crate::support::Conn::open(plain).send(&Req::new(method, target).host(host));
            wrong.eq((method, target), answer.status, 308);
            let expected = format!("https://api.test:8443{target}");
            wrong.eq((method, target, host), answer.header("Location"), Some(expected.as_str()));
        }
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer = send(plain, &Req::new(method, "/public/x").bearer(&site.mint.scoped("")).body("a=b"));
        wrong.eq(method, answer.status, 403);
        wrong.eq((method, "Location"), answer.header("Location"), None);
    }
    // Nothing in a target may lead elsewhere.
    for target in ["//evil.test/x", "/\\evil.test", "http://evil.test/x", "/%0d%0aSet-Cookie:a"] {
        let answer = send(plain, &Req::get(target));
        if let Some(location) = answer.header("Location") {
            wrong.ok(target, location.starts_with("https://api.test:8443/"), location);
        }
    }
    wrong.eq("forwarded", site.upstream.count(), 0);
    wrong.done();
}

#[test]
fn a_certificate_replaced_on_disk_is_picked_up() {
    let scene = secure("", "");
    let address = scene.site.gateway.address("main");
    let fresh = scene.authority.identity(&["api.test"]);
    scene.site.gateway.write("tls/api.crt", &fresh.cert);
    scene.site.gateway.write("tls/api.key", &fresh.key);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let agreed = scene.authority.client().connect(address, "api.test").unwrap();
        use rustls::pki_types::pem::PemObject;
        let wanted = rustls::pki_types::CertificateDer::from_pem_slice(fresh.cert.as_bytes()).unwrap();
        if agreed.certificate == wanted {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "the old certificate is still served");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

#[test]
fn cleartext_to_a_tls_port_and_the_reverse_do_no_harm() {
    let scene = secure("", "");
    let address = scene.site.gateway.address("main");
    assert!(crate::support::Conn::open(address).try_send(&Req::get("/public/x")).map_or(true, |a| a.status == 400));
    assert_eq!(scene.site.upstream.count(), 0);
    let open = Site::open();
    assert!(scene.authority.client().connect(open.gateway.address("main"), "api.test").is_err());
    assert_eq!(open.send(&Req::get("/public/x")).status, 200);
}

#[test]
fn a_big_answer_passes_over_http2() {
    let site = Site::builder()
        .upstream(RecordingUpstream::scripted(|exchange| exchange.answer("200 OK", "", &vec![b'x'; 5 << 20])))
        .more(OPEN)
        .start();
    let mut client = H2Client::plain(site.gateway.address("main"));
    assert_eq!(client.send(get("http://api.test/public/x")).body.len(), 5 << 20);
}
