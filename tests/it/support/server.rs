//! The scene of the embedded authorization server: clients and users of every kind in front of one upstream.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use form_urlencoded::Serializer;

use super::http::{Req, Response};
use super::mint::AUDIENCE;
use super::secrets;
use super::site::{Site, SiteBuilder};

pub const SECRET: &str = "s3cretS3cretS3cretS3cret";
pub const PASSWORD: &str = "correct horse";
/// The example of RFC 6749 appendix B, and what else a password may contain.
pub const ODD_PASSWORD: &str = "  %&+£€=;\"\\ ";
/// A secret with everything that form encoding changes.
pub const ODD_SECRET: &str = "z/tZ9VwFZqApmIQ+ZH1I5pLk/uB4ud:X2/8bL+wfFTt1rFw=";

/// The host of the issuer in `public_url`.
pub const HOST: &str = "127.0.0.1";

/// An argon2id hash that costs next to nothing.
pub fn cheap_hash(password: &str) -> String {
    secrets::keep(password);
    let (memory, salt) = (64, b"0123456789abcdef");
    let params = Params::new(memory, 1, 1, Some(32)).unwrap();
    let mut out = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.as_bytes(), salt, &mut out)
        .unwrap();
    format!("$argon2id$v=19$m={memory},t=1,p=1${}${}", STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(out))
}

pub fn users() -> String {
    let user = |name: &str, password: &str, rest: &str| {
        let hash = cheap_hash(password);
        format!("[[user]]\nname = {name:?}\npassword = {{ hash = \"{hash}\" }}\n{rest}\n")
    };
    [
        user("alice", PASSWORD, "roles = [\"clerk\"]\nclaims = { tenant = \"acme\", n = 7 }"),
        user("bob", PASSWORD, "roles = [\"clerk\"]\ndisabled = true"),
        user("carol", PASSWORD, "roles = [\"reader\"]\nscopes = [\"extra\"]"),
        user("dave", PASSWORD, "scopes = [\"*\"]"),
        user("nobody", PASSWORD, ""),
        user("Zoë Ω", ODD_PASSWORD, "roles = [\"clerk\"]"),
    ]
    .concat()
}

pub const CLIENTS: &str = r#"
[authorization_server]
signing_algorithm = "ES256"

[authorization_server.roles.clerk]
scopes = ["orders:read", "orders:write"]
[authorization_server.roles.reader]
scopes = ["orders:read"]

[authorization_server.users.file]
path = "users.toml"

[authorization_server.clients.billing]
name = "Billing UI"
secret = { env = "CLIENT_SECRET" }
grants = ["password", "refresh_token"]
redirect_uris = ["https://billing.test/callback"]
scopes = ["orders:read", "orders:write", "extra", "offline_access"]
default_scopes = ["orders:read"]

[authorization_server.clients.odd]
secret = { value = "z/tZ9VwFZqApmIQ+ZH1I5pLk/uB4ud:X2/8bL+wfFTt1rFw=" }
grants = ["password"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]

[authorization_server.clients.rotating]
secrets = [{ value = "the-old-secret-of-24-chars" }, { value = "the-new-secret-of-24-chars" }]
grants = ["password"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]

[authorization_server.clients.no-default]
secret = { env = "CLIENT_SECRET" }
grants = ["password"]
scopes = ["orders:read"]

[authorization_server.clients.no-refresh]
secret = { env = "CLIENT_SECRET" }
grants = ["password"]
scopes = ["orders:read", "offline_access"]
default_scopes = ["orders:read"]

[authorization_server.clients.always]
secret = { env = "CLIENT_SECRET" }
grants = ["password", "refresh_token"]
refresh = "always"
scopes = ["orders:read", "orders:write"]
default_scopes = ["orders:read"]

[authorization_server.clients.never]
secret = { env = "CLIENT_SECRET" }
grants = ["password", "refresh_token"]
refresh = "never"
scopes = ["orders:read", "offline_access"]
default_scopes = ["orders:read"]

[authorization_server.clients.short]
secret = { env = "CLIENT_SECRET" }
grants = ["password"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]
access_token_lifetime = "5m"

[authorization_server.clients.code-only]
secret = { env = "CLIENT_SECRET" }
redirect_uris = ["https://code.test/callback"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]

