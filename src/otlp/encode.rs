//! Spans as the JSON encoding of OTLP has them (opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding"): ids in
//! hexadecimal, names in camel case, numbers of 64 bits as text. Attributes have the names of the stable semantic conventions
//! for HTTP, and `tollgate.` before our own.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Request, Span};
use crate::telemetry::metrics::method_label;

const KIND_SERVER: u32 = 2;
const STATUS_ERROR: u32 = 2;
/// Flags of a span: it is known whether the parent is another process's, and it is.
const PARENT_KNOWN: u32 = 0x100;
const PARENT_REMOTE: u32 = 0x200;
/// Longer texts of a caller are cut off.
const MAX_TEXT_BYTES: usize = 1024;

/// Behind the spans of a request.
pub(super) const EPILOGUE: &str = "]}]}]}";

/// Before the spans of a request: who sends them.
pub(super) fn prologue(service_name: &str) -> String {
    let resource = Resource {
        attributes: &[
            attribute("service.name", service_name),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
            attribute("telemetry.sdk.language", "rust"),
            attribute("telemetry.sdk.name", "tollgate"),
            attribute("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
        ],
    };
    let resource = serde_json::to_string(&resource).expect("texts are JSON");
    let version = env!("CARGO_PKG_VERSION");
    [
        "{\"resourceSpans\":[{\"resource\":",
        &resource,
        ",\"scopeSpans\":[{\"scope\":{\"name\":\"tollgate\",\"version\":\"",
        version,
        "\"},\"spans\":[",
    ]
    .concat()
}

/// One span.
pub(super) fn span(span: &Span, request: &Request<'_>) -> Vec<u8> {
    let method = method_label(request.method);
    let known = method != "other";
    let client = request.client.to_string();
    let failed = request.broken || request.status.is_some_and(|status| status >= 500);
    let status = request.status.as_ref().map(u16::to_string);
    let told = [
        ("http.request.method", Some(if known { method } else { "_OTHER" })),
        ("url.scheme", Some(if request.https { "https" } else { "http" })),
        ("url.path", Some(cut(request.path))),
        ("http.route", request.route.map(|(_, pattern)| pattern)),
        ("network.protocol.name", Some("http")),
        ("network.protocol.version", Some(version(request.version))),
        ("server.address", request.host.map(cut)),
        ("client.address", Some(&client)),
        ("error.type", request.reason.or(status.as_deref()).filter(|_| failed)),
        ("tollgate.request_id", Some(request.request_id)),
        ("tollgate.route", request.route.map(|(name, _)| name)),
        ("tollgate.upstream", request.upstream),
        ("tollgate.decision", Some(request.decision)),
        ("tollgate.reason", request.reason),
    ];
    let told = told.into_iter().filter_map(|(key, value)| Some(attribute(key, value?)));
    let status = request
        .status
        .map(|status| Attribute { key: "http.response.status_code", value: Value::Int(Decimal(status.into())) });
    let attributes: Vec<Attribute<'_>> = told.chain(status).collect();
    // For spans of one kind to be told apart by their names, these are few: never a path that a caller made up.
    let shown = if known { method } else { "HTTP" };
    let name = request.route.map_or(Cow::Borrowed(shown), |(_, pattern)| Cow::Owned([shown, " ", pattern].concat()));
    let encoded = Encoded {
        trace_id: span.own.trace_id(),
        span_id: span.own.span_id(),
        parent_span_id: span.parent.as_ref().map(|parent| parent.span_id()),
        flags: u32::from(span.own.flags()) | PARENT_KNOWN | if span.parent.is_some() { PARENT_REMOTE } else { 0 },
        name: &name,
        kind: KIND_SERVER,
        start_time_unix_nano: nanoseconds(request.ended.saturating_sub(request.duration)),
        end_time_unix_nano: nanoseconds(request.ended),
        attributes: &attributes,
        status: failed.then_some(Status { code: STATUS_ERROR }),
    };
    serde_json::to_vec(&encoded).expect("texts and numbers are JSON")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Encoded<'a> {
    trace_id: &'a str,
    span_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<&'a str>,
    flags: u32,
    name: &'a str,
    kind: u32,
    start_time_unix_nano: Decimal,
    end_time_unix_nano: Decimal,
    attributes: &'a [Attribute<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Serialize)]
struct Status {
    code: u32,
}

#[derive(Serialize)]
struct Resource<'a> {
    attributes: &'a [Attribute<'a>],
}

#[derive(Serialize)]
struct Attribute<'a> {
    key: &'static str,
    value: Value<'a>,
}

#[derive(Serialize)]
enum Value<'a> {
    #[serde(rename = "stringValue")]
    Text(&'a str),
    #[serde(rename = "intValue")]
    Int(Decimal),
}

/// A number as text: JSON's own lose digits on the way.
struct Decimal(u64);

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn attribute<'a>(key: &'static str, value: &'a str) -> Attribute<'a> {
    Attribute { key, value: Value::Text(value) }
}

fn nanoseconds(time: Duration) -> Decimal {
    Decimal(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

fn version(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "1.0",
        http::Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// At the end of a character.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]
}
