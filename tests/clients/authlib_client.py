"""Authlib, over requests and over httpx, through every flow."""

from authlib.integrations.httpx_client import OAuth2Client
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import ECKey

from scene import CA, ISSUER, PASSWORD, REDIRECT, SCENE, SECRET, USER, call, check, metadata, parameters, person

server = metadata()
check("issuer", server["issuer"], ISSUER)


def session(client, scope, **more):
    made = OAuth2Session(client, SECRET, scope=scope, **more)
    made.verify = CA
    return made


for method in ["client_secret_basic", "client_secret_post"]:
    legacy = session("legacy", "orders:read offline_access", token_endpoint_auth_method=method)
    token = legacy.fetch_token(server["token_endpoint"], username=USER, password=PASSWORD, grant_type="password")
    check(f"password, {method}", (token["token_type"], token["scope"]), ("Bearer", "orders:read offline_access"))
    check("gateway", call(token["access_token"]), 200)

fresh = legacy.refresh_token(server["token_endpoint"], token["refresh_token"])
check("refresh", fresh["refresh_token"] != token["refresh_token"], True)
check("gateway", call(fresh["access_token"]), 200)
facts = legacy.introspect_token(server["introspection_endpoint"], token=fresh["access_token"]).json()
check("introspect", (facts["active"], facts["username"]), (True, USER))
answer = legacy.revoke_token(server["revocation_endpoint"], token=fresh["refresh_token"])
check("revoke", answer.status_code, 200)
check("gateway", call(fresh["access_token"]), 401)
facts = legacy.introspect_token(server["introspection_endpoint"], token=fresh["access_token"]).json()
check("introspect", facts, {"active": False})

web = session("web", "orders:read offline_access", redirect_uri=REDIRECT, code_challenge_method="S256")
verifier = "v" * 43
url, state = web.create_authorization_url(server["authorization_endpoint"], code_verifier=verifier)
back = person(url)
check("iss", parameters(back)["iss"], ISSUER)
token = web.fetch_token(
    server["token_endpoint"], authorization_response=back, state=state, code_verifier=verifier
)
check("code", token["scope"], "orders:read offline_access")
check("gateway", call(token["access_token"]), 200)
token = web.refresh_token(server["token_endpoint"], token["refresh_token"])
check("refresh", call(token["access_token"]), 200)

native = OAuth2Client(
    "native", scope="orders:read", redirect_uri=REDIRECT, code_challenge_method="S256",
    token_endpoint_auth_method="none", verify=CA,
)
url, state = native.create_authorization_url(server["authorization_endpoint"], code_verifier=verifier)
token = native.fetch_token(
    server["token_endpoint"], authorization_response=person(url), state=state, code_verifier=verifier
)
check("public client over httpx", call(token["access_token"]), 200)

machine = OAuth2Client("machine", SECRET, scope="orders:read", verify=CA)
token = machine.fetch_token(server["token_endpoint"], grant_type="client_credentials")
check("client_credentials over httpx", call(token["access_token"]), 200)

signed = OAuth2Session(
    "signed", ECKey.import_key(SCENE["private_key"]), scope="orders:read",
    token_endpoint_auth_method=PrivateKeyJWT(server["token_endpoint"], alg="ES256", headers={"kid": "k1"}),
)
signed.verify = CA
for _ in range(2):
    token = signed.fetch_token(server["token_endpoint"], grant_type="client_credentials")
    check("private_key_jwt", call(token["access_token"]), 200)
