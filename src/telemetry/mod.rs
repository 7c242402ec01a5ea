//! What the gateway tells its operators. Imports nothing of the crate.

pub mod access_log;
pub mod denials;
pub mod log;
pub mod metrics;
pub mod readings;

use std::path::PathBuf;

/// `[log]`.
#[derive(Clone, Debug)]
pub struct Settings {
    pub format: Format,
    pub level: Level,
    /// One event per request.
    pub access: bool,
    pub access_sample: access_log::Sample,
    /// A file of its own for audit events; absent: the same stream.
    pub audit: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    Text,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}
