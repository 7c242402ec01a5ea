//! What answers have in common, whatever the version.

use std::cell::Cell;
use std::time::{Duration, UNIX_EPOCH};

use http::StatusCode;

use crate::clock::{Clock, UnixSeconds};

/// As RFC 9110 section 5.6.7 spells it.
const BYTES: usize = 29;

/// The value of `Date`, written once each second on each thread.
pub(super) fn date() -> [u8; BYTES] {
    thread_local! {
        static WRITTEN: Cell<(UnixSeconds, [u8; BYTES])> = const { Cell::new((0, [0; BYTES])) };
    }
    let now = Clock::system().now();
    let (second, date) = WRITTEN.get();
    if second == now {
        return date;
    }
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now));
    // Years of five digits are not foreseen.
    let date = text.as_bytes().try_into().unwrap_or(date);
    WRITTEN.set((now, date));
    date
}

/// Whether an answer of this status, to anything but HEAD, may have a body (RFC 9110 section 6.4.1).
pub(super) fn may_have_body(status: StatusCode) -> bool {
    !status.is_informational() && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}
