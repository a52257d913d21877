/** From the names of classes to labels. */

import { dirname } from 'node:path';
import { showPath, UserError } from '../../base/errors.ts';
import { plural, quote, quoteWord } from '../../base/words.ts';
import { readClasses } from '../../config/class-names.ts';
import { compareNames, type LaidOut, type Layout, type LeftOut } from './layout.ts';

export interface Numbered {
  /** In the order of their labels; null: the layout has numbers and no names. */
  names: string[] | null;
  numClasses: number;
  labelOf: (clip: LaidOut) => number;
}

const NUMBER = /^(0|[1-9]\d{0,8})$/;

/**
 * Returns the labels of a layout's classes: those of a file of names, else those that the layout fixes, else in the order
 * of their names. Raises UserError with every name that such a file lacks, or cannot hold.
 */
export function numberClasses(
  { clips, classes }: Pick<Layout, 'clips' | 'classes'>,
  file: string | undefined,
): Numbered {
  const given = file === undefined ? classes : readClasses(file);
  const used = [...new Set(clips.map((clip) => clip.class))];
  if (given === undefined && used.every((name) => NUMBER.test(name)) && !areFolders(clips)) return takeNumbers(used);
  const names = given ?? sortNames(used);
  if (given === undefined) refuseNames(names, clips);
  const labels = new Map(names.map((name, label) => [name, label]));
  const problems: string[] = [];
  for (const name of used.filter((one) => !labels.has(one))) {
    if (file !== undefined && NUMBER.test(name) && Number(name) < names.length && !areFolders(clips)) {
      labels.set(name, Number(name));
      continue;
    }
    const first = clips.find((clip) => clip.class === name);
    const where = first === undefined ? '' : placeOf(first);
    const known = file === undefined ? 'the names of this layout' : showPath(file);
    problems.push(
      `${where}  class ${quote(name)} is not in ${known}. Add it there as the last line, or correct it here.`,
    );
  }
  if (problems.length > 0) throw new UserError(problems);
  return { names, numClasses: names.length, labelOf: (clip) => labels.get(clip.class) ?? -1 };
}

export const placeOf = ({ list, line }: { list: string; line: number | null }): string =>
  `${showPath(list)}${line === null ? '' : `:${line}`}`;

/** A folder may be called 7, and that is a name; in a table it is a label. */
const areFolders = (clips: LaidOut[]): boolean => clips.every(({ line }) => line === null);

function takeNumbers(used: string[]): Numbered {
  const numClasses = 1 + used.reduce((most, name) => Math.max(most, Number(name)), -1);
  return { names: null, numClasses, labelOf: (clip) => Number(clip.class) };
}

/** 0, 1, 2, 10 where all are numbers, so that folder 10 of 0 to 10 is label 10. */
function sortNames(names: string[]): string[] {
  const areNumbers = names.every((name) => NUMBER.test(name));
  return names.toSorted(areNumbers ? (a, b) => Number(a) - Number(b) : compareNames);
}

/** A file of names has one on each line, without blanks around it. */
function refuseNames(names: string[], clips: LaidOut[]): void {
  const seen = new Map<string, string>();
  const problems: string[] = [];
  for (const name of names) {
    const first = clips.find((clip) => clip.class === name);
    const where = first === undefined ? '' : placeOf(first);
    const alike = seen.get(name.normalize('NFC'));
    seen.set(name.normalize('NFC'), name);
    if (name.trim() !== name || name === '' || /[\n\r]/.test(name)) {
      const advice =
        first?.line === null
          ? `: mv -n -- ${quoteWord(first.list)} ${quoteWord(`${dirname(first.list)}/${mendClass(name)}`)}`
          : '.';
      problems.push(
        `${where}  class ${quote(name)} has blanks or line ends where a file of names cannot hold them. Rename it${advice}`,
      );
    } else if (alike !== undefined) {
      const forms = 'two Unicode forms of one name (NFC, NFD)';
      problems.push(`${where}  class ${quote(name)} looks like another one: ${forms}. Give both the same.`);
    }
  }
  if (problems.length > 0) throw new UserError(problems);
}

const mendClass = (name: string): string => name.trim().replace(/[\n\r]+/g, '_') || '_';

/** Leaves out the clips of one file, or of one part of it, that have two labels. */
export function leaveConflicts({
  clips,
  leftOut: left,
}: Pick<Layout, 'clips' | 'leftOut'>): Pick<Layout, 'clips' | 'leftOut'> {
  const keyOf = ({ path, start, end }: LaidOut): string => JSON.stringify([path, start, end]);
  const classes = new Map<string, Set<string>>();
  for (const clip of clips) {
    const key = keyOf(clip);
    const known = classes.get(key);
    if (known === undefined) classes.set(key, new Set([clip.class]));
    else known.add(clip.class);
  }
  const leftOut: LeftOut[] = [...left];
  const kept = clips.filter((clip) => {
    const names = [...(classes.get(keyOf(clip)) ?? [])];
    if (names.length < 2) return true;
    const { path, list, line } = clip;
    const message = `has ${plural(names.length, 'label')}: ${names.map(quote).join(', ')}. Keep the right one.`;
    leftOut.push({ code: 'label-conflict', path, list, line, message });
    return false;
  });
  return { clips: kept, leftOut };
}
