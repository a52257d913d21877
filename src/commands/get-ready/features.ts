/** `features forecast`, `features build`, `features export`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, CONFIG, name, number, type Parsed, REQUIRED, SET, TRIAL, text } from '../options.ts';

export const features = (parser: Argv) =>
  parser.command('features', 'the feature cache: train without decoding or a backbone pass', featuresCommands);

const featuresCommands = (command: Argv) =>
  begin(command, 'features')
    .command('forecast', 'bytes, time, and after how many epochs it pays', featuresOptions('forecast'), (args) =>
      runFeatures('forecastFeatures', args),
    )
    .command('build', 'build it in data.features; goes on where it stopped', featuresOptions('build'), (args) =>
      runFeatures('buildFeatures', args),
    )
    .command('export <list>', 'features of the clips of a list, as files for other programs', exportOptions, runExport);

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

const exportOptions = (command: Argv) =>
  begin(command, 'features export')
    .positional('list', name('list of clips, `<path> <label>` a line'))
    .option('output', text('output', 'folder to write, new or empty', { demandOption: true, ...REQUIRED }))
    .option('config', text('config', 'YAML configuration: its backbone, and how clips are read', {}))
    .option('checkpoint', text('checkpoint', 'the same of a checkpoint or run folder', {}))
    .option('trial', TRIAL)
    .option('layer', { ...number('layer', LAYER, { least: -1000 }), default: -1 })
    .option('norm', { type: 'boolean', default: false, describe: "with the backbone's final norm behind it" })
    .option('per', { choices: ['frame', 'clip'] as const, default: 'clip' as const, requiresArg: true, describe: PER })
    .option('format', {
      ...{ choices: ['safetensors', 'npy'] as const, default: 'safetensors' as const, requiresArg: true },
      describe: 'one file, or a .npy file a tensor',
    })
    .option('set', SET);

const LAYER = 'after which block: 1 the first, -1 the last, 0 what enters the first';
const PER = 'a row a clip, the mean over its frames, or a row a frame within each clip';

async function runExport(args: Parsed<typeof exportOptions>): Promise<void> {
  const { exportFeatures } = await import('../../inference/export-features.ts');
  await exportFeatures(args, new Report({ json: args.json }));
}
