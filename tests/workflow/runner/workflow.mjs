// A workflow file, read and checked by GitHub's parser.
//
// Values that may hold expressions stay the parser's tokens until they are evaluated; everything else
// is plain. What this runner does not model is refused here, rather than run wrongly.

import { readFile } from 'node:fs/promises';
import { relative, resolve } from 'node:path';

import { NoOperationTraceWriter, convertWorkflowTemplate, parseWorkflow } from './packages.mjs';
import { repository } from './repository.mjs';

export class WorkflowError extends Error {
  name = 'WorkflowError';
}

/// Reads a file, relative to the repository. Rejects with a `WorkflowError`.
export async function loadWorkflow(path) {
  const absolute = resolve(repository, path);
  return readWorkflow(await readFile(absolute, 'utf8'), relative(repository, absolute));
}

/// The same from a text; `path` is what the file would be called in the repository.
export async function readWorkflow(content, path) {
  const { context, value } = parseWorkflow({ name: path, content }, new NoOperationTraceWriter());
  const template = value && (await convertWorkflowTemplate(context, value));
  const errors = context.errors.getErrors().map((error) => error.message);
  if (errors.length > 0) throw new WorkflowError(`${path}: ${errors.join('; ')}`);

  const root = fields(value);
  const name = root.name?.toString() || path;
  const jobs = template.jobs.map((job) => readJob(job, fields(root.jobs)[job.id.value], root));
  for (const { id, unsupported } of jobs) {
    const what = Object.keys(unsupported).filter((key) => unsupported[key]);
    if (what.length > 0) throw new WorkflowError(`${path}: job ${id}: ${what} is not modelled`);
  }
  return { path, name, on: events(root.on), env: root.env, concurrency: root.concurrency, jobs };
}

function readJob(job, token, root) {
  const own = fields(token);
  const steps = job.steps ?? [];
  return {
    id: job.id.value,
    needs: (job.needs ?? []).map((need) => need.value),
    condition: job.if.expression,
    env: own.env,
    outputs: own.outputs,
    // A job's own permissions replace the workflow's, they are not merged.
    permissions: permissions(own.permissions ?? root.permissions),
    run: { ...runDefaults(root.defaults), ...runDefaults(own.defaults) },
    timeoutMinutes: own['timeout-minutes'],
    cancelTimeoutMinutes: own['cancel-timeout-minutes'],
    continueOnError: own['continue-on-error'],
    concurrency: own.concurrency,
    environment: own.environment?.isScalar ? own.environment : fields(own.environment).name,
    steps: steps.map((step, index) => readStep(step, fields([...own.steps][index]))),
    unsupported: {
      'a reusable workflow': own.uses,
      'a strategy': own.strategy,
      'a container': own.container,
      'a service': own.services,
      'a step in the background': steps.some(
        (step) => step.background || !(step.run || step.uses),
      ),
    },
  };
}

function readStep(step, own) {
  return {
    id: step.id,
    name: own.name,
    condition: step.if.expression,
    env: own.env,
    run: own.run,
    uses: own.uses?.value,
    with: own.with,
    shell: own.shell,
    workingDirectory: own['working-directory'],
    timeoutMinutes: own['timeout-minutes'],
    continueOnError: own['continue-on-error'],
  };
}

/// The tokens of a mapping by key; empty where there is none.
export function fields(mapping) {
  if (!mapping?.[Symbol.iterator]) return {};
  return Object.fromEntries([...mapping].map(({ key, value }) => [key.toString(), value]));
}

function runDefaults(token) {
  return fields(fields(token).run);
}

/// By event, its settings: `on: push`, `on: [push]` and `on: {push: …}` are the same.
function events(token) {
  if (token.isScalar) return { [token.toString()]: {} };
  const names = [...token];
  if (names.every((it) => it.isScalar)) {
    return Object.fromEntries(names.map((it) => [it.toString(), {}]));
  }
  return Object.fromEntries(Object.entries(fields(token)).map(([name, it]) => [name, fields(it)]));
}

function permissions(token) {
  if (token?.isScalar) return token.toString();
  return Object.fromEntries(
    Object.entries(fields(token)).map(([scope, level]) => [scope, level.toString()]),
  );
}
