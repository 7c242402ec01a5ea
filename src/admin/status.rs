//! `/status`: what the gateway does now, as one page and as JSON. Everything is read from the metrics and from what serves;
//! nothing is counted for it. The page has no script, and nothing on it is loaded from anywhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, context};
use serde::Serialize;

use super::{Configuration, Control};
use crate::authorization_server::KeyInfo;
use crate::clock::UnixSeconds;
use crate::gateway::Gateway;
use crate::gateway::plan::RoutePlan;
use crate::telemetry::denials::Denial;
use crate::telemetry::log::timestamp;
use crate::telemetry::readings::{Readings, Series};
use crate::{token, upstream};

const PAGE: &str = include_str!("status.html");
const STYLE: &str = include_str!("status.css");

/// Everything that is shown. Counts are since the start of the process.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    now: UnixSeconds,
    started_at: UnixSeconds,
    /// Why no traffic should be sent here; empty when it should.
    not_ready: Vec<String>,
    configuration: Configuration,
    totals: Totals,
    listeners: Vec<Listener>,
    routes: Vec<Route>,
    upstreams: Vec<Upstream>,
    issuers: Vec<Issuer>,
    /// Of the embedded authorization server.
    signing_keys: Vec<KeyInfo>,
    caches: Vec<Cache>,
    certificates: Vec<Certificate>,
    password_grant: Vec<PasswordGrant>,
    /// The latest first.
    denials: Vec<Denial>,
}

#[derive(Debug, Serialize)]
struct Totals {
    requests: u64,
    denied: u64,
    /// Answers of 500 and more.
    failed: u64,
    connections: u64,
    panics: u64,
    log_lines_dropped: u64,
}

#[derive(Debug, Serialize)]
struct Listener {
    name: String,
    connections: u64,
    accepted: u64,
}

#[derive(Debug, Serialize)]
struct Route {
    name: String,
    /// Absent: what no route is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    requests: u64,
    denied: u64,
    failed: u64,
    /// How many of what was denied for which reason.
    reasons: BTreeMap<String, u64>,
    /// An upper bound in seconds; absent: no request yet, or beyond the last bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Upstream {
    name: String,
    requests: u64,
    errors: BTreeMap<String, u64>,
    /// Open now.
    connections: usize,
    connections_opened: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Issuer {
    name: String,
    /// The `iss` of its tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    verified: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Keys>,
    #[serde(skip_serializing_if = "Option::is_none")]
    introspection: Option<Introspection>,
}

#[derive(Debug, Serialize)]
struct Keys {
    count: usize,
    /// Whether there ever were any.
    loaded: bool,
    /// Since they were last found to be current; absent for those that nobody fetches.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    failed_fetches: u64,
}

#[derive(Debug, Serialize)]
struct Introspection {
    failing: bool,
    calls: u64,
    failed_calls: u64,
}

#[derive(Debug, Serialize)]
struct Cache {
    name: String,
    entries: u64,
    hits: u64,
    misses: u64,
    /// From 0 to 1; absent: nothing was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    hit_rate: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Certificate {
    listener: String,
    /// Its place in the list, from 1.
    certificate: String,
    not_after: u64,
}

#[derive(Debug, Serialize)]
struct PasswordGrant {
    client: String,
    tokens: u64,
}

impl Status {
    pub(super) fn of(control: &Control, now: UnixSeconds) -> Self {
        let gateway = control.gateway();
        gateway.measure();
        let readings = control.metrics.readings();
        let server = gateway.authorization_server();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            now,
            started_at: control.started_at,
            not_ready: control.not_ready(),
            configuration: control.configuration(),
            totals: Totals {
                requests: readings.sum("requests_total"),
                denied: readings.sum("denials_total") + readings.sum("token_requests_refused_total"),
                failed: readings.series("requests_total").filter(has_failed).map(|series| series.value()).sum(),
                connections: readings.sum("connections"),
                panics: readings.sum("panics_total"),
                log_lines_dropped: readings.sum("log_lines_dropped_total"),
            },
            listeners: listeners(&readings),
            routes: routes(&gateway, &readings),
            upstreams: upstreams(&gateway, &readings),
            issuers: issuers(&gateway, &readings),
            signing_keys: server.map(|server| server.list_keys()).unwrap_or_default(),
            caches: caches(&gateway, &readings),
            certificates: certificates(&readings),
            password_grant: password_grant(&readings),
            denials: control.metrics.latest_denials(),
        }
    }

