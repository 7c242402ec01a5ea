//! Public keys as they are published (RFC 7517), parsed once.
