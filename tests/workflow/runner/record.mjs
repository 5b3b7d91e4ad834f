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
  #write;

  /// `masks` are the job's; `show` gets each line as the log shows it.
  constructor(name, masks, show) {
    this.name = masks.hide(name);
    // Not fields, so that a result compares by what happened.
    this.#write = (line) => {
      const shown = masks.hide(line);
      this.log += `${shown}\n`;
      show(shown);
    };
  }

  write(line) {
    this.#write(line);
  }

  error(message) {
    this.annotations.push({ level: 'error', message });
    this.#write(`##[error]${message}`);
  }

  /// Reads the step's own output; `refuse` is called with the reason when a command fails the step.
  reader(masks, refuse) {
    return new CommandReader({
      write: (line) => this.#write(line),
      mask: (value) => masks.add(value),
      annotate: (annotation) =>
        this.annotations.push({ ...annotation, message: masks.hide(annotation.message) }),
      refuse,
    });
  }

  end(outcome, conclusion) {
    this.outcome = outcome;
    this.conclusion = conclusion;
    this.durationMs = performance.now() - this.#began;
  }
}
