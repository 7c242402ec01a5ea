//! What changes in a request on its way to the upstream and in an answer on its way back. What the caller must not say is
//! gone before what the gateway says is set; identity comes from the permit alone.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Version};
use serde_json::Value;

use super::head::Connection;
use super::plan::{Forward, HostHeader, Template, TemplatePart, UnderscoreHeaders, UpstreamAuthorization};
use super::reject::Reject;
use super::route::Route;
use crate::authorization_server;
use crate::net::body::{BodyOutcome, RequestBody};
use crate::net::forwarded::{self, Origin};
use crate::net::headers::{has_token, remove_hop_by_hop, remove_where};
use crate::net::trace_context::{TRACEPARENT, TraceParent};
use crate::policy::Permit;
use crate::routing::path::CanonicalPath;
use crate::token::VerifiedToken;
use crate::upstream::Outgoing;

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

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

/// The header names that no caller may send, on any route. Sorted.
#[derive(Debug)]
pub(super) struct Managed(Vec<Box<str>>);

impl Managed {
    /// The fixed ones and those that some route sets.
    pub(super) fn new<'a>(forwards: impl Iterator<Item = &'a Forward>) -> Self {
        let set_by_routes = forwards.flat_map(|forward| forward.headers.iter().map(|(name, _)| name.as_str()));
        let mut names: Vec<Box<str>> = ALWAYS_MANAGED.into_iter().chain(set_by_routes).map(Box::from).collect();
        names.sort_unstable();
        names.dedup();
        Self(names)
    }

    fn contains(&self, name: &str) -> bool {
        name.starts_with(MANAGED_PREFIX) || self.0.binary_search_by(|managed| (**managed).cmp(name)).is_ok()
    }

    /// Removes managed names, and names with `_`: servers behind CGI-like interfaces take those for the same with `-`.
    fn remove_from(&self, headers: &mut HeaderMap, underscore: UnderscoreHeaders) {
        remove_where(headers, |name| {
            let text = name.as_str();
            // In lower case, whatever the caller wrote.
            if text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
                return self.contains(text);
            }
            // A quote is no character of a name, though the library lets it through in HTTP/2.
            if text.contains('"') || (text.contains('_') && underscore == UnderscoreHeaders::Drop) {
                return true;
            }
            // Some servers fold every other character into one; what then is a managed name is one here too.
            let folded = text.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            self.contains(text)
                || self.contains(&folded)
                || folded.parse().is_ok_and(|folded| forwarded::is_forwarding(&folded))
        });
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
    pub(super) fn of(parts: &Parts) -> Option<Self> {
        if let Some(protocol) = parts.extensions.get::<hyper::ext::Protocol>() {
            let by_connect = protocol.as_str().eq_ignore_ascii_case("websocket");
            return by_connect.then_some(Self { protocol: HeaderValue::from_static("websocket"), by_connect });
        }
        if parts.version != Version::HTTP_11 || !has_token(&parts.headers, header::CONNECTION, "upgrade") {
            return None;
        }
        let mut named = parts.headers.get_all(header::UPGRADE).iter();
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
    route: &Route,
    permit: &Permit,
    inbound: Inbound<'_>,
    mut parts: Parts,
    body: (RequestBody, BodyOutcome),
) -> Result<Outgoing, Reject> {
    let forward = &route.plan.forward;
    let host = caller_host(&parts);
    let headers = &mut parts.headers;
    let trailers_wanted = has_token(headers, header::TE, "trailers");
    remove_hop_by_hop(headers);
    headers.remove(header::EXPECT);
    if let Some(trace) = inbound.trace {
        headers.insert(TRACEPARENT, trace.value().clone());
    }
    inbound.managed.remove_from(headers, route.plan.underscore_headers);
    remove_own_cookies(headers);
    for name in &forward.remove_headers {
        headers.remove(name);
    }
    let connection = inbound.connection;
    forwarded::rewrite(headers, inbound.origin, connection.peer, &connection.peer_text, host.as_ref());
    headers.insert(X_REQUEST_ID, inbound.request_id.clone());
    match &forward.authorization {
        UpstreamAuthorization::Strip => {
            headers.remove(header::AUTHORIZATION);
        }
        UpstreamAuthorization::Pass => {}
        UpstreamAuthorization::Basic(credentials) | UpstreamAuthorization::Bearer(credentials) => {
            headers.insert(header::AUTHORIZATION, credentials.clone());
        }
        UpstreamAuthorization::SignedJwt(_) => match permit.token().zip(route.upstream_jwts.as_ref()) {
            Some((token, jwts)) => {
                headers.insert(header::AUTHORIZATION, jwts.authorization(token)?);
            }
            None => {
                headers.remove(header::AUTHORIZATION);
            }
        },
    }
    for (name, template) in &forward.headers {
        if let Some(value) = fill(name, template, permit.token().map(|token| &**token), inbound.request_id)? {
            headers.insert(name, value);
        }
    }
    if trailers_wanted {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    match (&forward.host, host) {
        (HostHeader::Upstream, _) => {
            headers.remove(header::HOST);
        }
        (HostHeader::Preserve, Some(host)) => {
            headers.insert(header::HOST, host);
        }
        (HostHeader::Preserve, None) => {}
        (HostHeader::Literal(host), _) => {
            headers.insert(header::HOST, host.clone());
        }
    }
    if let Some(upgrade) = inbound.upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade.protocol.clone());
        if upgrade.by_connect {
            parts.method = Method::GET;
            headers.insert(header::SEC_WEBSOCKET_KEY, websocket_key());
        }
    }
    let path = match &forward.strip_prefix {
        None => inbound.path,
        Some(prefix) => inbound.path.strip_prefix(prefix).ok_or(Reject::Spelling)?,
    };
    parts.uri = http::Uri::from(path.target().clone());
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let (body, outcome) = body;
    let host_of_server = !parts.headers.contains_key(header::HOST);
    let request = Request::from_parts(parts, body);
    let client = inbound.origin.client;
    Ok(Outgoing { request, host_of_server, timeout: route.plan.timeout, body: outcome, client })
}

