//! Forms, sessions and pages.

use super::*;

#[tokio::test]
async fn l1_forms_of_another_browser_are_refused() {
    let bench = Bench::new().await;
    let (mut victim, mut attacker) = (Browser::new(&bench), Browser::new(&bench));
    let (theirs, own) = (
        attacker.get(&format!("/oauth2/authorize?{APP}")).await,
        victim.get(&format!("/oauth2/authorize?{APP}")).await,
    );
    let credentials = "username=alice&password=wonderland";
    let (csrf, transaction) = (
        |page: &Answer| hidden(&page.html()).split_once('&').unwrap().0.to_owned(),
        |page: &Answer| hidden(&page.html()).split_once('&').unwrap().1.to_owned(),
    );
    for (ids, body, status) in [
        ("L1", format!("{}&{credentials}", hidden(&theirs.html())), 403),
        ("L1", format!("{}&{credentials}", transaction(&own)), 403),
        ("L1", format!("csrf=x&{}&{credentials}", transaction(&own)), 403),
        ("L10", format!("{}&{credentials}", csrf(&own)), 400),
        ("A22", format!("{}&{}&{credentials}", csrf(&own), transaction(&theirs)), 400),
        ("A22", format!("{}&{}A&{credentials}", csrf(&own), transaction(&own)), 400),
    ] {
        let answer = victim.post("/oauth2/login", &body).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (status, ""), "{ids}");
    }
    let mut without_cookies = Browser::new(&bench);
    assert_eq!(without_cookies.submit(&own, credentials).await.status.as_u16(), 403, "L1");
    let get = victim.get("/oauth2/login").await;
    assert_eq!((get.status.as_u16(), get.header("allow")), (405, "POST"));
    bench.clock.advance(600);
    assert_eq!(victim.submit(&own, credentials).await.status.as_u16(), 400, "the page is too old");
}

#[tokio::test]
async fn l2_l7_sessions() {
    let bench = Bench::new().await;
    let mut browser = Browser::new(&bench);
    const TRUSTED: &str = "client_id=trusted&response_type=code&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM\
                           &code_challenge_method=S256";
    let path = |more: &str| format!("/oauth2/authorize?{TRUSTED}{more}");
    let answer = browser.log_in(TRUSTED).await;
    assert!(answer.parameter("code").is_some(), "A27: a trusted client");
    let first = browser.cookies["__Host-tollgate-session"].clone();
    for (more, form) in
        [("", false), ("&prompt=none", false), ("&prompt=login", true), ("&max_age=0", true), ("&max_age=100", false)]
    {
        assert_eq!(browser.get(&path(more)).await.parameter("code").is_none(), form, "A15 {more}");
    }
    bench.clock.advance(101);
    assert_eq!(browser.get(&path("&max_age=100")).await.status.as_u16(), 200, "A15 max_age");
    browser.log_in(&format!("{TRUSTED}&prompt=login")).await;
    assert_ne!(browser.cookies["__Host-tollgate-session"], first, "L2: a new id at every login");
    assert!(bench.store.session(store::Digest::of(&first)).await.unwrap().is_none(), "L2: the old one is gone");

    for _ in 0..3 {
        bench.clock.advance(1700);
        assert!(browser.get(&path("")).await.parameter("code").is_some(), "L7: in use");
    }
    bench.clock.advance(1800);
    assert_eq!(browser.get(&path("")).await.status.as_u16(), 200, "L7: idle");
    browser.log_in(TRUSTED).await;
    for _ in 0..25 {
        bench.clock.advance(1700);
        assert!(browser.get(&path("")).await.parameter("code").is_some());
    }
    bench.clock.advance(1700);
    assert_eq!(browser.get(&path("")).await.status.as_u16(), 200, "L7: absolute");

    browser.log_in(TRUSTED).await;
    let session = browser.cookies["__Host-tollgate-session"].clone();
    assert_eq!(browser.post("/oauth2/logout", "").await.status.as_u16(), 403, "L9");
    let page = browser.get("/oauth2/logout").await;
    assert!(page.html().contains("alice") && browser.get(&path("")).await.parameter("code").is_some(), "L9: GET asks");
    assert_eq!(browser.submit(&page, "").await.status.as_u16(), 200);
    assert_eq!(browser.cookies["__Host-tollgate-session"], "");
    browser.cookies.insert("__Host-tollgate-session".into(), session);
    assert_eq!(browser.get(&path("")).await.status.as_u16(), 200, "L9: ended, not only forgotten");
}

