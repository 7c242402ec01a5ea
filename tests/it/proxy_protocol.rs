//! Listeners whose connections start with a PROXY protocol header. The proxy is 127.0.0.2 here.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ppp::v2::{self, Builder, Protocol, Type, Version};

use crate::support::gateway::field;
use crate::support::http::Response;
use crate::support::public::{free_port, installed};
use crate::support::tls::Authority;
use crate::support::{Conn, Req, Site, Wrong};

const PROXY: &str = "127.0.0.2";
const ROUTES: &str = r#"
[[routes]]
name = "public"
path = "/public/**"
upstream = "app"
allow = [{ public = true }]

[[routes]]
name = "office"
path = "/office/**"
upstream = "app"
ip_allow = ["192.0.2.0/24", "127.0.0.2"]
allow = [{ public = true }]
"#;

fn site(limits: &str) -> Site {
    let server = format!("trusted_proxies = [\"{PROXY}\", \"192.0.2.250\"]");
    Site::builder().server(&server).limits(limits).listener("proxy_protocol = true").more(ROUTES).start()
}

fn open(site: &Site) -> Conn {
    Conn::open_from(PROXY, site.gateway.address("main"))
}

/// The answer to a request behind a header, or none where the connection ended without.
fn ask(site: &Site, header: &[u8], request: &Req) -> Option<Response> {
    let mut conn = open(site);
    conn.wire.write(&[header, &request.bytes()].concat()).ok()?;
    conn.read(false).ok()
}

fn status(site: &Site, header: &[u8], request: &Req) -> u16 {
    ask(site, header, request).map_or(0, |answer| answer.status)
}

fn line(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "TCP6 {} ::1" } else { "TCP4 {} 127.0.0.1" };
    format!("PROXY {} 56324 443\r\n", family.replace("{}", client)).into_bytes()
}

/// A version 2 header with TLVs, as `ppp` builds it.
fn block(command: v2::Command, client: &str) -> Vec<u8> {
    let client: SocketAddr = format!("{client}:56324").parse().unwrap();
    let addresses = (client, if client.is_ipv4() { "127.0.0.1:443" } else { "[::1]:443" }.parse().unwrap());
    let builder = Builder::with_addresses(Version::Two | command, Protocol::Stream, addresses);
    let builder = builder.write_tlv(Type::Authority, b"api.test").unwrap();
    builder.write_tlv(Type::NoOp, &[0; 700]).unwrap().build().unwrap()
}

#[test]
fn whom_the_header_announces_is_the_peer() {
    let site = site("");
    let mut wrong = Wrong::default();
    for (header, client) in [
        (line("192.0.2.1"), "192.0.2.1"),
        (line("2001:db8::1"), "2001:db8::1"),
        (line("::ffff:192.0.2.3"), "192.0.2.3"),
        (block(v2::Command::Proxy, "192.0.2.2"), "192.0.2.2"),
        (block(v2::Command::Proxy, "[2001:db8::2]"), "2001:db8::2"),
        (block(v2::Command::Local, "192.0.2.9"), PROXY),
        (b"PROXY UNKNOWN\r\n".to_vec(), PROXY),
        (b"PROXY UNKNOWN 192.0.2.9 127.0.0.1 1 2\r\n".to_vec(), PROXY),
    ] {
        let spoofed = Req::get("/public/x").header("X-Forwarded-For", "6.6.6.6").header("X-Forwarded-Proto", "https");
        let Some(answer) = ask(&site, &header, &spoofed) else {
            wrong.ok(client, false, "no answer");
            continue;
        };
        wrong.eq(client, answer.status, 200);
        let seen = site.upstream.last();
        wrong.eq((client, "forwarded"), seen.header("X-Forwarded-For"), Some(client));
        wrong.eq((client, "real"), seen.header("X-Real-IP"), Some(client));
        wrong.eq((client, "scheme"), seen.header("X-Forwarded-Proto"), Some("http"));
        let log = site.gateway.access_log(&answer.request_id());
        wrong.eq((client, "log"), field(&log, "client"), Some(client));
        let expected = if client.parse::<IpAddr>().unwrap().is_ipv6() { 403 } else { 200 };
        wrong.eq((client, "address rules"), status(&site, &header, &Req::get("/office/x")), expected);
    }
    // An announced peer that is itself trusted speaks for others.
    let relayed = Req::get("/public/x").header("X-Forwarded-For", "198.51.100.7").header("X-Forwarded-Proto", "https");
    wrong.eq("relayed", status(&site, &line("192.0.2.250"), &relayed), 200);
    let seen = site.upstream.last();
    wrong.eq("relayed", seen.header("X-Forwarded-For"), Some("198.51.100.7, 192.0.2.250"));
    wrong.eq(
        "relayed",
        (seen.header("X-Real-IP"), seen.header("X-Forwarded-Proto")),
        (Some("198.51.100.7"), Some("https")),
    );
    wrong.done();
}

