//! tollgate: a reverse-proxy gateway that enforces bearer tokens.

pub mod admin;
pub mod authorization_server;
pub mod cli;
pub mod clock;
pub mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod gateway;
pub mod jose;
pub mod limits;
pub mod net;
pub mod otlp;
pub mod policy;
pub mod routing;
pub mod scope;
pub mod secret;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod upstream;
