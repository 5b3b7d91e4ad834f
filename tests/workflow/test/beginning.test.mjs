import assert from 'node:assert/strict';
import { createPublicKey, verify } from 'node:crypto';
import { after, before, test } from 'node:test';

import { checkout, createRun, loadWorkflow, startIssuer } from '../runner/index.mjs';
import { runSample } from '../samples.mjs';

const workflow = await loadWorkflow('tests/workflow/samples/inputs.yml');
const refused = (inputs, message, more = {}) =>
  assert.throws(() => createRun(workflow, { inputs, ...more }), { name: 'WorkflowError', message });

test('inputs that are missing, unknown or of the wrong type are refused', () => {
  refused({}, /agent is required/);
  refused({ agent: 'a', other: 'b' }, /unexpected inputs: other/);
  refused({ agent: 'a', dry: 'maybe' }, /'maybe' is not boolean/);
  refused({ agent: 'a', size: 'big' }, /'big' is not number/);
  refused({ agent: 'a', region: 'hel1' }, /'hel1' is not fsn1,nbg1/);
});

test('inputs have their types and defaults; in the event of a dispatch they are texts', async () => {
  const { jobs } = await runSample('inputs', { inputs: { agent: 'web-1', dry: 'true' } });
  const { inputs, event, file } = jobs.looks.steps.looks.outputs;
  assert.deepEqual(JSON.parse(inputs), { agent: 'web-1', region: 'fsn1', dry: true, size: 2 });
  assert.deepEqual(JSON.parse(event), { agent: 'web-1', region: 'fsn1', dry: 'true', size: '2' });
  const path = 'tests/workflow/samples/inputs.yml';
  assert.equal(file, `acme/agents/${path}@refs/heads/main ${path}`);
});

test('a called workflow takes inputs and secrets of its caller, and gives it outputs', async () => {
  refused({ agent: 'a' }, /secret TOKEN is required/, { event: 'workflow_call' });
  const { jobs, outputs } = await runSample('inputs', {
    event: 'workflow_call',
    inputs: { agent: 'web-1' },
    secrets: { TOKEN: 'x' },
  });
  assert.deepEqual(JSON.parse(jobs.looks.steps.looks.outputs.inputs), { agent: 'web-1' });
  assert.deepEqual(outputs, { seen: 'web-1' });
});

test('concurrency is recorded', async () => {
  const result = await runSample('inputs', { inputs: { agent: 'web-1' } });
  assert.equal(result.concurrency, 'agent-web-1');
  assert.equal(result.jobs.looks.concurrency, 'job-web-1');
});

test('an action is its stand-in; that of checkout brings the repository’s files', async () => {
  const { jobs } = await runSample('actions', {
    github: { run_id: 77 },
    actions: {
      'actions/checkout': checkout(),
      'acme/speaks': async ({ inputs, setOutput }) => setOutput('word', `${inputs.word}!`),
    },
  });
  assert.equal(jobs.uses.steps.finds.outputs.package, '"backstop"');
  assert.equal(jobs.uses.steps.hears.outputs.word, '77!');
});

test('a stand-in that throws fails its step', async () => {
  const { jobs } = await runSample('actions', {
    actions: {
      'actions/checkout': async () => {
        throw new Error('no such repository');
      },
      'acme/speaks': async () => {},
    },
  });
  assert.equal(jobs.uses.steps.__actions_checkout.outcome, 'failure');
  assert.match(jobs.uses.log, /##\[error\]no such repository/);
});

let issuer;
before(async () => {
  issuer = await startIssuer();
});
after(() => issuer.stop());

test('a job with the permission gets a token that proves its run, by the published key', async () => {
  const { jobs } = await runSample('token', { issuer, github: { run_id: 42, run_attempt: 3 } });
  const { value } = JSON.parse(jobs.may.steps.asks.outputs.answer);
  const [head, body, signature] = value.split('.');
  const parse = (part) => JSON.parse(Buffer.from(part, 'base64url'));

  const get = async (url) => (await fetch(url)).json();
  const { jwks_uri: jwks, issuer: name } = await get(
    `${issuer.url}/.well-known/openid-configuration`,
  );
  const jwk = (await get(jwks)).keys.find(({ kid }) => kid === parse(head).kid);
  const key = createPublicKey({ key: jwk, format: 'jwk' });
  const signed = Buffer.from(`${head}.${body}`);
  assert.ok(verify('RSA-SHA256', signed, key, Buffer.from(signature, 'base64url')));

  const claims = parse(body);
  assert.equal(claims.iss, name);
  assert.equal(claims.aud, 'https://backstop.example');
  assert.equal(claims.run_id, '42');
  assert.equal(claims.run_attempt, '3');
  assert.equal(claims.repository, 'acme/agents');
  assert.equal(claims.event_name, 'workflow_dispatch');
  const file = 'acme/agents/tests/workflow/samples/token.yml@refs/heads/main';
  assert.equal(claims.workflow_ref, file);
  assert.equal(claims.job_workflow_ref, file);
  assert.equal(claims.exp - claims.iat, 300);
});

test('a job without the permission, and one that is over, gets none', async () => {
  const { jobs } = await runSample('token', { issuer });
  assert.equal(jobs.may_not.steps.looks.outputs.url, 'unset');
  const { url, token } = jobs.may.steps.asks.outputs;
  const ask = (bearer) => fetch(url, { headers: { authorization: `bearer ${bearer}` } });
  assert.equal((await ask(token)).status, 401);
  assert.equal((await ask('made-up')).status, 401);
  assert.ok(!jobs.may.log.includes(token));
});

test('without an issuer a job with the permission is refused', async () => {
  await assert.rejects(runSample('token'), /there is no issuer/);
});
