//! The blocks of `docs/issuers.md`, and tokens as the products document them: access tokens count, ID and refresh tokens
//! do not.

use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway, field};
use crate::support::mint::{Key, Mint, b64, compact, hmac_sha256, merged, now, sha256};
use crate::support::{RecordingUpstream, Req, Wrong, send};

const PAGE: &str = include_str!("../../docs/issuers.md");

/// The toml blocks of the page, by the name of the issuer that they configure.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let blocks = PAGE.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let issuer = |block: &'static str| block.strip_prefix("[issuers.")?.split_once(".jwt]").map(|(name, _)| name);
    blocks.map(|block| (issuer(block).unwrap_or_else(|| panic!("no issuer first: {block}")), block)).collect()
}

/// A gateway with one block of the page, and the product's keys.
struct Product {
    mint: Mint,
    gateway: Gateway,
    upstream: RecordingUpstream,
    wrong: Wrong,
}

impl Product {
    fn start(name: &str) -> Self {
        Self::publishing(name, |keys| keys)
    }

    /// With a key set that is published as the product does.
    fn publishing(name: &str, set: impl FnOnce(Value) -> Value) -> Self {
        let (_, block) = blocks().into_iter().find(|(own, _)| *own == name).unwrap_or_else(|| panic!("no {name}"));
        let issuer =
            block.parse::<toml::Table>().unwrap()["issuers"][name]["jwt"]["issuer"].as_str().unwrap().to_owned();
        let mint = Mint::with(&issuer, vec![Key::rsa("k1")]);
        // The keys of a product are out of reach.
        let block: String = block
            .lines()
            .map(|line| {
                if line.starts_with("jwks_url = ") { "jwks_file = \"keys.json\"\n".into() } else { format!("{line}\n") }
            })
            .collect();
        let upstream = RecordingUpstream::start();
        let config = format!(
            "[store.memory]\n[admin]\naddress = \"127.0.0.1:0\"\n[listeners.main]\naddress = \"127.0.0.1:0\"\n\
             [upstreams.orders]\nservers = [\"{}\"]\n{block}",
            upstream.url()
        );
        let keys = set(mint.keys.iter().map(Key::jwk).collect());
        let gateway = Builder::new().file("keys.json", json!({ "keys": keys }).to_string()).start(&config);
        Self { mint, gateway, upstream, wrong: Wrong::default() }
    }

    /// Signed by the product; `iss` and the times are filled in.
    fn token(&self, header: &Value, claims: &Value) -> String {
        let header = merged(json!({ "alg": "RS256", "kid": "k1" }), header);
        let claims = merged(json!({ "iss": self.mint.issuer, "iat": now() - 5, "exp": now() + 600 }), claims);
        self.mint.signed(&header.to_string(), &claims.to_string())
    }

    /// The token is good, and admitted or not by the rules.
    fn accepts(&mut self, case: &str, method: &str, token: &str, status: u16) {
        let answer = send(self.gateway.address("main"), &Req::new(method, "/orders/7").bearer(token));
        self.wrong.eq((case, method), answer.status, status);
    }

    /// The token is refused, for something that the log calls so.
    fn refuses(&mut self, case: &str, token: &str, cause: &str) {
        let answer = send(self.gateway.address("main"), &Req::get("/orders/7").bearer(token));
        if self.wrong.eq(case, answer.status, 401) {
            let line = self.gateway.access_log(&answer.request_id());
            let said = field(&line, "cause").unwrap_or_default();
            self.wrong.ok(case, said.contains(cause), said);
        }
    }

    /// What the upstream was told by the last request that reached it.
    fn told(&mut self, headers: &[(&str, &str)]) {
        let last = self.upstream.last();
        for (name, value) in headers {
            self.wrong.eq(name, last.header(name), Some(*value));
        }
    }
}

