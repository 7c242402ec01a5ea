//! The TOML file: model, diagnostics, and its compilation to a plan.

use crate::gateway::plan::Plan;
use crate::{admin, server, telemetry};

/// A configuration that was found correct.
#[derive(Debug)]
pub struct Config {
    pub server: server::Settings,
    pub admin: admin::Settings,
    /// Whether `[admin]` stands in the file. Where it does not, a default address that is taken is a warning.
    pub admin_is_explicit: bool,
    pub log: telemetry::Settings,
    pub plan: Plan,
    pub tests: Vec<RuleTest>,
}

/// One `[[tests]]`.
#[derive(Debug)]
pub struct RuleTest {
    /// 1-based line of its `request` in the configuration.
    pub line: usize,
    pub method: http::Method,
    /// Path and query as written.
    pub target: String,
    /// Absent: no token. `issuer` (a configured name), `sub`, `scope`, `client_id` and any further claim.
    pub token: Option<serde_json::Map<String, serde_json::Value>>,
    pub expect: u16,
}
