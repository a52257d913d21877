/** The process entry: runs main, prints the last error, sets the exit code. */

import { asUserError, Fenced, Interrupted, RuntimeFailure, UserError } from './errors.ts';
import { main } from './main.ts';
import { reportError } from './report.ts';

function exitCode(error: unknown): number {
  if (error instanceof UserError) return 2;
  if (error instanceof RuntimeFailure || error instanceof Fenced) return 3;
  return error instanceof Interrupted ? 130 : 1;
}

// A reader that leaves early (`coldframe ... | head`) is no error of ours.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

// Started by nohup (scripts/coldframe): the terminal may go.
if (process.env.COLDFRAME_IGNORE_HUP) process.on('SIGHUP', () => {});

const args = process.argv.slice(2);
try {
  await main(args);
} catch (caught) {
  const error = asUserError(caught);
  reportError(error, args.includes('--json'));
  process.exitCode = exitCode(error);
}
