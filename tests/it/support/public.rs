//! The scene as clients meet it that cannot be told what to believe: https on one port, under the name it has for
//! everybody, with a certificate of an authority that must be named to them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{KeyPair, PublicKeyData};
use serde_json::json;

use super::command::Done;
use super::http::{Req, Response};
use super::mint::b64;
use super::server::{PASSWORD, SECRET, users};
use super::site::Site;
use super::tls::Authority;

const CLIENTS: &str = r#"
[authorization_server]
signing_algorithm = "ES256"
[authorization_server.roles.clerk]
scopes = ["orders:read", "orders:write"]
[authorization_server.roles.reader]
scopes = ["orders:read"]
[authorization_server.users.file]
path = "users.toml"

[authorization_server.clients.web]
name = "Order Book"
secret = { env = "CLIENT_SECRET" }
grants = ["authorization_code", "refresh_token"]
redirect_uris = ["http://127.0.0.1:4180/callback"]
scopes = ["orders:read", "orders:write", "offline_access"]
default_scopes = ["orders:read"]

[authorization_server.clients.native]
name = "Order Book for the desk"
public = true
grants = ["authorization_code", "refresh_token"]
redirect_uris = ["http://127.0.0.1:4180/callback"]
scopes = ["orders:read", "orders:write", "offline_access"]
default_scopes = ["orders:read"]

[authorization_server.clients.long]
name = "The Northern Counties Agricultural Machinery & Spare Parts Ordering Assistant (new edition)"
public = true
redirect_uris = ["http://127.0.0.1/callback"]
scopes = ["orders:read", "orders:write", "https://scopes.example.com/warehouse/inventory.read.everything.of.all.sites"]
default_scopes = ["orders:read"]

[authorization_server.clients.legacy]
secret = { env = "CLIENT_SECRET" }
grants = ["password", "refresh_token"]
scopes = ["orders:read", "offline_access"]
default_scopes = ["orders:read"]
introspect = true

[authorization_server.clients.machine]
secret = { env = "CLIENT_SECRET" }
grants = ["client_credentials"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]

[authorization_server.clients.signed]
auth_methods = ["private_key_jwt"]
jwks_file = "signed.jwks"
grants = ["client_credentials"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]

[[routes]]
name = "orders"
path = "/orders/**"
upstream = "app"
allow = [{ methods = ["GET"], scopes = ["orders:read"] }]
"#;

pub struct Public {
    pub site: Site,
    /// `https://localhost:PORT`
    pub issuer: String,
    authority: Authority,
    private_key: String,
}

impl Public {
    pub fn start() -> Self {
        let authority = Authority::new();
        let identity = authority.identity(&["localhost", "127.0.0.1"]);
        let port = free_port();
        let issuer = format!("https://localhost:{port}");
        let key = KeyPair::generate().unwrap();
        let (x, y) = key.der_bytes()[1..].split_at(32);
        let jwk =
            json!({"kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "use": "sig", "x": b64(x), "y": b64(y)});
        let site = Site::builder()
            .server(&format!("public_url = \"{issuer}\""))
            .listener("[listeners.main.tls]\ncertificates = [{ cert = \"tls.crt\", key = \"tls.key\" }]")
            .more(CLIENTS)
            .file("users.toml", users())
            .file("tls.crt", &identity.cert)
            .file("tls.key", &identity.key)
            .file("ca.crt", authority.pem())
            .file("signed.jwks", json!({ "keys": [jwk] }).to_string())
            .env("CLIENT_SECRET", SECRET)
            .start_with(|config| {
                let main = "[listeners.main]\naddress = \"127.0.0.1:";
                config.replace(&format!("{main}0\""), &format!("{main}{port}\""))
            });
        Self { site, issuer, authority, private_key: key.serialize_pem() }
    }

    pub fn send(&self, request: &Req) -> Response {
        let mut agreed = self.authority.client().connect(self.site.gateway.address("main"), "localhost").unwrap();
        agreed.conn.send(&request.clone().host(self.issuer.trim_start_matches("https://")))
    }

    /// Runs a script of `tests/clients`, which is told of the scene by its environment.
    pub fn run(&self, program: &Path, script: &Path) -> Done {
        let ca = self.site.gateway.dir.path().join("ca.crt");
        let scene = json!({
            "issuer": self.issuer, "ca": ca, "secret": SECRET, "user": "alice", "password": PASSWORD,
            "redirect_uri": "http://127.0.0.1:4180/callback", "private_key": self.private_key,
        });
        let output = Command::new(program)
            .arg(script)
            .env("SCENE", scene.to_string())
            .envs(["NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"].map(|name| (name, &ca)))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        output.into()
    }
}

/// A port that is free now, outside of the range from which the system hands out ports to others.
pub fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let from = std::process::id() as usize * 17;
    loop {
        let port = 10_000 + (from + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Where `tests/run` puts what others wrote.
pub fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(name)
}

/// A program that `tests/run` installs. Without it a test fails on a build server and is skipped elsewhere.
pub fn installed(path: impl Into<PathBuf>) -> Option<PathBuf> {
    let path = path.into();
    let found = match path.parent() {
        Some(folder) if folder != Path::new("") => path.exists().then(|| path.clone()),
        _ => std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|folder| folder.join(&path))
            .find(|file| file.exists()),
    };
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{} is not there; tests/run installs it", path.display());
        eprintln!("skipped: {} is not there; tests/run installs it", path.display());
    }
    found
}
