//! `{path}/authorize` (RFC 6749 section 4.1.1, RFC 7636, RFC 9207).
//!
//! Until the client and the redirect URI are known to be good, an error is a page; from then on it is a redirect with
//! `state` and `iss`. Clients come from the configuration alone, so that no stranger can register a redirect.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use serde::{Deserialize, Serialize};

use super::clients::Authenticated;
use super::error::{Error, ErrorCode};
use super::form::{self, Form};
use super::grants::requested_scope;
use super::pages::{Page, protect};
use super::redirect_uri::{csp_source, resolve, with_parameters};
use super::server::{AuthorizationServer, Caller};
use super::sessions::{Cookie, LiveSession};
use super::tokens::new_code;
use super::{AuthMethod, Client, Grant};
use crate::scope::ScopeSet;
use crate::store::{Code, Digest};

/// Longest query that is read.
const MAX_QUERY: usize = 16 * 1024;
/// How long a login or consent page may be left open.
pub(super) const TRANSACTION_SECONDS: u64 = 600;
/// How long a used code is remembered at least, so that a second use is noticed.
const REMEMBER_SECONDS: u64 = 600;

/// An authorization request that was found good. What follows depends on it alone: it travels sealed through the pages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct AuthorizationRequest {
    pub(super) client: String,
    pub(super) redirect_uri: String,
    redirect_given: bool,
    state: Option<String>,
    scope: String,
    challenge: Option<String>,
    audience: Vec<String>,
    /// `prompt=consent`: asks again for what was already allowed.
    ask_again: bool,
}