[authorization_server.clients.post-only]
secret = { env = "CLIENT_SECRET" }
auth_methods = ["client_secret_post"]
grants = ["password"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]

[authorization_server.clients.basic-only]
secret = { env = "CLIENT_SECRET" }
auth_methods = ["client_secret_basic"]
grants = ["password"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]

[authorization_server.clients.migrated]
secret = { env = "CLIENT_SECRET" }
grants = ["password"]
password_until = 2020-12-31
scopes = ["orders:read"]
default_scopes = ["orders:read"]

[authorization_server.clients.native]
public = true
redirect_uris = ["http://127.0.0.1/cb"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]

[authorization_server.clients.device]
public = true
public_password = true
grants = ["password", "refresh_token"]
scopes = ["orders:read", "offline_access"]
default_scopes = ["orders:read"]

[[routes]]
name = "orders"
path = "/orders/**"
upstream = "app"
allow = [
  { methods = ["GET"], scopes = ["orders:read"] },
  { methods = ["POST"], issuers = ["self"], roles = ["clerk"], scopes = ["orders:write"] },
]
[routes.forward]
headers = { "X-User" = "{sub}", "X-Tenant" = "{claims.tenant}" }
"#;

/// Clients that people come to through a browser.
pub const BROWSED: &str = r#"
[authorization_server]
signing_algorithm = "ES256"

[authorization_server.roles.clerk]
scopes = ["orders:read", "orders:write"]
[authorization_server.roles.reader]
scopes = ["orders:read"]

[authorization_server.users.file]
path = "users.toml"

[authorization_server.clients.web]
name = "Web <Shop> & \"Co\""
secret = { env = "CLIENT_SECRET" }
grants = ["authorization_code", "refresh_token"]
redirect_uris = ["https://web.test/callback"]
scopes = ["orders:read", "orders:write", "extra", "offline_access"]
default_scopes = ["orders:read"]

[authorization_server.clients.first]
secret = { env = "CLIENT_SECRET" }
grants = ["authorization_code", "refresh_token"]
redirect_uris = ["https://first.test/callback"]
scopes = ["orders:read", "orders:write", "extra", "offline_access"]
default_scopes = ["orders:read"]
trusted = true

[authorization_server.clients.second]
secret = { env = "CLIENT_SECRET" }
grants = ["authorization_code", "refresh_token", "password"]
redirect_uris = ["https://second.test/a", "https://second.test/b?x=1&state=old"]
scopes = ["orders:read", "offline_access"]
default_scopes = ["orders:read"]
trusted = true

[authorization_server.clients.strict]
secret = { env = "CLIENT_SECRET" }
redirect_uris = ["https://strict.test/callback"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]
trusted = true
require_pkce = true

[authorization_server.clients.no-default]
secret = { env = "CLIENT_SECRET" }
redirect_uris = ["https://no-default.test/callback"]
scopes = ["orders:read"]
trusted = true

[authorization_server.clients.confidential-loopback]
secret = { env = "CLIENT_SECRET" }
redirect_uris = ["http://127.0.0.1:4000/cb"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]
trusted = true

[authorization_server.clients.no-code]
secret = { env = "CLIENT_SECRET" }
grants = ["password"]
redirect_uris = ["https://no-code.test/callback"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]

[authorization_server.clients.native]
name = "Native"
public = true
grants = ["authorization_code", "refresh_token"]
redirect_uris = [
  "http://127.0.0.1/cb", "http://[::1]:1234/cb", "com.example.app:/cb", "http://localhost:7000/cb",
]
scopes = ["orders:read", "offline_access"]
default_scopes = ["orders:read"]

[authorization_server.clients.audience]
secret = { env = "CLIENT_SECRET" }
grants = ["authorization_code", "refresh_token"]
redirect_uris = ["https://audience.test/callback"]
scopes = ["orders:read", "offline_access"]
default_scopes = ["orders:read"]
audience = ["http://127.0.0.1", "https://orders.test"]
trusted = true

[authorization_server.clients.machine]
secret = { env = "CLIENT_SECRET" }
grants = ["client_credentials"]
scopes = ["orders:read", "orders:write", "offline_access"]
default_scopes = ["orders:read"]

