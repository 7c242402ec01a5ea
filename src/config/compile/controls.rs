//! What a request must meet besides the rules: `ip_allow`, `ip_deny`, `[routes.rate_limit]` and
//! `[routes.cors]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;

use super::super::diagnostic::Span;
use super::super::model;
use super::super::reader::{At, Field, List};
use super::Compiler;
use crate::gateway::plan::{Cors, Origins, Per, RateLimit};
use crate::limits::Rate;
use crate::policy::{Access, Addresses, Condition};

const MAX_REQUESTS: u64 = 1_000_000;
/// So many windows' requests may come at once.
const MAX_BURST: u64 = 1000;
const DAY: Duration = Duration::from_secs(86_400);
const WINDOWS: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;
const RATE_HELP: &str = "say how many requests are let through: `requests = 100` and `window = \"1s\"`";
const ORIGINS_HELP: &str =
    "name the origins that are meant, as browsers send them: `origins = [\"https://app.example.com\"]`";
/// What scripts may read of answers besides what every script may.
const EXPOSED: [&str; 5] = ["X-Request-Id", "WWW-Authenticate", "Retry-After", "RateLimit", "RateLimit-Policy"];
const MAX_AGE: Duration = Duration::from_secs(600);
const PER_HELP: &str = "say who shares a budget: `per = \"subject\"`, `\"client\"`, `\"address\"` or `\"route\"`";

