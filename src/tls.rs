//! TLS on both sides: certificates by SNI, client certificates, trust for what we call.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::secret::Secret;

/// `[listeners.*.tls]` and `[admin.tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    pub ca: PathBuf,
    /// Refuses a connection without a client certificate.
    pub require: bool,
}

/// `[upstreams.*.tls]` and an issuer's `ca`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientSettings {
    /// Absent: the platform's trust store.
    pub ca: Option<PathBuf>,
    pub client: Option<CertificateFiles>,
    /// Absent: the host of the URL.
    pub server_name: Option<String>,
}

/// What is wrong with a certificate, key or CA file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} holds no PEM certificate")]
    NoCertificate { path: PathBuf },
    #[error("{path} is not PEM: {reason}")]
    Pem { path: PathBuf, reason: String },
    #[error("{path} holds no private key in PEM")]
    NoKey { path: PathBuf },
    #[error("the key {path} cannot be used: {reason}")]
    Key { path: PathBuf, reason: String },
    #[error("the key {key} does not belong to the certificate {cert}")]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("{path} holds a certificate that cannot be read: {reason}")]
    Certificate { path: PathBuf, reason: String },
    #[error("the platform's trust store has no certificates; name a `ca` file")]
    NoPlatformTrust,
    #[error("{0:?} is not a server name")]
    ServerName(String),
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
}

/// A certificate as it is served, with what an operator wants to know of it.
#[derive(Debug)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// Lower-case DNS names and addresses of the subjectAltName extension.
    pub names: Vec<String>,
    /// End of validity in seconds since 1970-01-01 UTC.
    pub not_after: i64,
}

impl Certificate {
    /// Reads both files and checks that they belong together.
    pub fn load(files: &CertificateFiles) -> Result<Self, TlsError> {
        let chain = certificates(&files.cert)?;
        let key_pem = Secret::new(read(&files.key)?);
        let key =
            PrivateKeyDer::from_pem_slice(key_pem.expose()).map_err(|_| TlsError::NoKey { path: files.key.clone() })?;
        let (names, not_after) =
            facts(&chain[0]).map_err(|reason| TlsError::Certificate { path: files.cert.clone(), reason })?;
        let key = CertifiedKey::from_der(chain, key, provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::Mismatch { cert: files.cert.clone(), key: files.key.clone() }
            }
            error => TlsError::Key { path: files.key.clone(), reason: error.to_string() },
        })?;
        Ok(Self { key: Arc::new(key), names, not_after })
    }
}

/// The certificates of a listener, chosen by SNI. They can be replaced on disk while they are served.
#[derive(Debug)]
pub struct Certificates {
    current: ArcSwap<Vec<Certificate>>,
    files: Vec<CertificateFiles>,
    /// SHA-256 over all files, when they were loaded or last found unfit.
    seen: Mutex<Option<[u8; 32]>>,
}

impl Certificates {
    pub fn load(settings: &ServerSettings) -> Result<Self, TlsError> {
        let files = settings.certificates.clone();
        let seen = Mutex::new(contents(pairs(&files)));
        let current = files.iter().map(Certificate::load).collect::<Result<_, _>>()?;
        Ok(Self { current: ArcSwap::from_pointee(current), files, seen })
    }

    /// The certificates that are served now, in the order of the configuration.
    pub fn current(&self) -> Arc<Vec<Certificate>> {
        self.current.load_full()
    }

    /// Loads the files anew when they have changed. True when others are served from now on; on an error those that were
    /// there stay.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let now = contents(pairs(&self.files));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that is missing is being replaced.
        if now.is_none() || *seen == now {
            return Ok(false);
        }
        *seen = now;
        drop(seen);
        let loaded = self.files.iter().map(Certificate::load).collect::<Result<_, _>>()?;
        self.current.store(Arc::new(loaded));
        Ok(true)
    }

    /// The first certificate with exactly that name, else the first with a wildcard for it, else the first.
    fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let all = self.current.load();
        let by = |pattern: &str| all.iter().find(|certificate| certificate.names.iter().any(|own| own == pattern));
        let chosen = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            by(&name).or_else(|| by(&format!("*.{}", name.split_once('.')?.1)))
        });
        chosen.or_else(|| all.first()).map(|certificate| Arc::clone(&certificate.key))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}

