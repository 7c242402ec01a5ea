//! The test equipment itself: what the other tests rely on.

use crate::support::h2::{H2Client, H2Upstream, full};
use crate::support::metrics::Metrics;
use crate::support::mint::{self, AUDIENCE, Key};
use crate::support::oidc_provider::OidcProvider;
use crate::support::tls::{self, Authority};
use crate::support::{Conn, Mint, RecordingUpstream, Req, send};

#[test]
fn the_upstream_records_bytes_and_the_client_parses_answers() {
    let upstream = RecordingUpstream::raw(&["HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: \
                                             chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"]);
    let mut conn = Conn::open(upstream.address);
    let answer = conn.send(&Req::post("/a%2Fb?c=d").header("X-Odd", "  v ").body("hello"));
    assert_eq!((answer.status, answer.text().as_str(), answer.interim.as_slice()), (200, "abc", &[103][..]));
    assert_eq!(answer.trailers, [("X-Sum".to_owned(), "1".to_owned())]);
    let again = conn.send(&Req::new("HEAD", "/head"));
    assert_eq!((again.status, again.header("content-length")), (200, Some("2")));

    let seen = upstream.wait_for(2);
    assert_eq!(seen[0].target, "/a%2Fb?c=d");
    assert_eq!(seen[0].body, b"hello");
    assert!(seen[0].head.ends_with(b"\r\nX-Odd:   v \r\nContent-Length: 5\r\n\r\n"), "{:?}", seen[0].head);
    assert_eq!((seen[0].connection, seen[1].connection, upstream.connections()), (1, 1, 1));
}

#[test]
fn tls_ends_meet_and_names_are_checked() {
    let authority = Authority::new();
    let config = authority.server(&authority.identity(&["up.test"]), &["http/1.1"], true);
    let upstream = RecordingUpstream::over(
        move |socket| tls::accept(&config, socket),
        |exchange| exchange.answer("200 OK", "", b"ok"),
    );
    let client = authority.client().alpn(&["http/1.1"]).identity(&authority.identity(&["someone"]));
    let mut agreed = client.connect(upstream.address, "up.test").unwrap();
    assert_eq!(agreed.alpn.as_deref(), Some("http/1.1"));
    assert_eq!(agreed.conn.send(&Req::get("/")).status, 200);
    assert!(client.connect(upstream.address, "other.test").is_err());
}

#[test]
fn http2_ends_meet() {
    let upstream = H2Upstream::start();
    let request = http::Request::post(format!("{}/x", upstream.url())).body(full("abc")).unwrap();
    let answer = H2Client::plain(upstream.address).send(request);
    assert_eq!((answer.status, &answer.body[..]), (200, &b"abc"[..]));
    assert_eq!(answer.trailers["grpc-status"], "0");
    let seen = &upstream.requests()[0];
    assert_eq!((seen.uri.path(), &seen.body[..]), ("/x", &b"abc"[..]));
}

/// jsonwebtoken knows nothing of the mint, so the two agreeing means something.
#[test]
fn minted_tokens_verify() {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    let keys = vec![Key::p256("a"), Key::p384("b"), Key::ed25519("c"), Key::rsa("d")];
    for key in keys {
        let mint = Mint::with(mint::ISSUER, vec![key]);
        let jwk = serde_json::from_value(mint.key().jwk()).unwrap();
        let algorithm: Algorithm = mint.key().algorithm().parse().unwrap();
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&[mint::AUDIENCE]);
        let token = mint.scoped("read");
        let decoded = decode::<serde_json::Value>(&token, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).unwrap();
        assert_eq!(decoded.claims["scope"], "read");
        assert_eq!(mint::payload(&token)["sub"], "alice");
        let other = Mint::new().scoped("read");
        assert!(decode::<serde_json::Value>(&other, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).is_err());
    }
}

#[test]
fn oidc_provider_introspects_and_revokes() {
    let Some(provider) = OidcProvider::start(&[&Key::p256("k1")]) else { return };
    let token = provider.token("https://api.test/opaque", "orders:read");
    let facts = provider.introspect(&token).json();
    assert_eq!((&facts["active"], &facts["scope"]), (&true.into(), &"orders:read".into()), "{facts}");
    assert_eq!((&facts["aud"], &facts["iss"]), (&AUDIENCE.into(), &provider.issuer().into()), "{facts}");
    provider.revoke(&token);
    assert_eq!(provider.introspect(&token).json(), serde_json::json!({ "active": false }));
    let answer = provider.introspect(&provider.token(AUDIENCE, "orders:read"));
    assert_eq!((answer.status, &answer.json()["error"]), (400, &"unsupported_token_type".into()));
}

#[test]
fn metrics_parse_with_awkward_labels() {
    let metrics = Metrics::parse("# TYPE a counter\na{x=\"p\\\"},{q\",y=\"\"} 2\na{x=\"r\"} 3\nb 1e3\n");
    assert_eq!((metrics.sum("a", &[]), metrics.sum("a", &[("x", "r")]), metrics.sum("b", &[])), (5.0, 3.0, 1000.0));
    assert!(metrics.has("a", &[("x", "p\"},{q"), ("y", "")]));
}

#[test]
fn a_refused_connection_is_an_error_not_a_hang() {
    let upstream = RecordingUpstream::scripted(|exchange| {
        exchange.keep_alive = false;
        Ok(())
    });
    assert!(Conn::open(upstream.address).try_send(&Req::get("/")).is_err());
    let answer = send(RecordingUpstream::start().address, &Req::get("/"));
    assert_eq!(answer.text(), "ok");
}
