//! An authorization server that others wrote: `tests/clients/oidc_provider.mjs`, running on a port of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::browser::{Browser, Callback};
use super::http::{Req, Response, send};
use super::mint::{Key, b64};
use super::public::{free_port, installed, place};
use super::server::{SECRET, basic, encode};
use super::wire::PATIENCE;

/// Whom `log_in` calls back.
const REDIRECT: &str = "http://127.0.0.1:4180/callback";

pub struct OidcProvider {
    modules: PathBuf,
    port: u16,
    child: Child,
}

impl OidcProvider {
    /// With these keys, of which the first signs. `None` where it is not installed.
    pub fn start(keys: &[&Key]) -> Option<Self> {
        installed("node")?;
        let modules = installed(place("node/node_modules/oidc-provider"))?;
        let port = free_port();
        let child = launch(&modules, port, keys);
        Some(Self { modules, port, child })
    }

    /// Ends it. What it issued besides JWTs is forgotten.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// On the same port, with other keys maybe.
    pub fn start_again(&mut self, keys: &[&Key]) {
        self.stop();
        self.child = launch(&self.modules, self.port, keys);
    }

    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn send(&self, request: &Req) -> Response {
        send(address(self.port), &request.clone().host(&format!("127.0.0.1:{}", self.port)))
    }

    fn post(&self, path: &str, client: &str, form: &[(&str, &str)]) -> Response {
        self.send(&Req::post(path).form(&encode(form)).header("Authorization", &basic(client, SECRET)))
    }

    /// An access token of the client `machine`: a JWT for `resource`, or an opaque one for it by `RESOURCE/opaque`.
    pub fn token(&self, resource: &str, scope: &str) -> String {
        let form = [("grant_type", "client_credentials"), ("scope", scope), ("resource", resource)];
        let answer = self.post("/token", "machine", &form);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// What the client `web` gets when alice logs in: an access token for `resource`, a refresh token and an ID token.
    pub fn log_in(&self, resource: &str, scope: &str) -> Value {
        let query = encode(&[
            ("client_id", "web"),
            ("response_type", "code"),
            ("redirect_uri", REDIRECT),
            ("scope", &format!("openid offline_access {scope}")),
            ("prompt", "consent"),
            ("resource", resource),
        ]);
        let mut browser = Browser::new(address(self.port));
        let mut answer = browser.get(&format!("/auth?{query}"));
        let code = loop {
            let callback = Callback::of(&answer);
            if callback.base == REDIRECT {
                break callback.get("code").unwrap_or_else(|| panic!("no code in {callback:?}"));
            }
            // The first answers name a path, later ones the host too.
            let path = callback.base.find("/interaction/").or_else(|| callback.base.find("/auth/"));
            answer = browser.get(&callback.base[path.unwrap()..]);
        };
        let form =
            [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", REDIRECT), ("resource", resource)];
        let answer = self.post("/token", "web", &form);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// What it tells the client `tollgate`, which alone may ask, of a token.
    pub fn introspect(&self, token: &str) -> Response {
        self.post("/token/introspection", "tollgate", &[("token", token)])
    }

    /// Revokes an opaque token of the client `machine`.
    pub fn revoke(&self, token: &str) {
        assert_eq!(self.post("/token/revocation", "machine", &[("token", token)]).status, 200);
    }
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        self.stop();
    }
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Runs it and waits until it accepts connections.
fn launch(modules: &Path, port: u16, keys: &[&Key]) -> Child {
    let keys: Vec<_> =
        keys.iter().map(|key| json!({ "kid": key.kid, "alg": key.algorithm(), "pkcs8": b64(key.pkcs8()) })).collect();
    let scene = json!({ "port": port, "keys": keys, "secret": SECRET, "redirect_uri": REDIRECT });
    let mut child = Command::new("node")
        .args(["--input-type=module", "--eval", include_str!("../../clients/oidc_provider.mjs")])
        // Modules are looked for from here on.
        .current_dir(modules)
        .env("SCENE", scene.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address(port)).is_err() {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("oidc-provider ended: {status}");
        }
        assert!(Instant::now() < deadline, "oidc-provider does not answer");
        thread::sleep(Duration::from_millis(20));
    }
    child
}
