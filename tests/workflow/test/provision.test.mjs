// What provision-agent.yml promises beside the matrix: what a success leaves, what lost answers do, who
// may touch what, and what its callbacks prove.

import assert from 'node:assert/strict';
import { createPublicKey, verify } from 'node:crypto';
import { after, before, describe, test } from 'node:test';

import { startStage } from '../stage.mjs';
import { waitFor } from '../world/wait.mjs';

const CALLBACK = (kind) => ({ method: 'POST', path: new RegExp(`/callbacks/${kind}$`) });
const CREATE = { method: 'POST', path: /\/servers$/ };
const MINT = { method: 'POST', path: /\/keys$/ };

let stage;
before(async () => {
  stage = await startStage();
});
after(() => stage?.stop());

const play = (...how) => stage.play(...how);

const sent = ({ vendors }, { method, path }) =>
  vendors.requests.filter((it) => it.method === method && path.test(it.path));

describe('a run', { concurrency: 4 }, () => {
  for (const event of ['workflow_dispatch', 'workflow_call']) {
    test(`by ${event} leaves one server and one device that are in use, and no usable key`, () =>
      play({ event }, async (scenario, result) => {
        assert.equal(result.conclusion, 'success');
        const provision = await stage.assertInUse(scenario);
        assert.equal(provision.step, 'configuring');
        assert.equal(result.jobs.afterwards.result, 'skipped');
        assert.equal(result.jobs.provision.outputs.server_id, provision.server_id);
        assert.match(result.summary, new RegExp(provision.server_name));
      }));
  }

  for (const kind of ['started', 'progress', 'success']) {
    test(`outlasts a while in which ${kind} meets a closed door`, () =>
      play(
        {},
        async (scenario, result) => {
          assert.equal(result.conclusion, 'success');
          await stage.assertInUse(scenario);
        },
        ({ backstop }) => {
          let fell = false;
          backstop.on(CALLBACK(kind), 'before', () => {
            if (!fell) backstop.reset(1500);
            fell = true;
          });
        },
      ));
  }

  test('whose answer to the creation is lost finds its server by name and makes no second one', () =>
    play(
      {},
      async (scenario, result) => {
        assert.equal(result.conclusion, 'success');
        await stage.assertInUse(scenario);
        assert.equal(sent(scenario, CREATE).length, 1);
      },
      ({ vendors }) => vendors.drop({ ...CREATE, nth: 1 }),
    ));

  test('whose creation failed on its way tries again', () =>
    play(
      {},
      async (scenario, result) => {
        assert.equal(result.conclusion, 'success');
        await stage.assertInUse(scenario);
        assert.equal(sent(scenario, CREATE).length, 2);
      },
      ({ vendors }) => vendors.fail({ ...CREATE, nth: 1, status: 502 }),
    ));

  test('that is refused a server says what the vendor said', () =>
    play({ inputs: { server_type: 'no-such-type' } }, async (scenario, result) => {
      assert.equal(result.conclusion, 'failure');
      const provision = await stage.assertGone(scenario, 'failure');
      assert.equal(provision.failed_step, 'create-server');
      assert.match(provision.error, /422 invalid_input/);
    }));

  test('whose minted key was not answered revokes it and mints another', () =>
    play(
      {},
      async (scenario, result) => {
        assert.equal(result.conclusion, 'success');
        await stage.assertInUse(scenario);
        assert.equal(sent(scenario, MINT).length, 2);
      },
      ({ vendors }) => vendors.drop({ ...MINT, nth: 1 }),
    ));

  test('whose runner dies while the server is being created leaves nothing', () =>
    play(
      {},
      (scenario) => stage.assertGone(scenario, 'failure'),
      ({ vendors }, run) => vendors.on(CREATE, 'after', () => run.killRunner('provision')),
    ));

  test('cleans up by itself and says so, before backstop looks', () =>
    play({ faults: { configure: { before: 'fail' } } }, async (scenario, result) => {
      assert.equal(result.jobs.provision.steps['clean-up'].outputs.verdict, 'cleaned');
      const { rollback, failed_step } = await stage.assertGone(scenario, 'failure');
      assert.equal(failed_step, 'configure');
      const proofs = rollback.steps.filter((it) => it.vendor_id).map((it) => it.proof);
      assert.deepEqual(new Set(proofs), new Set(['already_gone']));
      assert.match(result.summary, /server \d+: deleted/);
      assert.match(result.summary, /\| 1 \| server \| \d+ \| gone \| already_gone \|/);
    }));

  for (const [step, fault] of [
    ['clean-up', 'before'], ['clean-up', 'after'], ['report-failure', 'before'], ['report-failure', 'after'],
  ]) {
    test(`that fails, and fails ${fault} its ${step}, leaves nothing`, () =>
      play(
        { faults: { configure: { after: 'fail' }, [`provision/${step}`]: { [fault]: 'fail' } } },
        (scenario) => stage.assertGone(scenario, 'failure'),
      ));
  }

  test('that loses its runner while it cleans up leaves nothing', () =>
    play(
      { faults: { configure: { after: 'fail' } } },
      (scenario) => stage.assertGone(scenario, 'failure'),
      (_, run) => run.on('provision/clean-up', 'start', () => run.killRunner('provision')),
    ));

  test('that nobody hears any more cleans up; the second job reports once somebody listens', () =>
    play(
      { faults: { configure: { before: 'fail' } }, env: { CALLBACK_SECONDS: '2' } },
      async (scenario, result) => {
        assert.equal(result.jobs.provision.steps['clean-up'].outputs.verdict, 'cleaned');
        assert.equal(result.jobs.provision.steps['report-failure'].outcome, 'failure');
        await stage.assertGone(scenario, 'failure');
      },
      ({ backstop }, run) => {
        run.on('configure', 'start', () => backstop.fail({ path: /callbacks/, status: 503 }));
        run.on('afterwards/clean-up', 'start', () => backstop.clear());
      },
    ));

  test('whose success was accepted and not answered is left alone by both jobs', () =>
    play(
      { env: { CALLBACK_SECONDS: '2' } },
      async (scenario, result) => {
        assert.equal(result.jobs.provision.result, 'failure');
        assert.equal(result.jobs.provision.steps['clean-up'].outputs.verdict, 'left');
        assert.equal(result.jobs.afterwards.steps['clean-up'].outputs.verdict, 'kept');
        await stage.assertInUse(scenario);
      },
      ({ backstop }, run) => {
        backstop.drop(CALLBACK('success'));
        run.on('succeed', 'effect', () => backstop.fail({ path: /callbacks/, status: 503 }));
        run.on('afterwards/clean-up', 'start', () => backstop.clear());
      },
    ));

  test('that was given up is stopped by its heartbeat in the middle of its work', () =>
    play(
      { env: { HEARTBEAT_SECONDS: '0.3', ANSIBLE_SECONDS: '600' } },
      async (scenario, result) => {
        assert.equal(result.jobs.provision.result, 'failure');
        const provision = await stage.world.settled(scenario.provisionId);
        assert.equal(provision.status, 'destroyed');
        assert.equal(provision.rollback.reason, 'destroyed');
        const left = await stage.world.leftovers(scenario.provisionId);
        assert.deepEqual(left, { servers: [], devices: [], keys: [] });
      },
      ({ provisionId, backstop }) =>
        // Once Ansible is at work: the callback right before it has been answered.
        backstop.on({ path: /callbacks\/progress/ }, 'after', ({ body }) => {
          if (!body.includes('"configuring"')) return;
          setTimeout(() => stage.world.api(`/v1/provisions/${provisionId}`, { method: 'DELETE' }), 500);
        }),
    ));

  test('that is run again after its failure makes everything anew, and the first attempt’s is gone', () =>
    play({ github: { run_id: 4711 }, faults: { configure: { after: 'fail' } } }, async (scenario) => {
      const again = await stage.run(scenario, { github: { run_id: 4711, run_attempt: 2 } }).go();
      assert.equal(again.conclusion, 'success', again.log);
      const provision = await stage.assertInUse(scenario);
      assert.equal(provision.attempt, 2);
    }));

  for (const [who, github] of [
    ['the same run once more', { run_id: 4712, run_attempt: 2 }],
    ['another run', { run_id: 4713 }],
  ]) {
    test(`for a provision that runs is refused and touches nothing: ${who}`, () =>
      play({ github: { run_id: 4712 } }, async (scenario) => {
        const before = await stage.world.leftovers(scenario.provisionId);
        const refused = await stage.run(scenario, { github }).go();
        assert.equal(refused.conclusion, 'failure');
        assert.equal(refused.jobs.provision.steps['clean-up'].outcome, 'skipped');
        assert.equal(refused.jobs.afterwards.steps['clean-up'].outputs.verdict, 'kept');
        assert.match(refused.log, /already_running/);
        await stage.assertInUse(scenario);
        assert.deepEqual(await stage.world.leftovers(scenario.provisionId), before);
      }));
  }

  test('that is cancelled before it was said to start is known as cancelled', () =>
    play(
      {},
      (scenario) => stage.assertGone(scenario, 'cancelled'),
      (_, run) => run.on('provision/checkout', 'start', () => run.cancel()),
    ));

  test('that is force-cancelled leaves what only backstop can know of', () =>
    play(
      {},
      async (scenario) => {
        const provision = await stage.world.provision(scenario.provisionId);
        assert.equal(provision.status, 'provisioning');
        await stage.world.api(`/v1/provisions/${scenario.provisionId}`, { method: 'DELETE' });
        await waitFor('nothing is left', async () => {
          const { servers, devices, keys } = await stage.world.leftovers(scenario.provisionId);
          return servers.length + devices.length + keys.length === 0;
        });
      },
      (_, run) => run.on('configure', 'start', () => run.forceCancel()),
    ));

  for (const inputs of [
    { provision_id: '../../etc' },
    { provision_id: '$(touch injected)' },
    { agent_id: '"; touch injected; #$(touch injected)`touch injected`\n::set-output name=x::y' },
  ]) {
    test(`takes its inputs for text: ${JSON.stringify(inputs)}`, () =>
      play({ inputs }, async (scenario, result) => {
        const ours = inputs.provision_id === undefined;
        assert.equal(result.conclusion, ours ? 'success' : 'failure');
        if (ours) {
          const { agent_id } = await stage.assertInUse(scenario);
          assert.equal(agent_id, inputs.agent_id);
        } else {
          assert.deepEqual(scenario.backstop.requests, []);
        }
        assert.doesNotMatch(result.log, /: injected|No such file/);
      }));
  }

  test('shows no secret in its log, its summary or its outputs', () =>
    play({}, async ({ settings }, result) => {
      const shown = JSON.stringify(result);
      for (const secret of Object.values(settings().secrets)) {
        if (secret.startsWith('k')) continue; // The OAuth client's id is none.
        assert.ok(!shown.includes(secret), secret);
      }
      assert.ok(!shown.includes('tskey-auth-'));
    }));

  test('without a shared secret proves its callbacks by the job’s own token', () =>
    play(
      { secrets: {}, env: { CALLBACK_SECONDS: '1', CLEAN_UP_SECONDS: '1' } },
      async ({ backstop }) => {
        const { headers, body } = backstop.requests[0];
        assert.equal(headers['webhook-signature'], undefined);
        const [head, payload, signature] = headers.authorization.replace('Bearer ', '').split('.');
        const { kid } = JSON.parse(Buffer.from(head, 'base64url'));
        const { keys } = await (await fetch(`${stage.issuer.url}/.well-known/jwks`)).json();
        const key = createPublicKey({ key: keys.find((it) => it.kid === kid), format: 'jwk' });
        const signed = Buffer.from(`${head}.${payload}`);
        assert.ok(verify('sha256', signed, key, Buffer.from(signature, 'base64url')));
        const claims = JSON.parse(Buffer.from(payload, 'base64url'));
        assert.equal(claims.aud, backstop.url);
        assert.equal(claims.run_id, JSON.parse(body).run_id);
      },
      ({ backstop }) => backstop.fail({ path: /callbacks/, status: 401, body: '{}' }),
    ));

  test('without a shared secret is believed for its own run', () =>
    play({ keyless: true }, async (scenario, result) => {
      assert.equal(result.conclusion, 'success');
      await stage.assertInUse(scenario);
      const signed = scenario.backstop.requests.filter((it) => it.headers['webhook-signature']);
      assert.deepEqual(signed, []);
    }));

  test('without a shared secret is believed when it fails', () =>
    play({ keyless: true, faults: { configure: { before: 'fail' } } }, (scenario) =>
      stage.assertGone(scenario, 'failure'),
    ));
});
