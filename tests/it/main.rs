//! Black-box tests: they run the binary and talk to it over its sockets, knowing only its documented behaviour.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]
#![allow(unreachable_pub, reason = "the test binary has no interface")]

mod admin;
mod assertions;
mod bearer;
mod bypass;
mod cli;
mod clients;
mod code;
mod config;
mod conformance;
mod crash;
mod dependencies;
mod edges;
mod guessing;
mod harness;
mod introspection;
mod jwks;
mod keys;
mod limits;
mod listeners;
mod login;
mod pages;
mod proxy;
mod refresh;
mod revocation;
mod routing;
mod secrets;
mod support;
mod threat_model;
mod token_endpoint;
mod upstream;
