/** The commands. Rooms are imported when a command needs them, so that `--help` needs neither Python nor a parser. */

import yargs, { type Argv } from 'yargs';
import { UserError } from './errors.ts';
import { CHECKPOINT, CONFIG, JSON_LINES, lastOf, type Parsed, SET, TRIAL } from './options.ts';
import { Report } from './report.ts';
import { compareOptions, runCompare, sweepCommands } from './sweep-commands.ts';

export async function main(argv: string[]): Promise<void> {
  const parser = yargs(argv)
    .scriptName('coldframe')
    .locale('en') // half of the words are ours
    .usage('$0 <command>: strong video classifiers on a frozen image backbone')
    .parserConfiguration({
      ...{ 'boolean-negation': false, 'camel-case-expansion': false },
      ...{ 'parse-numbers': true, 'parse-positional-numbers': false }, // words after `--` stay as they are
    })
    .command('train', 'train a classifier; run again, it goes on where it stopped', trainOptions, runTrain)
    .command('evaluate', 'multi-view test of a checkpoint', evaluateOptions, runEvaluate)
    .command('sweep', 'many trials for the price of little more than one', sweepCommands)
    .command('compare <runs..>', 'metrics and settings of runs, side by side', compareOptions, runCompare)
    .command('ensemble <results..>', 'average the scores of several evaluations', ensembleOptions, runEnsemble)
    .command('predict <videos..>', 'name the classes of videos', predictOptions, runPredict)
    .command('checkpoint', 'checkpoints in and out', checkpointCommands)
    .command('weights', 'backbone weights: fetch public files, or see what a file is', weightsCommands)
    .command('features', 'the feature cache: train without decoding or a backbone pass', featuresCommands)
    .command('clips', 'videos made ready for training', clipsCommands)
    .command('import-command', "the original's command line as a configuration", importOptions, runImportCommand)
    .command('flags', "the original's flags, and the keys they became", flagsOptions, runFlags)
    .command('fit', 'the largest micro-batch that memory holds', fitOptions, runFit)
    .command(
      'bench <name>',
      'measure this machine: ratios against the plain way of doing the same',
      benchOptions,
      runBench,
    )
    .command('doctor', 'what is installed here, and how to mend what is not', doctorOptions, runDoctor)
    .demandCommand(1, 'Which command?')
    .strict()
    .recommendCommands()
    .wrap(100)
    .exitProcess(false)
    .showHelpOnFail(false)
    .fail((message: string, error: Error | undefined) => {
      if (error !== undefined && error.name !== 'YError') throw error;
      throw new UserError([message ?? error?.message, 'See `coldframe --help`, or `coldframe <command> --help`.']);
    });
  await parser.parseAsync();
}

const trainOptions = (command: Argv) =>
  command
    .option('config', { ...CONFIG, demandOption: false })
    .option('cohort', {
      type: 'string',
      requiresArg: true,
      describe: 'cohort.json of a sweep instead: many trials on one stream of clips',
      coerce: lastOf,
    })
    .option('set', SET)
    .option('run-dir', {
      type: 'string',
      requiresArg: true,
      describe: 'run folder (default runs/<name of the file>)',
      coerce: lastOf,
    })
    .option('resume', {
      type: 'string',
      default: 'auto',
      requiresArg: true,
      describe: 'auto: go on where the run stopped; never: start anew; or a checkpoint to go on from',
      coerce: lastOf,
    })
    .option('attempt', {
      type: 'number',
      requiresArg: true,
      describe: 'number of this start, from a scheduler: a higher one in RUN/attempt.json ends this one',
    })
    .option('dry-run', { type: 'boolean', default: false, describe: 'check all, print the plan, train nothing' })
    .option('json', JSON_LINES);

async function runTrain(args: Parsed<typeof trainOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { chooseRunDir } = await import('./run-changes.ts');
  const { readWork, train } = await import('./train.ts');
  const notes: string[] = [];
  const { cohort, config, name } = readWork(args, (text) => notes.push(text));
  // That a run starts anew is its first line: what else there is to say comes after it.
  const runDir = args['run-dir'] ?? chooseRunDir(name, cohort, (text) => report.note(text));
  for (const note of notes) report.note(note);
  if (args['dry-run']) {
    const { planTraining } = await import('./plan.ts');
    return planTraining(config, report);
  }
  await report.enableProgress();
  await train({ cohort, runDir, resume: args.resume, attempt: args.attempt }, report);
}

const evaluateOptions = (command: Argv) =>
  command
    .option('config', CONFIG)
    .option('checkpoint', CHECKPOINT)
    .option('trial', TRIAL)
    .option('set', SET)
    .option('output', { type: 'string', requiresArg: true, describe: 'folder for result.json and scores.npz' })
    .option('json', JSON_LINES);

