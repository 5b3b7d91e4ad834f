// One job on one runner: a fresh place, its steps in order, and the ways in which it ends.
//
// https://github.com/actions/runner/blob/main/src/Runner.Worker/StepsRunner.cs

import { randomUUID } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

import { atExit } from './cleanup.mjs';
import { claims, jobContext, runnerContext, runnerVariables } from './contexts.mjs';
import { boolean, holds, number, text, texts } from './expressions.mjs';
import { makeFiles, readFiles } from './files.mjs';
import { Masks } from './masks.mjs';
import { killTracked } from './processes.mjs';
import { StepRecord } from './record.mjs';
import { displayName, runAction, runScript } from './work.mjs';

const TIMEOUT_MINUTES = 360;
const CANCEL_TIMEOUT_MINUTES = 5;
const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/// The machine is gone, or the job was killed: nothing more of it happens.
class Lost extends Error {
  constructor(result) {
    super(`lost: ${result}`);
    this.result = result;
  }
}

/// What is thrown by a listener is the test's, and never makes a step fail.
export class ListenerError extends Error {}

export class JobRun {
  #job;
  #run;
  #needs;
  #result;
  #place;
  #runner;
  #github;
  #masks = new Masks();
  #trackingId = `github_${randomUUID()}`;
  #identity;
  #env = {};
  #path = [];
  #status = 'success';
  #current = null;
  #cancelled = false;
  #graceTimer;
  /// Why nothing more of it may happen; null while it runs.
  #over = null;
  #lose;
  #lost = new Promise((_, reject) => {
    this.#lose = reject;
  });

  /// `run` has the workflow, the options and the contexts; `result` is filled as the job goes.
  constructor(job, run, needs, result) {
    this.#job = job;
    this.#run = run;
    this.#needs = needs;
    this.#result = result;
    this.#lost.catch(() => {});
  }

  get job() {
    return this.#job;
  }

  /// Runs the job to its end, and says so in its result. Rejects only for what the test did wrong.
  async go() {
    const forget = atExit(() => killTracked(this.#trackingId));
    let timer;
    try {
      const minutes = attempt(() => this.#prepare());
      if (minutes.error) {
        this.#annotate(minutes.error.message);
        this.#result.result = 'failure';
        return;
      }
      timer = setTimeout(() => {
        this.cancel(`The job has exceeded the maximum execution time of ${minutes.value} minutes.`);
      }, minutes.value * this.#run.options.minuteMs);
      for (const step of this.#job.steps) await Promise.race([this.#step(step), this.#lost]);
      this.#result.outputs = this.#outputs();
      this.#result.result = this.#status;
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
      this.#result.result = error.result;
    } finally {
      this.#over ??= 'ended';
      clearTimeout(timer);
      clearTimeout(this.#graceTimer);
      killTracked(this.#trackingId);
      this.#identity?.revoke();
      forget();
    }
  }

  /// As when the run is cancelled or the job's time is up. What still runs has some minutes left.
  cancel(reason) {
    if (this.#over || this.#cancelled) return;
    this.#cancelled = true;
    this.#annotate(reason);
    const minutes = number(
      this.#job.cancelTimeoutMinutes, this.#jobContexts(), CANCEL_TIMEOUT_MINUTES,
    );
    this.#graceTimer = setTimeout(() => this.kill('cancelled'), minutes * this.#run.options.minuteMs);
    if (!this.#current) return;
    this.#status = 'cancelled';
    const { step, contexts, abort } = this.#current;
    if (!this.#holds(step, contexts)) abort.abort();
  }

  /// As when the minutes of the step that runs now are up.
  timeOutStep() {
    this.#current?.abort.abort();
  }

  /// Ends the job at once with this result, and every process of it.
  kill(result) {
    if (this.#over) return;
    this.#over = result;
    killTracked(this.#trackingId);
    this.#lose(new Lost(result));
    this.#current?.abort.abort();
  }

  /// Makes everything that the steps find; how many minutes they have.
  #prepare() {
    const { workflow, github, secrets, folder, options } = this.#run;
    const [, name] = github.repository.split('/');
    const home = join(folder, this.#job.id);
    this.#place = {
      home: join(home, 'home'),
      temp: join(home, '_temp'),
      tools: join(home, '_tool'),
      workspace: join(home, name, name),
    };
    for (const path of Object.values(this.#place)) mkdirSync(path, { recursive: true });
    const event = join(this.#place.temp, 'event.json');
    writeFileSync(event, JSON.stringify(github.event));

    this.#runner = runnerContext({ ...this.#place, workspace: join(home, name) });
    this.#github = {
      ...github,
      token: secrets.GITHUB_TOKEN,
      job: this.#job.id,
      workspace: this.#place.workspace,
      event_path: event,
    };
    for (const secret of Object.values(secrets)) this.#masks.add(secret);
    this.#identity = this.#grant();
    for (const env of [workflow.env, this.#job.env]) {
      Object.assign(this.#env, texts(env, { ...this.#jobContexts(), secrets }));
    }
    if (this.#job.concurrency) {
      this.#result.concurrency = this.#run.concurrency(this.#job.concurrency, this.#jobContexts());
    }
    if (options.path) this.#path.push(...options.path.split(delimiter).reverse());
    return number(this.#job.timeoutMinutes, this.#jobContexts(), TIMEOUT_MINUTES);
  }

  /// Only a job with the permission gets the endpoint at which tokens are asked for.
  #grant() {
    const { permissions, environment } = this.#job;
    if (permissions !== 'write-all' && permissions['id-token'] !== 'write') return undefined;
    const name = environment && text(environment, this.#jobContexts());
    const grant = this.#run.options.issuer.grant(claims(this.#run.workflow, this.#github, name));
    this.#masks.add(grant.token);
    return grant;
  }

  async #step(step) {
    const contexts = this.#stepContexts();
    const name = attempt(() => displayName(step, contexts)).value ?? step.id;
    const record = new StepRecord(name, this.#masks, (line) => {
      this.#result.log += `${line}\n`;
    });
    this.#result.steps[step.id] = record;

    const env = attempt(() => texts(step.env, contexts));
    Object.assign(contexts.env, env.value);
    // Only now, as in the runner: `env` has the old `job.status` when the cancel came between two steps.
    if (this.#cancelled) this.#status = 'cancelled';
    // Registered before the condition is tested: a cancel from here on tests it again.
    const abort = new AbortController();
    this.#current = { step, contexts, abort };
    const wanted = env.error ? env : attempt(() => this.#holds(step, contexts));

    if (wanted.error) {
      record.error(wanted.error.message);
      this.#end(record, 'failure', 'failure');
    } else if (!wanted.value) {
      this.#end(record, 'skipped', 'skipped');
    } else {
      await this.#perform(step, record, contexts, abort);
    }
    await this.#tell(step, 'end', record);
  }

  async #perform(step, record, contexts, abort) {
    const { options } = this.#run;
    const { signal } = abort;
    const fault = this.#run.fault(this.#job, step);
    const files = makeFiles(this.#place.temp);
    Object.assign(contexts.github, files, { action: step.id });
    let failed = null;
    let timer;
    try {
      const minutes = number(step.timeoutMinutes, contexts, 0);
      if (minutes > 0) timer = setTimeout(() => abort.abort(), minutes * options.minuteMs);
      await this.#tell(step, 'start', record);
      await this.#suffer(fault.before, signal);
      if (!signal.aborted) {
        record.exitCode = await this.#work(step, record, contexts, signal, (reason) => {
          failed = reason;
        });
        await this.#tell(step, 'effect', record);
        if (record.exitCode === 0) await this.#suffer(fault.after, signal);
        else throw new Error(`Process completed with exit code ${record.exitCode}.`);
      }
    } catch (error) {
      if (error instanceof Lost || error instanceof ListenerError) throw error;
      failed = error.message;
    } finally {
      clearTimeout(timer);
    }

    for (const error of this.#read(files, record)) failed ??= error;
    if (signal.aborted) {
      // A time-out that comes after a cancel is taken for the cancel, as by the runner.
      failed = this.#cancelled ? null : 'The action has timed out.';
      record.error(failed ?? 'The operation was canceled.');
      if (this.#cancelled) return this.#end(record, 'cancelled', 'cancelled');
    } else if (failed) {
      record.error(failed);
    }
    if (!failed) return this.#end(record, 'success', 'success');
    const forgiven = attempt(() => boolean(step.continueOnError, contexts));
    if (forgiven.error) record.error(forgiven.error.message);
    return this.#end(record, 'failure', forgiven.value ? 'success' : 'failure');
  }

  #work(step, record, contexts, signal, refuse) {
    this.#checkAlive();
    const { options } = this.#run;
    const { env } = contexts;
    const environment = {
      PATH: process.env.PATH ?? SYSTEM_PATH,
      HOME: this.#place.home,
      LANG: 'C.UTF-8',
      CI: 'true',
      ...options.env,
      ...env,
      ...runnerVariables(contexts.github, this.#runner),
      RUNNER_TRACKING_ID: this.#trackingId,
      ...(this.#identity && {
        ACTIONS_ID_TOKEN_REQUEST_URL: this.#identity.url,
        ACTIONS_ID_TOKEN_REQUEST_TOKEN: this.#identity.token,
      }),
    };
    environment.PATH = [...this.#path.toReversed(), environment.PATH].join(delimiter);
    const task = { step, contexts, place: this.#place, env, environment, record, signal };
    if (step.uses) {
      return runAction({ ...task, standIn: options.actions[step.uses.split('@')[0]] });
    }
    const reader = record.reader(refuse);
    const line = (it) => reader.read(it);
    return runScript({ ...task, defaults: this.#job.run, line, secondMs: options.secondMs });
  }

  /// Takes over what the step wrote into its files, whatever became of it.
  #read(files, record) {
    this.#checkAlive();
    const { path, env, output, summary, errors } = readFiles(files);
    for (const folder of path) {
      this.#path = [...this.#path.filter((it) => it !== folder), folder];
    }
    Object.assign(this.#env, env);
    Object.assign(record.outputs, output);
    this.#result.summary += this.#masks.hide(summary);
    return errors;
  }

  #end(record, outcome, conclusion) {
    this.#current = null;
    record.end(outcome, conclusion);
    this.#result.annotations.push(...record.annotations);
    if (conclusion === 'failure' && this.#status === 'success') this.#status = 'failure';
  }

  async #suffer(fault, signal) {
    if (fault === 'fail') throw new Error('Process completed with exit code 1.');
    if (fault !== 'hang' || signal.aborted) return;
    await new Promise((resolve) => signal.addEventListener('abort', resolve));
  }

  async #tell(step, moment, record) {
    this.#checkAlive();
    try {
      await this.#run.tell(this.#job, step, moment, record);
    } catch (error) {
      throw new ListenerError(`${moment} of ${step.id}: ${error.message}`, { cause: error });
    }
    this.#checkAlive();
  }

  #checkAlive() {
    if (this.#over) throw new Lost(this.#over);
  }

  /// What `needs` will have of it: nothing that is empty, or that would show a masked value.
  #outputs() {
    const outputs = {};
    for (const { key, value } of this.#job.outputs ?? []) {
      const found = attempt(() => text(value, this.#stepContexts()));
      if (found.error) {
        this.#annotate(`Fail to evaluate job outputs: ${found.error.message}`);
        if (this.#status === 'success') this.#status = 'failure';
      } else if (found.value !== '' && this.#masks.hide(found.value) === found.value) {
        outputs[key.toString()] = found.value;
      } else if (found.value !== '') {
        this.#result.log += `##[warning]Skip output '${key}' since it may contain secret.\n`;
      }
    }
    return outputs;
  }

  #annotate(reason) {
    const message = this.#masks.hide(reason);
    this.#result.annotations.push({ level: 'error', message });
    this.#result.log += `##[error]${message}\n`;
  }

  #holds(step, contexts) {
    const { secrets, ...allowed } = contexts;
    return holds(step.condition, allowed, {
      always: () => true,
      success: () => this.#status === 'success',
      failure: () => this.#status === 'failure',
      cancelled: () => this.#status === 'cancelled',
    });
  }

  #jobContext() {
    return jobContext(this.#run.workflow, this.#run.github, this.#status);
  }

  #jobContexts() {
    const { inputs, vars } = this.#run;
    return {
      github: { ...this.#github },
      inputs,
      vars,
      needs: this.#needs,
      strategy: { 'fail-fast': true, 'job-index': 0, 'job-total': 1, 'max-parallel': 1 },
      matrix: null,
    };
  }

  #stepContexts() {
    const steps = {};
    for (const [id, { outputs, outcome, conclusion }] of Object.entries(this.#result.steps)) {
      // Steps that nobody named are not in the context, and the current one is not yet.
      if (!id.startsWith('__') && outcome) steps[id] = { outputs, outcome, conclusion };
    }
    const status = () => this.#jobContext();
    return {
      ...this.#jobContexts(),
      secrets: this.#run.secrets,
      env: { ...this.#env },
      get job() {
        return status();
      },
      runner: this.#runner,
      steps,
    };
  }
}

function attempt(work) {
  try {
    return { value: work() };
  } catch (error) {
    return { error };
  }
}
