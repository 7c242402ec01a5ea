// An authorization server that others wrote: oidc-provider, on the port and with the keys that SCENE names. What it issues
// is kept in memory. It ends when its standard input does, so never later than the test that started it.
import { createPrivateKey, webcrypto } from 'node:crypto';

// What Node.js 18 has not.
globalThis.crypto ??= webcrypto;
URL.parse ??= (text, base) => (URL.canParse(text, base) ? new URL(text, base) : null);
const { Provider } = await import('oidc-provider');

const { port, keys, secret, redirect_uri } = JSON.parse(process.env.SCENE);

const jwk = ({ kid, alg, pkcs8 }) => {
  const key = createPrivateKey({ key: Buffer.from(pkcs8, 'base64url'), format: 'der', type: 'pkcs8' });
  return { ...key.export({ format: 'jwk' }), kid, alg, use: 'sig' };
};
const client = (client_id, grant_types, more) =>
  ({ client_id, client_secret: secret, grant_types, redirect_uris: [], response_types: [], ...more });
const scopes = ['orders:read', 'orders:write'];

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    client('machine', ['client_credentials']),
    client('web', ['authorization_code', 'refresh_token'], { redirect_uris: [redirect_uri], response_types: ['code'] }),
    client('tollgate', []),
  ],
  clientDefaults: { id_token_signed_response_alg: keys[0].alg },
  cookies: { keys: ['only for tests'] },
  jwks: { keys: keys.map(jwk) },
  scopes: ['openid', 'offline_access', ...scopes],
  findAccount: (ctx, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
  // Whoever is logged in has agreed to everything.
  async loadExistingGrant({ oidc: { client, params, session } }) {
    const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope(params.scope);
    for (const resource of [params.resource ?? []].flat()) grant.addResourceScope(resource, params.scope);
    await grant.save();
    return grant;
  },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true, allowedPolicy: (ctx, { clientId }) => clientId === 'tollgate' },
    resourceIndicators: {
      enabled: true,
      // Its tokens are JWTs, or say nothing if asked for as RESOURCE/opaque; the audience is RESOURCE either way.
      getResourceServerInfo: (ctx, resource) => ({
        audience: resource.replace(/\/opaque$/, ''),
        accessTokenFormat: resource.endsWith('/opaque') ? 'opaque' : 'jwt',
        accessTokenTTL: 600,
        scope: scopes.join(' '),
      }),
    },
    revocation: { enabled: true },
  },
  interactions: { url: (ctx, { uid }) => `/interaction/${uid}` },
});
provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith('/interaction/')) return next();
  return provider.interactionFinished(ctx.req, ctx.res, { login: { accountId: 'alice' }, consent: {} });
});

provider.listen(port, '127.0.0.1');
process.stdin.on('end', () => process.exit()).resume();
