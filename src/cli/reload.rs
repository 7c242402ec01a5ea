//! Taking up a changed configuration while the gateway serves: load, check, assemble, swap. Whatever is wrong with the new
//! one, the gateway goes on by the old one and says so.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sd_notify::NotifyState;

use super::run::{Running, request_limits, tell_manager};
use super::{check, descriptors, rendered};
use crate::clock::Clock;
use crate::config::{self, Config, Diagnostic, Diagnostics};
use crate::gateway::assemble::{self, assemble};
use crate::server::{Inherited, Prepared};
use crate::telemetry::access_log::AccessLog;
use crate::tls;

/// What is set up at the start and stays until the process ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    workers: usize,
    admin: (SocketAddr, Option<tls::ServerSettings>),
    log: (crate::telemetry::Format, crate::telemetry::Level, Option<PathBuf>),
}

impl Fixed {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            workers: config.server.workers,
            admin: (config.admin.address, config.admin.tls.clone()),
            log: (config.log.format, config.log.level, config.log.audit.clone()),
        }
    }

    /// The keys that `other` has changed, which only a restart takes up.
    fn differences(&self, other: &Self) -> Vec<&'static str> {
        let pairs = [
            ("server.workers", self.workers != other.workers),
            ("[admin]", self.admin != other.admin),
            ("[log]", self.log != other.log),
        ];
        pairs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }
}

impl Running {
    /// Takes up the configuration as it is now, because of `cause`. The error is for people.
    pub(super) async fn reload(&mut self, cause: &str) -> Result<u64, String> {
        if let Ok(since) = NotifyState::monotonic_usec_now() {
            tell_manager(&[NotifyState::Reloading, since]);
        }
        let taken = self.take_up().await.map_err(|error| format!("{error:#}"));
        tell_manager(&[NotifyState::Ready]);
        let at = Clock::system().now();
        match &taken {
            Ok(()) => {
                let generation = self.control.reloaded(at, None);
                tracing::info!(event = "reload.done", cause, generation);
                Ok(generation)
            }
            Err(problems) => {
                self.control.reloaded(at, Some(problems.clone()));
                tracing::error!(
                    event = "reload.failed",
                    cause,
                    problems,
                    "the configuration from before stays in force"
                );
                Err(problems.clone())
            }
        }
    }

    async fn take_up(&mut self) -> anyhow::Result<()> {
        let watch = self.watch.as_mut().context("there is no file to read again")?;
        let (config, warnings) = watch.load()?;
        for warning in warnings {
            tracing::warn!(event = "reload.warning", warning = warning.render(false));
        }
        let failures = check::rule_test_failures(&config)?;
        anyhow::ensure!(failures.is_empty(), rendered(&failures, false));
        for key in self.fixed.differences(&Fixed::of(&config)) {
            tracing::warn!(event = "reload.restart_needed", key, "a change that only a restart takes up");
        }
        let Config { server, admin: _, admin_is_explicit: _, log, plan, tests: _, files: _ } = config;
        descriptors::provide(server.limits.connections, &plan.upstreams);
        let limits = request_limits(&server);
        let drain_delay = server.limits.drain_delay;
        let prepared = Prepared::new(server, Some(&self.server), &mut Inherited::default(), &self.metrics)?;
        let access_log = log.access.then(|| AccessLog::new(self.sink.clone(), self.fixed.log.0, log.access_sample));
        let context = assemble::Context { metrics: self.metrics.clone(), clock: Clock::system(), access_log, limits };
        let former = self.control.gateway();
        let (gateway, background) = assemble(plan, context, Some(&former)).await?;
        for work in background {
            tokio::spawn(work);
        }
        self.control.replace(std::sync::Arc::clone(&gateway));
        self.server.replace(prepared, gateway);
        self.drain_delay = drain_delay;
        Ok(())
    }
}

/// Looks whether the files of a configuration have changed: at their content, since what replaces a file or a link to it
/// does so in many ways.
#[derive(Debug)]
pub(super) struct FileWatch {
    path: PathBuf,
    files: Vec<PathBuf>,
    /// What they held when they were last taken up, well or not.
    taken: Option<[u8; 32]>,
    /// What they held when they were last looked at.
    seen: Option<[u8; 32]>,
}

impl FileWatch {
    pub(super) fn new(path: PathBuf, files: Vec<PathBuf>) -> Self {
        let mut watch = Self { path, files, taken: None, seen: None };
        watch.note();
        watch
    }

    /// Reads the configuration. What changes after its files were noted is seen at the next look.
    fn load(&mut self) -> anyhow::Result<(Config, Vec<Diagnostic>)> {
        loop {
            self.note();
            let loaded = config::load(&self.path);
            let (config, warnings) =
                loaded.map_err(|Diagnostics(problems)| anyhow::anyhow!(rendered(&problems, false)))?;
            if self.files == config.files {
                return Ok((config, warnings));
            }
            // It names other files than before, which were not noted.
            self.files.clone_from(&config.files);
        }
    }

    /// Whether they hold something new, and nobody is writing at this moment: the same as when they were last looked at.
    pub(super) fn has_changed(&mut self) -> bool {
        let now = self.contents();
        let settled = now.is_some() && now == self.seen;
        self.seen = now;
        settled && now != self.taken
    }

    fn note(&mut self) {
        self.taken = self.contents();
        self.seen = self.taken;
    }

    fn contents(&self) -> Option<[u8; 32]> {
        let all = std::iter::once(&self.path).chain(&self.files);
        tls::contents(all.map(PathBuf::as_path).map(AsRef::<Path>::as_ref))
    }
}
