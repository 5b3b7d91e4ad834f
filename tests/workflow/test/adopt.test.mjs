// The steps that docs/adopt.md gives to others, as they stand there, in a workflow that is theirs.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, before, describe, test } from 'node:test';

import { createRun, checkout, loadWorkflow } from '../runner/index.mjs';
import { startWorld } from '../world/world.mjs';

const page = readFileSync(fileURLToPath(new URL('../../../docs/adopt.md', import.meta.url)), 'utf8');

/// The YAML that the page has for the step of that name, indented as a step of a job.
function step(name) {
  const blocks = [...page.matchAll(/```yaml\n(- name: [^]*?)```/g)].map(([, block]) => block);
  const block = blocks.find((it) => it.startsWith(`- name: ${name}\n`));
  assert.ok(block, `the page has a step "${name}"`);
  return block.replace(/^(?=.)/gm, '      ');
}

/// Somebody's workflow: `id` says whence the provision's id comes, `address` what the machine is told to be.
const workflow = ({ id, address }) => `
on:
  workflow_dispatch:
    inputs:
      provision_id: {type: string}
env:
  BACKSTOP_URL: \${{ vars.BACKSTOP_URL }}
jobs:
  machine:
    runs-on: ubuntu-24.04
    steps:
      - uses: actions/checkout@v6
${id}
${step('Say that it starts')}
      - name: Create it
        id: create
        env:
          NAME: \${{ steps.started.outputs.name }}
          LABELS: \${{ steps.started.outputs.labels }}
          ENDPOINT: \${{ vars.HCLOUD_ENDPOINT }}
          HCLOUD_TOKEN: \${{ secrets.HCLOUD_TOKEN }}
        run: |
          wanted=$(jq -n '{name: env.NAME, server_type: "cx23", image: "ubuntu-24.04",
            labels: env.LABELS | split(",") | map(split("=") | {(.[0]): .[1]}) | add}')
          curl --silent --fail --json "$wanted" --oauth2-bearer "$HCLOUD_TOKEN" "$ENDPOINT/servers" \
            | jq -r '"server_id=\\(.server.id)", "server_ip=\\(.server.public_net.ipv4.ip)"' >>"$GITHUB_OUTPUT"
          echo tailscale_ip=${address} >>"$GITHUB_OUTPUT"
${step('Say that it succeeded')}
${step('Say that it failed')}
`;
const GIVEN = '      - run: echo "PROVISION_ID=${{ inputs.provision_id }}" >>"$GITHUB_ENV"';

let world;
let folder;
before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'adopt-'));
  world = await startWorld();
});
after(async () => {
  await world?.stop();
  rmSync(folder, { recursive: true, force: true });
});

let files = 0;

/// Runs it once; `github` says which run it is.
async function play({ id = GIVEN, address = '100.64.0.7', faults = {}, github = {} } = {}) {
  const scenario = await world.scenario();
  const file = join(folder, `${(files += 1)}.yml`);
  writeFileSync(file, workflow({ id, address }));
  const run = createRun(await loadWorkflow(file), {
    ...scenario.settings(),
    inputs: { provision_id: scenario.provisionId },
    actions: { 'actions/checkout': checkout() },
    secondMs: 100,
    faults,
    github,
  });
  const result = await run.go();
  return { ...result, scenario, steps: result.jobs.machine.steps };
}

describe('the steps of docs/adopt.md', () => {
  test('a run that fails before it is ready is rolled back', async () => {
    const { scenario, log } = await play({ faults: { create: { after: 'fail' } } });
    const provision = await world.settled(scenario.provisionId);
    assert.equal(provision.rollback.reason, 'failure', log);
    assert.deepEqual((await world.leftovers(scenario.provisionId)).servers, []);
  });

  test('a success that is refused is a failure', async () => {
    const { scenario, conclusion, steps, log } = await play({ address: '' });
    assert.equal(conclusion, 'failure');
    assert.equal(steps.succeed.outcome, 'failure', log);
    const provision = await world.provision(scenario.provisionId);
    assert.equal(provision.rollback?.reason, 'failure', log);
  });

  test('an id of the run is the same in its next attempt, and another in another run', async () => {
    const id = step('Make an id of this run');
    const faults = { create: { after: 'fail' } };
    const ids = [];
    for (const [run_id, run_attempt] of [[71, 1], [71, 2], [72, 1]]) {
      const { scenario, steps, log } = await play({ id, faults, github: { run_id, run_attempt } });
      assert.equal(steps.started.outcome, 'success', log);
      ids.push(scenario.backstop.requests[0].path.split('/')[3]);
      await world.settled(ids.at(-1));
    }
    assert.equal(ids[0], ids[1]);
    assert.notEqual(ids[0], ids[2]);
    assert.equal((await world.provision(ids[0])).attempt, 2);
  });

  // Last: its device is none that the tailnet knows, which makes backstop doubt its credential.
  test('a run that succeeds says so, and nothing else', async () => {
    const { scenario, conclusion, steps, log } = await play();
    assert.equal(conclusion, 'success', log);
    const { name, labels, key } = steps.started.outputs;
    assert.match(name, /^agent-[0-9a-f]{32}-a1$/);
    assert.match(labels, /(^|,)backstop-attempt=1(,|$)/);
    assert.match(key, /^backstop [0-9a-f]{32}-a1/);
    assert.equal((await world.provision(scenario.provisionId)).status, 'running');
    assert.equal((await world.leftovers(scenario.provisionId)).servers.length, 1);
  });
});
