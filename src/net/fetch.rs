//! One-shot GET of a small document, for key sets: bounded in size and time, no redirects, TLS verified.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;

use super::BaseUrl;
use crate::tls::{ClientSettings, TlsError};

/// For the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Request(#[from] http::Error),
    #[error("the answer was {0}")]
    Status(http::StatusCode),
    #[error("the answer is cut off or larger than {0} bytes")]
    Body(usize),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// Fetches documents over connections of their own.
#[derive(Clone, Debug)]
pub struct Fetcher {
    tls: Option<Arc<ClientConfig>>,
    settings: ClientSettings,
}

impl Fetcher {
    /// For one URL: TLS is set up only when its scheme is https.
    pub fn new(url: &BaseUrl, ca: Option<&Path>) -> Result<Self, TlsError> {
        let settings = ClientSettings { ca: ca.map(Path::to_owned), ..ClientSettings::default() };
        let tls = if url.is_https() { Some(settings.build(&[b"http/1.1"])?) } else { None };
        Ok(Self { tls, settings })
    }

    /// The body of a 200 answer.
    pub async fn get(&self, url: &BaseUrl, max_bytes: usize) -> Result<Bytes, FetchError> {
        tokio::time::timeout(TIMEOUT, self.exchange(url, max_bytes)).await.map_err(|_| FetchError::Timeout)?
    }

    async fn exchange(&self, url: &BaseUrl, max_bytes: usize) -> Result<Bytes, FetchError> {
        let host = url.host().trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, url.port())).await?;
        match &self.tls {
            None => get(TokioIo::new(stream), url, max_bytes).await,
            Some(config) => {
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(self.settings.name(url.host())?, stream).await?;
                get(TokioIo::new(stream), url, max_bytes).await
            }
        }
    }
}

async fn get<I>(io: I, url: &BaseUrl, max_bytes: usize) -> Result<Bytes, FetchError>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let request = http::Request::get(if url.path().is_empty() { "/" } else { url.path() })
        .header(header::HOST, url.authority())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("tollgate/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        if response.status() != http::StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), max_bytes).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|_| FetchError::Body(max_bytes))
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        ended = &mut connection => {
            ended?;
            exchange.await
        }
    }
}
