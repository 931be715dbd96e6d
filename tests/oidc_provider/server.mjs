// An OpenID provider that Aura's authors did not write, for the tests: `oidc-provider`, which is
// certified by the OpenID Foundation, on a free port of 127.0.0.1.
//
//     ACCESS_TOKEN_SECONDS=3600 node server.mjs
//
// Standard output is one line of JSON when it answers, {issuer, control, client_id}; notices go to
// standard error. SIGTERM or SIGINT ends it. `control` is a second origin that the tests ask:
//
//     GET /calls?endpoint=token&grant=refresh_token&account=alice&status=200&count=1
//         the calls so far that match, oldest first; waits until there are `count` of them
//     GET /issued?account=alice&kind=refresh_token
//         the tokens that were issued, oldest first
//     GET /introspect?token=...
//         what the provider's introspection endpoint (RFC 7662) says of a token
//     PUT /access-token-seconds, body: a number
//         how long access tokens live that are issued from now on
import { once } from 'node:events';
import { Console } from 'node:console';
import { createServer } from 'node:http';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { text } from 'node:stream/consumers';

globalThis.console = new Console(process.stderr);
const { Provider } = await import('oidc-provider');

const CLIENT = 'aura-tests';
const INSPECTOR = { id: 'inspector', secret: randomBytes(32).toString('base64url') };
let accessTokenSeconds = Number(process.env.ACCESS_TOKEN_SECONDS ?? 3600);

const calls = [];
const issued = [];
let sayCalled;
let called;
renew();

function renew() {
  called = new Promise((resolve) => { sayCalled = resolve; });
}

function record(call) {
  calls.push(call);
  sayCalled();
  renew();
}

async function listen(server) {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${server.address().port}`;
}

// The port is part of the issuer, so the socket comes first and the provider behind it.
const front = createServer();
const issuer = await listen(front);
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: CLIENT,
      client_name: 'Aura',
      // RFC 8252 §7.3: a native application on loopback may listen on any port.
      application_type: 'native',
      redirect_uris: ['http://127.0.0.1/api/integrations/openid_example/callback'],
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      token_endpoint_auth_method: 'none',
    },
    {
      client_id: INSPECTOR.id,
      client_secret: INSPECTOR.secret,
      redirect_uris: [],
      grant_types: [],
      response_types: [],
    },
  ],
  pkce: { required: () => true },
  cookies: { keys: [randomBytes(32).toString('base64url')] },
  jwks: { keys: [privateKey.export({ format: 'jwk' })] },
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({
      sub: id, email: `${id}@example.com`, email_verified: true, name: `The user ${id}`,
    }),
  }),
  ttl: {
    AccessToken: () => accessTokenSeconds,
    AuthorizationCode: 60,
    Grant: 86400,
    IdToken: 3600,
    Interaction: 600,
    RefreshToken: 86400,
    Session: 86400,
  },
  features: {
    devInteractions: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
  },
});

provider.use(async (ctx, next) => {
  await next();
  const endpoint = ctx.oidc?.route;
  if (['token', 'revocation', 'userinfo'].includes(endpoint)) {
    const { Account, AccessToken, RefreshToken } = ctx.oidc.entities;
    record({
      endpoint,
      at: Date.now(),
      account: (Account ?? RefreshToken ?? AccessToken)?.accountId ?? null,
      grant: ctx.oidc.params?.grant_type ?? null,
      status: ctx.status,
      error: ctx.body?.error ?? null,
    });
  }
});
for (const kind of ['access_token', 'refresh_token']) {
  provider.on(`${kind}.saved`, ({ jti, accountId, expiration }) => {
    const now = Math.floor(Date.now() / 1000);
    issued.push({ kind, value: jti, account: accountId, expires_at: (now + expiration) * 1000 });
  });
}
provider.on('server_error', (ctx, error) => console.error(error));
front.on('request', provider.callback());

function matching(rows, { count, ...wanted }) {
  return rows.filter((row) => Object.entries(wanted).every(
    ([key, value]) => String(row[key]) === value,
  ));
}

async function matchingCalls(query) {
  let found = matching(calls, query);
  while (found.length < Number(query.count ?? 0)) {
    await called;
    found = matching(calls, query);
  }
  return found;
}

async function introspect(token) {
  const answer = await fetch(`${issuer}/token/introspection`, {
    method: 'POST',
    headers: {
      authorization: `Basic ${btoa(`${INSPECTOR.id}:${INSPECTOR.secret}`)}`,
    },
    body: new URLSearchParams({ token }),
  });
  return answer.json();
}

async function answer(request) {
  const { pathname, searchParams } = new URL(request.url, issuer);
  const query = Object.fromEntries(searchParams);
  switch (`${request.method} ${pathname}`) {
    case 'GET /calls':
      return matchingCalls(query);
    case 'GET /issued':
      return matching(issued, query);
    case 'GET /introspect':
      return introspect(query.token);
    case 'PUT /access-token-seconds':
      accessTokenSeconds = Number(await text(request));
      return accessTokenSeconds;
    default:
      return undefined;
  }
}

const back = createServer(async (request, response) => {
  const document = await answer(request);
  response.writeHead(document === undefined ? 404 : 200, { 'content-type': 'application/json' });
  response.end(JSON.stringify(document ?? null));
});
const control = await listen(back);

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.once(signal, () => {
    for (const server of [front, back]) {
      server.close();
      server.closeAllConnections();
    }
  });
}

process.stdout.write(`${JSON.stringify({ issuer, control, client_id: CLIENT })}\n`);
