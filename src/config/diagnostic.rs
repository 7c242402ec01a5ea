//! What is wrong with a configuration, told so that it can be mended: the place, the source line with a caret, and the fix.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::redaction;

/// One file of the configuration and its text as it may be shown: with stars where secrets stand.
#[derive(Debug)]
pub(super) struct Source {
    /// As it is named in messages.
    pub(super) path: PathBuf,
    /// Relative paths in it start here.
    pub(super) base: PathBuf,
    pub(super) text: String,
}

impl Source {
    /// Prints stars in place of what stands at `places`.
    fn masked(&self, places: impl Iterator<Item = Range<usize>>) -> Self {
        let mut text = self.text.clone();
        for place in places {
            if let Some(stars) = text.get(place.clone()).map(|secret| secret.chars().map(star).collect::<String>()) {
                text.replace_range(place, &stars);
            }
        }
        Self { path: self.path.clone(), base: self.base.clone(), text }
    }
}

/// What is shown of a character of a secret: as long in bytes, so that every place stays where it is. Quotes and line
/// breaks stay, so that lines keep their numbers and the text its look.
fn star(c: char) -> char {
    match (c, c.len_utf8()) {
        ('"' | '\'' | '\n' | '\r', _) => c,
        (_, 1) => '*',
        (_, 2) => '\u{b7}',
        (_, 3) => '\u{2022}',
        _ => '\u{1f784}',
    }
}

/// A place in one of the files of a [`Report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) file: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// The kind of a problem, for programs. Errors are reported in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// A file cannot be read.
    Unreadable,
    /// Not TOML.
    Syntax,
    UnknownKey,
    /// A value of the wrong kind or outside its bounds, a key that is missing, a name that nothing has.
    Invalid,
    /// A documented key or value that this version does not have yet.
    NotBuilt,
    /// One of `[[tests]]` did not come out as expected.
    TestFailed,
    /// Legal but worth a thought.
    Lint,
}

/// One problem, with everything that is needed to print it.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    pub code: Code,
    /// Lower case, without a full stop.
    pub message: String,
    /// How to mend it.
    pub help: String,
    place: Place,
    /// A second place that explains the first, and what to say about it.
    related: Option<(Place, &'static str)>,
}

/// Where a problem is, with the text to show.
#[derive(Clone, Debug)]
pub(super) struct Place {
    source: Arc<Source>,
    /// Absent: the file as a whole.
    range: Option<Range<usize>>,
    order: (usize, usize),
}

/// All problems of a configuration that was refused: errors first, then warnings.
#[derive(Debug)]
pub struct Diagnostics(pub Vec<Diagnostic>);

/// Collects the problems while a configuration is read and compiled.
#[derive(Debug, Default)]
pub(super) struct Report {
    sources: Vec<Arc<Source>>,
    found: Vec<Diagnostic>,
    /// Tables with a key that is not known, and what it was taken for.
    misspelled: Vec<(Span, Option<&'static str>)>,
    /// Secrets in the sources, which no message may show.
    hidden: Vec<Span>,
}

impl Diagnostic {
    /// An error that is found after the configuration was compiled.
    pub(super) fn at(place: Place, code: Code, message: String, help: String) -> Self {
        Self { severity: Severity::Error, code, message, help, place, related: None }
    }

    /// The file as it was named.
    pub fn file(&self) -> &Path {
        &self.place.source.path
    }

    /// 1-based line and column (in characters); absent for a problem of the whole file.
    pub fn line_column(&self) -> Option<(usize, usize)> {
        let range = self.place.range.as_ref()?;
        let before = self.place.source.text.get(..range.start)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Some((before.matches('\n').count() + 1, before[line_start..].chars().count() + 1))
    }

    /// Several lines for people, with colours when `styled`.
    pub fn render(&self, styled: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let group = self.place.attach(Group::with_title(level.primary_title(&self.message)), None);
        let group = match &self.related {
            Some((place, label)) => place.attach(group, Some(label)),
            None => group,
        };
        let report = [group.element(Level::HELP.message(&self.help))];
        let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&report)
    }
}