[authorization_server.clients.resource-server]
secret = { env = "CLIENT_SECRET" }
grants = ["client_credentials"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]
introspect = true

[[routes]]
name = "orders"
path = "/orders/**"
upstream = "app"
allow = [
  { methods = ["GET"], scopes = ["orders:read"] },
  { methods = ["POST"], scopes = ["orders:write"] },
]
[routes.forward]
headers = { "X-User" = "{sub}" }
"#;

/// The scene of everything that starts in a browser.
pub fn browsed() -> SiteBuilder {
    Site::builder().more(BROWSED).file("users.toml", users()).env("CLIENT_SECRET", SECRET)
}

/// The verifier and the challenge of RFC 7636 appendix B.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// The parameters of an authorization request that a client sends at least.
pub fn request_of(client: &str) -> String {
    format!("response_type=code&client_id={client}")
}

/// With the challenge of the appendix.
pub fn pkce_request_of(client: &str) -> String {
    format!("{}&code_challenge={CHALLENGE}&code_challenge_method=S256", request_of(client))
}

pub fn code_form(code: &str, more: &[(&str, &str)]) -> String {
    encode(&[&[("grant_type", "authorization_code"), ("code", code)], more].concat())
}

pub fn refresh_form(token: &str, more: &[(&str, &str)]) -> String {
    encode(&[&[("grant_type", "refresh_token"), ("refresh_token", token)], more].concat())
}

/// Exchanges a code; the client authenticates with Basic and the usual secret.
pub fn redeem(site: &Site, client: &str, code: &str, more: &[(&str, &str)]) -> Response {
    ask(site, client, &code_form(code, more))
}

pub fn refresh(site: &Site, client: &str, token: &str) -> Response {
    ask(site, client, &refresh_form(token, &[]))
}

/// The access and the refresh token of an answer; "" for one that is not there.
pub fn tokens(answer: &Response) -> (String, String) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    (text("access_token"), text("refresh_token"))
}

pub fn builder() -> SiteBuilder {
    Site::builder().more(CLIENTS).file("users.toml", users()).env("CLIENT_SECRET", SECRET)
}

/// A TLS listener with the certificate `tls.crt`, an issuer at `url` that is asked about tokens, and an upstream where nobody
/// is.
pub fn surroundings(url: &str) -> String {
    format!(
        r#"
[listeners.secure]
address = "127.0.0.1:0"
tls = {{ certificates = [{{ cert = "tls.crt", key = "tls.key" }}] }}
[issuers.asked.introspection]
url = "{url}/introspect"
client_id = "gateway"
client_secret = {{ env = "CLIENT_SECRET" }}
audience = ["{AUDIENCE}"]
token_prefix = "asked-"
[upstreams.nobody]
servers = ["http://127.0.0.1:1"]
"#
    )
}

pub fn start() -> Site {
    builder().start()
}

pub fn encode(parameters: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(parameters).finish()
}

pub fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

/// A request to the token endpoint with nothing but a form.
pub fn token_request(form: &str) -> Req {
    Req::post("/oauth2/token").host(HOST).form(form)
}

/// The password grant of a confidential client with Basic.
pub fn password_form(username: &str, password: &str, more: &[(&str, &str)]) -> String {
    encode(&[&[("grant_type", "password"), ("username", username), ("password", password)], more].concat())
}

/// The client authenticates with Basic and the usual secret.
pub fn ask(site: &Site, client: &str, form: &str) -> Response {
    site.send(&token_request(form).header("Authorization", &basic(client, SECRET)))
}

/// Alice's token by the password grant of `client`.
pub fn log_in(site: &Site, client: &str, more: &[(&str, &str)]) -> Response {
    ask(site, client, &password_form("alice", PASSWORD, more))
}

/// "200", or "400 invalid_grant": the status and the error of the body.
pub fn outcome(answer: &Response) -> String {
    match answer.status {
        200 => "200".to_owned(),
        status => match serde_json::from_slice::<serde_json::Value>(&answer.body) {
            Ok(body) => format!("{status} {}", body["error"].as_str().unwrap_or("without an error")),
            Err(_) => format!("{status} without JSON"),
        },
    }
}