#[test]
fn every_block_of_the_page_is_tested() {
    let names: Vec<_> = blocks().into_iter().map(|(name, _)| name).collect();
    let tested = ["keycloak", "entra", "entra-v1", "okta", "auth0", "auth0-rfc9068", "cognito", "google"];
    assert_eq!(names, tested);
}

#[test]
fn tokens_of_keycloak() {
    // Its sets hold a key for encryption too.
    let mut product = Product::publishing("keycloak", |keys| {
        let encryption = merged(Key::rsa("k2").bare_jwk(), &json!({"use": "enc", "alg": "RSA-OAEP"}));
        json!([encryption, keys[0]])
    });
    let typ = json!({"typ": "JWT"});
    let access = json!({
        "jti": "onrtro:5e0c", "aud": ["https://api.example.com", "account"], "sub": "f0a1-7b", "typ": "Bearer",
        "azp": "webshop", "sid": "9c1d", "acr": "1", "allowed-origins": ["https://shop.example.com"],
        "realm_access": {"roles": ["offline_access", "clerk"]}, "resource_access": {"account": {"roles": ["view-profile"]}},
        "scope": "openid orders:read profile", "preferred_username": "alice",
    });
    let with = |product: &Product, more: Value| product.token(&typ, &merged(access.clone(), &more));
    let token = with(&product, json!({}));
    product.accepts("access token", "GET", &token, 200);
    product.told(&[("X-User", "alice"), ("X-Subject", "f0a1-7b"), ("X-Client", "webshop")]);
    product.accepts("access token, by role", "POST", &token, 200);
    let token = with(&product, json!({"realm_access": {"roles": ["offline_access"]}}));
    product.accepts("without the role", "POST", &token, 403);
    let token = with(&product, json!({"aud": "account"}));
    product.refuses("without the audience mapper", &token, "audience");
    let token = with(&product, json!({"aud": null}));
    product.refuses("without any audience", &token, "audience");
    let token = with(&product, json!({"typ": "DPoP", "cnf": {"jkt": "x"}}));
    product.refuses("bound to a key", &token, "cnf");
    let id = json!({"aud": "webshop", "typ": "ID", "at_hash": "x", "scope": null, "realm_access": null});
    let token = with(&product, id);
    product.refuses("ID token", &token, "audience");
    for kind in ["Refresh", "Offline"] {
        let header = json!({"alg": "HS512", "typ": "JWT", "kid": "k3"}).to_string();
        let claims = json!({"iss": product.mint.issuer, "aud": product.mint.issuer, "typ": kind, "azp": "webshop",
                            "sub": "f0a1-7b", "iat": now(), "exp": now() + 600, "scope": "openid orders:read"});
        let token = compact(&header, &claims.to_string(), |input| hmac_sha256(b"the realm's", input));
        product.refuses(kind, &token, "symmetric");
    }
    product.wrong.done();
}

/// A token that is made as Microsoft makes them for its own APIs: what is signed is the digest of a `nonce`, so the
/// signature is good only for who knows to put it there.
fn for_graph(product: &Product, claims: &Value) -> String {
    let header = |nonce: &str| json!({"typ": "JWT", "alg": "RS256", "kid": "k1", "nonce": nonce});
    let signed = product.token(&header(&b64(sha256(b"nonce"))), claims);
    let (_, rest) = signed.split_once('.').unwrap();
    format!("{}.{rest}", b64(header("nonce").to_string()))
}

