//! Slow hashes of secrets that people chose: argon2id (RFC 9106) in PHC format, on a bounded pool.
//!
//! A hash costs tens of milliseconds of a core and megabytes of memory, so no more run at once than there are cores, and
//! no more wait than can be served in seconds. Its thread gives way to traffic, which has microseconds to do and would wait
//! milliseconds for its turn. The permit belongs to the thread that hashes: a caller who hangs up frees it no sooner. The
//! memory is used again: allocators keep pieces of that size for each thread that ever had one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use tokio::sync::{Semaphore, oneshot};

use super::PasswordHash;
use crate::secret::{Secret, random};

/// Hashes that may wait for each one that runs.
const WAITING_PER_PERMIT: usize = 64;
/// How much nicer a thread that hashes is than the others. (On Linux this is each thread's own, and none can take it back:
/// so it is a new thread for each hash, which costs next to nothing beside it.)
const NICE: i32 = 10;
/// Most memory that a configured hash may demand, in KiB.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 32;
const MAX_LANES: u32 = 16;

/// Too many hashes wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    #[error("not an argon2id hash in PHC format ($argon2id$v=19$m=...,t=...,p=...$salt$hash)")]
    Format,
    #[error("its parameters are beyond m={MAX_MEMORY_KIB}, t={MAX_PASSES}, p={MAX_LANES}")]
    Cost,
}

impl PasswordHash {
    /// Reads a PHC string and refuses one that would cost too much to check.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let hash = phc::PasswordHash::new(text).map_err(|_| HashError::Format)?;
        if hash.algorithm.as_str() != "argon2id" || hash.salt.is_none() || hash.hash.is_none() {
            return Err(HashError::Format);
        }
        let params = Params::try_from(&hash).map_err(|_| HashError::Format)?;
        let within = params.m_cost() <= MAX_MEMORY_KIB && params.t_cost() <= MAX_PASSES && params.p_cost() <= MAX_LANES;
        if within { Ok(Self(text.into())) } else { Err(HashError::Cost) }
    }

    /// A hash that no password has, at the cost of `self`.
    pub(super) fn dummy_like(&self) -> Self {
        let params = phc::PasswordHash::new(&self.0).ok().and_then(|hash| Params::try_from(&hash).ok());
        Self(hash_with(&random::<32>(), &random::<16>(), params.unwrap_or_default()).into())
    }
}

/// Hashes a password with a fresh salt and the default cost (19 MiB, two passes).
pub fn hash_password(password: &str) -> String {
    hash_with(password.as_bytes(), &random::<16>(), Params::default())
}

/// The same password and salt always give the same hash.
pub(super) fn hash_with(password: &[u8], salt: &[u8], params: Params) -> String {
    let (m, t, p) = (params.m_cost(), params.t_cost(), params.p_cost());
    let mut hash = vec![0; params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN)];
    work(params, Version::V0x13, password, salt, &mut hash).expect("a salt of 16 bytes and checked parameters");
    format!("$argon2id$v=19$m={m},t={t},p={p}${}${}", BASE64.encode(salt), BASE64.encode(hash))
}

/// Fills `hash`, in memory that hashes before have worked in. There is one piece for each that ever ran beside others.
fn work(params: Params, version: Version, password: &[u8], salt: &[u8], hash: &mut [u8]) -> Result<(), argon2::Error> {
    static MEMORY: Mutex<Vec<Vec<Block>>> = Mutex::new(Vec::new());
    let blocks = params.block_count();
    let mut memory = MEMORY.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
    memory.resize(memory.len().max(blocks), Block::new());
    let argon2 = Argon2::new(Algorithm::Argon2id, version, params);
    let worked = argon2.hash_password_into_with_memory(password, salt, hash, &mut memory);
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    worked
}

#[derive(Clone, Debug)]
pub(super) struct HashPool {
    permits: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    most_waiting: usize,
}

impl HashPool {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            permits: Arc::new(Semaphore::new(cores)),
            waiting: Arc::default(),
            most_waiting: cores * WAITING_PER_PERMIT,
        }
    }

    /// Whether `password` is the one that was hashed.
    pub(super) async fn verify(&self, hash: &PasswordHash, password: &str) -> Result<bool, Busy> {
        let permit = {
            let _place = Place::take(&self.waiting, self.most_waiting).ok_or(Busy)?;
            self.permits.clone().acquire_owned().await.map_err(|_| Busy)?
        };
        let (hash, password) = (hash.clone(), Secret::new(password.to_owned()));
        let (done, is_right) = oneshot::channel();
        let work = move || {
            let _permit = permit;
            // Where that is forbidden, it goes on as it is.
            let _ = rustix::process::nice(NICE);
            let _ = done.send(matches(&hash, password.expose().as_bytes()).unwrap_or(false));
        };
        std::thread::Builder::new().name("password-hash".to_owned()).spawn(work).map_err(|_| Busy)?;
        is_right.await.map_err(|_| Busy)
    }
}

