//! The authorization code grant over sockets. Names carry the ids of docs/conformance.md.

use serde_json::{Value, json};

use crate::support::mint::{self, b64, now, sha256};
use crate::support::server::{
    self, CHALLENGE, HOST, PASSWORD, SECRET, VERIFIER, ask, basic, code_form, encode, outcome, pkce_request_of, redeem,
    refresh, request_of, token_request, tokens,
};
use crate::support::{Browser, Callback, Form, Req, Response, Site, Wrong};

const BAD_REQUEST: &str = "400 invalid_request";
const BAD_GRANT: &str = "400 invalid_grant";

/// A site with a browser in which alice is logged in.
fn logged_in() -> (Site, Browser) {
    let site = server::browsed().start();
    let mut browser = site.browser();
    browser.code(&request_of("first"));
    (site, browser)
}

/// "login page", "consent page", "page 400", the error or "code" of a redirect to the application.
fn what(answer: &Response) -> String {
    match Callback::try_of(answer) {
        Some(callback) if callback.base.starts_with('/') => format!("to {}", callback.base),
        Some(callback) => match callback.get("error") {
            Some(error) => error,
            None => "code".to_owned(),
        },
        None if answer.status == 200 && answer.text().contains("name=\"password\"") => "login page".to_owned(),
        None if answer.status == 200 && answer.text().contains("name=\"decision\"") => "consent page".to_owned(),
        None => format!("page {}", answer.status),
    }
}

#[test]
fn a16_a17_s2_t9_the_whole_way() {
    let site = server::browsed().start();
    let mut browser = site.browser();
    let mut wrong = Wrong::default();
    let query = format!("{}&state=a+b%26c&scope=orders:read+offline_access", request_of("web"));
    let page = browser.authorize(&query);
    wrong.eq("login page", what(&page), "login page");
    wrong.ok("L6 the name of the client", page.text().contains("Web &lt;Shop&gt; &amp; &quot;Co&quot;"), page.text());
    let answer = browser.log_in(&page, "alice", PASSWORD);
    wrong.eq("A17 a GET follows", answer.status, 303);
    wrong.eq("its own request", what(&answer), "to /oauth2/consent");
    let consent = browser.get(answer.header("Location").unwrap());
    let text = consent.text();
    for part in ["Web &lt;Shop&gt; &amp; &quot;Co&quot;", "alice", "orders:read"] {
        wrong.ok(("A27", part), text.contains(part), &text);
    }
    let answer = browser.submit(&Form::of(&consent).press("allow"));
    wrong.eq("A17 no-store", answer.header("Cache-Control"), Some("no-store"));
    wrong.eq("A17 no referrer", answer.header("Referrer-Policy"), Some("no-referrer"));
    let callback = Callback::of(&answer);
    wrong.eq("callback", &callback.base, "https://web.test/callback");
    wrong.eq("A12", callback.get("state").as_deref(), Some("a b&c"));
    wrong.eq("A16", callback.get("iss").as_deref(), Some("http://127.0.0.1"));
    wrong.eq("nothing else", callback.parameters().len(), 3);
    let code = callback.get("code").unwrap_or_default();
    wrong.ok("G16", code.len() >= 43 && code.bytes().all(|b| b.is_ascii_graphic()), &code);

    let answer = redeem(&site, "web", &code, &[]);
    wrong.eq("token", outcome(&answer), "200");
    wrong.eq("G1", answer.header("Cache-Control"), Some("no-store"));
    let body = answer.json();
    wrong.eq("type", &body["token_type"], "Bearer");
    wrong.eq("S2-8", &body["expires_in"], 3600);
    wrong.eq("T8 scope", &body["scope"], "orders:read offline_access");
    wrong.ok("refresh token", body["refresh_token"].is_string(), &body);
    wrong.ok("no state here", body.get("state").is_none(), &body);
    let token = body["access_token"].as_str().unwrap();
    let claims = mint::payload(token);
    for (name, value) in [("sub", "alice"), ("client_id", "web"), ("scope", "orders:read offline_access")] {
        wrong.eq(name, &claims[name], value);
    }
    wrong.eq("amr", &claims["amr"], &json!(["pwd"]));
    wrong.ok("auth_time", claims["auth_time"].as_i64().is_some_and(|at| (now() - at).abs() < 30), &claims);
    wrong.eq("gateway", site.get("/orders/7", Some(token)).status, 200);
    wrong.eq("the user", site.upstream.last().header("X-User"), Some("alice"));
    let log = site.gateway.output();
    for secret in [code.as_str(), PASSWORD, browser.cookies["tollgate-session"].as_str(), SECRET] {
        wrong.ok("G17", !log.contains(secret), format!("{secret} stands in the log"));
    }
    wrong.done();
}

#[test]
fn a1_a23_a24_how_it_may_be_asked() {
    let (site, mut browser) = logged_in();
    let query = request_of("first");
    let target = format!("/oauth2/authorize?{query}");
    let mut wrong = Wrong::default();
    wrong.eq("GET", what(&browser.authorize(&query)), "code");
    wrong.eq("POST", what(&browser.post("/oauth2/authorize", &query)), "code");
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = browser.send(Req::new(method, &target).header("Origin", "https://any.test"));
        wrong.ok((method, "status"), [405, 204].contains(&answer.status), answer.status);
        wrong.eq((method, "Location"), answer.header("Location"), None);
        wrong.eq((method, "A23"), answer.header("Access-Control-Allow-Origin"), None);
    }
    let session = format!("tollgate-session={}", browser.cookies["tollgate-session"]);
    let head = site.connect().send(&Req::new("HEAD", &target).host(HOST).header("Cookie", &session));
    wrong.eq("HEAD", (head.status, head.header("Location")), (405, None));
    for (name, value) in [("Sec-Purpose", "prefetch"), ("Sec-Purpose", "prefetch;prerender"), ("Purpose", "prefetch")] {
        let answer = browser.send(Req::get(&target).header(name, value));
        wrong.eq((name, value), (answer.status, answer.header("Location")), (403, None));
    }
    for origin in ["https://first.test", "null"] {
        let answer = browser.send(Req::get(&target).header("Origin", origin));
        wrong.eq(("A23", origin), answer.header("Access-Control-Allow-Origin"), None);
    }
    let long = browser.authorize(&format!("{query}&x={}", "y".repeat(17 * 1024)));
    wrong.eq("A24 long", what(&long), "page 414");
    wrong.eq("A24 many", what(&browser.authorize(&format!("{query}&{}", "a&".repeat(7000)))), "code");
    wrong.eq("A24 many in a form", what(&browser.post("/oauth2/authorize", &"a=1&".repeat(10_000))), "page 400");
    wrong.eq(
        "A1 JSON",
        {
            let request = Req::post("/oauth2/authorize").header("Content-Type", "application/json");
            what(&browser.send(request.body("{}")))
        },
        "page 400",
    );
    wrong.eq("G6 a password in the query", what(&browser.post(&format!("{target}&password=x"), &query)), "page 400");
    wrong.done();
}

