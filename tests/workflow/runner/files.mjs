// The files through which a step speaks: GITHUB_OUTPUT, GITHUB_ENV, GITHUB_PATH, GITHUB_STATE and
// GITHUB_STEP_SUMMARY. Each step gets fresh ones.
//
// https://github.com/actions/runner/blob/main/src/Runner.Worker/FileCommandManager.cs

import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/// By field of the `github` context, the prefix of the file's name.
const FILES = {
  path: 'add_path',
  env: 'set_env',
  step_summary: 'step_summary',
  output: 'set_output',
  state: 'save_state',
};

const SUMMARY_LIMIT = 1024 * 1024;

/// Makes a step's files below the runner's temporary folder; their paths by field of `github`.
export function makeFiles(temp) {
  const folder = join(temp, '_runner_file_commands');
  mkdirSync(folder, { recursive: true });
  const suffix = randomUUID();
  const paths = {};
  for (const [field, prefix] of Object.entries(FILES)) {
    paths[field] = join(folder, `${prefix}_${suffix}`);
    writeFileSync(paths[field], '');
  }
  return paths;
}

/// What a step wrote: `{env, output}` by name, `path` and `summary`, and the `errors` of files
/// that do not parse. What stands before an error in a file counts.
export function readFiles(paths) {
  const errors = [];
  const pairs = (field) => {
    const found = {};
    try {
      for (const [name, value] of parsePairs(contents(paths[field]))) found[name] = value;
    } catch (error) {
      errors.push(`Unable to process file command '${field}' successfully: ${error.message}`);
    }
    return found;
  };
  let summary = contents(paths.step_summary);
  if (Buffer.byteLength(summary) > SUMMARY_LIMIT) {
    errors.push('$GITHUB_STEP_SUMMARY supports content up to a size of 1024k');
    summary = '';
  }
  const path = contents(paths.path).split('\n').filter((line) => line !== '');
  // State is for an action's own later steps, which are not modelled; it must parse all the same.
  const [env, output] = ['env', 'output', 'state'].map(pairs);
  return { path, env, output, summary, errors };
}

/// A step may have removed its file: then it said nothing.
function contents(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/// `NAME=VALUE` lines, and `NAME<<DELIMITER` with the lines up to the delimiter.
function* parsePairs(text) {
  const lines = text.split('\n');
  while (lines.length > 0) {
    const line = lines.shift();
    if (line === '') continue;
    const equals = line.indexOf('=');
    const heredoc = line.indexOf('<<');
    if (equals >= 0 && (heredoc < 0 || equals < heredoc)) {
      if (equals === 0) throw new Error(`Invalid format '${line}': the name is empty`);
      yield [line.slice(0, equals), line.slice(equals + 1)];
    } else if (heredoc >= 0) {
      const name = line.slice(0, heredoc);
      const delimiter = line.slice(heredoc + 2);
      if (name === '' || delimiter === '') {
        throw new Error(`Invalid format '${line}': name and delimiter must not be empty`);
      }
      const end = lines.indexOf(delimiter);
      if (end < 0) throw new Error(`Matching delimiter not found '${delimiter}'`);
      yield [name, lines.splice(0, end + 1).slice(0, -1).join('\n')];
    } else {
      throw new Error(`Invalid format '${line}'`);
    }
  }
}
