//! Login, consent and logout pages. Names carry the ids of docs/conformance.md.

use crate::support::browser::{Tag, tags};
use crate::support::server::{self, HOST, PASSWORD, encode, outcome, pkce_request_of, redeem, request_of};
use crate::support::{Browser, Callback, Form, Req, Response, Site, Wrong, send};

const SESSION: &str = "tollgate-session";
const BROWSER: &str = "tollgate-browser";

fn is_login_page(answer: &Response) -> bool {
    answer.status == 200 && answer.text().contains("name=\"password\"")
}

/// "code", or what came instead.
fn silent(browser: &mut Browser, client: &str) -> String {
    let answer = browser.authorize(&format!("{}&prompt=none", request_of(client)));
    let callback = Callback::of(&answer);
    if callback.get("code").is_some() { "code".to_owned() } else { callback.error() }
}

/// A page without what differs from one to the next.
fn stable(answer: &Response) -> (u16, String, Vec<(String, String)>) {
    let mut text = answer.text();
    if text.contains("<form") {
        let form = Form::of(answer);
        for name in ["csrf", "transaction"] {
            text = text.replace(form.value(name), "*");
        }
    }
    text = text.replace(&answer.request_id(), "*");
    let noise = ["date", "x-request-id", "content-length"];
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| !noise.contains(&name.to_ascii_lowercase().as_str()));
    headers.sort();
    (answer.status, text, headers)
}

#[test]
fn l1_l10_forms_are_bound_to_their_browser() {
    let site = server::browsed().start();
    let mut wrong = Wrong::default();
    let mut browser = site.browser();
    let page = browser.authorize(&request_of("first"));
    let form = Form::of(&page).with("username", "alice").with("password", PASSWORD);
    let mut stranger = site.browser();
    let other = Form::of(&stranger.authorize(&request_of("first")));
    let cookieless = site.browser();
    for (case, mut who, form, expected) in [
        ("no token", browser.clone(), form.clone().without("csrf"), 403),
        ("empty token", browser.clone(), form.clone().with("csrf", ""), 403),
        ("a wrong token", browser.clone(), form.clone().with("csrf", &"A".repeat(43)), 403),
        ("another browser's token", browser.clone(), form.clone().with("csrf", other.value("csrf")), 403),
        (
            "another browser's form",
            browser.clone(),
            form.clone().with("csrf", other.value("csrf")).with("transaction", other.value("transaction")),
            403,
        ),
        (
            "another browser's transaction",
            browser.clone(),
            form.clone().with("transaction", other.value("transaction")),
            400,
        ),
        ("sent by another browser", stranger.clone(), form.clone(), 403),
        ("sent without cookies", cookieless.clone(), form.clone(), 403),
        ("L10 no transaction", browser.clone(), form.clone().without("transaction"), 400),
        ("L10 a URL instead", browser.clone(), form.clone().with("transaction", "https://evil.test/"), 400),
        (
            "L10 a URL beside",
            browser.clone(),
            form.clone()
                .without("transaction")
                .smuggle("redirect_uri", "https://first.test/callback")
                .smuggle("next", "https://evil.test/")
                .smuggle("client_id", "first"),
            400,
        ),
        ("the token twice", browser.clone(), form.clone().smuggle("csrf", form.value("csrf")), 400),
        ("the password twice", browser.clone(), form.clone().smuggle("password", PASSWORD), 400),
    ] {
        let answer = who.submit(&form);
        wrong.eq(case, (answer.status, answer.header("Location")), (expected, None));
        wrong.ok((case, "no session"), !who.cookies.contains_key(SESSION), "logged in");
        wrong.ok((case, "page"), answer.header("Content-Type").unwrap_or_default().starts_with("text/html"), &answer);
        wrong.ok((case, "nothing reflected"), !answer.text().contains("evil"), answer.text());
    }
    // None of them counts as a guess: many more than are allowed lock nobody.
    for _ in 0..60 {
        browser.submit(&form.clone().with("csrf", "x").with("password", "wrong"));
    }
    wrong.eq("not counted", Callback::of(&browser.submit(&form)).base, "https://first.test/callback".to_owned());
    for (case, request, expected) in [
        ("GET", Req::get("/oauth2/login"), 405),
        ("L12 GET with a password", Req::get(&format!("/oauth2/login?{}", form.encode())), 405),
        ("GET a decision", Req::get("/oauth2/consent?decision=allow"), 400),
        ("PUT", Req::new("PUT", "/oauth2/login").form(&form.encode()), 405),
        ("JSON", Req::post("/oauth2/login").header("Content-Type", "application/json").body("{}"), 400),
        ("fields in the query", Req::post(&format!("/oauth2/login?{}", form.encode())).form(""), 400),
    ] {
        let answer = site.browser().send(request);
        wrong.eq(case, (answer.status, answer.header("Location")), (expected, None));
    }
    wrong.ok("L12", !site.gateway.output().contains(&encode(&[("password", PASSWORD)])), "a password in the log");
    wrong.done();
}

