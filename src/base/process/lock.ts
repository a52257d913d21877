/** A lock beside a file, `FILE.lock`: one writer at a time, also after one was killed. Node has no lock of the kernel's. */

import { randomBytes } from 'node:crypto';
import { closeSync, linkSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { withPath, writeAll } from '../files.ts';
import { findBirth } from './processes.ts';

const POLL_SECONDS = 0.2;
const EMPTY_SECONDS = 10; // a lock is written right after it is made, where it cannot be made with its text

interface Holder {
  pid: string;
  host: string;
}

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
export function tryLock(file: string): (() => void) | Holder {
  return take(`${file}.lock`);
}

function take(lock: string): (() => void) | Holder {
  const mine = `${process.pid} ${hostname()} ${findBirth(process.pid) ?? ''}`.trimEnd();
  for (;;) {
    if (create(lock, mine)) return () => (read(lock) === mine ? rmSync(lock, { force: true }) : undefined);
    const holder = read(lock);
    if (holder === undefined) continue; // given back just now
    if (!isLeftOver(lock, holder)) {
      const [pid = '', host = ''] = holder.split(' ');
      return { pid, host };
    }
    // Who takes it away holds a lock on that: of two that saw the same dead holder one would take away the other's.
    const release = take(`${lock}.taking`);
    if (typeof release !== 'function') return release;
    const now = read(lock);
    if (now !== undefined && isLeftOver(lock, now)) rmSync(lock, { force: true });
    release();
  }
}

/** Returns whether the lock was made here: with its text at once where the file system has hard links. */
function create(lock: string, text: string): boolean {
  const own = `${lock}.${process.pid}-${randomBytes(4).toString('hex')}`;
  try {
    writeFileSync(own, text);
    link(own, lock, text);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw withPath(error, lock);
    return false;
  } finally {
    rmSync(own, { force: true });
  }
}

function link(own: string, lock: string, text: string): void {
  try {
    linkSync(own, lock);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') throw error;
    const descriptor = openSync(lock, 'wx'); // exFAT and some network disks have no hard links
    try {
      writeAll(descriptor, text);
    } catch (full) {
      rmSync(lock, { force: true }); // an empty lock would keep the next one waiting
      throw full;
    } finally {
      closeSync(descriptor);
    }
  }
}

function read(lock: string): string | undefined {
  try {
    return readFileSync(lock, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return undefined;
  }
}

function isLeftOver(lock: string, holder: string): boolean {
  const [pid, host, birth] = holder.split(' ');
  if (host === undefined) {
    const made = statSync(lock, { throwIfNoEntry: false })?.mtimeMs ?? Date.now();
    return Date.now() - made > EMPTY_SECONDS * 1000;
  }
  if (host !== hostname()) return false; // nobody here can tell
  if (birth !== undefined) return findBirth(Number(pid)) !== birth; // another may have the number by now
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}
