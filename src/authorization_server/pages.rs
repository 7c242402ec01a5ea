//! The pages people see: login, consent, logout and errors. Plain HTML and one stylesheet, no script, nothing from
//! elsewhere. An operator's templates of the same names take the place of the built-in ones.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, context};
use serde::Serialize;

use super::StartError;
use super::error::no_store;

/// The templates, and the stylesheet they share. Names ending in `.html` are escaped as HTML.
const BUILT_IN: [(&str, &str); 7] = [
    ("layout.html", include_str!("pages/layout.html")),
    ("login.html", include_str!("pages/login.html")),
    ("consent.html", include_str!("pages/consent.html")),
    ("logout.html", include_str!("pages/logout.html")),
    ("logged_out.html", include_str!("pages/logged_out.html")),
    ("error.html", include_str!("pages/error.html")),
    ("style.css", include_str!("pages/style.css")),
];
/// Largest template that is read.
const MAX_TEMPLATE: u64 = 256 * 1024;

/// A page and what it shows.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Page<'a> {
    Login {
        client: &'a str,
        action: &'a str,
        csrf: &'a str,
        transaction: &'a str,
        username: &'a str,
        /// Why the page is shown again.
        problem: Option<&'a str>,
    },
    Consent {
        client: &'a str,
        user: &'a str,
        scopes: Vec<&'a str>,
        action: &'a str,
        csrf: &'a str,
        transaction: &'a str,
    },
    Logout {
        user: &'a str,
        action: &'a str,
        csrf: &'a str,
    },
    LoggedOut {},
    Error {
        title: &'a str,
        message: &'a str,
        request_id: &'a str,
    },
}

impl Page<'_> {
    fn template(&self) -> &'static str {
        match self {
            Self::Login { .. } => "login.html",
            Self::Consent { .. } => "consent.html",
            Self::Logout { .. } => "logout.html",
            Self::LoggedOut {} => "logged_out.html",
            Self::Error { .. } => "error.html",
        }
    }
}

/// One page of each kind.
const SAMPLES: [Page<'static>; 5] = [
    Page::Login { client: "", action: "", csrf: "", transaction: "", username: "", problem: Some("") },
    Page::Consent { client: "", user: "", scopes: Vec::new(), action: "", csrf: "", transaction: "" },
    Page::Logout { user: "", action: "", csrf: "" },
    Page::LoggedOut {},
    Page::Error { title: "", message: "", request_id: "" },
];

/// The texts of the templates.
#[derive(Debug)]
pub(super) struct Pages {
    sources: BTreeMap<&'static str, String>,
    /// Where the pages are, for people.
    site: String,
    stylesheet: String,
}

impl Pages {
    /// Reads the templates of `folder` and takes the built-in ones for those that are not there.
    pub(super) fn load(folder: Option<&Path>, site: &str, path: &str) -> Result<Self, StartError> {
        let mut sources = BTreeMap::new();
        for (name, built_in) in BUILT_IN {
            let own = folder.map(|folder| folder.join(name)).filter(|file| file.exists());
            let text = match own {
                None => built_in.to_owned(),
                Some(file) => {
                    let failed = |cause: String| StartError::Template { file: file.clone(), cause };
                    let length = std::fs::metadata(&file).map_err(|error| failed(error.to_string()))?.len();
                    if length > MAX_TEMPLATE {
                        return Err(failed(format!("larger than {MAX_TEMPLATE} bytes")));
                    }
                    let text = std::fs::read_to_string(&file).map_err(|error| failed(error.to_string()))?;
                    let parsed = Environment::new().add_template(name, &text).err();
                    if let Some(error) = parsed.filter(|_| name.ends_with(".html")) {
                        return Err(failed(error.to_string()));
                    }
                    text
                }
            };
            sources.insert(name, text);
        }
        let pages = Self { sources, site: site.to_owned(), stylesheet: format!("{path}/style.css") };
        // A name that no page has is found now, not when somebody wants to log in.
        for page in SAMPLES {
            if let Err(error) = pages.render(&page) {
                let file = folder.unwrap_or(Path::new("")).join(error.name().unwrap_or_else(|| page.template()));
                return Err(StartError::Template { file, cause: error.to_string() });
            }
        }
        Ok(pages)
    }

    pub(super) fn stylesheet(&self) -> Response<Bytes> {
        let text = self.sources.get("style.css").cloned().unwrap_or_default();
        let mut response = Response::new(Bytes::from(text));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }

    /// A page. Its forms may end at this server and at `destinations` (source expressions of a
    /// Content-Security-Policy): browsers hold the redirect that follows a form against the policy too.
    pub(super) fn response(&self, status: StatusCode, page: &Page<'_>, destinations: &[String]) -> Response<Bytes> {
        let html = self.render(page).unwrap_or_else(|error| {
            tracing::error!(%error, page = page.template(), "a page could not be rendered");
            "<!doctype html><title>Error</title><p>This page could not be shown.".to_owned()
        });
        let mut response = Response::new(Bytes::from(html));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        protect(headers);
        let policy = format!(
            "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'{}; frame-ancestors 'none'; \
             base-uri 'none'",
            destinations.iter().map(|source| format!(" {source}")).collect::<String>()
        );
        let fallback = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'");
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::try_from(policy).unwrap_or(fallback));
        response
    }

    fn render(&self, page: &Page<'_>) -> Result<String, minijinja::Error> {
        // Parsed for every page: a fraction of a millisecond, beside a password hash of tens.
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        for (name, text) in &self.sources {
            if name.ends_with(".html") {
                environment.add_template(name, text)?;
            }
        }
        let values = context! {
            site => self.site.as_str(),
            stylesheet => self.stylesheet.as_str(),
            ..Serde(page)
        };
        environment.get_template(page.template())?.render(values)
    }
}

/// The headers of everything a browser shows or follows here.
pub(super) fn protect(headers: &mut HeaderMap) {
    no_store(headers);
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}
