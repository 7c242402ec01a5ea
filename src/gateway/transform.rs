//! What changes in a request on its way to the upstream and in an answer on its way back. What the caller must not say is
//! gone before what the gateway says is set; identity comes from the permit alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, Version};
use serde_json::Value;

use super::head::Connection;
use super::plan::{Forward, HostHeader, Template, TemplatePart, UnderscoreHeaders, UpstreamAuthorization};
use super::reject::Reject;
use super::repeated::{Basis, Sent};
use super::route::Route;
use crate::authorization_server;
use crate::net::body::{BodyOutcome, RequestBody};
use crate::net::forwarded::{self, Origin};
use crate::net::headers::{
    Fields, connection_lines, has_token, is_hop_by_hop, is_token_of, named_by_connection, remove_hop_by_hop,
};
use crate::net::request::RequestHead;
use crate::net::trace_context::{TRACEPARENT, TraceParent};
use crate::policy::Permit;
use crate::routing::path::CanonicalPath;
use crate::token::VerifiedToken;
use crate::upstream::{Head, Outgoing};

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Names that claim an identity, another target or another method; never the caller's to say.
const ALWAYS_MANAGED: [&str; 8] = [
    "x-forwarded-user",
    "x-remote-user",
    "remote-user",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];
const MANAGED_PREFIX: &str = "x-auth-request-";

/// The bytes of names that nobody takes for another.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < plain.len() {
        #[expect(clippy::cast_possible_truncation, reason = "it is less than 256")]
        let is_plain = matches!(byte as u8, b'a'..=b'z' | b'0'..=b'9' | b'-');
        plain[byte] = is_plain;
        byte += 1;
    }
    plain
};

/// The header names that no caller may send, on any route: by their length, which tells nearly all others apart.
#[derive(Debug)]
pub(super) struct Managed(Vec<Vec<Box<str>>>);

impl Managed {
    /// The fixed ones and those that some route sets.
    pub(super) fn new<'a>(forwards: impl Iterator<Item = &'a Forward>) -> Self {
        let set_by_routes = forwards.flat_map(|forward| forward.headers.iter().map(|(name, _)| name.as_str()));
        let names: BTreeSet<&str> = ALWAYS_MANAGED.into_iter().chain(set_by_routes).collect();
        let longest = names.iter().map(|name| name.len()).max().unwrap_or_default();
        let mut by_length = vec![Vec::new(); longest + 1];
        names.into_iter().for_each(|name| by_length[name.len()].push(name.into()));
        Self(by_length)
    }

    fn contains(&self, name: &str) -> bool {
        let is_one = || self.0.get(name.len()).is_some_and(|names| names.iter().any(|managed| **managed == *name));
        name.starts_with(MANAGED_PREFIX) || is_one()
    }

    /// Whether no caller may say it: managed names, and those with `_`, which servers behind CGI-like interfaces take for the
    /// same with `-`.
    fn refuses(&self, name: &str, underscore: UnderscoreHeaders) -> bool {
        // In lower case, whatever the caller wrote.
        if name.bytes().all(|byte| PLAIN[usize::from(byte)]) {
            return self.contains(name);
        }
        // A quote is no character of a name, though the library lets it through in HTTP/2.
        if name.contains('"') || (name.contains('_') && underscore == UnderscoreHeaders::Drop) {
            return true;
        }
        // Some servers fold every other character into one; what then is a managed name is one here too.
        let folded = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        self.contains(name)
            || self.contains(&folded)
            || X_REQUEST_ID == folded.as_str()
            || folded.parse().is_ok_and(|folded| forwarded::is_forwarding(&folded))
    }
}

/// A switch of protocols that the caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UpgradeWanted {
    protocol: HeaderValue,
    /// Asked by extended CONNECT (RFC 8441), so that the answer is 200 in place of 101.
    pub(super) by_connect: bool,
}

impl UpgradeWanted {
    /// One protocol, and none that carries requests of its own (HTTP/2, another HTTP, TLS): those would pass unjudged.
    /// What is not switched to is forwarded as an ordinary request.
    pub(super) fn of(request: &RequestHead) -> Option<Self> {
        if let Some(protocol) = &request.protocol {
            let by_connect = protocol.0.eq_ignore_ascii_case(b"websocket");
            return by_connect.then_some(Self { protocol: HeaderValue::from_static("websocket"), by_connect });
        }
        // Few have the field, which one look at each name tells for less than a search.
        if request.version != Version::HTTP_11
            || !request.headers.keys().any(|name| *name == header::UPGRADE)
            || !has_token(connection_lines(&request.headers), "upgrade")
        {
            return None;
        }
        let mut named = request.headers.get_all(header::UPGRADE).iter();
        let (protocol, None) = (named.next()?.clone(), named.next()) else { return None };
        let text = protocol.to_str().ok()?.to_ascii_lowercase();
        let carries_requests = ["h2", "h3", "http", "tls"].iter().any(|name| text.starts_with(name));
        let is_one = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-./_+".contains(&byte));
        (is_one && !carries_requests).then_some(Self { protocol, by_connect: false })
    }
}

