/** `predict`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, CHECKPOINT, names, number, type Parsed, SET, TRIAL, text } from '../options.ts';

export const predict = (parser: Argv) =>
  parser.command('predict <videos..>', 'name the classes of videos', predictOptions, runPredict);

const SECONDS = { least: 0.001, isWhole: false };

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
    .option('timeline', text('timeline', 'what is seen when: segments to FILE.json, .csv, .srt or .html', {}))
    .option('window', number('window', 'seconds of a window (default: as long as a training clip)', SECONDS))
    .option('overlap', number('overlap', 'of a window with the next (default: 0.5)', { most: 0.95, isWhole: false }))
    .option('smooth', number('smooth', 'seconds over which windows are averaged (default: 0)', { isWhole: false }))
    .option(
      'threshold',
      number('threshold', 'least probability of a segment (default: 0.5)', { most: 1, isWhole: false }),
    )
    .option('explain', text('explain', 'folder for pictures of where the decoder looks: a strip and a video', {}))
    .option('attention', text('attention', 'of --explain: LAYER or LAYER:HEAD, from 1 (default: the mean of all)', {}))
    .option('seconds', number('seconds', 'of a stream: end after so many seconds of it', SECONDS))
    .option('set', SET);

async function runPredict(args: Parsed<typeof predictOptions>): Promise<void> {
  const { predict: predictVideos } = await import('../../inference/prediction/predict.ts');
  await predictVideos(args, new Report({ json: args.json }));
}
