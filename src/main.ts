/** The commands. Rooms are imported when a command needs them, so that `--help` needs neither Python nor a parser. */

import yargs, { type Argv } from 'yargs';
import { Report } from './base/printer.ts';
import { arrangeWords, explainMistake, Mistake, refuseSwitchValues } from './commands/command-line.ts';
import { checkpointCommands, clipsCommands, featuresCommands, weightsCommands } from './commands/groups.ts';
import {
  begin,
  CHECKPOINT,
  CONFIG,
  DRY_RUN,
  JSON_LINES,
  names,
  number,
  type Parsed,
  SET,
  TRIAL,
  text,
} from './commands/options.ts';
import { compareOptions, runCompare, sweepCommands } from './commands/sweep.ts';
import { BENCHES } from './tools/bench-names.ts';

/** The commands in the order of a project's life; the first help shows them so. */
const VERBS: Readonly<Record<string, string[]>> = {
  'Train and use': ['train', 'evaluate', 'predict', 'ensemble', 'compare'],
  'Many trials': ['sweep'],
  'Get ready': ['weights', 'features', 'clips', 'fit', 'keys', 'doctor', 'bench'],
  'From and to the original EVL': ['import-command', 'flags', 'checkpoint'],
  'Your shell': ['completion'],
};
const ALL_VERBS = Object.values(VERBS).flat();

export async function main(given: string[]): Promise<void> {
  const words = arrangeWords(given, ALL_VERBS);
  refuseSwitchValues(words);
  const parser = buildParser(words);
  try {
    if (words.every((word) => word === '--help' || word === '-h'))
      new Report().print(groupVerbs(await parser.getHelp()));
    else await parser.parseAsync();
  } catch (error) {
    throw error instanceof Mistake ? await explainMistake(error, words, ALL_VERBS) : error;
  }
}

function buildParser(words: string[]): Argv {
  const parser = yargs(words);
  const width = parser.terminalWidth() ?? 100;
  return addCommands(parser, words)
    .scriptName('coldframe')
    .locale('en') // half of the words are ours
    .usage('$0 <command>: strong video classifiers on a frozen image backbone')
    .parserConfiguration({
      ...{ 'boolean-negation': false, 'camel-case-expansion': false },
      ...{ 'parse-numbers': false, 'parse-positional-numbers': false }, // a folder may be called 007
    })
    .option('json', JSON_LINES)
    .alias('h', 'help')
    .describe({ help: 'show this help', version: 'show the version' })
    .showHidden(false)
    .group(['json', 'help', 'version'], 'Always:')
    .strict()
    .wrap(Math.min(100, Math.max(40, width)))
    .exitProcess(false)
    .showHelpOnFail(false)
    .fail((message: string, error: Error | undefined, usage: unknown) => {
      if (error !== undefined && error.name !== 'YError') throw error;
      throw new Mistake(message ?? error?.message, whatIsKnown(parser), (usage as { help(): string }).help());
    });
}

function whatIsKnown(parser: Argv): { options: string[]; switches: string[]; words: string[] } {
  type Inside = { getOptions(): { key: object; boolean: string[]; hiddenOptions: string[] }; getGroups(): object };
  const inside = parser as unknown as Inside; // not in its types
  const { key, boolean: switches } = inside.getOptions();
  const words = (inside.getGroups() as { 'Positionals:'?: string[] })['Positionals:'] ?? [];
  return { options: Object.keys(key).filter((name) => name.length > 1 && !words.includes(name)), switches, words };
}

/** The parser lists commands in a row; here each stands below its heading. */
function groupVerbs(help: string): string {
  const [before = '', list = '', after = ''] = help.split(/^Commands:\n((?: {2}.*\n)+)/m);
  const entries = list.split(/^(?= {2}coldframe)/m);
  const lines = Object.entries(VERBS).map(([heading, verbs]) => {
    const found = verbs.flatMap((verb) => entries.filter((entry) => entry.split(/\s+/)[2] === verb));
    return `${heading}:\n${found.join('')}`;
  });
  return `${before}${lines.join('\n')}${after}`.trimEnd();
}

function addCommands(parser: Argv, words: string[]): Argv {
  const hasCohort = words.some((word) => /^--cohort(=|$)/.test(word));
  return parser
    .command(
      'train',
      'train a classifier; run again, it goes on where it stopped',
      (command: Argv) => trainOptions(command, !hasCohort),
      runTrain,
    )
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
    .command(
      'flags',
      "the original's flags, and the keys they became",
      (command: Argv) => begin(command, 'flags'),
      runFlags,
    )
    .command('keys [pattern]', 'the keys of a configuration: type, default, meaning', keysOptions, runKeys)
    .command('fit', 'the largest micro-batch that memory holds', fitOptions, runFit)
    .command('bench <name>', 'measure this machine: ratios to the plain way', benchOptions, runBench)
    .command('doctor', 'what is installed here, and how to mend what is not', doctorOptions, runDoctor)
    .command(
      'completion [shell]',
      'a script that completes commands in bash or zsh',
      completionOptions,
      showCompletion,
    );
}

const trainOptions = (command: Argv, needsConfig = true) =>
  begin(command, 'train')
    .option('config', { ...CONFIG, demandOption: needsConfig })
    .option('cohort', text('cohort', 'cohort.json of a sweep: many trials on one stream of clips', { hidden: true }))
    .option('set', SET)
    .option('run-dir', text('run-dir', 'run folder (default runs/<name of the file>)', {}))
    .option(
      'resume',
      text('resume', 'auto: go on where the run stopped; never: start anew; or a checkpoint to go on from', {
        default: 'auto',
      }),
    )
    .option('attempt', {
      ...number('attempt', 'number of this start, from a scheduler: a higher one in RUN/attempt.json ends this one'),
      hidden: true,
    })
    .option('dry-run', DRY_RUN('check all, print the plan, train nothing'));

