//! The other commands of the binary.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::gateway::binary;
use super::secrets;

/// What a finished command left behind.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Done {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Both streams.
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

pub fn run(args: &[&str]) -> Done {
    run_in(Path::new("."), args, "")
}

/// With `input` on standard input.
pub fn run_in(dir: &Path, args: &[&str], input: &str) -> Done {
    input.lines().for_each(secrets::keep);
    if let Ok(config) = std::fs::read_to_string(dir.join("tollgate.toml")) {
        secrets::keep_configured(&config, dir);
    }
    let tokens = args.windows(2).filter(|pair| pair[0] == "--token");
    tokens.for_each(|pair| secrets::keep_token(pair[1]));
    let mut child = binary()
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _closed_early = child.stdin.take().unwrap().write_all(input.as_bytes());
    let done: Done = child.wait_with_output().unwrap().into();
    let leaks = secrets::found_in(done.all().as_bytes());
    assert!(leaks.is_empty(), "secrets in the output of {args:?}:\n  {}", leaks.join("\n  "));
    done
}

/// A directory with `tollgate.toml` and other files.
pub fn files(config: &str, others: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, content) in others.iter().chain(&[("tollgate.toml", config)]) {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

pub fn check(config: &str, others: &[(&str, &str)], more: &[&str]) -> Done {
    let dir = files(config, others);
    run_in(dir.path(), &[&["check", "-c", "tollgate.toml"], more].concat(), "")
}

pub fn explain(config: &str, others: &[(&str, &str)], more: &[&str]) -> Done {
    let dir = files(config, others);
    run_in(dir.path(), &[&["explain", "-c", "tollgate.toml"], more].concat(), "")
}
