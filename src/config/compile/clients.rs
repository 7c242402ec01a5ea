//! `[authorization_server.clients]`.

use std::time::Duration;

use super::super::diagnostic::Span;
use super::super::model;
use super::super::reader::{At, Field, List, Map};
use super::super::value::Interval;
use super::Compiler;
use super::secrets::Password;
use crate::authorization_server::{AuthMethod, Client, ClientSecret, Grant, RefreshPolicy};
use crate::jose::{Algorithm, KeySet};
use crate::net::is_loopback_host;

const OFFLINE_ACCESS: &str = "offline_access";
/// In bytes, for a secret that is compared at full speed.
const SHORTEST_SECRET: usize = 16;
const SECRET_HELP: &str = "make one with `tollgate client-secret`: `secret = { hash = \"sha256:...\" }`";

impl Compiler<'_> {
    pub(super) fn clients(
        &mut self,
        field: Field<Map<model::Client>>,
        server_lifetime: Duration,
        has_users: bool,
    ) -> Vec<Client> {
        let mut clients = Vec::new();
        for named in field.or_default().0 {
            self.name(&named.name, "a client");
            if let Some(at) = named.value {
                clients.push(self.client(&named.name, at, server_lifetime, has_users));
            }
        }
        clients
    }

    fn client(&mut self, id: &At<String>, at: At<model::Client>, server_lifetime: Duration, has_users: bool) -> Client {
        let model::Client {
            name,
            secret,
            secrets,
            public,
            require_pkce,
            public_password,
            refresh,
            origins,
            auth_methods,
            jwks_file,
            grants,
            password_until,
            access_token_lifetime,
            audience,
            redirect_uris,
            scopes,
            default_scopes,
            trusted,
            introspect,
        } = at.value;

        // A wrong value of `public` was reported; nothing is concluded from it.
        let kind_known = !matches!(public, Field::Wrong { .. });
        let is_public = public.or(false);
        let kind = kind_known.then_some(is_public);
        let auth_methods_key = auth_methods.key();
        let auth_methods = self.auth_methods(auth_methods, kind);
        let signs = auth_methods.contains(&AuthMethod::PrivateKeyJwt);
        let only_signs = signs && auth_methods.len() == 1;
        let keys = self.client_keys(jwks_file, auth_methods_key.filter(|_| signs));
        let secrets = match only_signs && secret.key().or(secrets.key()).is_none() {
            true => Vec::new(),
            false => self.client_secrets(at.span, id, secret, secrets, kind),
        };

        let allowed = Grants::of(&grants, at.span);
        let grants = allowed.list.clone();
        self.grants(id, &allowed, kind, &public_password, &password_until, has_users);
        let redirect_uris = self.redirect_uris(id, redirect_uris, &allowed);

        let default_scopes_list = default_scopes.or_default();
        let scopes_known = !matches!(scopes, Field::Wrong { .. });
        let scopes = scopes.or_default();
        let scope_set = self.scopes(&scopes);
        let default_scopes = self.scopes(&default_scopes_list);
        for at in default_scopes_list.items.iter().filter(|_| scopes_known && scopes.complete) {
            if crate::scope::is_token(&at.value) && !scope_set.contains(&at.value) {
                self.report.error(
                    at.span,
                    format!("`{}` is given by default and is not among the client's `scopes`", at.value),
                    format!("add `\"{}\"` to `scopes`, or remove it here", at.value),
                );
            }
        }
        let offline = scopes.items.iter().find(|at| at.value == OFFLINE_ACCESS).map(|at| at.span);
        let refresh = self.refresh(refresh, &allowed, offline);

        if let (Some(true), Some(At { value: true, span })) = (kind, introspect.as_ref()) {
            self.report.warning(
                *span,
                "a public client cannot authenticate, and so never gets an answer from the introspection endpoint",
                "remove `introspect`",
            );
        }
        Client {
            name: name.given().map_or_else(|| id.value.clone(), |at| at.value),
            id: id.value.as_str().into(),
            secrets,
            keys,
            public: is_public,
            public_password: public_password.or(false),
            auth_methods,
            grants,
            password_until: password_until.given().map(|at| at.value.end()),
            refresh,
            access_token_lifetime: self.client_lifetime(access_token_lifetime, server_lifetime),
            audience: self.audience(audience),
            redirect_uris,
            scopes: scope_set,
            default_scopes,
            trusted: trusted.or(false),
            introspect: introspect.or(false),
            require_pkce: require_pkce.or(false) || is_public,
            origins: self.origins(origins.or_default()),
        }
    }

    fn client_secrets(
        &mut self,
        owner: Span,
        id: &At<String>,
        secret: Field<model::Password>,
        secrets: Field<List<model::Password>>,
        public: Option<bool>,
    ) -> Vec<ClientSecret> {
        let key = secret.key().or(secrets.key());
        match (public, key) {
            (Some(true), Some(key)) => {
                self.report.error(
                    key,
                    format!("the public client `{}` has a secret", id.value),
                    "remove the secret, or `public = true`: a public client cannot keep one",
                );
            }
            (Some(false), None) => {
                self.report.error(
                    owner,
                    format!("the client `{}` has no secret", id.value),
                    format!("{SECRET_HELP}; or write `public = true` for an application that cannot keep one"),
                );
            }
            _ => {}
        }
        if let (Some(first), Some(second)) = (secret.key(), secrets.key()) {
            self.report.error(second, "both `secret` and `secrets` stand here", "write all of them in `secrets`");
            self.report.relate(first, "the other one");
        }
        let mut all: Vec<At<model::Password>> = secret.given().into_iter().collect();
        if let Some(list) = secrets.given() {
            self.not_empty(&list, "secrets", SECRET_HELP);
            if let Some(third) = list.value.items.get(2) {
                self.report.error(
                    third.span,
                    "there are more than two secrets",
                    "keep two: the old one and the new one, while the application is changed over",
                );
            }
            all.extend(list.value.items);
        }
        all.into_iter().filter_map(|at| self.client_secret(at)).collect()
    }

    fn client_secret(&mut self, at: At<model::Password>) -> Option<ClientSecret> {
        let span = at.span;
        match self.password(at)? {
            Password::Plain(secret) => {
                if secret.expose().len() < SHORTEST_SECRET {
                    self.report.warning(
                        span,
                        "this client secret is short enough to be guessed: an application is never locked out",
                        SECRET_HELP,
                    );
                }
                Some(ClientSecret::Plain(secret))
            }
            Password::Hash(hash) => match hash.value.strip_prefix("sha256:") {
                Some(digits) => {
                    let digest = sha256_digest(digits);
                    if digest.is_none() {
                        self.report.error(
                            hash.span,
                            "`sha256:` is followed by 64 hexadecimal digits",
                            "copy the whole hash that `tollgate client-secret` prints",
                        );
                    }
                    digest.map(ClientSecret::Sha256)
                }
                None => self.argon2id(&hash).map(ClientSecret::Argon2id),
            },
        }
    }

    /// The keys of `private_key_jwt`, which stands at `wanted` when the client has it.
    fn client_keys(&mut self, jwks_file: Field<String>, wanted: Option<Span>) -> KeySet {
        match (wanted, jwks_file) {
            (Some(_), Field::Set { value, .. }) => {
                let keys = self.key_set(&value, &Algorithm::ALL, "put the client's public keys into it");
                return keys.unwrap_or_default();
            }
            (Some(span), Field::Absent) => {
                self.report.error(
                    span,
                    "`private_key_jwt` needs the client's public keys",
                    "add `jwks_file = \"client.jwks\"`, a JWK set that the client's owner made",
                );
            }
            (None, Field::Set { key, .. }) => {
                self.report.warning(
                    key,
                    "`jwks_file` means nothing without `private_key_jwt`",
                    "add `auth_methods = [\"private_key_jwt\"]`, or remove it",
                );
            }
            (_, Field::Wrong { .. }) | (None, Field::Absent) => {}
        }
        KeySet::default()
    }

    fn auth_methods(&mut self, field: Field<List<model::AuthMethod>>, public: Option<bool>) -> Vec<AuthMethod> {
        let Some(list) = field.given() else {
            return match public {
                Some(true) => vec![AuthMethod::None],
                _ => vec![AuthMethod::ClientSecretBasic, AuthMethod::ClientSecretPost],
            };
        };
        self.not_empty(&list, "auth_methods", "leave it out for what suits the kind of client");
        let mut methods = Vec::new();
        for at in list.value.items {
            let method = match at.value {
                model::AuthMethod::PrivateKeyJwt => AuthMethod::PrivateKeyJwt,
                model::AuthMethod::ClientSecretBasic => AuthMethod::ClientSecretBasic,
                model::AuthMethod::ClientSecretPost => AuthMethod::ClientSecretPost,
                model::AuthMethod::None => AuthMethod::None,
            };
            match (public, method) {
                (Some(true), method) if method != AuthMethod::None => {
                    self.report.error(
                        at.span,
                        "a public client has no secret to authenticate with",
                        "leave `auth_methods` out, or write `[\"none\"]`",
                    );
                }
                (Some(false), AuthMethod::None) => {
                    self.report.error(
                        at.span,
                        "a confidential client always authenticates",
                        "remove `\"none\"`, or write `public = true` and no secret",
                    );
                }
                _ => methods.push(method),
            }
        }
        methods
    }

    fn grants(
        &mut self,
        id: &At<String>,
        grants: &Grants,
        public: Option<bool>,
        public_password: &Field<bool>,
        password_until: &Field<super::super::value::Date>,
        has_users: bool,
    ) {
        if let Some(password) = grants.span(Grant::Password) {
            if public == Some(true) && !public_password.as_ref().is_some_and(|at| at.value) {
                self.report.error(
                    password,
                    format!("the public client `{}` may not use the password grant", id.value),
                    "make it confidential, or write `public_password = true` if anybody may try passwords through it",
                );
            } else {
                self.report.warning(
                    password,
                    format!(
                        "the client `{}` uses the password grant, which RFC 9700 forbids for new applications",
                        id.value
                    ),
                    if password_until.key().is_some() {
                        "move it to `authorization_code` before `password_until`"
                    } else {
                        "plan to move it to `authorization_code`; `password_until` sets the last day"
                    },
                );
            }
        } else if grants.complete {
            for (key, name) in [(public_password.key(), "public_password"), (password_until.key(), "password_until")] {
                if let Some(key) = key {
                    self.report.warning(
                        key,
                        format!("`{name}` means nothing for a client without the password grant"),
                        "remove it, or add `\"password\"` to `grants`",
                    );
                }
            }
        }
        if let (Some(span), Some(true)) = (grants.span(Grant::ClientCredentials), public) {
            self.report.error(
                span,
                "a public client has no credentials of its own",
                "remove `\"client_credentials\"`, or give the client a secret and remove `public = true`",
            );
        }
        let logs_in = grants.span(Grant::Password).or(grants.span(Grant::AuthorizationCode));
        if let (Some(span), false) = (logs_in, has_users) {
            self.report.warning(
                span,
                format!("nobody can log in through `{}`: there are no users", id.value),
                "add `[authorization_server.users.file]` with `path = \"users.toml\"`",
            );
        }
    }

    fn redirect_uris(&mut self, id: &At<String>, field: Field<List<String>>, grants: &Grants) -> Vec<String> {
        let wrong = matches!(field, Field::Wrong { .. });
        let list = field.or_default();
        if let (true, false, Some(span)) = (list.is_empty(), wrong, grants.span(Grant::AuthorizationCode)) {
            self.report.error(
                span,
                format!("the client `{}` has the authorization code grant and no `redirect_uris`", id.value),
                "add `redirect_uris = [\"https://app.example.com/callback\"]`, or name other `grants`",
            );
        }
        for at in &list.items {
            if let Err((message, help)) = check_redirect_uri(&at.value) {
                self.report.error(at.span, message, help);
            }
        }
        self.distinct(&list.items, Clone::clone, "the redirect URI");
        list.into_values()
    }

    fn refresh(
        &mut self,
        field: Field<model::Refresh>,
        grants: &Grants,
        offline_access: Option<Span>,
    ) -> RefreshPolicy {
        let span = field.as_ref().map(|at| at.span);
        let policy = field.or(model::Refresh::OfflineAccess);
        let grant = grants.span(Grant::RefreshToken);
        let ways = if grants.complete { (policy, grant, offline_access) } else { (model::Refresh::Never, None, None) };
        match ways {
            (model::Refresh::OfflineAccess, Some(grant), None) => {
                self.report.warning(
                    grant,
                    "no refresh token is ever given: the client's `scopes` lack `offline_access`",
                    "add `\"offline_access\"` to `scopes`, or write `refresh = \"always\"`",
                );
            }
            (model::Refresh::OfflineAccess, None, Some(scope)) => {
                self.report.warning(
                    scope,
                    "`offline_access` asks for a refresh token, which the client has no grant to use",
                    "add `\"refresh_token\"` to `grants`, or remove the scope",
                );
            }
            (model::Refresh::Always, None, _) => {
                self.report.warning(
                    span.unwrap_or(self.start),
                    "`refresh = \"always\"` means nothing for a client without the refresh_token grant",
                    "add `\"refresh_token\"` to `grants`",
                );
            }
            (model::Refresh::Never, Some(grant), _) => {
                self.report.warning(
                    grant,
                    "the refresh_token grant means nothing beside `refresh = \"never\"`",
                    "remove one of the two",
                );
            }
            _ => {}
        }
        match policy {
            model::Refresh::OfflineAccess => RefreshPolicy::OfflineAccess,
            model::Refresh::Always => RefreshPolicy::Always,
            model::Refresh::Never => RefreshPolicy::Never,
        }
    }

    fn client_lifetime(&mut self, field: Field<Interval>, server: Duration) -> Option<Duration> {
        let span = field.as_ref().map(|at| at.span)?;
        let lifetime = self.interval(field, "access_token_lifetime", server);
        if lifetime > server {
            self.report.error(
                span,
                "the client's tokens would live longer than the server's",
                format!("make it at most {}, or raise the server's", super::interval_text(server)),
            );
        }
        Some(lifetime)
    }

    /// Of a client or a route, each meant as it stands: neither wildcards nor `null`, which any page can bring about.
    pub(super) fn origins(&mut self, list: List<String>) -> Vec<String> {
        for at in &list.items {
            if at.value == "null" || at.value.contains('*') {
                let help = "name each origin by itself: `\"https://app.example.com\"`";
                self.report.error(at.span, format!("`{}` is not one origin", at.value), help);
                continue;
            }
            let origin = self.url(at, "origins");
            if origin.is_some_and(|url| url.origin() != at.value) {
                self.report.error(
                    at.span,
                    format!("`{}` is not an origin", at.value),
                    "write scheme, host and port as a browser sends them, in lower case and without a path: `\"https://app.example.com\"`",
                );
            }
        }
        list.into_values()
    }
}