#[test]
fn l1_the_decision_belongs_to_the_session_that_was_asked() {
    let site = server::browsed().start();
    let mut wrong = Wrong::default();
    let mut browser = site.browser();
    let page = browser.authorize(&request_of("web"));
    let answer = browser.log_in(&page, "alice", PASSWORD);
    let consent = Form::of(&browser.get(answer.header("Location").unwrap())).press("allow");
    wrong.eq("without a token", browser.submit(&consent.clone().without("csrf")).status, 403);
    let mut stranger = site.browser();
    stranger.code(&request_of("first"));
    wrong.eq("in another browser", stranger.submit(&consent).status, 403);
    let mut logged_out = browser.clone();
    logged_out.cookies.remove(SESSION);
    wrong.eq("without the session", logged_out.submit(&consent).status, 403);
    // Somebody else logs in here before the page is answered.
    let mut shared = browser.clone();
    let page = shared.authorize(&format!("{}&prompt=login", request_of("first")));
    shared.log_in(&page, "dave", PASSWORD);
    wrong.eq("by another user", shared.submit(&consent).status, 403);
    let mut again = site.browser();
    let page = again.authorize(&request_of("web"));
    let answer = again.log_in(&page, "carol", PASSWORD);
    let own = Form::of(&again.get(answer.header("Location").unwrap()));
    for (case, decision) in [("odd", Some("no button of the page")), ("none", None), ("upper case", Some("ALLOW"))] {
        let form = decision.map_or(own.clone(), |text| own.clone().smuggle("decision", text));
        wrong.eq(case, Callback::of(&again.submit(&form)).error().as_str(), "access_denied");
    }
    wrong.done();
}

#[test]
fn l2_cookies_over_https() {
    let site =
        server::browsed().server("public_url = \"https://127.0.0.1\"\ntrusted_proxies = [\"127.0.0.1/32\"]").start();
    let mut browser = site.browser().header("X-Forwarded-Proto", "https");
    let mut wrong = Wrong::default();
    let page = browser.authorize(&request_of("first"));
    let answer = browser.log_in(&page, "alice", PASSWORD);
    wrong.eq("logged in", Callback::of(&answer).get("iss").as_deref(), Some("https://127.0.0.1"));
    let mut names = Vec::new();
    for line in page.all("Set-Cookie").into_iter().chain(answer.all("Set-Cookie")) {
        let (pair, attributes) = line.split_once(';').unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        names.push(name.to_owned());
        wrong.ok(("prefix", name), name.starts_with("__Host-"), line);
        let mut attributes: Vec<_> = attributes.split(';').map(str::trim).collect();
        attributes.sort_unstable();
        wrong.eq(name, attributes, ["HttpOnly", "Path=/", "SameSite=Lax", "Secure"]);
        wrong.ok((name, "256 bits"), value.len() == 43, value);
    }
    wrong.eq("both", names, ["__Host-tollgate-browser", "__Host-tollgate-session"]);
    wrong.eq("G13 HSTS", page.header("Strict-Transport-Security"), Some("max-age=31536000"));
    // Names without the prefix, which a neighbour could have set, mean nothing.
    let mut tossed = site.browser().header("X-Forwarded-Proto", "https");
    for (own, plain) in [("__Host-tollgate-session", SESSION), ("__Host-tollgate-browser", BROWSER)] {
        tossed.cookies.insert(plain.to_owned(), browser.cookies[own].clone());
    }
    wrong.eq("unprefixed", silent(&mut tossed, "first").as_str(), "login_required");
    wrong.eq("prefixed", silent(&mut browser, "first").as_str(), "code");
    // The upstream sees none of them.
    let token = redeem_https(&site, &mut browser);
    let cookies = format!("a=1; __Host-tollgate-session={}; b=2", browser.cookies["__Host-tollgate-session"]);
    site.send(&Req::get("/orders/7").bearer(&token).header("Cookie", &cookies));
    wrong.eq("upstream", site.upstream.last().header("Cookie"), Some("a=1; b=2"));
    wrong.done();
}

