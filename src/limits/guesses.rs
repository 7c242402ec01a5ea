//! Limits on guessing: how often a secret may be wrong, counted so that nobody can lock somebody else out.
//!
//! Where the address is the guesser's own (login form, public clients, failed client authentication), failures count per
//! user and address and per address. Where a confidential client stands between, the address is the application's:
//! failures count per user and client, and they only slow the answers down. All counters share one bounded cache.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::network;
use crate::clock::{Clock, UnixSeconds};

/// Counters that are kept at once. The least recently used go first.
const COUNTERS: u64 = 200_000;
/// A counter nobody touched for this long is dropped.
const IDLE: Duration = Duration::from_secs(24 * 3600);
/// Attempts for one user through one client that may wait for their turn.
const WAITING: u32 = 32;

/// What is allowed.
#[derive(Clone, Copy, Debug)]
pub struct GuessRules {
    /// Per user and address, or per user and client, within `window`.
    pub failures: u32,
    pub window: Duration,
    /// How long a user is locked for an address; the longest wait of an attempt through a confidential client.
    pub delay: Duration,
    /// Per address within `window`.
    pub address_failures: u32,
}

/// The counters. Clones share them.
#[derive(Clone, Debug)]
pub struct Guesses {
    rules: GuessRules,
    clock: Clock,
    counters: Cache<Key, Arc<Mutex<Counter>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    UserAddress(Box<str>, IpAddr),
    UserClient(Box<str>, Box<str>),
    Address(IpAddr),
}

#[derive(Debug, Default)]
struct Counter {
    failures: u32,
    /// The failures are forgotten then.
    window_ends: UnixSeconds,
    /// No further attempt counts before this moment.
    closed_until: UnixSeconds,
    waiting: u32,
}

impl Guesses {
    pub fn new(rules: GuessRules, clock: Clock) -> Self {
        Self { rules, clock, counters: counters(COUNTERS) }
    }

    /// The same counters under other rules.
    pub fn with_rules(&self, rules: GuessRules) -> Self {
        Self { rules, ..self.clone() }
    }

    /// Seconds until an address that failed too often is heard again.
    pub fn address_closed(&self, address: IpAddr) -> Option<u64> {
        self.closed(&Key::Address(network(address)))
    }

    /// Whether the user is locked for this address. The answer to the caller must not tell.
    pub fn is_locked(&self, user: &str, address: IpAddr) -> bool {
        self.closed(&Key::UserAddress(user.into(), network(address))).is_some()
    }

    /// Counts a wrong password from an address; whether that locked the user for the address.
    pub fn failed_from(&self, user: &str, address: IpAddr) -> bool {
        self.address_failed(address);
        self.count(Key::UserAddress(user.into(), network(address)), self.rules.failures)
    }

    /// Forgets the failures of a user who logged in from an address.
    pub fn succeeded_from(&self, user: &str, address: IpAddr) {
        self.counters.invalidate(&Key::UserAddress(user.into(), network(address)));
    }

    /// Counts a failure of an address; whether that closed the address.
    pub fn address_failed(&self, address: IpAddr) -> bool {
        self.count(Key::Address(network(address)), self.rules.address_failures)
    }

    /// The wait before an attempt for `user` through a confidential client is looked at. None: too many wait already.
    pub fn turn(&self, user: &str, client: &str) -> Option<Turn> {
        let key = Key::UserClient(user.into(), client.into());
        let Some(shared) = self.counters.get(&key) else { return Some(Turn::default()) };
        let mut counter = lock(&shared);
        let wait = counter.closed_until.saturating_sub(self.clock.now()).min(self.rules.delay.as_secs());
        if wait == 0 {
            return Some(Turn::default());
        }
        if counter.waiting >= WAITING {
            return None;
        }
        counter.waiting += 1;
        let until = counter.closed_until;
        drop(counter);
        Some(Turn { wait: Duration::from_secs(wait), until, counter: Some(shared) })
    }

    /// Counts a wrong password through a confidential client; the next attempt waits 1 s, 2 s, 4 s and so on once there
    /// were too many. Whether there were.
    pub fn failed_through(&self, user: &str, client: &str) -> bool {
        let shared = self.counter(Key::UserClient(user.into(), client.into()));
        let mut counter = lock(&shared);
        let now = self.clock.now();
        let excess = self.add(&mut counter, now).checked_sub(self.rules.failures);
        if let Some(excess) = excess {
            let wait = 1_u64.checked_shl(excess).unwrap_or(u64::MAX).min(self.rules.delay.as_secs());
            counter.closed_until = counter.closed_until.max(now.saturating_add(wait));
        }
        excess.is_some()
    }

    pub fn succeeded_through(&self, user: &str, client: &str) {
        self.counters.invalidate(&Key::UserClient(user.into(), client.into()));
    }

    fn closed(&self, key: &Key) -> Option<u64> {
        let shared = self.counters.get(key)?;
        let left = lock(&shared).closed_until.saturating_sub(self.clock.now());
        (left > 0).then_some(left)
    }

    fn count(&self, key: Key, limit: u32) -> bool {
        let shared = self.counter(key);
        let mut counter = lock(&shared);
        let now = self.clock.now();
        // While it is closed nothing is added, or guessing would keep it closed for whoever shares the address.
        if counter.closed_until > now || self.add(&mut counter, now) < limit {
            return false;
        }
        counter.closed_until = now.saturating_add(self.rules.delay.as_secs().max(1));
        true
    }