async function runEvaluate(args: Parsed<typeof evaluateOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { loadConfig } = await import('./config.ts');
  const { config, notes } = loadConfig(args.config, { set: args.set });
  for (const note of notes) report.note(note);
  await report.enableProgress();
  const { evaluate } = await import('./evaluate.ts');
  await evaluate(config, args.checkpoint, args.trial, args.output, report);
}

const ensembleOptions = (command: Argv) =>
  command
    .positional('results', { type: 'string', array: true, demandOption: true, describe: 'folders that evaluate wrote' })
    .option('json', JSON_LINES);

async function runEnsemble(args: Parsed<typeof ensembleOptions>): Promise<void> {
  const { averageScores } = await import('./ensemble.ts');
  await averageScores(args.results, new Report({ json: args.json }));
}

const predictOptions = (command: Argv) =>
  command
    .positional('videos', { type: 'string', array: true, demandOption: true, describe: 'video files' })
    .option('checkpoint', CHECKPOINT)
    .option('trial', TRIAL)
    .option('top', { type: 'number', default: 5, requiresArg: true, describe: 'how many classes to name' })
    .option('set', SET)
    .option('json', JSON_LINES);

async function runPredict(args: Parsed<typeof predictOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  if (!Number.isInteger(args.top) || args.top < 1)
    throw new UserError(`--top  ${args.top} was given. A whole number from 1 on is needed.`);
  const { predict } = await import('./evaluate.ts');
  await predict(args.checkpoint, args.videos, args.trial, args.top, args.set, report);
}

const checkpointCommands = (command: Argv) =>
  command
    .command('convert <path>', 'to and from the checkpoints of the original', convertOptions, runConvert)
    .demandCommand(1, 'checkpoint  Which one: convert?');

const convertOptions = (command: Argv) =>
  command
    .positional('path', { type: 'string', demandOption: true, describe: 'checkpoint folder, or checkpoint-N.pth' })
    .option('to', { choices: ['coldframe', 'upstream'] as const, demandOption: true, describe: 'format to write' })
    .option('output', { type: 'string', demandOption: true, requiresArg: true, describe: 'file (upstream) or folder' })
    .option('trial', TRIAL)
    .option('config', { type: 'string', requiresArg: true, describe: 'its model, for a checkpoint of the original' })
    .option('set', SET)
    .option('json', JSON_LINES);

async function runConvert(args: Parsed<typeof convertOptions>): Promise<void> {
  const { path: checkpoint, to, output, config, trial, set } = args;
  const { convert } = await import('./convert.ts');
  await convert({ checkpoint, to, output, config, trial, set }, new Report({ json: args.json }));
}

const weightsCommands = (command: Argv) =>
  command
    .command('fetch [name]', 'download weights, verified; goes on where it stopped', fetchOptions, runFetch)
    .command('inspect <file>', 'format, sizes and the configuration for a weights file', inspectOptions, runInspect)
    .demandCommand(1, 'weights  Which one: fetch or inspect?');

const fetchOptions = (command: Argv) =>
  command
    .positional('name', { type: 'string', describe: 'ViT-B/16, ViT-L/14, ViT-L/14@336px or ViT-B/32' })
    .option('to', { type: 'string', default: 'weights', requiresArg: true, describe: 'folder', coerce: lastOf })
    .option('url', { type: 'string', requiresArg: true, describe: 'a mirror, or any other file', coerce: lastOf })
    .option('sha256', { type: 'string', requiresArg: true, describe: 'of another file, 64 hex digits', coerce: lastOf })
    .option('timeout', { type: 'number', default: 30, requiresArg: true, describe: 'seconds without a byte' })
    .option('json', JSON_LINES);

async function runFetch(args: Parsed<typeof fetchOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { name, to: folder, url, sha256, timeout: stallSeconds } = args;
  if (!(stallSeconds > 0 && stallSeconds <= 86_400))
    // also NaN
    throw new UserError(`--timeout  ${stallSeconds} was given. Seconds above 0, up to a day, are needed.`);
  await report.enableProgress();
  const { fetchWeights } = await import('./weights.ts');
  await fetchWeights({ name, url, sha256, folder, stallSeconds }, report);
}

const inspectOptions = (command: Argv) =>
  command
    .positional('file', { type: 'string', demandOption: true, describe: 'weights file or checkpoint folder' })
    .option('json', JSON_LINES);

async function runInspect(args: Parsed<typeof inspectOptions>): Promise<void> {
  const { inspectWeights } = await import('./weights.ts');
  await inspectWeights(args.file, new Report({ json: args.json }));
}

