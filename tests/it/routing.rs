//! Which route a request meets, which spellings of a path are refused, and what is forwarded of it.

use crate::support::command::check;
use crate::support::mint::Mint;
use crate::support::{Conn, RecordingUpstream, Req, Site, Wrong};

/// Public routes that say their name in `X-Route`. `head` is `hosts` and other lines of the route.
fn routes(list: &[(&str, &str, &str)]) -> String {
    list.iter()
        .map(|(name, path, lines)| {
            format!(
                "[[routes]]\nname = \"{name}\"\npath = \"{path}\"\nupstream = \"app\"\n{lines}\n\
                 allow = [{{ public = true }}]\n\
                 [routes.forward]\nresponse_headers = {{ \"X-Route\" = \"{name}\" }}\n"
            )
        })
        .collect()
}

/// The name of the route that answered, or the status of the refusal.
fn met(site: &Site, request: &Req) -> String {
    let answer = site.send(request);
    answer.header("X-Route").map_or_else(|| answer.status.to_string(), str::to_owned)
}

#[test]
fn hosts_exact_then_wildcard_then_any() {
    let site = Site::with(&routes(&[
        ("any", "/**", ""),
        ("any-a", "/a", ""),
        ("wild-b", "/b", r#"hosts = ["*.test"]"#),
        ("wild-a", "/a", r#"hosts = ["*.test"]"#),
        ("exact-a", "/a", r#"hosts = ["api.test"]"#),
        ("two", "/two", r#"hosts = ["one.example", "*.two.example"]"#),
    ]));
    let cases = [
        ("api.test", "/a", "exact-a"),
        ("api.test", "/b", "wild-b"),
        ("api.test", "/c", "any"),
        ("other.test", "/a", "wild-a"),
        ("a.b.test", "/a", "any-a"),
        ("test", "/a", "any-a"),
        (".test", "/b", "any"),
        ("evil-api.test.example", "/a", "any-a"),
        ("API.Test", "/a", "exact-a"),
        ("api.test:8080", "/a", "exact-a"),
        ("API.TEST:80", "/a", "exact-a"),
        ("one.example", "/two", "two"),
        ("x.two.example", "/two", "two"),
        ("two.example", "/two", "any"),
        ("127.0.0.1", "/a", "any-a"),
        ("[::1]:8080", "/a", "any-a"),
    ];
    let mut wrong = Wrong::default();
    for (host, path, expected) in cases {
        let got = met(&site, &Req::get(path).host(host));
        // A host that cannot be one may be refused, but must not meet the route of another.
        wrong.ok((host, path), got == expected || (host.starts_with('.') && got == "400"), &got);
    }
    wrong.done();
}

#[test]
fn the_route_that_matched_alone_decides() {
    let site = Site::with(
        r#"
[[routes]]
name = "open"
path = "/**"
upstream = "app"
allow = [{ public = true }]
[[routes]]
name = "exact"
hosts = ["api.test"]
path = "/a"
upstream = "app"
allow = [{ methods = ["POST"], scopes = ["w"] }]
[[routes]]
name = "closed"
path = "/closed/{id}"
upstream = "app"
allow = [{ scopes = ["never"] }]
"#,
    );
    let mut wrong = Wrong::default();
    wrong.eq("another method", site.send(&Req::get("/a")).status, 405);
    wrong.eq("no token", site.send(&Req::post("/a").body("")).status, 401);
    wrong.eq("another host", site.send(&Req::get("/a").host("x.test")).status, 200);
    wrong.eq("not enough", site.send(&Req::get("/closed/7").bearer(&site.mint.scoped("w"))).status, 403);
    wrong.eq("beside it", site.send(&Req::get("/closed")).status, 200);
    wrong.done();
}

#[test]
fn bad_hosts_are_refused() {
    let site = Site::with(&routes(&[("any", "/**", ""), ("exact", "/**", r#"hosts = ["api.test"]"#)]));
    let mut wrong = Wrong::default();
    let cases = [
        ("missing", Req::get("/").without_host()),
        ("repeated", Req::get("/").header("Host", "api.test")),
        ("repeated, different", Req::get("/").header("Host", "other.test")),
        ("user info", Req::get("/").host("user@api.test")),
        ("user info that looks like us", Req::get("/").host("api.test@evil.test")),
        ("path", Req::get("/").host("api.test/x")),
        ("space", Req::get("/").host("api.test evil.test")),
        ("comma", Req::get("/").host("api.test,evil.test")),
        ("port that is none", Req::get("/").host("api.test:http")),
        ("target differs", Req::get("http://other.test/").host("api.test")),
    ];
    for (name, request) in &cases {
        wrong.eq(name, site.send(request).status, 400);
    }
    wrong.eq("upstream", site.upstream.count(), 0);
    wrong.eq("absolute target, same host", met(&site, &Req::get("http://api.test/x?y=1")), "exact".to_owned());
    wrong.done();
    assert_eq!(site.upstream.last().target, "/x?y=1");
}

#[test]
fn paths_literal_then_segment_then_rest() {
    // Written worst first: the order of the file must not matter.
    let site = Site::with(&routes(&[
        ("rest", "/orders/**", ""),
        ("id", "/orders/{id}", ""),
        ("items", "/orders/{id}/items", ""),
        ("special", "/orders/special", ""),
        ("slash", "/slash/", ""),
        ("no-slash", "/bare", ""),
        ("only-id", "/only/{id}", ""),
        ("a-c", "/x/{a}/c", ""),
        ("b-rest", "/x/b/**", ""),
        ("root", "/", ""),
        ("accent", "/caf%C3%A9", ""),
        ("tilde", "/~me/**", ""),
    ]));
    let cases = [
        ("/", "root"),
        ("/orders", "rest"),
        ("/orders/", "rest"),
        ("/orders/7", "id"),
        ("/orders/7/", "rest"),
        ("/orders/special", "special"),
        ("/orders/special/", "rest"),
        ("/orders/special/items", "items"),
        ("/orders/specials", "id"),
        ("/orders/7/items", "items"),
        ("/orders/7/items/", "rest"),
        ("/orders/7/items/9", "rest"),
        ("/orders/Special", "id"),
        ("/orders?x=/orders/special", "rest"),
        ("/Orders/7", "404"),
        ("/ordersx", "404"),
        ("/orders7/items", "404"),
        ("/order", "404"),
        ("/slash/", "slash"),
        ("/slash", "404"),
        ("/bare", "no-slash"),
        ("/bare/", "404"),
        ("/only/", "404"),
        ("/only", "404"),
        ("/only/a/b", "404"),
        ("/x/b/c", "b-rest"),
        ("/x/b", "b-rest"),
        ("/x/d/c", "a-c"),
        ("/x/d/e", "404"),
        ("/caf%C3%A9", "accent"),
        ("/caf%c3%a9", "accent"),
        ("/%63af%C3%A9", "accent"),
        ("/%6Frders/%37", "id"),
        ("/orders/%73pecial", "special"),
        ("/%7Eme/x", "tilde"),
        ("/%7eme", "tilde"),
        ("/nowhere", "404"),
    ];
    let mut wrong = Wrong::default();
    for (path, expected) in cases {
        wrong.eq(path, met(&site, &Req::get(path)), expected.to_owned());
    }
    wrong.done();
}

#[test]
fn what_is_forwarded_is_the_canonical_spelling_with_the_query_untouched() {
    let site = Site::with(&routes(&[("all", "/**", "")]));
    let cases = [
        ("/orders/7", "/orders/7"),
        ("/%6Frders/%37", "/orders/7"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/%7ea%2db%2Ec%5fd", "/~a-b.c_d"),
        ("/a%20b", "/a%20b"),
        ("/a%3ab", "/a%3Ab"),
        ("/a%26b%3Dc", "/a%26b%3Dc"),
        ("/a!$&'()*+,=:@b", "/a!$&'()*+,=:@b"),
        ("/a...b/.../c.", "/a...b/.../c."),
        ("/a/", "/a/"),
        ("/a?", "/a?"),
        ("/a?b=%2f..%2F&c=../../d;e", "/a?b=%2f..%2F&c=../../d;e"),
        ("/a?%6F=%zz&%&x=//\\", "/a?%6F=%zz&%&x=//\\"),
        ("/a?x=/health", "/a?x=/health"),
        ("/a??", "/a??"),
    ];
    let mut wrong = Wrong::default();
    for (sent, expected) in cases {
        let status = site.send(&Req::get(sent)).status;
        if wrong.eq(sent, status, 200) {
            wrong.eq(sent, site.upstream.last().target, expected);
        }
    }
    wrong.done();
}

/// Every one of them can be read in two ways.
pub const REFUSED: &[&str] = &[
    "/public/../admin",
    "/public/./admin",
    "/..",
    "/.",
    "/public/..",
    "/public/.",
    "/public/%2e%2e/admin",
    "/public/%2E%2E/admin",
    "/public/.%2e/admin",
    "/public/%2e./admin",
    "/public/%2e",
    "/public/%252e%252e/admin",
    "/public%2F..%2Fadmin",
    "/public/..%2fadmin",
    "/public%2fadmin",
    "/public%2Fadmin",
    "/public%252Fadmin",
    "//admin",
    "//evil.test/admin",
    "///",
    "/public//admin",
    "/public/admin//",
    "/public\\admin",
    "/public/..\\admin",
    "/public%5cadmin",
    "/public%5Cadmin",
    "/public/%00",
    "/public/a%00.png",
    "/public/%0a",
    "/public/%0d%0aX:1",
    "/public/%09",
    "/public/%1f",
    "/public/%7f",
    "/public/%25",
    "/public/%2541",
    "/public;/admin",
    "/public/..;/admin",
    "/public/.;/admin",
    "/public/a;b=c",
    "/public/a%3bb",
    "/public/a%3B",
    "/public/a%3f",
    "/public/a%3Fb=c",
    "/public/a%23",
    "/public/%C0%AF",
    "/public/%c0%ae%c0%ae/admin",
    "/public/%E0%80%AF",
    "/public/%ED%A0%80",
    "/public/%F8%88%80%80%80",
    "/public/%FF",
    "/public/%C3",
    "/public/%80",
    "/public/%",
    "/public/%4",
    "/public/%zz",
    "/public/%u002e%u002e/admin",
    "/public/%-1",
    "/public/% 1",
];

#[test]
fn paths_that_could_be_read_in_two_ways_are_refused() {
    let site = Site::with(&routes(&[("public", "/public/**", ""), ("rest", "/**", "")]));
    let mut wrong = Wrong::default();
    for path in REFUSED {
        wrong.eq(path, site.send(&Req::get(path)).status, 400);
    }
    for raw in [&b"/caf\xc3\xa9"[..], b"/\xff", b"/public/\x7f", b"/public/\x01", b"/public/\xe2\x80\xae"] {
        let request = [b"GET ", raw, b" HTTP/1.1\r\nHost: api.test\r\n\r\n"].concat();
        let mut conn = Conn::open(site.gateway.address("main"));
        wrong.eq(raw.escape_ascii().to_string(), conn.write(&request).read_answer().status, 400);
    }
    wrong.eq("forwarded", site.upstream.requests().iter().map(|r| r.target.clone()).collect::<Vec<_>>(), [""; 0]);
    wrong.done();
}

#[test]
fn the_path_is_judged_before_the_route_is_known() {
    let site = Site::with(
        "[[routes]]\nname = \"closed\"\npath = \"/closed/**\"\nupstream = \"app\"\nallow = [{ scopes = [\"x\"] }]\n",
    );
    let mut wrong = Wrong::default();
    wrong.eq("no such route", site.send(&Req::get("/nowhere/..")).status, 400);
    wrong.eq("no token", site.send(&Req::get("/closed/../x")).status, 400);
    wrong.eq("no method", site.send(&Req::new("TRACE", "/closed/../x")).status, 400);
    wrong.done();
}

#[test]
fn a_route_may_open_single_spellings() {
    let site = Site::with(&routes(&[
        ("slash", "/files/**", r#"allow_in_path = ["%2F"]"#),
        ("matrix", "/matrix/**", r#"allow_in_path = [";"]"#),
        ("one", "/one/{name}", r#"allow_in_path = ["%2F", ";"]"#),
        ("rest", "/**", ""),
    ]));
    let cases = [
        ("/files/a%2Fb", Some("/files/a%2Fb")),
        ("/files/a%2fb", Some("/files/a%2Fb")),
        ("/files/a%5Cb", None),
        ("/files/a;b", None),
        ("/files/..%2Fb", None),
        ("/files/%2e%2e%2Fb", None),
        ("/files/a%2F..", None),
        ("/files/a%2F%2E%2E%2Fb", None),
        ("/files/a%2F%2Fb", None),
        ("/files/%2F", None),
        ("/files%2Fa", None),
        ("/matrix/a;b=c", Some("/matrix/a;b=c")),
        ("/matrix/..;/b", None),
        ("/matrix/.;a/b", None),
        ("/matrix/%2e%2e;x/b", None),
        ("/matrix/a%2Fb", None),
        ("/matrix;x/a", None),
        ("/one/a%2Fb;c", Some("/one/a%2Fb;c")),
        ("/other/a%2Fb", None),
        ("/other/a;b", None),
    ];
    let mut wrong = Wrong::default();
    for (path, forwarded) in cases {
        let answer = site.send(&Req::get(path));
        match forwarded {
            None => drop(wrong.eq(path, answer.status, 400)),
            Some(target) => {
                if wrong.eq(path, answer.status, 200) {
                    wrong.eq(path, site.upstream.last().target, target);
                }
            }
        }
    }
    wrong.done();
}

#[test]
fn an_encoded_slash_never_splits_a_segment() {
    let site = Site::with(&routes(&[
        ("one", "/f/{name}", r#"allow_in_path = ["%2F"]"#),
        ("admin", "/f/{name}/admin", r#"allow_in_path = ["%2F"]"#),
    ]));
    assert_eq!(met(&site, &Req::get("/f/a%2Fadmin")), "one");
    assert_eq!(met(&site, &Req::get("/f/a/admin")), "admin");
}

#[test]
fn methods() {
    let site = Site::with(
        r#"
[[routes]]
name = "get"
path = "/get"
upstream = "app"
allow = [{ methods = ["GET"], scopes = ["a"] }]
[[routes]]
name = "all"
path = "/all"
upstream = "app"
allow = [{ authenticated = true }]
[[routes]]
name = "head"
path = "/head"
upstream = "app"
allow = [{ methods = ["HEAD"], public = true }]
"#,
    );
    let token = site.mint.scoped("a");
    let status = |method: &str, path: &str| {
        let mut conn = site.connect();
        let request = Req::new(method, path).bearer(&token);
        conn.try_send(&request).map_or(0, |answer| answer.status)
    };
    let mut wrong = Wrong::default();
    for (method, path, expected) in [
        ("GET", "/get", 200),
        ("HEAD", "/get", 200),
        ("get", "/get", 405),
        ("Get", "/get", 405),
        ("GETX", "/get", 405),
        ("OPTIONS", "/get", 405),
        ("PUT", "/all", 200),
        ("DELETE", "/all", 200),
        ("OPTIONS", "/all", 200),
        ("PROPFIND", "/all", 200),
        ("HEAD", "/head", 200),
        ("GET", "/head", 405),
    ] {
        wrong.eq((method, path), status(method, path), expected);
    }
    let before = site.upstream.count();
    for (method, target) in [("TRACE", "/all"), ("TRACE", "/get"), ("CONNECT", "api.test:80"), ("CONNECT", "/all")] {
        let got = status(method, target);
        wrong.ok((method, target), matches!(got, 400 | 405 | 501), got);
    }
    wrong.eq("nothing forwarded", site.upstream.count(), before);
    wrong.done();
}

#[test]
fn asterisk_is_no_path() {
    let site = Site::with(&routes(&[("rest", "/**", "")]));
    let status = site.send(&Req::new("OPTIONS", "*")).status;
    assert!(matches!(status, 400 | 404 | 405), "{status}");
    assert_eq!(site.upstream.count(), 0);
}

#[test]
fn method_overrides_do_not_reach_the_upstream() {
    let site = Site::with(&routes(&[("rest", "/**", "")]));
    let names = ["X-HTTP-Method-Override", "x-http-method", "X-Method-Override", "X_HTTP_METHOD_OVERRIDE"];
    let request = names.iter().fold(Req::get("/"), |request, name| request.header(name, "DELETE"));
    assert_eq!(site.send(&request).status, 200);
    let seen = site.upstream.last();
    for name in names {
        assert!(!seen.has(name), "{name} in {:?}", seen.headers);
    }
    assert_eq!(seen.method, "GET");
}

#[test]
fn a_dialect_refuses_what_its_servers_read_otherwise() {
    let other = RecordingUpstream::start();
    let site = Site::builder()
        .upstream_lines("dialect = \"iis\"")
        .more(&format!("[upstreams.plain]\nservers = [\"{}\"]", other.url()))
        .more(
            r#"
[[routes]]
name = "iis"
path = "/iis/**"
upstream = "app"
allow = [{ scopes = ["x"] }]
[[routes]]
name = "plain"
path = "/plain/**"
upstream = "plain"
allow = [{ public = true }]
"#,
        )
        .start();
    let token = site.mint.scoped("x");
    let mut wrong = Wrong::default();
    for tail in ["a.", "a%20", "a./b", "a%20/b", "a::$DATA", "a%3A%3A$DATA", "a%2A", "a.aspx%20", "web.config."] {
        wrong.eq(tail, site.get(&format!("/iis/{tail}"), Some(&token)).status, 400);
        wrong.eq(("before the token", tail), site.get(&format!("/iis/{tail}"), None).status, 400);
        wrong.eq(("generic", tail), site.get(&format!("/plain/{tail}"), None).status, 200);
    }
    wrong.eq("harmless", site.get("/iis/a.b/c.aspx", Some(&token)).status, 200);
    wrong.done();
}

#[test]
fn a_route_may_stand_on_one_listener_only() {
    let site = Site::builder()
        .more("[listeners.inner]\naddress = \"127.0.0.1:0\"\n")
        .more(&routes(&[
            ("inner", "/inner", r#"listeners = ["inner"]"#),
            ("main", "/main", r#"listeners = ["main"]"#),
            ("both", "/both", ""),
        ]))
        .start();
    let status =
        |listener: &str, path: &str| crate::support::send(site.gateway.address(listener), &Req::get(path)).status;
    let mut wrong = Wrong::default();
    for (listener, path, expected) in [
        ("main", "/main", 200),
        ("main", "/inner", 404),
        ("main", "/both", 200),
        ("inner", "/main", 404),
        ("inner", "/inner", 200),
        ("inner", "/both", 200),
    ] {
        wrong.eq((listener, path), status(listener, path), expected);
    }
    wrong.done();
}

const SERVER: &str = r#"
[authorization_server]
[authorization_server.clients.app]
public = true
redirect_uris = ["https://app.test/cb"]
[authorization_server.users.file]
path = "users.toml"
"#;

#[test]
fn reserved_paths_win_on_the_issuers_host_and_only_there() {
    let site = Site::builder().more(SERVER).file("users.toml", "").more(&routes(&[("rest", "/**", "")])).start();
    let mut wrong = Wrong::default();
    let on = |host: &str, path: &str| met(&site, &Req::get(path).host(host));
    for path in ["/oauth2/jwks", "/.well-known/oauth-authorization-server"] {
        wrong.eq(("the issuer", path), on("127.0.0.1", path), "200".to_owned());
        wrong.eq(("the issuer with a port", path), on("127.0.0.1:8080", path), "200".to_owned());
        wrong.eq(("another host", path), on("api.test", path), "rest".to_owned());
    }
    for path in ["/oauth2/nothing", "/oauth2/", "/oauth2/token/x"] {
        wrong.eq(("unknown below it", path), on("127.0.0.1", path), "404".to_owned());
    }
    wrong.eq("another spelling", on("127.0.0.1", "/%6Fauth2/jwks"), "200".to_owned());
    wrong.eq("beside it", on("127.0.0.1", "/oauth2x"), "rest".to_owned());
    wrong.done();
}

#[test]
fn routes_that_cannot_be_are_found_by_check() {
    let jwks = Mint::new().jwks();
    let files = [("jwks.json", jwks.as_str()), ("users.toml", "")];
    let base = Site::builder().more(SERVER).config();
    let run = |routes: &str| check(&format!("{base}{routes}"), &files, &[]);
    let good = run(&routes(&[("a", "/a/{x}", ""), ("b", "/a/b", ""), ("c", "/a/**", "")]));
    assert_eq!(good.code, Some(0), "{good:?}");
    let bad = [
        ("the same path", routes(&[("a", "/a/b", ""), ("b", "/a/b", "")])),
        ("the same shape", routes(&[("a", "/a/{x}", ""), ("b", "/a/{y}", "")])),
        (
            "the same host among several",
            routes(&[("a", "/a", r#"hosts = ["x.test", "api.test"]"#), ("b", "/a", r#"hosts = ["API.test"]"#)]),
        ),
        ("the same name", routes(&[("a", "/a", ""), ("a", "/b", "")])),
        ("inside a reserved path", routes(&[("a", "/oauth2/token", "")])),
        ("below a reserved path", routes(&[("a", "/oauth2/**", "")])),
        ("the metadata", routes(&[("a", "/.well-known/oauth-authorization-server", "")])),
        ("rest in the middle", routes(&[("a", "/**/a", "")])),
        ("rest inside a segment", routes(&[("a", "/a**", "")])),
        ("a regular expression", routes(&[("a", "/a/(.*", "")])),
        ("a dot segment", routes(&[("a", "/a/../b", "")])),
        ("no slash first", routes(&[("a", "a", "")])),
        ("a query", routes(&[("a", "/a?b", "")])),
        ("an unknown spelling", routes(&[("a", "/a/**", r#"allow_in_path = ["%41"]"#)])),
        ("a wildcard in the middle", routes(&[("a", "/a", r#"hosts = ["api.*.test"]"#)])),
        ("a bare wildcard", routes(&[("a", "/a", r#"hosts = ["*"]"#)])),
        ("no hosts", routes(&[("a", "/a", "hosts = []")])),
    ];
    let mut wrong = Wrong::default();
    for (name, routes) in &bad {
        let done = run(routes);
        wrong.eq(name, done.code, Some(1));
        wrong.ok(name, done.all().contains("tollgate.toml:"), done.all());
    }
    let allow = |allow: &str| {
        run(&format!(
            "[[routes]]\nname = \"a\"\npath = \"/a\"\nupstream = \"app\"\nissuers = [\"corp\"]\nallow = {allow}\n"
        ))
    };
    for entries in [
        "[]",
        "[{}]",
        "[{ methods = [\"GET\"] }]",
        "[{ scopes = [] }]",
        "[{ roles = [] }]",
        "[{ methods = [], public = true }]",
        "[{ public = true, scopes = [\"x\"] }]",
        "[{ public = true, authenticated = true }]",
        "[{ public = false }]",
        "[{ authenticated = false }]",
        "[{ scope = [\"x\"] }]",
        "[{ issuers = [\"nobody\"] }]",
        "[{ claims = {} }]",
        "[{ claims = { a = [] } }]",
    ] {
        wrong.eq(entries, allow(entries).code, Some(1));
    }
    wrong.eq("a good one", allow("[{ scopes = [\"x\"] }]").code, Some(0));
    // On a route that takes tokens of two issuers, a user's name alone says nothing.
    let two = "[[routes]]\nname = \"a\"\npath = \"/a\"\nupstream = \"app\"\nallow = [{ users = [\"alice\"] }]\n";
    wrong.eq("users without an issuer", run(two).code, Some(1));
    let named = two.replace("users", "issuers = [\"corp\"], users");
    wrong.eq("users with an issuer", run(&named).code, Some(0));
    wrong.done();
}
