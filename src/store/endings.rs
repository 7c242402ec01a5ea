//! The end of everything that a user or a client was given: for operators who have to turn somebody out.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::grants::revoke_grant;
use super::revocations::revoke;
use super::tx::{Table, Tx};
use super::{Code, Grant, OpaqueToken, Session, Store, StoreError};

/// Rows that one transaction looks at: others write in between.
const AT_ONCE: usize = 500;

/// Whose: those of the user that the client has, where both are named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whose {
    pub user: Option<String>,
    pub client: Option<String>,
}

impl Whose {
    fn is(&self, user: &str, client: &str) -> bool {
        self.user.as_deref().is_none_or(|own| own == user) && self.client.as_deref().is_none_or(|own| own == client)
    }
}

/// How much there was to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// Each with all its access and refresh tokens.
    pub grants: usize,
    /// Of no grant.
    pub access_tokens: usize,
    pub sessions: usize,
}

impl Store {
    /// Ends sessions (of a user alone; they are no client's), then codes, then grants with their tokens, so that nothing
    /// ended gives rise to anything new meanwhile; and at last every access token that was issued until then, none of
    /// which lives longer than `lifetime`.
    pub async fn end_all(&self, whose: Whose, lifetime: Duration) -> Result<Ended, StoreError> {
        if !self.has_room_to_end() {
            return Err(StoreError::Full);
        }
        let mut ended = Ended::default();
        if let Whose { user: Some(user), client: None } = &whose {
            let user = user.clone();
            ended.sessions = self
                .each(Table::Sessions, move |tx, key, session: Session| {
                    let own = session.user == user;
                    if own {
                        tx.delete(Table::Sessions, key);
                    }
                    Ok(own)
                })
                .await?;
        }
        let of = whose.clone();
        self.each(Table::Codes, move |tx, key, code: Code| {
            // One that was redeemed is kept: should it come again, that is told by it.
            let own = code.grant.is_none() && of.is(&code.user, &code.client);
            if own {
                tx.delete(Table::Codes, key);
            }
            Ok(own)
        })
        .await?;
        let of = whose.clone();
        ended.grants = self
            .each(Table::Grants, move |tx, _, grant: Grant| {
                let own = !grant.revoked && of.is(&grant.user, &grant.client);
                if own {
                    revoke_grant(tx, &grant)?;
                }
                Ok(own)
            })
            .await?;
        let of = whose.clone();
        ended.access_tokens = self
            .each(Table::OpaqueTokens, move |tx, key, token: OpaqueToken| {
                let claim = |name: &str| token.claims.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
                let own = token.grant.is_none() && of.is(claim("sub"), claim("client_id"));
                if own {
                    revoke(tx, &token.jti, token.expires)?;
                    tx.delete(Table::OpaqueTokens, key);
                }
                Ok(own)
            })
            .await?;
        self.end_access_tokens(whose, lifetime).await?;
        Ok(ended)
    }

    /// Has `end` look at every record of a table, and counts those that it ended.
    async fn each<T: DeserializeOwned>(
        &self,
        table: Table,
        end: impl Fn(&mut Tx<'_>, &[u8], T) -> Result<bool, StoreError> + Clone + Send + 'static,
    ) -> Result<usize, StoreError> {
        let (mut count, mut after) = (0, None);
        loop {
            let (end, from) = (end.clone(), after.take());
            let page = self.write(move |tx| {
                let (rows, last) = tx.page::<T>(table, from.as_deref(), AT_ONCE)?;
                let mut ended = 0;
                for (key, record) in rows {
                    ended += usize::from(end(tx, &key, record)?);
                }
                Ok((ended, last))
            });
            let (ended, last) = page.await?;
            count += ended;
            after = last;
            if after.is_none() {
                return Ok(count);
            }
        }
    }
}
