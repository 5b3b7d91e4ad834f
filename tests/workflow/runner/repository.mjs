// Where the repository is whose workflows run.

import { fileURLToPath } from 'node:url';

export const repository = fileURLToPath(new URL('../../../', import.meta.url)).replace(/\/$/, '');
