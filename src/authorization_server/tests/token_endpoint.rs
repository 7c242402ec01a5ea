//! The token endpoint: client authentication, the password grant, refresh, guessing.

use super::*;

#[tokio::test]
async fn ca_client_authentication() {
    let bench = Bench::new().await;
    let app = || Some(basic("app", "s3cret"));
    const OK: &str = "grant_type=password&username=alice&password=wonderland";
    const ASK: &str = "grant_type=password";
    check(
        &bench,
        "/oauth2/token",
        vec![
            ("P1 CA1", app(), OK, 200, ""),
            ("CA21", Some(basic("app", "n3xt")), OK, 200, ""),
            ("CA1 decoded", Some(basic("odd%3Aid%2F+%2B", "p%25w%2Bd%3A%2F+%3D")), OK, 200, ""),
            ("CA2", Some(basic("app", "s3cret").replace("Basic ", "bAsIc   ")), OK, 200, ""),
            ("CA3", Some("Basic !".into()), ASK, 401, "invalid_client"),
            ("CA5", Some(basic("nosuch", "s3cret")), ASK, 401, "invalid_client"),
            ("CA5", Some(basic("app", "wrong")), ASK, 401, "invalid_client"),
            ("CA6", app(), "grant_type=password&client_secret=s3cret", 400, "invalid_request"),
            ("CA8 same", app(), "client_id=app&grant_type=foo", 400, "unsupported_grant_type"),
            ("CA8", app(), "client_id=spa&grant_type=password", 400, "invalid_request"),
            ("CA9", None, "client_id=app&grant_type=password", 401, "invalid_client"),
            ("CA10", None, "client_id=spa&grant_type=foo", 400, "unsupported_grant_type"),
            ("CA10 G3", None, "client_id=spa&client_secret=&grant_type=foo", 400, "unsupported_grant_type"),
            ("CA10", None, "client_id=spa&client_secret=x&grant_type=foo", 401, "invalid_client"),
            ("CA10", Some(basic("spa", "")), "grant_type=foo", 400, "unsupported_grant_type"),
            ("CA10", Some(basic("spa", "x")), "grant_type=foo", 401, "invalid_client"),
            ("CA11", None, OK, 401, "invalid_client"),
            ("CA12", Some("Bearer abc".into()), "client_id=spa&grant_type=foo", 401, "invalid_client"),
            ("CA12", Some("Negotiate abc".into()), ASK, 401, "invalid_client"),
            ("CA14", Some(basic("postonly", "x")), ASK, 401, "invalid_client"),
            (
                "S0-5",
                None,
                "client_id=app&client_secret=s3cret&grant_type=password&username=alice&password=wonderland",
                200,
                "",
            ),
            ("CA5 argon2id", Some(basic("slow", "tortoise")), OK, 200, ""),
            ("CA5 argon2id", Some(basic("slow", "hare")), ASK, 401, "invalid_client"),
        ],
    )
    .await;
    // CA5: nothing tells an unknown client from a wrong secret.
    let unknown = bench.post("/oauth2/token", Some(&basic("nosuch", "x")), ASK).await;
    let wrong = bench.post("/oauth2/token", Some(&basic("app", "x")), ASK).await;
    assert_eq!((unknown.body, unknown.headers), (wrong.body, wrong.headers));
    // CA13
    let twice = Request::builder().method("POST").header("content-type", FORM);
    let twice = twice.header("authorization", basic("app", "s3cret")).header("authorization", basic("app", "s3cret"));
    assert_eq!(bench.send("/oauth2/token", twice, ASK).await.error(), "invalid_request");
}