#[test]
fn tokens_of_entra() {
    // Its keys do not say their algorithm.
    let mut product = Product::publishing("entra", |keys| {
        json!([merged(
            keys[0].clone(),
            &json!({"alg": null, "x5t": "k1", "x5c": ["MIIC/zCC"], "issuer": "https://x/v2.0"})
        )])
    });
    let typ = json!({"typ": "JWT"});
    let access = json!({
        "aud": "API_CLIENT_ID", "nbf": now() - 5, "aio": "AWQAm/8X", "azp": "CLIENT", "azpacr": "1", "name": "Alice",
        "oid": "0000-oid", "preferred_username": "alice@example.com", "rh": "0.AX", "scp": "Orders.Read profile",
        "sub": "pairwise", "tid": "TENANT_ID", "uti": "x", "ver": "2.0",
    });
    let with = |product: &Product, more: Value| product.token(&typ, &merged(access.clone(), &more));
    let token = with(&product, json!({}));
    product.accepts("of a user", "GET", &token, 200);
    product.told(&[("X-User", "0000-oid"), ("X-Client", "CLIENT")]);
    let application = json!({"scp": null, "roles": ["Orders.Read.All"], "sub": "0000-oid", "name": null});
    let token = with(&product, application);
    product.accepts("of an application", "GET", &token, 200);
    let token = with(&product, json!({"scp": "Orders.Write"}));
    product.accepts("for another scope", "GET", &token, 403);
    let token = with(&product, json!({"aud": "api://API_CLIENT_ID"}));
    product.refuses("with a v1.0 audience", &token, "audience");
    let token = with(&product, json!({"iss": "https://sts.windows.net/TENANT_ID/"}));
    product.refuses("of the v1.0 issuer", &token, "issuer");
    let token = with(&product, json!({"iss": "https://login.microsoftonline.com/OTHER/v2.0"}));
    product.refuses("of another tenant", &token, "issuer");
    let id = json!({"azp": null, "azpacr": null, "scp": null, "roles": ["Orders.Read.All"], "nonce": "x"});
    let token = with(&product, merged(id.clone(), &json!({"aud": "CLIENT"})));
    product.refuses("ID token", &token, "audience");
    let token = with(&product, id);
    product.refuses("ID token of a registration that is both", &token, "claim");
    let token = for_graph(&product, &merged(access.clone(), &json!({"aud": "00000003-0000-0000-c000-000000000000"})));
    product.refuses("for Graph", &token, "");
    let token = for_graph(&product, &access);
    product.refuses("made like those for Graph", &token, "signature");
    product.wrong.done();
}

#[test]
fn tokens_of_entra_v1() {
    let mut product = Product::start("entra-v1");
    let typ = json!({"typ": "JWT", "x5t": "k1"});
    let access = json!({
        "aud": "api://API_CLIENT_ID", "nbf": now() - 5, "acr": "1", "aio": "AWQAm/8X", "amr": ["pwd"], "appid": "CLIENT",
        "appidacr": "0", "ipaddr": "192.0.2.1", "oid": "0000-oid", "scp": "Orders.Read", "sub": "pairwise",
        "tid": "TENANT_ID", "unique_name": "alice@example.com", "upn": "alice@example.com", "ver": "1.0",
    });
    let with = |product: &Product, more: Value| product.token(&typ, &merged(access.clone(), &more));
    let token = with(&product, json!({}));
    product.accepts("of a user", "GET", &token, 200);
    product.told(&[("X-User", "0000-oid"), ("X-Client", "CLIENT")]);
    let token = with(&product, json!({"aud": "API_CLIENT_ID", "scp": null, "roles": ["Orders.Read.All"]}));
    product.accepts("of an application, by id", "GET", &token, 200);
    let token = with(&product, json!({"iss": "https://sts.windows.net/TENANT_ID"}));
    product.refuses("without the slash", &token, "issuer");
    let id =
        json!({"appid": null, "appidacr": null, "scp": null, "roles": ["Orders.Read.All"], "aud": "API_CLIENT_ID"});
    let token = with(&product, id);
    product.refuses("ID token of a registration that is both", &token, "claim");
    let token = with(&product, json!({"aud": "https://graph.microsoft.com"}));
    product.refuses("for Graph", &token, "audience");
    product.wrong.done();
}

