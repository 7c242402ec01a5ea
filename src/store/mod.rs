//! What must survive a restart or be shared: grants, codes, refresh families, sessions, revocations, signing keys.
//!
//! [`Store`] is the typed interface; its operations are written once, over a small key-value transaction ([`tx::Tx`]),
//! and run on every backend. Each write operation is one transaction: it reads, decides and writes, and either all of
//! it is durable or none. Codes, tokens and cookies are kept as SHA-256 digests, never as themselves.

mod access_tokens;
mod codes;
mod embedded;
mod endings;
mod grants;
mod keys;
mod memory;
mod not_before;
mod records;
mod revocations;
mod sessions;
mod tx;

#[cfg(test)]
mod conformance;

pub use access_tokens::{CODE_PREFIX, OPAQUE_PREFIX, OpaqueToken, REFRESH_PREFIX, TokenUse, is_own_token};
pub use codes::{Code, Redemption};
pub use endings::{Ended, Whose};
pub use grants::{NewAccessToken, NewRefreshToken, Rotation};
pub use keys::{KeyState, StoredKey};
pub use records::{Digest, Grant, GrantId, RefreshToken};
pub use revocations::Revocations;
pub use sessions::Session;

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::{Clock, UnixSeconds};
use not_before::NotBefore;
use tx::{Changes, Tx};

/// `[store.*]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settings {
    /// Nothing survives the process.
    Memory,
    /// One file in this folder, which is made when missing.
    Embedded { path: PathBuf },
}

/// An operation that was not carried out. Nothing of it is stored.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Too many writes are waiting; trying later may help.
    #[error("the store's queue is full")]
    Busy,
    #[error("too many users and clients were turned out; the tokens of all can be ended by new keys")]
    Full,
    #[error("the store is closed")]
    Closed,
    /// Another process has it now, or will in a moment.
    #[error("the store was handed over to another process")]
    HandedOver,
    #[error("the store failed: {0}")]
    Storage(String),
    #[error("a record of the store cannot be read: {0}")]
    Record(String),
}

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} is in use by another process: stop that one, or give this one a store path of its own")]
    Locked { path: PathBuf },
    #[error(
        "{path} is damaged ({cause}): restore it from a backup, or move it away to start with an empty store (everybody \
         has to log in again, and tokens issued so far are no longer accepted)"
    )]
    Damaged { path: PathBuf, cause: String },
    #[error("{path}: {cause}")]
    Io { path: PathBuf, cause: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A handle to the store. Clones share it.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    backend: Backend,
    clock: Clock,
    live: Live,
}

#[derive(Debug)]
enum Backend {
    Memory(memory::Memory),
    Embedded(embedded::Embedded),
}

/// What is also kept in memory, because every request asks for it. Changed after a commit, before it is reported.
#[derive(Clone, Debug, Default)]
struct Live {
    revocations: Arc<Revocations>,
    not_before: Arc<NotBefore>,
    token_use: Arc<TokenUse>,
}

impl Live {
    fn follow(&self, changes: &mut Changes) {
        for (jti, expires) in changes.revoked.drain(..) {
            self.revocations.insert(&jti, expires);
        }
        for row in changes.not_before.drain(..) {
            self.not_before.insert(row);
        }
        for (jti, grant, expires) in changes.watched.drain(..) {
            self.token_use.watch(&jti, grant, expires);
        }
    }
}

impl Store {
    /// Opens the store, making it when missing, and loads what is kept in memory.
    pub fn open(settings: &Settings, clock: Clock) -> Result<Self, OpenError> {
        let live = Live::default();
        let backend = match settings {
            Settings::Memory => Backend::Memory(memory::Memory::new(live.clone())),
            Settings::Embedded { path } => {
                Backend::Embedded(embedded::Embedded::open(path, clock.clone(), live.clone())?)
            }
        };
        let store = Self(Arc::new(Inner { backend, clock, live }));
        store.load_live()?;
        Ok(store)
    }

    /// Whether another process can go on with it.
    pub fn can_be_handed_over(&self) -> bool {
        matches!(self.0.backend, Backend::Embedded(_))
    }

    /// Makes everything durable and lets another process open the store. What is kept in memory goes on answering; whatever
    /// needs the store itself is [`StoreError::HandedOver`] until it is taken back.
    pub fn hand_over(&self) {
        if let Backend::Embedded(embedded) = &self.0.backend {
            embedded.hand_over();
        }
    }

    /// Opens it again after [`Self::hand_over`], when the other process has let go of it.
    pub fn take_back(&self) -> Result<(), OpenError> {
        match &self.0.backend {
            Backend::Memory(_) => Ok(()),
            Backend::Embedded(embedded) => {
                embedded.take_back()?;
                Ok(self.load_live()?)
            }
        }
    }

    fn load_live(&self) -> Result<(), StoreError> {
        self.load_revocations()?;
        self.load_not_before()?;
        self.load_watched_tokens()
    }

    /// The access tokens that are refused before they expire.
    pub fn revocations(&self) -> Arc<Revocations> {
        self.0.live.revocations.clone()
    }

    /// Whether the access token with this `jti` was revoked. Usually one atomic load.
    pub fn is_revoked(&self, jti: &str) -> bool {
        self.0.live.revocations.is_revoked(jti)
    }

    /// Removes up to `limit` expired rows; how many there were. To be called again soon when the answer is `limit`.
    pub async fn sweep(&self, limit: usize) -> Result<usize, StoreError> {
        let now = self.now();
        self.0.live.revocations.forget_expired(now);
        self.0.live.not_before.forget_expired(now);
        self.0.live.token_use.forget_expired(now);
        self.write(move |tx| tx.sweep(limit)).await
    }

    fn now(&self) -> UnixSeconds {
        self.0.clock.now()
    }

    /// Runs `op` alone, as one transaction, and returns when its changes are durable. An error discards its changes.
    async fn write<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match &self.0.backend {
            Backend::Memory(memory) => memory.write(self.now(), op),
            Backend::Embedded(embedded) => embedded.write(op).await,
        }
    }

    /// Queues `op` without waiting for it; whether there was room.
    fn write_later(&self, op: impl FnOnce(&mut Tx<'_>) -> Result<(), StoreError> + Send + 'static) -> bool {
        match &self.0.backend {
            Backend::Memory(memory) => memory.write(self.now(), op).is_ok(),
            Backend::Embedded(embedded) => embedded.write_later(op),
        }
    }

    /// Runs `op` on what was last committed.
    fn read<T>(&self, op: impl FnOnce(&Tx<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match &self.0.backend {
            Backend::Memory(memory) => memory.read(self.now(), op),
            Backend::Embedded(embedded) => embedded.read(self.now(), op),
        }
    }
}
