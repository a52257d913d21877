/** The words of a command line: put in the order that the parser knows; a word that no command knows is explained. */

import { distance } from 'fastest-levenshtein';
import { UserError } from '../base/errors.ts';
import { Report } from '../base/printer.ts';

/** The verbs with verbs of their own. */
export const GROUPS: Readonly<Record<string, readonly string[]>> = {
  sweep: ['status', 'report'],
  checkpoint: ['convert'],
  export: ['onnx', 'torch'],
  weights: ['fetch', 'inspect'],
  features: ['forecast', 'build', 'export'],
  clips: ['prepare'],
  lists: [
    ...['from-folders', 'from-csv', 'from-jsonl', 'from-kinetics', 'from-ssv2', 'from-ucf101', 'from-hmdb51'],
    ...['from-label-studio', 'from-cvat', 'split'],
  ],
};

/** What follows `--` there is another program's. */
const TAKES_REST = new Set(['import-command', 'bench']);

/** Before a word that begins with `-` and is a name all the same. No word of a command line can hold it. */
const NAME = '\0';

/** Returns a name as it was given. */
export const readName = (word: string): string => (word.startsWith(NAME) ? word.slice(1) : word);

/**
 * Returns the words as the parser takes them: the command first, `help train` as `train --help`, and after `--` nothing
 * but names, whatever they begin with. A `-` alone is a name, too.
 */
export function arrangeWords(given: string[], verbs: string[]): string[] {
  const [first, ...rest] = given;
  if (first === undefined) return ['--help'];
  if (first === 'help') return [...rest, '--help'];
  if (first === 'version' && rest.length === 0) return ['--version'];
  if (first.startsWith('--get-yargs-completions')) return given;
  const words = first.startsWith('-') ? putVerbFirst(given, verbs) : given;
  if (words.length === 1 && Object.hasOwn(GROUPS, first) && first !== 'sweep') return [first, '--help'];
  const [verb = ''] = words;
  if (verb === 'import-command') return markProgram(words);
  if (TAKES_REST.has(verb)) return words;
  const end = words.indexOf('--');
  const before = end < 0 ? words : words.slice(0, end);
  const names = end < 0 ? [] : words.slice(end + 1);
  return [...before.map((word) => (word === '-' ? NAME + word : word)), ...names.map((word) => NAME + word)];
}

/** `coldframe --json doctor` is `coldframe doctor --json`. */
function putVerbFirst(words: string[], verbs: string[]): string[] {
  const end = words.indexOf('--');
  const at = words.findIndex((word, index) => verbs.includes(word) && (end < 0 || index < end));
  return at < 0 ? words : [words[at] ?? '', ...words.slice(0, at), ...words.slice(at + 1)];
}

/** Another program's command line begins at its first word, whether `--` stands before it or not. */
function markProgram(words: string[]): string[] {
  if (words.includes('--')) return words;
  const own = ['--script', '--output'];
  const at = words.findIndex(
    (word, index) => index > 0 && !word.startsWith('-') && !own.includes(words[index - 1] ?? ''),
  );
  return at < 0 ? words : [...words.slice(0, at), '--', ...words.slice(at)];
}

/** Whether JSON lines are asked for, known before anything is parsed: a mistake is told that way, too. */
export function wantsJson(words: string[]): boolean {
  const end = words.indexOf('--');
  const own = end < 0 ? words : words.slice(0, end);
  const last = own.findLastIndex((word) => word === '--json' || word.startsWith('--json='));
  return last >= 0 && own[last] !== '--json=false' && !(own[last] === '--json' && own[last + 1] === 'false');
}

/** Throws UserError for a switch with another value than true or false: the parser takes each for false. */
export function refuseSwitchValues(words: string[]): void {
  const wrong = words.filter(
    (word) => /^--(json|dry-run|quick|watch|help|version)=/.test(word) && !/=(true|false)$/.test(word),
  );
  if (wrong.length > 0)
    throw new UserError(wrong.map((word) => `${word.replace('=', '  found ')}. It is a switch and takes no value.`));
}

