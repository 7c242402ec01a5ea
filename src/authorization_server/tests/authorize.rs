//! The authorization endpoint and the exchange of its codes.

use super::*;

#[tokio::test]
async fn a_the_whole_journey_with_login_and_consent() {
    let bench = Bench::new().await;
    let mut browser = Browser::new(&bench);
    let page =
        browser.get(&format!("/oauth2/authorize?{APP}&scope=read+admin+offline_access&login_hint=al%22ice")).await;
    assert!(page.html().contains("The app &lt;client&gt;"), "L6");
    assert!(page.html().contains("value=\"al&quot;ice\""), "A15 L6: {}", page.html());
    assert!(page.html().contains("autocomplete=\"current-password\"") && !page.html().contains("<script"), "L5");
    assert_eq!(page.header("x-frame-options"), "DENY", "L4");
    assert_eq!(page.header("cache-control"), "no-store");
    assert_eq!(
        page.header("content-security-policy"),
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self' https://app.example; \
         frame-ancestors 'none'; base-uri 'none'",
        "L4"
    );
    let wrong = browser.submit(&page, "username=alice&password=x").await;
    assert_eq!(wrong.status.as_u16(), 403, "L3");
    assert!(wrong.html().contains("value=\"alice\"") && wrong.html().contains("role=\"alert\""), "L3 L5");
    let unknown = browser.submit(&page, "username=nosuch&password=x").await;
    let neutral = |answer: &Answer, name: &str| {
        let html = answer.html().replace(name, "NAME");
        let sealed = attribute(html.split("name=\"transaction\"").nth(1).unwrap(), "value");
        html.replace(&sealed, "SEALED")
    };
    assert_eq!(neutral(&wrong, "alice"), neutral(&unknown, "nosuch"), "L3");

    let answer = browser.submit(&wrong, "username=alice&password=wonderland").await;
    assert_eq!(answer.status.as_u16(), 303, "A17");
    let consent = answer.header("location").to_owned();
    assert!(consent.starts_with("/oauth2/consent?transaction="), "{consent}");
    let page = browser.get(&consent).await;
    assert!(page.html().contains("<code>read</code>") && !page.html().contains("admin"), "A27: {}", page.html());
    let denied = browser.submit(&page, "decision=deny").await;
    assert_eq!((denied.status.as_u16(), denied.redirect_error().as_str()), (303, "access_denied"), "A18");
    assert_eq!(denied.parameter("state").as_deref(), Some("s& 1"), "A12");
    assert_eq!(denied.parameter("iss").as_deref(), Some("https://api.example"), "A16");
    let allowed = browser.submit(&page, "decision=allow").await;
    assert!(allowed.header("location").starts_with("https://app.example/cb?code="), "{}", allowed.header("location"));
    assert_eq!(allowed.parameter("state").as_deref(), Some("s& 1"), "A12");
    assert_eq!(allowed.parameter("iss").as_deref(), Some("https://api.example"), "A16");

    bench.clock.advance(30);
    let answer = exchange(&bench, ("app", "s3cret"), &allowed.parameter("code").unwrap(), REDIRECT).await;
    assert_eq!(answer.text("scope"), "read offline_access", "T8");
    let claims = answer.claims();
    assert_eq!(
        (&claims["auth_time"], &claims["iat"], &claims["sub"]),
        (&json!(START), &json!(START + 30), &json!("alice"))
    );
    assert_eq!(bench.refresh(&answer.text("refresh_token")).await.status.as_u16(), 200, "S2-10");

    let again = browser.get(&format!("/oauth2/authorize?{APP}&scope=read")).await;
    assert!(again.parameter("code").is_some(), "L7 A27: neither form is shown again");
    let more = browser.get(&format!("/oauth2/authorize?{APP}&scope=read+write")).await;
    assert!(more.html().contains("decision"), "A27: a new scope is asked for");
}

