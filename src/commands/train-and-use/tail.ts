/** `tail`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, name, number, type Parsed } from '../options.ts';

export const tail = (parser: Argv) =>
  parser.command('tail <run>', 'what a run says, from now on until its end', tailOptions, runTail);

const tailOptions = (command: Argv) =>
  begin(command, 'tail')
    .positional('run', name('run folder'))
    .option('lines', { ...number('lines', 'how many of the last events come first', { least: 0 }), default: 10 });

async function runTail(args: Parsed<typeof tailOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  report.enableProgress();
  const { tailRun } = await import('../../results/tail.ts');
  await tailRun(args.run, args.lines, report);
}
