//! A process that takes over from another, and what the service manager passes on and is told.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::gateway::{binary, value};
use crate::support::http::Conn;
use crate::support::server::{HOST, SECRET, basic, builder, log_in, refresh, refresh_form, token_request, tokens};
use crate::support::wire::PATIENCE;
use crate::support::{Req, Site, Wrong, send, until};

/// Sets it when the test is over, also by a panic: others wait for it.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The process that took over, ended with the test.
struct Next(Pid);

impl Next {
    /// Asks the gateway for it and waits until it serves.
    fn of(site: &Site) -> Self {
        site.gateway.signal(Signal::USR2);
        let done = site.gateway.wait_log("somebody took over", |line| line["event"] == "upgrade.done");
        let pid = value(&done, "pid").and_then(serde_json::Value::as_i64).unwrap();
        Self(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap())
    }

    fn runs(&self) -> bool {
        // A process that nobody waited for is still there, as a zombie.
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.0.as_raw_nonzero())).unwrap_or_default();
        state
            .rsplit(')')
            .next()
            .is_some_and(|rest| !rest.trim_start().is_empty() && !rest.trim_start().starts_with('Z'))
    }
}

impl Drop for Next {
    fn drop(&mut self) {
        let _gone = kill_process(self.0, Signal::KILL);
        until("the next process ended", || !self.runs());
    }
}

