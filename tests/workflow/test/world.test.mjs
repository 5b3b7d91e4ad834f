import assert from 'node:assert/strict';
import { createHmac, randomUUID } from 'node:crypto';
import { after, before, test } from 'node:test';

import { startWorld } from '../world/world.mjs';

let world;
before(async () => {
  world = await startWorld();
});
after(() => world?.stop());

/// Sends a callback as a workflow with these settings would.
async function callback({ provisionId, settings }, kind, fields = {}) {
  const { vars, secrets } = settings();
  const body = JSON.stringify({ type: kind, provision_id: provisionId, run_id: 1, ...fields });
  const [id, at] = [`msg_${randomUUID()}`, String(Math.floor(Date.now() / 1000))];
  const key = Buffer.from(secrets.BACKSTOP_CALLBACK_SECRET.replace('whsec_', ''), 'base64');
  const signature = createHmac('sha256', key).update(`${id}.${at}.${body}`).digest('base64');
  const url = `${vars.BACKSTOP_URL}/v1/provisions/${provisionId}/callbacks/${kind}`;
  const headers = {
    'content-type': 'application/json',
    'webhook-id': id,
    'webhook-timestamp': at,
    'webhook-signature': `v1,${signature}`,
  };
  return (await fetch(url, { method: 'POST', headers, body })).json();
}

test('what a failed provision leaves is seen, and gone once its rollback is settled', async () => {
  const scenario = await world.scenario();
  const id = scenario.provisionId;
  assert.equal(await world.provision(id), null);
  const { server_name: name, labels, tailscale } = await callback(scenario, 'started');
  const make = (path, body) =>
    world.sim(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
  await make('/sim/servers', { name, labels });
  await make('/sim/devices', tailscale);
  await make('/sim/keys', { description: tailscale.key_description, tags: tailscale.tags });
  const left = await world.leftovers(id);
  assert.deepEqual(Object.values(left).map((it) => it.length), [1, 1, 1]);

  await callback(scenario, 'failure', { error: 'it broke' });
  const { status, rollback } = await world.settled(id);
  assert.equal(status, 'failed');
  assert.equal(rollback.state, 'done');
  assert.deepEqual(await world.leftovers(id), { servers: [], devices: [], keys: [] });
  const kinds = (await world.events(id)).map(({ kind }) => kind);
  assert.equal(kinds.at(-1), 'rollback.done');
  assert.deepEqual(
    scenario.backstop.requests.map(({ path, fate }) => [path.split('/').at(-1), fate]),
    [['started', 'forwarded'], ['failure', 'forwarded']],
  );
});

test('a workflow’s vendors are reached through its own proxy', async () => {
  const scenario = await world.scenario();
  const { vars, secrets } = scenario.settings();
  const bearer = (token) => ({ headers: { authorization: `Bearer ${token}` } });
  const servers = await fetch(`${vars.HCLOUD_ENDPOINT}/servers`, bearer(secrets.HCLOUD_TOKEN));
  assert.equal(servers.status, 200);
  const token = await fetch(`${vars.TAILSCALE_BASE_URL}/api/v2/oauth/token`, {
    method: 'POST',
    body: new URLSearchParams({
      client_id: secrets.TAILSCALE_OAUTH_CLIENT_ID,
      client_secret: secrets.TAILSCALE_OAUTH_CLIENT_SECRET,
      grant_type: 'client_credentials',
    }),
  });
  assert.equal(token.status, 200);
  assert.deepEqual(scenario.vendors.requests.map(({ method }) => method), ['GET', 'POST']);
});
