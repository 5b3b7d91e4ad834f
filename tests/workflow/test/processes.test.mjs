import assert from 'node:assert/strict';
import { test } from 'node:test';

import { runs } from '../runner/processes.mjs';
import { ready, sample } from '../samples.mjs';

test('what runs in the background outlives its step, and not its job', async () => {
  const run = await sample('background');
  let pid;
  run.on('begins', 'end', ({ outputs }) => {
    pid = Number(outputs.pid);
  });
  run.on('last', 'end', () => assert.ok(runs(pid)));
  const { jobs } = await run.go();
  assert.equal(jobs.works.steps.sees.outcome, 'success');
  assert.ok(!runs(pid));
});

test('a step whose process has ended waits 5 s for its streams, and what holds them lives on', async () => {
  const { jobs } = await (await sample('background', { secondMs: 60 })).go();
  const { holds_streams: holds, finds_it: finds, begins } = jobs.works.steps;
  assert.equal(holds.outcome, 'success');
  assert.ok(holds.durationMs > 5 * 60, `only ${holds.durationMs} ms`);
  assert.ok(begins.durationMs < holds.durationMs, `${begins.durationMs} ms without open streams`);
  assert.equal(finds.outcome, 'success');
});

test('when the runner dies nothing more of the job runs, and its outputs are lost', async () => {
  const run = await sample('death');
  const going = run.go();
  await ready(run, 'works');
  run.killRunner('works');
  const { jobs, conclusion } = await going;
  assert.equal(jobs.works.result, 'failure');
  assert.deepEqual(jobs.works.outputs, {});
  assert.equal(jobs.works.steps.works.outcome, null);
  assert.equal(jobs.works.steps.always, undefined);
  assert.equal(jobs.beside.result, 'success', 'another job has another runner');
  assert.equal(conclusion, 'failure');
});

test('later jobs run on a fresh runner, and see a failure without outputs', async () => {
  const run = await sample('death');
  run.on('works', 'start', () => run.killRunner('works'));
  const { jobs } = await run.go();
  assert.equal(jobs.later.steps.sees.outputs.saw, 'failure:');
  assert.notEqual(jobs.later.steps.sees.outputs.home, jobs.works.steps.begins.outputs.home);
  assert.equal(jobs.later_on_failure.result, 'success');
});

test('when the runner dies its processes die with it, at once', async () => {
  const run = await sample('background');
  let pid;
  run.on('begins', 'end', ({ outputs }) => {
    pid = Number(outputs.pid);
    assert.ok(runs(pid));
    run.killRunner();
    assert.ok(!runs(pid));
  });
  const { jobs } = await run.go();
  assert.equal(jobs.works.steps.sees, undefined);
});

test('a runner that dies after the effect has not read the outputs', async () => {
  const run = await sample('faults');
  run.on('works', 'effect', () => run.killRunner());
  const { jobs } = await run.go();
  assert.deepEqual(jobs.works.steps.works.outputs, {});
});

test('after a forced cancel nothing runs any more, whatever the conditions', async () => {
  const run = await sample('death', { faults: { waits: { before: 'hang' } } });
  const going = run.go();
  await ready(run, 'works');
  run.forceCancel();
  const { jobs, conclusion } = await going;
  for (const job of ['works', 'beside', 'later', 'later_on_failure']) {
    assert.equal(jobs[job].result, 'cancelled', job);
  }
  assert.deepEqual(jobs.later.steps, {});
  assert.equal(conclusion, 'cancelled');
});

test('only a job that runs has a runner that can die', async () => {
  const run = await sample('death');
  assert.throws(() => run.killRunner('works'), /does not run now/);
});
