//! From listener, host and path to whatever is configured there; knows nothing of what that is.

pub mod path;

/// A `hosts` entry, lower case and without port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(Box<str>),
    /// `*.example.com` is `Wildcard("example.com")`: one label before it.
    Wildcard(Box<str>),
}

/// One segment of a route's `path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// In canonical spelling.
    Literal(Box<str>),
    /// `{name}`: exactly one non-empty segment.
    Any(Box<str>),
    /// `**`, last only: zero or more segments.
    Rest,
}

/// A route's `path`, parsed: `/orders/{id}` is `[Literal("orders"), Any("id")]`, `/` is `[Literal("")]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern(pub Vec<Segment>);
