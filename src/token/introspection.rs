//! Asking an issuer what a token is (RFC 7662), as seldom as can be: answers are kept under the digest of the whole token,
//! requests with the same token share one call, and calls are bounded in number and time. What is kept are facts; times
//! are looked at and rules judged for every request.
//!
//! Requests wait on the workers, calls run on the control thread: nobody who hangs up takes a call away from others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use moka::sync::Cache;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info};

use super::{IntrospectionSettings, Refusal, Validity, VerifiedToken};
use crate::clock::Clock;
use crate::jose::parse_object;
use crate::net::fetch::{AnswerError, FetchError, Fetcher};
use crate::store::Digest;
use crate::telemetry::metrics::IntrospectionMetrics;
use crate::tls::TlsError;

/// Largest answer that is read.
const MAX_BYTES: usize = 64 * 1024;
/// Calls that wait for their turn; further ones are refused at once.
const QUEUE: usize = 1024;
/// Room for one of `cache_entries`.
const ENTRY_BYTES: usize = 2048;

/// Whether an answer from before will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    #[default]
    Kept,
    /// The route's `cache = "off"`: every request asks for itself.
    Never,
}

/// What came of asking: facts, or why the token does not count. Either may be kept.
type Answer = Result<Arc<VerifiedToken>, Refusal>;

/// One issuer's introspection endpoint and what it said.
#[derive(Debug)]
pub struct Introspector {
    name: Arc<str>,
    /// Of the issuer, in the plan.
    index: usize,
    settings: IntrospectionSettings,
    authorization: HeaderValue,
    fetcher: Fetcher,
    good: Cache<Digest, Kept>,
    /// Apart, so that a flood of made-up tokens drives out no good one.
    refused: Cache<Digest, Kept>,
    /// Calls that others may join.
    flights: Mutex<HashMap<Digest, Flight>>,
    calls: mpsc::Sender<Call>,
    metrics: IntrospectionMetrics,
    clock: Clock,
    failing: AtomicBool,
}

#[derive(Clone, Debug)]
struct Kept {
    answer: Answer,
    until: Instant,
}

type Flight = watch::Receiver<Option<Answer>>;

/// A call that is to be made.
#[derive(Debug)]
struct Call {
    digest: Digest,
    token: Box<str>,
    /// The JWT, when it was verified here before.
    verified: Option<Arc<VerifiedToken>>,
    deadline: Instant,
    shared: bool,
    outcome: watch::Sender<Option<Answer>>,
}

/// The calls of an introspector, to be made by [`Calls::run`].
#[derive(Debug)]
pub struct Calls {
    introspector: Arc<Introspector>,
    queue: mpsc::Receiver<Call>,
}

/// Why an issuer gave no usable answer. Nobody's token is to blame.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("the issuer refused our client_id and client_secret ({0})")]
    Credentials(StatusCode),
    #[error("the answer is not a JSON object without repeated members")]
    Json,
}

impl Failure {
    /// For metric labels.
    fn kind(&self) -> &'static str {
        match self {
            Self::Fetch(FetchError::Timeout(_)) => "timeout",
            Self::Fetch(FetchError::Unreachable(_)) => "unreachable",
            Self::Credentials(_) => "credentials_refused",
            Self::Answer(AnswerError::Status(_)) => "status",
            Self::Fetch(FetchError::Body(_)) | Self::Answer(_) | Self::Json => "bad_answer",
        }
    }
}

