/** A disk of a few kilobytes, to be filled. Mounting takes root; where that is missing, tests that need it are left out. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from '@jest/globals';

export function mount(folder: string, ...options: string[]): void {
  mkdirSync(folder, { recursive: true });
  execFileSync('mount', [...options, folder], { stdio: 'pipe' });
}

export function unmount(folder: string): void {
  execFileSync('umount', ['--lazy', folder]);
}

export const tinyDisk = (folder: string, size: string): void =>
  mount(folder, '-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs');

function mayMount(): boolean {
  const folder = mkdtempSync(join(tmpdir(), 'mount-'));
  try {
    tinyDisk(folder, '4k');
    unmount(folder);
    return true;
  } catch {
    return false;
  } finally {
    rmdirSync(folder);
  }
}

/** `test`, or one that says that it was left out where no disk can be mounted. */
export const testOnDisk = mayMount() ? test : test.skip;

/** Takes all the room there is, to the last byte. */
export function fill(file: string): void {
  for (let size = 1 << 20; size >= 1; size = Math.floor(size / 2)) {
    for (;;) {
      try {
        writeFileSync(file, Buffer.alloc(size), { flag: 'a' });
      } catch {
        break; // what went in of it stays
      }
    }
  }
}
