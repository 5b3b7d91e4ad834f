// Processes of a job, found as the runner finds orphans: by a variable that they all inherit.
//
// https://github.com/actions/runner/blob/main/src/Runner.Worker/JobExtension.cs

import { readFileSync, readdirSync } from 'node:fs';

const PATIENCE_MS = 5000;

/// Kills every process whose RUNNER_TRACKING_ID is this, and what they start meanwhile.
export function killTracked(trackingId) {
  const deadline = Date.now() + PATIENCE_MS;
  // One that was just forked may have been missed; it is there the next time.
  for (let found = tracked(trackingId); found.length > 0; found = tracked(trackingId)) {
    if (Date.now() > deadline) throw new Error(`processes ${found} survive SIGKILL`);
    for (const pid of found) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch (error) {
        if (error.code !== 'ESRCH') throw error;
      }
    }
  }
}

/// Their ids.
function tracked(trackingId) {
  const variable = `RUNNER_TRACKING_ID=${trackingId}`;
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => read(`/proc/${pid}/environ`).split('\0').includes(variable))
    .filter(runs)
    .map(Number);
}

/// Whether there is such a process that is not dead and merely unburied.
export function runs(pid) {
  return / [^ZX] /.test(/\) . /.exec(read(`/proc/${pid}/stat`))?.[0]);
}

/// Empty for a process that has ended or is somebody else's.
function read(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