impl Place {
    /// Shows this place below what `group` has so far.
    fn attach<'a>(&'a self, group: Group<'a>, label: Option<&'a str>) -> Group<'a> {
        let path = self.source.path.to_string_lossy();
        match &self.range {
            Some(range) => {
                let kind = if label.is_some() { AnnotationKind::Context } else { AnnotationKind::Primary };
                let annotation = kind.span(range.clone()).label(label);
                group.element(Snippet::source(&self.source.text).path(path).annotation(annotation))
            }
            None => group.element(Origin::path(path)),
        }
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shape<'a> {
            severity: Severity,
            code: Code,
            message: &'a str,
            file: std::borrow::Cow<'a, str>,
            line: Option<usize>,
            column: Option<usize>,
            help: &'a str,
        }
        let place = self.line_column();
        Shape {
            severity: self.severity,
            code: self.code,
            message: &self.message,
            file: self.file().to_string_lossy(),
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            help: &self.help,
        }
        .serialize(serializer)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, diagnostic) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n\n")?;
            }
            f.write_str(&diagnostic.render(false))?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl Report {
    /// Takes a file in; spans name it by the number that is returned.
    pub(super) fn add_source(&mut self, path: PathBuf, base: PathBuf, text: &str) -> usize {
        let source = Source { path, base, text: text.to_owned() };
        self.sources.push(Arc::new(source.masked(redaction::secrets(text).into_iter())));
        self.sources.len() - 1
    }

    pub(super) fn source(&self, file: usize) -> Arc<Source> {
        self.sources[file].clone()
    }

    /// The text at `span`, as it may be shown.
    pub(super) fn text(&self, span: Span) -> &str {
        self.sources[span.file].text.get(span.start..span.end).unwrap_or_default()
    }

    /// The 1-based line at which `span` starts.
    pub(super) fn line(&self, span: Span) -> usize {
        self.sources[span.file].text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1)
    }

    pub(super) fn error(&mut self, at: Span, message: impl Into<String>, help: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Error, Code::Invalid, at, message.into(), help.into())
    }

    pub(super) fn warning(&mut self, at: Span, message: impl Into<String>, help: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Warning, Code::Lint, at, message.into(), help.into())
    }

    /// An error of another kind than [`Code::Invalid`].
    pub(super) fn error_of(
        &mut self,
        code: Code,
        at: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> &mut Diagnostic {
        self.push(Severity::Error, code, at, message.into(), help.into())
    }

    /// A problem of a whole file.
    pub(super) fn file_error(&mut self, code: Code, file: usize, message: String, help: &str) {
        self.push(Severity::Error, code, Span { file, start: 0, end: 0 }, message, help.to_owned()).place.range = None;
    }

    /// Shows a second place below the last problem that was reported.
    pub(super) fn relate(&mut self, at: Span, label: &'static str) {
        let place = self.place(at);
        if let Some(last) = self.found.last_mut() {
            last.related = Some((place, label));
        }
    }

    /// Reports a key that `table` does not have.
    pub(super) fn unknown_key(&mut self, table: Span, key: Span, name: &str, known: &[&'static str]) {
        let meant = closest(name, known.iter().copied());
        let help = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if known.is_empty() => "nothing is configured here; remove it".to_owned(),
            None => format!("the keys known here are {}", quoted(known)),
        };
        self.misspelled.push((table, meant));
        self.push(Severity::Error, Code::UnknownKey, key, format!("unknown key `{name}`"), help);
    }

    /// Whether `table` has a key that was reported and taken for `key`, so that it is not missing as well.
    pub(super) fn is_misspelled(&self, table: Span, key: &str) -> bool {
        self.misspelled.iter().any(|(at, meant)| *at == table && *meant == Some(key))
    }

    /// Whether `table` has a key that was reported.
    pub(super) fn has_unknown_keys(&self, table: Span) -> bool {
        self.misspelled.iter().any(|(at, _)| *at == table)
    }

    /// Keeps what stands at `span` out of every message.
    pub(super) fn hide(&mut self, span: Span) {
        self.hidden.push(span);
    }

    pub(super) fn has_errors(&self) -> bool {
        self.found.iter().any(|found| found.severity == Severity::Error)
    }

    /// Everything that was found: errors before warnings, unknown keys before wrong values, then by place.
    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        self.mask_secrets();
        self.found.sort_by_key(|found| {
            let unknown_last = found.code > Code::UnknownKey;
            (found.severity, unknown_last, found.place.order)
        });
        self.found
    }

    /// The place `at`, to be shown later.
    pub(super) fn keep(&self, at: Span) -> Place {
        let mut place = self.place(at);
        place.source = self.masked(at.file, &place.source);
        place
    }

    /// Prints stars in place of what is hidden.
    fn mask_secrets(&mut self) {
        let sources = self.sources.iter().enumerate();
        let masked: Vec<Arc<Source>> = sources.map(|(file, source)| self.masked(file, source)).collect();
        for found in &mut self.found {
            found.place.source = Arc::clone(&masked[found.place.order.0]);
            if let Some((place, _)) = &mut found.related {
                place.source = Arc::clone(&masked[place.order.0]);
            }
        }
    }

    fn masked(&self, file: usize, source: &Arc<Source>) -> Arc<Source> {
        let mut hidden = self.hidden.iter().filter(|span| span.file == file).peekable();
        if hidden.peek().is_none() {
            return Arc::clone(source);
        }
        Arc::new(source.masked(hidden.map(|span| span.start..span.end)))
    }

    fn push(&mut self, severity: Severity, code: Code, at: Span, message: String, help: String) -> &mut Diagnostic {
        let place = self.place(at);
        self.found.push(Diagnostic { severity, code, message, help, place, related: None });
        let last = self.found.len() - 1;
        &mut self.found[last]
    }

    fn place(&self, at: Span) -> Place {
        Place { source: self.source(at.file), range: Some(at.start..at.end), order: (at.file, at.start) }
    }
}