impl Introspector {
    /// The endpoint of the issuer called `name`, number `index` of the plan. Nothing is asked before the calls run.
    pub fn new(
        name: Arc<str>,
        index: usize,
        settings: IntrospectionSettings,
        metrics: IntrospectionMetrics,
        clock: Clock,
    ) -> Result<(Arc<Self>, Calls), TlsError> {
        let fetcher = Fetcher::new(&settings.url, settings.ca.as_deref(), settings.concurrency)?;
        let (calls, queue) = mpsc::channel(QUEUE);
        let weight = |_: &Digest, kept: &Kept| {
            let bytes = kept.answer.as_ref().map_or(0, |token| size(token.claims()));
            u32::try_from(1 + bytes / ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        let cache = |ttl: Duration| Cache::builder().max_capacity(settings.cache_entries).time_to_live(ttl);
        let introspector = Arc::new(Self {
            authorization: basic(&settings.client_id, settings.client_secret.expose()),
            good: cache(settings.cache_ttl).weigher(weight).build(),
            refused: cache(settings.negative_ttl).build(),
            flights: Mutex::default(),
            failing: AtomicBool::new(false),
            name,
            index,
            settings,
            fetcher,
            calls,
            metrics,
            clock,
        });
        Ok((Arc::clone(&introspector), Calls { introspector, queue }))
    }

    /// What an answer from before says, if there is one that still counts.
    pub(super) fn kept(&self, digest: &Digest) -> Option<Answer> {
        let kept = self.good.get(digest).or_else(|| self.refused.get(digest))?;
        if Instant::now() >= kept.until {
            return None;
        }
        if kept.answer.is_ok() { &self.metrics.hits } else { &self.metrics.negatives }.inc();
        Some(kept.answer)
    }

    /// What the issuer says of a token. `verified` is the token itself where it is a JWT that was verified here: what the
    /// answer leaves out is read from it, and it counts alone where the issuer knows no JWTs.
    pub(super) async fn ask(
        &self,
        token: &str,
        digest: Digest,
        verified: Option<&Arc<VerifiedToken>>,
        reuse: Reuse,
    ) -> Answer {
        let mut flight = match reuse {
            Reuse::Kept => match self.join(token, digest, verified) {
                Ok(flight) => flight?,
                Err(kept) => return kept,
            },
            Reuse::Never => self.call(token, digest, verified, false)?,
        };
        let ended = tokio::time::timeout(self.settings.timeout, flight.wait_for(Option::is_some)).await;
        match ended {
            Ok(Ok(answer)) => answer.clone().unwrap_or(Err(Refusal::Unavailable)),
            _ => Err(Refusal::Unavailable),
        }
    }

    /// The call for this token that is under way, or a new one; an error is an answer that came meanwhile.
    fn join(
        &self,
        token: &str,
        digest: Digest,
        verified: Option<&Arc<VerifiedToken>>,
    ) -> Result<Result<Flight, Refusal>, Answer> {
        let mut flights = self.flights();
        // Closed without an answer: the task that made the call is no more.
        if let Some(flight) = flights.get(&digest).filter(|flight| flight.has_changed().is_ok()) {
            self.metrics.shared.inc();
            return Ok(Ok(flight.clone()));
        }
        // A call keeps its answer before it leaves the list, so that none slips in between.
        if let Some(kept) = self.kept(&digest) {
            return Err(kept);
        }
        let flight = self.call(token, digest, verified, true);
        if let Ok(flight) = &flight {
            flights.insert(digest, flight.clone());
        }
        Ok(flight)
    }

    fn call(
        &self,
        token: &str,
        digest: Digest,
        verified: Option<&Arc<VerifiedToken>>,
        shared: bool,
    ) -> Result<Flight, Refusal> {
        self.metrics.misses.inc();
        let (outcome, flight) = watch::channel(None);
        let deadline = Instant::now() + self.settings.timeout;
        let call = Call { digest, token: token.into(), verified: verified.cloned(), deadline, shared, outcome };
        self.calls.try_send(call).map_err(|_| {
            self.metrics.call("busy");
            Refusal::Unavailable
        })?;
        Ok(flight)
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Digest, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers that are kept now.
    pub fn entries(&self) -> u64 {
        self.good.entry_count() + self.refused.entry_count()
    }

    async fn make(&self, call: &Call) -> Answer {
        let left = call.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.metrics.call("timeout");
            return Err(Refusal::Unavailable);
        }
        let started = Instant::now();
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", &call.token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        let url = &self.settings.url;
        let fetched = self.fetcher.post(url, &self.authorization, form, left, MAX_BYTES).await;
        self.metrics.seconds.observe(started.elapsed().as_secs_f64());
        let answer = fetched.map_err(Failure::from).and_then(|answer| read(&answer));
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                self.metrics.call(failure.kind());
                self.failed(&failure);
                return Err(Refusal::Unavailable);
            }
        };
        self.metrics.failing.set(0);
        if self.failing.swap(false, Ordering::Relaxed) {
            info!(event = "introspection.recovered", issuer = &*self.name);
        }
        let (answer, result) = match answer {
            Said::Active(claims) => (self.facts(claims, call.verified.as_deref()), "active"),
            Said::Inactive => (Err(Refusal::Inactive), "inactive"),
            Said::Unsupported => (call.verified.clone().ok_or(Refusal::Unsupported), "unsupported_token_type"),
        };
        self.metrics.call(result);
        self.keep(call.digest, &answer);
        answer
    }

    /// Told once for each time it begins, not for each request.
    fn failed(&self, failure: &Failure) {
        self.metrics.failing.set(1);
        if !self.failing.swap(true, Ordering::Relaxed) {
            let (url, kind) = (self.settings.url.to_string(), failure.kind());
            error!(event = "introspection.failed", issuer = &*self.name, url, kind, error = %failure);
        }
    }

