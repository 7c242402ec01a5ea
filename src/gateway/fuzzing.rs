//! What holds of the headers that an upstream is sent, whatever a caller sends and a token says: checked by the fuzz
//! targets and on their corpus.

use std::sync::Arc;

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::head::{self, Activity, Connection, Noted};
use super::plan::{Forward, HostHeader, RoutePlan, Template, TemplatePart, UnderscoreHeaders, UpstreamAuthorization};
use super::repeated::KEPT_BYTES;
use super::route::Route;
use super::transform::{self, Inbound, Managed, UpgradeWanted, fill};
use crate::authorization_server::COOKIES;
use crate::net::TrustedProxies;
use crate::net::body::{BodyOutcome, RequestBody};
use crate::net::forwarded::is_forwarding;
use crate::net::headers::is_hop_by_hop;
use crate::net::request::RequestHead;
use crate::policy::{Access, Addresses, Caller, Condition, Entry, Requirements, authorize};
use crate::routing::PathPattern;
use crate::telemetry::metrics::Metrics;
use crate::token::fuzzing::facts;
use crate::token::{Reuse, VerifiedToken};
use crate::upstream::Head;

const REQUEST_ID: HeaderValue = HeaderValue::from_static("id-1");

/// Two lines: a template, and the claims of a token in JSON.
pub fn template(data: &[u8]) {
    let (template, claims) = halves(data);
    let Some(template) = std::str::from_utf8(template).ok().and_then(|text| Template::parse(text).ok()) else { return };
    let token = facts(claims);
    let Ok(Some(value)) = fill(&header::FROM, &template, token.as_ref(), &REQUEST_ID) else { return };
    let text = value.to_str().expect("printable ASCII");
    assert!(
        text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.trim() == text && !text.is_empty(),
        "{text:?}"
    );
    let mut left = text;
    for part in &template.0 {
        let expected = match part {
            TemplatePart::Text(literal) => literal.to_string(),
            TemplatePart::RequestId => "id-1".to_owned(),
            part => said(part, token.as_ref().expect("nobody says anything")),
        };
        assert!(left.starts_with(&expected), "{left:?} does not go on with {expected:?}");
        left = &left[expected.len()..];
    }
    assert!(left.is_empty(), "{left:?} comes from nowhere");
}

/// What a token says in place of a placeholder.
fn said(part: &TemplatePart, token: &VerifiedToken) -> String {
    let claim = |path: &str| token.claims().get(path).cloned().unwrap_or_default();
    match part {
        TemplatePart::Sub => listed(&claim("sub")),
        TemplatePart::ClientId => listed(&claim("client_id")),
        TemplatePart::Issuer => "corp".to_owned(),
        TemplatePart::Scope => token.scope().to_string(),
        TemplatePart::Roles => token.roles().join(" "),
        TemplatePart::Claim(path) => listed(path.find(token.claims()).expect("an absent claim leaves the header out")),
        TemplatePart::Text(_) | TemplatePart::RequestId => unreachable!("not of a token"),
    }
}

