//! What must survive a restart or be shared: codes, refresh families, sessions, revocations, signing keys.

use std::path::PathBuf;

/// `[store.*]`.
#[derive(Clone, Debug)]
pub enum Settings {
    /// Nothing survives the process.
    Memory,
    /// One file in this folder, which is made when missing.
    Embedded { path: PathBuf },
}