    /// The facts of an answer. What a JWT that was verified says counts where the answer says nothing.
    fn facts(&self, said: Map<String, Value>, verified: Option<&VerifiedToken>) -> Answer {
        let own = self.settings.issuer.as_ref();
        if let (Some(own), Some(iss)) = (own, said.get("iss"))
            && iss.as_str() != Some(own)
        {
            return Err(Refusal::Issuer);
        }
        let bearer = |kind: &Value| {
            kind.as_str()
                .is_some_and(|kind| ["bearer", "access_token"].iter().any(|own| kind.eq_ignore_ascii_case(own)))
        };
        if said.get("token_type").is_some_and(|kind| !kind.is_null() && !bearer(kind)) {
            return Err(Refusal::Kind);
        }
        let mut claims = verified.map(|token| token.claims().clone()).unwrap_or_default();
        claims.extend(said);
        self.settings.claims.facts(&self.name, self.index, claims).map(Arc::new)
    }

    fn keep(&self, digest: Digest, answer: &Answer) {
        let ttl = match answer.as_ref().map(|token| left(token.validity(), &self.clock)) {
            Ok(left) if !left.is_zero() => self.settings.cache_ttl.min(left),
            // One that has ended is as good as refused, although its issuer calls it active.
            _ => self.settings.negative_ttl,
        };
        let kept = Kept { answer: answer.clone(), until: Instant::now() + ttl };
        let (into, other) = if answer.is_ok() { (&self.good, &self.refused) } else { (&self.refused, &self.good) };
        other.invalidate(&digest);
        if ttl.is_zero() {
            into.invalidate(&digest);
        } else {
            into.insert(digest, kept);
        }
    }
}

impl Calls {
    /// Makes the calls as they come, so many at a time as the issuer is to bear. Runs until dropped.
    pub async fn run(mut self) {
        let turns = Arc::new(Semaphore::new(self.introspector.settings.concurrency));
        while let Some(call) = self.queue.recv().await {
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
            let own = Arc::clone(&self.introspector);
            tokio::spawn(async move {
                let answer = own.make(&call).await;
                if call.shared {
                    own.flights().remove(&call.digest);
                }
                call.outcome.send_replace(Some(answer));
                drop(turn);
            });
        }
    }
}

/// What an answer amounts to.
enum Said {
    Active(Map<String, Value>),
    Inactive,
    /// The issuer does not introspect tokens of this kind (RFC 7009 section 2.2.1).
    Unsupported,
}

fn read(answer: &crate::net::fetch::Answer) -> Result<Said, Failure> {
    if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(Failure::Credentials(answer.status));
    }
    if answer.status == StatusCode::BAD_REQUEST && is_unsupported(&answer.body) {
        return Ok(Said::Unsupported);
    }
    let mut claims = parse_object(answer.json(true)?).map_err(|_| Failure::Json)?;
    // Nothing but the boolean says that a token is active.
    match claims.remove("active") {
        Some(Value::Bool(true)) => Ok(Said::Active(claims)),
        _ => Ok(Said::Inactive),
    }
}

fn is_unsupported(body: &Bytes) -> bool {
    parse_object(body).is_ok_and(|error| error.get("error").is_some_and(|code| code == "unsupported_token_type"))
}

/// How long a token still counts.
fn left(validity: Validity, clock: &Clock) -> Duration {
    match validity.until {
        Validity::FOREVER => Duration::MAX,
        until => Duration::from_secs(until.saturating_sub(clock.now())),
    }
}

/// `Basic` with both parts form-encoded (RFC 6749 section 2.3.1).
fn basic(id: &str, secret: &str) -> HeaderValue {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = zeroize::Zeroizing::new(format!("{}:{}", encoded(id), encoded(secret)));
    let text = zeroize::Zeroizing::new(format!("Basic {}", BASE64.encode(&*pair)));
    let mut value = HeaderValue::from_str(&text).expect("base64 is fit for a header");
    value.set_sensitive(true);
    value
}

/// Roughly the bytes that claims take.
fn size(claims: &Map<String, Value>) -> usize {
    fn of(value: &Value) -> usize {
        size_of::<Value>()
            + match value {
                Value::String(text) => text.len(),
                Value::Array(items) => items.iter().map(of).sum(),
                Value::Object(members) => size(members),
                _ => 0,
            }
    }
    claims.iter().map(|(name, value)| name.len() + size_of::<String>() + of(value)).sum()
}
