//! The one canonicalisation of a request's path.

/// Spellings that are refused unless a route's `allow_in_path` opens them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowances(u16);