/// Everything about a request that decides what is sent on.
pub(super) struct Inbound<'a> {
    pub(super) connection: &'a Connection,
    pub(super) origin: &'a Origin,
    pub(super) path: CanonicalPath,
    pub(super) request_id: &'a HeaderValue,
    /// Where the gateway has a say in it.
    pub(super) trace: Option<&'a TraceParent>,
    pub(super) managed: &'a Managed,
    pub(super) upgrade: Option<&'a UpgradeWanted>,
}

/// The request as the upstream gets it.
pub(super) fn request(
    route: &Arc<Route>,
    permit: &Permit,
    inbound: Inbound<'_>,
    request: &mut RequestHead,
    body: (RequestBody, BodyOutcome),
) -> Result<Outgoing, Reject> {
    let Sent { fields, host } = sent(route, permit, &inbound, request)?;
    let by_connect = inbound.upgrade.is_some_and(|upgrade| upgrade.by_connect);
    let method = if by_connect { Method::GET } else { std::mem::take(&mut request.method) };
    let path = match &route.plan.forward.strip_prefix {
        None => inbound.path,
        Some(prefix) => inbound.path.strip_prefix(prefix).ok_or(Reject::Spelling)?,
    };
    let own = Some((X_REQUEST_ID, inbound.request_id.clone()));
    let head = Head { method, target: path.into_target(), host, fields, own };
    let (content, body) = body;
    Ok(Outgoing { head, content, timeout: route.plan.timeout, body, client: inbound.origin.client })
}

/// What goes on of the caller's fields and what is said beside them, but for the request's id: as it was the last time,
/// where nothing that it is made of has changed.
fn sent(route: &Arc<Route>, permit: &Permit, inbound: &Inbound<'_>, request: &RequestHead) -> Result<Sent, Reject> {
    let differs = inbound.trace.is_some() || inbound.upgrade.is_some();
    let (headers, token) = (&request.headers, permit.token());
    let basis = Basis { headers, route, token, authority: request.uri.authority().map(Authority::as_str) };
    let repeated = &inbound.connection.activity.repeated;
    if !differs && let Some(sent) = repeated.get(basis) {
        debug_assert!(made(route, permit, inbound, request).is_ok_and(|made| made == sent), "it would be {sent:?}");
        return Ok(sent);
    }
    let sent = made(route, permit, inbound, request)?;
    // Somebody else has the caller's fields too, and expects them to come again.
    if !differs && Arc::strong_count(headers) > 1 && !route.plan.forward.differs() {
        repeated.keep(basis, &sent);
    }
    Ok(sent)
}

