//! Ways in which gateways of this kind were bypassed, by number: path and route, methods, headers, framing.
//!
//! The scene: `/public/**` needs nothing, everything else a scope that nobody in these tests has. Whatever reaches the
//! upstream without a token must therefore lie under `/public`.

use http::Request;
use serde_json::json;

use crate::routing::REFUSED;
use crate::support::command::check;
use crate::support::h2::{H2Client, empty};
use crate::support::{Conn, Mint, RecordingUpstream, Req, Site, Wrong};

const SCENE: &str = r#"
[[routes]]
name = "public"
path = "/public/**"
upstream = "app"
allow = [{ public = true }]
[routes.forward]
headers = { "X-User" = "{sub}" }

[[routes]]
name = "api"
path = "/api/**"
upstream = "app"
allow = [{ public = true }]
[routes.forward]
strip_prefix = "/api"

[[routes]]
name = "admin"
path = "/admin/**"
upstream = "app"
allow = [{ scopes = ["never"] }]

[[routes]]
name = "docs"
path = "/docs/**"
upstream = "app"
allow = [{ methods = ["GET"], public = true }, { methods = ["PUT", "DELETE"], scopes = ["never"] }]
"#;

/// Sends requests that must not get anything but a refusal, and watches the upstream.
struct Attack {
    site: Site,
    wrong: Wrong,
}

impl Attack {
    fn new() -> Self {
        Self::on(Site::with(SCENE))
    }

    fn on(site: Site) -> Self {
        Self { site, wrong: Wrong::default() }
    }

    /// A refusal (or a closed connection), and the upstream hears nothing.
    fn refused(&mut self, case: &str, request: &Req) {
        self.refused_bytes(case, &request.bytes());
    }

    fn refused_bytes(&mut self, case: &str, bytes: &[u8]) {
        let before = self.site.upstream.count();
        let mut conn = self.site.connect();
        let status = match conn.wire.write(bytes) {
            Ok(()) => conn.read(false).map_or(0, |answer| answer.status),
            Err(_) => 0,
        };
        self.wrong.ok(case, status == 0 || (400..500).contains(&status), format!("answered {status}"));
        let seen: Vec<_> = self.site.upstream.requests().drain(before..).map(|request| request.target).collect();
        self.wrong.eq(case, seen, [""; 0]);
    }

    /// Whatever is answered, what the upstream hears of it lies under `/public` and is a GET.
    fn harmless(&mut self, case: &str, bytes: &[u8]) {
        let before = self.site.upstream.count();
        let mut conn = self.site.connect();
        if conn.wire.write(bytes).is_ok() {
            let _any = conn.read(false);
        }
        for request in self.site.upstream.requests().drain(before..) {
            let fine = request.target.starts_with("/public/") && !request.target.contains("admin");
            self.wrong.ok(case, fine && request.method == "GET", format!("{} {}", request.method, request.target));
        }
    }

    fn done(self) {
        let Self { site, wrong } = self;
        wrong.done();
        assert_eq!(site.send(&Req::get("/public/alive")).status, 200);
    }
}

#[test]
fn class_01_dot_segments() {
    let mut attack = Attack::new();
    for path in REFUSED {
        attack.refused(path, &Req::get(path));
    }
    for path in ["/public/../admin/x", "/public/%2e%2e/admin/x", "/public/.%2E/admin/x", "/public/%252e%252e/admin/x"] {
        for target in [path.to_owned(), format!("{path}?a=b"), format!("http://api.test{path}")] {
            attack.refused(&target, &Req::get(&target));
        }
    }
    attack.done();
}

#[test]
fn class_02_what_was_matched_is_what_is_forwarded() {
    let site = Site::with(SCENE);
    let mut wrong = Wrong::default();
    for (sent, forwarded) in [
        ("/%70ublic/%61dmin", "/public/admin"),
        ("/public/%7Euser", "/public/~user"),
        ("/public/a%20b", "/public/a%20b"),
        ("/public/%e2%82%ac", "/public/%E2%82%AC"),
    ] {
        wrong.eq(sent, site.send(&Req::get(sent)).status, 200);
        wrong.eq(sent, site.upstream.last().target, forwarded);
    }
    wrong.eq("/%61dmin/x is /admin/x", site.send(&Req::get("/%61dmin/x")).status, 401);
    wrong.eq("/ad%6Din/x is /admin/x", site.send(&Req::get("/ad%6Din/x")).status, 401);
    wrong.done();
}

