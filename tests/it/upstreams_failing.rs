//! Servers of an upstream: where they listen, which one a request goes to, and what becomes of it when one fails.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::h2::H2Upstream;
use crate::support::site::{OPEN, SiteBuilder};
use crate::support::upstream::Exchange;
use crate::support::{Conn, Gate, RecordingUpstream, Req, Response, Site, Wrong, send, until};

/// Joins two streams until either ends.
macro_rules! join {
    ($left:expr, $right:expr) => {{
        let (left, right) = ($left, $right);
        let (mut from, mut to) = (left.try_clone().unwrap(), right.try_clone().unwrap());
        thread::spawn(move || {
            let _broken = io::copy(&mut from, &mut to);
            let _gone = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
        let (mut from, mut to) = (right, left);
        thread::spawn(move || {
            let _broken = io::copy(&mut from, &mut to);
            let _gone = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }};
}

/// A socket in the file system that leads to `to`.
fn socket(path: &Path, to: SocketAddr) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for left in listener.incoming().flatten() {
            let left: UnixStream = left;
            join!(left, TcpStream::connect(to).unwrap());
        }
    });
}

/// A server that a test takes down and brings up again, at one address.
struct Mortal {
    upstream: RecordingUpstream,
    address: SocketAddr,
    listener: Mutex<Option<TcpListener>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Mortal {
    fn start() -> Self {
        Self::of(RecordingUpstream::start())
    }

    fn of(upstream: RecordingUpstream) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mortal = Self { upstream, address, listener: Mutex::default(), open: Arc::default() };
        mortal.serve(listener);
        mortal
    }

    fn serve(&self, listener: TcpListener) {
        *self.listener.lock().unwrap() = Some(listener.try_clone().unwrap());
        let (open, to) = (self.open.clone(), self.upstream.address);
        thread::spawn(move || {
            for left in listener.incoming() {
                let Ok(left) = left else { return };
                let right = TcpStream::connect(to).unwrap();
                open.lock().unwrap().extend([left.try_clone().unwrap(), right.try_clone().unwrap()]);
                join!(left, right);
            }
        });
    }

    /// Ends the listener and every connection, as when the process is killed.
    fn kill(&self) {
        let listener = self.listener.lock().unwrap().take().expect("it lives");
        socket2::SockRef::from(&listener).shutdown(Shutdown::Both).unwrap();
        drop(listener);
        for stream in self.open.lock().unwrap().drain(..) {
            let _gone = stream.shutdown(Shutdown::Both);
        }
        until("nothing listens", || TcpStream::connect(self.address).is_err());
    }

    fn revive(&self) {
        self.serve(TcpListener::bind(self.address).unwrap());
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn count(&self) -> usize {
        self.upstream.count()
    }
}

fn servers(servers: &[&Mortal]) -> String {
    let urls: Vec<String> = servers.iter().map(|server| format!("\"{}\"", server.url())).collect();
    format!("servers = [{}]", urls.join(", "))
}

fn wait_event(site: &Site, event: &str, server: &Mortal) {
    site.gateway.wait_log(event, |line| line["event"] == event && line["server"] == server.url());
}

fn events(site: &Site, event: &str) -> usize {
    site.gateway.output().matches(&format!("\"event\":\"{event}\"")).count()
}

fn up(site: &Site, server: &Mortal) -> f64 {
    let labels = [("upstream", "app"), ("server", &*server.url())];
    assert!(site.gateway.metrics().has("tollgate_upstream_server_up", &labels));
    site.gateway.metrics().sum("tollgate_upstream_server_up", &labels)
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Asks from several threads, each on a connection of its own, for as long as `meanwhile` takes. Gives how many answers
/// of each status there were; 0: none at all.
fn under_load(site: &Site, meanwhile: impl FnOnce(&dyn Fn() -> usize)) -> BTreeMap<u16, usize> {
    let (address, ended, answered) = (site.gateway.address("main"), AtomicBool::new(false), AtomicUsize::new(0));
    let statuses = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut conn = Conn::open(address);
                while !ended.load(Ordering::SeqCst) {
                    let status = conn.try_send(&Req::get("/public/x")).map_or(0, |answer| answer.status);
                    *statuses.lock().unwrap().entry(status).or_insert(0) += 1;
                    answered.fetch_add(1, Ordering::SeqCst);
                    if status == 0 {
                        conn = Conn::open(address);
                    }
                }
            });
        }
        // Also when it panics.
        let _end = End(&ended);
        meanwhile(&|| answered.load(Ordering::SeqCst));
    });
    statuses.into_inner().unwrap()
}

