import assert from 'node:assert/strict';
import { test } from 'node:test';

import { once, outcomes, runSample } from '../samples.mjs';

const timedOut = once(() => runSample('timeouts', { minuteMs: 1000 }));

test('a job’s time-out cancels it: failure() is false', async () => {
  const { jobs, conclusion } = await timedOut();
  assert.deepEqual(outcomes(jobs.of_a_job), {
    works: 'cancelled',
    on_failure: 'skipped',
    on_cancel: 'success',
    on_anything: 'success',
  });
  assert.equal(jobs.of_a_job.steps.on_cancel.outputs.status, 'cancelled');
  assert.equal(jobs.of_a_job.result, 'cancelled');
  assert.match(jobs.of_a_job.log, /exceeded the maximum execution time of 1 minutes/);
  assert.equal(conclusion, 'failure', 'because of the other job');
});

test('a later job sees that result, and the outputs', async () => {
  const { jobs } = await timedOut();
  assert.equal(jobs.after_a_job.steps.sees.outputs.saw, 'cancelled kept');
});

test('a step’s time-out is its failure', async () => {
  const { jobs } = await timedOut();
  assert.deepEqual(outcomes(jobs.of_a_step), {
    works: 'failure',
    on_failure: 'success',
    on_cancel: 'skipped',
  });
  assert.match(jobs.of_a_step.steps.works.log, /The action has timed out/);
  assert.equal(jobs.of_a_step.result, 'failure');
});

test('and may be forgiven like any other', async () => {
  const { jobs } = await timedOut();
  assert.deepEqual(outcomes(jobs.forgiven), { works: 'failure', next: 'success' });
  assert.equal(jobs.forgiven.result, 'success');
});
