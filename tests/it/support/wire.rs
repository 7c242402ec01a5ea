//! HTTP/1.1 as bytes on a connection: what both the raw client and the recording upstream read with. Nothing is
//! normalised, so that a test sees what was really sent.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::secrets;

/// No single read of a test waits longer.
pub const PATIENCE: Duration = Duration::from_secs(15);

pub trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

pub type Headers = Vec<(String, String)>;

/// The values of a header, in the order they came.
pub fn values<'a>(headers: &'a Headers, name: &str) -> Vec<&'a str> {
    headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

/// A connection with what was read too far.
pub struct Wire {
    stream: Box<dyn Duplex>,
    pub socket: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub fn plain(socket: TcpStream) -> Self {
        let stream = socket.try_clone().unwrap();
        Self::over(Box::new(stream), socket)
    }

    /// `socket` is what `stream` runs on: deadlines and half-closes are set there.
    pub fn over(stream: Box<dyn Duplex>, socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { stream, socket, buffer: Vec::new() }
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        secrets::keep_message(bytes);
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Whatever comes next; 0 at the end.
    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let n = self.stream.read(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..n]);
        Ok(n)
    }

    fn fill_more(&mut self) -> io::Result<()> {
        match self.fill()? {
            0 => Err(io::Error::new(ErrorKind::UnexpectedEof, "the peer closed in the middle of a message")),
            _ => Ok(()),
        }
    }

    /// Everything up to and including `end`; nothing when the peer closed before the first byte.
    pub fn until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut from = 0;
        loop {
            let found = self.buffer[from..].windows(end.len()).position(|window| window == end);
            if let Some(at) = found {
                return Ok(Some(self.buffer.drain(..from + at + end.len()).collect()));
            }
            from = self.buffer.len().saturating_sub(end.len() - 1);
            if self.fill()? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    pub fn exact(&mut self, n: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < n {
            self.fill_more()?;
        }
        Ok(self.buffer.drain(..n).collect())
    }

    /// Reads `n` bytes without keeping them.
    pub fn discard(&mut self, mut n: u64) -> io::Result<()> {
        let mut chunk = vec![0; 64 * 1024];
        let buffered = (self.buffer.len() as u64).min(n);
        self.buffer.drain(..buffered as usize);
        n -= buffered;
        while n > 0 {
            let want = (chunk.len() as u64).min(n) as usize;
            match self.stream.read(&mut chunk[..want])? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                got => n -= got as u64,
            }
        }
        Ok(())
    }

    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? != 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// A chunk's data; empty for the last one.
    pub fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.until(b"\r\n")?.ok_or(ErrorKind::UnexpectedEof)?;
        let size = String::from_utf8_lossy(&line);
        let size = size.trim_end().split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16)
            .map_err(|_| io::Error::new(ErrorKind::InvalidData, format!("not a chunk size: {size:?}")))?;
        if size == 0 {
            return Ok(Vec::new());
        }
        let data = self.exact(size)?;
        match self.exact(2)?.as_slice() {
            b"\r\n" => Ok(data),
            other => Err(io::Error::new(ErrorKind::InvalidData, format!("{other:?} after a chunk"))),
        }
    }

    /// A whole chunked body and its trailers.
    pub fn chunked(&mut self) -> io::Result<(Vec<u8>, Headers)> {
        let mut body = Vec::new();
        loop {
            match self.chunk()? {
                data if data.is_empty() => break,
                data => body.extend_from_slice(&data),
            }
        }
        Ok((body, self.trailers()?))
    }

    /// What follows the last chunk.
    pub fn trailers(&mut self) -> io::Result<Headers> {
        let mut trailers = Headers::new();
        loop {
            let line = self.until(b"\r\n")?.ok_or(ErrorKind::UnexpectedEof)?;
            match line.strip_suffix(b"\r\n") {
                Some(b"") | None => return Ok(trailers),
                Some(line) => trailers.push(header(line)?),
            }
        }
    }

    /// Whether the peer ends the connection (rather than keeping it open) and sends nothing more before.
    pub fn ends(&mut self) -> bool {
        if !self.buffer.is_empty() {
            return false;
        }
        match self.fill() {
            Ok(0) => true,
            Ok(_) => false,
            Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    pub fn patience(&self, patience: Duration) {
        self.socket.set_read_timeout(Some(patience)).unwrap();
    }
}

/// The first line and the fields of a head that ends with an empty line.
pub fn split_head(head: &[u8]) -> io::Result<(String, Headers)> {
    secrets::keep_message(head);
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let headers = lines.filter(|line| !line.is_empty()).map(header).collect::<io::Result<_>>()?;
    Ok((first, headers))
}

fn header(line: &[u8]) -> io::Result<(String, String)> {
    let line = String::from_utf8_lossy(line);
    let (name, value) = line
        .split_once(':')
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("not a header: {line:?}")))?;
    Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
}
