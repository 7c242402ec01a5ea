//! Files that the configuration names. Relative paths are relative to the file that names them.

use std::path::{Path, PathBuf};

use super::super::model;
use super::super::reader::At;
use super::Compiler;
use crate::jose::{Algorithm, KeySet};
use crate::tls::{self, Certificate, CertificateFiles, ClientAuth, ServerSettings, TlsError, Version};

impl Compiler<'_> {
    /// Where `path` leads from the file that names it.
    pub(super) fn path(&self, path: &At<String>) -> PathBuf {
        self.report.source(path.span.file).base.join(&path.value)
    }

    /// The bytes of a file; `what` it holds is said where it cannot be read.
    pub(super) fn read(&mut self, path: &At<String>, what: &str) -> Option<Vec<u8>> {
        let full = self.path(path);
        let read = std::fs::read(&full);
        self.files.push(full.clone());
        read.map_err(|error| self.unreadable(path, &full, what, &error)).ok()
    }

    /// The text of a file.
    pub(super) fn read_text(&mut self, path: &At<String>, what: &str) -> Option<String> {
        let text = String::from_utf8(self.read(path, what)?);
        if text.is_err() {
            self.report.error(path.span, format!("`{}` is not UTF-8", path.value), format!("{what} is read as text"));
        }
        text.ok()
    }

    fn unreadable(&mut self, path: &At<String>, full: &Path, what: &str, error: &std::io::Error) {
        use std::io::ErrorKind;
        let reason = match error.kind() {
            ErrorKind::NotFound => "it does not exist".to_owned(),
            ErrorKind::PermissionDenied => "permission denied".to_owned(),
            ErrorKind::IsADirectory => "it is a folder".to_owned(),
            _ => error.to_string(),
        };
        let help = match error.kind() {
            ErrorKind::PermissionDenied => {
                format!("let the user that runs tollgate read `{}`", full.display())
            }
            _ if Path::new(&path.value).is_absolute() => "correct the path".to_owned(),
            _ => format!("`{}` was looked for; relative paths start at the file that names them", full.display()),
        };
        self.report.error(path.span, format!("{what} cannot be read from `{}`: {reason}", path.value), help);
    }

    /// `[listeners.*.tls]` and `[admin.tls]`.
    pub(super) fn server_tls(&mut self, at: At<model::Tls>) -> Option<ServerSettings> {
        let model::Tls { certificates, min_version, client_auth, session_tickets } = at.value;
        const HELP: &str = "name at least one: `certificates = [{ cert = \"tls/api.crt\", key = \"tls/api.key\" }]`";
        let certificates = certificates.required(self.report, at.span, "certificates", HELP);
        if let Some(certificates) = &certificates {
            self.not_empty(certificates, "certificates", HELP);
        }
        let certificates: Vec<CertificateFiles> = certificates
            .map(|list| list.value.items)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|pair| self.certificate(pair))
            .collect();
        let settings = ServerSettings {
            certificates,
            min_version: match min_version.or(model::TlsVersion::Tls12) {
                model::TlsVersion::Tls12 => Version::Tls12,
                model::TlsVersion::Tls13 => Version::Tls13,
            },
            client_auth: client_auth.given().and_then(|at| {
                let model::ClientAuth { ca, require } = at.value;
                let ca = ca.required(self.report, at.span, "ca", "name the authorities: `ca = \"tls/clients-ca.crt\"`");
                let ca = self.authorities(&ca?)?;
                Some(ClientAuth { ca, require: require.or(false) })
            }),
            session_tickets: session_tickets.or(true),
        };
        Some(settings)
    }

    /// A certificate chain and its private key, which belong together.
    pub(super) fn certificate(&mut self, at: At<model::Certificate>) -> Option<CertificateFiles> {
        let model::Certificate { cert, key } = at.value;
        let cert = cert.required(self.report, at.span, "cert", "name the PEM file of the chain, leaf first");
        let key = key.required(self.report, at.span, "key", "name the PEM file of the private key");
        let cert = cert.filter(|cert| self.read(cert, "the certificate").is_some());
        let key = key.filter(|key| self.read(key, "the private key").is_some());
        let (cert, key) = (cert?, key?);
        let files = CertificateFiles { cert: self.path(&cert), key: self.path(&key) };
        match Certificate::load(&files) {
            Ok(loaded) => {
                if u64::try_from(loaded.not_after).unwrap_or(0) < self.now {
                    self.report.warning(
                        cert.span,
                        format!("the certificate `{}` has expired", cert.value),
                        "renew it: clients refuse it",
                    );
                }
                Some(files)
            }
            Err(error) => {
                let (span, help) = match error {
                    TlsError::Mismatch { .. } => (key.span, "name the key that the certificate was made for"),
                    TlsError::NoKey { .. } | TlsError::Key { .. } => {
                        (key.span, "a PEM file with `-----BEGIN PRIVATE KEY-----` is expected here")
                    }
                    _ => (cert.span, "a PEM file with `-----BEGIN CERTIFICATE-----` is expected here, the leaf first"),
                };
                self.report.error(span, error.to_string(), help);
                None
            }
        }
    }

    /// A PEM file of trusted authorities.
    pub(super) fn authorities(&mut self, path: &At<String>) -> Option<PathBuf> {
        self.read(path, "the authority's certificate")?;
        let full = self.path(path);
        if let Err(error) = tls::root_store(&full) {
            self.report.error(
                path.span,
                error.to_string(),
                "a PEM file with `-----BEGIN CERTIFICATE-----` is expected here",
            );
            return None;
        }
        Some(full)
    }

    /// A file with a JWK set, some of whose keys can verify one of `algorithms`.
    pub(super) fn jwks_file(&mut self, path: &At<String>, algorithms: &[Algorithm]) -> Option<PathBuf> {
        self.key_set(path, algorithms, "put the issuer's public keys into it, and their algorithms into `algorithms`")
            .map(|_| self.path(path))
    }

    /// A JWK set with a key that can be used; `help` says what to do when there is none.
    pub(super) fn key_set(&mut self, path: &At<String>, algorithms: &[Algorithm], help: &str) -> Option<KeySet> {
        let json = self.read(path, "the key set")?;
        match KeySet::parse(&json, algorithms) {
            Ok((keys, left_out)) => {
                for reason in left_out {
                    self.report.warning(
                        path.span,
                        format!("a key of `{}` is not used: {reason}", path.value),
                        "correct the key or the issuer's `algorithms`, or remove the key",
                    );
                }
                if keys.is_empty() {
                    self.report.error(
                        path.span,
                        format!("`{}` holds no key that could verify a token", path.value),
                        help,
                    );
                }
                Some(keys)
            }
            Err(error) => {
                self.report.error(
                    path.span,
                    format!("`{}`: {error}", path.value),
                    "a JWK set is JSON: `{ \"keys\": [ ... ] }`",
                );
                None
            }
        }
    }
}