/// The caller's idea of the host: the target's authority in HTTP/2, else the Host header.
fn caller_host(parts: &Parts) -> Option<HeaderValue> {
    let named = parts.headers.get(header::HOST).cloned();
    named.or_else(|| HeaderValue::from_str(parts.uri.authority()?.as_str()).ok())
}

/// Takes our cookies away, and makes one field of those that HTTP/2 splits (RFC 9113 section 8.2.3).
fn remove_own_cookies(headers: &mut HeaderMap) {
    let fields = headers.get_all(header::COOKIE);
    let pairs = || fields.iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    if fields.iter().nth(1).is_none() && !pairs().any(is_own_cookie) {
        return;
    }
    let kept: Vec<&[u8]> = pairs().map(<[u8]>::trim_ascii).filter(|p| !p.is_empty() && !is_own_cookie(p)).collect();
    let joined = HeaderValue::from_bytes(&kept.join(&b"; "[..])).ok().filter(|value| !value.is_empty());
    headers.remove(header::COOKIE);
    if let Some(mut value) = joined {
        value.set_sensitive(true);
        headers.insert(header::COOKIE, value);
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
pub(super) fn response_head(forward: &Forward, headers: &mut HeaderMap) {
    let trailer = headers.get(header::TRAILER).cloned();
    remove_hop_by_hop(headers);
    // Trailers themselves travel on, so their announcement does.
    if let Some(trailer) = trailer {
        headers.insert(header::TRAILER, trailer);
    }
    let sets_own = |value: &HeaderValue| is_own_cookie(value.as_bytes());
    if headers.get_all(header::SET_COOKIE).iter().any(sets_own) {
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
