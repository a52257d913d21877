/** `fit`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, CONFIG, type Parsed, SET, text } from '../options.ts';

export const fit = (parser: Argv) =>
  parser.command('fit', 'the largest micro-batch that memory holds', fitOptions, runFit);

const fitOptions = (command: Argv) =>
  begin(command, 'fit')
    .option('config', CONFIG)
    .option('memory', text('memory', 'budget of the Python process, such as 8GiB (default: what is free now)', {}))
    .option('set', SET);

async function runFit(args: Parsed<typeof fitOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { loadConfig } = await import('../../config/load.ts');
  const { config, notes } = loadConfig(args.config, { set: args.set });
  for (const note of notes) report.note(note);
  const { fitBatch, readBudget } = await import('../../train/fit.ts');
  await fitBatch({ config, budgetBytes: readBudget(args.memory) }, report);
}
