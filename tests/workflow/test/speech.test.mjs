import assert from 'node:assert/strict';
import { test } from 'node:test';

import { once, runSample } from '../samples.mjs';

const files = once(() => runSample('files'));
const commands = once(() => runSample('commands'));

test('outputs are lines or here-documents, and the last one counts', async () => {
  const { steps } = (await files()).jobs.speaks;
  assert.deepEqual(steps.outputs.outputs, {
    simple: 'the last one counts',
    empty: '',
    lines: 'one\ntwo=2',
  });
});

test('GITHUB_ENV and GITHUB_PATH reach later steps only', async () => {
  const { steps } = (await files()).jobs.speaks;
  assert.equal(steps.environment.outputs.here, '');
  assert.deepEqual(steps.later.outputs, { tool: 'mine', word: 'hello hello' });
});

test('what was written before a step failed is kept', async () => {
  const { steps } = (await files()).jobs.speaks;
  assert.equal(steps.fails_after_speaking.outcome, 'failure');
  assert.deepEqual(steps.fails_after_speaking.outputs, { word: 'kept' });
});

test('a file that does not parse fails its step', async () => {
  const { steps } = (await files()).jobs.speaks;
  assert.equal(steps.garbled.outcome, 'failure');
  assert.deepEqual(steps.garbled.outputs, { good: '1' });
  assert.match(steps.garbled.log, /Invalid format 'no equals sign'/);
  assert.equal(steps.endless.outcome, 'failure');
  assert.match(steps.endless.log, /Matching delimiter not found 'EOF'/);
});

test('commands on either stream make annotations and folds, and others are output', async () => {
  const { annotates } = (await commands()).jobs.speaks.steps;
  assert.deepEqual(annotates.annotations.toSorted((a, b) => (a.level < b.level ? -1 : 1)), [
    { level: 'error', message: 'it broke\nin two%', file: 'a.sh', line: '3', title: 'Sad' },
    { level: 'notice', message: 'by the way' },
    { level: 'warning', message: 'careful' },
  ]);
  const said = annotates.log.split('##[endgroup]\n').slice(1).join('');
  assert.match(said, /##\[group\]a fold/);
  assert.match(said, /^::no-such-command::shown as it is$/m);
  assert.doesNotMatch(said, /never shown/);
});

test('commands can be stopped and resumed', async () => {
  const { stops } = (await commands()).jobs.speaks.steps;
  assert.match(stops.log, /^visible \*\*\*$/m);
});

test('a command that GitHub has given up fails the step that uses it', async () => {
  const { outdated } = (await commands()).jobs.speaks.steps;
  assert.equal(outdated.outcome, 'failure');
});
