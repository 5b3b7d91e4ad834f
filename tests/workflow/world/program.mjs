// `backstop serve` and `backstop sim` as child processes, which end with us.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { atExit } from '../runner/cleanup.mjs';
import { repository } from '../runner/index.mjs';

const BINARY = process.env.BACKSTOP_BIN || join(repository, 'target/debug/backstop');
/// All that a program gets of our environment: the rest is what the test says.
const KEPT = ['PATH', 'HOME', 'TMPDIR', 'PG_BINDIR', 'BACKSTOP_POSTGRES', 'RUST_LOG'];
/// The private Postgres of a machine without any is fetched first.
const START_MS = 300_000;
const STOP_MS = 20_000;
const LOG_LIMIT = 1_000_000;

/// Starts a program and waits for its address: `{url, exported, log(), stop(), kill()}`, with what it
/// printed for exporting. Rejects with what it logged when it ends without an address.
export async function startProgram(args, environment) {
  const env = Object.fromEntries(
    KEPT.filter((name) => process.env[name]).map((name) => [name, process.env[name]]),
  );
  const child = spawn(BINARY, args, {
    env: { ...env, ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const forget = atExit(() => child.kill('SIGKILL'));
  const exited = once(child, 'exit').finally(forget);
  let log = '';
  child.stderr.on('data', (bytes) => {
    log = (log + bytes).slice(-LOG_LIMIT);
  });

  const exported = {};
  const address = new Promise((resolve) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      const [, name, value] = /^export (\w+)=(.*)$/.exec(line) ?? [];
      if (name) exported[name] = value;
      if (line.startsWith('listening on ')) resolve(line.slice('listening on '.length));
    });
  });
  const url = await Promise.race([
    address,
    exited.then(([code]) => Promise.reject(new Error(`${args} ended with ${code}:\n${log}`))),
    late(START_MS, () => new Error(`${args} printed no address:\n${log}`)),
  ]);

  // A test that fails before it stops us must not hang: it ends, and we with it.
  const handles = [child, child.stdout, child.stderr];
  for (const handle of handles) handle.unref();
  const end = async (signal) => {
    for (const handle of handles) handle.ref();
    child.kill(signal);
    await exited;
  };
  return {
    url,
    exported,
    log: () => log,
    kill: () => end('SIGKILL'),
    stop: async () => {
      const stopped = await Promise.race([end('SIGTERM'), sleep(STOP_MS, 'late', { ref: false })]);
      if (stopped !== 'late') return;
      await end('SIGKILL');
      throw new Error(`${args} did not stop:\n${log}`);
    },
  };
}

async function late(ms, error) {
  await sleep(ms, null, { ref: false });
  throw error();
}
