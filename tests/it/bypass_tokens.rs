//! Ways in which gateways of this kind were bypassed, by number, continued from `bypass`: trust, tokens, rules, login.

use serde_json::json;

use crate::support::browser::Browser;
use crate::support::command::check;
use crate::support::mint::{Key, Mint, b64};
use crate::support::server::{self, pkce_request_of, tokens};
use crate::support::tls::Authority;
use crate::support::{Req, Site, Wrong};

#[test]
fn class_34_an_authority_that_cannot_be_read_starts_nothing() {
    let authority = Authority::new();
    let identity = authority.identity(&["api.test"]);
    let pem = authority.pem().to_owned();
    let cut_off = pem[..pem.len() / 2].to_owned();
    let mut wrong = Wrong::default();
    for (case, ca) in [
        ("sound", Some(pem.as_str())),
        ("missing", None),
        ("empty", Some("")),
        ("text", Some("everybody\n")),
        ("cut off", Some(&cut_off)),
        ("a key", Some(&identity.key)),
        ("not base64", Some("-----BEGIN CERTIFICATE-----\n****\n-----END CERTIFICATE-----\n")),
        ("not a certificate", Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
    ] {
        for (place, site) in [
            (
                "clients",
                Site::builder().listener(
                    "tls = { certificates = [{ cert = \"tls.crt\", key = \"tls.key\" }], client_auth = { ca = \"ca.crt\", require = true } }",
                ),
            ),
            (
                "an upstream",
                Site::builder().upstream_lines("servers = [\"https://127.0.0.1:1\"]\ntls = { ca = \"ca.crt\" }"),
            ),
            (
                "an issuer",
                Site::builder().more(
                    "[issuers.other.jwt]\nissuer = \"https://other.test\"\naudience = [\"a\"]\njwks_url = \"https://other.test/keys\"\nca = \"ca.crt\"\n",
                ),
            ),
        ] {
            let jwks = Mint::new().jwks();
            let mut files = vec![
                ("jwks.json", jwks.as_str()),
                ("tls.crt", identity.cert.as_str()),
                ("tls.key", identity.key.as_str()),
            ];
            files.extend(ca.map(|ca| ("ca.crt", ca)));
            let routes = "[[routes]]\nname = \"r\"\npath = \"/\"\nupstream = \"app\"\nallow = [{ authenticated = true }]\n";
            let done = check(&site.more(routes).config(), &files, &[]);
            wrong.eq((place, case, done.all()), done.code, Some(i32::from(case != "sound")));
        }
    }
    wrong.done();
}

#[test]
fn class_35_nothing_is_unpacked() {
    let site = server::start();
    let mut wrong = Wrong::default();
    // A form that only unpacking would make one; four kilobytes of it would be four megabytes.
    let form = server::password_form("alice", server::PASSWORD, &[("client_id", "billing")]);
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let packed = [b"\x1f\x8b\x08\0\0\0\0\0\0\x03".as_slice(), &[0; 4096]].concat();
        let request = server::token_request("").header("Content-Encoding", coding);
        let answer = site.send(&request.raw_body(packed));
        wrong.ok((coding, "packed"), (400..500).contains(&answer.status), answer.status);
        let request = server::token_request(&form).header("Content-Encoding", coding);
        let answer = site.send(&request.header("Authorization", &server::basic("billing", server::SECRET)));
        wrong.ok((coding, "not packed"), matches!(answer.status, 200 | 400 | 415), answer.status);
    }
    // Encrypted tokens, whose content may be packed, are none.
    for alg in ["dir", "RSA-OAEP", "PBES2-HS256+A128KW", "A128KW"] {
        let header =
            json!({"alg": alg, "enc": "A128GCM", "zip": "DEF", "typ": "at+jwt", "p2c": 2_000_000_000, "p2s": "AAAA"});
        for token in [
            format!("{}.{}.{}.{}.{}", b64(header.to_string()), b64("k"), b64([0; 12]), b64([0; 4096]), b64([0; 16])),
            format!("{}..{}.{}.{}", b64(header.to_string()), b64([0; 12]), b64([0; 64]), b64([0; 16])),
        ] {
            wrong.eq(alg, site.send(&Req::get("/orders/1").bearer(&token)).status, 401);
        }
    }
    wrong.done();
    assert_eq!(site.upstream.count(), 0);
}

