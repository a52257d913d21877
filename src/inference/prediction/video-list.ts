/** Lists that `predict` is given: a path a line, the lists that training takes, or parts of files. Labels are of no use. */

import { isAbsolute, join } from 'node:path';
import { UserError } from '../../base/errors.ts';
import { quote } from '../../base/words.ts';
import { type Columns, readColumns } from '../../data/line.ts';

export interface ListPlaces {
  /** Where relative paths begin, as a rule: the folder of the list, of stdin the current one (''). */
  folder: string;
  /** Where they begin in the configuration. */
  root: string | null;
  isThere: (name: string) => boolean;
}

/** Returns the names of the videos in the lines (or between zeros, as `find -print0` writes). */
export function readList(content: string, places: ListPlaces): string[] {
  const lines = content
    .replace(/^\ufeff/, '')
    .split(content.includes('\0') ? '\0' : /\r?\n/)
    .filter((line) => line.trim() !== '');
  const columns = readColumns(lines[0] ?? '') ?? null;
  const clips = lines.filter((line) => !isComment(line, places));
  const style = { columns, hasLabels: columns === 'plain', ...places };
  const [base, hasLabels] = findBase(clips[0] ?? '', style);
  return clips.map((line) => readLine(line, base, { ...style, hasLabels }));
}

interface Style extends ListPlaces {
  columns: Columns | null;
  /** What is not there is read as the first line was. */
  hasLabels: boolean;
}

/** As in lists to train on; but `find` may name a file so. */
const isComment = (line: string, { folder, isThere }: ListPlaces): boolean =>
  line.startsWith('#') && !isThere(place(folder, line));

/** All lines of a list begin at one place: the first at which the first clip is there, with a label or without. */
function findBase(first: string, style: Style): [string, boolean] {
  const bases = [style.folder, ...(style.root === null ? [] : [style.root]), ''];
  const base = bases.find((one) => style.isThere(readLine(first, one, style)));
  if (base === undefined) return [style.folder, style.hasLabels];
  return [base, style.hasLabels || readLine(first, base, style) !== place(base, first)];
}

function readLine(line: string, base: string, { columns, hasLabels, isThere }: Style): string {
  if (columns === 'parts') return place(base, nameLine(line));
  const whole = place(base, line);
  // `12` may be the end of a name: a label is what stands behind the name of a file.
  const [, path] = /^(.*\S)\s+(?:\d+(?:,\d+)*|-)\s*$/.exec(line) ?? [];
  if (path === undefined || isThere(whole)) return whole;
  const labelled = place(base, path);
  return hasLabels || isThere(labelled) ? labelled : whole;
}

const place = (base: string, path: string): string => (isAbsolute(path) || base === '' ? path : join(base, path));

function nameLine(line: string): string {
  const [, path, start, end] = /^\s*(.*?)\s+\S+\s+(\S+)\s+(\S+)\s*$/.exec(line) ?? [];
  if (path === undefined)
    throw new UserError(`${quote(line)}  has not all four columns. Write \`<path> <label> <start> <end>\`.`);
  return `${path}#t=${start},${end}`;
}
