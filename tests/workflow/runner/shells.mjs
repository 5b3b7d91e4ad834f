// How a `run:` is run: the command for each shell, by the runner's own table.
//
// https://github.com/actions/runner/blob/main/src/Runner.Worker/Handlers/ScriptHandlerHelpers.cs

import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

const ARGUMENTS = {
  bash: '--noprofile --norc -e -o pipefail {0}',
  sh: '-e {0}',
  python: '{0}',
};

const EXTENSIONS = { bash: '.sh', sh: '.sh', python: '.py' };

/// The command for a shell, as `{command, format, extension}`; `format` has `{0}` for the script.
/// Without a shell it is bash with `-e`, and without `pipefail`.
export function shellCommand(shell, path) {
  if (!shell) {
    return { command: which('bash', path) ?? mustFind('sh', path), format: '-e {0}', extension: '.sh' };
  }
  const [name, ...rest] = shell.split(' ');
  const format = rest.join(' ').trim() || ARGUMENTS[name];
  if (!format?.includes('{0}')) throw new Error(`Invalid shell option '${shell}'`);
  const command =
    name === 'python' ? (which('python', path) ?? mustFind('python3', path)) : mustFind(name, path);
  return { command, format, extension: EXTENSIONS[name] ?? '' };
}

function mustFind(name, path) {
  const found = which(name, path);
  if (!found) throw new Error(`${name}: command not found`);
  return found;
}

function which(name, path) {
  if (name.includes('/')) return existsSync(name) ? name : undefined;
  return path
    .split(delimiter)
    .map((folder) => join(folder, name))
    .find((file) => existsSync(file));
}
