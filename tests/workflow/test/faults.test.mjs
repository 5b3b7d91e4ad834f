import assert from 'node:assert/strict';
import { test } from 'node:test';

import { outcomes, runSample, sample } from '../samples.mjs';

const inject = (fault) => runSample('faults', { minuteMs: 1000, faults: { works: fault } });

test('fail before: the step has done nothing', async () => {
  const { works } = (await inject({ before: 'fail' })).jobs;
  assert.deepEqual(outcomes(works), {
    works: 'failure',
    next: 'skipped',
    on_failure: 'success',
    on_cancel: 'skipped',
  });
  assert.deepEqual(works.steps.works.outputs, {});
});

test('fail after: it has done its work', async () => {
  const { works } = (await inject({ after: 'fail' })).jobs;
  assert.equal(works.steps.works.outcome, 'failure');
  assert.deepEqual(works.steps.works.outputs, { did: 'it' });
});

test('hang: until its time is up', async () => {
  const before = (await inject({ before: 'hang' })).jobs.works.steps.works;
  assert.equal(before.outcome, 'failure');
  assert.deepEqual(before.outputs, {});
  const after = (await inject({ after: 'hang' })).jobs.works.steps.works;
  assert.equal(after.outcome, 'failure');
  assert.deepEqual(after.outputs, { did: 'it' });
});

test('hang: until its time is said to be up', async () => {
  const run = await sample('faults', { faults: { works: { before: 'hang' } } });
  run.on('works', 'start', () => setImmediate(() => run.timeOutStep('works')));
  const { works } = (await run.go()).jobs;
  assert.equal(works.steps.works.outcome, 'failure');
  assert.equal(works.result, 'failure');
});

test('hang: until its job’s time is said to be up', async () => {
  const run = await sample('faults', { faults: { works: { before: 'hang' } } });
  run.on('works', 'start', () => setImmediate(() => run.timeOutJob('works')));
  const { works } = (await run.go()).jobs;
  assert.equal(works.steps.works.outcome, 'cancelled');
  assert.equal(works.steps.on_cancel.outcome, 'success');
  assert.equal(works.result, 'cancelled');
});

test('hang: until it is cancelled', async () => {
  const run = await sample('faults', { faults: { 'works/works': { after: 'hang' } } });
  run.on('works', 'effect', () => setImmediate(() => run.cancel()));
  const { works } = (await run.go()).jobs;
  assert.equal(works.steps.works.outcome, 'cancelled');
  assert.equal(works.steps.on_cancel.outcome, 'success');
});

test('hang: until the runner dies', async () => {
  const run = await sample('faults', { faults: { works: { before: 'hang' } } });
  run.on('works', 'start', () => setImmediate(() => run.killRunner()));
  assert.equal((await run.go()).jobs.works.result, 'failure');
});
