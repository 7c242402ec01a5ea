//! Asking servers whether they are well, from the control thread: one task for each, on connections of its own, so that a
//! server whose `connections` are all in use is not taken for ill.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};

use super::pool::{Sender, to_http2};
use super::{Head, Server, Slot, Upstream};
use crate::net::body::RequestBody;
use crate::net::headers::Fields;

/// Checks in a row that fail before the server is out.
const FAILURES: u32 = 3;
/// Checks in a row that succeed before it is back.
const SUCCESSES: u32 = 2;
/// Shortest and longest time for one check; between them it is the interval.
const TIMEOUT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// `[upstreams.NAME.health]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub path: PathAndQuery,
    /// From the end of one check to the beginning of the next.
    pub interval: Duration,
}

/// What is wrong with a server.
#[derive(Debug, thiserror::Error)]
enum Ill {
    #[error("{0}")]
    Http1(#[from] std::io::Error),
    #[error("{0}")]
    Http2(#[from] hyper::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the answer was {0}")]
    Status(StatusCode),
}

/// Checks the server at `place` until its upstream is gone.
pub(super) async fn watch(upstream: Weak<Upstream>, place: usize) {
    let (mut failures, mut successes, mut was_out) = (0_u32, 0_u32, false);
    loop {
        let Some(shared) = upstream.upgrade() else { return };
        let Some(health) = &shared.settings.health else { return };
        let server = &shared.servers[place];
        let result = check(server, health).await;
        // Those from before say nothing about one that has gone out meanwhile.
        let is_out = server.standing.is_out();
        if is_out && !was_out {
            successes = 0;
        }
        was_out = is_out;
        match result {
            Ok(()) => {
                (failures, successes) = (0, successes.saturating_add(1));
                if successes >= SUCCESSES {
                    shared.is_well(place);
                }
            }
            Err(ill) => {
                (failures, successes) = (failures.saturating_add(1), 0);
                if failures >= FAILURES {
                    shared.is_ill(place, &ill.to_string());
                }
            }
        }
        let interval = health.interval;
        drop(shared);
        tokio::time::sleep(interval).await;
    }
}

/// A GET, answered with 2xx.
async fn check(server: &Server, health: &Health) -> Result<(), Ill> {
    let limit = health.interval.clamp(TIMEOUT.0, TIMEOUT.1);
    let exchange = async {
        let slot = Slot::take(&Arc::default(), 1).ok_or_else(|| std::io::Error::other("no place"))?;
        let agent = HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION")));
        let mut fields = Fields::default();
        fields.push(USER_AGENT, agent);
        let (fields, target) = (Arc::new(fields.into()), health.path.clone());
        let mut head = Head { method: Method::GET, target, host: None, fields, own: None };
        let status = match server.connector.connect(slot).await? {
            Sender::Http1(mut connection) => {
                head.own = Some((CONNECTION, HeaderValue::from_static("close")));
                let answer = connection.send(&head, &server.authority, RequestBody::empty()).await;
                answer.map_err(|unanswered| unanswered.error)?.status
            }
            Sender::Http2(mut sender) => {
                let request = to_http2(&head, &server.authority, RequestBody::empty(), server.connector.is_tls());
                sender.send_request(request).await?.status()
            }
        };
        if status.is_success() { Ok(()) } else { Err(Ill::Status(status)) }
    };
    tokio::time::timeout(limit, exchange).await.map_err(|_| Ill::Timeout(limit))?
}