#[test]
fn a2_a3_a25_what_cannot_be_redirected() {
    let (site, mut browser) = logged_in();
    let mut wrong = Wrong::default();
    let good = "response_type=code&state=s";
    let uri = |uri: &str| encode(&[("redirect_uri", uri)]);
    let first = format!("{good}&client_id=first");
    for (case, query) in [
        ("A2 no client", good.to_owned()),
        ("A2 empty", format!("{good}&client_id=")),
        ("A2 unknown", format!("{good}&client_id=nobody")),
        ("A2 another case", format!("{good}&client_id=First")),
        ("A2 twice", format!("{first}&client_id=first")),
        ("A2 two", format!("{first}&client_id=second")),
        ("A2 markup", format!("{good}&client_id=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")),
        ("A2 empty query", String::new()),
        ("A3 another host", format!("{first}&{}", uri("https://evil.test/callback"))),
        ("A3 another client's", format!("{first}&{}", uri("https://second.test/a"))),
        ("A3 twice", format!("{first}&{0}&{0}", uri("https://first.test/callback"))),
        ("A3 good and bad", format!("{first}&{}&{}", uri("https://first.test/callback"), uri("https://evil.test/"))),
        ("A3 relative", format!("{first}&{}", uri("/callback"))),
        ("A3 scheme-relative", format!("{first}&{}", uri("//first.test/callback"))),
        ("A3 fragment", format!("{first}&{}", uri("https://first.test/callback#x"))),
        ("A3 script", format!("{first}&{}", uri("javascript:alert(1)"))),
        ("A3 markup", format!("{first}&{}", uri("\"><script>alert(1)</script>"))),
        ("A3 missing with two registered", format!("{good}&client_id=second")),
        ("A3 empty with two registered", format!("{good}&client_id=second&redirect_uri=")),
        ("G7 a bad escape", format!("{first}&x=%zz")),
        ("G7 not UTF-8", format!("{first}&state=%ff")),
        ("G7 NUL", format!("{first}&state=%00")),
    ] {
        for with_session in [true, false] {
            let mut fresh = site.browser();
            let answer = if with_session { &mut browser } else { &mut fresh }.authorize(&query);
            wrong.eq(case, (answer.status, answer.header("Location")), (400, None));
            let (kind, text) = (answer.header("Content-Type").unwrap_or_default(), answer.text());
            wrong.ok((case, "A25 type"), kind.starts_with("text/html"), kind);
            wrong.eq((case, "A25"), answer.header("X-Content-Type-Options"), Some("nosniff"));
            wrong.ok((case, "A25 CSP"), answer.header("Content-Security-Policy").is_some(), "none");
            for bad in ["evil", "<script", "alert(1)", "nobody", "<a "] {
                wrong.ok((case, "A25", bad), !text.contains(bad), "reflected");
            }
            wrong.eq((case, "no-store"), answer.header("Cache-Control"), Some("no-store"));
        }
    }
    wrong.done();
}

#[test]
fn a4_a5_a6_a7_redirect_uris_are_compared_as_text() {
    let site = server::browsed().start();
    let mut browser = site.browser();
    let mut wrong = Wrong::default();
    let (public, private) = ("native", "confidential-loopback");
    for (client, uri, good) in [
        ("first", "https://first.test/callback", true),
        ("first", "https://first.test/callback/", false),
        ("first", "https://first.test/callbac", false),
        ("first", "https://first.test/callbackx", false),
        ("first", "https://first.test/Callback", false),
        ("first", "https://FIRST.test/callback", false),
        ("first", "HTTPS://first.test/callback", false),
        ("first", "http://first.test/callback", false),
        ("first", "https://first.test:443/callback", false),
        ("first", "https://first.test./callback", false),
        ("first", "https://first.test%2Fcallback", false),
        ("first", "https://first.test/%63allback", false),
        ("first", "https://first.test/callback?", false),
        ("first", "https://first.test/callback?x=1", false),
        ("first", "https://first.test/callback;x", false),
        ("first", "https://first.test/x/../callback", false),
        ("first", "https://first.test/callback/..", false),
        ("first", "https://first.test//callback", false),
        ("first", "https://first.test\\callback", false),
        ("first", "https://first.test@evil.test/callback", false),
        ("first", "https://evil.test#https://first.test/callback", false),
        ("first", "https://evil.test?https://first.test/callback", false),
        ("first", "https://first.test.evil.test/callback", false),
        ("first", "https://sub.first.test/callback", false),
        ("first", " https://first.test/callback", false),
        ("first", "https://first.test/callback ", false),
        ("first", "https://first.test/call\tback", false),
        ("first", "https://first.test/callback\n", false),
        ("first", "https://first.test/callback\r\nX: y", false),
        ("first", "https://f\u{ff49}rst.test/callback", false),
        ("second", "https://second.test/a", true),
        ("second", "https://second.test/b?x=1&state=old", true),
        ("second", "https://second.test/b?state=old&x=1", false),
        ("second", "https://second.test/b?x=1", false),
        ("second", "https://second.test/b", false),
        (public, "http://127.0.0.1/cb", true),
        (public, "http://127.0.0.1:1/cb", true),
        (public, "http://127.0.0.1:51234/cb", true),
        (public, "http://127.0.0.1:65535/cb", true),
        (public, "http://127.0.0.1:65536/cb", false),
        (public, "http://127.0.0.1:0/cb", false),
        (public, "http://127.0.0.1:/cb", false),
        (public, "http://127.0.0.1:80a/cb", false),
        (public, "http://127.0.0.1:-1/cb", false),
        (public, "http://127.0.0.1:+80/cb", false),
        (public, "http://127.0.0.1:8080/cb/", false),
        (public, "http://127.0.0.1:8080/CB", false),
        (public, "http://127.0.0.1:8080/cb?x", false),
        (public, "http://127.0.0.1:8080/cb#x", false),
        (public, "http://127.0.0.1:8080/other", false),
        (public, "http://127.0.0.1:8080", false),
        (public, "http://127.0.0.1:8080@evil.test/cb", false),
        (public, "http://127.0.0.1:@evil.test/cb", false),
        (public, "http://x@127.0.0.1:8080/cb", false),
        (public, "http://127.0.0.1.evil.test/cb", false),
        (public, "http://127.0.0.1evil.test/cb", false),
        (public, "http://127.0.0.2:8080/cb", false),
        (public, "http://127.1:8080/cb", false),
        (public, "http://127.000.000.001:8080/cb", false),
        (public, "http://0x7f.0.0.1:8080/cb", false),
        (public, "http://2130706433:8080/cb", false),
        (public, "https://127.0.0.1:8080/cb", false),
        (public, "HTTP://127.0.0.1:8080/cb", false),
        (public, "http://[::1]:1234/cb", true),
        (public, "http://[::1]:4321/cb", true),
        (public, "http://[::1]/cb", true),
        (public, "http://[0:0:0:0:0:0:0:1]:4321/cb", false),
        (public, "http://[::ffff:127.0.0.1]:4321/cb", false),
        (public, "http://localhost:7000/cb", true),
        (public, "http://localhost:7001/cb", false),
        (public, "http://localhost/cb", false),
        (public, "http://LOCALHOST:7000/cb", false),
        (public, "com.example.app:/cb", true),
        (public, "com.example.app:/cb/x", false),
        (public, "com.example.app://cb", false),
        (public, "com.example.other:/cb", false),
        (private, "http://127.0.0.1:4000/cb", true),
        (private, "http://127.0.0.1:4001/cb", false),
        (private, "http://127.0.0.1/cb", false),
    ] {
        let query = format!("{}&prompt=none&{}", pkce_request_of(client), encode(&[("redirect_uri", uri)]));
        let answer = browser.authorize(&query);
        let expected = if good { "login_required" } else { "page 400" };
        wrong.eq((client, uri), what(&answer), expected);
        if good {
            let location = answer.header("Location").unwrap_or_default();
            wrong.ok((client, uri, "base"), location.starts_with(uri), location);
        }
    }
    wrong.eq(
        "A4 the only one",
        Callback::of(&browser.authorize(&format!("{}&prompt=none", request_of("first")))).base,
        "https://first.test/callback".to_owned(),
    );
    wrong.done();
}