#[tokio::test]
async fn t_token_requests() {
    let bench = Bench::new().await;
    let app = || Some(basic("app", "s3cret"));
    check(
        &bench,
        "/oauth2/token",
        vec![
            ("T3", app(), "", 400, "invalid_request"),
            ("T3", app(), "grant_type=", 400, "invalid_request"),
            ("T3", app(), "grant_type=password&grant_type=password", 400, "invalid_request"),
            ("T3", app(), "grant_type=PASSWORD", 400, "unsupported_grant_type"),
            ("T3", app(), "grant_type=implicit", 400, "unsupported_grant_type"),
            (
                "T4",
                Some(basic("norights", "x")),
                "grant_type=password&username=alice&password=x",
                400,
                "unauthorized_client",
            ),
            ("T5", None, "grant_type=foo", 401, "invalid_client"),
            ("G4", app(), "grant_type=foo&x=1&x=2", 400, "unsupported_grant_type"),
            ("G5", app(), "grant_type=password&scope=&scope=read", 400, "invalid_request"),
            ("G7", app(), "grant_type=password&username=%ff", 400, "invalid_request"),
            ("G7", app(), "grant_type=pass%00word", 400, "invalid_request"),
            (
                "T6",
                app(),
                "grant_type=password&username=alice&password=wonderland&scope=read%09write",
                400,
                "invalid_scope",
            ),
            ("T6", app(), "grant_type=password&username=alice&password=wonderland&scope=++write++read+write", 200, ""),
            ("T7", app(), "grant_type=password&username=alice&password=wonderland&scope=nosuch", 400, "invalid_scope"),
            ("T7", app(), "grant_type=password&username=alice&password=wonderland&scope=READ", 400, "invalid_scope"),
            (
                "T11",
                app(),
                "grant_type=password&username=alice&password=wonderland&resource=https://api.example",
                200,
                "",
            ),
            (
                "T11",
                app(),
                "grant_type=password&username=alice&password=wonderland&resource=https://other.example",
                400,
                "invalid_target",
            ),
            (
                "T11",
                app(),
                "grant_type=password&username=alice&password=wonderland&resource=api",
                400,
                "invalid_target",
            ),
            ("P2", app(), "grant_type=password&username=alice", 400, "invalid_request"),
            ("P2", app(), "grant_type=password&username=&password=x", 400, "invalid_request"),
            ("P3", app(), "grant_type=password&username=alice&password=wrong", 400, "invalid_grant"),
            ("P3", app(), "grant_type=password&username=ALICE&password=wonderland", 400, "invalid_grant"),
            (
                "P4",
                None,
                "client_id=spa&grant_type=password&username=alice&password=wonderland",
                400,
                "unauthorized_client",
            ),
            ("P4 C1", None, "client_id=cli&grant_type=password&username=alice&password=wonderland", 200, ""),
            ("P5", app(), "grant_type=password&username=alice&password=wrong&scope=nosuch", 400, "invalid_scope"),
            (
                "P6",
                app(),
                "grant_type=password&username=zo%C3%AB+%25%26%3D%2B&password=+p%C3%A4ss+%2B%25%26%3D+",
                200,
                "",
            ),
            ("P6", app(), "grant_type=password&username=alice%0d&password=wonderland", 400, "invalid_request"),
            ("P8", app(), "grant_type=password&username=alice&password=wonderland&state=a%07", 400, "invalid_request"),
            ("C2", app(), "grant_type=password&username=nobody&password=nothing", 400, "invalid_scope"),
            ("C2", app(), "grant_type=password&username=alice&password=wonderland&scope=admin", 400, "invalid_scope"),
            ("R1", app(), "grant_type=refresh_token", 400, "invalid_request"),
            ("R1", app(), "grant_type=refresh_token&refresh_token=nosuch", 400, "invalid_grant"),
            ("R2", None, "grant_type=refresh_token&refresh_token=nosuch&client_id=app", 401, "invalid_client"),
        ],
    )
    .await;
    for method in ["GET", "PUT", "HEAD"] {
        let answer = bench.send("/oauth2/token", Request::builder().method(method), "").await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "POST"), "T1 G11");
    }
    let body = "client_id=cli&grant_type=password&username=alice&password=wonderland";
    for (content_type, status) in [
        ("application/x-www-form-urlencoded; charset=\"utf-8\"", 200),
        ("Application/X-WWW-Form-URLencoded;charset=UTF-8", 200),
        ("application/json", 400),
        ("text/plain", 400),
        ("", 400),
    ] {
        let request = Request::builder().method("POST").header("content-type", content_type);
        assert_eq!(bench.send("/oauth2/token", request, body).await.status.as_u16(), status, "T2 {content_type}");
    }
    for query in ["client_secret=x", "password=wonderland", "refresh_token="] {
        let answer = bench.post(&format!("/oauth2/token?{query}"), None, body).await;
        assert_eq!(answer.error(), "invalid_request", "G6 {query}");
    }
    assert_eq!(bench.post("/oauth2/token?scope=admin", None, body).await.text("scope"), "read", "G6");
    let large = bench.token(&format!("grant_type=password&x={}", "x".repeat(65_536))).await;
    assert_eq!((large.status.as_u16(), large.error().as_str()), (413, "invalid_request"), "G12");
    assert_eq!(bench.post("/oauth2/nosuch", None, "").await.status.as_u16(), 404);
    assert_eq!(bench.server.endpoint("/oauth2x"), None);
}

