//! Keeps an issuer's keys current, on the control thread: by URL, by the issuer's metadata (RFC 8414, OpenID Connect
//! Discovery), or from a file. Whatever is wrong with what was fetched, the old keys stay.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{JwtSettings, KeyLocation, KeyRing, KeySource};
use crate::jose::{KeySet, KeySetError};
use crate::net::EndpointUrl;
use crate::net::fetch::{AnswerError, FetchError, Fetcher};
use crate::store::Digest;
use crate::telemetry::metrics::KeyMetrics;
use crate::tls::TlsError;

/// Largest document that is read.
const MAX_BYTES: usize = 256 * 1024;
/// For each document.
const TIMEOUT: Duration = Duration::from_secs(10);
/// First pause after a failed fetch; it doubles up to the issuer's refresh interval.
const RETRY: Duration = Duration::from_secs(1);
/// How often a file is looked at.
const FILE: Duration = Duration::from_secs(2);

/// Why there are no newer keys.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("{0}")]
    Set(#[from] KeySetError),
    #[error("no usable key: {0}")]
    Empty(String),
    #[error("the metadata is not a JSON object with `issuer` and `jwks_uri`")]
    Metadata,
    #[error("the metadata is of another issuer, {0:?}")]
    Issuer(String),
    #[error("`jwks_uri` in the metadata is no https URL: {0:?}")]
    Insecure(String),
    #[error("{0}")]
    File(#[from] std::io::Error),
}

impl Failure {
    /// Whether the issuer did not answer, or said that it is in trouble, rather than publishing something unfit.
    fn is_unreachable(&self) -> bool {
        match self {
            Self::Fetch(FetchError::Unreachable(_) | FetchError::Timeout(_) | FetchError::Body(_)) => true,
            Self::Answer(AnswerError::Status(status)) => status.is_server_error(),
            _ => false,
        }
    }
}

/// Why an issuer's keys cannot be had at the start.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Keeps the keys of one issuer current.
#[derive(Debug)]
pub struct KeyKeeper {
    name: Arc<str>,
    settings: JwtSettings,
    ring: Arc<KeyRing>,
    /// For keys that are fetched.
    fetcher: Option<Fetcher>,
    /// What the file held when it was last read.
    seen: Option<Digest>,
    /// Whether the keys are those of the last document.
    is_current: bool,
}

impl KeyKeeper {
    /// For the issuer called `name`, whose keys are a file, which is read now, or elsewhere, where nothing is fetched before
    /// `run`.
    pub fn new(name: Arc<str>, settings: JwtSettings, metrics: KeyMetrics) -> Result<Self, KeyError> {
        let (ring, fetcher) = match &settings.keys {
            KeySource::Remote { location, ca, cooldown, .. } => {
                let fetcher = Fetcher::new(location.first(), ca.as_deref(), 1)?;
                (KeyRing::fetched(*cooldown, metrics), Some(fetcher))
            }
            KeySource::File(_) | KeySource::Embedded => (KeyRing::fixed(KeySet::default(), metrics), None),
        };
        let mut keeper = Self { name, settings, ring: Arc::new(ring), fetcher, seen: None, is_current: false };
        if let KeySource::File(path) = keeper.settings.keys.clone() {
            keeper.read(&path).map_err(|error| KeyError::File { path, reason: error.to_string() })?;
        }
        Ok(keeper)
    }

    pub fn ring(&self) -> Arc<KeyRing> {
        Arc::clone(&self.ring)
    }

    /// Brings new keys at the issuer's interval, when a request asks and when the file changes. Runs until dropped.
    pub async fn run(mut self) {
        match self.settings.keys.clone() {
            KeySource::Remote { location, refresh, cooldown, .. } => self.fetch(&location, refresh, cooldown).await,
            KeySource::File(path) => self.watch(&path).await,
            KeySource::Embedded => {}
        }
    }

    async fn fetch(&self, location: &KeyLocation, refresh: Duration, cooldown: Duration) {
        let Some(fetcher) = &self.fetcher else { return };
        let mut state = self.ring.state.subscribe();
        let mut pause = RETRY.min(refresh);
        loop {
            let next = match self.fetch_once(location, fetcher).await {
                Ok((keys, max_age)) => {
                    self.accept(keys);
                    self.ring.state.send_modify(|state| {
                        if state.wanted && state.loaded {
                            state.cooling_until = Some(Instant::now() + cooldown);
                        }
                        (state.loaded, state.unreachable, state.wanted) = (true, false, false);
                        state.fresh = Some(Instant::now());
                        state.attempts += 1;
                    });
                    pause = RETRY.min(refresh);
                    max_age.map_or(refresh, |age| age.max(cooldown).min(refresh))
                }
                Err(error) => {
                    self.failed(location, &error);
                    self.ring.state.send_modify(|state| {
                        state.cooling_until = Some(Instant::now() + cooldown.min(pause));
                        (state.unreachable, state.wanted) = (error.is_unreachable(), false);
                        state.attempts += 1;
                    });
                    pause = (pause * 2).min(refresh);
                    pause
                }
            };
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                wanted = state.wait_for(|state| state.wanted) => if wanted.is_err() { return },
            }
        }
    }

    async fn fetch_once(
        &self,
        location: &KeyLocation,
        fetcher: &Fetcher,
    ) -> Result<(KeySet, Option<Duration>), Failure> {
        let found;
        let url = match location {
            KeyLocation::Url(url) => url,
            KeyLocation::Metadata { openid, oauth } => {
                found = self.discover([openid, oauth], fetcher).await?;
                &found
            }
        };
        let answer = fetcher.get(url, TIMEOUT, MAX_BYTES).await?;
        Ok((self.parse(answer.json(false)?)?, answer.max_age()))
    }

    /// Where the first of the issuer's metadata documents that exists says that its keys are.
    async fn discover(&self, documents: [&EndpointUrl; 2], fetcher: &Fetcher) -> Result<EndpointUrl, Failure> {
        let mut nothing = Failure::Metadata;
        for url in documents {
            let answer = fetcher.get(url, TIMEOUT, MAX_BYTES).await?;
            let found = match answer.json(false) {
                Ok(document) => serde_json::from_slice(document).map_err(|_| Failure::Metadata),
                Err(error) => Err(error.into()),
            };
            let metadata: Metadata = match found {
                Ok(metadata) => metadata,
                Err(failure) if failure.is_unreachable() => return Err(failure),
                // Servers answer in many ways where there is no such document.
                Err(failure) => {
                    nothing = failure;
                    continue;
                }
            };
            // RFC 8414 section 3.3: whoever answers for another issuer is not believed.
            if metadata.issuer != self.settings.issuer {
                return Err(Failure::Issuer(metadata.issuer));
            }
            let keys = EndpointUrl::parse(&metadata.jwks_uri).ok();
            // Clear text on loopback is for issuers on loopback.
            let secure = |keys: &EndpointUrl| keys.is_https() || (keys.is_loopback() && url.is_loopback());
            return keys.filter(secure).ok_or(Failure::Insecure(metadata.jwks_uri));
        }
        Err(nothing)
    }

    /// Reads the file again whenever its content changes: by looking, since what replaces a file or a link to it does so
    /// in many ways.
    async fn watch(&mut self, path: &Path) {
        loop {
            tokio::time::sleep(FILE).await;
            match self.read(path) {
                // A file that is missing is being replaced.
                Ok(()) | Err(Failure::File(_)) => {}
                Err(error) => self.failed(&path.display(), &error),
            }
        }
    }

    fn read(&mut self, path: &Path) -> Result<(), Failure> {
        let json = std::fs::read(path)?;
        let found = Some(Digest::of(&json));
        // What was unfit is not told of twice; what was fit is as good as new.
        let known = self.seen == found;
        self.seen = found;
        if !known {
            self.is_current = false;
            let keys = self.parse(&json)?;
            self.accept(keys);
            self.is_current = true;
        }
        if self.is_current {
            self.ring.state.send_modify(|state| state.fresh = Some(Instant::now()));
        }
        Ok(())
    }

    fn parse(&self, json: &[u8]) -> Result<KeySet, Failure> {
        let (keys, left_out) = KeySet::parse(json, &self.settings.algorithms)?;
        if keys.is_empty() {
            return Err(Failure::Empty(left_out.join("; ")));
        }
        for reason in &left_out {
            warn!(event = "jwks.key_left_out", issuer = &*self.name, reason);
        }
        Ok(keys)
    }

    fn accept(&self, keys: KeySet) {
        info!(event = "jwks.fetched", issuer = &*self.name, keys = keys.len());
        self.ring.metrics.succeeded.inc();
        self.ring.replace(keys);
    }

    fn failed(&self, from: &dyn fmt::Display, error: &Failure) {
        warn!(event = "jwks.failed", issuer = &*self.name, %from, %error, "the keys that are known stay");
        self.ring.metrics.failed.inc();
    }
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}
