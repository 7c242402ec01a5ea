//! The operators' listener: metrics, health and readiness.

use std::net::SocketAddr;

use crate::secret::Secret;

/// `[admin]`.
#[derive(Debug)]
pub struct Settings {
    pub address: SocketAddr,
    pub token: Option<Secret<String>>,
    pub tls: Option<crate::tls::ServerSettings>,
}
