/**
 * What stands in a line of a list, read from its bytes: `<path> <label>`, and below `# columns: path label start end`
 * `<path> <label> <start> <end>`; under `data.labels: multi` any number of labels, `1,5,9`, or `-`. Times are whole microseconds here: two that are written alike are equal.
 */

import { quote } from '../base/words.ts';

const [TAB, SPACE, COMMA, DOT, MINUS, ZERO, NINE] = [9, 32, 44, 46, 45, 48, 57];
export const COLUMNS = '# columns: path label start end';
const MICROSECONDS = 1e6;
/** Thirty years, and microseconds are still whole numbers. */
const MAX_SECONDS = 1e9;

/** A part of a file: the frames whose times lie in [start, end), in microseconds since its first frame. */
export interface Part {
  start: number;
  end: number;
}

/** Returns the part of times in seconds, rounded to the nearest microsecond. */
export const partOfSeconds = (start: number, end: number): Part => ({
  start: Math.round(start * MICROSECONDS),
  end: Math.round(end * MICROSECONDS),
});

/** Returns the path, of a part of the file `PATH#t=START,END` as Python names it (py/coldframe/video/parts.py). */
export const nameClip = (path: string, part: Part | undefined): string =>
  part === undefined ? path : `${path}#t=${formatTime(part.start)},${formatTime(part.end)}`;

/** How the lines of a list are written, told by its first one. */
export type Columns = 'plain' | 'parts';

/** Returns what a line says of the columns of its list; undefined where it says nothing, null where it names times in
 * a form that is not known. Anything else is a comment, as ever. */
export function readColumns(line: string): Columns | null | undefined {
  const names = /^#+\s*columns?\s*:(.*)$/i
    .exec(line)?.[1]
    ?.toLowerCase()
    .match(/[^\s,;]+/g);
  if (names == null) return undefined;
  const listed = names.join(' ');
  if (listed === 'path label start end') return 'parts';
  if (listed === 'path label') return 'plain';
  return names.includes('start') || names.includes('end') ? null : undefined;
}

export const isBlank = (byte: number | undefined): boolean => byte === SPACE || byte === TAB;

/** Returns where the last field before `end` begins; `start` where there is no blank before it. */
export function findField(bytes: Buffer, start: number, end: number): number {
  let field = end;
  while (field > start && !isBlank(bytes[field - 1])) field -= 1;
  return field;
}

/** Returns the end of what stands before the blanks in front of a field. */
export function skipBlanks(bytes: Buffer, start: number, field: number): number {
  let end = field;
  while (end > start && isBlank(bytes[end - 1])) end -= 1;
  return end;
}

/** Returns where the label ends: before the last two fields, which are times. */
export function findLabelEnd(bytes: Buffer, start: number, end: number): number {
  const times = skipBlanks(bytes, start, findField(bytes, start, end));
  return skipBlanks(bytes, start, findField(bytes, start, times));
}

/** Returns the number written by digits alone, or -1. */
export function readLabel(bytes: Buffer, start: number, end: number): number {
  if (end - start > 9 || end <= start) return -1;
  let value = 0;
  for (let index = start; index < end; index++) {
    const digit = (bytes[index] ?? 0) - ZERO;
    if (digit < 0 || digit > 9) return -1;
    value = value * 10 + digit;
  }
  return value;
}

/** Returns seconds as microseconds, rounded to the nearest; negative below zero, NaN where it is no number. */
export function readTime(bytes: Buffer, start: number, end: number): number {
  let [value, decimals, digits] = [0, -1, 0];
  for (let index = start; index < end; index++) {
    const byte = bytes[index] ?? 0;
    if (byte === DOT && decimals < 0) decimals = 0;
    else if (byte < ZERO || byte > NINE || digits === 15 || decimals === 6) return readRareTime(bytes, start, end);
    else {
      value = value * 10 + byte - ZERO;
      digits += 1;
      if (decimals >= 0) decimals += 1;
    }
  }
  if (digits === 0) return Number.NaN;
  const time = value * 10 ** (6 - Math.max(0, decimals));
  return time < MAX_SECONDS * MICROSECONDS ? time : Number.NaN;
}