#[tokio::test]
async fn a2_a3_errors_without_a_redirect() {
    let bench = Bench::new().await;
    for (ids, query) in [
        ("A2", "response_type=code"),
        ("A2", "client_id=nosuch&redirect_uri=https%3A%2F%2Fapp.example%2Fcb"),
        ("A2", "client_id=app&client_id=app"),
        ("A3", "client_id=app&redirect_uri=https://app.example/cb&redirect_uri=https://app.example/cb"),
        ("A3", "client_id=native&response_type=code"),
        ("A5", "client_id=app&redirect_uri=https://app.example/cb/"),
        ("A5", "client_id=app&redirect_uri=https://APP.example/cb"),
        ("A5", "client_id=app&redirect_uri=https://app.example:443/cb"),
        ("A5", "client_id=app&redirect_uri=https://app.example/cb?x"),
        ("A5", "client_id=app&redirect_uri=https://app.example@evil.example/cb"),
        ("A5", "client_id=app&redirect_uri=https://app.example/x/../cb"),
        ("A6", "client_id=native&redirect_uri=http://127.0.0.2:5000/cb"),
        ("A6", "client_id=native&redirect_uri=http://localhost:5000/cb"),
        ("G7", "client_id=app&x=%ff"),
    ] {
        let answer = bench.send(&format!("/oauth2/authorize?{query}"), Request::builder(), "").await;
        assert_eq!(answer.status.as_u16(), 400, "{ids} {query}");
        assert_eq!(answer.header("location"), "", "{ids}");
        assert!(answer.header("content-type").starts_with("text/html") && !answer.html().contains("evil"), "A25");
    }
    let long = format!("/oauth2/authorize?{APP}&x={}", "x".repeat(17_000));
    assert_eq!(bench.send(&long, Request::builder(), "").await.status.as_u16(), 414, "A24");
    let head = bench.send("/oauth2/authorize", Request::builder().method("HEAD"), "").await;
    assert_eq!((head.status.as_u16(), head.header("allow")), (405, "GET, POST"), "A1");
    let prefetch = Request::builder().header("sec-purpose", "prefetch;prerender");
    assert_eq!(bench.send(&format!("/oauth2/authorize?{APP}"), prefetch, "").await.status.as_u16(), 403, "A1");
}