fn made(route: &Route, permit: &Permit, inbound: &Inbound<'_>, request: &RequestHead) -> Result<Sent, Reject> {
    let forward = &route.plan.forward;
    let Kept { mut fields, host, cookies, trailers_wanted } = Kept::of(&request.headers, route, inbound);
    // The caller's idea of the host: the target's authority in HTTP/2, else the Host header.
    let host = host.or_else(|| HeaderValue::from_str(request.uri.authority()?.as_str()).ok());
    if cookies {
        remove_own_cookies(&mut fields);
    }
    if let Some(trace) = inbound.trace
        && !is_removed(&TRACEPARENT, route, inbound)
    {
        fields.push(TRACEPARENT, trace.value().clone());
    }
    let connection = inbound.connection;
    let (peer, peer_text) = (connection.peer, &connection.peer_text);
    forwarded::rewrite(&mut fields, inbound.origin, peer, peer_text, host.as_ref(), &connection.forwarded);
    match &forward.authorization {
        UpstreamAuthorization::Strip | UpstreamAuthorization::Pass => {}
        UpstreamAuthorization::Basic(credentials) | UpstreamAuthorization::Bearer(credentials) => {
            fields.push(header::AUTHORIZATION, credentials.clone());
        }
        UpstreamAuthorization::SignedJwt(_) => {
            if let Some((token, jwts)) = permit.token().zip(route.upstream_jwts.as_ref()) {
                fields.push(header::AUTHORIZATION, jwts.authorization(token)?);
            }
        }
    }
    for (name, template) in &forward.headers {
        if let Some(value) = fill(name, template, permit.token().map(|token| &**token), inbound.request_id)? {
            fields.set(name.clone(), value);
        }
    }
    if trailers_wanted {
        fields.push(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = inbound.upgrade {
        fields.push(header::CONNECTION, HeaderValue::from_static("upgrade"));
        fields.push(header::UPGRADE, upgrade.protocol.clone());
        if upgrade.by_connect {
            fields.set(header::SEC_WEBSOCKET_KEY, websocket_key());
        }
    }
    let host = match &forward.host {
        HostHeader::Upstream => None,
        HostHeader::Preserve => host,
        HostHeader::Literal(host) => Some(host.clone()),
    };
    Ok(Sent { fields: Arc::new(fields.into()), host })
}

/// Room for what is said beside what the caller says.
const OWN_FIELDS: usize = 8;

/// What is left of a caller's fields.
struct Kept {
    fields: Fields,
    host: Option<HeaderValue>,
    /// Whether there are any.
    cookies: bool,
    trailers_wanted: bool,
}

/// What becomes of a caller's field.
#[derive(Clone, Copy)]
enum Fate {
    Goes,
    Stays,
    Host,
    Te,
    Cookie,
}

impl Kept {
    /// One look at each name decides.
    fn of(headers: &HeaderMap, route: &Route, inbound: &Inbound<'_>) -> Self {
        let named = named_by_connection(headers);
        let fields = Fields::with_capacity(headers.len() + route.plan.forward.headers.len() + OWN_FIELDS);
        let mut kept = Self { fields, host: None, cookies: false, trailers_wanted: false };
        for (name, value) in headers {
            match Fate::of(name, &named, route, inbound) {
                Fate::Stays => continue,
                Fate::Host => {
                    kept.host.get_or_insert_with(|| value.clone());
                    continue;
                }
                Fate::Te => {
                    kept.trailers_wanted |= is_token_of(value, "trailers");
                    continue;
                }
                Fate::Cookie => kept.cookies = true,
                Fate::Goes => {}
            }
            kept.fields.push(name.clone(), value.clone());
        }
        kept
    }
}

impl Fate {
    fn of(name: &HeaderName, named: &[HeaderName], route: &Route, inbound: &Inbound<'_>) -> Self {
        match name.as_str() {
            "host" => Self::Host,
            "te" => Self::Te,
            "authorization" => match route.plan.forward.authorization {
                UpstreamAuthorization::Pass => Self::Goes,
                _ => Self::Stays,
            },
            // The gateway's to say, or to wait for.
            "x-request-id" | "expect" => Self::Stays,
            "traceparent" if inbound.trace.is_some() => Self::Stays,
            _ if is_hop_by_hop(name) || named.contains(name) || is_removed(name, route, inbound) => Self::Stays,
            "cookie" => Self::Cookie,
            _ => Self::Goes,
        }
    }
}

/// Whether a field is no caller's to say, or not to be passed on by the route.
fn is_removed(name: &HeaderName, route: &Route, inbound: &Inbound<'_>) -> bool {
    inbound.managed.refuses(name.as_str(), route.plan.underscore_headers)
        || route.plan.forward.remove_headers.contains(name)
}

/// Takes our cookies away, and makes one field of those that HTTP/2 splits (RFC 9113 section 8.2.3).
fn remove_own_cookies(fields: &mut Fields) {
    let pairs = || fields.get_all(&header::COOKIE).flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    if fields.get_all(&header::COOKIE).nth(1).is_none() && !pairs().any(is_own_cookie) {
        return;
    }
    let kept: Vec<&[u8]> = pairs().map(<[u8]>::trim_ascii).filter(|p| !p.is_empty() && !is_own_cookie(p)).collect();
    let joined = HeaderValue::from_bytes(&kept.join(&b"; "[..])).ok().filter(|value| !value.is_empty());
    fields.remove(&header::COOKIE);
    if let Some(mut value) = joined {
        value.set_sensitive(true);
        fields.push(header::COOKIE, value);
    }
}

/// Whether `name=value…` is one of the authorization server's cookies, which no upstream sees or sets. A browser sends
/// `=name=value`, a cookie without a name, back as `name=value`.
fn is_own_cookie(pair: &[u8]) -> bool {
    let pair = pair.trim_ascii_start();
    let name =
        pair.strip_prefix(b"=").unwrap_or(pair).split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
    authorization_server::COOKIES.iter().any(|own| own.as_bytes() == name)
}

/// RFC 6455 section 4.1: 16 random bytes, in base64.
fn websocket_key() -> HeaderValue {
    use base64::Engine;
    let mut nonce = [0; 16];
    let _ = aws_lc_rs::rand::fill(&mut nonce);
    let text = base64::engine::general_purpose::STANDARD.encode(nonce);
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// A header's value for a token; `None` when a placeholder has no value, so that the header stays away.
pub(super) fn fill(
    name: &HeaderName,
    template: &Template,
    token: Option<&VerifiedToken>,
    request_id: &HeaderValue,
) -> Result<Option<HeaderValue>, Reject> {
    let mut text = String::new();
    for part in &template.0 {
        let filled = match (part, token) {
            (TemplatePart::Text(literal), _) => {
                text.push_str(literal);
                true
            }
            (TemplatePart::RequestId, _) => {
                text.push_str(request_id.to_str().unwrap_or_default());
                true
            }
            (_, None) => false,
            (TemplatePart::Sub, Some(token)) => push(&mut text, token.user()),
            (TemplatePart::ClientId, Some(token)) => push(&mut text, token.client_id()),
            (TemplatePart::Issuer, Some(token)) => push(&mut text, Some(token.issuer())),
            (TemplatePart::Scope, Some(token)) => {
                text.push_str(&token.scope().to_string());
                !token.scope().is_empty()
            }
            (TemplatePart::Roles, Some(token)) => {
                let roles = token.roles();
                // Joined by spaces, a role with one would be read as two.
                if roles.len() > 1 && roles.iter().any(|role| role.contains(' ')) {
                    return Err(Reject::UnfitClaim(name.clone()));
                }
                text.push_str(&roles.join(" "));
                !roles.is_empty()
            }
            (TemplatePart::Claim(path), Some(token)) => match path.find(token.claims()) {
                None | Some(Value::Null) => false,
                Some(claim) => push_claim(&mut text, claim).ok_or_else(|| Reject::UnfitClaim(name.clone()))?,
            },
        };
        if !filled {
            return Ok(None);
        }
    }
    // An upstream may read other bytes in another way than we do, or as the start of a new line; and it takes away spaces
    // at either end, which would make one name of two.
    if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || text.trim() != text {
        return Err(Reject::UnfitClaim(name.clone()));
    }
    if text.is_empty() {
        return Ok(None);
    }
    let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(text));
    value.map(Some).map_err(|_| Reject::UnfitClaim(name.clone()))
}

fn push(text: &mut String, value: Option<&str>) -> bool {
    text.push_str(value.unwrap_or_default());
    value.is_some()
}

/// Strings as they are, numbers and booleans as JSON, arrays of these joined by a space; `None` for anything else.
fn push_claim(text: &mut String, claim: &Value) -> Option<bool> {
    match claim {
        Value::String(value) => text.push_str(value),
        Value::Number(number) => text.push_str(&number.to_string()),
        Value::Bool(flag) => text.push_str(if *flag { "true" } else { "false" }),
        Value::Array(elements) => {
            for (place, element) in elements.iter().enumerate() {
                if place > 0 {
                    text.push(' ');
                }
                match element {
                    Value::Array(_) | Value::Object(_) | Value::Null => return None,
                    Value::String(text) if elements.len() > 1 && text.contains(' ') => return None,
                    element => push_claim(text, element)?,
                };
            }
            return Some(!elements.is_empty());
        }
        Value::Object(_) | Value::Null => return None,
    }
    Some(true)
}

/// An answer's head on its way to the caller.
pub(super) fn response_head(forward: &Forward, shared: &mut Arc<HeaderMap>) {
    // Of an HTTP/1 answer nothing of the hop is left, and few set cookies.
    let (mut of_hop, mut cookies, mut id) = (false, false, false);
    for name in shared.keys() {
        id |= *name == X_REQUEST_ID;
        cookies |= *name == header::SET_COOKIE;
        of_hop |= *name != header::TRAILER && is_hop_by_hop(name);
    }
    if !(of_hop || cookies || id) && forward.response_headers.is_empty() {
        return;
    }
    let headers = Arc::make_mut(shared);
    if of_hop {
        // Trailers themselves travel on, so their announcement does.
        let trailer = headers.get(header::TRAILER).cloned();
        remove_hop_by_hop(headers);
        headers.extend(trailer.map(|trailer| (header::TRAILER, trailer)));
    }
    if id {
        headers.remove(X_REQUEST_ID);
    }
    let sets_own = |value: &HeaderValue| is_own_cookie(value.as_bytes());
    if cookies && headers.get_all(header::SET_COOKIE).iter().any(sets_own) {
        let kept: Vec<HeaderValue> =
            headers.get_all(header::SET_COOKIE).iter().filter(|v| !sets_own(v)).cloned().collect();
        headers.remove(header::SET_COOKIE);
        for value in kept {
            headers.append(header::SET_COOKIE, value);
        }
    }
    for (name, value) in &forward.response_headers {
        headers.insert(name, value.clone());
    }
}
