/** `completion`. */

import yargs, { type Argv } from 'yargs';
import { begin, type Parsed } from './options.ts';

export const completion = (parser: Argv) =>
  parser.command(
    'completion [shell]',
    'a script that completes commands in bash or zsh',
    completionOptions,
    showCompletion,
  );

const completionOptions = (command: Argv) =>
  begin(command, 'completion').positional('shell', {
    type: 'string',
    choices: ['bash', 'zsh'] as const,
    describe: 'whose script (default: that of $SHELL)',
  });

/** The parser writes the script for the shell of the environment. */
function showCompletion(args: Parsed<typeof completionOptions>): void {
  if (args.shell !== undefined) process.env.SHELL = args.shell;
  yargs([]).scriptName('coldframe').showCompletionScript();
}
