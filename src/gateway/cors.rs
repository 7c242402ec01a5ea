//! Which web pages' scripts may call a route and read its answers: the server's side of CORS (Fetch, section 3.2). Whether a
//! request is forwarded is for the rules alone; only a preflight, which never is, is answered here.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};

use super::plan::{Cors, Origins};
use super::reject::Reject;
use super::route::Route;
use crate::net::request::RequestHead;
use crate::policy::Need;

const ANY: HeaderValue = HeaderValue::from_static("*");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// What a browser asks before it lets a script send a request that no form could have sent.
#[derive(Debug)]
pub(super) struct Preflight {
    method: Method,
    /// The names as they were asked for, in one list.
    headers: Option<HeaderValue>,
}

impl Preflight {
    /// A request that is one, with a single origin and a single method. Any other OPTIONS is an ordinary request.
    pub(super) fn of(request: &RequestHead) -> Option<Self> {
        if request.method != Method::OPTIONS {
            return None;
        }
        single(&request.headers, header::ORIGIN)?;
        let method = single(&request.headers, header::ACCESS_CONTROL_REQUEST_METHOD)?;
        let method = Method::from_bytes(method.as_bytes()).ok()?;
        Some(Self { method, headers: names(&request.headers) })
    }
}

impl Cors {
    /// The value of `Access-Control-Allow-Origin`, where the request's origin may read the answer.
    pub(super) fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        match &self.origins {
            Origins::Any => Some(ANY),
            Origins::These(origins) => {
                let origin = single(headers, header::ORIGIN)?;
                origins.iter().any(|own| own.as_bytes() == origin.as_bytes()).then(|| origin.clone())
            }
        }
    }

    /// The answer to a preflight, but for what stands on every answer of the route.
    pub(super) fn answer(
        &self,
        preflight: &Preflight,
        route: &Route,
        origin: Option<&HeaderValue>,
    ) -> Result<Response<Bytes>, Reject> {
        if origin.is_none() {
            return Err(Reject::Origin);
        }
        let asked = &preflight.method;
        let is_listed = route.allow.to_str().is_ok_and(|list| list.split(", ").any(|name| name == asked.as_str()));
        // An entry without methods admits more of them than the list has.
        let methods = match HeaderValue::from_str(asked.as_str()) {
            Ok(asked_alone) if !is_listed && route.plan.access.need(asked) != Need::Refuse => asked_alone,
            _ => route.allow.clone(),
        };
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let allowed = self.headers.as_ref().or(preflight.headers.as_ref());
        if let Some(allowed) = allowed.filter(|names| !names.is_empty()) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed.clone());
        }
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        let vary = HeaderValue::from_static("Access-Control-Request-Method, Access-Control-Request-Headers");
        headers.insert(header::VARY, vary);
        Ok(response)
    }

    /// Says on an answer of the route who may read it. `origin` is what [`Cors::allowed`] gave.
    pub(super) fn tell(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        if matches!(self.origins, Origins::These(_)) {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, self.expose_headers.clone());
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
    }
}

/// Takes away what an upstream says of CORS: on a route with `cors` the gateway says it.
pub(super) fn remove_upstreams_own(headers: &mut HeaderMap) {
    let is_own = |name: &&HeaderName| name.as_str().starts_with("access-control-");
    let said: Vec<HeaderName> = headers.keys().filter(is_own).cloned().collect();
    for name in said {
        headers.remove(name);
    }
}

fn single(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// The names of `Access-Control-Request-Headers`; none where one of them is not a name.
fn names(headers: &HeaderMap) -> Option<HeaderValue> {
    let fields = headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let names = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let names = names.map(|name| HeaderName::from_bytes(name).ok()).collect::<Option<Vec<_>>>()?;
    let list = names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", ");
    HeaderValue::from_str(&list).ok().filter(|list| !list.is_empty())
}
