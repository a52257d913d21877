/** How files are written: whole and on the disk, or not at all. An error names the file. */

import {
  closeSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';

/** Makes a folder and those above it; returns whether it was not there. Node's own `recursive` never ends where the
 * system says "no such file" for a name that it will not make, as below /proc. */
export function makeFolder(folder: string): boolean {
  const missing: string[] = [];
  for (let at = resolve(folder); statSync(at, { throwIfNoEntry: false })?.isDirectory() !== true; at = dirname(at)) {
    missing.push(at);
    if (statSync(dirname(at), { throwIfNoEntry: false })?.isFile()) break; // mkdir says it better
  }
  for (const at of missing.reverse()) {
    try {
      mkdirSync(at);
    } catch (error) {
      const isThere = statSync(at, { throwIfNoEntry: false })?.isDirectory(); // another process was first
      if (!isThere) throw error;
    }
  }
  return missing.length > 0;
}

/** Does work that needs a folder for so long. */
export async function withScratch<T>(work: (scratch: string) => Promise<T>): Promise<T> {
  const scratch = mkdtempSync(join(tmpdir(), 'coldframe-'));
  try {
    return await work(scratch);
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

/** Writes a file beside, syncs it, renames it and syncs its folder: a reader sees the old or the new one, whole. */
export function writeWhole(file: string, text: string, mode = 0o666): void {
  makeFolder(dirname(file));
  const target = followLink(file);
  const partial = `${target}.${process.pid}.partial`;
  try {
    const descriptor = openSync(partial, 'w', mode);
    try {
      writeAll(descriptor, text);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(partial, target);
    syncFolder(dirname(target));
  } catch (error) {
    rmSync(partial, { force: true });
    throw withPath(error, file);
  }
}

/** Adds lines to a file that one process writes: all of the text, or none of it where the disk does not take it. */
export function appendWhole(file: string, text: string): void {
  const descriptor = openSync(file, 'a');
  try {
    appendTo(descriptor, file, text, false);
  } finally {
    closeSync(descriptor);
  }
}

/** The same to a file that is open; `sync` brings it to the disk. */
export function appendTo(descriptor: number, file: string, text: string, sync: boolean): void {
  const { size } = fstatSync(descriptor);
  try {
    writeAll(descriptor, text);
    if (sync) fsyncSync(descriptor);
  } catch (error) {
    ftruncateSync(descriptor, size); // a torn line would take the next one with it
    throw withPath(error, file);
  }
}

/** A write may take a part only, without an error: the last bytes of a disk, a quota. */
export function writeAll(descriptor: number, data: string | Uint8Array): void {
  const bytes = typeof data === 'string' ? Buffer.from(data) : data;
  for (let done = 0; done < bytes.length; ) done += writeSync(descriptor, bytes, done, bytes.length - done);
}

/** Some file systems (FUSE, CIFS, exFAT) know no syncing of a folder: they do without. */
export function syncFolder(folder: string): void {
  try {
    const handle = openSync(folder, 'r');
    try {
      fsyncSync(handle);
    } finally {
      closeSync(handle);
    }
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    if (!['EINVAL', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EBADF', 'EACCES', 'EPERM'].includes(code)) throw error;
  }
}

function followLink(file: string): string {
  try {
    return realpathSync(file);
  } catch {
    return file; // not there yet
  }
}

/** Returns an error of the system with the name of the file: it does not say which one an open file was. */
export function withPath(error: unknown, file: string): unknown {
  if (!('syscall' in (error as object))) return error;
  return Object.assign(error as Error, { path: file, dest: undefined });
}
