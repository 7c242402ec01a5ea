//! What operators see: the metrics, their documentation, and the rules and the dashboard of deploy/ that read them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::checker::{Prometheus, accepts, project, text, yaml};
use crate::support::metrics::Metrics;
use crate::support::mint::AUDIENCE;
use crate::support::public::installed;
use crate::support::tls::Authority;
use crate::support::wire::PATIENCE;
use crate::support::{Mint, RecordingUpstream, Req, Site, Wrong, server};

/// Tables of docs/*.md: the cells of each row.
fn rows(document: &str) -> Vec<Vec<String>> {
    let lines = document.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    lines.map(|line| line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The metrics of docs/monitoring.md, with their labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let document = text("docs/monitoring.md");
    let metrics = rows(&document).into_iter().filter(|row| row.len() > 2 && row[0].starts_with("`tollgate_"));
    let labelled = metrics.map(|row| (quoted(&row[0]).next().unwrap().to_owned(), labels_in(&row[1])));
    labelled.collect()
}

fn labels_in(cell: &str) -> BTreeSet<String> {
    quoted(cell).map(str::to_owned).collect()
}

/// The metric that a series belongs to: a histogram has three kinds.
fn family<'a>(series: &'a str, known: &BTreeMap<String, BTreeSet<String>>) -> &'a str {
    let kinds = ["_bucket", "_sum", "_count"];
    let stem = kinds.iter().find_map(|kind| series.strip_suffix(kind)).filter(|stem| known.contains_key(*stem));
    stem.unwrap_or(series)
}

/// A gateway that has met everything there is to count but the rarest.
struct Busy {
    site: Site,
    away: Mint,
}

impl Busy {
    fn start() -> Self {
        let (away, authority) = (Mint::with("https://away.test", Mint::new().keys), Authority::new());
        let identity = authority.identity(&["localhost"]);
        let keys = away.jwks();
        let issuers = RecordingUpstream::scripted(move |exchange| match exchange.request.method.as_str() {
            "GET" => exchange.answer("200 OK", "Content-Type: application/json\r\n", keys.as_bytes()),
            _ => {
                let facts = json!({"active": true, "sub": "alice", "aud": AUDIENCE, "scope": "orders:read"});
                exchange.answer("200 OK", "Content-Type: application/json\r\n", facts.to_string().as_bytes())
            }
        });
        let tables = format!(
            r#"
{surroundings}
[issuers.away.jwt]
issuer = "https://away.test"
audience = ["{AUDIENCE}"]
jwks_url = "{url}/keys"
[[routes]]
name = "nobody"
path = "/nobody"
upstream = "nobody"
allow = [{{ public = true }}]
"#,
            surroundings = server::surroundings(&issuers.url()),
            url = issuers.url()
        );
        let site = server::builder().more(&tables).file("tls.crt", identity.cert).file("tls.key", identity.key).start();
        let busy = Self { site, away };
        // Once, so that the connection stands and the handshake has been counted.
        let secure = busy.site.gateway.address("secure");
        authority.client().connect(secure, "localhost").unwrap().conn.send(&Req::get("/nobody"));
        busy.traffic();
        busy
    }

    fn traffic(&self) {
        let site = &self.site;
        // One that is not known yet, so that its issuer is asked.
        let opaque = format!("asked-{}", site.upstream.count());
        let (own, _) = server::tokens(&server::log_in(site, "billing", &[]));
        server::ask(site, "billing", &server::password_form("alice", "wrong", &[]));
        server::log_in(site, "code-only", &[]);
        for token in [&own, &self.away.scoped("orders:read"), &opaque, "junk", &self.away.token(&json!({"exp": 1}))] {
            site.get("/orders/7", Some(token));
            site.get("/orders/7", Some(token));
        }
        site.get("/orders/7", None);
        site.get("/nobody", None);
        site.get("/nowhere", None);
    }

    /// Once everything that was asked has been counted.
    fn metrics(&self) -> Metrics {
        self.site.gateway.wait_metrics("all is counted", |metrics| {
            metrics.sum("tollgate_requests_total", &[("route", "(none)")]) >= 1.0
                && metrics.sum("tollgate_requests_total", &[("route", "nobody"), ("status", "502")]) >= 2.0
        })
    }
}

#[test]
fn every_metric_is_documented_with_its_labels() {
    let metrics = Busy::start().metrics();
    let documented = documented();
    let mut wrong = Wrong::default();
    let registered: BTreeSet<&String> = metrics.types.keys().collect();
    for name in &registered {
        wrong.ok(name, documented.contains_key(*name), "not in docs/monitoring.md");
    }
    for name in documented.keys() {
        wrong.ok(name, registered.contains(name), "docs/monitoring.md has it, the program has not");
    }
    for sample in &metrics.samples {
        let name = family(&sample.name, &documented);
        let labels: BTreeSet<String> = sample.labels.keys().filter(|label| *label != "le").cloned().collect();
        if let Some(expected) = documented.get(name) {
            wrong.eq(&sample.name, &labels, expected);
        }
    }
    wrong.done();
}

