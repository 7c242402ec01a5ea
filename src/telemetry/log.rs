//! The log stream: written by a thread of its own, so that no request waits for a disk or a terminal.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::IntCounter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use super::{Format, Level, Settings};

/// Lines that wait to be written; what comes beyond is dropped and counted.
const BUFFER_BYTES: usize = 4 << 20;
/// Lines that come within this go out in one write.
const BATCH: Duration = Duration::from_millis(10);

/// Where log lines go. Clones share it.
#[derive(Clone)]
pub struct Sink(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    dropped: IntCounter,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// The thread is writing what it took.
    writing: bool,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sink")
    }
}

impl Sink {
    /// Starts the thread that writes to standard output.
    pub fn standard_output(dropped: IntCounter) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), dropped });
        let thread = Arc::clone(&shared);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || thread.write_all())?;
        Ok(Self(shared))
    }

    /// Queues whole lines.
    pub fn write(&self, lines: &[u8]) {
        let mut state = self.0.lock();
        if state.waiting.len() + lines.len() > BUFFER_BYTES {
            self.0.dropped.inc();
            return;
        }
        let was_empty = state.waiting.is_empty();
        state.waiting.extend_from_slice(lines);
        drop(state);
        if was_empty {
            self.0.changed.notify_all();
        }
    }

    /// Waits until everything queued is written, at most a few seconds.
    pub fn flush(&self) {
        let state = self.0.lock();
        let busy = |state: &mut State| !state.waiting.is_empty() || state.writing;
        drop(self.0.changed.wait_timeout_while(state, Duration::from_secs(3), busy));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self) {
        let mut taken = Vec::new();
        loop {
            let mut state = self.lock();
            state.writing = false;
            self.changed.notify_all();
            while state.waiting.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            std::thread::sleep(BATCH);
            let mut state = self.lock();
            std::mem::swap(&mut state.waiting, &mut taken);
            state.writing = true;
            drop(state);
            // Nothing can be done about a log that cannot be written, and serving goes on.
            let mut out = io::stdout().lock();
            let _ = out.write_all(&taken).and_then(|()| out.flush());
            taken.clear();
            taken.shrink_to(BUFFER_BYTES / 16);
        }
    }
}

impl Write for Sink {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        Self::write(self, lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Sends `tracing`'s events to the sink from now on. False when something else has taken them already.
pub fn install(settings: &Settings, sink: &Sink) -> bool {
    let level = match settings.level {
        Level::Error => tracing::Level::ERROR,
        Level::Warn => tracing::Level::WARN,
        Level::Info => tracing::Level::INFO,
        Level::Debug => tracing::Level::DEBUG,
        Level::Trace => tracing::Level::TRACE,
    };
    // What libraries say below a warning is for those who debug them; audit events count whatever the level.
    let filter = match settings.level {
        Level::Error | Level::Warn => format!("{level},audit=info"),
        Level::Info => "warn,tollgate=info,audit=info".to_owned(),
        Level::Debug | Level::Trace => format!("{level},audit=info"),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(sink.clone())
        .with_ansi(false)
        .with_timer(Timestamps);
    match settings.format {
        Format::Json => builder.json().flatten_event(true).with_current_span(false).try_init().is_ok(),
        Format::Text => builder.try_init().is_ok(),
    }
}

struct Timestamps;

impl FormatTime for Timestamps {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(24);
        push_timestamp(&mut text);
        writer.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// The time in RFC 3339, with milliseconds, in UTC.
pub(super) fn push_timestamp(line: &mut Vec<u8>) {
    #[expect(clippy::disallowed_methods, reason = "for people to read; no decision depends on it")]
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    push_date_time(line, 'T', elapsed.as_secs());
    let _ = write!(line, ".{:03}Z", elapsed.subsec_millis());
}

/// A time in seconds since 1970, in UTC, for people.
pub fn timestamp(seconds: u64) -> String {
    let mut text = Vec::with_capacity(24);
    push_date_time(&mut text, ' ', seconds);
    String::from_utf8(text).unwrap_or_default() + " UTC"
}

fn push_date_time(text: &mut Vec<u8>, between: char, seconds: u64) {
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let _ = write!(text, "{year:04}-{month:02}-{day:02}{between}{hour:02}:{minute:02}:{second:02}");
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years are counted from March, so that the leap day is the last of a year; eras of 400 years repeat.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (days, date) in [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_778, (2026, 11, 21))] {
            assert_eq!(civil(days), date);
        }
    }
}
