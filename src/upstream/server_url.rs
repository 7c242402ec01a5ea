//! Where one server of an upstream listens, as the operator wrote it.

use std::fmt;
use std::path::PathBuf;

use crate::net::BaseUrl;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerUrl {
    /// The path is empty or `/`.
    Http(BaseUrl),
    /// A socket in the file system, in clear text.
    Unix(PathBuf),
}

impl ServerUrl {
    /// What the server is called in `Host`. A socket has no name; servers expect that of this machine.
    pub fn authority(&self) -> String {
        match self {
            Self::Http(url) => url.authority(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => url.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
