//! Limits on rates, by the generic cell rate algorithm: a bucket of requests is one number, the moment at which the bucket
//! will be full again. Taking a request moves it one interval further; a bucket that is empty gives none.
//!
//! Buckets of callers share one bounded cache, and their keys are digests of fixed size, so that nothing a caller sends
//! decides how much memory they take. Whom a request counts against is for the gateway to say.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::network;

/// Buckets that are kept at once. The least recently used go first, and are full when they come back.
const BUCKETS: u64 = 200_000;
/// Buckets are kept for at least this long after their last request.
const LEAST_IDLE: Duration = Duration::from_secs(60);

/// How many requests are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In a `window`, in the long run. At least 1, as is the burst.
    pub requests: u32,
    pub window: Duration,
    /// At once.
    pub burst: u32,
}

impl Rate {
    /// In nanoseconds, the time after which one request more is let through.
    fn interval(self) -> u64 {
        let window = u64::try_from(self.window.as_nanos()).unwrap_or(u64::MAX);
        (window / u64::from(self.requests)).max(1)
    }

    /// How long an empty bucket takes to be full.
    pub fn refill(self) -> Duration {
        Duration::from_nanos(self.interval().saturating_mul(u64::from(self.burst)))
    }
}

/// Whom a request counts against.
#[derive(Clone, Copy, Debug, Hash)]
pub enum Key<'a> {
    Everybody,
    User { issuer: &'a str, user: &'a str },
    Client { issuer: &'a str, client: &'a str },
    Address(IpAddr),
}

/// The buckets of all limits, those that come later too. Clones share them.
#[derive(Clone, Debug)]
pub struct Buckets {
    cache: Cache<Digest, Arc<Bucket>>,
    states: [RandomState; 2],
    /// Limits that there were so far.
    limits: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Bucket {
    full_at: AtomicU64,
    /// So long after its last request it is full, and need not be kept.
    idle: Duration,
}

struct WhenFull;

impl Expiry<Digest, Arc<Bucket>> for WhenFull {
    fn expire_after_create(&self, _: &Digest, bucket: &Arc<Bucket>, _: Instant) -> Option<Duration> {
        Some(bucket.idle)
    }

    fn expire_after_read(
        &self,
        _: &Digest,
        bucket: &Arc<Bucket>,
        _: Instant,
        _: Option<Duration>,
        _: Instant,
    ) -> Option<Duration> {
        Some(bucket.idle)
    }
}

/// Of a limit and a key. Its 128 bits are keyed by random numbers of the process: nobody finds a second key for one.
type Digest = [u64; 2];

impl Default for Buckets {
    fn default() -> Self {
        Self::bounded(BUCKETS)
    }
}

impl Buckets {
    fn bounded(entries: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(entries)
            // By its usual policy a newcomer to a full cache would not be kept, and never be limited.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(WhenFull)
            .build();
        Self { cache, states: std::array::from_fn(|_| RandomState::new()), limits: Arc::default() }
    }
}

/// One limit.
#[derive(Debug)]
pub struct RateLimit {
    /// Nanoseconds.
    interval: u64,
    refill: u64,
    burst: u32,
    /// Tells its buckets from those of other limits.
    number: u64,
    buckets: Buckets,
    everybody: AtomicU64,
    /// From which moments are counted.
    start: Instant,
}

/// What a request found in its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may go on; as many more may follow at once, and after this time the bucket is full.
    Taken { left: u32, full_in: Duration },
    /// The bucket is empty; after this time there is one request in it.
    Empty { next_in: Duration },
}

impl RateLimit {
    /// A limit of which nobody has used anything.
    pub fn new(rate: Rate, buckets: &Buckets) -> Self {
        let refill = u64::try_from(rate.refill().as_nanos()).unwrap_or(u64::MAX);
        let (interval, burst, everybody) = (rate.interval(), rate.burst, AtomicU64::default());
        let number = buckets.limits.fetch_add(1, Ordering::Relaxed);
        Self { interval, refill, burst, number, buckets: buckets.clone(), everybody, start: Instant::now() }
    }

    /// Takes a request out of a bucket.
    pub fn take(&self, key: Key<'_>, now: Instant) -> Standing {
        let now = now.saturating_duration_since(self.start).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        match key {
            Key::Everybody => self.take_from(&self.everybody, now),
            Key::Address(address) => self.take_from(&self.bucket(Key::Address(network(address))).full_at, now),
            key => self.take_from(&self.bucket(key).full_at, now),
        }
    }

    fn bucket(&self, key: Key<'_>) -> Arc<Bucket> {
        let digest = self.buckets.states.each_ref().map(|state| state.hash_one((self.number, key)));
        let idle = Duration::from_nanos(self.refill).max(LEAST_IDLE);
        self.buckets.cache.get_with_by_ref(&digest, || Arc::new(Bucket { full_at: AtomicU64::default(), idle }))
    }

