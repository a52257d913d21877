/** `init`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, name, type Parsed, text } from '../options.ts';

export const init = (parser: Argv) =>
  parser.command('init <dir>', 'from a folder of clips to lists and a configuration', initOptions, runInit);

const initOptions = (command: Argv) =>
  begin(command, 'init')
    .positional('dir', name('folder with class folders, lists or a table; it stays as it is'))
    .option('output', text('output', 'folder for lists and configuration (default: <name of DIR>-coldframe)', {}))
    .option('group', text('group', 'regular expression: clips with the same match come from one video', {}));

async function runInit({ dir, output, group, json }: Parsed<typeof initOptions>): Promise<void> {
  const { initialize } = await import('../../tools/init/init.ts');
  await initialize({ dir, output, group }, new Report({ json }));
}