#[test]
fn no_request_fails_while_another_process_takes_over() {
    let site = builder().embedded().start();
    let (access, refresh_token) = tokens(&log_in(&site, "billing", &[("scope", "orders:read offline_access")]));
    let (address, admin) = (site.gateway.address("main"), site.gateway.admin());
    let (done, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let outcomes: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let note = |outcome: String| *outcomes.lock().unwrap().entry(outcome).or_default() += 1;
    thread::scope(|scope| {
        for worker in 0..4 {
            let (done, sent, note, access) = (&done, &sent, &note, &access);
            scope.spawn(move || {
                let request = Req::get("/orders/1").host(HOST).bearer(access);
                let mut kept = Conn::open(address);
                while !done.load(Ordering::Relaxed) {
                    // Two on connections that are kept as long as they may be, two on new ones.
                    let answer =
                        if worker < 2 { kept.try_send(&request) } else { Conn::open(address).try_send(&request) };
                    if answer.as_ref().is_ok_and(|answer| answer.header("connection") == Some("close")) {
                        kept = Conn::open(address);
                    }
                    note(answer.map_or_else(|error| error.to_string(), |answer| answer.status.to_string()));
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let over = Done(&done);
        let wait_for = |more: usize| {
            let before = sent.load(Ordering::Relaxed);
            until("requests went on", || sent.load(Ordering::Relaxed) >= before + more);
        };
        wait_for(50);
        let next = Next::of(&site);
        assert_eq!(site.gateway.wait_exit().code(), Some(0));
        wait_for(50);
        drop(over);

        let mut wrong = Wrong::default();
        let all = outcomes.lock().unwrap().clone();
        wrong.ok("answers", all.keys().eq(["200"]), all);
        wrong.ok("it runs", next.runs(), "it ended");
        // What the one before knew, the next one knows.
        let (_, again) = tokens(&refresh(&site, "billing", &refresh_token));
        wrong.ok("a refresh token from before", again != refresh_token, "the same");
        wrong.eq("the operators' listener", send(admin, &Req::get("/readyz").host("localhost")).status, 200);
        wrong.done();
    });
}

#[test]
fn the_token_endpoint_asks_for_a_moment_at_most() {
    let site = builder().embedded().start();
    let (_, mut refresh_token) = tokens(&log_in(&site, "billing", &[("scope", "orders:read offline_access")]));
    let mut wrong = Wrong::default();
    let (done, address) = (AtomicBool::new(false), site.gateway.address("main"));
    let mut answers = 0;
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| {
            let next = Next::of(&site);
            site.gateway.wait_exit();
            done.store(true, Ordering::Relaxed);
            next
        });
        let mut last = false;
        while !last {
            last = done.load(Ordering::Relaxed);
            let request =
                token_request(&refresh_form(&refresh_token, &[])).header("Authorization", &basic("billing", SECRET));
            let answer = send(address, &request);
            match answer.status {
                200 => (_, refresh_token) = tokens(&answer),
                503 => drop(wrong.eq("a moment", answer.header("retry-after"), Some("1"))),
                other => drop(wrong.eq("an answer", other, 200)),
            }
            answers += 1;
        }
        wrong.ok("answers", answers > 3, answers);
        // The one that is left works: no rotation was lost, none was made twice.
        wrong.eq("at the end", refresh(&site, "billing", &refresh_token).status, 200);
        drop(upgrade.join().unwrap());
    });
    wrong.done();
}

#[test]
fn a_connection_is_answered_once_more_and_told_to_go() {
    let site = builder().embedded().limits("drain_timeout = \"20s\"").start();
    let (access, _) = tokens(&log_in(&site, "billing", &[("scope", "orders:read offline_access")]));
    let request = Req::get("/orders/1").host(HOST).bearer(&access);
    let mut kept = site.connect();
    assert_eq!(kept.send(&request).status, 200);
    let next = Next::of(&site);
    let mut wrong = Wrong::default();
    // Whoever has a connection to the one before may ask once more, and is told to go.
    let answer = kept.send(&request);
    wrong.eq("the last", (answer.status, answer.header("connection")), (200, Some("close")));
    wrong.eq("the end", site.gateway.wait_exit().code(), Some(0));
    wrong.eq("a new connection", site.send(&request).status, 200);
    wrong.ok("it runs", next.runs(), "it ended");
    wrong.done();
}

#[test]
fn a_process_that_cannot_take_over_changes_nothing() {
    let site = builder().embedded().start();
    let (access, refresh_token) = tokens(&log_in(&site, "billing", &[("scope", "orders:read offline_access")]));
    let config = site.gateway.read("tollgate.toml");
    let mut wrong = Wrong::default();
    site.gateway.write("tollgate.toml", config.clone() + "\nunknown = 1\n");
    site.gateway.signal(Signal::USR2);
    site.gateway.wait_log("it failed", |line| line["event"] == "upgrade.failed");
    site.gateway.write("tollgate.toml", &config);
    wrong.eq("traffic", site.get("/orders/1", Some(&access)).status, 200);
    wrong.eq("the store", refresh(&site, "billing", &refresh_token).status, 200);
    wrong.eq("it runs", site.gateway.ended(), None);
    wrong.done();
}

#[test]
fn a_store_in_memory_is_not_handed_over() {
    let site = builder().start();
    site.gateway.signal(Signal::USR2);
    let failed = site.gateway.wait_log("it says so", |line| line["event"] == "upgrade.failed");
    assert!(failed["error"].as_str().unwrap().contains("store in memory"), "{failed}");
    assert_eq!(log_in(&site, "billing", &[]).status, 200);
}

#[test]
fn the_store_comes_back_from_a_process_that_ends_before_it_serves() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("tollgate");
    std::fs::copy(binary().get_program(), &program).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let more = format!(
        "[store.embedded]\npath = \"data\"\n[authorization_server]\naccess_token_format = \"opaque\"\n\
         [authorization_server.clients.job]\nsecret = {{ value = \"{SECRET}\" }}\n\
         grants = [\"client_credentials\"]\nscopes = [\"x\"]\ndefault_scopes = [\"x\"]\n"
    );
    let gateway = Bare::run(Command::new(&program), address, &more, |command| {
        let command = command.env("LISTEN_FDS", "1").env("LISTEN_FDS_FIRST_FD", "0");
        command.stdin(Stdio::from(OwnedFd::from(socket)))
    });
    let ask = || {
        let form = token_request("grant_type=client_credentials").header("Authorization", &basic("job", SECRET));
        Conn::open(address).try_send(&form).map_or(0, |answer| answer.status)
    };
    until("it serves", || ask() == 200);
    // In the place of the program is one that asks for the store, keeps it for as long as it is let, and ends.
    let (asked, gate) = (dir.path().join("asked"), dir.path().join("gate"));
    let next = format!(
        "#!/bin/sh\nread sockets\necho store >&0\nread closed\ntouch '{}'\nwhile [ ! -e '{}' ]; do sleep 0.02; done\n",
        asked.display(),
        gate.display()
    );
    let replaced = dir.path().join("next");
    std::fs::write(&replaced, next).unwrap();
    std::fs::set_permissions(&replaced, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&replaced, &program).unwrap();
    gateway.signal(Signal::USR2);
    until("it has the store", || asked.exists());
    assert_eq!(ask(), 503);
    std::fs::write(gate, "").unwrap();
    until("the store is back", || ask() == 200);
}

/// A gateway with nothing but its sockets, in the hands of a test.
struct Bare {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Bare {
    fn start(listener: SocketAddr, command: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        Self::run(binary(), listener, "", command)
    }

    fn run(
        mut binary: Command,
        listener: SocketAddr,
        more: &str,
        command: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "[server]\npublic_url = \"http://127.0.0.1\"\nworkers = 1\n[server.limits]\ndrain_timeout = \"2s\"\n\
             [admin]\naddress = \"127.0.0.1:0\"\n[listeners.main]\naddress = \"{listener}\"\n\
             [upstreams.app]\nservers = [\"http://127.0.0.1:9\"]\n\
             [[routes]]\nname = \"all\"\npath = \"/x\"\nupstream = \"app\"\nallow = [{{ public = true }}]\n\
             {more}"
        );
        std::fs::write(dir.path().join("tollgate.toml"), config).unwrap();
        let child = command(binary.args(["run"]).current_dir(dir.path()).stdout(Stdio::null())).spawn().unwrap();
        Self { child, _dir: dir }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), signal).unwrap();
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sockets_of_the_service_manager_are_used() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // It waits in the queue before there is anybody to accept it.
    let mut early = Conn::open(address);
    early.write(Req::get("/y").host(HOST).bytes());
    let _gateway = Bare::start(address, |command| {
        // The first descriptor is its standard input.
        let command = command.env("LISTEN_FDS", "1").env("LISTEN_FDS_FIRST_FD", "0");
        command.stdin(Stdio::from(OwnedFd::from(socket)))
    });
    assert_eq!(early.read_answer().status, 404);
}

