/**
 * The paths of a list as hashes, with their labels: to find those that stand in it twice, or in another list too. Ten
 * bytes a path, for lists of millions of lines; sixteen more where it is a list of parts.
 */
import type { Part } from './line.ts';
import { type Each, findOverlaps, type Overlap, type Pair, type Places } from './overlaps.ts';

export type { Overlap, Pair } from './overlaps.ts';

const { imul } = Math;
const [NUL, TAB, DOT, SLASH] = [0, 9, 46, 47];
export interface PathHash {
  low: number;
  high: number;
  /** It can be written to a list. */
  isPlain: boolean;
  /** It may have a shorter form. */
  hasDots: boolean;
}
export const FNV_START: PathHash = { low: 0x811c9dc5, high: 0x050c5d1f, isPlain: true, hasDots: false };

/**
 * Puts into `found` what is to be known of a path; the part before it has the hash `begun`. Two FNV-1a hashes make 64
 * bits: a false pair among a million paths has a chance of 3e-8, and costs a warning.
 */
export function hashPath(bytes: Buffer, start: number, end: number, begun: PathHash, found: PathHash): void {
  let { low, high } = begun;
  let [isPlain, hasDots] = [true, false];
  let before = begun === FNV_START ? 0 : SLASH; // else it stands below a root
  for (let index = start; index < end; index++) {
    const byte = bytes[index] ?? 0;
    isPlain &&= byte !== TAB && byte !== NUL;
    hasDots ||= before === SLASH && (byte === SLASH || byte === DOT);
    before = byte;
    low = imul(low ^ byte, 0x01000193);
    high = imul(high ^ byte, 0x01000197);
  }
  found.low = low >>> 0;
  found.high = high >>> 0;
  found.isPlain = isPlain;
  found.hasDots = hasDots;
}

/** Blocks never move: a growing array is copied, and holds both copies for a while. */
const BLOCK_BITS = 16;
const BLOCK_PATHS = 1 << BLOCK_BITS;

interface Candidates {
  places: number[];
  taken: number[];
  each: Each | undefined;
}

export class SeenPaths implements Places {
  length = 0;
  readonly #hashes: Uint32Array[] = [];
  readonly #labels: (Uint16Array | Uint32Array)[] = [];
  /** Start and end of each, where there are parts. */
  readonly #times: Float64Array[] = [];
  readonly #numClasses: number;
  /** Where the distance between a path's place and its line changes (blank lines, comments), and to what. */
  readonly #jumps: { place: number; distance: number }[] = [];
  #distance = Number.NaN;

  constructor(numClasses: number) {
    this.#numClasses = numClasses;
  }

  get hasParts(): boolean {
    return this.#times.length > 0;
  }

