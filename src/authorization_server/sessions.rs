//! The two cookies of a browser: one that ties forms to it from the first page on, and one that stands for a login. The
//! login's is new at every login; of both only digests are kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use http::{HeaderMap, HeaderValue, header};

use super::error::Error;
use super::server::AuthorizationServer;
use super::users::Account;
use crate::secret::random;
use crate::store::{Digest, Session};

/// How the server's cookies are named. Over https their names begin with `__Host-`. Upstreams need not see them.
pub const COOKIES: [&str; 4] =
    ["__Host-tollgate-session", "__Host-tollgate-browser", "tollgate-session", "tollgate-browser"];

/// A session that is used more often than this is written no more often.
const TOUCH_SECONDS: u64 = 60;

/// A session that holds now, and whose user still has the password they logged in with.
#[derive(Clone, Debug)]
pub(super) struct LiveSession {
    pub(super) digest: Digest,
    pub(super) session: Session,
}

impl AuthorizationServer {
    /// The value of the browser's own cookie; a new one, to be set with the answer, when it has none.
    pub(super) fn browser(&self, headers: &HeaderMap) -> (String, bool) {
        match cookie(headers, self.cookie_name(Cookie::Browser)) {
            Some(value) if value.len() == 43 => (value, false),
            _ => (BASE64URL.encode(random::<32>()), true),
        }
    }

    /// The session of the request, marked as used.
    pub(super) async fn session(&self, headers: &HeaderMap) -> Result<Option<LiveSession>, Error> {
        let Some(value) = cookie(headers, self.cookie_name(Cookie::Session)) else { return Ok(None) };
        let digest = Digest::of(&value);
        let Some(mut session) = self.store().session(digest).await? else { return Ok(None) };
        let holds =
            self.users().enabled(&session.user).is_some_and(|user| user.password_stamp == session.password_stamp);
        if !holds {
            self.store().end_session(digest).await?;
            return Ok(None);
        }
        let now = self.now();
        if now.saturating_sub(session.seen) >= TOUCH_SECONDS {
            session.seen = now;
            self.store().touch_session(digest, now, self.idle_end()).await?;
        }
        Ok(Some(LiveSession { digest, session }))
    }

    /// A new session for a user who has just logged in, in place of the one the browser had. Also the cookie to set.
    pub(super) async fn start_session(
        &self,
        headers: &HeaderMap,
        account: &Account,
    ) -> Result<(LiveSession, HeaderValue), Error> {
        let value = BASE64URL.encode(random::<32>());
        let digest = Digest::of(&value);
        let now = self.now();
        let session = Session {
            user: account.name.clone(),
            auth_time: now,
            amr: vec!["pwd".to_owned()],
            password_stamp: account.password_stamp.clone(),
            seen: now,
            ends: now.saturating_add(self.settings().session_lifetime.as_secs()),
        };
        let replaces = cookie(headers, self.cookie_name(Cookie::Session)).map(|value| Digest::of(&value));
        self.store().put_session(digest, session.clone(), self.idle_end(), replaces).await?;
        Ok((LiveSession { digest, session }, self.set_cookie(Cookie::Session, &value)))
    }

    fn idle_end(&self) -> u64 {
        self.now().saturating_add(self.settings().session_idle.as_secs())
    }

    /// `__Host-` (RFC 6265bis) needs https, which only a server on loopback may do without.
    fn cookie_name(&self, cookie: Cookie) -> &'static str {
        match (self.settings().issuer.is_https(), cookie) {
            (true, Cookie::Session) => COOKIES[0],
            (true, Cookie::Browser) => COOKIES[1],
            (false, Cookie::Session) => COOKIES[2],
            (false, Cookie::Browser) => COOKIES[3],
        }
    }

    /// Lax: the cookie must come along when an application sends the browser here.
    pub(super) fn set_cookie(&self, cookie: Cookie, value: &str) -> HeaderValue {
        let secure = if self.settings().issuer.is_https() { "; Secure" } else { "" };
        let gone = if value.is_empty() { "; Max-Age=0" } else { "" };
        let text = format!("{}={value}; Path=/{secure}; HttpOnly; SameSite=Lax{gone}", self.cookie_name(cookie));
        let mut header = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
        header.set_sensitive(true);
        header
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cookie {
    Session,
    Browser,
}

/// The value of a cookie that is there exactly once.
fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(own, _)| *own == name)
        .map(|(_, value)| value.to_owned());
    values.next().filter(|value| !value.is_empty() && values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_counts_when_it_is_there_once() {
        let read = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::COOKIE, HeaderValue::from_static(line));
            }
            cookie(&headers, "a")
        };
        assert_eq!(read(&["x=1; a=2; aa=3"]).as_deref(), Some("2"));
        assert_eq!(read(&["x=1", "a=2"]).as_deref(), Some("2"));
        assert_eq!(read(&["a=1; a=2"]), None);
        assert_eq!(read(&["a="]), None);
        assert_eq!(read(&["A=1"]), None);
    }
}
