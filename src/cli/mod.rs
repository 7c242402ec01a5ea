//! The command line: arguments, what each command prints, and exit statuses.

mod check;
mod client_secret;
mod completions;
mod crash;
mod demo;
mod descriptors;
mod explain;
mod hash_password;
mod keygen;
mod keys;
mod reload;
mod routes;
mod run;
mod schema;
mod takeover;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config, Diagnostic, Diagnostics, Severity};

/// Where the configuration is looked for without `-c`.
const CONFIG_FILES: [&str; 2] = ["tollgate.toml", "/etc/tollgate/tollgate.toml"];

/// A gateway that enforces bearer tokens in front of HTTP APIs that cannot be changed.
///
/// Start with `tollgate demo`, which needs no files; then copy config/tollgate.toml, change it, let `tollgate check` read
/// it, and serve it with `tollgate run`.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve. SIGTERM drains; SIGHUP or a changed file makes it take up the configuration anew.
    ///
    /// Nothing starts while the configuration has an error, and nothing changes while a new one has.
    Run(run::Arguments),
    /// Load the configuration, say everything that is wrong with it, and run its [[tests]].
    ///
    /// Exits with 0 when it could be served (warnings are told), with 1 otherwise. Needs no network and no port, so that it
    /// runs in a pipeline as well as on the machine that serves.
    Check(check::Arguments),
    /// Print the access matrix: route, method, who may.
    Routes(routes::Arguments),
    /// Explain what would happen to one request: which route, which rules were tried and why each held or not.
    ///
    /// Offline, by the same code that decides for traffic.
    Explain(explain::Arguments),
    /// Make a client secret of 256 random bits, and the hash to configure.
    ///
    /// Give the secret to the application; write the hash into the configuration: secret = { hash = "sha256:..." }
    ClientSecret(client_secret::Arguments),
    /// Hash a password for users.toml: reads it from the terminal without echo, or from standard input.
    HashPassword(hash_password::Arguments),
    /// Make a signing key and print it as PEM; with --jwk its public half too.
    Keygen(keygen::Arguments),
    /// List or rotate the signing keys of a running gateway, through its admin listener.
    Keys(keys::Arguments),
    /// Print the JSON Schema of the configuration, for editors and other tools.
    ///
    /// With the "Even Better TOML" extension or taplo, put this on top of the file: #:schema ./tollgate.schema.json
    Schema,
    /// Run a whole example on loopback, without any file: gateway, authorization server, a sample API, a user, a client.
    ///
    /// Prints the curl commands to try. Ctrl-C ends it.
    Demo(demo::Arguments),
    /// Print the completions for a shell.
    Completions(completions::Arguments),
}

/// The configuration that a command works on.
#[derive(Debug, Args)]
struct ConfigArgument {
    /// The configuration file [default: tollgate.toml, then /etc/tollgate/tollgate.toml]
    #[arg(short, long = "config", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

/// What a command came to. Wrong usage (status 2) is clap's to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Fine,
    /// It did its work, and the answer is no.
    Failed,
}

/// Runs the command line and says with which status to exit: 0 fine, 1 failed, 2 wrong usage.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Routes(arguments) => routes::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::ClientSecret(arguments) => client_secret::run(arguments),
        Command::HashPassword(arguments) => hash_password::run(arguments),
        Command::Keygen(arguments) => keygen::run(&arguments),
        Command::Keys(arguments) => keys::run(&arguments),
        Command::Schema => schema::run(),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
    };
    match outcome {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(error) => {
            complain(&format!("tollgate: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

impl ConfigArgument {
    fn path(&self) -> PathBuf {
        let [first, second] = CONFIG_FILES.map(Path::new);
        match &self.config {
            Some(path) => path.clone(),
            None if first.exists() || !second.exists() => first.to_owned(),
            None => second.to_owned(),
        }
    }

    /// The configuration, with its warnings told on standard error; none where it has errors, which were told.
    fn load(&self) -> Option<Config> {
        match config::load(&self.path()) {
            Ok((config, warnings)) => {
                complain(&rendered(&warnings, io::stderr().is_terminal()));
                Some(config)
            }
            Err(Diagnostics(problems)) => {
                complain(&rendered(&problems, io::stderr().is_terminal()));
                complain(&format!("{}\n", summary(&problems)));
                None
            }
        }
    }
}

/// Diagnostics for people, each followed by an empty line.
fn rendered(diagnostics: &[Diagnostic], styled: bool) -> String {
    diagnostics.iter().map(|diagnostic| diagnostic.render(styled) + "\n\n").collect()
}

/// "2 errors, 1 warning".
fn summary(diagnostics: &[Diagnostic]) -> String {
    let count = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let named = |count: usize, word: &str| match count {
        0 => None,
        1 => Some(format!("1 {word}")),
        _ => Some(format!("{count} {word}s")),
    };
    let parts = [named(count(Severity::Error), "error"), named(count(Severity::Warning), "warning")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "no problems".to_owned() } else { parts.join(", ") }
}

/// Writes to standard output. A reader that went away (`tollgate schema | head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes to standard error; nothing can be done about it where that fails.
fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
