//! A real browser, told what to do over its DevTools protocol: it types and clicks as a person does, and needs no script
//! in the pages for it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client::client_with_config};

/// A cold start on a busy machine takes a while.
const PATIENCE: Duration = Duration::from_secs(40);

pub struct Chromium {
    child: Child,
    socket: WebSocket<TcpStream>,
    session: Option<String>,
    next: u64,
    events: VecDeque<Value>,
    _profile: TempDir,
}

impl Chromium {
    /// With an empty profile and one blank page.
    pub fn start(program: &Path) -> Self {
        let profile = TempDir::new().unwrap();
        let mut child = Command::new(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-dev-shm-usage",
                "--ignore-certificate-errors",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut seen = String::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let url = lines.by_ref().find_map(|line| {
            seen += &format!("{line}\n");
            line.strip_prefix("DevTools listening on ").map(str::to_owned)
        });
        let url = url.unwrap_or_else(|| panic!("no DevTools: {seen}"));
        // It goes on complaining about things a machine without a desktop lacks.
        std::thread::spawn(move || lines.for_each(drop));
        let address = url.trim_start_matches("ws://").split('/').next().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let limits = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let (socket, _) = client_with_config(url.as_str(), stream, Some(limits)).unwrap();
        let mut browser = Self { child, socket, session: None, next: 0, events: VecDeque::new(), _profile: profile };
        browser.open_page();
        browser
    }

    /// A page with cookies of its own.
    pub fn open_page(&mut self) {
        self.session = None;
        let context = self.call("Target.createBrowserContext", &json!({}))["browserContextId"].clone();
        let page = json!({"url": "about:blank", "browserContextId": context});
        let target = self.call("Target.createTarget", &page)["targetId"].clone();
        let attached = self.call("Target.attachToTarget", &json!({"targetId": target, "flatten": true}));
        self.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "DOM", "Log", "Network", "Runtime"] {
            self.call(&format!("{domain}.enable"), &json!({}));
        }
        self.size(1280, 900, false);
    }

    pub fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.socket.send(Message::text(message.to_string())).unwrap();
        loop {
            let message = self.receive();
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method} {parameters}: {message}");
                return message["result"].clone();
            }
            self.events.push_back(message);
        }
    }

    fn receive(&mut self) -> Value {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return serde_json::from_str(&text).unwrap(),
                Ok(_) => {}
                Err(e) => panic!("{e}: Chromium says nothing more; so far {:#?}", self.events),
            }
        }
    }

    fn wait_event(&mut self, method: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.events.iter().position(|event| event["method"] == method) {
                return self.events.remove(at).unwrap();
            }
            assert!(Instant::now() < deadline, "no {method} in {:#?}", self.events);
            let event = self.receive();
            self.events.push_back(event);
        }
    }

    pub fn size(&mut self, width: u32, height: u32, phone: bool) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": if phone { 2 } else { 1 }, "mobile": phone});
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
    }

    pub fn dark(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.call("Emulation.setEmulatedMedia", &features);
    }

    pub fn without_scripts(&mut self) {
        self.call("Emulation.setScriptExecutionDisabled", &json!({"value": true}));
    }

    /// Opens a page and waits until it is there.
    pub fn open(&mut self, url: &str) {
        self.events.clear();
        let done = self.call("Page.navigate", &json!({"url": url}));
        assert!(done.get("errorText").is_none(), "{url}: {done}");
        self.wait_event("Page.loadEventFired");
    }

    /// The page's own address.
    pub fn url(&mut self) -> String {
        let history = self.call("Page.getNavigationHistory", &json!({}));
        let at = history["currentIndex"].as_u64().unwrap() as usize;
        history["entries"][at]["url"].as_str().unwrap().to_owned()
    }

    fn node(&mut self, selector: &str) -> Option<Value> {
        let root = self.call("DOM.getDocument", &json!({}))["root"]["nodeId"].clone();
        let found = self.call("DOM.querySelector", &json!({"nodeId": root, "selector": selector}))["nodeId"].clone();
        (found != 0).then_some(found)
    }

    pub fn has(&mut self, selector: &str) -> bool {
        self.node(selector).is_some()
    }

    /// Waits until an element is there, or has the cursor: a page puts that where it belongs a moment after it has loaded.
    pub fn wait_for(&mut self, selector: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.has(selector) {
            assert!(Instant::now() < deadline, "no {selector} in {}", self.html());
        }
    }

    fn must(&mut self, selector: &str) -> Value {
        match self.node(selector) {
            Some(node) => node,
            None => panic!("no {selector} at {} in {}", self.url(), self.html()),
        }
    }

    pub fn html(&mut self) -> String {
        let root = self.call("DOM.getDocument", &json!({}))["root"]["nodeId"].clone();
        self.call("DOM.getOuterHTML", &json!({"nodeId": root}))["outerHTML"].as_str().unwrap().to_owned()
    }

    /// Types where the cursor is.
    pub fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", &json!({"text": text}));
    }

    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            other => panic!("which key is {other}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    /// Clicks in the middle of an element.
    pub fn click(&mut self, selector: &str) {
        let node = self.must(selector);
        self.call("DOM.scrollIntoViewIfNeeded", &json!({"nodeId": node}));
        let quad = self.call("DOM.getBoxModel", &json!({"nodeId": node}))["model"]["content"].clone();
        let corner = |at: usize| quad[at].as_f64().unwrap();
        let (x, y) = ((corner(0) + corner(4)) / 2.0, (corner(1) + corner(5)) / 2.0);
        for kind in ["mousePressed", "mouseReleased"] {
            self.call(
                "Input.dispatchMouseEvent",
                &json!({"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}),
            );
        }
    }

    pub fn fill(&mut self, selector: &str, text: &str) {
        self.click(selector);
        self.type_text(text);
    }

    /// Does something that leads to another page, and waits until that is there.
    pub fn follow(&mut self, act: impl FnOnce(&mut Self)) {
        self.events.clear();
        act(self);
        self.wait_event("Page.loadEventFired");
    }

    /// The width and the height of what the page holds, in CSS pixels.
    pub fn content(&mut self) -> (f64, f64) {
        let size = self.call("Page.getLayoutMetrics", &json!({}))["cssContentSize"].clone();
        (size["width"].as_f64().unwrap(), size["height"].as_f64().unwrap())
    }

    /// What the browser complained about since the page was asked for.
    pub fn complaints(&mut self) -> Vec<String> {
        self.call("Page.getNavigationHistory", &json!({}));
        let wanted = ["Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Network.loadingFailed"];
        let found = self.events.iter().filter(|event| wanted.iter().any(|name| event["method"] == *name));
        found.map(Value::to_string).collect()
    }

    pub fn cookies(&mut self) -> Vec<Value> {
        self.call("Network.getCookies", &json!({}))["cookies"].as_array().unwrap().clone()
    }

    /// Saved as `target/screenshots/NAME.png`.
    pub fn screenshot(&mut self, name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let data = self.call("Page.captureScreenshot", &json!({"format": "png"}))["data"].clone();
        let file = folder.join(format!("{name}.png"));
        std::fs::write(&file, STANDARD.decode(data.as_str().unwrap()).unwrap()).unwrap();
        file
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Its helper processes end with the browser, which ends when told to.
        let _ = self.socket.send(Message::text(json!({"id": 0, "method": "Browser.close"}).to_string()));
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
