//! The forms: login, consent and logout. Each carries a token that ties it to the browser it was shown in, and what it
//! continues, sealed; nothing a form says can change for whom or where a code is sent.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use serde::{Deserialize, Serialize};

use super::Client;
use super::authorize::{AuthorizationRequest, Refusal, TRANSACTION_SECONDS};
use super::error::{Error, ErrorCode};
use super::form::{self, Form};
use super::pages::{Page, protect};
use super::server::{AuthorizationServer, Caller};
use super::sessions::{Cookie, LiveSession};
use super::users::{MAX_NAME, MAX_PASSWORD};
use crate::scope::ScopeSet;
use crate::store::Digest;

/// What a consent page continues: also in whose session it was shown.
#[derive(Debug, Serialize, Deserialize)]
struct ConsentAsked {
    request: AuthorizationRequest,
    session: Digest,
    scope: String,
}

const WRONG: &str = "The user name or password is wrong.";
const STALE: &str = "This page has been open for too long. Go back to the application and start again.";
const FORGED: &str = "This form was not shown in this browser. Go back to the application and start again.";

impl AuthorizationServer {
    pub(super) fn login_page(
        &self,
        request: &AuthorizationRequest,
        headers: &HeaderMap,
        status: StatusCode,
        username: &str,
        problem: Option<&str>,
    ) -> Response<Bytes> {
        let (browser, new) = self.browser(headers);
        let sealed = self.seal().seal(&browser, request, self.now().saturating_add(TRANSACTION_SECONDS));
        let client = self.clients().get(&request.client);
        let page = Page::Login {
            client: client.map_or("", |client| client.name.as_str()),
            action: &self.path_of("login"),
            csrf: &self.seal().csrf(&browser),
            transaction: &sealed.unwrap_or_default(),
            username,
            problem,
        };
        let destinations = client.map(|client| request.destinations(client)).unwrap_or_default();
        self.form_page(status, &page, &destinations, new.then_some(browser.as_str()))
    }

    pub(super) fn consent_page(
        &self,
        request: &AuthorizationRequest,
        client: &Client,
        live: &LiveSession,
        scope: &ScopeSet,
        headers: &HeaderMap,
    ) -> Response<Bytes> {
        let (browser, new) = self.browser(headers);
        let asked = ConsentAsked { request: request.clone(), session: live.digest, scope: scope.to_string() };
        let sealed = self.seal().seal(&browser, asked, self.now().saturating_add(TRANSACTION_SECONDS));
        let page = Page::Consent {
            client: &client.name,
            user: &live.session.user,
            scopes: scope.iter().collect(),
            action: &self.path_of("consent"),
            csrf: &self.seal().csrf(&browser),
            transaction: &sealed.unwrap_or_default(),
        };
        self.form_page(StatusCode::OK, &page, &request.destinations(client), new.then_some(browser.as_str()))
    }

