//! CORS of routes: which web pages' scripts may call them, and what of that the gateway answers itself.

use serde_json::json;

use crate::support::chromium::Chromium;
use crate::support::command::explain;
use crate::support::gateway::field;
use crate::support::public::installed;
use crate::support::{Mint, RecordingUpstream, Req, Response, Site, Wrong};

const ORIGIN: &str = "https://billing.test";

/// A route `/orders/**` with a CORS table of these lines, and `/own/**` without one.
fn routes(cors: &str) -> String {
    format!(
        r#"
[[routes]]
name = "orders"
path = "/orders/**"
upstream = "app"
body_bytes = "1KiB"
allow = [{{ methods = ["GET", "DELETE"], scopes = ["read"] }}, {{ methods = ["POST"], public = true }}]
[routes.cors]
{cors}

[[routes]]
name = "own"
path = "/own/**"
upstream = "app"
allow = [{{ public = true }}]
"#
    )
}

fn billing(more: &str) -> String {
    routes(&format!("origins = [\"{ORIGIN}\", \"http://localhost:3000\"]\n{more}"))
}

fn preflight(path: &str, origin: &str, method: &str) -> Req {
    Req::new("OPTIONS", path).header("Origin", origin).header("Access-Control-Request-Method", method)
}

/// An upstream with a mind of its own about CORS.
fn talkative() -> RecordingUpstream {
    RecordingUpstream::scripted(|exchange| match exchange.request.target.as_str() {
        "/orders/down" => Err(std::io::ErrorKind::Other.into()),
        _ => exchange.answer(
            "200 OK",
            "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n\
             Access-Control-Expose-Headers: X-Theirs\r\nAccess-Control-Allow-Methods: PUT\r\nVary: Accept\r\n",
            b"ok",
        ),
    })
}

fn cors_fields(answer: &Response) -> Vec<String> {
    let fields = answer.headers.iter().filter(|(name, _)| name.to_ascii_lowercase().starts_with("access-control-"));
    let mut fields: Vec<String> = fields.map(|(name, value)| format!("{name}: {value}").to_ascii_lowercase()).collect();
    fields.sort();
    fields
}

const EXPOSED: &str =
    "access-control-expose-headers: x-request-id, www-authenticate, retry-after, ratelimit, ratelimit-policy";

#[test]
fn b15_preflights_are_answered_here_before_any_token() {
    let site = Site::with(&billing(""));
    let mut wrong = Wrong::default();
    let asked =
        || preflight("/orders/7", ORIGIN, "DELETE").header("Access-Control-Request-Headers", "authorization,x-own");
    for (case, request) in [
        ("no token", asked()),
        ("a bad one", asked().bearer("junk")),
        ("a poor one", asked().bearer(&site.mint.scoped("x"))),
    ] {
        let answer = site.send(&request);
        wrong.eq(case, (answer.status, answer.body.len()), (204, 0));
        let expected = [
            "access-control-allow-headers: authorization, x-own",
            "access-control-allow-methods: get, head, delete, post",
            "access-control-allow-origin: https://billing.test",
            EXPOSED,
            "access-control-max-age: 600",
        ];
        wrong.eq(case, cors_fields(&answer), expected);
        let vary = answer.all("Vary").join(", ");
        wrong.eq(case, &*vary, "Access-Control-Request-Method, Access-Control-Request-Headers, Origin");
        let log = site.gateway.access_log(&answer.request_id());
        wrong.eq(case, (field(&log, "decision"), field(&log, "route")), (Some("local"), Some("orders")));
    }
    wrong.eq(
        "another origin of the list",
        site.send(&preflight("/orders", "http://localhost:3000", "GET")).status,
        204,
    );
    wrong.eq("forwarded", site.upstream.count(), 0);
    wrong.ok("no token was looked at", !site.gateway.metrics().has("tollgate_tokens_refused_total", &[]), "one was");
    wrong.done();
}

