// Who can log in to the machine, and what could be read of secrets on the way there.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { startStage } from '../stage.mjs';

let folder;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'login-'));
});
after(() => rmSync(folder, { recursive: true, force: true }));

describe('without Tailscale', { concurrency: 4 }, () => {
  let stage;
  before(async () => {
    stage = await startStage({ tailscale: false });
  });
  after(() => stage?.stop());

  /// Runs it; what let Ansible in, and what the machine lets in.
  async function succeed(options) {
    const scenario = await stage.world.scenario();
    const { conclusion, log } = await stage.run(scenario, options).go();
    assert.equal(conclusion, 'success', log);
    await stage.assertInUse(scenario);
    const { servers } = await stage.world.leftovers(scenario.provisionId);
    return { key: log.match(/logs in with (ssh-ed25519 \S+)/)?.[1], lets: servers[0].ssh.authorized_keys };
  }
  const startsWith = (key) => (line) => line.startsWith(key);

  test('Ansible logs in with a pair that was made for this job', async () => {
    const [one, other] = await Promise.all([succeed(), succeed()]);
    assert.ok(one.key && one.lets.some(startsWith(one.key)), JSON.stringify(one));
    assert.equal(one.lets.length, 1);
    assert.notEqual(one.key, other.key);
  });

  test('Ansible logs in with the key that the repository keeps', async () => {
    const file = join(folder, 'kept');
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', file]);
    const [type, key] = readFileSync(`${file}.pub`, 'utf8').split(' ');
    // Secrets are pasted, from Windows too.
    const pasted = readFileSync(file, 'utf8').trimEnd().replaceAll('\n', '\r\n');
    const { lets, ...how } = await succeed({ moreSecrets: { SSH_PRIVATE_KEY: pasted } });
    assert.equal(how.key, `${type} ${key}`);
    assert.ok(lets.some(startsWith(how.key)));
  });

  test('the project’s own keys let people in, by name and by id, beside Ansible’s', async () => {
    for (const ssh_keys of ['sim', ' 2323 ,']) {
      const { key, lets } = await succeed({ inputs: { ssh_keys } });
      assert.equal(lets.length, 2, ssh_keys);
      assert.ok(lets.some((line) => line.endsWith(' sim')));
      assert.ok(lets.some(startsWith(key)));
    }
  });

  for (const [name, options, words] of [
    ['a key that the project does not have', { inputs: { ssh_keys: 'nobody' } }, /422 invalid_input/],
    ['a private key that is none', { moreSecrets: { SSH_PRIVATE_KEY: 'ssh-ed25519 AAAA' } }, /SSH_PRIVATE_KEY/],
  ]) {
    test(`${name} fails the run, which says so`, async () => {
      const scenario = await stage.world.scenario();
      const { conclusion } = await stage.run(scenario, options).go();
      assert.equal(conclusion, 'failure');
      const { error, failed_step } = await stage.assertGone(scenario, 'failure');
      assert.equal(failed_step, 'create-server');
      assert.match(error, words);
    });
  }

  test('the tailnet of a repository that has its secrets is left alone', async () => {
    const scenario = await stage.world.scenario();
    await stage.run(scenario, { faults: { configure: { before: 'fail' } } }).go();
    await stage.assertGone(scenario, 'failure');
    // The job that looks after it may list keys by a description that it worked out by itself.
    const touched = scenario.vendors.requests.filter(
      (it) => /\/tailnet\/|\/device\//.test(it.path) && it.method !== 'GET',
    );
    assert.deepEqual(touched.map(({ method, path }) => `${method} ${path}`), []);
  });
});

test('no secret is on a command line, where others can read it', async () => {
  const stage = await startStage();
  try {
    const lines = join(folder, 'lines');
    for (const program of ['jq', 'curl', 'openssl', 'python3', 'awk', 'cat', 'ssh-keygen']) {
      const real = execFileSync('bash', ['-c', `command -v ${program}`]).toString().trim();
      writeFileSync(join(folder, program), `#!/bin/sh\nprintf '%s\\n' "$0 $*" >>'${lines}'\nexec '${real}' "$@"\n`);
      chmodSync(join(folder, program), 0o755);
    }
    const scenario = await stage.world.scenario();
    const { conclusion, log } = await stage.run(scenario, { path: [folder] }).go();
    assert.equal(conclusion, 'success', log);
    const seen = readFileSync(lines, 'utf8');
    assert.ok(seen.includes('server_type'), 'the command lines were seen');
    const { secrets } = scenario.settings();
    const { BACKSTOP_CALLBACK_SECRET: callback, HCLOUD_TOKEN, TAILSCALE_OAUTH_CLIENT_SECRET } = secrets;
    const minted = scenario.vendors.requests.find((it) => it.method === 'POST' && /\/servers$/.test(it.path));
    const [authKey] = minted.body.match(/tskey-auth-[A-Za-z0-9-]+/);
    for (const secret of [callback, HCLOUD_TOKEN, TAILSCALE_OAUTH_CLIENT_SECRET, authKey]) {
      assert.ok(!seen.includes(secret), seen.split('\n').find((line) => line.includes(secret)));
    }
  } finally {
    await stage.stop();
  }
});
