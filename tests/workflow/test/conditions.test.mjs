import assert from 'node:assert/strict';
import { test } from 'node:test';

import { once, outcomes, runSample } from '../samples.mjs';

const ran = once(() => runSample('conditions'));

test('after a failure only steps run whose condition asks for it', async () => {
  const { jobs } = await ran();
  assert.deepEqual(outcomes(jobs.fails), {
    before: 'success',
    breaks: 'failure',
    unconditional: 'skipped',
    implied_success: 'skipped',
    always: 'success',
    failure: 'success',
    not_cancelled: 'success',
    cancelled: 'skipped',
    success: 'skipped',
    status: 'success',
  });
  assert.equal(jobs.fails.result, 'failure');
  assert.equal(jobs.fails.steps.status.outputs.now, 'failure');
});

test('a step that may fail has the outcome failure and the conclusion success, and its job goes on', async () => {
  const { jobs } = await ran();
  assert.equal(jobs.forgives.steps.breaks.outcome, 'failure');
  assert.equal(jobs.forgives.steps.breaks.conclusion, 'success');
  assert.equal(jobs.forgives.steps.after.outputs.seen, 'failure success');
  assert.equal(jobs.forgives.result, 'success');
});

test('a condition or environment that cannot be evaluated fails its step', async () => {
  const { jobs, conclusion } = await ran();
  assert.deepEqual(outcomes(jobs.cannot_tell), {
    broken_condition: 'failure',
    broken_env: 'failure',
    after: 'success',
  });
  assert.equal(conclusion, 'failure');
});