impl Compiler<'_> {
    pub(super) fn addresses(&mut self, allow: Field<List<String>>, deny: Field<List<String>>) -> Addresses {
        let allow = self.networks(allow, "ip_allow", "leave it out to let every address in");
        let deny = self.networks(deny, "ip_deny", "leave it out to keep no address out");
        for (network, span) in &allow {
            if let Some((covers, _)) = deny.iter().find(|(denied, _)| denied.contains(network)) {
                let help = "`ip_deny` wins: remove one of the two, or make the denied network smaller";
                self.report.warning(*span, format!("nobody of `{network}` is let in: `{covers}` is denied"), help);
            }
        }
        let networks = |list: Vec<(IpNet, Span)>| list.into_iter().map(|(network, _)| network).collect();
        Addresses { allow: networks(allow), deny: networks(deny) }
    }

    fn networks(&mut self, field: Field<List<String>>, key: &str, help: &str) -> Vec<(IpNet, Span)> {
        let Some(list) = field.given() else { return Vec::new() };
        self.not_empty(&list, key, help);
        self.distinct(&list.value.items, Clone::clone, "the network");
        let mut networks = Vec::new();
        for at in list.value.items {
            let Some(network) = self.network(&at) else { continue };
            if network != network.trunc() {
                let help = format!(
                    "write `\"{}\"` for the network, `\"{}\"` for the address",
                    network.trunc(),
                    network.addr()
                );
                self.report.error(at.span, format!("`{}` is an address inside its network", at.value), help);
            }
            networks.push((network, at.span));
        }
        networks
    }

    /// `access` is the route's, where it could be read.
    pub(super) fn rate_limit(&mut self, at: At<model::RateLimit>, access: Option<&Access>) -> Option<RateLimit> {
        let model::RateLimit { per, requests, window, burst } = at.value;
        let per = per.required(self.report, at.span, "per", PER_HELP);
        let requests = requests.required(self.report, at.span, "requests", RATE_HELP);
        let requests = requests.and_then(|at| self.requests(&at, "requests", MAX_REQUESTS));
        let window = window.required(self.report, at.span, "window", RATE_HELP);
        if let Some(window) = window.as_ref().filter(|window| !WINDOWS.contains(&window.value.0)) {
            self.report.error(
                window.span,
                "`window` must be longer than nothing and at most a day",
                "`\"1s\"`, `\"1m\"` and `\"1h\"` are usual",
            );
        }
        let most = requests.map_or(MAX_REQUESTS, u64::from) * MAX_BURST;
        let burst = burst.given().map_or(requests, |at| self.requests(&at, "burst", most));
        let per = per?;
        self.counted_by_address(&per, access?);
        let per = match per.value {
            model::Per::Subject => Per::Subject,
            model::Per::Client => Per::Client,
            model::Per::Address => Per::Address,
            model::Per::Route => Per::Route,
        };
        Some(RateLimit { per, rate: Rate { requests: requests?, window: window?.value.0, burst: burst? } })
    }

    /// `forward` is the route's.
    pub(super) fn cors(&mut self, at: At<model::Cors>, forward: Option<&model::Forward>) -> Option<Cors> {
        let model::Cors { origins, headers, expose_headers, credentials, max_age } = at.value;
        let origins = origins.required(self.report, at.span, "origins", ORIGINS_HELP).map(|list| {
            self.not_empty(&list, "origins", ORIGINS_HELP);
            match &list.value.items[..] {
                [only] if only.value == "*" => Origins::Any,
                _ => Origins::These(self.origins(list.value)),
            }
        });
        if let (Some(Origins::Any), Some(At { value: true, span })) = (&origins, credentials.as_ref()) {
            self.report.error(
                *span,
                "with `credentials`, every web page could act for whoever looks at it",
                ORIGINS_HELP,
            );
        }
        let said = forward.and_then(|forward| forward.response_headers.as_ref());
        for name in said.into_iter().flat_map(|at| &at.value.0).map(|named| &named.name) {
            if name.value.to_ascii_lowercase().starts_with("access-control-") {
                let help = "remove it here, or the `cors` table";
                self.report.error(name.span, format!("`{}` is what `cors` says", name.value), help);
            }
        }
        let headers = headers.given().map(|list| self.names_of_headers(list.value, &[]));
        let expose_headers = self.names_of_headers(expose_headers.or_default(), &EXPOSED);
        let max_age = max_age.given().map_or(MAX_AGE, |at| {
            if at.value.0 > DAY {
                self.report.error(at.span, "`max_age` is longer than a day", "the default is `\"10m\"`");
            }
            at.value.0
        });
        Some(Cors {
            origins: origins?,
            credentials: credentials.or(false),
            headers,
            expose_headers,
            max_age: HeaderValue::from(max_age.as_secs()),
        })
    }

    /// One list of `usual` names and those of an operator.
    fn names_of_headers(&mut self, list: List<String>, usual: &[&str]) -> HeaderValue {
        let mut names: Vec<String> = usual.iter().map(|name| (*name).to_owned()).collect();
        for at in list.items {
            if at.value == "*" {
                let help = "name each header; without `headers`, scripts may send whatever they ask for";
                self.report.error(
                    at.span,
                    "`*` is not the name of a header, and does not mean all of them everywhere",
                    help,
                );
            } else if self.header_name(&at).is_some() {
                names.push(at.value);
            }
        }
        HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static(""))
    }

    fn requests(&mut self, at: &At<u64>, key: &str, most: u64) -> Option<u32> {
        let fits = u32::try_from(at.value).ok().filter(|requests| (1..=most).contains(&u64::from(*requests)));
        if fits.is_none() {
            let help = "a number of requests; leave the table out for no limit";
            self.report.error(at.span, format!("`{key}` is {}, but must be between 1 and {most}", at.value), help);
        }
        fits
    }

    /// Tells of requests that are counted otherwise than `per` says.
    fn counted_by_address(&mut self, per: &At<model::Per>, access: &Access) {
        let name = match per.value {
            model::Per::Subject => "subject",
            model::Per::Client => "client",
            model::Per::Address | model::Per::Route => return,
        };
        if access.entries.iter().any(|entry| matches!(entry.condition, Condition::Public)) {
            self.report.warning(
                per.span,
                format!("a public entry admits requests without a token: they count by address, not by {name}"),
                "write `per = \"address\"` to count everybody so, or give what is public a route of its own",
            );
        }
    }
}
