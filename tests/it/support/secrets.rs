//! Every secret that passes through the hands of the tests, and the search for them in what a gateway leaves behind. The
//! clients, the upstream and the builders note what they see, so that no test has to think of it.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Shorter ones (`x`, `wrong`) stand in any text by chance.
const SHORTEST: usize = 8;
/// Larger messages carry no credentials beyond this.
const HEAD: usize = 64 * 1024;
/// Parameters of forms and queries, and members of answers in JSON, whose values are secrets.
const PARAMETERS: [&str; 13] = [
    "access_token",
    "client_assertion",
    "client_secret",
    "code",
    "code_verifier",
    "csrf",
    "id_token",
    "password",
    "refresh_token",
    "secret",
    "subject_token",
    "token",
    "transaction",
];
/// Header fields of the same kind.
const FIELDS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];

/// By their first bytes.
static KNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Takes note of a secret.
pub fn keep(secret: &str) {
    if secret.len() >= SHORTEST {
        KNOWN.lock().unwrap().insert(secret.to_owned());
    }
}

/// A compact JWS. Its signature alone would do as well, so that is one too.
pub fn keep_token(token: &str) {
    keep(token);
    if token.matches('.').count() == 2 {
        keep(token.rsplit('.').next().unwrap_or_default());
    }
}

/// The secrets in a message, or in a part of one, on the way in either direction.
pub fn keep_message(bytes: &[u8]) {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(HEAD)]);
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        match FIELDS.iter().find(|field| name.eq_ignore_ascii_case(field)) {
            Some(&("cookie" | "set-cookie")) => {
                for (name, value) in value.split(';').filter_map(|pair| pair.split_once('=')) {
                    // Those of others are no business of the gateway.
                    if name.contains("tollgate") {
                        keep(value.trim());
                    }
                }
            }
            Some(_) => keep_credentials(value.trim()),
            None => {}
        }
    }
    keep_parameters(&text);
}

fn keep_credentials(value: &str) {
    let Some((_, credentials)) = value.split_once(' ') else { return };
    keep_token(credentials.trim());
    let decoded = STANDARD.decode(credentials.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some((_, secret)) = decoded.as_deref().and_then(|text| text.split_once(':')) {
        keep(secret);
    }
}

fn keep_parameters(text: &str) {
    for pair in text.split(['?', '&', '#', ' ', '\r', '\n']) {
        let Some((name, value)) = pair.split_once('=').filter(|(name, _)| PARAMETERS.contains(name)) else { continue };
        keep_token(value);
        for (_, value) in form_urlencoded::parse(format!("{name}={value}").as_bytes()) {
            keep_token(&value);
        }
    }
}

/// The secrets in an answer of JSON.
pub fn keep_answer(body: &[u8]) {
    if let Ok(Value::Object(members)) = serde_json::from_slice(body) {
        for (_, value) in members.iter().filter(|(name, _)| PARAMETERS.contains(&name.as_str())) {
            keep_token(value.as_str().unwrap_or_default());
        }
    }
}

/// The lines of private keys in PEM.
pub fn keep_keys(text: &str) {
    if text.contains("PRIVATE KEY-----") {
        text.lines().filter(|line| line.len() >= 40 && !line.starts_with('-')).for_each(keep);
    }
}

/// What a configuration names as a secret: in itself, or in files of `dir`.
pub fn keep_configured(config: &str, dir: &Path) {
    fn walk(value: &toml::Value, dir: &Path) {
        match value {
            toml::Value::Table(table) => {
                let text = |key: &str| table.get(key).and_then(toml::Value::as_str);
                text("value").into_iter().for_each(keep);
                let file = text("file").and_then(|file| std::fs::read_to_string(dir.join(file)).ok());
                file.iter().for_each(|secret| keep(secret.trim_end()));
                table.values().for_each(|value| walk(value, dir));
            }
            toml::Value::Array(all) => all.iter().for_each(|value| walk(value, dir)),
            _ => {}
        }
    }
    if let Ok(table) = config.parse::<toml::Table>() {
        walk(&toml::Value::Table(table), dir);
    }
}

/// The environment variable of a gateway.
pub fn keep_variable(name: &str, value: &str) {
    if ["SECRET", "TOKEN", "PASSWORD"].iter().any(|word| name.contains(word)) {
        keep(value);
    }
}

/// The known secrets that stand in what is left behind, with some of the text around each.
pub fn found_in(bytes: &[u8]) -> Vec<String> {
    let known = KNOWN.lock().unwrap();
    let mut by_start: HashMap<&[u8], Vec<&str>> = HashMap::new();
    for secret in &*known {
        by_start.entry(&secret.as_bytes()[..SHORTEST]).or_default().push(secret);
    }
    let mut found = BTreeSet::new();
    for (place, window) in bytes.windows(SHORTEST).enumerate() {
        for secret in by_start.get(window).into_iter().flatten() {
            if bytes[place..].starts_with(secret.as_bytes()) {
                let around = &bytes[place.saturating_sub(80)..bytes.len().min(place + secret.len() + 20)];
                found.insert(format!("{secret:?} in: {}", String::from_utf8_lossy(around)));
            }
        }
    }
    found.into_iter().collect()
}

/// The same for all files of a folder.
pub fn found_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(found_below(&path)),
            false => {
                let leaks = found_in(&std::fs::read(&path).unwrap_or_default());
                found.extend(leaks.into_iter().map(|leak| format!("{}: {leak}", path.display())));
            }
        }
    }
    found
}