#[test]
fn a8_the_query_of_a_registered_uri_stays() {
    let (_site, mut browser) = logged_in();
    let uri = encode(&[("redirect_uri", "https://second.test/b?x=1&state=old")]);
    for (more, own) in [("&state=n+w", "code"), ("&state=n+w&response_mode=junk", "error")] {
        let callback = Callback::of(&browser.authorize(&format!("{}&{uri}{more}", request_of("second"))));
        let parameters = callback.parameters();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(parameters[..2], [pair("x", "1"), pair("state", "old")], "{callback:?}");
        assert_eq!(parameters[2].0, own);
        assert!(parameters[2..].contains(&pair("state", "n w")), "{callback:?}");
        assert!(parameters[2..].contains(&pair("iss", "http://127.0.0.1")), "{callback:?}");
    }
}

#[test]
fn a9_a10_a11_a13_a14_a15_a16_a20_what_is_redirected_as_an_error() {
    let (_site, mut browser) = logged_in();
    let mut wrong = Wrong::default();
    let of = |client: &str, more: &str| format!("{}&{more}", request_of(client));
    let bare = |more: &str| format!("client_id=first&{more}");
    let challenge = |more: &str| of("first", more);
    let long = "x".repeat(129);
    let cases = [
        ("A9 missing", bare(""), "invalid_request"),
        ("A9 empty", bare("response_type="), "invalid_request"),
        ("A9 token", bare("response_type=token"), "unsupported_response_type"),
        ("A9 id_token", bare("response_type=id_token"), "unsupported_response_type"),
        ("A9 both", bare("response_type=code+token"), "unsupported_response_type"),
        ("A9 upper case", bare("response_type=CODE"), "unsupported_response_type"),
        ("A9 space", bare("response_type=code+"), "unsupported_response_type"),
        ("A9 twice", bare("response_type=code&response_type=code"), "invalid_request"),
        ("A9 no such grant", of("no-code", ""), "unauthorized_client"),
        ("A10 query", of("first", "response_mode=query"), "code"),
        ("A10 empty", of("first", "response_mode="), "code"),
        ("A10 fragment", of("first", "response_mode=fragment"), "unsupported_response_mode"),
        ("A10 form_post", of("first", "response_mode=form_post"), "unsupported_response_mode"),
        ("A10 jwt", of("first", "response_mode=jwt"), "unsupported_response_mode"),
        ("A10 junk", of("first", "response_mode=%22x%0D%0A"), "unsupported_response_mode"),
        ("A11 unknown", of("first", "scope=nothing"), "invalid_scope"),
        (
            "A11 not the client's",
            of("second", "scope=orders:write&redirect_uri=https://second.test/a"),
            "invalid_scope",
        ),
        ("A11 one of two", of("first", "scope=orders:read+nothing"), "invalid_scope"),
        ("A11 malformed", of("first", "scope=orders:read%22"), "invalid_scope"),
        ("A11 tab", of("first", "scope=orders:read%09extra"), "invalid_scope"),
        ("A11 none", of("no-default", ""), "invalid_scope"),
        ("A11 omitted", of("first", ""), "code"),
        ("A11 not the user's", of("first", "scope=extra"), "invalid_scope"),
        ("A12 state twice", of("first", "state=a&state=b"), "invalid_request"),
        ("A13 S256", challenge(&format!("code_challenge={CHALLENGE}&code_challenge_method=S256")), "code"),
        ("A13 plain", challenge(&format!("code_challenge={VERIFIER}&code_challenge_method=plain")), "invalid_request"),
        ("A13 no method", challenge(&format!("code_challenge={CHALLENGE}")), "invalid_request"),
        ("A13 s256", challenge(&format!("code_challenge={CHALLENGE}&code_challenge_method=s256")), "invalid_request"),
        (
            "A13 unknown",
            challenge(&format!("code_challenge={CHALLENGE}&code_challenge_method=S512")),
            "invalid_request",
        ),
        ("A13 only a method", challenge("code_challenge_method=S256"), "invalid_request"),
        ("A13 empty challenge", challenge("code_challenge=&code_challenge_method=S256"), "invalid_request"),
        (
            "A13 short",
            challenge(&format!("code_challenge={}&code_challenge_method=S256", &CHALLENGE[1..])),
            "invalid_request",
        ),
        ("A13 long", challenge(&format!("code_challenge={long}&code_challenge_method=S256")), "invalid_request"),
        ("A13 44", challenge(&format!("code_challenge={CHALLENGE}a&code_challenge_method=S256")), "invalid_request"),
        (
            "A13 padded",
            challenge(&format!("code_challenge={CHALLENGE}%3D&code_challenge_method=S256")),
            "invalid_request",
        ),
        (
            "A13 not base64url",
            challenge(&format!("code_challenge={}%2B&code_challenge_method=S256", &CHALLENGE[1..])),
            "invalid_request",
        ),
        (
            "A13 challenge twice",
            challenge(&format!("code_challenge={CHALLENGE}&code_challenge={CHALLENGE}&code_challenge_method=S256")),
            "invalid_request",
        ),
        ("A14 public", of("native", "redirect_uri=http://127.0.0.1:99/cb"), "invalid_request"),
        ("A14 required", of("strict", ""), "invalid_request"),
        ("A14 required and there", pkce_request_of("strict"), "code"),
        ("A15 request", of("first", "request=a.b.c"), "request_not_supported"),
        ("A15 request_uri", of("first", "request_uri=http://127.0.0.1:9/x"), "request_uri_not_supported"),
        ("A15 registration", of("first", "registration=%7B%7D"), "registration_not_supported"),
        ("A15 prompt=none", of("first", "prompt=none"), "code"),
        ("A15 prompt=none and consent", of("web", "prompt=none"), "consent_required"),
        ("A15 prompt=none and login", of("first", "prompt=none+login"), "invalid_request"),
        ("A15 prompt=login", of("first", "prompt=login"), "login page"),
        ("A15 prompt=consent", of("web", "prompt=consent"), "consent page"),
        ("A15 prompt twice", of("first", "prompt=none&prompt=none"), "invalid_request"),
        ("A15 max_age", of("first", "max_age=1000"), "code"),
        ("A15 max_age=0", of("first", "max_age=0"), "login page"),
        ("A15 max_age=0 and none", of("first", "max_age=0&prompt=none"), "login_required"),
        ("A15 max_age is no number", of("first", "max_age=soon"), "invalid_request"),
        ("A15 max_age is negative", of("first", "max_age=-1"), "invalid_request"),
        ("A15 max_age is huge", of("first", "max_age=99999999999999999999999"), "invalid_request"),
        (
            "A20 unknown",
            of("first", "foo=1&foo=2&nonce=n&display=page&ui_locales=en&acr_values=x&claims=%7B%7D"),
            "code",
        ),
        ("A20 openid", of("first", "scope=openid"), "invalid_scope"),
        ("A20 no magic names", of("first", "state[]=x&scope[]=nothing"), "code"),
        ("T11 resource", of("audience", "resource=https://orders.test"), "code"),
        ("T11 two resources", of("audience", "resource=https://orders.test&resource=http://127.0.0.1"), "code"),
        ("T11 not allowed", of("audience", "resource=https://evil.test"), "invalid_target"),
        (
            "T11 one not allowed",
            of("audience", "resource=https://orders.test&resource=https://x.test"),
            "invalid_target",
        ),
        ("T11 relative", of("audience", "resource=orders"), "invalid_target"),
        ("T11 fragment", of("audience", "resource=https://orders.test%23x"), "invalid_target"),
    ];
    for (case, query, expected) in cases {
        let answer = browser.authorize(&if query.contains("state=") { query } else { format!("{query}&state=s%2B1") });
        wrong.eq(case, what(&answer), expected);
        let Some(callback) = Callback::try_of(&answer) else { continue };
        wrong.eq((case, "A16"), callback.get("iss").as_deref(), Some("http://127.0.0.1"));
        let state = if case == "A12 state twice" { None } else { Some("s+1") };
        wrong.eq((case, "A12"), callback.get("state").as_deref(), state);
        wrong.eq((case, "no-store"), answer.header("Cache-Control"), Some("no-store"));
        wrong.eq((case, "A17"), answer.status, 303);
        wrong.ok((case, "one of them"), callback.get("code").is_some() != callback.get("error").is_some(), &callback);
        for name in ["error", "error_description"] {
            let text = callback.get(name).unwrap_or_default();
            let fine = text.bytes().all(|byte| matches!(byte, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e));
            wrong.ok((case, "G8"), fine, text);
        }
    }
    wrong.done();
}

