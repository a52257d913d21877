/** `FILE.lock`: one writer at a time, also when one was killed. Node has no lock of the kernel's. */

import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { findBirth } from './processes.ts';

const POLL_SECONDS = 0.2;
const EMPTY_SECONDS = 10; // a lock is written right after it is made

/** Waits until no other process has `FILE.lock`, takes it, and returns what gives it back. A dead holder's is taken over. */
export async function lockFile(file: string, note: (text: string) => void, signal: AbortSignal): Promise<() => void> {
  for (let isTold = false; ; ) {
    const taken = tryLock(file);
    if (typeof taken === 'function') return taken;
    if (!isTold) note(`${file} is being fetched by another process: waiting. If that is not so, remove ${file}.lock.`);
    isTold = true;
    await sleep(POLL_SECONDS * 1000, undefined, { signal });
  }
}

/** Takes `FILE.lock` and returns what gives it back, or else who has it. A dead holder's is taken over. */
export function tryLock(file: string): (() => void) | { pid: string; host: string } {
  const lock = `${file}.lock`;
  for (;;) {
    try {
      writeFileSync(lock, `${process.pid} ${hostname()} ${findBirth(process.pid) ?? ''}`.trimEnd(), { flag: 'wx' });
      return () => rmSync(lock, { force: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    if (takeAway(lock)) continue;
    const [pid = '', host = ''] = readFileSync(lock, 'utf8').split(' ');
    return { pid, host };
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
  const [pid, host, birth] = holder.split(' ');
  if (host === undefined) return ageSeconds > EMPTY_SECONDS;
  if (host !== hostname()) return false; // nobody here can tell
  if (birth !== undefined) return findBirth(Number(pid)) !== birth; // another may have the number by now
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}