#[test]
fn tokens_of_okta() {
    let mut product = Product::start("okta");
    let access = json!({
        "ver": 1, "jti": "AT.0mP4JKAZX1iACIT4", "aud": "https://api.example.com", "sub": "alice@example.com", "cid": "CLIENT",
        "uid": "00ujmkLgagxeRrAg20g3", "scp": ["openid", "orders:read"], "auth_time": now() - 60,
    });
    let with = |product: &Product, more: Value| product.token(&json!({}), &merged(access.clone(), &more));
    let token = with(&product, json!({}));
    product.accepts("of a user", "GET", &token, 200);
    product.told(&[("X-User", "alice@example.com"), ("X-Client", "CLIENT")]);
    product.accepts("without the scope", "POST", &token, 403);
    let token = with(&product, json!({"scp": ["orders:write"], "groups": ["Everyone", "clerks"]}));
    product.accepts("with scope and group", "POST", &token, 200);
    let token = with(&product, json!({"sub": "CLIENT", "uid": null, "scp": ["orders:read"]}));
    product.accepts("of an application", "GET", &token, 200);
    let id =
        json!({"jti": "ID.4eAWJOCMB3SX8XewDfVR", "cid": null, "uid": null, "scp": null, "amr": ["pwd"], "idp": "00o"});
    let token = with(&product, merged(id.clone(), &json!({"aud": "CLIENT"})));
    product.refuses("ID token", &token, "audience");
    let token = with(&product, id);
    product.refuses("ID token for us", &token, "claim");
    let org = json!({"iss": "https://example.okta.com", "aud": "https://example.okta.com"});
    let token = with(&product, org.clone());
    product.refuses("of the org authorization server", &token, "issuer");
    let header = json!({"typ": "application/okta-internal-at+jwt"});
    let token = product.token(&header, &merged(access.clone(), &org));
    product.refuses("of the org authorization server, as it makes them now", &token, "issuer");
    product.refuses("refresh token", "WHg0OFpPTmpqZUFQZkM2", "");
    product.wrong.done();
}

#[test]
fn tokens_of_auth0() {
    let mut product = Product::start("auth0");
    let typ = json!({"typ": "JWT"});
    let access = json!({
        "sub": "auth0|123456", "aud": ["https://api.example.com", "https://example.eu.auth0.com/userinfo"], "azp": "CLIENT",
        "scope": "openid profile read:orders", "permissions": ["read:orders"], "https://example.com/tenant": "acme",
    });
    let with = |product: &Product, more: Value| product.token(&typ, &merged(access.clone(), &more));
    let token = with(&product, json!({}));
    product.accepts("of a user", "GET", &token, 200);
    product.told(&[("X-User", "auth0|123456"), ("X-Client", "CLIENT")]);
    product.accepts("without the permission", "POST", &token, 403);
    let token = with(&product, json!({"permissions": ["read:orders", "create:orders"]}));
    product.accepts("with the permission", "POST", &token, 200);
    let machine = json!({"sub": "CLIENT@clients", "aud": "https://api.example.com", "gty": "client-credentials",
                         "scope": "read:orders", "permissions": null});
    let token = with(&product, machine);
    product.accepts("of an application", "GET", &token, 200);
    let token = with(&product, json!({"iss": "https://example.eu.auth0.com"}));
    product.refuses("without the slash", &token, "issuer");
    let id = json!({"aud": "CLIENT", "azp": null, "scope": null, "permissions": null, "nonce": "x", "name": "Alice"});
    let token = with(&product, id);
    product.refuses("ID token", &token, "audience");
    let token = with(&product, json!({"aud": "https://example.eu.auth0.com/api/v2/"}));
    product.refuses("for the Management API", &token, "audience");
    // Asked for without an audience: a JWE, for Auth0 alone.
    let header = b64(json!({"alg": "dir", "enc": "A256GCM", "iss": product.mint.issuer}).to_string());
    product.refuses("encrypted", &format!("{header}..AAAA.AAAA.AAAA"), "");
    product.wrong.done();
}

