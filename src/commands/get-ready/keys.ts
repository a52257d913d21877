/** `keys`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, type Parsed } from '../options.ts';

export const keys = (parser: Argv) =>
  parser.command('keys [pattern]', 'the keys of a configuration: type, default, meaning', keysOptions, runKeys);

const keysOptions = (command: Argv) =>
  begin(command, 'keys').positional('pattern', {
    type: 'string',
    describe: 'part of a key or of its meaning (default: all keys)',
  });

async function runKeys(args: Parsed<typeof keysOptions>): Promise<void> {
  const { showKeys } = await import('../../tools/list-keys.ts');
  showKeys(args.pattern, new Report({ json: args.json }));
}