#[test]
fn everything_is_announced_before_it_happens() {
    let metrics = Site::open().gateway.metrics();
    // No introspection is set up, no password was checked, no limit was reached.
    for name in ["tollgate_introspection_calls_total", "tollgate_logins_total", "tollgate_tls_handshakes_total"] {
        assert!(metrics.types.contains_key(name) && !metrics.has(name, &[]), "{name}");
    }
    assert!(metrics.has("tollgate_limits_reached_total", &[("limit", "connections")]));
    assert_eq!(metrics.sum("tollgate_limits_reached_total", &[]), 0.0);
    let metrics = server::start().gateway.metrics();
    assert!(metrics.has("tollgate_tokens_issued_total", &[("client", "billing"), ("grant", "password")]));
    assert!(!metrics.has("tollgate_tokens_issued_total", &[("client", "code-only"), ("grant", "password")]));
    assert_eq!(metrics.sum("tollgate_tokens_issued_total", &[]), 0.0);
}

#[test]
fn the_exposition_is_as_prometheus_wants_it() {
    let Some(promtool) = installed("promtool") else { return };
    let text = Busy::start().metrics().text;
    let folder = tempfile::tempdir().unwrap();
    let scraped = folder.path().join("metrics");
    std::fs::write(&scraped, text).unwrap();
    let input = Stdio::from(std::fs::File::open(&scraped).unwrap());
    let output = Command::new(promtool).args(["check", "metrics"]).stdin(input).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// What an expression reads: series with the labels they are chosen by, and the labels it groups by.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reads {
    series: Vec<(String, Vec<String>)>,
    groups: Vec<String>,
}

fn reads(expression: &str) -> Reads {
    let mut found = Reads::default();
    let mut rest = expression;
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    while let Some(start) = rest.find(|c: char| c == '"' || is_word(c)) {
        rest = &rest[start..];
        if let Some(text) = rest.strip_prefix('"') {
            rest = text.split_once('"').expect("a string that ends").1;
            continue;
        }
        let (word, after) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
        let enclosed = |open: char, close: char| Some(after.trim_start().strip_prefix(open)?.split_once(close)?.0);
        let names = |list: &str| -> Vec<String> {
            let parts = list.split(',').map(|part| part.trim().split(['=', '!']).next().unwrap().trim());
            parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        rest = after;
        if word.contains("tollgate_") {
            let chosen = enclosed('{', '}');
            found.series.push((word.to_owned(), chosen.map(names).unwrap_or_default()));
            rest = &after[chosen.map_or(0, |chosen| after.find(chosen).unwrap() + chosen.len())..];
        } else if ["by", "without", "on", "ignoring"].contains(&word)
            && let Some(list) = enclosed('(', ')')
        {
            found.groups.extend(names(list));
            rest = &after[after.find(')').unwrap()..];
        }
    }
    found
}

#[test]
fn expressions_are_read() {
    let read =
        reads(r#"sum by (job, by) (rate(tollgate_a_total{x="1", z!~"q"}[5m])) / on (x) job:tollgate_b:rate > 1"#);
    let series = [("tollgate_a_total", vec!["x", "z"]), ("job:tollgate_b:rate", vec![])];
    let series = series.map(|(name, labels)| (name.to_owned(), labels.into_iter().map(str::to_owned).collect()));
    assert_eq!(read, Reads { series: series.into(), groups: ["job", "by", "x"].map(str::to_owned).into() });
}

/// Every rule of a file.
fn rules(path: &str) -> Option<Vec<Value>> {
    let groups = yaml(path)?[0]["groups"].as_array().unwrap().clone();
    Some(groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect())
}

/// Every string under a key, anywhere.
fn strings_at(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| strings_at(item, key, found)),
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str() {
                    Some(text) if name == key => found.push(text.to_owned()),
                    _ => strings_at(member, key, found),
                }
            }
        }
        _ => {}
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&text("deploy/grafana/tollgate.json")).unwrap()
}

/// The dashboard's expressions as Grafana would send them.
fn panels() -> Vec<String> {
    let mut expressions = Vec::new();
    strings_at(&dashboard(), "expr", &mut expressions);
    let values = [("$job", ".*"), ("$instance", ".*"), ("$__rate_interval", "1m"), ("$__range", "3h")];
    let fill = |text: String| values.iter().fold(text, |text, (name, value)| text.replace(name, value));
    expressions.into_iter().map(fill).collect()
}

