/** `evaluate`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, CHECKPOINT, type Parsed, SET, TRIAL, text } from '../options.ts';

export const evaluate = (parser: Argv) =>
  parser.command('evaluate', 'multi-view test of a checkpoint', evaluateOptions, runEvaluate);

const evaluateOptions = (command: Argv) =>
  begin(command, 'evaluate')
    .option('checkpoint', CHECKPOINT)
    .option('config', text('config', 'YAML configuration (default: the one that the checkpoint was trained with)', {}))
    .option('set', SET)
    .option('trial', TRIAL)
    .option('output', text('output', 'folder for the results and scores (default: in the run folder)', {}));

async function runEvaluate(args: Parsed<typeof evaluateOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  report.enableProgress();
  const { evaluate: evaluateCheckpoint } = await import('../../inference/evaluate.ts');
  await evaluateCheckpoint(args, report);
}
