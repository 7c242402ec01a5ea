"""What the scripts share: the scene they are told of, and a person who fills in forms."""

import html.parser
import json
import os
import sys
from urllib.parse import parse_qsl, urljoin, urlsplit

import requests

SCENE = json.loads(os.environ["SCENE"])
ISSUER, CA, SECRET = SCENE["issuer"], SCENE["ca"], SCENE["secret"]
USER, PASSWORD, REDIRECT = SCENE["user"], SCENE["password"], SCENE["redirect_uri"]
API = ISSUER + "/orders/7"


class Page(html.parser.HTMLParser):
    """The only form of a page."""

    def __init__(self, text):
        super().__init__()
        self.action, self.fields, self.buttons = None, {}, {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "form":
            assert self.action is None and attrs["method"] == "post", "one form that is posted"
            self.action = attrs["action"]
        elif tag == "input":
            self.fields[attrs["name"]] = attrs.get("value", "")
        elif tag == "button" and "name" in attrs:
            self.buttons[attrs["value"]] = attrs["name"]


def metadata():
    return requests.get(ISSUER + "/.well-known/oauth-authorization-server", verify=CA, timeout=20).json()


def person(url):
    """Opens an authorization URL as somebody with a browser would; the URL at which the application is called back."""
    browser = requests.Session()
    browser.verify = CA
    answer = browser.get(url, allow_redirects=False, timeout=20)
    for _ in range(6):
        if answer.is_redirect:
            url = urljoin(answer.url, answer.headers["Location"])
            if not url.startswith(ISSUER):
                return url
            answer = browser.get(url, allow_redirects=False, timeout=20)
            continue
        answer.raise_for_status()
        page = Page(answer.text)
        fields = dict(page.fields)
        if "password" in fields:
            fields.update(username=USER, password=PASSWORD)
        if "allow" in page.buttons:
            fields[page.buttons["allow"]] = "allow"
        answer = browser.post(urljoin(answer.url, page.action), data=fields, allow_redirects=False, timeout=20)
    raise AssertionError("never called back")


def parameters(url):
    return dict(parse_qsl(urlsplit(url).query))


def call(token):
    """The status that the gateway gives a token."""
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(API, headers=headers, verify=CA, timeout=20).status_code


def check(what, got, expected):
    if got != expected:
        sys.exit(f"{what}: got {got!r}, expected {expected!r}")
    print(f"{what}: {expected!r}")