/// `:` and `%3A` may differ for a server; for most they do not, and the rule of the one must hold for the other.
#[test]
fn class_02_no_spelling_of_a_literal_leads_past_its_route() {
    let routes = r#"
[[routes]]
path = "/public/**"
upstream = "app"
allow = [{ public = true }]
[[routes]]
path = "/v1/**"
upstream = "app"
allow = [{ public = true }]
[[routes]]
path = "/v1/jobs:purge"
upstream = "app"
allow = [{ scopes = ["never"] }]
[[routes]]
path = "/v1/a|b,c (d)/**"
upstream = "app"
allow = [{ scopes = ["never"] }]
[[routes]]
path = "/v1/x@y/**"
upstream = "app"
allow = [{ public = true }]
forward = { strip_prefix = "/v1/x@y" }
"#;
    let mut attack = Attack::on(Site::with(routes));
    for path in [
        "/v1/jobs:purge",
        "/v1/jobs%3Apurge",
        "/v1/jobs%3apurg%65",
        "/v1/a|b,c%20(d)/",
        "/v1/a%7Cb%2Cc%20%28d%29/x",
        "/v1/a%7cb,c%20(d%29",
    ] {
        attack.refused(path, &Req::get(path));
    }
    for path in ["/v1/x@y/z%40", "/v1/x%40y/z%40"] {
        attack.wrong.eq(path, attack.site.get(path, None).status, 200);
        attack.wrong.eq(path, attack.site.upstream.last().target, "/z%40");
    }
    attack.done();
}

#[test]
fn class_03_stripping_a_prefix_opens_nothing() {
    let mut attack = Attack::new();
    for path in [
        "/api../admin",
        "/api..%2fadmin",
        "/api%2e/admin",
        "/api%2e%2e/admin",
        "/api/../admin",
        "/api/%2e%2e/admin",
        "/api//admin",
        "/api//evil.test/x",
        "/api/./admin",
        "/apiadmin",
        "/api;/admin",
        "/api%2fadmin",
        "/api/%2fadmin",
        "/x/api/admin",
        "/admin/api/x",
    ] {
        attack.refused(path, &Req::get(path));
    }
    let site = &attack.site;
    for (sent, forwarded) in
        [("/api/api/x", "/api/x"), ("/api/x/api", "/x/api"), ("/%61pi/x", "/x"), ("/api", "/"), ("/api/", "/")]
    {
        attack.wrong.eq(sent, site.send(&Req::get(sent)).status, 200);
        attack.wrong.eq(sent, site.upstream.last().target, forwarded);
    }
    attack.done();
}

#[test]
fn class_04_05_encoded_delimiters_in_either_case() {
    let mut attack = Attack::new();
    for code in ["2f", "5c", "00", "3b", "3f", "23", "25", "0a", "0d", "2e%2e%2f", "252f", "25252f"] {
        for code in [code.to_lowercase(), code.to_uppercase()] {
            for path in [format!("/public/a%{code}admin"), format!("/public%{code}admin"), format!("/public/%{code}")] {
                attack.refused(&path, &Req::get(&path));
            }
        }
    }
    attack.done();
}

#[test]
fn class_06_query_and_fragment_never_choose_the_route() {
    let mut attack = Attack::new();
    for target in ["/admin/x?x=/public/", "/admin/x?/../public/x", "/admin?/public/x"] {
        attack.refused(target, &Req::get(target));
    }
    for target in ["/admin/x#/../public/x", "/admin#/public/x", "/public/x#/../../admin", "/public/#/admin"] {
        attack.harmless(target, &Req::get(target).bytes());
    }
    for request in attack.site.upstream.requests() {
        attack.wrong.ok("a fragment was forwarded", !request.target.contains('#'), request.target);
    }
    attack.done();
}

#[test]
fn class_07_two_slashes_are_no_authority() {
    let mut attack = Attack::new();
    for target in [
        "//admin/x",
        "//public/x",
        "//evil.test/public/x",
        "///public/x",
        "/public//../admin",
        "/public//x",
        "/public//evil.test/x",
        "/public/x//",
        "//api.test/admin/x",
        "/%2f/admin",
    ] {
        attack.refused(target, &Req::get(target));
    }
    for target in [
        "http://api.test//admin/x",
        "http:///admin/x",
        "http:/admin/x",
        "ftp://api.test/admin/x",
        "api.test/admin/x",
        "admin/x",
        "",
    ] {
        attack.refused(target, &Req::get(target));
    }
    attack.done();
}

