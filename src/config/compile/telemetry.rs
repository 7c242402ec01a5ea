//! `[telemetry]`: where spans go.

use super::super::model;
use super::super::reader::Field;
use super::Compiler;
use crate::otlp;

#[cfg(feature = "otlp")]
mod built_in {
    use std::time::Duration;

    use http::{HeaderMap, HeaderValue};

    use super::super::super::reader::{At, Map};
    use super::super::super::value::Share;
    use super::*;
    use crate::net::EndpointUrl;

    /// Where a collector takes traces, below its endpoint.
    const TRACES: &str = "/v1/traces";
    /// What a call has of its own, beside the fields of HTTP itself.
    const OWN: [&str; 4] = ["accept", "content-encoding", "content-type", "user-agent"];
    const ENDPOINT_HELP: &str = "say where the collector takes OTLP over HTTP: `endpoint = \"http://127.0.0.1:4318\"`";
    const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

    impl Compiler<'_> {
        pub(super) fn otlp(&mut self, field: Field<model::Otlp>) -> Option<otlp::Settings> {
            let at = field.given()?;
            let model::Otlp { endpoint, ca, headers, service_name, sample, timeout } = at.value;
            let url = endpoint.required(self.report, at.span, "endpoint", ENDPOINT_HELP);
            let url = url.and_then(|at| self.traces_url(&at));
            let ca = ca.given().map(|at| self.authorities(&at));
            let headers = self.otlp_headers(headers);
            let service_name = service_name.given().map_or_else(
                || "tollgate".to_owned(),
                |name| {
                    if name.value.is_empty() {
                        self.report.error(name.span, "`service_name` is empty", "the default is `\"tollgate\"`");
                    }
                    name.value
                },
            );
            let timeout = self.interval(timeout, "timeout", DEFAULT_TIMEOUT);
            let sample = sample.or(Share(1.0)).0;
            Some(otlp::Settings { url: url?, ca: ca.flatten(), headers, service_name, sample, timeout })
        }

        fn traces_url(&mut self, at: &At<String>) -> Option<EndpointUrl> {
            let base = self.secure_url(at, "endpoint")?;
            let base = base.as_str().trim_end_matches('/');
            if let Some(endpoint) = base.strip_suffix(TRACES) {
                let help = format!("leave it out here: `endpoint = \"{endpoint}\"`");
                self.report.error(at.span, format!("`{TRACES}` is added to every endpoint"), help);
            }
            EndpointUrl::parse(&[base, TRACES].concat()).map_err(|error| self.not_a_url(at, "endpoint", error)).ok()
        }

        fn otlp_headers(&mut self, field: Field<Map<model::Secret>>) -> HeaderMap {
            let mut headers = HeaderMap::new();
            for named in field.or_default().0 {
                let name = self.header_name(&named.name);
                if let Some(name) = &name {
                    if super::super::forward::FRAMING.contains(&name.as_str()) || OWN.contains(&name.as_str()) {
                        self.managed(named.name.span, name);
                    }
                    if headers.contains_key(name) {
                        self.twice(&named.name);
                    }
                }
                let Some(at) = named.value else { continue };
                let span = at.span;
                let Some(secret) = self.secret(at) else { continue };
                match HeaderValue::from_str(secret.expose()) {
                    Ok(mut value) => {
                        value.set_sensitive(true);
                        headers.extend(name.map(|name| (name, value)));
                    }
                    Err(_) => {
                        self.report.error(
                            span,
                            "a header value holds printable ASCII only",
                            "remove line breaks, controls and letters with accents",
                        );
                    }
                }
            }
            headers
        }
    }
}

#[cfg(not(feature = "otlp"))]
impl Compiler<'_> {
    #[expect(clippy::needless_pass_by_value, reason = "as where it is built in")]
    fn otlp(&mut self, field: Field<model::Otlp>) -> Option<otlp::Settings> {
        if let Some(key) = field.key() {
            self.report.error_of(
                super::super::diagnostic::Code::NotBuilt,
                key,
                "`telemetry.otlp` is not built into this program",
                "build it with the feature `otlp`, or remove the table",
            );
        }
        None
    }
}

impl Compiler<'_> {
    pub(super) fn telemetry(&mut self, field: Field<model::Telemetry>) -> Option<otlp::Settings> {
        let model::Telemetry { otlp } = field.or_default();
        self.otlp(otlp)
    }
}
