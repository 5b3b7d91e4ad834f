// The workflow of this repository on a stage: a world, and runs of it that can be told apart.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { checkout, createRun, loadWorkflow, startIssuer } from './runner/index.mjs';
import { startWorld } from './world/world.mjs';

const FILE = '.github/workflows/provision-agent.yml';
const stubs = join(dirname(fileURLToPath(import.meta.url)), 'stubs');
/// Where Python really is: a version manager's shim in front of it costs more than all that it does here.
const python = dirname(
  execFileSync('python3', ['-c', 'import os, sys; print(os.path.realpath(sys.executable))']).toString(),
);

/// For whom jobs ask their tokens: in front of backstop each scenario has a proxy of its own.
const AUDIENCE = 'https://backstop.example';

/// Starts the world, which takes the tokens of our workflow's jobs, and loads the workflow. Without
/// `tailscale` the service knows of no tailnet.
export async function startStage({ tailscale = true } = {}) {
  const issuer = await startIssuer();
  const serve = {
    BACKSTOP_OIDC_ISSUER: issuer.url,
    BACKSTOP_OIDC_AUDIENCE: AUDIENCE,
    BACKSTOP_GITHUB_REPOSITORY: 'acme/agents',
    ...(tailscale ? {} : { TAILSCALE_OAUTH_CLIENT_ID: '', TAILSCALE_OAUTH_CLIENT_SECRET: '' }),
  };
  const [world, workflow] = await Promise.all([startWorld({ serve }), loadWorkflow(FILE)]);
  return new Stage(world, issuer, workflow, tailscale);
}

class Stage {
  constructor(world, issuer, workflow, tailscale) {
    this.tailscale = tailscale;
    this.world = world;
    this.issuer = issuer;
    this.workflow = workflow;
  }

  /// A run for a scenario's provision. Waits within scripts are short; `options` as of `createRun`.
  /// `keyless`: without a shared secret, with the tokens of its jobs instead.
  /// `moreSecrets` are added to the scenario's, and `path` goes before the stand-ins'.
  run(scenario, { keyless = false, moreSecrets = {}, path = [], ...options } = {}) {
    const settings = scenario.settings();
    Object.assign(settings.secrets, moreSecrets);
    if (keyless) {
      delete settings.secrets.BACKSTOP_CALLBACK_SECRET;
      settings.vars.BACKSTOP_OIDC_AUDIENCE = AUDIENCE;
    }
    return createRun(this.workflow, {
      ...settings,
      actions: { 'actions/checkout': checkout(), 'tailscale/github-action': async () => {} },
      issuer: this.issuer,
      path: [...path, stubs, python].join(delimiter),
      secondMs: 100,
      ...options,
      inputs: { provision_id: scenario.provisionId, agent_id: 'web-1', ...options.inputs },
      github: { run_id: randomInt(1e9, 1e10), ...options.github },
      env: { POLL_SECONDS: '0.2', CALLBACK_WAIT_SECONDS: '2', ...options.env },
    });
  }

  /// Runs a new scenario, after `prepare(scenario, run)`, and then `check(scenario, result)`, whose failure
  /// shows the log.
  async play(options, check, prepare = () => {}) {
    const scenario = await this.world.scenario();
    const run = this.run(scenario, options);
    await prepare(scenario, run);
    const result = await run.go();
    try {
      await check(scenario, result);
    } catch (error) {
      error.message += `\n${result.log}`;
      throw error;
    }
  }

  /// Fails unless exactly one server, one device (where there is a tailnet) and no usable key are there, and
  /// in use, and somebody can log in, but nobody by a password.
  async assertInUse({ provisionId }) {
    await this.assertNothingForeignGone();
    const { servers, devices, keys } = await this.world.leftovers(provisionId);
    assert.equal(servers.length, 1, 'one server is there');
    assert.equal(devices.length, this.tailscale ? 1 : 0, 'one device is there');
    const { ssh } = servers[0];
    assert.equal(ssh.by_password, false, 'it takes no password');
    assert.ok(this.tailscale || ssh.authorized_keys.length > 0, 'it lets somebody in');
    assert.deepEqual(keys, [], 'no key lets anybody in');
    const provision = await this.world.provision(provisionId);
    assert.equal(provision.status, 'running');
    assert.equal(provision.server_id, String(servers[0].id));
    assert.equal(provision.server_name, servers[0].name);
    return provision;
  }

  /// Fails unless the rollback ends, for this reason, and nothing at all is there.
  async assertGone({ provisionId }, reason) {
    await this.assertNothingForeignGone();
    const provision = await this.world.settled(provisionId);
    const left = await this.world.leftovers(provisionId);
    assert.deepEqual(left, { servers: [], devices: [], keys: [] });
    assert.equal(provision.status, 'failed');
    assert.equal(provision.rollback.reason, reason);
    return provision;
  }

  /// Fails if anything of other people's is gone.
  async assertNothingForeignGone() {
    assert.deepEqual(await this.world.lostForeigners(), [], 'what is not ours is alive');
  }

  async stop() {
    // Whatever a test looked at: all that it ran is over by now.
    await this.assertNothingForeignGone();
    await this.world.stop();
    await this.issuer.stop();
  }
}
