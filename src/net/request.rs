//! The head of a request on its way through the layers, whatever the version.

use std::sync::Arc;

use http::header::HeaderMap;
use http::{Method, Uri, Version};

use super::switch::{Handover, Protocol, Switch};

/// A request without its body.
#[derive(Debug, Default)]
pub struct RequestHead {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    /// Shared with whoever expects them to come again.
    pub headers: Arc<HeaderMap>,
    /// Of a request that may switch protocols.
    pub switch: Option<Switch>,
    /// What an extended CONNECT asks for.
    pub protocol: Option<Protocol>,
}

impl RequestHead {
    /// Lets it switch protocols: with what this gives, the connection is handed over.
    pub fn may_switch(&mut self) -> Handover {
        let (handover, switch) = Switch::new();
        self.switch = Some(switch);
        handover
    }
}
