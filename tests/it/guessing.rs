//! What happens to those who guess passwords and secrets, and what does not happen to everybody else.

use std::time::{Duration, Instant};

use crate::support::server::{
    self, PASSWORD, SECRET, basic, encode, outcome, password_form, request_of, token_request,
};
use crate::support::wire::PATIENCE;
use crate::support::{Conn, Form, Req, Response, Site, Wrong, field};

const HOME: &str = "127.0.0.1";
const OFFICE: &str = "127.0.0.2";
const GRANT: &str = "400 invalid_grant";

fn site(lockout: &str) -> Site {
    server::browsed()
        .more(&format!("[authorization_server.lockout]\n{lockout}"))
        .more(
            "[authorization_server.clients.app]\npublic = true\npublic_password = true\ngrants = [\"password\"]\n\
             scopes = [\"orders:read\"]\ndefault_scopes = [\"orders:read\"]",
        )
        .start()
}

fn send_from(site: &Site, source: &str, request: &Req) -> Response {
    Conn::open_from(source, site.gateway.address("main")).send(request)
}

/// The login form, in a browser of its own.
fn form(site: &Site, source: &str, user: &str, password: &str) -> Response {
    let mut browser = site.browser().at(source);
    let page = browser.authorize(&request_of("first"));
    browser.log_in(&page, user, password)
}

/// The password grant of a public client: whoever sends it is the guesser.
fn public(site: &Site, source: &str, user: &str, password: &str) -> Response {
    let request = token_request(&password_form(user, password, &[("client_id", "app")]));
    send_from(site, source, &request)
}

/// The password grant of a client that has authenticated: the address is the application's.
fn confidential(site: &Site, user: &str, password: &str) -> Response {
    let request = token_request(&password_form(user, password, &[]));
    site.send(&request.header("Authorization", &basic("second", SECRET)))
}

/// An answer without what differs every time.
fn stable(answer: &Response) -> (u16, String, Vec<(String, String)>) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| !["date", "x-request-id"].contains(&name.to_ascii_lowercase().as_str()));
    headers.sort();
    (answer.status, answer.text(), headers)
}

