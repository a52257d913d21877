/** What the last probe of a list found, kept beside the probes of its clips: training asks it before it begins. */
import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { writeWhole } from '../../base/files.ts';
import type { Sampling } from '../../runtime/replies.ts';
import { findProbeFolder, type ProbeRules, type SeenVideo } from './cache.ts';
import { countSpan, type Distribution } from './tables.ts';

/** A list as it is: the same bytes below the same folder are the same clips. */
export interface KnownList {
  file: string;
  sha256: string;
  /** null: the list's own folder. */
  root: string | null;
}

export interface BadClip extends SeenVideo {
  line: number;
  reason: string;
  /** Of one that can be opened, and whose damage lies further in. */
  num_frames: number | null;
}

export interface Known {
  /** When it was probed, ISO 8601. */
  time: string;
  distribution: Distribution;
  /** Those that have not changed since. */
  bad: BadClip[];
}

export type KnownLists = Partial<Record<'train' | 'val', Known>>;

/** Keeps what a probe of a whole list came to; returns why it could not. */
export function keepKnown(
  list: KnownList,
  rules: ProbeRules,
  bad: BadClip[],
  distribution: Distribution,
): string | undefined {
  const known: Known = { time: new Date().toISOString(), distribution, bad };
  try {
    writeWhole(findFile(list, rules), `${JSON.stringify(known)}\n`);
    return undefined;
  } catch (error) {
    if (!('syscall' in (error as object))) throw error;
    return (error as Error).message;
  }
}

/** Returns what is known of a list: of its bad clips those that are still the same. Only they are looked at. Of a probe that
 * knew of no sampling, those count that this one is sure to meet. */
export function findKnown(list: KnownList, rules: ProbeRules): Known | undefined {
  const known = readKnown(list, rules);
  if (known !== undefined || rules.sampling === null) return known;
  const { sampling } = rules;
  const general = readKnown(list, { ...rules, sampling: null });
  return general && { ...general, bad: general.bad.filter((clip) => isReached(clip, sampling)) };
}

function readKnown(list: KnownList, rules: ProbeRules): Known | undefined {
  try {
    const known = JSON.parse(readFileSync(findFile(list, rules), 'utf8')) as Known;
    return { ...known, bad: known.bad.filter(isUnchanged) };
  } catch {
    return undefined; // none, or one that cannot be read: nothing is known, which is no fault
  }
}

function isReached({ num_frames: count }: BadClip, sampling: Sampling): boolean {
  if (count === null) return true;
  const { stride, num_views } = sampling;
  return num_views === null && (stride === null || count - countSpan(sampling) + 1 >= stride);
}

function isUnchanged({ path, size, mtime }: BadClip): boolean {
  const now = statSync(path, { throwIfNoEntry: false });
  return now?.size === size && now.mtimeMs === mtime;
}

function findFile({ file, sha256, root }: KnownList, { reader, sampling }: ProbeRules): string {
  const folder = resolve(root ?? dirname(file));
  const name = createHash('sha256')
    .update(JSON.stringify([sha256, folder, sampling]))
    .digest('hex')
    .slice(0, 32);
  return join(findProbeFolder(reader), 'lists', `${name}.json`);
}
