// Inputs, checked and typed as GitHub does when a run is asked for.

import { WorkflowError, fields } from './workflow.mjs';

/// How the run is started: the event that counts, and its inputs as the `inputs` context has them.
export function takeInputs(workflow, event, given) {
  const settings = workflow.on[event];
  if (!settings) throw new WorkflowError(`${workflow.path} is not started by ${event}`);
  const declared = Object.entries(fields(settings.inputs));
  const unknown = Object.keys(given).filter((name) => !declared.some(([known]) => known === name));
  if (unknown.length > 0) throw new WorkflowError(`unexpected inputs: ${unknown}`);
  // The 25 are a limit of dispatches only.
  if (event === 'workflow_dispatch' && declared.length > 25) {
    throw new WorkflowError('a dispatch has at most 25 inputs');
  }
  return Object.fromEntries(
    declared.map(([name, token]) => [name, take(name, fields(token), given[name])]),
  );
}

/// Refuses a call without the secrets that the workflow requires of its caller.
export function checkSecrets(workflow, secrets) {
  for (const [name, token] of Object.entries(fields(workflow.on.workflow_call.secrets))) {
    const required = fields(token).required?.toString() === 'true';
    if (required && !secrets[name]) throw new WorkflowError(`secret ${name} is required`);
  }
}

function take(name, declared, given) {
  const type = declared.type?.toString() ?? 'string';
  const fallback = declared.default?.toString();
  if (given === undefined && fallback === undefined && declared.required?.toString() === 'true') {
    throw new WorkflowError(`input ${name} is required`);
  }
  const value = String(given ?? fallback ?? EMPTY[type] ?? '');
  switch (type) {
    case 'boolean':
      if (value !== 'true' && value !== 'false') throw wrong(name, value, type);
      return value === 'true';
    case 'number':
      if (value.trim() === '' || Number.isNaN(Number(value))) throw wrong(name, value, type);
      return Number(value);
    case 'choice': {
      const options = [...declared.options].map((option) => option.toString());
      if (value !== '' && !options.includes(value)) throw wrong(name, value, options);
      return value;
    }
    default:
      return value;
  }
}

const EMPTY = { boolean: 'false', number: '0' };

function wrong(name, value, type) {
  return new WorkflowError(`input ${name}: '${value}' is not ${type}`);
}