#[test]
fn a12_state_comes_back_byte_for_byte() {
    let (_site, mut browser) = logged_in();
    let mut wrong = Wrong::default();
    let long = "x".repeat(2048);
    for raw in [
        "abc",
        "a+b",
        "a%20b",
        "%2B",
        "%C3%A9%E2%82%AC",
        "%F0%9F%98%80",
        "%26code%3Dx%23%3F%3D",
        "%22%3Cscript%3E",
        "%0D%0ALocation:%20x",
        "%25zz",
        "%2525",
        "'%5C",
        "~-._*!()",
        ";",
        "a=b",
        "%EF%BB%BF",
        &long,
    ] {
        let sent: Vec<(String, String)> =
            form_urlencoded::parse(format!("state={raw}").as_bytes()).into_owned().collect();
        for (kind, more) in [("code", ""), ("error", "&response_mode=junk"), ("error", "&prompt=none&max_age=0")] {
            let answer = browser.authorize(&format!("{}&state={raw}{more}", request_of("first")));
            let callback = Callback::of(&answer);
            wrong.ok((raw, kind), callback.get(kind).is_some(), &callback);
            wrong.eq((raw, kind), callback.get("state"), Some(sent[0].1.clone()));
            let encoded = callback.query.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\".contains(&byte));
            wrong.ok((raw, kind, "A17"), encoded, &callback.query);
        }
    }
    for (case, more) in [("absent", ""), ("empty", "&state=")] {
        for kind in ["", "&response_mode=junk"] {
            let callback = Callback::of(&browser.authorize(&format!("{}{more}{kind}", request_of("first"))));
            wrong.eq((case, kind), callback.get("state"), None);
        }
    }
    // And through the forms, where it is sealed on the way.
    let mut other = browser.clone();
    other.cookies.clear();
    for raw in ["a+b%26%22%C3%A9", long.as_str()] {
        let callback = other.allow(&format!("{}&prompt=login&state={raw}", request_of("web")));
        let sent: Vec<(String, String)> =
            form_urlencoded::parse(format!("state={raw}").as_bytes()).into_owned().collect();
        wrong.eq((raw, "forms"), callback.get("state"), Some(sent[0].1.clone()));
    }
    wrong.done();
}

