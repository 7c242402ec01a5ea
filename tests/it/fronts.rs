//! The gateway behind nginx and HAProxy, by the files of deploy/ and the configurations of docs/behind-*.md.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::proxy::{echo_server, upgrade};
use crate::support::checker::{Background, accepts, run, text};
use crate::support::gateway::{Builder, Gateway, field};
use crate::support::public::{free_port, installed};
use crate::support::server::{self, CLIENTS, PASSWORD, SECRET, basic, password_form};
use crate::support::tls::{Authority, Identity};
use crate::support::{RecordingUpstream, Req, Response, Wrong};

const HOST: &str = "api.example.com";

/// A block of a page of the documentation, by its language.
fn block(page: &str, language: &str) -> String {
    let page = text(page);
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("a block");
    rest.split_once("```").expect("its end").0.to_owned()
}

/// What the page says, with an authorization server and routes.
fn gateway(page: &str, upstream: &RecordingUpstream) -> Gateway {
    let config = format!(
        "{}\n[admin]\naddress = \"127.0.0.1:0\"\n[store.memory]\n[upstreams.app]\nservers = [\"{}\"]\n{CLIENTS}\n\
         [[routes]]\nname = \"public\"\npath = \"/public/**\"\nupstream = \"app\"\nallow = [{{ public = true }}]\n",
        block(page, "toml").replace("127.0.0.1:8080", "127.0.0.1:0"),
        upstream.url(),
    );
    Builder::new().file("users.toml", server::users()).env("CLIENT_SECRET", SECRET).start(&config)
}

struct Front {
    process: Background,
    port: u16,
    authority: Authority,
    dir: TempDir,
}

impl Front {
    /// Starts a program with files of its own and waits until it listens.
    fn start(write: impl FnOnce(&Path, u16, &Identity) -> Command) -> Self {
        let (dir, port, authority) = (TempDir::new().unwrap(), free_port(), Authority::new());
        std::fs::write(dir.path().join("ca.crt"), authority.pem()).unwrap();
        let mut process = Background::start(&mut write(dir.path(), port, &authority.identity(&[HOST])));
        process.wait("it listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { process, port, authority, dir }
    }

    fn nginx(gateway: &Gateway) -> Option<Self> {
        let program = installed("nginx")?;
        let file = text("deploy/nginx/tollgate.conf");
        assert_eq!(block("docs/behind-nginx.md", "nginx"), file, "the page shows another file");
        Some(Self::start(|dir, port, identity| {
            std::fs::write(dir.join("api.crt"), &identity.cert).unwrap();
            std::fs::write(dir.join("api.key"), &identity.key).unwrap();
            let file = file
                .replace("listen 443", &format!("listen 127.0.0.1:{port}"))
                .replace("server 127.0.0.1:8080", &format!("server {}", gateway.address("public")))
                .replace("/etc/nginx/tls", &dir.display().to_string());
            std::fs::write(dir.join("tollgate.conf"), file).unwrap();
            let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|what| format!("{what}_temp_path {what};\n"))
                .concat();
            let around = format!(
                "pid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{places}include tollgate.conf;\n}}\n"
            );
            std::fs::write(dir.join("nginx.conf"), around).unwrap();
            let call = |more: &[&str]| {
                let mut command = Command::new(&program);
                command.arg("-p").arg(dir).args(["-e", "stderr", "-c", "nginx.conf"]).args(more);
                command
            };
            accepts(&mut call(&["-t", "-q"]));
            call(&["-g", "daemon off; master_process off;"])
        }))
    }

    fn haproxy(gateway: &Gateway) -> Option<Self> {
        let program = installed("haproxy")?;
        let file = text("deploy/haproxy/haproxy.cfg");
        assert_eq!(block("docs/behind-haproxy.md", "haproxy"), file, "the page shows another file");
        Some(Self::start(|dir, port, identity| {
            std::fs::write(dir.join("api.pem"), format!("{}{}", identity.cert, identity.key)).unwrap();
            let file = file.replace("/etc/haproxy/tls", &dir.display().to_string());
            let check = |name: &str, file: &str| {
                std::fs::write(dir.join(name), file).unwrap();
                // -W: what it merely warns of counts too.
                accepts(Command::new(&program).args(["-c", "-dW", "-f"]).arg(dir.join(name)));
            };
            check("as-shipped.cfg", &file);
            let file = file
                .replace(
                    "    user haproxy\n    group haproxy\n",
                    &format!("    stats socket {}/socket\n", dir.display()),
                )
                .replace("maxconn 10000", "maxconn 100")
                .replace("bind :443", &format!("bind 127.0.0.1:{port}"))
                .replace("127.0.0.1:8080", &gateway.address("public").to_string())
                .replace("port 9464", &format!("port {}", gateway.admin().port()))
                .replace("inter 2s", "inter 100ms");
            check("haproxy.cfg", &file);
            let mut command = Command::new(&program);
            command.current_dir(dir).args(["-db", "-f", "haproxy.cfg"]);
            command
        }))
    }

