//! Opening a connection to one server: TCP or a Unix socket, TLS, and the HTTP version that the two agree on.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};

use super::http1::Http1;
use super::pool::Sender;
use super::resolve::Name;
use super::{ServerUrl, Settings, Slot};
use crate::net::Stream;
use crate::tls::TlsError;

/// Largest head of an answer in HTTP/2.
const MAX_HEAD_BYTES: u32 = 128 * 1024;
/// An HTTP/2 connection that brings nothing for this long although requests are open is asked whether it still lives...
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// ... and has this long to say so.
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Connector {
    target: Target,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    http2: bool,
}

#[derive(Debug)]
enum Target {
    /// With the time that a connection may take.
    Tcp(Name, Duration),
    Unix(PathBuf),
}

impl Connector {
    pub(super) fn new(url: &ServerUrl, settings: &Settings) -> Result<Self, TlsError> {
        let http2 = settings.http2;
        let url = match url {
            ServerUrl::Http(url) => url,
            ServerUrl::Unix(path) => return Ok(Self { target: Target::Unix(path.clone()), tls: None, http2 }),
        };
        let tls = if url.is_https() {
            let protocols: &[&[u8]] = if http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
            Some((settings.tls.build(protocols)?, settings.tls.name(url.host())?))
        } else {
            None
        };
        let host = url.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { target: Target::Tcp(Name::new(host, url.port()), settings.connect_timeout), tls, http2 })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether the name may come to mean other addresses, so that connections do not stay for ever.
    pub(super) fn is_named(&self) -> bool {
        matches!(&self.target, Target::Tcp(name, _) if !name.is_address())
    }

    /// Every address of the name is tried. `slot` is held for as long as the connection lives.
    pub(super) async fn connect(&self, slot: Slot) -> io::Result<Sender> {
        let stream = match &self.target {
            Target::Tcp(name, limit) => reach(name, *limit).await?,
            Target::Unix(path) => return self.handshake(UnixStream::connect(path).await?, self.http2, slot).await,
        };
        stream.set_nodelay(true)?;
        match &self.tls {
            None => self.handshake(stream, self.http2, slot).await,
            Some((config, name)) => {
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name.clone(), stream).await?;
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                self.handshake(stream, http2, slot).await
            }
        }
    }

    async fn handshake(&self, stream: impl Stream + 'static, http2: bool, slot: Slot) -> io::Result<Sender> {
        if !http2 {
            return Ok(Sender::Http1(Http1::new(stream, slot)));
        }
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD_BYTES)
            .adaptive_window(true)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_ANSWER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = connection.await {
                tracing::debug!(event = "upstream.connection_failed", %error);
            }
        });
        Ok(Sender::Http2(sender))
    }
}

/// Connects to the first of a name's addresses that takes it. One that does not answer leaves time for the others.
async fn reach(name: &Name, limit: Duration) -> io::Result<TcpStream> {
    let addresses = name.addresses().await?;
    let share = limit / u32::try_from(addresses.len()).unwrap_or(1);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in &addresses {
        if addresses.len() == 1 {
            return TcpStream::connect(address).await;
        }
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(elapsed) => last = elapsed.into(),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn all_addresses_of_a_name_are_used_and_dead_ones_are_passed_over() {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        let addresses: Vec<SocketAddr> = [1, 2].map(|last| SocketAddr::from(([127, 0, 0, last], port))).into();
        let name = Name::known(addresses.clone());
        let reached = async || reach(&name, Duration::from_secs(2)).await.unwrap().peer_addr().unwrap();
        for n in 0..4 {
            assert_eq!(reached().await, addresses[n % 2]);
        }
        drop(second);
        for _ in 0..4 {
            assert_eq!(reached().await, addresses[0]);
        }
        drop(first);
        assert!(reach(&name, Duration::from_secs(2)).await.is_err());
    }
}
