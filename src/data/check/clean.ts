/** `check --write-clean`: the lists without what was found, and a list of what was taken out and why. */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readdirSync } from 'node:fs';
import { basename, dirname, extname, join, resolve } from 'node:path';
import { showPath, UserError } from '../../base/errors.ts';
import { makeFolder, writeWhole } from '../../base/files.ts';
import { listLabels, numberSet, showLabels } from '../line.ts';
import type { SeenPaths } from '../seen-paths.ts';
import type { Mapping } from './classes.ts';
import type { Code, Finding } from './findings.ts';

export interface CleanList {
  file: string;
  /** Of relative paths; null: the list's own folder, so that the clean list has them absolute. */
  root: string | null;
  paths: SeenPaths;
}

export interface Cleaned {
  file: string;
  clean: string;
  num_lines: number;
  num_left_out: number;
  sha256: string;
}

/** Findings that are no errors, for which a clip is left out all the same. */
const LEFT_OUT: ReadonlySet<Code> = new Set<Code>([
  ...(['missing', 'not-a-file', 'empty', 'unreadable', 'not-a-video', 'case-mismatch', 'unicode-mismatch'] as const),
  ...(['outside-root', 'windows-path', 'duplicate-path', 'duplicate-content', 'label-conflict'] as const),
]);
const SUMMARY = 'clean.json';

interface Fault {
  code: Code;
  message: string;
}

/** Which lines are left out, gathered while they are found. */
export class Quarantine {
  readonly #faults = new Map<string, Map<number, Fault>>();

  add({ code, severity, list, line, message, other_list: other, other_line: otherLine }: Finding): void {
    if (line === null) return;
    if (code === 'leak') {
      // What is evaluated on stays as it is: results of before can be compared.
      if (other !== undefined && otherLine !== undefined) {
        const where = `the same clip is on line ${line} of ${showPath(list)}`;
        this.#put(other, otherLine, { code, message: where });
      }
      return;
    }
    const isCross = other !== undefined && other !== list;
    if ((severity === 'error' || LEFT_OUT.has(code)) && !isCross) this.#put(list, line, { code, message });
    // Of two labels of a clip nobody knows the right one.
    if (code === 'label-conflict' && !isCross && otherLine !== undefined)
      this.#put(list, otherLine, { code, message: `line ${line} has another label for the same clip` });
  }

  faultsOf(list: string): Map<number, Fault> {
    return this.#faults.get(list) ?? new Map();
  }

  #put(list: string, line: number, fault: Fault): void {
    const faults = this.#faults.get(list) ?? new Map<number, Fault>();
    this.#faults.set(list, faults);
    if (!faults.has(line) || fault.code === 'label-conflict') faults.set(line, fault);
  }
}

/** Throws UserError where clean lists would lie among other files. */
export function refuseFolder(folder: string): void {
  if (!existsSync(folder)) return;
  const names = readdirSync(folder);
  if (names.length === 0 || names.includes(SUMMARY)) return;
  const told = names.sort().slice(0, 3).join(', ');
  throw new UserError(
    `--write-clean  ${showPath(folder)} holds other files (${told}). Name a new or empty folder, or one that check has written.`,
  );
}

export interface CleanOptions {
  folder: string;
  quarantine: Quarantine;
  mappings: Mapping[];
  classNames: string[] | null;
}

/** Writes the clean lists and what belongs to them; returns what was written of each. */
export async function writeClean(lists: CleanList[], options: CleanOptions): Promise<Cleaned[]> {
  const { folder, quarantine, mappings } = options;
  makeFolder(folder);
  const names = nameFiles(lists);
  const removed: string[] = ['list\tline\tcode\treason\ttext\n'];
  const cleaned: Cleaned[] = [];
  const counts: Map<number, number>[] = [];
  for (const [index, list] of lists.entries()) {
    const mapping = mappings.find((one) => one.list === list.file);
    const perClass = new Map<number, number>();
    const before = removed.length;
    const kept = await filterList(list, quarantine.faultsOf(list.file), { mapping, perClass, removed });
    const text = kept.lines.join('');
    const clean = join(folder, names[index] ?? '');
    writeWhole(clean, text);
    if (mapping !== undefined) writeWhole(join(folder, nameMapping(names[index] ?? '')), printMapping(mapping));
    const sha256 = createHash('sha256').update(text).digest('hex');
    cleaned.push({ file: list.file, clean, num_lines: kept.numKept, num_left_out: removed.length - before, sha256 });
    counts.push(perClass);
  }
  writeWhole(join(folder, 'quarantine.tsv'), removed.join(''));
  writeWhole(join(folder, 'per-class.tsv'), printCounts(names, counts, options.classNames));
  writeWhole(join(folder, SUMMARY), `${JSON.stringify({ lists: cleaned }, null, 2)}\n`);
  return cleaned;
}

