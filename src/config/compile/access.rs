//! A route's `allow`.

use std::sync::Arc;

use http::Method;

use super::super::diagnostic::{Span, closest};
use super::super::model;
use super::super::reader::{At, Field, List};
use super::issuers::EMBEDDED;
use super::{Compiler, Names};
use crate::policy::{Access, Condition, Entry, Requirements};

/// Methods that are written right more often than not (RFC 9110, RFC 5789, RFC 4918).
const USUAL_METHODS: [&str; 15] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
];

impl Compiler<'_> {
    /// `issuers` are those of the route; none where they are not known.
    pub(super) fn access(&mut self, list: At<List<model::Allow>>, issuers: Option<&[usize]>, names: &Names) -> Access {
        let entries = list.value.items.into_iter().filter_map(|at| self.entry(at, issuers, names)).collect();
        Access { entries }
    }

    fn entry(&mut self, at: At<model::Allow>, route_issuers: Option<&[usize]>, names: &Names) -> Option<Entry> {
        let model::Allow { methods, scopes, any_scope, roles, users, clients, issuers, claims, authenticated, public } =
            at.value;
        let conditions = [
            (scopes.key(), "scopes"),
            (any_scope.key(), "any_scope"),
            (roles.key(), "roles"),
            (users.key(), "users"),
            (clients.key(), "clients"),
            (issuers.key(), "issuers"),
            (claims.key(), "claims"),
            (authenticated.key().filter(|_| authenticated.as_ref().is_none_or(|at| at.value)), "authenticated"),
        ];
        let given: Vec<(Span, &str)> = conditions.iter().filter_map(|(key, name)| Some(((*key)?, *name))).collect();
        let is_public = public.as_ref().is_some_and(|at| at.value);
        let public_is_wrong = matches!(public, Field::Wrong { .. });
        match given.first() {
            Some((key, name)) if is_public => {
                self.report.error(
                    *key,
                    format!("`{name}` stands beside `public`, which lets everybody in"),
                    format!("remove `{name}`, or `public = true`"),
                );
            }
            None if !is_public && !public_is_wrong && !self.report.has_unknown_keys(at.span) => {
                self.report.error(
                    at.span,
                    "this entry has no condition: it does not say who is let in",
                    "add `scopes = [...]`, or `authenticated = true` for any valid token, or `public = true` for no token",
                );
            }
            _ => {}
        }

        let methods = self.methods(methods);
        if is_public {
            return Some(Entry { methods, condition: Condition::Public });
        }
        if names.issuers.is_empty() && !given.is_empty() {
            self.report.error(
                at.span,
                "this entry asks for a token, and there is no issuer whose tokens are accepted",
                "add an `[authorization_server]` or an `[issuers.NAME.jwt]` table, or write `public = true`",
            );
        }
        let own_issuers = self.entry_issuers(issuers, route_issuers, names);
        let accepted = own_issuers
            .as_ref()
            .and_then(|own| if own.is_empty() { route_issuers.map(<[_]>::to_vec) } else { Some(own.clone()) });
        let identity = [(users.key(), "users"), (roles.key(), "roles"), (clients.key(), "clients")];
        for (key, name) in identity.iter().filter_map(|(key, name)| Some(((*key)?, *name))) {
            self.one_issuer(key, name, accepted.as_deref(), names);
        }
        let embedded_only = matches!(accepted.as_deref(), Some([one]) if *names.issuers[*one] == *EMBEDDED);
        let scopes = self.entry_scopes(scopes, "scopes", embedded_only.then_some(names));
        let any_scope = self.entry_scopes(any_scope, "any_scope", embedded_only.then_some(names));
        let roles = self.words(roles, "roles");
        let clients = self.words(clients, "clients");
        if embedded_only {
            for at in &roles {
                if !names.roles.contains(&at.value) {
                    let known = names.roles.iter().map(String::as_str);
                    self.unknown_name(at, known, "role", "configure it: `[authorization_server.roles.NAME]`");
                }
            }
            for at in &clients {
                if !names.clients.contains(&at.value) {
                    let known = names.clients.iter().map(String::as_str);
                    self.unknown_name(at, known, "client", "configure it: `[authorization_server.clients.NAME]`");
                }
            }
        }
        let requirements = Requirements {
            scopes,
            any_scope,
            roles: boxed(roles),
            users: boxed(self.words(users, "users")),
            clients: boxed(clients),
            issuers: own_issuers
                .unwrap_or_default()
                .into_iter()
                .map(|index| Arc::clone(&names.issuers[index]))
                .collect(),
            claims: self.entry_claims(claims),
        };
        Some(Entry { methods, condition: Condition::Token(requirements) })
    }

    fn methods(&mut self, field: Field<List<String>>) -> Vec<Method> {
        let Some(list) = field.given() else { return Vec::new() };
        self.not_empty(&list, "methods", "leave it out for every method, or name some: `[\"GET\", \"POST\"]`");
        self.distinct(&list.value.items, Clone::clone, "the method");
        let mut methods = Vec::new();
        for at in list.value.items {
            let upper = at.value.to_ascii_uppercase();
            let parsed = Method::from_bytes(at.value.as_bytes()).ok();
            if matches!(upper.as_str(), "CONNECT" | "TRACE") {
                self.report.error(
                    at.span,
                    format!("{upper} is always refused"),
                    "remove it; WebSockets are judged as GET",
                );
            } else if upper != at.value && USUAL_METHODS.contains(&upper.as_str()) {
                self.report.error(
                    at.span,
                    format!("`{}` is not a method: methods are case-sensitive", at.value),
                    format!("write `\"{upper}\"`"),
                );
            } else if let Some(method) = parsed {
                if !USUAL_METHODS.contains(&at.value.as_str()) {
                    let help = match closest(&at.value, USUAL_METHODS) {
                        Some(meant) => format!("did you mean `\"{meant}\"`?"),
                        None => "make sure that clients send it in exactly this spelling".to_owned(),
                    };
                    self.report.warning(at.span, format!("`{}` is not a usual method", at.value), help);
                }
                methods.push(method);
            } else {
                self.report.error(
                    at.span,
                    format!("`{}` is not a method", at.value),
                    "write methods as they are sent: `\"GET\"`, `\"POST\"`",
                );
            }
        }
        methods
    }

    /// Indices of the issuers that the entry names, all of which the route accepts. None: something was wrong.
    fn entry_issuers(
        &mut self,
        field: Field<List<String>>,
        route_issuers: Option<&[usize]>,
        names: &Names,
    ) -> Option<Vec<usize>> {
        if field.is_absent() {
            return Some(Vec::new());
        }
        let list = field.given()?;
        self.not_empty(&list, "issuers", "leave it out for every issuer that the route accepts");
        let mut all = Some(Vec::new());
        for at in &list.value.items {
            let index = self.issuer(at, names);
            if let (Some(index), Some(accepted)) = (index, route_issuers)
                && !accepted.contains(&index)
            {
                self.report.error(
                    at.span,
                    format!("the route accepts no tokens of `{}`", at.value),
                    format!("add `\"{}\"` to the route's `issuers`, or remove it here", at.value),
                );
            }
            all = all.zip(index).map(|(mut all, index)| {
                all.push(index);
                all
            });
        }
        all
    }

    /// Names of users, roles and clients are an issuer's: two of them may give the same name to different people.
    fn one_issuer(&mut self, key: Span, name: &str, accepted: Option<&[usize]>, names: &Names) {
        let Some(accepted) = accepted.filter(|accepted| accepted.len() > 1) else { return };
        let list: Vec<String> = accepted.iter().map(|index| format!("`{}`", names.issuers[*index])).collect();
        self.report.error(
            key,
            format!("`{name}` of which issuer? this entry accepts tokens of {}", list.join(" and ")),
            format!("name the one that is meant in the entry: `issuers = [\"{}\"]`", names.issuers[accepted[0]]),
        );
    }

    /// `embedded`: only tokens of the embedded server are accepted, whose scopes are known.
    fn entry_scopes(&mut self, field: Field<List<String>>, key: &str, embedded: Option<&Names>) -> Vec<Box<str>> {
        let items = self.words(field, key);
        for at in &items {
            if self.is_scope(at)
                && let Some(names) = embedded
                && !names.scopes.contains(&at.value)
            {
                let help = match closest(&at.value, names.scopes.iter().map(String::as_str)) {
                    Some(meant) => format!("did you mean `\"{meant}\"`?"),
                    None => "add it to the `scopes` of a client".to_owned(),
                };
                self.report.warning(at.span, format!("no client may have the scope `{}`", at.value), help);
            }
        }
        boxed(items)
    }

    fn entry_claims(
        &mut self,
        field: Field<super::Map<List<String>>>,
    ) -> Vec<(crate::token::ClaimPath, Vec<Box<str>>)> {
        const HELP: &str = "name the values that are let in: `claims = { tenant = [\"acme\"] }`";
        let Some(at) = field.given() else { return Vec::new() };
        if at.value.0.is_empty() {
            self.report.error(at.span, "`claims` is empty", HELP);
        }
        let mut claims = Vec::new();
        for named in at.value.0 {
            let path = self.claim_path(&named.name, "claims");
            let Some(values) = named.value else { continue };
            self.not_empty(&values, &named.name.value, HELP);
            if let Some(path) = path {
                claims.push((path, boxed(values.value.items)));
            }
        }
        claims
    }

    /// The words of a list that must not be empty.
    fn words(&mut self, field: Field<List<String>>, key: &str) -> Vec<At<String>> {
        let Some(list) = field.given() else { return Vec::new() };
        self.not_empty(&list, key, "name at least one, or remove the key");
        for at in list.value.items.iter().filter(|at| at.value.is_empty()) {
            self.report.error(at.span, format!("a name in `{key}` is empty"), "remove it");
        }
        list.value.items
    }
}

fn boxed(items: Vec<At<String>>) -> Vec<Box<str>> {
    items.into_iter().map(|at| at.value.into()).collect()
}