fn retry_after(answer: &Response) -> u64 {
    answer.header("Retry-After").and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[test]
fn p9_l11_a_guesser_locks_only_themselves_out() {
    let site = site("failures = 3");
    let mut wrong = Wrong::default();
    for _ in 0..3 {
        wrong.eq("wrong", form(&site, HOME, "alice", "wrong").status, 403);
    }
    wrong.eq("the form is locked here", form(&site, HOME, "alice", PASSWORD).status, 403);
    wrong.eq("so is a public client's grant", outcome(&public(&site, HOME, "alice", PASSWORD)).as_str(), GRANT);
    wrong.eq("the form elsewhere", form(&site, OFFICE, "alice", PASSWORD).status, 303);
    wrong.eq("a grant elsewhere", outcome(&public(&site, OFFICE, "alice", PASSWORD)).as_str(), "200");
    wrong.eq("other users here", form(&site, HOME, "dave", PASSWORD).status, 303);
    wrong.eq("an application here", outcome(&confidential(&site, "alice", PASSWORD)).as_str(), "200");
    // One set of counters, whichever way a guess comes in.
    for _ in 0..3 {
        wrong.eq("by the grant", outcome(&public(&site, OFFICE, "dave", "wrong")).as_str(), GRANT);
    }
    wrong.eq("locks the form too", form(&site, OFFICE, "dave", PASSWORD).status, 403);
    wrong.eq("there only", form(&site, HOME, "dave", PASSWORD).status, 303);
    let line = site.gateway.wait_log("a lockout", |line| field(line, "event") == Some("lockout"));
    wrong.eq("audit", (field(&line, "user"), field(&line, "address")), (Some("alice"), Some(HOME)));
    wrong.done();
}

#[test]
fn p9_a_success_in_time_starts_the_count_anew() {
    let site = site("failures = 3");
    for round in 0..3 {
        for _ in 0..2 {
            assert_eq!(form(&site, HOME, "alice", "wrong").status, 403);
        }
        assert_eq!(form(&site, HOME, "alice", PASSWORD).status, 303, "round {round}");
    }
}

#[test]
fn p9_a_lock_ends_by_itself() {
    let site = site("failures = 2\ndelay = \"1s\"\naddress_failures = 10000");
    for _ in 0..2 {
        form(&site, HOME, "alice", "wrong");
    }
    // Attempts in the meantime do not prolong it.
    let deadline = Instant::now() + PATIENCE;
    while form(&site, HOME, "alice", PASSWORD).status != 303 {
        assert!(Instant::now() < deadline, "still locked");
    }
}

#[test]
fn p9_ca21_l11_an_address_that_fails_too_often_waits() {
    let site = site("failures = 100\naddress_failures = 6\ndelay = \"5m\"");
    let mut wrong = Wrong::default();
    for n in 0..6 {
        wrong.eq("a guess", form(&site, HOME, &format!("user{n}"), "wrong").status, 403);
    }
    let page = form(&site, HOME, "alice", PASSWORD);
    wrong.eq("the form", page.status, 429);
    wrong.ok("Retry-After", (1..=300).contains(&retry_after(&page)), retry_after(&page));
    wrong.ok("still a form", Form::of(&page).has("password") && page.text().contains("role=\"alert\""), page.text());
    let wrong_one = form(&site, HOME, "alice", "wrong");
    wrong.eq("right or wrong", (wrong_one.status, wrong_one.text().len()), (429, page.text().len()));
    for (case, answer) in [
        ("a public client", public(&site, HOME, "alice", PASSWORD)),
        (
            "a wrong secret",
            send_from(
                &site,
                HOME,
                &token_request("grant_type=client_credentials").header("Authorization", &basic("machine", "wrong")),
            ),
        ),
        (
            "an unknown client",
            send_from(
                &site,
                HOME,
                &token_request("grant_type=client_credentials").header("Authorization", &basic("nobody", "wrong")),
            ),
        ),
    ] {
        wrong.eq(case, outcome(&answer).as_str(), "429 temporarily_unavailable");
        wrong.ok((case, "Retry-After"), (1..=300).contains(&retry_after(&answer)), retry_after(&answer));
    }
    // Nobody else suffers: not at another address, not a client that knows its secret, not its users.
    wrong.eq("elsewhere", form(&site, OFFICE, "alice", PASSWORD).status, 303);
    let machine = token_request("grant_type=client_credentials").header("Authorization", &basic("machine", SECRET));
    wrong.eq("the right secret", outcome(&send_from(&site, HOME, &machine)).as_str(), "200");
    wrong.eq("its user", outcome(&confidential(&site, "alice", PASSWORD)).as_str(), "200");
    wrong.eq("a wrong password through it", outcome(&confidential(&site, "alice", "wrong")).as_str(), GRANT);
    wrong.done();
}

#[test]
fn ca21_wrong_secrets_count_against_the_address() {
    let site = site("failures = 100\naddress_failures = 4\ndelay = \"5m\"");
    let mut wrong = Wrong::default();
    let by = |id: &str, secret: &str| {
        outcome(&site.send(&token_request("grant_type=client_credentials").header("Authorization", &basic(id, secret))))
    };
    for id in ["machine", "nobody", "machine", "second"] {
        wrong.eq(id, by(id, "wrong").as_str(), "401 invalid_client");
    }
    wrong.eq("closed", by("machine", "wrong").as_str(), "429 temporarily_unavailable");
    wrong.eq("the right one", by("machine", SECRET).as_str(), "200");
    wrong.eq("the form", form(&site, HOME, "alice", PASSWORD).status, 429);
    for (endpoint, parameters) in [("revoke", "token=x"), ("introspect", "token=x")] {
        let request = Req::post(&format!("/oauth2/{endpoint}")).host(server::HOST).form(parameters);
        let answer = site.send(&request.header("Authorization", &basic("machine", "wrong")));
        wrong.eq(endpoint, outcome(&answer).as_str(), "429 temporarily_unavailable");
    }
    wrong.done();
}

/// Any page can make the browsers of its visitors send forms here. That must not close the address they share.
#[test]
fn ca21_a_page_cannot_close_the_address_of_its_visitors() {
    let site = site("address_failures = 2\ndelay = \"5m\"");
    let mut wrong = Wrong::default();
    for (mode, endpoint) in
        [("no-cors", "token"), ("navigate", "token"), ("no-cors", "revoke"), ("navigate", "introspect")]
    {
        let form = "grant_type=client_credentials&client_id=machine&client_secret=wrong&token=x";
        let request = Req::post(&format!("/oauth2/{endpoint}")).host(server::HOST).form(form);
        let answer = site.send(&request.header("Sec-Fetch-Mode", mode).header("Origin", "https://evil.test"));
        wrong.eq((mode, endpoint), outcome(&answer).as_str(), "400 invalid_request");
    }
    // Who says nothing has guessed nothing.
    for _ in 0..3 {
        wrong.eq(
            "nothing",
            outcome(&site.send(&token_request("grant_type=client_credentials"))).as_str(),
            "401 invalid_client",
        );
    }
    wrong.eq("the form", form(&site, HOME, "alice", PASSWORD).status, 303);
    let script = token_request("grant_type=client_credentials").header("Authorization", &basic("machine", SECRET));
    wrong.eq("a script", outcome(&site.send(&script.header("Sec-Fetch-Mode", "cors"))).as_str(), "200");
    wrong.done();
}

#[test]
fn p3_p9_failures_behind_a_client_only_delay() {
    let site = site("failures = 1\ndelay = \"2s\"");
    let mut wrong = Wrong::default();
    // Several at once, so that the wait has doubled past its limit.
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert_eq!(outcome(&confidential(&site, "alice", "wrong")), GRANT));
        }
    });
    let finished = std::thread::scope(|scope| {
        let right = scope.spawn(|| outcome(&confidential(&site, "alice", PASSWORD)));
        // While alice waits at this client, nobody else does.
        let others = [
            outcome(&confidential(&site, "dave", PASSWORD)),
            form(&site, HOME, "alice", PASSWORD).status.to_string(),
            outcome(&public(&site, HOME, "alice", PASSWORD)),
        ];
        let waiting = !right.is_finished();
        (others, waiting, right.join().unwrap())
    });
    wrong.eq("others", finished.0, ["200".to_owned(), "303".to_owned(), "200".to_owned()]);
    wrong.ok("alice waits", finished.1, "no delay");
    wrong.eq("the right password", finished.2.as_str(), "200");
    // More than may wait are told to come back, and even then nobody is locked out.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| confidential(&site, "alice", "wrong"));
        }
    });
    let answers: Vec<Response> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..50).map(|_| scope.spawn(|| confidential(&site, "alice", "wrong"))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let busy: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    wrong.ok("G15 P10 some", !busy.is_empty(), "none");
    for answer in busy {
        wrong.eq("P10", outcome(answer).as_str(), "503 temporarily_unavailable");
        wrong.ok("P10 Retry-After", retry_after(answer) > 0, &answer.headers);
    }
    wrong.ok("no other", answers.iter().all(|answer| [400, 503].contains(&answer.status)), "another answer");
    wrong.eq("afterwards", outcome(&confidential(&site, "alice", PASSWORD)).as_str(), "200");
    wrong.done();
}

