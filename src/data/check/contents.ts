/** Clips of the same content: files of one size, told apart by some of their bytes, and by all where those agree. */
import { createHash, type Hash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { setImmediate as breathe } from 'node:timers/promises';
import { showPath } from '../../base/errors.ts';
import { plural } from '../../base/words.ts';
import { showLabels } from '../line.ts';
import { findKeptFolder, KeptTexts } from '../probe/kept.ts';
import type { FoundClip } from '../scan.ts';
import type { Findings } from './findings.ts';
import { describePart, Moments } from './moments.ts';

/** A list with those of its clips that were found. */
export interface ContentList {
  file: string;
  found: FoundClip[];
}

export interface ContentOptions {
  /** What is wrong with a clip of two lists. */
  why: string;
  /** No more than so many bytes are read; files beyond are like no other. */
  maxBytes?: number;
  tell?: (numDone: number, numAll: number) => void;
}

interface Entry {
  list: number;
  clip: FoundClip;
}

const PIECE_BYTES = 4096;
const CHUNK_BYTES = 1 << 20;
/** A file is read without a pause, and the terminal is to move. */
const PAUSE_MS = 100;
/** To be raised when other bytes are hashed, or written otherwise here. */
const FORMAT = 1;
/** A check that is killed has lost no more than so many. */
const NUM_UNWRITTEN = 1000;
/** 132 bits: of a million files two have the same by chance with one in 1e26. */
const HASH_LENGTH = 22;

/** Adds clips whose content stands in a list twice, or in two lists; those of one path are told already. Hashes are kept for
 * the next time; returns why they could not be. */
export async function findSameContent(
  lists: ContentList[],
  findings: Findings,
  options: ContentOptions,
): Promise<string | undefined> {
  const groups = groupBySize(lists);
  const reader = new ContentReader(options.maxBytes ?? Number.POSITIVE_INFINITY);
  const tellers = new Map<string, Pairs>();
  let paused = performance.now();
  for (const [index, group] of groups.entries()) {
    for (const same of reader.groupByContent(group)) addPairs(same, lists, tellers);
    if (performance.now() - paused < PAUSE_MS) continue;
    options.tell?.(index + 1, groups.length);
    await breathe();
    paused = performance.now();
  }
  for (const pairs of tellers.values()) tellPairs(pairs, findings, options.why);
  return reader.keep();
}

/** Returns the clips that have the same content as others, in groups. */
export function groupSameContent(found: FoundClip[]): FoundClip[][] {
  const reader = new ContentReader(Number.POSITIVE_INFINITY);
  const groups = groupBySize([{ file: '', found }]).flatMap((group) => reader.groupByContent(group));
  reader.keep();
  return groups.map((same) => same.map(({ clip }) => clip));
}

/** Clips of equal size, in groups of two or more, in the order of lists and lines. */
function groupBySize(lists: ContentList[]): Entry[][] {
  const repeated = findRepeated(lists); // of most sizes there is one: it needs no group
  const groups = new Map<number, Entry[]>();
  for (const [list, { found }] of lists.entries()) {
    for (const clip of found) {
      if (!repeated.has(clip.size)) continue;
      const group = groups.get(clip.size);
      if (group === undefined) groups.set(clip.size, [{ list, clip }]);
      else group.push({ list, clip });
    }
  }
  return [...groups.values()];
}

function findRepeated(lists: ContentList[]): Set<number> {
  const sizes = new Float64Array(lists.reduce((sum, { found }) => sum + found.length, 0));
  let place = 0;
  for (const { found } of lists) for (const { size } of found) sizes[place++] = size;
  sizes.sort();
  return new Set(sizes.filter((size, index) => size === sizes[index - 1]));
}

/** What is hashed of a file: a few pieces, or all of it. */
type Share = 'pieces' | 'all';

/** Hashes files; `pieces` and, where it was asked for, `all` are kept as `<pieces>[ <all>]`. */
class ContentReader {
  readonly #kept = new KeptTexts(findKeptFolder('contents', `${FORMAT}`));
  #left: number;
  #numUnwritten = 0;

  constructor(maxBytes: number) {
    this.#left = maxBytes;
  }

  /** Returns which of some files of equal size have the same content. */
  groupByContent(group: Entry[]): Entry[][] {
    if (!hasTwoPaths(group)) return [];
    const alike = this.#split(group, 'pieces');
    const isWhole = (group[0]?.clip.size ?? 0) <= 3 * PIECE_BYTES;
    if (isWhole) return alike.filter(hasTwoPaths);
    return alike.filter(hasTwoPaths).flatMap((some) => this.#split(some, 'all'));
  }

  /** Brings what was hashed to the disk; returns why it could not. */
  keep(): string | undefined {
    this.#kept.flush();
    this.#numUnwritten = 0;
    return this.#kept.problem;
  }

  /** A file is hashed once, whatever paths lead to it; what are links to one file need no hash. */
  #split(group: Entry[], share: Share): Entry[][] {
    const hashes = new Map<string, string>();
    const isOneFile = group.every(({ clip }) => clip.id === group[0]?.clip.id);
    const byHash = new Map<string, Entry[]>();
    for (const entry of group) {
      const { clip } = entry;
      const known = isOneFile ? clip.id : (hashes.get(clip.id) ?? this.#hashOf(clip, share) ?? clip.id);
      hashes.set(clip.id, known);
      const same = byHash.get(known);
      if (same === undefined) byHash.set(known, [entry]);
      else same.push(entry);
    }
    return [...byHash.values()].filter((same) => same.length > 1);
  }

  #hashOf(clip: FoundClip, share: Share): string | undefined {
    const { path, size } = clip;
    const [pieces = '', all] = this.#kept.find(path, clip)?.split(' ') ?? [];
    const known = share === 'pieces' ? pieces : all;
    if (known) return known;
    const hash = share === 'pieces' ? this.#hashPieces(path, size) : this.#hashAll(path, size);
    if (hash === undefined) return undefined;
    this.#kept.add(path, clip, share === 'pieces' ? hash : `${pieces} ${hash}`);
    if (++this.#numUnwritten === NUM_UNWRITTEN) this.keep();
    return hash;
  }

  /** Of the beginning, the middle and the end: files that differ do so there, mostly. */
  #hashPieces(path: string, size: number): string | undefined {
    return this.#hash(path, Math.min(size, 3 * PIECE_BYTES), (hash, descriptor) => {
      if (size <= 3 * PIECE_BYTES) return readPart(hash, descriptor, 0, size);
      for (const at of [0, Math.floor((size - PIECE_BYTES) / 2), size - PIECE_BYTES])
        readPart(hash, descriptor, at, PIECE_BYTES);
    });
  }

  #hashAll(path: string, size: number): string | undefined {
    return this.#hash(path, size, (hash, descriptor) => readPart(hash, descriptor, 0, size));
  }

  /** A file that cannot be read is like no other. */
  #hash(path: string, numBytes: number, read: (hash: Hash, descriptor: number) => void): string | undefined {
    if (numBytes > this.#left) return undefined;
    this.#left -= numBytes;
    const hash = createHash('sha256');
    try {
      const descriptor = openSync(path, 'r');
      try {
        read(hash, descriptor);
      } finally {
        closeSync(descriptor);
      }
      return hash.digest('base64').slice(0, HASH_LENGTH);
    } catch {
      return undefined;
    }
  }
}

