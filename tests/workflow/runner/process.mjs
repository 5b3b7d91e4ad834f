// One step's entry process: its lines, its end, and how it is cancelled.
//
// https://github.com/actions/runner/blob/main/src/Runner.Sdk/ProcessInvoker.cs

import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { StringDecoder } from 'node:string_decoder';
import { setTimeout as sleep } from 'node:timers/promises';

/// How long an open stream is waited for once the process has ended, and how long each signal is
/// given, in the runner's seconds.
const STREAMS = 5;
const SIGINT = 7.5;
const SIGTERM = 2.5;

/// Runs a command to its end; its exit code. `line` gets each line that it prints.
///
/// When `signal` aborts, the process itself (not its children) gets SIGINT, then SIGTERM, then
/// SIGKILL. Rejects when the command cannot be started.
export async function runProcess({ command, args, cwd, env, line, signal, secondMs }) {
  const child = spawn(command, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
  const streams = [child.stdout, child.stderr].map((stream) => readLines(stream, line));
  const exited = new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code, name) => resolve(code ?? 128 + constants.signals[name]));
  });
  // What holds a stream open after the process has ended is not waited for longer than this.
  const ended = exited.then(async (code) => {
    const patience = new AbortController();
    await Promise.race([
      Promise.all(streams.map((it) => it.closed)),
      sleep(STREAMS * secondMs, null, { signal: patience.signal }).catch(() => {}),
    ]);
    patience.abort();
    for (const stream of streams) stream.leave();
    return code;
  });
  const cancel = async () => {
    for (const [name, seconds] of [['SIGINT', SIGINT], ['SIGTERM', SIGTERM]]) {
      // False once it has ended: then there is nothing to wait for.
      if (!child.kill(name)) continue;
      await Promise.race([ended.catch(() => {}), sleep(seconds * secondMs, null, { ref: false })]);
    }
    child.kill('SIGKILL');
  };
  signal.addEventListener('abort', cancel);
  try {
    return await ended;
  } finally {
    signal.removeEventListener('abort', cancel);
  }
}

function readLines(stream, line) {
  const decoder = new StringDecoder('utf8');
  let rest = '';
  let listening = true;
  const tell = (text) => listening && line(text);
  stream.on('data', (bytes) => {
    const lines = (rest + decoder.write(bytes)).split(/\r?\n/);
    rest = lines.pop();
    lines.forEach(tell);
  });
  const closed = new Promise((resolve) => {
    stream.on('close', () => {
      rest += decoder.end();
      if (rest !== '') tell(rest);
      resolve();
    });
  });
  // Still read, or whoever holds the other end would block or die of it.
  const leave = () => {
    listening = false;
    stream.unref();
  };
  return { closed, leave };
}
