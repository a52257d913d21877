/** What lists, class names and checkpoints say of the classes, against each other: few clips, none, other names, other labels. */
import { dirname } from 'node:path';
import { showPath } from '../../base/errors.ts';
import { plural, quote } from '../../base/words.ts';
import { listLabels } from '../line.ts';
import type { FoundClip } from '../scan.ts';
import { nameClass, nameClasses } from './class-words.ts';
import type { Finding, Findings } from './findings.ts';

/** A list with its clips of each class. */
export interface ClassList {
  file: string;
  perClass: Uint32Array;
  found: FoundClip[];
}

/** Class names in the order of the labels, and where they come from. */
export interface NamedClasses {
  source: string;
  names: string[];
}

/** New labels by old ones, for the clips of a list. */
export interface Mapping {
  list: string;
  labels: Map<number, number>;
  names: Map<number, string>;
  source: string;
}

const FEW = 5;
/** A class of few clips stands out where the others have so many. */
const MANY = 20;
const SKEWED = 10;
/** Folders above a clip that may carry its class. */
const MAX_LEVELS = 3;

type Names = Map<number, string>;

interface Known {
  classes: NamedClasses | null;
  /** Of the checkpoint that training begins from. */
  trained: NamedClasses | null;
}

/** Adds classes of few clips, of none, and far more of some than of others. */
export function findCountFaults(
  lists: ClassList[],
  { classes, numClasses }: { classes: NamedClasses | null; numClasses: number | null },
  findings: Findings,
): void {
  for (const { file, perClass } of lists)
    countClips(file, perClass, { names: classes?.names ?? [], numClasses }, findings);
}

/** Adds names of classes that differ between lists, class names and checkpoint; returns for each list whose labels are
 * another order of the same names how to map them. */
export function findNameFaults(
  lists: Pick<ClassList, 'file' | 'found'>[],
  { classes, trained }: Known,
  findings: Findings,
): Mapping[] {
  if (classes !== null && trained !== null) {
    const own = { list: classes.source, names: toMap(classes.names), found: [] };
    compareNames(own, { source: trained.source, names: toMap(trained.names) }, findings);
  }
  const named = lists.map(({ file, found }) => ({ list: file, read: readNames(found), found }));
  const first = named.find(({ read }) => read.length > 0);
  const told = classes ?? trained;
  const target =
    told === null
      ? first && { source: first.list, names: first.read[0] ?? new Map() }
      : { ...told, names: toMap(told.names) };
  if (target === undefined) return [];
  return named.flatMap(({ list, read, found }) => {
    if (list === target.source) return [];
    return compareNames({ list, names: chooseNames(read, target.names), found }, target, findings) ?? [];
  });
}

/** Returns the names that have most in common with others: above a clip there may be folders of another kind. */
function chooseNames(read: Names[], others: Names): Names {
  const known = new Set([...others.values()].map(fold));
  const count = (names: Names): number => [...names.values()].filter((name) => known.has(fold(name))).length;
  return read.reduce((best, one) => (count(one) > count(best) ? one : best), read[0] ?? new Map());
}

const toMap = (names: string[]): Names => new Map(names.entries());
const fold = (name: string): string =>
  name
    .normalize('NFC')
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}]+/gu, ' ')
    .trim();

function countClips(
  file: string,
  perClass: Uint32Array,
  { names, numClasses }: { names: string[]; numClasses: number | null },
  findings: Findings,
): void {
  const counted = [...perClass.entries()];
  const empty = counted.filter(([, count]) => count === 0).map(([label]) => label);
  const about = { list: file, line: null };
  if (numClasses === null && empty.length > 0) {
    const message = `labels go to ${perClass.length - 1}, and ${plural(empty.length, 'class')} below without a clip (${nameClasses(empty, names)}). Renumber the labels, or say with --num-classes that it is so.`;
    findings.add({ code: 'class-empty', severity: 'warning', message, ...about });
  }
  const some = counted.filter(([, count]) => count > 0).sort(([, one], [, two]) => one - two);
  const [least, median, most] = [some[0], some[Math.floor(some.length / 2)], some.at(-1)];
  if (least === undefined || median === undefined || most === undefined) return;
  const few = counted.filter(([, count]) => count > 0 && count < FEW).map(([label]) => label);
  if (few.length > 0) {
    const severity = median[1] >= MANY ? 'warning' : 'note';
    const message = `${plural(few.length, 'class')} of ${some.length} with fewer than ${FEW} clips (${nameClasses(few, names)}). Add clips, or leave the classes out.`;
    findings.add({ code: 'class-few', severity, message, ...about });
  }
  if (most[1] < SKEWED * least[1] || most[1] < MANY) return;
  const message = `class ${nameClass(most[0], names)} has ${plural(most[1], 'clip')}, class ${nameClass(least[0], names)} has ${least[1]}: ${Math.floor(most[1] / least[1])} times as many. Accuracy over all clips says little of small classes.`;
  findings.add({ code: 'class-skew', severity: 'note', message, ...about });
}

