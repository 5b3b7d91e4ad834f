// The issuer of OIDC tokens, and the endpoint at which a job's steps ask for them.
//
// https://docs.github.com/en/actions/reference/security/oidc

import { createSign, generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';

const LIFETIME = 300;
/// A token is valid from before it was issued, for clocks that are behind.
const BEFORE = 600;

/// Starts an issuer on loopback.
export async function startIssuer() {
  const grants = new Map();
  const requests = [];
  let key = newKey();

  const sign = (claims, header = {}) => {
    const now = Math.floor(Date.now() / 1000);
    const times = { iat: now, nbf: now - BEFORE, exp: now + LIFETIME };
    const parts = [
      { alg: 'RS256', typ: 'JWT', kid: key.id, ...header },
      { jti: randomUUID(), iss: url, ...times, ...claims },
    ].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'));
    const signature = createSign('RSA-SHA256').update(parts.join('.')).sign(key.private);
    return [...parts, signature.toString('base64url')].join('.');
  };

  const answers = {
    '/.well-known/openid-configuration': () => ({
      issuer: url,
      jwks_uri: `${url}/.well-known/jwks`,
      subject_types_supported: ['public', 'pairwise'],
      response_types_supported: ['id_token'],
      id_token_signing_alg_values_supported: ['RS256'],
      scopes_supported: ['openid'],
    }),
    '/.well-known/jwks': () => ({ keys: [key.public] }),
  };

  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, url);
    requests.push({ method: request.method, path: request.url });
    const answer = (status, body) => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify(body));
    };
    if (answers[pathname]) return answer(200, answers[pathname]());
    if (pathname !== '/idtoken') return answer(404, { message: 'not found' });
    const claims = grants.get(/^bearer (.*)$/i.exec(request.headers.authorization ?? '')?.[1]);
    if (!claims) return answer(401, { message: 'the token is not that of a running job' });
    const audience = searchParams.get('audience') ?? claims.aud;
    return answer(200, { count: 1, value: sign({ ...claims, aud: audience }) });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${server.address().port}`;

  return {
    url,
    requests,
    /// A token with these claims beside `iss`, `iat`, `nbf`, `exp` and `jti`, which they may replace.
    sign,
    /// Signs with a new key; the old one is no longer published.
    rotate: () => {
      key = newKey();
    },
    /// Lets a job ask for tokens with these claims, until the grant is revoked.
    grant: (claims) => {
      const token = randomBytes(32).toString('hex');
      grants.set(token, claims);
      // As GitHub's own, it has a query already: an audience is added with `&`.
      return { url: `${url}/idtoken?api-version=2.0`, token, revoke: () => grants.delete(token) };
    },
    stop: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

function newKey() {
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const id = randomUUID();
  const jwk = publicKey.export({ format: 'jwk' });
  return { id, private: privateKey, public: { ...jwk, kid: id, alg: 'RS256', use: 'sig' } };
}