impl ServerSettings {
    /// What rustls serves a listener with; `protocols` go out by ALPN, the preferred one first.
    pub fn build(&self, certificates: Arc<Certificates>, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
        const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
        const ONLY_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
        let versions = match self.min_version {
            Version::Tls12 => BOTH,
            Version::Tls13 => ONLY_13,
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider())).with_protocol_versions(versions)?;
        let builder = match &self.client_auth {
            None => builder.with_no_client_auth(),
            Some(auth) => {
                let roots = Arc::new(root_store(&auth.ca)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider()));
                let verifier = if auth.require { verifier } else { verifier.allow_unauthenticated() };
                let verifier = verifier
                    .build()
                    .map_err(|error| TlsError::Certificate { path: auth.ca.clone(), reason: error.to_string() })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(certificates);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config.ignore_client_order = true;
        if self.session_tickets {
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        } else {
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        }
        Ok(Arc::new(config))
    }
}

impl ClientSettings {
    /// What rustls calls a server with; `protocols` go out by ALPN.
    pub fn build(&self, protocols: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
        let roots = match &self.ca {
            Some(ca) => Arc::new(root_store(ca)?),
            None => platform_roots()?,
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider()))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_safe_default_protocol_versions()?
            .with_webpki_verifier(verifier);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let certificate = Certificate::load(files)?;
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certificate.key)))
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// The files that these settings name.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.ca.as_deref().into_iter().chain(pairs(self.client.as_slice()))
    }

    /// For calls in clear text alone: no server is trusted, so that a machine without a trust store can make them.
    pub fn none() -> Result<ClientConfig, TlsError> {
        Ok(ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth())
    }

    /// The name that a server's certificate must carry; `host` is that of the URL.
    pub fn name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
    }
}

fn pairs(files: &[CertificateFiles]) -> impl Iterator<Item = &Path> {
    files.iter().flat_map(|files| [files.cert.as_path(), files.key.as_path()])
}

/// SHA-256 over what files hold; none while one of them cannot be read.
pub fn contents<'p>(files: impl IntoIterator<Item = &'p Path>) -> Option<[u8; 32]> {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for path in files {
        let content = Secret::new(fs::read(path).ok()?);
        // So that nothing moves from the end of one file to the start of the next.
        context.update(&content.expose().len().to_be_bytes());
        context.update(content.expose());
    }
    context.finish().as_ref().try_into().ok()
}

/// The certificate authorities of a PEM file.
pub fn root_store(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Certificate { path: path.to_owned(), reason: error.to_string() })?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::Pem { path: path.to_owned(), reason: error.to_string() })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

/// With AES-128 and SHA-256 before the others, on both sides: as strong as the key exchanges are, and a handshake in less
/// time.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites.sort_by_key(|suite| !is_preferred(suite.suite()));
        Arc::new(provider)
    });
    &PROVIDER
}

fn is_preferred(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

/// Read once; what the platform distrusts or cannot be read is left out, as every client on it does.
fn platform_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if ROOTS.is_empty() { Err(TlsError::NoPlatformTrust) } else { Ok(Arc::clone(&ROOTS)) }
}

/// Names and end of validity of a certificate.
fn facts(certificate: &CertificateDer<'_>) -> Result<(Vec<String>, i64), String> {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = names.map(|extension| {
        let name = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|octets| std::net::IpAddr::from(octets).to_string()),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(|octets| std::net::IpAddr::from(octets).to_string()),
            },
            _ => None,
        };
        extension.value.general_names.iter().filter_map(name).collect()
    });
    Ok((names.unwrap_or_default(), parsed.validity().not_after.timestamp()))
}
