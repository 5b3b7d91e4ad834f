// What a step does: its script in a shell, or the stand-in for its action.

import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

import { text, texts } from './expressions.mjs';
import { runProcess } from './process.mjs';
import { shellCommand } from './shells.mjs';

/// Runs `run:`; the exit code. `place` is where the job lives, `environment` all variables.
export async function runScript({ step, defaults, contexts, place, env, environment, record, ...to }) {
  const script = text(step.run, contexts);
  const option = (own, name) => {
    const token = own ?? defaults[name];
    return token ? text(token, contexts) : '';
  };
  const shell = option(step.shell, 'shell');
  const folder = option(step.workingDirectory, 'working-directory');
  const { command, format, extension } = shellCommand(shell, environment.PATH);
  const file = join(place.temp, randomUUID() + extension);
  writeFileSync(file, script);

  record.write(`##[group]Run ${script.trimStart().split('\n')[0]}`);
  for (const line of script.trimEnd().split('\n')) record.write(line);
  record.write(`shell: ${command} ${format}`);
  showVariables('env', env, record);
  record.write('##[endgroup]');

  return runProcess({
    command,
    args: format.split(' ').map((part) => part.replace('{0}', file)),
    cwd: resolve(place.workspace, folder),
    env: environment,
    ...to,
  });
}

/// Runs the stand-in for `uses:`; 0, or its rejection.
export async function runAction({ step, standIn, contexts, place, env, environment, record, signal }) {
  const inputs = texts(step.with, contexts);
  record.write(`##[group]Run ${step.uses}`);
  showVariables('with', inputs, record);
  showVariables('env', env, record);
  record.write('##[endgroup]');
  await standIn({
    inputs,
    workspace: place.workspace,
    env: environment,
    setOutput: (name, value) => {
      record.outputs[name] = String(value);
    },
    log: (line) => record.write(line),
    signal,
  });
  return 0;
}

/// What a step is called: a step without a name by the first line of what it does.
export function displayName(step, contexts) {
  if (step.name) return text(step.name, contexts);
  return `Run ${(step.uses ?? text(step.run, contexts)).trimStart().split('\n')[0]}`;
}

function showVariables(title, variables, record) {
  if (Object.keys(variables).length === 0) return;
  record.write(`${title}:`);
  for (const [name, value] of Object.entries(variables)) record.write(`  ${name}: ${value}`);
}