#[test]
fn class_40_what_is_no_access_token_does_not_pass_for_one() {
    let site = server::browsed().start();
    let mut browser = site.browser();
    let code = browser.code(&format!("{}&scope=orders:read+offline_access", pkce_request_of("first")));
    let session = browser.cookies.get("tollgate-session").cloned().expect("a session");
    let (access, refresh) = tokens(&server::redeem(&site, "first", &code, &[("code_verifier", server::VERIFIER)]));
    let call = |text: &str| site.send(&Req::get("/orders/1").bearer(text)).status;
    let mut wrong = Wrong::default();
    wrong.eq("the access token", call(&access), 200);
    let fresh = browser.code(&pkce_request_of("first"));
    let (head, rest) = access.split_once('.').unwrap();
    let payload = rest.split('.').next().unwrap();
    let unsigned = format!("{}.{payload}.", b64(r#"{"alg":"none","typ":"at+jwt"}"#));
    for (case, text) in [
        ("the refresh token", refresh.as_str()),
        ("a code", &fresh),
        ("the session", &session),
        ("the client's secret", server::SECRET),
        ("the client's id", "first"),
        ("the user", "alice"),
        ("the claims alone", payload),
        ("head and claims", &format!("{head}.{payload}")),
        ("unsigned", &unsigned),
    ] {
        let before = site.upstream.count();
        wrong.eq(case, call(text), 401);
        wrong.eq((case, "forwarded"), site.upstream.count(), before);
    }
    wrong.done();
}

#[test]
fn class_51_that_something_is_there_does_not_make_it_good() {
    let site = server::browsed().start();
    let query = pkce_request_of("first");
    let asked = |cookie: Option<String>| {
        let mut browser = Browser::new(site.gateway.address("main"));
        if let Some(value) = cookie {
            browser.cookies.insert("tollgate-session".to_owned(), value.clone());
            browser.cookies.insert("tollgate-browser".to_owned(), value);
        }
        browser.authorize(&query)
    };
    let mut someone = site.browser();
    someone.code(&query);
    let real = someone.cookies["tollgate-session"].clone();
    let mut other = real.clone();
    let last = if other.pop() == Some('A') { 'B' } else { 'A' };
    other.push(last);
    let mut wrong = Wrong::default();
    for (case, value) in [
        ("none", None),
        ("empty", Some(String::new())),
        ("a word", Some("true".to_owned())),
        ("a name", Some("alice".to_owned())),
        ("as long as one", Some("A".repeat(real.len()))),
        ("almost one", Some(other)),
        ("one and more", Some(format!("{real}A"))),
        ("very long", Some("A".repeat(3000))),
    ] {
        let page = asked(value);
        wrong.ok(case, page.status == 200 && page.text().contains("name=\"password\""), page.status);
    }
    wrong.eq("the real one", asked(Some(real)).status, 303);
    // The same of tokens: everything that stands where one would is judged.
    for text in ["true", "null", "undefined", "alice", "a.b.c", "e30.e30.", "e30.e30.e30", "..", "-", "0"] {
        wrong.eq(text, site.send(&Req::get("/orders/1").bearer(text)).status, 401);
    }
    wrong.done();
    assert_eq!(site.upstream.count(), 0);
}

#[test]
fn class_58_claims_are_compared_whole() {
    let site = Site::with(
        r#"
[[routes]]
name = "users"
path = "/users"
upstream = "app"
allow = [{ users = ["alice@corp.test"] }]
[[routes]]
name = "claims"
path = "/claims"
upstream = "app"
allow = [{ claims = { email = ["alice@corp.test"], domain = ["corp.test"] } }]
"#,
    );
    let mut wrong = Wrong::default();
    let call = |target: &str, claims: &serde_json::Value| site.get(target, Some(&site.mint.token(claims))).status;
    for (value, status) in [
        ("alice@corp.test", 200),
        ("Alice@corp.test", 403),
        ("alice@CORP.test", 403),
        ("alice@evil@corp.test", 403),
        ("alice@corp.test@evil.test", 403),
        ("alice@corp.test.evil.test", 403),
        ("alice@sub.corp.test", 403),
        ("malice@corp.test", 403),
        ("alice@corp.test ", 403),
        (" alice@corp.test", 403),
        ("alice@corp.test\0", 403),
        ("alice@corp.test\nx", 403),
        ("alice@corp.te\u{17f}t", 403),
        ("\u{430}lice@corp.test", 403),
        ("alice\u{ad}@corp.test", 403),
        ("alice@corp\u{ff0e}test", 403),
        ("alice%40corp.test", 403),
        ("\"alice\"@corp.test", 403),
        ("*@corp.test", 403),
        ("*", 403),
        ("", 403),
    ] {
        let sub = call("/users", &json!({ "sub": value }));
        // An empty or odd subject may be no subject at all.
        wrong.ok(("sub", value), sub == status || (sub == 401 && status == 403), sub);
        wrong.eq(("email", value), call("/claims", &json!({"email": value, "domain": "corp.test"})), status);
    }
    for value in [json!(["alice@corp.test"]), json!(["x", "alice@corp.test"])] {
        wrong.eq(&value, call("/claims", &json!({"email": value, "domain": "corp.test"})), 200);
    }
    for value in [json!({"alice@corp.test": true}), json!([["alice@corp.test"]]), json!(true), json!(null)] {
        wrong.eq(&value, call("/claims", &json!({"email": value, "domain": "corp.test"})), 403);
    }
    wrong.done();
}

#[test]
fn class_59_only_the_decision_is_told() {
    let site = Site::with(
        r#"
[[routes]]
name = "any-of"
path = "/any-of"
upstream = "app"
allow = [{ scopes = ["never"] }, { claims = { tenant = ["none"] } }, { scopes = ["read"] }]
[[routes]]
name = "mixed"
path = "/mixed"
upstream = "app"
allow = [{ scopes = ["never"] }, { public = true }]
"#,
    );
    let mut wrong = Wrong::default();
    let told = |target: &str, token: Option<String>| {
        let answer = site.get(target, token.as_deref());
        (
            answer.status,
            answer.challenge_param("error").unwrap_or_default(),
            answer.challenge_param("scope").unwrap_or_default(),
        )
    };
    let nothing = (200, String::new(), String::new());
    // Entries that failed before one held leave no trace, in the answer or in the next on the same connection.
    wrong.eq("a later entry", told("/any-of", Some(site.mint.scoped("read"))), nothing.clone());
    wrong.eq("public, nobody", told("/mixed", None), nothing.clone());
    wrong.eq("public, somebody", told("/mixed", Some(site.mint.scoped("read"))), nothing.clone());
    wrong.eq(
        "none",
        told("/any-of", Some(site.mint.scoped("x"))),
        (403, "insufficient_scope".to_owned(), "never".to_owned()),
    );
    let mut conn = site.connect();
    for round in 0..3 {
        for (token, status, challenge) in [(site.mint.scoped("x"), 403, true), (site.mint.scoped("read"), 200, false)] {
            let answer = conn.send(&Req::get("/any-of").bearer(&token));
            wrong.eq((round, status), (answer.status, !answer.all("WWW-Authenticate").is_empty()), (status, challenge));
        }
    }
    wrong.done();
}

#[test]
fn class_60_two_issuers_with_one_key_id() {
    let [second, third] =
        ["https://second.test", "https://third.test"].map(|name| Mint::with(name, vec![Key::p256("k1")]));
    let issuer = |name: &str| {
        format!(
            "[issuers.{name}.jwt]\nissuer = \"https://{name}.test\"\naudience = [\"https://api.test\"]\njwks_file = \"{name}.json\"\n"
        )
    };
    let site = Site::builder()
        .file("second.json", second.jwks())
        .file("third.json", third.jwks())
        .more(&issuer("second"))
        .more(&issuer("third"))
        .more("[[routes]]\nname = \"r\"\npath = \"/\"\nupstream = \"app\"\nallow = [{ authenticated = true }]\n[routes.forward]\nheaders = { \"X-Issuer\" = \"{issuer}\" }\n")
        .start();
    let mints = [(&site.mint, "https://issuer.test"), (&second, "https://second.test"), (&third, "https://third.test")];
    let mut wrong = Wrong::default();
    for (signer, own) in mints {
        for (_, claimed) in mints {
            let expected = if own == claimed { 200 } else { 401 };
            let token = signer.token(&json!({ "iss": claimed }));
            wrong.eq((own, claimed), site.get("/", Some(&token)).status, expected);
        }
    }
    wrong.eq("forwarded", site.upstream.count(), 3);
    wrong.done();
}
