//! The TOML file: read into a model, compiled to settings and a plan, with every problem of it told at once.
//!
//! `model` mirrors the file, `reader` fills it value by value, `compile` gives it meaning, `diagnostic` says what is wrong.
//! Nothing here talks to the network, so that a configuration can be checked anywhere.

mod compile;
mod diagnostic;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod model;
mod reader;
mod redaction;
mod value;

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

pub use diagnostic::{Code, Diagnostic, Diagnostics, Severity};
use diagnostic::{Place, Report, Span};
use reader::{Read, Reader};

use crate::clock::Clock;
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
    /// Every file that was read besides the configuration itself.
    pub files: Vec<PathBuf>,
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
    /// Absent: addresses are not judged.
    pub peer: Option<std::net::IpAddr>,
    pub expect: u16,
    place: Place,
}

impl RuleTest {
    /// The error that this test did not come out as expected: `message` says how, `help` what to look at.
    pub fn failure(&self, message: String, help: String) -> Diagnostic {
        Diagnostic::at(self.place.clone(), Code::TestFailed, message, help)
    }
}

/// Syntax errors that are told; those that follow are mostly echoes.
const MAX_SYNTAX_ERRORS: usize = 3;

/// Reads and compiles the configuration at `path`; with it come the warnings.
pub fn load(path: &Path) -> Result<(Config, Vec<Diagnostic>), Diagnostics> {
    match std::fs::read_to_string(path) {
        Ok(text) => load_text(&text, path),
        Err(error) => {
            let mut report = Report::default();
            let file = report.add_source(path.to_owned(), PathBuf::new(), "");
            let message = format!("the configuration cannot be read: {error}");
            report.file_error(Code::Unreadable, file, message, "name another file with `-c FILE`");
            Err(Diagnostics(report.finish()))
        }
    }
}

/// As [`load`], with a text that would stand in the file `path`: messages name it so, and relative paths start beside it.
pub fn load_text(text: &str, path: &Path) -> Result<(Config, Vec<Diagnostic>), Diagnostics> {
    let mut report = Report::default();
    let base = path.parent().map(Path::to_owned).unwrap_or_default();
    let file = report.add_source(path.to_owned(), base, text);
    let config = read_file::<model::File>(&mut report, file, text)
        .and_then(|(model, start)| compile::compile(model, start, &mut report, Clock::system().now()));
    match config {
        Some(config) => Ok((config, report.finish())),
        None => Err(Diagnostics(report.finish())),
    }
}

/// The JSON Schema of the file (draft 2020-12), from the types that read it.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(model::File).to_value()
}

/// Reads the whole text of a file of the report into a model; none where it is not TOML.
fn read_file<T: Read>(report: &mut Report, file: usize, text: &str) -> Option<(T, Span)> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors.iter().take(MAX_SYNTAX_ERRORS) {
        let range = error.span().unwrap_or(0..0);
        let at = Span { file, start: range.start, end: range.end };
        let help = syntax_help(error.message(), report.text(at));
        report.error_of(Code::Syntax, at, error.message(), help);
    }
    if !errors.is_empty() {
        return None;
    }
    let start = Span { file, start: 0, end: text.find('\n').unwrap_or(text.len()) };
    let mut reader = Reader::new(report, file);
    T::read(&DeValue::Table(table.into_inner()), start, &mut reader).map(|read| (read, start))
}

fn syntax_help(message: &str, text: &str) -> String {
    if message.contains("duplicate key") {
        "keep one of the two".to_owned()
    } else if text.starts_with(char::is_alphabetic) && !text.contains(char::is_whitespace) {
        format!("texts stand in quotes: `\"{text}\"`")
    } else {
        "this is not TOML; https://toml.io/en/v1.0.0 shows what is".to_owned()
    }
}
