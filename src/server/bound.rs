//! Sockets that listen, each with its TLS: what goes on when the configuration changes, and what is opened or loaded anew.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};

use super::connection::Listener;
use super::inherited::Inherited;
use super::{Limits, ListenerSettings, ServerError};
use crate::telemetry::metrics::Metrics;
use crate::tls::{Certificates, TlsError};

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 4096;

/// A socket that listens: one that is open already, or a new one.
pub fn listen(listener: &str, address: SocketAddr, inherited: &mut Inherited) -> io::Result<TcpListener> {
    if let Some(socket) = inherited.take(listener, address) {
        socket.set_nonblocking(true)?;
        return Ok(socket);
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A listening socket and what its connections need to know.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub(super) settings: ListenerSettings,
    pub(super) socket: Arc<TcpListener>,
    pub(super) tls: Option<Tls>,
    pub(super) listener: Arc<Listener>,
}

/// TLS as it is set up for a listener. It goes on while its settings stay the same: clients resume their sessions.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    config: Arc<ServerConfig>,
    pub(super) certificates: Arc<Certificates>,
    /// What the file of client authorities held.
    authorities: Option<[u8; 32]>,
}

impl Bound {
    /// Binds every listener and loads its certificates. What `former` has that is asked for again goes on.
    pub(super) fn bind(
        settings: Vec<ListenerSettings>,
        limits: &Limits,
        former: &[Self],
        inherited: &mut Inherited,
        metrics: &Metrics,
    ) -> Result<Vec<Self>, ServerError> {
        let bind = |(index, settings)| Self::new(index, settings, limits, former, inherited, metrics);
        settings.into_iter().enumerate().map(bind).collect()
    }

    fn new(
        index: usize,
        settings: ListenerSettings,
        limits: &Limits,
        former: &[Self],
        inherited: &mut Inherited,
        metrics: &Metrics,
    ) -> Result<Self, ServerError> {
        let ListenerSettings { name, address, tls, redirect_to_https, proxy_protocol } = settings.clone();
        let tls_failed = |source| ServerError::Tls { listener: Arc::clone(&name), source };
        let tls = match &tls {
            None => None,
            Some(tls) => {
                let same = |own: &&Self| own.settings.name == name && own.settings.tls.as_ref() == Some(tls);
                let kept = former.iter().find(same).and_then(|own| own.tls.as_ref());
                let kept = kept.filter(|own| own.authorities == authorities(tls)).cloned();
                Some(kept.map_or_else(|| Tls::new(tls), Ok).map_err(tls_failed)?)
            }
        };
        // Port 0 is another one for each name.
        let same = |own: &&Self| own.settings.address == address && (address.port() != 0 || own.settings.name == name);
        let socket = match former.iter().find(same) {
            Some(own) => Arc::clone(&own.socket),
            None => {
                let failed = |source| ServerError::Bind { listener: Arc::clone(&name), address, source };
                let socket = listen(&name, address, inherited).map_err(failed)?;
                let local = socket.local_addr().map_err(failed)?;
                tracing::info!(event = "listener.ready", listener = &*name, address = %local, tls = tls.is_some());
                Arc::new(socket)
            }
        };
        let config = tls.as_ref().map(|tls| Arc::clone(&tls.config));
        let listener = Arc::new(Listener::new(index, name, config, redirect_to_https, proxy_protocol, limits, metrics));
        Ok(Self { settings, socket, tls, listener })
    }
}

impl Tls {
    fn new(settings: &crate::tls::ServerSettings) -> Result<Self, TlsError> {
        let authorities = authorities(settings);
        let certificates = Arc::new(Certificates::load(settings)?);
        let config = settings.build(Arc::clone(&certificates), &[b"h2", b"http/1.1"])?;
        Ok(Self { config, certificates, authorities })
    }
}

fn authorities(settings: &crate::tls::ServerSettings) -> Option<[u8; 32]> {
    crate::tls::contents(settings.client_auth.iter().map(|auth| auth.ca.as_path()))
}