#[test]
fn a_connection_without_a_good_header_is_closed_and_counted() {
    let site = site("header_timeout = \"2s\"");
    let version = |first: u8| [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[first, 0x11, 0, 12], &[1; 12]].concat();
    let mut wrong = Wrong::default();
    let malformed: &[(&str, &[u8])] = &[
        ("none", b""),
        ("garbage", &[0xFF; 64]),
        ("TLS", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3, 1, 2, 3, 4, 5, 6]),
        ("a line that never ends", &b"PROXY TCP4 192.0.2.1 ".repeat(6)),
        ("a bare line feed", b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\n"),
        ("a wrong address", b"PROXY TCP4 192.0.2 127.0.0.1 1 2\r\n"),
        ("a wrong family", b"PROXY UDP4 192.0.2.1 127.0.0.1 1 2\r\n"),
        ("a header name in its place", b"X-Forwarded-For: 192.0.2.1\r\n"),
        ("version 3", &version(0x31)),
        ("an unknown command", &version(0x22)),
        ("too long", &[&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xFF\xFF"[..], &[1; 6000]].concat()),
    ];
    for (case, header) in malformed {
        wrong.eq(case, status(&site, header, &Req::get("/public/x")), 0);
    }
    let refused = |reason: &str| {
        let labels = [("listener", "main"), ("reason", reason)];
        site.gateway.metrics().sum("tollgate_proxy_protocol_refused_total", &labels)
    };
    wrong.eq("malformed", refused("malformed"), malformed.len() as f64);
    let line = site.gateway.wait_log("refused", |line| field(line, "event") == Some("proxy_protocol.refused"));
    wrong.eq("logged", (field(&line, "listener"), field(&line, "peer")), (Some("main"), Some(PROXY)));

    let halves = [&b""[..], b"PROXY TCP4 192.0.2.1", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xC0"];
    let mut waiting = halves.map(|half| {
        let mut conn = open(&site);
        conn.write(half);
        conn
    });
    for (half, conn) in halves.iter().zip(&mut waiting) {
        wrong.ok(("in time", half), conn.wire.ends(), "still open");
    }
    wrong.eq("timeout", refused("timeout"), 3.0);
    let limits = site.gateway.metrics().sum("tollgate_limits_reached_total", &[("limit", "header_timeout")]);
    wrong.eq("limits", limits, 3.0);
    drop(open(&site));
    site.gateway.wait_metrics("ended", |metrics| {
        metrics.has("tollgate_proxy_protocol_refused_total", &[("listener", "main"), ("reason", "ended")])
    });
    wrong.eq("forwarded", site.upstream.count(), 0);
    wrong.eq("and a good one", status(&site, b"PROXY UNKNOWN\r\n", &Req::get("/public/x")), 200);
    wrong.done();
}

#[test]
fn class_21_a_stranger_announces_nobody() {
    let site = site("");
    let good = [line("192.0.2.1"), Req::get("/public/x").bytes()].concat();
    for bytes in [&good[..], &Req::get("/public/x").bytes()] {
        let mut conn = Conn::open_from("127.0.0.3", site.gateway.address("main"));
        let answer = conn.wire.write(bytes).and_then(|()| conn.read(false));
        assert!(answer.is_err(), "{answer:?}");
    }
    site.gateway.wait_metrics("untrusted", |metrics| {
        let labels = [("listener", "main"), ("reason", "untrusted")];
        metrics.sum("tollgate_proxy_protocol_refused_total", &labels) == 2.0
    });
    let event = site.gateway.wait_log("refused", |line| field(line, "event") == Some("proxy_protocol.refused"));
    assert_eq!(field(&event, "peer"), Some("127.0.0.3"));
    assert_eq!(site.upstream.count(), 0);
}

#[test]
fn the_header_may_come_in_pieces_and_nothing_behind_it_is_lost() {
    let site = site("");
    let request = Req::post("/public/x").body("all of it");
    let mut wrong = Wrong::default();
    for header in [line("192.0.2.1"), block(v2::Command::Proxy, "192.0.2.1")] {
        let whole = [&header[..], &request.bytes()].concat();
        let mut conn = open(&site);
        // Each piece by itself: the socket does not wait to fill a segment.
        let (pieces, rest) = whole.split_at(70.min(header.len()));
        for piece in pieces.chunks(3) {
            conn.write(piece);
            std::thread::sleep(Duration::from_millis(1));
        }
        conn.write(rest);
        wrong.eq("pieces", conn.read_answer().status, 200);
        wrong.eq("body", site.upstream.last().body.as_slice(), b"all of it");
        wrong.eq("the next request on the connection", conn.send(&Req::get("/public/y")).status, 200);
        wrong.eq("is of the same peer", site.upstream.last().header("X-Forwarded-For"), Some("192.0.2.1"));
    }
    // A second header is no request.
    let again = [line("192.0.2.1"), line("192.0.2.2")].concat();
    let got = status(&site, &again, &Req::get("/public/x"));
    wrong.ok("twice", matches!(got, 0 | 400), got);
    wrong.done();
}

#[test]
fn it_comes_before_tls() {
    let authority = Authority::new();
    let identity = authority.identity(&["api.test"]);
    let site = Site::builder()
        .server(&format!("trusted_proxies = [\"{PROXY}\"]"))
        .file("tls/api.crt", &identity.cert)
        .file("tls/api.key", &identity.key)
        .listener("proxy_protocol = true\ntls = { certificates = [{ cert = \"tls/api.crt\", key = \"tls/api.key\" }] }")
        .more(ROUTES)
        .start();
    let address = site.gateway.address("main");
    let mut wrong = Wrong::default();
    for header in [line("192.0.2.1"), block(v2::Command::Proxy, "192.0.2.1")] {
        let mut conn = open(&site);
        conn.write(&header);
        let mut agreed = authority.client().handshake(conn.wire.socket, "api.test").unwrap();
        wrong.eq("status", agreed.conn.send(&Req::get("/public/x")).status, 200);
        let seen = site.upstream.last();
        wrong.eq(
            "peer",
            (seen.header("X-Forwarded-For"), seen.header("X-Forwarded-Proto")),
            (Some("192.0.2.1"), Some("https")),
        );
    }
    wrong.ok("without a header", authority.client().connect(address, "api.test").is_err(), "a handshake");
    wrong.done();
}

#[test]
fn connections_count_for_whom_is_announced() {
    let site = site("connections_per_ip = 2");
    let hold = |client: &str| {
        let mut conn = open(&site);
        conn.write([line(client), Req::get("/public/x").bytes()].concat());
        let status = conn.read(false).map_or(0, |answer| answer.status);
        (conn, status)
    };
    let held = [(); 2].map(|()| hold("192.0.2.1"));
    assert_eq!(held.each_ref().map(|(_, status)| *status), [200, 200]);
    assert_eq!(hold("192.0.2.1").1, 0, "one too many");
    assert_eq!(hold("192.0.2.2").1, 200, "another peer");
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(15);
    while hold("192.0.2.1").1 != 200 {
        assert!(Instant::now() < deadline, "places are not given back");
    }
}

#[test]
fn rates_count_for_whom_is_announced() {
    let limited = "[[routes]]\nname = \"r\"\npath = \"/r\"\nupstream = \"app\"\nallow = [{ public = true }]\n\
                   rate_limit = { per = \"address\", requests = 1, window = \"1h\" }\n";
    let server = format!("trusted_proxies = [\"{PROXY}\"]");
    let site = Site::builder().server(&server).listener("proxy_protocol = true").more(limited).start();
    let got = ["192.0.2.1", "192.0.2.1", "192.0.2.2"].map(|client| status(&site, &line(client), &Req::get("/r")));
    assert_eq!(got, [200, 429, 200]);
}

/// HAProxy in TCP mode, until dropped.
struct HaProxy(Child);

impl HaProxy {
    /// `listeners` are ports and how the header is sent from each.
    fn start(program: &Path, site: &Site, listeners: &[(u16, &str)]) -> Self {
        let mut config =
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n".to_owned();
        for (port, send) in listeners {
            let gateway = site.gateway.address("main");
            config += &format!(
                "listen on-{port}\n bind 127.0.0.1:{port}\n option httpchk GET /public/alive\n http-check send hdr Host api.test\n \
                 server gateway {gateway} source {PROXY} {send} check check-send-proxy inter 200ms\n"
            );
        }
        site.gateway.write("haproxy.cfg", config);
        let file = site.gateway.dir.path().join("haproxy.cfg");
        let mut command = Command::new(program);
        command.args(["-db", "-f"]).arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        let mut haproxy = Self(command.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(15);
        for (port, _) in listeners {
            while TcpStream::connect(("127.0.0.1", *port)).is_err() {
                assert!(haproxy.0.try_wait().unwrap().is_none() && Instant::now() < deadline, "HAProxy does not run");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        haproxy
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

#[test]
fn haproxy_announces_its_callers_and_is_alive_to_itself() {
    let Some(program) = installed("haproxy") else { return };
    let site = site("");
    let listeners = [
        (free_port(), "send-proxy"),
        (free_port(), "send-proxy-v2"),
        (free_port(), "send-proxy-v2 proxy-v2-options unique-id,crc32c"),
    ];
    let _haproxy = HaProxy::start(&program, &site, &listeners);
    let mut wrong = Wrong::default();
    for (port, send) in listeners {
        let mut conn = Conn::open_from("127.0.0.9", SocketAddr::from(([127, 0, 0, 1], port)));
        let answer = conn.send(&Req::get("/public/x").header("X-Sent", send));
        wrong.eq(send, answer.status, 200);
        let seen = site.upstream.requests().into_iter().rfind(|request| request.header("X-Sent") == Some(send));
        wrong.eq(send, seen.unwrap().header("X-Forwarded-For"), Some("127.0.0.9"));
    }
    // Its health checks come from itself, and go on after the first.
    let alive = site.upstream.wait_until(|requests| {
        requests.iter().filter(|request| request.target == "/public/alive").count() > 2 * listeners.len()
    });
    let checks = alive.iter().filter(|request| request.target == "/public/alive");
    wrong.ok("checks", checks.clone().all(|check| check.header("X-Forwarded-For") == Some(PROXY)), "of somebody else");
    wrong.done();
}