#[test]
fn a18_deny_goes_back_with_an_error() {
    let site = server::browsed().start();
    let mut browser = site.browser();
    let page = browser.authorize(&format!("{}&state=s", request_of("web")));
    let answer = browser.log_in(&page, "alice", PASSWORD);
    let callback = Callback::of(&browser.decide(answer, "deny"));
    assert_eq!((callback.base.as_str(), callback.error().as_str()), ("https://web.test/callback", "access_denied"));
    assert_eq!((callback.get("state").unwrap(), callback.get("iss").unwrap()), ("s".into(), "http://127.0.0.1".into()));
    // It is not remembered as an answer.
    assert_eq!(what(&browser.authorize(&request_of("web"))), "consent page");
}

#[test]
fn a21_sent_twice_and_gone_back() {
    let site = server::browsed().start();
    let mut browser = site.browser();
    let mut wrong = Wrong::default();
    let login = browser.authorize(&request_of("web"));
    let filled = Form::of(&login).with("username", "alice").with("password", PASSWORD);
    let first = browser.submit(&filled);
    // Back, and sent again: the same password once more.
    let again = browser.submit(&filled);
    wrong.eq(
        "L12 login twice",
        (what(&first), what(&again)),
        ("to /oauth2/consent".into(), "to /oauth2/consent".into()),
    );
    let consent = browser.get(again.header("Location").unwrap());
    let pressed = Form::of(&consent).press("allow");
    let answers = [browser.submit(&pressed), browser.submit(&pressed)];
    let mut codes = Vec::new();
    for answer in &answers {
        match what(answer).as_str() {
            "code" => codes.push(Callback::of(answer).get("code").unwrap()),
            other => drop(wrong.ok("consent twice", other == "page 400", other)),
        }
    }
    codes.dedup();
    wrong.ok("a code of its own each time", codes.len() == 2 || answers[1].status == 400, &codes);
    for code in codes {
        wrong.eq("code", outcome(&redeem(&site, "web", &code, &[])), "200");
    }
    wrong.done();
}

#[test]
fn a22_fields_of_the_forms_change_nothing() {
    let site = server::browsed().start();
    let mut wrong = Wrong::default();
    let smuggled = |form: Form| {
        form.smuggle("redirect_uri", "https://evil.test/")
            .smuggle("client_id", "first")
            .smuggle("scope", "orders:read orders:write")
            .smuggle("state", "evil")
            .smuggle("response_type", "token")
    };
    let mut browser = site.browser();
    let login = browser.authorize(&format!("{}&state=mine", request_of("web")));
    let form = smuggled(Form::of(&login).with("username", "alice").with("password", PASSWORD));
    let answer = browser.submit(&form);
    let consent = browser.get(answer.header("Location").unwrap());
    let callback = Callback::of(&browser.submit(&smuggled(Form::of(&consent)).press("allow")));
    wrong.eq("redirect", &callback.base, "https://web.test/callback");
    wrong.eq("state", callback.get("state").as_deref(), Some("mine"));
    let answer = redeem(&site, "web", &callback.get("code").unwrap(), &[]);
    wrong.eq("scope", &answer.json()["scope"], "orders:read");

    // Neither can what is sealed be changed, or used for something else.
    let mut browser = site.browser();
    let login = browser.authorize(&request_of("web"));
    let form = Form::of(&login).with("username", "dave").with("password", PASSWORD);
    let sealed = form.value("transaction").to_owned();
    let mut changed = sealed.clone().into_bytes();
    changed[30] = if changed[30] == b'A' { b'B' } else { b'A' };
    for (case, value) in [
        ("changed", String::from_utf8(changed).unwrap()),
        ("cut", sealed[..sealed.len() - 1].to_owned()),
        ("empty", String::new()),
        ("junk", "x".repeat(200)),
        ("huge", "A".repeat(40_000)),
    ] {
        wrong.eq(case, what(&browser.submit(&form.clone().with("transaction", &value))), "page 400");
    }
    wrong.eq(
        "A22 a login page's as a decision",
        {
            let form = form.clone().smuggle("decision", "allow");
            let form = Form { action: "/oauth2/consent".into(), ..form };
            what(&browser.submit(&form))
        },
        "page 400",
    );
    let answer = browser.submit(&form);
    let consent = Form::of(&browser.get(answer.header("Location").unwrap()));
    let as_login = Form { action: "/oauth2/login".into(), ..consent };
    let as_login = as_login.smuggle("username", "dave").smuggle("password", PASSWORD);
    wrong.eq("A22 a consent page's as a login", what(&browser.submit(&as_login)), "page 400");
    wrong.done();
}

#[test]
fn a27_consent_is_remembered_by_user_client_and_scope() {
    let site = server::browsed().start();
    let mut browser = site.browser();
    let mut wrong = Wrong::default();
    let query = |scope: &str| format!("{}&scope={scope}", request_of("web"));
    browser.code(&query("orders:read+orders:write"));
    wrong.eq("the same again", what(&browser.authorize(&query("orders:read+orders:write"))), "code");
    wrong.eq("less", what(&browser.authorize(&query("orders:read"))), "code");
    wrong.eq("more", what(&browser.authorize(&query("orders:read+offline_access"))), "consent page");
    wrong.eq(
        "asked for",
        what(&browser.authorize(&format!("{}&prompt=consent", query("orders:read")))),
        "consent page",
    );
    wrong.eq("silently", what(&browser.authorize(&format!("{}&prompt=none", query("orders:read")))), "code");
    wrong.eq(
        "more, silently",
        what(&browser.authorize(&format!("{}&prompt=none", query("offline_access+orders:read")))),
        "consent_required",
    );
    let native = format!("{}&redirect_uri=http://127.0.0.1:99/cb", pkce_request_of("native"));
    wrong.eq("another client", what(&browser.authorize(&native)), "consent page");
    wrong.eq("a trusted client", what(&browser.authorize(&request_of("first"))), "code");
    // The same user in another browser has answered already; another user has not.
    let mut other = site.browser();
    let page = other.authorize(&query("orders:read"));
    wrong.eq("another browser", what(&other.log_in(&page, "alice", PASSWORD)), "code");
    let mut other = site.browser();
    let page = other.authorize(&query("orders:read"));
    wrong.eq("another user", what(&other.log_in(&page, "dave", PASSWORD)), "to /oauth2/consent");
    // What the user may not have is not asked for.
    let mut other = site.browser();
    let page = other.authorize(&query("orders:read+orders:write+extra"));
    let answer = other.log_in(&page, "carol", PASSWORD);
    let consent = other.get(answer.header("Location").unwrap()).text();
    wrong.ok("narrowed", consent.contains("extra") && !consent.contains("orders:write"), &consent);
    let page = other.get(answer.header("Location").unwrap());
    let code = Callback::of(&other.submit(&Form::of(&page).press("allow"))).get("code").unwrap();
    wrong.eq("narrowed", &redeem(&site, "web", &code, &[]).json()["scope"], "orders:read extra");
    // A user of nothing.
    let mut other = site.browser();
    let page = other.authorize(&query("orders:read"));
    wrong.eq("nothing left", what(&other.log_in(&page, "nobody", PASSWORD)), "invalid_scope");
    wrong.done();
}

