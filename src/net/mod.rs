//! What any HTTP hop needs and no domain owns: URLs as configured, trusted peers, bodies, hop-by-hop headers.

pub mod alarm;
pub mod bell;
pub mod body;
pub mod fetch;
pub mod forwarded;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod headers;
pub mod http1;
pub mod pieces;
pub mod pipe;
pub mod proxy_protocol;
pub mod request;
pub mod response;
pub mod switch;
pub mod trace_context;

use std::any::Any;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + Any {
    /// The socket, where the bytes are those that go over the network. A box is a stream of its own and has none: ask what
    /// is in it.
    fn socket(&self) -> Option<&TcpStream>;
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + Any> Stream for S {
    fn socket(&self) -> Option<&TcpStream> {
        (self as &dyn Any).downcast_ref()
    }
}

/// An absolute http or https URL without query, fragment or user, as the operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    text: String,
    https: bool,
    host: String,
    port: u16,
    path: String,
}

/// Why a text is not a [`BaseUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("not a URL")]
    Syntax,
    #[error("the scheme must be http or https")]
    Scheme,
    #[error("a host is missing")]
    Host,
    #[error("a query, a fragment or user information has no place here")]
    Extra,
}

impl BaseUrl {
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.contains(['#', '?', '@']) {
            return Err(UrlError::Extra);
        }
        let uri: http::Uri = text.parse().map_err(|_| UrlError::Syntax)?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(UrlError::Scheme),
        };
        let authority = uri.authority().ok_or(UrlError::Host)?;
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() {
            return Err(UrlError::Host);
        }
        let port = match authority.port() {
            Some(port) => port.as_str().parse().map_err(|_| UrlError::Syntax)?,
            None if https => 443,
            None => 80,
        };
        // `http` reads a missing path as "/"; the text tells the two apart.
        let path = if text.ends_with('/') || uri.path() != "/" { uri.path().to_owned() } else { String::new() };
        Ok(Self { text: text.to_owned(), https, host, port, path })
    }

    /// Byte for byte what was configured.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Lower case, without port; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host` or, when the port is not the scheme's own, `host:port`.
    pub fn authority(&self) -> String {
        let usual = if self.https { 443 } else { 80 };
        if self.port == usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// `scheme://authority`, with which an absolute path makes a URL.
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }

    /// The path as written: empty, or starting with `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn is_loopback(&self) -> bool {
        is_loopback_host(&self.host)
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An absolute http or https URL that is called as it stands: it may have a query, which a [`BaseUrl`] may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointUrl {
    uri: http::Uri,
    base: BaseUrl,
}

impl EndpointUrl {
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let base = BaseUrl::parse(text.split_once('?').map_or(text, |(base, _)| base))?;
        // What a query holds is its own business, but for a fragment, which is no part of a request.
        if text.contains('#') {
            return Err(UrlError::Extra);
        }
        Ok(Self { uri: text.parse().map_err(|_| UrlError::Syntax)?, base })
    }

    pub fn uri(&self) -> &http::Uri {
        &self.uri
    }

    pub fn is_https(&self) -> bool {
        self.base.is_https()
    }

    pub fn is_loopback(&self) -> bool {
        self.base.is_loopback()
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

/// Whether `host` (without port) names this machine: `localhost`, 127.0.0.0/8 or ::1.
pub fn is_loopback_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The networks whose forwarding headers are believed.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(pub Vec<IpNet>);

impl TrustedProxies {
    pub fn contains(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|net| net.contains(&peer))
    }
}
