/** What Python writes: on stdout and stderr, into a file. */
import { closeSync, fstatSync, mkdtempSync, openSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const NUM_LINES = 40;
const TAIL_BYTES = 16_384;

/** Python's output. Its modification time is the heartbeat. */
export class Log {
  readonly path: string;
  readonly #folder: string | undefined;
  readonly #file: number;
  readonly #start: number;

  constructor(path: string | undefined) {
    this.#folder = path === undefined ? mkdtempSync(join(tmpdir(), 'coldframe-')) : undefined;
    this.path = resolve(path ?? join(this.#folder ?? '', 'runtime.log'));
    this.#file = openSync(this.path, 'a+');
    this.#start = fstatSync(this.#file).size;
  }

  modified(): bigint {
    return fstatSync(this.#file, { bigint: true }).mtimeNs;
  }

  /** The last lines that this runtime, not one before it, wrote. */
  tail(): string[] {
    return readTail(this.#file, this.#start);
  }

  close(clean: boolean): void {
    closeSync(this.#file);
    if (clean && this.#folder !== undefined) rmSync(this.#folder, { recursive: true });
  }
}

/** The last lines of a file after a place in it; none where there is no file. */
export function tailFrom(path: string, start: number): string[] {
  try {
    const file = openSync(path, 'r');
    try {
      return readTail(file, start);
    } finally {
      closeSync(file);
    }
  } catch {
    return [];
  }
}

function readTail(file: number, start: number): string[] {
  const size = fstatSync(file).size;
  const buffer = Buffer.alloc(Math.max(0, Math.min(size - start, TAIL_BYTES)));
  readSync(file, buffer, 0, buffer.length, size - buffer.length);
  return buffer.toString().split('\n').filter(Boolean).slice(-NUM_LINES);
}
