// What must happen when the test process ends, however it does, short of being killed outright.

const pending = new Set();

process.on('exit', () => {
  for (const undo of [...pending].reverse()) {
    try {
      undo();
    } catch (error) {
      console.error(error);
    }
  }
});
for (const [signal, code] of [['SIGINT', 130], ['SIGTERM', 143], ['SIGHUP', 129]]) {
  process.once(signal, () => process.exit(code));
}

/// Calls `undo`, which must not wait for anything, at the end of the process; the last first. Returns what
/// calls it off.
export function atExit(undo) {
  pending.add(undo);
  return () => pending.delete(undo);
}
