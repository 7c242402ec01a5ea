//! What is written of requests and of logins, where, and what happens when it cannot be.

use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use crate::support::gateway::Gateway;
use crate::support::server::{self, password_form};
use crate::support::{Req, Site, Wrong, field, until};

/// A gateway whose audit events go to `file`.
fn audited(file: &str) -> Site {
    server::builder().more(&format!("[log]\naudit = \"{file}\"")).start()
}

fn contains(gateway: &Gateway, file: &str, text: &str) -> bool {
    std::fs::read_to_string(gateway.dir.path().join(file)).is_ok_and(|lines| lines.contains(text))
}

#[test]
fn audit_events_have_a_file_of_their_own_that_moves_aside_without_a_loss() {
    let site = audited("audit.log");
    let mut wrong = Wrong::default();
    let log_in = |client: &str| assert_eq!(server::log_in(&site, client, &[]).status, 200);
    log_in("billing");
    server::ask(&site, "billing", &password_form("alice", "a-wrong-password", &[]));
    until("both are there", || contains(&site.gateway, "audit.log", "\"event\":\"refusal\""));
    let path = site.gateway.dir.path().join("audit.log");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    wrong.eq("for its owner alone", mode & 0o777, 0o600);

    std::fs::rename(&path, path.with_extension("log.1")).unwrap();
    log_in("short");
    site.gateway.signal(Signal::USR1);
    until("it is made anew", || path.exists());
    wrong.eq("for its owner alone", std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    log_in("always");
    until("the next is in the new one", || contains(&site.gateway, "audit.log", "\"client\":\"always\""));
    let (old, new) = (site.gateway.read("audit.log.1"), site.gateway.read("audit.log"));
    wrong.ok("the old one ends before", !old.contains("\"always\"") && !new.contains("\"billing\""), &new);
    wrong.eq("nothing was lost", (old.clone() + &new).matches("\"event\":\"grant\"").count(), 3);
    for line in old.lines().chain(new.lines()) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}"));
        wrong.eq("only these", field(&line, "target"), Some("audit"));
    }
    let output = site.gateway.output();
    wrong.ok("and not elsewhere", !output.contains("\"target\":\"audit\""), &output);
    wrong.done();
}

#[test]
fn a_full_disk_is_told_and_holds_nobody_up() {
    let site = audited("/dev/full");
    site.gateway.wait_log("it cannot be written", |line| field(line, "event") == Some("log.failed"));
    for _ in 0..20 {
        assert_eq!(server::log_in(&site, "billing", &[]).status, 200);
    }
    site.gateway.terminate();
    site.gateway.wait_exit();
    let output = site.gateway.output();
    assert!(output.contains("audit events could not be written to the end"), "{output}");
    assert_eq!(output.matches("log.failed").count(), 1, "once is enough: {output}");
}

#[test]
fn without_a_file_sigusr1_changes_nothing() {
    let site = server::start();
    site.gateway.signal(Signal::USR1);
    assert_eq!(server::log_in(&site, "billing", &[]).status, 200);
    site.gateway.wait_log("audit events are with the others", |line| field(line, "target") == Some("audit"));
    assert!(site.gateway.ended().is_none());
}

#[test]
fn a_sample_leaves_out_only_what_went_well() {
    let site = Site::builder()
        .more("[log]\naccess_sample = 0\n")
        .more(crate::support::site::OPEN)
        .more("[upstreams.away]\nservers = [\"http://127.0.0.1:1\"]\n[[routes]]\npath = \"/away\"\nupstream = \"away\"\nallow = [{ public = true }]")
        .start();
    let fine: Vec<String> = (0..5).map(|_| site.get("/public/x", None).request_id()).collect();
    let mut wrong = Wrong::default();
    for (case, answer, status) in [
        ("denied", site.get("/private", None), 401),
        ("failed", site.get("/away", None), 502),
        ("refused", site.send(&Req::get("/a/../b")), 400),
    ] {
        wrong.eq(case, answer.status, status);
        site.gateway.access_log(&answer.request_id());
    }
    // Lines are written in the order in which answers ended, so those would have stood before.
    let output = site.gateway.output();
    for id in &fine {
        wrong.ok("left out", !output.contains(id.as_str()), id);
    }
    let counted = site.gateway.metrics().sum("tollgate_requests_total", &[("status", "200")]);
    wrong.eq("counted all the same", counted, 5.0);
    wrong.done();
}