/** What the parser knew when it stopped. */
export interface Known {
  /** Long names of the command's options. */
  options: string[];
  /** Those of them that take no value. */
  switches: string[];
  /** Names of the words it takes. */
  words: string[];
}

/** The parser's complaint about a command line; `explainMistake` makes what the user reads of it. */
export class Mistake extends Error {
  readonly known: Known;
  /** The command's help. */
  readonly help: string;

  constructor(message: string, known: Known, help: string) {
    super(message);
    this.known = known;
    this.help = help;
  }
}

/** Returns what the user reads: every word that is wrong and what was meant, else the complaint in our words. Of a bare verb
 * its help is printed before. */
export async function explainMistake({ message, known, help }: Mistake, words: string[], verbs: string[]) {
  const depth = words.length > 1 && GROUPS[words[0] ?? '']?.includes(words[1] ?? '') ? 2 : 1;
  const verb = words.slice(0, depth).join(' ');
  const see = `See \`coldframe ${verbs.includes(words[0] ?? '') ? `${verb} ` : ''}--help\`.`;
  const stranger = explainVerb(words, verbs);
  if (stranger !== undefined) return new UserError([stranger, 'See `coldframe --help`.']);
  const wrong = await explainWords(verb, words.slice(depth), known);
  if (wrong.length > 0) return new UserError([...wrong, see]);
  const told = describeComplaint(message, verb, known);
  if (words.length > depth) return new UserError([told, see]);
  new Report().note(`${help}\n`);
  return new UserError(told);
}