fn redeem_https(site: &Site, browser: &mut Browser) -> String {
    let code = browser.code(&request_of("first"));
    let request = server::token_request(&server::code_form(&code, &[]))
        .header("X-Forwarded-Proto", "https")
        .header("Authorization", &server::basic("first", server::SECRET));
    server::tokens(&site.send(&request)).0
}

#[test]
fn g13_no_page_in_the_clear() {
    let site = server::browsed().server("public_url = \"https://api.test\"").start();
    let query = request_of("first");
    for path in [&format!("/oauth2/authorize?{query}"), "/oauth2/login", "/oauth2/consent", "/oauth2/logout"] {
        let answer = site.send(&Req::get(path));
        assert_eq!(
            (answer.status, answer.header("Location"), answer.header("Set-Cookie")),
            (403, None, None),
            "{path}"
        );
    }
}

#[test]
fn l2_the_session_changes_with_every_login() {
    let site = server::browsed().start();
    let mut browser = site.browser();
    // Somebody planted a session before the login.
    let planted = "A".repeat(43);
    browser.cookies.insert(SESSION.to_owned(), planted.clone());
    let page = browser.authorize(&request_of("first"));
    assert!(is_login_page(&page));
    browser.log_in(&page, "alice", PASSWORD);
    let first = browser.cookies[SESSION].clone();
    assert_ne!(first, planted);
    let as_session = |value: &str| {
        let mut other = site.browser();
        other.cookies.insert(SESSION.to_owned(), value.to_owned());
        silent(&mut other, "first")
    };
    assert_eq!(as_session(&planted), "login_required");
    assert_eq!(as_session(&first), "code");
    let page = browser.authorize(&format!("{}&prompt=login", request_of("first")));
    browser.log_in(&page, "alice", PASSWORD);
    let second = browser.cookies[SESSION].clone();
    assert_ne!(second, first);
    assert_eq!((as_session(&first).as_str(), as_session(&second).as_str()), ("login_required", "code"));
    // A failed login neither ends nor changes a session.
    let page = browser.authorize(&format!("{}&prompt=login", request_of("first")));
    assert_eq!(browser.log_in(&page, "alice", "wrong").header("Set-Cookie"), None);
    assert_eq!(as_session(&second), "code");
    for odd in [format!("{second}x"), second[1..].to_owned(), second.to_lowercase(), String::new()] {
        assert_eq!(as_session(&odd), "login_required", "{odd}");
    }
    // Two sessions in one request are nobody's.
    let both = format!("{SESSION}={second}; {SESSION}={first}");
    let query = format!("/oauth2/authorize?{}&prompt=none", request_of("first"));
    let answer = site.send(&Req::get(&query).host(HOST).header("Cookie", &both));
    assert_eq!(Callback::of(&answer).error(), "login_required");
}

