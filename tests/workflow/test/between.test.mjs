// What something in between answers, and what the vendors leave out: neither ends a healthy run, and
// nothing that is not ours is deleted for it.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { startStage } from '../stage.mjs';
import { waitFor } from '../world/wait.mjs';

const CALLBACK = (kind) => ({ method: 'POST', path: new RegExp(`/callbacks/${kind}$`) });
const PAGE = '<html><h1>It works!</h1></html>';
const JSON_BODY = { 'content-type': 'application/json' };

let stage;
before(async () => {
  stage = await startStage();
});
after(() => stage?.stop());

const play = (...how) => stage.play(...how);

const succeeds = async (scenario, result) => {
  assert.equal(result.conclusion, 'success');
  await stage.assertInUse(scenario);
};

const isHeartbeat = ({ body }) => !('step' in JSON.parse(body));

describe('what something in between answers', { concurrency: 4 }, () => {
  for (const [name, answer] of [
    ['a text 404', { status: 404, body: '404 page not found' }],
    ['a 403 in JSON', { status: 403, body: '{"message": "Forbidden"}' }],
    ['a redirect', { status: 302, body: '' }],
    ['a page with 200', { status: 200, body: PAGE }],
    ['a list with 200', { status: 200, body: '[]' }],
    ['a problem without a code', { status: 409, body: '{"title": "Conflict", "status": 409}' }],
    ['a problem whose code is a number', { status: 409, body: '{"code": 409}' }],
  ]) {
    for (const kind of ['started', 'progress', 'success']) {
      test(`${name} is no answer to ${kind}`, () =>
        play({}, succeeds, ({ backstop }) => backstop.fail({ ...CALLBACK(kind), nth: 1, ...answer })));
    }
  }

  test('a failure that was answered by something in between is told again', () =>
    play(
      { faults: { configure: { before: 'fail' } } },
      (scenario) => stage.assertGone(scenario, 'failure'),
      ({ backstop }) => {
        backstop.fail({ ...CALLBACK('failure'), nth: 1, status: 404, body: PAGE });
        backstop.fail({ ...CALLBACK('failure'), nth: 2, status: 200, body: PAGE });
      },
    ));

  test('odd answers do not end the heartbeats', () =>
    play(
      { env: { HEARTBEAT_SECONDS: '0.2', ANSIBLE_SECONDS: '4' } },
      async (scenario, result) => {
        await succeeds(scenario, result);
        const beats = scenario.backstop.requests.filter(
          (it) => it.path.endsWith('/progress') && isHeartbeat(it),
        );
        const odd = beats.findIndex((it) => it.fate === 'failed');
        assert.ok(odd >= 0, 'one was answered oddly');
        assert.ok(beats.slice(odd + 1).some((it) => it.status === 200), 'and others came after it');
      },
      ({ backstop }) => {
        const odd = [404, 403, 301, 422].map((status) => ({ status, body: '{"message": "no"}' }));
        for (const [n, answer] of odd.entries()) {
          backstop.fail({ ...CALLBACK('progress'), nth: 4 + n, ...answer });
        }
      },
    ));

  test('a run that no progress is heard of succeeds', () =>
    play({ env: { CALLBACK_SECONDS: '1' } }, succeeds, ({ backstop }) =>
      backstop.fail({ ...CALLBACK('progress'), status: 503 })));

  for (const [name, rule] of [
    ['an unreadable 201 of the creation', { method: 'POST', path: /\/servers$/, status: 201, body: '{"server":' }],
    ['a page for the creation', { method: 'POST', path: /\/servers$/, status: 200, body: PAGE }],
    ['a creation without an id', { method: 'POST', path: /\/servers$/, status: 201, body: '{"server": {}}' }],
    ['an unreadable minting', { method: 'POST', path: /\/keys$/, status: 200, body: PAGE }],
    ['devices that are null', { method: 'GET', path: /\/devices/, status: 200, body: '{"devices": null}' }],
    ['a page for the devices', { method: 'GET', path: /\/devices/, status: 200, body: PAGE }],
    ['devices without fields', { method: 'GET', path: /\/devices/, status: 200, body: '{"devices": [{}]}' }],
    ['a page for the server', { method: 'GET', path: /\/servers\/\d+$/, status: 404, body: PAGE }],
    ['a page for the token', { method: 'POST', path: /oauth\/token$/, status: 200, body: PAGE }],
    ['nothing for the token', { method: 'POST', path: /oauth\/token$/, status: 200, body: '' }],
  ]) {
    test(`${name} is not the vendor’s word`, () =>
      play({}, succeeds, ({ vendors }) => vendors.replace({ nth: 1, ...rule })));
  }

  test('a token that the vendor refuses ends the wait at once, in the vendor’s words', () =>
    play(
      {},
      async (scenario) => {
        const { error, failed_step } = await stage.assertGone(scenario, 'failure');
        assert.equal(failed_step, 'await-machine');
        assert.match(error, /401 unauthorized/);
        const looks = scenario.vendors.requests.filter((it) => /\/(servers|actions)\/\d+$/.test(it.path));
        assert.ok(looks.filter((it) => it.method === 'GET').length < 12, `${looks.length} looks`);
      },
      ({ vendors }) => {
        const body = '{"error": {"code": "unauthorized", "message": "no", "details": null}}';
        vendors.fail({ method: 'GET', path: /\/actions\/\d+$/, status: 401, body });
      },
    ));

  test('Ansible’s last words become the error of the failure', () =>
    play({ env: { ANSIBLE_FAILS: 'yes' } }, async (scenario) => {
      const { error } = await stage.assertGone(scenario, 'failure');
      assert.equal(error, 'Ansible: agent : Start the agent: fatal: [100.64.0.1]: FAILED! => {"msg": "no such unit"}');
    }));
});

