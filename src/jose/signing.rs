//! Private keys, parsed once, and what they sign.
