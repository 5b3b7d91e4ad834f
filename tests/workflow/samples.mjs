// For the runner's own tests: runs a file of samples/, with time scaled down.

import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { createRun, loadWorkflow } from './runner/index.mjs';
import { waitFor } from './world/wait.mjs';

/// A run of a sample that has not begun.
export async function sample(name, options = {}) {
  const workflow = await loadWorkflow(`tests/workflow/samples/${name}.yml`);
  return createRun(workflow, { secondMs: 40, ...options });
}

/// Runs a sample to its end; the result.
export async function runSample(name, options = {}) {
  return (await sample(name, options)).go();
}

/// The same result each time, of a run that no test disturbs.
export function once(work) {
  let result;
  return () => (result ??= work());
}

/// How each step of a job ended.
export function outcomes(job) {
  return Object.fromEntries(Object.entries(job.steps).map(([id, { outcome }]) => [id, outcome]));
}

/// Waits until a step of each of these jobs has made the file `ready`.
export function ready(run, ...jobs) {
  return waitFor(`${jobs} are ready`, () =>
    jobs.every((job) => run.folder && existsSync(join(run.folder, job, '_temp', 'ready'))),
  );
}