#[tokio::test]
async fn t9_the_response_and_the_token_of_rfc_9068() {
    let bench = Bench::new().await;
    let answer = bench.login("write+read+offline_access&state=xyz%20%26").await;
    let body = answer.json();
    assert_eq!(answer.header("content-type"), "application/json", "G2");
    assert_eq!(answer.header("pragma"), "no-cache", "G1");
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 3600, "S0-8");
    assert_eq!(body["scope"], "write read offline_access", "T8");
    assert_eq!(body["state"], "xyz &", "P8");
    assert!(body["refresh_token"].as_str().unwrap().len() >= 43, "P7 G16");
    let header = part(&answer.text("access_token"), 0);
    assert_eq!(header, json!({ "typ": "at+jwt", "alg": "ES256", "kid": header["kid"] }));
    let claims = answer.claims();
    let jti = claims["jti"].clone();
    assert_eq!(
        claims,
        json!({
            "iss": "https://api.example", "sub": "alice", "aud": "https://api.example", "client_id": "app",
            "iat": START, "exp": START + 3600, "auth_time": START, "amr": ["pwd"], "jti": jti,
            "scope": "write read offline_access", "roles": ["clerk"], "tenant": "acme",
        }),
        "P1; a user's claims cannot override registered ones"
    );
    let plain = bench.login("").await.json();
    assert_eq!(
        (&plain["scope"], &plain["refresh_token"], &plain["state"]),
        (&json!("read"), &Value::Null, &Value::Null)
    );
    assert_eq!(bench.login("read+admin").await.text("scope"), "read", "C2 S4-9: narrowed to the user's");
    let root = bench.token("grant_type=password&username=root&password=everything&scope=read+admin").await;
    assert_eq!(root.text("scope"), "read admin");
    let jwks = bench.send("/oauth2/jwks", Request::builder(), "").await.json();
    assert_eq!(jwks["keys"][0]["kid"], header["kid"]);
    assert_eq!(bench.metrics.tokens_issued.with_label_values(&["password", "app"]).get(), 4);
}

#[tokio::test]
async fn c2_excess_scope_can_be_rejected_and_offline_access_depends_on_the_client() {
    let bench = Bench::with(|settings| settings.excess_user_scope = ExcessUserScope::Reject).await;
    assert_eq!(bench.login("read+admin").await.error(), "invalid_scope");
    let bench = Bench::with(|settings| settings.clients[0].refresh = RefreshPolicy::Never).await;
    let answer = bench.login("read+offline_access").await.json();
    assert_eq!((&answer["scope"], &answer["refresh_token"]), (&json!("read"), &Value::Null), "P7");
    let bench = Bench::with(|settings| settings.clients[0].refresh = RefreshPolicy::Always).await;
    assert!(bench.login("read").await.json()["refresh_token"].is_string(), "S3-3");
    let bench = Bench::with(|settings| settings.clients[0].default_scopes = ScopeSet::default()).await;
    assert_eq!(bench.login("").await.error(), "invalid_scope", "T7");
}

