// A forwarding proxy in front of one upstream, that breaks what it is told to.

import { once } from 'node:events';
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

/// Below the range from which the system takes the ports of connections: one that is given up for a
/// while can be had again.
const PORTS = { from: 20_000, to: 30_000 };
const TRIES = 50;

const HOP_BY_HOP = ['connection', 'keep-alive', 'transfer-encoding', 'upgrade'];

/// Starts one on loopback.
export async function startProxy(upstream) {
  const proxy = new Proxy(new URL(upstream));
  await proxy.start();
  return proxy;
}

class Proxy {
  /// Each request in the order of their arrival: `{method, path, headers, body, status, fate}`.
  requests = [];
  #upstream;
  #server;
  #sockets = new Set();
  #rules = [];
  #resetting = false;
  #stopped = false;

  constructor(upstream) {
    this.#upstream = upstream;
  }

  async start() {
    for (let tries = 1; ; tries += 1) {
      const port = PORTS.from + Math.floor(Math.random() * (PORTS.to - PORTS.from));
      try {
        await this.#listen(port);
        this.port = port;
        return;
      } catch (error) {
        if (error.code !== 'EADDRINUSE' || tries === TRIES) throw error;
      }
    }
  }

  /// Its address, with the path of the upstream's.
  get url() {
    return `http://127.0.0.1:${this.port}${this.#upstream.pathname}`.replace(/\/$/, '');
  }

  /// Connections are refused for so long, and those that are open are reset.
  async down(ms) {
    await this.#close();
    await sleep(ms);
    if (!this.#stopped) await this.#listen(this.port);
  }

  /// Connections are accepted and reset for so long.
  async reset(ms) {
    this.#resetting = true;
    for (const socket of this.#sockets) socket.resetAndDestroy();
    await sleep(ms);
    this.#resetting = false;
  }

  /// The answer of what matches is lost after it took effect.
  drop(match) {
    return this.#rule(match, { drop: true });
  }

  /// What matches takes effect, and something in between answers instead.
  replace({ status = 200, body = '', ...match }) {
    return this.#rule(match, { replaced: { status, body } });
  }

  /// What matches is answered here and has no effect.
  fail({ status = 503, body = '', ...match }) {
    return this.#rule(match, { status, body });
  }

  /// What matches is forwarded later.
  delay({ ms, ...match }) {
    return this.#rule(match, { ms });
  }

  /// Calls the listener `before` what matches is forwarded, or `after` it took effect and before
  /// anybody knows, and waits for it.
  on(match, moment, listener) {
    if (!['before', 'after'].includes(moment)) throw new Error(`no such moment: ${moment}`);
    return this.#rule(match, { [moment]: listener });
  }

  /// Nothing is broken any more.
  clear() {
    this.#rules = [];
  }

  async stop() {
    this.#stopped = true;
    await this.#close();
  }

  async #close() {
    // It may be down already.
    if (!this.#server.listening) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    for (const socket of this.#sockets) socket.resetAndDestroy();
    await closed;
  }

  #rule({ method, path, nth }, what) {
    const rule = { ...what, hits: 0 };
    rule.matches = (request) => {
      if (method && method !== request.method) return false;
      if (path && !path.test(request.path)) return false;
      rule.hits += 1;
      return nth === undefined || nth === rule.hits;
    };
    this.#rules.push(rule);
    return this;
  }

  async #listen(port) {
    const server = http.createServer((request, response) => {
      this.#serve(request, response).catch((error) => {
        request.socket.resetAndDestroy();
        // What a listener throws is the test's failure; what the network does has a code.
        if (!error.code || error.code === 'ERR_ASSERTION') queueMicrotask(() => Promise.reject(error));
      });
    });
    server.on('connection', (socket) => {
      if (this.#resetting) return socket.resetAndDestroy();
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
    });
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    // A test that forgets it must not hang.
    server.unref();
    this.#server = server;
  }

  async #serve(incoming, response) {
    const body = await read(incoming);
    const request = {
      method: incoming.method, path: incoming.url, headers: incoming.headers, body: body.toString(),
    };
    const entry = { ...request, status: null, fate: 'unanswered' };
    this.requests.push(entry);
    // Every rule counts every request that it matches, whatever the others do.
    const rules = this.#rules.filter((rule) => rule.matches(request));
    for (const { before, ms } of rules) {
      if (before) await before(entry);
      if (ms) await sleep(ms);
    }
    const failing = rules.find(({ status }) => status);
    if (failing) {
      Object.assign(entry, { status: failing.status, fate: 'failed' });
      response.writeHead(failing.status).end(failing.body);
      return;
    }

    const answer = await this.#forward(incoming, body);
    entry.status = answer.status;
    for (const { after } of rules) if (after) await after(entry);
    if (rules.some(({ drop }) => drop)) {
      entry.fate = 'dropped';
      incoming.socket.resetAndDestroy();
      return;
    }
    const { replaced } = rules.find((rule) => rule.replaced) ?? {};
    if (replaced) {
      entry.fate = 'replaced';
      response.writeHead(replaced.status, { 'content-type': 'text/html' }).end(replaced.body);
      return;
    }
    entry.fate = 'forwarded';
    response.writeHead(answer.status, answer.headers).end(answer.body);
  }

  async #forward({ method, url, headers }, body) {
    const { hostname, port } = this.#upstream;
    const sent = http.request({
      hostname, port, method, path: url, headers: { ...end(headers), 'content-length': body.length },
      agent: false,
    });
    sent.end(body);
    const [answer] = await once(sent, 'response');
    return { status: answer.statusCode, headers: end(answer.headers), body: await read(answer) };
  }
}

/// The headers that are for the other end, not for the connection.
function end(headers) {
  return Object.fromEntries(
    Object.entries(headers).filter(([name]) => !HOP_BY_HOP.includes(name)),
  );
}

async function read(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}
