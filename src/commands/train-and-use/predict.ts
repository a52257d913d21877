/** `predict`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, CHECKPOINT, names, number, type Parsed, SET, TRIAL } from '../options.ts';

export const predict = (parser: Argv) =>
  parser.command('predict <videos..>', 'name the classes of videos', predictOptions, runPredict);

const predictOptions = (command: Argv) =>
  begin(command, 'predict')
    .positional('videos', names('video files, or parts as FILE#t=START,END; - reads a list from stdin, a path a line'))
    .option('checkpoint', CHECKPOINT)
    .option('trial', TRIAL)
    .option('top', {
      ...number('top', 'how many classes to name; of data.labels: multi all that reach their thresholds', { least: 1 }),
      default: 5,
    })
    .option('set', SET);

async function runPredict(args: Parsed<typeof predictOptions>): Promise<void> {
  const { predict: predictVideos } = await import('../../inference/predict.ts');
  await predictVideos(args, new Report({ json: args.json }));
}