// ---- Unix sockets ---------------------------------------------------------------------------------------------------

#[test]
fn servers_may_listen_on_unix_sockets() {
    let mut wrong = Wrong::default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let routes = OPEN.replace("host = \"preserve\"", "");
    let lines = format!("servers = [\"unix:{}\"]", path.display());
    let site = Site::builder().upstream_lines(&lines).more(&routes).start();
    // It need not be there yet.
    wrong.eq("before", site.get("/public/x", None).status, 502);
    socket(&path, site.upstream.address);
    let mut conn = site.connect();
    for n in 0..3 {
        wrong.eq(n, conn.send(&Req::post("/public/x").body("abc")).status, 200);
    }
    let last = site.upstream.last();
    wrong.eq("Host", last.header("Host"), Some("localhost"));
    wrong.eq("body", last.body, b"abc".to_vec());
    wrong.eq("connections", site.upstream.connections(), 1);
    wrong.done();
}

#[test]
fn a_unix_socket_stands_beside_the_configuration_and_may_speak_http_2() {
    let server = H2Upstream::start();
    let site = Site::builder().upstream_lines("servers = [\"unix:app.sock\"]\nhttp2 = true");
    let site = site.more(&OPEN.replace("host = \"preserve\"", "")).start();
    socket(&site.gateway.dir.path().join("app.sock"), server.address);
    assert_eq!(site.get("/public/x", None).status, 200);
    assert_eq!(server.requests()[0].uri, "http://localhost/public/x");
}

// ---- servers that go and come ---------------------------------------------------------------------------------------

#[test]
fn the_death_of_one_of_two_servers_costs_no_idempotent_request() {
    let (mortal, other) = (Mortal::start(), Mortal::start());
    let site = Site::builder().upstream_lines(&servers(&[&mortal, &other])).more(OPEN).start();
    let statuses = under_load(&site, |answered| {
        until("both have work", || mortal.count() > 100 && other.count() > 100);
        mortal.kill();
        wait_event(&site, "upstream.server_out", &mortal);
        let before = answered();
        until("there is more work", || answered() > before + 200);
        assert_eq!((up(&site, &mortal), up(&site, &other)), (0.0, 1.0));
        let alone = other.count();
        until("the other has it", || other.count() > alone + 200);
        mortal.revive();
        wait_event(&site, "upstream.server_back", &mortal);
        let back = mortal.count();
        until("it works again", || mortal.count() > back + 20);
        assert_eq!(up(&site, &mortal), 1.0);
    });
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200], "{statuses:?}");
    // However many requests met it.
    assert_eq!((events(&site, "upstream.server_out"), events(&site, "upstream.server_back")), (1, 1));
}

#[test]
fn a_server_that_fails_is_asked_no_more_and_comes_back_slowly() {
    let (mortal, other) = (Mortal::start(), Mortal::start());
    let lines = format!("{}\nretries = 0", servers(&[&mortal, &other]));
    let site = Site::builder().upstream_lines(&lines).more(OPEN).start();
    mortal.kill();
    // What must not be sent again fails, but only until the server is out.
    let failed = (0..40).filter(|_| site.send(&Req::post("/public/x").body("a")).status != 200).count();
    assert!((3..=5).contains(&failed), "{failed} of 40 failed");
    mortal.revive();
    until("a request found it", || {
        site.get("/public/x", None);
        events(&site, "upstream.server_back") == 1
    });
    let (before, others) = (mortal.count(), other.count());
    for _ in 0..64 {
        assert_eq!(site.get("/public/x", None).status, 200);
    }
    let (share, others) = (mortal.count() - before, other.count() - others);
    assert!((1..=16).contains(&share) && others >= 48, "{share} of 64");
}