    /// One failure more; how many there are in the window.
    fn add(&self, counter: &mut Counter, now: UnixSeconds) -> u32 {
        if counter.window_ends <= now {
            counter.failures = 0;
            counter.window_ends = now.saturating_add(self.rules.window.as_secs().max(1));
        }
        counter.failures = counter.failures.saturating_add(1);
        counter.failures
    }

    fn counter(&self, key: Key) -> Arc<Mutex<Counter>> {
        self.counters.get_with(key, Arc::default)
    }
}

/// A place in the queue of those who wait; given back when dropped.
#[derive(Debug, Default)]
pub struct Turn {
    pub wait: Duration,
    /// The moment it ends; 0 without a wait.
    pub until: UnixSeconds,
    counter: Option<Arc<Mutex<Counter>>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(counter) = &self.counter {
            let mut counter = lock(counter);
            counter.waiting = counter.waiting.saturating_sub(1);
        }
    }
}

fn lock(counter: &Mutex<Counter>) -> MutexGuard<'_, Counter> {
    counter.lock().unwrap_or_else(PoisonError::into_inner)
}

fn counters(most: u64) -> Cache<Key, Arc<Mutex<Counter>>> {
    // The usual policy turns away what is new while all else is in use: a new guesser would not be counted.
    Cache::builder().max_capacity(most).eviction_policy(EvictionPolicy::lru()).time_to_idle(IDLE).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = "192.0.2.1";
    const OFFICE: &str = "198.51.100.1";

    fn guesses() -> (Guesses, Clock) {
        let clock = Clock::manual(1_000_000);
        let rules = GuessRules {
            failures: 3,
            window: Duration::from_secs(600),
            delay: Duration::from_secs(60),
            address_failures: 10,
        };
        (Guesses::new(rules, clock.clone()), clock)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn p9_a_user_is_locked_for_the_guessing_address_alone() {
        let (guesses, clock) = guesses();
        assert_eq!([0; 3].map(|_| guesses.failed_from("alice", ip(HOME))), [false, false, true]);
        assert!(guesses.is_locked("alice", ip(HOME)));
        assert!(!guesses.is_locked("alice", ip(OFFICE)), "elsewhere");
        assert!(!guesses.is_locked("bob", ip(HOME)), "somebody else");
        clock.advance(30);
        guesses.failed_from("alice", ip(HOME));
        clock.advance(30);
        assert!(!guesses.is_locked("alice", ip(HOME)), "guessing on does not keep it locked");
        guesses.succeeded_from("alice", ip(HOME));
        assert!(!guesses.failed_from("alice", ip(HOME)), "a success starts the count again");
    }

    #[test]
    fn p9_an_address_that_fails_too_often_is_not_heard_for_a_while() {
        let (guesses, clock) = guesses();
        for n in 0..10 {
            assert_eq!(guesses.address_closed(ip(HOME)), None, "{n}");
            guesses.failed_from(&format!("user-{n}"), ip(HOME));
        }
        assert_eq!(guesses.address_closed(ip(HOME)), Some(60));
        assert_eq!(guesses.address_closed(ip(OFFICE)), None);
        clock.advance(60);
        assert_eq!(guesses.address_closed(ip(HOME)), None);
    }

    #[test]
    fn failures_are_forgotten_after_the_window_and_ipv6_counts_by_network() {
        let (guesses, clock) = guesses();
        guesses.failed_from("alice", ip(HOME));
        guesses.failed_from("alice", ip(HOME));
        clock.advance(600);
        assert!(!guesses.failed_from("alice", ip(HOME)));
        for n in 1..=3 {
            guesses.failed_from("carol", ip(&format!("2001:db8::{n}")));
        }
        assert!(guesses.is_locked("carol", ip("2001:db8::ffff")));
        assert!(!guesses.is_locked("carol", ip("2001:db8:0:1::1")));
    }

    #[test]
    fn p9_a_new_guesser_is_counted_although_every_counter_is_taken() {
        let (mut guesses, _) = guesses();
        guesses.counters = counters(100);
        let failed = |user: &str| {
            guesses.failed_from(user, ip(OFFICE));
            guesses.counters.run_pending_tasks();
        };
        (0..5).flat_map(|_| 0..100).for_each(|n| failed(&format!("user-{n}")));
        (0..3).for_each(|_| failed("alice"));
        assert!(guesses.is_locked("alice", ip(OFFICE)));
        assert!(guesses.counters.entry_count() <= 100);
    }

    #[test]
    fn through_a_client_failures_only_delay_and_double() {
        let (guesses, clock) = guesses();
        let wait = || guesses.turn("alice", "app").map(|turn| turn.wait.as_secs());
        guesses.failed_through("alice", "app");
        guesses.failed_through("alice", "app");
        assert_eq!(wait(), Some(0));
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            guesses.failed_through("alice", "app");
            assert_eq!(wait(), Some(expected));
            clock.advance(expected);
        }
        assert_eq!(wait(), Some(0));
        assert_eq!(guesses.turn("alice", "other").map(|turn| turn.wait.as_secs()), Some(0));
        guesses.failed_through("alice", "app");
        let turns: Vec<_> = (0..WAITING).map(|_| guesses.turn("alice", "app").unwrap()).collect();
        assert!(guesses.turn("alice", "app").is_none(), "the queue is bounded");
        drop(turns);
        assert_eq!(wait(), Some(60));
        guesses.succeeded_through("alice", "app");
        assert_eq!(wait(), Some(0));
    }
}
