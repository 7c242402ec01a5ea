//! Spans for an OpenTelemetry collector: between the caller's and the upstream's, of the requests that are sampled, and never
//! at a request's expense.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::public::{free_port, installed, place};
use crate::support::site::OPEN;
use crate::support::tls::{self, Authority};
use crate::support::upstream::Recorded;
use crate::support::{Gate, RecordingUpstream, Req, Site, Wrong, field, secrets, send, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
/// More than can wait to be sent, as the documentation has it.
const QUEUE: usize = 4096;

fn collector() -> RecordingUpstream {
    RecordingUpstream::scripted(|exchange| exchange.answer("200 OK", "Content-Type: application/json\r\n", b"{}"))
}

fn otlp(endpoint: &str, lines: &str) -> String {
    format!("[telemetry.otlp]\nendpoint = \"{endpoint}\"\n{lines}\n{OPEN}")
}

fn site(collector: &RecordingUpstream, lines: &str) -> Site {
    Site::with(&otlp(&collector.url(), lines))
}

/// The spans of whole exports.
fn spans(exports: &[Recorded]) -> Vec<Value> {
    let read = |export: &Recorded| {
        assert_eq!((export.method.as_str(), export.target.as_str()), ("POST", "/v1/traces"));
        let document: Value = serde_json::from_slice(&export.body).unwrap();
        document["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()
    };
    exports.iter().filter(|export| export.complete).flat_map(read).collect()
}

/// The spans, once there are so many.
fn wait_spans(collector: &RecordingUpstream, count: usize) -> Vec<Value> {
    spans(&collector.wait_until(|exports| spans(exports).len() >= count))
}

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

/// Trace, span and flags of what the upstream was told last.
fn told(site: &Site) -> Option<[String; 3]> {
    let seen = site.upstream.last();
    let parts: Vec<&str> = seen.header("traceparent")?.split('-').collect();
    assert_eq!((parts.len(), parts[0]), (4, "00"));
    Some([parts[1], parts[2], parts[3]].map(str::to_owned))
}

#[test]
fn a_span_stands_between_the_callers_and_the_upstreams() {
    let collector = collector();
    let site = site(&collector, "");
    let mut wrong = Wrong::default();
    for (case, traceparent, flags) in [
        ("sampled", parent("01"), "01"),
        ("with a random id", parent("03"), "03"),
        ("with what is not known here", parent("ff"), "03"),
        ("of a later version", parent("01").replacen("00", "cc", 1) + "-more", "01"),
    ] {
        let before = spans(&collector.requests()).len();
        let request = Req::get("/public/x").header("traceparent", &traceparent).header("tracestate", "a=1");
        let answer = site.send(&request);
        let [trace, span, told_flags] = told(&site).unwrap();
        wrong.eq((case, "trace"), trace.as_str(), TRACE);
        wrong.ok((case, "a span of its own"), span != SPAN, &span);
        wrong.eq((case, "flags"), told_flags.as_str(), flags);
        wrong.eq((case, "state"), site.upstream.last().header("tracestate"), Some("a=1"));
        wrong.ok((case, "not told back"), answer.header("traceparent").is_none(), &answer);
        let exported = &wait_spans(&collector, before + 1)[before];
        wrong.eq((case, "exported trace"), exported["traceId"].as_str(), Some(TRACE));
        wrong.eq((case, "exported span"), exported["spanId"].as_str(), Some(span.as_str()));
        wrong.eq((case, "exported parent"), exported["parentSpanId"].as_str(), Some(SPAN));
        let log = site.gateway.access_log(&answer.request_id());
        wrong.eq((case, "log"), field(&log, "trace_id"), Some(TRACE));
    }
    // Hop-by-hop is not what a caller can make of it.
    let hidden = Req::get("/public/x").header("traceparent", &parent("01")).header("Connection", "traceparent");
    site.send(&hidden);
    wrong.eq("Connection: traceparent", told(&site).map(|[trace, ..]| trace), Some(TRACE.to_owned()));
    // A caller who says nothing begins a trace here.
    let before = wait_spans(&collector, 5).len();
    let answer = site.send(&Req::get("/public/x"));
    let [trace, span, flags] = told(&site).unwrap();
    let exported = &wait_spans(&collector, before + 1)[before];
    wrong.eq("a new trace", (exported["traceId"].as_str(), exported["spanId"].as_str()), (Some(&*trace), Some(&*span)));
    wrong.eq("no parent", (exported.get("parentSpanId"), flags.as_str()), (None, "01"));
    let log = site.gateway.access_log(&answer.request_id());
    wrong.eq("its log", field(&log, "trace_id"), Some(trace.as_str()));
    wrong.done();
}

#[test]
fn what_is_sampled_is_the_callers_decision_and_else_a_share() {
    let collector = collector();
    let site = site(&collector, "sample = 0.5");
    let mut wrong = Wrong::default();
    // Not sampled: as the caller said it, to the letter.
    for flags in ["00", "02", "fe"] {
        let traceparent = parent(flags);
        site.send(&Req::get("/public/x").header("traceparent", &traceparent));
        wrong.eq(flags, site.upstream.last().header("traceparent"), Some(traceparent.as_str()));
    }
    let mut kept = Vec::new();
    let mut connection = site.connect();
    for _ in 0..200 {
        connection.send(&Req::get("/public/x"));
        let [trace, _, flags] = told(&site).unwrap();
        wrong.ok("flags", flags == "00" || flags == "01", &flags);
        kept.extend((flags == "01").then_some(trace));
    }
    wrong.ok("half of them", (50..150).contains(&kept.len()), kept.len());
    let mut exported: Vec<_> =
        wait_spans(&collector, kept.len()).iter().map(|span| span["traceId"].as_str().unwrap().to_owned()).collect();
    exported.sort_unstable();
    kept.sort_unstable();
    wrong.eq("those and no others", &exported, &kept);
    let metrics = site.gateway.wait_metrics("counted", |metrics| metrics.sum("tollgate_spans_total", &[]) > 0.0);
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let count = kept.len() as f64;
    wrong.eq("counted", metrics.sum("tollgate_spans_total", &[("result", "exported")]), count);
    wrong.done();
}

#[test]
fn what_a_span_tells_as_others_read_it() {
    let Some(python) = installed(place("python/bin/python")) else { return };
    let collector = collector();
    let nowhere = format!(
        "[upstreams.gone]\nservers = [\"http://127.0.0.1:{}\"]\n[[routes]]\nname = \"gone\"\npath = \"/gone/{{id}}\"\n\
         upstream = \"gone\"\nallow = [{{ public = true }}]\n",
        free_port()
    );
    let site = Site::with(&(otlp(&collector.url(), "service_name = \"orders \\\"gateway\\\"\"") + &nowhere));
    let token = site.mint.scoped("orders:read");
    let long = format!("/public/{}", "x".repeat(5000));
    let cases = [
        Req::get("/orders/7?secret=s3cret-in-a-query")
            .host("Api.Test:8443")
            .bearer(&token)
            .header("traceparent", &parent("01")),
        Req::get("/orders/7?access_token=s3cret-in-a-query").host("[::1]:80"),
        Req::get("/orders/8").bearer("not-a-token-of-anybody"),
        Req::new("BREW", "/public/%22quoted%22").bearer("s3cret-of-a-caller"),
        Req::get("/gone/1"),
        Req::get(&long),
    ];
    let mut ids = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        ids.push(site.send(case).request_id());
        // In order: they ended on any of the workers.
        wait_spans(&collector, n + 1);
    }
    let exports = collector.requests();
    for export in &exports {
        let leaks = secrets::found_in(&export.body);
        assert!(leaks.is_empty(), "{leaks:?}");
        assert!(!String::from_utf8_lossy(&export.body).contains("s3cret"));
        assert_eq!(export.header("Content-Type"), Some("application/json"));
    }
    let read: Vec<Value> = exports.iter().flat_map(|export| read_by_others(&python, &export.body)).collect();
    let mut wrong = Wrong::default();
    wrong.eq("spans", read.len(), cases.len());
    let common = |id: &str, host: &str, more: Value| {
        let mut all = json!({
            "url.scheme": "http", "network.protocol.name": "http", "network.protocol.version": "1.1",
            "client.address": "127.0.0.1", "server.address": host, "tollgate.request_id": id,
        });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let orders = |method: &str, path: &str, status: u16, decision: &str| {
        json!({"http.request.method": method, "url.path": path, "http.route": "/**", "http.response.status_code": status,
            "tollgate.route": "all", "tollgate.upstream": "app", "tollgate.decision": decision})
    };
    let with = |mut base: Value, more: Value| {
        base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        base
    };
    let cut = &long[..1024];
    let public = json!({"http.route": "/public/**", "tollgate.route": "public"});
    let gone = json!({"http.route": "/gone/{id}", "tollgate.route": "gone", "tollgate.upstream": "gone",
        "tollgate.reason": "connect", "error.type": "connect"});
    for (n, (name, status, host, attributes)) in [
        ("GET /**", "STATUS_CODE_UNSET", "api.test", orders("GET", "/orders/7", 200, "admitted")),
        (
            "GET /**",
            "STATUS_CODE_UNSET",
            "::1",
            with(orders("GET", "/orders/7", 401, "denied"), json!({"tollgate.reason": "no_credentials"})),
        ),
        (
            "GET /**",
            "STATUS_CODE_UNSET",
            "api.test",
            with(orders("GET", "/orders/8", 401, "denied"), json!({"tollgate.reason": "malformed"})),
        ),
        (
            "HTTP /public/**",
            "STATUS_CODE_UNSET",
            "api.test",
            with(orders("_OTHER", "/public/%22quoted%22", 200, "public"), public.clone()),
        ),
        ("GET /gone/{id}", "STATUS_CODE_ERROR", "api.test", with(orders("GET", "/gone/1", 502, "public"), gone)),
        ("GET /public/**", "STATUS_CODE_UNSET", "api.test", with(orders("GET", cut, 200, "public"), public)),
    ]
    .into_iter()
    .enumerate()
    {
        let span = &read[n];
        wrong.eq((n, "name"), span["name"].as_str(), Some(name));
        wrong.eq((n, "status"), span["status"].as_str(), Some(status));
        wrong.eq((n, "kind"), span["kind"].as_str(), Some("SPAN_KIND_SERVER"));
        wrong.eq((n, "attributes"), &span["attributes"], &common(&ids[n], host, attributes));
        let (remote, parent) = if n == 0 { (0x301, SPAN) } else { (0x101, "") };
        wrong.eq((n, "flags"), span["flags"].as_u64(), Some(remote));
        wrong.eq((n, "parent"), span["parent"].as_str(), Some(parent));
        let time = |name: &str| span[name].as_u64().unwrap();
        wrong.ok((n, "times"), time("start") < time("end") && time("end") - time("start") < 60_000_000_000, span);
        wrong.ok((n, "this day"), time("end") / 1_000_000_000 / 86_400 >= 20_000, span);
        let version = env!("CARGO_PKG_VERSION");
        let resource = json!({"service.name": "orders \"gateway\"", "service.version": version,
            "telemetry.sdk.language": "rust", "telemetry.sdk.name": "tollgate", "telemetry.sdk.version": version});
        wrong.eq((n, "resource"), (&span["resource"], span["scope"].as_str()), (&resource, Some("tollgate")));
    }
    wrong.done();
}

fn read_by_others(python: &Path, export: &[u8]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/otlp_reader.py");
    let mut reader = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    reader.stdin.take().unwrap().write_all(export).unwrap();
    let done = reader.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(export));
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn a_collector_that_takes_no_calls_costs_a_queue_and_no_request() {
    let gate = Gate::default();
    let closed = gate.clone();
    let collector = RecordingUpstream::scripted(move |exchange| {
        exchange.read_body()?;
        closed.wait();
        exchange.answer("200 OK", "", b"{}")
    });
    let site = site(&collector, "timeout = \"1h\"");
    let (mut connection, total) = (site.connect(), QUEUE + 1500);
    for _ in 0..total {
        assert_eq!(connection.send(&Req::get("/public/x")).status, 200);
    }
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let (least, all) = ((total - QUEUE - 512) as f64, total as f64);
    let dropped =
        |metrics: &crate::support::metrics::Metrics| metrics.sum("tollgate_spans_total", &[("result", "queue_full")]);
    let metrics = site.gateway.wait_metrics("what there is no room for", |metrics| dropped(metrics) >= least);
    assert_eq!(metrics.sum("tollgate_spans_total", &[("result", "exported")]), 0.0, "{}", metrics.text);
    assert_eq!(collector.count(), 1, "one call at a time");
    gate.open();
    let metrics =
        site.gateway.wait_metrics("all are counted, once", |metrics| metrics.sum("tollgate_spans_total", &[]) == all);
    let exported = metrics.sum("tollgate_spans_total", &[("result", "exported")]);
    assert_eq!(exported + dropped(&metrics), all, "{}", metrics.text);
}

#[test]
fn a_batch_is_sent_again_where_that_may_help_and_not_for_ever() {
    let gate = Gate::default();
    let mut wrong = Wrong::default();
    let calls = Arc::new(AtomicUsize::new(0));
    let (counted, closed) = (calls.clone(), gate.clone());
    let collector = RecordingUpstream::scripted(move |exchange| {
        exchange.read_body()?;
        match counted.fetch_add(1, Ordering::SeqCst) {
            0 => exchange.answer("503 Service Unavailable", "Retry-After: 0\r\n", b""),
            1 => exchange.answer("429 Too Many Requests", "Retry-After: Thu, 01 Jan 1970 00:00:01 GMT\r\n", b""),
            // It is gone, in the middle of the call.
            2 => Err(std::io::ErrorKind::ConnectionAborted.into()),
            3 => exchange.answer("200 OK", "", br#"{"partialSuccess":{"rejectedSpans":"1","errorMessage":"no"}}"#),
            4 => exchange.answer("400 Bad Request", "Retry-After: 0\r\n", b""),
            5..=9 => exchange.answer("503 Service Unavailable", "Retry-After: 0\r\n", b""),
            _ => {
                closed.wait();
                exchange.answer("200 OK", "", b"{}")
            }
        }
    });
    let site = site(&collector, "");
    let result = |result: &'static str, count: f64| {
        site.gateway
            .wait_metrics(result, |metrics| metrics.sum("tollgate_spans_total", &[("result", result)]) == count);
    };
    site.get("/public/1", None);
    result("rejected", 1.0);
    let seen = collector.requests();
    wrong.eq("calls until it was taken", seen.len(), 4);
    wrong.ok("the same again", seen.iter().all(|export| export.body == seen[0].body), &seen);
    site.get("/public/2", None);
    result("failed", 1.0);
    wrong.eq("a refusal for good", collector.count(), 5);
    site.get("/public/3", None);
    result("failed", 2.0);
    wrong.eq("so often and no more", collector.count(), 10);
    let failed = |log: &Value| field(log, "event") == Some("otlp.failed");
    wrong.ok("told", field(&site.gateway.wait_log("failure", failed), "error").unwrap().contains("503"), ());
    gate.open();
    site.get("/public/4", None);
    result("exported", 1.0);
    let told = |event: &str| site.gateway.output().matches(event).count();
    until("told when it ends", || told("\"otlp.recovered\"") == 2);
    wrong.eq("and once when it begins", told("\"otlp.failed\""), 2);
    wrong.done();
}

#[test]
fn a_reload_takes_up_where_spans_go() {
    let (first, second) = (collector(), collector());
    let site = site(&first, "");
    let mut wrong = Wrong::default();
    let reload = |from: &str, to: &str| {
        let text = site.gateway.read("tollgate.toml");
        assert!(text.contains(from));
        site.gateway.write("tollgate.toml", text.replace(from, to));
        let answer = send(site.gateway.admin(), &Req::post("/reload").host("localhost"));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let sampled = || Req::get("/public/x").header("traceparent", &parent("01"));
    site.send(&sampled());
    // Its span goes where it would have gone.
    reload(&first.url(), &second.url());
    wait_spans(&first, 1);
    site.send(&sampled());
    wait_spans(&second, 1);
    wrong.eq("no longer to the first", spans(&first.requests()).len(), 1);
    reload("[telemetry.otlp]", "[telemetry.otlp]\nsample = 0");
    site.send(&Req::get("/public/x"));
    wrong.eq("a share", told(&site).map(|[.., flags]| flags), Some("00".to_owned()));
    let text = site.gateway.read("tollgate.toml");
    let table = text[text.find("[telemetry.otlp]").unwrap()..text.find("\n[[routes]]").unwrap()].to_owned();
    reload(&table, "");
    site.send(&sampled());
    wrong.eq("none", site.upstream.last().header("traceparent"), Some(parent("01").as_str()));
    site.send(&Req::get("/public/x"));
    wrong.eq("nor a trace", site.upstream.last().header("traceparent"), None);
    site.gateway.terminate();
    wrong.eq("ended", site.gateway.wait_exit().code(), Some(0));
    wrong.eq("to the second", spans(&second.requests()).len(), 1);
    wrong.done();
}

#[test]
fn what_has_ended_is_told_before_the_process_ends() {
    let collector = collector();
    let open = site(&collector, "");
    open.get("/public/x", None);
    open.gateway.signal(Signal::TERM);
    assert_eq!(open.gateway.wait_exit().code(), Some(0));
    assert_eq!(spans(&collector.requests()).len(), 1);

    // But nobody waits long for it: neither for an answer nor for a pause before the next call.
    let gate = Gate::default();
    let closed = gate.clone();
    let silent = RecordingUpstream::scripted(move |exchange| {
        exchange.read_body()?;
        closed.wait();
        Ok(())
    });
    let busy = RecordingUpstream::scripted(|exchange| exchange.answer("503 Busy", "Retry-After: 30\r\n", b""));
    for collector in [silent, busy] {
        let site = site(&collector, "timeout = \"1h\"");
        site.get("/public/x", None);
        collector.wait_for(1);
        site.gateway.signal(Signal::TERM);
        assert_eq!(site.gateway.wait_exit().code(), Some(0));
    }
    gate.open();
}

#[test]
fn the_collector_is_verified_and_sees_what_it_wants_to_see() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let serving = || {
        let config = authority.server(&authority.identity(&["127.0.0.1"]), &[], false);
        RecordingUpstream::over(
            move |socket| tls::accept(&config, socket),
            |exchange| exchange.answer("200 OK", "", b"{}"),
        )
    };
    for (ca, taken) in [("ca.crt", true), ("stranger.crt", false)] {
        let collector = serving();
        let endpoint = format!("https://{}", collector.address);
        let lines = format!(
            "ca = \"{ca}\"\nheaders = {{ Authorization = {{ env = \"COLLECTOR\" }}, X-Tenant = {{ file = \"tenant\" }} }}"
        );
        let site = Site::builder()
            .file("ca.crt", authority.pem())
            .file("stranger.crt", stranger.pem())
            .file("tenant", "orders-team\n")
            .env("COLLECTOR", "Bearer s3cret-of-the-collector")
            .more(&otlp(&endpoint, &lines))
            .start();
        assert_eq!(site.get("/public/x", None).status, 200);
        if taken {
            let seen = &collector.wait_for(1)[0];
            assert_eq!(seen.header("Authorization"), Some("Bearer s3cret-of-the-collector"));
            assert_eq!(seen.header("X-Tenant"), Some("orders-team"));
        } else {
            site.gateway.wait_log("failure", |log| field(log, "event") == Some("otlp.failed"));
            assert_eq!(collector.count(), 0);
        }
    }
}
