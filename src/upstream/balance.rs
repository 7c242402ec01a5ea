//! Which server a request goes to.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::Upstream;
use super::standing::Admission;

/// A server for one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    /// Among the upstream's servers.
    pub(super) place: usize,
    /// The request finds out whether the server is back.
    pub(super) trial: bool,
}

/// Round robin over the servers, in the order of the configuration. One that is out is passed over.
pub(super) fn first(upstream: &Upstream, now: Instant) -> Choice {
    let servers = upstream.servers.len();
    let turn = if servers == 1 { 0 } else { upstream.turn.fetch_add(1, Ordering::Relaxed) };
    among(upstream, turn % servers, turn / servers, now, None)
}

/// Where to go on after the server at `failed`: to another, if there is one that is not out.
pub(super) fn next(upstream: &Upstream, failed: usize, now: Instant) -> Choice {
    let servers = upstream.servers.len();
    let turn = upstream.turn.load(Ordering::Relaxed);
    among(upstream, failed, turn / servers, now, Some(failed))
}

/// The server at `start` or one of the others, which share evenly in what it does not take.
fn among(upstream: &Upstream, start: usize, round: usize, now: Instant, without: Option<usize>) -> Choice {
    let servers = upstream.servers.len();
    let others = servers - 1;
    let place = |n: usize| if n == 0 { start } else { (start + 1 + (round + n) % others) % servers };
    let mut spared = None;
    for place in (0..servers).map(place).filter(|place| Some(*place) != without) {
        match upstream.servers[place].standing.admits(now, round as u64) {
            Admission::Yes => return Choice { place, trial: false },
            Admission::Trial => return Choice { place, trial: true },
            Admission::Spared => spared = spared.or(Some(place)),
            Admission::Out => {}
        }
    }
    Choice { place: spared.unwrap_or(start), trial: false }
}
