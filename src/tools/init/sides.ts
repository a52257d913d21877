/** Which list each clip goes to: what the layout says, and a split of the rest with copies and groups whole. */

import { basename } from 'node:path';
import { plural } from '../../base/words.ts';
import { classesOf, type LaidOut } from '../../data/layouts/layout.ts';
import { findSeed, groupOfPath, matchGroup, type Shares, type SplitSide, sideOf } from '../../data/layouts/split.ts';
import { readPattern } from '../../data/layouts/split-list.ts';

export const SHARES: Shares = { val: 0.2, select: 0.1 };

/** Names that clips cut from one video have: the part that names the video is found. */
const GUESSES: { what: string; pattern: RegExp }[] = [
  { what: '`_g01_c01` of UCF101', pattern: /^(.+_g\d+)_c\d+\.\w+$/ },
  { what: 'times behind a name', pattern: /^(.+?)[_-]\d{6}[_-]\d{6}\.\w+$/ },
  {
    what: '`part 1`, `clip-1`, `scene_1` ... behind a name',
    pattern: /^(.+?)[ _.-]*(?:part|pt|clip|scene|seg|segment|shot|cut|chunk)[ _.-]?\d+\.\w+$/i,
  },
];
/** A class with fewer groups could not stand on three sides. */
const MIN_GROUPS = 3;
/** Clips without a label are spread as those of a class are. */
const NO_CLASS = '-';

export interface Sided<Clip> {
  lists: Map<SplitSide | 'test', Clip[]>;
  /** What was decided, and why. */
  why: string[];
  /** null: nothing was split. */
  seed: number | null;
}

/** Returns the lists of some clips. Clips of one content go one way, since a copy on another side would be known there. */
export function chooseSides<Clip extends LaidOut>(
  clips: Clip[],
  copies: Clip[][],
  given: string | undefined,
  isMulti = false,
): Sided<Clip> {
  const why: string[] = [];
  const groups = joinCopies(clips, groupClips(clips, given, why, isMulti), copies);
  const has = (side: LaidOut['side']): boolean => clips.some((clip) => clip.side === side);
  const shares = { val: has('val') ? 0 : SHARES.val, select: has('select') ? 0 : SHARES.select };
  const open = clips.filter(({ side }) => side === undefined || side === 'all' || side === 'train');
  const toSplit = open.flatMap((clip) => {
    const [group, own] = [groups.get(clip) ?? '', classesOf(clip, isMulti)];
    return (own.length === 0 ? [NO_CLASS] : own).map((one) => ({ group, class: one }));
  });
  const isSplit = shares.val + shares.select > 0;
  const seed = isSplit ? findSeed(toSplit, shares) : null;
  const lists: Sided<Clip>['lists'] = new Map();
  for (const clip of clips) {
    const isOpen = clip.side === undefined || clip.side === 'all' || clip.side === 'train';
    const side = isOpen ? (seed === null ? 'train' : sideOf(groups.get(clip) ?? '', seed, shares)) : clip.side;
    const list = side as SplitSide | 'test';
    const own = lists.get(list);
    if (own === undefined) lists.set(list, [clip]);
    else own.push(clip);
  }
  if (seed !== null) why.push(describeSplit(shares, seed, new Set(toSplit.map(({ group }) => group)).size));
  if (copies.length > 0) why.push(`${plural(copies.length, 'clip')} with copies: each stays on one side with them.`);
  return { lists, why, seed };
}

function describeSplit({ val, select }: Shares, seed: number, numGroups: number): string {
  const parts = [
    val > 0 && `${100 * val} % to validate on`,
    select > 0 && `${100 * select} % for a sweep to choose on`,
  ];
  const what = parts.filter(Boolean).join(', ');
  return `${what}, of ${plural(numGroups, 'group')}: by seed ${seed}, which comes nearest to that in each class.`;
}

/** Returns the group of each clip: what the layout or the user says, what its name says, else its own path. */
function groupClips<Clip extends LaidOut>(
  clips: Clip[],
  given: string | undefined,
  why: string[],
  isMulti: boolean,
): Map<Clip, string> {
  const own = (clip: Clip): string => clip.group ?? groupOfPath(clip.path);
  if (clips.some(({ group }) => group !== undefined)) {
    why.push('groups by the column of the table.');
    return new Map(clips.map((clip) => [clip, own(clip)]));
  }
  if (given !== undefined) {
    const pattern = readPattern(given);
    const matched = clips.filter(({ path }) => matchGroup(pattern, path) !== undefined).length;
    why.push(`groups by --group, which finds one in ${matched} of ${plural(clips.length, 'path')}.`);
    return new Map(clips.map((clip) => [clip, matchGroup(pattern, clip.path) ?? own(clip)]));
  }
  for (const { what, pattern } of GUESSES) {
    const groups = new Map(clips.map((clip) => [clip, matchGroup(pattern, basename(clip.path)) ?? own(clip)]));
    if (!isUseful(clips, groups, isMulti)) continue;
    why.push(
      `groups by the names of the clips (${what}), as clips of one video must stay on one side. Otherwise: --group.`,
    );
    return groups;
  }
  why.push('each clip is a group of its own. If some are cut from one video: --group.');
  return new Map(clips.map((clip) => [clip, own(clip)]));
}

/** A guess counts where half of the clips are in larger groups, and each class can still be split. */
function isUseful<Clip extends LaidOut>(clips: Clip[], groups: Map<Clip, string>, isMulti: boolean): boolean {
  const sizes = new Map<string, number>();
  const ofClass = new Map<string, Set<string>>();
  for (const [clip, group] of groups) {
    sizes.set(group, (sizes.get(group) ?? 0) + 1);
    for (const one of classesOf(clip, isMulti)) ofClass.set(one, (ofClass.get(one) ?? new Set()).add(group));
  }
  const numShared = clips.filter((clip) => (sizes.get(groups.get(clip) ?? '') ?? 0) > 1).length;
  return numShared >= clips.length / 2 && [...ofClass.values()].every((some) => some.size >= MIN_GROUPS);
}

/** Groups that share a content become one, under the first of their names. */
function joinCopies<Clip>(clips: Clip[], groups: Map<Clip, string>, copies: Clip[][]): Map<Clip, string> {
  const parents = new Map<string, string>();
  const find = (group: string): string => {
    const parent = parents.get(group);
    return parent === undefined ? group : find(parent);
  };
  for (const same of copies) {
    const roots = [...new Set(same.map((clip) => find(groups.get(clip) ?? '')))].sort();
    for (const root of roots.slice(1)) parents.set(root, roots[0] ?? '');
  }
  return new Map(clips.map((clip) => [clip, find(groups.get(clip) ?? '')]));
}
