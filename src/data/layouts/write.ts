/** Writes a layout as lists, class names and a table of what was left out; refuses to overwrite. */

import { existsSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { showPath, UserError } from '../../base/errors.ts';
import { makeFolder, writeWhole } from '../../base/files.ts';
import type { Report } from '../../base/printer.ts';
import { keepLine, plural, quoteWord } from '../../base/words.ts';
import { leaveConflicts, type Numbered, numberClasses, placeOf } from './classes.ts';
import type { LaidOut, Layout, LeftOut, Side } from './layout.ts';
import { adviseRename, explainName, printPath } from './names.ts';

export const LEFT_OUT = 'left-out.tsv';
const SIDES: Side[] = ['train', 'val', 'select', 'test', 'all'];
const NUM_SHOWN = 3;

/** A clip as it stands in a list. */
export interface Listed {
  path: string;
  label: number | string;
  start?: number;
  end?: number;
}

/** Returns the text of a list. With times it begins with the line that says so. */
export function printList(clips: Listed[]): string {
  const hasParts = clips.some(({ start }) => start !== undefined);
  const lines = clips.map(({ path, label, start, end }) => {
    const times = hasParts ? ` ${printTime(start ?? 0)} ${printTime(end ?? 0)}` : '';
    return `${printPath(path)} ${label}${times}\n`;
  });
  return (hasParts ? '# columns: path label start end\n' : '') + lines.join('');
}

/** Seconds, to a microsecond and without an exponent. */
const printTime = (seconds: number): string => String(Number(seconds.toFixed(6)));

export interface WriteOptions {
  output: string;
  /** Names to number the classes by. */
  classes?: string | undefined;
}

export interface Written {
  /** Of each side, the file and its number of clips. */
  files: { path: string; num_clips: number }[];
  classes: string | null;
  numClasses: number;
}

/** Writes a layout and tells what was written, what was left out and what comes next. */
export function writeLayout(layout: Layout, options: WriteOptions, report: Report): Written {
  const { clips, leftOut } = takeListable(layout);
  if (clips.length === 0) throw new UserError(explainNothing(layout.root, leftOut));
  refuseMixed(clips);
  const numbered = numberClasses({ ...layout, clips }, options.classes);
  const written = writeFiles(clips, numbered, leftOut, options);
  for (const note of layout.notes) report.note(note);
  tell(layout.root, written, leftOut, options.output, report);
  return written;
}

/** Leaves out by name what no line can hold (layouts that read names from a file have not looked at them), and what has
 * two labels. */
export function takeListable({ root, clips, leftOut }: Layout): Pick<Layout, 'clips' | 'leftOut'> {
  const all = [...leftOut];
  const kept = clips.filter(({ path, list, line }) => {
    const why = explainName(path);
    if (why === undefined) return true;
    const folder = path.startsWith('/') ? '' : root;
    all.push({ code: 'not-listable', path, list, line, message: `${why}. Rename it: ${adviseRename(path, folder)}` });
    return false;
  });
  return leaveConflicts({ clips: kept, leftOut: all });
}

function explainNothing(root: string, leftOut: LeftOut[]): string[] {
  const first = leftOut.slice(0, NUM_SHOWN).map((one) => `${placeOf(one)}  ${keepLine(one.path)} ${one.message}`);
  return [...first, `${showPath(root)}  no clip is left for a list.`];
}

/** A list has times for all of its clips, or for none. */
function refuseMixed(clips: LaidOut[]): void {
  const [part, whole] = [
    clips.find(({ start }) => start !== undefined),
    clips.find(({ start }) => start === undefined),
  ];
  if (part === undefined || whole === undefined) return;
  throw new UserError(
    `${placeOf(whole)}  ${keepLine(whole.path)} has no start and end, and ${placeOf(part)} has. Give all of them or none.`,
  );
}

function writeFiles(clips: LaidOut[], numbered: Numbered, leftOut: LeftOut[], options: WriteOptions): Written {
  const texts = new Map<string, string>();
  const files: Written['files'] = [];
  const nameOf = ({ side, fold }: LaidOut): string => `${side ?? 'all'}${fold ?? ''}.txt`;
  const names = new Set(SIDES.flatMap((side) => clips.filter((clip) => (clip.side ?? 'all') === side).map(nameOf)));
  for (const name of names) {
    const own = clips.filter((clip) => nameOf(clip) === name);
    texts.set(name, printList(own.map((clip) => ({ ...clip, label: numbered.labelOf(clip) }))));
    files.push({ path: join(options.output, name), num_clips: own.length });
  }
  const groups = clips.filter(({ group, side }) => group !== undefined && side === undefined);
  if (groups.length > 0) texts.set('groups.csv', printGroups(groups));
  if (numbered.names !== null) texts.set('classes.txt', numbered.names.map((name) => `${name}\n`).join(''));
  if (leftOut.length > 0) texts.set(LEFT_OUT, printLeftOut(leftOut));
  writeNew(options.output, texts, options.classes);
  const classes = numbered.names === null ? null : join(options.output, 'classes.txt');
  return { files, classes, numClasses: numbered.numClasses };
}

/** Writes files into a folder. Raises UserError where one is there; `kept` may be, as it is what was read. */
export function writeNew(folder: string, texts: Map<string, string>, kept?: string): void {
  const isKept = (name: string): boolean => kept !== undefined && resolve(folder, name) === resolve(kept);
  const there = [...texts.keys()].filter((name) => existsSync(join(folder, name)) && !isKept(name));
  if (there.length > 0) {
    throw new UserError(
      there.map(
        (name) =>
          `${showPath(join(folder, name))}  exists, and nothing is overwritten. Give another --output, or remove it.`,
      ),
    );
  }
  makeFolder(folder);
  for (const [name, text] of texts) if (!isKept(name)) writeWhole(join(folder, name), text);
}

const printCell = (text: string): string => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

function printGroups(clips: LaidOut[]): string {
  const rows = clips.map(({ path, group }) => `${printCell(path)},${printCell(group ?? path)}\n`);
  return `path,group\n${[...new Set(rows)].join('')}`;
}

/** A line each: path, what it is, where, why. What is no character of a line is written as `\u000a`. */
export function printLeftOut(leftOut: LeftOut[]): string {
  const clean = (text: string): string =>
    text.replace(/[\t\n\r]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`);
  return leftOut.map((one) => `${[one.path, one.code, placeOf(one), one.message].map(clean).join('\t')}\n`).join('');
}

function tell(root: string, written: Written, leftOut: LeftOut[], output: string, report: Report): void {
  tellLeftOut(leftOut, report);
  const { files, classes, numClasses } = written;
  const numClips = files.reduce((sum, { num_clips }) => sum + num_clips, 0);
  const counts = { num_clips: numClips, num_classes: numClasses, num_left_out: leftOut.length };
  report.event({ kind: 'listed', folder: output, root, files, classes, ...counts });
  if (leftOut.length > 0)
    report.note(
      `${plural(leftOut.length, 'file')} left out: ${showPath(join(output, LEFT_OUT))} has each with its reason.`,
    );
  const all = files.find(({ path }) => path.endsWith('/all.txt'));
  if (all !== undefined) report.say(`Next: ${adviseSplit(root, all.path, output)}`);
}

function adviseSplit(root: string, list: string, output: string): string {
  const isOwnFolder = relative(output, root) === '';
  const hasGroups = existsSync(join(output, 'groups.csv'));
  const words = ['coldframe', 'lists', 'split', list, ...(isOwnFolder ? [] : ['--root', root])];
  return [...words, ...(hasGroups ? ['--groups', join(output, 'groups.csv')] : [])].map(quoteWord).join(' ');
}

/** For people the first of each kind, and how many there are; for programs all. */
export function tellLeftOut(leftOut: LeftOut[], report: Report): void {
  if (report.json) {
    for (const { code, path, list, line, message } of leftOut)
      report.event({ kind: 'finding', severity: 'warning', code, list, line, path, message: `${path} ${message}` });
    return;
  }
  for (const code of new Set(leftOut.map((one) => one.code))) {
    const own = leftOut.filter((one) => one.code === code);
    for (const one of own.slice(0, NUM_SHOWN))
      report.warn(`${placeOf(one)}  ${keepLine(one.path)} ${one.message} (${code})`);
    const more = own.length - NUM_SHOWN;
    if (more > 0) report.warn(`${placeOf(own[0] as LeftOut)}  and ${more} more of this kind (${code})`);
  }
}