    fn send(&self, request: &Req) -> Response {
        let mut agreed = self.authority.client().connect(([127, 0, 0, 1], self.port).into(), HOST).unwrap();
        agreed.conn.send(&request.clone().host(HOST))
    }
}

/// What holds behind either of them.
fn is_transparent(front: &Front, gateway: &Gateway, upstream: &RecordingUpstream) {
    let mut wrong = Wrong::default();
    // The path arrives as it was sent, so that what has two readings is refused.
    for path in
        ["/public/%2e%2e/orders/7", "/public/../orders/7", "/public//x", "/public/a%2Fb", "/public/a;b", "/public/%00"]
    {
        let answer = front.send(&Req::get(path));
        wrong.eq(path, answer.status, 400);
    }
    wrong.eq("forwarded", upstream.count(), 0);
    for path in ["/public/a%20b?x=%2F..", "/public/~x/"] {
        wrong.eq(path, front.send(&Req::get(path)).status, 200);
        wrong.eq(path, upstream.last().target, path);
    }

    // The four headers are the front's; the id is one for all.
    let lies = [("X-Forwarded-For", "6.6.6.6"), ("Forwarded", "for=6.6.6.6"), ("X-Forwarded-Host", "evil.test")];
    let lies = lies.iter().chain(&[("X-Forwarded-Proto", "http"), ("X-Request-Id", "mine")]);
    let answer =
        front.send(&lies.fold(Req::get("/public/headers"), |request, (name, value)| request.header(name, value)));
    let (seen, id) = (upstream.last(), answer.request_id());
    wrong.ok("id", id != "mine" && id.len() >= 32, &id);
    wrong.eq("id", seen.header("X-Request-Id"), Some(id.as_str()));
    wrong.eq("host", seen.header("X-Forwarded-Host"), Some(HOST));
    wrong.eq("scheme", seen.header("X-Forwarded-Proto"), Some("https"));
    wrong.ok("lies", !format!("{:?}", seen.headers).contains("6.6.6.6"), &seen.headers);

    // From another address than the front's own, over HTTP/2.
    let url = format!("https://{HOST}:{}/public/address", front.port);
    let done = run(Command::new("curl")
        .args(["-sS", "--http2", "--interface", "127.0.0.2", "-H", "X-Forwarded-For: 6.6.6.6", "-o", "/dev/null"])
        .args(["-w", "%{http_version} %{http_code}", "--resolve", &format!("{HOST}:{}:127.0.0.1", front.port), &url])
        .arg("--cacert")
        .arg(front.dir.path().join("ca.crt")));
    wrong.eq("HTTP/2", done.out.as_str(), "2 200");
    let logged = gateway.wait_log("the request from elsewhere", |line| field(line, "path") == Some("/public/address"));
    wrong.eq("the caller", field(&logged, "client"), Some("127.0.0.2"));

    // Tokens are given, because it is known that the caller came by https, and heeded.
    let form = password_form("alice", PASSWORD, &[]);
    let given = front.send(&Req::post("/oauth2/token").form(&form).header("Authorization", &basic("billing", SECRET)));
    wrong.eq("the token endpoint", given.status, 200);
    let (token, _) = server::tokens(&given);
    wrong.eq("with a token", front.send(&Req::get("/orders/7").bearer(&token)).status, 200);
    wrong.eq("the user", upstream.last().header("X-User"), Some("alice"));
    let denied = front.send(&Req::get("/orders/7").header("X-User", "root"));
    wrong.eq("without", (denied.status, denied.challenge().starts_with("Bearer")), (401, true));

    let mut agreed = front.authority.client().connect(([127, 0, 0, 1], front.port).into(), HOST).unwrap();
    let answer = agreed.conn.send(&upgrade("/public/chat").host(HOST));
    if wrong.eq("an upgrade", answer.status, 101) {
        agreed.conn.write("hello\n");
        wrong.eq("the tunnel", agreed.conn.wire.exact(6).unwrap(), b"hello\n");
    }
    wrong.done();
}

#[test]
fn behind_nginx() {
    let upstream = echo_server();
    let gateway = gateway("docs/behind-nginx.md", &upstream);
    let Some(front) = Front::nginx(&gateway) else { return };
    is_transparent(&front, &gateway, &upstream);
}

#[test]
fn behind_haproxy_which_takes_a_gateway_out_as_soon_as_it_drains() {
    let upstream = echo_server();
    let gateway = gateway("docs/behind-haproxy.md", &upstream);
    let Some(mut front) = Front::haproxy(&gateway) else { return };
    is_transparent(&front, &gateway, &upstream);

    let socket = front.dir.path().join("socket");
    let state = || {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(b"show stat\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.lines().find(|line| line.starts_with("tollgate,tollgate1,")).unwrap().to_owned()
    };
    front.process.wait("/readyz was asked and said yes", || state().contains(",L7OK,").then_some(()));
    gateway.terminate();
    front.process.wait("it is taken out", || state().contains(",DOWN,").then_some(()));
    // It is still there, and would answer whoever asks.
    assert_eq!(crate::support::send(gateway.address("public"), &Req::get("/public/late")).status, 200);
    assert_eq!(front.send(&Req::get("/public/late")).status, 503);
}