    /// `{path}/login`: only the form of a login page leads here.
    pub(super) async fn login_endpoint<B>(&self, request: Request<B>, caller: &Caller<'_>) -> Response<Bytes>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let answer = match self.posted::<AuthorizationRequest, _>(request).await {
            Ok((headers, form, request)) => self.log_in(&headers, &form, &request, caller).await,
            Err(refusal) => Err(refusal),
        };
        answer.unwrap_or_else(|refusal| self.refuse(refusal, caller))
    }

    async fn log_in(
        &self,
        headers: &HeaderMap,
        form: &Form,
        request: &AuthorizationRequest,
        caller: &Caller<'_>,
    ) -> Result<Response<Bytes>, Refusal> {
        let (name, password) = (form.get("username").unwrap_or_default(), form.get("password").unwrap_or_default());
        let again = |status, problem| self.login_page(request, headers, status, name, Some(problem));
        if name.is_empty() || password.is_empty() {
            return Ok(again(StatusCode::OK, "Enter your user name and your password."));
        }
        if name.len() > MAX_NAME || password.len() > MAX_PASSWORD {
            return Ok(again(StatusCode::FORBIDDEN, WRONG));
        }
        let account = match self.check_password_from(name, password, caller).await {
            Ok(account) => account,
            Err(error) if error.code == ErrorCode::InvalidGrant => {
                let why = (error.code(), error.reason.as_deref().unwrap_or_default());
                self.note_refusal("login", StatusCode::FORBIDDEN, why, caller);
                return Ok(again(StatusCode::FORBIDDEN, WRONG));
            }
            Err(error) => {
                self.note_refusal("login", error.status(), (error.code(), error.description.as_ref()), caller);
                let problem = match error.code {
                    ErrorCode::TooMany => "There were too many failed attempts from your network. Try again later.",
                    _ => "There is too much to do at the moment. Try again.",
                };
                let mut response = again(error.status(), problem);
                error.add_headers(response.headers_mut());
                return Ok(response);
            }
        };
        let (live, cookie) = self.start_session(headers, &account).await?;
        let answer = self.proceed(request, &live, headers, false, caller).await;
        let mut response = answer.unwrap_or_else(|refusal| self.refuse(refusal, caller));
        if response.status() == StatusCode::OK {
            // The consent page gets a request of its own: reloading it must not send the password again.
            response = self.see_consent(request, headers);
        }
        response.headers_mut().append(header::SET_COOKIE, cookie);
        Ok(response)
    }

    fn see_consent(&self, request: &AuthorizationRequest, headers: &HeaderMap) -> Response<Bytes> {
        let (browser, _) = self.browser(headers);
        let sealed = self.seal().seal(&browser, request, self.now().saturating_add(TRANSACTION_SECONDS));
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::SEE_OTHER;
        protect(response.headers_mut());
        let location = format!("{}?transaction={}", self.path_of("consent"), sealed.unwrap_or_default());
        if let Ok(location) = HeaderValue::try_from(location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }

    /// `{path}/consent`: GET shows what is asked, POST carries the decision.
    pub(super) async fn consent_endpoint<B>(&self, request: Request<B>, caller: &Caller<'_>) -> Response<Bytes>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let answer = if request.method() == Method::GET {
            let (head, _) = request.into_parts();
            self.ask_consent(&head.headers, head.uri.query().unwrap_or_default(), caller).await
        } else {
            match self.posted::<ConsentAsked, _>(request).await {
                Ok((headers, form, asked)) => self.decide_consent(&headers, &form, &asked, caller).await,
                Err(refusal) => Err(refusal),
            }
        };
        answer.unwrap_or_else(|refusal| self.refuse(refusal, caller))
    }

    async fn ask_consent(
        &self,
        headers: &HeaderMap,
        query: &str,
        caller: &Caller<'_>,
    ) -> Result<Response<Bytes>, Refusal> {
        let form = Form::parse(query.as_bytes()).unwrap_or_default();
        let (browser, _) = self.browser(headers);
        let sealed = form.get("transaction").unwrap_or_default();
        let request: Option<AuthorizationRequest> = self.seal().open(&browser, sealed, self.now());
        let request = request.ok_or(Refusal::Page(StatusCode::BAD_REQUEST, STALE))?;
        match self.session(headers).await? {
            Some(live) => self.proceed(&request, &live, headers, false, caller).await,
            None => Ok(self.login_page(&request, headers, StatusCode::OK, "", None)),
        }
    }

    async fn decide_consent(
        &self,
        headers: &HeaderMap,
        form: &Form,
        asked: &ConsentAsked,
        caller: &Caller<'_>,
    ) -> Result<Response<Bytes>, Refusal> {
        let live = self.session(headers).await?.filter(|live| live.digest == asked.session);
        let live = live.ok_or(Refusal::Page(StatusCode::FORBIDDEN, FORGED))?;
        let (user, client) = (live.session.user.as_str(), asked.request.client.as_str());
        let allowed = form.get("decision") == Some("allow");
        tracing::info!(
            target: "audit", event = "consent", result = if allowed { "allowed" } else { "denied" }, user, client,
            scope = asked.scope, address = %caller.peer, request_id = caller.request_id,
        );
        if !allowed {
            return Err(asked.request.refusal("access_denied", "the user denied the request"));
        }
        let (_, grantable) = self.grantable(&asked.request, &live)?;
        // What was shown, as far as it may still be given.
        let shown = ScopeSet::parse(&asked.scope).unwrap_or_default();
        let scope = shown.filter(|scope| grantable.contains(scope));
        self.store().add_consent(user, client, scope.iter().map(str::to_owned).collect()).await.map_err(Error::from)?;
        self.send_code(&asked.request, &live, &scope, caller).await
    }

    /// `{path}/logout`: GET asks, and only the form's POST ends the session.
    pub(super) async fn logout_endpoint<B>(&self, request: Request<B>, caller: &Caller<'_>) -> Response<Bytes>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let answer = match *request.method() {
            Method::GET | Method::HEAD => self.ask_logout(request.headers()).await,
            _ => self.log_out(request, caller).await,
        };
        answer.unwrap_or_else(|refusal| self.refuse(refusal, caller))
    }

    async fn ask_logout(&self, headers: &HeaderMap) -> Result<Response<Bytes>, Refusal> {
        let (browser, new) = self.browser(headers);
        let live = self.session(headers).await?;
        let page = Page::Logout {
            user: live.as_ref().map_or("", |live| live.session.user.as_str()),
            action: &self.path_of("logout"),
            csrf: &self.seal().csrf(&browser),
        };
        Ok(self.form_page(StatusCode::OK, &page, &[], new.then_some(browser.as_str())))
    }

    async fn log_out<B>(&self, request: Request<B>, caller: &Caller<'_>) -> Result<Response<Bytes>, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let (headers, _) = self.posted_form(request).await?;
        if let Some(live) = self.session(&headers).await? {
            self.store().end_session(live.digest).await.map_err(Error::from)?;
            tracing::info!(
                target: "audit", event = "logout", user = live.session.user, address = %caller.peer,
                request_id = caller.request_id,
            );
        }
        let mut response = self.pages().response(StatusCode::OK, &Page::LoggedOut {}, &[]);
        response.headers_mut().append(header::SET_COOKIE, self.set_cookie(Cookie::Session, ""));
        Ok(response)
    }

    /// A form that was shown in this browser, and what it continues.
    async fn posted<T, B>(&self, request: Request<B>) -> Result<(HeaderMap, Form, T), Refusal>
    where
        T: serde::de::DeserializeOwned,
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let (headers, form) = self.posted_form(request).await?;
        let (browser, _) = self.browser(&headers);
        let sealed = form.get("transaction").unwrap_or_default();
        match self.seal().open(&browser, sealed, self.now()) {
            Some(content) => Ok((headers, form, content)),
            None => Err(Refusal::Page(StatusCode::BAD_REQUEST, STALE)),
        }
    }

    async fn posted_form<B>(&self, request: Request<B>) -> Result<(HeaderMap, Form), Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        if request.method() != Method::POST {
            return Err(Refusal::Error(Error::method_not_allowed("POST")));
        }
        let headers = request.headers().clone();
        let form = form::read_pages(request).await?;
        let (browser, new) = self.browser(&headers);
        if new || !self.seal().is_csrf(&browser, form.get("csrf").unwrap_or_default()) {
            return Err(Refusal::Page(StatusCode::FORBIDDEN, FORGED));
        }
        match form.repeated() {
            Some(_) => Err(Refusal::Page(StatusCode::BAD_REQUEST, FORGED)),
            None => Ok((headers, form)),
        }
    }
}