#[test]
fn the_service_manager_is_told_what_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut gateway = Bare::start("127.0.0.1:0".parse().unwrap(), |command| {
        command.env("NOTIFY_SOCKET", dir.path().join("notify")).env("WATCHDOG_USEC", "200000")
    });
    let wait_for = |wanted: &str| {
        let mut text = [0; 1024];
        loop {
            let length = manager.recv(&mut text).unwrap_or_else(|error| panic!("never told {wanted}: {error}"));
            let told = String::from_utf8_lossy(&text[..length]).into_owned();
            if told.lines().any(|line| line == wanted || (wanted.ends_with('=') && line.starts_with(wanted))) {
                return told;
            }
        }
    };
    wait_for("READY=1");
    wait_for("WATCHDOG=1");
    wait_for("WATCHDOG=1");
    gateway.signal(Signal::HUP);
    assert!(wait_for("RELOADING=1").contains("MONOTONIC_USEC="));
    wait_for("READY=1");
    gateway.signal(Signal::USR2);
    let main = wait_for("MAINPID=");
    let pid = main.trim().trim_start_matches("MAINPID=").parse().unwrap();
    let next = Next(Pid::from_raw(pid).unwrap());
    assert_eq!(gateway.child.wait().unwrap().code(), Some(0));
    kill_process(next.0, Signal::TERM).unwrap();
    wait_for("STOPPING=1");
}
