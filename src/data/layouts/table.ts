/** Tables with named columns: CSV and its relatives, with commas, semicolons, tabs or bars, quoted or not. */

import { isUtf8 } from 'node:buffer';
import { readFileSync } from 'node:fs';
import { dsvFormat } from 'd3-dsv';
import { distance } from 'fastest-levenshtein';
import { explainReadError, showPath, UserError } from '../../base/errors.ts';
import { plural, quote } from '../../base/words.ts';

/** Names that a column may have, by what it is to us; the first is ours. */
export type Columns = Readonly<Record<string, readonly string[]>>;

export interface Row {
  line: number;
  /** '' where the row or the table has no such column. */
  get: (column: string) => string;
}

export interface Table {
  rows: Row[];
  has: (column: string) => boolean;
  /** Columns that nothing reads. */
  ignored: string[];
  separator: string;
}

const SEPARATORS = [',', ';', '\t', '|'];

/** Returns a file as text. Raises UserError where it cannot be read or is not UTF-8. */
export function readText(file: string, wanted: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (error) {
    throw new UserError(`${showPath(file)}  ${explainReadError(error, null, wanted)}`);
  }
  if (bytes.length >= 2 && [0xfffe, 0xfeff].includes(bytes.readUInt16BE(0)))
    throw new UserError(`${showPath(file)}  is in UTF-16. Save it in UTF-8.`);
  if (!isUtf8(bytes))
    throw new UserError(`${showPath(file)}:${findBadLine(bytes)}  is not valid UTF-8. Save the file in UTF-8.`);
  return bytes.toString('utf8').replace(/^\ufeff/, '');
}

function findBadLine(bytes: Buffer): number {
  let [start, line] = [0, 1];
  for (;;) {
    const feed = bytes.indexOf(0x0a, start);
    if (feed < 0 || !isUtf8(bytes.subarray(start, feed))) return line;
    [start, line] = [feed + 1, line + 1];
  }
}

/** Returns the rows of a table by the names in its first line. Raises UserError without the columns that are `needed`. */
export function readTable(file: string, known: Columns, needed: string[]): Table {
  const text = readText(file, `a table with the columns ${needed.join(', ')}`);
  const { separator, header } = findHeader(text, known);
  const cells = dsvFormat(separator).parseRows(text);
  const names = header.map((name) => columnOf(name, known));
  refuseHeader(file, header, names, known, needed);
  const rows: Row[] = [];
  const problems: string[] = [];
  let line = 1 + countFeeds(cells[0] ?? []);
  for (const row of cells.slice(1)) {
    line += 1;
    const at = line;
    line += countFeeds(row);
    if (row.every((cell) => cell.trim() === '')) continue;
    if (row.slice(header.length).some((cell) => cell.trim() !== ''))
      problems.push(explainWide(`${showPath(file)}:${at}`, row, header, separator));
    rows.push({ line: at, get: (column) => row[names.indexOf(column)] ?? '' });
  }
  problems.push(...rows.flatMap((row) => checkRow(file, row, names)));
  if (rows.length === 0) problems.push(`${showPath(file)}  has a header and no rows.`);
  if (problems.length > 0) throw new UserError(problems);
  const ignored = header.filter((_, index) => names[index] === undefined);
  return { rows, has: (column) => names.includes(column), ignored, separator };
}

const countFeeds = (row: string[]): number => row.reduce((sum, cell) => sum + cell.split(/\r\n|\n|\r/).length - 1, 0);

/** A path with a comma in it, without quotes: its cells would be taken for others. */
function explainWide(where: string, row: string[], header: string[], separator: string): string {
  const cells = row
    .slice(0, header.length + 1)
    .map(quote)
    .join(', ');
  return `${where}  has ${row.length} cells for ${plural(header.length, 'column')} (${cells}${row.length > header.length + 1 ? ', ...' : ''}). Put a cell that holds ${quote(separator)} in quotes.`;
}

/** A quote that nothing closes takes the rows behind it in, and they would be gone without a word. */
function checkRow(file: string, row: Row, names: (string | undefined)[]): string[] {
  const long = names
    .map((name) => (name === undefined ? '' : row.get(name)))
    .find((cell) => cell.split('\n').length > 2);
  if (long === undefined) return [];
  return [
    `${showPath(file)}:${row.line}  a cell goes on over several lines (${quote(long)}). Close its quote, or double a quote inside it.`,
  ];
}

/** Returns the separator that makes the most of the first line. */
export function findHeader(text: string, known: Columns): { separator: string; header: string[] } {
  const tried = SEPARATORS.map((separator) => {
    const [header = []] = dsvFormat(separator).parseRows(text.slice(0, 1 << 16).split(/\r?\n|\r/, 1)[0] ?? '');
    const score = new Set(header.map((name) => columnOf(name, known)).filter((name) => name !== undefined)).size;
    return { separator, header, score };
  });
  return tried.reduce((best, one) =>
    one.score > best.score || (one.score === best.score && one.header.length > best.header.length) ? one : best,
  );
}

export const simplify = (name: string): string =>
  name
    .trim()
    .toLowerCase()
    .replace(/[\s-]+/g, '_');

export function columnOf(name: string, known: Columns): string | undefined {
  const simple = simplify(name);
  return Object.keys(known).find((column) => known[column]?.includes(simple));
}

function refuseHeader(
  file: string,
  header: string[],
  names: (string | undefined)[],
  known: Columns,
  needed: string[],
): void {
  const problems: string[] = [];
  const where = `${showPath(file)}:1`;
  for (const column of needed.filter((one) => !names.includes(one))) {
    const near = header.find((name) => (known[column] ?? []).some((one) => distance(one, simplify(name)) <= 2));
    const meant = near === undefined ? '' : ` Did you mean it by ${quote(near)}?`;
    problems.push(
      `${where}  no column ${column}.${meant} Found: ${header.map(quote).join(', ')}. Name the columns in the first line.`,
    );
  }
  for (const [index, name] of names.entries()) {
    const first = names.indexOf(name);
    if (name !== undefined && first < index)
      problems.push(
        `${where}  ${quote(header[first] ?? '')} and ${quote(header[index] ?? '')} both mean ${name}. Rename or remove one.`,
      );
  }
  if (problems.length > 0) throw new UserError(problems);
}
