//! The log streams, on standard output and in files: each is written by a thread of its own, so that no request waits for a
//! disk or a terminal.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::IntCounter;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use super::{Format, Level, Settings};

/// Lines that wait to be written; what comes beyond is dropped and counted.
const BUFFER_BYTES: usize = 4 << 20;
/// Lines that come within this go out in one write.
const BATCH: Duration = Duration::from_millis(10);
/// Until a file that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

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
    /// The file is to be opened anew.
    reopen: bool,
}

/// What a thread writes to.
enum Output {
    Standard,
    File { path: PathBuf, file: File },
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sink")
    }
}

impl Sink {
    /// Starts the thread that writes to standard output.
    pub fn standard_output(dropped: IntCounter) -> io::Result<Self> {
        Self::start(Output::Standard, dropped)
    }

    /// Starts the thread that appends to a file, which is made for its owner alone when it is not there. While the file
    /// cannot be written, lines wait for it.
    pub fn file(path: &Path, dropped: IntCounter) -> io::Result<Self> {
        Self::start(Output::File { path: path.to_owned(), file: open(path)? }, dropped)
    }

    fn start(output: Output, dropped: IntCounter) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), dropped });
        let thread = Arc::clone(&shared);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || thread.write_all(output))?;
        Ok(Self(shared))
    }

    /// Has a file opened anew: somebody moved away what was there.
    pub fn reopen(&self) {
        self.0.lock().reopen = true;
        self.0.changed.notify_all();
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

    /// Waits until everything queued is written, at most a few seconds. False when something is left.
    pub fn flush(&self) -> bool {
        let state = self.0.lock();
        let busy = |state: &mut State| !state.waiting.is_empty() || state.writing;
        let waited = self.0.changed.wait_timeout_while(state, Duration::from_secs(3), busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut output: Output) {
        let mut taken = Vec::new();
        loop {
            let mut state = self.lock();
            state.writing = false;
            self.changed.notify_all();
            while state.waiting.is_empty() && !state.reopen {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            std::thread::sleep(BATCH);
            self.reopen_if_asked(&mut output);
            let mut state = self.lock();
            std::mem::swap(&mut state.waiting, &mut taken);
            state.writing = true;
            drop(state);
            self.write_out(&taken, &mut output);
            taken.clear();
            taken.shrink_to(BUFFER_BYTES / 16);
        }
    }

    fn write_out(&self, mut lines: &[u8], output: &mut Output) {
        let mut failed = false;
        while let Err(error) = output.write(&mut lines) {
            let Output::File { path, .. } = output else {
                // Nothing can be done about it, and serving goes on.
                self.dropped.inc_by(lines.iter().filter(|byte| **byte == b'\n').count() as u64);
                return;
            };
            if !std::mem::replace(&mut failed, true) {
                tracing::error!(event = "log.failed", file = %path.display(), %error, "its lines wait");
            }
            std::thread::sleep(RETRY);
            self.reopen_if_asked(output);
        }
    }

    fn reopen_if_asked(&self, output: &mut Output) {
        let asked = std::mem::take(&mut self.lock().reopen);
        if let Output::File { path, file } = output
            && asked
        {
            match open(path) {
                Ok(opened) => *file = opened,
                Err(error) => tracing::error!(
                    event = "log.failed", file = %path.display(), %error, "it cannot be opened anew; the old one is written on"
                ),
            }
        }
    }
}

impl Output {
    /// Takes away from `lines` what was written.
    fn write(&mut self, lines: &mut &[u8]) -> io::Result<()> {
        while !lines.is_empty() {
            let written = match self {
                Self::Standard => io::stdout().write(lines),
                Self::File { file, .. } => file.write(lines),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => *lines = &lines[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if matches!(self, Self::Standard) { io::stdout().flush() } else { Ok(()) }
    }
}

/// For appending; made for its owner alone when it is not there.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
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

/// Where events go: those of the audit trail apart, if it has a file.
struct Streams {
    main: Sink,
    audit: Option<Sink>,
}

impl<'a> MakeWriter<'a> for Streams {
    type Writer = Sink;

    fn make_writer(&'a self) -> Sink {
        self.main.clone()
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Sink {
        let apart = self.audit.as_ref().filter(|_| event.target() == "audit");
        apart.unwrap_or(&self.main).clone()
    }
}

/// Sends `tracing`'s events to the sinks from now on; without one of their own, audit events go where the others go. False
/// when something else has taken them already.
pub fn install(settings: &Settings, main: &Sink, audit: Option<&Sink>) -> bool {
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
        .with_writer(Streams { main: main.clone(), audit: audit.cloned() })
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
    push_date_time(line, b'T', elapsed.as_secs());
    line.push(b'.');
    push_number(line, u64::from(elapsed.subsec_millis()), 3);
    line.push(b'Z');
}

/// A number in decimal, with zeros before it up to `least` digits. (What the standard library formats costs five times as
/// much, and a line has a dozen numbers.)
pub(super) fn push_number(text: &mut Vec<u8>, mut number: u64, least: usize) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    while number > 0 || digits.len() - start < least {
        start -= 1;
        digits[start] = b"0123456789"[(number % 10) as usize];
        number /= 10;
    }
    text.extend_from_slice(&digits[start..]);
}

/// A time in seconds since 1970, in UTC, for people.
pub fn timestamp(seconds: u64) -> String {
    let mut text = Vec::with_capacity(24);
    push_date_time(&mut text, b' ', seconds);
    String::from_utf8(text).unwrap_or_default() + " UTC"
}

fn push_date_time(text: &mut Vec<u8>, between: u8, seconds: u64) {
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    push_number(text, year, 4);
    for (before, number) in [(b'-', month), (b'-', day), (between, hour), (b':', minute), (b':', second)] {
        text.push(before);
        push_number(text, number, 2);
    }
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
    fn numbers_are_those_of_the_standard_library() {
        for number in [0, 7, 10, 99, 1234, u64::MAX] {
            for least in [1, 2, 4, 20] {
                let mut text = Vec::new();
                push_number(&mut text, number, least);
                assert_eq!(String::from_utf8(text).unwrap(), format!("{number:0least$}"));
            }
        }
        assert_eq!(timestamp(951_782_400), "2000-02-29 00:00:00 UTC");
    }

    #[test]
    fn days_become_dates() {
        for (days, date) in [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_778, (2026, 11, 21))] {
            assert_eq!(civil(days), date);
        }
    }

    #[test]
    fn lines_for_a_full_disk_wait_and_are_counted_when_there_are_too_many() {
        let dropped = IntCounter::new("dropped", "dropped").expect("a counter");
        let sink = Sink::file(Path::new("/dev/full"), dropped.clone()).expect("a sink");
        let line = [b'x'; 1 << 20];
        // One batch is held by the thread that tries to write it.
        for _ in 0..16 {
            sink.write(&line);
        }
        assert!((8..=12).contains(&dropped.get()), "{}", dropped.get());
        assert!(!sink.flush());
    }
}
