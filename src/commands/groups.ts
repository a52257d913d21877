/** The commands that have commands of their own: `checkpoint`, `weights`, `features`, `clips`. */

import type { Argv } from 'yargs';
import { Report } from '../base/printer.ts';
import { begin, CONFIG, DRY_RUN, name, number, type Parsed, REQUIRED, SET, TRIAL, text } from './options.ts';

export const checkpointCommands = (command: Argv) =>
  begin(command, 'checkpoint').command(
    'convert <path>',
    'to and from the checkpoints of the original',
    convertOptions,
    runConvert,
  );

const convertOptions = (command: Argv) =>
  begin(command, 'checkpoint convert')
    .positional('path', name('checkpoint folder, or checkpoint-N.pth'))
    .option('to', {
      ...{ choices: ['coldframe', 'upstream'] as const, demandOption: true as const, requiresArg: true },
      ...{ describe: 'format to write', ...REQUIRED },
    })
    .option('output', text('output', 'file (upstream) or folder', { demandOption: true, ...REQUIRED }))
    .option('trial', TRIAL)
    .option('config', text('config', 'its model, for a checkpoint of the original', {}))
    .option('set', SET);

async function runConvert(args: Parsed<typeof convertOptions>): Promise<void> {
  const { path: checkpoint, to, output, config, trial, set } = args;
  const { convert } = await import('../inference/convert.ts');
  await convert({ checkpoint, to, output, config, trial, set }, new Report({ json: args.json }));
}

export const weightsCommands = (command: Argv) =>
  begin(command, 'weights')
    .command('fetch [name]', 'download weights, verified; goes on where it stopped', fetchOptions, runFetch)
    .command('inspect <file>', 'format, sizes and the configuration for a weights file', inspectOptions, runInspect);

const fetchOptions = (command: Argv) =>
  begin(command, 'weights fetch')
    .positional('name', { type: 'string', describe: 'ViT-B/16, ViT-L/14, ViT-L/14@336px or ViT-B/32' })
    .option('to', text('to', 'folder', { default: 'weights' }))
    .option('url', text('url', 'a mirror, or any other file', {}))
    .option('sha256', text('sha256', 'of another file, 64 hex digits', {}))
    .option('timeout', {
      ...number('timeout', 'seconds without a byte', { least: 0.001, most: 86_400, isWhole: false }),
      default: 30,
    });

async function runFetch(args: Parsed<typeof fetchOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { name, to: folder, url, sha256, timeout: stallSeconds } = args;
  report.enableProgress();
  const { fetchWeights } = await import('../weights/weights.ts');
  await fetchWeights({ name, url, sha256, folder, stallSeconds }, report);
}

const inspectOptions = (command: Argv) =>
  begin(command, 'weights inspect').positional('file', name('weights file or checkpoint folder'));

async function runInspect(args: Parsed<typeof inspectOptions>): Promise<void> {
  const { inspectWeights } = await import('../weights/weights.ts');
  await inspectWeights(args.file, new Report({ json: args.json }));
}

export const featuresCommands = (command: Argv) =>
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
  const { loadInputs } = await import('../data/checks.ts');
  const { config, notes } = await loadInputs(args.config, args.set, ['train', 'val']);
  for (const note of notes) report.note(note);
  report.enableProgress();
  const features = await import('../caches/features.ts');
  await features[verb](config, report);
}

export const clipsCommands = (command: Argv) =>
  begin(command, 'clips').command(
    'prepare',
    're-encode the clips of a configuration once, so that each is cheap to open',
    clipsOptions,
    runClips,
  );

const clipsOptions = (command: Argv) =>
  begin(command, 'clips prepare')
    .option('config', CONFIG)
    .option(
      'output',
      text('output', 'folder for clips, lists and prepared.yaml; run again, it goes on', {
        demandOption: true,
        ...REQUIRED,
      }),
    )
    .option('set', SET)
    .option('dry-run', DRY_RUN('measure, say time and disk, write nothing'));

async function runClips(args: Parsed<typeof clipsOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { loadInputs } = await import('../data/checks.ts');
  const { config, notes } = await loadInputs(args.config, args.set, ['train', 'val']);
  for (const note of notes) report.note(note);
  report.enableProgress();
  const { prepareClips } = await import('../caches/clips.ts');
  const { config: file, output, 'dry-run': isDryRun } = args;
  await prepareClips({ config, file, output, isDryRun }, report);
}