/** Returns what each level of the folders calls the classes, by label; none where it does not tell them apart. */
function readNames(found: FoundClip[]): Names[] {
  const isSeveral = (label: number): boolean => listLabels(label).length > 1;
  if (listOnce(found).some(isSeveral)) return []; // a clip lies in one folder alone
  const folders = readFolders(found);
  const levels = Array.from({ length: MAX_LEVELS }, (_, level) => level);
  // The folder that a clip lies in, or one above it; else, where some clips lie deeper in their class, from the top.
  const places = [...levels.map((level) => -1 - level), ...levels];
  return places.map((place) => nameBy(found, folders, place)).filter((names) => names.size > 1);
}

/** Returns each clip's folders, below those that all clips have in common. */
function readFolders(found: FoundClip[]): string[][] {
  const folders = found.map(({ path }) => dirname(path).split('/'));
  const [first = []] = folders;
  let common = 0;
  while (common < first.length && folders.every((own) => own[common] === first[common])) common += 1;
  return folders.map((own) => own.slice(common));
}

/** Returns what one level of the folders calls each label; none where it does not tell one from another. */
function nameBy(found: FoundClip[], folders: string[][], place: number): Names {
  const names: Names = new Map();
  const labels = new Map<string, number>();
  for (const [index, { label }] of found.entries()) {
    const name = folders[index]?.at(place);
    if (name === undefined || (names.get(label) ?? name) !== name || (labels.get(name) ?? label) !== label)
      return new Map();
    names.set(label, name);
    labels.set(name, label);
  }
  return names;
}

/** Returns the labels of which each clip lies, at any depth, in a folder with the class's name. */
function listRight(found: FoundClip[], names: Names): Set<number> {
  const right = new Set(listOnce(found));
  for (const [index, folders] of readFolders(found).entries()) {
    const label = found[index]?.label ?? -1;
    const name = fold(names.get(label) ?? '');
    if (!folders.some((folder) => fold(folder) === name)) right.delete(label);
  }
  return right;
}

const listOnce = (found: FoundClip[]): number[] => [...new Set(found.map(({ label }) => label))];

/** Returns how to map labels to the target's, where they are another order of its names. */
function compareNames(
  { list, names, found }: { list: string; names: Names; found: FoundClip[] },
  target: { source: string; names: Names },
  findings: Findings,
): Mapping | undefined {
  const labelOf = new Map([...target.names].map(([label, name]) => [fold(name), label]));
  const right = listRight(found, target.names);
  const moved = [...names].filter(
    ([label, name]) => !right.has(label) && fold(target.names.get(label) ?? '') !== fold(name),
  );
  if (moved.length === 0) return undefined;
  const isKnown = ([, name]: [number, string]): boolean => labelOf.has(fold(name));
  if (![...names].some(isKnown)) return undefined; // folders that are named after something else
  const [[label, name] = [0, '']] = moved;
  const isOrder = [...names].every(isKnown);
  const where = showPath(target.source);
  const about: Omit<Finding, 'message' | 'code'> = { severity: 'warning', list, line: null };
  if (!isOrder) {
    const there = target.names.get(label);
    const meant = there === undefined ? `which ${where} does not have` : `and ${quote(there)} in ${where}`;
    const message = `${plural(moved.length, 'label')} of ${names.size} have other names than in ${where}: ${label} is ${quote(name)} here, ${meant}. Make the names agree.`;
    findings.add({ code: 'class-names-differ', message, ...about });
    return undefined;
  }
  const labels = new Map([...names].map(([old, one]) => [old, labelOf.get(fold(one)) ?? old]));
  const message = `${plural(moved.length, 'label')} of ${names.size} stand for another class than in ${where}, and the names are the same: ${quote(name)} is ${label} here, ${labels.get(label)} there. \`--write-clean DIR\` writes the mapping, and the list with the labels mapped.`;
  findings.add({ code: 'labels-permuted', message, ...about });
  return { list, labels, names, source: target.source };
}