#[test]
fn rules_and_dashboard_read_what_there_is() {
    let (Some(mut all), Some(alerts)) =
        (rules("deploy/prometheus/recording.yml"), rules("deploy/prometheus/alerts.yml"))
    else {
        return;
    };
    all.extend(alerts);
    let recorded: BTreeSet<&str> = all.iter().filter_map(|rule| rule["record"].as_str()).collect();
    let expressions = all.iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()).chain(panels());
    let documented = documented();
    let mut wrong = Wrong::default();
    for expression in expressions {
        let read = reads(&expression);
        let mut labels: BTreeSet<String> = ["job", "instance", "le"].map(str::to_owned).into();
        for (series, chosen) in &read.series {
            let Some(own) = documented.get(family(series, &documented)) else {
                wrong.ok(&expression, recorded.contains(series.as_str()), format!("there is no {series}"));
                continue;
            };
            labels.extend(own.iter().cloned());
            for label in chosen {
                wrong.ok(&expression, labels.contains(label), format!("{series} has no {label}"));
            }
        }
        for group in &read.groups {
            wrong.ok(&expression, labels.contains(group), format!("nothing there has {group}"));
        }
    }
    wrong.done();
}

#[test]
fn alerts_fire_as_their_tests_say_and_tell_what_to_do() {
    let Some(promtool) = installed("promtool") else { return };
    let (Some(alerts), Some(tests)) = (rules("deploy/prometheus/alerts.yml"), yaml("deploy/prometheus/tests.yml"))
    else {
        return;
    };
    let folder = project("deploy/prometheus");
    accepts(Command::new(&promtool).args(["check", "rules", "recording.yml", "alerts.yml"]).current_dir(&folder));
    accepts(Command::new(&promtool).args(["test", "rules", "tests.yml"]).current_dir(&folder));
    accepts(
        Command::new(&promtool)
            .args(["check", "config", "--syntax-only"])
            .arg(project("deploy/compose/prometheus.yml")),
    );

    let mut wrong = Wrong::default();
    let documented: BTreeSet<String> = rows(&text("docs/monitoring.md"))
        .iter()
        .filter_map(|row| Some(quoted(&row[0]).next()?.to_owned()).filter(|name| name.starts_with("Tollgate")))
        .collect();
    let names: BTreeSet<String> = alerts.iter().map(|alert| alert["alert"].as_str().unwrap().to_owned()).collect();
    wrong.eq("the alerts of docs/monitoring.md", &documented, &names);
    let mut samples = Vec::new();
    strings_at(&tests[0], "labels", &mut samples);
    for alert in &alerts {
        let name = alert["alert"].as_str().unwrap();
        wrong.ok(
            name,
            samples.iter().any(|sample| sample.contains(&format!("\"{name}\""))),
            "no test shows that it fires",
        );
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        wrong.ok(name, ["critical", "warning"].contains(&severity), severity);
        for annotation in ["summary", "description"] {
            wrong.ok((name, annotation), alert["annotations"][annotation].is_string(), "missing");
        }
        let (page, section) =
            alert["annotations"]["runbook"].as_str().unwrap_or_default().split_once('#').unwrap_or_default();
        let anchors: Vec<String> = std::fs::read_to_string(project(page))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| Some(line.strip_prefix("## ")?.to_lowercase().replace(' ', "-")))
            .collect();
        wrong.ok(name, anchors.iter().any(|anchor| anchor == section), (page, section));
    }
    wrong.done();
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut wrong = Wrong::default();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeMap::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        wrong.ok(title, ids.insert(panel["id"].as_u64().unwrap()), "its id is another panel's");
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        wrong.ok(title, at("x") + at("w") <= 24, "it does not fit the grid");
        for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            if let Some(other) = taken.insert((x, y), title) {
                wrong.ok(title, false, format!("it lies on {other}"));
            }
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            wrong.eq(title, &target["datasource"]["uid"], "${datasource}");
        }
    }
    let variables: BTreeSet<&str> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    wrong.eq("variables", variables, BTreeSet::from(["datasource", "instance", "job"]));
    wrong.done();
}

#[test]
fn every_panel_shows_something() {
    let busy = Busy::start();
    let admin = busy.site.gateway.admin();
    let Some(mut prometheus) = Prometheus::start(|config| {
        let secure = config.find("    authorization").unwrap()..config.find("    static_configs").unwrap();
        let mut open = config.replace("scheme: https", "scheme: http").replace("tollgate:9464", &admin.to_string());
        open.replace_range(secure, "");
        open
    }) else {
        return;
    };
    prometheus.wait_for_gateway();
    busy.traffic();
    let mut empty = panels();
    assert!(empty.len() > 40, "{empty:?}");
    let deadline = Instant::now() + PATIENCE;
    while !empty.is_empty() {
        empty.retain(|expression| {
            !prometheus.query(expression).iter().any(|sample| sample["value"][1].as_str().is_some_and(|v| v != "NaN"))
        });
        assert!(Instant::now() < deadline, "nothing to see: {empty:#?}");
    }
    // So do the rules.
    let failing = "job_upstream:tollgate_upstream_errors:ratio_rate5m{upstream=\"nobody\"} > 0.9";
    while prometheus.query(failing).is_empty() {
        assert!(Instant::now() < deadline, "nothing is recorded");
    }
}
