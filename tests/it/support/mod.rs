//! Everything a test needs to run the gateway as a black box: the process itself, an upstream that records, a mint for
//! tokens, and clients that send whatever bytes they are told.

pub mod browser;
pub mod checker;
pub mod chromium;
pub mod command;
pub mod frames;
pub mod gateway;
pub mod h2;
pub mod http;
pub mod metrics;
pub mod mint;
pub mod oidc_provider;
pub mod others;
pub mod parsers;
pub mod public;
pub mod secrets;
pub mod server;
pub mod site;
pub mod tls;
pub mod upstream;
pub mod wire;

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

pub use browser::{Browser, Callback, Form};
pub use gateway::{field, value};
pub use http::{Conn, Req, Response, send};
pub use mint::Mint;
pub use site::Site;
pub use upstream::{Gate, RecordingUpstream};

/// Waits for a condition, and fails the test when it does not come.
pub fn until(what: &str, ready: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !ready() {
        assert!(Instant::now() < end, "{what}: not within 20 s");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Collects what is wrong in a table of cases, so that one run shows every bad row.
#[derive(Default)]
pub struct Wrong(Vec<String>);

impl Wrong {
    #[expect(clippy::needless_pass_by_value, reason = "most callers have just computed them")]
    pub fn eq<T: PartialEq<U> + Debug, U: Debug>(&mut self, case: impl Debug, got: T, expected: U) -> bool {
        let same = got == expected;
        if !same {
            self.0.push(format!("{case:?}: got {got:?}, expected {expected:?}"));
        }
        same
    }

    pub fn ok(&mut self, case: impl Debug, holds: bool, otherwise: impl Debug) -> bool {
        if !holds {
            self.0.push(format!("{case:?}: {otherwise:?}"));
        }
        holds
    }

    /// Fails the test with every bad row.
    pub fn done(self) {
        assert!(self.0.is_empty(), "{} wrong:\n  {}", self.0.len(), self.0.join("\n  "));
    }
}
