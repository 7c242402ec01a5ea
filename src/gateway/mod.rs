//! The journey of a request.

pub mod plan;
