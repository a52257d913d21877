/** Whether the clips of a list are there: files that are not empty and may be read. */
import { access, accessSync, constants, type Stats, stat, statSync } from 'node:fs';
import { getuid, resourceUsage } from 'node:process';
import type { Code } from './findings.ts';

/** Which file a path leads to: the same for all its links. */
export interface SeenFile {
  id: string;
  size: number;
  /** Time of its last change, ms. */
  mtime: number;
}

/** Why a path leads to no video; `text` follows the path. */
export interface Fault {
  code: Code;
  text: string;
}

export const isFault = (seen: SeenFile | Fault): seen is Fault => 'code' in seen;
export const explainFault = (error: unknown): Fault => explain((error as NodeJS.ErrnoException).code ?? '');

/** Looked at one after another before the disk is judged. */
const BATCH = 64;
/** Where a look takes longer, on a network, several at once are as fast as one; elsewhere their bookkeeping takes longer
 * than they do. */
const SLOW_MS = 0.2;
/** Of such looks so many wait for the disk; on a busy machine it is the processor that is waited for. */
const LEAST_WAITS = BATCH / 4;
const NUM_LOOKERS = 32;
const NUM_AT_ONCE = 32 * BATCH;
/** What everybody may read needs no second question. */
const ALL_READ = 0o444;

/** Returns for each path which file it is, or why there is no video. */
export async function lookForAll(paths: string[]): Promise<(SeenFile | Fault)[]> {
  const seen: (SeenFile | Fault)[] = [];
  while (seen.length < paths.length) {
    const [started, waits] = [performance.now(), countWaits()];
    for (const path of paths.slice(seen.length, seen.length + BATCH)) seen.push(lookNow(path));
    if (performance.now() - started < BATCH * SLOW_MS || countWaits() - waits < LEAST_WAITS) continue;
    for (const one of await lookTogether(paths.slice(seen.length, seen.length + NUM_AT_ONCE))) seen.push(one);
  }
  return seen;
}

/** How often this process gave the processor up by itself; not a number where the system does not count. */
const countWaits = (): number => resourceUsage().voluntaryContextSwitches || Number.NaN;

function lookNow(path: string): SeenFile | Fault {
  try {
    const found = statSync(path, { throwIfNoEntry: false });
    if (found === undefined) return explain('ENOENT');
    if (needsAccess(found)) accessSync(path, constants.R_OK);
    return judge(found);
  } catch (error) {
    return explainFault(error);
  }
}

async function lookTogether(paths: string[]): Promise<(SeenFile | Fault)[]> {
  const seen: (SeenFile | Fault)[] = Array.from({ length: paths.length });
  let next = 0;
  const work = async (): Promise<void> => {
    for (let index = next++; index < paths.length; index = next++) seen[index] = await look(paths[index] ?? '');
  };
  await Promise.all(Array.from({ length: NUM_LOOKERS }, work));
  return seen;
}

/** With callbacks: promises of node:fs take twice the time. */
function look(path: string): Promise<SeenFile | Fault> {
  return new Promise((done) => {
    stat(path, (error, found) => {
      if (error !== null) done(explainFault(error));
      else if (!needsAccess(found)) done(judge(found));
      else access(path, constants.R_OK, (refused) => done(refused === null ? judge(found) : explainFault(refused)));
    });
  });
}

const needsAccess = (found: Stats): boolean => (found.mode & ALL_READ) !== ALL_READ && getuid?.() !== 0;

function judge(found: Stats): SeenFile | Fault {
  if (found.isDirectory()) return { code: 'not-a-file', text: 'is a folder, not a video' };
  if (!found.isFile()) return { code: 'not-a-file', text: 'is no file' };
  if (found.size === 0) return { code: 'empty', text: 'is empty' };
  return { id: `${found.dev}:${found.ino}`, size: found.size, mtime: found.mtimeMs };
}

function explain(code: string): Fault {
  if (code === 'ENOENT' || code === 'ENOTDIR') return { code: 'missing', text: 'does not exist' };
  return { code: 'unreadable', text: `cannot be read (${code})` };
}
