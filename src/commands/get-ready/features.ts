/** `features forecast`, `features build`, `features export`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import {
  begin,
  CONFIG,
  IN_PARTS,
  isPart,
  name,
  number,
  type Parsed,
  REQUIRED,
  refuseLoneExecutor,
  SET,
  TRIAL,
  text,
} from '../options.ts';

export const features = (parser: Argv, words: string[]) =>
  parser.command('features', 'the feature cache: train without decoding or a backbone pass', (command) =>
    featuresCommands(command, isPart(words)),
  );

const featuresCommands = (command: Argv, ofPart: boolean) =>
  begin(command, 'features')
    .command('forecast', 'bytes, time, and after how many epochs it pays', forecastOptions, runForecast)
    .command(
      'build',
      'build it in data.features; goes on where it stopped',
      (build: Argv) => buildOptions(build, !ofPart),
      runBuild,
    )
    .command('export <list>', 'features of the clips of a list, as files for other programs', exportOptions, runExport);

const forecastOptions = (command: Argv) =>
  begin(command, 'features forecast').option('config', CONFIG).option('set', SET);

const buildOptions = (command: Argv, needsConfig = true) =>
  begin(command, 'features build')
    .option('config', { ...CONFIG, demandOption: needsConfig })
    .option('set', SET)
    .options(IN_PARTS);

async function load({ json, config: file, set }: Pick<Parsed<typeof buildOptions>, 'json' | 'config' | 'set'>) {
  const report = new Report({ json });
  const { loadInputs } = await import('../../data/checks.ts');
  const { config, notes } = await loadInputs(file ?? '', set, ['train', 'val']);
  for (const note of notes) report.note(note);
  report.enableProgress();
  return { config, report };
}

async function runForecast(args: Parsed<typeof forecastOptions>): Promise<void> {
  const { config, report } = await load(args);
  const { forecastFeatures } = await import('../../caches/features.ts');
  await forecastFeatures(config, report);
}

async function runBuild(args: Parsed<typeof buildOptions>): Promise<void> {
  const { part: dir, attempt = 1 } = args;
  if (dir !== undefined) {
    const { runPart } = await import('../../caches/parts/part.ts');
    const { buildFeaturesPart } = await import('../../caches/parts/features.ts');
    return runPart('features', { dir, attempt }, buildFeaturesPart, new Report({ json: args.json }));
  }
  refuseLoneExecutor(args);
  const { config, report } = await load(args);
  if (args.parts === undefined) {
    const { buildFeatures } = await import('../../caches/features.ts');
    return buildFeatures(config, report);
  }
  const { chooseInParts } = await import('../../caches/parts/executor-choice.ts');
  const { buildFeaturesInParts } = await import('../../caches/parts/features.ts');
  await buildFeaturesInParts(config, chooseInParts(args.parts, args.executor, config.launch.device), report);
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