const hasTwoPaths = (group: Entry[]): boolean => group.some(({ clip }) => clip.path !== group[0]?.clip.path);

function readPart(hash: Hash, descriptor: number, from: number, numBytes: number): void {
  const buffer = Buffer.alloc(Math.min(CHUNK_BYTES, numBytes));
  for (let done = 0; done < numBytes; ) {
    const count = readSync(descriptor, buffer, 0, Math.min(buffer.length, numBytes - done), from + done);
    if (count === 0) return;
    hash.update(buffer.subarray(0, count));
    done += count;
  }
}

/** Clips of one list that are in another, or in the same one before. */
interface Pairs {
  list: string;
  other: string;
  pairs: [FoundClip, FoundClip][];
}

/** Each clip is paired with the first of its content in its own list, and in each list before; a part with one that has
 * a moment of it, in its own list with the same part. */
function addPairs(same: Entry[], lists: ContentList[], all: Map<string, Pairs>): void {
  const add = (list: number, other: number, pair: [FoundClip, FoundClip]): void => {
    const key = `${list} ${other}`;
    const known = all.get(key) ?? { list: lists[list]?.file ?? '', other: lists[other]?.file ?? '', pairs: [] };
    all.set(key, known);
    known.pairs.push(pair);
  };
  const firsts = new Map<string, FoundClip>();
  const moments = same.some(({ clip }) => clip.part !== undefined) ? lists.map(() => new Moments()) : [];
  for (const { list, clip } of same) {
    const own = describePart(clip);
    for (const other of lists.keys()) {
      const twin = other === list || moments.length === 0 ? firsts.get(`${other} ${own}`) : undefined;
      if (twin !== undefined && twin.path !== clip.path) add(list, other, [clip, twin]);
    }
    if (!firsts.has(`${list} ${own}`)) firsts.set(`${list} ${own}`, clip);
    moments[list]?.add(clip);
  }
  for (const { list, clip } of moments.length === 0 ? [] : same) {
    for (const [other, there] of moments.slice(0, list).entries()) {
      const twin = there.find(clip);
      if (twin !== undefined) add(list, other, [clip, twin]);
    }
  }
}

function tellPairs({ list, other, pairs }: Pairs, findings: Findings, why: string): void {
  const isOne = list === other;
  const about = { severity: 'warning', list, other_list: other } as const;
  const code = isOne ? 'duplicate-content' : 'leak';
  const [where, name] = isOne ? ['', 'one before'] : [` of ${showPath(other)}`, `one in ${showPath(other)}`];
  const conflicts: typeof pairs = [];
  pairs.sort(([one], [two]) => one.line - two.line);
  for (const [clip, twin] of pairs) {
    const more = { line: clip.line, path: clip.path, label: clip.label, other_line: twin.line, ...about };
    const advice = isOne ? '. A clip needs one line.' : `: ${why}. Keep it in one list.`;
    findings.add({
      code,
      message: `the same content is in ${twin.path} on line ${twin.line}${where}${advice}`,
      ...more,
    });
    if (clip.label === twin.label) continue;
    const what = `label ${showLabels(clip.label)}, and ${showLabels(twin.label)} on line ${twin.line}${where} for the same content`;
    findings.add({ code: 'label-conflict', message: `${what}. Keep the right one.`, ...more });
    conflicts.push([clip, twin]);
  }
  const [first] = pairs;
  if (first === undefined) return;
  const there = `the first on line ${first[0].line}, there ${first[1].path} on line ${first[1].line}`;
  const counted = `${plural(pairs.length, 'clip')} with the same content as ${name}, ${there}`;
  findings.summarize({ code, ...about }, isOne ? counted : `${counted}: ${why}`);
  const [conflict] = conflicts;
  if (conflict === undefined) return;
  const [one, two] = conflict;
  const labels = `label ${showLabels(one.label)} on line ${one.line}, ${showLabels(two.label)} on line ${two.line}${where}`;
  const told = `${plural(conflicts.length, 'clip')} with another label than ${name} of the same content: ${labels}`;
  findings.summarize({ code: 'label-conflict', ...about }, told);
}
