//! Secrets: taken from the environment, from a file, or (with a warning) from the configuration itself.

use std::sync::Arc;

use super::super::diagnostic::Span;
use super::super::model;
use super::super::reader::{At, Field};
use super::super::value::SecretText;
use super::Compiler;
use crate::authorization_server::PasswordHash;
use crate::secret::Secret;

/// Bounds of an argon2id hash, so that checking a password stays affordable.
const ARGON2_MAX_MEMORY_KIB: u32 = 1 << 20;
const ARGON2_MAX_PASSES: u32 = 16;
const ARGON2_MAX_LANES: u32 = 16;

/// A password or client secret as configured.
#[derive(Debug)]
pub(super) enum Password {
    Hash(At<String>),
    Plain(Secret<String>),
}

const ONE_SOURCE: &str = "write exactly one of `env`, `file` and `value`";
const ONE_PASSWORD_SOURCE: &str = "write exactly one of `hash`, `env`, `file` and `value`";

impl Compiler<'_> {
    /// The secret's text; none where it cannot be had, which was reported.
    pub(super) fn secret(&mut self, at: At<model::Secret>) -> Option<Secret<String>> {
        let model::Secret { env, file, value } = at.value;
        if !self.exactly_one(at.span, &[env.key(), file.key(), value.key()], ONE_SOURCE) {
            return None;
        }
        self.plain(at.span, env, file, value)
    }

    /// A hash or a secret in clear.
    pub(super) fn password(&mut self, at: At<model::Password>) -> Option<Password> {
        let model::Password { hash, env, file, value } = at.value;
        if !self.exactly_one(at.span, &[hash.key(), env.key(), file.key(), value.key()], ONE_PASSWORD_SOURCE) {
            return None;
        }
        if !hash.is_absent() {
            return hash.given().map(Password::Hash);
        }
        self.plain(at.span, env, file, value).map(Password::Plain)
    }

    fn exactly_one(&mut self, table: Span, keys: &[Option<Span>], help: &str) -> bool {
        let mut given = keys.iter().flatten();
        match (given.next(), given.next()) {
            (Some(_), None) => true,
            (None, _) => {
                self.report.error(table, "this says nothing about where the secret is", help);
                false
            }
            (Some(_), Some(second)) => {
                self.report.error(*second, "the secret has two sources", help);
                false
            }
        }
    }

    fn plain(
        &mut self,
        table: Span,
        env: Field<String>,
        file: Field<String>,
        value: Field<SecretText>,
    ) -> Option<Secret<String>> {
        let (text, span) = if let Some(name) = env.given() {
            match std::env::var(&name.value) {
                Ok(text) => (text, name.span),
                Err(error) => {
                    let what = match error {
                        std::env::VarError::NotPresent => "is not set",
                        std::env::VarError::NotUnicode(_) => "is not UTF-8",
                    };
                    self.report.error(
                        name.span,
                        format!("the environment variable `{}` {what}", name.value),
                        format!(
                            "set it where tollgate starts: `export {}=...`, or use `{{ file = \"path\" }}`",
                            name.value
                        ),
                    );
                    return None;
                }
            }
        } else if let Some(path) = file.given() {
            let mut text = self.read_text(&path, "the secret")?;
            if text.ends_with('\n') {
                text.pop();
                if text.ends_with('\r') {
                    text.pop();
                }
            }
            (text, path.span)
        } else {
            let value = value.given()?;
            if !value.value.0.is_empty() {
                self.report.warning(
                    table,
                    "this secret can be read by whoever can read the configuration",
                    "keep it in a file or in the environment: `{ file = \"path\" }`, `{ env = \"NAME\" }`",
                );
            }
            (value.value.0.to_string(), value.span)
        };
        if text.is_empty() {
            self.report.error(span, "the secret is empty", "an empty secret would let everybody in; write one");
            return None;
        }
        Some(Secret::new(text))
    }

    /// An argon2id hash in PHC format, within bounds.
    pub(super) fn argon2id(&mut self, at: &At<String>) -> Option<PasswordHash> {
        const HELP: &str = "make one with `tollgate hash-password`";
        let Ok(hash) = argon2::PasswordHash::new(&at.value) else {
            self.report.error(at.span, "this is not a password hash", HELP);
            return None;
        };
        if hash.algorithm.as_str() != "argon2id" {
            self.report.error(
                at.span,
                format!("passwords are hashed with argon2id here, not with {}", hash.algorithm),
                HELP,
            );
            return None;
        }
        let Ok(params) = argon2::Params::try_from(&hash) else {
            self.report.error(at.span, "the parameters of this hash make no sense", HELP);
            return None;
        };
        if hash.salt.is_none() || hash.hash.is_none() {
            self.report.error(at.span, "this hash is cut off: its salt or its end is missing", HELP);
            return None;
        }
        if params.m_cost() > ARGON2_MAX_MEMORY_KIB
            || params.t_cost() > ARGON2_MAX_PASSES
            || params.p_cost() > ARGON2_MAX_LANES
        {
            self.report.error(
                at.span,
                "this hash costs too much to check: at most m=1048576 (1 GiB), t=16 and p=16 are accepted",
                HELP,
            );
            return None;
        }
        Some(PasswordHash(Arc::from(at.value.as_str())))
    }
}