fn listed(claim: &Value) -> String {
    match claim {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(listed).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    let newline = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    (&data[..newline], data.get(newline + 1..).unwrap_or_default())
}

/// A line with the claims of a token in JSON, then the head of a request: method and target, and a header on each line.
/// With valid claims the route asks for them, else it is open to all.
pub fn request(data: &[u8]) {
    let (claims, head) = halves(data);
    let (line, fields) = halves(head);
    let mut words = line.split(|byte| *byte == b' ');
    let method = words.next().and_then(|word| Method::from_bytes(word).ok());
    let target = words.next().and_then(|word| http::Uri::from_maybe_shared(bytes::Bytes::copy_from_slice(word)).ok());
    let mut headers = HeaderMap::new();
    for field in fields.split(|byte| *byte == b'\n').take(40) {
        let Some(colon) = field.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) =
            (HeaderName::from_bytes(&field[..colon]), HeaderValue::from_bytes(field[colon + 1..].trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let (method, uri, headers) = (method.unwrap_or_default(), target.unwrap_or_default(), Arc::new(headers));
    let request = || RequestHead {
        method: method.clone(),
        uri: uri.clone(),
        headers: Arc::clone(&headers),
        ..RequestHead::default()
    };
    let token = facts(claims).map(Arc::new);
    let way = Way::new(token.is_some());
    let Some(sent) = way.forwarded(request(), token.as_ref()) else { return };
    assert_eq!(sent.host, None, "the server's own host is filled in");
    judge(&headers, &fields_of(&sent), token.as_deref());
    let path = head::path(&request()).expect("it was forwarded");
    let whole = if path.as_str() == "/api" { "/api/" } else { path.as_str() };
    assert_eq!((format!("/api{}", sent.target.path()).as_str(), sent.target.query()), (whole, path.target().query()));
    // What comes again is sent again, and what comes again with another token is not.
    let upgrades = fields_of(&sent).contains_key(header::UPGRADE);
    let [second, third] = [(); 2].map(|()| way.forwarded(request(), token.as_ref()).expect("it was forwarded"));
    assert_eq!(Arc::ptr_eq(&second.fields, &third.fields), !upgrades && second.fields.bytes() <= KEPT_BYTES);
    let mut claims: Value = serde_json::from_slice(claims).unwrap_or_default();
    if let Some(sub) = claims.get_mut("sub") {
        *sub = "somebody-else".into();
    }
    if let Some(other) = facts(claims.to_string().as_bytes()).map(Arc::new).filter(|_| token.is_some()) {
        let sent = way.forwarded(request(), Some(&other)).expect("it was forwarded");
        judge(&headers, &fields_of(&sent), Some(&other));
    }
}

fn fields_of(sent: &Head) -> HeaderMap {
    sent.fields().cloned().collect()
}

/// A connection, and where its requests go.
struct Way {
    connection: Connection,
    route: Arc<Route>,
}

impl Way {
    fn new(asks_for_token: bool) -> Self {
        let condition = if asks_for_token { Condition::Token(Requirements::default()) } else { Condition::Public };
        let peer: std::net::IpAddr = [192, 0, 2, 1].into();
        let connection = Connection {
            listener: 0,
            listener_name: Arc::from("main"),
            peer,
            peer_text: super::peer_text(peer),
            forwarded: Default::default(),
            is_silent_proxy: false,
            tls: true,
            redirects: false,
            activity: Activity::default(),
            guard: Box::new(()),
        };
        let route = Arc::new(route(Access { entries: vec![Entry { methods: Vec::new(), condition }] }));
        Self { connection, route }
    }

    /// A request as an upstream gets it, on the way that traffic takes.
    fn forwarded(&self, mut request: RequestHead, token: Option<&Arc<VerifiedToken>>) -> Option<Head> {
        let Self { connection, route } = self;
        let path = head::path(&request).ok()?;
        let noted = Noted::of(&request.headers);
        let _host = noted.host(&request).ok()?;
        noted.authorization().ok()?;
        let caller = token.map_or(Caller::Nobody, |token| Caller::Known(Arc::clone(token)));
        let permit = authorize(&route.plan.access, &request.method, caller).ok()?;
        let origin = head::origin(connection, &request.headers, &TrustedProxies::default());
        let managed = Managed::new([&route.plan.forward].into_iter());
        let upgrade = UpgradeWanted::of(&request);
        let inbound = Inbound {
            trace: None,
            connection,
            origin: &origin,
            path,
            request_id: &REQUEST_ID,
            managed: &managed,
            upgrade: upgrade.as_ref(),
        };
        let body = (RequestBody::empty(), BodyOutcome::default());
        transform::request(route, &permit, inbound, &mut request, body).ok().map(|outgoing| outgoing.head)
    }
}

/// The headers that go out, beside those that came and the token they came with.
fn judge(came: &HeaderMap, sent: &HeaderMap, token: Option<&VerifiedToken>) {
    for (name, value) in [("x-user", "sub"), ("x-tenant", "tenant")] {
        let said = token.and_then(|token| token.claims().get(value)).filter(|claim| !claim.is_null()).map(listed);
        let said = said.filter(|text| !text.is_empty());
        let told: Vec<_> = sent.get_all(name).iter().map(|value| value.to_str().expect("ASCII").to_owned()).collect();
        assert_eq!(told, said.into_iter().collect::<Vec<_>>(), "{name} is the gateway's to say");
    }
    assert!(!sent.contains_key(header::AUTHORIZATION), "the token was passed on");
    assert!(!sent.contains_key(header::HOST), "a second host");
    assert_eq!(sent["x-forwarded-for"], "192.0.2.1");
    assert_eq!(sent["x-request-id"], REQUEST_ID);
    let upgrades = sent.contains_key(header::UPGRADE);
    for name in sent.keys() {
        let text = name.as_str();
        let of_upgrade = upgrades && (*name == header::UPGRADE || *name == header::CONNECTION);
        let trailers = *name == header::TE && sent[header::TE] == "trailers";
        assert!(!is_hop_by_hop(name) || of_upgrade || trailers, "{name} is of one hop");
        assert!(!text.contains('_'), "{name} may be taken for another name");
        // As servers fold it that make variables of header names.
        let folded = text.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let ours = ["x-user", "x-tenant", "x-request-id"].contains(&text) || (text == folded && is_forwarding(name));
        let claims_something =
            ["x-user", "x-tenant", "x-request-id", "remote-user", "x-forwarded-user", "x-original-url"]
                .contains(&folded.as_str())
                || folded.starts_with("x-auth-request-")
                || folded.starts_with("x-forwarded-");
        assert!(ours || !claims_something, "{name} is not the caller's to say");
    }
    if upgrades {
        let protocol = sent[header::UPGRADE].to_str().expect("ASCII").to_ascii_lowercase();
        assert_eq!(sent[header::CONNECTION], "upgrade");
        assert!(!["h2", "http", "tls"].iter().any(|start| protocol.starts_with(start)), "{protocol} carries requests");
    }
    let cookies = |headers: &HeaderMap| -> Vec<Vec<u8>> {
        let lines = headers.get_all(header::COOKIE).iter();
        let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii));
        pairs.filter(|pair| !pair.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let own = |pair: &Vec<u8>| {
        // A cookie without a name comes back as `=name=value`.
        let pair = pair.strip_prefix(b"=").unwrap_or(pair);
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        COOKIES.iter().any(|own| own.as_bytes() == name)
    };
    if !came.contains_key(header::CONNECTION) {
        let kept: Vec<_> = cookies(came).into_iter().filter(|pair| !own(pair)).collect();
        assert_eq!(cookies(sent), kept, "cookies of others go on, those of the authorization server do not");
    }
    assert!(!cookies(sent).iter().any(own));
}

fn route(access: Access) -> Route {
    let template = |text: &str| Template::parse(text).expect("a template");
    let forward = Forward {
        strip_prefix: Some("/api".into()),
        host: HostHeader::Upstream,
        authorization: UpstreamAuthorization::Strip,
        headers: vec![
            (HeaderName::from_static("x-user"), template("{sub}")),
            (HeaderName::from_static("x-tenant"), template("{claims.tenant}")),
        ],
        remove_headers: Vec::new(),
        response_headers: Vec::new(),
    };
    let plan = RoutePlan {
        name: Arc::from("api"),
        hosts: Vec::new(),
        listeners: vec![0],
        path: PathPattern::parse("/api/**").expect("a pattern"),
        path_text: "/api/**".to_owned(),
        upstream: 0,
        issuers: vec![0],
        addresses: Addresses::default(),
        access,
        introspection: Reuse::default(),
        audience: Vec::new(),
        body_bytes: 0,
        timeout: None,
        path_allowances: super::plan::PathAllowances::default(),
        underscore_headers: UnderscoreHeaders::Drop,
        end_with_token: false,
        rate_limit: None,
        cors: None,
        forward,
    };
    thread_local!(static METRICS: Metrics = Metrics::new());
    let metrics = METRICS.with(|metrics| metrics.route(&plan.name));
    let allow = HeaderValue::from_static("GET");
    Route { plan, metrics, allow, challenges: Vec::new(), rate_limit: None, upstream_jwts: None }
}