#[test]
fn ca5_p3_l3_wrong_unknown_disabled_and_locked_are_one() {
    let site = site("failures = 3\naddress_failures = 10000");
    let mut wrong = Wrong::default();
    for _ in 0..3 {
        public(&site, HOME, "carol", "wrong");
    }
    let reference = stable(&public(&site, OFFICE, "alice", "wrong"));
    wrong.eq("status", reference.0, 400);
    for (case, user, password) in [
        ("unknown", "nobody-at-all", PASSWORD),
        ("disabled", "bob", PASSWORD),
        ("disabled and wrong", "bob", "wrong"),
        ("locked", "carol", PASSWORD),
        ("locked and wrong", "carol", "wrong"),
    ] {
        wrong.eq(case, stable(&public(&site, HOME, user, password)), reference.clone());
    }
    wrong.done();
}

#[test]
fn p3_they_take_as_long() {
    // Hashes that cost enough to be seen.
    let hash = "$argon2id$v=19$m=8192,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let user = |name: &str, more: &str| {
        format!("[[user]]\nname = \"{name}\"\nroles = [\"clerk\"]\npassword = {{ hash = \"{hash}\" }}\n{more}\n")
    };
    let users = user("alice", "") + &user("bob", "disabled = true") + &user("carol", "");
    let site = server::browsed()
        .file("users.toml", users)
        .more("[authorization_server.lockout]\nfailures = 3\naddress_failures = 10000\ndelay = \"10m\"")
        .more(
            "[authorization_server.clients.app]\npublic = true\npublic_password = true\ngrants = [\"password\"]\n\
             scopes = [\"orders:read\"]\ndefault_scopes = [\"orders:read\"]",
        )
        .start();
    for _ in 0..3 {
        public(&site, HOME, "carol", "wrong");
    }
    let cases = ["alice", "unknown", "bob", "carol"];
    let mut best = [Duration::MAX; 4];
    for round in 0..8 {
        for (user, best) in cases.iter().zip(&mut best) {
            // Another address for alice each time, or she would be locked as well.
            let source = if *user == "carol" { HOME.to_owned() } else { format!("127.0.1.{}", round + 1) };
            let mut conn = Conn::open_from(&source, site.gateway.address("main"));
            let request = token_request(&password_form(user, "wrong", &[("client_id", "app")]));
            let started = Instant::now();
            assert_eq!(outcome(&conn.send(&request)), GRANT);
            *best = (*best).min(started.elapsed());
        }
    }
    let alice = best[0];
    for (user, time) in cases.iter().zip(best) {
        assert!(time * 4 > alice && alice * 4 > time, "{user} takes {time:?}, a wrong password {alice:?}: {best:?}");
    }
}

