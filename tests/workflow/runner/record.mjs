// What is remembered of a step: its part of the result, and its log.

import { CommandReader } from './commands.mjs';

export class StepRecord {
  outcome = null;
  conclusion = null;
  exitCode = null;
  outputs = {};
  annotations = [];
  log = '';
  durationMs = 0;
  #began = performance.now();
  #masks;
  #show;

  /// `masks` are the job's; `show` gets each line as the log shows it.
  constructor(name, masks, show) {
    this.#masks = masks;
    this.#show = show;
    this.name = masks.hide(name);
  }

  write(line) {
    const shown = this.#masks.hide(line);
    this.log += `${shown}\n`;
    this.#show(shown);
  }

  annotate(annotation) {
    const message = this.#masks.hide(annotation.message);
    this.annotations.push({ ...annotation, message });
  }

  error(message) {
    this.annotate({ level: 'error', message });
    this.write(`##[error]${message}`);
  }

  /// Reads the step's own output; `refuse` is called with the reason when a command fails the step.
  reader(refuse) {
    return new CommandReader({
      write: (line) => this.write(line),
      mask: (value) => this.#masks.add(value),
      annotate: (annotation) => this.annotate(annotation),
      refuse,
    });
  }

  end(outcome, conclusion) {
    this.outcome = outcome;
    this.conclusion = conclusion;
    this.durationMs = performance.now() - this.#began;
  }
}
