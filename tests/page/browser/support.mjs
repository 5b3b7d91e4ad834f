// A Chromium for all tests, a page that minds its console, and the world behind it.

import assert from 'node:assert/strict';
import { createHmac, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, connect } from 'node:net';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const packages = process.env.BACKSTOP_NODE_MODULES;
const require = createRequire(join(packages, 'any.js'));
const { chromium } = require('playwright-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

export const { EMPTY_URL, BUSY_URL, NIGHT_URL, SIM_URL, READ_TOKEN, OPERATOR_TOKEN, CALLBACK_SECRET } = process.env;
export const TAG = 'tag:agent';
/** How long anything that happens by itself may take on a slow machine. */
export const PATIENCE = 20_000;

let browser;

export async function launch() {
  browser = await chromium.launch({
    executablePath: process.env.BACKSTOP_CHROMIUM,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-component-update',
      '--disable-background-networking', '--disable-sync', '--font-render-hinting=none',
    ],
  });
}

export const close = () => browser.close();

/**
 * A page of a session of its own. Whatever its console calls an error is kept, and a test fails by it
 * unless it has said what it expects.
 */
export async function open(t, base, options = {}) {
  const context = await browser.newContext({
    baseURL: base, viewport: { width: 1280, height: 900 }, locale: 'en-GB', timezoneId: 'UTC', ...options,
  });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  page.errors = [];
  page.on('console', (message) => message.type() === 'error' && page.errors.push(message.text()));
  page.on('pageerror', (error) => page.errors.push(String(error)));
  t.after(() => context.close());
  return page;
}

export async function signIn(page, token = OPERATOR_TOKEN, to = '/') {
  await page.goto(to);
  await page.getByLabel('Token').fill(token);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('button', { name: 'Sign out' }).waitFor();
}

export const isLive = (page) => page.locator('#state[data-state="live"]').waitFor();

export async function check(page, expected = []) {
  const unexpected = page.errors.filter((error) => !expected.some((it) => it.test(error)));
  assert.deepEqual(unexpected, [], 'errors in the console');
  await page.evaluate(axe);
  const { violations } = await page.evaluate('axe.run()');
  const found = violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.html).join('\n')}`);
  assert.deepEqual(found, [], 'axe-core');
}

/** What is wider than the screen makes a phone scroll sideways. */
export async function fits(page) {
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  const { width } = page.viewportSize();
  assert.ok(wide <= width, `${wide} pixels on a screen of ${width}`);
}

/** Waits until a condition holds; no test waits for a time. */
export async function until(what, holds) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const value = await holds();
    if (value) return value;
    assert.ok(Date.now() < end, `not within ${PATIENCE} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// ---- the world

async function send(url, options) {
  const answer = await fetch(url, options);
  const text = await answer.text();
  assert.ok(answer.ok, `${options?.method ?? 'GET'} ${url}: ${answer.status} ${text}`);
  return text && JSON.parse(text);
}

export const sim = (method, path, body) =>
  send(SIM_URL + path, {
    method, headers: { 'content-type': 'application/json' }, body: body && JSON.stringify(body),
  });

/** A workflow's run, as the service hears it. */
export class Workflow {
  static #runs = 880_000;

  constructor(agent, base = BUSY_URL) {
    this.agent = agent;
    this.base = base;
    this.id = randomUUID();
    this.run = Workflow.#runs++;
  }

  async callback(kind, fields = {}) {
    const body = JSON.stringify({ type: kind, provision_id: this.id, run_id: this.run, ...fields });
    const [message, at] = [`msg_${randomUUID()}`, Math.floor(Date.now() / 1000)];
    const key = Buffer.from(CALLBACK_SECRET.replace('whsec_', ''), 'base64');
    const mac = createHmac('sha256', key).update(`${message}.${at}.${body}`).digest('base64');
    return send(`${this.base}/v1/provisions/${this.id}/callbacks/${kind}`, {
      method: 'POST',
      headers: {
        'content-type': 'application/json', 'webhook-id': message, 'webhook-timestamp': String(at),
        'webhook-signature': `v1,${mac}`,
      },
      body,
    });
  }

  /** Starts, and makes all that it is told to. */
  async make() {
    const told = await this.callback('started', { agent_id: this.agent, region: 'fsn1' });
    const key = await sim('POST', '/sim/keys', { description: told.tailscale.key_description, tags: [TAG] });
    const server = await sim('POST', '/sim/servers', { name: told.server_name, labels: told.labels });
    const device = await sim('POST', '/sim/devices', { hostname: told.server_name, tags: [TAG] });
    this.ids = {
      server_id: String(server.id), server_ip: '198.51.100.23', tailscale_ip: '100.64.0.23',
      tailscale_key_id: key.id, tailscale_node_id: device.nodeId,
    };
    await this.callback('progress', { step: 'vm_created', ...this.ids });
    return this;
  }

  fail(step = 'configure', error = 'ansible: task failed') {
    return this.callback('failure', { failed_step: step, error, ...this.ids });
  }
}

/** A road to a service that can be cut. */
export async function road(t, base) {
  const { hostname, port } = new URL(base);
  const open = new Set();
  let cut = false;
  const server = createServer((near) => {
    if (cut) return near.destroy();
    const far = connect(Number(port), hostname);
    for (const [one, other] of [[near, far], [far, near]]) {
      open.add(one);
      one.on('error', () => other.destroy());
      one.on('close', () => { open.delete(one); other.destroy(); });
      one.pipe(other);
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const close = () => { for (const socket of open) socket.destroy(); };
  t.after(() => { close(); server.close(); });
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cut() { cut = true; close(); },
    mend() { cut = false; },
  };
}

// ---- pictures

const folder = process.env.BACKSTOP_PICTURES;

/** Takes a picture if somebody wants to look. */
export async function picture(page, name, options = {}) {
  if (folder) await page.screenshot({ path: join(folder, `${name}.png`), animations: 'disabled', ...options });
}
