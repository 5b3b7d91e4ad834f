import assert from 'node:assert/strict';
import { test } from 'node:test';

import { createRun, readWorkflow } from '../runner/index.mjs';
import { once, runSample } from '../samples.mjs';

const ran = once(() => runSample('jobs'));

test('jobs run in the order of their needs, and see results and outputs of these alone', async () => {
  const { jobs } = await ran();
  assert.deepEqual(JSON.parse(jobs.last.steps.sees.outputs.needs), {
    second: { result: 'success', outputs: { again: 'hello' } },
    breaks: { result: 'failure', outputs: { word: 'before the end' } },
  });
});

test('an output that is empty does not exist', async () => {
  const { jobs } = await ran();
  assert.deepEqual(jobs.first.outputs, { word: 'hello' });
});

test('a job without a condition is skipped unless all jobs before it succeeded, however far', async () => {
  const { jobs, conclusion } = await ran();
  assert.equal(jobs.skipped.result, 'skipped');
  assert.deepEqual(jobs.skipped.steps, {});
  assert.equal(jobs.skipped_too.result, 'skipped');
  assert.equal(jobs.on_failure.result, 'success');
  assert.equal(conclusion, 'failure');
});

test('a failed job that may fail fails neither the run nor the jobs after it', async () => {
  const { jobs, conclusion } = await runSample('forgiven_job');
  assert.equal(jobs.may_fail.result, 'failure');
  assert.equal(jobs.after.result, 'success');
  assert.equal(conclusion, 'success');
});

test('what the parser objects to, and what is not modelled, is refused', async () => {
  const job = (text) => `on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n${text}`;
  const refused = [
    [job('    steps: [{run: x, shel: bash}]'), /Unexpected value 'shel'/],
    [job('    needs: b\n    steps: [{run: x}]'), /at least one job with no dependencies|unknown job/],
    [job("    steps: [{run: x, if: '${{ nothing.at.all }}'}]"), /nothing/],
    [job('    steps: [{run: x, if: secrets.A}]'), /secrets/],
    [job('    strategy: {matrix: {a: [1]}}\n    steps: [{run: x}]'), /strategy is not modelled/],
    [job('    container: debian\n    steps: [{run: x}]'), /container is not modelled/],
    ['on: push\njobs: {a: {uses: ./.github/workflows/b.yml}}', /reusable workflow is not modelled/],
  ];
  for (const [text, message] of refused) {
    await assert.rejects(readWorkflow(text, 'a.yml'), { name: 'WorkflowError', message });
  }
});

test('a listener, a fault or an action that the workflow does not have is refused', async () => {
  const text = 'on: workflow_dispatch\njobs: {a: {runs-on: x, steps: [{id: b, uses: a/b@v1}]}}';
  const workflow = await readWorkflow(text, 'a.yml');
  assert.throws(() => createRun(workflow), /no stand-in for the action a\/b@v1/);
  const actions = { 'a/b': async () => {} };
  assert.throws(() => createRun(workflow, { actions, faults: { c: {} } }), /0 steps are called c/);
  assert.throws(() => createRun(workflow, { actions, faults: { b: { before: 'x' } } }), /no such fault/);
  const run = createRun(workflow, { actions });
  assert.throws(() => run.on('b', 'middle', () => {}), /no such moment/);
  run.on('a/b', 'start', () => {});
});

test('what a listener throws is the test’s failure, never a step’s', async () => {
  const text = 'on: workflow_dispatch\njobs: {a: {runs-on: x, steps: [{id: b, run: "true"}]}}';
  const run = createRun(await readWorkflow(text, 'a.yml'));
  run.on('b', 'effect', () => assert.equal(1, 2, 'mine'));
  await assert.rejects(run.go(), /effect of b: mine/);
});
