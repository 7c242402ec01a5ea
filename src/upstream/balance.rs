//! Which server a request is tried on first.

use std::sync::atomic::Ordering;

use super::Upstream;

/// Round robin over the servers, in the order of the configuration.
pub(super) fn start(upstream: &Upstream) -> usize {
    match upstream.servers.len() {
        1 => 0,
        servers => upstream.turn.fetch_add(1, Ordering::Relaxed) % servers,
    }
}