#[tokio::test]
async fn p3_every_failed_login_looks_the_same() {
    let bench = Bench::new().await;
    let ask = async |name: &str, password: &str| {
        bench.token(&format!("grant_type=password&username={name}&password={password}")).await
    };
    let wrong = ask("alice", "x").await;
    for (name, password) in [("nosuch", "wonderland"), ("dora", "disabled"), ("dora", "x")] {
        let answer = ask(name, password).await;
        assert_eq!((&answer.body, &answer.headers), (&wrong.body, &wrong.headers), "{name}");
    }
    // Locked, at an address of its own.
    let public = async |password: &str| {
        let body = format!("client_id=cli&grant_type=password&username=alice&password={password}");
        bench.post("/oauth2/token", None, &body).await
    };
    for _ in 0..5 {
        assert_eq!(public("x").await.body, wrong.body);
    }
    let locked = public("wonderland").await;
    assert_eq!((locked.status.as_u16(), locked.body), (400, wrong.body), "P9");
    bench.clock.advance(60);
    assert_eq!(public("wonderland").await.status.as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn p9_behind_a_confidential_client_the_right_password_is_never_refused() {
    let bench = Bench::new().await;
    let wrong = "grant_type=password&username=alice&password=x";
    for _ in 0..8 {
        assert_eq!(bench.token(wrong).await.error(), "invalid_grant");
    }
    let before = tokio::time::Instant::now();
    assert_eq!(bench.login("read").await.status.as_u16(), 200);
    assert_eq!(before.elapsed().as_secs(), 8, "1, 2, 4, 8 s after the fifth failure");
    let before = tokio::time::Instant::now();
    assert_eq!(bench.login("read").await.status.as_u16(), 200);
    assert_eq!(before.elapsed().as_secs(), 0);
}

#[tokio::test]
async fn p9_attempts_at_once_do_not_slip_through() {
    let bench = Bench::new().await;
    let public = |n: u32| {
        let password = if n < 30 { "x" } else { "wonderland" };
        let body = format!("client_id=cli&grant_type=password&username=alice&password={password}");
        let bench = &bench;
        async move { bench.post("/oauth2/token", None, &body).await.status.as_u16() }
    };
    assert_eq!(futures_join((0..31).map(public)).await, [400; 31], "the right one comes after five wrong ones");
    let app = |n: u32| {
        let bench = &bench;
        async move {
            let password = if n < 30 { "x" } else { "everything" };
            let begin = tokio::time::Instant::now();
            bench.token(&format!("grant_type=password&username=root&password={password}")).await;
            begin.elapsed().as_secs()
        }
    };
    let answers = futures_join((0..31).map(app));
    let early = tokio::time::timeout(Duration::from_millis(900), answers).await;
    assert!(early.is_err(), "what was asked along with five wrong ones waits");
}

#[tokio::test]
async fn p9_an_address_that_fails_too_often_gets_429_and_right_secrets_still_pass() {
    let bench = Bench::new().await;
    for _ in 0..50 {
        assert_eq!(bench.post("/oauth2/token", Some(&basic("app", "x")), "").await.status.as_u16(), 401);
    }
    let answer = bench.post("/oauth2/token", Some(&basic("app", "x")), "").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "60"), "CA21");
    assert_eq!(answer.error(), "temporarily_unavailable");
    assert_eq!(bench.login("read").await.status.as_u16(), 200, "a misconfigured neighbour locks nobody out");
    let public = "client_id=cli&grant_type=password&username=alice&password=wonderland";
    assert_eq!(bench.post("/oauth2/token", None, public).await.status.as_u16(), 429, "L11");
}

#[tokio::test]
async fn password_until_ends_the_grant_on_a_day() {
    let bench = Bench::new().await;
    let body = "grant_type=password&username=alice&password=wonderland";
    let ask = async || bench.post("/oauth2/token", Some(&basic("ending", "x")), body).await;
    bench.clock.advance(99);
    assert_eq!(ask().await.status.as_u16(), 200);
    bench.clock.advance(1);
    assert_eq!(ask().await.error(), "unauthorized_client");
}

#[tokio::test]
async fn r_refresh_tokens() {
    let bench = Bench::new().await;
    let first = bench.login("read+write+offline_access").await;
    let second = bench.refresh(&first.text("refresh_token")).await;
    assert_eq!(second.text("scope"), "read write offline_access", "R3");
    assert_ne!(second.text("refresh_token"), first.text("refresh_token"), "R4");
    let claims = second.claims();
    assert_eq!((&claims["sub"], &claims["auth_time"]), (&json!("alice"), &json!(START)));
    let narrower =
        format!("grant_type=refresh_token&scope=read&state=x&refresh_token={}", second.text("refresh_token"));
    let narrow = bench.token(&narrower).await;
    assert_eq!((narrow.text("scope").as_str(), &narrow.json()["state"]), ("read", &Value::Null), "R3 R13");
    let token = narrow.text("refresh_token");
    let little = bench.login("read+offline_access").await.text("refresh_token");
    let more = bench.token(&format!("grant_type=refresh_token&scope=read+write&refresh_token={little}")).await;
    assert_eq!(more.error(), "invalid_scope", "R3: the user may have it, but it was not granted");
    let full = bench.refresh(&token).await;
    assert_eq!(full.text("scope"), "read write offline_access", "R3: the refresh token keeps the full scope");
    let token = full.text("refresh_token");
    let more = bench.token(&format!("grant_type=refresh_token&scope=admin&refresh_token={token}")).await;
    assert_eq!(more.error(), "invalid_scope", "R3");
    let other = bench
        .post(
            "/oauth2/token",
            Some(&basic("slow", "tortoise")),
            &format!("grant_type=refresh_token&refresh_token={token}"),
        )
        .await;
    assert_eq!(other.error(), "invalid_grant", "R1 R6");
    let access = bench.refresh(&full.text("access_token")).await;
    assert_eq!(access.error(), "invalid_grant", "R1: an access token");
    assert_eq!(bench.refresh(&token).await.status.as_u16(), 200);
    let reuse = bench.refresh(&first.text("refresh_token")).await;
    assert_eq!(reuse.error(), "invalid_grant", "R5");
    let jti = full.claims()["jti"].as_str().unwrap().to_owned();
    assert!(bench.server.revocations().is_revoked(&jti), "R5 RV8");
    assert_eq!(bench.metrics.refresh_reuse.get(), 1);
}