#[tokio::test]
async fn a9_to_a15_errors_with_a_redirect() {
    let bench = Bench::new().await;
    let app = "client_id=app&redirect_uri=https%3A%2F%2Fapp.example%2Fcb&state=x";
    let spa = "client_id=spa&response_type=code&redirect_uri=https%3A%2F%2Fspa.example%2Fcb&state=x";
    let challenge = |challenge: &str, method: &str| {
        format!("{app}&response_type=code&code_challenge={challenge}&code_challenge_method={method}")
    };
    for (ids, query, error) in [
        ("A9", app.to_owned(), "invalid_request"),
        ("A9", format!("{app}&response_type=token"), "unsupported_response_type"),
        ("A9", format!("{app}&response_type=code+token"), "unsupported_response_type"),
        ("A9", format!("{app}&response_type=code&response_type=code"), "invalid_request"),
        ("A9", "client_id=norights&state=x&response_type=code".to_owned(), "unauthorized_client"),
        ("A10", format!("{app}&response_type=code&response_mode=fragment"), "unsupported_response_mode"),
        ("A11", format!("{app}&response_type=code&scope=nosuch"), "invalid_scope"),
        ("A13", challenge(CHALLENGE, "plain"), "invalid_request"),
        ("A13", challenge(CHALLENGE, ""), "invalid_request"),
        ("A13", challenge(CHALLENGE, "s256"), "invalid_request"),
        ("A13", challenge("", "S256"), "invalid_request"),
        ("A13", challenge(&CHALLENGE[1..], "S256"), "invalid_request"),
        ("A13", challenge(&CHALLENGE.replace('-', "%2B"), "S256"), "invalid_request"),
        ("A14", spa.to_owned(), "invalid_request"),
        ("A14", "client_id=trusted&state=x&response_type=code".to_owned(), "invalid_request"),
        ("A15", format!("{app}&response_type=code&request=x"), "request_not_supported"),
        ("A15", format!("{app}&response_type=code&request_uri=https://evil.example"), "request_uri_not_supported"),
        ("A15", format!("{app}&response_type=code&registration=x"), "registration_not_supported"),
        ("A15", format!("{app}&response_type=code&prompt=none"), "login_required"),
        ("A15", format!("{app}&response_type=code&prompt=none+login"), "invalid_request"),
        ("A15", format!("{app}&response_type=code&max_age=soon"), "invalid_request"),
        ("T11", format!("{app}&response_type=code&resource=https://other.example"), "invalid_target"),
    ] {
        let answer = bench.send(&format!("/oauth2/authorize?{query}"), Request::builder(), "").await;
        assert_eq!((answer.status.as_u16(), answer.redirect_error().as_str()), (303, error), "{ids} {query}");
        assert_eq!(answer.parameter("state").as_deref(), Some("x"), "A12 {ids}");
        assert_eq!(answer.parameter("iss").as_deref(), Some("https://api.example"), "A16 {ids}");
        assert_eq!(
            (answer.header("cache-control"), answer.header("referrer-policy")),
            ("no-store", "no-referrer"),
            "A17"
        );
    }
    let twice = format!("/oauth2/authorize?{app}&state=y&response_type=code");
    let answer = bench.send(&twice, Request::builder(), "").await;
    assert_eq!((answer.redirect_error().as_str(), answer.parameter("state")), ("invalid_request", None), "A12");
    let long = "\u{fc}+ ".repeat(700);
    let encoded: String = form_urlencoded::byte_serialize(long.as_bytes()).collect();
    let path = format!("/oauth2/authorize?client_id=app&state={encoded}");
    assert_eq!(bench.send(&path, Request::builder(), "").await.parameter("state"), Some(long), "A12 A4");
    let ignored = format!("/oauth2/authorize?{APP}&nonce=1&nonce=2&display=page");
    assert_eq!(bench.send(&ignored, Request::builder(), "").await.status.as_u16(), 200, "A20");
}

