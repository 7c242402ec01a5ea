//! Which server a request goes to: the first that takes it, in the order that `balance` gives them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::Upstream;
use super::standing::Admission;
use crate::policy::Permit;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// In the order of the configuration.
    RoundRobin,
    /// The server with the fewest requests that are not answered to their end.
    LeastRequests,
    /// Each caller has a server: that of the highest score (rendezvous hashing), so that only the callers of a server that
    /// goes move. A caller is the token's user, else its client, else the address.
    Hash,
}

/// A server for one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    /// Among the upstream's servers.
    pub(super) place: usize,
    /// The request finds out whether the server is back.
    pub(super) trial: bool,
}

/// What the order of the servers is for one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    balance: Balance,
    /// By round robin, and among servers with as many requests.
    turn: usize,
    /// Of the caller, where that matters.
    key: u64,
}

/// A request that is not answered to its end.
#[derive(Debug)]
pub(super) struct Running(Arc<AtomicUsize>);

impl Running {
    pub(super) fn on(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Order {
    pub(super) fn new(upstream: &Upstream, permit: &Permit, client: IpAddr) -> Self {
        let balance = upstream.settings.balance;
        let alone = upstream.servers.len() == 1;
        let turns = !alone && balance != Balance::Hash;
        Self {
            balance,
            turn: if turns { upstream.turn.fetch_add(1, Ordering::Relaxed) } else { 0 },
            key: if balance == Balance::Hash && !alone { caller(permit, client) } else { 0 },
        }
    }

    /// The server to go to, or to go on to after the one at `failed`; that again if no other takes the request. Where all
    /// are out, one that is tried nevertheless, or none.
    pub(super) fn choose(self, upstream: &Upstream, failed: Option<usize>, now: Instant) -> Option<Choice> {
        let servers = &upstream.servers;
        if failed.is_none() && (self.balance == Balance::RoundRobin || servers.len() == 1) {
            // The ordinary case: no order is needed to find the first.
            let place = self.turn % servers.len();
            if servers[place].standing.is_in() {
                return Some(Choice { place, trial: false });
            }
        }
        let mut spared = None;
        for place in self.others(upstream, failed) {
            match servers[place].standing.admits(now, self.lot(servers.len())) {
                Admission::Yes => return Some(Choice { place, trial: false }),
                Admission::Trial => return Some(Choice { place, trial: true }),
                Admission::Spared => spared = spared.or(Some(place)),
                Admission::Out => {}
            }
        }
        let again = failed.filter(|failed| !servers[*failed].standing.is_out());
        if let Some(place) = spared.or(again) {
            return Some(Choice { place, trial: false });
        }
        let mut last_resorts = self.others(upstream, failed);
        let place = last_resorts.find(|place| servers[*place].standing.is_tried_as_last_resort(now));
        place.map(|place| Choice { place, trial: true })
    }

    /// The places of all servers but that at `failed`, the first to be asked first.
    fn others(self, upstream: &Upstream, failed: Option<usize>) -> impl Iterator<Item = usize> {
        let mut last = None;
        std::iter::from_fn(move || {
            let others = (0..upstream.servers.len()).filter(|place| Some(*place) != failed);
            let ranked = others.map(|place| self.rank(upstream, place));
            last = ranked.filter(|rank| last.is_none_or(|last| *rank > last)).min();
            last.map(|(_, _, place)| place)
        })
    }

    /// The lowest comes first. The last part is the server's place, so that no two are the same.
    fn rank(self, upstream: &Upstream, place: usize) -> (u64, usize, usize) {
        let servers = upstream.servers.len();
        let start = self.turn % servers;
        // What the first does not take is spread evenly over the others.
        let behind = match (place + servers - start) % servers {
            0 => 0,
            behind => 1 + (behind + self.turn / servers) % (servers - 1),
        };
        let first = match self.balance {
            Balance::RoundRobin => 0,
            Balance::LeastRequests => upstream.servers[place].running.load(Ordering::Relaxed) as u64,
            Balance::Hash => !mixed(self.key ^ upstream.servers[place].key),
        };
        (first, behind, place)
    }

    /// Decides who gets a server that has little to take yet. A caller draws the same again.
    fn lot(self, servers: usize) -> u64 {
        match self.balance {
            Balance::Hash => mixed(self.key),
            Balance::RoundRobin | Balance::LeastRequests => (self.turn / servers) as u64,
        }
    }
}

fn caller(permit: &Permit, client: IpAddr) -> u64 {
    let named = permit.token().and_then(|token| {
        let (kind, name) = token.user().map(|user| ("user", user)).or(token.client_id().map(|id| ("client", id)))?;
        Some(digest(&[kind.as_bytes(), token.issuer().as_bytes(), name.as_bytes()]))
    });
    named.unwrap_or_else(|| match client {
        IpAddr::V4(address) => digest(&[b"address", &address.octets()]),
        IpAddr::V6(address) => digest(&[b"address", &address.octets()]),
    })
}

/// FNV-1a: the same in every process and version, so that gateways beside each other agree. Nothing is gained by finding
/// two names that share a server.
pub(super) fn digest(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter().chain(&[0xff]));
    mixed(bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// Spreads every bit over all (the finalizer of SplitMix64).
fn mixed(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
