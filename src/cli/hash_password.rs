//! `tollgate hash-password`.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::process::{Command, Stdio};

use anyhow::ensure;
use clap::Args;

use super::{Outcome, complain, print};
use crate::authorization_server::hash_password;
use crate::secret::Secret;

#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) fn run(_arguments: Arguments) -> anyhow::Result<Outcome> {
    let password = if io::stdin().is_terminal() {
        let _quiet = NoEcho::start();
        let password = ask("Password: ")?;
        ensure!(ask("Again: ")?.expose() == password.expose(), "the two passwords differ");
        password
    } else {
        read_line()?
    };
    ensure!(!password.expose().is_empty(), "the password is empty");
    print(&format!("{}\n", hash_password(password.expose())))?;
    Ok(Outcome::Fine)
}

fn ask(prompt: &str) -> anyhow::Result<Secret<String>> {
    complain(prompt);
    let line = read_line();
    complain("\n");
    line
}

/// One line without its end; nothing else is trimmed, a password may begin or end with a space.
fn read_line() -> anyhow::Result<Secret<String>> {
    // The buffer belongs to the process's standard input, so that the second line is not lost.
    let mut text = String::new();
    io::stdin().lock().read_line(&mut text)?;
    let end = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(end);
    Ok(Secret::new(text))
}

/// The terminal does not show what is typed until this is dropped.
struct NoEcho;

impl NoEcho {
    fn start() -> Self {
        stty("-echo");
        Self
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        stty("echo");
    }
}

fn stty(argument: &str) {
    // Without stty the password is shown, which is better than not to work at all.
    let _ = Command::new("stty").arg(argument).stdin(Stdio::inherit()).stderr(Stdio::null()).status();
}