#[test]
fn l3_l11_failures_look_alike() {
    let site = server::browsed().start();
    let mut wrong = Wrong::default();
    let attempt = |name: &str, password: &str| {
        let mut browser = site.browser();
        let page = browser.authorize(&request_of("web"));
        browser.log_in(&page, name, password)
    };
    let shape = |name: &str, password: &str| {
        let (status, text, headers) = stable(&attempt(name, password));
        (status, text.replace(&name.replace('"', "&quot;"), "*"), headers)
    };
    let reference = shape("alice", "wrong");
    wrong.eq("status", reference.0, 403);
    for (case, name, password) in [
        ("unknown", "nobody-at-all", PASSWORD),
        ("disabled", "bob", PASSWORD),
        ("disabled and wrong", "bob", "wrong"),
        ("another case", "ALICE", PASSWORD),
        ("a space", "alice ", PASSWORD),
        ("a long password", "alice", &"x".repeat(3000)),
        ("a colon", "al:ice", PASSWORD),
    ] {
        let mut got = shape(name, password);
        got.1 = got.1.replace(name.trim(), "*");
        wrong.eq(case, got, reference.clone());
    }
    let answer = attempt("alice", "wrong");
    let form = Form::of(&answer);
    wrong.eq("the name stays", form.value("username"), "alice");
    wrong.eq("the password does not", form.value("password"), "");
    wrong.ok("announced", answer.text().contains("role=\"alert\""), answer.text());
    wrong.eq("no challenge", answer.header("WWW-Authenticate"), None);
    wrong.ok("the form still works", form.has("csrf") && form.has("transaction"), &form);
    for (case, name, password) in [("no name", "", PASSWORD), ("no password", "alice", ""), ("nothing", "", "")] {
        wrong.eq(case, attempt(name, password).status, 200);
    }
    wrong.eq("not locked", attempt("alice", PASSWORD).status, 303);
    // Now alice is locked for this address. The right password looks wrong, from here only.
    for _ in 0..6 {
        attempt("alice", "wrong");
    }
    wrong.eq("locked", shape("alice", PASSWORD), reference);
    let mut elsewhere = site.browser().at("127.0.0.2");
    let page = elsewhere.authorize(&request_of("first"));
    let answer = elsewhere.log_in(&page, "alice", PASSWORD);
    wrong.eq("not elsewhere", Callback::of(&answer).base.as_str(), "https://first.test/callback");
    wrong.eq("nobody else", attempt("dave", PASSWORD).status, 303);
    wrong.done();
}

#[test]
fn l4_headers_of_the_pages() {
    let site = server::browsed().start();
    let mut wrong = Wrong::default();
    let csp = |answer: &Response| answer.header("Content-Security-Policy").unwrap_or_default().to_owned();
    let directive = |answer: &Response, name: &str| {
        let policy = csp(answer);
        let found = policy.split(';').map(str::trim).find_map(|part| part.strip_prefix(name)).map(str::trim);
        found.unwrap_or("absent").to_owned()
    };
    let mut browser = site.browser();
    let native = |uri: &str| format!("{}&{}", pkce_request_of("native"), encode(&[("redirect_uri", uri)]));
    let login = browser.authorize(&request_of("web"));
    let failed = browser.log_in(&login, "alice", "wrong");
    let to_consent = browser.log_in(&login, "alice", PASSWORD);
    let consent = browser.get(to_consent.header("Location").unwrap());
    let logout = browser.get("/oauth2/logout");
    let error = browser.authorize("client_id=nobody");
    let logged_out = browser.submit(&Form::of(&logout));
    let mut fresh = site.browser();
    for (case, answer, expected) in [
        ("login", &login, "'self' https://web.test"),
        ("failed", &failed, "'self' https://web.test"),
        ("consent", &consent, "'self' https://web.test"),
        ("logout", &logout, "'self'"),
        ("logged out", &logged_out, "'self'"),
        ("error", &error, "'self'"),
        ("loopback", &fresh.authorize(&native("http://127.0.0.1:51234/cb")), "'self' http://127.0.0.1:51234"),
        ("custom scheme", &fresh.authorize(&native("com.example.app:/cb")), "'self' com.example.app:"),
        ("IPv6", &fresh.authorize(&native("http://[::1]:99/cb")), "'self' http:"),
    ] {
        wrong.eq((case, "form-action"), directive(answer, "form-action").as_str(), expected);
        for (name, value) in [
            ("default-src", "'none'"),
            ("style-src", "'self'"),
            ("frame-ancestors", "'none'"),
            ("base-uri", "'none'"),
            ("script-src", "absent"),
        ] {
            wrong.eq((case, name), directive(answer, name).as_str(), value);
        }
        for (name, value) in [
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
            ("Content-Type", "text/html; charset=utf-8"),
        ] {
            wrong.eq((case, name), answer.header(name), Some(value));
        }
    }
    wrong.eq("the way to the consent page", to_consent.header("Cache-Control"), Some("no-store"));
    let (_, style) = tags(&login.text()).into_iter().find(|(name, _)| name == "link").unwrap();
    let href = &style.iter().find(|(name, _)| name == "href").unwrap().1;
    let style = site.browser().get(href);
    wrong.eq("stylesheet", (style.status, style.header("Content-Type")), (200, Some("text/css; charset=utf-8")));
    wrong.ok("nothing from elsewhere", !style.text().contains("url(") && !style.text().contains("@import"), "it has");
    wrong.done();
}

