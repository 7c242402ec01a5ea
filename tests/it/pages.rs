//! The pages in a real browser. Screenshots are left in `target/screenshots`.

use crate::support::browser::Callback;
use crate::support::chromium::Chromium;
use crate::support::public::{Public, installed};
use crate::support::server::{CHALLENGE, PASSWORD, VERIFIER, code_form, encode, outcome};
use crate::support::{RecordingUpstream, Req, Wrong};

/// The gateway, an application that is called back, and the browser between them.
struct Scene {
    public: Public,
    application: RecordingUpstream,
    browser: Chromium,
}

impl Scene {
    fn start() -> Option<Self> {
        let program = installed("chromium")?;
        let page =
            "<!doctype html><title>Application</title><p id=back>You are back<noscript>, without scripts</noscript>";
        let application = RecordingUpstream::scripted(move |exchange| {
            exchange.answer("200 OK", "Content-Type: text/html\r\n", page.as_bytes())
        });
        Some(Self { public: Public::start(), application, browser: Chromium::start(&program) })
    }

    fn callback(&self) -> String {
        format!("{}/callback", self.application.url())
    }

    fn authorize(&self, client: &str, more: &str) -> String {
        let parameters = encode(&[
            ("response_type", "code"),
            ("client_id", client),
            ("redirect_uri", &self.callback()),
            ("state", "s t+a&t\"e"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ]);
        format!("{}/oauth2/authorize?{parameters}{more}", self.public.issuer)
    }

    /// With the keyboard alone, as far as the next page.
    fn type_login(&mut self, user: &str, password: &str) {
        self.browser.wait_for("#username:focus");
        self.browser.follow(|browser| {
            browser.type_text(user);
            browser.press("Tab");
            browser.type_text(password);
            browser.press("Enter");
        });
    }

    /// What the application was sent by the browser, which must be there.
    fn arrived(&mut self) -> Callback {
        assert!(self.browser.has("#back"), "at {}: {}", self.browser.url(), self.browser.html());
        let requests = self.application.requests();
        let request = requests.iter().rfind(|request| request.target.starts_with("/callback")).unwrap();
        assert_eq!(request.header("Referer"), None, "L4: the application learns of no page before");
        let (base, query) = request.target.split_once('?').unwrap();
        Callback { base: base.to_owned(), query: query.to_owned() }
    }

    /// Light and dark, on a desk and in a hand; says when a page does not fit.
    fn photograph(&mut self, wrong: &mut Wrong, name: &str) {
        for (kind, width, height, phone) in [("desk", 1280, 900, false), ("phone", 360, 740, true)] {
            self.browser.size(width, height, phone);
            for dark in [false, true] {
                self.browser.dark(dark);
                let theme = if dark { "dark" } else { "light" };
                self.browser.screenshot(&format!("{name}-{kind}-{theme}"));
            }
            let content = self.browser.content();
            wrong.ok((name, kind, "fits in width"), content.0 <= f64::from(width), content);
        }
        self.browser.dark(false);
        self.browser.size(1280, 900, false);
        // It says of every answer of 400 and more that it failed.
        let mut complaints = self.browser.complaints();
        complaints.retain(|text| !text.contains("the server responded with a status of 40"));
        wrong.ok((name, "no complaints"), complaints.is_empty(), complaints);
    }
}

#[test]
fn l4_l5_l7_a_person_logs_in_and_comes_back() {
    let Some(mut scene) = Scene::start() else { return };
    let mut wrong = Wrong::default();
    let url = scene.authorize("native", "&scope=orders:read+offline_access");
    scene.browser.open(&url);
    scene.photograph(&mut wrong, "login");
    scene.type_login("alice", "wrong");
    wrong.ok("L3 says so", scene.browser.html().contains("wrong"), scene.browser.html());
    scene.photograph(&mut wrong, "login-failed");
    // The name is still there and the cursor in the password field.
    scene.browser.wait_for("#password:focus");
    scene.browser.follow(|browser| {
        browser.type_text(PASSWORD);
        browser.press("Enter");
    });
    wrong.ok("consent", scene.browser.has("button[value=allow]"), scene.browser.html());
    scene.photograph(&mut wrong, "consent");
    scene.browser.follow(|browser| browser.click("button[value=allow]"));
    // L4: the policy let the redirect through.
    let callback = scene.arrived();
    wrong.eq("A12", callback.get("state").as_deref(), Some("s t+a&t\"e"));
    wrong.eq("A16", callback.get("iss").as_deref(), Some(scene.public.issuer.as_str()));
    let code = callback.get("code").unwrap_or_default();
    let redirect = scene.callback();
    let form = code_form(&code, &[("client_id", "native"), ("redirect_uri", &redirect), ("code_verifier", VERIFIER)]);
    let answer = scene.public.send(&Req::post("/oauth2/token").form(&form));
    wrong.eq("the code is good", outcome(&answer).as_str(), "200");

    // L7 A27: the next time there is nothing to do.
    let url = scene.authorize("native", "&scope=orders:read+offline_access");
    scene.browser.open(&url);
    let again = scene.arrived();
    wrong.ok("L7", again.get("code").is_some_and(|next| next != code), &again);
    // Deny.
    let url = scene.authorize("long", "&scope=orders:read+orders:write&prompt=login");
    scene.browser.open(&url);
    scene.type_login("dave", PASSWORD);
    scene.photograph(&mut wrong, "consent-second-user");
    scene.browser.follow(|browser| browser.click("button[value=deny]"));
    wrong.eq("A18", scene.arrived().error().as_str(), "access_denied");
    // The cookies are what they should be, in the browser's own opinion.
    let issuer = scene.public.issuer.clone();
    scene.browser.open(&format!("{issuer}/oauth2/logout"));
    let mut names = Vec::new();
    for cookie in scene.browser.cookies() {
        names.push(cookie["name"].as_str().unwrap().to_owned());
        let attributes = (&cookie["secure"], &cookie["httpOnly"], &cookie["sameSite"], &cookie["path"]);
        wrong.ok("L2", format!("{attributes:?}").contains("Bool(true), Bool(true), String(\"Lax\")"), &cookie);
    }
    names.sort();
    wrong.eq("L2", names, ["__Host-tollgate-browser", "__Host-tollgate-session"]);
    scene.photograph(&mut wrong, "logout");
    scene.browser.follow(|browser| browser.click("button"));
    scene.photograph(&mut wrong, "logged-out");
    wrong.eq("L9", scene.browser.cookies().len(), 1);
    let url = scene.authorize("native", "");
    scene.browser.open(&url);
    wrong.ok("L9 the form again", scene.browser.has("input[type=password]"), scene.browser.html());
    wrong.done();
}

#[test]
fn l5_without_scripts() {
    let Some(mut scene) = Scene::start() else { return };
    let mut wrong = Wrong::default();
    scene.browser.without_scripts();
    let url = scene.authorize("native", "");
    scene.browser.open(&url);
    scene.browser.follow(|browser| {
        browser.fill("#username", "carol");
        browser.fill("#password", PASSWORD);
        browser.click("button[type=submit]");
    });
    wrong.ok("consent", scene.browser.has("button[value=allow]"), scene.browser.html());
    scene.browser.follow(|browser| browser.click("button[value=allow]"));
    wrong.ok("code", scene.arrived().get("code").is_some(), "none");
    wrong.ok("really without", scene.browser.html().contains("without scripts"), scene.browser.html());
    wrong.done();
}

#[test]
fn l6_pages_with_more_than_they_are_made_for() {
    let Some(mut scene) = Scene::start() else { return };
    let mut wrong = Wrong::default();
    let issuer = scene.public.issuer.clone();
    scene.browser.open(&format!("{issuer}/oauth2/authorize?client_id=nobody"));
    scene.photograph(&mut wrong, "error");
    let long = "https://scopes.example.com/warehouse/inventory.read.everything.of.all.sites";
    let hint = "an.address.that.is.longer.than.any.field@department-of-long-names.example.com";
    let more = encode(&[("scope", &format!("orders:read orders:write {long}")), ("login_hint", hint)]);
    let url = scene.authorize("long", &format!("&{more}"));
    scene.browser.open(&url);
    scene.photograph(&mut wrong, "login-long");
    // A narrow old phone, and letters twice as large.
    scene.browser.size(320, 568, true);
    scene.browser.screenshot("login-long-narrow");
    let content = scene.browser.content();
    wrong.ok("320 px", content.0 <= 320.0, content);
    scene.browser.size(640, 400, false);
    scene.browser.screenshot("login-long-low");
    wrong.ok("can be scrolled to its end", scene.browser.content().1 >= 400.0, scene.browser.content());
    let url = scene.authorize("long", &format!("&{}", encode(&[("scope", &format!("orders:read {long}"))])));
    scene.browser.size(1280, 900, false);
    scene.browser.open(&url);
    scene.type_login("dave", PASSWORD);
    scene.photograph(&mut wrong, "consent-long");
    wrong.done();
}
