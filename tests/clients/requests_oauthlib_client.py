"""requests-oauthlib through the grants it knows."""

import requests
from oauthlib.oauth2 import BackendApplicationClient, InvalidGrantError, LegacyApplicationClient
from requests_oauthlib import OAuth2Session

from scene import API, CA, PASSWORD, REDIRECT, SECRET, USER, call, check, metadata, person

server = metadata()
token_url = server["token_endpoint"]

# oauthlib fails when `scope` in the answer is not what was asked for.
legacy = OAuth2Session(client=LegacyApplicationClient("legacy", scope=["orders:read", "offline_access"]))
token = legacy.fetch_token(
    token_url, username=USER, password=PASSWORD, client_id="legacy", client_secret=SECRET, verify=CA
)
check("password", token["expires_in"], 3600)
check("gateway", legacy.get(API, verify=CA).status_code, 200)
fresh = legacy.refresh_token(token_url, verify=CA, auth=requests.auth.HTTPBasicAuth("legacy", SECRET))
check("refresh", fresh["refresh_token"] != token["refresh_token"], True)
check("gateway", legacy.get(API, verify=CA).status_code, 200)
try:
    legacy.fetch_token(
        token_url, username=USER, password="wrong", client_id="legacy", client_secret=SECRET, verify=CA
    )
    raise SystemExit("a wrong password gave a token")
except InvalidGrantError as error:
    check("wrong password", error.error, "invalid_grant")

for client, secret in [("web", SECRET), ("native", None)]:
    session = OAuth2Session(client, redirect_uri=REDIRECT, scope=["orders:read", "offline_access"], pkce="S256")
    url, state = session.authorization_url(server["authorization_endpoint"])
    back = person(url)
    more = {"client_secret": secret} if secret else {"include_client_id": True}
    # oauthlib wants https wherever it is called back.
    token = session.fetch_token(
        token_url, authorization_response=back.replace("http://127.0.0.1", "https://127.0.0.1"), verify=CA, **more
    )
    check(f"code, {client}", session.get(API, verify=CA).status_code, 200)
    more = {"client_id": client} if secret is None else {"auth": requests.auth.HTTPBasicAuth(client, secret)}
    token = session.refresh_token(token_url, verify=CA, **more)
    check(f"refresh, {client}", call(token["access_token"]), 200)

machine = OAuth2Session(client=BackendApplicationClient("machine", scope=["orders:read"]))
token = machine.fetch_token(token_url, client_id="machine", client_secret=SECRET, verify=CA)
check("client_credentials", machine.get(API, verify=CA).status_code, 200)