#[test]
fn requests_that_break_any_server_cannot_put_out_all() {
    let poisoned = || {
        Mortal::of(RecordingUpstream::scripted(|exchange| {
            if exchange.request.target.ends_with("poison") {
                return Err(io::Error::other("crash"));
            }
            exchange.answer("200 OK", "", b"ok")
        }))
    };
    let (one, two, three) = (poisoned(), poisoned(), poisoned());
    let site = Site::builder().upstream_lines(&servers(&[&one, &two, &three])).more(OPEN).start();
    for _ in 0..30 {
        assert_eq!(site.get("/public/poison", None).status, 502);
    }
    assert_eq!(events(&site, "upstream.server_out"), 1);
    for _ in 0..10 {
        assert_eq!(site.get("/public/x", None).status, 200);
    }
}

#[test]
fn what_a_server_began_to_answer_is_not_sent_again() {
    let script = |exchange: &mut Exchange| {
        let beginning: &[u8] = if exchange.request.target.ends_with("begun") { b"HTTP/1.1 2" } else { b"" };
        exchange.keep_alive = false;
        exchange.write(beginning)
    };
    let (one, two) = (RecordingUpstream::scripted(script), RecordingUpstream::scripted(script));
    let lines = format!("servers = [\"{}\", \"{}\"]", one.url(), two.url());
    let site = Site::builder().upstream_lines(&lines).more(OPEN).start();
    for (path, times) in [("/public/silent", 2), ("/public/begun", 1)] {
        let before = one.count() + two.count();
        assert_eq!(site.get(path, None).status, 502, "{path}");
        assert_eq!(one.count() + two.count() - before, times, "{path}");
    }
}

#[test]
fn retries_have_a_budget() {
    let failing = RecordingUpstream::scripted(|exchange| {
        exchange.keep_alive = false;
        Ok(())
    });
    // As many retries as connections can be had at once, then one for every five requests.
    let site = Site::builder().upstream(failing).upstream_lines("connections = 4").more(OPEN).start();
    for _ in 0..50 {
        assert_eq!(site.get("/public/x", None).status, 502);
    }
    let metrics = site.gateway.metrics();
    let retries = |result| metrics.sum("tollgate_upstream_retries_total", &[("upstream", "app"), ("result", result)]);
    assert_eq!((retries("sent"), retries("over_budget")), (13.0, 37.0));
    assert_eq!(site.upstream.count(), 63);
}

#[test]
fn a_reload_forgets_no_server_that_is_out_and_tells_of_none_that_is_gone() {
    let (mortal, other) = (Mortal::start(), Mortal::start());
    let site = Site::builder().upstream_lines(&servers(&[&mortal, &other])).more(OPEN).start();
    mortal.kill();
    until("it is out", || {
        site.get("/public/x", None);
        up(&site, &mortal) == 0.0
    });
    wait_event(&site, "upstream.server_out", &mortal);
    let reload = |text: String| {
        site.gateway.write("tollgate.toml", text);
        assert_eq!(send(site.gateway.admin(), &Req::post("/reload").host("localhost")).status, 200);
    };
    let text = site.gateway.read("tollgate.toml");
    reload(text.replace("name = \"public\"", "name = \"free\""));
    assert_eq!((up(&site, &mortal), events(&site, "upstream.server_out")), (0.0, 1));
    reload(text.replace(&format!("\"{}\", ", mortal.url()), ""));
    assert!(!site.gateway.metrics().has("tollgate_upstream_server_up", &[("server", &mortal.url())]));
    assert_eq!(up(&site, &other), 1.0);
}

// ---- which server ---------------------------------------------------------------------------------------------------

/// Servers that say which of them answers, and end what is to be held when the gate opens.
fn told_apart(n: usize, gate: &Gate) -> Vec<Mortal> {
    let server = |n: usize| {
        let gate = gate.clone();
        Mortal::of(RecordingUpstream::scripted(move |exchange| {
            let name = format!("X-Server: {n}\r\n");
            if exchange.request.target.ends_with("hold") {
                exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{name}\r\n").as_bytes())?;
                gate.wait();
                return exchange.write(b"ok");
            }
            exchange.answer("200 OK", &name, b"ok")
        }))
    };
    (0..n).map(server).collect()
}

fn balanced(site: SiteBuilder, balance: &str, all: &[Mortal]) -> Site {
    let lines = format!("{}\nbalance = \"{balance}\"", servers(&all.iter().collect::<Vec<_>>()));
    site.upstream_lines(&lines).more(OPEN).start()
}

