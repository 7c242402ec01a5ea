//! A browser without a screen: it keeps cookies, reads the forms of pages, and follows nothing by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::http::{Conn, Req, Response};
use super::server::{HOST, PASSWORD, encode};

/// One browser profile. A clone is a second one with the same cookies.
#[derive(Clone, Debug)]
pub struct Browser {
    address: SocketAddr,
    source: String,
    headers: Vec<(String, String)>,
    pub cookies: BTreeMap<String, String>,
}

impl Browser {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, source: "127.0.0.1".to_owned(), headers: Vec::new(), cookies: BTreeMap::new() }
    }

    /// On another address of this machine.
    pub fn at(self, source: &str) -> Self {
        Self { source: source.to_owned(), ..self }
    }

    /// Sends this with every request.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// After the gateway was started again elsewhere.
    pub fn moved(&mut self, address: SocketAddr) {
        self.address = address;
    }

    pub fn get(&mut self, target: &str) -> Response {
        self.send(Req::get(target))
    }

    pub fn post(&mut self, target: &str, form: &str) -> Response {
        self.send(Req::post(target).form(form))
    }

    pub fn send(&mut self, request: Req) -> Response {
        let mut request = self.headers.iter().fold(request.host(HOST), |request, (k, v)| request.header(k, v));
        if !self.cookies.is_empty() {
            let pairs: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header("Cookie", &pairs.join("; "));
        }
        let answer = Conn::open_from(&self.source, self.address).send(&request);
        for line in answer.all("Set-Cookie") {
            let (pair, attributes) = line.split_once(';').unwrap_or((line, ""));
            let (name, value) = pair.split_once('=').unwrap_or_else(|| panic!("not a cookie: {line}"));
            match attributes.to_ascii_lowercase().contains("max-age=0") {
                true => drop(self.cookies.remove(name)),
                false => drop(self.cookies.insert(name.to_owned(), value.to_owned())),
            }
        }
        answer
    }

    pub fn authorize(&mut self, query: &str) -> Response {
        self.get(&format!("/oauth2/authorize?{query}"))
    }

    pub fn submit(&mut self, form: &Form) -> Response {
        assert_eq!(form.method, "post");
        self.post(&form.action, &form.encode())
    }

    /// Fills in the login form of a page.
    pub fn log_in(&mut self, page: &Response, user: &str, password: &str) -> Response {
        self.submit(&Form::of(page).with("username", user).with("password", password))
    }

    /// Presses a button of the consent form that an answer shows or leads to.
    pub fn decide(&mut self, answer: Response, decision: &str) -> Response {
        let page = match answer.header("Location") {
            Some(location) if location.starts_with('/') => self.get(location),
            _ => answer,
        };
        self.submit(&Form::of(&page).press(decision))
    }

    /// Does as alice would until the browser leaves for the application.
    pub fn allow(&mut self, query: &str) -> Callback {
        self.allow_as("alice", query)
    }

    pub fn allow_as(&mut self, user: &str, query: &str) -> Callback {
        let mut answer = self.authorize(query);
        if answer.status == 200 && Form::of(&answer).has("password") {
            answer = self.log_in(&answer, user, PASSWORD);
        }
        if answer.status == 200 || answer.header("Location").is_some_and(|location| location.starts_with('/')) {
            answer = self.decide(answer, "allow");
        }
        Callback::of(&answer)
    }

    /// The code at the end of all that.
    pub fn code(&mut self, query: &str) -> String {
        let callback = self.allow(query);
        callback.get("code").unwrap_or_else(|| panic!("no code in {callback:?}"))
    }
}

/// Where an answer sends the browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// The URI without its query.
    pub base: String,
    pub query: String,
}

impl Callback {
    pub fn of(answer: &Response) -> Self {
        Self::try_of(answer).unwrap_or_else(|| panic!("no redirect: {answer:?} {}", answer.text()))
    }

    pub fn try_of(answer: &Response) -> Option<Self> {
        let location = answer.header("Location").filter(|_| answer.status == 303)?;
        let (base, query) = location.split_once('?').unwrap_or((location, ""));
        Some(Self { base: base.to_owned(), query: query.to_owned() })
    }

