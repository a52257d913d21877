/** What the last probe of a list found, kept beside the probes of its clips: training asks it before it begins. */
import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { writeWhole } from '../../base/files.ts';
import type { Sampling } from '../../runtime/probe-replies.ts';
import { nameClip } from '../line.ts';
import { findProbeFolder, type ProbeRules, type SeenClip } from './cache.ts';
import { countSpan, type Distribution } from './tables.ts';

/** A list as it is: the same bytes below the same folder are the same clips. */
export interface KnownList {
  file: string;
  sha256: string;
  /** null: the list's own folder. */
  root: string | null;
}

export interface BadClip extends SeenClip {
  line: number;
  reason: string;
  /** Of one that can be opened, and whose damage lies further in. */
  num_frames: number | null;
}

/** What is kept of a probe of a list. */
interface Stored {
  /** When it was probed, ISO 8601. */
  time: string;
  distribution: Distribution;
  bad: BadClip[];
}

/** A clip as training names it. */
export interface KnownClip {
  path: string;
  line: number;
  reason: string;
}

export interface Known extends Omit<Stored, 'bad'> {
  /** Those that have not changed since. */
  bad: KnownClip[];
}

export type KnownLists = Partial<Record<'train' | 'val', Known>>;

/** Keeps what a probe of a whole list came to; returns why it could not. */
export function keepKnown(
  list: KnownList,
  rules: ProbeRules,
  bad: BadClip[],
  distribution: Distribution,
): string | undefined {
  const known: Stored = { time: new Date().toISOString(), distribution, bad };
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
  const { sampling } = rules;
  const known = readKnown(list, rules);
  if (known !== undefined || sampling === null) return known;
  return readKnown(list, { ...rules, sampling: null }, (clip) => isReached(clip, sampling));
}

function readKnown(list: KnownList, rules: ProbeRules, isMet = (_: BadClip): boolean => true): Known | undefined {
  try {
    const known = JSON.parse(readFileSync(findFile(list, rules), 'utf8')) as Stored;
    const bad = known.bad.filter((clip) => isMet(clip) && isUnchanged(clip));
    return { ...known, bad: bad.map(({ path, part, line, reason }) => ({ path: nameClip(path, part), line, reason })) };
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