    fn take_from(&self, full_at: &AtomicU64, now: u64) -> Standing {
        // How far the bucket is from full, with this request taken out.
        let debt = |full_at: u64| full_at.saturating_sub(now).saturating_add(self.interval);
        let taken = full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let debt = debt(full_at);
            (debt <= self.refill).then(|| now.saturating_add(debt))
        });
        match taken.map(debt).map_err(debt) {
            Ok(debt) => {
                let left = u32::try_from((self.refill - debt) / self.interval).unwrap_or(self.burst);
                Standing::Taken { left, full_in: Duration::from_nanos(debt) }
            }
            Err(debt) => Standing::Empty { next_in: Duration::from_nanos(debt - self.refill) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn limit(requests: u32, window: Duration, burst: u32) -> RateLimit {
        let rate = Rate { requests, window, burst };
        RateLimit::new(rate, &Buckets::default())
    }

    fn user(name: &str) -> Key<'_> {
        Key::User { issuer: "self", user: name }
    }

    fn address(text: &str) -> Key<'static> {
        Key::Address(text.parse().unwrap())
    }

    fn is_taken(standing: Standing) -> bool {
        matches!(standing, Standing::Taken { .. })
    }

    #[test]
    fn a_burst_then_the_rate() {
        let limit = limit(10, Duration::from_secs(1), 3);
        let at = |millis| limit.start + Duration::from_millis(millis);
        let millis = Duration::from_millis;
        for (now, expected) in [
            (0, Standing::Taken { left: 2, full_in: millis(100) }),
            (0, Standing::Taken { left: 1, full_in: millis(200) }),
            (0, Standing::Taken { left: 0, full_in: millis(300) }),
            (0, Standing::Empty { next_in: millis(100) }),
            (99, Standing::Empty { next_in: millis(1) }),
            (100, Standing::Taken { left: 0, full_in: millis(300) }),
            (100, Standing::Empty { next_in: millis(100) }),
            (300, Standing::Taken { left: 1, full_in: millis(200) }),
            (9000, Standing::Taken { left: 2, full_in: millis(100) }),
        ] {
            assert_eq!(limit.take(user("alice"), at(now)), expected, "at {now} ms");
        }
        let in_a_minute = (0..60_000).filter(|now| is_taken(limit.take(user("bob"), at(*now)))).count();
        assert_eq!(in_a_minute, 3 + 599, "a refused request costs nothing");
    }

    #[test]
    fn every_key_has_a_bucket_of_its_own() {
        let buckets = Buckets::default();
        let rate = Rate { requests: 1, window: HOUR, burst: 1 };
        let [one, other] = [(); 2].map(|()| RateLimit::new(rate, &buckets));
        let now = Instant::now();
        let client = Key::Client { issuer: "self", client: "alice" };
        let elsewhere = Key::User { issuer: "corp", user: "alice" };
        let names = [user("alice"), user("bob"), elsewhere, client, Key::Everybody];
        let addresses = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"].map(address);
        for key in names.into_iter().chain(addresses) {
            assert!(is_taken(one.take(key, now)), "{key:?}");
            assert!(!is_taken(one.take(key, now)), "{key:?}");
            assert!(is_taken(other.take(key, now)), "another limit: {key:?}");
        }
        assert!(!is_taken(one.take(address("2001:db8::ffff:1"), now)), "the same /64");
        assert!(!is_taken(one.take(address("::ffff:192.0.2.1"), now)), "the same address");
    }

    #[test]
    fn many_threads_share_one_bucket() {
        let limit = limit(1, HOUR, 1000);
        let now = Instant::now();
        for key in [user("alice"), Key::Everybody] {
            let taken = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let own = (0..500).filter(|_| is_taken(limit.take(key, now))).count();
                        taken.fetch_add(own as u64, Ordering::Relaxed);
                    });
                }
            });
            assert_eq!(taken.into_inner(), 1000, "{key:?}");
        }
    }

    #[test]
    fn newcomers_are_limited_too_where_the_cache_is_full() {
        let rate = Rate { requests: 1, window: HOUR, burst: 1 };
        let limit = RateLimit::new(rate, &Buckets::bounded(100));
        let (now, cache) = (Instant::now(), &limit.buckets.cache);
        for n in 0..1000 {
            limit.take(user(&format!("regular-{}", n % 100)), now);
        }
        for n in 0..1000 {
            let name = format!("newcomer-{n}");
            assert!(is_taken(limit.take(user(&name), now)), "{n}");
            cache.run_pending_tasks();
            assert!(!is_taken(limit.take(user(&name), now)), "{n}");
            assert!(cache.entry_count() <= 100, "{n}");
        }
    }

    /// `cargo test --release --lib measure_a_million_keys -- --ignored --nocapture` prints what they take.
    #[test]
    #[ignore = "a measurement"]
    fn measure_a_million_keys() {
        let resident_kib = || -> u64 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.trim_end_matches("kB").trim().parse().unwrap()
        };
        let limit = limit(1, HOUR, 1);
        let mut most_entries = 0;
        for n in 0..1_000_000_u32 {
            let name = n.to_string();
            limit.take(user(&name), Instant::now());
            most_entries = most_entries.max(limit.buckets.cache.entry_count());
            if n % 100_000 == 0 {
                println!("{n:>7} keys: {} entries, {} KiB resident", limit.buckets.cache.entry_count(), resident_kib());
            }
        }
        let begin = Instant::now();
        for _ in 0..100_000 {
            limit.take(user("999999"), begin);
        }
        println!("a known key: {:.0} ns", begin.elapsed().as_secs_f64() * 1e4);
        println!("1000000 keys: at most {most_entries} entries, {} KiB resident", resident_kib());
        assert!(most_entries <= BUCKETS + 1000, "{most_entries}");
        assert!(resident_kib() < 200 << 10);
    }
}