/// Whether `hash` is that of `password`; `None` when it cannot be read.
fn matches(hash: &PasswordHash, password: &[u8]) -> Option<bool> {
    let parsed = phc::PasswordHash::new(&hash.0).ok()?;
    let params = Params::try_from(&parsed).ok()?;
    let version = parsed.version.map_or(Ok(Version::V0x13), Version::try_from).ok()?;
    let (salt, expected) = (parsed.salt?, parsed.hash?);
    let mut found = vec![0; expected.len()];
    work(params, version, password, salt.as_ref(), &mut found).ok()?;
    Some(verify_slices_are_equal(&found, expected.as_ref()).is_ok())
}

/// A place among those who wait; given back when the wait ends, however it ends.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::AcqRel) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap(password: &str) -> PasswordHash {
        let params = Params::new(64, 1, 1, None).unwrap();
        PasswordHash(hash_with(password.as_bytes(), b"0123456789abcdef", params).into())
    }

    #[test]
    fn only_argon2id_within_bounds_is_accepted() {
        let hash = hash_password("correct horse");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(PasswordHash::parse(&hash).is_ok());
        for (text, error) in [
            ("hunter2", HashError::Format),
            ("$argon2i$v=19$m=64,t=1,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo", HashError::Format),
            ("$argon2id$v=19$m=4194304,t=1,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo", HashError::Cost),
            ("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ", HashError::Format),
        ] {
            assert_eq!(PasswordHash::parse(text), Err(error), "{text}");
        }
    }

    #[tokio::test]
    async fn the_pool_verifies_and_a_dummy_never_matches() {
        let pool = HashPool::new();
        let hash = cheap("correct horse");
        assert_eq!(pool.verify(&hash, "correct horse").await, Ok(true));
        assert_eq!(pool.verify(&hash, "correct horsf").await, Ok(false));
        let dummy = hash.dummy_like();
        assert!(dummy.0.contains("m=64,t=1,p=1"));
        assert_eq!(pool.verify(&dummy, "correct horse").await, Ok(false));
    }

    /// Of `password`, by the reference implementation: `argon2 somesalt -id -t 2 -k 64 -p 1 -l 32 -e`.
    const OTHERS: [(&str, &str); 4] = [
        ("64 KiB", "$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQ$FqGkmHNGCd0BRW2kBt6fPZ2pPmyGwwChL8FGUhTOSSI"),
        ("256 KiB", "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"),
        ("two lanes", "$argon2id$v=19$m=64,t=2,p=2$c29tZXNhbHQ$lDh0Fd+4TtGXdGWh6GJgc630K9Turh+qHdTiOh/2hZ8"),
        ("version 16, 16 bytes", "$argon2id$v=16$m=64,t=2,p=1$c29tZXNhbHQ$IxVF9tSy7uM80T5gxc5j7w"),
    ];

    #[tokio::test]
    async fn hashes_of_others_are_read_in_memory_that_was_used_before() {
        let pool = HashPool::new();
        for (name, hash) in OTHERS {
            let hash = PasswordHash::parse(hash).unwrap();
            for password in ["password", "passwort", "password"] {
                assert_eq!(pool.verify(&hash, password).await, Ok(password == "password"), "{name}: {password}");
            }
        }
        let hash = hash_with(b"password", b"somesalt", Params::new(64, 2, 1, None).unwrap());
        assert_eq!(hash, OTHERS[0].1);
    }

    /// How nice the thread of that name is, if there is one.
    fn niceness(name: &str) -> Option<i32> {
        std::fs::read_dir("/proc/self/task").unwrap().flatten().find_map(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
            let (start, rest) = stat.rsplit_once(") ")?;
            // The seventeenth field behind the name, which is the second.
            start.ends_with(name).then(|| rest.split(' ').nth(16)?.parse().ok()).flatten()
        })
    }

    #[tokio::test]
    async fn a_hash_gives_way_to_everything_else() {
        let pool = HashPool::new();
        let hash = PasswordHash(hash_password("x").into());
        let own = niceness("").unwrap();
        for _ in 0..100 {
            let mut verified = std::pin::pin!(pool.verify(&hash, "x"));
            while futures_poll(verified.as_mut()).await.is_none() {
                if niceness("password-hash") == Some((own + NICE).min(19)) {
                    assert_eq!(niceness(""), Some(own));
                    return;
                }
            }
        }
        panic!("nobody gave way");
    }

    #[tokio::test]
    async fn p10_a_full_queue_refuses_and_a_caller_who_leaves_gives_its_place_back() {
        let pool = HashPool { permits: Arc::new(Semaphore::new(1)), most_waiting: 1, ..HashPool::new() };
        let held = pool.permits.clone().acquire_owned().await.unwrap();
        let hash = cheap("x");
        let first = pool.verify(&hash, "x");
        tokio::pin!(first);
        assert!(futures_poll(first.as_mut()).await.is_none(), "it waits");
        assert_eq!(pool.verify(&hash, "x").await, Err(Busy));
        drop(held);
        assert_eq!(first.await, Ok(true));
        assert_eq!(pool.waiting.load(Ordering::Acquire), 0);
    }

    async fn futures_poll<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
        std::future::poll_fn(|cx| match std::pin::Pin::new(&mut future).poll(cx) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }
}
