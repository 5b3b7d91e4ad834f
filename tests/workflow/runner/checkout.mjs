// The stand-in for actions/checkout: the repository's files as they are in the folder, committed or not.

import { execFile } from 'node:child_process';
import { copyFileSync, lstatSync, mkdirSync, readlinkSync, symlinkSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';

import { repository } from './repository.mjs';

/// Copies what git knows of in `root`, or would if it were added. Which files these are is asked once.
export function checkout(root = repository) {
  let files;
  return async ({ inputs, workspace }) => {
    files ??= listFiles(root);
    const target = resolve(workspace, inputs.path ?? '');
    for (const file of await files) copy(join(root, file), join(target, file));
  };
}

async function listFiles(root) {
  const { stdout } = await promisify(execFile)(
    'git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'],
    { cwd: root, maxBuffer: 64 * 1024 * 1024 },
  );
  return new Set(stdout.split('\0').filter(Boolean));
}

function copy(from, to) {
  const stat = lstatSync(from, { throwIfNoEntry: false });
  // Removed and not yet committed.
  if (!stat) return;
  mkdirSync(dirname(to), { recursive: true });
  if (stat.isSymbolicLink()) symlinkSync(readlinkSync(from), to);
  else copyFileSync(from, to);
}
