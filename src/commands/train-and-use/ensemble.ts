/** `ensemble`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, names, type Parsed } from '../options.ts';

export const ensemble = (parser: Argv) =>
  parser.command('ensemble <results..>', 'average the scores of several evaluations', ensembleOptions, runEnsemble);

const ensembleOptions = (command: Argv) =>
  begin(command, 'ensemble').positional('results', names('folders that evaluate wrote'));

async function runEnsemble(args: Parsed<typeof ensembleOptions>): Promise<void> {
  const { averageScores } = await import('../../inference/ensemble.ts');
  await averageScores(args.results, new Report({ json: args.json }));
}