#[test]
fn class_08_path_parameters() {
    let mut attack = Attack::new();
    for path in [
        "/public/..;/admin/x",
        "/public;x/../admin",
        "/admin;x=1",
        "/admin;/x",
        "/public/.;/x",
        "/public/;/admin",
        "/public/a;b",
        "/public/..;x=y/admin/x",
        "/;/admin/x",
    ] {
        attack.refused(path, &Req::get(path));
    }
    attack.done();
}

#[test]
fn class_09_overlong_and_odd_encodings() {
    let mut attack = Attack::new();
    for path in [
        "/public/%C0%AFadmin",
        "/public/%c0%ae%c0%ae/admin",
        "/public/%E0%80%AE%E0%80%AE/admin",
        "/public/%F0%80%80%AF",
        "/public/%u002e%u002e/admin",
        "/public/%u2215admin",
        "/public/%ff%fe",
        "/public/%ED%A0%80%ED%B0%80",
        "/public/%F5%80%80%80",
    ] {
        attack.refused(path, &Req::get(path));
    }
    // Look-alikes are characters like any others: forwarded as they are, not folded into a slash or a dot.
    let site = &attack.site;
    for path in ["/public/%EF%BC%8E%EF%BC%8E/x", "/public/%E2%88%95x", "/public/%EF%BC%8Fx"] {
        attack.wrong.eq(path, site.send(&Req::get(path)).status, 200);
        attack.wrong.eq(path, site.upstream.last().target, path);
    }
    attack.done();
}

#[test]
fn class_10_case_of_path_and_host() {
    let site = Site::with(
        r#"
[[routes]]
name = "admin"
hosts = ["admin.test"]
path = "/**"
upstream = "app"
allow = [{ scopes = ["never"] }]
[[routes]]
name = "rest"
path = "/public/**"
upstream = "app"
allow = [{ public = true }]
"#,
    );
    let mut wrong = Wrong::default();
    for host in ["admin.test", "ADMIN.test", "Admin.Test:80", "aDMIN.TEST:8443"] {
        wrong.eq(host, site.send(&Req::get("/public/x").host(host)).status, 401);
    }
    // A dot at the end names the same host: refused, or met as the same route, but never taken for another.
    for host in ["admin.test.", "ADMIN.TEST.", "admin.test.:80"] {
        let status = site.send(&Req::get("/public/x").host(host)).status;
        wrong.ok(host, matches!(status, 400 | 401 | 421), status);
    }
    wrong.eq("the path is as written", site.send(&Req::get("/PUBLIC/x").host("api.test")).status, 404);
    wrong.eq("upstream", site.upstream.count(), 0);
    wrong.done();
}

#[test]
fn class_11_patterns_are_anchored() {
    let site = Site::with(
        r#"
[[routes]]
name = "exact"
path = "/health"
upstream = "app"
allow = [{ public = true }]
[[routes]]
name = "host"
hosts = ["ok.test"]
path = "/x"
upstream = "app"
allow = [{ public = true }]
[[routes]]
name = "one"
path = "/item/{id}"
upstream = "app"
allow = [{ public = true }]
"#,
    );
    let mut wrong = Wrong::default();
    for path in [
        "/healthz",
        "/health/",
        "/health/x",
        "/x/health",
        "/xhealth",
        "/Health",
        "/item",
        "/item/",
        "/item/a/b",
        "/items/a",
    ] {
        wrong.eq(path, site.send(&Req::get(path)).status, 404);
    }
    for host in ["notok.test", "ok.test.evil", "ok-test", "xok.test", "okxtest", "sub.ok.test"] {
        wrong.eq(host, site.send(&Req::get("/x").host(host)).status, 404);
    }
    wrong.eq("upstream", site.upstream.count(), 0);
    wrong.done();
}