/// What an assistive program and a browser without scripts rely on.
fn is_plain(wrong: &mut Wrong, case: &str, html: &str) {
    let all = tags(html);
    let get = |tag: &Tag, name: &str| tag.1.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
    for tag in &all {
        wrong.ok(
            (case, "L5 no script", tag),
            !["script", "iframe", "object", "embed", "base"].contains(&&*tag.0),
            "it is",
        );
        for (name, value) in &tag.1 {
            wrong.ok((case, "L5 no handler", tag), !name.starts_with("on") && name != "style", name);
            let local = value.starts_with('/') && !value.starts_with("//") || value.starts_with("data:");
            wrong.ok((case, "L5 no third party", tag), !["src", "href", "action"].contains(&&**name) || local, value);
        }
        if tag.0 == "input" && get(tag, "type").as_deref() != Some("hidden") {
            let id = get(tag, "id").unwrap_or_default();
            let labelled = all.iter().any(|other| other.0 == "label" && get(other, "for").as_deref() == Some(&*id));
            wrong.ok((case, "a label", &id), labelled && !id.is_empty(), "none");
        }
    }
    let one = |name: &str| all.iter().filter(|tag| tag.0 == name).count() == 1;
    wrong.ok((case, "one h1, main and title"), one("h1") && one("main") && one("title"), "not so");
    let html_tag = all.iter().find(|tag| tag.0 == "html");
    wrong.eq((case, "lang"), html_tag.and_then(|tag| get(tag, "lang")).as_deref(), Some("en"));
    let viewport = all.iter().any(|tag| get(tag, "name").as_deref() == Some("viewport"));
    wrong.ok((case, "phones"), viewport, "no viewport");
    wrong.ok((case, "doctype"), html.starts_with("<!doctype html>"), &html[..40.min(html.len())]);
}

#[test]
fn l5_l6_pages_are_plain_and_escaped() {
    let site = server::browsed().start();
    let mut wrong = Wrong::default();
    let mut browser = site.browser();
    let evil = "\"><script>alert(1)</script>\u{202e}'&amp;";
    let page = browser.authorize(&format!("{}&{}", request_of("web"), encode(&[("login_hint", evil)])));
    is_plain(&mut wrong, "login", &page.text());
    wrong.eq("A15 login_hint", Form::of(&page).value("username"), evil);
    let form = Form::of(&page);
    wrong.ok("autocomplete", page.text().contains("autocomplete=\"username\""), page.text());
    wrong.ok("autocomplete", page.text().contains("autocomplete=\"current-password\""), page.text());
    let failed = browser.submit(&form.clone().with("username", evil).with("password", "\"><script>x"));
    is_plain(&mut wrong, "failed", &failed.text());
    wrong.eq("the name", Form::of(&failed).value("username"), evil);
    wrong.ok("the password is not there", !failed.text().contains("script>x"), failed.text());
    for (case, name) in
        [("10 kB", "x".repeat(10_000)), ("unicode", "Zoë Ω 名前".to_owned()), ("NUL", "a\0b".to_owned())]
    {
        let answer = browser.submit(&form.clone().with("username", &name).with("password", "x"));
        wrong.ok(("L6", case), [400, 403].contains(&answer.status), answer.status);
        is_plain(&mut wrong, case, &answer.text());
        let hinted = browser.authorize(&format!("{}&{}", request_of("web"), encode(&[("login_hint", &name)])));
        wrong.ok(("L6 hint", case), [200, 400].contains(&hinted.status), hinted.status);
    }
    let answer = browser.log_in(&page, "Zoë Ω", server::ODD_PASSWORD);
    let consent = browser.get(answer.header("Location").unwrap());
    is_plain(&mut wrong, "consent", &consent.text());
    wrong.ok("the user's name", consent.text().contains("Zoë Ω"), consent.text());
    is_plain(&mut wrong, "logout", &browser.get("/oauth2/logout").text());
    is_plain(&mut wrong, "error", &browser.authorize("client_id=nobody").text());
    wrong.done();
}

