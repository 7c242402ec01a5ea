//! A certificate authority for one test, and both ends of TLS.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    StreamOwned, SupportedProtocolVersion,
};

use super::http::Conn;
use super::wire::Wire;

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    pub cert: String,
    pub key: String,
}

impl Identity {
    fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let certs = CertificateDer::pem_slice_iter(self.cert.as_bytes()).collect::<Result<_, _>>().unwrap();
        (certs, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap())
    }
}

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "test authority");
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// For a server of these names (an address counts as one), or a client.
    pub fn identity(&self, names: &[&str]) -> Identity {
        self.identity_with(names, |_| {})
    }

    /// The same with a last change to what is certified.
    pub fn identity_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0].clone());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Identity { cert: cert.pem(), key: key.serialize_pem() }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    pub fn client(&self) -> TlsClient<'_> {
        TlsClient {
            authority: self,
            alpn: vec![],
            identity: None,
            versions: rustls::ALL_VERSIONS.to_vec(),
            offers: |_| true,
        }
    }

    /// A server's end that speaks `alpn` and, when told to, wants a certificate of this authority.
    pub fn server(&self, identity: &Identity, alpn: &[&str], client_auth: bool) -> Arc<ServerConfig> {
        let (certs, key) = identity.der();
        let provider = Arc::new(default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = if client_auth {
            let roots = Arc::new(self.roots());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(certs, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// The accepting end of a TLS connection, as a wire.
pub fn accept(config: &Arc<ServerConfig>, socket: TcpStream) -> io::Result<Wire> {
    let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket.try_clone()?);
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(Wire::over(Box::new(stream), socket))
}

/// A client that trusts one authority.
#[derive(Clone)]
pub struct TlsClient<'a> {
    authority: &'a Authority,
    alpn: Vec<Vec<u8>>,
    identity: Option<Identity>,
    versions: Vec<&'static SupportedProtocolVersion>,
    offers: fn(CipherSuite) -> bool,
}

/// What a handshake agreed on.
pub struct Agreed {
    pub conn: Conn,
    pub alpn: Option<String>,
    pub version: rustls::ProtocolVersion,
    pub suite: CipherSuite,
    pub certificate: CertificateDer<'static>,
    /// By what an earlier connection left behind.
    pub resumed: bool,
}

impl TlsClient<'_> {
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    pub fn identity(mut self, identity: &Identity) -> Self {
        self.identity = Some(identity.clone());
        self
    }

    pub fn versions(mut self, versions: &[&'static SupportedProtocolVersion]) -> Self {
        self.versions = versions.to_vec();
        self
    }

    pub fn offers(mut self, offers: fn(CipherSuite) -> bool) -> Self {
        self.offers = offers;
        self
    }

    pub fn config(&self) -> ClientConfig {
        let mut provider = default_provider();
        provider.cipher_suites.retain(|suite| (self.offers)(suite.suite()));
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(self.authority.roots());
        let mut config = match &self.identity {
            Some(identity) => {
                let (certs, key) = identity.der();
                builder.with_client_auth_cert(certs, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config
    }

    /// A connection for which `name` is asked (an address sends no SNI).
    pub fn connect(&self, address: SocketAddr, name: &str) -> io::Result<Agreed> {
        self.handshake(TcpStream::connect(address)?, name)
    }

    /// The same over a connection that is there.
    pub fn handshake(&self, socket: TcpStream, name: &str) -> io::Result<Agreed> {
        handshake(&Arc::new(self.config()), socket, name)
    }
}

/// The calling end of a TLS connection; those with one `config` resume each other's sessions.
pub fn handshake(config: &Arc<ClientConfig>, socket: TcpStream, name: &str) -> io::Result<Agreed> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    socket.set_read_timeout(Some(super::wire::PATIENCE))?;
    let mut stream = StreamOwned::new(connection, socket.try_clone()?);
    stream.conn.complete_io(&mut stream.sock)?;
    let alpn = stream.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    let version = stream.conn.protocol_version().unwrap();
    let suite = stream.conn.negotiated_cipher_suite().unwrap().suite();
    let certificate = stream.conn.peer_certificates().unwrap()[0].clone().into_owned();
    let resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
    Ok(Agreed { conn: Conn { wire: Wire::over(Box::new(stream), socket) }, alpn, version, suite, certificate, resumed })
}