fn server_of(answer: &Response) -> usize {
    assert_eq!(answer.status, 200);
    answer.header("X-Server").expect("a server").parse().unwrap()
}

#[test]
fn least_requests_counts_what_is_not_answered_to_its_end() {
    let gate = Gate::default();
    let all = told_apart(3, &gate);
    let site = balanced(Site::builder(), "least_requests", &all);
    let hold = || {
        let mut conn = site.connect();
        conn.write(Req::get("/public/hold").bytes());
        let server = server_of(&conn.read_head().unwrap());
        (conn, server)
    };
    let ((mut first, one), (second, two)) = (hold(), hold());
    assert_ne!(one, two);
    let free = 3 - one - two;
    for _ in 0..12 {
        assert_eq!(server_of(&site.get("/public/x", None)), free);
    }
    // One is answered, of the other the caller goes away.
    drop(second);
    gate.open();
    assert_eq!(first.wire.exact(2).unwrap(), b"ok");
    until("all are used again", || {
        let seen: BTreeSet<usize> = (0..3).map(|_| server_of(&site.get("/public/x", None))).collect();
        seen.len() == 3
    });
}

#[test]
fn by_hash_each_caller_has_a_server_and_one_that_goes_moves_its_own_alone() {
    let all = told_apart(3, &Gate::default());
    let site = balanced(Site::builder(), "hash", &all);
    let tokens: Vec<String> = (0..30).map(|n| site.mint.token(&json!({"sub": format!("user{n}")}))).collect();
    let by_user =
        || -> Vec<usize> { tokens.iter().map(|token| server_of(&site.get("/private", Some(token)))).collect() };
    let by_address = || -> Vec<usize> {
        let ask =
            |n| Conn::open_from(&format!("127.0.0.{n}"), site.gateway.address("main")).send(&Req::get("/public/x"));
        (1..=30).map(|n| server_of(&ask(n))).collect()
    };
    let (users, addresses) = (by_user(), by_address());
    for _ in 0..3 {
        assert_eq!((by_user(), by_address()), (users.clone(), addresses.clone()));
    }
    for callers in [&users, &addresses] {
        let counts = [0, 1, 2].map(|server| callers.iter().filter(|at| **at == server).count());
        assert!(counts.iter().all(|count| *count >= 3), "{counts:?}");
    }
    // One user is one caller, wherever from.
    let elsewhere =
        |n: usize| Conn::open_from("127.0.0.99", site.gateway.address("main")).send(&Req::get("/x").bearer(&tokens[n]));
    assert!((0..10).all(|n| server_of(&elsewhere(n)) == users[n]));
    all[0].kill();
    for (before, after) in [(&users, by_user()), (&addresses, by_address())] {
        for (before, after) in before.iter().zip(after) {
            assert!(if *before == 0 { after != 0 } else { after == *before }, "from {before} to {after}");
        }
    }
}

// ---- when none is left ----------------------------------------------------------------------------------------------

/// An address at which connections are neither taken nor refused, for as long as this lives.
struct Silent {
    address: SocketAddr,
    _parts: (socket2::Socket, Vec<TcpStream>),
}

impl Silent {
    fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
        let waiting = std::iter::from_fn(connect).take(100).collect();
        Self { address, _parts: (socket, waiting) }
    }
}

#[test]
fn nobody_waits_for_an_upstream_that_is_known_to_be_down() {
    let silent = Silent::new();
    let lines = format!("servers = [\"http://{}\"]\nconnect_timeout = \"300ms\"", silent.address);
    let site = Site::builder().upstream_lines(&lines).more(OPEN).start();
    let statuses: Vec<u16> = (0..60).map(|_| site.get("/public/x", None).status).collect();
    // One now and then finds out whether it is back.
    let waited = statuses.iter().filter(|status| **status == 504).count();
    assert!(statuses.iter().all(|status| [503, 504].contains(status)), "{statuses:?}");
    assert!(statuses[..3] == [504; 3] && waited <= 8, "{waited} of 60 waited");
    until("an answer at once", || {
        let answer = site.get("/public/x", None);
        answer.status == 503 && answer.header("Retry-After") == Some("1")
    });
    let metrics = site.gateway.metrics();
    assert!(metrics.sum("tollgate_upstream_errors_total", &[("kind", "no_server")]) >= 50.0, "{}", metrics.text);
    assert_eq!(metrics.sum("tollgate_upstream_server_up", &[]), 0.0);
}