    /// The page, and the policy by which a browser shows it. With `refresh` it is asked for again every few seconds.
    pub(super) fn page(&self, refresh: bool) -> Result<(String, String), minijinja::Error> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment.add_filter("time", |seconds: u64| timestamp(seconds));
        environment.add_filter("span", span);
        environment.add_filter("thousands", thousands);
        environment.add_filter("bound", |seconds: f64| match seconds < 1.0 {
            true => format!("{} ms", seconds * 1000.0),
            false => format!("{seconds} s"),
        });
        environment.add_filter("percent", |share: f64| format!("{:.1} %", share * 100.0));
        environment.add_template("status.html", PAGE)?;
        let values = context! { style => STYLE, refresh, status => Serde(self) };
        let page = environment.get_template("status.html")?.render(values)?;
        let style = BASE64.encode(digest(&SHA256, STYLE.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{style}'; img-src data:; form-action 'none'; frame-ancestors 'none'; \
             base-uri 'none'"
        );
        Ok((page, policy))
    }
}

fn has_failed(series: &Series<'_>) -> bool {
    series.label("status").starts_with('5')
}

fn listeners(readings: &Readings) -> Vec<Listener> {
    let accepted = readings.by("connections_accepted_total", "listener");
    let open = readings.by("connections", "listener");
    let listener = |(name, open): (&str, u64)| Listener {
        name: name.to_owned(),
        connections: open,
        accepted: accepted.get(name).copied().unwrap_or_default(),
    };
    open.into_iter().map(listener).collect()
}

fn routes(gateway: &Gateway, readings: &Readings) -> Vec<Route> {
    let requests = readings.by("requests_total", "route");
    let failed = readings.by_where("requests_total", "route", has_failed);
    let p99 = readings.quantiles("request_duration_seconds", "route", 0.99);
    let mut reasons: BTreeMap<&str, BTreeMap<String, u64>> = BTreeMap::new();
    for series in readings.series("denials_total") {
        let of_route = reasons.entry(series.label("route")).or_default();
        of_route.insert(series.label("reason").to_owned(), series.value());
    }
    const OWN: &str = "(authorization_server)";
    let refused = readings.by("token_requests_refused_total", "error");
    reasons.insert(OWN, refused.into_iter().map(|(error, count)| (error.to_owned(), count)).collect());
    let route = |name: &str, path: Option<String>| {
        let reasons = reasons.get(name).cloned().unwrap_or_default();
        Route {
            name: name.to_owned(),
            path,
            requests: requests.get(name).copied().unwrap_or_default(),
            denied: reasons.values().sum(),
            failed: failed.get(name).copied().unwrap_or_default(),
            reasons,
            p99_seconds: p99.get(name).copied().filter(|bound| bound.is_finite()),
        }
    };
    let path = |plan: &RoutePlan| {
        let hosts: Vec<String> = plan.hosts.iter().map(ToString::to_string).collect();
        format!("{}{}", hosts.join(", "), plan.path_text)
    };
    let configured = gateway.routes().all().iter().map(|own| route(&own.plan.name, Some(path(&own.plan))));
    let own = gateway.authorization_server().map(|_| route(OWN, None));
    configured.chain(own).chain([route("(none)", None)]).collect()
}

