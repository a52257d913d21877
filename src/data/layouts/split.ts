/** Splits a list: a clip's side is a function of its group and the seed, and of nothing else. */

import { createHash } from 'node:crypto';
import { posix } from 'node:path';

export interface Shares {
  val: number;
  select: number;
}

export const SPLIT_SIDES = ['train', 'val', 'select'] as const;
export type SplitSide = (typeof SPLIT_SIDES)[number];

/**
 * Returns where a group goes: the first 48 bits of a hash of it and the seed are its place between 0 and 1. Other groups
 * play no part, so that clips keep their side when others come or go. With the selection's share only clips of the
 * training list change their place.
 */
export function sideOf(group: string, seed: number, { val, select }: Shares): SplitSide {
  const place = placeOf(group, seed);
  if (place < val) return 'val';
  return place < val + select ? 'select' : 'train';
}

function placeOf(group: string, seed: number): number {
  return createHash('sha256').update(`${seed}\0${group}`).digest().readUIntBE(0, 6) / 2 ** 48;
}

/** Returns the clips of each side, in their order. */
export function splitClips<Clip extends { group: string }>(
  clips: Clip[],
  seed: number,
  shares: Shares,
): Record<SplitSide, Clip[]> {
  const sides: Record<SplitSide, Clip[]> = { train: [], val: [], select: [] };
  for (const clip of clips) sides[sideOf(clip.group, seed, shares)].push(clip);
  return sides;
}

/** Clips that are to be split, as far as a seed is judged by them. */
export interface Grouped {
  group: string;
  class: string | number;
}

/** Of each class, how many clips stand on each side. */
export type Counts = Map<string | number, Record<SplitSide, number>>;

export function countSides(clips: Grouped[], seed: number, shares: Shares): Counts {
  const counts: Counts = new Map();
  const sides = new Map<string, SplitSide>();
  for (const clip of clips) {
    let side = sides.get(clip.group);
    if (side === undefined) {
      side = sideOf(clip.group, seed, shares);
      sides.set(clip.group, side);
    }
    const own = counts.get(clip.class) ?? { train: 0, val: 0, select: 0 };
    own[side] += 1;
    counts.set(clip.class, own);
  }
  return counts;
}

/** Returns the classes that have no clip on a side which has a share. */
export function findLacking(counts: Counts, shares: Shares): Record<SplitSide, (string | number)[]> {
  const lacking = (side: SplitSide): (string | number)[] =>
    [...counts].filter(([, own]) => own[side] === 0).map(([name]) => name);
  return {
    train: lacking('train'),
    val: shares.val > 0 ? lacking('val') : [],
    select: shares.select > 0 ? lacking('select') : [],
  };
}

const MAX_SEEDS = 1000;
/** Hashes that a search may take: some tenths of a second. */
const MAX_HASHES = 100_000;

/**
 * Returns the seed whose lists come nearest to the shares: first by lists that would be empty and classes without training
 * clips, then by classes that lack validation or selection clips where a share of theirs is about one clip or more, then
 * by the distance from the shares, in each class and in all. Small classes need a search, since a side by a hash alone
 * leaves a fifth of five clips empty one time in three.
 */
export function findSeed(clips: Grouped[], shares: Shares): number {
  const numGroups = new Set(clips.map(({ group }) => group)).size;
  const numSeeds = Math.max(1, Math.min(MAX_SEEDS, Math.floor(MAX_HASHES / Math.max(1, numGroups))));
  let [best, least] = [0, [Number.POSITIVE_INFINITY]];
  for (let seed = 0; seed < numSeeds; seed++) {
    const score = rate(countSides(clips, seed, shares), shares);
    if (isLess(score, least)) [best, least] = [seed, score];
  }
  return best;
}

/** A class has to have a clip on a side where its share of clips is not much less than one. */
const LEAST_EXPECTED = 0.75;

function rate(counts: Counts, shares: Shares): number[] {
  const all = { train: 0, val: 0, select: 0 };
  const lacking = { train: 0, val: 0, select: 0 };
  let distance = 0;
  for (const own of counts.values()) {
    const total = own.train + own.val + own.select;
    lacking.train += Number(own.train === 0);
    for (const side of ['val', 'select'] as const)
      lacking[side] += Number(own[side] === 0 && shares[side] * total >= LEAST_EXPECTED);
    for (const side of SPLIT_SIDES) all[side] += own[side];
    distance += measure(own, shares);
  }
  const empty = (['val', 'select'] as const).filter((side) => shares[side] > 0 && all[side] === 0).length;
  return [empty + Number(all.train === 0), lacking.train, lacking.val, lacking.select, distance + measure(all, shares)];
}

/** How far clips are from their shares: 0 where they have just these, and about 1 by chance. */
function measure({ train, val, select }: Record<SplitSide, number>, shares: Shares): number {
  const total = train + val + select;
  return ((val - shares.val * total) ** 2 + (select - shares.select * total) ** 2) / total;
}

function isLess(a: number[], b: number[]): boolean {
  const at = a.findIndex((value, index) => value !== b[index]);
  return at >= 0 && (a[at] ?? 0) < (b[at] ?? 0);
}

/** Returns the group of a clip that no one named one for: its own path, in its shortest form. */
export const groupOfPath = (path: string): string => posix.normalize(path);

/** Returns what a pattern takes of a path: its groups, else all of the match; undefined where it does not match. */
export function matchGroup(pattern: RegExp, path: string): string | undefined {
  const found = pattern.exec(path);
  if (found === null) return undefined;
  const parts = found.slice(1).filter((part) => part !== undefined);
  return parts.length > 0 ? parts.join('\0') : found[0];
}