#[test]
fn class_12_13_14_15_16_what_is_unclear_grants_nothing() {
    let jwks = Mint::new().jwks();
    let config = |route: &str| {
        let base = Site::builder().config();
        format!("{base}[[routes]]\nname = \"r\"\npath = \"/r\"\nupstream = \"app\"\n{route}\n")
    };
    let mut wrong = Wrong::default();
    for route in [
        "",
        "allow = []",
        "allow = [{}]",
        "allow = [{ scopes = [] }]",
        "allow = [{ scopes = [\"\"] }]",
        "allow = [{ scopes = [\"a b\"] }]",
        "allow = [{ any_scope = [] }]",
        "allow = [{ claims = { tenant = [] } }]",
        "allow = [{ public = true, roles = [\"x\"] }]",
        "public = true",
        "allow = [{ public = \"yes\" }]",
    ] {
        wrong.eq(route, check(&config(route), &[("jwks.json", &jwks)], &[]).code, Some(1));
    }
    // No audience: the issuer's tokens for other services would be good here.
    let without = config("allow = [{ public = true }]").replace("audience = [\"https://api.test\"]", "");
    wrong.eq("no audience", check(&without, &[("jwks.json", &jwks)], &[]).code, Some(1));
    let empty = config("allow = [{ public = true }]").replace("audience = [\"https://api.test\"]", "audience = []");
    wrong.eq("empty audience", check(&empty, &[("jwks.json", &jwks)], &[]).code, Some(1));

    // A claim that is missing or of another shape grants nothing.
    let site = Site::with(
        "[[routes]]\nname = \"r\"\npath = \"/r\"\nupstream = \"app\"\nallow = [{ claims = { \"org.tenant\" = [\"acme\"], admin = [\"true\"] } }]\n",
    );
    for claims in [
        json!({}),
        json!({"org": "acme", "admin": "true"}),
        json!({"org": {"tenant": null}, "admin": "true"}),
        json!({"org": {"tenant": "acme"}}),
        json!({"org": {"tenant": ["ac", "me"]}, "admin": "true"}),
        json!({"org": {"tenant": {"acme": true}}, "admin": "true"}),
        json!({"org": [{"tenant": "acme"}], "admin": "true"}),
        json!({"org": {"tenant": "acme"}, "admin": ""}),
    ] {
        let status = site.get("/r", Some(&site.mint.token(&claims))).status;
        wrong.eq(&claims, status, 403);
    }
    wrong.eq("upstream", site.upstream.count(), 0);
    wrong.done();
}

#[test]
fn class_17_methods() {
    let mut attack = Attack::new();
    for method in ["get", "Get", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "GETX", "G", "PROPFIND", "MOVE"]
    {
        attack.refused(method, &Req::new(method, "/docs/x").header("Content-Length", "0"));
    }
    for request in [
        Req::new("CONNECT", "api.test:80"),
        Req::new("CONNECT", "/public/x"),
        Req::new("TRACE", "/public/x"),
        Req::new("trace", "/docs/x"),
        Req::new("CONNECT", "127.0.0.1:22").raw_body("SSH-2.0-x\r\n"),
    ] {
        attack.refused("connect or trace", &request);
    }
    for line in [
        "GET\t/public/x\tHTTP/1.1",
        " GET /public/x HTTP/1.1",
        "GE(T /public/x HTTP/1.1",
        "GET /public/x HTTP/9.9",
        "GET  /admin/x HTTP/1.1",
        "GET /public/x /admin/x HTTP/1.1",
    ] {
        attack.harmless(line, format!("{line}\r\nHost: api.test\r\n\r\n").as_bytes());
    }
    for name in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "x-http-method-override"] {
        let answer = attack.site.send(&Req::get("/docs/x").header(name, "DELETE"));
        attack.wrong.eq(name, answer.status, 200);
        let seen = attack.site.upstream.last();
        attack.wrong.eq(name, (seen.method.as_str(), seen.has(name)), ("GET", false));
    }
    let head = attack.site.connect().send(&Req::new("HEAD", "/docs/x"));
    attack.wrong.eq("HEAD goes with GET", head.status, 200);
    attack.done();
}

#[test]
fn class_18_options_is_no_way_in() {
    let mut attack = Attack::new();
    let preflight = Req::new("OPTIONS", "/admin/x")
        .header("Origin", "https://a.test")
        .header("Access-Control-Request-Method", "PUT");
    attack.refused("a preflight where no CORS is configured", &preflight);
    attack.refused("no preflight", &Req::new("OPTIONS", "/admin/x"));
    attack.refused("half a preflight", &Req::new("OPTIONS", "/admin/x").header("Origin", "https://a.test"));
    attack.done();
}

#[test]
fn class_19_no_built_in_exemptions() {
    let mut attack = Attack::new();
    for agent in ["kube-probe/1.29", "GoogleHC/1.0", "ELB-HealthChecker/2.0", "Prometheus/2.0", "Consul Health Check"] {
        attack.refused(agent, &Req::get("/admin/x").header("User-Agent", agent));
    }
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/status",
        "/ping",
        "/ready",
        "/live",
        "/favicon.ico",
        "/robots.txt",
        "/reload",
        "/revoke",
        "/.well-known/x",
        "/oauth2/token",
        "/oauth2/auth",
    ] {
        attack.refused(path, &Req::get(path));
        attack.refused(path, &Req::post(path).body(""));
    }
    attack.done();
}

