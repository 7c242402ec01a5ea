//! TLS on both sides: certificates by SNI, client certificates, trust for what we call.

use std::path::PathBuf;

/// `[listeners.*.tls]` and `[admin.tls]`.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// At least one; a client without SNI gets the first.
    pub certificates: Vec<CertificateFiles>,
    pub min_version: Version,
    pub client_auth: Option<ClientAuth>,
    pub session_tickets: bool,
}

/// A certificate chain (leaf first) and its private key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

#[derive(Clone, Debug)]
pub struct ClientAuth {
    pub ca: PathBuf,
    /// Refuses a connection without a client certificate.
    pub require: bool,
}

/// `[upstreams.*.tls]` and an issuer's `ca`.
#[derive(Clone, Debug, Default)]
pub struct ClientSettings {
    /// Absent: the platform's trust store.
    pub ca: Option<PathBuf>,
    pub client: Option<CertificateFiles>,
    /// Absent: the host of the URL.
    pub server_name: Option<String>,
}
