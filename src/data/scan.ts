/**
 * One pass over a list of clips: `<path> <label>` a line, the label after the last white space, or parts of files with
 * their times (line.ts).
 *
 * Lists have up to millions of lines, so they are read as bytes and no object is made for a line.
 */
import { isUtf8 } from 'node:buffer';
import { createHash } from 'node:crypto';
import { readSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { plural, quote } from '../base/words.ts';
import { explainEmpty } from './check/class-words.ts';
import type { Code, Finding, Findings } from './check/findings.ts';
import {
  COLUMNS,
  type Columns,
  explainLabel,
  explainTimes,
  findField,
  findLabelEnd,
  isBlank,
  isSeveral,
  listLabels,
  numberSet,
  type Part,
  readColumns,
  readLabel,
  readLabels,
  readTime,
  skipBlanks,
} from './line.ts';
import { LINE_BYTES, Output } from './output.ts';
import { findRepeated } from './repeated.ts';
import { FNV_START, hashPath, type PathHash, SeenPaths } from './seen-paths.ts';

export interface ListOptions {
  file: string;
  /** Folder of relative paths; null: the list's own. */
  root: string | null;
  /** null: not known, any label will do. */
  numClasses: number | null;
  /** multi: a clip has any number of labels, `1,5,9`, or `-` for none. */
  labels?: 'single' | 'multi';
  classNames?: string[] | null;
  /** Where to write the list in normalised form: `<absolute path>\t<label>\n`, of parts `...\t<start>\t<end>\n`. */
  writeTo?: string;
  /** Do not look whether the clips exist. */
  skipFiles?: boolean;
  /** Look for each of them, not for a sample. `tell` gets how many were looked for, and which share of the list that is. */
  everyFile?: boolean;
  tell?: (numLooked: number, share: number) => void;
  /** Share of the clips that may be missing (see countAllowed); they are warnings then. */
  maxMissingFraction?: number;
}

/** Ends the reading of a list, whose every line would be found fault with; why is among the findings. */
export class NoList extends Error {}

export interface ListReport {
  /** Clips, without blank and comment lines. */
  numLines: number;
  sizeBytes: number;
  /** Of the file as it is. */
  sha256: string;
  /** Clips of each class; one with several labels is a clip of each. */
  perClass: Uint32Array;
  /** -1 when no line has one. */
  maxLabel: number;
  /** Clips that were looked for and are there. */
  found: FoundClip[];
  /** What another list is compared by. */
  paths: SeenPaths;
  /** Folder of its relative paths. */
  root: string;
}

/** All clips of a list up to this length are looked for, else an even sample of at least half as many. */
const MAX_LOOKED_FOR = 2000;
/** A label beyond is a slip, and room for it would be the machine's memory. */
const MAX_COUNTED = 1 << 20;
const [LF, CR, HASH, SLASH] = [10, 13, 35, 47];
/** Clips may have such names (HMDB51's do), and no line may be left out unsaid. */
export const HASH_RULE =
  'A line that begins with `#` and ends with a number is a clip; a comment begins with `# `, with a space.';

export interface Clip {
  path: string;
  line: number;
  /** Of several their number (line.ts). */
  label: number;
  /** Of a list of parts. */
  part?: Part;
}

/** A clip as a file: `id` is the same for all its links. */
export interface FoundClip extends Clip {
  id: string;
  size: number;
  /** Time of its last change, ms. */
  mtime: number;
}

/** One pass over a list: counts, problems and the normalised copy. */
export class Scan {
  numLines = 0;
  sizeBytes = 0;
  sha256 = '';
  /** Nothing is written where there are any. */
  numErrors = 0;
  perClass: Uint32Array;
  readonly root: string;
  readonly options: ListOptions;
  /** The clips to look for, evenly spread over the list. */
  clips: Clip[] = [];
  /** Comments that could be clips whose names begin with `# `. */
  readonly suspects: Clip[] = [];
  readonly found: FoundClip[] = [];
  readonly paths: SeenPaths;
  maxLabel = -1;
  readonly #findings: Findings;
  readonly #isMulti: boolean;
  #output: Output | undefined;
  readonly #rootHash: PathHash = { ...FNV_START };
  readonly #hash: PathHash = { ...FNV_START };
  readonly #comments: { count: number; first: string; line: number } = { count: 0, first: '', line: 0 };
  #columns: Columns = 'plain';
  readonly #part: Part = { start: 0, end: 0 }; // one object for all lines
  #everyClip = 1;
  #line = 0;
  #minLabel = Number.MAX_SAFE_INTEGER;

  constructor(options: ListOptions, findings: Findings) {
    this.options = options;
    this.#findings = findings;
    this.root = resolve(options.root ?? dirname(options.file));
    this.perClass = new Uint32Array(options.numClasses ?? 0);
    this.#isMulti = options.labels === 'multi';
    this.paths = new SeenPaths((this.#isMulti ? null : options.numClasses) ?? Number.POSITIVE_INFINITY);
    const prefix = Buffer.from(this.root.endsWith('/') ? this.root : `${this.root}/`);
    hashPath(prefix, 0, prefix.length, FNV_START, this.#rootHash);
  }

  fail(code: Code, line: number | null, message: string, more: Partial<Finding> = {}): void {
    this.numErrors += 1;
    this.#findings.add({ code, severity: 'error', list: this.options.file, line, message, ...more });
  }

  warn(code: Code, line: number | null, message: string, more: Partial<Finding> = {}): void {
    this.#findings.add({ code, severity: 'warning', list: this.options.file, line, message, ...more });
  }

  /** Reads the list, and writes it in normalised form to `output`. Stops after each megabyte or so: clips of a list of any
   * length can be looked for while there are few. */
  *readAll(input: number, output: number | undefined): Generator<void, void> {
    this.#output = output === undefined ? undefined : new Output(output, this.root);
    const hash = createHash('sha256');
    const buffer = Buffer.alloc(LINE_BYTES);
    let filled = 0;
    for (;;) {
      const count = readSync(input, buffer, filled, LINE_BYTES - filled, null);
      hash.update(buffer.subarray(filled, filled + count));
      this.sizeBytes += count;
      filled += count;
      // At the end what is left is a line without its line feed.
      const end = count === 0 ? filled : buffer.lastIndexOf(LF, filled - 1) + 1;
      if (end === 0 && filled === LINE_BYTES) this.#refuse('line-format', 'has a line of more than a megabyte');
      this.#readLines(buffer.subarray(0, end));
      buffer.copyWithin(0, end, filled);
      filled -= end;
      if (count === 0) break;
      yield;
    }
    this.#output?.flush();
    this.sha256 = hash.digest('hex');
  }

  /** Ends the reading: more of the same would follow. */
  #refuse(code: Code, what: string): never {
    this.fail(code, Math.max(1, this.#line), `${what}. A list has \`${this.#form}\` lines, in UTF-8.`);
    throw new NoList();
  }

  get #form(): string {
    return this.#columns === 'parts' ? '<path> <label> <start> <end>' : '<path> <label>';
  }

  #readLines(bytes: Buffer): void {
    let start = 0;
    if (this.#line === 0 && bytes.length >= 2) {
      const mark = bytes.readUInt16BE(0);
      if (mark === 0xfffe || mark === 0xfeff) this.#refuse('encoding', 'is in UTF-16');
    }
    const isValid = isUtf8(bytes);
    const hasReturns = bytes.includes(CR);
    while (start < bytes.length) {
      const feed = bytes.indexOf(LF, start);
      const end = feed === -1 ? bytes.length : feed;
      this.#line += 1;
      if (!isValid && !isUtf8(bytes.subarray(start, end)))
        this.fail('encoding', this.#line, 'is not valid UTF-8. Write the list in UTF-8.');
      else this.#readLine(bytes, start, end, hasReturns);
      start = end + 1;
    }
  }

  #readLine(bytes: Buffer, lineStart: number, lineEnd: number, hasReturns: boolean): void {
    let [start, end] = [lineStart, lineEnd];
    // Of several files joined to one list, each may have begun with a byte order mark.
    if (bytes[start] === 0xef && bytes[start + 1] === 0xbb && bytes[start + 2] === 0xbf) start += 3;
    while (end > start && (isBlank(bytes[end - 1]) || bytes[end - 1] === CR)) end -= 1;
    while (start < end && isBlank(bytes[start])) start += 1;
    if (start === end) return;
    if (hasReturns && bytes.subarray(start, end).includes(CR)) {
      this.#failReturn(bytes, start, end);
      return;
    }
    const isHashed = bytes[start] === HASH;
    if (isHashed && (this.#isHeader(bytes, start, end) || this.#isComment(bytes, start, end))) return;
    this.numLines += 1;
    const labelEnd = this.#columns === 'plain' ? end : findLabelEnd(bytes, start, end);
    const label = findField(bytes, start, labelEnd);
    const isTimed = this.#columns === 'plain' || label === start || this.#readPart(bytes, start, end);
    const value = label === start ? -1 : this.#readLabel(bytes, label, labelEnd);
    if (value < 0) this.#failLabel(bytes, start, label, labelEnd, end);
    else if (this.#isInRange(value, isHashed) && isTimed)
      this.#takeClip(bytes, start, skipBlanks(bytes, start, label), value);
  }

  /** Returns a label, of several the number of their set; -1 where there is none. */
  #readLabel(bytes: Buffer, start: number, end: number): number {
    if (!this.#isMulti) return readLabel(bytes, start, end);
    const labels = readLabels(bytes, start, end);
    return labels === null ? -1 : numberSet(labels);
  }

  #isInRange(value: number, isHashed: boolean): boolean {
    if (!this.#isMulti) return this.#isClass(value, isHashed);
    const checked = listLabels(value).map((label) => this.#isClass(label, isHashed));
    return !checked.includes(false);
  }

  #isClass(value: number, isHashed: boolean): boolean {
    this.#minLabel = Math.min(this.#minLabel, value);
    this.maxLabel = Math.max(this.maxLabel, value);
    const numClasses = this.options.numClasses ?? Number.POSITIVE_INFINITY;
    if (value >= numClasses) {
      const why = `(data.num_classes is ${numClasses}; labels start at 0)`;
      const rule = isHashed ? `. ${HASH_RULE}` : '';
      this.fail('label-range', this.#line, `label ${value} is outside 0..${numClasses - 1} ${why}${rule}`);
    }
    return value < numClasses;
  }

  /** The first line may say what the columns are; the same again is nothing new, as in lists joined to one. */
  #isHeader(bytes: Buffer, start: number, end: number): boolean {
    const line = bytes.toString('utf8', start, end);
    const columns = readColumns(line);
    if (columns === undefined || columns === this.#columns) return columns !== undefined;
    if (columns !== null && this.#line === 1) this.#columns = columns;
    else if (this.#line > 1 && columns === null) return false;
    else {
      const unknown = `is not known as the columns of a list. Write \`${COLUMNS}\`, in this order.`;
      const late = 'counts on line 1 alone. Move it there, or make a list of each kind.';
      this.fail('line-format', this.#line, `${quote(line)} ${this.#line === 1 ? unknown : late}`);
    }
    return true;
  }

  /** Reads start and end into #part; returns false, after saying why, where they are none. */
  #readPart(bytes: Buffer, start: number, end: number): boolean {
    const endField = findField(bytes, start, end);
    const startEnd = skipBlanks(bytes, start, endField);
    const startField = findField(bytes, start, startEnd);
    const part = this.#part;
    part.start = readTime(bytes, startField, startEnd);
    part.end = readTime(bytes, endField, end);
    if (part.start < part.end && part.start >= 0) return true;
    const words = [bytes.toString('utf8', startField, startEnd), bytes.toString('utf8', endField, end)] as const;
    for (const why of explainTimes(...words, part)) this.fail('part-times', this.#line, why);
    return false;
  }

  /** A clip's line is never taken for a comment unsaid: `#a.mp4 0` is a clip, `# a.mp4 0` is looked for later. */
  #isComment(bytes: Buffer, start: number, end: number): boolean {
    let word = start;
    while (bytes[word] === HASH) word += 1;
    const isSpaced = word === end || isBlank(bytes[word]);
    const labelEnd = this.#columns === 'plain' ? end : findLabelEnd(bytes, word, end);
    const label = findField(bytes, word, labelEnd);
    const isLabelled = label > word && this.#readLabel(bytes, label, labelEnd) >= 0;
    if (isLabelled && !isSpaced) return false;
    if (isLabelled && this.suspects.length < MAX_LOOKED_FOR) {
      const path = bytes.toString('utf8', start, label).trimEnd();
      this.suspects.push({ path, line: this.#line, label: this.#readLabel(bytes, label, labelEnd) });
    } else if (!isSpaced) {
      if (this.#comments.count === 0) this.#comments.first = quote(bytes.toString('utf8', start, end));
      if (this.#comments.count === 0) this.#comments.line = this.#line;
      this.#comments.count += 1;
    }
    return true;
  }

  #failReturn(bytes: Buffer, start: number, end: number): void {
    const line = quote(bytes.toString('utf8', start, end));
    const isWhole = this.#line === 1 && end > bytes.length - 2;
    if (isWhole)
      this.#refuse('line-format', `has the line ends of old Macs (CR alone: ${line}); a line ends with LF or CR LF`);
    this.numLines += 1;
    this.fail(
      'line-format',
      this.#line,
      `has a carriage return within the line (${line}). End each line with LF or CR LF.`,
    );
  }

  #failLabel(bytes: Buffer, start: number, label: number, labelEnd: number, end: number): void {
    const [line, word] = [bytes.toString('utf8', start, end), bytes.toString('utf8', label, labelEnd)];
    const isMeant = label > start && (this.#isMulti || isSeveral(word));
    if (this.numLines === 1 && line.includes(',') && !isMeant) {
      this.#refuse(
        'separator',
        `is separated by commas (${quote(line)}); a space or a tab goes before the label, and there is no header; \`coldframe lists from-csv\` makes lists of tables`,
      );
    }
    const lacking = this.#columns === 'parts' ? 'has not all four columns' : 'has no label';
    if (label === start) this.fail('line-format', this.#line, `${quote(line)} ${lacking}. Write \`${this.#form}\`.`);
    else this.fail('label-not-a-number', this.#line, explainLabel(word, this.options.numClasses, this.#isMulti));
  }

  #takeClip(bytes: Buffer, start: number, end: number, label: number): void {
    const hash = this.#hash; // one object for all lines
    hashPath(bytes, start, end, bytes[start] === SLASH ? FNV_START : this.#rootHash, hash);
    if (!hash.isPlain) {
      this.fail(
        'line-format',
        this.#line,
        'the path holds a tab or a NUL byte. Rename the file, and write the list in UTF-8.',
      );
      return;
    }
    if (hash.hasDots) {
      const resolved = Buffer.from(resolve(this.root, bytes.toString('utf8', start, end)));
      hashPath(resolved, 0, resolved.length, FNV_START, hash);
    }
    if (this.#isMulti) for (const one of listLabels(label)) this.#count(one);
    else this.#count(label);
    const part = this.#columns === 'parts' ? this.#part : undefined;
    this.paths.add(hash.low, hash.high, this.#line, label, part);
    this.#output?.write(bytes, start, end, label, part);
    this.#sample(bytes, start, end, label);
  }

  /** Where the number of classes is not known, room is made for more. */
  #count(label: number): void {
    if (label >= this.perClass.length && label < MAX_COUNTED) {
      const more = new Uint32Array(2 ** Math.ceil(Math.log2(label + 1)));
      more.set(this.perClass);
      this.perClass = more;
    }
    this.perClass[label] = (this.perClass[label] ?? 0) + 1;
  }

  #sample(bytes: Buffer, start: number, end: number, label: number): void {
    if (this.paths.length % this.#everyClip !== 0) return;
    const part = this.#columns === 'parts' ? { part: { ...this.#part } } : {};
    this.clips.push({ path: bytes.toString('utf8', start, end), line: this.#line, label, ...part });
    if (this.clips.length <= MAX_LOOKED_FOR || this.options.everyFile) return;
    this.clips = this.clips.filter((_, index) => index % 2 === 1);
    this.#everyClip *= 2;
  }

  /** Adds what only the whole list can tell. */
  finish(): void {
    const { numClasses, classNames } = this.options;
    this.perClass = this.perClass.subarray(0, numClasses ?? this.maxLabel + 1);
    if (this.numLines === 0) this.fail('no-clips', null, `holds no clips. Write \`${this.#form}\` lines.`);
    if (numClasses !== null && this.#minLabel === 1 && this.maxLabel === numClasses) {
      this.fail('label-range', null, `labels run from 1 to ${numClasses}, but must start at 0. Subtract 1 from each.`);
    }
    const empty = numClasses === null ? undefined : explainEmpty(this.perClass, this.maxLabel, classNames ?? null);
    if (empty !== undefined) this.warn('class-empty', null, empty);
    const { count, first: line, line: number } = this.#comments;
    if (count > 0) {
      const what = `${plural(count, 'line')} without a label taken for comments (${line})`;
      this.warn('comment', number, `${what}. Begin a comment with \`# \`, with a space; give a clip a label.`);
    }
    findRepeated({ file: this.options.file, root: this.root, paths: this.paths }, this.#findings);
  }
}
