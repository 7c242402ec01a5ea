//! `tollgate demo`: everything on loopback without a file to write, for a first look.

use std::convert::Infallible;
use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use super::run::Running;
use super::takeover::Heritage;
use super::{Outcome, print};
use crate::authorization_server::{generate_secret, hash_password};
use crate::config;
use crate::jose::pem;
use crate::telemetry::log::{self, Sink};
use crate::telemetry::metrics::Metrics;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The port of the gateway; 0 takes a free one
    #[arg(long, default_value_t = 8443)]
    port: u16,
    /// The port of the operators' listener; 0 takes a free one
    #[arg(long, default_value_t = 9464)]
    admin_port: u16,
}

/// Alice's password. It protects nothing but the demo's own answers.
const PASSWORD: &str = "open-sesame";

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let folder = Folder::new()?;
        let api = TcpListener::bind("127.0.0.1:0").await.context("the sample API")?;
        let api_port = api.local_addr()?.port();
        tokio::spawn(sample_api(api));
        let port = free_port(arguments.port).context("the gateway's port; choose another with --port")?;
        let admin_port = free_port(arguments.admin_port).context("the admin port; choose another with --admin-port")?;
        let (secret, secret_hash) = generate_secret();
        write_files(folder.path(), port, admin_port, api_port, &secret_hash)?;
        let file = folder.path().join("tollgate.toml");
        let (config, _) = config::load(&file).map_err(|problems| {
            let texts: Vec<String> = problems.0.iter().map(|problem| problem.render(false)).collect();
            anyhow::anyhow!("the demo's own configuration: {}", texts.join("\n"))
        })?;
        let metrics = Metrics::new();
        let sink = Sink::standard_output(metrics.log_lines_dropped.clone()).context("cannot start the log")?;
        log::install(&config.log, &sink, None);
        let running = Running::start(config, None, Heritage::default(), &metrics, &sink).await?;
        print(&introduction(folder.path(), port, admin_port, secret.expose()))?;
        let outcome = running.until_stopped(None).await;
        sink.flush();
        outcome
    })
}

/// A folder of the demo's own, gone with it.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("tollgate-demo-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind in the folder for temporary files does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The port itself when it is free, a free one for 0.
fn free_port(port: u16) -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", port))?.local_addr()?.port())
}

fn write_files(folder: &Path, port: u16, admin_port: u16, api_port: u16, secret_hash: &str) -> anyhow::Result<()> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certified = rcgen::generate_simple_self_signed(names).context("cannot make a certificate")?;
    let hash = hash_password(PASSWORD);
    let config = include_str!("demo.toml")
        .replace("@PORT@", &port.to_string())
        .replace("@ADMIN_PORT@", &admin_port.to_string())
        .replace("@API_PORT@", &api_port.to_string())
        .replace("@SECRET_HASH@", secret_hash);
    let users = format!("[[user]]\nname = \"alice\"\npassword = {{ hash = \"{hash}\" }}\nroles = [\"clerk\"]\n");
    for (name, text) in [
        ("tollgate.toml", config),
        ("users.toml", users),
        ("demo.crt", pem("CERTIFICATE", certified.cert.der()).expose().clone()),
        ("demo.key", pem("PRIVATE KEY", certified.signing_key.serialized_der()).expose().clone()),
    ] {
        std::fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

fn introduction(folder: &Path, port: u16, admin_port: u16, secret: &str) -> String {
    let ca = folder.join("demo.crt");
    include_str!("demo.txt")
        .replace("@URL@", &format!("https://localhost:{port}"))
        .replace("@ADMIN@", &format!("http://127.0.0.1:{admin_port}"))
        .replace("@CA@", &ca.display().to_string())
        .replace("@CONFIG@", &folder.join("tollgate.toml").display().to_string())
        .replace("@SECRET@", secret)
        .replace("@PASSWORD@", PASSWORD)
}

/// A legacy API: it knows nothing of tokens and answers with what it was sent.
async fn sample_api(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service_fn(|request| std::future::ready(api_answer(&request))));
        tokio::spawn(async move {
            // A caller that goes away is no matter here.
            let _ = connection.await;
        });
    }
}

fn api_answer(request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let body = serde_json::json!({
        "message": "this is the legacy API; it saw the request like this",
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "x-user": header("x-user"),
        "x-scopes": header("x-scopes"),
        "authorization": header("authorization"),
    });
    let mut response = Response::new(Full::new(Bytes::from(format!("{body:#}\n"))));
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}
