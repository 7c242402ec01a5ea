//! The `oauth2` crate through the grants it knows. `curl` carries its requests; a person's part is in `scene.py`.

use std::io::Write;
use std::process::{Command, Stdio};

use oauth2::basic::BasicClient;
use oauth2::http::{Response, StatusCode};
use oauth2::{
    AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, HttpRequest, HttpResponse, IntrospectionUrl,
    PkceCodeChallenge, RedirectUrl, ResourceOwnerPassword, ResourceOwnerUsername, RevocationUrl, Scope,
    StandardRevocableToken, TokenIntrospectionResponse, TokenResponse, TokenUrl,
};

fn main() {
    let scene: serde_json::Value = serde_json::from_str(&std::env::var("SCENE").unwrap()).unwrap();
    let text = |name: &str| scene[name].as_str().unwrap().to_owned();
    let (issuer, ca) = (text("issuer"), text("ca"));
    let http = |request: HttpRequest| send(&ca, request);
    let api = format!("{issuer}/orders/7");
    let call = |token: &str| {
        let header = format!("Authorization: Bearer {token}");
        let output = curl(&ca).args(["-o", "/dev/null", "-w", "%{http_code}", "-H", &header, &api]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let client = |id: &str, secret: Option<String>| {
        let client = BasicClient::new(ClientId::new(id.to_owned()))
            .set_auth_uri(AuthUrl::new(format!("{issuer}/oauth2/authorize")).unwrap())
            .set_token_uri(TokenUrl::new(format!("{issuer}/oauth2/token")).unwrap())
            .set_revocation_url(RevocationUrl::new(format!("{issuer}/oauth2/revoke")).unwrap())
            .set_introspection_url(IntrospectionUrl::new(format!("{issuer}/oauth2/introspect")).unwrap())
            .set_redirect_uri(RedirectUrl::new(text("redirect_uri")).unwrap());
        match secret {
            Some(secret) => client.set_client_secret(ClientSecret::new(secret)),
            None => client,
        }
    };
    let scopes = || ["orders:read", "offline_access"].map(|scope| Scope::new(scope.to_owned()));

    let legacy = client("legacy", Some(text("secret")));
    let (user, password) = (ResourceOwnerUsername::new(text("user")), ResourceOwnerPassword::new(text("password")));
    let token = legacy.exchange_password(&user, &password).add_scopes(scopes()).request(&http).unwrap();
    check("password", call(token.access_token().secret()), "200");
    let fresh = legacy.exchange_refresh_token(token.refresh_token().unwrap()).request(&http).unwrap();
    check("refresh", call(fresh.access_token().secret()), "200");
    let wrong = ResourceOwnerPassword::new("wrong".to_owned());
    let refused = legacy.exchange_password(&user, &wrong).request(&http).unwrap_err();
    assert!(format!("{refused:?}").contains("invalid_grant"), "{refused:?}");

    for (id, secret) in [("web", Some(text("secret"))), ("native", None)] {
        let client = client(id, secret);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (url, state) =
            client.authorize_url(CsrfToken::new_random).add_scopes(scopes()).set_pkce_challenge(challenge).url();
        let back = person(url.as_str());
        let parameter = |name: &str| {
            let (_, query) = back.split_once('?').unwrap();
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            pair.unwrap_or_default().to_owned()
        };
        check("state", parameter("state"), state.secret());
        let code = AuthorizationCode::new(parameter("code"));
        let token = client.exchange_code(code).set_pkce_verifier(verifier).request(&http).unwrap();
        check(id, call(token.access_token().secret()), "200");
        let revoked = StandardRevocableToken::from(token.refresh_token().unwrap());
        client.revoke_token(revoked).unwrap().request(&http).unwrap();
        check("after revocation", call(token.access_token().secret()), "401");
    }

    let machine = client("machine", Some(text("secret")));
    let token = machine.exchange_client_credentials().add_scope(scopes()[0].clone()).request(&http).unwrap();
    check("client_credentials", call(token.access_token().secret()), "200");
    let told = legacy.introspect(fresh.access_token()).request(&http).unwrap();
    check("introspection", if told.active() { "active" } else { "not active" }, "active");
}

fn check(what: &str, got: impl AsRef<str>, expected: &str) {
    assert_eq!(got.as_ref(), expected, "{what}");
    println!("{what}: {expected}");
}

fn curl(ca: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["-s", "--max-time", "20", "--cacert", ca]);
    command
}

fn send(ca: &str, request: HttpRequest) -> Result<HttpResponse, std::io::Error> {
    let mut command = curl(ca);
    command.args(["-D", "/dev/stderr", "-X", request.method().as_str(), "--data-binary", "@-"]);
    for (name, value) in request.headers() {
        command.arg("-H").arg(format!("{name}: {}", value.to_str().unwrap()));
    }
    let pipes =
        command.arg(request.uri().to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn()?;
    child.stdin.take().unwrap().write_all(request.body())?;
    let output = child.wait_with_output()?;
    let head = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let mut response = Response::builder().status(StatusCode::from_bytes(status.as_bytes()).unwrap());
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        response = response.header(name, value);
    }
    Ok(response.body(output.stdout).unwrap())
}

/// The URL at which the application is called back.
fn person(url: &str) -> String {
    let script = "import sys; sys.path.insert(0, sys.argv[1]); from scene import person; print(person(sys.argv[2]))";
    let folder = std::env::args().nth(1).unwrap();
    let python = format!("{folder}/../../target/clients/python/bin/python");
    let output = Command::new(python).args(["-c", script, &folder, url]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
