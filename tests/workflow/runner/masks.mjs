// Keeps secrets out of logs, and out of the outputs of jobs.
//
// As the runner: a value is masked literally and in the spellings in which scripts usually pass it on.
// https://github.com/actions/runner/blob/main/src/Runner.Common/HostContext.cs

export class Masks {
  #values = new Set();

  /// Masks a value, and each line of it: logs are masked line by line.
  add(value) {
    for (const part of [value.trim(), ...value.split(/[\r\n]+/).map((line) => line.trim())]) {
      if (part === '') continue;
      for (const spell of SPELLINGS) this.#values.add(spell(part));
    }
    this.#values.delete('');
  }

  /// The text with `***` for each masked stretch; stretches that touch become one.
  hide(text) {
    const stretches = [];
    for (const value of this.#values) {
      for (let at = text.indexOf(value); at >= 0; at = text.indexOf(value, at + 1)) {
        stretches.push([at, at + value.length]);
      }
    }
    stretches.sort(([a], [b]) => a - b);
    let hidden = '';
    let end = 0;
    for (const [from, to] of stretches) {
      if (from > end || hidden === '') hidden += `${text.slice(end, from)}***`;
      end = Math.max(end, to);
    }
    return hidden + text.slice(end);
  }
}

const base64 = (skip) => (value) => Buffer.from(value).subarray(skip).toString('base64');

const SPELLINGS = [
  (value) => value,
  // What stands before a value shifts its base64: `user:password` for one.
  base64(0),
  base64(1),
  base64(2),
  (value) => JSON.stringify(value).slice(1, -1),
  (value) => encodeURIComponent(value.toWellFormed?.() ?? value),
  (value) => value.replace(/[<>&'"]/g, (it) => XML[it]),
  (value) => value.replace(/^"(.*)"$/, '$1'),
];

const XML = { '<': '&lt;', '>': '&gt;', '&': '&amp;', "'": '&apos;', '"': '&quot;' };