  /** Takes the two halves of a path's hash. Lines come in rising order; either all are parts, or none. */
  add(low: number, high: number, line: number, label: number, part?: Part): void {
    const place = this.length++;
    const at = place % BLOCK_PATHS;
    if (at === 0) {
      this.#hashes.push(new Uint32Array(2 * BLOCK_PATHS));
      this.#labels.push(this.#numClasses <= 0x10000 ? new Uint16Array(BLOCK_PATHS) : new Uint32Array(BLOCK_PATHS));
    }
    const hashes = this.#hashes.at(-1) as Uint32Array;
    hashes[2 * at] = low;
    hashes[2 * at + 1] = high;
    (this.#labels.at(-1) as Uint16Array)[at] = label;
    if (part !== undefined) {
      if (at === 0) this.#times.push(new Float64Array(2 * BLOCK_PATHS));
      const times = this.#times.at(-1) as Float64Array;
      times[2 * at] = part.start;
      times[2 * at + 1] = part.end;
    }
    if (line - place === this.#distance) return;
    this.#distance = line - place;
    this.#jumps.push({ place, distance: this.#distance });
  }

  /** Returns the paths that stand here more than once, of parts those that are the same; a pair's first place is the
   * path's first. `each` gets all pairs. */
  findRepeated(each?: Each): Overlap {
    const [seen, twice] = [new Bits(this.length), new Bits(this.length)];
    for (let place = 0; place < this.length; place++) {
      const bit = this.mixed(place);
      if (seen.has(bit)) twice.add(bit);
      seen.add(bit);
    }
    return this.#compare(this, { places: this.#placesIn(twice), taken: [], each });
  }

  /** Returns the paths that stand in another list as well, of parts those that overlap one there; a pair's first place
   * is here, its second one there. `each` gets all pairs, of parts that of each here. */
  findShared(other: SeenPaths, each?: Each): Overlap {
    const hasParts = this.hasParts || other.hasParts;
    const [here, both] = [new Bits(this.length), new Bits(this.length)];
    for (let place = 0; place < this.length; place++) here.add(this.mixed(place, hasParts));
    for (let place = 0; place < other.length; place++) {
      const bit = other.mixed(place, hasParts);
      if (here.has(bit)) both.add(bit);
    }
    const [taken, places] = [this.#placesIn(both, hasParts), other.#placesIn(both, hasParts)];
    return hasParts ? findOverlaps(this, taken, other, places, each) : this.#compare(other, { places, taken, each });
  }

  /** A few percent of all, besides those that are looked for: only they go into a table. */
  #placesIn(bits: Bits, isOfPath = false): number[] {
    const places: number[] = [];
    for (let place = 0; place < this.length; place++) if (bits.has(this.mixed(place, isOfPath))) places.push(place);
    return places;
  }

  /** Compares places of a list with those taken before, or with the ones before them. */
  #compare(other: SeenPaths, { places, taken, each }: Candidates): Overlap {
    const overlap: Overlap = { numPaths: 0, first: null, numConflicts: 0, firstConflict: null, sources: [] };
    const table = new Table(this, taken.length || places.length);
    for (const place of taken) table.take(place);
    const told = new Uint8Array(this.length); // 1: counted as a path, 2: as one whose labels differ
    for (const place of places) {
      const before = other === this ? table.take(place) : table.find(other, place);
      if (before === -1) continue;
      const differs = this.labelOf(before) !== other.labelOf(place);
      const state = told[before] ?? 0;
      if (state === 0) overlap.numPaths += 1;
      if (differs && state < 2) overlap.numConflicts += 1;
      told[before] = differs ? 2 : Math.max(1, state);
      each?.(this.pair(before, other, place), true);
      if (overlap.first !== null && (overlap.firstConflict !== null || !differs)) continue;
      const pair = this.pair(before, other, place);
      overlap.first ??= pair;
      if (differs) overlap.firstConflict ??= pair;
    }
    return overlap;
  }

  pair(before: number, other: Places, place: number): Pair {
    return {
      lines: [this.lineOf(before), other.lineOf(place)],
      labels: [this.labelOf(before), other.labelOf(place)],
    };
  }

  /** FNV's low bits follow from the low bits of the bytes alone, which paths of one list share: all bits count here. Of
   * a part its times do, too, unless only its path is looked for. */
  mixed(place: number, isOfPath = false): number {
    const block = this.#hashes[place >>> BLOCK_BITS];
    const at = 2 * (place & (BLOCK_PATHS - 1));
    let bits = (block?.[at] ?? 0) ^ (block?.[at + 1] ?? 0);
    if (this.hasParts && !isOfPath) bits ^= imul(this.startOf(place), 0x85ebca6b) ^ imul(this.endOf(place), 0xc2b2ae35);
    const mixed = imul(bits, 0x9e3779b1);
    return mixed ^ (mixed >>> 15);
  }

  /** Microseconds; a whole file has all there are. */
  startOf(place: number): number {
    return this.#times[place >>> BLOCK_BITS]?.[2 * (place & (BLOCK_PATHS - 1))] ?? 0;
  }

  endOf(place: number): number {
    return this.#times[place >>> BLOCK_BITS]?.[2 * (place & (BLOCK_PATHS - 1)) + 1] ?? Number.POSITIVE_INFINITY;
  }

  readHash(place: number, half: 0 | 1): number {
    return this.#hashes[place >>> BLOCK_BITS]?.[2 * (place & (BLOCK_PATHS - 1)) + half] ?? 0;
  }

  /** The lines of all paths with their labels, in the order of the list. */
  *lines(): Generator<{ line: number; label: number }> {
    let jump = 0;
    for (let place = 0; place < this.length; place++) {
      while ((this.#jumps[jump + 1]?.place ?? Number.POSITIVE_INFINITY) <= place) jump += 1;
      yield { line: place + (this.#jumps[jump]?.distance ?? 0), label: this.labelOf(place) };
    }
  }

  labelOf(place: number): number {
    return this.#labels[place >>> BLOCK_BITS]?.[place & (BLOCK_PATHS - 1)] ?? 0;
  }

  lineOf(place: number): number {
    let [low, high] = [0, this.#jumps.length - 1]; // of a list with a blank line after each there are as many as paths
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if ((this.#jumps[middle]?.place ?? 0) <= place) low = middle;
      else high = middle - 1;
    }
    return place + (this.#jumps[low]?.distance ?? 0);
  }
}

/** A set of numbers that may take some for others: sixteen bits a path leave a few percent. */
class Bits {
  readonly #words: Uint32Array;
  readonly #mask: number;

  constructor(numPaths: number) {
    let size = 64;
    while (size < numPaths / 2) size *= 2;
    this.#words = new Uint32Array(size);
    this.#mask = size - 1;
  }

  has(value: number): boolean {
    return ((this.#words[(value >>> 5) & this.#mask] ?? 0) & (1 << (value & 31))) !== 0;
  }

  add(value: number): void {
    const word = (value >>> 5) & this.#mask;
    this.#words[word] = (this.#words[word] ?? 0) | (1 << (value & 31));
  }
}

/** Which place has a hash: open addressing in one array of four bytes a slot, at most two thirds full. */
class Table {
  readonly #paths: SeenPaths;
  readonly #slots: Int32Array;

  constructor(paths: SeenPaths, numTaken: number) {
    this.#paths = paths;
    let size = 16;
    while (size < 1.5 * numTaken) size *= 2;
    this.#slots = new Int32Array(size);
  }

  /** Returns the place with the hash that another list has at a place, or -1. */
  find(other: SeenPaths, place: number): number {
    return (this.#slots[this.#seek(other, place)] ?? 0) - 1;
  }

  /** Returns an earlier place with the hash of this one, or -1 after taking this one in. */
  take(place: number): number {
    const slot = this.#seek(this.#paths, place);
    const before = (this.#slots[slot] ?? 0) - 1;
    if (before === -1) this.#slots[slot] = place + 1;
    return before;
  }

  #seek(other: SeenPaths, place: number): number {
    const mask = this.#slots.length - 1;
    const [low, high] = [other.readHash(place, 0), other.readHash(place, 1)];
    const [start, end] = [other.startOf(place), other.endOf(place)];
    const paths = this.#paths;
    for (let slot = other.mixed(place) & mask; ; slot = (slot + 1) & mask) {
      const taken = (this.#slots[slot] ?? 0) - 1;
      if (taken === -1) return slot;
      const isSamePath = paths.readHash(taken, 0) === low && paths.readHash(taken, 1) === high;
      if (isSamePath && paths.startOf(taken) === start && paths.endOf(taken) === end) return slot;
    }
  }
}
