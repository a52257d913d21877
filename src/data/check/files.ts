/** Whether the clip of a line is there: a file that is not empty. */
import { access, constants, stat } from 'node:fs';
import { getuid } from 'node:process';
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

/** What everybody may read needs no second question. */
const ALL_READ = 0o444;
/** Asked at once: a disk on a network answers many as fast as one. */
const NUM_LOOKERS = 32;

/** Returns which file it is, or why there is no video. With a callback: promises take twice the time. */
export function lookFor(path: string): Promise<SeenFile | Fault> {
  return new Promise((done) => {
    stat(path, (error, found) => {
      if (error !== null) done(explain(error.code ?? ''));
      else if (found.isDirectory()) done({ code: 'not-a-file', text: 'is a folder, not a video' });
      else if (!found.isFile()) done({ code: 'not-a-file', text: 'is no file' });
      else if (found.size === 0) done({ code: 'empty', text: 'is empty' });
      else {
        const seen = { id: `${found.dev}:${found.ino}`, size: found.size, mtime: found.mtimeMs };
        if ((found.mode & ALL_READ) === ALL_READ || getuid?.() === 0) done(seen);
        else access(path, constants.R_OK, (refused) => done(refused === null ? seen : explain(refused.code ?? '')));
      }
    });
  });
}

export const isFault = (seen: SeenFile | Fault): seen is Fault => 'code' in seen;

export const explainFault = (error: unknown): Fault => explain((error as NodeJS.ErrnoException).code ?? '');

function explain(code: string): Fault {
  if (code === 'ENOENT' || code === 'ENOTDIR') return { code: 'missing', text: 'does not exist' };
  return { code: 'unreadable', text: `cannot be read (${code})` };
}

/** Does the same with all items, some of them at once. */
export async function lookForAll<T>(items: T[], look: (item: T, index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const work = async () => {
    for (let index = next++; index < items.length; index = next++) await look(items[index] as T, index);
  };
  await Promise.all(Array.from({ length: NUM_LOOKERS }, work));
}
