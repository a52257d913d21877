/** `compare`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, names, type Parsed } from '../options.ts';

export const compare = (parser: Argv) =>
  parser.command('compare <runs..>', 'metrics and settings of runs, side by side', compareOptions, runCompare);

const compareOptions = (command: Argv) =>
  begin(command, 'compare').positional('runs', names('run folders, sweep folders, or RUN:TRIAL'));

async function runCompare(args: Parsed<typeof compareOptions>): Promise<void> {
  const { compareRuns } = await import('../../results/compare.ts');
  await compareRuns(args.runs, new Report({ json: args.json }));
}
