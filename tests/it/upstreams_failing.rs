//! Servers of an upstream: where they listen, which one a request goes to, and what becomes of it when one fails.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use crate::support::h2::H2Upstream;
use crate::support::site::OPEN;
use crate::support::{Req, Site, Wrong};

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
