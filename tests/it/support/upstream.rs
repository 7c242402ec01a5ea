//! An HTTP/1.1 server that remembers every byte it was sent and answers as a test says.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::wire::{Headers, PATIENCE, Wire, split_head, values};

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Which of the server's connections it came on, from 1.
    pub connection: usize,
    /// The head, byte for byte, with the empty line.
    pub head: Vec<u8>,
    pub method: String,
    /// Path and query as they stood in the request line.
    pub target: String,
    pub headers: Headers,
    /// Without the chunked coding.
    pub body: Vec<u8>,
    pub trailers: Headers,
    /// The body was read to its end.
    pub complete: bool,
}

impl Recorded {
    /// The only value of a header; a repeated one fails the test.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.all(name);
        assert!(found.len() < 2, "{name} stands {} times in {:?}", found.len(), self.headers);
        found.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        values(&self.headers, name)
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }
}

/// A request in the hands of the script that answers it.
pub struct Exchange {
    pub wire: Wire,
    pub request: Recorded,
    /// Whether to go on with the connection afterwards.
    pub keep_alive: bool,
    state: Arc<State>,
    index: usize,
}

impl Exchange {
    /// Reads the body; says `100 Continue` first if that is waited for.
    pub fn read_body(&mut self) -> io::Result<()> {
        if self.request.complete {
            return Ok(());
        }
        if self.request.has("Expect") {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let length = self.request.header("Content-Length").map_or(0, |n| n.parse().unwrap());
        if self.request.has("Transfer-Encoding") {
            (self.request.body, self.request.trailers) = self.wire.chunked()?;
        } else {
            self.request.body = self.wire.exact(length)?;
        }
        self.request.complete = true;
        self.state.update(self.index, &self.request);
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write(bytes)
    }

    /// Reads the body, then answers with a Content-Length and further header lines (each with its line end).
    pub fn answer(&mut self, status: &str, lines: &str, body: &[u8]) -> io::Result<()> {
        self.read_body()?;
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{lines}\r\n", body.len());
        let mut bytes = head.into_bytes();
        if self.request.method != "HEAD" {
            bytes.extend_from_slice(body);
        }
        self.write(&bytes)
    }

    pub fn chunk(&mut self, data: &[u8]) -> io::Result<()> {
        let mut bytes = format!("{:x}\r\n", data.len()).into_bytes();
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(b"\r\n");
        self.write(&bytes)
    }

    /// Waits until the peer has closed the connection; an error if it does not.
    pub fn wait_for_close(&mut self) -> io::Result<()> {
        self.wire.rest().map(drop).or_else(|e| match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(e),
            _ => Ok(()),
        })
    }
}

type Script = dyn Fn(&mut Exchange) -> io::Result<()> + Send + Sync;

#[derive(Default)]
struct State {
    requests: Mutex<Vec<Recorded>>,
    changed: Condvar,
    connections: AtomicUsize,
}

impl State {
    fn update(&self, index: usize, request: &Recorded) {
        self.requests.lock().unwrap()[index] = request.clone();
        self.changed.notify_all();
    }
}

pub struct RecordingUpstream {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl RecordingUpstream {
    /// Answers everything with 200 and the body `ok`.
    pub fn start() -> Self {
        Self::scripted(|exchange| exchange.answer("200 OK", "Content-Type: text/plain\r\n", b"ok"))
    }

    pub fn scripted(script: impl Fn(&mut Exchange) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::over(|socket| Ok(Wire::plain(socket)), script)
    }

    /// `accept` makes the connection of a socket, with a TLS handshake for instance. An error of the script ends the
    /// connection, as a crashed server would.
    pub fn over(
        accept: impl Fn(TcpStream) -> io::Result<Wire> + Send + Sync + 'static,
        script: impl Fn(&mut Exchange) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let (shared, accept, script): (_, Arc<_>, Arc<Script>) = (state.clone(), Arc::new(accept), Arc::new(script));
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (state, accept, script) = (shared.clone(), accept.clone(), script.clone());
                let connection = state.connections.fetch_add(1, Ordering::SeqCst) + 1;
                thread::spawn(move || {
                    if let Ok(wire) = accept(socket) {
                        let _ = serve(wire, connection, &state, &*script);
                    }
                });
            }
        });
        Self { address, state }
    }

    /// Answers the first requests with these bytes each (after their bodies), then 200.
    pub fn raw(answers: &[&str]) -> Self {
        let answers = Mutex::new(answers.iter().map(|answer| (*answer).to_owned()).collect::<VecDeque<_>>());
        Self::scripted(move |exchange| {
            exchange.read_body()?;
            let next = answers.lock().unwrap().pop_front();
            match next {
                Some(bytes) => exchange.write(bytes.as_bytes()),
                None => exchange.answer("200 OK", "", b"ok"),
            }
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<Recorded> {
        self.state.requests.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.state.requests.lock().unwrap().len()
    }

    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// The latest request; its body may still be on its way.
    pub fn last(&self) -> Recorded {
        self.requests().pop().expect("the upstream received a request")
    }

    /// The requests, once there are `n` of which the first `n` are complete.
    pub fn wait_for(&self, n: usize) -> Vec<Recorded> {
        self.wait_until(|requests| requests.iter().filter(|request| request.complete).count() >= n)
    }

    pub fn wait_until(&self, ready: impl Fn(&[Recorded]) -> bool) -> Vec<Recorded> {
        let guard = self.state.requests.lock().unwrap();
        let (guard, waited) =
            self.state.changed.wait_timeout_while(guard, PATIENCE, |requests| !ready(requests)).unwrap();
        assert!(!waited.timed_out(), "the upstream received only {:#?}", *guard);
        guard.clone()
    }
}

fn serve(mut wire: Wire, connection: usize, state: &Arc<State>, script: &Script) -> io::Result<()> {
    wire.patience(Duration::from_secs(120));
    while let Some(head) = wire.until(b"\r\n\r\n")? {
        let (line, headers) = split_head(&head)?;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let request = Recorded { connection, head, method, target, headers, ..Recorded::default() };
        let index = {
            let mut requests = state.requests.lock().unwrap();
            requests.push(request.clone());
            state.changed.notify_all();
            requests.len() - 1
        };
        let mut exchange = Exchange { wire, request, keep_alive: true, state: state.clone(), index };
        let result = script(&mut exchange);
        state.update(index, &exchange.request);
        result?;
        if !exchange.keep_alive {
            return Ok(());
        }
        wire = exchange.wire;
    }
    Ok(())
}

/// A door that a test opens: scripts wait at it instead of sleeping.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub fn wait(&self) {
        let guard = self.0.0.lock().unwrap();
        let _unused = self.0.1.wait_timeout_while(guard, PATIENCE * 2, |open| !*open).unwrap();
    }
}