/** With a sign, an exponent, or more digits than a microsecond has. */
function readRareTime(bytes: Buffer, start: number, end: number): number {
  const text = bytes.toString('latin1', start, end);
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?$/i.test(text)) return Number.NaN;
  const seconds = Number(text);
  if (bytes[start] === MINUS) return seconds === 0 ? 0 : -1;
  return seconds < MAX_SECONDS ? Math.round(seconds * MICROSECONDS) : Number.NaN;
}

/** Returns microseconds as seconds, without digits that say nothing. */
export const formatTime = (microseconds: number): string => String(microseconds / MICROSECONDS);

/** Returns what is wrong with the times of a part, which were read from these words. */
export function explainTimes(from: string, to: string, { start, end }: Part): string[] {
  const faults = [explainTime('start', from, start), explainTime('end', to, end)];
  if (start >= end && end >= 0)
    faults.push(`the part starts at ${from} s and ends at ${to} s. Its start must be before its end.`);
  return faults.filter((fault) => fault !== null);
}

function explainTime(name: string, word: string, time: number): string | null {
  if (time >= 0) return null;
  const what = time < 0 ? `${word} is negative` : `${quote(word)} is not a number of seconds`;
  return `${name} ${what}. Write seconds since the first frame, from 0 on, such as 12 or 12.5.`;
}

// Several labels of a clip as one number, as lists of millions of lines keep and compare them: a label by itself is its
// own number, any other set has one that is its own in this process, above all labels.

/** Above what nine digits write. */
const FIRST = 2 ** 30;
/** What a clip without a label has in its place. */
const NO_LABEL = '-';

const texts: string[] = [];
const numbers = new Map<string, number>();

/** Returns the number of a set of labels in rising order. */
export function numberSet(labels: number[]): number {
  const [only] = labels;
  if (only !== undefined && labels.length === 1) return only;
  const text = labels.length === 0 ? NO_LABEL : labels.join(',');
  const known = numbers.get(text);
  if (known !== undefined) return known;
  const number = FIRST + texts.push(text) - 1;
  numbers.set(text, number);
  return number;
}

/** Returns the labels as a list has them: `5`, `1,5,9`, `-`. */
export const showLabels = (number: number): string => texts[number - FIRST] ?? String(number);

/** Returns the labels one by one. */
export function listLabels(number: number): number[] {
  const text = showLabels(number);
  return text === NO_LABEL ? [] : text.split(',').map(Number);
}

/** Returns the labels that stand between two places in rising order; null where they are none, or one is there twice. */
export function readLabels(bytes: Buffer, start: number, end: number): number[] | null {
  if (end - start === 1 && bytes[start] === MINUS) return [];
  const labels: number[] = [];
  for (let first = start; first <= end; ) {
    let last = first;
    while (last < end && bytes[last] !== COMMA) last += 1;
    const label = readLabel(bytes, first, last);
    if (label < 0 || labels.includes(label)) return null;
    labels.push(label);
    first = last + 1;
  }
  return labels.sort((a, b) => a - b);
}

/** Returns whether a word has the form of several labels, or of none. */
export const isSeveral = (word: string): boolean => word === NO_LABEL || /^\d+(,\d+)+$/.test(word);

/** Returns why a word is no label, and what is. */
export function explainLabel(word: string, numClasses: number | null, isMulti: boolean): string {
  const allowed = numClasses === null ? 'from 0 on' : `from 0 to ${numClasses - 1}`;
  if (isMulti) {
    const form = `whole numbers ${allowed}, each once, with commas between them as in 1,5,9; ${NO_LABEL} for none`;
    return `label ${quote(word)} is not what data.labels: multi asks for: ${form}`;
  }
  const advice = isSeveral(word) ? '. For any number of labels a clip set data.labels: multi' : '';
  return `label ${quote(word)} is not a whole number ${allowed}${advice}`;
}