fn upstreams(gateway: &Gateway, readings: &Readings) -> Vec<Upstream> {
    let requests = readings.by("upstream_requests_total", "upstream");
    let opened = readings.by("upstream_connections_opened_total", "upstream");
    let p99 = readings.quantiles("upstream_response_seconds", "upstream", 0.99);
    let upstream = |own: &Arc<upstream::Upstream>| {
        let name: &str = own.name();
        let errors = readings.by_where("upstream_errors_total", "kind", |series| series.label("upstream") == name);
        Upstream {
            name: name.to_owned(),
            requests: requests.get(name).copied().unwrap_or_default(),
            errors: errors.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect(),
            connections: own.connections(),
            connections_opened: opened.get(name).copied().unwrap_or_default(),
            p99_seconds: p99.get(name).copied().filter(|bound| bound.is_finite()),
        }
    };
    gateway.upstreams().iter().map(upstream).collect()
}

fn issuers(gateway: &Gateway, readings: &Readings) -> Vec<Issuer> {
    let verified = readings.by("tokens_verified_total", "issuer");
    let failed = readings.by_where("key_fetches_total", "issuer", |series| series.label("result") == "failure");
    let failing = readings.by("introspection_failing", "issuer");
    let calls = readings.by("introspection_calls_total", "issuer");
    let answered = readings.by_where("introspection_calls_total", "issuer", |series| {
        ["active", "inactive", "unsupported_token_type"].contains(&series.label("result"))
    });
    let issuer = |own: &Arc<token::Issuer>| {
        let name: &str = &own.settings.name;
        let of = |counts: &BTreeMap<&str, u64>| counts.get(name).copied().unwrap_or_default();
        Issuer {
            name: name.to_owned(),
            issuer: own.settings.issuer().map(str::to_owned),
            verified: of(&verified),
            keys: own.keys.as_ref().map(|keys| Keys {
                count: keys.current().len(),
                loaded: keys.state().loaded,
                age_seconds: keys.age().map(|age| age.as_secs()),
                failed_fetches: of(&failed),
            }),
            introspection: own.introspector.as_ref().map(|_| Introspection {
                failing: of(&failing) > 0,
                calls: of(&calls),
                failed_calls: of(&calls) - of(&answered),
            }),
        }
    };
    gateway.verifier().issuers().iter().map(issuer).collect()
}

fn caches(gateway: &Gateway, readings: &Readings) -> Vec<Cache> {
    let cache = |name: String, entries: u64, hits: u64, misses: u64| {
        #[expect(clippy::cast_precision_loss, reason = "for people to read")]
        let hit_rate = (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64);
        Cache { name, entries, hits, misses, hit_rate }
    };
    let (hits, misses) = (readings.sum("tokens_cached_total"), readings.sum("tokens_verified_total"));
    let tokens = cache("verified tokens".to_owned(), readings.sum("token_cache_entries"), hits, misses);
    let entries = readings.by("introspection_cache_entries", "issuer");
    let misses = readings.by_where("introspection_lookups_total", "issuer", |series| series.label("found") == "miss");
    let lookups = readings.by("introspection_lookups_total", "issuer");
    let asked = gateway.verifier().issuers().iter().filter(|issuer| issuer.introspector.is_some());
    let asked = asked.map(|issuer| {
        let name: &str = &issuer.settings.name;
        let of = |counts: &BTreeMap<&str, u64>| counts.get(name).copied().unwrap_or_default();
        cache(format!("introspection of {name}"), of(&entries), of(&lookups) - of(&misses), of(&misses))
    });
    std::iter::once(tokens).chain(asked).collect()
}

fn certificates(readings: &Readings) -> Vec<Certificate> {
    let certificate = |series: Series<'_>| Certificate {
        listener: series.label("listener").to_owned(),
        certificate: series.label("certificate").to_owned(),
        not_after: series.value(),
    };
    let mut all: Vec<Certificate> = readings.series("certificate_not_after_seconds").map(certificate).collect();
    all.sort_by_key(|certificate| certificate.not_after);
    all
}

