//! What is searched for secrets when any gateway of a test ends (`support/secrets.rs`), where most is told: with every
//! event of every library.

use http::Request;

use crate::support::h2::{H2Client, H2Upstream, empty};
use crate::support::http::send;
use crate::support::server::{self, HOST, SECRET, basic, encode, log_in, refresh, request_of, token_request, tokens};
use crate::support::tls::Authority;
use crate::support::{Req, secrets};

#[test]
fn g17_not_even_the_finest_log_tells_a_secret() {
    let authority = Authority::new();
    let identity = authority.identity(&["api.test"]);
    let new = H2Upstream::start();
    let site = server::builder()
        .embedded()
        .listener("[listeners.secure]\naddress = \"127.0.0.1:0\"")
        .listener("[listeners.secure.tls]\ncertificates = [{ cert = \"tls.crt\", key = \"tls.key\" }]")
        .more("[log]\nlevel = \"trace\"")
        .more(
            r#"
[[routes]]
path = "/legacy/**"
upstream = "app"
allow = [{ authenticated = true }]
[routes.forward]
authorization = { basic = { username = "gateway", password = { file = "upstream-password" } } }

[[routes]]
path = "/new/**"
upstream = "new"
allow = [{ authenticated = true }]
[routes.forward]
authorization = { basic = { username = "gateway", password = { file = "upstream-password" } } }
"#,
        )
        .more(&format!("[upstreams.new]\nservers = [\"{}\"]\nhttp2 = true", new.url()))
        .file("upstream-password", "a-password-for-the-upstream\n")
        .file("tls.crt", &identity.cert)
        .file("tls.key", &identity.key)
        .start();
    let (access, refresh_token) = tokens(&log_in(&site, "billing", &[("scope", "orders:read offline_access")]));
    assert_eq!(refresh(&site, "billing", &refresh_token).status, 200);
    // Credentials that are wrong, and in the wrong place.
    log_in(&site, "billing", &[("client_secret", SECRET)]);
    for (path, token) in [
        ("/orders/1", access.as_str()),
        ("/legacy/1", &access),
        ("/new/1", &access),
        ("/orders/1", "a.bad.token-of-some-length"),
    ] {
        let mut request = Req::get(&format!("{path}?access_token={access}&code=tgc_a-code-in-a-query")).bearer(token);
        request = request.header("Cookie", "tollgate-session=a-session-of-some-length; other=1");
        site.send(&request);
        let mut secure = authority.client().connect(site.gateway.address("secure"), "api.test").unwrap();
        assert!(secure.conn.send(&request).status > 0);
        let h2 = Request::get(format!("http://api.test{path}")).header("authorization", format!("Bearer {token}"));
        H2Client::plain(site.gateway.address("main")).send(h2.body(empty()).unwrap());
    }
    site.send(
        &token_request(&encode(&[("token", &access)])).header("Authorization", &basic("billing", "a-wrong-secret")),
    );
    send(
        site.gateway.address("main"),
        &Req::get(&format!("/oauth2/authorize?{}&state=x", request_of("native"))).host(HOST),
    );
    assert!(site.upstream.last().has("authorization"));
    assert!(new.requests().iter().all(|request| request.headers.contains_key("authorization")));
    assert_eq!(new.requests().len(), 3);

    let log = site.gateway.output();
    for said in ["\"level\":\"TRACE\"", "\"target\":\"h2", "\"target\":\"rustls"] {
        assert!(log.contains(said), "the log has no {said}");
    }
    // The search finds what is there.
    let found = |text: &str| !secrets::found_in(text.as_bytes()).is_empty();
    assert!(found(&format!("x{access}")) && found(access.rsplit('.').next().unwrap()) && found(&refresh_token));
    assert!(found("a-password-for-the-upstream") && found(identity.key.lines().nth(1).unwrap()) && found(SECRET));
    assert!(found("a-wrong-secret") && found("tgc_a-code-in-a-query") && found("a-session-of-some-length"));
    assert!(!found(&log));
}
