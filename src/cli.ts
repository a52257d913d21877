/** The process entry: runs main, prints the last error, sets the exit code. */

import { asUserError, Fenced, Interrupted, RuntimeFailure, UserError } from './base/errors.ts';
import { reportError } from './base/printer.ts';
import { wantsJson } from './commands/command-line.ts';
import { main } from './main.ts';

function exitCode(error: unknown): number {
  if (error instanceof UserError) return 2;
  if (error instanceof RuntimeFailure || error instanceof Fenced) return 3;
  return error instanceof Interrupted ? 130 : 1;
}

const args = process.argv.slice(2);

/** What these do is not what they print: they go on when nobody reads what they print. The others end as any program in a pipe. */
const LASTING = /^(train|evaluate|serve|sweep(?! (status|report)\b)|features build|clips prepare|weights fetch)\b/;
const isLasting = LASTING.test(args.filter((word) => !word.startsWith('-')).join(' '));

let isHeard = true;
process.stdout.on('error', ({ code, message }: NodeJS.ErrnoException) => {
  const hasLeft = code === 'EPIPE' || code === 'EIO'; // `coldframe ... | head`; a terminal that was closed
  if (hasLeft && !isLasting) process.exit(141); // 128 + SIGPIPE
  if (isHeard && !hasLeft) {
    const then = isLasting
      ? 'The work goes on; what it prints from here on is lost.'
      : 'Free room there, or print elsewhere.';
    process.stderr.write(`stdout  cannot be written: ${message}. ${then}\n`);
  }
  if (!isLasting) process.exit(2);
  isHeard = false;
});
process.stderr.on('error', () => {}); // there is no third place to say so

// Started by nohup (scripts/coldframe): the terminal may go.
if (process.env.COLDFRAME_IGNORE_HUP) process.on('SIGHUP', () => {});

// What schedulers send some time before a limit. By itself Node would open a debugger; where nothing is to be saved it ends.
process.on('SIGUSR1', () => process.listenerCount('SIGUSR1') > 1 || process.kill(process.pid, 'SIGTERM'));

try {
  await main(args);
} catch (caught) {
  const error = asUserError(caught);
  reportError(error, wantsJson(args));
  process.exitCode = exitCode(error);
}
