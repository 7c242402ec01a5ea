//! W3C Trace Context: where the gateway is no span, what a caller says of its trace reaches the upstream as it is, or not at all.
//! `otlp` has the rest.

use crate::support::{Req, Site, Wrong, field};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[test]
fn a_trace_is_passed_on_as_it_is_and_logged() {
    let site = Site::open();
    let mut wrong = Wrong::default();
    for (case, fields, parent, state) in [
        ("none", &[][..], None, None),
        ("both", &[("traceparent", PARENT), ("tracestate", "a=1,b=2")], Some(PARENT), Some("a=1,b=2")),
        ("other letters", &[("TraceParent", PARENT)], Some(PARENT), None),
        ("a state that cannot be read", &[("traceparent", PARENT), ("tracestate", "a=1,=")], Some(PARENT), None),
        ("a state alone", &[("tracestate", "a=1")], None, None),
        ("zeros", &[("traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01")], None, None),
        ("two", &[("traceparent", PARENT), ("traceparent", PARENT), ("tracestate", "a=1")], None, None),
        ("markup", &[("traceparent", "\"><script>"), ("tracestate", "a=1")], None, None),
    ] {
        let request = fields.iter().fold(Req::get("/public/x"), |request, (name, value)| request.header(name, value));
        let answer = site.send(&request);
        let seen = site.upstream.last();
        wrong.eq((case, "parent"), seen.header("traceparent"), parent);
        wrong.eq((case, "state"), seen.header("tracestate"), state);
        let log = site.gateway.access_log(&answer.request_id());
        wrong.eq((case, "log"), field(&log, "trace_id"), parent.map(|_| TRACE));
        wrong.ok((case, "not told back"), answer.header("traceparent").is_none(), &answer);
    }
    let denied = site.send(&Req::get("/private").header("traceparent", PARENT));
    let log = site.gateway.access_log(&denied.request_id());
    wrong.eq("of a denial too", (denied.status, field(&log, "trace_id")), (401, Some(TRACE)));
    wrong.done();
}
