//! `tollgate run`: from a configuration to a process that serves, and back down on SIGTERM.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{ConfigArgument, Outcome, complain, crash};
use crate::admin::{Admin, Control};
use crate::clock::Clock;
use crate::config::Config;
use crate::gateway::assemble::{self, assemble};
use crate::gateway::{Gateway, Limits};
use crate::server::{Bound, Server, listen};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::log::{self, Sink};
use crate::telemetry::metrics::Metrics;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Let the process be dumped and traced by its own user. Its memory holds keys, tokens and passwords
    #[arg(long, env = "TOLLGATE_ALLOW_CORE_DUMPS")]
    allow_core_dumps: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    if !arguments.allow_core_dumps
        && let Err(error) = crash::forbid_dumps()
    {
        complain(&format!("tollgate: core dumps cannot be forbidden: {error}\n"));
    }
    let Some(config) = arguments.config.load() else { return Ok(Outcome::Failed) };
    let metrics = Metrics::new();
    let sink = Sink::standard_output(metrics.log_lines_dropped.clone()).context("cannot start the log")?;
    log::install(&config.log, &sink);
    crash::log_panics(metrics.panics.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let outcome = runtime.block_on(async {
        let running = Running::start(config, &metrics, &sink).await?;
        running.until_stopped().await
    });
    if let Err(error) = &outcome {
        tracing::error!(event = "stopped", error = format!("{error:#}"));
    }
    sink.flush();
    outcome
}

/// A gateway that serves.
pub(super) struct Running {
    server: Server,
    control: Arc<Control>,
    drain_delay: std::time::Duration,
}

impl Running {
    /// Binds, assembles and serves. Nothing is accepted before everything is ready to answer.
    pub(super) async fn start(config: Config, metrics: &Metrics, sink: &Sink) -> anyhow::Result<Self> {
        let Config { server, admin, admin_is_explicit, log, plan, tests: _, files: _ } = config;
        tracing::info!(event = "starting", version = env!("CARGO_PKG_VERSION"), workers = server.workers);
        let limits = Limits {
            header_count: server.limits.header_count,
            body_timeout: server.limits.body_timeout,
            stream_idle: server.limits.stream_idle,
        };
        let drain_delay = server.limits.drain_delay;
        let mut bound = Bound::bind(server, metrics)?;
        let admin_socket = match listen(admin.address) {
            Ok(socket) => Some(socket),
            // Nobody asked for it: another gateway on this machine may have the default address.
            Err(error) if !admin_is_explicit => {
                tracing::warn!(event = "admin.absent", address = %admin.address, %error);
                None
            }
            Err(error) => return Err(error).with_context(|| format!("[admin]: cannot listen on {}", admin.address)),
        };
        let access_log = log.access.then(|| AccessLog::new(sink.clone(), log.format));
        let context = assemble::Context { metrics: metrics.clone(), clock: Clock::system(), access_log, limits };
        let (gateway, background): (Arc<Gateway>, _) = assemble(plan, context).await?;
        for work in background {
            tokio::spawn(work);
        }
        let control =
            Control { metrics: metrics.clone(), gateway: Arc::clone(&gateway), draining: AtomicBool::new(false) };
        let control = Arc::new(control);
        if let Some(socket) = admin_socket {
            let address = socket.local_addr().context("[admin]")?;
            let admin = Admin::new(admin, socket, Arc::clone(&control)).context("[admin]")?;
            if let Some(certificates) = admin.certificates() {
                bound.also_watch("admin", certificates, metrics);
            }
            tracing::info!(event = "listener.ready", listener = "admin", %address);
            tokio::spawn(admin.serve());
        }
        tokio::spawn(bound.watch_certificates(metrics));
        let server = bound.serve(&gateway, metrics)?;
        tracing::info!(event = "ready", routes = gateway.routes().all().len());
        Ok(Self { server, control, drain_delay })
    }

    /// Serves until SIGTERM or SIGINT, then lets what runs finish. A second signal ends it at once.
    pub(super) async fn until_stopped(self) -> anyhow::Result<Outcome> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    tracing::warn!(event = "reload.ignored", "reloading is not built yet; restart to take up changes");
                }
            }
        }
        let Self { server, control, drain_delay } = self;
        control.draining.store(true, Ordering::Relaxed);
        tracing::info!(event = "draining");
        let drain = async {
            tokio::time::sleep(drain_delay).await;
            server.drain().await
        };
        let left = tokio::select! {
            left = drain => left,
            _ = terminate.recv() => anyhow::bail!("a second signal: what was running is cut off"),
            _ = interrupt.recv() => anyhow::bail!("a second signal: what was running is cut off"),
        };
        if left > 0 {
            tracing::warn!(event = "drain.cut_off", connections = left);
        }
        tracing::info!(event = "stopped");
        Ok(Outcome::Fine)
    }
}
