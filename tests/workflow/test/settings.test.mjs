// callback.sh by hand, with settings that no patience mends, and with odd answers to what it asks first.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, before, beforeEach, describe, test } from 'node:test';

const SCRIPT = fileURLToPath(new URL('../../../.github/scripts/callback.sh', import.meta.url));
const SECRET = 'whsec_dGVzdC1zZWNyZXQtb25lLXRlc3Qtc2VjcmV0LW9uZQ==';
const ACCEPTED = '{"status": "provisioning"}';

let notes;
let server;
let url;
let requests;
/// What the server answers to `/token`, from which a job has its tokens.
let token;

before(async () => {
  notes = mkdtempSync(join(tmpdir(), 'callback-'));
  server = createServer(async (request, response) => {
    const body = (await request.toArray()).join('');
    requests.push({ path: request.url, body, authorization: request.headers.authorization });
    const { status, text } = request.url.startsWith('/token') ? token : { status: 200, text: ACCEPTED };
    response.writeHead(status, { 'content-type': 'application/json' }).end(text);
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  url = `http://127.0.0.1:${server.address().port}`;
});
beforeEach(() => {
  requests = [];
  token = { status: 200, text: '{"value": "a.b.c"}' };
});
after(() => {
  server?.close();
  rmSync(notes, { recursive: true, force: true });
});

/// Runs it; `undefined` takes a setting away.
async function callback(kind, settings = {}, stdin = '') {
  const environment = {
    PATH: process.env.PATH,
    PROVISION_ID: randomUUID(),
    PROVISION_NOTES: notes,
    GITHUB_RUN_ID: '7',
    GITHUB_RUN_ATTEMPT: '1',
    BACKSTOP_URL: url,
    BACKSTOP_CALLBACK_SECRET: SECRET,
    CALLBACK_SECONDS: '60',
    ...settings,
  };
  const env = Object.fromEntries(Object.entries(environment).filter(([, value]) => value !== undefined));
  const child = spawn(SCRIPT, [kind], { env });
  child.stdin.end(stdin);
  const [out, log, [code]] = await Promise.all([
    child.stdout.toArray(), child.stderr.toArray(), new Promise((end) => child.on('close', (...how) => end(how))),
  ]);
  return { code, out: out.join(''), log: log.join('') };
}

const TOKENS = {
  BACKSTOP_CALLBACK_SECRET: undefined,
  get ACTIONS_ID_TOKEN_REQUEST_URL() {
    return `${url}/token?v=1`;
  },
  ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'of-the-job',
};

describe('a setting that is wrong is said at once, and by its name', () => {
  for (const [name, settings, words] of [
    ['no address', { BACKSTOP_URL: undefined }, /BACKSTOP_URL is not set/],
    ['an empty address', { BACKSTOP_URL: '' }, /BACKSTOP_URL is not set/],
    ['an address with a line break', { BACKSTOP_URL: 'http://127.0.0.1:1\n' }, /BACKSTOP_URL has white space/],
    ['an address without scheme', { BACKSTOP_URL: '127.0.0.1:1' }, /BACKSTOP_URL must begin with https/],
    ['an address without host', { BACKSTOP_URL: 'https://' }, /BACKSTOP_URL must begin with https/],
    ['a job without id-token: write', { BACKSTOP_CALLBACK_SECRET: undefined }, /id-token: write/],
    ['an empty secret and no token', { BACKSTOP_CALLBACK_SECRET: '' }, /id-token: write/],
    ['a secret with a line break', { BACKSTOP_CALLBACK_SECRET: `${SECRET}\n` }, /BACKSTOP_CALLBACK_SECRET/],
    ['no run', { GITHUB_RUN_ID: '' }, /GITHUB_RUN_ID/],
  ]) {
    test(name, async () => {
      const { code, log } = await callback('started', settings);
      assert.equal(code, 3, log);
      assert.match(log, words);
      assert.doesNotMatch(log, /dGVzdC1/, 'no secret is in the log');
      assert.deepEqual(requests, []);
    });
  }

  test('fields that are no object', async () => {
    for (const fields of ['[]', '"text"', '{} {}', '{']) {
      const { code, log } = await callback('progress', {}, fields);
      assert.equal(code, 3, `${fields}: ${log}`);
    }
    assert.deepEqual(requests, []);
  });
});

test('no fields are as good as an empty object', async () => {
  const { code, out } = await callback('progress');
  assert.equal(code, 0);
  assert.deepEqual(JSON.parse(out), JSON.parse(ACCEPTED));
  assert.equal(JSON.parse(requests[0].body).type, 'progress');
});

test('the fields cannot say that they are another callback', async () => {
  await callback('progress', {}, '{"type": "success", "run_id": "8", "step": "vm_created"}');
  const { type, run_id, step } = JSON.parse(requests[0].body);
  assert.deepEqual({ type, run_id, step }, { type: 'progress', run_id: '7', step: 'vm_created' });
});

test('a job says which it is, also where a matrix runs it several times', async () => {
  await callback('progress', { GITHUB_JOB: 'provision', RUNNER_TRACKING_ID: 'github_1' });
  await callback('progress', { GITHUB_JOB: 'provision', RUNNER_TRACKING_ID: 'github_2' });
  await callback('progress', { GITHUB_JOB: 'provision', BACKSTOP_JOB: 'mine' });
  assert.deepEqual(
    requests.map(({ body }) => JSON.parse(body).job),
    ['provision github_1', 'provision github_2', 'mine'],
  );
});

describe('no callback is sent unproven', () => {
  for (const [name, answer] of [
    ['nothing at all', { status: 200, text: '' }],
    ['an error without a body', { status: 500, text: '' }],
    ['an error in JSON', { status: 400, text: '{"value": "a.b.c"}' }],
    ['a page', { status: 200, text: '<html>' }],
    ['no token', { status: 200, text: '{"value": ""}' }],
    ['null', { status: 200, text: '{"value": null}' }],
  ]) {
    test(`when the answer to the question for a token is ${name}`, async () => {
      token = answer;
      const { code, log } = await callback('started', { ...TOKENS, CALLBACK_SECONDS: '2' });
      assert.equal(code, 5, log);
      assert.ok(requests.length > 0);
      assert.deepEqual(requests.filter(({ path }) => !path.startsWith('/token')), []);
    });
  }

  test('but with the token that was given', async () => {
    const { code, log } = await callback('started', TOKENS);
    assert.equal(code, 0, log);
    assert.equal(requests.at(-1).authorization, 'Bearer a.b.c');
  });
});