#[test]
fn ac1_to_ac8_ac15_ac17_every_binding_of_a_code() {
    let (site, mut browser) = logged_in();
    let mut wrong = Wrong::default();
    let plain = request_of("first");
    let bound = pkce_request_of("first");
    let named = format!("{plain}&redirect_uri=https://first.test/callback");
    let uri = ("redirect_uri", "https://first.test/callback");
    let good = ("code_verifier", VERIFIER);
    let other_verifier = b64(sha256(b"x"));
    let short = &VERIFIER[1..];
    let long = VERIFIER.repeat(3);
    let odd = VERIFIER.replace('d', "+");
    let wide = VERIFIER.replace('d', "é");
    for (case, query, client, more, expected) in [
        ("good", &plain, "first", vec![], "200"),
        ("AC2 another client", &plain, "second", vec![], BAD_GRANT),
        ("AC4 named and missing", &named, "first", vec![], BAD_GRANT),
        ("AC4 named", &named, "first", vec![uri], "200"),
        ("AC4 named, another", &named, "first", vec![("redirect_uri", "https://first.test/other")], BAD_GRANT),
        ("AC4 named, with a slash", &named, "first", vec![("redirect_uri", "https://first.test/callback/")], BAD_GRANT),
        ("AC4 named, empty", &named, "first", vec![("redirect_uri", "")], BAD_GRANT),
        ("AC4 not named, but sent", &plain, "first", vec![uri], "200"),
        ("AC4 not named, another sent", &plain, "first", vec![("redirect_uri", "https://evil.test/")], BAD_GRANT),
        ("AC5 good", &bound, "first", vec![good], "200"),
        ("AC5 missing", &bound, "first", vec![], BAD_GRANT),
        ("AC5 empty", &bound, "first", vec![("code_verifier", "")], BAD_GRANT),
        ("AC5 wrong", &bound, "first", vec![("code_verifier", &other_verifier)], BAD_GRANT),
        ("AC5 another case", &bound, "first", vec![("code_verifier", &VERIFIER.to_uppercase())], BAD_GRANT),
        ("AC6 short", &bound, "first", vec![("code_verifier", short)], BAD_REQUEST),
        ("AC6 long", &bound, "first", vec![("code_verifier", &long)], BAD_REQUEST),
        ("AC6 odd", &bound, "first", vec![("code_verifier", &odd)], BAD_REQUEST),
        ("AC6 not ASCII", &bound, "first", vec![("code_verifier", &wide)], BAD_REQUEST),
        ("AC7 downgrade", &plain, "first", vec![good], BAD_REQUEST),
        ("AC8 the challenge as the verifier", &bound, "first", vec![("code_verifier", CHALLENGE)], BAD_GRANT),
        ("AC15 a scope", &plain, "first", vec![("scope", "orders:write nothing")], "200"),
        ("G3 empty", &plain, "first", vec![("code_verifier", ""), ("redirect_uri", ""), ("scope", "")], "200"),
    ] {
        let code = browser.code(query);
        let answer = redeem(&site, client, &code, &more);
        wrong.eq(case, outcome(&answer), expected);
        if case.starts_with("AC15") {
            wrong.eq("AC15 is ignored", &answer.json()["scope"], "orders:read");
        }
        // AC2: whoever else sees a code can neither use it nor use it up.
        if case.starts_with("AC2") {
            wrong.eq("AC2 still good", outcome(&redeem(&site, "first", &code, &[])), "200");
        }
    }
    let access = tokens(&redeem(&site, "first", &browser.code(&plain), &[])).0;
    let code = browser.code(&plain);
    for (case, form, expected) in [
        ("AC1 missing", "grant_type=authorization_code".to_owned(), BAD_REQUEST),
        ("AC1 empty", code_form("", &[]), BAD_REQUEST),
        ("AC1 unknown", code_form("unknown", &[]), BAD_GRANT),
        ("AC1 longer", code_form(&format!("{code}x"), &[]), BAD_GRANT),
        ("AC1 shorter", code_form(&code[1..], &[]), BAD_GRANT),
        ("AC1 an access token", code_form(&access, &[]), BAD_GRANT),
        ("AC1 huge", code_form(&"x".repeat(50_000), &[]), BAD_GRANT),
        ("G5 twice", format!("{}&code={code}", code_form(&code, &[])), BAD_REQUEST),
    ] {
        wrong.eq(case, outcome(&ask(&site, "first", &form)), expected);
    }
    wrong.eq("nothing of that used it up", outcome(&redeem(&site, "first", &code, &[])), "200");

    // Public clients.
    let native =
        format!("{}&redirect_uri=http://127.0.0.1:99/cb&scope=orders:read+offline_access", pkce_request_of("native"));
    let redirect = ("redirect_uri", "http://127.0.0.1:99/cb");
    let id = ("client_id", "native");
    for (case, more, expected) in [
        ("AC17 good", vec![id, redirect, good], "200"),
        ("AC17 no client_id", vec![redirect, good], "401 invalid_client"),
        ("AC17 another client_id", vec![("client_id", "first"), redirect, good], "401 invalid_client"),
        ("AC17 unknown client_id", vec![("client_id", "nobody"), redirect, good], "401 invalid_client"),
        ("AC4 another port", vec![id, ("redirect_uri", "http://127.0.0.1:98/cb"), good], BAD_GRANT),
        ("AC4 the registered one", vec![id, ("redirect_uri", "http://127.0.0.1/cb"), good], BAD_GRANT),
        ("AC5 no verifier", vec![id, redirect], BAD_GRANT),
    ] {
        let code = browser.code(&native);
        let answer = site.send(&token_request(&code_form(&code, &more)));
        wrong.eq(case, outcome(&answer), expected);
    }
    wrong.done();
}

