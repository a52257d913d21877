/** `features forecast`, `features build`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, CONFIG, type Parsed, SET } from '../options.ts';

export const features = (parser: Argv) =>
  parser.command('features', 'the feature cache: train without decoding or a backbone pass', featuresCommands);

const featuresCommands = (command: Argv) =>
  begin(command, 'features')
    .command('forecast', 'bytes, time, and after how many epochs it pays', featuresOptions('forecast'), (args) =>
      runFeatures('forecastFeatures', args),
    )
    .command('build', 'build it in data.features; goes on where it stopped', featuresOptions('build'), (args) =>
      runFeatures('buildFeatures', args),
    );

const featuresOptions = (verb: string) => (command: Argv) =>
  begin(command, `features ${verb}`).option('config', CONFIG).option('set', SET);

async function runFeatures(
  verb: 'forecastFeatures' | 'buildFeatures',
  args: Parsed<ReturnType<typeof featuresOptions>>,
): Promise<void> {
  const report = new Report({ json: args.json });
  const { loadInputs } = await import('../../data/checks.ts');
  const { config, notes } = await loadInputs(args.config, args.set, ['train', 'val']);
  for (const note of notes) report.note(note);
  report.enableProgress();
  const cache = await import('../../caches/features.ts');
  await cache[verb](config, report);
}