    /// Every parameter, decoded, in order.
    pub fn parameters(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(self.query.as_bytes()).into_owned().collect()
    }

    /// A parameter that stands there once at most.
    pub fn get(&self, name: &str) -> Option<String> {
        let mut values: Vec<_> = self.parameters().into_iter().filter(|(own, _)| own == name).collect();
        assert!(values.len() < 2, "{name} stands {} times in {}", values.len(), self.query);
        values.pop().map(|(_, value)| value)
    }

    pub fn error(&self) -> String {
        self.get("error").unwrap_or_default()
    }
}

/// A form as a browser reads it.
#[derive(Clone, Debug, Default)]
pub struct Form {
    pub action: String,
    pub method: String,
    /// What is sent: hidden and visible fields with their values.
    pub fields: Vec<(String, String)>,
    pub buttons: Vec<(String, String)>,
}

impl Form {
    /// The only form of a page.
    pub fn of(page: &Response) -> Self {
        Self::read(&page.text())
    }

    pub fn read(html: &str) -> Self {
        let mut form: Option<Self> = None;
        for (name, attributes) in tags(html) {
            let get = |key: &str| attributes.iter().find(|(own, _)| own == key).map(|(_, value)| value.clone());
            let pair = || (get("name").unwrap_or_default(), get("value").unwrap_or_default());
            match (name.as_str(), &mut form) {
                ("form", Some(_)) => panic!("two forms in {html}"),
                ("form", none) => {
                    let method = get("method").unwrap_or_default().to_ascii_lowercase();
                    *none = Some(Self { action: get("action").unwrap_or_default(), method, ..Self::default() });
                }
                ("input", Some(form)) => form.fields.push(pair()),
                ("button", Some(form)) if get("name").is_some() => form.buttons.push(pair()),
                _ => {}
            }
        }
        form.unwrap_or_else(|| panic!("no form in {html}"))
    }

    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(own, _)| own == name)
    }

    pub fn value(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(own, _)| own == name);
        &found.unwrap_or_else(|| panic!("no field {name} in {self:?}")).1
    }

    /// Types into a field that the page has.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        let found = self.fields.iter_mut().find(|(own, _)| own == name);
        match found {
            Some((_, own)) => value.clone_into(own),
            None => panic!("no field {name} in {self:?}"),
        }
        self
    }

    /// What no browser would do.
    pub fn smuggle(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(own, _)| own != name);
        self
    }

    pub fn press(mut self, value: &str) -> Self {
        let button = self.buttons.iter().find(|(_, own)| own == value).cloned();
        self.fields.push(button.unwrap_or_else(|| panic!("no button {value} in {self:?}")));
        self
    }

    pub fn encode(&self) -> String {
        let pairs: Vec<_> = self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        encode(&pairs)
    }
}

pub type Tag = (String, Vec<(String, String)>);

/// The opening tags of a page with their attributes, unescaped.
pub fn tags(html: &str) -> Vec<Tag> {
    let mut found = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
        if name.is_empty() {
            continue;
        }
        rest = &rest[name.len()..];
        let mut attributes = Vec::new();
        loop {
            rest = rest.trim_start();
            let key: String = rest.chars().take_while(|c| !c.is_whitespace() && !"=>/".contains(*c)).collect();
            rest = &rest[key.len()..];
            if key.is_empty() {
                if rest.is_empty() || rest.starts_with('>') {
                    break;
                }
                rest = &rest[1..];
                continue;
            }
            let mut value = String::new();
            if let Some(quoted) = rest.strip_prefix("=\"") {
                let end = quoted.find('"').unwrap_or(quoted.len());
                value = unescape(&quoted[..end]);
                rest = quoted.get(end + 1..).unwrap_or_default();
            }
            attributes.push((key, value));
        }
        found.push((name.to_ascii_lowercase(), attributes));
    }
    found
}

/// The character references that escaping makes.
pub fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (reference, character) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#x27;", "'"),
        ("&#39;", "'"),
        ("&#x2f;", "/"),
        ("&amp;", "&"),
    ] {
        out = out.replace(reference, character);
    }
    out
}
