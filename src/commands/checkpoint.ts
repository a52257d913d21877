/** `checkpoint convert`. */

import type { Argv } from 'yargs';
import { Report } from '../base/printer.ts';
import { begin, name, type Parsed, REQUIRED, SET, TRIAL, text } from './options.ts';

export const checkpoint = (parser: Argv) => parser.command('checkpoint', 'checkpoints in and out', checkpointCommands);

const checkpointCommands = (command: Argv) =>
  begin(command, 'checkpoint').command(
    'convert <path>',
    'to and from the checkpoints of the original',
    convertOptions,
    runConvert,
  );

const convertOptions = (command: Argv) =>
  begin(command, 'checkpoint convert')
    .positional('path', name('checkpoint folder, or checkpoint-N.pth'))
    .option('to', {
      ...{ choices: ['coldframe', 'upstream'] as const, demandOption: true as const, requiresArg: true },
      ...{ describe: 'format to write', ...REQUIRED },
    })
    .option('output', text('output', 'file (upstream) or folder', { demandOption: true, ...REQUIRED }))
    .option('trial', TRIAL)
    .option('config', text('config', 'its model, for a checkpoint of the original', {}))
    .option('set', SET);

async function runConvert(args: Parsed<typeof convertOptions>): Promise<void> {
  const { path, to, output, config, trial, set } = args;
  const { convert } = await import('../inference/convert.ts');
  await convert({ checkpoint: path, to, output, config, trial, set }, new Report({ json: args.json }));
}
