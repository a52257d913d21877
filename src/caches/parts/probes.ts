/** `check --probe --parts N`: every N-th file is looked into by a process of its own, and what is found is kept where the
 * check that follows finds it. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { RuntimeFailure } from '../../base/errors.ts';
import { writeWhole } from '../../base/files.ts';
import type { Report } from '../../base/printer.ts';
import { ProbeCache, type ProbeRules, type SeenClip } from '../../data/probe/cache.ts';
import { findKeptFolder } from '../../data/probe/kept.ts';
import { probeClips } from '../../data/probe/probe.ts';
import { listsOf, type ProbesWork, readJob } from './job.ts';
import type { PartRequest } from './part.ts';
import { type InParts, runParts } from './run-parts.ts';

/** The clips of a list, and what they are probed by. */
export interface ListToProbe {
  rules: ProbeRules;
  clips: SeenClip[];
}

/** Of a part that gives no sign of life; a file is given up far earlier. */
const STALL_SECONDS = 600;

const keptIn = (part: string, list: number): string => join(part, `kept-${list}`);

/** Probes what is not known of lists in so many parts, or goes on with them. Throws Interrupted when asked to stop: what is
 * found by then is kept. */
export async function probeInParts(lists: ListToProbe[], inParts: InParts, report: Report): Promise<void> {
  const unknown = lists.map(({ rules, clips }) => {
    const cache = new ProbeCache(rules);
    return { rules, clips: clips.filter((clip) => cache.find(clip) === undefined) };
  });
  if (unknown.every(({ clips }) => clips.length === 0)) return;
  const dir = findKeptFolder('parts', identify(lists));
  // A job that was begun keeps its shares: what is known of them by now is in the folders of its parts.
  const plan = async (): Promise<ProbesWork> => {
    const begun = readJob(dir)?.work;
    return begun?.kind === 'probes' ? begun : writeShares(dir, unknown);
  };
  const keep = (folders: string[]): void => {
    for (const [index, { rules }] of lists.entries()) {
      const cache = new ProbeCache(rules);
      for (const folder of folders) cache.absorb(keptIn(folder, index));
    }
  };
  const merge = async (_: ProbesWork, folders: string[]): Promise<number> => {
    keep(folders);
    return 0; // what has changed since is looked into by the check that follows
  };
  const launch = { device: 'cpu', stall_seconds: STALL_SECONDS };
  await runParts({ dir, ...inParts, plan, verb: ['check'], unit: 'clips', launch, merge }, report);
}

/** The same lists, checked in the same way, are the same job. */
function identify(lists: ListToProbe[]): string {
  const hash = createHash('sha256');
  for (const { rules, clips } of lists) {
    hash.update(`${JSON.stringify(rules)}\n`);
    for (const clip of clips) hash.update(`${writeClip(clip)}\n`);
  }
  return hash.digest('hex').slice(0, 16);
}

function writeShares(dir: string, lists: ListToProbe[]): ProbesWork {
  const files = lists.map(({ rules, clips }, index) => {
    const file = join(listsOf(dir), `${index}.jsonl`);
    writeWhole(file, clips.map((clip) => `${writeClip(clip)}\n`).join(''));
    return { file, rules };
  });
  return { kind: 'probes', lists: files };
}

const writeClip = ({ path, size, mtime, part }: SeenClip): string => JSON.stringify({ path, size, mtime, part });

/** Probes one share, as a process of an executor. */
export async function probePart(
  { lists }: ProbesWork,
  { stop, tell, ...share }: PartRequest,
): Promise<Record<string, never>> {
  const shares = lists.map(({ file }) => readShare(file, share));
  const numTotal = shares.reduce((sum, { length }) => sum + length, 0);
  const started = performance.now();
  let numDone = 0;
  const say = (num: number): void => {
    const rate = num / ((performance.now() - started) / 1000);
    tell({ num_done: num, num_total: numTotal, num_saved: num, clips_per_second: rate || null, waited_seconds: {} });
  };
  for (const [index, { rules }] of lists.entries()) {
    const clips = shares[index] ?? [];
    const progress = (done: number, ofThese: number): void => say(numDone + clips.length - ofThese + done);
    const folder = keptIn(share.dir, index);
    const { problem } = await probeClips({ clips, rules, folder, stop, tell: () => {}, progress });
    if (problem !== undefined) throw new RuntimeFailure(`${folder}  cannot be written (${problem}).`);
    numDone += clips.length;
    say(numDone);
  }
  return {};
}

/** Returns every `count`-th file of a list from the `index`-th on; the parts of one stay together. */
function readShare(file: string, { index, count }: { index: number; count: number }): SeenClip[] {
  const lines = readFileSync(file, 'utf8').split('\n').filter(Boolean);
  const clips = lines.map((line): SeenClip => JSON.parse(line));
  const places = new Map<string, number>();
  for (const { path } of clips) if (!places.has(path)) places.set(path, places.size);
  return clips.filter(({ path }) => (places.get(path) ?? 0) % count === index);
}