#[tokio::test]
async fn ac_codes() {
    let bench = Bench::new().await;
    let mut browser = Browser::new(&bench);
    let app = ("app", "s3cret");
    let pkce = format!("{APP}&code_challenge={CHALLENGE}&code_challenge_method=S256");
    let with = |verifier: &str| format!("{REDIRECT}&code_verifier={verifier}");
    let wrong = VERIFIER.replace('d', "e");
    assert_eq!(exchange(&bench, app, "", REDIRECT).await.error(), "invalid_request", "AC1");
    assert_eq!(exchange(&bench, app, "nosuch", REDIRECT).await.error(), "invalid_grant", "AC1");

    let code = browser.code(&pkce).await;
    for (ids, auth, more, error) in [
        ("AC2", ("slow", "tortoise"), with(VERIFIER), "invalid_grant"),
        ("AC10", ("app", "wrong"), with(VERIFIER), "invalid_client"),
        ("AC4", app, format!("&code_verifier={VERIFIER}"), "invalid_grant"),
        ("AC4", app, format!("&redirect_uri=https://app.example/cb/&code_verifier={VERIFIER}"), "invalid_grant"),
        ("AC5", app, REDIRECT.to_owned(), "invalid_grant"),
        ("AC5 AC11", app, with(&wrong), "invalid_grant"),
        ("AC6", app, with(&VERIFIER[1..]), "invalid_request"),
        ("AC6", app, with(&VERIFIER.replace('-', "%2B")), "invalid_request"),
        ("AC8", app, with(CHALLENGE), "invalid_grant"),
    ] {
        assert_eq!(exchange(&bench, auth, &code, &more).await.error(), error, "{ids} {more}");
    }
    // None of that used it (AC2, AC11); the scope parameter is not this grant's (AC15).
    let first = exchange(&bench, app, &code, &format!("{}&scope=nosuch", with(VERIFIER))).await;
    assert_eq!(first.status.as_u16(), 200, "{:?}", first.json());
    let jti = first.claims()["jti"].as_str().unwrap().to_owned();
    assert_eq!(exchange(&bench, app, &code, &with(&wrong)).await.error(), "invalid_grant", "AC10");
    assert!(!bench.server.revocations().is_revoked(&jti), "AC10: a wrong verifier revokes nothing");
    assert_eq!(exchange(&bench, app, &code, &with(VERIFIER)).await.error(), "invalid_grant", "AC9");
    assert!(bench.server.revocations().is_revoked(&jti), "AC9");

    let code = browser.code(APP).await;
    assert_eq!(exchange(&bench, app, &code, &with(VERIFIER)).await.error(), "invalid_request", "AC7");
    bench.clock.advance(60);
    assert_eq!(exchange(&bench, app, &code, REDIRECT).await.error(), "invalid_grant", "AC3");

    let code = browser.code(&pkce).await;
    for _ in 0..5 {
        exchange(&bench, app, &code, &with(&wrong)).await;
    }
    assert_eq!(exchange(&bench, app, &code, &with(VERIFIER)).await.error(), "invalid_grant", "AC11: five is enough");

    let code = browser.code("client_id=app&response_type=code").await;
    assert_eq!(exchange(&bench, app, &code, "").await.status.as_u16(), 200, "AC4 A4: it was not named");

    let code = browser.code(APP).await;
    let page = browser.get("/oauth2/logout").await;
    browser.submit(&page, "").await;
    assert_eq!(exchange(&bench, app, &code, REDIRECT).await.error(), "invalid_grant", "AC13: logged out");

    let native = "client_id=native&response_type=code&redirect_uri=http://127.0.0.1:5000/cb";
    let native = format!("{native}&code_challenge={CHALLENGE}&code_challenge_method=S256");
    let code = browser.code(&native).await;
    let body = format!("grant_type=authorization_code&code={code}&code_verifier={VERIFIER}&redirect_uri=");
    let port = async |port| {
        bench.post("/oauth2/token", None, &format!("{body}http://127.0.0.1:{port}/cb&client_id=native")).await
    };
    assert_eq!(bench.post("/oauth2/token", None, &body).await.error(), "invalid_client", "AC17");
    assert_eq!(port(5001).await.error(), "invalid_grant", "AC4");
    assert_eq!(port(5000).await.status.as_u16(), 200, "A6");
}

#[tokio::test]
async fn ac13_ac14_changes_between_code_and_exchange() {
    let mut bench = Bench::new().await;
    let code = async |bench: &Bench| Browser::new(bench).code(&format!("{APP}&scope=read+write")).await;
    let pending = code(&bench).await;
    bench.reload(|settings| settings.users = vec![UserSource::File(vec![user("alice", "changed")])]).await;
    assert_eq!(exchange(&bench, ("app", "s3cret"), &pending, REDIRECT).await.error(), "invalid_grant", "AC13");
    bench.reload(|_| ()).await;
    let pending = code(&bench).await;
    bench.reload(|settings| settings.clients[0].scopes = scopes("read")).await;
    assert_eq!(exchange(&bench, ("app", "s3cret"), &pending, REDIRECT).await.text("scope"), "read", "AC14");
    bench.reload(|_| ()).await;
    let pending = code(&bench).await;
    bench.reload(|settings| settings.clients[0].grants = vec![Grant::Password]).await;
    assert_eq!(exchange(&bench, ("app", "s3cret"), &pending, REDIRECT).await.error(), "unauthorized_client", "AC14");
}

#[tokio::test]
async fn t12_of_exchanges_at_once_one_wins() {
    let bench = Bench::new().await;
    let code = Browser::new(&bench).code(APP).await;
    let once = || exchange(&bench, ("app", "s3cret"), &code, REDIRECT);
    let (a, b, c) = tokio::join!(once(), once(), once());
    let statuses: Vec<_> = [a, b, c].iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
}
