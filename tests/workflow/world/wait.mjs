// Waiting for what somebody else does.

import { setTimeout as sleep } from 'node:timers/promises';

/// Asks until the answer is neither null nor undefined nor false, and returns it. Rejects after
/// `within` milliseconds, saying what was waited for.
export async function waitFor(what, ask, within = 10_000) {
  const deadline = Date.now() + within;
  for (;;) {
    const answer = await ask();
    if (answer !== null && answer !== undefined && answer !== false) return answer;
    if (Date.now() > deadline) throw new Error(`waited ${within} ms in vain: ${what}`);
    await sleep(10);
  }
}
