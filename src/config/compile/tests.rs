//! `[[tests]]`: what the rules are expected to say.

use http::Method;

use super::super::RuleTest;
use super::super::model;
use super::super::reader::{At, List};
use super::{Compiler, Names};

const REQUEST_HELP: &str = "write a method and a path: `request = \"GET /orders/7\"`";

impl Compiler<'_> {
    pub(super) fn tests(&mut self, tests: List<model::Test>, names: &Names) -> Vec<RuleTest> {
        tests.items.into_iter().filter_map(|at| self.rule_test(at, names)).collect()
    }

    fn rule_test(&mut self, at: At<model::Test>, names: &Names) -> Option<RuleTest> {
        let model::Test { request, token, peer, expect } = at.value;
        let request = request.required(self.report, at.span, "request", REQUEST_HELP);
        let expect = expect.required(self.report, at.span, "expect", "write the status: 200 if it is forwarded");
        let request = request.and_then(|at| {
            let parsed = parse_request(&at.value);
            if parsed.is_none() {
                self.report.error(at.span, format!("`{}` is not a request", at.value), REQUEST_HELP);
            }
            parsed.map(|(method, target)| (at.span, method, target))
        });
        let expect = expect.and_then(|at| {
            let status = u16::try_from(at.value).ok().filter(|status| (200..600).contains(status));
            if status.is_none() {
                self.report.error(
                    at.span,
                    format!("`{}` is not a status", at.value),
                    "write 200, 401, 403, 404 or 405",
                );
            }
            status
        });
        if let Some(token) = token.as_ref() {
            let issuer = token.value.0.get("issuer");
            let known = |name: &serde_json::Value| {
                name.as_str().is_some_and(|name| names.issuers.iter().any(|issuer| **issuer == *name))
            };
            if issuer.is_some_and(|name| !known(name)) || (issuer.is_none() && names.issuers.is_empty()) {
                let all: Vec<String> = names.issuers.iter().map(|name| format!("`\"{name}\"`")).collect();
                let help = if all.is_empty() {
                    "configure an issuer first".to_owned()
                } else {
                    format!("name one of {}", all.join(", "))
                };
                self.report.error(token.span, "the test's token is of no configured issuer", help);
            }
        }
        let peer = peer.given().and_then(|at| {
            let parsed = at.value.parse().ok();
            if parsed.is_none() {
                let help = "write it without a port: `\"192.0.2.7\"`, `\"2001:db8::7\"`";
                self.report.error(at.span, format!("`{}` is not an IP address", at.value), help);
            }
            parsed
        });
        let ((span, method, target), expect) = (request?, expect?);
        Some(RuleTest {
            line: self.report.line(span),
            method,
            target,
            token: token.given().map(|at| at.value.0),
            peer,
            expect,
            place: self.report.keep(span),
        })
    }
}

fn parse_request(text: &str) -> Option<(Method, String)> {
    let (method, target) = text.split_once(' ')?;
    let method = Method::from_bytes(method.as_bytes()).ok()?;
    let target = target.trim();
    (target.starts_with('/') && !target.contains(char::is_whitespace)).then(|| (method, target.to_owned()))
}
