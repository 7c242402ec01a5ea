//! `tollgate run`: from a configuration to a process that serves, and back down on SIGTERM. What happens in between when
//! the configuration changes is told in `reload`, when the program does in `takeover`.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Interval;

use super::reload::{FileWatch, Fixed};
use super::takeover::{Heritage, Successor, Wish};
use super::{ConfigArgument, Outcome, complain, crash, descriptors};
use crate::admin::{Admin, Control, ReloadRequest};
use crate::clock::Clock;
use crate::config::Config;
use crate::gateway::Limits;
use crate::gateway::assemble::{self, assemble};
use crate::server::{Prepared, Server, listen};
use crate::store::Store;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::log::{self, Sink};
use crate::telemetry::metrics::Metrics;

/// How often the files of the configuration are looked at.
const FILES: Duration = Duration::from_secs(1);
/// The operators' listener, among the others.
const ADMIN: &str = "admin";

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
    // Where a newer program will be, whatever becomes of the file of this one.
    let program = std::env::current_exe().context("cannot start")?;
    // Before there are other threads: it changes the environment.
    let heritage = Heritage::receive()?;
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
        let running = Running::start(config, Some(watch), heritage, &metrics, &sink).await?;
        running.until_stopped(Some(&program)).await
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
    /// The operators' listener, and what serves it.
    admin: Option<(SocketAddr, Arc<TcpListener>, JoinHandle<()>)>,
}

impl Running {
    /// Binds, assembles and serves. Nothing is accepted before everything is ready to answer.
    pub(super) async fn start(
        config: Config,
        watch: Option<FileWatch>,
        heritage: Heritage,
        metrics: &Metrics,
        sink: &Sink,
    ) -> anyhow::Result<Self> {
        let fixed = Fixed::of(&config);
        let Config { server, admin, admin_is_explicit, log, plan, tests: _, files: _ } = config;
        tracing::info!(event = "starting", version = env!("CARGO_PKG_VERSION"), workers = server.workers);
        descriptors::provide(server.limits.connections, &plan.upstreams);
        let limits = request_limits(&server);
        let drain_delay = server.limits.drain_delay;
        let Heritage { mut sockets, mut predecessor } = heritage;
        let prepared = Prepared::new(server, None, &mut sockets, metrics)?;
        let admin_socket = match listen(ADMIN, admin.address, &mut sockets) {
            Ok(socket) => Some(socket),
            // Nobody asked for it: another gateway on this machine may have the default address.
            Err(error) if !admin_is_explicit => {
                tracing::warn!(event = "admin.absent", address = %admin.address, %error);
                None
            }
            Err(error) => return Err(error).with_context(|| format!("[admin]: cannot listen on {}", admin.address)),
        };
        for address in sockets.left() {
            tracing::warn!(event = "listener.unknown", %address, "a socket was passed on that no listener has");
        }
        drop(sockets);
        if let Some(predecessor) = &mut predecessor {
            predecessor.ask_for_store().context("taking over")?;
        }
        let access_log = log.access.then(|| AccessLog::new(sink.clone(), log.format, log.access_sample));
        let context = assemble::Context { metrics: metrics.clone(), clock: Clock::system(), access_log, limits };
        let (gateway, background) = assemble(plan, context, None).await?;
        for work in background {
            tokio::spawn(work);
        }
        let (control, reloads) = Control::new(metrics.clone(), Arc::clone(&gateway));
        let routes = gateway.routes().all().len();
        let server = prepared.serve(&gateway, metrics)?;
        let mut admin_serves = None;
        if let Some(socket) = admin_socket {
            let (asked, address) = (admin.address, socket.local_addr().context("[admin]")?);
            let shared = Arc::new(socket.try_clone().context("[admin]")?);
            let admin = Admin::new(admin, socket, Arc::clone(&control)).context("[admin]")?;
            if let Some(certificates) = admin.certificates() {
                server.certificates().also(ADMIN, certificates, metrics);
            }
            tracing::info!(event = "listener.ready", listener = ADMIN, %address);
            admin_serves = Some((asked, shared, tokio::spawn(admin.serve())));
        }
        tokio::spawn(server.certificates().keep_fresh(metrics.clone()));
        tracing::info!(event = "ready", routes);
        if let Some(predecessor) = predecessor {
            predecessor.tell_ready().context("taking over")?;
        }
        tell_manager(&[NotifyState::Ready]);
        let (metrics, sink) = (metrics.clone(), sink.clone());
        Ok(Self { server, control, metrics, sink, drain_delay, fixed, watch, reloads, admin: admin_serves })
    }