#[test]
fn l7_a15_a_session_spares_the_form_while_it_lasts() {
    let mut site = server::browsed().embedded().start();
    let mut browser = site.browser();
    let mut wrong = Wrong::default();
    let page = browser.authorize(&request_of("first"));
    let form = Form::of(&page).with("username", "alice").with("password", PASSWORD);
    browser.code(&request_of("first"));
    wrong.eq("another client", silent(&mut browser, "first").as_str(), "code");
    let again = browser.authorize(&format!("{}&prompt=login", request_of("first")));
    wrong.ok("prompt=login", is_login_page(&again), &again);
    let at = |site: &mut Site, browser: &mut Browser, seconds: u64| {
        site.gateway.later(seconds);
        browser.moved(site.gateway.address("main"));
        silent(browser, "first")
    };
    wrong.eq("after 25 min", at(&mut site, &mut browser, 25 * 60).as_str(), "code");
    let answer = browser.authorize(&format!("{}&max_age=1600", request_of("first")));
    wrong.ok("max_age reached", Callback::try_of(&answer).is_some_and(|at| at.get("code").is_some()), &answer);
    let answer = browser.authorize(&format!("{}&max_age=1400", request_of("first")));
    wrong.ok("max_age passed", is_login_page(&answer), &answer);
    wrong.eq("used 20 min ago", at(&mut site, &mut browser, 20 * 60).as_str(), "code");
    wrong.eq("unused for 31 min", at(&mut site, &mut browser, 31 * 60).as_str(), "login_required");
    let stale = browser.submit(&form);
    wrong.eq("L1 a page of long ago", (stale.status, stale.header("Location")), (400, None));
    wrong.done();
}

#[test]
fn l7_a_session_ends_for_good() {
    let mut site = server::browsed().embedded().start_with(|config| {
        let more = "signing_algorithm = \"ES256\"\nsession_idle = \"12h\"\nsession_lifetime = \"12h\"";
        config.replace("signing_algorithm = \"ES256\"", more)
    });
    let mut browser = site.browser();
    browser.code(&request_of("first"));
    for (seconds, expected) in [(6 * 3600, "code"), (6 * 3600 - 60, "code"), (120, "login_required")] {
        site.gateway.later(seconds);
        browser.moved(site.gateway.address("main"));
        assert_eq!(silent(&mut browser, "first"), expected, "after {seconds} s more");
    }
}

#[test]
fn l7_a_session_ends_with_its_user() {
    let mut site = server::browsed().embedded().start();
    let users = server::users();
    let mut wrong = Wrong::default();
    let alice = "roles = [\"clerk\"]\nclaims";
    for (case, changed) in [
        ("disabled", users.replacen(alice, &format!("disabled = true\n{alice}"), 1)),
        ("another password", users.replacen(&server::cheap_hash(PASSWORD), &server::cheap_hash("new"), 1)),
        ("deleted", users.replacen("\"alice\"", "\"alicia\"", 1)),
    ] {
        let mut browser = site.browser();
        browser.code(&request_of("first"));
        site.gateway.write("users.toml", changed);
        site.gateway.restart();
        browser.moved(site.gateway.address("main"));
        wrong.eq(case, silent(&mut browser, "first").as_str(), "login_required");
        site.gateway.write("users.toml", &users);
        site.gateway.restart();
        browser.moved(site.gateway.address("main"));
        wrong.eq((case, "and stays ended"), silent(&mut browser, "first").as_str(), "login_required");
    }
    wrong.done();
}

#[test]
fn l8_tabs_do_not_disturb_one_another() {
    let site = server::browsed().start();
    let mut browser = site.browser();
    let mut wrong = Wrong::default();
    let request = |client: &str, state: &str| format!("{}&state={state}", request_of(client));
    let one = browser.authorize(&request("first", "one"));
    let two = browser.authorize(&request("web", "two"));
    let three = browser.authorize(&request("strict", "three")); // an error in between
    wrong.eq("error", Callback::of(&three).error().as_str(), "invalid_request");
    let four = browser.authorize(&request("first", "four"));
    // The last tab first.
    for (case, page, state, base) in
        [("four", &four, "four", "https://first.test/callback"), ("one", &one, "one", "https://first.test/callback")]
    {
        let callback = Callback::of(&browser.log_in(page, "alice", PASSWORD));
        wrong.eq(case, (callback.base.as_str(), callback.get("state").as_deref()), (base, Some(state)));
    }
    let failed = browser.log_in(&two, "alice", "wrong");
    wrong.eq("two fails", failed.status, 403);
    let answer = browser.log_in(&failed, "alice", PASSWORD);
    let callback = Callback::of(&browser.decide(answer, "allow"));
    wrong.eq(
        "two",
        (callback.base.as_str(), callback.get("state").as_deref()),
        ("https://web.test/callback", Some("two")),
    );
    // Consent pages of two requests at once.
    let scoped = |scope: &str| format!("{}&scope={scope}&state={scope}", request_of("web"));
    let pages: Vec<_> = ["orders:write", "offline_access"].map(|scope| browser.authorize(&scoped(scope))).into();
    for (page, scope) in pages.iter().zip(["orders:write", "offline_access"]) {
        let callback = Callback::of(&browser.submit(&Form::of(page).press("allow")));
        wrong.eq(scope, callback.get("state").as_deref(), Some(scope));
    }
    wrong.done();
}

