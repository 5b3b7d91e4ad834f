// What a step says in its output: plain lines, and workflow commands like `::add-mask::…`.
//
// https://github.com/actions/runner/blob/main/src/Runner.Worker/ActionCommandManager.cs

const ANNOTATIONS = ['error', 'warning', 'notice'];
const SHOWN = ['group', 'endgroup'];
/// Accepted and without effect here.
const IGNORED = ['debug', 'echo', 'add-matcher', 'remove-matcher'];
/// Gone or going; GitHub itself refuses the first two.
const REFUSED = ['set-env', 'add-path', 'set-output', 'save-state'];

/// Reads one step's output line by line. `write` gets what the log shows, `mask` each value to hide,
/// `annotate` each annotation, `refuse` the reason why the step must fail.
export class CommandReader {
  #stop = null;
  #to;

  constructor(to) {
    this.#to = to;
  }

  read(line) {
    const command = parse(line);
    if (!command) return this.#to.write(line);
    const { name, data } = command;
    if (this.#stop !== null) {
      if (name === this.#stop.toLowerCase()) this.#stop = null;
      return this.#to.write(line);
    }
    if (name === 'stop-commands') {
      this.#stop = data;
      this.#to.write(line);
    } else if (name === 'add-mask') {
      if (data.trim() === '') this.#to.write("##[warning]Can't add secret mask for empty string");
      else this.#to.mask(data);
    } else if (ANNOTATIONS.includes(name)) {
      this.#to.annotate({ level: name, message: data, ...command.properties });
      this.#to.write(`##[${name}]${data}`);
    } else if (SHOWN.includes(name)) {
      this.#to.write(`##[${name}]${data}`);
    } else if (REFUSED.includes(name)) {
      this.#to.refuse(`the command ${name} is no longer supported`);
    } else if (!IGNORED.includes(name)) {
      this.#to.write(line);
    }
  }
}

/// A line that is no command, or names none that could be one, is output.
function parse(line) {
  const match = /^\s*::([^\s:]+)(?: ((?:(?!::).)*))?::(.*)$/s.exec(line);
  if (!match) return null;
  const properties = {};
  for (const property of (match[2] ?? '').split(',')) {
    const [key, ...value] = property.trim().split('=');
    if (value.length > 0) properties[key] = unescape(value.join('='), true);
  }
  return { name: match[1].toLowerCase(), properties, data: unescape(match[3], false) };
}

function unescape(value, property) {
  const plain = property ? value.replaceAll('%3A', ':').replaceAll('%2C', ',') : value;
  return plain.replaceAll('%0D', '\r').replaceAll('%0A', '\n').replaceAll('%25', '%');
}