/// Who still asks for tokens with passwords, the busiest first.
fn password_grant(readings: &Readings) -> Vec<PasswordGrant> {
    let used = readings.by_where("tokens_issued_total", "client", |series| series.label("grant") == "password");
    let client = |(client, tokens): (&str, u64)| PasswordGrant { client: client.to_owned(), tokens };
    let mut all: Vec<PasswordGrant> = used.into_iter().map(client).collect();
    all.sort_by_key(|own| std::cmp::Reverse(own.tokens));
    all
}

/// Seconds in their two largest units.
fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let first = UNITS.iter().position(|(length, _)| seconds >= *length).unwrap_or(UNITS.len() - 1);
    let (length, unit) = UNITS[first];
    let whole = format!("{} {unit}", seconds / length);
    match UNITS.get(first + 1).map(|(next, unit)| (seconds % length / next, unit)) {
        Some((rest, unit)) if rest > 0 => format!("{whole} {rest} {unit}"),
        _ => whole,
    }
}

/// With a thin space before each three digits.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        let spans =
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3_725, "1 h 2 min"), (172_800, "2 d"), (90_061, "1 d 1 h")];
        for (seconds, text) in spans {
            assert_eq!(span(seconds), text);
        }
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1\u{202f}000"), (1_234_567, "1\u{202f}234\u{202f}567")] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn nothing_that_is_shown_becomes_markup() {
        const HOSTILE: &str = "</td><script>alert(1)</script><img src=x onerror='a'> \" & {{ 7 * 7 }}";
        let text = || HOSTILE.to_owned();
        let counts = || BTreeMap::from([(text(), 1)]);
        let status = Status {
            version: "1",
            now: 2_000_000_000,
            started_at: 1_999_990_000,
            not_ready: vec![text()],
            configuration: Configuration { generation: 1, reloaded_at: Some(1), problems: Some(text()) },
            totals: Totals { requests: 1, denied: 1, failed: 1, connections: 1, panics: 1, log_lines_dropped: 1 },
            listeners: vec![Listener { name: text(), connections: 1, accepted: 1 }],
            routes: vec![Route {
                name: text(),
                path: Some(text()),
                requests: 1,
                denied: 1,
                failed: 1,
                reasons: counts(),
                p99_seconds: Some(0.5),
            }],
            upstreams: vec![Upstream {
                name: text(),
                requests: 1,
                errors: counts(),
                connections: 1,
                connections_opened: 1,
                p99_seconds: None,
            }],
            issuers: vec![Issuer {
                name: text(),
                issuer: Some(text()),
                verified: 1,
                keys: Some(Keys { count: 1, loaded: true, age_seconds: Some(1), failed_fetches: 1 }),
                introspection: Some(Introspection { failing: true, calls: 1, failed_calls: 1 }),
            }],
            signing_keys: vec![KeyInfo {
                kid: text(),
                algorithm: text(),
                state: crate::store::KeyState::Active,
                created: 1,
                since: 1,
            }],
            caches: vec![Cache { name: text(), entries: 1, hits: 1, misses: 1, hit_rate: Some(0.5) }],
            certificates: vec![Certificate { listener: text(), certificate: text(), not_after: 1 }],
            password_grant: vec![PasswordGrant { client: text(), tokens: 1 }],
            denials: vec![Denial {
                at: 1,
                request_id: HOSTILE.into(),
                route: HOSTILE.into(),
                endpoint: Some(HOSTILE),
                method: Some(HOSTILE),
                status: 403,
                reason: HOSTILE,
                cause: HOSTILE.into(),
            }],
        };
        let (page, _) = status.page(true).expect("a page");
        assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("{{ 7 * 7 }}"), "{page}");
        for markup in ["<script", "<img", "onerror='"] {
            assert!(!page.contains(markup), "{markup} in {page}");
        }
        // Every text of the value came to the page: one that is left out could not be shown to be safe.
        let wanted = serde_json::to_string(&status).expect("JSON").matches("alert(1)").count();
        assert!(page.matches("alert(1)").count() >= wanted, "{page}");
    }
}
