/** `import-command` and `flags`: from the original's command line. */

import type { Argv } from 'yargs';
import { Report } from '../base/printer.ts';
import { begin, type Parsed, text } from './options.ts';

export const importCommand = (parser: Argv) =>
  parser.command('import-command', "the original's command line as a configuration", importOptions, runImportCommand);

const importOptions = (command: Argv) =>
  begin(command, 'import-command')
    .usage('$0 import-command -- python -m torch.distributed.run --nproc_per_node 8 main.py --num_frames 8 ...')
    .option('script', text('script', 'read the command from a shell script', {}))
    .option('output', text('output', 'file to write (default: print it)', {}));

async function runImportCommand(args: Parsed<typeof importOptions> & { _: (string | number)[] }): Promise<void> {
  const { runImport } = await import('../tools/import-command.ts');
  const { script, output } = args;
  runImport({ words: args._.slice(1).map(String), script, output }, new Report({ json: args.json }));
}

export const flags = (parser: Argv) =>
  parser.command('flags', "the original's flags, and the keys they became", flagsOptions, runFlags);

const flagsOptions = (command: Argv) => begin(command, 'flags');

async function runFlags(args: { json: boolean }): Promise<void> {
  const { showFlags } = await import('../tools/import-command.ts');
  showFlags(new Report({ json: args.json }));
}