#[test]
fn class_18_a_preflight_of_another_origin_is_refused_and_never_forwarded() {
    let site = Site::with(&billing(""));
    let token = site.mint.scoped("read");
    let mut wrong = Wrong::default();
    for origin in [
        "null",
        "*",
        "",
        "https://evil.test",
        "https://evilbilling.test",
        "https://billing.test.evil.test",
        "https://sub.billing.test",
        "https://billing.test:443",
        "https://billing.test/",
        "http://billing.test",
        "HTTPS://BILLING.TEST",
        "https://billing.test https://evil.test",
        "https://billing.test, https://evil.test",
        "http://localhost:30000",
    ] {
        let answer = site.send(&preflight("/orders/7", origin, "GET").bearer(&token));
        wrong.eq(origin, (answer.status, cors_fields(&answer)), (403, vec![]));
        wrong.eq((origin, "challenge"), answer.challenge(), "");
        let answer = site.send(&Req::get("/orders/7").header("Origin", origin).bearer(&token));
        wrong.eq((origin, "a request"), (answer.status, cors_fields(&answer)), (200, vec![]));
        wrong.eq((origin, "vary"), answer.header("Vary"), Some("Origin"));
    }
    wrong.eq("forwarded", site.upstream.requests().iter().filter(|r| r.method == "OPTIONS").count(), 0);
    wrong.done();
}

#[test]
fn class_18_what_is_no_preflight_is_for_the_rules_to_judge() {
    let open = r#"
[[routes]]
name = "open"
path = "/open/**"
upstream = "app"
allow = [{ methods = ["OPTIONS"], scopes = ["options"] }]
cors = { origins = ["https://billing.test"] }
"#;
    let site = Site::builder().more(&billing("")).more(open).start();
    let token = site.mint.scoped("options");
    let options = |path: &str| Req::new("OPTIONS", path);
    let acrm = |request: Req, method: &str| request.header("Access-Control-Request-Method", method);
    let mut wrong = Wrong::default();
    for (case, request, judged) in [
        ("nothing", options("/open/x"), 401),
        ("an origin alone", options("/open/x").header("Origin", ORIGIN), 401),
        ("a method alone", acrm(options("/open/x"), "GET"), 401),
        ("two origins", acrm(options("/open/x").header("Origin", ORIGIN).header("Origin", ORIGIN), "GET"), 401),
        ("two methods", acrm(preflight("/open/x", ORIGIN, "GET"), "PUT"), 401),
        ("no method", preflight("/open/x", ORIGIN, ""), 401),
        ("not a method", preflight("/open/x", ORIGIN, "GET, PUT"), 401),
        ("another method", acrm(Req::new("GET", "/orders/x").header("Origin", ORIGIN), "DELETE"), 401),
        ("where no entry names OPTIONS", options("/orders/x"), 405),
        ("a route without cors", preflight("/own/x", ORIGIN, "GET"), 200),
    ] {
        wrong.eq(case, site.send(&request).status, judged);
    }
    wrong.eq("forwarded", site.upstream.count(), 1);
    wrong.eq("with a token", site.send(&options("/open/x").bearer(&token)).status, 200);
    wrong.done();
}

#[test]
fn b15_answers_name_the_origin_and_what_it_may_read() {
    let limited = r#"
[[routes]]
name = "limited"
path = "/limited"
upstream = "app"
allow = [{ public = true }]
rate_limit = { per = "route", requests = 1, window = "1h" }
cors = { origins = ["https://billing.test"], expose_headers = ["X-Total"] }
"#;
    let routes = billing("expose_headers = [\"X-Total\"]");
    let site = Site::builder().upstream(talkative()).more(&routes).more(limited).start();
    let token = site.mint.scoped("read");
    let poor = site.mint.scoped("other");
    assert_eq!(site.send(&Req::get("/limited")).status, 200);
    let mut wrong = Wrong::default();
    for (case, request, status) in [
        ("forwarded", Req::get("/orders/1").bearer(&token), 200),
        ("HEAD", Req::new("HEAD", "/orders/1").bearer(&token), 200),
        ("no token", Req::get("/orders/1"), 401),
        ("a bad token", Req::get("/orders/1").bearer("junk"), 401),
        ("a poor token", Req::get("/orders/1").bearer(&poor), 403),
        ("a method", Req::new("PUT", "/orders/1"), 405),
        ("a spelling", Req::get("/orders/a%2Fb"), 400),
        ("too long", Req::post("/orders/1").body([b'a'; 2000]), 413),
        ("down", Req::get("/orders/down").bearer(&token), 502),
        ("too much", Req::get("/limited"), 429),
    ] {
        let plain = site.send(&request);
        let answer = site.send(&request.header("Origin", ORIGIN));
        wrong.eq(case, (plain.status, answer.status), (status, status));
        let vary = if matches!(status, 200) { vec!["Accept", "Origin"] } else { vec!["Origin"] };
        wrong.eq((case, "vary"), (plain.all("Vary"), answer.all("Vary")), (vary.clone(), vary));
        wrong.eq((case, "without an origin"), cors_fields(&plain), [""; 0]);
        let expected = ["access-control-allow-origin: https://billing.test", &format!("{EXPOSED}, x-total")];
        wrong.eq((case, "with one"), cors_fields(&answer), expected);
    }
    wrong.eq("a route without cors", cors_fields(&site.send(&Req::get("/own/x"))).len(), 4);
    wrong.done();
}