#[test]
fn p9_the_address_is_the_one_behind_trusted_proxies() {
    let mut wrong = Wrong::default();
    let lockout = "[authorization_server.lockout]\nfailures = 100\naddress_failures = 3\ndelay = \"5m\"";
    let app = "[authorization_server.clients.app]\npublic = true\npublic_password = true\ngrants = [\"password\"]\n\
               scopes = [\"orders:read\"]\ndefault_scopes = [\"orders:read\"]";
    let guess = |site: &Site, forwarded: &str, password: &str| {
        let request = token_request(&password_form("alice", password, &[("client_id", "app")]));
        outcome(&site.send(&request.header("X-Forwarded-For", forwarded).header("X-Real-IP", forwarded)))
    };
    let site = server::browsed().more(lockout).more(app).start();
    for n in 0..3 {
        guess(&site, &format!("192.0.2.{n}"), "wrong");
    }
    wrong.eq(
        "nobody's word is taken for it",
        guess(&site, "192.0.2.9", PASSWORD).as_str(),
        "429 temporarily_unavailable",
    );

    let site = server::browsed().server("trusted_proxies = [\"127.0.0.1/32\"]").more(lockout).more(app).start();
    let guess = |forwarded: &str, password: &str| {
        let request = token_request(&password_form("alice", password, &[("client_id", "app")]));
        let request = request.header("X-Forwarded-Proto", "https").header("X-Forwarded-For", forwarded);
        outcome(&site.send(&request))
    };
    for _ in 0..3 {
        guess("192.0.2.1", "wrong");
    }
    wrong.eq("behind a proxy", guess("192.0.2.1", PASSWORD).as_str(), "429 temporarily_unavailable");
    wrong.eq("another behind it", guess("192.0.2.2", PASSWORD).as_str(), "200");
    wrong.eq(
        "put in front by the guesser",
        guess("198.51.100.7, 192.0.2.1", PASSWORD).as_str(),
        "429 temporarily_unavailable",
    );
    for n in 1..4 {
        guess(&format!("2001:db8::{n}"), "wrong");
    }
    wrong.eq("one subscriber's network", guess("2001:db8::ffff", PASSWORD).as_str(), "429 temporarily_unavailable");
    wrong.eq("another network", guess("2001:db8:0:1::1", PASSWORD).as_str(), "200");
    wrong.done();
}

#[test]
fn g17_p12_what_was_tried_is_not_logged() {
    let site = site("failures = 3");
    // People type passwords where the name belongs.
    let secret = "hunter2-in-the-wrong-field";
    form(&site, HOME, secret, "x");
    public(&site, HOME, secret, "x");
    confidential(&site, secret, "x");
    form(&site, HOME, "alice", "a-wrong-password-of-alice");
    let query = encode(&[("username", secret), ("password", "in-the-query")]);
    site.browser().get(&format!("/oauth2/login?{query}"));
    site.browser().authorize(&format!("{}&login_hint={secret}", request_of("first")));
    site.gateway
        .wait_log("the failures", |line| field(line, "event") == Some("login") && field(line, "user") == Some("alice"));
    let (log, metrics) = (site.gateway.output(), site.gateway.metrics().text);
    for text in [secret, "a-wrong-password-of-alice", "in-the-query"] {
        assert!(!log.contains(text) && !metrics.contains(text), "{text} is written down");
    }
}