/** Returns what to say of a first or second word that is no verb. */
function explainVerb([first = '', second = '']: string[], verbs: string[]): string | undefined {
  if (!verbs.includes(first)) {
    if (first.startsWith('-'))
      return `${first}  stands before a command, and there is none. Allowed: ${verbs.join(', ')}.`;
    const inner = Object.entries(GROUPS).find(([, names]) => names.includes(first));
    const near = inner === undefined ? findNear(first, verbs) : `${inner[0]} ${first}`;
    return `${readName(first)}  no command. ${near === undefined ? `Allowed: ${verbs.join(', ')}.` : `Did you mean \`coldframe ${near}\`?`}`;
  }
  const inner = GROUPS[first];
  if (inner === undefined || inner.includes(second) || second.startsWith('-') || second === '') return undefined;
  const near = findNear(second, inner);
  if (first === 'sweep' && near === undefined) return undefined; // it runs without a second verb
  return `${first} ${readName(second)}  no command. ${near === undefined ? `Allowed: ${inner.join(', ')}.` : `Did you mean \`coldframe ${first} ${near}\`?`}`;
}

/** Returns a line for each word that is no option, or no word of this command. */
async function explainWords(verb: string, words: string[], known: Known): Promise<string[]> {
  const problems: string[] = [];
  for (let index = 0; index < words.length; index++) {
    const word = words[index] ?? '';
    const [, name = '', value] = /^--([^=]*)(?:=(.*))?$/s.exec(word) ?? [];
    if (/^-[^-\d]/.test(word) && word !== '-h') problems.push(explainDash(word, known));
    else if (name === '' && known.words.length > 0) continue;
    else if (name === '') problems.push(explainWord(verb, word, known));
    else if (!known.options.includes(name)) {
      problems.push(await explainOption(verb, name, value, words[index + 1], known));
      if (value === undefined && !/^-\D|^$/.test(words[index + 1] ?? '') && known.words.length === 0) index++; // its value
    } else if (known.switches.includes(name)) {
      if (['true', 'false'].includes(words[index + 1] ?? '')) index++;
    } else if (value === undefined) {
      const [pair = '', next = ''] = words.slice(index + 1);
      const isSplit = name === 'set' && /^[\w.]+$/.test(pair) && next !== '' && !next.startsWith('-');
      if (isSplit) problems.push(`--set ${pair}  holds no value. Did you mean --set ${pair}=${next}?`);
      index += isSplit ? 2 : 1;
    }
  }
  return problems;
}

function explainDash(word: string, known: Known): string {
  const name = word.replace(/^-+/, '').replace(/=.*$/s, '');
  if (known.options.includes(name)) return `${word}  unknown option. Did you mean --${name}?`;
  const names = known.words.length > 0 ? ' A name that begins with `-` comes after `--`.' : '';
  return `${word}  unknown option. Options begin with two dashes.${names}`;
}

function explainWord(verb: string, word: string, { options }: Known): string {
  const name = readName(word);
  if (options.includes('set') && /^[\w.]+=/.test(name)) return `${name}  no option. Did you mean --set ${name}?`;
  if (options.includes('config') && /\.(ya?ml|json)$/.test(name))
    return `${name}  no option. Did you mean --config ${name}?`;
  if (options.includes('checkpoint')) return `${name}  no option. Did you mean --checkpoint ${name}?`;
  return `${name}  one word too many: ${verb} takes options only.`;
}

/** An option that is none: another one misspelt, or a key of the configuration. */
async function explainOption(
  verb: string,
  name: string,
  value: string | undefined,
  next: string | undefined,
  { options }: Known,
): Promise<string> {
  const near = findNear(name.replaceAll('_', '-'), options);
  if (near !== undefined) return `--${name}  unknown option. Did you mean --${near}?`;
  if (options.includes('set')) {
    const { findKey } = await import('../config/keys.ts'); // it loads the schema, which no right command line waits for
    const found = findKey(name);
    const given = value ?? (next === undefined || /^-\D/.test(next) ? 'VALUE' : next);
    if (found?.key !== undefined) return `--${name}  is a key of the configuration: --set ${found.key}=${given}`;
    if (found !== undefined) return `--${name}  unknown option. ${found.advice}`;
  }
  const shown = options.filter((option) => option !== 'help' && option !== 'version');
  return `--${name}  unknown option. ${verb} takes ${shown.map((option) => `--${option}`).join(', ')}.`;
}

/** Returns the name that was probably meant: at most two of five letters are wrong, or it was cut. */
function findNear(word: string, names: readonly string[]): string | undefined {
  const near = names
    .map((name) => ({ name, share: distance(word, name) / Math.max(word.length, name.length) }))
    .filter(({ share }) => share <= 0.4)
    .sort((a, b) => a.share - b.share)[0]?.name;
  const longer = names.filter((name) => word.length > 2 && name.startsWith(word));
  return near ?? (longer.length === 1 ? longer[0] : undefined);
}

/** The parser's texts, where they are not ours already. */
function describeComplaint(message: string, verb: string, known: Known): string {
  if (message.startsWith('Not enough non-option')) return `${verb}  needs ${known.words.join(' and ').toUpperCase()}.`;
  const [, names] = /^Missing required arguments?: (.*)$/s.exec(message) ?? [];
  if (names !== undefined)
    return `${verb}  needs ${names
      .split(', ')
      .map((name) => `--${name}`)
      .join(' and ')}.`;
  const [, option] = /^Not enough arguments following: (.*)$/s.exec(message) ?? [];
  if (option !== undefined) return `--${option}  needs a value.`;
  const [, argument, given, choices] = /Argument: ([^,]*), Given: (.*), Choices: (.*)$/s.exec(message) ?? [];
  if (argument !== undefined) {
    const shown = known.words.includes(argument) ? argument.toUpperCase() : `--${argument}`;
    return `${shown}  found ${given}. Allowed: ${choices?.replaceAll('"', '')}.`;
  }
  return message.replace(/^Unknown arguments?: /, `${verb}  one word too many: `).replaceAll(NAME, '');
}
