/** `lists split`: one list into those for training, validation and selection. */

import { readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { showPath, UserError } from '../../base/errors.ts';
import { withScratch } from '../../base/files.ts';
import type { Report } from '../../base/printer.ts';
import { plural, quote } from '../../base/words.ts';
import { checkList } from '../list.ts';
import {
  countSides,
  findLacking,
  findSeed,
  groupOfPath,
  matchGroup,
  type Shares,
  SPLIT_SIDES,
  splitClips,
} from './split.ts';
import { readTable } from './table.ts';
import { type Listed, printList, writeNew } from './write.ts';

export interface SplitRequest {
  list: string;
  /** Folder of the list's relative paths; undefined: its own. */
  root?: string | undefined;
  output?: string | undefined;
  shares: Shares;
  seed: number;
  /** What of a path is its group. */
  pattern?: string | undefined;
  /** A table with the columns path and group. */
  groups?: string | undefined;
}

const GROUP_COLUMNS = {
  path: ['path', 'file', 'filename', 'file_name', 'video'],
  group: ['group', 'source'],
};

type Line = Listed & { group: string };

export async function splitList(request: SplitRequest, report: Report): Promise<void> {
  const { list, shares, seed } = request;
  if (shares.val + shares.select >= 1)
    throw new UserError(
      `--val, --select  ${shares.val} and ${shares.select} leave nothing to train on. Give less than 1 together.`,
    );
  const root = resolve(request.root ?? dirname(list));
  const clips = groupClips(await readClips(list, root, 'multi'), request, report);
  const sides = SPLIT_SIDES.filter((side) => side === 'train' || shares[side] > 0);
  const split = splitClips(clips, seed, shares);
  const parts = sides.map((side) => ({ side, own: split[side] }));
  refuseEmpty(parts, list, clips, shares);
  const output = request.output ?? dirname(list);
  writeNew(output, new Map(parts.map(({ side, own }) => [`${side}.txt`, printList(own)])));
  warnOfLacking(clips, seed, shares, report);
  report.event({
    kind: 'listed',
    ...{ folder: output, root, classes: null, num_left_out: 0, num_clips: clips.length },
    files: parts.map(({ side, own }) => ({ path: join(output, `${side}.txt`), num_clips: own.length })),
    num_classes: new Set(clips.map(({ label }) => label)).size,
  });
  const groups = new Set(clips.map(({ group }) => group)).size;
  report.note(
    `${plural(groups, 'group')}, seed ${seed}: a clip's side follows from its group and the seed, so it stays when clips are added.`,
  );
  if (relative(output, root) !== '') report.note(`The paths in them begin at ${root}: set data.root to it.`);
}

/** Returns the clips of a list as it is read everywhere; `multi` takes one label or several. Raises UserError with its bad
 * lines. */
export async function readClips(file: string, root: string, labels: 'single' | 'multi'): Promise<Listed[]> {
  return withScratch(async (scratch) => {
    const clean = join(scratch, 'clean.tsv');
    await checkList({ file, root, numClasses: null, skipFiles: true, writeTo: clean, labels });
    const prefix = root.endsWith('/') ? root : `${root}/`;
    const lines = readFileSync(clean, 'utf8').trimEnd().split('\n');
    return lines.map((line) => {
      const [path = '', label = '', ...times] = line.split('\t');
      const [start, end] = times.map(Number);
      const part = start === undefined || end === undefined ? {} : { start, end };
      return { path: path.startsWith(prefix) ? path.slice(prefix.length) : path, label, ...part };
    });
  });
}

function groupClips(clips: Listed[], { pattern, groups: file, root, list }: SplitRequest, report: Report): Line[] {
  const regex = pattern === undefined ? undefined : readPattern(pattern);
  const base = resolve(root ?? dirname(list));
  const groups = file === undefined ? undefined : readGroups(file, base);
  let numAlone = 0;
  let firstAlone = '';
  const grouped = clips.map((clip) => {
    const path = groupOfPath(clip.path);
    const group = groups?.get(resolve(base, path)) ?? (regex && matchGroup(regex, path));
    if (group === undefined && numAlone++ === 0) firstAlone = clip.path;
    return { ...clip, group: group ?? path };
  });
  if (groups === undefined && regex === undefined) return grouped;
  const option = groups === undefined ? '--group' : '--groups';
  if (numAlone === clips.length)
    throw new UserError(
      `${option}  no path of ${showPath(list)} is in it, ${quote(firstAlone)} for one. Allowed: a pattern or a table that names their groups.`,
    );
  if (numAlone > 0)
    report.warn(
      `${option}  ${plural(numAlone, 'clip')} without a group, ${quote(firstAlone)} the first: each is a group of its own.`,
    );
  return grouped;
}

function readGroups(table: string, base: string): Map<string, string> {
  const { rows } = readTable(table, GROUP_COLUMNS, ['path', 'group']);
  const named = rows.filter((row) => row.get('group').trim() !== '');
  return new Map(named.map((row) => [resolve(base, row.get('path')), row.get('group').trim()]));
}

export function readPattern(pattern: string): RegExp {
  try {
    return new RegExp(pattern, 'u');
  } catch (error) {
    throw new UserError(
      `--group  found ${quote(pattern)}: ${(error as Error).message}. Allowed: a regular expression, such as '^(.+)_\\d+\\.mp4$'.`,
    );
  }
}

function refuseEmpty(parts: { side: string; own: Line[] }[], list: string, clips: Line[], shares: Shares): void {
  const empty = parts.filter(({ own }) => own.length === 0).map(({ side }) => side);
  if (empty.length === 0) return;
  const groups = new Set(clips.map(({ group }) => group)).size;
  const better = suggestSeed(clips, shares);
  throw new UserError(
    `${showPath(list)}  ${plural(groups, 'group')} of clips with this seed: nothing for ${empty.join(' and ')}. ${better}`,
  );
}

function warnOfLacking(clips: Line[], seed: number, shares: Shares, report: Report): void {
  const lacking = findLacking(countSides(clips.map(toGrouped), seed, shares), shares);
  const sides = SPLIT_SIDES.filter((side) => lacking[side].length > 0);
  for (const side of sides) {
    const labels = lacking[side].slice(0, 5).join(', ') + (lacking[side].length > 5 ? ', ...' : '');
    report.warn(`${side}.txt  ${plural(lacking[side].length, 'class')} without a clip: ${labels} (class-empty)`);
  }
  if (sides.length > 0) report.note(suggestSeed(clips, shares));
}

const toGrouped = ({ group, label }: Line) => ({ group, class: label });

/** A share of few clips is often none: another seed may do better, and is as good as any while nothing was trained. */
function suggestSeed(clips: Line[], shares: Shares): string {
  const grouped = clips.map(toGrouped);
  const seed = findSeed(grouped, shares);
  const lacking = findLacking(countSides(grouped, seed, shares), shares);
  const still = SPLIT_SIDES.filter((side) => lacking[side].length > 0).map(
    (side) => `${lacking[side].length} in ${side}`,
  );
  return `Before anything is trained: \`--seed ${seed}\` ${still.length === 0 ? 'gives every class clips on each side' : `comes nearest to the shares; classes without clips: ${still.join(', ')}`}.`;
}