#[tokio::test]
async fn l8_two_tabs_return_each_to_its_own_client() {
    let bench = Bench::new().await;
    let mut browser = Browser::new(&bench);
    let first = browser.get(&format!("/oauth2/authorize?{APP}")).await;
    let second = browser.get("/oauth2/authorize?client_id=odd%3Aid%2F+%2B&response_type=code&state=two").await;
    for (page, name) in [(second, "odd:id/ +"), (first, "app")] {
        let answer = browser.submit(&page, "username=alice&password=wonderland").await;
        let consent = answer.header("location").to_owned();
        let consent = browser.get(&consent).await;
        let answer = browser.submit(&consent, "decision=allow").await;
        assert!(answer.header("location").starts_with(&format!("https://{name}.example/cb?code=")), "L8 {name}");
    }
}

#[tokio::test]
async fn a22_a_consent_counts_in_the_session_it_was_asked_in() {
    let mut bench = Bench::new().await;
    let mut browser = Browser::new(&bench);
    let consent = browser.log_in(APP).await.header("location").to_owned();
    let page = browser.get(&consent).await;
    let login = browser.get(&format!("/oauth2/authorize?{APP}&prompt=login")).await;
    browser.submit(&login, "username=root&password=everything").await;
    let answer = browser.submit(&page, "decision=allow").await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (403, ""), "alice was asked, not root");
    let cookies = browser.cookies.clone();
    bench.reload(|settings| settings.users = vec![UserSource::File(vec![user("root", "changed")])]).await;
    let mut browser = Browser { cookies, ..Browser::new(&bench) };
    let page = browser.get(&format!("/oauth2/authorize?{APP}")).await;
    assert!(page.html().contains("name=\"password\""), "P11: a changed password ends sessions");
}

#[tokio::test]
async fn l3_l11_guessing_at_the_form() {
    let bench = Bench::new().await;
    let mut browser = Browser::new(&bench);
    let page = browser.get(&format!("/oauth2/authorize?{APP}")).await;
    for _ in 0..5 {
        assert_eq!(browser.submit(&page, "username=alice&password=x").await.status.as_u16(), 403);
    }
    assert_eq!(browser.submit(&page, "username=alice&password=wonderland").await.status.as_u16(), 403, "P9: locked");
    let other = "client_id=cli&grant_type=password&username=alice&password=wonderland";
    assert_eq!(bench.post("/oauth2/token", None, other).await.error(), "invalid_grant", "P9: one set of counters");
    assert_eq!(bench.login("read").await.status.as_u16(), 200, "nobody else is locked out");
    for n in 0..44 {
        browser.submit(&page, &format!("username=user{n}&password=x")).await;
    }
    let answer = browser.submit(&page, "username=alice&password=wonderland").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "60"), "L11");
}

#[tokio::test]
async fn an_operators_pages_replace_the_built_in_ones_and_mistakes_are_found_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    std::fs::write(path.join("login.html"), "<h1>ACME</h1>{{ client }}").unwrap();
    let own = path.clone();
    let bench = Bench::with(|settings| settings.templates = Some(own)).await;
    let page = bench.send(&format!("/oauth2/authorize?{APP}"), Request::builder(), "").await;
    assert_eq!(page.html(), "<h1>ACME</h1>The app &lt;client&gt;");
    for broken in ["{% if %}", "{{ nosuch }}"] {
        std::fs::write(path.join("login.html"), broken).unwrap();
        let mut settings = settings();
        settings.templates = Some(path.clone());
        let error = bench.server.reload(settings).await.unwrap_err().to_string();
        assert!(error.contains("login.html"), "{error}");
    }
}