/// A request that cannot go on.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Nothing in it can be trusted to be redirected to.
    Page(StatusCode, &'static str),
    /// To the client, at a URI that is known to be its own.
    Redirect {
        uri: String,
        state: Option<String>,
        error: &'static str,
        description: &'static str,
    },
    Error(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// How the user is to be asked.
#[derive(Debug, Default)]
struct Prompt {
    none: bool,
    login: bool,
    max_age: Option<u64>,
    login_hint: String,
}

impl AuthorizationServer {
    pub(super) async fn authorize_endpoint<B>(&self, request: Request<B>, caller: &Caller<'_>) -> Response<Bytes>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let headers = request.headers().clone();
        let speculative = ["sec-purpose", "purpose"].iter().filter_map(|name| headers.get(*name));
        if speculative.filter_map(|value| value.to_str().ok()).any(|value| value.contains("prefetch")) {
            return self.refuse(Refusal::Page(StatusCode::FORBIDDEN, "This page cannot be prefetched."), caller);
        }
        let answer = match *request.method() {
            Method::GET => match request.uri().query().unwrap_or_default() {
                query if query.len() > MAX_QUERY => Err(too_long()),
                query => Form::parse(query.as_bytes()).map_err(|_| unreadable()),
            },
            Method::POST => form::read_pages(request).await.map_err(Refusal::Error),
            _ => {
                let mut response = self.refuse(
                    Refusal::Page(StatusCode::METHOD_NOT_ALLOWED, "This page is opened with GET or POST."),
                    caller,
                );
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
                return response;
            }
        };
        let answer = match answer {
            Ok(form) => self.authorize(&form, &headers, caller).await,
            Err(refusal) => Err(refusal),
        };
        answer.unwrap_or_else(|refusal| self.refuse(refusal, caller))
    }

    async fn authorize(
        &self,
        form: &Form,
        headers: &HeaderMap,
        caller: &Caller<'_>,
    ) -> Result<Response<Bytes>, Refusal> {
        let (request, prompt) = self.read_request(form)?;
        let session = self.session(headers).await?;
        let now = self.now();
        let fresh = session.filter(|live| {
            let age = now.saturating_sub(live.session.auth_time);
            !prompt.login && prompt.max_age.is_none_or(|most| most > 0 && age <= most)
        });
        match fresh {
            Some(live) => self.proceed(&request, &live, headers, prompt.none, caller).await,
            None if prompt.none => Err(request.refusal("login_required", "the user is not logged in")),
            None => Ok(self.login_page(&request, headers, StatusCode::OK, &prompt.login_hint, None)),
        }
    }

    /// What is left to do once the user is known: ask for consent, or send the code.
    pub(super) async fn proceed(
        &self,
        request: &AuthorizationRequest,
        live: &LiveSession,
        headers: &HeaderMap,
        quiet: bool,
        caller: &Caller<'_>,
    ) -> Result<Response<Bytes>, Refusal> {
        let (client, scope) = self.grantable(request, live)?;
        if !client.trusted && !self.has_consent(request, live, &scope).await? {
            if quiet {
                return Err(request.refusal("consent_required", "the user has not allowed this yet"));
            }
            return Ok(self.consent_page(request, &client, live, &scope, headers));
        }
        self.send_code(request, live, &scope, caller).await
    }

    /// The client, and what of the requested scope its user may be given.
    pub(super) fn grantable(
        &self,
        request: &AuthorizationRequest,
        live: &LiveSession,
    ) -> Result<(std::sync::Arc<Client>, ScopeSet), Refusal> {
        let client = self.clients().get(&request.client).cloned();
        let client = client.ok_or(Refusal::Page(StatusCode::BAD_REQUEST, UNKNOWN_CLIENT))?;
        let account = self.users().enabled(&live.session.user);
        let account = account.ok_or_else(|| request.refusal("access_denied", "the user cannot log in any more"))?;
        let requested = ScopeSet::parse(&request.scope).unwrap_or_default();
        match self.granted_scope(&client, account, &requested) {
            Ok((scope, _)) => Ok((client, scope)),
            Err(_) => Err(request.refusal("invalid_scope", "the user may not have this scope")),
        }
    }

    async fn has_consent(
        &self,
        request: &AuthorizationRequest,
        live: &LiveSession,
        scope: &ScopeSet,
    ) -> Result<bool, Error> {
        let allowed = self.store().consent(&live.session.user, &request.client).await?;
        Ok(!request.ask_again && scope.iter().all(|scope| allowed.iter().any(|own| own == scope)))
    }

    /// Makes a code and sends the browser back with it.
    pub(super) async fn send_code(
        &self,
        request: &AuthorizationRequest,
        live: &LiveSession,
        scope: &ScopeSet,
        caller: &Caller<'_>,
    ) -> Result<Response<Bytes>, Refusal> {
        let text = new_code();
        let expires = self.now().saturating_add(self.settings().code_lifetime.as_secs());
        let code = Code {
            client: request.client.clone(),
            redirect_uri: request.redirect_uri.clone(),
            redirect_given: request.redirect_given,
            challenge: request.challenge.clone(),
            user: live.session.user.clone(),
            password_stamp: live.session.password_stamp.clone(),
            session: live.digest,
            scope: scope.to_string(),
            audience: request.audience.clone(),
            auth_time: live.session.auth_time,
            amr: live.session.amr.clone(),
            expires,
            failures: 0,
            grant: None,
        };
        let forget = expires.saturating_add(REMEMBER_SECONDS.max(self.settings().access_token_lifetime.as_secs()));
        if let Err(error) = self.store().put_code(Digest::of(&text), code, forget).await {
            tracing::error!(event = "code.not_stored", %error, "an authorization code could not be stored");
            return Err(request.refusal("server_error", "the server failed"));
        }
        tracing::info!(
            target: "audit", event = "authorization", client = request.client, user = live.session.user,
            scope = %scope, address = %caller.peer, request_id = caller.request_id,
        );
        Ok(self.redirect(&request.redirect_uri, &[("code", Some(&text)), ("state", request.state.as_deref())]))
    }

    /// Reads and judges the parameters: client and redirect URI first, everything else after them.
    fn read_request(&self, form: &Form) -> Result<(AuthorizationRequest, Prompt), Refusal> {
        let page = |message| Refusal::Page(StatusCode::BAD_REQUEST, message);
        if form.is_repeated("client_id") || form.is_repeated("redirect_uri") {
            return Err(page("The request names its application more than once."));
        }
        let client = form.get("client_id").and_then(|id| self.clients().get(id)).ok_or(page(UNKNOWN_CLIENT))?;
        let (redirect_uri, redirect_given) = resolve(client, form.get("redirect_uri"))
            .ok_or(page("The address to return to is not one that the application has registered."))?;
        // A state that is there twice is nobody's.
        let state = form.get("state").filter(|_| !form.is_repeated("state")).map(str::to_owned);
        let refusal = |error, description| Refusal::Redirect {
            uri: redirect_uri.clone(),
            state: state.clone(),
            error,
            description,
        };
        let invalid = |description| refusal("invalid_request", description);

        if form.repeated().is_some() {
            return Err(invalid("a parameter is there more than once"));
        }
        for (name, error) in [
            ("request", "request_not_supported"),
            ("request_uri", "request_uri_not_supported"),
            ("registration", "registration_not_supported"),
        ] {
            if form.get(name).is_some() {
                return Err(refusal(error, "this way to send a request is not supported"));
            }
        }
        match form.get("response_type") {
            None => return Err(invalid("response_type is missing")),
            Some("code") => {}
            Some(_) => return Err(refusal("unsupported_response_type", "only the response type code is supported")),
        }
        if !client.grants.contains(&Grant::AuthorizationCode) {
            return Err(refusal("unauthorized_client", "the client may not use this grant"));
        }
        if form.get("response_mode").is_some_and(|mode| mode != "query") {
            return Err(refusal("unsupported_response_mode", "only the response mode query is supported"));
        }
        let challenge = read_challenge(form).map_err(invalid)?;
        if challenge.is_none() && (client.public || client.require_pkce) {
            return Err(invalid("code_challenge is missing"));
        }
        let prompt = read_prompt(form).map_err(invalid)?;
        let by = Authenticated { client: client.clone(), method: AuthMethod::None };
        let checked = requested_scope(client, form.get("scope"))
            .and_then(|scope| self.audience(&by, form).map(|audience| (scope, audience)));
        let (scope, audience) = checked.map_err(|error| match error.code {
            ErrorCode::InvalidTarget => refusal("invalid_target", "the client may not name this resource"),
            _ => refusal("invalid_scope", "the client may not ask for this scope"),
        })?;
        let request = AuthorizationRequest {
            client: client.id.as_ref().to_owned(),
            redirect_uri: redirect_uri.clone(),
            redirect_given,
            state: state.clone(),
            scope: scope.to_string(),
            challenge,
            audience,
            ask_again: form.get("prompt").is_some_and(|prompt| prompt.split(' ').any(|word| word == "consent")),
        };
        Ok((request, prompt))
    }

    /// Sends the browser to a URI that is the client's. 303: what follows is a GET, whatever this was.
    fn redirect(&self, uri: &str, parameters: &[(&str, Option<&str>)]) -> Response<Bytes> {
        let parameters = [parameters, &[("iss", Some(self.settings().issuer.as_str()))]].concat();
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::SEE_OTHER;
        protect(response.headers_mut());
        if let Ok(mut location) = HeaderValue::try_from(with_parameters(uri, &parameters)) {
            // It carries the code: nobody logs it by accident.
            location.set_sensitive(true);
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }

    /// Answers a request that cannot go on.
    pub(super) fn refuse(&self, refusal: Refusal, caller: &Caller<'_>) -> Response<Bytes> {
        match refusal {
            Refusal::Page(status, message) => {
                let error = Error::new(ErrorCode::InvalidRequest, message);
                self.audit_refusal("authorize", &error, None, caller);
                self.error_page(status, message, caller)
            }
            Refusal::Redirect { uri, state, error, description } => {
                self.metrics().token_requests_refused.with_label_values(&["authorize", error]).inc();
                self.note_refusal("authorize", StatusCode::SEE_OTHER, (error, description), caller);
                tracing::info!(
                    target: "audit", event = "refusal", endpoint = "authorize", error, reason = description,
                    address = %caller.peer, request_id = caller.request_id,
                );
                let parameters =
                    [("error", Some(error)), ("error_description", Some(description)), ("state", state.as_deref())];
                self.redirect(&uri, &parameters)
            }
            Refusal::Error(error) => {
                self.audit_refusal("authorize", &error, None, caller);
                let message = match error.code {
                    ErrorCode::TooMany => "There were too many failed attempts from your network.",
                    ErrorCode::Overloaded => "There is too much to do at the moment.",
                    ErrorCode::ServerError => "Something went wrong on our side.",
                    _ => "The request cannot be read.",
                };
                let mut response = self.error_page(error.status(), message, caller);
                error.add_headers(response.headers_mut());
                response
            }
        }
    }

    pub(super) fn error_page(&self, status: StatusCode, message: &str, caller: &Caller<'_>) -> Response<Bytes> {
        let title = match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "Try again in a moment",
            StatusCode::INTERNAL_SERVER_ERROR => "That did not work",
            _ => "The request cannot be completed",
        };
        let page = Page::Error { title, message, request_id: caller.request_id };
        self.pages().response(status, &page, &[])
    }

    /// A page of this browser, with the cookie that ties its form to it.
    pub(super) fn form_page(
        &self,
        status: StatusCode,
        page: &Page<'_>,
        destinations: &[String],
        new_browser: Option<&str>,
    ) -> Response<Bytes> {
        let mut response = self.pages().response(status, page, destinations);
        if let Some(browser) = new_browser {
            response.headers_mut().append(header::SET_COOKIE, self.set_cookie(Cookie::Browser, browser));
        }
        response
    }
}

impl AuthorizationRequest {
    pub(super) fn refusal(&self, error: &'static str, description: &'static str) -> Refusal {
        Refusal::Redirect { uri: self.redirect_uri.clone(), state: self.state.clone(), error, description }
    }

    /// Where a form of this request may lead: the redirect URI, and other origins of the client to which it may redirect.
    pub(super) fn destinations(&self, client: &Client) -> Vec<String> {
        let mut all: Vec<_> =
            csp_source(&self.redirect_uri).into_iter().chain(client.origins.iter().cloned()).collect();
        all.sort();
        all.dedup();
        all
    }
}

const UNKNOWN_CLIENT: &str = "The application that sent you here is not known.";

fn too_long() -> Refusal {
    Refusal::Page(StatusCode::URI_TOO_LONG, "The request is too long.")
}

fn unreadable() -> Refusal {
    Refusal::Page(StatusCode::BAD_REQUEST, "The request cannot be read.")
}

/// The S256 challenge. The plain method is not supported, and it is what a missing method means (RFC 7636 section 4.3).
fn read_challenge(form: &Form) -> Result<Option<String>, &'static str> {
    match (form.get("code_challenge"), form.get("code_challenge_method")) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err("code_challenge is missing"),
        (Some(_), method) if method != Some("S256") => Err("transform algorithm not supported"),
        (Some(challenge), _) => {
            let base64url = challenge.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            // SHA-256 is 32 bytes, which are 43 characters.
            if challenge.len() == 43 && base64url {
                Ok(Some(challenge.to_owned()))
            } else {
                Err("code_challenge is malformed")
            }
        }
    }
}

fn read_prompt(form: &Form) -> Result<Prompt, &'static str> {
    let mut prompt = Prompt::default();
    let words: Vec<_> = form.get("prompt").unwrap_or_default().split(' ').filter(|word| !word.is_empty()).collect();
    prompt.none = words.contains(&"none");
    if prompt.none && words.len() > 1 {
        return Err("prompt=none stands alone");
    }
    prompt.login = words.contains(&"login") || words.contains(&"select_account");
    if let Some(text) = form.get("max_age") {
        prompt.max_age = Some(text.parse().map_err(|_| "max_age is not a number of seconds")?);
    }
    prompt.login_hint = form.get("login_hint").unwrap_or_default().chars().take(256).collect();
    Ok(prompt)
}
