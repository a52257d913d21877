/** `FILE.lock`: one writer at a time, also when one was killed. Node has no lock of the kernel's. */

import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

const POLL_SECONDS = 0.2;
const EMPTY_SECONDS = 10; // a lock is written right after it is made

/** Waits until no other process has `FILE.lock`, takes it, and returns what gives it back. A dead holder's is taken over. */
export async function lockFile(file: string, note: (text: string) => void, signal: AbortSignal): Promise<() => void> {
  const lock = `${file}.lock`;
  const mine = `${process.pid} ${hostname()}`;
  for (let isTold = false; ; ) {
    try {
      writeFileSync(lock, mine, { flag: 'wx' });
      return () => rmSync(lock, { force: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    if (takeAway(lock)) continue;
    if (!isTold) note(`${file} is being fetched by another process: waiting. If that is not so, remove ${lock}.`);
    isTold = true;
    await sleep(POLL_SECONDS * 1000, undefined, { signal });
  }
}

/** Returns whether the lock is gone, taken away here when its holder is dead. */
function takeAway(lock: string): boolean {
  try {
    const holder = readFileSync(lock, 'utf8');
    if (!isLeftOver(holder, (Date.now() - statSync(lock).mtimeMs) / 1000)) return false;
    const aside = `${lock}.${process.pid}`; // of two that take it away one fails; what it took is looked at again
    renameSync(lock, aside);
    if (readFileSync(aside, 'utf8') === holder) rmSync(aside);
    else renameSync(aside, lock);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return true;
    throw error;
  }
}

function isLeftOver(holder: string, ageSeconds: number): boolean {
  const [pid, host] = holder.split(' ');
  if (host === undefined) return ageSeconds > EMPTY_SECONDS;
  if (host !== hostname()) return false; // nobody here can tell
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}
