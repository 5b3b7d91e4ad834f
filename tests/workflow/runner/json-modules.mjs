// A loader that takes any .json for a module, see packages.mjs.

import { readFile } from 'node:fs/promises';

export async function load(url, context, next) {
  if (!url.endsWith('.json')) return next(url, context);
  const source = `export default ${await readFile(new URL(url), 'utf8')}`;
  return { format: 'module', source, shortCircuit: true };
}
