// The runner: see ../README.md.

export { checkout } from './checkout.mjs';
export { startIssuer } from './issuer.mjs';
export { repository } from './repository.mjs';
export { createRun } from './run.mjs';
export { WorkflowError, loadWorkflow, readWorkflow } from './workflow.mjs';
