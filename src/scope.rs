//! Scopes as RFC 6749 section 3.3 writes them: case-sensitive tokens, separated by one space.

use std::fmt;

/// A set of scope tokens in the order in which they were first named. Sets are small, so membership is a linear search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScopeSet(Vec<Box<str>>);

/// A character that no scope token may hold (`"`, `\`, a control, anything outside ASCII).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a scope holds a character outside %x21 / %x23-5B / %x5D-7E")]
pub struct InvalidScope;

impl ScopeSet {
    /// Reads a space-separated list. Leading, trailing and double spaces are tolerated, repeated tokens collapse.
    pub fn parse(text: &str) -> Result<Self, InvalidScope> {
        let mut set = Self::default();
        for token in text.split(' ').filter(|token| !token.is_empty()) {
            set.insert(token)?;
        }
        Ok(set)
    }

    /// Adds one token; a token already there is not repeated.
    pub fn insert(&mut self, token: &str) -> Result<(), InvalidScope> {
        if !is_token(token) {
            return Err(InvalidScope);
        }
        if !self.contains(token) {
            self.0.push(token.into());
        }
        Ok(())
    }

    pub fn contains(&self, token: &str) -> bool {
        self.0.iter().any(|own| **own == *token)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|token| &**token)
    }

    pub fn is_subset(&self, of: &Self) -> bool {
        self.iter().all(|token| of.contains(token))
    }

    /// Those of `self` for which `keep` holds, in the same order.
    pub fn filter(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|token| keep(token)).cloned().collect())
    }
}

/// Whether `text` is one scope token (RFC 6749 section 3.3).
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5B | 0x5D..=0x7E))
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, token) in self.iter().enumerate() {
            if n > 0 {
                f.write_str(" ")?;
            }
            f.write_str(token)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t6_scope_syntax() {
        for (text, expected) in [
            ("a b", Some("a b")),
            ("  b  a b ", Some("b a")),
            ("", Some("")),
            ("A a", Some("A a")),
            ("a\tb", None),
            ("a\"b", None),
            ("a\\b", None),
            ("caf\u{e9}", None),
            ("a\u{7f}", None),
        ] {
            assert_eq!(ScopeSet::parse(text).ok().map(|s| s.to_string()).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn b17_membership_is_exact_and_case_sensitive() {
        let set = ScopeSet::parse("read:all Write").expect("valid");
        assert!(set.contains("read:all") && set.contains("Write"));
        assert!(!set.contains("read") && !set.contains("write"));
    }
}
