//! A client that sends exactly the bytes it is told to, and the answers it reads.

use std::io;
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::secrets;
use super::wire::{Headers, Wire, split_head, values};

/// A request in the making. Every piece may be as wrong as a test wants it.
#[derive(Clone, Debug)]
pub struct Req {
    method: String,
    target: String,
    host: Option<String>,
    lines: Vec<Vec<u8>>,
    body: Vec<u8>,
}

impl Req {
    pub fn new(method: &str, target: &str) -> Self {
        let host = Some("api.test".to_owned());
        Self { method: method.to_owned(), target: target.to_owned(), host, lines: Vec::new(), body: Vec::new() }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str) -> Self {
        Self::new("POST", target)
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub fn without_host(mut self) -> Self {
        self.host = None;
        self
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        self.line(format!("{name}: {value}").as_bytes())
    }

    /// A header line as it stands, without the line end.
    pub fn line(mut self, line: &[u8]) -> Self {
        self.lines.push(line.to_vec());
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// `None` sends no credentials.
    pub fn maybe_bearer(self, token: Option<&str>) -> Self {
        match token {
            Some(token) => self.bearer(token),
            None => self,
        }
    }

    /// A body with its Content-Length.
    pub fn body(self, body: impl AsRef<[u8]>) -> Self {
        let length = body.as_ref().len().to_string();
        self.header("Content-Length", &length).raw_body(body)
    }

    pub fn form(self, body: &str) -> Self {
        self.header("Content-Type", "application/x-www-form-urlencoded").body(body)
    }

    /// Bytes after the head, whatever the head says.
    pub fn raw_body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        if let Some(host) = &self.host {
            bytes.extend_from_slice(format!("Host: {host}\r\n").as_bytes());
        }
        for line in &self.lines {
            bytes.extend_from_slice(line);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// A parsed answer.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub trailers: Headers,
    /// The 1xx that came before.
    pub interim: Vec<u16>,
}

impl Response {
    /// The only value of a header; a repeated one fails the test.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = values(&self.headers, name);
        assert!(found.len() < 2, "{name} stands {} times in {self:?}", found.len());
        found.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        values(&self.headers, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: no JSON in {self:?} {}", self.text()))
    }

    /// `WWW-Authenticate`, or "" without one.
    pub fn challenge(&self) -> &str {
        self.header("WWW-Authenticate").unwrap_or_default()
    }

    /// A quoted parameter of the challenge.
    pub fn challenge_param(&self, name: &str) -> Option<String> {
        let challenge = self.challenge();
        let start = challenge.find(&format!("{name}=\""))? + name.len() + 2;
        challenge[start..].split('"').next().map(str::to_owned)
    }

    pub fn request_id(&self) -> String {
        self.header("X-Request-Id").unwrap_or_else(|| panic!("no request id in {self:?}")).to_owned()
    }
}

/// A client's connection.
pub struct Conn {
    pub wire: Wire,
}

impl Conn {
    pub fn open(address: SocketAddr) -> Self {
        Self { wire: Wire::plain(TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"))) }
    }

    /// From another address of this machine, such as 127.0.0.2.
    pub fn open_from(source: &str, address: SocketAddr) -> Self {
        Self::try_open_from(source, address).unwrap()
    }

    pub fn try_open_from(source: &str, address: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        let source: SocketAddr = format!("{source}:0").parse().unwrap();
        socket.bind(&source.into())?;
        socket.connect(&address.into())?;
        Ok(Self { wire: Wire::plain(socket.into()) })
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.wire.write(bytes.as_ref()).unwrap();
        self
    }

    pub fn send(&mut self, request: &Req) -> Response {
        self.try_send(request).unwrap_or_else(|e| panic!("{e}: no answer to {request:?}"))
    }

    /// An error is a connection that ended, or stayed silent, before the answer was complete. A gateway may answer
    /// and close before it has read everything, so a failed write alone is no error.
    pub fn try_send(&mut self, request: &Req) -> io::Result<Response> {
        let written = self.wire.write(&request.bytes());
        match self.read(request.method == "HEAD") {
            Err(e) => Err(written.err().unwrap_or(e)),
            answer => answer,
        }
    }

    pub fn read_answer(&mut self) -> Response {
        self.read(false).unwrap()
    }

    /// A complete answer; `head` says that its body was not asked for.
    pub fn read(&mut self, head: bool) -> io::Result<Response> {
        let mut response = self.read_head()?;
        if head || matches!(response.status, 101 | 204 | 304) {
            return Ok(response);
        }
        let length = values(&response.headers, "Content-Length").first().map(|n| n.parse::<usize>());
        let coding = values(&response.headers, "Transfer-Encoding").join(",");
        match length {
            _ if coding.eq_ignore_ascii_case("chunked") => {
                (response.body, response.trailers) = self.wire.chunked()?;
            }
            _ if !coding.is_empty() => return Err(io::Error::other(format!("Transfer-Encoding: {coding}"))),
            Some(length) => response.body = self.wire.exact(length.map_err(io::Error::other)?)?,
            None => response.body = self.wire.rest()?,
        }
        secrets::keep_answer(&response.body);
        Ok(response)
    }

    /// The final head, with the interim ones noted; the body is still to be read.
    pub fn read_head(&mut self) -> io::Result<Response> {
        let mut response = Response::default();
        loop {
            response.status = self.read_one_head(&mut response.headers)?;
            if !(100..200).contains(&response.status) || response.status == 101 {
                return Ok(response);
            }
            response.interim.push(response.status);
        }
    }

    fn read_one_head(&mut self, headers: &mut Headers) -> io::Result<u16> {
        let head = self.wire.until(b"\r\n\r\n")?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (line, fields) = split_head(&head)?;
        *headers = fields;
        line.strip_prefix("HTTP/1.1 ")
            .or_else(|| line.strip_prefix("HTTP/1.0 "))
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or_else(|| io::Error::other(format!("not a status line: {line:?}")))
    }
}

/// One request on a connection of its own.
pub fn send(address: SocketAddr, request: &Req) -> Response {
    Conn::open(address).send(request)
}
