//! HTTP/2 on both sides of the gateway.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;

use super::secrets;
use super::tls::TlsClient;
use super::wire::PATIENCE;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

pub fn empty() -> Body {
    full("")
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

pub fn with_trailers(bytes: impl Into<Bytes>, trailers: HeaderMap) -> Body {
    Full::new(bytes.into()).with_trailers(async { Some(Ok(trailers)) }).boxed_unsync()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[derive(Debug)]
pub struct H2Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

/// One HTTP/2 connection of a client.
pub struct H2Client {
    runtime: Runtime,
    sender: SendRequest<Body>,
}

impl H2Client {
    /// With prior knowledge, in the clear.
    pub fn plain(address: SocketAddr) -> Self {
        let runtime = runtime();
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            handshake(stream).await
        });
        Self { runtime, sender }
    }

    pub fn tls(address: SocketAddr, client: &TlsClient<'_>, name: &str) -> Self {
        let runtime = runtime();
        let config = client.clone().alpn(&["h2"]).config();
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from(name.to_owned()).unwrap();
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            handshake(stream).await
        });
        Self { runtime, sender }
    }

    pub fn send(&mut self, request: Request<Body>) -> H2Response {
        self.try_send(request).unwrap()
    }

    /// Opens a tunnel by extended CONNECT (RFC 8441), sends `bytes` through it and gives the status, and as many bytes as
    /// come back.
    pub fn connect(&mut self, uri: &str, protocol: &'static str, bytes: &[u8]) -> (u16, Vec<u8>) {
        let mut request = Request::connect(uri).body(empty()).unwrap();
        request.extensions_mut().insert(hyper::ext::Protocol::from_static(protocol));
        let sender = &mut self.sender;
        self.runtime.block_on(async {
            let exchange = async {
                sender.ready().await.unwrap();
                // The server's settings say whether it knows the protocol pseudo-header.
                let mut response = sender.send_request(request).await.unwrap();
                let status = response.status().as_u16();
                if status != 200 {
                    return (status, Vec::new());
                }
                let Ok(upgraded) = hyper::upgrade::on(&mut response).await else { return (status, Vec::new()) };
                let mut tunnel = TokioIo::new(upgraded);
                tunnel.write_all(bytes).await.unwrap();
                let mut back = vec![0; bytes.len()];
                tunnel.read_exact(&mut back).await.unwrap();
                (status, back)
            };
            tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time")
        })
    }

    pub fn try_send(&mut self, request: Request<Body>) -> hyper::Result<H2Response> {
        for (name, value) in request.headers() {
            secrets::keep_message(&[name.as_str().as_bytes(), b": ", value.as_bytes()].concat());
        }
        let sender = &mut self.sender;
        self.runtime.block_on(async {
            let exchange = async {
                sender.ready().await?;
                let (head, body) = sender.send_request(request).await?.into_parts();
                let body = body.collect().await?;
                let trailers = body.trailers().cloned().unwrap_or_default();
                let (status, headers) = (head.status.as_u16(), head.headers);
                Ok(H2Response { status, headers, body: body.to_bytes(), trailers })
            };
            tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time")
        })
    }
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> SendRequest<Body> {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A request as an HTTP/2 upstream saw it.
#[derive(Clone, Debug)]
pub struct H2Recorded {
    pub uri: http::Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

/// An HTTP/2 server that sends every body back, with `grpc-status: 0` after it.
pub struct H2Upstream {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<H2Recorded>>>,
}

impl H2Upstream {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        thread::spawn(move || {
            runtime().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let seen = seen.clone();
                    let service = service_fn(move |request| echo(request, seen.clone()));
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
                }
            });
        });
        Self { address, requests }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<H2Recorded> {
        self.requests.lock().unwrap().clone()
    }
}

async fn echo(request: Request<Incoming>, seen: Arc<Mutex<Vec<H2Recorded>>>) -> hyper::Result<http::Response<Body>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let body = body.to_bytes();
    seen.lock().unwrap().push(H2Recorded { uri: head.uri, headers: head.headers, body: body.clone(), trailers });
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), "0".parse().unwrap())]);
    let response = http::Response::builder().header("content-type", "application/grpc");
    Ok(response.body(with_trailers(body, trailers)).unwrap())
}