/// A client's grants and where each is written; the default stands where the client does.
struct Grants {
    list: Vec<Grant>,
    spans: Vec<Span>,
    /// Whether none of them was wrong.
    complete: bool,
}

impl Grants {
    fn of(field: &Field<List<model::Grant>>, owner: Span) -> Self {
        match field {
            Field::Absent => Self { list: vec![Grant::AuthorizationCode], spans: vec![owner], complete: true },
            Field::Wrong { .. } => Self { list: Vec::new(), spans: Vec::new(), complete: false },
            Field::Set { value, .. } => {
                let (list, spans) = value.value.items.iter().map(|at| (grant(at.value), at.span)).unzip();
                Self { list, spans, complete: value.value.complete }
            }
        }
    }

    fn span(&self, grant: Grant) -> Option<Span> {
        self.list.iter().position(|own| *own == grant).map(|index| self.spans[index])
    }
}

fn grant(word: model::Grant) -> Grant {
    match word {
        model::Grant::AuthorizationCode => Grant::AuthorizationCode,
        model::Grant::RefreshToken => Grant::RefreshToken,
        model::Grant::Password => Grant::Password,
        model::Grant::ClientCredentials => Grant::ClientCredentials,
    }
}

fn sha256_digest(digits: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (n, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(digest)
}

/// RFC 6749 section 3.1.2, RFC 8252 section 7, RFC 9700 section 2.6: the problem and its help.
fn check_redirect_uri(uri: &str) -> Result<(), (String, &'static str)> {
    const ABSOLUTE: &str = "write an absolute URI: `\"https://app.example.com/callback\"`";
    if uri.bytes().any(|b| !b.is_ascii_graphic() || b == b'\\') {
        return Err((format!("`{}` holds characters that no URI has", uri.escape_debug()), ABSOLUTE));
    }
    let Some((scheme, rest)) = uri.split_once(':') else {
        return Err((format!("the redirect URI `{uri}` is not absolute"), ABSOLUTE));
    };
    let scheme_is_valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    if !scheme_is_valid {
        return Err((format!("the redirect URI `{uri}` is not absolute"), ABSOLUTE));
    }
    if uri.contains('#') {
        return Err((format!("the redirect URI `{uri}` has a fragment"), "remove `#` and what follows"));
    }
    match scheme.to_ascii_lowercase().as_str() {
        "javascript" | "data" | "vbscript" => {
            Err((format!("a redirect to `{scheme}:` would run in the browser"), ABSOLUTE))
        }
        scheme @ ("https" | "http") => {
            let authority = rest.strip_prefix("//").and_then(|rest| rest.split(['/', '?']).next()).unwrap_or_default();
            let parsed = authority.parse::<http::uri::Authority>().ok().filter(|_| !authority.contains('@'));
            let Some(host) = parsed.as_ref().map(http::uri::Authority::host).filter(|host| !host.is_empty()) else {
                return Err((format!("the redirect URI `{uri}` has no proper host"), ABSOLUTE));
            };
            if scheme == "http" && !is_loopback_host(host) {
                return Err((
                    format!("the redirect URI `{uri}` uses http, which is for loopback only"),
                    "use https; a native application may use `http://127.0.0.1/callback`",
                ));
            }
            Ok(())
        }
        scheme if !scheme.contains('.') => Err((
            format!("the scheme of `{uri}` could belong to any application"),
            "use a domain name in reverse, which is yours: `\"com.example.app:/callback\"`",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a7_redirect_uris() {
        for good in [
            "https://app.example.com/cb",
            "https://app.example.com/cb?tenant=1",
            "https://app.example.com:8443/cb",
            "http://127.0.0.1/cb",
            "http://[::1]:7777/cb",
            "http://localhost:3000/cb",
            "com.example.app:/cb",
        ] {
            assert!(check_redirect_uri(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/cb",
            "app.example.com/cb",
            "https://",
            "https:/cb",
            "https://app.example.com/cb#x",
            "https://user@app.example.com/cb",
            "https://app.example.com/a b",
            "https://app.example.com\\@evil.example/",
            "http://app.example.com/cb",
            "http://127.0.0.1.evil.example/cb",
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            "data:text/html,x",
            "vbscript:x",
            "myapp:/cb",
            "1https://x",
        ] {
            assert!(check_redirect_uri(bad).is_err(), "{bad}");
        }
    }
}
