//! What holds of a configuration, whatever stands in the file: checked by the fuzz targets and on their corpus.

use std::path::Path;

use super::load_text;
use crate::config::{Diagnostic, Severity};
use crate::gateway::explain::Rules;

/// A secret in the text of a fuzzed configuration is a word that begins so, on the right of one of `SECRET_KEYS`.
const SECRET: &str = "hush-";
const SECRET_KEYS: [&str; 4] = ["value", "secret", "password", "token"];

/// A configuration that stands in `tests/config`, beside the files that others there name.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Files that never end are for operators to avoid.
    if ["/dev", "/proc", "/sys", ".."].iter().any(|path| text.contains(path)) {
        return;
    }
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config/fuzzed.toml"));
    let diagnostics = match load_text(text, path) {
        Ok((config, warnings)) => {
            assert!(warnings.iter().all(|warning| warning.severity == Severity::Warning), "served with an error");
            assert!(text.parse::<toml::Table>().is_ok(), "served though it is not TOML");
            assert!(Rules::new(&config.plan).is_ok(), "two routes tie");
            warnings
        }
        Err(problems) => {
            assert!(problems.0.iter().any(|problem| problem.severity == Severity::Error), "refused for nothing");
            problems.0
        }
    };
    let secrets = secrets(text);
    for diagnostic in &diagnostics {
        is_within(diagnostic, text, path);
        let told = format!("{}{}{diagnostic:?}", diagnostic.render(false), diagnostic.render(true));
        for secret in &secrets {
            assert!(!told.contains(secret), "{secret} was told:\n{}", diagnostic.render(false));
        }
        assert!(serde_json::to_string(diagnostic).is_ok());
        assert!(!diagnostic.message.is_empty() && !diagnostic.help.is_empty(), "{diagnostic:?}");
    }
}

fn is_within(diagnostic: &Diagnostic, text: &str, path: &Path) {
    let Some((line, column)) = diagnostic.line_column() else { return };
    if diagnostic.file() == path {
        let lines: Vec<&str> = text.split('\n').collect();
        let found = lines.get(line - 1).expect("a line of the text");
        assert!(column <= found.chars().count() + 1, "column {column} of {found:?}");
    }
}

/// The secrets of a text that need not be TOML.
fn secrets(text: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let mut found = Vec::new();
    for (start, _) in text.match_indices(SECRET) {
        let word = &text[start..start + text[start..].find(|c| !is_word(c)).unwrap_or(text.len() - start)];
        let before = text[..start].trim_end_matches(['"', '\'']);
        let key = before.trim_end_matches([' ', '\t']).strip_suffix('=').map(|key| key.trim_end_matches([' ', '\t']));
        let is_secret = key.is_some_and(|key| SECRET_KEYS.iter().any(|secret| key.ends_with(secret)));
        if is_secret && word.len() >= 12 && text.matches(word).count() == 1 {
            found.push(word);
        }
    }
    found
}
