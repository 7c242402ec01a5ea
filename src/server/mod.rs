//! Sockets: what listens where, and within which limits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::net::{BaseUrl, TrustedProxies};

/// `[server]` and `[listeners]`.
#[derive(Debug)]
pub struct Settings {
    pub public_url: BaseUrl,
    pub trusted_proxies: TrustedProxies,
    /// Threads that serve traffic, at least 1.
    pub workers: usize,
    pub limits: Limits,
    /// In the order of the file; a listener's place here is its index everywhere.
    pub listeners: Vec<ListenerSettings>,
}

#[derive(Debug)]
pub struct ListenerSettings {
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub tls: Option<crate::tls::ServerSettings>,
    /// Answers GET and HEAD with 308 to the public URL and anything else with 403.
    pub redirect_to_https: bool,
}

/// `[server.limits]`: every queue, buffer and wait of a connection.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections: usize,
    pub connections_per_ip: usize,
    pub header_bytes: usize,
    pub header_count: usize,
    pub body_bytes: u64,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub stream_idle: Duration,
    pub idle_timeout: Duration,
    pub drain_delay: Duration,
    pub drain_timeout: Duration,
}