#[test]
fn an_upstream_that_comes_back_is_found_by_the_first_request() {
    for gone in [1, 2] {
        let mortals: Vec<Mortal> = (0..gone).map(|_| Mortal::start()).collect();
        let site = Site::builder().upstream_lines(&servers(&mortals.iter().collect::<Vec<_>>())).more(OPEN).start();
        for round in 0..3 {
            mortals.iter().for_each(Mortal::kill);
            // Far more than put a server out, and double its pause again and again.
            let mut pause = Duration::from_millis(10);
            for _ in 0..20 {
                let asked = Instant::now();
                assert!([502, 503].contains(&site.get("/public/x", None).status));
                pause = pause.max(4 * asked.elapsed());
            }
            assert!(mortals.iter().all(|mortal| up(&site, mortal) == 0.0), "{gone}, round {round}");
            mortals[round % gone].revive();
            // As is promised.
            thread::sleep(pause);
            assert_eq!(site.send(&Req::post("/public/x").body("a")).status, 200, "{gone}, round {round}");
            for mortal in mortals.iter().filter(|mortal| mortal.listener.lock().unwrap().is_none()) {
                mortal.revive();
            }
        }
    }
}

#[test]
fn many_requests_to_an_upstream_that_refuses_connections_make_few() {
    let mortal = Mortal::start();
    let site = Site::builder().upstream_lines(&servers(&[&mortal])).more(OPEN).start();
    mortal.kill();
    let begun = Instant::now();
    let statuses = under_load(&site, |answered| until("there were many", || answered() >= 2000));
    let most = 3 + 4 + begun.elapsed().as_millis() / 10;
    let opened = site.gateway.metrics().sum("tollgate_upstream_connections_opened_total", &[]);
    assert!(opened <= most as f64, "{opened} of at most {most}: {statuses:?}");
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&502, &503], "{statuses:?}");
}

#[test]
fn one_request_at_a_time_tries_an_upstream_that_was_down() {
    let gate = Gate::default();
    let held = gate.clone();
    let mortal = Mortal::of(RecordingUpstream::scripted(move |exchange| {
        held.wait();
        exchange.answer("200 OK", "", b"ok")
    }));
    let site = Site::builder().upstream_lines(&servers(&[&mortal])).more(OPEN).start();
    mortal.kill();
    for _ in 0..3 {
        assert_eq!(site.get("/public/x", None).status, 502);
    }
    wait_event(&site, "upstream.server_out", &mortal);
    mortal.revive();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let ask = || scope.spawn(|| site.get("/public/x", None).status);
        let mut asked = Vec::new();
        while mortal.count() == 0 {
            asked.push(ask());
            thread::sleep(Duration::from_millis(20));
        }
        let more: Vec<_> = (0..10).map(|_| ask()).collect();
        let more: Vec<u16> = more.into_iter().map(|asked| asked.join().unwrap()).collect();
        assert_eq!((more, mortal.count()), (vec![503; 10], 1));
        gate.open();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    wait_event(&site, "upstream.server_back", &mortal);
    assert_eq!(site.get("/public/x", None).status, 200);
}

// ---- health checks --------------------------------------------------------------------------------------------------

/// A server whose health is what a test says: a status, or 0 for no answer at all.
fn checked(health: &Arc<AtomicUsize>) -> Mortal {
    let health = health.clone();
    Mortal::of(RecordingUpstream::scripted(move |exchange| {
        match (exchange.request.target.as_str(), health.load(Ordering::SeqCst)) {
            ("/healthy?deep=1", 0) => exchange.wait_for_close(),
            ("/healthy?deep=1", status) => exchange.answer(&format!("{status} X"), "", b""),
            _ => exchange.answer("200 OK", "", b"ok"),
        }
    }))
}

fn requests(server: &Mortal) -> usize {
    server.upstream.requests().iter().filter(|request| request.target != "/healthy?deep=1").count()
}

const CHECKS: &str = "health = { path = \"/healthy?deep=1\", interval = \"100ms\" }";

