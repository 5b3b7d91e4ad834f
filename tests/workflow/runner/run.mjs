// A run of a workflow: its jobs in the order of their needs, and what can befall all of them.

import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { atExit } from './cleanup.mjs';
import { githubContext } from './contexts.mjs';
import { boolean, holds, text } from './expressions.mjs';
import { checkSecrets, takeInputs } from './inputs.mjs';
import { JobRun } from './job.mjs';
import { WorkflowError, fields } from './workflow.mjs';

const MOMENTS = ['start', 'effect', 'end'];
const FAULTS = ['fail', 'hang', undefined];

/// A run that has not begun; README.md has the options. Throws a `WorkflowError` for what GitHub would
/// refuse, and an `Error` for names that the workflow does not have.
export function createRun(workflow, options = {}) {
  return new Run(workflow, options);
}

class Run {
  #results = {};
  #running = new Map();
  #listeners = [];
  #cancelled = false;
  #forced = false;
  #called;

  constructor(workflow, options) {
    this.workflow = workflow;
    this.options = { minuteMs: 60_000, secondMs: 1000, actions: {}, faults: {}, env: {}, ...options };
    const event = options.event ?? ['workflow_dispatch', 'workflow_call'].find((it) => workflow.on[it]);
    this.inputs = takeInputs(workflow, event, options.inputs ?? {});
    this.vars = options.vars ?? {};
    this.secrets = { GITHUB_TOKEN: `ghs_${randomBytes(18).toString('hex')}`, ...options.secrets };
    this.#called = event === 'workflow_call';
    if (this.#called) checkSecrets(workflow, this.secrets);
    this.github = githubContext(workflow, event, this.inputs, options.github ?? {});
    for (const job of workflow.jobs) this.#check(job);
    for (const [step, fault] of Object.entries(this.options.faults)) {
      this.#find(step);
      if (![fault.before, fault.after].every((it) => FAULTS.includes(it))) {
        throw new Error(`no such fault: ${JSON.stringify(fault)}`);
      }
    }
  }

  /// Calls the listener at a moment of a step, and waits for it.
  on(step, moment, listener) {
    this.#find(step);
    if (!MOMENTS.includes(moment)) throw new Error(`no such moment: ${moment}`);
    this.#listeners.push({ step, moment, listener });
    return this;
  }

  /// Runs it to its end. Rejects only for what a listener threw.
  async go() {
    this.folder = mkdtempSync(join(tmpdir(), 'workflow-run-'));
    const remove = () => {
      if (!this.options.keep) rmSync(this.folder, { recursive: true, force: true, maxRetries: 3 });
    };
    const forget = atExit(remove);
    try {
      const concurrency = this.workflow.concurrency && this.concurrency(this.workflow.concurrency);
      const settled = new Map();
      const settle = (job) => {
        if (!settled.has(job.id)) settled.set(job.id, this.#settle(job, settle));
        return settled.get(job.id);
      };
      await Promise.all(this.workflow.jobs.map(settle));
      const all = Object.values(this.#results);
      return {
        conclusion: this.#conclusion(),
        jobs: this.#results,
        outputs: this.#outputs(),
        log: all.map((job) => job.log).join(''),
        summary: all.map((job) => job.summary).join(''),
        concurrency,
        folder: this.options.keep ? this.folder : undefined,
      };
    } finally {
      this.forceCancel();
      forget();
      remove();
    }
  }

  /// As "Cancel workflow". A job whose condition still holds goes on.
  cancel() {
    if (this.#cancelled) return;
    this.#cancelled = true;
    for (const running of this.#running.values()) {
      if (!this.#holds(running.job)) {
        running.cancel(`The run was canceled by @${this.github.triggering_actor}.`);
      }
    }
  }

  /// The minutes of this job are up now.
  timeOutJob(id) {
    this.#runningJob(id).cancel('The job has exceeded its maximum execution time.');
  }

  /// The minutes of the step that this job is at are up now.
  timeOutStep(id) {
    this.#runningJob(id).timeOutStep();
  }

  /// As the call "force-cancel": conditions are not asked.
  forceCancel() {
    this.#cancelled = true;
    this.#forced = true;
    for (const running of this.#running.values()) running.kill('cancelled');
  }

  /// The machine of this job, or of every job that runs now, is gone.
  killRunner(id) {
    if (id !== undefined) this.#runningJob(id);
    for (const running of this.#running.values()) {
      if (id === undefined || id === running.job.id) running.kill('failure');
    }
  }

  /// For jobs: the fault of one of their steps.
  fault(job, step) {
    return this.options.faults[step.id] ?? this.options.faults[`${job.id}/${step.id}`] ?? {};
  }

  /// For jobs: tells the listeners of this moment.
  async tell(job, step, moment, record) {
    for (const it of this.#listeners) {
      if (it.moment !== moment || ![step.id, `${job.id}/${step.id}`].includes(it.step)) continue;
      await it.listener({ job: job.id, step: step.id, moment, outputs: record.outputs });
    }
  }

  /// The group of a `concurrency`, which is recorded only.
  concurrency(token, contexts = this.#contexts({})) {
    return text(token.isScalar ? token : fields(token).group, contexts);
  }

  #runningJob(id) {
    const job = this.#running.get(id);
    if (!job) throw new Error(`job ${id} does not run now`);
    return job;
  }

  #check(job) {
    for (const step of job.steps) {
      if (step.uses && !this.options.actions[step.uses.split('@')[0]]) {
        throw new WorkflowError(`no stand-in for the action ${step.uses}`);
      }
    }
    const token = job.permissions === 'write-all' || job.permissions['id-token'] === 'write';
    if (token && !this.options.issuer) {
      throw new WorkflowError(`job ${job.id} may ask for tokens, and there is no issuer`);
    }
  }

  #find(name) {
    const named = (job, step) => name === step.id || name === `${job.id}/${step.id}`;
    const found = this.workflow.jobs.flatMap((job) => job.steps.filter((step) => named(job, step)));
    if (found.length !== 1) throw new Error(`${found.length} steps are called ${name}`);
  }

  async #settle(job, settle) {
    for (const need of job.needs) await settle(this.workflow.jobs.find((it) => it.id === need));
    const result = { result: null, outputs: {}, summary: '', log: '', annotations: [], steps: {} };
    this.#results[job.id] = result;
    if (this.#forced) {
      result.result = 'cancelled';
      return;
    }
    try {
      if (!this.#holds(job)) {
        result.result = 'skipped';
        return;
      }
    } catch (error) {
      result.annotations.push({ level: 'error', message: error.message });
      result.result = 'failure';
      return;
    }
    const began = performance.now();
    const running = new JobRun(job, this, this.#seen(job.needs), result);
    this.#running.set(job.id, running);
    try {
      await running.go();
    } catch (error) {
      this.forceCancel();
      throw error;
    } finally {
      this.#running.delete(job.id);
      result.durationMs = performance.now() - began;
    }
    if (result.result === 'failure' && boolean(job.continueOnError, this.#contexts(this.#seen(job.needs)))) {
      result.forgiven = true;
    }
  }

  /// Whether a job's condition holds now. `success()` asks all jobs before it, however far.
  #holds(job) {
    const before = this.#ancestors(job).map((id) => this.#results[id]);
    return holds(job.condition, this.#contexts(this.#seen(job.needs)), {
      always: () => true,
      success: () => !this.#cancelled && before.every((it) => seen(it) === 'success'),
      failure: () => !this.#cancelled && before.some((it) => seen(it) === 'failure'),
      cancelled: () => this.#cancelled,
    });
  }

  #ancestors(job) {
    const jobs = job.needs.map((id) => this.workflow.jobs.find((it) => it.id === id));
    return [...new Set(jobs.flatMap((it) => [it.id, ...this.#ancestors(it)]))];
  }

  #contexts(needs) {
    return { github: this.github, inputs: this.inputs, vars: this.vars, needs };
  }

  /// Jobs as the `needs` and `jobs` contexts have them.
  #seen(ids) {
    return Object.fromEntries(
      ids.map((id) => {
        const { outputs } = this.#results[id];
        return [id, { result: seen(this.#results[id]), outputs }];
      }),
    );
  }

  /// What a called workflow gives its caller.
  #outputs() {
    if (!this.#called) return {};
    const jobs = this.#seen(this.workflow.jobs.map((job) => job.id));
    const contexts = { ...this.#contexts({}), jobs };
    const declared = Object.entries(fields(this.workflow.on.workflow_call.outputs));
    return Object.fromEntries(
      declared.map(([name, output]) => [name, text(fields(output).value, contexts)]),
    );
  }

  #conclusion() {
    const results = Object.values(this.#results).map(seen);
    if (this.#cancelled && results.includes('cancelled')) return 'cancelled';
    return ['failure', 'cancelled', 'success'].find((it) => results.includes(it)) ?? 'skipped';
  }
}

/// A job's result as others see it: with `continue-on-error` a failure is none.
function seen({ result, forgiven }) {
  return forgiven ? 'success' : result;
}