/** Lists of one name come from several folders. */
function nameFiles(lists: CleanList[]): string[] {
  const taken = new Set(['quarantine.tsv', 'per-class.tsv', SUMMARY]);
  return lists.map(({ file }) => {
    const [end, name] = [extname(file), basename(file, extname(file))];
    let [free, number] = [`${name}${end}`, 1];
    while (taken.has(free)) free = `${name}-${++number}${end}`;
    taken.add(free);
    return free;
  });
}

const nameMapping = (name: string): string => `mapping-${basename(name, extname(name))}.tsv`;

interface Kept {
  mapping: Mapping | undefined;
  perClass: Map<number, number>;
  removed: string[];
}

/** Returns the lines that stay; counts their classes, and adds the others with their reasons. */
async function filterList(
  list: CleanList,
  faults: Map<number, Fault>,
  kept: Kept,
): Promise<{ lines: string[]; numKept: number }> {
  const lines: string[] = [];
  let numKept = 0;
  const clips = list.paths.lines();
  const prefix = join(dirname(resolve(list.file)), '/');
  let clip = clips.next();
  let number = 0;
  let hasParts = false;
  for await (const raw of readLines(list.file)) {
    number += 1;
    const text = raw.replace(/^\ufeff/, '').replace(/^[ \t]+|[ \t\r]+$/g, '');
    if (number === 1 && /^#\s*columns:/.test(text)) {
      hasParts = /\bstart\b/.test(text);
      lines.push(`${text}\n`);
    }
    const fault = faults.get(number);
    const own = !clip.done && clip.value.line === number ? clip.value : undefined;
    if (own !== undefined) clip = clips.next();
    if (fault !== undefined) {
      kept.removed.push(printRow([list.file, String(number), fault.code, fault.message, text]));
    } else if (own !== undefined) {
      const label = mapLabels(own.label, kept.mapping);
      for (const one of listLabels(label)) kept.perClass.set(one, (kept.perClass.get(one) ?? 0) + 1);
      numKept += 1;
      const isRelative = list.root === null && !text.startsWith('/');
      lines.push(`${isRelative ? prefix : ''}${label === own.label ? text : mapLine(text, label, hasParts)}\n`);
    }
  }
  return { lines, numKept };
}

/** Of several labels each is mapped. */
function mapLabels(label: number, mapping: Mapping | undefined): number {
  if (mapping === undefined) return label;
  return numberSet(
    listLabels(label)
      .map((one) => mapping.labels.get(one) ?? one)
      .sort((a, b) => a - b),
  );
}

/** Line feeds alone end a line, as everywhere in lists; readline takes more. */
async function* readLines(file: string): AsyncGenerator<string> {
  let rest = '';
  for await (const chunk of createReadStream(file, 'utf8')) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    yield* lines;
  }
  if (rest !== '') yield rest;
}

/** The label is the last word, or stands before start and end. */
const mapLine = (text: string, label: number, hasParts: boolean): string =>
  text.replace(hasParts ? /[^ \t]+(?=[ \t]+[^ \t]+[ \t]+[^ \t]+$)/ : /[^ \t]+$/, showLabels(label));

const printRow = (cells: string[]): string =>
  `${cells.map((cell) => cell.replace(/[\t\n\r]/g, (one) => JSON.stringify(one).slice(1, -1))).join('\t')}\n`;

function printMapping({ labels, names }: Mapping): string {
  const rows = [...labels].sort(([one], [two]) => one - two);
  return [['label', 'new_label', 'name'], ...rows.map(([old, now]) => [String(old), String(now), names.get(old) ?? ''])]
    .map(printRow)
    .join('');
}

function printCounts(files: string[], counts: Map<number, number>[], classNames: string[] | null): string {
  const labels = [...new Set(counts.flatMap((perClass) => [...perClass.keys()]))].sort((one, two) => one - two);
  const all = classNames === null ? labels : [...classNames.keys()];
  const rows = all.map((label) => [
    String(label),
    classNames?.[label] ?? '',
    ...counts.map((perClass) => String(perClass.get(label) ?? 0)),
  ]);
  return [['label', 'name', ...files], ...rows].map(printRow).join('');
}
