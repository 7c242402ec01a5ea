//! `[authorization_server.users]` and the files of users.

use std::collections::BTreeMap;

use super::super::diagnostic::{Span, suggestion};
use super::super::model;
use super::super::reader::{At, Field, List};
use super::Compiler;
use super::secrets::Password;
use crate::authorization_server::{User, UserPassword, UserScopes, UserSource};
use crate::scope::ScopeSet;

/// Claims of the token that are the server's to set.
const RESERVED_CLAIMS: [&str; 14] =
    ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "roles", "auth_time", "acr", "amr", "cnf"];
const MAX_NAME_BYTES: usize = 256;

impl Compiler<'_> {
    pub(super) fn users(&mut self, field: Field<model::Users>, roles: &BTreeMap<String, ScopeSet>) -> Vec<UserSource> {
        let Some(at) = field.given() else { return Vec::new() };
        let model::Users { file, htpasswd, ldap, sql, http } = at.value;
        const INSTEAD: &str =
            "list the users in a file: `[authorization_server.users.file]` with `path = \"users.toml\"`";
        self.not_built(&htpasswd, "users.htpasswd", INSTEAD);
        self.not_built(&ldap, "users.ldap", INSTEAD);
        self.not_built(&sql, "users.sql", INSTEAD);
        self.not_built(&http, "users.http", INSTEAD);
        let mut sources = Vec::new();
        if let Some(file) = file.given() {
            let model::UsersFile { path } = file.value;
            let path = path.required(self.report, file.span, "path", "name the file: `path = \"users.toml\"`");
            sources.extend(path.and_then(|path| self.users_file(&path, roles)));
        }
        sources
    }

    fn users_file(&mut self, path: &At<String>, roles: &BTreeMap<String, ScopeSet>) -> Option<UserSource> {
        let text = self.read_text(path, "the list of users")?;
        let full = self.path(path);
        let base = full.parent().map(Into::into).unwrap_or_default();
        let file = self.report.add_source(full, base, &text);
        let (list, _) = super::super::read_file::<model::UserList>(self.report, file, &text)?;
        let model::UserList { user } = list;
        let mut users = Vec::new();
        let mut seen: BTreeMap<String, Span> = BTreeMap::new();
        for at in user.or_default().items {
            let name = at.value.name.as_ref().cloned();
            if let Some(first) = name.and_then(|name| seen.insert(name.value, name.span)) {
                let name = at.value.name.as_ref().map(|name| name.value.clone()).unwrap_or_default();
                let span = at.value.name.as_ref().map_or(at.span, |name| name.span);
                self.report.error(span, format!("there are two users `{name}`"), "give each user a name of its own");
                self.report.relate(first, "the first");
            }
            users.extend(self.user(at, roles));
        }
        Some(UserSource::File(users))
    }

    fn user(&mut self, at: At<model::User>, roles: &BTreeMap<String, ScopeSet>) -> Option<User> {
        let model::User { name, password, roles: own_roles, scopes, disabled, claims } = at.value;
        let name = name.required(self.report, at.span, "name", "write what the user logs in with: `name = \"alice\"`");
        if let Some(name) = &name {
            self.user_name(name);
        }
        let password = password.required(
            self.report,
            at.span,
            "password",
            "make a hash with `tollgate hash-password`: `password = { hash = \"$argon2id$...\" }`",
        );
        let password = password.and_then(|at| self.user_password(at));
        let nothing_wrong = !matches!(own_roles, Field::Wrong { .. }) && !matches!(scopes, Field::Wrong { .. });
        let own_roles = own_roles.or_default();
        for role in &own_roles.items {
            if !roles.contains_key(&role.value) {
                let help = suggestion(
                    &role.value,
                    roles.keys().map(String::as_str),
                    "add an `[authorization_server.roles.NAME]` table to the configuration",
                );
                self.report.error(role.span, format!("there is no role `{}`", role.value), help);
            }
        }
        let scopes = scopes.or_default();
        let disabled = disabled.or(false);
        if let (true, true, Some(name), false) = (own_roles.is_empty(), scopes.is_empty(), &name, disabled)
            && nothing_wrong
        {
            self.report.warning(
                name.span,
                format!("the user `{}` has neither roles nor scopes and can be given none", name.value),
                "give the user a role: `roles = [\"clerk\"]`, or `scopes = [\"*\"]` for whatever the client may have",
            );
        }
        let scopes = self.user_scopes(&scopes);
        let claims = self.user_claims(claims);
        Some(User { name: name?.value, password: password?, roles: own_roles.into_values(), scopes, disabled, claims })
    }

    fn user_name(&mut self, name: &At<String>) {
        let help = if name.value.contains(':') {
            "a name with `:` could not be sent with HTTP Basic and could pass for a client; choose another"
        } else if name.value.is_empty() {
            "write what the user logs in with"
        } else if name.value.chars().any(char::is_control) || name.value.len() > MAX_NAME_BYTES {
            "use up to 256 bytes without control characters"
        } else {
            return;
        };
        self.report.error(name.span, format!("`{}` cannot be a user's name", name.value.escape_debug()), help);
    }

    fn user_password(&mut self, at: At<model::Password>) -> Option<UserPassword> {
        match self.password(at)? {
            Password::Plain(password) => Some(UserPassword::Plain(password)),
            Password::Hash(hash) => self.argon2id(&hash).map(UserPassword::Hash),
        }
    }

    fn user_scopes(&mut self, list: &List<String>) -> UserScopes {
        let star = list.items.iter().find(|at| at.value == "*");
        match star {
            Some(_) if list.items.len() == 1 => UserScopes::All,
            Some(star) => {
                self.report.error(
                    star.span,
                    "`*` already means whatever the client may have",
                    "write `scopes = [\"*\"]` alone, or name the scopes without it",
                );
                UserScopes::All
            }
            None => UserScopes::Listed(self.scopes(list)),
        }
    }

    fn user_claims(&mut self, field: Field<super::super::value::Object>) -> serde_json::Map<String, serde_json::Value> {
        let Some(at) = field.given() else { return serde_json::Map::new() };
        for claim in at.value.0.keys().filter(|claim| RESERVED_CLAIMS.contains(&claim.as_str())) {
            self.report.error(
                at.span,
                format!("the claim `{claim}` is the server's to set"),
                "give the claim another name",
            );
        }
        at.value.0
    }
}
