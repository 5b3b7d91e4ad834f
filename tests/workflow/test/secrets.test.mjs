import assert from 'node:assert/strict';
import { test } from 'node:test';

import { once, runSample } from '../samples.mjs';

const secrets = { SECRET: 'tell-nobody', LINES: 'one of two\ntwo of two\n' };
const ran = once(() => runSample('secrets', { secrets }));

test('no secret, no line of one and no base64 of one is in a log or a summary', async () => {
  const { log, jobs, summary } = await ran();
  const encoded = Buffer.from(`user:${secrets.SECRET}`).toString('base64');
  for (const hidden of ['tell-nobody', 'two of two', encoded.slice(8)]) {
    assert.ok(!log.includes(hidden), hidden);
  }
  assert.match(jobs.speaks.steps.prints.log, /it is \*\*\*!/);
  assert.match(jobs.speaks.steps.prints.log, /its second line: \*\*\*/);
  assert.equal(summary, 'made here\n***\n');
});

test('a value is masked from the line on that asks for it', async () => {
  const { jobs } = await ran();
  const { log } = jobs.speaks.steps.masks;
  assert.match(log, /before: found-here/);
  assert.match(log, /after: \*\*\*/);
  assert.doesNotMatch(log.split('##[endgroup]')[1], /add-mask/);
});

test('an output of a job that would show a masked value is dropped', async () => {
  const { jobs } = await ran();
  assert.deepEqual(jobs.speaks.outputs, { plain: 'nothing special' });
});
