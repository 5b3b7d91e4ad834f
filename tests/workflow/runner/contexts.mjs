// What GitHub knows about a run and a job: the `github`, `job` and `runner` contexts, and the claims of
// a job's OIDC tokens.

import { randomBytes, randomInt } from 'node:crypto';

/// The `github` context of a run; `given` fields win, and others follow from them.
export function githubContext(workflow, event, inputs, given) {
  const repository = given.repository ?? 'acme/agents';
  const ref = given.ref ?? 'refs/heads/main';
  const sha = given.sha ?? randomBytes(20).toString('hex');
  const actor = given.actor ?? 'octocat';
  const context = {
    // A called workflow runs in its caller's event.
    event_name: event === 'workflow_call' ? 'workflow_dispatch' : event,
    repository,
    repository_id: '1001',
    repository_owner: repository.split('/')[0],
    repository_owner_id: '2002',
    repositoryUrl: `git://github.com/${repository}.git`,
    ref,
    ref_name: ref.replace(/^refs\/(heads|tags|pull)\//, ''),
    ref_type: ref.startsWith('refs/tags/') ? 'tag' : 'branch',
    ref_protected: true,
    head_ref: '',
    base_ref: '',
    sha,
    run_id: String(randomInt(1e9, 1e10)),
    run_number: '1',
    run_attempt: '1',
    retention_days: '90',
    actor,
    actor_id: '3003',
    triggering_actor: actor,
    workflow: workflow.name,
    workflow_ref: workflowRef(workflow, repository, ref),
    workflow_sha: sha,
    server_url: 'https://github.com',
    api_url: 'https://api.github.com',
    graphql_url: 'https://api.github.com/graphql',
    secret_source: 'Actions',
    ...given,
  };
  // Ids are texts in this context.
  for (const id of ['run_id', 'run_attempt', 'run_number']) context[id] = String(context[id]);
  // In the event, the inputs of a dispatch are texts.
  const texts = Object.entries(inputs).map(([name, value]) => [name, String(value)]);
  context.event ??= {
    ...(event === 'workflow_dispatch' && { inputs: Object.fromEntries(texts) }),
    ref,
    repository: { full_name: repository },
    workflow: workflow.path,
  };
  return context;
}

/// The `job` context. `workflow_…` are of the file that has the job, also where another one called it.
export function jobContext(workflow, github, status) {
  return {
    status,
    workflow_ref: workflowRef(workflow, github.repository, github.ref),
    workflow_sha: github.workflow_sha,
    workflow_repository: github.repository,
    workflow_file_path: workflow.path,
  };
}

/// The `runner` context.
export function runnerContext({ temp, tools, workspace }) {
  return {
    os: 'Linux',
    arch: process.arch === 'arm64' ? 'ARM64' : 'X64',
    name: 'GitHub Actions 1',
    environment: 'github-hosted',
    temp,
    tool_cache: tools,
    workspace,
  };
}

/// What a job's tokens say, beside the times.
export function claims(workflow, github, environment) {
  const subject = environment ? `environment:${environment}` : `ref:${github.ref}`;
  return {
    sub: `repo:${github.repository}:${subject}`,
    aud: `${github.server_url}/${github.repository_owner}`,
    ...pick(github, [
      'ref', 'ref_type', 'sha', 'repository', 'repository_id', 'repository_owner',
      'repository_owner_id', 'run_id', 'run_number', 'run_attempt', 'actor', 'actor_id', 'workflow',
      'workflow_ref', 'workflow_sha', 'head_ref', 'base_ref', 'event_name',
    ]),
    ...(environment && { environment }),
    ref_protected: String(github.ref_protected),
    repository_visibility: 'private',
    job_workflow_ref: workflowRef(workflow, github.repository, github.ref),
    job_workflow_sha: github.workflow_sha,
    runner_environment: 'github-hosted',
  };
}

/// The fields of `github` that become variables `GITHUB_…` of every step.
/// https://github.com/actions/runner/blob/main/src/Runner.Worker/GitHubContext.cs
const VARIABLES = [
  'action', 'action_path', 'action_ref', 'action_repository', 'actor', 'actor_id', 'api_url',
  'base_ref', 'env', 'event_name', 'event_path', 'graphql_url', 'head_ref', 'job', 'output', 'path',
  'ref', 'ref_name', 'ref_protected', 'ref_type', 'repository', 'repository_id', 'repository_owner',
  'repository_owner_id', 'retention_days', 'run_attempt', 'run_id', 'run_number', 'server_url', 'sha',
  'state', 'step_summary', 'triggering_actor', 'workflow', 'workflow_ref', 'workflow_sha', 'workspace',
];

/// The variables that the runner sets in every step, over the step's own.
export function runnerVariables(github, runner) {
  const variables = { GITHUB_ACTIONS: 'true' };
  for (const [prefix, context] of [['GITHUB', pick(github, VARIABLES)], ['RUNNER', runner]]) {
    for (const [field, value] of Object.entries(context)) {
      variables[`${prefix}_${field.toUpperCase()}`] = String(value);
    }
  }
  return variables;
}

function workflowRef(workflow, repository, ref) {
  return `${repository}/${workflow.path}@${ref}`;
}

function pick(object, names) {
  return Object.fromEntries(
    names.filter((name) => object[name] !== undefined).map((name) => [name, object[name]]),
  );
}
