//! The addresses of a server that is configured by name. The system's resolver is asked for every new connection; it
//! gives no time for which its answer holds, so connections to a name are renewed after [`RENEWAL`]: what goes to an
//! address that the name no longer has drains within that time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Longest that a connection to a name takes new requests.
pub(super) const RENEWAL: Duration = Duration::from_secs(60);
/// Addresses of one name that are used.
const MAX_ADDRESSES: usize = 16;

#[derive(Debug)]
pub(super) struct Name {
    host: String,
    port: u16,
    /// Which address the next connection is tried to first, so that all are used.
    turn: AtomicUsize,
    /// For when the resolver does not answer.
    known: Mutex<Vec<SocketAddr>>,
}

impl Name {
    /// An address is a name that has only itself. IPv6 comes without brackets.
    pub(super) fn new(host: String, port: u16) -> Self {
        Self { host, port, turn: AtomicUsize::new(0), known: Mutex::default() }
    }

    pub(super) fn is_address(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }

    /// Where to connect to, in the order in which to try.
    pub(super) async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let looked_up = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        self.take(looked_up.map(|found| found.take(MAX_ADDRESSES).collect()))
    }

    /// Knows these addresses, of a name that no resolver has.
    #[cfg(test)]
    pub(super) fn known(addresses: Vec<SocketAddr>) -> Self {
        Self { known: Mutex::new(addresses), ..Self::new("x".repeat(64), 80) }
    }

    fn take(&self, looked_up: io::Result<Vec<SocketAddr>>) -> io::Result<Vec<SocketAddr>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match looked_up {
            Ok(found) if !found.is_empty() => known.clone_from(&found),
            // Servers do not go away because the resolver does.
            _ if !known.is_empty() => {}
            Ok(_) => return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
            Err(error) => return Err(error),
        }
        let mut addresses = known.clone();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
        addresses.rotate_left(first);
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(last: &[u8]) -> Vec<SocketAddr> {
        last.iter().map(|n| SocketAddr::from(([10, 0, 0, *n], 80))).collect()
    }

    #[test]
    fn all_addresses_are_used_and_the_last_known_outlive_the_resolver() {
        let name = Name::new("orders.internal".to_owned(), 80);
        let failed = || Err(io::Error::other("no answer"));
        assert!(name.take(failed()).is_err() && name.take(Ok(Vec::new())).is_err());
        assert_eq!(name.take(Ok(addresses(&[1, 2]))).unwrap(), addresses(&[1, 2]));
        assert_eq!(name.take(Ok(addresses(&[1, 2]))).unwrap(), addresses(&[2, 1]));
        assert_eq!(name.take(failed()).unwrap(), addresses(&[1, 2]));
        assert_eq!(name.take(Ok(Vec::new())).unwrap(), addresses(&[2, 1]));
        assert_eq!(name.take(Ok(addresses(&[3]))).unwrap(), addresses(&[3]));
        assert_eq!(name.take(failed()).unwrap(), addresses(&[3]));
    }
}
