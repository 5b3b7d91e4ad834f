// backstop and simulated vendors, as a workflow meets them.

import { randomUUID } from 'node:crypto';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { atExit } from '../runner/cleanup.mjs';
import { startProgram } from './program.mjs';
import { startProxy } from './proxy.mjs';
import { waitFor } from './wait.mjs';

const SECRET = 'whsec_dGVzdC1zZWNyZXQtb25lLXRlc3Qtc2VjcmV0LW9uZQ==';
const OPERATOR = 'operator-token';
/// How long a rollback may take on a slow machine.
const PATIENCE_MS = 60_000;
const JSON_BODY = { 'content-type': 'application/json' };

/// Quick enough for tests.
const SERVE = {
  BACKSTOP_LISTEN: '127.0.0.1:0',
  BACKSTOP_CALLBACK_SECRETS: SECRET,
  BACKSTOP_OPERATOR_TOKEN: OPERATOR,
  BACKSTOP_RETRY_BASE: '50ms',
  BACKSTOP_RETRY_CAP: '500ms',
  BACKSTOP_LATE_ARRIVAL_WINDOW: '2s',
};

/// Starts both programs; `serve` and `sim` are more environment for them.
export async function startWorld({ serve = {}, sim = {} } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'workflow-world-'));
  // Started by root, Postgres runs as somebody who must get in.
  chmodSync(folder, 0o711);
  const removeFolder = () => rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
  const forget = atExit(removeFolder);
  const remove = () => {
    forget();
    removeFolder();
  };
  const { DATABASE_URL } = process.env;
  const vendors = await startProgram(['sim', '--listen', '127.0.0.1:0'], sim);
  try {
    const backstop = await startProgram(['serve'], {
      ...vendors.exported,
      ...(DATABASE_URL ? { DATABASE_URL } : { BACKSTOP_DATA_DIR: join(folder, 'data') }),
      ...SERVE,
      ...serve,
    });
    const world = new World(vendors, backstop, remove);
    await world.addForeigners();
    return world;
  } catch (error) {
    await vendors.stop();
    remove();
    throw error;
  }
}

class World {
  #proxies = [];
  #foreigners;
  #remove;

  constructor(vendors, backstop, remove) {
    this.vendors = vendors;
    this.backstop = backstop;
    this.#remove = remove;
  }

  /// A provision that nobody has heard of, with its own way to backstop and to the vendors.
  async scenario() {
    const [backstop, vendors] = await Promise.all(
      [this.backstop.url, this.vendors.url].map((url) => startProxy(url)),
    );
    this.#proxies.push(backstop, vendors);
    const { exported, url } = this.vendors;
    const through = (address) => address.replace(url, vendors.url);
    return {
      provisionId: randomUUID(),
      backstop,
      vendors,
      settings: () => ({
        vars: {
          BACKSTOP_URL: backstop.url,
          HCLOUD_ENDPOINT: through(exported.HCLOUD_ENDPOINT),
          TAILSCALE_BASE_URL: through(exported.TAILSCALE_BASE_URL),
          TAILSCALE_TAILNET: exported.TAILSCALE_TAILNET,
        },
        secrets: {
          BACKSTOP_CALLBACK_SECRET: SECRET,
          HCLOUD_TOKEN: exported.HCLOUD_TOKEN,
          TAILSCALE_OAUTH_CLIENT_ID: exported.TAILSCALE_OAUTH_CLIENT_ID,
          TAILSCALE_OAUTH_CLIENT_SECRET: exported.TAILSCALE_OAUTH_CLIENT_SECRET,
        },
      }),
    };
  }

  /// The status API's record; null if it has none.
  async provision(id) {
    const answer = await this.api(`/v1/provisions/${id}`);
    if (answer.status === 404) return null;
    return json(answer);
  }

  /// The provision's history, oldest first.
  async events(id) {
    return (await json(await this.api(`/v1/provisions/${id}/events`))).events;
  }

  /// Waits until a provision's rollback is done; the record.
  settled(id, { within = PATIENCE_MS } = {}) {
    return waitFor(
      `the rollback of ${id}`,
      async () => {
        const provision = await this.provision(id);
        return provision?.rollback?.state === 'done' && provision;
      },
      within,
    );
  }

  /// Other people's things in the same project and tailnet, none of which says whose it is.
  async addForeigners() {
    const add = async (path, body) =>
      json(await this.sim(path, { method: 'POST', body: JSON.stringify(body), headers: JSON_BODY }));
    this.#foreigners = {
      servers: [await add('/sim/servers', { name: 'database' })],
      keys: [
        await add('/sim/keys', { description: '' }),
        await add('/sim/keys', { description: 'laptops', tags: ['tag:agent'] }),
      ],
      devices: [
        await add('/sim/devices', { hostname: 'laptop' }),
        await add('/sim/devices', { hostname: 'agent-of-others', tags: ['tag:agent'] }),
      ],
    };
  }

  /// Which of other people's things are gone.
  async lostForeigners() {
    const { servers, devices, keys } = await json(await this.sim('/sim/state'));
    const { servers: theirs, devices: machines, keys: secrets } = this.#foreigners;
    return [
      ...theirs.filter(({ id }) => !servers.some((it) => it.id === id)),
      ...machines.filter(({ nodeId }) => !devices.some((it) => it.node_id === nodeId)),
      ...secrets.filter(({ id }) => !keys.some((it) => it.id === id && !it.revoked)),
    ];
  }

  /// What exists at the vendors for a provision, whatever the attempt. Keys that are spent or revoked
  /// let nobody in, and do not count.
  async leftovers(id) {
    const { servers, devices, keys } = await json(await this.sim('/sim/state'));
    const hex = id.replaceAll('-', '');
    return {
      servers: servers.filter((it) => it.labels['backstop-provision'] === id),
      devices: devices.filter((it) => it.hostname.startsWith(`agent-${hex}-a`)),
      keys: keys.filter(
        (it) => it.description.startsWith(`backstop ${hex}-a`) && !it.revoked && !it.used,
      ),
    };
  }

  /// A call to the simulation, past the proxies.
  sim(path, init) {
    return fetch(this.vendors.url + path, init);
  }

  /// A call to the status API as an operator, past the proxies.
  api(path, init = {}) {
    const headers = { ...init.headers, authorization: `Bearer ${OPERATOR}` };
    return fetch(this.backstop.url + path, { ...init, headers });
  }

  async stop() {
    await Promise.all(this.#proxies.map((proxy) => proxy.stop()));
    await this.backstop.stop();
    await this.vendors.stop();
    this.#remove();
  }
}

async function json(answer) {
  if (!answer.ok) throw new Error(`${answer.url}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}
