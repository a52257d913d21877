/** The paths that stand on some lines of a list, read from it again: what compares lists keeps their hashes alone. */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';

const LF = 10;
/** `<path> <label>`, and of a list of parts two times behind it. */
const PLAIN = /^[\s\ufeff]*(.*?)[ \t]+\S+\s*$/;
const PART = /^[\s\ufeff]*(.*?)[ \t]+\S+[ \t]+\S+[ \t]+\S+\s*$/;

export interface ListedFile {
  file: string;
  /** Folder of relative paths. */
  root: string;
  paths: { hasParts: boolean };
}

/** Returns the absolute paths by line; a list that can no longer be read gives none. */
export function readPaths({ file, root, paths }: ListedFile, lines: Iterable<number>): Map<number, string> {
  const found = new Map<number, string>();
  const wanted = new Set(lines);
  if (wanted.size === 0) return found;
  const bytes = readAgain(file);
  for (let line = 1, start = 0; start < bytes.length && found.size < wanted.size; line++) {
    const feed = bytes.indexOf(LF, start);
    const end = feed === -1 ? bytes.length : feed;
    if (wanted.has(line)) {
      const [, path = ''] = (paths.hasParts ? PART : PLAIN).exec(bytes.toString('utf8', start, end)) ?? [];
      found.set(line, resolve(root, path));
    }
    start = end + 1;
  }
  return found;
}

/** Returns what a finding says of the path on a line. */
export function pathAt(found: Map<number, string>, line: number): { path?: string } {
  const path = found.get(line);
  return path === undefined ? {} : { path };
}

function readAgain(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch {
    return Buffer.alloc(0);
  }
}