async function runTrain(args: Parsed<typeof trainOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { chooseRunDir } = await import('./run/changes.ts');
  const { readWork, train } = await import('./train/train.ts');
  const notes: string[] = [];
  const { cohort, config, name } = await readWork(args, (text) => notes.push(text));
  // That a run starts anew is its first line: what else there is to say comes after it.
  const runDir = args['run-dir'] ?? chooseRunDir(name, cohort, (text) => report.note(text));
  for (const note of notes) report.note(note);
  if (args['dry-run']) {
    const { planTraining } = await import('./train/dry-run.ts');
    return planTraining(config, runDir, report);
  }
  report.enableProgress();
  await train({ cohort, runDir, resume: args.resume, attempt: args.attempt }, report);
}

const evaluateOptions = (command: Argv) =>
  begin(command, 'evaluate')
    .option('checkpoint', CHECKPOINT)
    .option('config', text('config', 'YAML configuration (default: the one that the checkpoint was trained with)', {}))
    .option('set', SET)
    .option('trial', TRIAL)
    .option('output', text('output', 'folder for result.json and scores.npz (default: in the run folder)', {}));

async function runEvaluate(args: Parsed<typeof evaluateOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  report.enableProgress();
  const { evaluate } = await import('./inference/evaluate.ts');
  await evaluate(args, report);
}

const ensembleOptions = (command: Argv) =>
  begin(command, 'ensemble').positional('results', names('folders that evaluate wrote'));

async function runEnsemble(args: Parsed<typeof ensembleOptions>): Promise<void> {
  const { averageScores } = await import('./inference/ensemble.ts');
  await averageScores(args.results, new Report({ json: args.json }));
}

const predictOptions = (command: Argv) =>
  begin(command, 'predict')
    .positional('videos', names('video files; - reads a list from stdin, a path a line'))
    .option('checkpoint', CHECKPOINT)
    .option('trial', TRIAL)
    .option('top', { ...number('top', 'how many classes to name', { least: 1 }), default: 5 })
    .option('set', SET);

async function runPredict(args: Parsed<typeof predictOptions>): Promise<void> {
  const { predict } = await import('./inference/evaluate.ts');
  await predict(args, new Report({ json: args.json }));
}

const fitOptions = (command: Argv) =>
  begin(command, 'fit')
    .option('config', CONFIG)
    .option('memory', text('memory', 'budget of the Python process, such as 8GiB (default: what is free now)', {}))
    .option('set', SET);

async function runFit(args: Parsed<typeof fitOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { loadConfig } = await import('./config/load.ts');
  const { config, notes } = loadConfig(args.config, { set: args.set });
  for (const note of notes) report.note(note);
  const { fitBatch, readBudget } = await import('./train/fit.ts');
  await fitBatch({ config, budgetBytes: readBudget(args.memory) }, report);
}

const benchOptions = (command: Argv) =>
  begin(command, 'bench')
    .usage('$0 bench <name> [-- options of the program]')
    .positional('name', {
      type: 'string',
      demandOption: true,
      choices: [...BENCHES, 'all'] as const,
      describe: 'what to measure',
    })
    .option('quick', { type: 'boolean', default: false, describe: 'fewer rounds: a first look' });

async function runBench(args: Parsed<typeof benchOptions> & { _: (string | number)[] }): Promise<void> {
  const { bench } = await import('./tools/bench.ts');
  const { name, quick } = args;
  await bench({ name, quick, args: args._.slice(1).map(String) }, new Report({ json: args.json }));
}

const doctorOptions = (command: Argv) => begin(command, 'doctor');

async function runDoctor(args: Parsed<typeof doctorOptions>): Promise<void> {
  const { examine } = await import('./tools/doctor.ts');
  await examine(new Report({ json: args.json }));
}

const importOptions = (command: Argv) =>
  begin(command, 'import-command')
    .usage('$0 import-command -- python -m torch.distributed.run --nproc_per_node 8 main.py --num_frames 8 ...')
    .option('script', text('script', 'read the command from a shell script', {}))
    .option('output', text('output', 'file to write (default: print it)', {}));

async function runImportCommand(args: Parsed<typeof importOptions> & { _: (string | number)[] }): Promise<void> {
  const { runImport } = await import('./tools/import-command.ts');
  const { script, output } = args;
  runImport({ words: args._.slice(1).map(String), script, output }, new Report({ json: args.json }));
}

async function runFlags(args: { json: boolean }): Promise<void> {
  const { showFlags } = await import('./tools/import-command.ts');
  showFlags(new Report({ json: args.json }));
}

const keysOptions = (command: Argv) =>
  begin(command, 'keys').positional('pattern', {
    type: 'string',
    describe: 'part of a key or of its meaning (default: all keys)',
  });

async function runKeys(args: Parsed<typeof keysOptions>): Promise<void> {
  const { showKeys } = await import('./tools/list-keys.ts');
  showKeys(args.pattern, new Report({ json: args.json }));
}

const completionOptions = (command: Argv) =>
  begin(command, 'completion').positional('shell', {
    type: 'string',
    choices: ['bash', 'zsh'] as const,
    describe: 'whose script (default: that of $SHELL)',
  });

/** The parser writes the script for the shell of the environment. */
function showCompletion(args: Parsed<typeof completionOptions>): void {
  if (args.shell !== undefined) process.env.SHELL = args.shell;
  yargs([]).scriptName('coldframe').showCompletionScript();
}
