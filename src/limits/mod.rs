//! Counters that bound what callers may do: wrong guesses of a secret, and requests in a time. Each lives in a bounded cache.

mod guesses;
mod rate;

use std::net::{IpAddr, Ipv6Addr};

pub use guesses::{GuessRules, Guesses, Turn};
pub use rate::{Buckets, Key, Rate, RateLimit, Standing};

/// What counts as one address: a subscriber has a whole /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}