const fitOptions = (command: Argv) =>
  command
    .option('config', CONFIG)
    .option('memory', {
      type: 'string',
      requiresArg: true,
      describe: 'budget of the Python process, such as 8GiB (default: what is free now)',
      coerce: lastOf,
    })
    .option('set', SET)
    .option('json', JSON_LINES);

async function runFit(args: Parsed<typeof fitOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { loadConfig } = await import('./config.ts');
  const { config, notes } = loadConfig(args.config, { set: args.set });
  for (const note of notes) report.note(note);
  const { fitBatch, readBudget } = await import('./fit.ts');
  await fitBatch({ config, budgetBytes: readBudget(args.memory) }, report);
}

const benchOptions = (command: Argv) =>
  command
    .usage('$0 bench <name> [-- options of the program]')
    .positional('name', {
      type: 'string',
      demandOption: true,
      describe: 'loader, step, cohort, features, list, bridge, memory, startup, sweep or all',
    })
    .option('quick', { type: 'boolean', default: false, describe: 'fewer rounds: a first look' })
    .option('json', JSON_LINES);

async function runBench(args: Parsed<typeof benchOptions> & { _: (string | number)[] }): Promise<void> {
  const { bench } = await import('./bench.ts');
  const { name, quick } = args;
  await bench({ name, quick, args: args._.slice(1).map(String) }, new Report({ json: args.json }));
}

const featuresCommands = (command: Argv) =>
  command
    .command('forecast', 'bytes, time, and after how many epochs it pays', featuresOptions, (args) =>
      runFeatures('forecastFeatures', args),
    )
    .command('build', 'build it in data.features; goes on where it stopped', featuresOptions, (args) =>
      runFeatures('buildFeatures', args),
    )
    .demandCommand(1, 'features  Which one: forecast or build?');

const featuresOptions = (command: Argv) =>
  command.option('config', CONFIG).option('set', SET).option('json', JSON_LINES);

async function runFeatures(
  verb: 'forecastFeatures' | 'buildFeatures',
  args: Parsed<typeof featuresOptions>,
): Promise<void> {
  const report = new Report({ json: args.json });
  const { loadConfig } = await import('./config.ts');
  const { config, notes } = loadConfig(args.config, { set: args.set });
  for (const note of notes) report.note(note);
  await report.enableProgress();
  const features = await import('./features.ts');
  await features[verb](config, report);
}

const clipsCommands = (command: Argv) =>
  command
    .command(
      'prepare',
      're-encode the clips of a configuration once, so that each is cheap to open',
      clipsOptions,
      runClips,
    )
    .demandCommand(1, 'clips  Which one: prepare?');

const clipsOptions = (command: Argv) =>
  command
    .option('config', CONFIG)
    .option('output', {
      type: 'string',
      demandOption: true,
      requiresArg: true,
      describe: 'folder for clips, lists and prepared.yaml; run again, it goes on',
      coerce: lastOf,
    })
    .option('set', SET)
    .option('dry-run', { type: 'boolean', default: false, describe: 'measure, say time and disk, write nothing' })
    .option('json', JSON_LINES);

async function runClips(args: Parsed<typeof clipsOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { loadConfig } = await import('./config.ts');
  const { config, notes } = loadConfig(args.config, { set: args.set });
  for (const note of notes) report.note(note);
  await report.enableProgress();
  const { prepareClips } = await import('./prepare.ts');
  const { config: file, output, 'dry-run': isDryRun } = args;
  await prepareClips({ config, file, output, isDryRun }, report);
}

const doctorOptions = (command: Argv) => command.option('json', JSON_LINES);

async function runDoctor(args: Parsed<typeof doctorOptions>): Promise<void> {
  const { examine } = await import('./doctor.ts');
  await examine(new Report({ json: args.json }));
}

const importOptions = (command: Argv) =>
  command
    .usage('$0 import-command -- python -m torch.distributed.run --nproc_per_node 8 main.py --num_frames 8 ...')
    .option('script', { type: 'string', requiresArg: true, describe: 'read the command from a shell script' })
    .option('output', { type: 'string', requiresArg: true, describe: 'file to write (default: print it)' });

async function runImportCommand(args: Parsed<typeof importOptions> & { _: (string | number)[] }): Promise<void> {
  const { runImport } = await import('./import-command.ts');
  runImport({ words: args._.slice(1).map(String), script: args.script, output: args.output }, new Report());
}

const flagsOptions = (command: Argv) => command.option('json', JSON_LINES);

async function runFlags(args: Parsed<typeof flagsOptions>): Promise<void> {
  const { showFlags } = await import('./import-command.ts');
  showFlags(new Report({ json: args.json }));
}