#[tokio::test]
async fn r7_a_lost_answer_is_survived_without_a_clock() {
    let bench = Bench::new().await;
    let first = bench.login("read+offline_access").await.text("refresh_token");
    let lost = bench.refresh(&first).await;
    bench.clock.advance(300);
    let again = bench.refresh(&first).await;
    assert_eq!(again.status.as_u16(), 200);
    let jti = |answer: &Answer| answer.claims()["jti"].as_str().unwrap().to_owned();
    assert!(bench.server.revocations().is_revoked(&jti(&lost)));
    bench.store.access_token_seen(&jti(&again));
    assert_eq!(bench.refresh(&first).await.error(), "invalid_grant", "its successor was used");
    assert!(bench.server.revocations().is_revoked(&jti(&again)));
}

#[tokio::test]
async fn r9_r10_lifetimes_and_changes_of_the_user() {
    let mut bench = Bench::new().await;
    let token = bench.login("read+write+offline_access").await.text("refresh_token");
    bench.reload(|settings| settings.roles = BTreeMap::from([("clerk".into(), scopes("read"))])).await;
    let answer = bench.refresh(&token).await;
    assert_eq!(answer.text("scope"), "read offline_access", "R10: a role lost a scope");
    let token = answer.text("refresh_token");
    bench.reload(|settings| settings.clients[0].grants = vec![Grant::Password]).await;
    assert_eq!(bench.refresh(&token).await.error(), "unauthorized_client", "R11");
    bench.reload(|settings| settings.users = vec![UserSource::File(vec![user("alice", "looking-glass")])]).await;
    assert_eq!(bench.refresh(&token).await.error(), "invalid_grant", "R10 P11: the password changed");
    bench.reload(|_| ()).await;
    assert_eq!(bench.refresh(&token).await.error(), "invalid_grant", "P11: the family is gone for good");

    let token = bench.login("read+offline_access").await.text("refresh_token");
    bench.clock.advance(14 * 86400);
    assert_eq!(bench.refresh(&token).await.error(), "invalid_grant", "R9: idle");
    let mut token = bench.login("read+offline_access").await.text("refresh_token");
    for _ in 0..6 {
        bench.clock.advance(13 * 86400);
        token = bench.refresh(&token).await.text("refresh_token");
    }
    bench.clock.advance(12 * 86400);
    assert_eq!(bench.refresh(&token).await.error(), "invalid_grant", "R9: absolute");
}

#[tokio::test]
async fn g13_g14_cleartext_and_cors() {
    let bench = Bench::new().await;
    let ask = async |https, loopback| {
        let request = Request::builder().method("POST").uri("/oauth2/token").header("content-type", FORM);
        let request = request.body(Full::new(Bytes::from("grant_type=foo&client_id=cli"))).unwrap();
        let caller = Caller { https, loopback, ..caller("127.0.0.1") };
        bench.server.handle(Endpoint::Token, request, &caller).await
    };
    for (https, loopback, error) in [
        (false, false, "invalid_request"),
        (false, true, "unsupported_grant_type"),
        (true, false, "unsupported_grant_type"),
    ] {
        let body: Value = serde_json::from_slice(ask(https, loopback).await.body()).unwrap();
        assert_eq!(body["error"], error, "G13");
    }
    for (origin, allowed) in [("https://app.example", true), ("https://evil.example", false)] {
        let preflight = Request::builder().method("OPTIONS").header("origin", origin);
        let answer = bench.send("/oauth2/token", preflight, "").await;
        assert_eq!(answer.status.as_u16(), 204);
        assert_eq!(answer.headers.contains_key("access-control-allow-origin"), allowed, "G14");
        let post = Request::builder().method("POST").header("content-type", FORM).header("origin", origin);
        let answer = bench.send("/oauth2/token", post.header("authorization", basic("app", "x")), "").await;
        assert_eq!(answer.header("access-control-allow-origin"), if allowed { origin } else { "" });
    }
}
