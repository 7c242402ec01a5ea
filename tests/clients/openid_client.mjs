// openid-client (which is oauth4webapi underneath) through every flow. It checks more of the answers than most do: `iss`,
// `state`, the issuer of the metadata, challenges, content types and Cache-Control.
import assert from 'node:assert/strict';
import { webcrypto } from 'node:crypto';


globalThis.crypto ??= webcrypto;
const client = await import('openid-client');

const scene = JSON.parse(process.env.SCENE);
const { issuer, secret, user, password, redirect_uri } = scene;

const options = { execute: [], algorithm: 'oauth2' };
const discover = (id, auth) => client.discovery(new URL(issuer), id, undefined, auth, options);
const call = async (token) =>
  (await fetch(`${issuer}/orders/7`, { headers: { authorization: `Bearer ${token}` } })).status;
const check = (what, got, expected) => {
  assert.deepEqual(got, expected, what);
  console.log(`${what}: ${JSON.stringify(expected)}`);
};

// A browser with cookies and somebody at it.
async function person(url) {
  const jar = new Map();
  const visit = async (target, form) => {
    const headers = { cookie: [...jar].map((pair) => pair.join('=')).join('; ') };
    const body = form && new URLSearchParams(form);
    const answer = await fetch(target, { method: form ? 'POST' : 'GET', headers, body, redirect: 'manual' });
    for (const line of answer.headers.getSetCookie()) {
      const [name, ...rest] = line.split(';')[0].split('=');
      jar.set(name, rest.join('='));
    }
    return answer;
  };
  const unescape = (text) =>
    text.replaceAll('&quot;', '"').replaceAll('&#x27;', "'").replaceAll('&#x2f;', '/').replaceAll('&lt;', '<')
      .replaceAll('&gt;', '>').replaceAll('&amp;', '&');
  const attribute = (tag, name) => unescape(tag.match(new RegExp(` ${name}="([^"]*)"`))?.[1] ?? '');
  let [at, answer] = [url, await visit(url)];
  for (let step = 0; step < 6; step += 1) {
    const location = answer.headers.get('location');
    if (location) {
      at = new URL(location, at);
      if (!at.href.startsWith(issuer)) return at;
      answer = await visit(at);
      continue;
    }
    const html = await answer.text();
    assert.equal(answer.status, 200, html);
    const form = {};
    for (const [tag] of html.matchAll(/<input [^>]*>/g)) form[attribute(tag, 'name')] = attribute(tag, 'value');
    if ('password' in form) Object.assign(form, { username: user, password });
    if (html.includes('value="allow"')) form.decision = 'allow';
    at = new URL(attribute(html.match(/<form [^>]*>/)[0], 'action'), at);
    answer = await visit(at, form);
  }
  throw new Error('never called back');
}

for (const [id, auth] of [
  ['web', client.ClientSecretBasic(secret)],
  ['web', client.ClientSecretPost(secret)],
  ['native', client.None()],
]) {
  const config = await discover(id, auth);
  check('iss is promised', config.serverMetadata().authorization_response_iss_parameter_supported, true);
  const pkceCodeVerifier = client.randomPKCECodeVerifier();
  const expectedState = client.randomState();
  const url = client.buildAuthorizationUrl(config, {
    redirect_uri,
    scope: 'orders:read offline_access',
    code_challenge: await client.calculatePKCECodeChallenge(pkceCodeVerifier),
    code_challenge_method: 'S256',
    state: expectedState,
  });
  const back = await person(url);
  const tokens = await client.authorizationCodeGrant(config, back, { pkceCodeVerifier, expectedState });
  check(`code, ${id}`, tokens.scope, 'orders:read offline_access');
  check('gateway', await call(tokens.access_token), 200);
  const fresh = await client.refreshTokenGrant(config, tokens.refresh_token);
  check('refresh', fresh.refresh_token !== tokens.refresh_token, true);
  check('gateway', await call(fresh.access_token), 200);
  await client.tokenRevocation(config, fresh.refresh_token);
  check('revoked', await call(fresh.access_token), 401);
  // A second use is an error it understands.
  await assert.rejects(client.authorizationCodeGrant(config, back, { pkceCodeVerifier, expectedState }), (error) => {
    check('replay', [error.error, error.status], ['invalid_grant', 400]);
    return true;
  });
}

const legacy = await discover('legacy', client.ClientSecretBasic(secret));
const tokens = await client.genericGrantRequest(legacy, 'password', { username: user, password, scope: 'orders:read' });
check('password', await call(tokens.access_token), 200);
const facts = await client.tokenIntrospection(legacy, tokens.access_token);
check('introspect', [facts.active, facts.username], [true, user]);
await client.tokenRevocation(legacy, tokens.access_token);
check('revoked', await client.tokenIntrospection(legacy, tokens.access_token), { active: false });

const machine = await discover('machine', client.ClientSecretBasic(secret));
const own = await client.clientCredentialsGrant(machine, { scope: 'orders:read' });
check('client_credentials', await call(own.access_token), 200);

const pem = scene.private_key.replaceAll(/-----[^-]+-----|\s/g, '');
const key = await crypto.subtle.importKey(
  'pkcs8', Buffer.from(pem, 'base64'), { name: 'ECDSA', namedCurve: 'P-256' }, false, ['sign']);
const signed = await discover('signed', client.PrivateKeyJwt({ key, kid: 'k1' }));
for (let n = 0; n < 2; n += 1) {
  const answer = await client.clientCredentialsGrant(signed, { scope: 'orders:read' });
  check('private_key_jwt', await call(answer.access_token), 200);
}

const bad = await discover('machine', client.ClientSecretBasic('wrong'));
await assert.rejects(client.clientCredentialsGrant(bad), (error) => {
  // It reads the challenge of a 401, not the body.
  check('wrong secret', [error.name, error.status], ['WWWAuthenticateChallengeError', 401]);
  check('challenge', error.cause[0].parameters.error, 'invalid_client');
  return true;
});
