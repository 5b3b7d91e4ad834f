import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import { text } from 'node:stream/consumers';
import { after, before, beforeEach, test } from 'node:test';

import { startProxy } from '../world/proxy.mjs';

let upstream;
let proxy;
let effects;

before(async () => {
  upstream = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    effects.push(`${request.method} ${request.url} ${body}`);
    response.writeHead(201, { 'x-mark': request.headers['x-mark'] ?? '' }).end(`did ${body}`);
  });
  upstream.listen(0, '127.0.0.1');
  await once(upstream, 'listening');
  proxy = await startProxy(`http://127.0.0.1:${upstream.address().port}/base`);
});

after(async () => {
  await proxy.stop();
  upstream.closeAllConnections();
  upstream.close();
});

beforeEach(() => {
  effects = [];
  proxy.clear();
  proxy.requests.length = 0;
});

/// On a connection of its own: an old one would tell of the proxy as it was.
async function post(path, body = '') {
  const sent = request(proxy.url + path, { method: 'POST', agent: false, headers: { 'x-mark': 'm' } });
  sent.end(body);
  const [answer] = await once(sent, 'response');
  return { status: answer.statusCode, headers: answer.headers, text: await text(answer) };
}

test('it forwards, and remembers', async () => {
  const answer = await post('/things?a=1', 'this');
  assert.equal(answer.status, 201);
  assert.equal(answer.headers['x-mark'], 'm');
  assert.equal(answer.text, 'did this');
  const [{ headers, ...request }, ...others] = proxy.requests;
  assert.deepEqual(others, []);
  assert.equal(headers['content-length'], '4');
  assert.deepEqual(request, {
    method: 'POST', path: '/base/things?a=1', body: 'this', status: 201, fate: 'forwarded',
  });
});

test('down: refused for so long, then as before', async () => {
  await post('/');
  const down = proxy.down(100);
  await assert.rejects(post('/'), { code: 'ECONNREFUSED' });
  await down;
  assert.equal((await post('/')).status, 201);
  assert.equal(effects.length, 2);
});

test('one that is down can be stopped, and stays down', async () => {
  const other = await startProxy(proxy.url);
  const down = other.down(20);
  await other.stop();
  await down;
  const sent = request(other.url, { agent: false });
  sent.end();
  await assert.rejects(once(sent, 'response'), { code: 'ECONNREFUSED' });
});

test('reset: accepted and reset for so long', async () => {
  const reset = proxy.reset(100);
  await assert.rejects(post('/'), { code: 'ECONNRESET' });
  await reset;
  assert.equal((await post('/')).status, 201);
  assert.equal(effects.length, 1);
});

test('drop: the nth answer that matches is lost, and it took effect', async () => {
  proxy.drop({ method: 'POST', path: /things$/, nth: 2 });
  await post('/other');
  await post('/things', 'first');
  await assert.rejects(post('/things', 'second'), { code: 'ECONNRESET' });
  await post('/things', 'third');
  assert.deepEqual(effects.map((it) => it.split(' ')[2]), ['', 'first', 'second', 'third']);
  assert.equal(proxy.requests[2].fate, 'dropped');
  assert.equal(proxy.requests[2].status, 201);
});

test('fail: answered here, without effect', async () => {
  proxy.fail({ path: /things/, status: 429, body: 'slowly' });
  const answer = await post('/things');
  assert.equal(answer.status, 429);
  assert.equal(answer.text, 'slowly');
  assert.deepEqual(effects, []);
  assert.equal(proxy.requests[0].fate, 'failed');
});

test('delay: later', async () => {
  proxy.delay({ path: /things/, ms: 100 });
  const began = performance.now();
  await post('/things');
  assert.ok(performance.now() - began >= 99);
});

test('listeners: before it is forwarded, and after it took effect but before anybody knows', async () => {
  const seen = [];
  proxy.on({ path: /things/ }, 'before', () => seen.push(`before: ${effects.length}`));
  proxy.on({ path: /things/ }, 'after', ({ status }) => seen.push(`after: ${effects.length} ${status}`));
  await post('/things');
  assert.deepEqual(seen, ['before: 0', 'after: 1 201']);
});
