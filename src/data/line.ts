/**
 * What stands in a line of a list, read from its bytes: `<path> <label>`, and below `# columns: path label start end`
 * `<path> <label> <start> <end>`. Times are whole microseconds here: two that are written alike are equal.
 */

const [TAB, SPACE, DOT, MINUS, ZERO, NINE] = [9, 32, 46, 45, 48, 57];
export const COLUMNS = '# columns: path label start end';
const MICROSECONDS = 1e6;
/** Thirty years, and microseconds are still whole numbers. */
const MAX_SECONDS = 1e9;

/** A part of a file: the frames whose times lie in [start, end), in microseconds since its first frame. */
export interface Part {
  start: number;
  end: number;
}

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