#[test]
fn tokens_of_auth0_with_the_profile_of_rfc_9068() {
    let mut product = Product::start("auth0-rfc9068");
    let access = json!({
        "sub": "auth0|123456", "aud": "https://api.example.com", "client_id": "CLIENT", "jti": "73WakrfVbNJBaAmhQtEeDv",
        "scope": "read:orders", "permissions": ["create:orders"],
    });
    let token = product.token(&json!({"typ": "at+jwt"}), &access);
    product.accepts("of a user", "GET", &token, 200);
    product.told(&[("X-User", "auth0|123456"), ("X-Client", "CLIENT")]);
    product.accepts("with the permission", "POST", &token, 200);
    let token = product.token(&json!({"typ": "JWT"}), &access);
    product.refuses("anything with another typ, as an ID token", &token, "typ");
    product.wrong.done();
}

#[test]
fn tokens_of_cognito() {
    // It signs ID tokens with one key, access tokens with the other.
    let mut product = Product::publishing("cognito", |keys| json!([Key::rsa("k0").jwk(), keys[0]]));
    let access = json!({
        "sub": "aaaaaaaa-bbbb", "device_key": "aaaaaaaa", "cognito:groups": ["admins", "clerks"], "token_use": "access",
        "scope": "openid orders/read", "auth_time": now() - 60, "origin_jti": "aaaa", "jti": "bbbb", "version": 2,
        "client_id": "1example23456789", "username": "janedoe@example.com",
    });
    let with = |product: &Product, more: Value| product.token(&json!({}), &merged(access.clone(), &more));
    let token = with(&product, json!({}));
    product.accepts("access token", "GET", &token, 200);
    product.told(&[
        ("X-User", "janedoe@example.com"),
        ("X-Subject", "aaaaaaaa-bbbb"),
        ("X-Client", "1example23456789"),
    ]);
    product.accepts("by group", "POST", &token, 200);
    let token = with(&product, json!({"client_id": "2example10111213", "scope": "aws.cognito.signin.user.admin"}));
    product.accepts("signed in without the pages", "GET", &token, 403);
    let token = with(&product, json!({"client_id": "3example", "aud": "1example23456789"}));
    product.refuses("of another app client", &token, "audience");
    let id = json!({"aud": "1example23456789", "token_use": "id", "client_id": null, "scope": null, "username": null,
                    "cognito:username": "janedoe", "email": "janedoe@example.com"});
    let token = with(&product, id);
    product.refuses("ID token", &token, "audience");
    product.refuses(
        "refresh token",
        "eyJjdHkiOiJKV1QiLCJlbmMiOiJBMjU2R0NNIiwiYWxnIjoiUlNBLU9BRVAifQ.AAAA.AAAA.AAAA.AAAA",
        "",
    );
    product.wrong.done();
}

#[test]
fn tokens_of_google() {
    let mut product = Product::start("google");
    let typ = json!({"typ": "JWT"});
    let batch = json!({
        "aud": "https://api.example.com", "azp": "112233445566778899000", "sub": "112233445566778899000",
        "email": "batch@example-project.iam.gserviceaccount.com", "email_verified": true,
    });
    let with = |product: &Product, more: Value| product.token(&typ, &merged(batch.clone(), &more));
    let token = with(&product, json!({}));
    product.accepts("the service account", "GET", &token, 200);
    product.told(&[("X-User", "batch@example-project.iam.gserviceaccount.com")]);
    let stranger = json!({"email": "batch@elsewhere.iam.gserviceaccount.com", "sub": "9", "azp": "9"});
    let token = with(&product, stranger);
    product.accepts("anybody's service account, for us", "GET", &token, 403);
    let token = with(&product, json!({"email": null, "email_verified": null}));
    product.refuses("without the address", &token, "claim");
    let user =
        json!({"aud": "32555940559.apps.googleusercontent.com", "azp": "32555940559.apps.googleusercontent.com"});
    let token = with(&product, user);
    product.refuses("ID token of a login", &token, "audience");
    let token = with(&product, json!({"iss": "accounts.google.com"}));
    product.refuses("the older issuer", &token, "issuer");
    product.refuses("access token", "ya29.a0AfH6SMBx-c3Vw_9Tq", "");
    product.wrong.done();
}
