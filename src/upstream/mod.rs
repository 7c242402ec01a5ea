//! Where requests go: pools of kept-alive connections to the servers of each upstream.

use std::sync::Arc;
use std::time::Duration;

use crate::net::BaseUrl;

/// One `[upstreams.NAME]`.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: Arc<str>,
    /// At least one. The path of each is empty or `/`.
    pub servers: Vec<BaseUrl>,
    /// Per server, over all workers.
    pub connections: usize,
    pub connect_timeout: Duration,
    /// To the response head.
    pub response_timeout: Duration,
    /// Kept per server and worker.
    pub idle_connections: usize,
    /// h2c with prior knowledge to `http://`, offered by ALPN to `https://`.
    pub http2: bool,
    /// Further tries of a request that never reached a server, or that is idempotent and has no body.
    pub retries: u32,
    pub dialect: Dialect,
    pub tls: crate::tls::ClientSettings,
}

/// What else the server behind would read into a path; each only refuses more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    #[default]
    Generic,
    Tomcat,
    Iis,
    Php,
}