#[test]
fn servers_that_are_not_well_are_given_no_requests_until_they_are() {
    let mut wrong = Wrong::default();
    for (ill, reason) in
        [(503, "the answer was 503 Service Unavailable"), (302, "the answer was 302 Found"), (0, "no answer within 1s")]
    {
        let health = Arc::new(AtomicUsize::new(204));
        let (mortal, other) = (checked(&health), checked(&Arc::new(AtomicUsize::new(200))));
        let lines = format!("{}\n{CHECKS}", servers(&[&mortal, &other]));
        let site = Site::builder().upstream_lines(&lines).more(OPEN).start();
        until("both are asked", || mortal.count() > 3 && other.count() > 3);
        let check = mortal.upstream.requests().remove(0);
        wrong.eq((ill, "Host"), check.header("Host"), Some(&*mortal.address.to_string()));
        wrong.eq((ill, "method"), &*check.method, "GET");
        wrong.eq((ill, "of the caller's"), (check.has("Authorization"), check.has("X-Request-Id")), (false, false));
        wrong.eq((ill, "up"), up(&site, &mortal), 1.0);
        health.store(ill, Ordering::SeqCst);
        let event = site.gateway.wait_log("it is out", |line| line["event"] == "upstream.server_out");
        wrong.eq((ill, "server"), event["server"].as_str(), Some(&*mortal.url()));
        wrong.eq((ill, "reason"), event["reason"].as_str(), Some(reason));
        wrong.eq((ill, "up"), up(&site, &mortal), 0.0);
        let before = requests(&mortal);
        for _ in 0..20 {
            wrong.eq((ill, "meanwhile"), site.get("/public/x", None).status, 200);
        }
        wrong.eq((ill, "requests"), requests(&mortal), before);
        health.store(200, Ordering::SeqCst);
        wait_event(&site, "upstream.server_back", &mortal);
        until("it is used again", || {
            site.get("/public/x", None);
            requests(&mortal) > before
        });
        wrong.eq((ill, "told"), (events(&site, "upstream.server_out"), events(&site, "upstream.server_back")), (1, 1));
    }
    wrong.done();
}

#[test]
fn when_no_server_is_well_callers_are_told_at_once_and_the_gateway_is_still_ready() {
    let health = Arc::new(AtomicUsize::new(200));
    let (one, two) = (checked(&health), checked(&health));
    let lines = format!("{}\n{CHECKS}", servers(&[&one, &two]));
    let site = Site::builder().upstream_lines(&lines).more(OPEN).start();
    health.store(500, Ordering::SeqCst);
    until("both are out", || site.get("/public/x", None).status == 503);
    let asked = requests(&one) + requests(&two);
    for _ in 0..20 {
        let answer = site.get("/public/x", None);
        assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("1")));
    }
    assert_eq!(requests(&one) + requests(&two), asked);
    assert_eq!(site.gateway.ask_admin("/readyz").status, 200);
    health.store(200, Ordering::SeqCst);
    until("they are back", || site.get("/public/x", None).status == 200);
}

#[test]
fn checks_bring_back_what_requests_put_out_and_go_on_after_a_reload_once() {
    let (mortal, other) = (checked(&Arc::new(AtomicUsize::new(200))), checked(&Arc::new(AtomicUsize::new(200))));
    // Two workers and a reload: still one check at a time.
    let lines = format!("{}\n{}", servers(&[&mortal, &other]), CHECKS.replace("100ms", "1s"));
    let site = Site::builder().upstream_lines(&lines).more(OPEN).start();
    until("it is asked", || mortal.count() > 0);
    let text = site.gateway.read("tollgate.toml").replace("name = \"public\"", "name = \"free\"");
    site.gateway.write("tollgate.toml", text);
    assert_eq!(send(site.gateway.admin(), &Req::post("/reload").host("localhost")).status, 200);
    let (began, before) = (Instant::now(), mortal.count());
    until("it is asked again", || mortal.count() >= before + 3);
    assert!(began.elapsed() > Duration::from_millis(1900), "{:?}", began.elapsed());
    mortal.kill();
    until("it is out", || {
        site.get("/public/x", None);
        up(&site, &mortal) == 0.0
    });
    mortal.revive();
    // Without a request.
    until("it is back", || up(&site, &mortal) == 1.0);
}