/// The one of `known` that `word` was most likely meant to be.
pub(super) fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (word.len().max(candidate.len()) + 1) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// "did you mean", or what there is to choose from.
pub(super) fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone, none: &str) -> String {
    if let Some(candidate) = closest(word, known.clone()) {
        return format!("did you mean `{candidate}`?");
    }
    let known: Vec<String> = known.into_iter().map(|name| format!("`{name}`")).collect();
    if known.is_empty() { none.to_owned() } else { format!("there is {}", known.join(", ")) }
}

/// `a`, `b`, `c`
pub(super) fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// Edits (insert, remove, replace, swap of neighbours) from one word to the other.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut rows = vec![(0..=right.len()).collect::<Vec<usize>>()];
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_stays_where_it_is_behind_a_secret() {
        let text = "value = \"p\u{e4}\u{20ac}\u{1f600}\", x = 1";
        let mut report = Report::default();
        let file = report.add_source(PathBuf::from("t.toml"), PathBuf::new(), text);
        let start = text.find('x').expect("there");
        report.error(Span { file, start, end: start + 1 }, "wrong", "mend it");
        let found = report.finish().remove(0);
        assert_eq!(found.line_column(), Some((1, 17)));
        let shown = found.render(false);
        assert!(shown.contains("\"*\u{b7}\u{2022}\u{1f784}\", x = 1"), "{shown}");
    }

    #[test]
    fn the_nearest_name_is_suggested_and_a_distant_one_is_not() {
        let known = ["upstream", "methods", "scopes"];
        assert_eq!(closest("upsteam", known), Some("upstream"));
        assert_eq!(closest("Scopes", known), Some("scopes"));
        assert_eq!(closest("mehtods", known), Some("methods"));
        assert_eq!(closest("banana", known), None);
    }
}
