//! What a crash leaves behind: where it happened, and nothing of what was in memory, which holds keys, tokens and
//! passwords.

use std::panic::PanicHookInfo;

use prometheus::IntCounter;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// No core dump from now on, whatever the limits and wherever the system sends them; and other processes of the same user
/// cannot read the memory.
pub(super) fn forbid_dumps() -> std::io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Has panics logged and counted from now on, in place of what the standard library prints.
pub(super) fn log_panics(count: IntCounter) {
    std::panic::set_hook(Box::new(move |panic| {
        count.inc();
        log(panic);
    }));
}

/// A text that the code made may quote what it was looking at (`byte index 5 is not a char boundary of "..."`), so that
/// only a text that stands in the code is told.
fn log(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let message = panic.payload().downcast_ref::<&'static str>().copied();
    let thread = std::thread::current();
    tracing::error!(event = "panic", place, message, thread = thread.name());
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::telemetry::access_log::Sample;
    use crate::telemetry::log::{Sink, install};
    use crate::telemetry::{Format, Level, Settings};

    const SECRET: &str = "hush-a-password";

    #[test]
    fn a_panic_tells_its_place_and_nothing_of_what_was_looked_at() {
        let test = "cli::crash::tests::panics_in_a_task";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env("RUST_BACKTRACE", "full")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let output = format!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
        assert!(child.status.success(), "{output}");
        assert_eq!(output.matches("\"event\":\"panic\"").count(), 2, "{output}");
        assert_eq!(output.matches("\"place\":\"src/cli/crash.rs:").count(), 2, "{output}");
        assert!(output.contains("\"message\":\"it is what it is\""), "{output}");
        assert!(!output.contains(SECRET), "{output}");
    }

    #[test]
    #[ignore = "the other end of the test above, in a process of its own"]
    fn panics_in_a_task() {
        let count = IntCounter::new("panics", "panics").unwrap();
        let sink = Sink::standard_output(count.clone()).unwrap();
        let settings = Settings {
            format: Format::Json,
            level: Level::Info,
            access: true,
            access_sample: Sample::ALL,
            audit: None,
        };
        assert!(install(&settings, &sink, None));
        log_panics(count.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let task = tokio::spawn(async { panic!("the password {SECRET} is wrong") });
            assert!(task.await.unwrap_err().is_panic());
            let task = tokio::spawn(async { panic!("it is what it is") });
            assert!(task.await.unwrap_err().is_panic());
        });
        sink.flush();
        assert_eq!(count.get(), 2);
    }
}