describe('what is not ours is alive', { concurrency: 4 }, () => {
  const end = (id) => stage.world.api(`/v1/provisions/${id}`, { method: 'DELETE' });
  const everythingIsGone = ({ provisionId }) =>
    waitFor('nothing of the provision is left', async () => {
      const { servers, devices, keys } = await stage.world.leftovers(provisionId);
      return servers.length + devices.length + keys.length === 0;
    });
  const onlyOursWentAway = async (scenario) => {
    await stage.assertNothingForeignGone();
    await everythingIsGone(scenario);
  };

  test('when the runner is lost with its outputs, and backstop noticed first', () =>
    play(
      {},
      onlyOursWentAway,
      ({ provisionId }, run) => {
        run.on('await-machine', 'start', () => run.killRunner('provision'));
        run.on('afterwards/clean-up', 'start', () => end(provisionId));
      },
    ));

  test('when a person cancels while started waits for an answer that was lost', () =>
    play(
      { env: { CALLBACK_SECONDS: '2' } },
      onlyOursWentAway,
      ({ backstop }, run) => {
        backstop.drop(CALLBACK('started'));
        backstop.on(CALLBACK('started'), 'after', () => run.cancel());
      },
    ));

  test('when the vendor says null for what is empty', async () => {
    const fault = { vendor: 'tailscale', kind: 'nulls', times: null };
    const add = (path) =>
      stage.world.sim('/sim/faults', {
        method: 'POST', headers: JSON_BODY, body: JSON.stringify({ ...fault, path }),
      });
    await Promise.all(['/tailnet/*/keys', '/tailnet/*/devices'].map(add));
    try {
      await play({}, onlyOursWentAway, ({ provisionId }, run) => {
        run.on('await-machine', 'start', () => run.killRunner('provision'));
        run.on('afterwards/clean-up', 'start', () => end(provisionId));
      });
    } finally {
      await stage.world.sim('/sim/faults', { method: 'DELETE' });
    }
  });
});
