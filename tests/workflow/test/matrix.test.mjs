// Every step of provision-agent.yml × everything that can befall it. Whatever happens, either nothing is
// left and the record says why, or the provision runs and has exactly one of each.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { startStage } from '../stage.mjs';

const STEPS = [
  'checkout', 'started', 'heartbeat', 'mint-key', 'create-server', 'await-machine', 'join', 'configure',
  'succeed',
];
const JOB = 'provision';

/// What befalls a step, before it does its work or after it, and the reason that the record then gives.
const FATES = {
  fails: { faults: (step, moment) => ({ [step]: { [moment]: 'fail' } }), reason: () => 'failure' },
  'times out': { strike: (run) => run.timeOutStep(JOB), reason: () => 'failure' },
  'is cancelled': { strike: (run) => run.cancel(), reason: () => 'cancelled' },
  'meets the end of its job’s time': {
    strike: (run) => run.timeOutJob(JOB),
    env: { MINUTE_SECONDS: '0' },
    // Only a runner that has said `started` can tell it from a cancel.
    reason: (step, moment) =>
      step === 'checkout' || (step === 'started' && moment === 'before') ? 'cancelled' : 'timed_out',
  },
  'loses its runner': { strike: (run) => run.killRunner(JOB), reason: () => 'failure' },
};
const MOMENTS = { before: 'start', after: 'effect' };

let stage;
before(async () => {
  stage = await startStage();
});
after(() => stage?.stop());

async function play(step, moment, { faults, strike, env }) {
  const scenario = await stage.world.scenario();
  const run = stage.run(scenario, { env, faults: faults?.(`${JOB}/${step}`, moment) ?? {} });
  if (strike) run.on(`${JOB}/${step}`, MOMENTS[moment], () => strike(run));
  return { scenario, result: await run.go() };
}

describe('a step', { concurrency: 4 }, () => {
  for (const step of STEPS) {
    for (const [name, fate] of Object.entries(FATES)) {
      for (const moment of ['before', 'after']) {
        test(`${step} ${name} ${moment} its work`, async () => {
          const { scenario, result } = await play(step, moment, fate);
          try {
            assert.notEqual(result.conclusion, 'success');
            // The success had been accepted: nobody may delete what is in use.
            if (step === 'succeed' && moment === 'after') await stage.assertInUse(scenario);
            else await stage.assertGone(scenario, fate.reason(step, moment));
          } catch (error) {
            error.message += `\n${result.log}`;
            throw error;
          }
        });
      }
    }
  }
});
