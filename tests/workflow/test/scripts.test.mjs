import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';

import { once, outcomes, runSample } from '../samples.mjs';

// Not every machine has it.
const python = spawnSync('python3', ['--version']).status === 0;
const shells = once(() => runSample('shells', { vars: python ? { PYTHON: 'yes' } : {} }));

const looks = once(async () => {
  process.env.LEAK = 'from the tests';
  const { jobs } = await runSample('environment', {
    vars: { REGION: 'fsn1' },
    github: { run_id: 7, sha: 'c0ffee' },
    env: { MACHINE: 'theirs', OF_MACHINE: 'theirs' },
  });
  const lines = jobs.looks.steps.looks.outputs.all.split('\n');
  return { jobs, env: Object.fromEntries(lines.map((line) => line.split(/=(.*)/s).slice(0, 2))) };
});

test('without a shell it is bash with -e and without pipefail; `bash` has both', async () => {
  const { default_shell: job, own_defaults: own } = (await shells()).jobs;
  assert.equal(job.steps.pipe_without_pipefail.outcome, 'success');
  assert.match(job.steps.dollar_minus.outputs.flags, /e/);
  assert.deepEqual(job.steps.stops_at_the_first_error.outputs, {});
  assert.equal(job.steps.pipe_with_bash.outcome, 'failure');
  assert.equal(own.steps.pipe.outcome, 'failure');
});

test('sh, python and a command line of one’s own are shells too', async () => {
  const { steps } = (await shells()).jobs.default_shell;
  assert.equal(steps.sh.outcome, 'success');
  if (python) assert.equal(steps.python.outputs.cwd, 'below');
  assert.equal(steps.custom.outcome, 'failure');
  assert.match(steps.custom.log, /NOT_SET_ANYWHERE: unbound variable/);
});

test('a step’s folder and shell win over the job’s defaults, and these over the workflow’s', async () => {
  const { default_shell: job, own_defaults: own } = (await shells()).jobs;
  assert.equal(job.steps.elsewhere.outputs.cwd, 'other');
  assert.equal(outcomes(own).pipe, 'failure');
  assert.match(own.steps.pipe.log, /exit code 1/);
});

test('a folder or a shell that is not there fails the step', async () => {
  const { steps } = (await shells()).jobs.default_shell;
  assert.equal(steps.nowhere.outcome, 'failure');
  assert.equal(steps.unknown.outcome, 'failure');
});

test('the environment has nothing of ours but PATH', async () => {
  const { env } = await looks();
  const others = Object.keys(env).filter((name) => !/^(GITHUB|RUNNER)_/.test(name));
  assert.deepEqual(others.toSorted(), [
    'CI', 'FLAG', 'HOME', 'LANG', 'LEVEL', 'MACHINE', 'NUMBER', 'OF_JOB', 'OF_MACHINE', 'OF_WORKFLOW',
    'PATH', 'PWD', 'SAW', 'SHLVL', '_',
  ]);
});

test('env of a step wins over the job’s, that over the workflow’s, and that over the machine’s', async () => {
  const { env } = await looks();
  assert.equal(env.LEVEL, 'step');
  assert.equal(env.OF_WORKFLOW, '7');
  assert.equal(env.OF_JOB, 'fsn1');
  assert.equal(env.SAW, 'fsn1 job');
  assert.equal(env.FLAG, 'true');
  assert.equal(env.NUMBER, '1.1');
  assert.deepEqual([env.MACHINE, env.OF_MACHINE], ['theirs', 'ours']);
});

test('nobody can set what the runner sets', async () => {
  const { env } = await looks();
  assert.equal(env.GITHUB_SHA, 'c0ffee');
  assert.equal(env.GITHUB_RUN_ID, '7');
  assert.equal(env.GITHUB_RUN_ATTEMPT, '1');
  assert.equal(env.GITHUB_ACTIONS, 'true');
  assert.equal(env.RUNNER_OS, 'Linux');
});

test('every job begins on a fresh machine', async () => {
  const { jobs } = await looks();
  assert.equal(jobs.elsewhere.steps.looks.outputs.found, '');
});
