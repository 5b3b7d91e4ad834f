import assert from 'node:assert/strict';
import { test } from 'node:test';

import { once, outcomes, ready, runSample, sample } from '../samples.mjs';

/// Cancels a run as soon as these jobs are ready.
async function cancelWhenReady(run, ...jobs) {
  const going = run.go();
  await ready(run, ...jobs);
  const began = performance.now();
  run.cancel();
  const result = await going;
  return { ...result, tookMs: performance.now() - began };
}

const vars = { NODE: process.execPath };

const cancelled = once(async () => cancelWhenReady(await sample('cancel'), 'works'));

test('after a cancel failure() is false, and always(), cancelled() and !success() hold', async () => {
  const { jobs } = await cancelled();
  assert.deepEqual(outcomes(jobs.works), {
    works: 'cancelled',
    next: 'skipped',
    on_failure: 'skipped',
    on_cancel: 'success',
    unless_success: 'success',
    unless_cancelled: 'skipped',
    always: 'failure',
    on_failure_of_always: 'skipped',
  });
});

test('job.status is cancelled, also after a later step has failed', async () => {
  const { jobs, conclusion } = await cancelled();
  assert.equal(jobs.works.steps.always.outputs.status, 'cancelled');
  assert.equal(jobs.works.result, 'cancelled');
  assert.equal(conclusion, 'cancelled');
});

test('outputs that were written before the cancel are kept', async () => {
  const { jobs } = await cancelled();
  assert.deepEqual(jobs.works.outputs, { word: 'kept' });
});

test('after a cancel a later job runs if its condition holds, and its own steps know of no cancel', async () => {
  const { jobs } = await cancelled();
  assert.equal(jobs.later.result, 'skipped');
  assert.equal(jobs.later_if_cancelled.result, 'success');
  assert.equal(jobs.later_always.steps.sees.outputs.saw, 'cancelled kept');
  assert.equal(jobs.later_always.steps.on_cancel.outcome, 'skipped');
});

test('a running step goes on if its condition still holds', async () => {
  const run = await sample('goes_on');
  run.on('cleans_up', 'start', () => run.cancel());
  const { jobs } = await run.go();
  assert.deepEqual(outcomes(jobs.first), {
    cleans_up: 'success',
    next: 'skipped',
    then_cleans_up: 'success',
  });
  assert.equal(jobs.first.result, 'cancelled');
});

test('a running job goes on as if nothing were if its own condition still holds', async () => {
  const run = await sample('goes_on');
  run.on('unconditional', 'start', () => run.cancel());
  const { jobs } = await run.go();
  assert.deepEqual(outcomes(jobs.second), { unconditional: 'success', next: 'success' });
  assert.equal(jobs.second.result, 'success');
});

test('a cancelled step gets SIGINT, and its children do not', async () => {
  const { jobs } = await cancelWhenReady(await sample('signals', { vars }), 'interrupted');
  assert.equal(jobs.interrupted.steps.works.outcome, 'cancelled', 'although it ended well');
  assert.deepEqual(jobs.interrupted.steps.works.outputs, { got: 'SIGINT' });
});

test('who ignores SIGINT gets SIGTERM 7.5 s later, and who ignores that is killed after 2.5 s', async () => {
  const run = await sample('signals', { vars, secondMs: 60 });
  const result = await cancelWhenReady(run, 'interrupted', 'terminated', 'killed');
  const { terminated, killed } = result.jobs;
  assert.deepEqual(terminated.steps.works.outputs, { first: 'SIGINT', second: 'SIGTERM' });
  assert.equal(killed.steps.works.outcome, 'cancelled');
  assert.equal(killed.steps.works.exitCode, 137);
  assert.ok(result.tookMs > 10 * 60, `only ${result.tookMs} ms`);
});

test('what still runs has five minutes, then everything is killed and the outputs are lost', async () => {
  const run = await sample('endless_cleanup', { minuteMs: 200 });
  const { jobs } = await cancelWhenReady(run, 'works');
  assert.equal(jobs.works.steps.works.outcome, 'cancelled');
  assert.equal(jobs.works.steps.cleans_up.outcome, null);
  assert.equal(jobs.works.steps.next, undefined);
  assert.equal(jobs.later.steps.sees.outputs.saw, 'cancelled:');
});

test('cancelled between two steps, the next one is not begun', async () => {
  const run = await sample('faults');
  run.on('works', 'end', () => run.cancel());
  const { jobs } = await run.go();
  assert.deepEqual(outcomes(jobs.works), {
    works: 'success',
    next: 'skipped',
    on_failure: 'skipped',
    on_cancel: 'success',
  });
});

test('cancelled at its last moment, a step that did its work is cancelled and its outputs count', async () => {
  const run = await sample('faults');
  run.on('works', 'effect', () => run.cancel());
  const { jobs } = await run.go();
  assert.equal(jobs.works.steps.works.outcome, 'cancelled');
  assert.deepEqual(jobs.works.steps.works.outputs, { did: 'it' });
});

test('without a cancel nothing is cancelled', async () => {
  const { jobs, conclusion } = await runSample('goes_on');
  assert.equal(jobs.second.result, 'success');
  assert.equal(conclusion, 'success');
});
