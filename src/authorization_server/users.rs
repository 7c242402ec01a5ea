//! Users: who they are, what they may have, and whether a password is theirs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use argon2::Params;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Map, Value};

use super::passwords::{Busy, HashPool, hash_with};
use super::{PasswordHash, UserPassword, UserScopes, UserSource};
use crate::clock::UnixSeconds;
use crate::scope::ScopeSet;

/// Longest user name that is looked at, in bytes.
pub(super) const MAX_NAME: usize = 256;
/// Longest password that is hashed, in bytes.
pub(super) const MAX_PASSWORD: usize = 1024;

/// Somebody who may log in.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: String,
    hash: PasswordHash,
    pub(super) roles: Vec<String>,
    scopes: UserScopes,
    pub(super) disabled: bool,
    pub(super) claims: Map<String, Value>,
    /// Changes with the password and tells nothing of it.
    pub(super) password_stamp: String,
}

#[derive(Debug)]
pub(super) struct Users {
    by_name: HashMap<String, Arc<Account>>,
    roles: BTreeMap<String, ScopeSet>,
    /// When passwords were seen to change.
    changed: HashMap<String, UnixSeconds>,
    /// What is hashed against when the name is unknown, at the cost of the known ones.
    dummy: PasswordHash,
}

impl Users {
    pub(super) fn new(sources: Vec<UserSource>, roles: BTreeMap<String, ScopeSet>) -> Self {
        let mut by_name = HashMap::new();
        for UserSource::File(users) in sources {
            for user in users {
                let hash = match user.password {
                    UserPassword::Hash(hash) => hash,
                    // From here on it is checked like every other, in the same time. The salt is derived from the name,
                    // so that the stamp below stays the same until the password changes.
                    UserPassword::Plain(password) => {
                        let salt = digest::digest(&digest::SHA256, format!("tollgate user {}", user.name).as_bytes());
                        let secret = password.expose().as_bytes();
                        PasswordHash(hash_with(secret, &salt.as_ref()[..16], Params::default()).into())
                    }
                };
                let stamp = digest::digest(&digest::SHA256, hash.0.as_bytes());
                let account = Account {
                    password_stamp: BASE64URL.encode(&stamp.as_ref()[..16]),
                    hash,
                    roles: user.roles,
                    scopes: user.scopes,
                    disabled: user.disabled,
                    claims: user.claims,
                    name: user.name.clone(),
                };
                // The first source that knows the name decides.
                by_name.entry(user.name).or_insert_with(|| Arc::new(account));
            }
        }
        let dummy = dummy(&by_name);
        Self { by_name, roles, changed: HashMap::new(), dummy }
    }

    /// Names and password stamps of all.
    pub(super) fn stamps(&self) -> Vec<(String, String)> {
        self.by_name.values().map(|account| (account.name.clone(), account.password_stamp.clone())).collect()
    }

    pub(super) fn set_changed(&mut self, changed: HashMap<String, UnixSeconds>) {
        self.changed = changed;
    }

    /// Whether what was issued to a user at that time still counts: the user may log in, and has the same password.
    pub(super) fn stands(&self, name: &str, issued: UnixSeconds) -> bool {
        self.enabled(name).is_some() && self.changed.get(name).is_none_or(|changed| issued >= *changed)
    }

    /// The account of that name, unless it is disabled.
    pub(super) fn enabled(&self, name: &str) -> Option<&Arc<Account>> {
        self.by_name.get(name).filter(|account| !account.disabled)
    }

    pub(super) fn is_known(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The account whose name and password these are. Takes the same time whatever is wrong.
    pub(super) async fn authenticate(
        &self,
        pool: &HashPool,
        name: &str,
        password: &str,
    ) -> Result<Result<Arc<Account>, &'static str>, Busy> {
        let account = self.by_name.get(name);
        let hash = account.map_or(&self.dummy, |account| &account.hash);
        let right = pool.verify(hash, password).await?;
        Ok(match account {
            None => Err("unknown user"),
            Some(_) if !right => Err("wrong password"),
            Some(account) if account.disabled => Err("disabled user"),
            Some(account) => Ok(account.clone()),
        })
    }

    /// Whether the account may be given a scope. `offline_access` is the client's to have, not the user's.
    pub(super) fn may_have(&self, account: &Account, scope: &str) -> bool {
        let own = match &account.scopes {
            UserScopes::All => true,
            UserScopes::Listed(scopes) => scopes.contains(scope),
        };
        // Who can be given nothing has nothing to be offline with.
        let listed = matches!(&account.scopes, UserScopes::Listed(scopes) if scopes.is_empty());
        let given_something = !listed || !account.roles.is_empty();
        (scope == OFFLINE_ACCESS && given_something)
            || own
            || account.roles.iter().any(|role| self.roles.get(role).is_some_and(|scopes| scopes.contains(scope)))
    }
}

pub(super) const OFFLINE_ACCESS: &str = "offline_access";

/// The cost most users have, so that an unknown name costs what a known one does.
fn dummy(users: &HashMap<String, Arc<Account>>) -> PasswordHash {
    let mut by_cost: HashMap<&str, (usize, &PasswordHash)> = HashMap::new();
    for account in users.values() {
        // "$argon2id$v=19$m=19456,t=2,p=1$salt$hash" up to the salt.
        let cost = account.hash.0.rsplitn(3, '$').last().unwrap_or_default();
        by_cost.entry(cost).or_insert((0, &account.hash)).0 += 1;
    }
    let most = by_cost.into_values().max_by_key(|(count, _)| *count);
    match most {
        Some((_, hash)) => hash.dummy_like(),
        None => PasswordHash(super::hash_password("").into()).dummy_like(),
    }
}
