//! Who is at the far end of a connection that a TCP proxy passes on: whom its PROXY protocol header announces. Nothing
//! that follows the header is taken from the stream.

use std::net::IpAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::connection::Listener;
use crate::net::proxy_protocol::{Header, Malformed, parse};

/// The far end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    /// A proxy that passes bytes on and did not say for whom. It writes no headers, so none are its word.
    pub(super) is_silent_proxy: bool,
}

/// Why a connection was closed instead of served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("the peer is no trusted proxy")]
    Untrusted,
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("the connection ended within its header")]
    Ended,
    #[error("the header did not come in time")]
    Timeout,
}

impl Refused {
    /// For metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Malformed(_) => "malformed",
            Self::Ended => "ended",
            Self::Timeout => "timeout",
        }
    }
}

/// Whom `proxy` announces on a connection to `listener`. None: nobody in time or in good form, which was told.
pub(super) async fn peer(stream: &mut TcpStream, proxy: IpAddr, listener: &Listener) -> Option<Peer> {
    let read = tokio::time::timeout(listener.header_timeout(), read(stream)).await;
    match read.unwrap_or(Err(Refused::Timeout)) {
        Ok(Some(address)) => Some(Peer { address, is_silent_proxy: false }),
        Ok(None) => Some(Peer { address: proxy, is_silent_proxy: true }),
        Err(refused) => {
            listener.refuse(proxy, &refused);
            None
        }
    }
}

async fn read(stream: &mut TcpStream) -> Result<Option<IpAddr>, Refused> {
    let mut header = Vec::new();
    loop {
        match parse(&header)? {
            Header::Complete(announced) => return Ok(announced),
            Header::Incomplete(missing) => {
                let missing = u64::try_from(missing).unwrap_or(u64::MAX);
                match stream.take(missing).read_buf(&mut header).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Err(Refused::Ended),
                }
            }
        }
    }
}
