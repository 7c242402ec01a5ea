//! `tollgate run`: from a configuration to a process that serves, and back down on SIGTERM. What happens in between when
//! the configuration changes is told in `reload`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::reload::{FileWatch, Fixed};
use super::{ConfigArgument, Outcome, complain, crash};
use crate::admin::{Admin, Control, ReloadRequest};
use crate::clock::Clock;
use crate::config::Config;
use crate::gateway::Limits;
use crate::gateway::assemble::{self, assemble};
use crate::server::{Prepared, Server, listen};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::log::{self, Sink};
use crate::telemetry::metrics::Metrics;

/// How often the files of the configuration are looked at.
const FILES: Duration = Duration::from_secs(1);

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
    let audit = match &config.log.audit {
        None => None,
        Some(path) => {
            let sink = Sink::file(path, metrics.audit_lines_dropped.clone());
            Some(sink.with_context(|| format!("log.audit: cannot write {}", path.display()))?)
        }
    };
    log::install(&config.log, &sink, audit.as_ref());
    crash::log_panics(metrics.panics.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let outcome = runtime.block_on(async {
        tokio::spawn(reopen_when_asked(signal(SignalKind::user_defined1())?, audit.clone()));
        let watch = FileWatch::new(arguments.config.path(), config.files.clone());
        let running = Running::start(config, Some(watch), &metrics, &sink).await?;
        running.until_stopped().await
    });
    if let Err(error) = &outcome {
        tracing::error!(event = "stopped", error = format!("{error:#}"));
    }
    if !audit.is_none_or(|audit| audit.flush()) {
        complain("tollgate: audit events could not be written to the end\n");
    }
    sink.flush();
    outcome
}

/// On SIGUSR1: somebody has moved the file away, or wants a new one.
async fn reopen_when_asked(mut asked: Signal, audit: Option<Sink>) {
    while asked.recv().await.is_some() {
        if let Some(audit) = &audit {
            audit.reopen();
        }
    }
}

/// A gateway that serves.
pub(super) struct Running {
    pub(super) server: Server,
    pub(super) control: Arc<Control>,
    pub(super) metrics: Metrics,
    pub(super) sink: Sink,
    pub(super) drain_delay: Duration,
    /// What is set up once and for all.
    pub(super) fixed: Fixed,
    /// Where the configuration is; the demo has none.
    pub(super) watch: Option<FileWatch>,
    reloads: mpsc::Receiver<ReloadRequest>,
}

impl Running {
    /// Binds, assembles and serves. Nothing is accepted before everything is ready to answer.
    pub(super) async fn start(
        config: Config,
        watch: Option<FileWatch>,
        metrics: &Metrics,
        sink: &Sink,
    ) -> anyhow::Result<Self> {
        let fixed = Fixed::of(&config);
        let Config { server, admin, admin_is_explicit, log, plan, tests: _, files: _ } = config;
        tracing::info!(event = "starting", version = env!("CARGO_PKG_VERSION"), workers = server.workers);
        let limits = request_limits(&server);
        let drain_delay = server.limits.drain_delay;
        let prepared = Prepared::new(server, None, metrics)?;
        let admin_socket = match listen(admin.address) {
            Ok(socket) => Some(socket),
            // Nobody asked for it: another gateway on this machine may have the default address.
            Err(error) if !admin_is_explicit => {
                tracing::warn!(event = "admin.absent", address = %admin.address, %error);
                None
            }
            Err(error) => return Err(error).with_context(|| format!("[admin]: cannot listen on {}", admin.address)),
        };
        let access_log = log.access.then(|| AccessLog::new(sink.clone(), log.format, log.access_sample));
        let context = assemble::Context { metrics: metrics.clone(), clock: Clock::system(), access_log, limits };
        let (gateway, background) = assemble(plan, context, None).await?;
        for work in background {
            tokio::spawn(work);
        }
        let (control, reloads) = Control::new(metrics.clone(), Arc::clone(&gateway));
        let routes = gateway.routes().all().len();
        let server = prepared.serve(&gateway, metrics)?;
        if let Some(socket) = admin_socket {
            let address = socket.local_addr().context("[admin]")?;
            let admin = Admin::new(admin, socket, Arc::clone(&control)).context("[admin]")?;
            if let Some(certificates) = admin.certificates() {
                server.certificates().also("admin", certificates, metrics);
            }
            tracing::info!(event = "listener.ready", listener = "admin", %address);
            tokio::spawn(admin.serve());
        }
        tokio::spawn(server.certificates().keep_fresh(metrics.clone()));
        tracing::info!(event = "ready", routes);
        let (metrics, sink) = (metrics.clone(), sink.clone());
        Ok(Self { server, control, metrics, sink, drain_delay, fixed, watch, reloads })
    }

    /// Serves until SIGTERM or SIGINT, then lets what runs finish. A second signal ends it at once. SIGHUP, an operator's
    /// word and a changed file make it take up the configuration anew.
    pub(super) async fn until_stopped(mut self) -> anyhow::Result<Outcome> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut look = tokio::time::interval(FILES);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => drop(self.reload("SIGHUP").await),
                Some(request) = self.reloads.recv() => request.answer(self.reload("POST /reload").await),
                _ = look.tick() => if self.watch.as_mut().is_some_and(FileWatch::has_changed) {
                    let _ = self.reload("a changed file").await;
                },
            }
        }
        let Self { server, control, drain_delay, .. } = self;
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

pub(super) fn request_limits(server: &crate::server::Settings) -> Limits {
    Limits {
        header_count: server.limits.header_count,
        body_timeout: server.limits.body_timeout,
        stream_idle: server.limits.stream_idle,
    }
}
