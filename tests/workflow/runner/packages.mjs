// GitHub's own parser and expression evaluator.
//
// They lie beside package.json, or where BACKSTOP_NODE_MODULES says: `cargo test` installs them below
// target/, since a checkout may be read-only.

import { register } from 'node:module';
import { pathToFileURL } from 'node:url';

// The parser imports its schema without the attribute that Node asks for.
register('./json-modules.mjs', import.meta.url);

const folder = process.env.BACKSTOP_NODE_MODULES;
const base = folder ? pathToFileURL(`${folder}/`) : new URL('../node_modules/', import.meta.url);
const load = (name) => import(new URL(`@actions/${name}/dist/index.js`, base));

export const { Lexer, Parser, Evaluator, data } = await load('expressions');
export const { parseWorkflow, convertWorkflowTemplate, NoOperationTraceWriter } =
  await load('workflow-parser');