#[test]
fn class_20_underscore_twins() {
    let site = Site::with(SCENE);
    let names = [
        "X_User",
        "x_user",
        "X_USER",
        "X_Forwarded_For",
        "X_Forwarded_User",
        "X-Forwarded_User",
        "X_Original_URL",
        "X_Rewrite-URL",
        "X_HTTP_Method_Override",
        "Authorization_",
        "Any_Thing",
    ];
    let request = names.iter().fold(Req::get("/public/x"), |request, name| request.header(name, "root"));
    assert_eq!(site.send(&request).status, 200);
    let seen = site.upstream.last();
    let left: Vec<_> = seen.headers.iter().filter(|(name, value)| name.contains('_') || value == "root").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn class_21_forwarding_headers_of_strangers() {
    let site = Site::with(SCENE);
    let names = [
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Forwarded-Uri",
        "X-Forwarded-Method",
        "X-Forwarded-Server",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Real-IP",
        "Forwarded",
        "X-Forwarded-User",
    ];
    for name in names {
        let answer = site.send(&Req::get("/public/x").header(name, "spoofed.test"));
        assert_eq!(answer.status, 200);
        let seen = site.upstream.last();
        assert!(seen.all(name).iter().all(|value| !value.contains("spoofed")), "{name}: {:?}", seen.headers);
    }
    // None of them chooses a route either.
    for name in names {
        let request = Req::get("/admin/x").header(name, "/public/x").header("X-Forwarded-For", "127.0.0.1");
        assert_eq!(site.send(&request).status, 401, "{name}");
    }
    let all = Site::builder().more(SCENE).server("trusted_proxies = [\"0.0.0.0/0\"]").config();
    let done = check(&all, &[("jwks.json", &Mint::new().jwks())], &[]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let all = Site::builder().more(SCENE).server("trusted_proxies = [\"::/0\"]").config();
    assert_eq!(check(&all, &[("jwks.json", &Mint::new().jwks())], &[]).code, Some(1));
}

/// A proxy that adds to one of the fields lets the others of its caller through.
#[test]
fn class_21_a_trusted_proxy_is_believed_in_one_kind_of_field() {
    let site = Site::builder().server("trusted_proxies = [\"127.0.0.0/8\"]").more(SCENE).start();
    let mut wrong = Wrong::default();
    for (case, lines, seen) in [
        ("the usual one", "X-Forwarded-For: 1.1.1.1|Forwarded: for=6.6.6.6|X-Real-IP: 6.6.6.6", "1.1.1.1"),
        ("the standard one", "Forwarded: for=1.1.1.1;proto=https|X-Real-IP: 6.6.6.6", "1.1.1.1"),
        ("the short one", "X-Real-IP: 2001:db8::1", "2001:db8::1"),
    ] {
        let request = lines.split('|').fold(Req::get("/public/x"), |request, line| request.line(line.as_bytes()));
        wrong.eq(case, site.send(&request).status, 200);
        let sent = site.upstream.last();
        let node = if seen.contains(':') { format!("\"[{seen}]\"") } else { seen.to_owned() };
        wrong.eq(case, sent.all("x-forwarded-for"), [format!("{seen}, 127.0.0.1")]);
        wrong.eq(case, sent.all("x-real-ip"), [seen]);
        let forwarded = sent.all("forwarded").join("|");
        wrong.ok(case, forwarded.starts_with(&format!("for={node}")), &forwarded);
        wrong.ok(case, forwarded.contains(", for=127.0.0.1;") && !forwarded.contains("6.6.6.6"), &forwarded);
    }
    wrong.done();
}

const IDENTITY: &str = r#"
[[routes]]
name = "all"
path = "/**"
upstream = "app"
allow = [{ authenticated = true }]
[routes.forward]
headers = { "X-User" = "{sub}", "X-Tenant" = "{claims.tenant}" }
[[routes]]
name = "mixed"
path = "/mixed"
upstream = "app"
allow = [{ methods = ["GET"], public = true }, { methods = ["POST"], scopes = ["a"] }]
[[routes]]
name = "pass"
path = "/pass"
upstream = "app"
underscore_headers = "pass"
allow = [{ public = true }]
"#;

#[test]
fn class_22_connection_removes_nothing_of_ours() {
    let site = Site::with(IDENTITY);
    let token = site.mint.token(&json!({"tenant": "acme"}));
    for value in [
        "X-User",
        "x-user, X-TENANT",
        "close, x-user",
        "keep-alive,X-User,X-Tenant,x-forwarded-for,forwarded,host,content-length,x-request-id",
    ] {
        for name in ["Connection", "connection", "CONNECTION"] {
            let answer = site.send(&Req::post("/x").bearer(&token).header(name, value).body("abc"));
            assert_eq!(answer.status, 200, "{name}: {value}");
            let seen = site.upstream.wait_until(|all| all.last().is_some_and(|r| r.complete)).pop().unwrap();
            assert_eq!((seen.all("X-User"), seen.all("X-Tenant")), (vec!["alice"], vec!["acme"]), "{name}: {value}");
            assert!(seen.has("X-Forwarded-For") && seen.has("Host"), "{:?}", seen.headers);
            assert_eq!(seen.body, b"abc");
        }
    }
}

#[test]
fn class_23_identity_headers_are_cleared_everywhere() {
    let site = Site::with(IDENTITY);
    let token = site.mint.token(&json!({}));
    let spoof =
        |request: Req| request.header("X-User", "root").header("X-Tenant", "root").header("X-Forwarded-User", "root");
    let mut wrong = Wrong::default();
    for (request, user) in [
        (Req::get("/x").bearer(&token), vec!["alice"]),
        (Req::get("/mixed"), vec![]),
        (Req::get("/mixed").bearer(&token), vec![]),
        (Req::get("/pass"), vec![]),
        (Req::new("HEAD", "/mixed"), vec![]),
    ] {
        let before = site.upstream.count();
        let _any = site.connect().send(&spoof(request.clone()));
        let seen = site.upstream.wait_until(|all| all.len() > before).pop().unwrap();
        wrong.eq(&request, seen.all("X-User"), user);
        wrong.eq(&request, (seen.all("X-Tenant"), seen.all("X-Forwarded-User")), (vec![], vec![]));
    }
    wrong.done();
}

#[test]
fn class_24_28_one_value_or_none() {
    let site = Site::with(IDENTITY);
    let token = site.mint.token(&json!({}));
    let bearer = format!("Bearer {token}");
    let mut attack = Attack::on(site);
    attack.refused("two tokens", &Req::get("/x").bearer(&token).bearer("junk"));
    attack.refused("two tokens, bad first", &Req::get("/x").bearer("junk").bearer(&token));
    attack.refused("the same token twice", &Req::get("/x").bearer(&token).bearer(&token));
    attack.refused("one line, two tokens", &Req::get("/x").header("Authorization", &format!("{bearer}, {bearer}")));
    attack.refused("two hosts", &Req::get("/pass").header("Host", "api.test"));
    attack.refused("a folded line", &Req::get("/pass").line(b"Authorization: Bearer\r\n junk"));
    let answer = attack
        .site
        .send(&Req::get("/x").bearer(&token).header("X-User", "root").header("x-user", "admin").header("X-USER", ""));
    attack.wrong.eq("repeated managed names", answer.status, 200);
    attack.wrong.eq("repeated managed names", attack.site.upstream.last().all("X-User"), ["alice"]);
    attack.wrong.done();
}

#[test]
fn class_25_control_characters_in_claims() {
    let site = Site::with(IDENTITY);
    for sub in ["a\r\nX-Admin: 1", "a\rb", "a\nb", "a\0", "é", "\u{feff}a", "a\u{2028}b"] {
        let answer = site.get("/x", Some(&site.mint.token(&json!({ "sub": sub }))));
        assert_eq!(answer.status, 403, "{sub:?}");
    }
    assert_eq!(site.upstream.count(), 0);
}

#[test]
fn class_26_trailers_with_protected_names() {
    let site = Site::with(IDENTITY);
    let token = site.mint.token(&json!({}));
    let body = "1\r\na\r\n0\r\nX-User: root\r\nX_User: root\r\nAuthorization: Bearer x\r\nHost: evil\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n";
    let request = Req::post("/x")
        .bearer(&token)
        .header("Transfer-Encoding", "chunked")
        .header("Trailer", "X-User")
        .raw_body(body);
    assert_eq!(site.send(&request).status, 200);
    let seen = &site.upstream.wait_for(1)[0];
    assert_eq!((seen.trailers.as_slice(), seen.body.as_slice()), (&[][..], &b"a"[..]));
    assert_eq!(seen.all("X-User"), ["alice"]);
}

#[test]
fn class_27_one_authority() {
    let site = Site::with(
        "[[routes]]\nname = \"a\"\nhosts = [\"api.test\"]\npath = \"/**\"\nupstream = \"app\"\nallow = [{ public = true }]\n\
         [[routes]]\nname = \"b\"\nhosts = [\"admin.test\"]\npath = \"/**\"\nupstream = \"app\"\nallow = [{ scopes = [\"never\"] }]\n",
    );
    let mut attack = Attack::on(site);
    attack.refused("absolute form, another Host", &Req::get("http://api.test/x").host("admin.test"));
    attack.refused("the reverse", &Req::get("http://admin.test/x").host("api.test"));
    attack.refused("user info in the Host", &Req::get("/x").host("api.test@admin.test"));
    attack.refused("user info in the target", &Req::get("http://api.test@admin.test/x").host("admin.test"));
    attack.refused("no Host", &Req::get("/x").without_host());
    attack.refused("empty Host", &Req::get("/x").host(""));
    attack.refused("two Hosts", &Req::get("/x").header("Host", "admin.test"));
    attack.refused("Host with a space before the colon", &Req::get("/x").without_host().line(b"Host : api.test"));
    attack.refused("Host on a folded line", &Req::get("/x").without_host().line(b"Host:\r\n api.test"));
    attack.refused("port 0", &Req::get("/x").host("api.test:0"));
    attack.refused("port too high", &Req::get("/x").host("api.test:65536"));
    attack.refused("slash", &Req::get("/x").host("api.test/"));
    attack.refused("hash", &Req::get("/x").host("api.test#admin.test"));
    attack.refused("escaped", &Req::get("/x").host("api%2etest"));
    let address = attack.site.gateway.address("main");
    let request = Request::get("http://api.test/x").header("host", "admin.test").body(empty()).unwrap();
    let answer = H2Client::plain(address).try_send(request);
    attack.wrong.ok("HTTP/2: host beside :authority", answer.as_ref().map_or(true, |a| a.status == 400), &answer);
    let seen = attack.site.upstream.count();
    attack.wrong.eq("upstream", seen, 0);
    attack.wrong.done();
}

#[test]
fn class_29_lax_scheme_parsing() {
    let site = Site::with(IDENTITY);
    let token = site.mint.token(&json!({}));
    let mut attack = Attack::on(site);
    for value in [
        format!("Bearer\t{token}"),
        format!("Bearer:{token}"),
        format!("Bearer={token}"),
        format!("Bearer,{token}"),
        format!("Bearer\"{token}\""),
        format!("Bearer{token}"),
        format!("Token {token}"),
        format!("JWT {token}"),
        format!("Bearer Bearer {token}"),
        token.clone(),
        format!("\u{a0}Bearer {token}"),
        format!("Bearer\u{a0}{token}"),
        format!("Bearer {token}\u{a0}"),
        format!("Bearer {token}="),
        format!("Bearer token={token}"),
    ] {
        attack.refused(&value, &Req::get("/x").header("Authorization", &value));
    }
    attack.wrong.done();
}

#[test]
fn class_30_tokens_and_own_cookies_stay_here() {
    let site = Site::with(IDENTITY);
    let token = site.mint.token(&json!({}));
    let cookies = "a=1; __Host-tollgate-browser=secret; __Host-tollgate-session=secret; b=2";
    assert_eq!(site.send(&Req::get("/x").bearer(&token).header("Cookie", cookies)).status, 200);
    let seen = site.upstream.last();
    assert!(!String::from_utf8_lossy(&seen.head).contains(&token));
    let cookie = seen.all("Cookie").join("; ");
    assert!(cookie.contains("a=1") && cookie.contains("b=2"), "{cookie}");
}

#[test]
fn class_31_framing_tricks() {
    let mut attack = Attack::new();
    let smuggled = "GET /admin/x HTTP/1.1\r\nHost: api.test\r\n\r\n";
    let length = smuggled.len();
    let cases = [
        ("CL and TE", format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}")),
        ("TE and CL", format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n{smuggled}")),
        ("CL twice", format!("Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{smuggled}")),
        ("CL list", format!("Content-Length: 0, {length}\r\n\r\n{smuggled}")),
        ("CL plus", format!("Content-Length: +{length}\r\n\r\n{smuggled}")),
        ("CL hex", format!("Content-Length: 0x{length:x}\r\n\r\n{smuggled}")),
        ("CL negative", format!("Content-Length: -1\r\n\r\n{smuggled}")),
        ("CL empty", format!("Content-Length: \r\n\r\n{smuggled}")),
        ("TE unknown", format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}")),
        ("TE identity", format!("Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n{smuggled}")),
        ("TE list", format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{smuggled}")),
        ("TE twice", format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{smuggled}")),
        (
            "TE with a space before the colon",
            format!("Transfer-Encoding : chunked\r\nContent-Length: {length}\r\n\r\n{smuggled}"),
        ),
        (
            "TE with a vertical tab",
            format!("Transfer-Encoding: \x0bchunked\r\nContent-Length: {length}\r\n\r\n{smuggled}"),
        ),
        ("TE folded", format!("Transfer-Encoding:\r\n chunked\r\nContent-Length: {length}\r\n\r\n{smuggled}")),
        ("a bare LF", format!("X-A: b\nTransfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n{smuggled}")),
        ("a bare CR", format!("X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n{smuggled}")),
        ("a NUL", format!("X-A: b\0\r\nContent-Length: {length}\r\n\r\n{smuggled}")),
        ("an empty name", format!(": x\r\nContent-Length: {length}\r\n\r\n{smuggled}")),
        ("a chunk size with a sign", format!("Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n{smuggled}")),
        ("a chunk size that overflows", format!("Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n{smuggled}")),
        ("a chunk that is too long", format!("Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n{smuggled}")),
    ];
    for (case, rest) in &cases {
        let bytes = format!("GET /public/x HTTP/1.1\r\nHost: api.test\r\n{rest}");
        attack.harmless(case, bytes.as_bytes());
        // The smuggled request, should it come, is judged by itself.
        let seen = attack.site.upstream.requests();
        attack.wrong.ok(case, !seen.iter().any(|request| request.target.contains("admin")), &seen);
        for request in &seen {
            attack.wrong.ok(
                case,
                !(request.has("Content-Length") && request.has("Transfer-Encoding")),
                &request.headers,
            );
            let body = String::from_utf8_lossy(&request.body).into_owned();
            attack.wrong.ok((case, "head"), !String::from_utf8_lossy(&request.head[4..]).contains("GET /"), body);
        }
    }
    attack.done();
}

#[test]
fn class_31_http_1_0_with_transfer_encoding() {
    let mut attack = Attack::new();
    let bytes = b"POST /docs/x HTTP/1.0\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin/x HTTP/1.1\r\nHost: api.test\r\n\r\n";
    attack.refused_bytes("TE in HTTP/1.0", bytes);
    attack.done();
}

#[test]
fn class_31_a_denied_body_is_not_read_as_a_request() {
    let site = Site::with(SCENE);
    let smuggled = Req::get("/public/smuggled").bytes();
    let request = Req::post("/admin/x").header("Content-Length", &smuggled.len().to_string());
    let mut conn = site.connect();
    conn.write(request.bytes());
    assert_eq!(conn.read_answer().status, 401);
    let _maybe_closed = conn.wire.write(&smuggled);
    let _maybe_closed = conn.wire.write(&Req::get("/public/second").bytes());
    let _any = conn.read(false);
    let targets: Vec<_> = site.upstream.requests().into_iter().map(|request| request.target).collect();
    assert!(!targets.contains(&"/public/smuggled".to_owned()), "{targets:?}");
}

#[test]
fn class_32_h2c_upgrades_are_never_forwarded() {
    let site = Site::builder().upstream(RecordingUpstream::start()).more(SCENE).start();
    let mut conn = Conn::open(site.gateway.address("main"));
    let upgrade = Req::get("/public/x")
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA");
    assert_eq!(conn.send(&upgrade).status, 200);
    let seen = site.upstream.last();
    assert!(!seen.has("Upgrade") && !seen.has("HTTP2-Settings"), "{:?}", seen.headers);
    for value in ["h2c, websocket", "websocket, h2c", "H2C"] {
        let answer = site.send(&Req::get("/public/x").header("Connection", "Upgrade").header("Upgrade", value));
        assert!(matches!(answer.status, 200 | 400), "{value}: {}", answer.status);
        assert!(site.upstream.last().all("Upgrade").iter().all(|u| !u.to_lowercase().contains("h2c")));
    }
}
