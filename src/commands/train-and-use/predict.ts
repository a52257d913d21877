/** `predict`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, CHECKPOINT, names, number, type Parsed, SET, TRIAL, text } from '../options.ts';

export const predict = (parser: Argv) =>
  parser.command('predict <videos..>', 'name the classes of videos', predictOptions, runPredict);

const predictOptions = (command: Argv) =>
  begin(command, 'predict')
    .positional(
      'videos',
      names(
        'files, folders, patterns, lists, addresses of streams, or parts as FILE#t=START,END; - reads a list from stdin',
      ),
    )
    .option('checkpoint', CHECKPOINT)
    .option('trial', TRIAL)
    .option('top', {
      ...number('top', 'how many classes to name; of data.labels: multi all that reach their thresholds', { least: 1 }),
      default: 5,
    })
    .option(
      'output',
      text('output', 'write the results to FILE.csv, FILE.jsonl or FILE.json, those that failed too', {}),
    )
    .option('set', SET);

async function runPredict(args: Parsed<typeof predictOptions>): Promise<void> {
  const { predict: predictVideos } = await import('../../inference/predict.ts');
  await predictVideos(args, new Report({ json: args.json }));
}
