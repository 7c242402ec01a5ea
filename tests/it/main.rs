//! Black-box tests: they run the binary and talk to it over its sockets, knowing only its documented behaviour.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]
#![allow(unreachable_pub, reason = "the test binary has no interface")]

mod addresses;
mod admin;
mod asking;
mod assertions;
mod bearer;
mod bypass;
mod bypass_tokens;
mod cli;
mod client_certificates;
mod clients;
mod code;
mod config;
mod conformance;
mod cors;
mod crash;
mod dependencies;
mod deploy;
mod edges;
mod framing;
mod fronts;
mod guessing;
mod harness;
mod http2;
mod http2_streams;
mod introspection;
mod issuers;
mod jwks;
mod keys;
mod limits;
mod listeners;
mod log;
mod login;
mod long_bodies;
mod monitoring;
#[cfg(feature = "otlp")]
mod otlp;
mod pages;
mod products;
mod proxy;
mod proxy_protocol;
mod rates;
mod refresh;
mod reload;
mod revocation;
mod routing;
mod secrets;
mod slow;
mod smuggling;
mod soak;
mod status;
mod support;
mod threat_model;
mod token_endpoint;
mod trace_context;
mod turning_out;
mod upgrade;
mod upstream;
mod upstream_credentials;
mod upstreams_failing;
