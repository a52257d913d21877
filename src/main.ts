/** The commands. Rooms are imported when a command needs them, so that `--help` needs neither Python nor a parser. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import yargs, { type Argv } from 'yargs';
import { PROJECT } from './base/paths.ts';
import { Report } from './base/printer.ts';
import { checkpoint } from './commands/checkpoint.ts';
import { arrangeWords, explainMistake, Mistake, refuseSwitchValues } from './commands/command-line.ts';
import { completion } from './commands/completion.ts';
import { bench } from './commands/get-ready/bench.ts';
import { check } from './commands/get-ready/check.ts';
import { clips } from './commands/get-ready/clips.ts';
import { doctor } from './commands/get-ready/doctor.ts';
import { features } from './commands/get-ready/features.ts';
import { fit } from './commands/get-ready/fit.ts';
import { init } from './commands/get-ready/init.ts';
import { keys } from './commands/get-ready/keys.ts';
import { lists } from './commands/get-ready/lists.ts';
import { weights } from './commands/get-ready/weights.ts';
import { flags, importCommand } from './commands/import-command.ts';
import { JSON_LINES } from './commands/options.ts';
import { sweep } from './commands/sweep.ts';
import { compare } from './commands/train-and-use/compare.ts';
import { ensemble } from './commands/train-and-use/ensemble.ts';
import { evaluate } from './commands/train-and-use/evaluate.ts';
import { exportModel } from './commands/train-and-use/export.ts';
import { predict } from './commands/train-and-use/predict.ts';
import { report } from './commands/train-and-use/report.ts';
import { serve } from './commands/train-and-use/serve.ts';
import { tail } from './commands/train-and-use/tail.ts';
import { train } from './commands/train-and-use/train.ts';

/** The commands in the order of a project's life; the first help shows them so. */
const VERBS: Readonly<Record<string, string[]>> = {
  'Train and use': ['train', 'evaluate', 'predict', 'report', 'ensemble', 'compare', 'export', 'tail', 'serve'],
  'Many trials': ['sweep'],
  'Get ready': ['init', 'lists', 'check', 'weights', 'features', 'clips', 'fit', 'keys', 'doctor', 'bench'],
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
    .version(readVersion()) // yargs, once bundled, would take that of the current folder's project
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

function readVersion(): string {
  return JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8')).version;
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

/** The commands, in the order in which completion shows them. */
const COMMANDS = [
  train,
  evaluate,
  report,
  sweep,
  compare,
  ensemble,
  predict,
  exportModel,
  tail,
  serve,
  checkpoint,
  init,
  lists,
  check,
  weights,
  features,
  clips,
  importCommand,
  flags,
  keys,
  fit,
  bench,
  doctor,
  completion,
];

const addCommands = (parser: Argv, words: string[]): Argv =>
  COMMANDS.reduce<Argv>((all, add) => add(all, words), parser);