#[test]
fn l9_logout() {
    let site = server::browsed().start();
    let mut browser = site.browser();
    let mut wrong = Wrong::default();
    browser.code(&request_of("first"));
    let page = browser.get("/oauth2/logout");
    wrong.ok("asks", page.status == 200 && page.text().contains("alice"), page.text());
    wrong.eq("GET ends nothing", silent(&mut browser, "first").as_str(), "code");
    let form = Form::of(&page);
    wrong.eq("no token", browser.submit(&form.clone().without("csrf")).status, 403);
    wrong.eq("a wrong token", browser.submit(&form.clone().with("csrf", "x")).status, 403);
    wrong.eq(
        "forged",
        {
            let mut other = site.browser();
            other.cookies.insert(SESSION.to_owned(), browser.cookies[SESSION].clone());
            other.submit(&form).status
        },
        403,
    );
    wrong.eq("none of that ends it", silent(&mut browser, "first").as_str(), "code");
    let before = browser.cookies[SESSION].clone();
    let answer = browser.submit(&form.clone().smuggle("redirect_uri", "https://evil.test/"));
    wrong.eq("done", (answer.status, answer.header("Location")), (200, None));
    wrong.ok("cookie gone", !browser.cookies.contains_key(SESSION), &browser.cookies);
    wrong.eq("session gone", silent(&mut browser, "first").as_str(), "login_required");
    browser.cookies.insert(SESSION.to_owned(), before);
    wrong.eq("for the old cookie too", silent(&mut browser, "first").as_str(), "login_required");
    wrong.eq("twice does no harm", browser.submit(&form).status, 200);
    let page = browser.get("/oauth2/logout");
    wrong.ok("nobody", page.status == 200 && !page.text().contains("alice"), page.text());
    for method in ["PUT", "DELETE"] {
        wrong.eq(method, browser.send(Req::new(method, "/oauth2/logout")).status, 405);
    }
    wrong.done();
}

#[test]
fn l9_refresh_tokens_outlive_the_browser() {
    let site = server::browsed().start();
    let mut browser = site.browser();
    let code = browser.code(&format!("{}&scope=orders:read+offline_access", request_of("first")));
    let answer = redeem(&site, "first", &code, &[]);
    let page = browser.get("/oauth2/logout");
    browser.submit(&Form::of(&page));
    let answer = server::refresh(&site, "first", &server::tokens(&answer).1);
    assert_eq!(outcome(&answer), "200", "the page says that applications may stay signed in");
}

#[test]
fn g12_l6_forms_that_are_too_long_get_a_page() {
    let site = server::browsed().start();
    let mut wrong = Wrong::default();
    for path in ["authorize", "login", "consent", "logout"] {
        for (case, length) in [("a little", 70_000), ("much", 1_000_000)] {
            let request = Req::post(&format!("/oauth2/{path}")).host(HOST).form(&"x".repeat(length));
            let answer = site.connect().try_send(&request).unwrap();
            let kind = answer.header("Content-Type").unwrap_or_default();
            wrong.eq((path, case), (answer.status, kind), (413, "text/html; charset=utf-8"));
        }
    }
    wrong.done();
}

#[test]
fn pages_know_their_place() {
    // The pages are reserved on the issuer's host whatever the routes say, and elsewhere only where no route is.
    let site = server::browsed().start();
    for path in ["/oauth2/login/", "/oauth2/Login", "/oauth2/x", "/oauth2/authorize/x", "/oauth2"] {
        let answer = send(site.gateway.address("main"), &Req::get(path).host(HOST));
        assert_eq!((answer.status, answer.header("Location")), (404, None), "{path}");
    }
}
