/**
 * Reads and checks lists of clips: `<path> <label>` a line, the label after the last white space.
 *
 * Lists have up to millions of lines, so they are read as bytes in one pass and no object is made for a line.
 */
import { isUtf8 } from 'node:buffer';
import { createHash } from 'node:crypto';
import { closeSync, fsyncSync, openSync, readSync, renameSync, rmSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { explainReadError, showPath, UserError } from './errors.ts';
import { writeAll } from './files.ts';
import { SeenPaths } from './seen-paths.ts';
import { plural, quote } from './words.ts';

export interface ListOptions {
  file: string;
  /** Folder of relative paths; null: the list's own. */
  root: string | null;
  numClasses: number;
  classNames?: string[] | null;
  /** Where to write the list in normalised form: `<absolute path>\t<label>\n`. */
  writeTo?: string;
  /** Do not look whether the clips exist. */
  skipFiles?: boolean;
  /** Share of the clips that may be missing (see countAllowed); they are warnings then. */
  maxMissingFraction?: number;
}

/** How many of so many videos may be bad. One is within any limit but zero: a share of ten clips says nothing. */
export function countAllowed(fraction: number, numVideos: number): number {
  return fraction === 0 ? 0 : Math.max(1, Math.floor(fraction * numVideos));
}

export interface ListReport {
  /** Clips, without blank and comment lines. */
  numLines: number;
  sizeBytes: number;
  /** Of the file as it is. */
  sha256: string;
  /** Clips of each class. */
  perClass: Uint32Array;
  warnings: string[];
}

const MAX_SHOWN = 50;
/** All clips of a list up to this length are looked for, else an even sample of at least half as many. */
const MAX_LOOKED_FOR = 2000;
const NUM_LOOKERS = 32;
const BUFFER_BYTES = 1 << 20;
const { imul } = Math;
const [NUL, TAB, LF, CR, SPACE, HASH, ZERO] = [0, 9, 10, 13, 32, 35, 48];

/** Returns what is in a list, after writing it in normalised form if asked. Raises UserError with its bad lines. */
export async function checkList(options: ListOptions): Promise<ListReport> {
  const temporary = options.writeTo === undefined ? undefined : `${options.writeTo}.${process.pid}.tmp`;
  try {
    const scan = scanFile(options, temporary);
    if (!options.skipFiles) await lookForClips(scan);
    scan.finish();
    if (scan.numProblems > 0) throw new UserError(scan.listProblems());
    if (temporary !== undefined && options.writeTo !== undefined) renameSync(temporary, options.writeTo);
    const { numLines, sizeBytes, sha256, perClass, warnings } = scan;
    return { numLines, sizeBytes, sha256, perClass, warnings };
  } finally {
    if (temporary !== undefined) rmSync(temporary, { force: true });
  }
}

function scanFile(options: ListOptions, temporary: string | undefined): Scan {
  const input = openList(options.file);
  const output = temporary === undefined ? undefined : openSync(temporary, 'w');
  try {
    const scan = new Scan(options, output);
    scan.readAll(input);
    if (output !== undefined) fsyncSync(output);
    return scan;
  } finally {
    closeSync(input);
    if (output !== undefined) closeSync(output);
  }
}

function openList(file: string): number {
  try {
    const descriptor = openSync(file, 'r');
    readSync(descriptor, Buffer.alloc(1), 0, 1, 0); // a folder can be opened, not read
    return descriptor;
  } catch (error) {
    throw new UserError(
      `${showPath(file)}  ${explainReadError(error, resolve(file), 'a list of `<path> <label>` lines')}`,
    );
  }
}

interface Clip {
  path: string;
  line: number;
}

/** One pass over a list: counts, problems and the normalised copy. */
class Scan {
  numLines = 0;
  sizeBytes = 0;
  sha256 = '';
  numProblems = 0;
  readonly perClass: Uint32Array;
  readonly warnings: string[] = [];
  readonly root: string;
  readonly options: ListOptions;
  /** The clips to look for, evenly spread over the list. */
  clips: Clip[] = [];
  readonly #name: string;
  readonly #shown: string[] = [];
  readonly #output: Output | undefined;
  readonly #paths = new SeenPaths();
  #everyClip = 1;
  #line = 0;
  #minLabel = Number.MAX_SAFE_INTEGER;
  #maxLabel = -1;

  constructor(options: ListOptions, output: number | undefined) {
    this.options = options;
    this.#name = showPath(options.file);
    this.root = resolve(options.root ?? dirname(options.file));
    this.perClass = new Uint32Array(options.numClasses);
    this.#output = output === undefined ? undefined : new Output(output, this.root);
  }

  fail(line: number, text: string): void {
    this.numProblems += 1;
    if (this.#shown.length < MAX_SHOWN) this.#shown.push(`${this.#name}${line > 0 ? `:${line}` : ''}  ${text}`);
  }

  warn(line: number, text: string): void {
    this.warnings.push(`${this.#name}:${line}  ${text}`);
  }

  listProblems(): string[] {
    const more = this.numProblems - this.#shown.length;
    return more > 0 ? [...this.#shown, `${this.#name}  and ${more} more problems.`] : this.#shown;
  }

  readAll(input: number): void {
    const hash = createHash('sha256');
    const buffer = Buffer.alloc(BUFFER_BYTES);
    let filled = 0;
    for (;;) {
      const count = readSync(input, buffer, filled, BUFFER_BYTES - filled, null);
      hash.update(buffer.subarray(filled, filled + count));
      this.sizeBytes += count;
      filled += count;
      // At the end what is left is a line without its line feed.
      const end = count === 0 ? filled : buffer.lastIndexOf(LF, filled - 1) + 1;
      if (end === 0 && filled === BUFFER_BYTES) this.#refuse('has a line of more than a megabyte');
      this.#readLines(buffer.subarray(0, end));
      buffer.copyWithin(0, end, filled);
      filled -= end;
      if (count === 0) break;
    }
    this.#output?.flush();
    this.sha256 = hash.digest('hex');
  }

  /** Ends the reading: more of the same would follow. */
  #refuse(what: string): never {
    throw new UserError(`${this.#name}:${this.#line}  ${what}. A list has \`<path> <label>\` lines, in UTF-8.`);
  }

  #readLines(bytes: Buffer): void {
    let start = 0;
    if (this.#line === 0) {
      if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) start = 3;
      if ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff))
        this.#refuse('is in UTF-16');
    }
    const isValid = isUtf8(bytes);
    while (start < bytes.length) {
      const feed = bytes.indexOf(LF, start);
      const end = feed === -1 ? bytes.length : feed;
      this.#line += 1;
      if (isValid || isUtf8(bytes.subarray(start, end))) this.#readLine(bytes, start, end);
      else this.fail(this.#line, 'is not valid UTF-8. Write the list in UTF-8.');
      start = end + 1;
    }
  }

  #readLine(bytes: Buffer, lineStart: number, lineEnd: number): void {
    let [start, end] = [lineStart, lineEnd];
    while (end > start && isBlank(bytes[end - 1])) end -= 1;
    while (start < end && isBlank(bytes[start])) start += 1;
    if (start === end || bytes[start] === HASH) return;
    let label = end;
    while (label > start && !isBlank(bytes[label - 1])) label -= 1;
    this.numLines += 1;
    const value = label === start ? -1 : readLabel(bytes, label, end);
    if (value >= 0) {
      this.#minLabel = Math.min(this.#minLabel, value);
      this.#maxLabel = Math.max(this.#maxLabel, value);
    }
    const { numClasses } = this.options;
    if (value < 0) {
      this.#failLabel(bytes, start, label, end);
    } else if (value >= numClasses) {
      const why = `(data.num_classes is ${numClasses}; labels start at 0)`;
      this.fail(this.#line, `label ${value} is outside 0..${numClasses - 1} ${why}`);
    } else {
      let pathEnd = label;
      while (isBlank(bytes[pathEnd - 1])) pathEnd -= 1;
      this.#takeClip(bytes, start, pathEnd, value);
    }
  }

  #failLabel(bytes: Buffer, start: number, label: number, end: number): void {
    const [line, word] = [bytes.toString('utf8', start, end), bytes.toString('utf8', label, end)];
    if (this.numLines === 1 && line.includes(',')) {
      this.#refuse(
        `is separated by commas (${quote(line)}); a space or a tab goes before the label, and there is no header`,
      );
    }
    if (label === start) this.fail(this.#line, `${quote(line)} has no label. Write \`<path> <label>\`.`);
    else this.fail(this.#line, `label ${quote(word)} is not a whole number from 0 to ${this.options.numClasses - 1}`);
  }

  #takeClip(bytes: Buffer, start: number, end: number, label: number): void {
    // Two FNV-1a hashes make 64 bits: a false pair among a million paths has a chance of 3e-8, and costs a warning.
    let [low, high] = [0x811c9dc5, 0x050c5d1f];
    let isPlain = true;
    for (let index = start; index < end; index++) {
      const byte = bytes[index] ?? 0;
      isPlain &&= byte !== TAB && byte !== NUL;
      low = imul(low ^ byte, 0x01000193);
      high = imul(high ^ byte, 0x01000197);
    }
    if (!isPlain) {
      this.fail(this.#line, 'the path holds a tab or a NUL byte. Rename the file, and write the list in UTF-8.');
      return;
    }
    this.perClass[label] = (this.perClass[label] ?? 0) + 1;
    this.#paths.add(low, high, this.#line);
    this.#output?.write(bytes, start, end, label);
    this.#sample(bytes, start, end);
  }

  #sample(bytes: Buffer, start: number, end: number): void {
    if (this.#paths.length % this.#everyClip !== 0) return;
    this.clips.push({ path: bytes.toString('utf8', start, end), line: this.#line });
    if (this.clips.length <= MAX_LOOKED_FOR) return;
    this.clips = this.clips.filter((_, index) => index % 2 === 1);
    this.#everyClip *= 2;
  }

  /** Adds what only the whole list can tell. */
  finish(): void {
    const { numClasses, classNames } = this.options;
    if (this.numLines === 0) this.fail(0, 'holds no clips. Write `<path> <label>` lines.');
    if (this.#minLabel === 1 && this.#maxLabel === numClasses) {
      this.fail(0, `labels run from 1 to ${numClasses}, but must start at 0. Subtract 1 from each.`);
    }
    const empty = [...this.perClass.keys()].filter((label) => this.perClass[label] === 0);
    if (empty.length > 0) {
      const first = empty
        .slice(0, 3)
        .map((label) => (classNames?.[label] ? `${label} ${quote(classNames[label])}` : label));
      const names = first.join(', ') + (empty.length > 3 ? ', ...' : '');
      this.warnings.push(`${this.#name}  ${empty.length} of ${plural(numClasses, 'class')} have no clip: ${names}`);
    }
    this.#warnOfDuplicates();
  }

  #warnOfDuplicates(): void {
    const { numRepeated, lines } = this.#paths.findRepeated();
    if (numRepeated === 0) return;
    const where = `the first on lines ${lines[0]} and ${lines[1]}`;
    this.warnings.push(`${this.#name}  ${numRepeated} paths are listed more than once, ${where}`);
  }
}

/** The normalised list, gathered to large writes. */
class Output {
  readonly #descriptor: number;
  readonly #prefix: Buffer;
  readonly #buffer = Buffer.alloc(2 * BUFFER_BYTES);
  #filled = 0;

  constructor(descriptor: number, root: string) {
    this.#descriptor = descriptor;
    this.#prefix = Buffer.from(root.endsWith('/') ? root : `${root}/`);
  }

  write(bytes: Buffer, start: number, end: number, label: number): void {
    // A path is shorter than the reading buffer, so half of this one always suffices.
    if (this.#filled > BUFFER_BYTES - this.#prefix.length - 32) this.flush();
    if (bytes[start] !== 47) this.#filled += this.#prefix.copy(this.#buffer, this.#filled);
    this.#filled += bytes.copy(this.#buffer, this.#filled, start, end);
    this.#filled += this.#buffer.write(`\t${label}\n`, this.#filled, 'latin1');
  }

  flush(): void {
    writeAll(this.#descriptor, this.#buffer.subarray(0, this.#filled));
    this.#filled = 0;
  }
}

const isBlank = (byte: number | undefined): boolean => byte === SPACE || byte === TAB || byte === CR;

/** Returns the number written by digits alone, or -1. */
function readLabel(bytes: Buffer, start: number, end: number): number {
  if (end - start > 9) return -1;
  let value = 0;
  for (let index = start; index < end; index++) {
    const digit = (bytes[index] ?? 0) - ZERO;
    if (digit < 0 || digit > 9) return -1;
    value = value * 10 + digit;
  }
  return value;
}

/** Notes each clip that is not there; if none is, the root is at fault. */
async function lookForClips(scan: Scan): Promise<void> {
  const { clips, root } = scan;
  const missing: { line: number; text: string }[] = [];
  let next = 0;
  const look = async () => {
    for (let clip = clips[next++]; clip !== undefined; clip = clips[next++]) {
      const path = resolve(root, clip.path);
      const text = await explainMissing(path);
      if (text !== undefined) missing.push({ line: clip.line, text: `${path} ${text}` });
    }
  };
  await Promise.all(Array.from({ length: NUM_LOOKERS }, look));
  missing.sort((a, b) => a.line - b.line);
  const first = missing[0];
  if (first !== undefined && clips.length > 1 && missing.length === clips.length) {
    scan.fail(
      first.line,
      `none of the ${plural(clips.length, 'clip')} looked for is there. The data root is ${root}; first ${first.text}.`,
    );
    return;
  }
  const isAllowed = missing.length <= countAllowed(scan.options.maxMissingFraction ?? 0, clips.length);
  for (const { line, text } of missing) {
    if (isAllowed) scan.warn(line, `${text}. It will be skipped.`);
    else scan.fail(line, `${text}.`);
  }
}

async function explainMissing(path: string): Promise<string | undefined> {
  try {
    const found = await stat(path);
    if (found.isDirectory()) return 'is a folder, not a video';
    return found.size === 0 ? 'is empty' : undefined;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    return code === 'ENOENT' || code === 'ENOTDIR' ? 'does not exist' : `cannot be read (${code})`;
  }
}
