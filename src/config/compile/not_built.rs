//! Documented keys that this version knows and has not built. Each is an error that says so, never ignored.
//! Building one means removing its call and consuming the key instead.

use super::super::diagnostic::{Code, Span};
use super::super::reader::Field;
use super::Compiler;

impl Compiler<'_> {
    /// Reports `field`, if it is there, as not built yet; `instead` says what to do until it is.
    pub(super) fn not_built<T>(&mut self, field: &Field<T>, key: &str, instead: &str) {
        if let Some(span) = field.key() {
            self.not_built_at(span, &format!("`{key}`"), instead);
        }
    }

    /// Reports one value of a key that works with others.
    pub(super) fn not_built_at(&mut self, at: Span, what: &str, instead: &str) {
        self.report.error_of(Code::NotBuilt, at, format!("{what} is not built yet"), instead);
    }
}