    /// Serves until SIGTERM or SIGINT, then lets what runs finish. A second signal ends it at once. SIGHUP, an operator's
    /// word and a changed file make it take up the configuration anew; SIGUSR2 has `program` take over.
    pub(super) async fn until_stopped(mut self, program: Option<&Path>) -> anyhow::Result<Outcome> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut upgrade = signal(SignalKind::user_defined2())?;
        let mut look = tokio::time::interval(FILES);
        let mut watchdog = sd_notify::watchdog_enabled().map(|longest| tokio::time::interval(longest / 2));
        // While the next process starts, it is the one that reads the configuration.
        let mut successor: Option<Successor> = None;
        let taken_over = loop {
            let alone = successor.is_none();
            tokio::select! {
                _ = terminate.recv() => break false,
                _ = interrupt.recv() => break false,
                _ = hangup.recv(), if alone => drop(self.reload("SIGHUP").await),
                Some(request) = self.reloads.recv(), if alone => request.answer(self.reload("POST /reload").await),
                _ = look.tick(), if alone => if self.watch.as_mut().is_some_and(FileWatch::has_changed) {
                    let _ = self.reload("a changed file").await;
                },
                _ = upgrade.recv(), if alone => match self.start_successor(program) {
                    Ok(started) => successor = Some(started),
                    Err(error) => upgrade_failed(&error),
                },
                wish = wish(&mut successor) => match self.grant(&mut successor, wish).await {
                    Ok(false) => {}
                    Ok(true) => break true,
                    Err(error) => {
                        upgrade_failed(&error);
                        self.go_on_without(successor.take()).await?;
                    }
                },
                () = tick(&mut watchdog) => if self.server.is_alive() {
                    tell_manager(&[NotifyState::Watchdog]);
                },
            }
        };
        if !taken_over && let Some(successor) = successor.take() {
            successor.end();
        }
        let Self { server, control, mut drain_delay, admin, .. } = self;
        control.draining.store(true, Ordering::Relaxed);
        if taken_over {
            // Nobody has to notice first, and who scrapes wants the other one.
            drain_delay = Duration::ZERO;
            if let Some((_, _, serving)) = admin {
                serving.abort();
            }
        } else {
            tell_manager(&[NotifyState::Stopping]);
        }
        tracing::info!(event = "draining");
        let drain = async {
            tokio::time::sleep(drain_delay).await;
            let left = server.drain().await;
            control.gateway().flush_spans().await;
            left
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

    /// Starts the process that takes over.
    fn start_successor(&self, program: Option<&Path>) -> anyhow::Result<Successor> {
        let program = program.context("there is no configuration to start another one by")?;
        if let Some(store) = self.store() {
            anyhow::ensure!(store.can_be_handed_over(), "a store in memory cannot be handed over: restart instead");
        }
        let mut sockets = self.server.sockets();
        if let Some((address, socket, _)) = &self.admin {
            sockets.push((Arc::from(ADMIN), *address, Arc::clone(socket)));
        }
        let successor = Successor::start(program, &sockets)?;
        tracing::info!(event = "upgrade.started", pid = successor.id());
        Ok(successor)
    }

    /// Does what the next process wishes; true once it serves.
    async fn grant(&self, successor: &mut Option<Successor>, wish: anyhow::Result<Wish>) -> anyhow::Result<bool> {
        let successor = successor.as_mut().context("nobody takes over")?;
        match wish? {
            Wish::Store => {
                if let Some(store) = self.store() {
                    tokio::task::spawn_blocking(move || store.hand_over()).await?;
                }
                successor.give_store().await?;
                Ok(false)
            }
            Wish::Ready => {
                tracing::info!(event = "upgrade.done", pid = successor.id());
                tell_manager(&[NotifyState::MainPid(successor.id())]);
                Ok(true)
            }
        }
    }

    /// Ends what was to take over, and has the store back.
    async fn go_on_without(&self, successor: Option<Successor>) -> anyhow::Result<()> {
        let store = self.store();
        let taken_back = tokio::task::spawn_blocking(move || {
            if let Some(successor) = successor {
                successor.end();
            }
            store.map_or(Ok(()), |store| store.take_back())
        });
        taken_back.await?.context("the store cannot be opened again")
    }

    fn store(&self) -> Option<Store> {
        self.control.gateway().authorization_server().map(|server| server.store().clone())
    }
}

fn upgrade_failed(error: &anyhow::Error) {
    tracing::error!(event = "upgrade.failed", error = format!("{error:#}"), "this process goes on");
}

async fn wish(successor: &mut Option<Successor>) -> anyhow::Result<Wish> {
    match successor {
        Some(successor) => successor.wish().await,
        None => std::future::pending().await,
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

/// Tells the service manager, if there is one.
pub(super) fn tell_manager(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(event = "service_manager.unreachable", %error);
    }
}

pub(super) fn request_limits(server: &crate::server::Settings) -> Limits {
    Limits {
        header_count: server.limits.header_count,
        body_timeout: server.limits.body_timeout,
        stream_idle: server.limits.stream_idle,
    }
}