#[test]
fn ac9_ac10_j31_rv8_a_second_use_ends_what_the_first_gave() {
    let (site, mut browser) = logged_in();
    let mut wrong = Wrong::default();
    let query = format!(
        "{}&scope=orders:read+offline_access&redirect_uri=https://first.test/callback",
        pkce_request_of("first")
    );
    let good = [("code_verifier", VERIFIER), ("redirect_uri", "https://first.test/callback")];
    let other = b64(sha256(b"x"));

    let code = browser.code(&query);
    let (access, refresh_token) = tokens(&redeem(&site, "first", &code, &good));
    wrong.eq("at first", site.get("/orders/7", Some(&access)).status, 200);
    // AC10: not by somebody who lacks any part of it.
    let uri = good[1];
    let attempts: Vec<(&str, Response, &str)> = vec![
        ("wrong verifier", redeem(&site, "first", &code, &[("code_verifier", &other), uri]), BAD_GRANT),
        ("no verifier", redeem(&site, "first", &code, &[uri]), BAD_GRANT),
        ("another redirect", redeem(&site, "first", &code, &[good[0], ("redirect_uri", "https://x.test/")]), BAD_GRANT),
        ("no redirect", redeem(&site, "first", &code, &good[..1]), BAD_GRANT),
        ("another client", redeem(&site, "second", &code, &good), BAD_GRANT),
        (
            "wrong secret",
            site.send(&token_request(&code_form(&code, &good)).header("Authorization", &basic("first", "wrong"))),
            "401 invalid_client",
        ),
        (
            "no secret",
            site.send(&token_request(&code_form(&code, &[("client_id", "first"), good[0], uri]))),
            "401 invalid_client",
        ),
    ];
    for (case, answer, expected) in &attempts {
        wrong.eq(("AC10", case), outcome(answer), *expected);
    }
    wrong.eq("AC10 the gateway", site.get("/orders/7", Some(&access)).status, 200);
    let answer = refresh(&site, "first", &refresh_token);
    wrong.eq("AC10 the refresh token", outcome(&answer), "200");
    let (newer, refresh_token) = tokens(&answer);

    // AC9: everything right, but for the second time.
    let again = redeem(&site, "first", &code, &good);
    wrong.eq("AC9", outcome(&again), BAD_GRANT);
    for (case, token) in [("the first", &access), ("the refreshed", &newer)] {
        let answer = site.get("/orders/7", Some(token));
        wrong.eq(
            ("J31 RV8", case),
            (answer.status, answer.challenge_param("error")),
            (401, Some("invalid_token".into())),
        );
    }
    wrong.eq("AC9 the refresh token", outcome(&refresh(&site, "first", &refresh_token)), BAD_GRANT);
    wrong.eq("AC9 a third time", outcome(&redeem(&site, "first", &code, &good)), BAD_GRANT);
    // The user's other grants live on.
    let (access, _) = tokens(&redeem(&site, "first", &browser.code(&query), &good));
    wrong.eq("another grant", site.get("/orders/7", Some(&access)).status, 200);
    site.gateway.wait_log("the reuse", |line| crate::support::field(line, "event") == Some("code_reuse"));
    wrong.done();
}

#[test]
fn ac11_wrong_verifiers_use_a_code_up_only_by_number() {
    let (site, mut browser) = logged_in();
    let other = b64(sha256(b"x"));
    let attempt = |code: &str, verifier: &str| outcome(&redeem(&site, "first", code, &[("code_verifier", verifier)]));
    let code = browser.code(&pkce_request_of("first"));
    for _ in 0..4 {
        assert_eq!(attempt(&code, &other), BAD_GRANT);
    }
    assert_eq!(attempt(&code, VERIFIER), "200", "four wrong verifiers are forgiven");
    let code = browser.code(&pkce_request_of("first"));
    for _ in 0..5 {
        assert_eq!(attempt(&code, &other), BAD_GRANT);
    }
    assert_eq!(attempt(&code, VERIFIER), BAD_GRANT, "five are not");
}

#[test]
fn t12_of_many_at_once_one_gets_the_tokens() {
    let (site, mut browser) = logged_in();
    let code = browser.code(&request_of("first"));
    let answers: Vec<Response> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8).map(|_| scope.spawn(|| redeem(&site, "first", &code, &[]))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let mut outcomes: Vec<_> = answers.iter().map(outcome).collect();
    outcomes.sort();
    assert_eq!(outcomes, [vec!["200"], vec![BAD_GRANT; 7]].concat());
    // And the others ended it, at the latest by now.
    let access = tokens(answers.iter().find(|answer| answer.status == 200).unwrap()).0;
    assert_eq!(site.get("/orders/7", Some(&access)).status, 401);
}

#[test]
fn ac3_ac12_codes_expire() {
    let mut site = server::browsed().embedded().start();
    let mut browser = site.browser();
    let early = browser.code(&request_of("first"));
    let used = browser.code(&request_of("first"));
    let access = tokens(&redeem(&site, "first", &used, &[])).0;
    site.gateway.later(30);
    assert_eq!(outcome(&redeem(&site, "first", &early, &[])), "200", "AC3: 30 s later");
    browser.moved(site.gateway.address("main"));
    let late = browser.code(&request_of("first"));
    site.gateway.later(61);
    assert_eq!(outcome(&redeem(&site, "first", &late, &[])), BAD_GRANT, "AC3");
    assert_eq!(site.get("/orders/7", Some(&access)).status, 200);
    assert_eq!(outcome(&redeem(&site, "first", &used, &[])), BAD_GRANT, "AC12");
    assert_eq!(site.get("/orders/7", Some(&access)).status, 401, "AC12: a replay is noticed after the expiry too");
}

