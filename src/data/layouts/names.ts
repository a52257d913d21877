/** Names of files that a list of lines cannot hold, and how to rename them; paths as a list holds them. */

import { isUtf8 } from 'node:buffer';
import { quoteWord } from '../../base/words.ts';

/** A path of the file system: bytes where they are not UTF-8, which a text would change. */
export type Name = string | Buffer;

/** Returns why no line can hold the path, undefined where one can. */
export function explainName(name: Name): string | undefined {
  if (typeof name !== 'string') return 'is not valid UTF-8, and lists are';
  if (!isWellFormed(name)) return 'holds half a character (a lone surrogate)';
  for (const [character, what] of [
    ['\n', 'a line feed'],
    ['\r', 'a carriage return'],
    ['\t', 'a tab'],
    ['\0', 'a NUL byte'],
  ] as const) {
    if (name.includes(character)) return `holds ${what}, which no line of a list can hold`;
  }
  return name.endsWith(' ') ? 'ends with a blank, which a line of a list loses' : undefined;
}

/** Returns the path as it stands in a line: blanks, `#` and a byte order mark at its beginning would be read otherwise. */
export const printPath = (path: string): string => (/^[ #\ufeff]/.test(path) ? `./${path}` : path);

/** Returns a command that gives the path a name which a list can hold. `path` is what the command is to find. */
export function adviseRename(path: Name, folder = ''): string {
  const bytes = typeof path === 'string' ? Buffer.from(path) : path;
  const parts = splitBytes(bytes);
  const at = parts.findIndex((part) => explainName(asName(part)) !== undefined);
  if (at < 0) return `mv -- ${quoteBytes(joinBytes(folder, parts))} NEW_NAME`;
  const old = joinBytes(folder, parts.slice(0, at + 1));
  const renamed = joinBytes(folder, [...parts.slice(0, at), Buffer.from(mendName(parts[at] as Buffer))]);
  return `mv -n -- ${quoteBytes(old)} ${quoteBytes(renamed)}`;
}

/** Returns a name as text, or as bytes where it is none. */
export const asName = (bytes: Buffer): Name => (isUtf8(bytes) ? bytes.toString('utf8') : bytes);

/** Returns a name for people to read; bytes that are no text as `\xff`. */
export function showName(name: Name): string {
  if (typeof name === 'string') return name;
  return [...name.toString('latin1')].map((one) => (one >= ' ' && one <= '~' ? one : escapeByte(one))).join('');
}

function mendName(name: Buffer): string {
  const text = name.toString('utf8');
  const mended = text
    .replace(/ +$/, '')
    .replace(/ +(?=\.\w+$)/, '')
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is replaced
    .replace(/[\x00-\x1f\x7f\ufffd]+/g, '_');
  return mended === '' || mended === text ? `${mended}_` : mended;
}

function splitBytes(bytes: Buffer): Buffer[] {
  const parts: Buffer[] = [];
  let start = 0;
  for (let end = bytes.indexOf(0x2f); end >= 0; end = bytes.indexOf(0x2f, start)) {
    parts.push(bytes.subarray(start, end));
    start = end + 1;
  }
  return [...parts, bytes.subarray(start)];
}

function joinBytes(folder: string, parts: Buffer[]): Buffer {
  const below = parts.flatMap((part, index) => (index === 0 ? [part] : [Buffer.from('/'), part]));
  return Buffer.concat(folder === '' ? below : [Buffer.from(`${folder.replace(/\/$/, '')}/`), ...below]);
}

/** Returns a word as bash takes it, also where it holds what no terminal shows. */
function quoteBytes(bytes: Buffer): string {
  const text = bytes.toString('utf8');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (isUtf8(bytes) && !/[\x00-\x1f\x7f]/.test(text)) return quoteWord(text);
  const escaped = [...bytes.toString('latin1')].map((one) => {
    if (one === "'" || one === '\\') return `\\${one}`;
    return one >= ' ' && one <= '~' ? one : escapeByte(one);
  });
  return `$'${escaped.join('')}'`;
}

const escapeByte = (one: string): string => `\\x${one.charCodeAt(0).toString(16).padStart(2, '0')}`;

/** Node 20 has String.isWellFormed, its types do not. */
const isWellFormed = (text: string): boolean => Buffer.from(text).toString('utf8') === text;