#[test]
fn what_the_table_says_besides() {
    let every = "origins = [\"https://billing.test\"]\n";
    let asked = || preflight("/orders/7", ORIGIN, "DELETE").header("Access-Control-Request-Headers", "x-own");
    let answers = |lines: &str| {
        let site = Site::with(&routes(&format!("{every}{lines}")));
        (site.send(&asked()), site.send(&Req::get("/orders/1").header("Origin", ORIGIN)))
    };
    let mut wrong = Wrong::default();
    let (asked_before, answer) =
        answers("headers = [\"Authorization\", \"X-Other\"]\ncredentials = true\nmax_age = \"0s\"");
    wrong.eq("headers", asked_before.header("Access-Control-Allow-Headers"), Some("Authorization, X-Other"));
    wrong.eq("max age", asked_before.header("Access-Control-Max-Age"), Some("0"));
    wrong.eq("credentials", asked_before.header("Access-Control-Allow-Credentials"), Some("true"));
    wrong.eq("credentials", answer.header("Access-Control-Allow-Credentials"), Some("true"));
    wrong.eq("never a wildcard", answer.header("Access-Control-Allow-Origin"), Some(ORIGIN));
    let (asked_before, answer) = answers("headers = []");
    wrong.eq("no headers", asked_before.header("Access-Control-Allow-Headers"), None);
    wrong.eq("no credentials", asked_before.header("Access-Control-Allow-Credentials"), None);
    wrong.eq("no credentials", answer.header("Access-Control-Allow-Credentials"), None);

    let site = Site::with(&routes("origins = [\"*\"]"));
    for origin in [ORIGIN, "null", "https://anybody.test"] {
        let answer = site.send(&preflight("/orders/7", origin, "GET"));
        wrong.eq(origin, (answer.status, answer.header("Access-Control-Allow-Origin")), (204, Some("*")));
        let answer = site.send(&Req::get("/orders/7").header("Origin", origin));
        wrong.eq(origin, (answer.status, answer.header("Access-Control-Allow-Origin")), (401, Some("*")));
        wrong.eq(origin, answer.header("Access-Control-Allow-Credentials"), None);
    }
    for (names, told) in
        [("x-a, x-b", Some("x-a, x-b")), ("X-A,,X-B", None), ("x-a; drop", None), ("x-a\u{e9}", None), ("", None)]
    {
        let asked = preflight("/orders/7", ORIGIN, "GET").header("Access-Control-Request-Headers", names);
        wrong.eq(names, site.send(&asked).header("Access-Control-Allow-Headers"), told);
    }
    wrong.done();
}