#[test]
fn ac13_ac14_what_changed_between_code_and_exchange() {
    let mut site = server::browsed().embedded().start();
    let mut wrong = Wrong::default();
    let config = site.gateway.read("tollgate.toml");
    let users = server::users();
    let alice = "roles = [\"clerk\"]\nclaims";
    let scope = "&scope=orders:read+orders:write+offline_access";
    for (case, new_users, new_config, expected) in [
        ("nothing", users.clone(), config.clone(), "200 orders:read orders:write offline_access"),
        ("AC13 disabled", users.replacen(alice, &format!("disabled = true\n{alice}"), 1), config.clone(), BAD_GRANT),
        (
            "AC13 another password",
            users.replacen(&server::cheap_hash(PASSWORD), &server::cheap_hash("new"), 1),
            config.clone(),
            BAD_GRANT,
        ),
        ("AC13 deleted", users.replacen("\"alice\"", "\"alicia\"", 1), config.clone(), BAD_GRANT),
        (
            "S4-9 another role",
            users.replacen("[\"clerk\"]", "[\"reader\"]", 1),
            config.clone(),
            "200 orders:read offline_access",
        ),
        (
            "AC14 no grant",
            users.clone(),
            config.replacen(
                "[\"authorization_code\", \"refresh_token\"]\nredirect_uris = [\"https://first",
                "[\"refresh_token\"]\nredirect_uris = [\"https://first",
                1,
            ),
            "400 unauthorized_client",
        ),
    ] {
        let mut browser = site.browser();
        let code = browser.code(&format!("{}{scope}", request_of("first")));
        site.gateway.write("users.toml", new_users);
        site.gateway.write("tollgate.toml", new_config);
        site.gateway.restart();
        let answer = redeem(&site, "first", &code, &[]);
        let mut got = outcome(&answer);
        if answer.status == 200 {
            got = format!("200 {}", answer.json()["scope"].as_str().unwrap_or_default());
        }
        wrong.eq(case, got, expected);
        site.gateway.write("users.toml", &users);
        site.gateway.write("tollgate.toml", &config);
        site.gateway.restart();
    }
    let first = config.find("[authorization_server.clients.first]").unwrap();
    let (before, after) = config.split_at(first);
    let fewer = format!("{before}{}", after.replacen("\"orders:read\", \"orders:write\", ", "\"orders:read\", ", 1));
    let mut browser = site.browser();
    let code = browser.code(&format!("{}{scope}", request_of("first")));
    site.gateway.write("tollgate.toml", fewer);
    site.gateway.restart();
    let answer = redeem(&site, "first", &code, &[]);
    wrong.eq("AC14 fewer scopes", outcome(&answer), "200");
    wrong.eq("AC14 fewer scopes", &answer.json()["scope"], "orders:read offline_access");
    wrong.done();
}

#[test]
fn ac13_l9_a_code_ends_with_its_session() {
    let (site, mut browser) = logged_in();
    let code = browser.code(&request_of("first"));
    let page = browser.get("/oauth2/logout");
    assert_eq!(browser.submit(&Form::of(&page)).status, 200);
    assert_eq!(outcome(&redeem(&site, "first", &code, &[])), BAD_GRANT);
}

#[test]
fn t11_r13_resources_become_the_audience() {
    let (site, mut browser) = logged_in();
    let mut wrong = Wrong::default();
    let audience = |answer: &Response| -> Value {
        match answer.status {
            200 => mint::payload(answer.json()["access_token"].as_str().unwrap())["aud"].clone(),
            _ => outcome(answer).into(),
        }
    };
    let query = |more: &str| format!("{}&scope=orders:read+offline_access{more}", request_of("audience"));
    let (one, other) = ("http://127.0.0.1", "https://orders.test");
    let both = format!("&resource={one}&resource={other}");
    for (case, asked, narrowed, expected) in [
        ("none", "", "", json!([one, other])),
        ("one", "&resource=https://orders.test", "", json!(other)),
        ("both", both.as_str(), "", json!([one, other])),
        ("narrowed", both.as_str(), other, json!(other)),
        ("widened", "&resource=https://orders.test", one, json!("400 invalid_target")),
        ("unknown", "", "https://evil.test", json!("400 invalid_target")),
    ] {
        let more = if narrowed.is_empty() { vec![] } else { vec![("resource", narrowed)] };
        let answer = redeem(&site, "audience", &browser.code(&query(asked)), &more);
        let got = audience(&answer);
        let one_of_one = |value: &Value| value.as_array().filter(|all| all.len() == 1).map(|all| all[0].clone());
        wrong.eq(case, one_of_one(&got).unwrap_or(got), expected);
        if case == "both" {
            let token = tokens(&answer).1;
            let form = server::refresh_form(&token, &[("resource", other)]);
            let narrowed = ask(&site, "audience", &form);
            let got = audience(&narrowed);
            wrong.eq("R13 narrowed", one_of_one(&got).unwrap_or(got), json!(other));
            let form = server::refresh_form(&tokens(&narrowed).1, &[("resource", "https://evil.test")]);
            wrong.eq("R13 widened", audience(&ask(&site, "audience", &form)), json!("400 invalid_target"));
        }
        if case == "one" {
            wrong.eq("not for this gateway", site.get("/orders/7", Some(&tokens(&answer).0)).status, 401);
        }
    }
    wrong.done();
}

#[test]
fn g16_nothing_that_opens_doors_is_stored() {
    let site = server::browsed().embedded().start();
    let mut browser = site.browser();
    let code = browser.code(&format!("{}&scope=orders:read+offline_access", request_of("first")));
    let spare = browser.code(&request_of("first"));
    let (access, refresh_token) = tokens(&redeem(&site, "first", &code, &[]));
    let cookie = browser.cookies["tollgate-session"].clone();
    let mut pending = vec![site.gateway.dir.path().join("data")];
    let mut bytes = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            bytes.extend(std::fs::read(&path).unwrap());
        }
    }
    assert!(!bytes.is_empty());
    for (case, secret) in
        [("code", &code), ("code", &spare), ("access", &access), ("refresh", &refresh_token), ("session", &cookie)]
    {
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "a {case} stands in the store");
    }
}

#[test]
fn ac_codes_survive_a_kill_whole_or_not_at_all() {
    let mut site = server::browsed().embedded().start();
    let mut wrong = Wrong::default();
    for round in 0..4 {
        let mut browser = site.browser();
        let code = browser.code(&format!("{}&scope=orders:read+offline_access", request_of("first")));
        let request = token_request(&code_form(&code, &[])).header("Authorization", &basic("first", SECRET));
        let mut conn = site.connect();
        conn.write(request.bytes());
        if round % 2 == 1 {
            // Far enough for the answer to have begun.
            conn.wire.until(b"\r\n").unwrap();
        }
        site.gateway.kill();
        site.gateway.start_again();
        let first = outcome(&redeem(&site, "first", &code, &[]));
        wrong.ok((round, "either state"), ["200", BAD_GRANT].contains(&first.as_str()), &first);
        wrong.ok((round, "after the answer"), round % 2 == 0 || first == BAD_GRANT, &first);
        wrong.eq((round, "not twice"), outcome(&redeem(&site, "first", &code, &[])), BAD_GRANT);
    }
    wrong.done();
}