#[test]
fn the_methods_are_those_of_the_rules() {
    let any = "[[routes]]\nname = \"any\"\npath = \"/any\"\nupstream = \"app\"\nallow = [{ authenticated = true }]\n\
               cors = { origins = [\"https://billing.test\"] }\n";
    let site = Site::builder().more(&billing("")).more(any).start();
    let usual = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
    let mut wrong = Wrong::default();
    for (path, asked, told) in [
        ("/orders/1", "GET", "GET, HEAD, DELETE, POST"),
        ("/orders/1", "PUT", "GET, HEAD, DELETE, POST"),
        ("/orders/1", "get", "GET, HEAD, DELETE, POST"),
        ("/any", "PATCH", usual),
        ("/any", "PROPFIND", "PROPFIND"),
        ("/any", "TRACE", usual),
        ("/any", "CONNECT", usual),
    ] {
        let answer = site.send(&preflight(path, ORIGIN, asked));
        let methods = answer.header("Access-Control-Allow-Methods");
        wrong.eq((path, asked), (answer.status, methods), (204, Some(told)));
    }
    wrong.done();
}

#[test]
fn explain_answers_preflights_too() {
    let config = Site::builder().more(&billing("")).config();
    let jwks = Mint::new().jwks();
    let ask = |method: &str, headers: &[&str]| {
        let headers = headers.iter().flat_map(|header| ["-H", header]);
        let arguments: Vec<&str> = [method, "http://api.test/orders/7"].into_iter().chain(headers).collect();
        explain(&config, &[("jwks.json", &jwks)], &arguments).out
    };
    let mut wrong = Wrong::default();
    let (good, bad) = ("Origin: https://billing.test", "Origin: https://evil.test");
    let asks = "Access-Control-Request-Method: DELETE";
    for (method, headers, parts) in [
        ("OPTIONS", &[good, asks][..], &["status: 204", "access-control-allow-methods: GET, HEAD, DELETE, POST"][..]),
        ("OPTIONS", &[bad, asks], &["status: 403", "no script may read"]),
        ("OPTIONS", &[good], &["status: 405"]),
        ("GET", &[good], &["status: 401", "https://billing.test may read the answer"]),
    ] {
        let said = ask(method, headers);
        for part in parts {
            wrong.ok((method, headers, part), said.contains(part), &said);
        }
    }
    wrong.done();
}

#[test]
fn b15_a_browser_lets_the_scripts_of_named_origins_through_and_no_others() {
    let Some(program) = installed("chromium") else { return };
    let application = RecordingUpstream::scripted(|exchange| {
        exchange.answer("200 OK", "Content-Type: text/html\r\n", b"<!doctype html><title>Application</title>")
    });
    let own = application.url();
    let upstream = RecordingUpstream::scripted(|exchange| exchange.answer("200 OK", "X-Total: 7\r\n", b"seven"));
    let cors = format!("origins = [\"{own}\"]\nexpose_headers = [\"X-Total\"]");
    let site = Site::builder().upstream(upstream).more(&routes(&cors)).start();
    let target = format!("http://{}/orders/7", site.gateway.address("main"));
    let token = site.mint.scoped("read");
    let mut browser = Chromium::start(&program);
    let mut fetch = |page: &str, method: &str, token: &str| {
        browser.open(page);
        let script = format!(
            "fetch('{target}', {{ method: '{method}', headers: {{ Authorization: 'Bearer {token}', 'X-Own': '1' }} }})
                .then(async a => [a.status, await a.text(), a.headers.get('X-Total'), a.headers.get('WWW-Authenticate')])
                .catch(() => 'refused')"
        );
        let run = json!({"expression": script, "awaitPromise": true, "returnByValue": true});
        browser.call("Runtime.evaluate", &run)["result"]["value"].clone()
    };
    // The same server by another name is another origin.
    let other = own.replace("127.0.0.1", "localhost");
    let mut wrong = Wrong::default();
    wrong.eq("named", fetch(&own, "DELETE", &token), json!([200, "seven", "7", null]));
    let refused = fetch(&own, "DELETE", "junk");
    wrong.eq("a bad token", refused[0].clone(), json!(401));
    wrong.ok("the challenge is read", refused[3].as_str().is_some_and(|c| c.starts_with("Bearer")), &refused);
    wrong.eq("a method that no entry names", fetch(&own, "PUT", &token), json!("refused"));
    wrong.eq("not named", fetch(&other, "DELETE", &token), json!("refused"));
    let methods: Vec<String> = site.upstream.requests().iter().map(|request| request.method.clone()).collect();
    wrong.eq("forwarded", methods, ["DELETE"]);
    wrong.done();
}
